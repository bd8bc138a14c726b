//! What `/metrics` tells of the agent that is only known when it is asked for: its process, its pods.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod as PodObject;

use super::resource::seconds_since_epoch;
use crate::metrics::{count, float, kubelet as metrics};
use crate::model::{Timestamp, pod, release};
use crate::runtime::{ListedState, RuntimePod};
use crate::sys::machine::boot_second;

/// Length of a tick of `/proc/<pid>/stat`, seconds (USER_HZ is 100 on every architecture that Kubernetes knows).
const TICK: f64 = 0.01;

/// Sets what does not change.
pub(super) fn set_constants(node_name: &str, cgroup_version: u8, architecture: &str) {
    metrics::NODE_NAME.set(&[node_name], 1.0);
    metrics::CGROUP_VERSION.set(&[], f64::from(cgroup_version));
    metrics::METRICS_PROVIDER.set(&["cadvisor"], 1.0);
    let platform = format!("linux/{architecture}");
    let build = ["", "", "", "clean", release::VERSION, "", release::MAJOR, release::MINOR, &platform];
    metrics::BUILD_INFO.set(&build, 1.0);
}

/// Sets the numbers of pods and containers.
pub(super) fn set_pods(runtime: &[RuntimePod], known: &[Arc<PodObject>]) {
    let running = runtime.iter().filter(|pod| pod.sandboxes.iter().any(|s| s.ready)).count();
    metrics::RUNNING_PODS.set(&[], count(running));
    let specs = known.iter().filter_map(|pod| pod.spec.as_ref());
    let ephemeral = specs.map(|spec| spec.ephemeral_containers.as_ref().map_or(0, Vec::len)).sum();
    metrics::MANAGED_EPHEMERAL_CONTAINERS.set(&[], count(ephemeral));
    let states = [
        (ListedState::Created, "created"),
        (ListedState::Running, "running"),
        (ListedState::Exited, "exited"),
        (ListedState::Unknown, "unknown"),
    ];
    let in_state =
        |state| runtime.iter().flat_map(|pod| &pod.containers).filter(|container| container.state == state).count();
    let counts = states.map(|(state, label)| ([label], count(in_state(state))));
    metrics::RUNNING_CONTAINERS.replace(counts.into_iter().filter(|(_, containers)| *containers > 0.0));
    for (is_static_label, is_static_wanted) in [("", false), ("true", true)] {
        let of_kind = || known.iter().filter(|pod| pod::is_static(pod) == is_static_wanted);
        if is_static_wanted {
            metrics::MIRROR_PODS.set(&[], count(of_kind().count()));
        }
        metrics::DESIRED_PODS.set(&[is_static_label], count(of_kind().count()));
        metrics::ACTIVE_PODS.set(&[is_static_label], count(of_kind().filter(|pod| !has_ended(pod)).count()));
    }
}

fn has_ended(pod: &PodObject) -> bool {
    pod::phase(pod).is_some_and(pod::is_terminal_phase)
}

/// Sets when the runtime was last listed.
pub(super) fn set_last_relist(at: Timestamp) {
    metrics::PLEG_LAST_SEEN.set(&[], seconds_since_epoch(at).trunc());
}

/// Reads the agent's own process. Blocking, but from a file system that never waits.
pub(super) fn set_process(proc: &Path, booted_at: Timestamp) {
    let own = proc.join("self");
    let read = |file: &str| fs::read_to_string(own.join(file)).unwrap_or_default();
    if let Some(process) = Process::parse(&read("stat")) {
        metrics::PROCESS_CPU.take_over(&[], process.cpu_ticks * TICK);
        metrics::PROCESS_START.set(&[], seconds_since_epoch(booted_at) + process.start_ticks * TICK);
        metrics::PROCESS_VIRTUAL.set(&[], process.virtual_bytes);
        metrics::PROCESS_RESIDENT.set(&[], process.resident_pages * count(rustix::param::page_size()));
    }
    let limits = read("limits");
    let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    if let Some(limit) = limit("Max open files").and_then(|limit| limit.parse().ok()) {
        metrics::PROCESS_MAX_FDS.set(&[], limit);
    }
    if let Some(limit) = limit("Max address space") {
        // As the peer's client library shows a limit that is none.
        metrics::PROCESS_VIRTUAL_MAX.set(&[], limit.parse().unwrap_or(float(u64::MAX)));
    }
    if let Some([received, sent]) = network_bytes(&read("net/netstat")) {
        metrics::PROCESS_RECEIVED.take_over(&[], received);
        metrics::PROCESS_SENT.take_over(&[], sent);
    }
    let open = fs::read_dir(own.join("fd")).map_or(0, |entries| entries.flatten().count());
    metrics::PROCESS_OPEN_FDS.set(&[], count(open));
}

struct Process {
    cpu_ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Process {
    /// Fields 14, 15, 22, 23 and 24 of `/proc/<pid>/stat` (proc_pid_stat(5)); the second one is a name in parentheses, which
    /// may hold anything.
    fn parse(stat: &str) -> Option<Process> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Process {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Bytes of IPv4 that came into and left the network namespace: two fields of `/proc/<pid>/net/netstat`, which has a line of
/// names and one of values for each protocol.
fn network_bytes(netstat: &str) -> Option<[f64; 2]> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, values) = (lines.next()?.split_whitespace(), lines.next()?.split_whitespace());
    let pairs: Vec<(&str, &str)> = names.zip(values).collect();
    let field = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted)?.1.parse::<f64>().ok();
    Some([field("InOctets")?, field("OutOctets")?])
}

/// When the machine was booted (`btime` of `/proc/stat`), if the kernel tells.
pub fn booted_at(proc: &Path) -> Option<Timestamp> {
    Timestamp::from_second(boot_second(proc)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 1234 9000000 77 18446744073709551615 1";
        let process = Process::parse(stat).unwrap();
        let fields = [process.cpu_ticks, process.start_ticks, process.virtual_bytes, process.resident_pages];
        assert_eq!(fields, [300.0, 1234.0, 9_000_000.0, 77.0]);
        assert!(Process::parse("7 (x) S 1").is_none());
    }

    #[test]
    fn octets_are_found_by_their_names() {
        let netstat =
            "TcpExt: SyncookiesSent InOctets\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 30 40\n";
        assert_eq!(network_bytes(netstat), Some([30.0, 40.0]));
        assert_eq!(network_bytes("IpExt: InOctets\nIpExt: 30\n"), None);
        assert_eq!(network_bytes(""), None);
    }

    #[test]
    fn this_process_can_be_read() {
        assert!(network_bytes(&fs::read_to_string("/proc/self/net/netstat").unwrap()).is_some());
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(Process::parse(&stat).unwrap().resident_pages > 0.0);
        assert!(booted_at(Path::new("/proc")).unwrap() > Timestamp::UNIX_EPOCH);
    }
}
