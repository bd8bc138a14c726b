//! The manager on the machine's own kernel, in a private cgroup.

use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::cgroup::hierarchy::HostPaths;
use crate::model::resources::testing::{container, list, pod_of};

/// A private cgroup in the machine's own hierarchies, removed at the end whatever happens.
struct PrivateRoot {
    name: String,
    points: Vec<PathBuf>,
}

impl PrivateRoot {
    /// None where cgroups cannot be made (no root, read-only mounts).
    fn make(hierarchy: &Hierarchy) -> Option<Self> {
        let nanos = crate::model::clock::now().as_nanosecond();
        let mut root =
            PrivateRoot { name: format!("ferrolet-test-{}-{nanos}", std::process::id()), points: Vec::new() };
        for mount in hierarchy.mounts() {
            std::fs::create_dir(mount.point.join(&root.name)).ok()?;
            root.points.push(mount.point.clone());
        }
        Some(root)
    }
}

impl Drop for PrivateRoot {
    fn drop(&mut self) {
        fn remove(directory: &Path) {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            let _ = std::fs::remove_dir(directory);
        }
        for point in &self.points {
            remove(&point.join(&self.name));
        }
    }
}

#[tokio::test]
async fn on_this_machine_a_pod_s_cgroup_is_made_limited_and_removed_with_its_processes() {
    let Ok(hierarchy) = Hierarchy::detect(&HostPaths::default()) else { return };
    let Some(root) = PrivateRoot::make(&hierarchy) else { return };
    let settings = CgroupSettings { cgroup_root: format!("/{}", root.name), ..CgroupSettings::default() };
    let manager = CgroupManager::new(settings, hierarchy.clone()).unwrap();
    let memory = ResourceTotals::of_list(&list("cpu=2,memory=1Gi,pid=1000").unwrap());
    let outcomes = match manager.ensure_node(&memory).await {
        // v2 in a place whose parent does not hand its controllers on.
        Err(CgroupError::Root(_)) if manager.version() == Version::V2 => return,
        outcomes => outcomes.unwrap(),
    };
    assert!(outcomes[0].error.is_none(), "{:?}", outcomes[0].error);

    let pod = pod_of(vec![container("c", "cpu=100m,memory=16Mi", "cpu=500m,memory=64Mi")]);
    let pod = Pod { metadata: ObjectMeta { uid: Some("u1".into()), ..ObjectMeta::default() }, ..pod };
    let start = tokio::time::Instant::now();
    manager.ensure_pod(&pod).await.unwrap();
    let took = start.elapsed();
    assert!(took.as_millis() < 500, "making a pod's cgroup took {took:?}");
    manager.update_qos(&[Arc::new(pod.clone())]).await.unwrap();

    let of = |controller: &str| {
        hierarchy.mount_of(controller).unwrap().point.join(&root.name).join("kubepods/burstable/podu1")
    };
    let (file, limit) =
        if manager.version() == Version::V1 { ("memory.limit_in_bytes", 64 << 20) } else { ("memory.max", 64 << 20) };
    let content = std::fs::read_to_string(of("memory").join(file)).unwrap();
    assert_eq!(content.trim(), limit.to_string());

    // A process in a container's cgroup below, as a runtime that died leaves it.
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    for mount in hierarchy.mounts() {
        let pod = mount.point.join(&root.name).join("kubepods/burstable/podu1");
        if !pod.is_dir() || mount.controllers.iter().any(|controller| controller == "cpuset") {
            continue;
        }
        std::fs::create_dir(pod.join("c1")).unwrap();
        std::fs::write(pod.join("c1/cgroup.procs"), child.id().to_string()).unwrap();
    }
    let found = manager.pods().await.unwrap();
    assert_eq!(found.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(), ["u1"]);

    let removed = manager.remove_pod(&PodUid::from("u1"), None).await;
    let _ = child.kill();
    let status = child.wait().unwrap();
    removed.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(manager.pods().await.unwrap().is_empty());
    assert!(found[0].directories.iter().all(|directory| !directory.exists()));
}
