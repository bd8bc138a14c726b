//! From requests and limits to the numbers that Linux takes: CPU shares, weight and quota, OOM scores, huge page limits,
//! swap, memory throttling. [`super::container_resources`] puts them together for containers and sandboxes, the cgroup
//! module for the node's own cgroups.
//!
//! Numbers and rules follow the peer's `pkg/kubelet/cm`, `pkg/kubelet/qos` and `pkg/kubelet/kuberuntime`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::pod;
use super::qos::QosClass;
use super::quantity;
use super::resources::{self, HUGE_PAGES_PREFIX, MEMORY};

/// The smallest CPU shares the kernel takes; also what stands for "no request".
pub const MIN_CPU_SHARES: u64 = 2;
/// The largest CPU shares the kernel takes.
pub const MAX_CPU_SHARES: u64 = 262_144;
/// CPU shares of one core.
pub const SHARES_PER_CPU: i64 = 1024;
/// The CFS period unless `cpuCFSQuotaPeriod` says otherwise, microseconds.
pub const DEFAULT_CPU_PERIOD_US: i64 = 100_000;
/// The smallest CFS quota the kernel takes, microseconds.
pub const MIN_CPU_QUOTA_US: i64 = 1000;
/// OOM score of Guaranteed and node-critical pods' containers.
pub const GUARANTEED_OOM_SCORE_ADJ: i64 = -997;
/// OOM score of BestEffort pods' containers.
pub const BEST_EFFORT_OOM_SCORE_ADJ: i64 = 1000;
/// Priority class whose pods the kernel is told to kill last.
pub const SYSTEM_NODE_CRITICAL: &str = "system-node-critical";

/// CPU shares (cgroup v1 scale) of a CPU request in thousandths of a core, within what the kernel takes.
pub fn cpu_shares(milli: i64) -> u64 {
    let shares = milli.saturating_mul(SHARES_PER_CPU) / 1000;
    u64::try_from(shares).unwrap_or(0).clamp(MIN_CPU_SHARES, MAX_CPU_SHARES)
}

/// CFS quota in microseconds of a CPU limit in thousandths of a core; 0, which is no limit, only for no limit.
pub fn cpu_quota(milli: i64, period_us: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    (milli.saturating_mul(period_us) / 1000).max(MIN_CPU_QUOTA_US)
}

/// CPU weight (cgroup v2 scale, 1 to 10000) of CPU shares, by the linear mapping of KEP 2254. Runtimes map their
/// containers' shares by a different curve; this one is for the node's own cgroups.
pub fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(MIN_CPU_SHARES, MAX_CPU_SHARES) - MIN_CPU_SHARES) * 9999 / 262_142
}

/// CPU shares of a CPU weight: the way back of [`cpu_weight`], with its loss.
pub fn cpu_shares_of_weight(weight: u64) -> u64 {
    (weight.clamp(1, 10_000) - 1) * 262_142 / 9999 + MIN_CPU_SHARES
}

/// The CPU request, thousandths of a core rounded up, that shares stand for; 0 below the smallest shares.
pub fn milli_of_cpu_shares(shares: i64) -> i64 {
    if shares < MIN_CPU_SHARES as i64 {
        return 0;
    }
    let thousandfold = i128::from(shares) * 1000;
    i64::try_from((thousandfold + i128::from(SHARES_PER_CPU) - 1) / i128::from(SHARES_PER_CPU)).unwrap_or(i64::MAX)
}

/// The CPU limit, thousandths of a core, that a quota stands for; 0 for no limit.
pub fn milli_of_cpu_quota(quota_us: i64, period_us: i64) -> i64 {
    if quota_us <= 0 || period_us <= 0 {
        return 0;
    }
    quota_us.saturating_mul(1000) / period_us
}

/// A container's `oom_score_adj`. `memory_capacity` is the node's memory in bytes.
///
/// Burstable containers stand between the two fixed classes, the lower the larger a share of the node they asked for;
/// what a pod asks for beyond its containers is spread over them (KEP 2837), and a sidecar never dies before the regular
/// containers it serves (KEP 753).
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let spec = pod::spec(pod);
    let node_critical = pod::is_critical(pod) && spec.priority_class_name.as_deref() == Some(SYSTEM_NODE_CRITICAL);
    match QosClass::of(pod) {
        _ if node_critical => return GUARANTEED_OOM_SCORE_ADJ,
        QosClass::Guaranteed => return GUARANTEED_OOM_SCORE_ADJ,
        QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE_ADJ,
        QosClass::Burstable => {}
    }
    let request = |c: &Container| resources::container_request(c, MEMORY).unwrap_or(0);
    let unclaimed = unclaimed_memory_per_container(pod);
    let score = |bytes: i64| {
        let share = 1000 * (i128::from(bytes) + i128::from(unclaimed)) / i128::from(memory_capacity.max(1));
        1000 - i64::try_from(share).unwrap_or(i64::MAX / 2)
    };
    let mut adjusted = score(request(container));
    let is_sidecar =
        pod::is_sidecar(container) && spec.init_containers.iter().flatten().any(|init| init.name == container.name);
    if is_sidecar && let Some(least) = spec.containers.iter().map(request).min() {
        adjusted = adjusted.min(score(least));
    }
    adjusted.clamp(1000 + GUARANTEED_OOM_SCORE_ADJ, BEST_EFFORT_OOM_SCORE_ADJ - 1)
}

/// Memory that the pod asks for beyond its containers' requests, per container, bytes.
fn unclaimed_memory_per_container(pod: &Pod) -> i64 {
    let spec = pod::spec(pod);
    if !resources::has_pod_level_requests(spec) {
        return 0;
    }
    let asked = resources::pod_level_request(spec, MEMORY).unwrap_or(0);
    let claimed = resources::containers_requests(pod).memory_bytes.unwrap_or(0);
    let containers = pod::init_and_regular_containers(spec).count().max(1);
    asked.saturating_sub(claimed).max(0) / i64::try_from(containers).unwrap_or(i64::MAX)
}

/// The page size in bytes of a resource name like `hugepages-2Mi`; none for other resources.
pub fn huge_page_bytes_of_resource(resource: &str) -> Option<i64> {
    let size = quantity::parse(resource.strip_prefix(HUGE_PAGES_PREFIX)?).ok()?.value();
    (size > 0).then_some(size)
}

/// A page size as the kernel's hugetlb controller and CRI spell it (`2MB`, `1GB`, `64KB`); none for a size that is no
/// whole number of its largest unit.
pub fn huge_page_unit(bytes: i64) -> Option<String> {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (bytes, 0);
    while size > 0 && size % 1024 == 0 && unit < UNITS.len() - 1 {
        size /= 1024;
        unit += 1;
    }
    if size <= 0 || (size > 1024 && unit < UNITS.len() - 1) {
        return None;
    }
    Some(format!("{size}{}", UNITS[unit]))
}

/// The spelling of [`huge_page_unit`] for an entry of /sys/kernel/mm/hugepages (`hugepages-2048kB`); none for other
/// names.
pub fn huge_page_unit_of_sysfs_name(name: &str) -> Option<String> {
    let kilobytes: i64 = name.strip_prefix(HUGE_PAGES_PREFIX)?.strip_suffix("kB")?.parse().ok()?;
    huge_page_unit(kilobytes.checked_mul(1024)?)
}

/// Limits by page size (kernel's spelling) for every size that the node has: what is asked for, 0 for the rest. Container
/// limits stand above pod-level ones.
pub fn huge_page_limits(pod: &Pod, container: &Container, node_page_sizes: &[String]) -> BTreeMap<String, u64> {
    let mut limits: BTreeMap<String, u64> = node_page_sizes.iter().map(|size| (size.clone(), 0)).collect();
    let spec = pod::spec(pod);
    let pod_level = if resources::has_pod_level_resources(spec) { spec.resources.as_ref() } else { None };
    for list in [pod_level, container.resources.as_ref()].into_iter().flatten().filter_map(|r| r.limits.as_ref()) {
        for resource in list.keys() {
            let unit = huge_page_bytes_of_resource(resource).and_then(huge_page_unit);
            let Some(limit) = unit.and_then(|unit| limits.get_mut(&unit)) else { continue };
            let bytes = resources::amount(Some(list), resource).map_or(0, quantity::Amount::value);
            *limit = u64::try_from(bytes).unwrap_or(0);
        }
    }
    limits
}

/// Bytes of swap that a Burstable container may use under `LimitedSwap` (KEP 2400): the node's swap in the proportion of
/// its memory request to the node's memory. None where that makes no sense, which means no swap.
pub fn swap_limit(memory_request: i64, memory_capacity: i64, swap_capacity: i64) -> Option<i64> {
    if memory_capacity <= 0 || memory_request > memory_capacity {
        return None;
    }
    Some((memory_request as f64 / memory_capacity as f64 * swap_capacity as f64) as i64)
}

/// `memory.high` in bytes: the request plus a part (`factor`) of what lies between it and the limit, cut to whole pages;
/// none where that would not throttle between the two.
pub fn memory_high(request: i64, limit: i64, factor: f64, page_size: i64) -> Option<i64> {
    let page = page_size.max(1);
    let bytes = (request as f64 + (limit as f64 - request as f64) * factor).floor();
    // The peer divides before it cuts, in floating point.
    let high = ((bytes / page as f64) as i64).saturating_mul(page);
    (high > 0 && high > request).then_some(high)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::resources::testing::{container, init, pod_level, pod_of, sidecar};
    use super::*;

    #[rstest]
    #[case(0, 2)]
    #[case(1, 2)]
    #[case(2, 2)]
    #[case(3, 3)]
    #[case(100, 102)]
    #[case(1000, 1024)]
    #[case(1500, 1536)]
    #[case(256_000, 262_144)]
    #[case(1_000_000, 262_144)]
    #[case(i64::MAX, 262_144)]
    #[case(-5, 2)]
    fn shares_of_a_request(#[case] milli: i64, #[case] shares: u64) {
        assert_eq!(cpu_shares(milli), shares);
    }

    #[rstest]
    #[case(0, 100_000, 0)]
    #[case(5, 100_000, 1000)]
    #[case(9, 100_000, 1000)]
    #[case(10, 100_000, 1000)]
    #[case(200, 100_000, 20_000)]
    #[case(500, 100_000, 50_000)]
    #[case(1500, 100_000, 150_000)]
    #[case(1500, 5_000, 7_500)]
    #[case(1, 1_000, 1000)]
    fn quota_of_a_limit(#[case] milli: i64, #[case] period: i64, #[case] quota: i64) {
        assert_eq!(cpu_quota(milli, period), quota);
    }

    #[rstest]
    #[case(2, 1)]
    #[case(3, 1)]
    #[case(102, 4)]
    #[case(1024, 39)]
    #[case(4096, 157)]
    #[case(262_144, 10_000)]
    #[case(u64::MAX, 10_000)]
    #[case(0, 1)]
    fn weight_of_shares(#[case] shares: u64, #[case] weight: u64) {
        assert_eq!(cpu_weight(shares), weight);
    }

    #[test]
    fn values_read_back_give_the_requests_they_came_from() {
        assert_eq!(milli_of_cpu_shares(2), 2);
        assert_eq!(milli_of_cpu_shares(1024), 1000);
        assert_eq!(milli_of_cpu_shares(102), 100);
        assert_eq!(milli_of_cpu_shares(1), 0);
        assert_eq!(milli_of_cpu_quota(150_000, 100_000), 1500);
        assert_eq!(milli_of_cpu_quota(-1, 100_000), 0);
        assert_eq!(milli_of_cpu_quota(1000, 0), 0);
        assert_eq!(cpu_shares_of_weight(1), 2);
        assert_eq!(cpu_shares_of_weight(39), 998);
        assert_eq!(cpu_shares_of_weight(10_000), 262_144);
    }

    proptest! {
        #[test]
        fn shares_quota_and_weight_never_fall_with_the_request(a in 0i64..10_000_000, b in 0i64..10_000_000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(cpu_shares(low) <= cpu_shares(high));
            prop_assert!(cpu_weight(cpu_shares(low)) <= cpu_weight(cpu_shares(high)));
            prop_assert!(low == 0 || cpu_quota(low, 100_000) <= cpu_quota(high, 100_000));
        }

        #[test]
        fn numbers_stay_within_what_the_kernel_takes(milli in any::<i64>(), period in 1000i64..=1_000_000) {
            prop_assert!((MIN_CPU_SHARES..=MAX_CPU_SHARES).contains(&cpu_shares(milli)));
            prop_assert!((1..=10_000).contains(&cpu_weight(cpu_shares(milli))));
            let quota = cpu_quota(milli, period);
            prop_assert!(milli == 0 && quota == 0 || quota >= MIN_CPU_QUOTA_US);
        }

        #[test]
        fn shares_read_back_are_never_below_the_request(milli in 2i64..256_000) {
            let back = milli_of_cpu_shares(cpu_shares(milli) as i64);
            prop_assert!(back <= milli.max(2) && back >= milli - 1, "{milli} became {back}");
        }

        #[test]
        fn a_burstable_score_is_between_the_fixed_classes(
            request in 0i64..i64::MAX, capacity in 0i64..i64::MAX
        ) {
            let pod = pod_of(vec![container("c", &format!("cpu=1m,memory={request}"), "")]);
            let score = oom_score_adj(&pod, &pod::spec(&pod).containers[0], capacity);
            prop_assert!((3..=999).contains(&score));
        }

        #[test]
        fn more_requested_memory_never_raises_the_score(a in 0i64..1 << 40, b in 0i64..1 << 40) {
            let score = |request: i64| {
                let pod = pod_of(vec![container("c", &format!("cpu=1m,memory={request}"), "")]);
                oom_score_adj(&pod, &pod::spec(&pod).containers[0], 1 << 39)
            };
            prop_assert!(score(a.max(b)) <= score(a.min(b)));
        }
    }

    fn scores(pod: &Pod, capacity: i64) -> Vec<i64> {
        pod::init_and_regular_containers(pod::spec(pod)).map(|(_, c)| oom_score_adj(pod, c, capacity)).collect()
    }

    const GB: i64 = 1_000_000_000;

    #[rstest]
    #[case::cpu_limit(vec![container("c", "", "cpu=10")], 4 * GB, &[999])]
    #[case::memory_limit(vec![container("c", "cpu=0", "memory=10G")], 8 * GB, &[999])]
    #[case::zero_limit(vec![container("c", "", "memory=0")], 8 * GB, &[1000])]
    #[case::nothing(vec![container("c", "", "")], 8 * GB, &[1000])]
    #[case::guaranteed(vec![container("c", "memory=10G,cpu=5m", "memory=10G,cpu=5m")], 123_456_789, &[-997])]
    #[case::half_the_node(vec![container("c", "memory=4G,cpu=5m", "memory=10G")], 8 * GB, &[500])]
    #[case::nearly_all(vec![container("c", "memory=7999999999,cpu=5m", "")], 8 * GB, &[3])]
    #[case::init_and_main(vec![init("i", "memory=1G", "memory=2G"), container("c", "memory=1G", "memory=2G")], 8 * GB,
        &[875, 875])]
    #[case::small_sidecar(vec![sidecar("s", "memory=400M", "memory=2G"), container("c", "memory=1G", "memory=2G")],
        8 * GB, &[875, 875])]
    #[case::big_sidecar(vec![sidecar("s", "memory=4G", "memory=5G"), container("c", "memory=1G", "memory=2G")], 8 * GB,
        &[500, 875])]
    fn oom_scores(#[case] containers: Vec<(bool, Container)>, #[case] capacity: i64, #[case] expected: &[i64]) {
        assert_eq!(scores(&pod_of(containers), capacity), expected);
    }

    #[rstest]
    #[case::no_containers_ask(vec![container("a", "", ""), container("b", "", "")], &[750, 750])]
    #[case::all_claimed(vec![container("a", "memory=1G", "memory=1G"), container("b", "memory=1G", "memory=1G")],
        &[750, 750])]
    #[case::one_claims(vec![container("a", "memory=1G", "memory=1G"), container("b", "", "")], &[625, 875])]
    #[case::sidecar(vec![sidecar("s", "memory=200M", ""), container("a", "memory=1G", ""), container("b", "memory=500M", "")],
        &[850, 725, 850])]
    fn oom_scores_with_a_pod_level_request(#[case] containers: Vec<(bool, Container)>, #[case] expected: &[i64]) {
        let pod = pod_level(pod_of(containers), "cpu=5m,memory=2G", "cpu=5m,memory=2000001000");
        assert_eq!(scores(&pod, 4 * GB), expected);
    }

    #[test]
    fn only_node_critical_pods_are_lifted_out_of_their_class() {
        let with_priority = |class: &str, priority: i32| {
            let spec = PodSpec {
                priority: Some(priority),
                priority_class_name: Some(class.into()),
                containers: vec![Container::default()],
                ..PodSpec::default()
            };
            Pod { spec: Some(spec), ..Pod::default() }
        };
        assert_eq!(scores(&with_priority("system-node-critical", 2_000_001_000), 4 * GB), [-997]);
        assert_eq!(scores(&with_priority("system-cluster-critical", 2_000_000_000), 4 * GB), [1000]);
        assert_eq!(scores(&with_priority("system-node-critical", 5), 4 * GB), [1000]);
    }

    #[rstest]
    #[case("hugepages-2Mi", Some("2MB"))]
    #[case("hugepages-1Gi", Some("1GB"))]
    #[case("hugepages-64Ki", Some("64KB"))]
    #[case("hugepages-1024Mi", Some("1GB"))]
    #[case("hugepages-", None)]
    #[case("hugepages-x", None)]
    #[case("memory", None)]
    #[case("hugepages-1025Ki", None)]
    fn huge_page_names(#[case] resource: &str, #[case] unit: Option<&str>) {
        assert_eq!(huge_page_bytes_of_resource(resource).and_then(huge_page_unit).as_deref(), unit);
    }

    #[rstest]
    #[case("hugepages-2048kB", Some("2MB"))]
    #[case("hugepages-1048576kB", Some("1GB"))]
    #[case("hugepages-64kB", Some("64KB"))]
    #[case("hugepages-2048KB", None)]
    #[case("hugepages-kB", None)]
    #[case("other", None)]
    fn huge_page_sysfs_names(#[case] name: &str, #[case] unit: Option<&str>) {
        assert_eq!(huge_page_unit_of_sysfs_name(name).as_deref(), unit);
    }

    #[test]
    fn huge_page_limits_cover_every_size_of_the_node_and_no_other() {
        let sizes = ["2MB".to_owned(), "1GB".to_owned()];
        let pod = pod_of(vec![container("c", "", "hugepages-2Mi=4Mi,hugepages-64Ki=64Ki")]);
        let of = |pod: &Pod| {
            let limits = huge_page_limits(pod, &pod::spec(pod).containers[0], &sizes);
            (limits["2MB"], limits["1GB"], limits.len())
        };
        assert_eq!(of(&pod), (4 << 20, 0, 2));
        let pod = pod_level(pod, "", "hugepages-2Mi=8Mi,hugepages-1Gi=1Gi");
        assert_eq!(of(&pod), (4 << 20, 1 << 30, 2));
    }

    #[rstest]
    #[case(GB, 4 * GB, 2 * GB, Some(GB / 2))]
    #[case(0, 4 * GB, 2 * GB, Some(0))]
    #[case(5 * GB, 4 * GB, 2 * GB, None)]
    #[case(GB, 0, 2 * GB, None)]
    fn swap_by_proportion(#[case] request: i64, #[case] memory: i64, #[case] swap: i64, #[case] expected: Option<i64>) {
        assert_eq!(swap_limit(request, memory, swap), expected);
    }

    #[rstest]
    #[case(0, 10_000, 0.9, Some(8192))]
    #[case(4096, 4096, 0.9, None)]
    #[case(8000, 8100, 0.5, None)]
    #[case(0, 0, 0.9, None)]
    fn throttling(#[case] request: i64, #[case] limit: i64, #[case] factor: f64, #[case] expected: Option<i64>) {
        assert_eq!(memory_high(request, limit, factor, 4096), expected);
    }
}
