//! Identity of pods and the questions that every layer asks of a pod object.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, ImageVolumeSource, Pod, PodSpec};

/// Annotation that names the source a pod came from: `api`, `file` or `http`.
pub const CONFIG_SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// Annotation that tells when the agent first saw the pod (RFC 3339, nanoseconds).
pub const CONFIG_SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
/// Annotation that holds a static pod's hash.
pub const CONFIG_HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Annotation that marks the API object that mirrors a static pod.
pub const CONFIG_MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A pod's UID, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PodUid {
    fn from(uid: &str) -> Self {
        PodUid(uid.into())
    }
}

impl From<String> for PodUid {
    fn from(uid: String) -> Self {
        PodUid(uid.into())
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What identifies a pod: the UID is the identity, namespace and name are for people and paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: PodUid,
}

impl PodKey {
    /// The key of a pod object; absent fields become empty text.
    pub fn of(pod: &Pod) -> Self {
        PodKey {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default()),
        }
    }
}

impl fmt::Display for PodKey {
    /// `name_namespace(uid)`, the form that events and back-off messages use.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// Which list of the pod spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContainerKind {
    /// `spec.initContainers`, restartable ones (sidecars) among them.
    Init,
    /// `spec.containers`.
    Regular,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

impl ContainerKind {
    /// The field of the pod spec, as in an event's `involvedObject.fieldPath`.
    pub fn field_name(self) -> &'static str {
        match self {
            ContainerKind::Init => "initContainers",
            ContainerKind::Regular => "containers",
            ContainerKind::Ephemeral => "ephemeralContainers",
        }
    }

    /// `spec.containers{name}` and its likes: an event's `involvedObject.fieldPath`.
    pub fn field_path(self, container: &str) -> String {
        format!("spec.{}{{{container}}}", self.field_name())
    }
}

/// The pod's spec; an absent one reads as the default, since the API never stores a pod without.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

/// All init and regular containers in their order of start.
pub fn init_and_regular_containers(spec: &PodSpec) -> impl Iterator<Item = (ContainerKind, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|c| (ContainerKind::Init, c));
    init.chain(spec.containers.iter().map(|c| (ContainerKind::Regular, c)))
}

/// The volumes that are images, by name (KEP 4639).
pub fn image_volumes(spec: &PodSpec) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    spec.volumes.iter().flatten().filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

/// Whether the container mounts the volume.
pub fn mounts(container: &Container, volume: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.name == volume)
}

/// The container of that name and its kind; ephemeral containers are given as containers.
pub fn container_by_name(spec: &PodSpec, name: &str) -> Option<(ContainerKind, Container)> {
    init_and_regular_containers(spec).find(|(_, c)| c.name == name).map(|(kind, c)| (kind, c.clone())).or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
        Some((ContainerKind::Ephemeral, ephemeral_as_container(ephemeral)))
    })
}

/// An ephemeral container as an ordinary one, without its target.
pub fn ephemeral_as_container(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        lifecycle: c.lifecycle.clone(),
        ports: c.ports.clone(),
        resources: c.resources.clone(),
        resize_policy: c.resize_policy.clone(),
        restart_policy: c.restart_policy.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        volume_devices: c.volume_devices.clone(),
        volume_mounts: c.volume_mounts.clone(),
        ..Container::default()
    }
}

/// Whether an init container keeps running beside the regular ones (`restartPolicy: Always` on an init container).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod shares the node's network namespace.
pub fn is_host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// Whether deletion of the pod has been asked for.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The API phase, if one was written.
pub fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Whether a phase is one that never changes again.
pub fn is_terminal_phase(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

/// One annotation's value.
pub fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the pod came from a file or URL of this node rather than from the API.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// Whether the pod is the API's mirror of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR_ANNOTATION).is_some()
}

/// The lowest priority that counts as critical to the system.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Whether the pod is never evicted or preempted: static, mirror or of system-critical priority.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY)
}
