//! `/metrics/cadvisor`: everything that is known of cgroups, and the machine (`google/cadvisor/lib/metrics` of the peer, with
//! the metrics that the kubelet includes). Pure.

use super::network::{Interface, Traffic};
use super::resource::seconds_since_epoch;
use super::sample::{Cgroup, Sample, WritableLayer};
use crate::metrics::text::Kind::{self, Counter, Gauge};
use crate::metrics::{Exposition, float};
use crate::sys::filesystem::FilesystemUsage;
use crate::sys::machine::MachineFacts;

/// One cgroup with whom it belongs to.
struct Row<'a> {
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
    cgroup: &'a Cgroup,
    interfaces: &'a [Interface],
    /// A file system, its device, and what the row takes of it.
    filesystem: Option<(FilesystemUsage, &'a str, Option<u64>)>,
    sample: &'a Sample,
}

/// Takes the samples of a row: the labels besides the row's own, and the value.
type Out<'o> = dyn FnMut(&[(&str, &str)], f64) + 'o;

struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Whether its samples carry the time of reading.
    timed: bool,
    values: fn(&Row<'_>, &mut Out<'_>),
}

const fn family(name: &'static str, help: &'static str, kind: Kind, values: fn(&Row<'_>, &mut Out<'_>)) -> Family {
    Family { name, help, kind, timed: true, values }
}

const fn timeless(name: &'static str, help: &'static str, values: fn(&Row<'_>, &mut Out<'_>)) -> Family {
    Family { name, help, kind: Gauge, timed: false, values }
}

macro_rules! of {
    ($part:ident, $field:ident) => {
        |row, out| {
            if let Some(part) = &row.cgroup.figures.$part {
                out(&[], float(part.$field));
            }
        }
    };
}

macro_rules! nanoseconds {
    ($field:ident) => {
        |row, out| {
            if let Some(cpu) = &row.cgroup.figures.cpu {
                out(&[], float(cpu.$field) / 1e9);
            }
        }
    };
}

macro_rules! quota {
    ($value:expr) => {
        |row, out| {
            if let Some(cpu) = row.cgroup.figures.cpu.as_ref().filter(|cpu| cpu.quota.is_some()) {
                let value: fn(&super::figures::Cpu) -> f64 = $value;
                out(&[], value(cpu));
            }
        }
    };
}

macro_rules! limit {
    ($field:ident) => {
        |row, out| {
            if let Some(memory) = &row.cgroup.figures.memory {
                out(&[], float(memory.$field.unwrap_or(0)));
            }
        }
    };
}

macro_rules! device {
    ($field:ident) => {
        |row, out| {
            for transfer in &row.cgroup.figures.transfers {
                out(&[("device", row.sample.device(transfer))], float(transfer.$field));
            }
        }
    };
}

macro_rules! filesystem {
    ($value:expr) => {
        |row, out| {
            if let Some((fs, device, used)) = row.filesystem {
                let value: fn(FilesystemUsage, Option<u64>) -> Option<u64> = $value;
                if let Some(value) = value(fs, used) {
                    out(&[("device", device)], float(value));
                }
            }
        }
    };
}

macro_rules! interface {
    ($side:ident, $field:ident) => {
        |row, out| {
            for interface in row.interfaces {
                let Traffic { $field, .. } = interface.$side;
                out(&[("interface", &interface.name)], float($field));
            }
        }
    };
}

macro_rules! pressure {
    ($resource:ident, $stall:ident) => {
        |row, out| {
            if let Some(pressure) = row.sample.has_pressure.then(|| row.cgroup.$resource()).flatten() {
                out(&[], float(pressure.$stall.total) / 1e6);
            }
        }
    };
}

const FAMILIES: &[Family] = &[
    family("container_blkio_device_usage_total", "Blkio Device bytes usage", Counter, device_usage),
    family(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        Counter,
        quota!(|cpu| float(cpu.periods)),
    ),
    family(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        Counter,
        quota!(|cpu| float(cpu.throttled_periods)),
    ),
    family(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        Counter,
        quota!(|cpu| float(cpu.throttled) / 1e9),
    ),
    family(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        Counter,
        nanoseconds!(system),
    ),
    family("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", Counter, |row, out| {
        // As in the peer, a cgroup that never ran has no such sample.
        if let Some(cpu) = row.cgroup.figures.cpu.as_ref().filter(|cpu| cpu.usage > 0) {
            out(&[("cpu", "total")], float(cpu.usage) / 1e9);
        }
    }),
    family(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        Counter,
        nanoseconds!(user),
    ),
    timeless("container_creation_time_seconds", "Container creation time since unix epoch in seconds.", created),
    family("container_file_descriptors", "Number of open file descriptors for the container.", Gauge, |row, out| {
        out(&[], float(row.cgroup.processes.descriptors));
    }),
    family("container_fs_inodes_free", "Number of available Inodes", Gauge, |row, out| {
        inodes(row, out, |fs| fs.inodes_free)
    }),
    family("container_fs_inodes_total", "Number of Inodes", Gauge, |row, out| inodes(row, out, |fs| fs.inodes)),
    family(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        Gauge,
        filesystem!(|fs, _| Some(fs.capacity_bytes)),
    ),
    family("container_fs_reads_bytes_total", "Cumulative count of bytes read", Counter, device!(read_bytes)),
    family("container_fs_reads_total", "Cumulative count of reads completed", Counter, device!(reads)),
    family(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        Gauge,
        filesystem!(|_, used| used),
    ),
    family("container_fs_writes_bytes_total", "Cumulative count of bytes written", Counter, device!(written_bytes)),
    family("container_fs_writes_total", "Cumulative count of writes completed", Counter, device!(writes)),
    family("container_last_seen", "Last time a container was seen by the exporter", Gauge, |row, out| {
        out(&[], seconds_since_epoch(row.sample.at).trunc());
    }),
    family("container_memory_cache", "Number of bytes of page cache memory.", Gauge, of!(memory, cache)),
    family(
        "container_memory_events_high_total",
        "Cumulative count of memory.high throttle events for the container",
        Counter,
        of!(memory, events_high),
    ),
    family(
        "container_memory_events_max_total",
        "Cumulative count of memory.max limit hit events for the container",
        Counter,
        of!(memory, events_max),
    ),
    family("container_memory_failcnt", "Number of memory usage hits limits", Counter, of!(memory, failures)),
    family("container_memory_failures_total", "Cumulative count of memory allocation failures.", Counter, faults),
    family("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", Gauge, of!(memory, kernel)),
    family("container_memory_mapped_file", "Size of memory mapped files in bytes.", Gauge, of!(memory, mapped_file)),
    family("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", Gauge, of!(memory, max_usage)),
    family("container_memory_rss", "Size of RSS in bytes.", Gauge, of!(memory, rss)),
    family("container_memory_swap", "Container swap usage in bytes.", Gauge, of!(memory, swap)),
    family(
        "container_memory_total_active_file_bytes",
        "Current total active file in bytes.",
        Gauge,
        of!(memory, active_file),
    ),
    family(
        "container_memory_total_inactive_file_bytes",
        "Current total inactive file in bytes.",
        Gauge,
        of!(memory, inactive_file),
    ),
    family(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        Gauge,
        of!(memory, usage),
    ),
    family("container_memory_working_set_bytes", "Current working set in bytes.", Gauge, of!(memory, working_set)),
    family(
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        Counter,
        interface!(received, bytes),
    ),
    family(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        Counter,
        interface!(received, errors),
    ),
    family(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        Counter,
        interface!(received, dropped),
    ),
    family(
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        Counter,
        interface!(received, packets),
    ),
    family(
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        Counter,
        interface!(transmitted, bytes),
    ),
    family(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        Counter,
        interface!(transmitted, errors),
    ),
    family(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        Counter,
        interface!(transmitted, dropped),
    ),
    family(
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        Counter,
        interface!(transmitted, packets),
    ),
    family(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        Counter,
        of!(memory, oom_kills),
    ),
    family(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        Counter,
        pressure!(cpu_pressure, full),
    ),
    family(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        Counter,
        pressure!(cpu_pressure, some),
    ),
    family(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        Counter,
        pressure!(io_pressure, full),
    ),
    family(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        Counter,
        pressure!(io_pressure, some),
    ),
    family(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        Counter,
        pressure!(memory_pressure, full),
    ),
    family(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        Counter,
        pressure!(memory_pressure, some),
    ),
    family("container_processes", "Number of processes running inside the container.", Gauge, |row, out| {
        out(&[], float(row.cgroup.processes.count));
    }),
    // container_scrape_error stands here; it has no row.
    family("container_sockets", "Number of open sockets for the container.", Gauge, |row, out| {
        out(&[], float(row.cgroup.processes.sockets));
    }),
    timeless("container_spec_cpu_period", "CPU period of the container.", of!(cpu, period)),
    timeless("container_spec_cpu_quota", "CPU quota of the container.", |row, out| {
        if let Some(quota) = row.cgroup.figures.cpu.as_ref().and_then(|cpu| cpu.quota) {
            out(&[], float(quota));
        }
    }),
    timeless("container_spec_cpu_shares", "CPU share of the container.", of!(cpu, shares)),
    timeless("container_spec_memory_limit_bytes", "Memory limit for the container.", limit!(limit)),
    timeless(
        "container_spec_memory_reservation_limit_bytes",
        "Memory reservation limit for the container.",
        limit!(reservation),
    ),
    timeless("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", limit!(swap_limit)),
    timeless("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", created),
    family("container_threads", "Number of threads running inside the container", Gauge, |row, out| {
        out(&[], float(row.cgroup.figures.tasks.current));
    }),
    family(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        Gauge,
        |row, out| out(&[], float(row.cgroup.figures.tasks.max)),
    ),
    family(
        "container_ulimits_soft",
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
        Gauge,
        |row, out| {
            let own = row.cgroup.processes.open_files_limit.filter(|_| !row.name.is_empty());
            if let Some(limit) = own {
                let value = u64::try_from(limit).map_or(-1.0, float);
                out(&[("ulimit", "max_open_files")], value);
            }
        },
    ),
];

fn created(row: &Row<'_>, out: &mut Out<'_>) {
    out(&[], seconds_since_epoch(row.cgroup.created_at).trunc());
}

/// Inodes of the node's file system; a container's are not told of, as by the peer.
fn inodes(row: &Row<'_>, out: &mut Out<'_>, value: fn(FilesystemUsage) -> u64) {
    if let Some((fs, device, _)) = row.filesystem.filter(|_| row.name.is_empty()) {
        out(&[("device", device)], float(value(fs)));
    }
}

fn faults(row: &Row<'_>, out: &mut Out<'_>) {
    let Some(memory) = &row.cgroup.figures.memory else { return };
    for (kind, count) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
        for scope in ["container", "hierarchy"] {
            out(&[("failure_type", kind), ("scope", scope)], float(count));
        }
    }
}

fn device_usage(row: &Row<'_>, out: &mut Out<'_>) {
    for transfer in &row.cgroup.figures.transfers {
        let (major, minor) = (transfer.major.to_string(), transfer.minor.to_string());
        for (operation, bytes) in [("Read", transfer.read_bytes), ("Write", transfer.written_bytes)] {
            let device = ("device", row.sample.device(transfer));
            out(&[device, ("major", &major), ("minor", &minor), ("operation", operation)], float(bytes));
        }
    }
}

/// The text.
pub(super) fn text(sample: &Sample, machine: &MachineFacts) -> String {
    let rows = rows(sample);
    let mut text = Exposition::new();
    version(&mut text, machine);
    let (before, after) = FAMILIES.split_at(FAMILIES.partition_point(|family| family.name < "container_scrape_error"));
    before.iter().for_each(|family| write(&mut text, family, &rows));
    text.family(
        "container_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        Gauge,
    );
    text.sample("container_scrape_error", [], 0.0, None);
    after.iter().for_each(|family| write(&mut text, family, &rows));
    machine_families(&mut text, machine);
    text.finish()
}

fn write(text: &mut Exposition, family: &Family, rows: &[Row<'_>]) {
    let mut begun = false;
    for row in rows {
        let own = [
            ("container", row.container),
            ("id", row.id),
            ("image", row.image),
            ("name", row.name),
            ("namespace", row.namespace),
            ("pod", row.pod),
        ];
        let at = family.timed.then(|| row.cgroup.at.as_millisecond());
        (family.values)(row, &mut |more, value| {
            if !std::mem::replace(&mut begun, true) {
                text.family(family.name, family.help, family.kind);
            }
            if more.is_empty() {
                return text.sample(family.name, own, value, at);
            }
            let mut labels: Vec<(&str, &str)> = own.into_iter().chain(more.iter().copied()).collect();
            labels.sort_unstable();
            text.sample(family.name, labels, value, at);
        });
    }
}

fn rows(sample: &Sample) -> Vec<Row<'_>> {
    let of_node = |cgroup| Row {
        container: "",
        id: "",
        image: "",
        name: "",
        namespace: "",
        pod: "",
        cgroup,
        interfaces: &[],
        filesystem: None,
        sample,
    };
    let mut rows = vec![Row {
        interfaces: &sample.interfaces,
        filesystem: sample.root_fs.map(|fs| (fs, sample.root_device.as_str(), Some(fs.used_bytes()))),
        ..of_node(&sample.root)
    }];
    rows.extend(sample.system.iter().map(|(_, cgroup)| of_node(cgroup)));
    rows.extend(sample.inner.iter().map(of_node));
    for pod in &sample.pods {
        let (namespace, name) = (pod.key.namespace.as_str(), pod.key.name.as_str());
        let of_pod = |cgroup| Row { namespace, pod: name, ..of_node(cgroup) };
        rows.extend(pod.cgroup.as_ref().map(of_pod));
        rows.extend(pod.sandbox.as_ref().map(|(id, cgroup)| Row {
            name: id,
            interfaces: &pod.interfaces,
            ..of_pod(cgroup)
        }));
        rows.extend(pod.containers.iter().filter_map(|container| {
            let of_layer = |layer: &'_ WritableLayer| layer.filesystem.map(|fs| (fs, layer.used_bytes));
            let layer = container.writable_layer.as_ref();
            Some(Row {
                container: &container.name,
                image: &container.image,
                name: &container.id,
                filesystem: layer.and_then(|layer| of_layer(layer).map(|(fs, used)| (fs, layer.device.as_str(), used))),
                ..of_pod(container.cgroup.as_ref()?)
            })
        }));
    }
    for row in &mut rows {
        row.id = &row.cgroup.path;
    }
    rows.sort_by(|a, b| (a.container, a.id).cmp(&(b.container, b.id)));
    rows.dedup_by(|a, b| a.id == b.id);
    rows
}

fn version(text: &mut Exposition, machine: &MachineFacts) {
    let name = "cadvisor_version_info";
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & \
                cadvisor revision.";
    text.family(name, help, Gauge);
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", machine.kernel_version.as_str()),
        ("osVersion", machine.os_image.as_str()),
    ];
    text.sample(name, labels, 1.0, None);
}

fn machine_families(text: &mut Exposition, machine: &MachineFacts) {
    let labels = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", machine.machine_id.as_str()),
        ("system_uuid", machine.system_uuid.as_str()),
    ];
    let bytes = |bytes: i64| float(u64::try_from(bytes).unwrap_or(0));
    let families = [
        ("machine_cpu_cores", "Number of logical CPU cores.", f64::from(machine.cpus)),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", bytes(machine.memory_bytes)),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", bytes(machine.swap_bytes)),
    ];
    for (at, (name, help, value)) in families.into_iter().enumerate() {
        if at == 2 {
            let help = "1 if there was an error while getting machine metrics, 0 otherwise.";
            text.family("machine_scrape_error", help, Gauge);
            text.sample("machine_scrape_error", [], 0.0, None);
        }
        text.family(name, help, Gauge);
        text.sample(name, labels, value, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::figures::Transfer;
    use crate::stats::sample::Processes;
    use crate::stats::summary::tests::{cgroup, sample};

    fn full() -> Sample {
        let mut sample = sample();
        sample.devices.insert((254, 0), "/dev/vda".to_owned());
        let pod = &mut sample.pods[0];
        pod.sandbox = Some(("s1".to_owned(), cgroup("/kubepods/pod1/s1", 1)));
        let container = pod.containers[0].cgroup.as_mut().unwrap();
        container.figures.transfers =
            vec![Transfer { major: 254, minor: 0, read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 }];
        container.processes = Processes { count: 2, descriptors: 6, sockets: 1, open_files_limit: Some(1024) };
        sample
    }

    #[test]
    fn families_are_in_order() {
        assert!(FAMILIES.iter().map(|family| family.name).is_sorted());
        let text = text(&full(), &MachineFacts::default());
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn samples_are_labelled_by_whom_they_belong_to() {
        let text = text(&full(), &MachineFacts { cpus: 2, boot_id: "b".to_owned(), ..MachineFacts::default() });
        let own = "id=\"/kubepods/pod1/c1\",image=\"busybox\",name=\"c1\",namespace=\"ns\",pod=\"web\"";
        let sandbox = "id=\"/kubepods/pod1/s1\",image=\"\",interface=\"eth0\",name=\"s1\",namespace=\"ns\",pod=\"web\"";
        let operation =
            "image=\"busybox\",major=\"254\",minor=\"0\",name=\"c1\",namespace=\"ns\",operation=\"Read\",pod=\"web\"";
        for line in [
            format!("container_cpu_usage_seconds_total{{container=\"main\",cpu=\"total\",{own}}} 5e-07 1000000"),
            format!(
                "container_memory_failures_total{{container=\"main\",failure_type=\"pgfault\",{own},scope=\"container\"}} 6 1000000"
            ),
            format!("container_fs_reads_bytes_total{{container=\"main\",device=\"/dev/vda\",{own}}} 1 1000000"),
            format!(
                "container_blkio_device_usage_total{{container=\"main\",device=\"/dev/vda\",id=\"/kubepods/pod1/c1\",{operation}}} 1 1000000"
            ),
            format!("container_network_receive_bytes_total{{container=\"\",{sandbox}}} 5 1000000"),
            format!("container_ulimits_soft{{container=\"main\",{own},ulimit=\"max_open_files\"}} 1024 1000000"),
            format!("container_spec_memory_limit_bytes{{container=\"main\",{own}}} 100"),
            format!("container_last_seen{{container=\"main\",{own}}} 1001 1000000"),
            "machine_cpu_cores{boot_id=\"b\",machine_id=\"\",system_uuid=\"\"} 2".to_owned(),
        ] {
            assert!(text.lines().any(|known| known == line), "no {line} in\n{text}");
        }
        // No pressure files, no such families; the pod's pods cgroup is one row, whatever it is known as.
        assert!(!text.contains("container_pressure"));
        assert_eq!(text.lines().filter(|line| line.starts_with("container_processes")).count(), 5);
    }
}
