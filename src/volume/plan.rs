//! What each volume of a pod must be on this node. Pure: the pod, its objects and the node's amounts in, plans out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, PodSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::layout::VolumeKind;
use super::payload::Payload;
use super::projection::{ContentError, ContentInput, ResolvedObjects, fs_group};
use super::references::add_once;
use crate::model::Timestamp;
use crate::model::pod::{is_static, spec};
use crate::model::quantity::{self, Amount};
use crate::model::resources::{self, MEMORY};

/// What a node's state adds to a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeAmounts {
    /// `status.allocatable` of the node.
    pub allocatable: BTreeMap<String, Quantity>,
}

/// A volume as it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumePlan {
    /// `spec.volumes[].name`.
    pub name: String,
    /// What it is made of.
    pub backing: Backing,
    /// The group that is to own the files.
    pub fs_group: Option<u32>,
    /// When it must be planned again; tokens age.
    pub refresh_at: Option<Timestamp>,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Backing {
    /// An empty directory.
    EmptyDir(Medium),
    /// A path of the node.
    HostPath {
        /// The path as written.
        path: PathBuf,
        /// What must be there.
        kind: HostPathType,
    },
    /// Files of our own.
    Files {
        /// Config map, secret, downward API or projected.
        kind: VolumeKind,
        /// Where they are kept. Config maps are on disk, all else may be secret and is in memory.
        medium: Medium,
        /// The files.
        payload: Payload,
        /// Directories on which containers mount other volumes.
        nested_mount_points: Vec<PathBuf>,
    },
    /// An image that the runtime mounts.
    Image,
}

/// Where a volume's content is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The disk of the root directory.
    Disk,
    /// A tmpfs of at most that many bytes.
    Memory {
        /// Bytes; the kernel's default if absent.
        size: Option<u64>,
    },
    /// Huge pages of that size.
    HugePages {
        /// Bytes of a page.
        page_size: u64,
    },
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathType {
    /// Anything, or nothing at all.
    Unset,
    /// A directory, made if missing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A regular file, made if missing.
    FileOrCreate,
    /// A regular file.
    File,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Why a volume cannot be planned. The texts are what users see in the FailedMount event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// What the volume shows is not to be had.
    #[error("{0}")]
    Content(#[from] ContentError),
    /// A kind of volume that this agent cannot do.
    #[error("volume {volume:?} is of type {source_type}, which is not supported yet")]
    Unsupported {
        /// The volume.
        volume: String,
        /// The field of the volume's source.
        source_type: &'static str,
    },
    /// A source that no agent of this version knows.
    #[error("no volume plugin matched")]
    UnknownSource,
    /// `gitRepo`: running a repository's content as root is no option (CVE-2024-10220, CVE-2025-1767).
    #[error("gitRepo volumes are disabled; clone in an init container into an emptyDir instead")]
    GitRepo,
    /// `emptyDir.medium`.
    #[error("unknown storage medium {medium:?}")]
    UnknownMedium {
        /// The medium.
        medium: String,
    },
    /// `hostPath.type`.
    #[error("{kind} is an invalid volume type")]
    HostPathType {
        /// The type.
        kind: String,
    },
    /// `hostPath.path`.
    #[error("invalid HostPath `{path}`: must not contain '..'")]
    HostPathBackstep {
        /// The path.
        path: String,
    },
    /// `HugePages` without a size while containers ask for several sizes.
    #[error("medium: {medium} can't be used if container requests multiple huge page sizes")]
    SeveralPageSizes {
        /// The medium.
        medium: String,
    },
    /// Huge pages that no container asks for.
    #[error("medium {medium}: hugePages storage requested, but there is no resource request for huge pages")]
    NoHugePages {
        /// The medium.
        medium: String,
    },
    /// A size that cannot be read.
    #[error("{field}: {source}")]
    Quantity {
        /// Where it stands.
        field: String,
        /// What is wrong.
        source: quantity::QuantityError,
    },
    /// A mount path that leads upwards.
    #[error("invalid container mount point {path}")]
    MountPoint {
        /// The path.
        path: String,
    },
}

/// The volumes that a container of the pod mounts or uses as a device, in the order of the spec. Others are never set up,
/// as in the peer.
pub fn used_volumes(pod: &Pod) -> Vec<&Volume> {
    let spec = spec(pod);
    let mut names: BTreeSet<&str> = volume_mounts(spec).flatten().map(|mount| mount.name.as_str()).collect();
    let regular = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| &c.volume_devices);
    let devices = regular.chain(spec.ephemeral_containers.iter().flatten().map(|c| &c.volume_devices));
    names.extend(devices.flatten().flatten().map(|device| device.name.as_str()));
    spec.volumes.iter().flatten().filter(|volume| names.contains(volume.name.as_str())).collect()
}

/// The volume mounts of every container, container by container.
fn volume_mounts(spec: &PodSpec) -> impl Iterator<Item = &[VolumeMount]> {
    let regular = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| &c.volume_mounts);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.volume_mounts);
    regular.chain(ephemeral).map(|mounts| mounts.as_deref().unwrap_or_default())
}

/// The plan of one volume.
///
/// # Errors
/// When the volume cannot be, for a reason that its user can read.
pub fn plan_volume(
    pod: &Pod,
    volume: &Volume,
    objects: &ResolvedObjects,
    node: &NodeAmounts,
) -> Result<VolumePlan, PlanError> {
    let input = ContentInput { pod, objects, allocatable: &node.allocatable };
    let plan =
        |backing, refresh_at| VolumePlan { name: volume.name.clone(), backing, fs_group: fs_group(pod), refresh_at };
    let (kind, content) = if let Some(empty_dir) = &volume.empty_dir {
        return Ok(plan(Backing::EmptyDir(medium(pod, empty_dir, node)?), None));
    } else if let Some(host_path) = &volume.host_path {
        return Ok(plan(host_path_backing(host_path)?, None));
    } else if let Some(source) = &volume.config_map {
        let content = input.config_map(&source.name, source.items.as_deref(), source.default_mode, source.optional);
        (VolumeKind::ConfigMap, content?)
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        (VolumeKind::Secret, input.secret(name, source.items.as_deref(), source.default_mode, source.optional)?)
    } else if let Some(source) = &volume.downward_api {
        let content = input.downward_api(source.items.as_deref().unwrap_or_default(), source.default_mode);
        (VolumeKind::DownwardApi, content?)
    } else if let Some(source) = &volume.projected {
        (VolumeKind::Projected, input.projected(source)?)
    } else if volume.image.is_some() {
        return Ok(plan(Backing::Image, None));
    } else if let Some(source_type) = unsupported_source(volume) {
        return Err(PlanError::Unsupported { volume: volume.name.clone(), source_type });
    } else if volume.git_repo.is_some() {
        return Err(PlanError::GitRepo);
    } else if is_static(pod) {
        // The API server would have written emptyDir into a volume without a source; a file has not been through it.
        return Ok(plan(Backing::EmptyDir(Medium::Disk), None));
    } else {
        return Err(PlanError::UnknownSource);
    };
    let medium = match kind {
        VolumeKind::ConfigMap => Medium::Disk,
        _ => Medium::Memory { size: memory_size(pod, None, node) },
    };
    let nested_mount_points = nested_mount_points(spec(pod), &volume.name)?;
    let backing = Backing::Files { kind, medium, payload: content.payload, nested_mount_points };
    Ok(plan(backing, content.refresh_at))
}

/// The source's field, if it is one of the known kinds that are left to later.
fn unsupported_source(volume: &Volume) -> Option<&'static str> {
    let sources = [
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.csi.is_some(), "csi"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.cinder.is_some(), "cinder"),
        (volume.flocker.is_some(), "flocker"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.rbd.is_some(), "rbd"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
    ];
    sources.iter().find(|(is_set, _)| *is_set).map(|(_, name)| *name)
}

fn medium(pod: &Pod, source: &EmptyDirVolumeSource, node: &NodeAmounts) -> Result<Medium, PlanError> {
    const HUGE_PAGES: &str = "HugePages";
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let limit = source.size_limit.as_ref().map(|limit| read("emptyDir.sizeLimit", limit)).transpose()?;
            Ok(Medium::Memory { size: memory_size(pod, limit, node) })
        }
        medium if medium == HUGE_PAGES || medium.starts_with("HugePages-") => {
            Ok(Medium::HugePages { page_size: page_size(pod, medium)? })
        }
        medium => Err(PlanError::UnknownMedium { medium: medium.to_owned() }),
    }
}

/// The smallest of what the node can give, the pod's memory limit and the volume's own limit
/// (`emptydir.calculateEmptyDirMemorySize`).
fn memory_size(pod: &Pod, limit: Option<Amount>, node: &NodeAmounts) -> Option<u64> {
    let allocatable = node.allocatable.get(MEMORY).and_then(|q| Amount::from_quantity(q).ok()).map(Amount::value);
    let pod_limit = resources::is_limited_throughout(pod, MEMORY).then(|| resources::pod_limits(pod).memory_bytes);
    let bounds = [allocatable, pod_limit.flatten(), limit.map(Amount::value)];
    bounds.into_iter().flatten().filter(|bytes| *bytes > 0).min().and_then(|bytes| u64::try_from(bytes).ok())
}

/// The page size of a `HugePages` or `HugePages-<size>` medium; containers must ask for pages of that size
/// (`emptydir.getPageSizeMountOption`).
fn page_size(pod: &Pod, medium: &str) -> Result<u64, PlanError> {
    let spec = spec(pod);
    let wanted = medium.strip_prefix("HugePages-").map(|size| parse(medium, size)).transpose()?;
    let pod_level = spec.resources.iter().flat_map(|r| r.requests.iter().flatten());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let requests = containers.flat_map(|c| c.resources.iter().flat_map(|r| r.requests.iter().flatten()));
    let mut sizes = BTreeSet::new();
    for (name, _) in pod_level.chain(requests) {
        if let Some(size) = name.strip_prefix(resources::HUGE_PAGES_PREFIX) {
            sizes.insert(parse(name, size)?);
        }
    }
    let chosen = match wanted {
        Some(wanted) => sizes.get(&wanted).copied(),
        None if sizes.len() > 1 => return Err(PlanError::SeveralPageSizes { medium: medium.to_owned() }),
        None => sizes.first().copied(),
    };
    let bytes = chosen.and_then(|size| u64::try_from(size.value()).ok()).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| PlanError::NoHugePages { medium: medium.to_owned() })
}

fn parse(field: &str, text: &str) -> Result<Amount, PlanError> {
    quantity::parse(text).map_err(|source| PlanError::Quantity { field: field.to_owned(), source })
}

fn read(field: &str, quantity: &Quantity) -> Result<Amount, PlanError> {
    parse(field, &quantity.0)
}

fn host_path_backing(source: &HostPathVolumeSource) -> Result<Backing, PlanError> {
    if source.path.split('/').any(|component| component == "..") {
        return Err(PlanError::HostPathBackstep { path: source.path.clone() });
    }
    let kind = match source.type_.as_deref().unwrap_or_default() {
        "" => HostPathType::Unset,
        "DirectoryOrCreate" => HostPathType::DirectoryOrCreate,
        "Directory" => HostPathType::Directory,
        "FileOrCreate" => HostPathType::FileOrCreate,
        "File" => HostPathType::File,
        "Socket" => HostPathType::Socket,
        "CharDevice" => HostPathType::CharDevice,
        "BlockDevice" => HostPathType::BlockDevice,
        kind => return Err(PlanError::HostPathType { kind: kind.to_owned() }),
    };
    Ok(Backing::HostPath { path: PathBuf::from(&source.path), kind })
}

/// Paths below the volume at which containers mount another volume: the runtime could not make these mount points itself
/// in a volume that is read-only (`util.MakeNestedMountpoints`). Of two nested in each other only the outer one counts.
fn nested_mount_points(spec: &PodSpec, volume: &str) -> Result<Vec<PathBuf>, PlanError> {
    let mut found = Vec::new();
    for mounts in volume_mounts(spec) {
        let mut all: Vec<String> = mounts.iter().map(|mount| clean(&mount.mount_path)).collect();
        all.sort();
        for mount in mounts.iter().filter(|mount| mount.name == volume) {
            let own = clean(&mount.mount_path);
            if own == ".." || own.starts_with("../") {
                return Err(PlanError::MountPoint { path: own });
            }
            let own = if own.ends_with('/') { own } else { own + "/" };
            let mut outer: Vec<String> = Vec::new();
            for path in all.iter().filter(|path| path.starts_with(&own) && path.len() > own.len()) {
                if outer.iter().any(|o| path.starts_with(o)) {
                    continue;
                }
                outer.push(format!("{path}/"));
                add_once(&mut found, PathBuf::from(&path[own.len()..]));
            }
        }
    }
    Ok(found)
}

/// A path without empty, `.` and resolvable `..` components (Go's `filepath.Clean`).
fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    match (is_absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" }, "spec": spec }))
            .unwrap()
    }

    /// A pod with one container that mounts the volume.
    fn pod_with(volume: &Value, resources: &Value) -> Pod {
        pod(json!({ "volumes": [volume], "containers": [
            { "name": "c", "resources": resources, "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] }))
    }

    fn node() -> NodeAmounts {
        NodeAmounts { allocatable: [("memory".to_owned(), Quantity("1Gi".to_owned()))].into() }
    }

    fn planned(pod: &Pod) -> Result<Backing, String> {
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        let plan = plan_volume(pod, volume, &ResolvedObjects::default(), &node());
        plan.map(|plan| plan.backing).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case::node(json!({}), json!({}), 1 << 30)]
    #[case::own_limit(json!({ "sizeLimit": "64Mi" }), json!({}), 64 << 20)]
    #[case::own_limit_too_large(json!({ "sizeLimit": "2Gi" }), json!({}), 1 << 30)]
    #[case::no_limit_at_all(json!({ "sizeLimit": "0" }), json!({}), 1 << 30)]
    #[case::pod_limit(json!({ "sizeLimit": "512Mi" }), json!({ "limits": { "memory": "256Mi" } }), 256 << 20)]
    #[case::request_is_no_limit(json!({}), json!({ "requests": { "memory": "256Mi" } }), 1 << 30)]
    fn memory_has_the_smallest_size(#[case] mut source: Value, #[case] resources: Value, #[case] size: u64) {
        source["medium"] = json!("Memory");
        let pod = pod_with(&json!({ "name": "v", "emptyDir": source }), &resources);
        assert_eq!(planned(&pod), Ok(Backing::EmptyDir(Medium::Memory { size: Some(size) })));
    }

    #[rstest]
    #[case("HugePages", json!({ "hugepages-2Mi": "4Mi" }), Ok(2 << 20))]
    #[case("HugePages-2Mi", json!({ "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi" }), Ok(2 << 20))]
    #[case("HugePages-1Gi", json!({ "hugepages-2Mi": "4Mi" }), Err("no resource request"))]
    #[case("HugePages", json!({ "memory": "4Mi" }), Err("no resource request"))]
    #[case("HugePages", json!({ "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi" }), Err("multiple huge page sizes"))]
    #[case("HugePages-x", json!({}), Err("HugePages-x: "))]
    #[case("Tape", json!({}), Err("unknown storage medium \"Tape\""))]
    fn huge_pages(#[case] medium: &str, #[case] requests: Value, #[case] expected: Result<u64, &str>) {
        let volume = json!({ "name": "v", "emptyDir": { "medium": medium } });
        match (planned(&pod_with(&volume, &json!({ "requests": requests }))), expected) {
            (Ok(backing), Ok(page_size)) => assert_eq!(backing, Backing::EmptyDir(Medium::HugePages { page_size })),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (result, _) => panic!("{result:?}"),
        }
    }

    #[rstest]
    #[case(json!({ "hostPath": { "path": "/a/../b" } }), "invalid HostPath `/a/../b`: must not contain '..'")]
    #[case(json!({ "hostPath": { "path": "/a", "type": "Pipe" } }), "Pipe is an invalid volume type")]
    #[case(json!({ "persistentVolumeClaim": { "claimName": "x" } }),
        "volume \"v\" is of type persistentVolumeClaim, which is not supported yet")]
    #[case(json!({ "csi": { "driver": "x" } }), "volume \"v\" is of type csi, which is not supported yet")]
    #[case(json!({ "nfs": { "path": "/", "server": "s" } }), "volume \"v\" is of type nfs, which is not supported yet")]
    #[case(json!({ "gitRepo": { "repository": "r" } }), "gitRepo volumes are disabled; clone in an init container into an emptyDir instead")]
    #[case(json!({}), "no volume plugin matched")]
    fn what_cannot_be(#[case] mut volume: Value, #[case] message: &str) {
        volume["name"] = json!("v");
        assert_eq!(planned(&pod_with(&volume, &json!({}))), Err(message.to_owned()));
    }

    #[test]
    fn what_needs_no_disk() {
        let host = json!({ "name": "v", "hostPath": { "path": "/a", "type": "Directory" } });
        let expected = Backing::HostPath { path: "/a".into(), kind: HostPathType::Directory };
        assert_eq!(planned(&pod_with(&host, &json!({}))), Ok(expected));
        let image = json!({ "name": "v", "image": { "reference": "r" } });
        assert_eq!(planned(&pod_with(&image, &json!({}))), Ok(Backing::Image));
    }

    #[test]
    fn only_used_volumes_count() {
        let pod = pod(json!({
            "volumes": [
                { "name": "unused", "secret": { "secretName": "a" } },
                { "name": "init", "secret": { "secretName": "b" } },
                { "name": "main", "configMap": { "name": "c" } },
                { "name": "device", "persistentVolumeClaim": { "claimName": "d" } },
                { "name": "debug", "projected": { "sources": [{ "configMap": { "name": "e" } }, { "configMap": { "name": "c" } }] } },
            ],
            "initContainers": [{ "name": "i", "volumeMounts": [{ "name": "init", "mountPath": "/x" }] }],
            "containers": [{ "name": "c", "volumeMounts": [{ "name": "main", "mountPath": "/x" }],
                "volumeDevices": [{ "name": "device", "devicePath": "/dev/x" }] }],
            "ephemeralContainers": [{ "name": "d", "volumeMounts": [{ "name": "debug", "mountPath": "/x" }] }],
        }));
        let names: Vec<_> = used_volumes(&pod).into_iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["init", "main", "device", "debug"]);
    }

    #[rstest]
    #[case(&[("v", "/d"), ("w", "/d/nested")], &["nested"])]
    #[case(&[("v", "/d/"), ("w", "/d/a/b"), ("x", "/d/a/b/c")], &["a/b"])]
    #[case(&[("v", "/d"), ("w", "/d/n"), ("x", "/d/n-v"), ("y", "/d/n/m"), ("z", "/d/n2")], &["n", "n-v", "n2"])]
    #[case(&[("v", "/d"), ("w", "/dd/x"), ("x", "/d/../e")], &[])]
    #[case(&[("v", "/d"), ("v", "/d/self")], &["self"])]
    fn nested(#[case] mounts: &[(&str, &str)], #[case] expected: &[&str]) {
        let mounts: Vec<Value> = mounts.iter().map(|(name, path)| json!({ "name": name, "mountPath": path })).collect();
        let pod = pod(json!({ "containers": [{ "name": "c", "volumeMounts": mounts }] }));
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(nested_mount_points(spec(&pod), "v"), Ok(expected));
    }

    #[test]
    fn mount_points_do_not_lead_up() {
        let mounts = json!([{ "name": "v", "mountPath": "a/../../b" }]);
        let pod = pod(json!({ "containers": [{ "name": "c", "volumeMounts": mounts }] }));
        assert_eq!(nested_mount_points(spec(&pod), "v"), Err(PlanError::MountPoint { path: "../b".into() }));
    }

    #[rstest]
    #[case("/a/./b//c/", "/a/b/c")]
    #[case("/../a", "/a")]
    #[case("a/..", ".")]
    #[case("../../a", "../../a")]
    #[case("", ".")]
    #[case("/", "/")]
    fn cleaning(#[case] path: &str, #[case] expected: &str) {
        assert_eq!(clean(path), expected);
    }
}
