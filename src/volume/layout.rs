//! Where things of pods are under the root directory. CSI drivers, backup tools and tests rely on these paths
//! (`pkg/kubelet/kubelet_getters.go`), and so does a kubelet that takes over.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Volume;

use crate::model::pod::PodUid;

/// Below the root: one directory per pod UID.
pub const PODS: &str = "pods";
/// In a pod's directory: `<plugin>/<volume>`.
pub const VOLUMES: &str = "volumes";
/// In a pod's directory: what plugins remember, `<plugin>/<volume>/ready`.
pub const PLUGINS: &str = "plugins";
/// In a pod's directory: `<volume>/<container>/<index of the volume mount>`.
pub const SUB_PATHS: &str = "volume-subpaths";
/// Mode of the directories that are the agent's own.
pub const OWN_MODE: u32 = 0o750;

/// Kinds of volumes that are set up here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VolumeKind {
    /// `emptyDir`.
    EmptyDir,
    /// `hostPath`.
    HostPath,
    /// `configMap`.
    ConfigMap,
    /// `secret`.
    Secret,
    /// `downwardAPI`.
    DownwardApi,
    /// `projected`.
    Projected,
    /// `image`: mounted by the runtime, nothing on disk here.
    Image,
}

impl VolumeKind {
    /// The kind of a pod's volume; none for those that are not set up here.
    pub fn of(volume: &Volume) -> Option<Self> {
        match volume {
            Volume { empty_dir: Some(_), .. } => Some(VolumeKind::EmptyDir),
            Volume { host_path: Some(_), .. } => Some(VolumeKind::HostPath),
            Volume { config_map: Some(_), .. } => Some(VolumeKind::ConfigMap),
            Volume { secret: Some(_), .. } => Some(VolumeKind::Secret),
            Volume { downward_api: Some(_), .. } => Some(VolumeKind::DownwardApi),
            Volume { projected: Some(_), .. } => Some(VolumeKind::Projected),
            Volume { image: Some(_), .. } => Some(VolumeKind::Image),
            _ => None,
        }
    }

    /// The plugin's name.
    pub fn plugin(self) -> &'static str {
        match self {
            VolumeKind::EmptyDir => "kubernetes.io/empty-dir",
            VolumeKind::HostPath => "kubernetes.io/host-path",
            VolumeKind::ConfigMap => "kubernetes.io/configmap",
            VolumeKind::Secret => "kubernetes.io/secret",
            VolumeKind::DownwardApi => "kubernetes.io/downward-api",
            VolumeKind::Projected => "kubernetes.io/projected",
            VolumeKind::Image => "kubernetes.io/image",
        }
    }

    /// The plugin's directory name; none for kinds without a directory.
    pub fn directory(self) -> Option<&'static str> {
        match self {
            VolumeKind::EmptyDir => Some("kubernetes.io~empty-dir"),
            VolumeKind::ConfigMap => Some("kubernetes.io~configmap"),
            VolumeKind::Secret => Some("kubernetes.io~secret"),
            VolumeKind::DownwardApi => Some("kubernetes.io~downward-api"),
            VolumeKind::Projected => Some("kubernetes.io~projected"),
            VolumeKind::HostPath | VolumeKind::Image => None,
        }
    }

    /// Whether the directory is one of ours, all of whose content goes with the pod.
    pub fn is_own_directory(name: &str) -> bool {
        let own = [Self::EmptyDir, Self::ConfigMap, Self::Secret, Self::DownwardApi, Self::Projected];
        own.iter().any(|kind| kind.directory() == Some(name))
    }

    /// Whether containers may never write to it, whatever their volume mount says.
    pub fn is_read_only(self) -> bool {
        !matches!(self, VolumeKind::EmptyDir | VolumeKind::HostPath)
    }

    /// Whether the runtime is to give its files the pod's SELinux label.
    pub fn is_relabelled(self) -> bool {
        !matches!(self, VolumeKind::HostPath | VolumeKind::Image)
    }
}

/// Name, below `plugins/kubernetes.io~empty-dir`, of the marker's directory of a volume that stands on an emptyDir.
pub fn marker_name(kind: VolumeKind, volume: &str) -> String {
    if kind == VolumeKind::EmptyDir { volume.to_owned() } else { format!("wrapped_{volume}") }
}

/// `<root>/pods/<uid>`.
pub fn pod_directory(root: &Path, uid: &PodUid) -> PathBuf {
    root.join(PODS).join(uid.as_str())
}

/// `<root>/pods/<uid>/volumes/<plugin>/<volume>`; none for kinds without a directory.
pub fn volume_directory(root: &Path, uid: &PodUid, kind: VolumeKind, volume: &str) -> Option<PathBuf> {
    Some(pod_directory(root, uid).join(VOLUMES).join(kind.directory()?).join(volume))
}

/// Whether the text can stand as one directory's name: a pod's UID or a volume's name becomes a path, so nothing else
/// may pass.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_peer() {
        let (root, uid) = (Path::new("/var/lib/kubelet"), PodUid::from("u-1"));
        let secret = volume_directory(root, &uid, VolumeKind::Secret, "s").unwrap();
        assert_eq!(secret, Path::new("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~secret/s"));
        assert_eq!(volume_directory(root, &uid, VolumeKind::HostPath, "h"), None);
        assert_eq!(marker_name(VolumeKind::Projected, "p"), "wrapped_p");
        assert!(VolumeKind::is_own_directory("kubernetes.io~configmap"));
        assert!(!VolumeKind::is_own_directory("kubernetes.io~csi"));
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_not_plain() {
        assert!(is_plain_name("a.b-c"));
        for name in ["", ".", "..", "a/b", "/", "a\0"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
