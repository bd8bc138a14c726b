//! Whether the node has what a pod's fields need: the operating system, AppArmor, group policies, declared features.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

use super::{AdmissionSettings, NodeView, Rejection};
use crate::model::{pod, resources};

/// The label and the name of the operating system that this agent is built for.
const OS_LABEL: &str = "kubernetes.io/os";
const OS: &str = "linux";

/// What the annotations of AppArmor begin with that came before the field.
const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "unconfined";

/// The pod's own label `kubernetes.io/os` and `spec.os`.
pub(super) fn operating_system(pod: &Pod) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if label.is_some_and(|label| label != OS) {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if pod::spec(pod).os.as_ref().is_some_and(|os| os.name != OS) {
        return Err(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    Ok(())
}

/// A strict policy for supplemental groups needs a runtime that knows it.
pub(super) fn supplemental_groups(pod: &Pod, node: &NodeView) -> Result<(), Rejection> {
    let context = pod::spec(pod).security_context.as_ref();
    let policy = context.and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !node.supplemental_groups_policy {
        return Err(Rejection::new(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}

/// A profile needs a kernel that enforces it. A pod that runs already was judged when it began.
pub(super) fn app_armor(pod: &Pod, settings: &AdmissionSettings) -> Result<(), Rejection> {
    if pod::phase(pod).is_some_and(|phase| phase != "Pending") || !wants_app_armor(pod) {
        return Ok(());
    }
    let refuse = |cause: &str| Err(Rejection::new("AppArmor", format!("Cannot enforce AppArmor: {cause}")));
    if !settings.app_armor {
        return refuse("AppArmor is not enabled on the host");
    }
    let is_nameless = |profile: &AppArmorProfile| {
        profile.type_ == "Localhost" && profile.localhost_profile.as_deref().is_none_or(|name| name.trim().is_empty())
    };
    if all_containers(pod).iter().filter_map(|container| app_armor_profile(pod, container)).any(|p| is_nameless(&p)) {
        return refuse("invalid empty AppArmor profile name: \"\"");
    }
    Ok(())
}

fn all_containers(pod: &Pod) -> Vec<Container> {
    let spec = pod::spec(pod);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(pod::ephemeral_as_container);
    pod::init_and_regular_containers(spec).map(|(_, container)| container.clone()).chain(ephemeral).collect()
}

fn own_profile(container: &Container) -> Option<&AppArmorProfile> {
    container.security_context.as_ref()?.app_armor_profile.as_ref()
}

fn pod_profile(pod: &Pod) -> Option<&AppArmorProfile> {
    pod::spec(pod).security_context.as_ref()?.app_armor_profile.as_ref()
}

fn wants_app_armor(pod: &Pod) -> bool {
    let confines = |profile: &AppArmorProfile| profile.type_ != "Unconfined";
    let mut annotations = pod.metadata.annotations.iter().flatten();
    pod_profile(pod).is_some_and(confines)
        || all_containers(pod).iter().filter_map(own_profile).any(confines)
        || annotations.any(|(name, value)| name.starts_with(APP_ARMOR_ANNOTATION) && value != UNCONFINED)
}

/// The profile that a container is to run under: its own, that of its annotation (static pods may have one), the pod's.
fn app_armor_profile(pod: &Pod, container: &Container) -> Option<AppArmorProfile> {
    let of_annotation = || {
        let value = pod::annotation(pod, &format!("{APP_ARMOR_ANNOTATION}{}", container.name))?;
        let profile = |type_: &str, name: Option<&str>| AppArmorProfile {
            type_: type_.to_owned(),
            localhost_profile: name.map(str::to_owned),
        };
        match (value, value.strip_prefix("localhost/")) {
            ("runtime/default", _) => Some(profile("RuntimeDefault", None)),
            (UNCONFINED, _) => Some(profile("Unconfined", None)),
            (_, Some(name)) => Some(profile("Localhost", Some(name))),
            _ => None,
        }
    };
    own_profile(container).cloned().or_else(of_annotation).or_else(|| pod_profile(pod).cloned())
}

/// Pod-level resources are for nodes with their gate on.
pub(super) fn pod_level_resources(pod: &Pod, settings: &AdmissionSettings) -> Result<(), Rejection> {
    if resources::has_pod_level_resources(pod::spec(pod)) && !settings.pod_level_resources {
        return Err(Rejection::new("PodLevelResourcesNotSupported", "PodLevelResources feature gate is disabled"));
    }
    Ok(())
}

/// Features that a node must declare to run the pod (KEP 5328).
pub(super) fn declared_features(pod: &Pod, settings: &AdmissionSettings) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    let containers = all_containers(pod);
    let restarts_all = |container: &Container| {
        container.restart_policy_rules.iter().flatten().any(|rule| rule.action == "RestartAllContainers")
    };
    let has_mount_options = |container: &Container| {
        let mounts = container.volume_mounts.iter().flatten();
        mounts.filter_map(|mount| mount.bind_mount_options.as_ref()).any(|options| !options.is_empty())
    };
    let needed = [
        ("RestartAllContainersOnContainerExits", containers.iter().any(restarts_all)),
        ("UserNamespacesHostNetworkSupport", pod::is_host_network(spec) && spec.host_users == Some(false)),
        ("VolumeBindMountOptions", containers.iter().any(has_mount_options)),
    ];
    let missing = needed.iter().filter(|(name, is_needed)| *is_needed && !settings.declared_features.contains(*name));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("Pod requires node features that are not available: {}", missing.join(", "));
    Err(Rejection::new("PodFeatureUnsupported", message))
}
