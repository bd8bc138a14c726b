//! What the runtime says of a pod, as plain values: the input of every decision about it.

use std::collections::BTreeMap;

use super::Timestamp;

/// All that the runtime holds of one pod, sandboxes and containers newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodObservation {
    /// Sandboxes by attempt, then creation, newest first. The first is the pod's sandbox; others are left-overs.
    pub sandboxes: Vec<SandboxObservation>,
    /// Containers of all sandboxes by creation, newest first.
    pub containers: Vec<ContainerObservation>,
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxObservation {
    /// The runtime's id.
    pub id: String,
    /// Counted up each time the pod's sandbox is made again.
    pub attempt: u32,
    /// Creation time.
    pub created_at: Timestamp,
    /// Whether the runtime calls it ready.
    pub ready: bool,
    /// The pod's addresses, primary first; empty with the host's network.
    pub ips: Vec<String>,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// The runtime handler it was made by; empty for the default one.
    pub runtime_handler: String,
}

/// One container, or one that was.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerObservation {
    /// The runtime's id.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// The container's name in the pod spec.
    pub name: String,
    /// Its restart count when it was made (annotation `io.kubernetes.container.restartCount`, else the CRI attempt).
    pub restart_count: u32,
    /// Annotation `io.kubernetes.container.hash`.
    pub hash: String,
    /// Creation time.
    pub created_at: Timestamp,
    /// Running, exited and so on.
    pub state: ContainerState,
    /// The image by the name that the runtime shows.
    pub image: String,
    /// The image's reference (digest or id), the API's `imageID`.
    pub image_ref: String,
    /// Resources in force, where the runtime tells.
    pub resources: Option<ObservedResources>,
    /// User and groups of the first process, where the runtime tells.
    pub user: Option<ObservedUser>,
    /// The signal that stops it, in the API's spelling, if the runtime tells it.
    pub stop_signal: Option<String>,
    /// The container's CRI annotations: what survives a restart of the agent.
    pub annotations: BTreeMap<String, String>,
    /// Absolute path of its log file.
    pub log_path: String,
}

/// A container's state as CRI gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Running since then.
    Running {
        /// When it was started.
        started_at: Timestamp,
    },
    /// It ended.
    Exited(Exit),
    /// The runtime does not know.
    Unknown,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// When it was started; none if it never was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Exit code; 128 + n for signal n.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` and so on.
    pub reason: String,
    /// The termination message: the runtime's message and what the container left in its termination message file.
    pub message: String,
}

/// CPU and memory settings that the runtime reports for a running container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedResources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds; 0 or less is none.
    pub cpu_quota: i64,
    /// CPU shares (cgroup v1 scale).
    pub cpu_shares: i64,
    /// Memory limit, bytes; 0 is none.
    pub memory_limit_bytes: i64,
}

/// Identity of a container's first process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedUser {
    /// User id.
    pub uid: i64,
    /// Primary group id.
    pub gid: i64,
    /// Supplemental groups.
    pub supplemental_groups: Vec<i64>,
}

impl PodObservation {
    /// The pod's sandbox: the newest one.
    pub fn sandbox(&self) -> Option<&SandboxObservation> {
        self.sandboxes.first()
    }

    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&ContainerObservation> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// All instances of that name, newest first.
    pub fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerObservation> {
        self.containers.iter().filter(move |c| c.name == name)
    }

    /// Whether anything of the pod may run: a container that has not ended, or a ready sandbox.
    pub fn is_anything_running(&self) -> bool {
        self.containers.iter().any(|c| c.state.may_run()) || self.sandboxes.iter().any(|s| s.ready)
    }
}

impl ContainerState {
    /// Whether a process of the container may exist now. `Created` holds none; `Unknown` must be taken as running.
    pub fn may_run(&self) -> bool {
        matches!(self, ContainerState::Running { .. } | ContainerState::Unknown)
    }
}
