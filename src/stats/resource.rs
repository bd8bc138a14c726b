//! `/metrics/resource`: processor time, memory and swap by node, pod and container (`pkg/kubelet/metrics/collectors` of the
//! peer). Pure.

use super::sample::{Cgroup, Sample};
use crate::metrics::text::Kind::{Counter, Gauge};
use crate::metrics::{Exposition, float};
use crate::model::Timestamp;

/// Labels and cgroup of one row.
type Row<'a> = (Vec<(&'static str, &'a str)>, Timestamp, &'a Cgroup);

/// The text; none of a sample is an error that the text tells of.
pub(super) fn text(sample: Option<&Sample>) -> String {
    let mut text = Exposition::new();
    let (containers, pods) = sample.map(rows).unwrap_or_default();
    let root: Vec<Row<'_>> = sample.iter().map(|s| (Vec::new(), s.root.created_at, &s.root)).collect();
    let kind = "container";
    write(
        &mut text,
        "container_cpu_usage_seconds_total",
        &help("STABLE", "Cumulative cpu time consumed by the", kind, "in core-seconds"),
        Counter,
        &containers,
        cpu,
    );
    write(
        &mut text,
        "container_memory_working_set_bytes",
        &help("STABLE", "Current working set of the", kind, "in bytes"),
        Gauge,
        &containers,
        memory,
    );
    start_times(&mut text, &containers);
    write(
        &mut text,
        "container_swap_limit_bytes",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        Gauge,
        &containers,
        swap_limit,
    );
    write(
        &mut text,
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        Gauge,
        &containers,
        swap,
    );
    write(
        &mut text,
        "node_cpu_usage_seconds_total",
        &help("STABLE", "Cumulative cpu time consumed by the", "node", "in core-seconds"),
        Counter,
        &root,
        cpu,
    );
    write(
        &mut text,
        "node_memory_working_set_bytes",
        &help("STABLE", "Current working set of the", "node", "in bytes"),
        Gauge,
        &root,
        memory,
    );
    write(
        &mut text,
        "node_swap_usage_bytes",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        Gauge,
        &root,
        swap,
    );
    write(
        &mut text,
        "pod_cpu_usage_seconds_total",
        &help("STABLE", "Cumulative cpu time consumed by the", "pod", "in core-seconds"),
        Counter,
        &pods,
        cpu,
    );
    write(
        &mut text,
        "pod_memory_working_set_bytes",
        &help("STABLE", "Current working set of the", "pod", "in bytes"),
        Gauge,
        &pods,
        memory,
    );
    write(
        &mut text,
        "pod_swap_usage_bytes",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        Gauge,
        &pods,
        swap,
    );
    let failed = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.family("resource_scrape_error", failed, Gauge);
    text.sample("resource_scrape_error", [], if sample.is_some() { 0.0 } else { 1.0 }, None);
    text.finish()
}

fn help(stability: &str, what: &str, of: &str, unit: &str) -> String {
    format!("[{stability}] {what} {of} {unit}")
}

fn rows(sample: &Sample) -> (Vec<Row<'_>>, Vec<Row<'_>>) {
    let mut sorted: Vec<_> = sample.pods.iter().collect();
    sorted.sort_by_key(|pod| (&pod.key.namespace, &pod.key.name));
    let pods = sorted.iter().filter_map(|pod| {
        let labels = vec![("namespace", pod.key.namespace.as_str()), ("pod", pod.key.name.as_str())];
        Some((labels, pod.created_at, pod.cgroup.as_ref()?))
    });
    let mut containers: Vec<Row<'_>> = sorted
        .iter()
        .flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
        .filter_map(|(pod, container)| {
            let (namespace, name) = (pod.key.namespace.as_str(), pod.key.name.as_str());
            let labels = vec![("container", container.name.as_str()), ("namespace", namespace), ("pod", name)];
            Some((labels, container.created_at, container.cgroup.as_ref()?))
        })
        .collect();
    containers.sort_by(|a, b| a.0.cmp(&b.0));
    (containers, pods.collect())
}

fn write(
    text: &mut Exposition,
    name: &str,
    help: &str,
    kind: crate::metrics::text::Kind,
    rows: &[Row<'_>],
    value: fn(&Cgroup) -> Option<f64>,
) {
    let mut begun = false;
    for (labels, _, cgroup) in rows {
        let Some(value) = value(cgroup) else { continue };
        if !std::mem::replace(&mut begun, true) {
            text.family(name, help, kind);
        }
        text.sample(name, labels.iter().copied(), value, Some(cgroup.at.as_millisecond()));
    }
}

fn start_times(text: &mut Exposition, containers: &[Row<'_>]) {
    let name = "container_start_time_seconds";
    if !containers.is_empty() {
        text.family(name, "[STABLE] Start time of the container since unix epoch in seconds", Gauge);
    }
    for (labels, started_at, _) in containers {
        text.sample(name, labels.iter().copied(), seconds_since_epoch(*started_at), None);
    }
}

fn cpu(cgroup: &Cgroup) -> Option<f64> {
    cgroup.figures.cpu.as_ref().map(|cpu| float(cpu.usage) / 1e9)
}

fn memory(cgroup: &Cgroup) -> Option<f64> {
    cgroup.figures.memory.as_ref().map(|memory| float(memory.working_set))
}

fn swap(cgroup: &Cgroup) -> Option<f64> {
    cgroup.figures.memory.as_ref().map(|memory| float(memory.swap))
}

fn swap_limit(cgroup: &Cgroup) -> Option<f64> {
    cgroup.figures.memory.as_ref()?.swap_limit.map(float)
}

/// A time as the format has it.
#[allow(clippy::cast_precision_loss, reason = "the format holds nothing else")]
pub(super) fn seconds_since_epoch(at: Timestamp) -> f64 {
    at.as_nanosecond() as f64 / 1e9
}

#[cfg(test)]
#[path = "resource_tests.rs"]
mod tests;
