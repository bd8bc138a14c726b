//! A pod as a `PodSandboxConfig`.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::model::container_resources::{sandbox_overhead, sandbox_resources};
use crate::model::pod::{PodKey, is_host_network, spec};
use crate::model::sysctl::{self, Namespace};
use crate::runtime::cri::security_profile::ProfileType;
use crate::runtime::cri::{
    Int64Value, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    Protocol,
};

use super::dns::{HostResolver, pod_dns};
use super::error::TranslateError;
use super::hostname::{kernel_hostname, pod_hostname};
use super::metadata::{sandbox_annotations, sandbox_labels};
use super::namespaces::{UserMapping, namespace_options};
use super::paths::pod_log_directory;
use super::resources::linux_resources;
use super::security::{plain_profile, selinux_option, supplemental_groups_policy};
use super::settings::NodeSettings;
use super::warning::Warning;

/// What a sandbox is made of beside the node's settings.
#[derive(Clone, Copy, Debug)]
pub struct SandboxInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// How many sandboxes of the pod came before.
    pub attempt: u32,
    /// The pod's cgroup in the form that the runtime's driver takes.
    pub cgroup_parent: &'a str,
    /// The node's resolver configuration.
    pub host_resolver: &'a HostResolver,
    /// The handler of the pod's RuntimeClass; empty for the default one. It goes with RunPodSandbox.
    pub runtime_handler: &'a str,
    /// The pod's user namespace, if it has its own and the handler has such.
    pub user_mapping: Option<UserMapping>,
    /// Groups that own the pod's persistent volumes.
    pub extra_groups: &'a [i64],
    /// Whether a container of the pod has CPUs of its own.
    pub exclusive_cpus: bool,
}

/// A translated sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxTranslation {
    /// What RunPodSandbox gets.
    pub config: PodSandboxConfig,
    /// What could not be done as the pod asks.
    pub warnings: Vec<Warning>,
}

/// Translates a pod into the configuration of its sandbox (`kuberuntime.generatePodSandboxConfig`).
///
/// # Errors
/// When a name, a policy or a namespace that the pod asks for cannot be had.
pub fn sandbox_config(node: &NodeSettings, input: &SandboxInput<'_>) -> Result<SandboxTranslation, TranslateError> {
    let pod = input.pod;
    let key = PodKey::of(pod);
    let (dns_config, warnings) = pod_dns(node, pod, input.host_resolver);
    let hostname = if is_host_network(spec(pod)) {
        String::new()
    } else {
        kernel_hostname(pod, &pod_hostname(pod, &node.cluster_domain)?)?
    };
    let config = PodSandboxConfig {
        hostname,
        log_directory: pod_log_directory(&node.pod_logs_dir, &key),
        dns_config: Some(dns_config),
        port_mappings: spec(pod).containers.iter().flat_map(port_mappings).collect(),
        labels: sandbox_labels(pod),
        annotations: sandbox_annotations(pod),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: input.cgroup_parent.to_owned(),
            security_context: Some(security_context(input)?),
            sysctls: sysctls(node, pod),
            overhead: Some(linux_resources(sandbox_overhead(pod, &node.resources))),
            resources: Some(linux_resources(sandbox_resources(pod, &node.resources, input.exclusive_cpus))),
        }),
        windows: None,
        metadata: Some(PodSandboxMetadata {
            name: key.name,
            uid: key.uid.to_string(),
            namespace: key.namespace,
            attempt: input.attempt,
        }),
    };
    Ok(SandboxTranslation { config, warnings })
}

fn security_context(input: &SandboxInput<'_>) -> Result<LinuxSandboxSecurityContext, TranslateError> {
    let pod = input.pod;
    let mut sandbox = LinuxSandboxSecurityContext {
        privileged: has_privileged_container(pod),
        // The sandbox's own process needs no more, whatever the containers get.
        seccomp: Some(plain_profile(ProfileType::RuntimeDefault)),
        ..LinuxSandboxSecurityContext::default()
    };
    let Some(context) = &spec(pod).security_context else { return Ok(sandbox) };
    let number = |value: Option<i64>| value.map(|value| Int64Value { value });
    sandbox.namespace_options = Some(namespace_options(pod, input.user_mapping, input.runtime_handler)?);
    sandbox.run_as_user = number(context.run_as_user);
    sandbox.run_as_group = number(context.run_as_group);
    sandbox.selinux_options = context.se_linux_options.as_ref().map(selinux_option);
    sandbox.supplemental_groups = context.fs_group.into_iter().chain(input.extra_groups.iter().copied()).collect();
    sandbox.supplemental_groups.extend(context.supplemental_groups.iter().flatten());
    sandbox.supplemental_groups_policy = supplemental_groups_policy(pod)? as i32;
    Ok(sandbox)
}

/// Whether any container of the pod, of whichever kind, is privileged: then its sandbox must be.
pub fn has_privileged_container(pod: &Pod) -> bool {
    let spec = spec(pod);
    let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let contexts = regular.map(|c| &c.security_context);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.security_context);
    contexts.chain(ephemeral).any(|context| context.as_ref().is_some_and(|c| c.privileged == Some(true)))
}

/// A container's ports; of ports with the same name, or the same in all parts where they have none, the first.
fn port_mappings(container: &Container) -> Vec<PortMapping> {
    let mut seen = BTreeSet::new();
    let mut mappings = Vec::new();
    for port in container.ports.iter().flatten() {
        let host_ip = port.host_ip.clone().unwrap_or_default();
        let host_port = port.host_port.unwrap_or_default();
        let protocol = port.protocol.as_deref().unwrap_or_default();
        let identity = match port.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => format!("{protocol}-{host_ip}:{}:{host_port}", port.container_port),
        };
        if !seen.insert(identity) {
            continue;
        }
        let protocol = Protocol::from_str_name(protocol).unwrap_or(Protocol::Tcp) as i32;
        mappings.push(PortMapping { protocol, container_port: port.container_port, host_port, host_ip });
    }
    mappings
}

/// The node's sysctls for every pod, as far as the pod has the namespace they belong to, and the pod's own.
fn sysctls(node: &NodeSettings, pod: &Pod) -> HashMap<String, String> {
    let of_node = node.default_pod_sysctls.iter().map(|(name, value)| (sysctl::normal_name(name), value.clone()));
    let mut sysctls: HashMap<_, _> = of_node.filter(|(name, _)| is_namespaced_in(pod, name)).collect();
    for sysctl in spec(pod).security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        sysctls.insert(sysctl::normal_name(&sysctl.name), sysctl.value.clone());
    }
    sysctls
}

fn is_namespaced_in(pod: &Pod, name: &str) -> bool {
    let spec = spec(pod);
    match sysctl::namespace_of(name) {
        Some(Namespace::Ipc) => spec.host_ipc != Some(true),
        Some(Namespace::User) => spec.host_users == Some(false),
        Some(Namespace::Net | Namespace::Uts) => !is_host_network(spec),
        None => false,
    }
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
