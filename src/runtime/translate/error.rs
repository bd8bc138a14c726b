//! Why a pod cannot be put into the runtime's words.

use crate::model::field_ref::{FieldError, go_quote};

use super::dns::ResolvConfError;

/// A pod, or a container of it, that has no translation. The texts that users see in events and in
/// `state.waiting.message` are the peer's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TranslateError {
    /// `spec.hostname`, `spec.subdomain` or `spec.hostnameOverride` is no DNS name.
    #[error("pod {field} {} is not a valid DNS {kind}: {reason}", go_quote(.value))]
    InvalidHostname {
        /// `Hostname`, `Subdomain` or `HostnameOverride`.
        field: &'static str,
        /// What the pod asks for.
        value: String,
        /// `label` or `subdomain`.
        kind: &'static str,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// Nothing is left of a host name once it is cut to the kernel's length.
    #[error("hostname for pod {} was invalid: {}", go_quote(.pod), go_quote(.hostname))]
    EmptyHostname {
        /// The pod's name.
        pod: String,
        /// The name before it was cut.
        hostname: String,
    },
    /// `setHostnameAsFQDN` with a name that the kernel cannot hold.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({max} characters is the max, {} characters requested)",
        .fqdn.len()
    )]
    FqdnTooLong {
        /// The full name.
        fqdn: String,
        /// The kernel's limit.
        max: usize,
    },
    /// The node's resolv.conf cannot be read as one.
    #[error("Encountered error while parsing resolv conf file. Error: {0}")]
    ResolvConf(#[from] ResolvConfError),
    /// `supplementalGroupsPolicy` is neither `Merge` nor `Strict`.
    #[error("unsupported supplementalGroupsPolicy: {policy}")]
    SupplementalGroupsPolicy {
        /// The policy as written.
        policy: String,
    },
    /// `hostUsers: false` where the runtime, or the pod's handler, has no user namespaces.
    #[error("can't set `spec.hostUsers: false`, {} user namespaces", lacks(.runtime_handler))]
    UserNamespaceUnsupported {
        /// The pod's handler; empty for the default one.
        runtime_handler: String,
    },
    /// A seccomp profile of type `Localhost` that names no file.
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    SeccompProfileMissing,
    /// A seccomp profile that leads out of the profile folder.
    #[error("seccomp localhostProfile {} must be a relative path without '..'", go_quote(.profile))]
    SeccompProfileOutside {
        /// The path as written.
        profile: String,
    },
    /// A seccomp profile type that the API does not know.
    #[error("unknown seccomp profile type: {}", go_quote(.profile_type))]
    SeccompProfileType {
        /// The type as written.
        profile_type: String,
    },
    /// An AppArmor profile of type `Localhost` without a name.
    #[error("missing localhost apparmor profile name")]
    AppArmorProfileMissing,
    /// An AppArmor profile type that the API does not know.
    #[error("unknown apparmor profile type: {}", go_quote(.profile_type))]
    AppArmorProfileType {
        /// The type as written.
        profile_type: String,
    },
    /// `runAsNonRoot` together with `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy (pod: {}, container: {container})", go_quote(.pod))]
    RunAsUserIsRoot {
        /// The pod, as `name_namespace(uid)`.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot` and an image that runs as root.
    #[error("container has runAsNonRoot and image will run as root (pod: {}, container: {container})", go_quote(.pod))]
    ImageRunsAsRoot {
        /// The pod, as `name_namespace(uid)`.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot` and an image whose user is a name, which only the image's own files could resolve.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {}, container: {container})",
        go_quote(.pod)
    )]
    ImageUserNotNumeric {
        /// The image's user.
        user: String,
        /// The pod, as `name_namespace(uid)`.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// `runAsNonRoot` and an image whose user id is out of range.
    #[error(
        "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-(2147483647)): must be between 0 and 2147483647, inclusive (pod: {}, container: {container})",
        go_quote(.pod)
    )]
    ImageUserOutOfRange {
        /// The image's user id.
        uid: i64,
        /// The pod, as `name_namespace(uid)`.
        pod: String,
        /// The container's name.
        container: String,
    },
    /// The services of the cluster are not known yet, so that their variables would be missing.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    ServicesNotSynced,
    /// A ConfigMap or Secret that is not there.
    #[error("{kind} {} not found", go_quote(.name))]
    ObjectNotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A ConfigMap or Secret that could not be read.
    #[error("{message}")]
    ObjectFailed {
        /// Why, as the reader tells it.
        message: String,
    },
    /// A ConfigMap or Secret that the container needs and nobody asked for.
    #[error("{kind} {namespace}/{name} was not read before the container was translated")]
    ObjectNotRead {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// A key that the object does not have.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyNotFound {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// A `fieldRef` or `resourceFieldRef` without a value.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A `fileKeyRef` to a volume that the pod does not have.
    #[error("cannot find the volume {} referenced by FileKeyRef", go_quote(.volume))]
    EnvFileVolumeNotFound {
        /// The volume's name.
        volume: String,
    },
    /// A `fileKeyRef` to a file that is not there or no environment file. The cause may tell of the node's files, so it
    /// is not for the user's eyes.
    #[error("couldn't parse env file")]
    EnvFileUnreadable {
        /// What is wrong, for the log.
        cause: String,
    },
    /// A `fileKeyRef` to a key that the file does not have.
    #[error("environment variable key {} not found in file {}", go_quote(.key), go_quote(.path))]
    EnvFileKeyNotFound {
        /// The key.
        key: String,
        /// The file's path on the node.
        path: String,
    },
    /// A variable whose value is no text stands in a command, an argument or a sub-path, which can only hold text.
    #[error("{place} of container {} refers to a variable whose value is not UTF-8", go_quote(.container))]
    NotText {
        /// `command`, `args` or `subPathExpr`.
        place: &'static str,
        /// The container's name.
        container: String,
    },
    /// `subPathExpr` refers to variables that are unset or empty.
    #[error("missing value for {names}")]
    SubPathVariableMissing {
        /// The variables, sorted and joined by commas.
        names: String,
    },
    /// A sub-path that does not start at the volume's root.
    #[error("error SubPath `{sub_path}` must not be an absolute path")]
    SubPathAbsolute {
        /// The path after expansion.
        sub_path: String,
    },
    /// A sub-path that climbs out of its folder.
    #[error("unable to provision SubPath `{sub_path}`: must not contain '..'")]
    SubPathBackstep {
        /// The path after expansion.
        sub_path: String,
    },
    /// A mount of a volume that is not mounted on the node.
    #[error("cannot find volume {} to mount into container {}", go_quote(.volume), go_quote(.container))]
    VolumeNotFound {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// A block device of a volume that is not mapped on the node.
    #[error("cannot find volume {} to pass into container {}", go_quote(.volume), go_quote(.container))]
    BlockVolumeNotFound {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// The container that an ephemeral container wants to look into has never been made (`targetContainerName`). The
    /// translation takes the target by its id; who looks the id up fails with this.
    #[error("unable to find target container {name}")]
    TargetContainerNotFound {
        /// The target's name.
        name: String,
    },
    /// A block device's path in the container that is not absolute.
    #[error("error DevicePath `{path}` must be an absolute path")]
    DevicePathRelative {
        /// The path as written.
        path: String,
    },
    /// `mountPropagation` is none that the API knows.
    #[error("invalid MountPropagation mode: {}", go_quote(.mode))]
    MountPropagation {
        /// The mode as written.
        mode: String,
    },
    /// `recursiveReadOnly` cannot be had.
    #[error("failed to resolve recursive read-only mode: {0}")]
    RecursiveReadOnly(#[from] RecursiveReadOnlyError),
}

/// Why a mount cannot be read-only all the way down (KEP 3857).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecursiveReadOnlyError {
    /// The mount itself is writable.
    #[error("volume {} requested recursive read-only mode, but it is not read-only", go_quote(.volume))]
    NotReadOnly {
        /// The volume's name.
        volume: String,
    },
    /// The mount propagates.
    #[error("volume {} requested recursive read-only mode, but it is not compatible with propagation {}", go_quote(.volume), go_quote(.propagation))]
    Propagation {
        /// The volume's name.
        volume: String,
        /// `mountPropagation` as written.
        propagation: String,
    },
    /// The pod's handler does not offer it.
    #[error("volume {} requested recursive read-only mode, but it is not supported by the runtime", go_quote(.volume))]
    Unsupported {
        /// The volume's name.
        volume: String,
    },
    /// A mode that the API does not know.
    #[error("unknown recursive read-only mode {}", go_quote(.mode))]
    UnknownMode {
        /// The mode as written.
        mode: String,
    },
}

impl TranslateError {
    /// `state.waiting.reason` of a container that cannot start because of this; for what can only go wrong with a
    /// sandbox, the reason that the peer logs.
    pub fn waiting_reason(&self) -> &'static str {
        match self {
            TranslateError::ResolvConf(_) | TranslateError::FqdnTooLong { .. } => "ConfigPodSandboxError",
            _ => "CreateContainerConfigError",
        }
    }
}

fn lacks(runtime_handler: &str) -> String {
    if runtime_handler.is_empty() {
        return "runtime does not support".to_owned();
    }
    format!("RuntimeClass handler {} does not support", go_quote(runtime_handler))
}
