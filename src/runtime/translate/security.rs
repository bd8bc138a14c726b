//! Who a container runs as and what it may do: security contexts, seccomp, AppArmor, the check of `runAsNonRoot`.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod, SELinuxOptions, SeccompProfile, SecurityContext};

use crate::model::pod::{PodKey, annotation, spec};
use crate::runtime::cri::security_profile::ProfileType;
use crate::runtime::cri::{
    Capability, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy,
};

use super::error::TranslateError;
use super::paths::seccomp_directory;
use super::settings::NodeSettings;

/// Prefix of the annotations that named AppArmor profiles before there was a field; static pods may still use them.
const APP_ARMOR_ANNOTATION_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Files of /proc and /sys that a container cannot read.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Files of /proc that a container cannot write.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user that an image runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// By number. An image that names no user runs as 0.
    Uid(i64),
    /// By a name that stands in the image's own files.
    Name(String),
}

impl ImageUser {
    /// The user by what the runtime's ImageStatus tells: its uid, else its user name, else root.
    pub fn of_image(uid: Option<i64>, username: &str) -> Self {
        match uid {
            Some(uid) => ImageUser::Uid(uid),
            None if username.is_empty() => ImageUser::Uid(0),
            None => ImageUser::Name(username.to_owned()),
        }
    }
}

/// A container's security context.
///
/// # Errors
/// When the pod asks for a profile or policy that is incomplete or unknown: rather than run with less protection than
/// was asked for, the container does not run.
pub(super) fn container_security_context(
    node: &NodeSettings,
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    extra_groups: &[i64],
    mut namespaces: NamespaceOption,
    target_id: Option<&str>,
) -> Result<LinuxContainerSecurityContext, TranslateError> {
    let pod_context = spec(pod).security_context.as_ref();
    let context = effective_context(pod, container);
    let (apparmor, apparmor_profile) = app_armor(pod, container)?;

    let mut run_as_user = context.run_as_user;
    let mut run_as_username = String::new();
    if run_as_user.is_none() {
        match image_user {
            ImageUser::Uid(uid) => run_as_user = Some(*uid),
            ImageUser::Name(name) => run_as_username.clone_from(name),
        }
    }
    let mut supplemental_groups: Vec<i64> = pod_context.and_then(|c| c.fs_group).into_iter().collect();
    supplemental_groups.extend(pod_context.and_then(|c| c.supplemental_groups.as_ref()).into_iter().flatten());
    supplemental_groups.extend(extra_groups);

    if let Some(target_id) = target_id.filter(|_| namespaces.pid() == NamespaceMode::Container) {
        namespaces.pid = NamespaceMode::Target as i32;
        target_id.clone_into(&mut namespaces.target_id);
    }
    let is_unmasked = context.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| -> Vec<String> {
        if is_unmasked { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() }
    };
    let mut masked_paths = paths(&MASKED_PATHS);
    if !is_unmasked {
        masked_paths.extend(node.thermal_throttle_paths.iter().cloned());
    }
    Ok(LinuxContainerSecurityContext {
        capabilities: context.capabilities.as_ref().map(|c| Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            ..Capability::default()
        }),
        privileged: context.privileged == Some(true),
        namespace_options: Some(namespaces),
        selinux_options: context.se_linux_options.as_ref().map(selinux_option),
        run_as_user: run_as_user.map(|value| Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| Int64Value { value }),
        run_as_username,
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        supplemental_groups,
        supplemental_groups_policy: supplemental_groups_policy(pod)? as i32,
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(seccomp(node, pod, container)?),
        apparmor,
        apparmor_profile,
        ..LinuxContainerSecurityContext::default()
    })
}

/// Refuses a container that must not run as root and would, or might (`runAsNonRoot`).
///
/// # Errors
/// Tells what makes it root, or why that cannot be known.
pub fn verify_run_as_non_root(pod: &Pod, container: &Container, image_user: &ImageUser) -> Result<(), TranslateError> {
    let context = effective_context(pod, container);
    if context.run_as_non_root != Some(true) {
        return Ok(());
    }
    let pod = PodKey::of(pod).to_string();
    let container = container.name.clone();
    match (context.run_as_user, image_user) {
        (Some(0), _) => Err(TranslateError::RunAsUserIsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Name(user)) => {
            Err(TranslateError::ImageUserNotNumeric { user: user.clone(), pod, container })
        }
        (None, ImageUser::Uid(0)) => Err(TranslateError::ImageRunsAsRoot { pod, container }),
        (None, ImageUser::Uid(uid)) if (0..=i64::from(i32::MAX)).contains(uid) => Ok(()),
        (None, ImageUser::Uid(uid)) => Err(TranslateError::ImageUserOutOfRange { uid: *uid, pod, container }),
    }
}

/// The container's context, with the pod's where the container's is silent.
fn effective_context(pod: &Pod, container: &Container) -> SecurityContext {
    let mut context = container.security_context.clone().unwrap_or_default();
    if let Some(pod) = &spec(pod).security_context {
        context.run_as_user = context.run_as_user.or(pod.run_as_user);
        context.run_as_group = context.run_as_group.or(pod.run_as_group);
        context.run_as_non_root = context.run_as_non_root.or(pod.run_as_non_root);
        context.se_linux_options = context.se_linux_options.or_else(|| pod.se_linux_options.clone());
    }
    context
}

/// The pod's `supplementalGroupsPolicy`, `Merge` where it is not set.
pub(super) fn supplemental_groups_policy(pod: &Pod) -> Result<SupplementalGroupsPolicy, TranslateError> {
    let context = spec(pod).security_context.as_ref();
    let Some(policy) = context.and_then(|c| c.supplemental_groups_policy.as_deref()) else {
        return Ok(SupplementalGroupsPolicy::Merge);
    };
    SupplementalGroupsPolicy::from_str_name(policy)
        .ok_or_else(|| TranslateError::SupplementalGroupsPolicy { policy: policy.to_owned() })
}

pub(super) fn selinux_option(options: &SELinuxOptions) -> SeLinuxOption {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

/// A profile that needs no name.
pub(super) fn plain_profile(profile_type: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: profile_type as i32, localhost_ref: String::new() }
}

fn seccomp(node: &NodeSettings, pod: &Pod, container: &Container) -> Result<SecurityProfile, TranslateError> {
    let own = container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let of_pod = || spec(pod).security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    let Some(SeccompProfile { type_, localhost_profile }) = own.or_else(of_pod) else {
        let default = if node.seccomp_default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        return Ok(plain_profile(default));
    };
    match type_.as_str() {
        "RuntimeDefault" => Ok(plain_profile(ProfileType::RuntimeDefault)),
        "Unconfined" => Ok(plain_profile(ProfileType::Unconfined)),
        "Localhost" => {
            let profile = localhost_profile.as_deref().filter(|profile| !profile.is_empty());
            let profile = profile.ok_or(TranslateError::SeccompProfileMissing)?;
            if profile.starts_with('/') || profile.split('/').any(|part| part == "..") {
                return Err(TranslateError::SeccompProfileOutside { profile: profile.to_owned() });
            }
            let localhost_ref = format!("{}/{profile}", seccomp_directory(&node.root_dir));
            Ok(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref })
        }
        unknown => Err(TranslateError::SeccompProfileType { profile_type: unknown.to_owned() }),
    }
}

/// The AppArmor profile, in CRI's form and in the older one that runtimes still read. None leaves it to the runtime.
fn app_armor(pod: &Pod, container: &Container) -> Result<(Option<SecurityProfile>, String), TranslateError> {
    let own = container.security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let annotated =
        || app_armor_annotation(annotation(pod, &format!("{APP_ARMOR_ANNOTATION_PREFIX}{}", container.name))?);
    let of_pod = || spec(pod).security_context.as_ref().and_then(|c| c.app_armor_profile.clone());
    let Some(AppArmorProfile { type_, localhost_profile }) = own.or_else(annotated).or_else(of_pod) else {
        return Ok((None, String::new()));
    };
    match type_.as_str() {
        "RuntimeDefault" => Ok((Some(plain_profile(ProfileType::RuntimeDefault)), "runtime/default".to_owned())),
        "Unconfined" => Ok((Some(plain_profile(ProfileType::Unconfined)), "unconfined".to_owned())),
        "Localhost" => {
            let name = localhost_profile.filter(|name| !name.is_empty());
            let name = name.ok_or(TranslateError::AppArmorProfileMissing)?;
            let deprecated = format!("localhost/{name}");
            let profile = SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: name };
            Ok((Some(profile), deprecated))
        }
        unknown => Err(TranslateError::AppArmorProfileType { profile_type: unknown.to_owned() }),
    }
}

fn app_armor_annotation(value: &str) -> Option<AppArmorProfile> {
    let profile = |type_: &str, localhost_profile| AppArmorProfile { type_: type_.to_owned(), localhost_profile };
    match value {
        "runtime/default" => Some(profile("RuntimeDefault", None)),
        "unconfined" => Some(profile("Unconfined", None)),
        _ => value.strip_prefix("localhost/").map(|name| profile("Localhost", Some(name.to_owned()))),
    }
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
