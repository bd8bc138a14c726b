//! Which values each cgroup of the tree gets: pods from their spec, QoS classes from all active pods, kubepods from the
//! node's allocatable resources, reserved cgroups from the configuration. Pure.
//!
//! Rules: the peer's `pkg/kubelet/cm`; KEPs 2570 (memory QoS) and 2837 (pod-level resources).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::model::container_resources::{MemoryQos, MemoryReservation};
use crate::model::linux_resources::{
    DEFAULT_CPU_PERIOD_US, MIN_CPU_SHARES, cpu_quota, cpu_shares, huge_page_bytes_of_resource, memory_high,
};
use crate::model::pod;
use crate::model::qos::QosClass;
use crate::model::resources::{self, CPU, MEMORY, PIDS, ResourceTotals};

/// What is set on a cgroup; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupValues {
    /// CPU shares, cgroup v1 scale.
    pub cpu_shares: Option<u64>,
    /// CFS quota, microseconds; -1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// CFS period, microseconds.
    pub cpu_period_us: Option<i64>,
    /// Memory limit, bytes; 0 is left alone, -1 is no limit.
    pub memory_bytes: Option<i64>,
    /// Most processes and threads; below 0 is no limit.
    pub pids: Option<i64>,
    /// Huge pages.
    pub huge_pages: Option<HugePages>,
    /// Further files of the cgroup and their contents; cgroup v2 alone.
    pub unified: BTreeMap<String, String>,
}

/// Limits on huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// No limit on any page size.
    Unbounded,
    /// Bytes by page size in bytes; 0 for sizes that are not named.
    Only(BTreeMap<i64, i64>),
}

/// How pods' cgroups are limited.
#[derive(Clone, Debug, PartialEq)]
pub struct PodCgroupSettings {
    /// `cpuCFSQuota`: CPU limits are enforced.
    pub cpu_cfs_quota: bool,
    /// `cpuCFSQuotaPeriod`, microseconds.
    pub cpu_period_us: i64,
    /// `podPidsLimit`; 0 or less is no limit.
    pub pids_limit: i64,
    /// Memory QoS, if its feature gate is on and the node runs on cgroup v2.
    pub memory_qos: Option<MemoryQos>,
    /// The machine's page size, bytes.
    pub page_size: i64,
}

impl Default for PodCgroupSettings {
    fn default() -> Self {
        PodCgroupSettings {
            cpu_cfs_quota: true,
            cpu_period_us: DEFAULT_CPU_PERIOD_US,
            pids_limit: -1,
            memory_qos: None,
            page_size: 4096,
        }
    }
}

/// The values of a pod's cgroup. `exclusive_cpus` is for a pod with containers that were given CPUs of their own, whose
/// quota is lifted.
///
/// A Burstable pod is limited only in what all its containers (init ones too) or the pod itself limit, since a container
/// without a limit may use all there is.
pub fn pod_values(pod: &Pod, settings: &PodCgroupSettings, exclusive_cpus: bool) -> CgroupValues {
    let requests = resources::pod_requests(pod);
    let limits = resources::pod_limits(pod);
    let class = QosClass::of(pod);
    let limited = |resource| match class {
        QosClass::Guaranteed => true,
        QosClass::Burstable => resources::is_limited_throughout(pod, resource),
        QosClass::BestEffort => false,
    };
    let mut values = CgroupValues {
        cpu_shares: Some(match class {
            QosClass::BestEffort => MIN_CPU_SHARES,
            _ => cpu_shares(requests.cpu_milli.unwrap_or(0)),
        }),
        huge_pages: Some(HugePages::Only(huge_pages(&requests))),
        ..CgroupValues::default()
    };
    if limited(CPU) {
        let enforced = settings.cpu_cfs_quota && !exclusive_cpus;
        let quota = cpu_quota(limits.cpu_milli.unwrap_or(0), settings.cpu_period_us);
        values.cpu_quota_us = Some(if enforced { quota } else { -1 });
        values.cpu_period_us = Some(settings.cpu_period_us);
    }
    if limited(MEMORY) {
        values.memory_bytes = Some(limits.memory_bytes.unwrap_or(0));
    }
    if settings.pids_limit > 0 {
        values.pids = Some(settings.pids_limit);
    }
    if let Some(qos) = settings.memory_qos {
        let request = requests.memory_bytes.unwrap_or(0);
        if qos.reservation == MemoryReservation::Tiered && request > 0 {
            let file = if class == QosClass::Guaranteed { "memory.min" } else { "memory.low" };
            values.unified.insert(file.to_owned(), request.to_string());
        }
        if let Some(high) = pod_memory_high(pod, request, limits.memory_bytes.unwrap_or(0), qos, settings.page_size) {
            values.unified.insert("memory.high".to_owned(), high.to_string());
        }
    }
    values
}

/// Only a pod with pod-level resources is throttled as a whole; else each container is on its own.
fn pod_memory_high(pod: &Pod, request: i64, limit: i64, qos: MemoryQos, page_size: i64) -> Option<i64> {
    let applies = resources::has_pod_level_resources(pod::spec(pod))
        && resources::is_limited_throughout(pod, MEMORY)
        && limit != 0
        && request != limit;
    memory_high(request, limit, qos.throttling_factor.filter(|_| applies)?, page_size)
}

/// What the QoS classes' cgroups depend on, summed over the active pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QosSums {
    /// CPU requests of Burstable pods, thousandths of a core.
    pub burstable_cpu_milli: i64,
    /// Memory requests of Burstable pods, bytes.
    pub burstable_memory: i64,
    /// Memory requests of Guaranteed pods, bytes.
    pub guaranteed_memory: i64,
}

impl QosSums {
    /// The sums over pods.
    pub fn over<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut sums = QosSums::default();
        for pod in pods {
            let class = QosClass::of(pod);
            if class == QosClass::BestEffort {
                continue;
            }
            let requests = resources::pod_requests(pod);
            let (cpu, memory) = (requests.cpu_milli.unwrap_or(0), requests.memory_bytes.unwrap_or(0));
            if class == QosClass::Burstable {
                sums.burstable_cpu_milli = sums.burstable_cpu_milli.saturating_add(cpu);
                sums.burstable_memory = sums.burstable_memory.saturating_add(memory);
            } else {
                sums.guaranteed_memory = sums.guaranteed_memory.saturating_add(memory);
            }
        }
        sums
    }
}

/// The values that follow the pods that run, by cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QosValues {
    /// For kubepods.
    pub kubepods: CgroupValues,
    /// For the Burstable class.
    pub burstable: CgroupValues,
    /// For the BestEffort class.
    pub best_effort: CgroupValues,
}

/// The QoS classes' values. Without tiered reservation, memory protection that an earlier setting left is taken back;
/// with it, kubepods covers both classes' protection, since a child is protected no more than its parents.
pub fn qos_values(sums: &QosSums, reservation: MemoryReservation) -> QosValues {
    let unbounded = || CgroupValues { huge_pages: Some(HugePages::Unbounded), ..CgroupValues::default() };
    let mut values = QosValues { kubepods: unbounded(), burstable: unbounded(), best_effort: unbounded() };
    values.burstable.cpu_shares = Some(cpu_shares(sums.burstable_cpu_milli));
    values.best_effort.cpu_shares = Some(MIN_CPU_SHARES);
    let (min, low) = match reservation {
        MemoryReservation::None => (0, 0),
        MemoryReservation::Tiered => {
            (sums.guaranteed_memory.saturating_add(sums.burstable_memory), sums.burstable_memory)
        }
    };
    values.kubepods.unified.insert("memory.min".to_owned(), min.to_string());
    values.kubepods.unified.insert("memory.low".to_owned(), low.to_string());
    values.burstable.unified.insert("memory.low".to_owned(), low.to_string());
    values
}

/// What is left of the node's capacity after reservations, never below 0; resources the node does not have are left out.
pub fn allocatable(capacity: &ResourceTotals, reserved: &[&ResourceTotals]) -> ResourceTotals {
    let left = |name: &str, amount: i64| {
        let taken = reserved.iter().filter_map(|totals| totals.get(name)).fold(0, i64::saturating_add);
        amount.saturating_sub(taken).max(0)
    };
    ResourceTotals {
        cpu_milli: capacity.cpu_milli.map(|amount| left(CPU, amount)),
        memory_bytes: capacity.memory_bytes.map(|amount| left(MEMORY, amount)),
        other: capacity.other.iter().map(|(name, amount)| (name.clone(), left(name, *amount))).collect(),
    }
}

/// The values of kubepods for the resources that all pods together may use: memory, CPU shares and process ids. Huge pages
/// stay unbounded there: the scheduler hands them out whole, each pod is limited, and pages may be reserved later.
pub fn kubepods_values(allocatable: &ResourceTotals) -> CgroupValues {
    CgroupValues {
        cpu_shares: allocatable.cpu_milli.map(cpu_shares),
        memory_bytes: allocatable.memory_bytes,
        pids: allocatable.get(PIDS),
        huge_pages: Some(HugePages::Unbounded),
        ..CgroupValues::default()
    }
}

/// How much of a reservation is enforced on its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedScope {
    /// Everything that is reserved.
    All,
    /// Only what can be taken back at any time: CPU shares.
    Compressible,
}

/// The values of a reserved cgroup (`systemReservedCgroup`, `kubeReservedCgroup`). With `protect_memory` (memory QoS) the
/// reserved memory is kept for it, too.
pub fn reserved_values(reserved: &ResourceTotals, scope: ReservedScope, protect_memory: bool) -> CgroupValues {
    let compressible = CgroupValues { cpu_shares: reserved.cpu_milli.map(cpu_shares), ..CgroupValues::default() };
    if scope == ReservedScope::Compressible {
        return compressible;
    }
    let protected = reserved.memory_bytes.filter(|_| protect_memory);
    CgroupValues {
        memory_bytes: reserved.memory_bytes,
        pids: reserved.get(PIDS),
        huge_pages: Some(HugePages::Only(huge_pages(reserved))),
        unified: protected.iter().map(|bytes| ("memory.min".to_owned(), bytes.to_string())).collect(),
        ..compressible
    }
}

fn huge_pages(totals: &ResourceTotals) -> BTreeMap<i64, i64> {
    let mut pages = BTreeMap::new();
    for (resource, bytes) in &totals.other {
        if let Some(size) = huge_page_bytes_of_resource(resource) {
            // Two spellings of one size (2Mi, 2048Ki) are two resources of one limit.
            let sum: &mut i64 = pages.entry(size).or_default();
            *sum = sum.saturating_add(*bytes);
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::model::resources::testing::{container, init, list, pod_level, pod_of, with_overhead};

    fn totals(text: &str) -> ResourceTotals {
        ResourceTotals::of_list(&list(text).unwrap_or_default())
    }

    fn brief(values: &CgroupValues) -> (Option<u64>, Option<i64>, Option<i64>) {
        (values.cpu_shares, values.cpu_quota_us, values.memory_bytes)
    }

    fn of(pod: &Pod) -> CgroupValues {
        pod_values(pod, &PodCgroupSettings::default(), false)
    }

    // The peer's table (TestResourceConfigForPod) with its own numbers.
    #[rstest]
    #[case::best_effort(&[("", "")], (Some(2), None, None))]
    #[case::requests_alone(&[("cpu=100m,memory=100Mi", "")], (Some(102), None, None))]
    #[case::with_limits(&[("cpu=100m,memory=100Mi", "cpu=200m,memory=200Mi")], (Some(102), Some(20_000), Some(209_715_200)))]
    #[case::guaranteed(&[("cpu=100m,memory=100Mi", "cpu=100m,memory=100Mi")], (Some(102), Some(10_000), Some(104_857_600)))]
    #[case::one_of_two_limited(&[("cpu=100m,memory=100Mi", "cpu=200m,memory=200Mi"), ("cpu=100m,memory=100Mi", "")],
        (Some(204), None, None))]
    #[case::cpu_limited_by_all(&[("cpu=100m", "cpu=200m"), ("cpu=100m", "cpu=200m,memory=1Gi")], (Some(204), Some(40_000), None))]
    fn pods(#[case] containers: &[(&str, &str)], #[case] expected: (Option<u64>, Option<i64>, Option<i64>)) {
        let pod = pod_of(containers.iter().map(|(r, l)| container("c", r, l)).collect());
        assert_eq!(brief(&of(&pod)), expected);
    }

    #[test]
    fn an_init_container_without_a_limit_frees_the_pod() {
        let pod = pod_of(vec![init("i", "", ""), container("c", "cpu=1", "cpu=2,memory=1Gi")]);
        assert_eq!(brief(&of(&pod)), (Some(1024), None, None));
        let limited = pod_level(pod, "", "cpu=3,memory=2Gi");
        assert_eq!(brief(&of(&limited)), (Some(1024), Some(300_000), Some(2 << 30)));
    }

    #[test]
    fn overhead_is_part_of_the_pod() {
        let pod = with_overhead(pod_of(vec![container("c", "cpu=1", "cpu=1,memory=1Gi")]), "cpu=1,memory=1Gi");
        assert_eq!(brief(&of(&pod)), (Some(2048), Some(200_000), Some(2 << 30)));
    }

    #[test]
    fn quota_can_be_lifted() {
        let pod = pod_of(vec![container("c", "cpu=1,memory=1Gi", "cpu=1,memory=1Gi")]);
        let settings = PodCgroupSettings { cpu_cfs_quota: false, ..PodCgroupSettings::default() };
        assert_eq!(pod_values(&pod, &settings, false).cpu_quota_us, Some(-1));
        let values = pod_values(&pod, &PodCgroupSettings::default(), true);
        assert_eq!((values.cpu_quota_us, values.cpu_period_us), (Some(-1), Some(100_000)));
        let settings = PodCgroupSettings { cpu_period_us: 5000, ..PodCgroupSettings::default() };
        assert_eq!(pod_values(&pod, &settings, false).cpu_quota_us, Some(5000));
    }

    #[test]
    fn pids_and_huge_pages() {
        let pod = pod_of(vec![
            container("a", "hugepages-2Mi=4Mi,cpu=1", "hugepages-2Mi=4Mi"),
            container("b", "hugepages-2048Ki=2Mi", "hugepages-2048Ki=2Mi"),
        ]);
        let settings = PodCgroupSettings { pids_limit: 100, ..PodCgroupSettings::default() };
        let values = pod_values(&pod, &settings, false);
        assert_eq!(values.pids, Some(100));
        assert_eq!(values.huge_pages, Some(HugePages::Only(BTreeMap::from([(2 << 20, 6 << 20)]))));
        let none = of(&pod_of(vec![container("a", "", "")]));
        assert_eq!((none.pids, none.huge_pages), (None, Some(HugePages::Only(BTreeMap::new()))));
    }

    #[test]
    fn memory_protection_and_throttling_of_pods() {
        let tiered = MemoryQos { reservation: MemoryReservation::Tiered, ..MemoryQos::default() };
        let with = |qos| PodCgroupSettings { memory_qos: Some(qos), ..PodCgroupSettings::default() };
        let guaranteed = pod_of(vec![container("c", "cpu=1,memory=8192", "cpu=1,memory=8192")]);
        assert_eq!(pod_values(&guaranteed, &with(tiered), false).unified["memory.min"], "8192");
        let burstable = pod_of(vec![container("c", "memory=8192", "memory=16384")]);
        assert_eq!(pod_values(&burstable, &with(tiered), false).unified["memory.low"], "8192");
        let throttled = MemoryQos { throttling_factor: Some(0.5), ..MemoryQos::default() };
        assert!(pod_values(&burstable, &with(throttled), false).unified.is_empty());
        let pod_level = pod_level(burstable, "memory=8192", "memory=16384");
        assert_eq!(pod_values(&pod_level, &with(throttled), false).unified["memory.high"], "12288");
        assert!(of(&pod_level).unified.is_empty());
    }

    #[test]
    fn qos_classes_follow_their_pods() {
        let pods = [
            pod_of(vec![container("c", "cpu=100m,memory=1Ki", "")]),
            pod_of(vec![container("c", "cpu=200m", "")]),
            pod_of(vec![container("c", "cpu=1,memory=4Ki", "cpu=1,memory=4Ki")]),
            pod_of(vec![container("c", "", "")]),
        ];
        let sums = QosSums::over(&pods);
        assert_eq!(sums, QosSums { burstable_cpu_milli: 300, burstable_memory: 1024, guaranteed_memory: 4096 });
        let values = qos_values(&sums, MemoryReservation::None);
        assert_eq!(values.burstable.cpu_shares, Some(307));
        assert_eq!(values.best_effort.cpu_shares, Some(2));
        assert_eq!(values.kubepods.cpu_shares, None);
        assert_eq!(values.burstable.unified["memory.low"], "0");
        let values = qos_values(&sums, MemoryReservation::Tiered);
        assert_eq!(values.kubepods.unified["memory.min"], "5120");
        assert_eq!(values.kubepods.unified["memory.low"], "1024");
        assert_eq!(values.burstable.unified["memory.low"], "1024");
        assert!(values.best_effort.unified.is_empty());
    }

    #[test]
    fn an_empty_node_s_burstable_class_has_the_least_shares() {
        assert_eq!(qos_values(&QosSums::default(), MemoryReservation::None).burstable.cpu_shares, Some(2));
    }

    #[test]
    fn allocatable_is_capacity_without_reservations_and_never_negative() {
        let capacity = totals("cpu=4,memory=8Gi,pid=1000,hugepages-2Mi=4Mi");
        let system = totals("cpu=500m,memory=1Gi,pid=2000,example.com/gpu=1");
        let kube = totals("cpu=500m");
        let left = allocatable(&capacity, &[&system, &kube]);
        assert_eq!(left, totals("cpu=3,memory=7Gi,pid=0,hugepages-2Mi=4Mi"));
        let values = kubepods_values(&left);
        assert_eq!(brief(&values), (Some(3072), None, Some(7 << 30)));
        assert_eq!((values.pids, values.huge_pages), (Some(0), Some(HugePages::Unbounded)));
    }

    #[test]
    fn reserved_cgroups() {
        let reserved = totals("cpu=500m,memory=1Gi,pid=100");
        let all = reserved_values(&reserved, ReservedScope::All, false);
        assert_eq!(brief(&all), (Some(512), None, Some(1 << 30)));
        assert_eq!(all.pids, Some(100));
        assert!(all.unified.is_empty());
        let protected = reserved_values(&reserved, ReservedScope::All, true);
        assert_eq!(protected.unified["memory.min"], (1 << 30).to_string());
        let compressible = reserved_values(&reserved, ReservedScope::Compressible, true);
        assert_eq!(compressible, CgroupValues { cpu_shares: Some(512), ..CgroupValues::default() });
    }

    proptest! {
        #[test]
        fn allocatable_lies_between_zero_and_capacity(capacity in 0i64.., a in 0i64.., b in 0i64..) {
            let of = |memory| ResourceTotals { memory_bytes: Some(memory), ..ResourceTotals::default() };
            let left = allocatable(&of(capacity), &[&of(a), &of(b)]).memory_bytes.unwrap();
            prop_assert!((0..=capacity).contains(&left));
        }

        #[test]
        fn one_more_pod_never_lowers_the_burstable_shares(requests in proptest::collection::vec(0i64..4000, 1..20)) {
            let pods: Vec<Pod> =
                requests.iter().map(|milli| pod_of(vec![container("c", &format!("cpu={milli}m,memory=1"), "")])).collect();
            let shares = |pods: &[Pod]| qos_values(&QosSums::over(pods), MemoryReservation::None).burstable.cpu_shares;
            prop_assert!(shares(&pods[1..]) <= shares(&pods));
        }
    }
}
