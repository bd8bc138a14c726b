//! A [`Sample`] as the summary shows it (`pkg/kubelet/server/stats`, `pkg/kubelet/stats` of the peer). Pure.

use super::api::{
    ContainerStats, CpuStats, FsStats, InterfaceStats, IoStats, MemoryStats, NetworkStats, NodeStats, PodReference,
    PodStats, ProcessStats, RlimitStats, RuntimeStats, Summary, SwapStats, Time, VolumeStats,
};
use super::network::{self, Interface};
use super::sample::{Cgroup, Container, Pod, RuntimeFilesystem, Sample, Volume};
use crate::model::Timestamp;
use crate::sys::disk_usage::DiskUsage;
use crate::sys::filesystem::FilesystemUsage;

/// What of the node does not change.
#[derive(Clone, Debug)]
pub struct NodeConstants {
    /// Its name.
    pub name: String,
    /// When it was booted.
    pub booted_at: Timestamp,
    /// Huge pages of all sizes together, bytes: no memory for anything else.
    pub huge_page_bytes: u64,
}

/// The summary of all.
pub(super) fn full(sample: &Sample, node: &NodeConstants) -> Summary {
    let mut summary = brief(sample, node);
    let stats = &mut summary.node;
    stats.start_time = Time(node.booted_at);
    stats.io = io(&sample.root);
    stats.network = network(&sample.interfaces, sample.at);
    stats.fs = sample.root_fs.map(|fs| filesystem(&fs, sample.at, Some(fs.used_bytes()), Some(taken(&fs))));
    let runtime_fs = |fs: &Option<RuntimeFilesystem>| fs.as_ref().map(runtime_filesystem);
    stats.runtime =
        Some(RuntimeStats { image_fs: runtime_fs(&sample.image_fs), container_fs: runtime_fs(&sample.container_fs) });
    stats.rlimit = sample.process_limits.map(|limits| RlimitStats {
        time: Time(sample.at),
        maxpid: limits.maximum,
        curproc: limits.running,
    });
    for (stats, pod) in summary.pods.iter_mut().zip(&sample.pods) {
        complete(stats, pod, sample);
    }
    summary
}

/// The summary of processor time and memory alone.
pub(super) fn brief(sample: &Sample, node: &NodeConstants) -> Summary {
    let root = container("", sample.root.created_at, Some(&sample.root));
    let mut memory = root.memory;
    if let Some(available) = memory.as_mut().and_then(|memory| memory.available_bytes.as_mut()) {
        *available = available.saturating_sub(node.huge_page_bytes);
    }
    let system = sample.system.iter().map(|(name, cgroup)| container(name, cgroup.created_at, Some(cgroup)));
    let node = NodeStats {
        node_name: node.name.clone(),
        system_containers: system.collect(),
        start_time: root.start_time,
        cpu: root.cpu,
        memory,
        swap: root.swap,
        io: None,
        network: None,
        fs: None,
        runtime: None,
        rlimit: None,
    };
    Summary { node, pods: sample.pods.iter().map(pod).collect() }
}

fn pod(pod: &Pod) -> PodStats {
    let whole = container("", pod.created_at, pod.cgroup.as_ref());
    let containers = pod.containers.iter().map(|c| container(&c.name, c.created_at, c.cgroup.as_ref()));
    PodStats {
        pod_ref: PodReference {
            name: pod.key.name.clone(),
            namespace: pod.key.namespace.clone(),
            uid: pod.key.uid.to_string(),
        },
        start_time: Time(pod.created_at),
        containers: containers.map(|c| ContainerStats { io: None, ..c }).collect(),
        cpu: whole.cpu,
        memory: whole.memory,
        swap: whole.swap,
        io: None,
        network: None,
        volumes: Vec::new(),
        ephemeral_storage: None,
        processes: None,
    }
}

fn complete(stats: &mut PodStats, pod: &Pod, sample: &Sample) {
    stats.io = pod.cgroup.as_ref().and_then(io);
    stats.network = network(&pod.interfaces, sample.at);
    let counted = pod.containers.iter().filter_map(|c| c.cgroup.as_ref()).map(|c| c.processes.count);
    stats.processes = counted.reduce(|a, b| a + b).map(|process_count| ProcessStats { process_count });
    stats.volumes = pod.volumes.iter().map(volume).collect();
    for (stats, container) in stats.containers.iter_mut().zip(&pod.containers) {
        stats.io = container.cgroup.as_ref().and_then(io);
        stats.rootfs = Some(rootfs(container, sample.at));
        let on_root = |usage: DiskUsage| Some((usage, sample.root_fs?));
        stats.logs = container.logs.and_then(on_root).map(|(usage, fs)| used_of(&fs, sample.at, usage));
    }
    stats.ephemeral_storage = sample.root_fs.map(|fs| used_of(&fs, sample.at, ephemeral_storage(pod)));
}

/// What a pod takes of the node's own disk.
fn ephemeral_storage(pod: &Pod) -> DiskUsage {
    let layers = pod.containers.iter().filter_map(|c| c.writable_layer.as_ref());
    let layers =
        layers.map(|layer| DiskUsage { bytes: layer.used_bytes.unwrap_or(0), inodes: layer.inodes_used.unwrap_or(0) });
    let logs = pod.containers.iter().filter_map(|c| c.logs);
    let volumes = pod.volumes.iter().filter(|volume| volume.is_local).map(|volume| volume.usage);
    let all = layers.chain(logs).chain(volumes).chain(pod.logs).chain(pod.hosts_file);
    all.fold(DiskUsage::default(), |sum, one| DiskUsage {
        bytes: sum.bytes + one.bytes,
        inodes: sum.inodes + one.inodes,
    })
}

fn container(name: &str, started_at: Timestamp, cgroup: Option<&Cgroup>) -> ContainerStats {
    let cpu = cgroup.and_then(|cgroup| {
        let cpu = cgroup.figures.cpu.as_ref()?;
        Some(CpuStats {
            time: Time(cgroup.at),
            usage_nano_cores: cgroup.nano_cores,
            usage_core_nano_seconds: cpu.usage,
            psi: Some(cpu.pressure),
        })
    });
    let memory = cgroup.and_then(|cgroup| Some((Time(cgroup.at), cgroup.figures.memory.as_ref()?)));
    ContainerStats {
        name: name.to_owned(),
        start_time: Time(started_at),
        cpu,
        memory: memory.map(|(time, memory)| MemoryStats {
            time,
            available_bytes: memory.available(),
            usage_bytes: memory.usage,
            working_set_bytes: memory.working_set,
            rss_bytes: memory.rss,
            page_faults: memory.page_faults,
            major_page_faults: memory.major_page_faults,
            psi: Some(memory.pressure),
        }),
        swap: memory.map(|(time, memory)| SwapStats {
            time,
            swap_available_bytes: memory.swap_limit.map(|limit| limit.saturating_sub(memory.swap)),
            swap_usage_bytes: memory.swap,
        }),
        io: cgroup.and_then(io),
        rootfs: None,
        logs: None,
    }
}

fn io(cgroup: &Cgroup) -> Option<IoStats> {
    cgroup.figures.io_pressure.map(|psi| IoStats { time: Time(cgroup.at), psi })
}

fn network(interfaces: &[Interface], at: Timestamp) -> Option<NetworkStats> {
    let stats = |interface: &Interface| InterfaceStats {
        name: interface.name.clone(),
        rx_bytes: Some(interface.received.bytes),
        rx_errors: Some(interface.received.errors),
        tx_bytes: Some(interface.transmitted.bytes),
        tx_errors: Some(interface.transmitted.errors),
    };
    (!interfaces.is_empty()).then(|| NetworkStats {
        time: Time(at),
        main: network::main(interfaces).map(stats).unwrap_or_default(),
        interfaces: interfaces.iter().map(stats).collect(),
    })
}

fn rootfs(container: &Container, at: Timestamp) -> FsStats {
    let Some(layer) = &container.writable_layer else {
        return FsStats {
            time: Time(at),
            available_bytes: None,
            capacity_bytes: None,
            used_bytes: None,
            inodes_free: None,
            inodes: None,
            inodes_used: None,
        };
    };
    let fs = layer.filesystem;
    FsStats {
        time: Time(layer.at),
        available_bytes: fs.map(|fs| fs.available_bytes),
        capacity_bytes: fs.map(|fs| fs.capacity_bytes),
        used_bytes: layer.used_bytes,
        inodes_free: fs.map(|fs| fs.inodes_free),
        inodes: fs.map(|fs| fs.inodes),
        inodes_used: layer.inodes_used,
    }
}

fn runtime_filesystem(fs: &RuntimeFilesystem) -> FsStats {
    let whole = fs.filesystem.unwrap_or_default();
    FsStats { inodes_used: fs.inodes_used, ..filesystem(&whole, fs.at, Some(fs.used_bytes), None) }
}

fn volume(volume: &Volume) -> VolumeStats {
    VolumeStats {
        fs: used_of(&volume.filesystem, volume.at, volume.usage),
        name: volume.name.clone(),
        pvc_ref: volume.claim.clone(),
    }
}

fn used_of(fs: &FilesystemUsage, at: Timestamp, usage: DiskUsage) -> FsStats {
    filesystem(fs, at, Some(usage.bytes), Some(usage.inodes))
}

fn filesystem(fs: &FilesystemUsage, at: Timestamp, used_bytes: Option<u64>, inodes_used: Option<u64>) -> FsStats {
    FsStats {
        time: Time(at),
        available_bytes: Some(fs.available_bytes),
        capacity_bytes: Some(fs.capacity_bytes),
        used_bytes,
        inodes_free: Some(fs.inodes_free),
        inodes: Some(fs.inodes),
        inodes_used,
    }
}

fn taken(fs: &FilesystemUsage) -> u64 {
    fs.inodes.saturating_sub(fs.inodes_free)
}

#[cfg(test)]
#[path = "summary_tests.rs"]
pub(super) mod tests;
