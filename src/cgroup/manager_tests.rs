//! The manager on a kernel of temporary folders: v1 with a v2 hierarchy beside it, and v2.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rstest::rstest;
use rustix::io::Errno;

use super::*;
use crate::cgroup::fake::FakeKernel;
use crate::model::container_resources::MemoryQos;
use crate::model::resources::testing::{container, list, pod_of};

fn pod(uid: &str, requests: &str, limits: &str) -> Pod {
    let pod = pod_of(vec![container("c", requests, limits)]);
    Pod { metadata: ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() }, ..pod }
}

fn capacity() -> ResourceTotals {
    ResourceTotals::of_list(&list("cpu=4,memory=8Gi,pid=1000,hugepages-2Mi=0").unwrap())
}

fn manager(kernel: &Arc<FakeKernel>, settings: CgroupSettings) -> CgroupManager {
    CgroupManager::with_kernel(settings, kernel.hierarchy(), Box::new(Arc::clone(kernel)), None).unwrap()
}

async fn ready(kernel: &Arc<FakeKernel>) -> CgroupManager {
    let manager = manager(kernel, CgroupSettings::default());
    let outcomes = manager.ensure_node(&capacity()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    manager
}

#[tokio::test]
async fn v1_tree() {
    let kernel = FakeKernel::v1();
    let settings = CgroupSettings {
        system_reserved: ResourceTotals::of_list(&list("cpu=500m,memory=1Gi,pid=100").unwrap()),
        kube_reserved: ResourceTotals::of_list(&list("cpu=500m,memory=1Gi").unwrap()),
        ..CgroupSettings::default()
    };
    let outcomes = manager(&kernel, settings).ensure_node(&capacity()).await.unwrap();
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/cpu.shares"), "3072");
    assert_eq!(kernel.content("memory/kubepods/memory.limit_in_bytes"), (6i64 << 30).to_string());
    assert_eq!(kernel.content("pids/kubepods/pids.max"), "900");
    assert_eq!(kernel.content("hugetlb/kubepods/hugetlb.2MB.limit_in_bytes"), (1i64 << 62).to_string());
    assert_eq!(kernel.content("cpuset/kubepods/cpuset.cpus"), "0-3");
    assert_eq!(kernel.content("cpuset/kubepods/burstable/cpuset.mems"), "0");
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/besteffort/cpu.shares"), "2");
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/cpu.shares"), "2");
    for mount in ["systemd", "freezer", "unified"] {
        assert!(kernel.is_there(&format!("{mount}/kubepods/burstable")), "{mount}");
    }
    assert!(!kernel.is_there("devices/kubepods"));
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].reason(), "NodeAllocatableEnforced");
    assert_eq!(outcomes[0].message(), "Updated Node Allocatable limit across pods");
}

#[tokio::test]
async fn v2_tree() {
    let kernel = FakeKernel::v2();
    ready(&kernel).await;
    assert_eq!(kernel.content("kubepods/cpu.weight"), "157");
    assert_eq!(kernel.content("kubepods/memory.max"), (8i64 << 30).to_string());
    assert_eq!(kernel.content("kubepods/hugetlb.2MB.rsvd.max"), (1i64 << 62).to_string());
    assert_eq!(kernel.content("kubepods/besteffort/cpu.weight"), "1");
    assert_eq!(kernel.content("cgroup.subtree_control"), "cpu cpuset hugetlb io memory pids");
    assert_eq!(kernel.content("kubepods/burstable/memory.low"), "0");
}

#[tokio::test]
async fn without_enforcement_pods_may_have_the_whole_node() {
    let kernel = FakeKernel::v2();
    let settings = CgroupSettings {
        enforce: Enforcement::default(),
        system_reserved: ResourceTotals::of_list(&list("memory=1Gi").unwrap()),
        ..CgroupSettings::default()
    };
    manager(&kernel, settings).ensure_node(&capacity()).await.unwrap();
    assert_eq!(kernel.content("kubepods/memory.max"), (8i64 << 30).to_string());
}

#[rstest]
#[case(FakeKernel::v1(), "/kubelet", r#"invalid configuration: cgroup ["kubelet"] has some missing paths: "#)]
#[case(
    FakeKernel::v2(),
    "/kubelet",
    r#"invalid configuration: could not read controllers for cgroup ["kubelet"]: open /"#
)]
#[tokio::test]
async fn a_missing_root_is_refused(#[case] kernel: Arc<FakeKernel>, #[case] root: &str, #[case] start: &str) {
    let settings = CgroupSettings { cgroup_root: root.into(), ..CgroupSettings::default() };
    let error = manager(&kernel, settings).ensure_node(&capacity()).await.unwrap_err();
    assert!(error.to_string().starts_with(start), "{error}");
    assert!(kernel.take_writes().is_empty());
}

#[tokio::test]
async fn a_root_that_climbs_is_refused() {
    let kernel = FakeKernel::v2();
    let climbing = CgroupSettings { cgroup_root: "/a/../..".into(), ..CgroupSettings::default() };
    let result = CgroupManager::with_kernel(climbing, kernel.hierarchy(), Box::new(Arc::clone(&kernel)), None);
    assert!(result.err().unwrap().to_string().starts_with("invalid configuration: "));
}

#[tokio::test]
async fn nothing_outside_the_root_is_touched() {
    for kernel in [FakeKernel::v1(), FakeKernel::v2()] {
        let v2 = kernel.hierarchy().version() == Version::V2;
        let mounts = kernel.hierarchy().mounts().to_vec();
        let fake: &dyn Kernel = &kernel;
        for mount in &mounts {
            fake.mkdir(&mount.point.join("outer")).unwrap();
            if v2 {
                fake.write(&mount.point.join("cgroup.subtree_control"), "+cpu +cpuset +memory +hugetlb +pids").unwrap();
            }
            fake.mkdir(&mount.point.join("outer/kubelet")).unwrap();
            if v2 {
                let file = mount.point.join("outer/cgroup.subtree_control");
                fake.write(&file, "+cpu +cpuset +memory +hugetlb +pids").unwrap();
            }
        }
        if !v2 {
            for file in ["cpuset/outer/cpuset.cpus", "cpuset/outer/cpuset.mems"] {
                fake.write(&kernel.path(file), "0").unwrap();
            }
        }
        kernel.take_writes();
        let settings = CgroupSettings { cgroup_root: "/outer/kubelet".into(), ..CgroupSettings::default() };
        let manager = manager(&kernel, settings);
        manager.ensure_node(&capacity()).await.unwrap();
        let pod = pod("u1", "cpu=100m", "");
        assert_eq!(manager.pod_cgroup_parent(&pod), "/outer/kubelet/kubepods/burstable/podu1");
        manager.ensure_pod(&pod).await.unwrap();
        manager.update_qos(&[Arc::new(pod)]).await.unwrap();
        manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
        for write in kernel.take_writes() {
            assert!(write.contains("outer/kubelet/"), "{write}");
        }
        if !v2 {
            // The root had no CPU set of its own: no process could have been put below it.
            assert_eq!(kernel.content("cpuset/outer/kubelet/cpuset.cpus"), "0");
            assert_eq!(kernel.content("cpuset/outer/kubelet/kubepods/cpuset.cpus"), "0");
        }
    }
}

#[tokio::test]
async fn v1_pod() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    let pod = pod("u1", "cpu=500m,memory=64Mi", "cpu=500m,memory=64Mi");
    assert!(!manager.pod_exists(&pod).await.unwrap());
    manager.ensure_pod(&pod).await.unwrap();
    assert!(manager.pod_exists(&pod).await.unwrap());
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/podu1/cpu.shares"), "512");
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/podu1/cpu.cfs_quota_us"), "50000");
    assert_eq!(kernel.content("memory/kubepods/podu1/memory.limit_in_bytes"), (64i64 << 20).to_string());
    assert_eq!(kernel.content("cpuset/kubepods/podu1/cpuset.cpus"), "0-3");
    assert_eq!(kernel.content("hugetlb/kubepods/podu1/hugetlb.2MB.limit_in_bytes"), "0");
    assert_eq!(kernel.content("pids/kubepods/podu1/pids.max"), "max");
}

#[tokio::test]
async fn v2_pod() {
    let kernel = FakeKernel::v2();
    let settings = CgroupSettings {
        pods: PodCgroupSettings { pids_limit: 64, ..PodCgroupSettings::default() },
        ..CgroupSettings::default()
    };
    let manager = manager(&kernel, settings);
    manager.ensure_node(&capacity()).await.unwrap();
    manager.ensure_pod(&pod("u1", "cpu=100m,memory=64Mi", "cpu=1,memory=128Mi")).await.unwrap();
    assert_eq!(kernel.content("kubepods/burstable/podu1/cpu.weight"), "4");
    assert_eq!(kernel.content("kubepods/burstable/podu1/cpu.max"), "100000 100000");
    assert_eq!(kernel.content("kubepods/burstable/podu1/memory.max"), (128i64 << 20).to_string());
    assert_eq!(kernel.content("kubepods/burstable/podu1/pids.max"), "64");
    assert_eq!(kernel.content("kubepods/burstable/cgroup.subtree_control"), "cpu cpuset hugetlb io memory pids");
}

#[tokio::test]
async fn a_pod_s_cgroup_that_is_there_is_left_alone() {
    for kernel in [FakeKernel::v1(), FakeKernel::v2()] {
        ready(&kernel).await.ensure_pod(&pod("u1", "cpu=100m", "")).await.unwrap();
        // By the same process and, with nothing remembered, by the next.
        let next = ready(&kernel).await;
        kernel.take_writes();
        next.ensure_pod(&pod("u1", "cpu=100m", "")).await.unwrap();
        next.ensure_pod(&pod("u1", "cpu=100m", "")).await.unwrap();
        assert_eq!(kernel.take_writes(), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn a_pod_s_cgroup_that_was_not_finished_is() {
    let kernel = FakeKernel::v2();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u0", "cpu=100m", "")).await.unwrap();
    (&kernel as &dyn Kernel).mkdir(&kernel.path("kubepods/burstable/podu1")).unwrap();
    manager.ensure_pod(&pod("u1", "cpu=100m", "memory=64Mi")).await.unwrap();
    assert_eq!(kernel.content("kubepods/burstable/podu1/memory.max"), (64i64 << 20).to_string());
    assert_eq!(kernel.content("kubepods/burstable/podu1/cpu.weight"), "4");

    // On v1 it may be missing in a few hierarchies.
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    (&kernel as &dyn Kernel).mkdir(&kernel.path("cpu,cpuacct/kubepods/burstable/podu1")).unwrap();
    manager.ensure_pod(&pod("u1", "cpu=100m", "memory=64Mi")).await.unwrap();
    assert_eq!(kernel.content("memory/kubepods/burstable/podu1/memory.limit_in_bytes"), (64i64 << 20).to_string());
}

#[tokio::test]
async fn a_tree_that_vanished_is_made_again_with_its_values() {
    for kernel in [FakeKernel::v1(), FakeKernel::v2()] {
        let manager = ready(&kernel).await;
        manager.update_qos(&[Arc::new(pod("u0", "cpu=1", ""))]).await.unwrap();
        let fake: &dyn Kernel = &kernel;
        for mount in kernel.hierarchy().mounts() {
            for cgroup in ["kubepods/burstable", "kubepods/besteffort", "kubepods"] {
                let _ = fake.rmdir(&mount.point.join(cgroup));
            }
        }
        manager.ensure_pod(&pod("u1", "cpu=100m", "")).await.unwrap();
        let (shares, limit) = if manager.version() == Version::V1 {
            ("cpu,cpuacct/kubepods/burstable/cpu.shares", "memory/kubepods/memory.limit_in_bytes")
        } else {
            ("kubepods/burstable/cpu.weight", "kubepods/memory.max")
        };
        assert_eq!(kernel.content(shares), if manager.version() == Version::V1 { "1024" } else { "39" });
        assert_eq!(kernel.content(limit), (8i64 << 30).to_string());
    }
}

#[tokio::test]
async fn a_refused_limit_does_not_stop_a_pod_but_does_fail_its_update() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    let pod = pod("u1", "cpu=100m", "memory=64Mi,cpu=1");
    kernel.fail("burstable/podu1/memory.limit_in_bytes", Errno::BUSY, 2);
    manager.ensure_pod(&pod).await.unwrap();
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/podu1/cpu.shares"), "102");
    let error = manager.update_pod(&pod, false).await.unwrap_err();
    assert!(matches!(&error, CgroupError::MemoryInUse { usage, .. } if usage == "4096"), "{error}");
    manager.update_pod(&pod, true).await.unwrap();
    assert_eq!(kernel.content("memory/kubepods/burstable/podu1/memory.limit_in_bytes"), (64i64 << 20).to_string());
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/podu1/cpu.cfs_quota_us"), "-1");
    manager.reduce_cpu(&PodUid::from("u1"), QosClass::Burstable).await.unwrap();
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/podu1/cpu.shares"), "2");
}

#[tokio::test]
async fn a_period_that_fits_only_with_the_new_quota_is_written_again() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    kernel.fail("podu1/cpu.cfs_period_us", Errno::INVAL, 1);
    kernel.take_writes();
    manager.ensure_pod(&pod("u1", "cpu=1", "cpu=1")).await.unwrap();
    let writes: Vec<String> = kernel.take_writes().into_iter().filter(|write| write.contains("cfs")).collect();
    assert!(writes[0].contains("quota") && writes[1].contains("period"), "{writes:?}");
}

#[tokio::test]
async fn removal_leaves_nothing_in_any_hierarchy() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    let fake: &dyn Kernel = &kernel;
    // What a runtime leaves: container cgroups, also where the node makes none.
    for directory in ["devices/kubepods", "devices/kubepods/besteffort", "devices/kubepods/besteffort/podu1"] {
        fake.mkdir(&kernel.path(directory)).unwrap();
    }
    for mount in ["devices", "memory", "unified"] {
        fake.mkdir(&kernel.path(&format!("{mount}/kubepods/besteffort/podu1/c1"))).unwrap();
    }
    manager.remove_pod(&PodUid::from("u1"), Some(QosClass::BestEffort)).await.unwrap();
    for mount in ["cpu,cpuacct", "devices", "memory", "unified", "systemd", "freezer"] {
        assert!(!kernel.is_there(&format!("{mount}/kubepods/besteffort/podu1")), "{mount}");
    }
    assert!(kernel.killed().is_empty());
    assert!(kernel.is_there("memory/kubepods/besteffort"));
    manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn left_over_processes_are_killed_frozen_ones_too() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    let fake: &dyn Kernel = &kernel;
    for mount in ["memory", "freezer"] {
        let container = format!("{mount}/kubepods/besteffort/podu1/c1");
        fake.mkdir(&kernel.path(&container)).unwrap();
        kernel.put(&container, &[4242, 4243, 0]);
    }
    kernel.put("pids/kubepods/besteffort/podu1", &[4244]);
    fake.write(&kernel.path("freezer/kubepods/besteffort/podu1/c1/freezer.state"), "FROZEN").unwrap();
    // 0 is a process of another PID namespace: never a target, and here gone by itself.
    for mount in ["memory", "freezer"] {
        kernel.put(&format!("{mount}/kubepods/besteffort/podu1/c1"), &[4242, 4243]);
    }
    manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
    assert!(kernel.killed().starts_with(&[4242, 4243, 4244]), "{:?}", kernel.killed());
    assert!(!kernel.is_there("freezer/kubepods/besteffort/podu1"));
    assert!(!kernel.is_there("memory/kubepods/besteffort/podu1"));
}

#[tokio::test]
async fn of_one_container_alone_what_is_left_is_killed() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    for (container, pid) in [("c1", 4242), ("cri-containerd-c1.scope", 4243), ("c2", 4244)] {
        let container = format!("memory/kubepods/besteffort/podu1/{container}");
        (&kernel as &dyn Kernel).mkdir(&kernel.path(&container)).unwrap();
        kernel.put(&container, &[pid]);
    }
    manager.kill_container(&PodUid::from("u1"), "c1").await.unwrap();
    assert_eq!(kernel.killed(), [4242, 4243]);
    manager.kill_container(&PodUid::from("absent"), "c1").await.unwrap();
}

#[tokio::test]
async fn on_v2_the_kernel_kills_the_whole_subtree_at_once() {
    let kernel = FakeKernel::v2();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    (&kernel as &dyn Kernel).mkdir(&kernel.path("kubepods/besteffort/podu1/c1")).unwrap();
    kernel.put("kubepods/besteffort/podu1/c1", &[4242]);
    kernel.take_writes();
    manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
    assert_eq!(kernel.take_writes(), ["kubepods/besteffort/podu1/cgroup.kill=1"]);
    assert!(kernel.killed().is_empty());
}

#[tokio::test]
async fn controllers_that_were_turned_off_on_the_way_are_turned_on_again() {
    let kernel = FakeKernel::v2();
    let manager = ready(&kernel).await;
    for file in ["kubepods/cgroup.subtree_control", "kubepods/burstable/cgroup.controllers"] {
        std::fs::write(kernel.path(file), "\n").unwrap();
    }
    manager.ensure_pod(&pod("u1", "cpu=100m", "")).await.unwrap();
    assert_eq!(kernel.content("kubepods/burstable/podu1/cpu.weight"), "4");
}

#[tokio::test]
async fn a_controller_that_cannot_be_had_is_named() {
    let kernel = FakeKernel::v2();
    let manager = ready(&kernel).await;
    for directory in ["", "kubepods/", "kubepods/burstable/"] {
        std::fs::write(kernel.path(&format!("{directory}cgroup.controllers")), "cpu cpuset hugetlb pids\n").unwrap();
        std::fs::write(kernel.path(&format!("{directory}cgroup.subtree_control")), "cpu cpuset hugetlb pids\n")
            .unwrap();
    }
    let error = manager.ensure_pod(&pod("u1", "cpu=100m", "")).await.unwrap_err();
    assert!(error.to_string().ends_with("has some missing controllers: memory"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_killed_is_named_after_about_a_second() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    kernel.put("memory/kubepods/besteffort/podu1", &[0, 4242]);
    kernel.make_immortal(4242);
    let start = tokio::time::Instant::now();
    let error = manager.remove_pod(&PodUid::from("u1"), None).await.unwrap_err();
    assert!(matches!(&error, CgroupError::InUse { pids, .. } if *pids == [4242]), "{error}");
    assert!(error.to_string().ends_with("still in use by processes [4242]"), "{error}");
    assert!((900..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(kernel.killed().iter().all(|pid| *pid == 4242));
    // The rest is gone, and a later try goes on from there.
    assert!(!kernel.is_there("cpu,cpuacct/kubepods/besteffort/podu1"));
    kernel.put("memory/kubepods/besteffort/podu1", &[]);
    manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cgroup_that_is_busy_for_a_moment_is_tried_again() {
    let kernel = FakeKernel::v2();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    kernel.fail("besteffort/podu1", Errno::BUSY, 7);
    manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
    assert!(!kernel.is_there("kubepods/besteffort/podu1"));
}

#[tokio::test]
async fn an_error_that_is_not_busy_is_not_retried() {
    let kernel = FakeKernel::v2();
    let manager = ready(&kernel).await;
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    kernel.fail("besteffort/podu1", Errno::ROFS, 2);
    let error = manager.remove_pod(&PodUid::from("u1"), None).await.unwrap_err();
    assert!(matches!(error, CgroupError::Remove { .. }), "{error}");
}

#[tokio::test]
async fn pods_are_found_in_any_hierarchy() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    assert!(manager.pods().await.unwrap().is_empty());
    manager.ensure_pod(&pod("u1", "", "")).await.unwrap();
    let fake: &dyn Kernel = &kernel;
    fake.mkdir(&kernel.path("devices/kubepods")).unwrap();
    fake.mkdir(&kernel.path("devices/kubepods/podu2")).unwrap();
    fake.mkdir(&kernel.path("memory/kubepods/burstable/notapod")).unwrap();
    let found = manager.pods().await.unwrap();
    let brief: Vec<_> = found.iter().map(|p| (p.uid.as_str(), p.class, p.directories.len())).collect();
    assert_eq!(brief, [("u1", QosClass::BestEffort, 8), ("u2", QosClass::Guaranteed, 1)]);
    assert_eq!(found[1].directories, [kernel.path("devices/kubepods/podu2")]);
}

#[tokio::test]
async fn qos_classes_are_written_only_on_change() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    let one = Arc::new(pod("u1", "cpu=100m", ""));
    manager.update_qos(&[Arc::clone(&one)]).await.unwrap();
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/cpu.shares"), "102");
    kernel.take_writes();
    manager.update_qos(&[Arc::clone(&one)]).await.unwrap();
    assert_eq!(kernel.take_writes(), [] as [&str; 0]);
    manager.update_qos(&[one, Arc::new(pod("u2", "cpu=100m", ""))]).await.unwrap();
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/cpu.shares"), "204");
    assert!(kernel.take_writes().iter().all(|write| write.contains("/burstable/")));
}

#[tokio::test]
async fn a_failed_qos_update_is_not_taken_for_done() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    kernel.fail("burstable/cpu.shares", Errno::IO, 2);
    let pods = [Arc::new(pod("u1", "cpu=100m", ""))];
    assert!(matches!(manager.update_qos(&pods).await, Err(CgroupError::Write { .. })));
    manager.update_qos(&pods).await.unwrap();
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/cpu.shares"), "102");
}

#[tokio::test]
async fn a_restart_does_not_starve_burstable_pods() {
    let kernel = FakeKernel::v1();
    ready(&kernel).await.update_qos(&[Arc::new(pod("u1", "cpu=2", ""))]).await.unwrap();
    ready(&kernel).await;
    assert_eq!(kernel.content("cpu,cpuacct/kubepods/burstable/cpu.shares"), "2048");
}

#[tokio::test]
async fn tiered_memory_reservation_follows_the_pods() {
    let kernel = FakeKernel::v2();
    let qos = MemoryQos { reservation: MemoryReservation::Tiered, ..MemoryQos::default() };
    let settings = CgroupSettings {
        pods: PodCgroupSettings { memory_qos: Some(qos), ..PodCgroupSettings::default() },
        ..CgroupSettings::default()
    };
    let manager = manager(&kernel, settings);
    manager.ensure_node(&capacity()).await.unwrap();
    let pods = [Arc::new(pod("u1", "memory=1Mi", "")), Arc::new(pod("u2", "cpu=1,memory=2Mi", "cpu=1,memory=2Mi"))];
    manager.update_qos(&pods).await.unwrap();
    assert_eq!(kernel.content("kubepods/memory.min"), (3i64 << 20).to_string());
    assert_eq!(kernel.content("kubepods/memory.low"), (1i64 << 20).to_string());
    assert_eq!(kernel.content("kubepods/burstable/memory.low"), (1i64 << 20).to_string());
}

#[tokio::test]
async fn reserved_cgroups_are_limited_if_they_exist_and_never_made() {
    let kernel = FakeKernel::v1();
    let settings = CgroupSettings {
        enforce: Enforcement::from_names(["pods", "system-reserved", "kube-reserved-compressible", "none"]),
        system_reserved_cgroup: "/system".into(),
        kube_reserved_cgroup: "/runtime".into(),
        system_reserved: ResourceTotals::of_list(&list("cpu=500m,memory=1Gi").unwrap()),
        kube_reserved: ResourceTotals::of_list(&list("cpu=250m,memory=1Gi").unwrap()),
        ..CgroupSettings::default()
    };
    let manager = manager(&kernel, settings);
    let outcomes = manager.ensure_node(&capacity()).await.unwrap();
    assert_eq!(outcomes.iter().map(Enforced::is_fatal).collect::<Vec<_>>(), [false, true, true]);
    let message = outcomes[1].message();
    let expected =
        r#"Failed to enforce System Reserved Cgroup Limits on "/system": cgroup ["system"] has some missing paths"#;
    assert!(message.starts_with(expected), "{message}");
    assert!(outcomes[2].message().starts_with("Failed to enforce Kube Reserved Compressible Cgroup Limits on"));
    assert!(!kernel.is_there("memory/system"));

    let fake: &dyn Kernel = &kernel;
    for mount in kernel.hierarchy().mounts() {
        fake.mkdir(&mount.point.join("system")).unwrap();
        fake.mkdir(&mount.point.join("runtime")).unwrap();
    }
    let outcomes = manager.ensure_node(&capacity()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    assert_eq!(outcomes[1].message(), "Updated limits on system reserved cgroup /system");
    assert_eq!(outcomes[2].message(), "Updated limits on kube reserved cgroup /runtime");
    assert_eq!(kernel.content("memory/system/memory.limit_in_bytes"), (1i64 << 30).to_string());
    assert_eq!(kernel.content("cpu,cpuacct/runtime/cpu.shares"), "256");
    assert_eq!(kernel.content("memory/runtime/memory.limit_in_bytes"), "9223372036854771712");
}

#[tokio::test]
async fn a_refused_node_limit_is_reported_and_not_fatal() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    kernel.fail("kubepods/memory.limit_in_bytes", Errno::BUSY, 1);
    let outcomes = manager.ensure_node(&capacity()).await.unwrap();
    assert_eq!(outcomes[0].reason(), "FailedNodeAllocatableEnforcement");
    assert!(!outcomes[0].is_fatal());
    let message = outcomes[0].message();
    assert!(
        message.starts_with(r#"Failed to update Node Allocatable Limits ["kubepods"]: cannot set memory limit"#),
        "{message}"
    );
}

#[tokio::test]
async fn without_a_tree_pods_go_where_the_runtime_puts_them() {
    let kernel = FakeKernel::v1();
    let settings = CgroupSettings { cgroups_per_qos: false, ..CgroupSettings::default() };
    let manager = manager(&kernel, settings);
    assert!(manager.ensure_node(&capacity()).await.unwrap().is_empty());
    let pod = pod("u1", "cpu=1", "");
    manager.ensure_pod(&pod).await.unwrap();
    manager.update_pod(&pod, false).await.unwrap();
    manager.update_qos(&[Arc::new(pod.clone())]).await.unwrap();
    manager.remove_pod(&PodUid::from("u1"), None).await.unwrap();
    assert_eq!(manager.pod_cgroup_parent(&pod), "");
    assert_eq!(manager.pods_cgroup(), "/");
    assert!(manager.pod_exists(&pod).await.unwrap());
    assert!(manager.pods().await.unwrap().is_empty());
    assert!(kernel.take_writes().is_empty());
}

#[tokio::test]
async fn a_uid_that_would_leave_the_tree_is_refused() {
    let kernel = FakeKernel::v1();
    let manager = ready(&kernel).await;
    for uid in ["", "a/../../x"] {
        assert!(matches!(manager.ensure_pod(&pod(uid, "", "")).await, Err(CgroupError::PodUid { .. })));
        assert!(matches!(manager.remove_pod(&PodUid::from(uid), None).await, Err(CgroupError::PodUid { .. })));
    }
}
