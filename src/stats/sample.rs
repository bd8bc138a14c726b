//! What was read at one time: plain values from which every answer is made.

use std::collections::BTreeMap;

use crate::model::Timestamp;
use crate::model::pod::PodKey;
use crate::sys::disk_usage::DiskUsage;
use crate::sys::filesystem::FilesystemUsage;
use crate::sys::machine::ProcessLimits;

use super::api::ClaimReference;
use super::figures::{Figures, Transfer};
use super::network::Interface;
use super::pressure::Pressure;

/// Everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// The root of the cgroup tree: the whole machine.
    pub root: Cgroup,
    /// Parts of the system by the names that the summary gives them.
    pub system: Vec<(&'static str, Cgroup)>,
    /// Cgroups between the root and the pods, which only `/metrics/cadvisor` shows.
    pub inner: Vec<Cgroup>,
    /// Pods of which something runs.
    pub pods: Vec<Pod>,
    /// The node's interfaces.
    pub interfaces: Vec<Interface>,
    /// The file system of the root directory; none if it cannot be measured, or was not asked for.
    pub root_fs: Option<FilesystemUsage>,
    /// The device that it is on.
    pub root_device: String,
    /// Where images are.
    pub image_fs: Option<RuntimeFilesystem>,
    /// Where writable layers are.
    pub container_fs: Option<RuntimeFilesystem>,
    /// Processes of the machine.
    pub process_limits: Option<ProcessLimits>,
    /// Block devices by number.
    pub devices: BTreeMap<(u32, u32), String>,
    /// Whether the kernel counts stalls by cgroup.
    pub has_pressure: bool,
}

impl Sample {
    /// The device that a transfer went to or came from; empty if it has no name.
    pub fn device(&self, transfer: &Transfer) -> &str {
        self.devices.get(&(transfer.major, transfer.minor)).map(String::as_str).unwrap_or_default()
    }
}

/// A cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// From the root of the hierarchy.
    pub path: String,
    /// When it was read.
    pub at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it uses.
    pub figures: Figures,
    /// Nanocores of the last seconds.
    pub nano_cores: Option<u64>,
    /// Its own processes.
    pub processes: Processes,
}

impl Cgroup {
    pub(super) fn cpu_pressure(&self) -> Option<Pressure> {
        self.figures.cpu.as_ref().map(|cpu| cpu.pressure)
    }

    pub(super) fn memory_pressure(&self) -> Option<Pressure> {
        self.figures.memory.as_ref().map(|memory| memory.pressure)
    }

    pub(super) fn io_pressure(&self) -> Option<Pressure> {
        self.figures.io_pressure
    }
}

/// The processes of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// How many.
    pub count: u64,
    /// Files that they have open.
    pub descriptors: u64,
    /// Those of them that are sockets.
    pub sockets: u64,
    /// Files that the first of them may open; -1 without a limit. None if not asked for.
    pub open_files_limit: Option<i64>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Which one.
    pub key: PodKey,
    /// When its sandbox was made.
    pub created_at: Timestamp,
    /// Its cgroup; none if it has none.
    pub cgroup: Option<Cgroup>,
    /// The sandbox's id and cgroup.
    pub sandbox: Option<(String, Cgroup)>,
    /// Its running containers.
    pub containers: Vec<Container>,
    /// The interfaces of its network namespace.
    pub interfaces: Vec<Interface>,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// Logs of the pod itself.
    pub logs: Option<DiskUsage>,
    /// The file that containers see as /etc/hosts.
    pub hosts_file: Option<DiskUsage>,
}

/// A running container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its name in the pod spec.
    pub name: String,
    /// Its image by the pod spec.
    pub image: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its cgroup; none if it is not found.
    pub cgroup: Option<Cgroup>,
    /// Its writable layer, as the runtime tells.
    pub writable_layer: Option<WritableLayer>,
    /// Its logs.
    pub logs: Option<DiskUsage>,
}

/// A container's writable layer.
#[derive(Clone, Debug, PartialEq)]
pub struct WritableLayer {
    /// When the runtime measured it.
    pub at: Timestamp,
    /// Bytes.
    pub used_bytes: Option<u64>,
    /// Files.
    pub inodes_used: Option<u64>,
    /// The file system that it is on.
    pub filesystem: Option<FilesystemUsage>,
    /// The device of that; empty if it was not asked for or has no name.
    pub device: String,
}

/// A file system of the runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeFilesystem {
    /// When the runtime measured it.
    pub at: Timestamp,
    /// What the runtime takes of it.
    pub used_bytes: u64,
    /// Files of the runtime.
    pub inodes_used: Option<u64>,
    /// All of it.
    pub filesystem: Option<FilesystemUsage>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its name in the pod.
    pub name: String,
    /// When it was measured.
    pub at: Timestamp,
    /// What is in it.
    pub usage: DiskUsage,
    /// The file system that it is on.
    pub filesystem: FilesystemUsage,
    /// The claim that it stands for.
    pub claim: Option<ClaimReference>,
    /// Whether it counts as the pod's local storage.
    pub is_local: bool,
}
