//! What a pod and its containers ask for and may use at most: the sums that scheduling, admission, cgroups and eviction
//! all work with.
//!
//! The rules are those of `component-helpers/resource`, which are part of the API: regular containers and sidecars add
//! up, init containers raise the sum to the highest need of any moment of the init sequence, pod-level resources stand
//! above the sums (KEP 2837), overhead comes on top. Resources of DRA claims (alpha in 1.37) are not counted. A quantity
//! that does not parse counts as absent: the API server and the decoder of static pods refuse such pods before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod;
use super::quantity::Amount;

/// The resource name of CPU time.
pub const CPU: &str = "cpu";
/// The resource name of memory.
pub const MEMORY: &str = "memory";
/// The resource name of disk space for logs, writable layers and emptyDir volumes.
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// What the resource names of huge pages begin with; a page size follows (`hugepages-2Mi`).
pub const HUGE_PAGES_PREFIX: &str = "hugepages-";
/// The name under which reservations and capacity count process ids.
pub const PIDS: &str = "pid";

/// A list of quantities as the API holds it.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Amounts by resource, in the unit that each is used in. Absent and zero are different things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceTotals {
    /// CPU, thousandths of a core.
    pub cpu_milli: Option<i64>,
    /// Memory, bytes.
    pub memory_bytes: Option<i64>,
    /// Everything else by its resource name, whole units (bytes for storage and huge pages), rounded up.
    pub other: BTreeMap<String, i64>,
}

impl ResourceTotals {
    /// The amounts of a resource list of the API.
    pub fn of_list(list: &ResourceList) -> Self {
        Self::of_amounts(&amounts(list))
    }

    /// One resource's amount in its unit: thousandths for CPU, whole units for the rest.
    pub fn get(&self, resource: &str) -> Option<i64> {
        match resource {
            CPU => self.cpu_milli,
            MEMORY => self.memory_bytes,
            other => self.other.get(other).copied(),
        }
    }

    fn of_amounts(amounts: &Amounts) -> Self {
        let mut totals = ResourceTotals::default();
        for (name, amount) in amounts {
            match name.as_str() {
                CPU => totals.cpu_milli = Some(amount.milli_value()),
                MEMORY => totals.memory_bytes = Some(amount.value()),
                _ => {
                    totals.other.insert(name.clone(), amount.value());
                }
            }
        }
        totals
    }
}

/// Whether a pod's overhead (`spec.overhead`, from its RuntimeClass) is part of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overhead {
    /// The pod as the node feels it.
    Counted,
    /// The containers alone.
    LeftOut,
}

/// What the pod asks for, overhead included.
pub fn pod_requests(pod: &Pod) -> ResourceTotals {
    pod_requests_with(pod, Overhead::Counted)
}

/// What the pod may use at most, overhead included on every limit that is not zero. A resource that only some containers
/// limit shows the sum of those limits; whether the pod as a whole is limited is another question (see
/// [`is_limited_throughout`]).
pub fn pod_limits(pod: &Pod) -> ResourceTotals {
    pod_limits_with(pod, Overhead::Counted)
}

/// [`pod_requests`] with or without the overhead.
pub fn pod_requests_with(pod: &Pod, overhead: Overhead) -> ResourceTotals {
    let spec = pod::spec(pod);
    let mut sum = sum_over_containers(spec, |r| r.requests.as_ref());
    if has_pod_level(spec, |r| r.requests.as_ref()) {
        apply_pod_level(&mut sum, spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    }
    if let (Overhead::Counted, Some(overhead)) = (overhead, &spec.overhead) {
        add(&mut sum, &amounts(overhead));
    }
    ResourceTotals::of_amounts(&sum)
}

/// [`pod_limits`] with or without the overhead.
pub fn pod_limits_with(pod: &Pod, overhead: Overhead) -> ResourceTotals {
    let spec = pod::spec(pod);
    let mut sum = sum_over_containers(spec, |r| r.limits.as_ref());
    if has_pod_level_resources(spec) {
        apply_pod_level(&mut sum, spec.resources.as_ref().and_then(|r| r.limits.as_ref()));
    }
    if let (Overhead::Counted, Some(overhead)) = (overhead, &spec.overhead) {
        for (name, amount) in amounts(overhead) {
            if let Some(limit) = sum.get_mut(&name).filter(|limit| !limit.is_zero()) {
                *limit += amount;
            }
        }
    }
    ResourceTotals::of_amounts(&sum)
}

/// What all containers together ask for, without pod-level resources and overhead.
pub fn containers_requests(pod: &Pod) -> ResourceTotals {
    ResourceTotals::of_amounts(&sum_over_containers(pod::spec(pod), |r| r.requests.as_ref()))
}

/// A container's request of a resource in its unit: thousandths for CPU, whole units for the rest.
pub fn container_request(container: &Container, resource: &str) -> Option<i64> {
    Some(in_unit(resource, amount(container.resources.as_ref()?.requests.as_ref(), resource)?))
}

/// A container's limit of a resource in its unit: thousandths for CPU, whole units for the rest.
pub fn container_limit(container: &Container, resource: &str) -> Option<i64> {
    Some(in_unit(resource, amount(container.resources.as_ref()?.limits.as_ref(), resource)?))
}

/// A pod-level request in its unit.
pub fn pod_level_request(spec: &PodSpec, resource: &str) -> Option<i64> {
    Some(in_unit(resource, amount(spec.resources.as_ref()?.requests.as_ref(), resource)?))
}

/// A pod-level limit in its unit.
pub fn pod_level_limit(spec: &PodSpec, resource: &str) -> Option<i64> {
    Some(in_unit(resource, amount(spec.resources.as_ref()?.limits.as_ref(), resource)?))
}

/// Whether the pod as a whole is limited in a resource: every init and regular container has a limit that is not zero, or
/// the pod has one itself. Only then may the pod's cgroup carry a limit.
pub fn is_limited_throughout(pod: &Pod, resource: &str) -> bool {
    let spec = pod::spec(pod);
    let own = has_pod_level_resources(spec) && pod_level_limit(spec, resource).is_some_and(|limit| limit != 0);
    own || pod::init_and_regular_containers(spec)
        .all(|(_, container)| container_limit(container, resource).is_some_and(|limit| limit != 0))
}

/// Whether the pod carries pod-level requests or limits of a resource that they exist for (CPU, memory, huge pages).
pub fn has_pod_level_resources(spec: &PodSpec) -> bool {
    has_pod_level_requests(spec) || has_pod_level(spec, |r| r.limits.as_ref())
}

/// Whether the pod carries pod-level requests of a resource that they exist for.
pub fn has_pod_level_requests(spec: &PodSpec) -> bool {
    has_pod_level(spec, |r| r.requests.as_ref())
}

/// Whether a resource is not Kubernetes' own: it has a domain, which is not one of `kubernetes.io`.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// One resource's exact amount in a list of the API; none if it is absent or no quantity.
pub fn amount(list: Option<&ResourceList>, resource: &str) -> Option<Amount> {
    Amount::from_quantity(list?.get(resource)?).ok()
}

type Amounts = BTreeMap<String, Amount>;

fn in_unit(resource: &str, amount: Amount) -> i64 {
    if resource == CPU { amount.milli_value() } else { amount.value() }
}

fn is_pod_level_resource(name: &str) -> bool {
    name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES_PREFIX)
}

fn has_pod_level(spec: &PodSpec, list: impl Fn(&ResourceRequirements) -> Option<&ResourceList>) -> bool {
    spec.resources.as_ref().and_then(list).is_some_and(|list| list.keys().any(|name| is_pod_level_resource(name)))
}

fn amounts(list: &ResourceList) -> Amounts {
    list.iter().filter_map(|(name, quantity)| Some((name.clone(), Amount::from_quantity(quantity).ok()?))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_insert(Amount::ZERO) += *amount;
    }
}

fn raise(sum: &mut Amounts, floor: &Amounts) {
    for (name, amount) in floor {
        let entry = sum.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

fn apply_pod_level(sum: &mut Amounts, list: Option<&ResourceList>) {
    for (name, amount) in list.map(amounts).unwrap_or_default() {
        if is_pod_level_resource(&name) {
            sum.insert(name, amount);
        }
    }
}

/// Regular containers and sidecars added up, raised to the highest need during the init sequence: at each init
/// container's turn, that container and the sidecars before it run together.
fn sum_over_containers(spec: &PodSpec, list: impl Fn(&ResourceRequirements) -> Option<&ResourceList>) -> Amounts {
    let of = |container: &Container| container.resources.as_ref().and_then(&list).map(amounts).unwrap_or_default();
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut init_peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut own = of(container);
        if pod::is_sidecar(container) {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
        } else {
            add(&mut own, &sidecars);
            raise(&mut init_peak, &own);
        }
    }
    raise(&mut sum, &init_peak);
    sum
}

#[cfg(test)]
pub(crate) mod testing {
    //! Short spellings of pods for tests: resources are written `cpu=1,memory=1Gi`.

    use super::*;

    pub(crate) fn list(text: &str) -> Option<ResourceList> {
        let entries = text.split(',').filter(|entry| !entry.is_empty());
        let list: ResourceList =
            entries.map(|entry| entry.split_once('=').unwrap()).map(|(k, v)| (k.into(), Quantity(v.into()))).collect();
        Some(list).filter(|list| !list.is_empty())
    }

    pub(crate) fn requirements(requests: &str, limits: &str) -> Option<ResourceRequirements> {
        Some(ResourceRequirements { requests: list(requests), limits: list(limits), ..ResourceRequirements::default() })
    }

    pub(crate) fn container(name: &str, requests: &str, limits: &str) -> (bool, Container) {
        (false, Container { name: name.into(), resources: requirements(requests, limits), ..Container::default() })
    }

    pub(crate) fn init(name: &str, requests: &str, limits: &str) -> (bool, Container) {
        (true, container(name, requests, limits).1)
    }

    pub(crate) fn sidecar(name: &str, requests: &str, limits: &str) -> (bool, Container) {
        let mut sidecar = init(name, requests, limits);
        sidecar.1.restart_policy = Some("Always".into());
        sidecar
    }

    pub(crate) fn pod_of(containers: Vec<(bool, Container)>) -> Pod {
        let (init, regular): (Vec<_>, Vec<_>) = containers.into_iter().partition(|(init, _)| *init);
        let spec = PodSpec {
            init_containers: Some(init.into_iter().map(|(_, c)| c).collect()),
            containers: regular.into_iter().map(|(_, c)| c).collect(),
            ..PodSpec::default()
        };
        Pod { spec: Some(spec), ..Pod::default() }
    }

    pub(crate) fn pod_level(mut pod: Pod, requests: &str, limits: &str) -> Pod {
        if let Some(spec) = &mut pod.spec {
            spec.resources = requirements(requests, limits);
        }
        pod
    }

    pub(crate) fn with_overhead(mut pod: Pod, overhead: &str) -> Pod {
        if let Some(spec) = &mut pod.spec {
            spec.overhead = list(overhead);
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::testing::*;
    use super::*;

    fn cpu_and_memory(totals: &ResourceTotals) -> (Option<i64>, Option<i64>) {
        (totals.cpu_milli, totals.memory_bytes)
    }

    #[test]
    fn regular_containers_add_up_exactly_and_round_up_once() {
        let pod = pod_of(vec![container("a", "cpu=0.5m,memory=0.5", ""), container("b", "cpu=0.5m,memory=0.5", "")]);
        assert_eq!(cpu_and_memory(&pod_requests(&pod)), (Some(1), Some(1)));
    }

    #[test]
    fn an_init_container_raises_the_sum_but_does_not_add() {
        let pod = pod_of(vec![
            init("i1", "cpu=3,memory=1", ""),
            init("i2", "cpu=1,memory=9", ""),
            container("a", "cpu=1,memory=2", ""),
            container("b", "cpu=1,memory=2", ""),
        ]);
        assert_eq!(cpu_and_memory(&pod_requests(&pod)), (Some(3000), Some(9)));
    }

    #[test]
    fn a_sidecar_counts_for_the_init_containers_after_it_and_for_the_regular_ones() {
        // i1 alone 5; s1 1; i2 beside s1: 4 + 1; s2 1; i3 beside both: 3 + 2; then 2 + 1 + 1.
        let chain = vec![
            init("i1", "cpu=5", ""),
            sidecar("s1", "cpu=1", ""),
            init("i2", "cpu=5", ""),
            sidecar("s2", "cpu=1", ""),
            init("i3", "cpu=4500m", ""),
            container("a", "cpu=2", ""),
        ];
        assert_eq!(pod_requests(&pod_of(chain)).cpu_milli, Some(6500));
        let chain = vec![sidecar("s1", "cpu=1", ""), init("i", "cpu=1", ""), container("a", "cpu=2", "")];
        assert_eq!(pod_requests(&pod_of(chain)).cpu_milli, Some(3000));
    }

    #[test]
    fn absent_is_not_zero() {
        let totals = pod_requests(&pod_of(vec![container("a", "memory=0", "")]));
        assert_eq!(cpu_and_memory(&totals), (None, Some(0)));
        assert_eq!(totals.get("example.com/gpu"), None);
    }

    #[test]
    fn other_resources_are_summed_by_name() {
        let pod = pod_of(vec![
            container("a", "hugepages-2Mi=4Mi,example.com/gpu=1", ""),
            container("b", "hugepages-2Mi=2Mi,ephemeral-storage=1Gi", ""),
        ]);
        let totals = pod_requests(&pod);
        assert_eq!(totals.get("hugepages-2Mi"), Some(6 << 20));
        assert_eq!(totals.get("example.com/gpu"), Some(1));
        assert_eq!(totals.get(EPHEMERAL_STORAGE), Some(1 << 30));
    }

    #[test]
    fn overhead_adds_to_requests_always_and_to_limits_that_are_there() {
        let pod = with_overhead(pod_of(vec![container("a", "cpu=1", "memory=1Ki,cpu=0")]), "cpu=250m,memory=1Ki");
        assert_eq!(cpu_and_memory(&pod_requests(&pod)), (Some(1250), Some(1024)));
        assert_eq!(cpu_and_memory(&pod_limits(&pod)), (Some(0), Some(2048)));
        assert_eq!(cpu_and_memory(&pod_requests_with(&pod, Overhead::LeftOut)), (Some(1000), None));
        assert_eq!(cpu_and_memory(&pod_limits_with(&pod, Overhead::LeftOut)), (Some(0), Some(1024)));
    }

    #[test]
    fn pod_level_resources_replace_the_sums_of_their_resources() {
        let pod = pod_level(pod_of(vec![container("a", "cpu=1,example.com/gpu=2", "cpu=2")]), "cpu=5", "memory=1Gi");
        let requests = pod_requests(&pod);
        assert_eq!(cpu_and_memory(&requests), (Some(5000), None));
        assert_eq!(requests.get("example.com/gpu"), Some(2));
        assert_eq!(cpu_and_memory(&pod_limits(&pod)), (Some(2000), Some(1 << 30)));
        assert_eq!(containers_requests(&pod).cpu_milli, Some(1000));
        let with_overhead = with_overhead(pod, "cpu=1");
        assert_eq!(pod_requests(&with_overhead).cpu_milli, Some(6000));
    }

    #[test]
    fn pod_level_lists_do_not_reach_unsupported_resources() {
        let pod = pod_level(pod_of(vec![container("a", "", "")]), "example.com/gpu=2", "");
        assert!(!has_pod_level_resources(pod::spec(&pod)));
        assert_eq!(pod_requests(&pod).get("example.com/gpu"), None);
    }

    #[rstest]
    #[case::all(vec![container("a", "", "memory=1"), init("i", "", "memory=1")], true)]
    #[case::one_without(vec![container("a", "", "memory=1"), container("b", "", "cpu=1")], false)]
    #[case::init_without(vec![container("a", "", "memory=1"), init("i", "", "")], false)]
    #[case::zero_is_none(vec![container("a", "", "memory=0")], false)]
    fn limited_throughout_needs_every_container(#[case] containers: Vec<(bool, Container)>, #[case] limited: bool) {
        let pod = pod_of(containers);
        assert_eq!(is_limited_throughout(&pod, MEMORY), limited);
        assert!(is_limited_throughout(&pod_level(pod, "", "memory=1Gi"), MEMORY));
    }

    #[test]
    fn a_container_s_own_values_come_in_their_units() {
        let (_, container) = container("a", "cpu=1500m,memory=1Ki", "cpu=2,hugepages-2Mi=2Mi");
        assert_eq!(container_request(&container, CPU), Some(1500));
        assert_eq!(container_request(&container, MEMORY), Some(1024));
        assert_eq!(container_limit(&container, CPU), Some(2000));
        assert_eq!(container_limit(&container, MEMORY), None);
        assert_eq!(container_limit(&container, "hugepages-2Mi"), Some(2 << 20));
        assert_eq!(container_limit(&Container::default(), CPU), None);
    }

    #[test]
    fn a_quantity_that_does_not_parse_counts_as_absent() {
        let (_, broken) = container("a", "cpu=one", "");
        assert_eq!(container_request(&broken, CPU), None);
        assert_eq!(pod_requests(&pod_of(vec![container("a", "cpu=one", "")])).cpu_milli, None);
    }

    proptest! {
        // The sum is never below any single moment of the pod's life, and never above everything at once.
        #[test]
        fn the_sum_lies_between_any_moment_and_everything_at_once(
            kinds in proptest::collection::vec((0u8..3, 0i64..5000), 1..8)
        ) {
            let containers = kinds.iter().enumerate().map(|(i, (kind, milli))| {
                let requests = format!("cpu={milli}m");
                let name = format!("c{i}");
                match kind {
                    0 => container(&name, &requests, ""),
                    1 => init(&name, &requests, ""),
                    _ => sidecar(&name, &requests, ""),
                }
            });
            let total = pod_requests(&pod_of(containers.collect())).cpu_milli.unwrap();
            let running: i64 = kinds.iter().filter(|(kind, _)| *kind != 1).map(|(_, milli)| milli).sum();
            let biggest = kinds.iter().map(|(_, milli)| *milli).max().unwrap();
            let everything: i64 = kinds.iter().map(|(_, milli)| milli).sum();
            prop_assert!(total >= running && total >= biggest && total <= everything);
        }
    }
}
