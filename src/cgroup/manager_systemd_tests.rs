//! The manager by the systemd driver: slices of a recorded systemd over a kernel of temporary folders.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rstest::rstest;

use super::*;
use crate::cgroup::fake::{FakeKernel, FakeUnits};
use crate::model::resources::testing::{container, list, pod_of};

const UID: &str = "ab-cd";
const BURSTABLE: &str = "kubepods.slice/kubepods-burstable.slice";
const POD: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice";

fn pod(requests: &str, limits: &str) -> Pod {
    let pod = pod_of(vec![container("c", requests, limits)]);
    Pod { metadata: ObjectMeta { uid: Some(UID.into()), ..ObjectMeta::default() }, ..pod }
}

fn manager(kernel: &Arc<FakeKernel>, cgroup_root: &str) -> (CgroupManager, Arc<FakeUnits>) {
    let units = FakeUnits::over(kernel);
    let settings =
        CgroupSettings { driver: Driver::Systemd, cgroup_root: cgroup_root.into(), ..CgroupSettings::default() };
    let boxed: Box<dyn Units> = Box::new(Arc::clone(&units));
    let (hierarchy, kernel) = (kernel.hierarchy(), Box::new(Arc::clone(kernel)));
    (CgroupManager::with_kernel(settings, hierarchy, kernel, Some(boxed)).unwrap(), units)
}

async fn ready(kernel: &Arc<FakeKernel>) -> (CgroupManager, Arc<FakeUnits>) {
    let (manager, units) = manager(kernel, "/");
    let capacity = ResourceTotals::of_list(&list("cpu=4,memory=8Gi,pid=1000").unwrap());
    let outcomes = manager.ensure_node(&capacity).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.error.is_none()), "{outcomes:?}");
    (manager, units)
}

#[tokio::test]
async fn the_tree_is_of_slices_with_their_values_in_systemd_and_in_the_kernel() {
    let kernel = FakeKernel::v2();
    let (manager, units) = ready(&kernel).await;
    let starts: Vec<String> = units.take_calls().into_iter().filter(|call| call.starts_with("start")).collect();
    assert_eq!(
        starts,
        [
            "start kubepods.slice",
            "start kubepods-burstable.slice",
            "start kubepods-besteffort.slice",
            "start kubepods.slice"
        ]
    );
    assert_eq!(kernel.content("kubepods.slice/memory.max"), (8i64 << 30).to_string());
    assert_eq!(manager.pods_cgroup(), "/kubepods.slice");

    let pod = pod("cpu=100m,memory=64Mi", "cpu=11m,memory=128Mi");
    assert_eq!(manager.pod_cgroup_parent(&pod), format!("/{POD}"));
    manager.ensure_pod(&pod).await.unwrap();
    assert!(manager.pod_exists(&pod).await.unwrap());
    let expected = [
        "start kubepods-burstable-podab_cd.slice",
        "set kubepods-burstable-podab_cd.slice MemoryMax CPUWeight CPUQuotaPeriodUSec CPUQuotaPerSecUSec",
    ];
    assert_eq!(units.take_calls(), expected);
    assert_eq!(kernel.content(&format!("{POD}/cpu.weight")), "4");
    assert_eq!(kernel.content(&format!("{POD}/memory.max")), (128i64 << 20).to_string());
    // Whole percents of a processor, as systemd keeps it.
    assert_eq!(kernel.content(&format!("{POD}/cpu.max")), "2000 100000");
    // And what systemd does not know of.
    assert_eq!(kernel.content(&format!("{POD}/hugetlb.2MB.max")), "0");
    assert_eq!(kernel.content(&format!("{BURSTABLE}/cgroup.subtree_control")), "cpu cpuset hugetlb io memory pids");
}

#[tokio::test]
async fn on_v1_the_hierarchies_that_systemd_does_not_know_are_filled_too() {
    let kernel = FakeKernel::v1();
    let (manager, units) = ready(&kernel).await;
    units.take_calls();
    let pod = pod("cpu=100m", "cpu=1,memory=64Mi");
    manager.ensure_pod(&pod).await.unwrap();
    assert!(manager.pod_exists(&pod).await.unwrap());
    assert_eq!(kernel.content(&format!("cpuset/{POD}/cpuset.cpus")), "0-3");
    assert_eq!(kernel.content(&format!("cpu,cpuacct/{POD}/cpu.shares")), "102");
    assert!(kernel.is_there(&format!("freezer/{POD}")));
    let calls = units.take_calls();
    let set = "set kubepods-burstable-podab_cd.slice MemoryLimit CPUShares CPUQuotaPeriodUSec CPUQuotaPerSecUSec";
    assert_eq!(calls.last().unwrap(), set);
    manager.remove_pod(&PodUid::from(UID), Some(QosClass::Burstable)).await.unwrap();
    assert!(!kernel.is_there(&format!("freezer/{POD}")));
}

#[tokio::test]
async fn pods_are_found_by_their_slices_and_their_slices_are_stopped() {
    let kernel = FakeKernel::v2();
    let (manager, units) = ready(&kernel).await;
    manager.ensure_pod(&pod("cpu=100m", "")).await.unwrap();
    let found = manager.pods().await.unwrap();
    let brief: Vec<_> = found.iter().map(|pod| (pod.uid.as_str(), pod.class)).collect();
    assert_eq!(brief, [(UID, QosClass::Burstable)]);
    let scope = format!("{POD}/cri-containerd-1.scope");
    let fake: &dyn Kernel = &kernel;
    fake.mkdir(&kernel.path(&scope)).unwrap();
    kernel.put(&scope, &[4242]);
    units.take_calls();
    kernel.take_writes();
    manager.remove_pod(&PodUid::from(UID), None).await.unwrap();
    // Killed before systemd would ask it to end and wait.
    assert_eq!(kernel.take_writes(), [format!("{POD}/cgroup.kill=1")]);
    let expected = [
        "stop kubepods-podab_cd.slice",
        "stop kubepods-burstable-podab_cd.slice",
        "stop kubepods-besteffort-podab_cd.slice",
    ];
    assert_eq!(units.take_calls(), expected);
    assert!(manager.pods().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_root_below_a_slice_and_one_that_is_not_there() {
    let kernel = FakeKernel::v2();
    let (manager, _) = manager(&kernel, "/kubelet");
    let error = manager.ensure_node(&ResourceTotals::default()).await.unwrap_err().to_string();
    let expected = format!(
        r#"invalid configuration: could not read controllers for cgroup ["kubelet"]: open {}: no such file or directory"#,
        kernel.path("kubelet.slice/cgroup.controllers").display()
    );
    assert_eq!(error, expected);
    let all = "+cpu +cpuset +memory +hugetlb +pids";
    let fake: &dyn Kernel = &kernel;
    fake.write(&kernel.path("cgroup.subtree_control"), all).unwrap();
    fake.mkdir(&kernel.path("kubelet.slice")).unwrap();
    kernel.take_writes();
    manager.ensure_node(&ResourceTotals::default()).await.unwrap();
    assert!(kernel.is_there("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice"));
    let parent = manager.pod_cgroup_parent(&pod("", ""));
    let best_effort = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice";
    assert_eq!(parent, format!("{best_effort}/kubelet-kubepods-besteffort-podab_cd.slice"));
    for write in kernel.take_writes() {
        assert!(write.starts_with("kubelet.slice/"), "{write}");
    }
}

#[rstest]
#[case::making("start", true)]
#[case::limiting("set", false)]
#[tokio::test]
async fn a_systemd_that_refuses_stops_a_pod_s_making_but_not_its_limits(#[case] refused: &str, #[case] is_fatal: bool) {
    let kernel = FakeKernel::v2();
    let (manager, units) = ready(&kernel).await;
    let pod = pod("cpu=100m", "");
    units.refuse(Some(refused));
    let result = manager.ensure_pod(&pod).await;
    assert_eq!(result.is_err(), is_fatal, "{result:?}");
    if !is_fatal {
        // The kernel has the value, and an update tells that systemd has not.
        assert_eq!(kernel.content(&format!("{POD}/cpu.weight")), "4");
        assert!(matches!(manager.update_pod(&pod, false).await, Err(CgroupError::Systemd { .. })));
    }
    units.refuse(Some("stop"));
    manager.remove_pod(&PodUid::from(UID), None).await.unwrap();
    assert!(!kernel.is_there(POD));
}

#[tokio::test]
async fn reserved_cgroups_are_named_by_their_slices() {
    let kernel = FakeKernel::v2();
    let units = FakeUnits::over(&kernel);
    let settings = CgroupSettings {
        driver: Driver::Systemd,
        enforce: Enforcement::from_names(["pods", "system-reserved"]),
        system_reserved_cgroup: "/system.slice".into(),
        system_reserved: ResourceTotals::of_list(&list("cpu=500m,memory=1Gi").unwrap()),
        ..CgroupSettings::default()
    };
    let boxed: Box<dyn Units> = Box::new(Arc::clone(&units));
    let manager =
        CgroupManager::with_kernel(settings, kernel.hierarchy(), Box::new(Arc::clone(&kernel)), Some(boxed)).unwrap();
    units.start("system.slice", &[]).unwrap();
    let all = "+cpu +cpuset +memory +hugetlb +pids";
    (&kernel as &dyn Kernel).write(&kernel.path("cgroup.subtree_control"), all).unwrap();
    let capacity = ResourceTotals::of_list(&list("cpu=4,memory=8Gi").unwrap());
    let outcomes = manager.ensure_node(&capacity).await.unwrap();
    assert_eq!(outcomes[1].message(), "Updated limits on system reserved cgroup /system.slice");
    assert_eq!(kernel.content("system.slice/memory.max"), (1i64 << 30).to_string());
}
