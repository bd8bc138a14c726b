//! What a pod worker remembers between two plans: steps under way and how they ended, back-off, the grace period in force.
//!
//! Pure values. [`PodMemory::note_pod`], [`PodMemory::note_started`] and [`PodMemory::note_outcome`] are the only ways in
//! which it changes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::action::{Action, Failure, Hook, HookKind, Outcome, ReadyImage, StartContainer};
use super::backoff::Backoff;
use super::node_end::NodeEnd;
use super::phases::PodPhases;
use super::termination::{self, Termination};
use crate::model::observation::PodObservation;
use crate::model::pod;
use crate::model::{SignedDuration, Timestamp};
use crate::runtime::translate::backoff_key;

/// Volumes are not refreshed sooner than this after they were mounted: a token that cannot be renewed while the API server is
/// away is due all the time, and so is every token where the node's clock is far ahead of the server's. The peer's interval
/// of syncs (`syncFrequency`).
const REFRESH_PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// One thing that must be done for the pod, possibly several times until it succeeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Step {
    /// Not begun.
    #[default]
    Idle,
    /// Under way; how often it failed before.
    Running {
        /// Failed attempts so far.
        attempts: u32,
    },
    /// Succeeded.
    Done,
    /// Succeeded, for what is begun again where it turns out to have had no effect.
    Ended {
        /// When.
        at: Timestamp,
        /// Attempts, this one included.
        attempts: u32,
    },
    /// Failed; it is tried again later.
    Failed(StepFailure),
}

/// How a step failed.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFailure {
    /// Reason and message for the status.
    pub failure: Failure,
    /// When.
    pub at: Timestamp,
    /// Failed attempts, this one included.
    pub attempts: u32,
}

/// When a step that failed, or had no effect, is tried again: `first` after the first failure, doubling up to `max`.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Delay after the first attempt.
    pub first: SignedDuration,
    /// Longest delay.
    pub max: SignedDuration,
}

impl RetryPolicy {
    /// The delay after that many attempts.
    pub fn delay(&self, attempts: u32) -> SignedDuration {
        let factor = 1i32.checked_shl(attempts.saturating_sub(1).min(20)).unwrap_or(i32::MAX);
        self.first.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }
}

/// Whether a step may be begun.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Due {
    /// At once.
    Now,
    /// At that time.
    At(Timestamp),
    /// It runs or has succeeded.
    No,
}

impl Due {
    /// At that time, or at once if it has come.
    pub fn from(at: Timestamp, now: Timestamp) -> Self {
        if at <= now { Due::Now } else { Due::At(at) }
    }
}

impl Step {
    /// Whether it has succeeded.
    pub fn is_done(&self) -> bool {
        matches!(self, Step::Done)
    }

    /// Whether it is under way.
    pub fn is_running(&self) -> bool {
        matches!(self, Step::Running { .. })
    }

    /// Whether it is under way after it has failed.
    pub fn is_tried_again(&self) -> bool {
        matches!(self, Step::Running { attempts } if *attempts > 0)
    }

    /// How it failed, while it waits for its next attempt.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Step::Failed(failed) => Some(&failed.failure),
            _ => None,
        }
    }

    /// Whether it should be begun now, later or not.
    pub fn due(&self, now: Timestamp, policy: &RetryPolicy) -> Due {
        match self {
            Step::Idle => Due::Now,
            Step::Running { .. } | Step::Done => Due::No,
            Step::Ended { at, attempts } => Due::from(later(*at, policy.delay(*attempts)), now),
            Step::Failed(failed) => {
                let at = failed.failure.retry_at.unwrap_or_else(|| later(failed.at, policy.delay(failed.attempts)));
                Due::from(at, now)
            }
        }
    }

    fn begin(&mut self) {
        let attempts = match self {
            Step::Failed(failed) => failed.attempts,
            Step::Running { attempts } | Step::Ended { attempts, .. } => *attempts,
            Step::Idle | Step::Done => 0,
        };
        *self = Step::Running { attempts };
    }

    fn end(&mut self, result: Result<Step, Failure>, now: Timestamp) {
        let attempts = match self {
            Step::Running { attempts } => *attempts,
            _ => 0,
        };
        *self = match result {
            Ok(next) => next,
            Err(failure) => Step::Failed(StepFailure { failure, at: now, attempts: attempts.saturating_add(1) }),
        };
    }

    /// The end of what may have to be done again.
    fn end_unsure(&mut self, result: Result<(), Failure>, now: Timestamp) {
        let attempts = match self {
            Step::Running { attempts } => attempts.saturating_add(1),
            _ => 1,
        };
        self.end(result.map(|()| Step::Ended { at: now, attempts }), now);
    }

    /// Lets a failed step be tried again at once: something that it depends on has changed.
    fn expedite(&mut self, now: Timestamp) {
        if let Step::Failed(failed) = self {
            failed.failure.retry_at = Some(now);
        }
    }
}

/// Sandboxes that follow each other faster than this do not live as they should.
const SHORT_LIFE: SignedDuration = SignedDuration::from_mins(1);

pub(super) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// What is remembered of one container of the pod spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerMemory {
    /// Making the image present.
    pub image: Step,
    /// The image that `image` is about, as the spec named it.
    pub image_name: String,
    /// The image, once present; used up by a start.
    pub ready_image: Option<ReadyImage>,
    /// Creating and starting the container.
    pub start: Step,
    /// Crash-loop back-off.
    pub backoff: Backoff,
    /// What the back-off holds for.
    pub backoff_key: String,
    /// The end of the instance whose back-off event was sent.
    pub backoff_told_for: Option<Timestamp>,
    /// The hook after its last start, if it has one.
    pub post_start: Option<PostStart>,
    /// The instance that was stopped to be started again.
    pub restarted: Option<String>,
}

/// What is remembered of a volume that is an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeImage {
    /// Making the image present.
    pub step: Step,
    /// The reference to mount it by, once present.
    pub image_ref: Option<String>,
    /// The containers that were started with it since it was asked for.
    pub used_by: BTreeSet<String>,
}

/// A postStart hook of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct PostStart {
    /// The container by the runtime's id.
    pub container_id: String,
    /// The pod's address when the container was started; none with the host's network.
    pub pod_ip: Option<String>,
    /// Running it.
    pub step: Step,
}

/// A stop of a container under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// When the runtime sends SIGKILL at the latest.
    pub deadline: Timestamp,
    /// The preStop hook, if the container has one. However it ends, the stop goes on: it never fails.
    pub pre_stop: Step,
    /// The stop itself.
    pub step: Step,
    /// The text of its event.
    pub message: String,
    /// The container is to be started again, however it ends.
    pub restart: bool,
}

impl Kill {
    fn until(deadline: Timestamp, message: &str, restart: bool) -> Self {
        Kill { deadline, pre_stop: Step::Idle, step: Step::Idle, message: message.to_owned(), restart }
    }
}

/// All that a pod worker remembers.
#[derive(Clone, Debug, PartialEq)]
pub struct PodMemory {
    /// When the agent first saw the pod: `status.startTime` of a pod without one.
    pub first_seen: Timestamp,
    /// The pod left its source: deleted by force, or an orphan that no source knows.
    pub removed: bool,
    /// Set once the pod must end; never unset.
    pub termination: Option<Termination>,
    /// Why the node itself ends the pod, if it does.
    pub node_end: Option<NodeEnd>,
    /// It was told that the pod's end takes too long.
    pub told_exceeded_grace: bool,
    /// The pod's cgroup.
    pub cgroup: Step,
    /// The objects that its volumes need.
    pub references: Step,
    /// Its volumes.
    pub volumes: Step,
    /// The volumes were mounted once; a refresh that fails does not undo that.
    pub volumes_mounted: bool,
    /// The volumes' content may be out of date.
    pub volumes_stale: bool,
    /// When the volumes must be written again (tokens).
    pub volumes_refresh_at: Option<Timestamp>,
    /// Making the sandbox.
    pub sandbox: Step,
    /// When the last sandbox was made, and how many before it came in close succession.
    pub sandbox_made: Option<(Timestamp, u32)>,
    /// Sandboxes being stopped.
    pub sandbox_stops: BTreeMap<String, Step>,
    /// Containers by name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// The volumes that are images, by name.
    pub volume_images: BTreeMap<String, VolumeImage>,
    /// Stops by container id.
    pub kills: BTreeMap<String, Kill>,
    /// Dead containers and sandboxes being removed, by id.
    pub removals: BTreeMap<String, Step>,
    /// Unmounting and removing the cgroup.
    pub clean_up: Step,
    /// Removing sandboxes, containers and logs.
    pub remains: Step,
    /// When it reached each stage of its start.
    pub phases: PodPhases,
    /// The status that the next one is derived from.
    pub status: PodStatus,
    /// How often containers of a static pod were started before it was put back, by name.
    pub earlier_starts: BTreeMap<String, u32>,
}

/// How often a container was started as its status tells. What is waiting has been counted already, but for a first end after
/// which nothing could be started yet.
pub(super) fn starts(status: &ContainerStatus) -> u32 {
    let count = u32::try_from(status.restart_count).unwrap_or(0);
    let ran = status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    let has_ended_once = status.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    if ran { count.saturating_add(1) } else { count.max(u32::from(has_ended_once)) }
}

impl PodMemory {
    /// The memory of a pod that was just seen.
    pub fn new(pod: &Pod, now: Timestamp) -> Self {
        let mut memory = PodMemory {
            first_seen: now,
            removed: false,
            termination: None,
            node_end: None,
            told_exceeded_grace: false,
            cgroup: Step::Idle,
            references: Step::Idle,
            volumes: Step::Idle,
            volumes_mounted: false,
            volumes_stale: false,
            volumes_refresh_at: None,
            sandbox: Step::Idle,
            sandbox_made: None,
            sandbox_stops: BTreeMap::new(),
            containers: BTreeMap::new(),
            volume_images: BTreeMap::new(),
            kills: BTreeMap::new(),
            removals: BTreeMap::new(),
            clean_up: Step::Idle,
            remains: Step::Idle,
            phases: PodPhases::new(pod, now),
            status: pod.status.clone().unwrap_or_default(),
            earlier_starts: BTreeMap::new(),
        };
        memory.note_pod(pod, None, now);
        memory.note_told_backoff(pod);
        memory
    }

    /// Goes on with the back-off that an earlier agent has told of.
    fn note_told_backoff(&mut self, pod: &Pod) {
        let Some(status) = &pod.status else { return };
        let told = [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
        for (told, backoff) in told.filter_map(|told| Some((told, Backoff::told_by(told)?))) {
            if let Some((_, container)) = pod::container_by_name(pod::spec(pod), &told.name) {
                let memory = self.container_mut(&told.name);
                memory.backoff = backoff;
                memory.backoff_key = backoff_key(pod, &container);
            }
        }
    }

    /// The memory of something that the runtime or the disk holds and no source knows: it only has to end.
    pub fn of_orphan(now: Timestamp) -> Self {
        let mut memory = PodMemory::new(&Pod::default(), now);
        memory.removed = true;
        memory.termination = Some(Termination::of_orphan(now));
        memory
    }

    /// Takes in the mirror that an earlier life of a static pod has left. Nothing else may tell of that any more, and the
    /// restart counts go on from there.
    pub fn note_mirror(&mut self, mirror: &Pod) {
        let Some(status) = &mirror.status else { return };
        for container in [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten() {
            self.earlier_starts.insert(container.name.clone(), starts(container));
        }
    }

    /// Takes in a new state of the pod object.
    pub fn note_pod(&mut self, pod: &Pod, previous: Option<&Pod>, now: Timestamp) {
        let terminal = pod::phase(pod).is_some_and(pod::is_terminal_phase);
        if pod::is_deleting(pod) || terminal {
            self.shrink_grace(termination::requested_grace(pod), now);
        }
        if let Some(previous) = previous
            && (previous.metadata.labels != pod.metadata.labels
                || previous.metadata.annotations != pod.metadata.annotations)
        {
            self.volumes_stale = true;
        }
        if let (Some(api), false) =
            (pod.status.as_ref(), self.status.phase.as_deref().is_some_and(pod::is_terminal_phase))
            && terminal
        {
            self.status.phase.clone_from(&api.phase);
        }
    }

    /// A status is about to be published. Returns whether that is the first in which the pod is Ready.
    pub fn note_status(&mut self, status: &PodStatus, now: Timestamp) -> bool {
        self.status.clone_from(status);
        self.phases.note_status(status, now)
    }

    /// The pod is gone from its source.
    pub fn note_removed(&mut self, pod: &Pod, now: Timestamp) {
        self.removed = true;
        self.shrink_grace(termination::requested_grace(pod), now);
    }

    /// All that the pod had to do is done; what still runs of it must end.
    pub fn note_completed(&mut self, pod: &Pod, now: Timestamp) {
        self.shrink_grace(termination::requested_grace(pod), now);
    }

    /// The node itself ends the pod. The first reason stays, and none comes after a terminal phase.
    pub fn note_node_end(&mut self, end: &NodeEnd, pod: &Pod, now: Timestamp) {
        self.end_by_node(end, termination::requested_grace(pod), now);
    }

    fn end_by_node(&mut self, end: &NodeEnd, grace: SignedDuration, now: Timestamp) {
        let has_ended = self.status.phase.as_deref().is_some_and(pod::is_terminal_phase);
        if self.node_end.is_none() && !has_ended {
            self.node_end = Some(end.clone());
        }
        self.shrink_grace(grace, now);
    }

    fn shrink_grace(&mut self, grace: SignedDuration, now: Timestamp) {
        match &mut self.termination {
            None => self.termination = Some(Termination::new(grace, now)),
            Some(termination) => termination.shrink(grace, now),
        }
    }

    /// An object that the pod refers to has changed: refresh its volumes, and try again what failed.
    pub fn note_references_changed(&mut self, now: Timestamp) {
        self.volumes_stale = true;
        self.references.expedite(now);
        self.volumes.expedite(now);
        for container in self.containers.values_mut() {
            container.start.expedite(now);
        }
    }

    /// An action is about to be carried out.
    pub fn note_started(&mut self, action: &Action, now: Timestamp) {
        match action {
            Action::CreateCgroup => self.cgroup.begin(),
            Action::ResolveReferences => self.references.begin(),
            Action::MountVolumes => {
                self.volumes_stale = false;
                self.volumes_refresh_at = None;
                self.volumes.begin();
            }
            Action::CreateSandbox { .. } => self.sandbox.begin(),
            Action::StopSandbox { id } => self.sandbox_stops.entry(id.clone()).or_default().begin(),
            Action::PullImage { container, image, .. } => {
                let memory = self.container_mut(container);
                if memory.image_name != *image {
                    memory.image = Step::Idle;
                    memory.image_name.clone_from(image);
                }
                memory.image.begin();
            }
            Action::PullVolumeImage { volume } => {
                let image = self.volume_images.entry(volume.clone()).or_default();
                image.step.begin();
                image.used_by.clear();
            }
            Action::StartContainer(start) => {
                let memory = self.containers.entry(start.container.clone()).or_default();
                memory.start.begin();
                if memory.backoff_key != start.backoff_key {
                    memory.backoff = Backoff::default();
                    memory.backoff_key.clone_from(&start.backoff_key);
                }
                if let Some(finished_at) = start.restart_of {
                    memory.backoff.note_restart(finished_at, now, &start.backoff);
                }
            }
            Action::KillContainer(kill) => {
                let deadline = later(now, kill.grace);
                let entry = self
                    .kills
                    .entry(kill.id.clone())
                    .or_insert_with(|| Kill::until(deadline, &kill.message, kill.restart));
                entry.deadline = deadline;
                entry.step.begin();
                if kill.restart {
                    self.container_mut(&kill.container).restarted = Some(kill.id.clone());
                }
            }
            Action::RunHook(hook) => self.note_hook_started(hook),
            Action::CancelHook { id, container, .. } => {
                for step in self.hook_steps(id, container).filter(|step| step.is_running()) {
                    *step = Step::Done;
                }
            }
            Action::RemoveContainer { id, .. } | Action::RemoveSandbox { id } => {
                self.removals.entry(id.clone()).or_default().begin();
            }
            Action::CleanUp => self.clean_up.begin(),
            Action::RemoveRemains { .. } => self.remains.begin(),
            Action::TellBackoff { container, finished_at } => {
                self.container_mut(container).backoff_told_for = Some(*finished_at);
            }
            Action::TellSandboxChanged => {}
            Action::TellExceededGrace => self.told_exceeded_grace = true,
            Action::EndByDeadline { grace } => self.end_by_node(&NodeEnd::deadline_exceeded(), *grace, now),
        }
    }

    /// An action has ended. Returns whether the runtime must be read again before anything is planned.
    pub fn note_outcome(&mut self, action: &Action, outcome: Outcome, now: Timestamp) -> bool {
        let result = outcome.result;
        if result.is_ok() {
            self.phases.note(action, now);
        }
        match action {
            Action::CreateCgroup => self.cgroup.end(result.map(|()| Step::Done), now),
            Action::ResolveReferences => self.references.end(result.map(|()| Step::Done), now),
            Action::MountVolumes => {
                let refresh_at = outcome.refresh_at.map(|at| at.max(now.saturating_add(REFRESH_PAUSE).unwrap_or(at)));
                self.volumes_refresh_at = refresh_at.or(self.volumes_refresh_at);
                self.volumes_mounted |= result.is_ok();
                self.volumes.end(result.map(|()| Step::Done), now);
            }
            Action::CreateSandbox { .. } => {
                if result.is_ok() {
                    let streak = match self.sandbox_made {
                        Some((at, streak)) if now.duration_since(at) < SHORT_LIFE => streak.saturating_add(1),
                        _ => 1,
                    };
                    self.sandbox_made = Some((now, streak));
                }
                self.sandbox.end(result.map(|()| Step::Idle), now);
            }
            Action::StopSandbox { id } => {
                if let Some(step) = self.sandbox_stops.get_mut(id) {
                    step.end_unsure(result, now);
                }
            }
            Action::PullImage { container, .. } => {
                let memory = self.container_mut(container);
                memory.ready_image = outcome.image;
                memory.image.end(result.map(|()| Step::Done), now);
            }
            Action::PullVolumeImage { volume } => {
                if let Some(memory) = self.volume_images.get_mut(volume) {
                    memory.image_ref = outcome.image.map(|image| image.image_ref);
                    memory.step.end(result.map(|()| Step::Done), now);
                }
            }
            Action::StartContainer(start) => {
                self.note_volumes_used(start, result.is_ok());
                let memory = self.container_mut(&start.container);
                // Each start asks for the image again: the policy may want a pull, and it may be gone.
                memory.image = Step::Idle;
                memory.ready_image = None;
                memory.post_start = outcome
                    .container_id
                    .filter(|_| start.has_post_start && result.is_ok())
                    .map(|id| PostStart { container_id: id, pod_ip: start.pod_ips.first().cloned(), step: Step::Idle });
                memory.start.end(result.map(|()| Step::Idle), now);
            }
            Action::RunHook(hook) => self.note_hook_ended(hook, result, now),
            Action::KillContainer(kill) => {
                if let Some(entry) = self.kills.get_mut(&kill.id) {
                    entry.step.end_unsure(result, now);
                }
            }
            Action::RemoveContainer { id, .. } | Action::RemoveSandbox { id } => {
                if let Some(step) = self.removals.get_mut(id) {
                    step.end(result.map(|()| Step::Done), now);
                }
            }
            Action::CleanUp => self.clean_up.end(result.map(|()| Step::Done), now),
            Action::RemoveRemains { .. } => self.remains.end_unsure(result, now),
            Action::TellBackoff { .. }
            | Action::TellSandboxChanged
            | Action::TellExceededGrace
            | Action::EndByDeadline { .. }
            | Action::CancelHook { .. } => {}
        }
        action.changes_runtime()
    }

    /// A container was started with the images of volumes, or was not, for which they may be the cause.
    fn note_volumes_used(&mut self, start: &StartContainer, is_started: bool) {
        for volume in start.image_volumes.keys() {
            match self.volume_images.get_mut(volume) {
                Some(image) if is_started => _ = image.used_by.insert(start.container.clone()),
                Some(image) if image.step.is_done() => image.step = Step::Idle,
                _ => {}
            }
        }
    }

    fn note_hook_started(&mut self, hook: &Hook) {
        match hook.kind {
            HookKind::PostStart => {
                if let Some(post_start) = self.post_start_mut(&hook.container, &hook.id) {
                    post_start.step.begin();
                }
            }
            HookKind::PreStop => {
                let kill = || Kill::until(hook.deadline, &hook.message, hook.restart);
                let entry = self.kills.entry(hook.id.clone()).or_insert_with(kill);
                entry.pre_stop.begin();
                if hook.restart {
                    self.container_mut(&hook.container).restarted = Some(hook.id.clone());
                }
            }
        }
    }

    /// A hook that was given up before it ended has nothing more to tell.
    fn note_hook_ended(&mut self, hook: &Hook, result: Result<(), Failure>, now: Timestamp) {
        match hook.kind {
            HookKind::PostStart => {
                if let Some(post_start) = self.post_start_mut(&hook.container, &hook.id)
                    && post_start.step.is_running()
                {
                    post_start.step.end(result.map(|()| Step::Done), now);
                }
            }
            HookKind::PreStop => {
                if let Some(kill) = self.kills.get_mut(&hook.id) {
                    kill.pre_stop = Step::Done;
                }
            }
        }
    }

    fn post_start_mut(&mut self, container: &str, id: &str) -> Option<&mut PostStart> {
        self.containers.get_mut(container)?.post_start.as_mut().filter(|hook| hook.container_id == id)
    }

    fn hook_steps(&mut self, id: &str, container: &str) -> impl Iterator<Item = &mut Step> {
        let post_start = self.containers.get_mut(container).and_then(|c| c.post_start.as_mut());
        let post_start = post_start.filter(|hook| hook.container_id == id).map(|hook| &mut hook.step);
        let pre_stop = self.kills.get_mut(id).map(|kill| &mut kill.pre_stop);
        post_start.into_iter().chain(pre_stop)
    }

    /// The postStart hook of that very instance.
    pub fn post_start(&self, container: &str, id: &str) -> Option<&PostStart> {
        self.containers.get(container)?.post_start.as_ref().filter(|hook| hook.container_id == id)
    }

    /// Whether a postStart hook has yet to end: nothing else of the pod is started before.
    pub fn is_post_start_pending(&self) -> bool {
        let hooks = self.containers.values().filter_map(|c| c.post_start.as_ref());
        hooks.into_iter().any(|hook| matches!(hook.step, Step::Idle | Step::Running { .. }))
    }

    fn container_mut(&mut self, name: &str) -> &mut ContainerMemory {
        if !self.containers.contains_key(name) {
            self.containers.insert(name.to_owned(), ContainerMemory::default());
        }
        self.containers.entry(name.to_owned()).or_default()
    }

    /// What is remembered of the container.
    pub fn container(&self, name: &str) -> Option<&ContainerMemory> {
        self.containers.get(name)
    }

    /// Whether an action that changes the runtime's state of this pod is under way.
    pub fn is_runtime_busy(&self) -> bool {
        self.sandbox.is_running()
            || self.sandbox_stops.values().any(Step::is_running)
            || self.containers.values().any(|c| c.start.is_running())
            || self.remains.is_running()
    }

    /// Drops what is remembered of containers and sandboxes that no longer exist.
    pub fn forget_gone(&mut self, observed: &PodObservation) {
        self.kills.retain(|id, kill| {
            let under_way = kill.step.is_running() || kill.pre_stop.is_running();
            under_way || observed.containers.iter().any(|c| c.id == *id)
        });
        self.removals.retain(|id, step| {
            step.is_running()
                || observed.containers.iter().any(|c| c.id == *id)
                || observed.sandboxes.iter().any(|s| s.id == *id)
        });
        self.sandbox_stops.retain(|id, step| step.is_running() || observed.sandboxes.iter().any(|s| s.id == *id));
    }
}
