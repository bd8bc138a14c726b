//! The Linux resources of containers and sandboxes as CRI's `LinuxContainerResources` carries them, from a pod and the
//! node's settings. The arithmetic is [`super::linux_resources`]'.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::linux_resources::{
    DEFAULT_CPU_PERIOD_US, cpu_quota, cpu_shares, huge_page_limits, memory_high, oom_score_adj, swap_limit,
};
use super::pod;
use super::qos::QosClass;
use super::resources::{self, CPU, MEMORY, Overhead};

/// How much of requested memory is protected from reclaim (`memoryReservationPolicy`, KEP 2570).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryReservation {
    /// Nothing is protected; what an earlier setting left is reset.
    #[default]
    None,
    /// Guaranteed pods by `memory.min`, Burstable ones by `memory.low`.
    Tiered,
}

/// What of memory QoS (feature gate MemoryQoS, cgroup v2 only) is on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryQos {
    /// `memoryReservationPolicy`.
    pub reservation: MemoryReservation,
    /// `memoryThrottlingFactor`; no `memory.high` without.
    pub throttling_factor: Option<f64>,
    /// The node's allocatable memory in bytes, the limit of a container that has none; 0 while unknown.
    pub allocatable_memory: i64,
}

/// How a node turns pods into Linux resources.
#[derive(Clone, Debug, PartialEq)]
pub struct LinuxResourceSettings {
    /// Whether the node runs on cgroup v2 alone.
    pub cgroup_v2: bool,
    /// `cpuCFSQuota`: CPU limits are enforced.
    pub cpu_cfs_quota: bool,
    /// `cpuCFSQuotaPeriod`, microseconds.
    pub cpu_period_us: i64,
    /// The node's memory, bytes.
    pub memory_capacity: i64,
    /// The node's swap space, bytes.
    pub swap_capacity: i64,
    /// Whether the kernel can limit swap per cgroup.
    pub swap_controller: bool,
    /// `memorySwap.swapBehavior: LimitedSwap`.
    pub limited_swap: bool,
    /// `singleProcessOOMKill`: the kernel kills one process rather than the whole container.
    pub single_process_oom_kill: bool,
    /// Huge page sizes of the node in the kernel's spelling.
    pub huge_page_sizes: Vec<String>,
    /// Memory QoS, if its feature gate is on.
    pub memory_qos: Option<MemoryQos>,
    /// The machine's page size, bytes.
    pub page_size: i64,
}

impl Default for LinuxResourceSettings {
    /// A node by the API's defaults with nothing known of its size.
    fn default() -> Self {
        LinuxResourceSettings {
            cgroup_v2: false,
            cpu_cfs_quota: true,
            cpu_period_us: DEFAULT_CPU_PERIOD_US,
            memory_capacity: 0,
            swap_capacity: 0,
            swap_controller: false,
            limited_swap: false,
            single_process_oom_kill: true,
            huge_page_sizes: Vec::new(),
            memory_qos: None,
            page_size: 4096,
        }
    }
}

/// The values of CRI's `LinuxContainerResources`; 0 and empty are "not set", as on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds; -1 is explicitly none.
    pub cpu_quota: i64,
    /// CPU shares, cgroup v1 scale.
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit_in_bytes: i64,
    /// Memory and swap together, bytes (cgroup v1).
    pub memory_swap_limit_in_bytes: i64,
    /// `oom_score_adj` of the container's processes.
    pub oom_score_adj: i64,
    /// Bytes by page size in the kernel's spelling.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// Further files of the cgroup and their contents (cgroup v2).
    pub unified: BTreeMap<String, String>,
}

/// A container's resources. `exclusive_cpus` is for a container that was given CPUs of its own, whose quota is lifted.
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    settings: &LinuxResourceSettings,
    exclusive_cpus: bool,
) -> LinuxResources {
    let spec = pod::spec(pod);
    // A container without a limit of its own lives under the pod's.
    let limit = |resource| {
        let own = resources::container_limit(container, resource).filter(|limit| *limit != 0);
        own.or_else(|| resources::pod_level_limit(spec, resource).filter(|_| resources::has_pod_level_resources(spec)))
    };
    let cpu_limit = limit(CPU).unwrap_or(0);
    let cpu_request = resources::container_request(container, CPU).unwrap_or(cpu_limit);
    let mut linux = cpu_and_memory(cpu_request, cpu_limit, limit(MEMORY).unwrap_or(0), settings, exclusive_cpus);
    linux.oom_score_adj = oom_score_adj(pod, container, settings.memory_capacity);
    linux.hugepage_limits = huge_page_limits(pod, container, &settings.huge_page_sizes);
    set_swap(&mut linux, pod, container, settings);
    set_memory_qos(&mut linux, pod, container, settings);
    linux
}

/// The sum of a pod's containers for the sandbox config's `resources`, overhead left out.
pub fn sandbox_resources(pod: &Pod, settings: &LinuxResourceSettings, exclusive_cpus: bool) -> LinuxResources {
    let requests = resources::pod_requests_with(pod, Overhead::LeftOut);
    let limits = resources::pod_limits_with(pod, Overhead::LeftOut);
    let cpu_limit = limits.cpu_milli.unwrap_or(0);
    let cpu_request = requests.cpu_milli.unwrap_or(cpu_limit);
    cpu_and_memory(cpu_request, cpu_limit, limits.memory_bytes.unwrap_or(0), settings, exclusive_cpus)
}

/// A pod's overhead for the sandbox config's `overhead`: request and limit in one. All zero without overhead.
pub fn sandbox_overhead(pod: &Pod, settings: &LinuxResourceSettings) -> LinuxResources {
    let Some(overhead) = &pod::spec(pod).overhead else { return LinuxResources::default() };
    let totals = resources::ResourceTotals::of_list(overhead);
    let cpu = totals.cpu_milli.unwrap_or(0);
    cpu_and_memory(cpu, cpu, totals.memory_bytes.unwrap_or(0), settings, false)
}

fn cpu_and_memory(
    cpu_request: i64,
    cpu_limit: i64,
    memory_limit: i64,
    settings: &LinuxResourceSettings,
    exclusive_cpus: bool,
) -> LinuxResources {
    let mut linux = LinuxResources {
        cpu_shares: cpu_shares(cpu_request) as i64,
        memory_limit_in_bytes: memory_limit,
        ..LinuxResources::default()
    };
    if settings.cpu_cfs_quota {
        linux.cpu_period = settings.cpu_period_us;
        linux.cpu_quota = if exclusive_cpus { -1 } else { cpu_quota(cpu_limit, settings.cpu_period_us) };
    }
    if settings.cgroup_v2 && !settings.single_process_oom_kill {
        linux.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    linux
}

fn set_swap(linux: &mut LinuxResources, pod: &Pod, container: &Container, settings: &LinuxResourceSettings) {
    if !settings.swap_controller {
        return;
    }
    if !settings.cgroup_v2 {
        // Memory and swap together no more than memory: no swap beyond it.
        linux.memory_swap_limit_in_bytes = linux.memory_limit_in_bytes;
        return;
    }
    let request = resources::container_request(container, MEMORY).unwrap_or(0);
    let limit = resources::container_limit(container, MEMORY).unwrap_or(0);
    let may_swap =
        settings.limited_swap && !pod::is_critical(pod) && QosClass::of(pod) == QosClass::Burstable && request != limit;
    let bytes = if may_swap { swap_limit(request, settings.memory_capacity, settings.swap_capacity) } else { None };
    linux.unified.insert("memory.swap.max".to_owned(), bytes.unwrap_or(0).to_string());
}

fn set_memory_qos(linux: &mut LinuxResources, pod: &Pod, container: &Container, settings: &LinuxResourceSettings) {
    if !settings.cgroup_v2 {
        return;
    }
    let mut set = |file: &str, content: String| linux.unified.insert(file.to_owned(), content);
    let Some(qos) = settings.memory_qos else {
        // Lifts the throttle of a container that was made while memory QoS was on.
        set("memory.high", "max".to_owned());
        return;
    };
    let request = resources::container_request(container, MEMORY).unwrap_or(0);
    let limit = resources::container_limit(container, MEMORY).unwrap_or(0);
    if request != 0 && qos.reservation == MemoryReservation::Tiered {
        let file = if QosClass::of(pod) == QosClass::Guaranteed { "memory.min" } else { "memory.low" };
        set(file, request.to_string());
    } else {
        set("memory.min", "0".to_owned());
        set("memory.low", "0".to_owned());
    }
    // A container without a limit in a pod with one is throttled by the pod's cgroup.
    let spec = pod::spec(pod);
    let throttled_by_pod =
        limit == 0 && resources::pod_level_limit(spec, MEMORY).is_some_and(|pod_limit| pod_limit != 0);
    let Some(factor) = qos.throttling_factor else { return };
    if throttled_by_pod || (request == limit && request != 0) {
        return;
    }
    let ceiling = if limit != 0 { limit } else { qos.allocatable_memory };
    if let Some(high) = (ceiling > 0).then(|| memory_high(request, ceiling, factor, settings.page_size)).flatten() {
        set("memory.high", high.to_string());
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::resources::testing::{container, pod_level, pod_of, with_overhead};
    use super::*;

    fn v1() -> LinuxResourceSettings {
        LinuxResourceSettings { memory_capacity: 8_000_000_000, ..LinuxResourceSettings::default() }
    }

    fn v2() -> LinuxResourceSettings {
        LinuxResourceSettings { cgroup_v2: true, ..v1() }
    }

    fn of(pod: &Pod, settings: &LinuxResourceSettings) -> LinuxResources {
        container_resources(pod, &pod::spec(pod).containers[0], settings, false)
    }

    fn one(requests: &str, limits: &str) -> Pod {
        pod_of(vec![container("c", requests, limits)])
    }

    #[rstest]
    #[case::request_and_limit("cpu=250m,memory=1Gi", "cpu=500m,memory=2Gi", 256, 50_000, 2 << 30)]
    #[case::limit_stands_for_the_request("", "cpu=500m", 512, 50_000, 0)]
    #[case::zero_request_is_a_request("cpu=0", "cpu=500m", 2, 50_000, 0)]
    #[case::nothing("", "", 2, 0, 0)]
    #[case::request_alone("cpu=1", "", 1024, 0, 0)]
    fn cpu_and_memory_values(
        #[case] requests: &str,
        #[case] limits: &str,
        #[case] shares: i64,
        #[case] quota: i64,
        #[case] memory: i64,
    ) {
        let linux = of(&one(requests, limits), &v1());
        assert_eq!((linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes), (shares, quota, memory));
        assert_eq!(linux.cpu_period, 100_000);
        assert!(linux.unified.is_empty());
    }

    #[test]
    fn a_container_without_a_limit_takes_the_pod_s() {
        let pod = pod_level(one("cpu=100m", ""), "", "cpu=2,memory=1Gi");
        let linux = of(&pod, &v1());
        assert_eq!((linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes), (102, 200_000, 1 << 30));
    }

    #[test]
    fn quota_is_lifted_for_exclusive_cpus_and_absent_without_cfs_quota() {
        let pod = one("cpu=2,memory=1Gi", "cpu=2,memory=1Gi");
        let linux = container_resources(&pod, &pod::spec(&pod).containers[0], &v1(), true);
        assert_eq!((linux.cpu_quota, linux.cpu_period), (-1, 100_000));
        let linux = of(&pod, &LinuxResourceSettings { cpu_cfs_quota: false, ..v1() });
        assert_eq!((linux.cpu_quota, linux.cpu_period), (0, 0));
    }

    #[test]
    fn the_whole_container_is_killed_on_v2_unless_told_otherwise() {
        let pod = one("", "");
        let settings = LinuxResourceSettings { single_process_oom_kill: false, ..v2() };
        assert_eq!(of(&pod, &settings).unified.get("memory.oom.group").map(String::as_str), Some("1"));
        assert!(!of(&pod, &v2()).unified.contains_key("memory.oom.group"));
        let settings = LinuxResourceSettings { single_process_oom_kill: false, ..v1() };
        assert!(of(&pod, &settings).unified.is_empty());
    }

    #[rstest]
    #[case::by_proportion("cpu=1,memory=2G", "", true, "500000000")]
    #[case::not_asked_for("cpu=1,memory=2G", "", false, "0")]
    #[case::guaranteed("cpu=1,memory=2G", "cpu=1,memory=2G", true, "0")]
    #[case::best_effort("", "", true, "0")]
    #[case::request_equals_limit("cpu=1,memory=2G", "cpu=2,memory=2G", true, "0")]
    fn swap_on_v2(#[case] requests: &str, #[case] limits: &str, #[case] limited: bool, #[case] expected: &str) {
        let settings = LinuxResourceSettings {
            swap_controller: true,
            limited_swap: limited,
            swap_capacity: 2_000_000_000,
            ..v2()
        };
        assert_eq!(of(&one(requests, limits), &settings).unified["memory.swap.max"], expected);
    }

    #[test]
    fn swap_on_v1_is_no_more_than_memory() {
        let settings = LinuxResourceSettings { swap_controller: true, limited_swap: true, ..v1() };
        assert_eq!(of(&one("", "memory=1Gi"), &settings).memory_swap_limit_in_bytes, 1 << 30);
        assert_eq!(of(&one("", "memory=1Gi"), &v1()).memory_swap_limit_in_bytes, 0);
    }

    #[test]
    fn memory_qos() {
        let unified = |pod: &Pod, qos: Option<MemoryQos>| {
            let settings = LinuxResourceSettings { memory_qos: qos, ..v2() };
            let entries = of(pod, &settings).unified.into_iter();
            entries.map(|(file, content)| format!("{file}={content}")).collect::<Vec<_>>().join(" ")
        };
        let burstable = one("memory=8192", "memory=16384");
        assert_eq!(unified(&burstable, None), "memory.high=max");
        assert_eq!(unified(&burstable, Some(MemoryQos::default())), "memory.low=0 memory.min=0");
        let throttled = MemoryQos { throttling_factor: Some(0.9), allocatable_memory: 1 << 20, ..MemoryQos::default() };
        assert_eq!(unified(&burstable, Some(throttled)), "memory.high=12288 memory.low=0 memory.min=0");
        let tiered = MemoryQos { reservation: MemoryReservation::Tiered, ..throttled };
        assert_eq!(unified(&burstable, Some(tiered)), "memory.high=12288 memory.low=8192");
        let guaranteed = one("cpu=1,memory=8192", "cpu=1,memory=8192");
        assert_eq!(unified(&guaranteed, Some(tiered)), "memory.min=8192");
        let best_effort = one("", "");
        assert_eq!(unified(&best_effort, Some(tiered)), "memory.high=942080 memory.low=0 memory.min=0");
        let unknown_size = MemoryQos { allocatable_memory: 0, ..tiered };
        assert_eq!(unified(&best_effort, Some(unknown_size)), "memory.low=0 memory.min=0");
        let under_the_pod = pod_level(one("memory=4096", ""), "", "memory=1Mi");
        assert_eq!(unified(&under_the_pod, Some(tiered)), "memory.low=4096");
    }

    #[test]
    fn sandbox_values_are_the_sum_without_the_overhead() {
        let pod = pod_of(vec![container("a", "cpu=1", "cpu=2,memory=1Gi"), container("b", "", "cpu=1")]);
        let pod = with_overhead(pod, "cpu=250m,memory=64Mi");
        let linux = sandbox_resources(&pod, &v1(), false);
        assert_eq!((linux.cpu_shares, linux.cpu_quota, linux.memory_limit_in_bytes), (1024, 300_000, 1 << 30));
        let overhead = sandbox_overhead(&pod, &v1());
        assert_eq!((overhead.cpu_shares, overhead.cpu_quota, overhead.memory_limit_in_bytes), (256, 25_000, 64 << 20));
        assert_eq!(sandbox_overhead(&one("", ""), &v1()), LinuxResources::default());
    }

    #[test]
    fn sandbox_of_a_best_effort_pod_has_the_least_shares() {
        let linux = sandbox_resources(&one("", ""), &v1(), false);
        assert_eq!((linux.cpu_shares, linux.cpu_quota, linux.cpu_period), (2, 0, 100_000));
    }
}
