//! The pod's own entries of resources in its status (`status.allocatedResources`, `status.resources`; KEP 5419).
//!
//! What is in force is what the pod's cgroup was given. It is told as that was asked for and not as it reads back: the
//! conversion of CPU shares to the weights of cgroup v2 loses most of their precision.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::pod;
use crate::model::quantity::{self, Amount, Format};
use crate::model::resources::{self, CPU, MEMORY, ResourceList, ResourceTotals};

/// CPU requests up to this many thousandths are the same as none to the kernel.
const LEAST_CPU_REQUEST: i64 = 2;
/// The least CPU limit that the kernel can keep, in thousandths.
const LEAST_CPU_LIMIT: i64 = 10;

type Select = fn(&ResourceRequirements) -> Option<&ResourceList>;

fn requests(requirements: &ResourceRequirements) -> Option<&ResourceList> {
    requirements.requests.as_ref()
}

fn limits(requirements: &ResourceRequirements) -> Option<&ResourceList> {
    requirements.limits.as_ref()
}

/// What the pod was admitted with: all its requests, overhead included.
pub(super) fn allocated(pod: &Pod) -> Option<ResourceList> {
    non_empty(list(pod, &resources::pod_requests(pod), requests))
}

/// What the pod may use: of a running one what its cgroup says, else all that it asks for.
pub(super) fn in_force(pod: &Pod, phase: &str) -> ResourceRequirements {
    let asked = list(pod, &resources::pod_requests(pod), requests);
    let capped = list(pod, &resources::pod_limits(pod), limits);
    let spec = pod::spec(pod);
    let own = spec.resources.clone().unwrap_or_default();
    if phase != "Running" {
        return ResourceRequirements { requests: non_empty(asked), limits: non_empty(capped), claims: own.claims };
    }
    // Cgroups know CPU and memory; anything else is there only if it was set for the pod as a whole.
    let mut requests = own.requests.unwrap_or_default();
    let mut limits = own.limits.unwrap_or_default();
    if milli(&asked) > LEAST_CPU_REQUEST {
        take(&mut requests, &asked, CPU);
    }
    take(&mut requests, &asked, MEMORY);
    if milli(&capped) > LEAST_CPU_LIMIT || !resources::is_limited_throughout(pod, CPU) {
        take(&mut limits, &capped, CPU);
    }
    take(&mut limits, &capped, MEMORY);
    ResourceRequirements { requests: non_empty(requests), limits: non_empty(limits), claims: own.claims }
}

fn non_empty(list: ResourceList) -> Option<ResourceList> {
    (!list.is_empty()).then_some(list)
}

fn milli(list: &ResourceList) -> i64 {
    resources::amount(Some(list), CPU).map_or(0, Amount::milli_value)
}

fn take(target: &mut ResourceList, from: &ResourceList, name: &str) {
    if let Some(quantity) = from.get(name) {
        target.entry(name.to_owned()).or_insert_with(|| quantity.clone());
    }
}

/// Totals as the API spells them: each in the form (decimal, binary) in which the pod first writes that resource.
fn list(pod: &Pod, totals: &ResourceTotals, select: Select) -> ResourceList {
    let spec = pod::spec(pod);
    let mut list = BTreeMap::new();
    let mut put = |name: &str, amount: Amount| {
        list.insert(name.to_owned(), amount.quantity(format(spec, name, select)));
    };
    if let Some(cpu) = totals.cpu_milli {
        put(CPU, Amount::from_milli(cpu));
    }
    if let Some(memory) = totals.memory_bytes {
        put(MEMORY, Amount::from_units(memory));
    }
    for (name, amount) in &totals.other {
        put(name, Amount::from_units(*amount));
    }
    list
}

/// The form of the first quantity of a resource that is not zero: sums keep it.
fn format(spec: &PodSpec, name: &str, select: Select) -> Format {
    let of =
        |container: &Container| container.resources.as_ref().and_then(select).and_then(|list| list.get(name)).cloned();
    let own = spec.resources.as_ref().and_then(select).and_then(|list| list.get(name)).cloned();
    let init = spec.init_containers.iter().flatten();
    let overhead = spec.overhead.as_ref().and_then(|list| list.get(name)).cloned();
    let written = own.into_iter().chain(spec.containers.iter().chain(init).filter_map(of)).chain(overhead);
    let read = |text: Quantity| quantity::parse_with_format(&text.0).ok();
    let mut forms = written.filter_map(read).filter(|(amount, _)| !amount.is_zero());
    forms.next().map_or(Format::DecimalSi, |(_, format)| format)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case::best_effort(json!({"containers": [{"name": "c"}]}), json!(null), json!({}), json!({}))]
    #[case::guaranteed(
        json!({"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "1500m", "memory": "960Mi"}, "limits": {"cpu": "1500m", "memory": "960Mi"}}}]}),
        json!({"cpu": "2", "memory": "1Gi"}),
        json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
        json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}))]
    #[case::burstable(
        json!({"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "100M", "ephemeral-storage": "1Gi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "1", "memory": "1Gi", "example.com/dev": "2"}}}]}),
        json!({"cpu": "101m", "memory": "100M", "ephemeral-storage": "1Gi"}),
        json!({"requests": {"cpu": "101m", "memory": "100M", "ephemeral-storage": "1Gi"},
            "limits": {"cpu": "1", "memory": "1Gi", "example.com/dev": "2"}}),
        json!({"requests": {"cpu": "101m", "memory": "100M"}, "limits": {"cpu": "1", "memory": "1Gi"}}))]
    #[case::too_little_for_the_kernel(
        json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "2m"}, "limits": {"cpu": "10m"}}}]}),
        json!({"cpu": "2m"}),
        json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "10m"}}),
        json!({}))]
    #[case::init_and_overhead(
        json!({"initContainers": [{"name": "i", "resources": {"requests": {"memory": "1Gi"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}}}],
            "overhead": {"cpu": "250m", "memory": "128Mi"}}),
        json!({"cpu": "500m", "memory": "1152Mi"}),
        json!({"requests": {"cpu": "500m", "memory": "1152Mi"}}),
        json!({"requests": {"cpu": "500m", "memory": "1152Mi"}}))]
    #[case::of_the_pod_itself(
        json!({"resources": {"requests": {"cpu": "1m", "memory": "1Gi"}, "limits": {"hugepages-2Mi": "2Mi"}},
            "containers": [{"name": "a"}]}),
        json!({"cpu": "1m", "memory": "1Gi"}),
        json!({"requests": {"cpu": "1m", "memory": "1Gi"}, "limits": {"hugepages-2Mi": "2Mi"}}),
        json!({"requests": {"cpu": "1m", "memory": "1Gi"}, "limits": {"hugepages-2Mi": "2Mi"}}))]
    fn shapes(#[case] spec: Value, #[case] expected: Value, #[case] pending: Value, #[case] running: Value) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        assert_eq!(serde_json::to_value(allocated(&pod)).unwrap(), expected);
        assert_eq!(serde_json::to_value(in_force(&pod, "Pending")).unwrap(), pending);
        assert_eq!(serde_json::to_value(in_force(&pod, "Succeeded")).unwrap(), pending);
        assert_eq!(serde_json::to_value(in_force(&pod, "Running")).unwrap(), running);
    }
}
