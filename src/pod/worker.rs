//! One task per pod UID and one loop: wait until something changed or the plan's time came, take the newest of every input,
//! plan, begin what the plan asks for, publish the status.
//!
//! The loop is level-triggered: a lost event costs latency, never correctness. It never plans from a view of the runtime
//! that is older than its own last action.
//!
//! Task: [`Worker::run`]; inputs: the pod object and removal (a `watch` of [`WorkerInput`]), hints that the runtime or an
//! object changed; outputs: actions to the [`Executor`], statuses to the [`StatusWriter`]; ends when the plan says that
//! nothing is left to do, or at its token, leaving actions under way to be dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::census::Place;
use super::executor::{Executed, Executor, PodContext};
use super::list::PodList;
use super::measures::Measures;
use super::mirror;
use super::plan::{self, Action, Failure, NodeEnd, NodeFacts, Outcome, Plan, PlanInput, PodMemory};
use super::status_writer::{StatusUpdate, StatusWriter};
use crate::model::clock;
use crate::model::observation::PodObservation;
use crate::model::pod::{self, PodKey, PodUid};
use crate::model::probe_results::ProbeResults;
use crate::probe::PodProbes;
use crate::volume::MountedVolumes;

/// How long to wait before the runtime is asked again after it failed to answer.
const OBSERVE_RETRY: Duration = Duration::from_secs(1);

/// The newest of what the sources say of a pod.
#[derive(Clone, Debug)]
pub(super) struct WorkerInput {
    pub pod: Arc<Pod>,
    /// The pod is gone from its source.
    pub removed: bool,
    /// What the API has by the name of a static pod.
    pub mirror: Option<Arc<Pod>>,
    /// Why the node itself ends the pod.
    pub node_end: Option<NodeEnd>,
}

/// The manager's end of a worker.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub input: watch::Sender<WorkerInput>,
    /// The runtime may hold another state of the pod.
    pub runtime_changed: Arc<Notify>,
    /// An object that the pod refers to has changed.
    pub references_changed: Arc<Notify>,
    stopped: Arc<AtomicBool>,
}

impl WorkerHandle {
    /// Whether nothing of the pod can run any more.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

enum Ended {
    Action(Executed),
    Observation { epoch: u64, result: Result<PodObservation, String> },
}

/// One pod's loop.
pub(super) struct Worker {
    key: PodKey,
    input: watch::Receiver<WorkerInput>,
    runtime_changed: Arc<Notify>,
    references_changed: Arc<Notify>,
    executor: Arc<Executor>,
    status_writer: Option<StatusWriter>,
    node: watch::Receiver<NodeFacts>,
    list: PodList,
    probes: PodProbes,

    pod: Arc<Pod>,
    /// What the API has by the name of a static pod.
    mirror: Option<Arc<Pod>>,
    memory: PodMemory,
    observed: Option<PodObservation>,
    /// Counts the ended actions that changed the runtime; an observation begun before the last of them is worthless.
    epoch: u64,
    /// The worker itself has changed the runtime since it was read: nothing may be planned from that any more.
    stale: bool,
    /// Somebody else may have changed the runtime since: worth another look, and no reason to stop planning.
    hinted: bool,
    observing: bool,
    observing_fails: bool,
    observe_again_at: Option<tokio::time::Instant>,
    tasks: JoinSet<Ended>,
    actions: HashMap<Id, (Action, AbortHandle)>,
    volumes: Option<Arc<MountedVolumes>>,
    /// Ends a start between its two calls once the pod must end.
    ending: CancellationToken,
    /// Nothing of the pod can run any more.
    stopped: Arc<AtomicBool>,
    /// Whom to tell that it is so.
    freed: Arc<Notify>,
    /// What was published last: the status, and whether the pod may be deleted.
    published: Option<(Arc<PodStatus>, bool)>,
    measures: Measures,
    place: Place,
}

/// What a worker is made from.
pub(super) struct WorkerParts {
    pub executor: Arc<Executor>,
    pub status_writer: Option<StatusWriter>,
    pub node: watch::Receiver<NodeFacts>,
    /// Shows the pod's newest status.
    pub list: PodList,
    pub probes: PodProbes,
    /// What the runtime is known to hold of the pod; none if it must be asked.
    pub observed: Option<PodObservation>,
    /// No source knows the pod.
    pub orphan: bool,
    /// What the API has by the name of a static pod.
    pub mirror: Option<Arc<Pod>>,
    /// Why the node ends the pod at once.
    pub node_end: Option<NodeEnd>,
    /// Told when nothing of the pod can run any more.
    pub freed: Arc<Notify>,
}

impl Worker {
    /// A worker and the handle to it.
    pub fn new(pod: Arc<Pod>, parts: WorkerParts) -> (Self, WorkerHandle) {
        let now = clock::now();
        let mut memory = if parts.orphan { PodMemory::of_orphan(now) } else { PodMemory::new(&pod, now) };
        if let Some(mirror) = parts.mirror.as_ref().filter(|mirror| mirror::shows(mirror, &pod)) {
            memory.note_mirror(mirror);
        }
        if let Some(end) = &parts.node_end {
            memory.note_node_end(end, &pod, now);
        }
        let input = WorkerInput {
            pod: pod.clone(),
            removed: parts.orphan,
            node_end: parts.node_end,
            mirror: parts.mirror.clone(),
        };
        let (sender, input) = watch::channel(input);
        let stopped = Arc::new(AtomicBool::new(false));
        let runtime_changed = Arc::new(Notify::new());
        let references_changed = Arc::new(Notify::new());
        let handle = WorkerHandle {
            input: sender,
            runtime_changed: runtime_changed.clone(),
            references_changed: references_changed.clone(),
            stopped: stopped.clone(),
        };
        let worker = Worker {
            key: PodKey::of(&pod),
            input,
            runtime_changed,
            references_changed,
            executor: parts.executor,
            status_writer: parts.status_writer,
            node: parts.node,
            list: parts.list,
            probes: parts.probes,
            measures: Measures::new(&pod, now),
            place: Place::new(parts.orphan, pod::is_static(&pod)),
            pod,
            mirror: parts.mirror,
            memory,
            stale: parts.observed.is_none(),
            observed: parts.observed,
            hinted: false,
            epoch: 0,
            observing: false,
            observing_fails: false,
            observe_again_at: None,
            tasks: JoinSet::new(),
            actions: HashMap::new(),
            volumes: None,
            ending: CancellationToken::new(),
            stopped,
            freed: parts.freed,
            published: None,
        };
        (worker, handle)
    }

    /// Runs the pod until nothing of it is left, or until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) -> PodUid {
        let node = self.node.clone();
        loop {
            if self.memory.termination.is_some() {
                self.stop_cancellable_actions();
            }
            self.observe_if_needed();
            let plan = self.plan(&node.borrow());
            // Before anybody can learn from the status that there is room.
            if plan.stopped && !self.stopped.swap(true, Ordering::AcqRel) {
                self.freed.notify_one();
            }
            self.place.update(self.memory.removed, self.memory.termination.is_some(), plan.stopped);
            self.publish(&plan);
            self.set_probes(&node.borrow());
            if plan.forget {
                debug!(pod = %self.key, "nothing is left of the pod");
                break;
            }
            let wake_at = plan.wake_at;
            if self.begin(plan) {
                continue; // The plan itself changed what is remembered.
            }
            if self.actions.is_empty() && !self.stale {
                self.measures.settled(clock::now());
            }
            if self.wait(wake_at, &cancel).await {
                break;
            }
        }
        self.measures.settled(clock::now());
        self.tasks.abort_all();
        if let Some(writer) = &self.status_writer {
            writer.forget(&self.key.uid);
            if let Some(mirror) = &self.mirror {
                writer.forget(&PodKey::of(mirror).uid);
            }
        }
        self.key.uid
    }

    fn plan(&self, node: &NodeFacts) -> Plan {
        plan::plan(&self.plan_input(&self.probes.results(), node))
    }

    fn plan_input<'a>(&'a self, probes: &'a ProbeResults, node: &'a NodeFacts) -> PlanInput<'a> {
        PlanInput {
            pod: &self.pod,
            observed: self.observed.as_ref().filter(|_| !self.stale),
            memory: &self.memory,
            probes,
            node,
            now: clock::now(),
        }
    }

    /// Begins the plan's actions. Returns whether the plan must be made again at once.
    fn begin(&mut self, plan: Plan) -> bool {
        let now = clock::now();
        if plan.completed && self.memory.termination.is_none() {
            info!(pod = %self.key, "the pod's containers have ended for good");
            self.memory.note_completed(&self.pod, now);
            return true;
        }
        let mut changed = false;
        for action in plan.actions {
            self.memory.note_started(&action, now);
            if action.is_told() {
                self.executor.tell(&self.pod, &action);
                self.abort_cancelled(&action);
                changed = true;
                continue;
            }
            let context = PodContext {
                pod: self.pod.clone(),
                key: self.key.clone(),
                volumes: self.volumes.clone(),
                ending: self.ending.clone(),
            };
            self.measures.begins(&action, &self.pod, self.memory.termination.is_some(), now);
            let executor = self.executor.clone();
            let task = action.clone();
            let handle = self.tasks.spawn(async move { Ended::Action(executor.execute(&context, &task).await) });
            self.actions.insert(handle.id(), (action, handle));
        }
        changed
    }

    fn abort_cancelled(&self, action: &Action) {
        let Action::CancelHook { id, .. } = action else { return };
        for (running, handle) in self.actions.values() {
            if matches!(running, Action::RunHook(hook) if hook.id == *id) {
                handle.abort();
            }
        }
    }

    /// Tells the prober what is to be probed now, judged by the status that was just published.
    fn set_probes(&self, node: &NodeFacts) {
        if let Some(probed) = plan::probed(&self.plan_input(&self.probes.results(), node)) {
            self.probes.set(&self.pod, probed);
        }
    }

    fn publish(&mut self, plan: &Plan) {
        let Some(status) = &plan.status else { return };
        let delete = plan.deletable && pod::is_deleting(&self.pod) && !self.memory.removed;
        if self.published.as_ref().is_some_and(|(last, deleted)| **last == *status && *deleted == delete) {
            return;
        }
        let now = clock::now();
        self.measures.published(&self.memory.status, status, now);
        if self.memory.note_status(status, now) {
            Measures::ready(&self.memory.phases);
            info!(pod = %self.key, phases = %self.memory.phases, "the pod is ready");
        }
        let published = Arc::new(status.clone());
        self.list.set_status(&self.key.uid, &published);
        self.published = Some((published, delete));
        self.send_status();
    }

    /// Hands what was published last to the writer: to the pod's own object, or to the mirror that shows it.
    fn send_status(&self) {
        let (Some(writer), Some((status, delete))) = (&self.status_writer, &self.published) else { return };
        if pod::is_static(&self.pod) {
            let Some(mirror) = self.mirror.as_ref().filter(|mirror| mirror::shows(mirror, &self.pod)) else { return };
            let status = mirror::status_for(mirror, status);
            writer.publish(StatusUpdate { pod: mirror.clone(), status, delete: false });
        } else if !self.memory.removed {
            writer.publish(StatusUpdate { pod: self.pod.clone(), status: PodStatus::clone(status), delete: *delete });
        }
    }

    /// Reads the runtime unless its state is known or an action is about to change it.
    fn observe_if_needed(&mut self) {
        // What was told during an observation may be what that showed. One that failed is due in any case.
        self.hinted = self.hinted && (self.observe_again_at.is_some() || self.executor.has_news(&self.key.uid));
        let waits = self.observe_again_at.is_some_and(|at| at > tokio::time::Instant::now());
        if !(self.stale || self.hinted) || self.observing || waits || self.memory.is_runtime_busy() {
            return;
        }
        self.observing = true;
        self.hinted = false;
        self.observe_again_at = None;
        let (executor, uid, epoch) = (self.executor.clone(), self.key.uid.clone(), self.epoch);
        self.tasks.spawn(async move {
            let result = executor.observe(&uid).await.map_err(|error| error.to_string());
            Ended::Observation { epoch, result }
        });
    }

    /// Waits until something may have changed. Returns whether the worker must stop.
    async fn wait(&mut self, wake_at: Option<crate::model::Timestamp>, cancel: &CancellationToken) -> bool {
        let timer = wake_at.map(|at| {
            let wait = at.duration_since(clock::now());
            // A little later rather than a little too early, which would be a turn for nothing.
            tokio::time::Instant::now() + Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1)
        });
        let retry = self.observe_again_at.filter(|_| (self.stale || self.hinted) && !self.observing);
        // Cancel-safe: every arm but the joins only notices that a state has changed, and join_next_with_id gives its result
        // only when its arm wins.
        tokio::select! {
            () = cancel.cancelled() => return true,
            Some(ended) = self.tasks.join_next_with_id() => self.note_ended(ended),
            changed = self.input.changed() => {
                if changed.is_err() {
                    return true; // The manager is gone.
                }
                self.note_input();
            }
            () = self.runtime_changed.notified() => self.hinted = true,
            () = self.references_changed.notified() => self.memory.note_references_changed(clock::now()),
            // Nobody tells the facts any more while the agent ends: no reason for turn after turn.
            Ok(()) = self.node.changed() => {}
            () = self.probes.changed() => {}
            () = super::sleep_until(timer) => {}
            () = super::sleep_until(retry) => {}
        }
        // Whatever else is there already belongs to the same turn.
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.note_ended(ended);
        }
        if self.input.has_changed().unwrap_or(false) {
            self.note_input();
        }
        false
    }

    fn note_input(&mut self) {
        let input = self.input.borrow_and_update().clone();
        let now = clock::now();
        if input.removed && !self.memory.removed {
            info!(pod = %self.key, "the pod is gone from its source");
            self.memory.note_removed(&input.pod, now);
        } else if !input.removed {
            self.memory.note_pod(&input.pod, Some(&self.pod), now);
        }
        if let Some(end) = &input.node_end
            && self.memory.node_end.is_none()
        {
            info!(pod = %self.key, reason = end.reason(), "the node ends the pod");
            self.memory.note_node_end(end, &input.pod, now);
        }
        self.measures.seen(&input.pod, now);
        self.pod = input.pod;
        let uid = |mirror: &Arc<Pod>| PodKey::of(mirror).uid;
        let before = std::mem::replace(&mut self.mirror, input.mirror);
        // One that comes now was left by an earlier agent and is only now listed: a manifest is not kept waiting for the API.
        if let (None, Some(mirror)) = (&before, self.mirror.as_ref().filter(|mirror| mirror::shows(mirror, &self.pod)))
        {
            self.memory.note_mirror(mirror);
        }
        if let (Some(before), Some(writer)) = (before.as_ref().map(uid), &self.status_writer)
            && self.mirror.as_ref().map(uid).as_ref() != Some(&before)
        {
            writer.forget(&before);
        }
        // The API may hold another status than the one that was published: let the writer compare again.
        self.send_status();
    }

    fn note_ended(&mut self, ended: Result<(Id, Ended), tokio::task::JoinError>) {
        let now = clock::now();
        let (id, executed) = match ended {
            Ok((_, Ended::Observation { epoch, result })) => return self.note_observation(epoch, result),
            Ok((id, Ended::Action(executed))) => (id, executed),
            Err(failed) => {
                let message = if failed.is_cancelled() { "cancelled" } else { "the action ended abnormally" };
                if failed.is_panic() {
                    error!(pod = %self.key, error = %failed, "an action ended abnormally");
                }
                let Some(_) = self.actions.get(&failed.id()) else {
                    // Not an action, so it was an observation.
                    self.observing = false;
                    self.hinted = true;
                    self.observe_again_at = Some(tokio::time::Instant::now() + OBSERVE_RETRY);
                    return;
                };
                (failed.id(), Executed::from(Outcome::from(Err(Failure::new("Cancelled", message)))))
            }
        };
        let Some((action, _)) = self.actions.remove(&id) else { return };
        self.measures.ended(&action, now);
        if let Err(failure) = &executed.outcome.result {
            let (reason, message) = (&failure.reason, &failure.message);
            if action.is_cleaning() {
                // No event tells of these, and they are tried again with growing pauses.
                warn!(pod = %self.key, ?action, reason, message, "cleaning up failed; it is tried again");
            } else {
                debug!(pod = %self.key, ?action, reason, message, "an action failed");
            }
        }
        if let Some(volumes) = executed.volumes {
            self.volumes = Some(volumes);
        }
        let seen_already = self.has_seen_end_of(&action);
        if self.memory.note_outcome(&action, executed.outcome, now) && !seen_already {
            self.epoch += 1;
            self.stale = true;
        }
    }

    /// Whether a stop that has returned tells nothing new: its end was seen by an event before.
    fn has_seen_end_of(&self, action: &Action) -> bool {
        let (Action::KillContainer(kill), Some(observed)) = (action, &self.observed) else { return false };
        !self.stale && observed.containers.iter().any(|c| c.id == kill.id && !c.state.may_run())
    }

    fn note_observation(&mut self, epoch: u64, result: Result<PodObservation, String>) {
        self.observing = false;
        match result {
            Ok(observed) if epoch == self.epoch => {
                self.observing_fails = false;
                self.memory.forget_gone(&observed);
                self.observed = Some(observed);
                self.stale = false;
            }
            Ok(_) => {} // Older than the last action: read again.
            Err(error) => {
                if !self.observing_fails {
                    warn!(pod = %self.key, error, "reading the pod from the runtime failed; it is tried again every second");
                }
                self.observing_fails = true;
                self.hinted = true;
                self.observe_again_at = Some(tokio::time::Instant::now() + OBSERVE_RETRY);
            }
        }
    }

    /// Once the pod must end, what only prepares a start is given up.
    fn stop_cancellable_actions(&mut self) {
        self.ending.cancel();
        for (action, handle) in self.actions.values() {
            if action.is_cancellable() {
                handle.abort();
            }
        }
    }
}
