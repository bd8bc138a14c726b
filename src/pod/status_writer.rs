//! Publishes pod statuses to the API and deletes pods there that have ended.
//!
//! One patch per change and never an older status over a newer: of each pod the latest status alone is kept, and one request
//! is under way at a time. Changes that someone waits for (Ready, terminal phases, deletion) go before the others and at
//! once; the others wait for a moment, so that steps that follow each other closely share a request.
//!
//! Task: [`StatusWriter::run`]; input: [`StatusWriter::publish`]; output: requests to the API; stops at its token, dropping
//! what has not been sent (it is computed anew by the next start).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, Pod, PodCondition, PodStatus};
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::plan::{is_own_disruption, is_owned_condition, replace_or_append};
use crate::kube::patch::{self, ApiError, Patched};
use crate::metrics::kubelet as metrics;
use crate::model::Timestamp;
use crate::model::clock::{self, api_time};
use crate::model::pod::{self, PodKey, PodUid};

/// Requests under way at the same time.
const CONCURRENCY: usize = 16;
/// How long a change that nobody waits for is held back: longer than a pod takes from its sandbox to Ready, which then tells
/// all of it.
const HOLD: Duration = Duration::from_millis(500);
/// The same while starts and stops already wait for each other, and for steps on the way to a pod's end.
const LONG_HOLD: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A status to publish.
#[derive(Clone, Debug)]
pub struct StatusUpdate {
    /// The pod as the API last gave it.
    pub pod: Arc<Pod>,
    /// Its new status.
    pub status: PodStatus,
    /// Whether the pod may be deleted from the API once the status is there.
    pub delete: bool,
}

/// Where a pod waits for its turn.
#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Nowhere,
    Urgent,
    /// Not before that time.
    At(Instant),
}

/// What is kept of a pod. Once the API has its status, that is next to nothing.
#[derive(Default)]
struct Entry {
    /// The newest status that has not been sent.
    latest: Option<Arc<StatusUpdate>>,
    /// The one that is under way.
    sending: Option<Arc<StatusUpdate>>,
    place: Place,
    urgent: bool,
    /// How long it may be held back if it is not urgent.
    hold: Duration,
    /// When the oldest change came that is not under way.
    changed_at: Option<Instant>,
    /// When the oldest change came that is.
    sending_since: Option<Instant>,
    /// Failures in a row.
    attempts: u32,
    /// Before this time nothing is sent: a request has failed.
    retry_at: Option<Instant>,
    /// What the API answered last, with its resource version, until the watch has shown it too.
    acknowledged: Option<(u64, Arc<PodStatus>)>,
    forgotten: bool,
    /// The API was asked to delete the pod, which is done once.
    deleted: bool,
}

impl Entry {
    /// Takes the newest status. A pod that stays in the API after its deletion, by a finalizer, is not deleted again.
    fn take(&mut self, mut update: StatusUpdate) {
        update.delete &= !self.deleted;
        self.latest = Some(Arc::new(update));
    }

    /// Keeps the API's answer unless something newer is known.
    fn acknowledge(&mut self, answer: Option<Box<Pod>>) {
        let Some(pod) = answer else { return };
        let version = resource_version(&pod);
        if self.latest.as_ref().is_none_or(|latest| resource_version(&latest.pod) < version) {
            self.acknowledged = Some((version, Arc::new(pod.status.unwrap_or_default())));
        }
    }

    /// Drops what the API answered if the pod, as the watch shows it, is not older.
    fn forget_acknowledged(&mut self, pod: &Pod) {
        let seen = resource_version(pod);
        self.acknowledged.take_if(|(version, _)| *version <= seen);
    }
}

#[derive(Default)]
struct State {
    entries: HashMap<PodUid, Entry>,
    urgent: VecDeque<PodUid>,
    /// By the time from which each may be sent.
    later: BTreeSet<(Instant, PodUid)>,
}

impl State {
    /// Gives a pod the place that its entry asks for.
    fn enqueue(&mut self, uid: &PodUid, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.latest.is_none() || entry.sending.is_some() {
            return;
        }
        let place = match (entry.retry_at, entry.place) {
            (Some(at), _) if at > now => Place::At(at),
            _ if entry.urgent => Place::Urgent,
            // What has waited already does not begin anew.
            (_, Place::At(at)) => Place::At(at),
            _ => Place::At(now + entry.hold),
        };
        if entry.place == place {
            return;
        }
        if let Place::At(at) = entry.place {
            self.later.remove(&(at, uid.clone()));
        }
        entry.place = place;
        match place {
            Place::Urgent => self.urgent.push_back(uid.clone()),
            Place::At(at) => {
                self.later.insert((at, uid.clone()));
            }
            Place::Nowhere => {}
        }
    }

    fn dequeue(&mut self, now: Instant) -> Option<PodUid> {
        if let Some(uid) = self.urgent.pop_front() {
            return Some(uid);
        }
        self.later.first().filter(|(at, _)| *at <= now)?;
        self.later.pop_first().map(|(_, uid)| uid)
    }

    fn remove(&mut self, uid: &PodUid) {
        match self.entries.remove(uid).map(|entry| entry.place) {
            Some(Place::At(at)) => {
                self.later.remove(&(at, uid.clone()));
            }
            Some(Place::Urgent) => self.urgent.retain(|queued| queued != uid),
            Some(Place::Nowhere) | None => {}
        }
    }
}

/// Handle and task of the status writer.
#[derive(Clone)]
pub struct StatusWriter {
    client: ::kube::Client,
    /// Whether the machine has more urgent things to do.
    busy: Arc<dyn Fn() -> bool + Send + Sync>,
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

/// One request to make.
struct Work {
    uid: PodUid,
    update: Arc<StatusUpdate>,
    /// What the API is known to hold if that is newer than the pod given.
    known: Option<Arc<PodStatus>>,
}

/// How one request ended.
#[derive(Debug)]
enum Sent {
    /// The API has the status; its answer, if one came.
    Done(Option<Box<Pod>>),
    /// The pod is gone or another one: nothing is left to tell.
    Gone,
    /// To be tried again; the API's answer to the part that succeeded.
    Failed { error: String, answer: Option<Box<Pod>> },
}

impl Sent {
    fn failed(error: &ApiError) -> Self {
        Sent::Failed { error: error.to_string(), answer: None }
    }
}

impl StatusWriter {
    /// A writer that has not been started. `busy` tells whether the machine has more urgent things to do than to write what
    /// nobody waits for; it must not block.
    pub fn new(client: ::kube::Client, busy: Arc<dyn Fn() -> bool + Send + Sync>) -> Self {
        StatusWriter { client, busy, state: Arc::default(), wake: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the newest status of a pod. Never blocks; an older one that was not sent is replaced.
    pub fn publish(&self, update: StatusUpdate) {
        let uid = PodKey::of(&update.pod).uid;
        let hold = if pod::is_deleting(&update.pod) || (self.busy)() { LONG_HOLD } else { HOLD };
        {
            let mut state = self.state();
            let entry = state.entries.entry(uid.clone()).or_default();
            entry.forgotten = false;
            entry.hold = hold;
            entry.forget_acknowledged(&update.pod);
            entry.urgent |= is_urgent(&update, entry.acknowledged.as_ref().map(|(_, status)| status.as_ref()));
            entry.take(update);
            let now = Instant::now();
            entry.changed_at.get_or_insert(now);
            state.enqueue(&uid, now);
        }
        self.wake.notify_one();
    }

    /// Drops what is kept of a pod that is gone.
    pub fn forget(&self, uid: &PodUid) {
        let mut state = self.state();
        match state.entries.get_mut(uid) {
            // Whoever asks for the pod again must not send beside the request that is under way.
            Some(entry) if entry.sending.is_some() => {
                entry.forgotten = true;
                entry.latest = None;
            }
            _ => state.remove(uid),
        }
    }

    /// Sends statuses until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut requests: JoinSet<Sent> = JoinSet::new();
        let mut pods: HashMap<Id, PodUid> = HashMap::new();
        loop {
            while requests.len() < CONCURRENCY {
                let Some(work) = self.next(Instant::now()) else { break };
                let task = requests.spawn(send(self.client.clone(), work.update, work.known));
                pods.insert(task.id(), work.uid);
            }
            let next_due = self.state().later.first().map(|(at, _)| *at).filter(|_| requests.len() < CONCURRENCY);
            // Cancel-safe: join_next_with_id and notified lose nothing when another arm wins.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wake.notified() => {}
                () = super::sleep_until(next_due) => {}
                Some(ended) = requests.join_next_with_id() => {
                    let (id, sent) = outcome(ended);
                    if let Some(uid) = pods.remove(&id) {
                        self.note(&uid, sent, Instant::now());
                    }
                }
            }
        }
    }

    fn next(&self, now: Instant) -> Option<Work> {
        let mut state = self.state();
        loop {
            let uid = state.dequeue(now)?;
            let Some(entry) = state.entries.get_mut(&uid) else { continue };
            entry.place = Place::Nowhere;
            let Some(update) = entry.latest.take() else { continue };
            entry.sending = Some(update.clone());
            entry.sending_since = entry.changed_at.take();
            entry.urgent = false;
            entry.retry_at = None;
            let known = entry.acknowledged.as_ref().map(|(_, status)| status.clone());
            return Some(Work { uid, update, known });
        }
    }

    /// Notes how a request ended.
    fn note(&self, uid: &PodUid, sent: Sent, now: Instant) {
        let mut state = self.state();
        let Some(entry) = state.entries.get_mut(uid) else { return };
        let Some(update) = entry.sending.take() else { return };
        match sent {
            Sent::Done(answer) => {
                entry.attempts = 0;
                // Without an answer there was nothing to change.
                if let (Some(since), Some(_)) = (entry.sending_since.take(), &answer) {
                    metrics::POD_STATUS_SYNC_DURATION.observe(&[], now.duration_since(since).as_secs_f64());
                }
                entry.acknowledge(answer);
                if update.delete {
                    entry.deleted = true;
                    if let Some(latest) = entry.latest.take() {
                        entry.take(Arc::unwrap_or_clone(latest));
                    }
                }
            }
            Sent::Gone => {
                entry.attempts = 0;
                entry.acknowledged = None;
            }
            Sent::Failed { error, answer } => {
                entry.acknowledge(answer);
                let delay = RETRY_FIRST.saturating_mul(1 << entry.attempts.min(10)).min(RETRY_MAX);
                entry.attempts = entry.attempts.saturating_add(1);
                entry.retry_at = Some(now + delay);
                warn!(pod = %uid, error, attempts = entry.attempts, "publishing the pod's status failed; it is tried again");
                if !entry.forgotten {
                    entry.latest.get_or_insert(update);
                }
                entry.changed_at = entry.sending_since.take().or(entry.changed_at);
            }
        }
        if entry.forgotten {
            state.remove(uid);
        } else {
            state.enqueue(uid, now);
        }
    }
}

fn outcome(ended: Result<(Id, Sent), JoinError>) -> (Id, Sent) {
    ended.unwrap_or_else(|failure| {
        let error = format!("the request ended abnormally: {failure}");
        (failure.id(), Sent::Failed { error, answer: None })
    })
}

fn resource_version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_terminal(status: &PodStatus) -> bool {
    status.phase.as_deref().is_some_and(pod::is_terminal_phase)
}

/// Whether someone is likely to wait for this change: readiness, a terminal phase, deletion.
fn is_urgent(update: &StatusUpdate, acknowledged: Option<&PodStatus>) -> bool {
    let before = acknowledged.or(update.pod.status.as_ref());
    update.delete
        || (is_terminal(&update.status) && !before.is_some_and(is_terminal))
        // That a pod is no longer ready because it is being deleted is known from its deletion.
        || (!pod::is_deleting(&update.pod) && is_ready(&update.status) != before.is_some_and(is_ready))
}

async fn send(client: ::kube::Client, update: Arc<StatusUpdate>, known: Option<Arc<PodStatus>>) -> Sent {
    let key = PodKey::of(&update.pod);
    let before = match known {
        Some(known) => Some(PodStatus::clone(&known)),
        None => update.pod.status.clone(),
    };
    let before = tidy(before.unwrap_or_default());
    let after = onto(&before, tidy(update.status.clone()), clock::now());
    let answer = match patch::patch_pod_status(&client, &key, &before, &after).await {
        Ok(Patched::Changed(pod)) => Some(pod),
        Ok(Patched::Unchanged) => None,
        Err(error) if error.is_not_found() || error.is_other_uid() => {
            debug!(pod = %key, %error, "the pod is gone from the API");
            return Sent::Gone;
        }
        Err(error) => return Sent::failed(&error),
    };
    if !update.delete {
        return Sent::Done(answer);
    }
    match patch::delete_pod(&client, &key, 0).await {
        Ok(_) => Sent::Done(answer),
        Err(error) => Sent::Failed { error: error.to_string(), answer },
    }
}

/// A status without the empty objects that the API server prints and the agent does not.
fn tidy(mut status: PodStatus) -> PodStatus {
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    for container in lists.into_iter().flatten().flatten() {
        for state in [&mut container.state, &mut container.last_state] {
            if *state == Some(ContainerState::default()) {
                *state = None;
            }
        }
    }
    status
}

/// The agent's status over what the API holds: fields and conditions that others write are left as they are there.
pub(super) fn onto(api: &PodStatus, mut own: PodStatus, now: Timestamp) -> PodStatus {
    own.nominated_node_name.clone_from(&api.nominated_node_name);
    own.resource_claim_statuses.clone_from(&api.resource_claim_statuses);
    own.extended_resource_claim_status.clone_from(&api.extended_resource_claim_status);
    own.node_allocatable_resource_claim_statuses.clone_from(&api.node_allocatable_resource_claim_statuses);
    own.volume_health.clone_from(&api.volume_health);
    own.resize.clone_from(&api.resize);
    let turns_terminal = is_terminal(&own) && !is_terminal(api);
    let mut conditions: Vec<PodCondition> =
        api.conditions.iter().flatten().filter(|c| !is_owned_condition(&c.type_)).cloned().collect();
    for mut condition in own.conditions.take().into_iter().flatten() {
        if is_owned_condition(&condition.type_) {
            conditions.push(condition);
        } else if turns_terminal && is_own_disruption(&condition) {
            // Decided when the end began, it is told now that nothing of the pod runs any more.
            let same = |c: &&PodCondition| c.type_ == condition.type_ && c.status == condition.status;
            let since = conditions.iter().find(same).and_then(|c| c.last_transition_time.clone());
            condition.last_transition_time = Some(since.unwrap_or_else(|| api_time(now)));
            replace_or_append(&mut conditions, condition);
        }
    }
    own.conditions = Some(conditions);
    own
}

#[cfg(test)]
#[path = "status_writer_tests.rs"]
mod tests;
