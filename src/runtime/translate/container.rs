//! A container of a pod as a `ContainerConfig`.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::model::container_resources::container_resources;
use crate::model::pod::PodKey;
use crate::runtime::cri::{
    CdiDevice, ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, Mount, Signal,
};

use super::environment::Environment;
use super::error::TranslateError;
use super::expansion::expand;
use super::hostname::{ETC_HOSTS, has_hosts_file};
use super::metadata::{container_annotations, container_labels};
use super::mounts::{BlockDevice, MountRules, MountSource, block_devices, own_file, volume_mounts};
use super::namespaces::{UserMapping, namespace_options};
use super::paths::{container_log_path, hosts_file_path};
use super::resources::linux_resources;
use super::security::{ImageUser, container_security_context, verify_run_as_non_root};
use super::settings::NodeSettings;

/// What a container is made of beside the node's settings.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container of the pod; an ephemeral one as a container.
    pub container: &'a Container,
    /// How many containers of that name came before.
    pub restart_count: u32,
    /// The image by the reference (id or digest) that the pull gave.
    pub image_ref: &'a str,
    /// The user that the image runs as.
    pub image_user: &'a ImageUser,
    /// The container's environment.
    pub environment: &'a Environment,
    /// The sandbox's addresses, or the node's for a pod in the node's network. None of them: no hosts file.
    pub pod_ips: &'a [String],
    /// Where each of `volumeMounts` is found, in their order; none for a volume that is not mounted.
    pub mounts: &'a [Option<MountSource>],
    /// Where each of `volumeDevices` is found, in their order.
    pub block_devices: &'a [Option<BlockDevice>],
    /// The file that was made for this start's termination message, if it could be.
    pub termination_log: Option<&'a str>,
    /// The container whose processes an ephemeral container shares (`targetContainerName`), by the runtime's id.
    pub target_id: Option<&'a str>,
    /// The handler of the pod's RuntimeClass; empty for the default one.
    pub runtime_handler: &'a str,
    /// Whether that handler makes mounts read-only all the way down.
    pub supports_recursive_read_only: bool,
    /// The pod's user namespace, if it has its own.
    pub user_mapping: Option<UserMapping>,
    /// Groups that own the pod's persistent volumes.
    pub extra_groups: &'a [i64],
    /// What device plugins and resource managers allotted.
    pub allotted: &'a AllottedResources,
}

/// What device plugins and resource managers give to a container. Their variables go into its [`Environment`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllottedResources {
    /// Annotations; the agent's own win.
    pub annotations: Vec<(String, String)>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Devices by their CDI names.
    pub cdi_devices: Vec<String>,
    /// Mounts, which stand before those of the volumes.
    pub mounts: Vec<Mount>,
    /// CPUs of its own, as a list of ranges; empty for none.
    pub cpuset_cpus: String,
    /// Memory nodes of its own, as a list of ranges; empty for none.
    pub cpuset_mems: String,
    /// Whether nobody else runs on those CPUs: then no CPU quota holds.
    pub exclusive_cpus: bool,
}

/// Translates a container of a pod (`kuberuntime.generateContainerConfig`). Its environment, mounts and files are made
/// before: [`super::environment()`], then [`super::mount_requests`], then this.
///
/// # Errors
/// When the container must not, or cannot, run as its spec says.
pub fn container_config(node: &NodeSettings, input: &ContainerInput<'_>) -> Result<ContainerConfig, TranslateError> {
    let (pod, container, allotted) = (input.pod, input.container, input.allotted);
    let rules = MountRules {
        is_selinux_enabled: node.is_selinux_enabled,
        supports_recursive_read_only: input.supports_recursive_read_only,
    };
    let devices = [allotted.devices.clone(), block_devices(container, input.block_devices)?].concat();
    let mounts = mounts(node, input, rules)?;
    verify_run_as_non_root(pod, container, input.image_user)?;

    let namespaces = namespace_options(pod, input.user_mapping, input.runtime_handler)?;
    let users = namespaces.userns_options.clone().unwrap_or_default();
    let security_context = container_security_context(
        node,
        pod,
        container,
        input.image_user,
        input.extra_groups,
        namespaces,
        input.target_id,
    )?;
    let map_ids = |mount: Mount| Mount { uid_mappings: users.uids.clone(), gid_mappings: users.gids.clone(), ..mount };
    let variable = |(name, value): (&str, &[u8])| KeyValue { key: name.to_owned(), value: value.to_vec() };
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: input.restart_count }),
        image: Some(ImageSpec {
            image: input.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expanded(container, "command", container.command.as_deref(), input.environment)?,
        args: expanded(container, "args", container.args.as_deref(), input.environment)?,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: input.environment.iter().map(variable).collect(),
        mounts: mounts.into_iter().map(map_ids).collect(),
        devices,
        labels: container_labels(pod, container),
        annotations: container_annotations(pod, container, input.restart_count, &allotted.annotations),
        log_path: container_log_path(&container.name, input.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources_of(node, pod, container, allotted)),
            security_context: Some(security_context),
        }),
        windows: None,
        cdi_devices: allotted.cdi_devices.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
        stop_signal: stop_signal(node, container) as i32,
    })
}

/// A container's Linux resources; also what UpdateContainerResources gets when they change in place.
pub fn resources_of(
    node: &NodeSettings,
    pod: &Pod,
    container: &Container,
    allotted: &AllottedResources,
) -> LinuxContainerResources {
    let resources = container_resources(pod, container, &node.resources, allotted.exclusive_cpus);
    LinuxContainerResources {
        cpuset_cpus: allotted.cpuset_cpus.clone(),
        cpuset_mems: allotted.cpuset_mems.clone(),
        ..linux_resources(resources)
    }
}

fn mounts(node: &NodeSettings, input: &ContainerInput<'_>, rules: MountRules) -> Result<Vec<Mount>, TranslateError> {
    let (pod, container) = (input.pod, input.container);
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let mut mounts = input.allotted.mounts.clone();
    mounts.extend(volume_mounts(container, input.environment, input.mounts, &annotations, rules)?);
    if has_hosts_file(pod, container, input.pod_ips) {
        mounts.push(own_file(hosts_file_path(&node.root_dir, &PodKey::of(pod).uid), ETC_HOSTS, rules));
    }
    let message_path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    if let (Some(file), Some(path)) = (input.termination_log, message_path) {
        mounts.push(own_file(file.to_owned(), path, rules));
    }
    Ok(mounts)
}

fn expanded(
    container: &Container,
    place: &'static str,
    words: Option<&[String]>,
    environment: &Environment,
) -> Result<Vec<String>, TranslateError> {
    let not_text = || TranslateError::NotText { place, container: container.name.clone() };
    words.unwrap_or_default().iter().map(|word| expand(word, environment).ok_or_else(not_text)).collect()
}

/// `lifecycle.stopSignal`. What CRI has no number for is left to the image, as is everything while the gate is off.
fn stop_signal(node: &NodeSettings, container: &Container) -> Signal {
    let signal = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    let Some(signal) = signal.filter(|_| node.container_stop_signals) else { return Signal::RuntimeDefault };
    let name = format!("SIGNAL_{}", signal.replace('+', "PLUS").replace('-', "MINUS"));
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault)
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
