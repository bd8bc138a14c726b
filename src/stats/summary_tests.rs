//! A sample as JSON.

use serde_json::{Value, json};

use super::*;
use crate::model::pod::{PodKey, PodUid};
use crate::stats::figures::{Cpu, Figures, Memory};
use crate::stats::network::Traffic;
use crate::stats::pressure::Pressure;
use crate::stats::sample::{Processes, WritableLayer};
use crate::sys::machine::ProcessLimits;

const FS: FilesystemUsage =
    FilesystemUsage { capacity_bytes: 1000, available_bytes: 500, free_bytes: 600, inodes: 100, inodes_free: 90 };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(in crate::stats) fn cgroup(path: &str, usage: u64) -> Cgroup {
    let cpu = Cpu { usage, ..Cpu::default() };
    let memory = Memory {
        usage: 90,
        working_set: 80,
        rss: 70,
        swap: 1,
        page_faults: 6,
        major_page_faults: 2,
        limit: Some(100),
        swap_limit: Some(11),
        ..Memory::default()
    };
    Cgroup {
        path: path.to_owned(),
        at: at(1000),
        created_at: at(900),
        figures: Figures {
            cpu: Some(cpu),
            memory: Some(memory),
            io_pressure: Some(Pressure::default()),
            ..Figures::default()
        },
        nano_cores: Some(usage / 10),
        processes: Processes { count: 3, ..Processes::default() },
    }
}

pub(in crate::stats) fn sample() -> Sample {
    let container = Container {
        id: "c1".to_owned(),
        name: "main".to_owned(),
        image: "busybox".to_owned(),
        created_at: at(960),
        cgroup: Some(cgroup("/kubepods/pod1/c1", 500)),
        writable_layer: Some(WritableLayer {
            at: at(990),
            used_bytes: Some(40),
            inodes_used: Some(4),
            filesystem: Some(FS),
            device: "/dev/vda".to_owned(),
        }),
        logs: Some(DiskUsage { bytes: 20, inodes: 1 }),
    };
    let volume = |name: &str, is_local: bool| Volume {
        name: name.to_owned(),
        at: at(980),
        usage: DiskUsage { bytes: 10, inodes: 2 },
        filesystem: FS,
        claim: (!is_local)
            .then(|| super::super::api::ClaimReference { name: "c".to_owned(), namespace: "ns".to_owned() }),
        is_local,
    };
    let pod = Pod {
        key: PodKey { namespace: "ns".to_owned(), name: "web".to_owned(), uid: PodUid::from("u-1") },
        created_at: at(950),
        cgroup: Some(cgroup("/kubepods/pod1", 600)),
        sandbox: None,
        containers: vec![container],
        interfaces: vec![Interface {
            name: "eth0".to_owned(),
            received: Traffic { bytes: 5, errors: 1, ..Traffic::default() },
            transmitted: Traffic { bytes: 6, errors: 2, ..Traffic::default() },
        }],
        volumes: vec![volume("data", true), volume("claimed", false)],
        logs: Some(DiskUsage { bytes: 3, inodes: 1 }),
        hosts_file: Some(DiskUsage { bytes: 7, inodes: 1 }),
    };
    let runtime = RuntimeFilesystem { at: at(970), used_bytes: 300, inodes_used: Some(30), filesystem: Some(FS) };
    Sample {
        at: at(1001),
        root: cgroup("/", 1000),
        system: vec![("pods", cgroup("/kubepods", 700))],
        inner: Vec::new(),
        pods: vec![pod],
        interfaces: vec![Interface { name: "ens3".to_owned(), ..Interface::default() }],
        root_fs: Some(FS),
        root_device: "/dev/vda".to_owned(),
        image_fs: Some(runtime.clone()),
        container_fs: Some(runtime),
        process_limits: Some(ProcessLimits { maximum: 9, running: 8 }),
        devices: std::collections::BTreeMap::new(),
        has_pressure: false,
    }
}

fn node() -> NodeConstants {
    NodeConstants { name: "n".to_owned(), booted_at: at(100), huge_page_bytes: 15 }
}

fn psi() -> Value {
    let stall = json!({"total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0});
    json!({"full": stall, "some": stall})
}

const TIME: &str = "1970-01-01T00:16:40Z";

fn cpu(usage: u64) -> Value {
    json!({"time": TIME, "usageNanoCores": usage / 10, "usageCoreNanoSeconds": usage, "psi": psi()})
}

fn memory(available: u64) -> Value {
    json!({"time": TIME, "availableBytes": available, "usageBytes": 90, "workingSetBytes": 80, "rssBytes": 70,
        "pageFaults": 6, "majorPageFaults": 2, "psi": psi()})
}

fn swap() -> Value {
    json!({"time": TIME, "swapAvailableBytes": 10, "swapUsageBytes": 1})
}

fn io() -> Value {
    json!({"time": TIME, "psi": psi()})
}

fn fs(time: &str, used: u64, inodes_used: u64) -> Value {
    json!({"time": time, "availableBytes": 500, "capacityBytes": 1000, "usedBytes": used, "inodesFree": 90, "inodes": 100,
        "inodesUsed": inodes_used})
}

#[test]
fn the_whole_summary() {
    let written = serde_json::to_value(full(&sample(), &node())).unwrap();
    let now = "1970-01-01T00:16:41Z";
    let expected_node = json!({
        "nodeName": "n",
        "startTime": "1970-01-01T00:01:40Z",
        "systemContainers": [{"name": "pods", "startTime": "1970-01-01T00:15:00Z", "cpu": cpu(700), "memory": memory(20),
            "io": io(), "swap": swap()}],
        "cpu": cpu(1000),
        // Huge pages are no memory for pods.
        "memory": memory(5),
        "io": io(),
        "network": {"time": now, "name": "",
            "interfaces": [{"name": "ens3", "rxBytes": 0, "rxErrors": 0, "txBytes": 0, "txErrors": 0}]},
        "fs": fs(now, 400, 10),
        "runtime": {"imageFs": fs("1970-01-01T00:16:10Z", 300, 30), "containerFs": fs("1970-01-01T00:16:10Z", 300, 30)},
        "rlimit": {"time": now, "maxpid": 9, "curproc": 8},
        "swap": swap(),
    });
    assert_eq!(written["node"], expected_node);
    let volume = |name: &str| {
        let mut volume = fs("1970-01-01T00:16:20Z", 10, 2);
        volume["name"] = json!(name);
        volume
    };
    let mut claimed = volume("claimed");
    claimed["pvcRef"] = json!({"name": "c", "namespace": "ns"});
    let interface = json!({"name": "eth0", "rxBytes": 5, "rxErrors": 1, "txBytes": 6, "txErrors": 2});
    let mut network = interface.clone();
    network["time"] = json!(now);
    network["interfaces"] = json!([interface]);
    let expected_pod = json!({
        "podRef": {"name": "web", "namespace": "ns", "uid": "u-1"},
        "startTime": "1970-01-01T00:15:50Z",
        "containers": [{"name": "main", "startTime": "1970-01-01T00:16:00Z", "cpu": cpu(500), "memory": memory(20),
            "io": io(), "rootfs": fs("1970-01-01T00:16:30Z", 40, 4), "logs": fs(now, 20, 1), "swap": swap()}],
        "cpu": cpu(600),
        "memory": memory(20),
        "io": io(),
        "network": network,
        "volume": [volume("data"), claimed],
        // Layer, logs, local volume, pod's logs, hosts file.
        "ephemeral-storage": fs(now, 40 + 20 + 10 + 3 + 7, 4 + 1 + 2 + 1 + 1),
        "process_stats": {"process_count": 3},
        "swap": swap(),
    });
    assert_eq!(written["pods"], json!([expected_pod]));
}

#[test]
fn the_brief_summary_has_processors_memory_and_swap_alone() {
    let written = serde_json::to_value(brief(&sample(), &node())).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&written["node"]), ["cpu", "memory", "nodeName", "startTime", "swap", "systemContainers"]);
    assert_eq!(keys(&written["pods"][0]), ["containers", "cpu", "memory", "podRef", "startTime", "swap"]);
    assert_eq!(keys(&written["pods"][0]["containers"][0]), ["cpu", "memory", "name", "startTime", "swap"]);
}

#[test]
fn a_pod_without_figures_is_listed_without_them() {
    let mut sample = sample();
    let pod = &mut sample.pods[0];
    (pod.cgroup, pod.containers[0].cgroup, pod.containers[0].writable_layer) = (None, None, None);
    pod.interfaces.clear();
    let written = serde_json::to_value(full(&sample, &node())).unwrap();
    let pod = &written["pods"][0];
    assert!(pod["cpu"].is_null() && pod["network"].is_null() && pod["process_stats"].is_null());
    assert_eq!(pod["containers"][0]["rootfs"], json!({"time": "1970-01-01T00:16:41Z"}));
}
