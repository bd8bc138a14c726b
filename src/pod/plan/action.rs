//! What a plan asks the executor to do, and how that ends.

use std::collections::BTreeMap;

use super::backoff::BackoffPolicy;
use crate::model::pod::ContainerKind;
use crate::model::{SignedDuration, Timestamp};

/// One thing to do for a pod. Actions of one plan may run at the same time; what must wait comes in a later plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the pod's cgroup with its limits.
    CreateCgroup,
    /// Check that what the volumes need from the API is there.
    ResolveReferences,
    /// Mount the volumes, or bring their content up to date.
    MountVolumes,
    /// Make the pod's sandbox.
    CreateSandbox {
        /// 0 for the first.
        attempt: u32,
    },
    /// Stop a sandbox and all in it; its network is released.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Make a container's image present as its pull policy says.
    PullImage {
        /// The container's name.
        container: String,
        /// Its list in the spec.
        kind: ContainerKind,
        /// The image as the spec names it now.
        image: String,
    },
    /// Make the image of a volume present as its pull policy says.
    PullVolumeImage {
        /// The volume's name.
        volume: String,
    },
    /// Create and start a container.
    StartContainer(StartContainer),
    /// Run a container's hook.
    RunHook(Hook),
    /// Give a hook up that is under way: its container has ended or its time is over.
    CancelHook {
        /// The container by the runtime's id.
        id: String,
        /// The container's name.
        container: String,
        /// The hook, if it has failed by that, which an event tells.
        failed: Option<HookKind>,
    },
    /// Stop a container.
    KillContainer(KillContainer),
    /// Remove a dead container that nobody needs any more, and its log.
    RemoveContainer {
        /// The runtime's id.
        id: String,
        /// The container's name.
        container: String,
        /// Its log file; empty if that is to be kept.
        log_path: String,
    },
    /// Remove a sandbox that is no longer in use.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Unmount the pod's volumes and remove its cgroup.
    CleanUp,
    /// Remove what the runtime still holds of a pod that is gone, and its logs.
    RemoveRemains {
        /// The runtime's ids of the sandboxes, which go with their containers.
        sandboxes: Vec<String>,
        /// Those of the containers that have to go by themselves, and first: their sandbox is gone, or they never ran.
        containers: Vec<String>,
        /// The runtime has said before that it did so.
        repeated: bool,
    },
    /// Tell by an event that a container waits for its back-off.
    TellBackoff {
        /// The container's name.
        container: String,
        /// The end of the instance that waits.
        finished_at: Timestamp,
    },
    /// Tell by an event that the sandbox is made again.
    TellSandboxChanged,
    /// Tell by an event that the runtime has not ended the pod in its time.
    TellExceededGrace,
    /// Tell by an event that the pod was active for as long as it may, and let it end.
    EndByDeadline {
        /// Its grace period.
        grace: SignedDuration,
    },
}

/// A container to create and start.
#[derive(Clone, Debug, PartialEq)]
pub struct StartContainer {
    /// The container's name.
    pub container: String,
    /// Its list in the spec.
    pub kind: ContainerKind,
    /// The sandbox to make it in.
    pub sandbox_id: String,
    /// The runtime handler that the sandbox was made by.
    pub runtime_handler: String,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// How many instances there were before.
    pub restart_count: u32,
    /// The image to make it from.
    pub image: ReadyImage,
    /// The images that it mounts as volumes, by the volume's name: the reference to mount them by.
    pub image_volumes: BTreeMap<String, String>,
    /// The end of the instance that this one replaces.
    pub restart_of: Option<Timestamp>,
    /// The back-off to count the restart by.
    pub backoff: BackoffPolicy,
    /// What the back-off holds for: another image or other resources start over.
    pub backoff_key: String,
    /// Whether the container has a hook to be run once it has started.
    pub has_post_start: bool,
    /// For ephemeral containers: the container whose processes they see, by the runtime's id (`targetContainerName`).
    pub target_id: Option<String>,
}

/// Which of a container's lifecycle hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
}

/// A hook to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    /// Which one.
    pub kind: HookKind,
    /// The container by the runtime's id.
    pub id: String,
    /// The container's name.
    pub container: String,
    /// What to do.
    pub call: HookCall,
    /// For preStop: when the runtime sends SIGKILL at the latest.
    pub deadline: Timestamp,
    /// For preStop: the text of the `Killing` event.
    pub message: String,
    /// For preStop: the container is to be started again, however it ends.
    pub restart: bool,
}

/// What a hook does, ports and addresses resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum HookCall {
    /// Run a command in the container.
    Exec(Vec<String>),
    /// Make an HTTP request; any answer is a success.
    Http(HttpCall),
    /// Wait.
    Sleep(SignedDuration),
    /// It cannot be run, for that reason.
    Invalid(String),
}

/// An HTTP request of a hook. Its headers may carry secrets, so they are not shown.
#[derive(Clone, PartialEq)]
pub struct HttpCall {
    /// Whether to speak TLS; certificates are not checked.
    pub is_https: bool,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with the query.
    pub path: String,
    /// Additional headers.
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for HttpCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpCall").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// A container to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct KillContainer {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub container: String,
    /// Time from the stop signal to SIGKILL.
    pub grace: SignedDuration,
    /// The text of the `Killing` event.
    pub message: String,
    /// Whether this goes on with a stop that was told before.
    pub repeated: bool,
    /// The container is to be started again, however it ends.
    pub restart: bool,
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadyImage {
    /// The reference to create containers by.
    pub image_ref: String,
    /// The image's numeric user, if it names one.
    pub uid: Option<i64>,
    /// The image's user by name.
    pub username: String,
}

/// Why an action failed: what the API shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// A waiting reason such as `CreateContainerError`, or an event reason.
    pub reason: String,
    /// The first cause.
    pub message: String,
    /// When to try again, if the executor knows better than the plan.
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    /// A failure that the plan's own delays apply to.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Failure { reason: reason.into(), message: message.into(), retry_at: None }
    }
}

/// How an action ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Success or the first cause.
    pub result: Result<(), Failure>,
    /// For [`Action::PullImage`] and [`Action::PullVolumeImage`]: the image.
    pub image: Option<ReadyImage>,
    /// For [`Action::StartContainer`]: the container by the runtime's id.
    pub container_id: Option<String>,
    /// For [`Action::MountVolumes`]: when the content must be written again.
    pub refresh_at: Option<Timestamp>,
}

impl From<Result<(), Failure>> for Outcome {
    fn from(result: Result<(), Failure>) -> Self {
        Outcome { result, image: None, container_id: None, refresh_at: None }
    }
}

impl Action {
    /// Whether what the runtime holds of the pod is another thing after it.
    pub fn changes_runtime(&self) -> bool {
        match self {
            Action::CreateSandbox { .. }
            | Action::StopSandbox { .. }
            | Action::StartContainer(_)
            | Action::KillContainer(_)
            | Action::RemoveContainer { .. }
            | Action::RemoveSandbox { .. }
            | Action::RemoveRemains { .. } => true,
            Action::CreateCgroup
            | Action::ResolveReferences
            | Action::MountVolumes
            | Action::PullImage { .. }
            | Action::PullVolumeImage { .. }
            | Action::RunHook(_)
            | Action::CancelHook { .. }
            | Action::CleanUp
            | Action::TellBackoff { .. }
            | Action::TellSandboxChanged
            | Action::EndByDeadline { .. }
            | Action::TellExceededGrace => false,
        }
    }

    /// Whether it only tells something and is done at once.
    pub fn is_told(&self) -> bool {
        matches!(
            self,
            Action::TellBackoff { .. }
                | Action::TellSandboxChanged
                | Action::TellExceededGrace
                | Action::EndByDeadline { .. }
                | Action::CancelHook { .. }
        )
    }

    /// Whether it removes what is no longer needed.
    pub fn is_cleaning(&self) -> bool {
        matches!(
            self,
            Action::RemoveContainer { .. }
                | Action::RemoveSandbox { .. }
                | Action::CleanUp
                | Action::RemoveRemains { .. }
        )
    }

    /// Whether it makes an image present.
    pub fn is_pull(&self) -> bool {
        matches!(self, Action::PullImage { .. } | Action::PullVolumeImage { .. })
    }

    /// Whether it may be dropped halfway when the pod must end: it leaves nothing that would not be cleaned up.
    pub fn is_cancellable(&self) -> bool {
        self.is_pull() || matches!(self, Action::ResolveReferences)
    }
}
