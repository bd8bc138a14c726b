//! Mirror pods: objects of the API that show the node's static pods there.
//!
//! A mirror has the name of its static pod and the hash of its manifest; it is made once the Node is there, made again when
//! somebody deletes it or the manifest changes, and deleted when the static pod has ended for good. Nothing that happens to a
//! mirror does anything to the static pod, and no pod ever waits for its mirror.
//!
//! Task: [`MirrorKeeper::run`]; input: [`MirrorInput`] and the Node's identity, both as newest values; output: pods created and
//! deleted in the API; stops at its token.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::source::manifest;
use crate::kube::patch;
use crate::model::pod::{self, CONFIG_MIRROR_ANNOTATION, PodKey, PodUid, annotation};

/// Requests under way at the same time.
const CONCURRENCY: usize = 8;
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a mirror that was made may stay unseen before it is made again.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Namespace and name.
pub type PodName = (String, String);

/// The name of a pod.
pub(super) fn name_of(key: &PodKey) -> PodName {
    (key.namespace.clone(), key.name.clone())
}

/// What is to be shown, and what the API shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MirrorInput {
    /// The static pods that run or should.
    pub static_pods: BTreeMap<PodName, Arc<Pod>>,
    /// Static pods that have yet to begin or to end: their mirrors are left as they are.
    pub left: BTreeSet<PodName>,
    /// Static pods that have ended for good.
    pub ended: BTreeSet<PodName>,
    /// The mirrors that the API has.
    pub mirrors: BTreeMap<PodName, Arc<Pod>>,
    /// The API has told of all mirrors.
    pub mirrors_known: bool,
    /// All static pods are known: what is among none of the above is shown no more.
    pub static_pods_known: bool,
}

/// The Node that owns the mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOwner {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It is being deleted.
    pub deleting: bool,
}

/// What a mirror needs.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Arc<Pod>),
    Delete(PodUid),
}

/// Whether an object of the API shows this static pod as it is now.
pub(super) fn shows(mirror: &Pod, static_pod: &Pod) -> bool {
    annotation(mirror, CONFIG_MIRROR_ANNOTATION) == Some(manifest::hash(static_pod))
}

/// What must be done for one name. `mirror`: what the API has, as far as known.
fn step(name: &PodName, mirror: Option<&Pod>, input: &MirrorInput, node: Option<&NodeOwner>) -> Option<Step> {
    if !input.mirrors_known {
        return None;
    }
    match (mirror, input.static_pods.get(name)) {
        (Some(mirror), Some(static_pod)) => {
            let is_stale = pod::is_deleting(mirror) || !shows(mirror, static_pod);
            is_stale.then(|| Step::Delete(PodKey::of(mirror).uid))
        }
        (Some(mirror), None) => {
            let is_over = !input.left.contains(name) && (input.static_pods_known || input.ended.contains(name));
            is_over.then(|| Step::Delete(PodKey::of(mirror).uid))
        }
        (None, Some(static_pod)) => node.filter(|node| !node.deleting).map(|_| Step::Create(static_pod.clone())),
        (None, None) => None,
    }
}

/// The mirror of a static pod.
fn mirror_of(static_pod: &Pod, node: &NodeOwner) -> Pod {
    let mut metadata = static_pod.metadata.clone();
    let hash = manifest::hash(static_pod).to_owned();
    metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR_ANNOTATION.to_owned(), hash);
    // The API gives it an identity of its own.
    metadata.uid = None;
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name.clone(),
        uid: node.uid.clone(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    Pod { metadata, spec: static_pod.spec.clone(), status: None }
}

/// A static pod's status as its mirror shows it: what an earlier agent has told of when something became so stays true.
pub(super) fn status_for(mirror: &Pod, own: &PodStatus) -> PodStatus {
    let mut status = own.clone();
    let Some(before) = &mirror.status else { return status };
    if before.start_time.is_some() {
        status.start_time.clone_from(&before.start_time);
    }
    for condition in status.conditions.iter_mut().flatten() {
        let mut earlier = before.conditions.iter().flatten();
        let same = earlier.find(|c| c.type_ == condition.type_ && c.status == condition.status);
        if let Some(since) = same.and_then(|same| same.last_transition_time.clone()) {
            condition.last_transition_time = Some(since);
        }
    }
    status
}

/// What is remembered of one name's requests.
#[derive(Default)]
struct Memory {
    running: bool,
    failures: u32,
    not_before: Option<Instant>,
    /// A mirror that is gone, though the watch may not have told yet.
    deleted: Option<PodUid>,
    /// What was made last, and when, until the watch tells of it.
    created: Option<(String, Instant)>,
    fault: Option<String>,
}

/// Keeps the API's mirrors like the static pods, to be run as a task.
pub struct MirrorKeeper {
    client: ::kube::Client,
    input: watch::Receiver<MirrorInput>,
    node: watch::Receiver<Option<NodeOwner>>,
    memory: HashMap<PodName, Memory>,
}

impl MirrorKeeper {
    /// A keeper, and where it is told what to show.
    pub fn new(client: ::kube::Client, node: watch::Receiver<Option<NodeOwner>>) -> (Self, watch::Sender<MirrorInput>) {
        let (sender, input) = watch::channel(MirrorInput::default());
        (MirrorKeeper { client, input, node, memory: HashMap::new() }, sender)
    }

    /// Works until cancelled, or until nobody can tell it anything any more.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut requests: JoinSet<Result<Option<PodUid>, String>> = JoinSet::new();
        let mut names: HashMap<Id, PodName> = HashMap::new();
        loop {
            let (steps, next) = self.due(Instant::now());
            for (name, step) in steps.into_iter().take(CONCURRENCY.saturating_sub(requests.len())) {
                let Some(task) = self.begin(&name, step, &mut requests) else { continue };
                names.insert(task, name);
            }
            let next = next.filter(|_| requests.len() < CONCURRENCY);
            // Cancel-safe: watches keep what is new until it is looked at, and joins lose nothing.
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.input.changed() => if changed.is_err() { return },
                changed = self.node.changed() => if changed.is_err() { return },
                () = super::sleep_until(next) => {}
                Some(ended) = requests.join_next_with_id() => {
                    let (id, result) = match ended {
                        Ok((id, result)) => (id, result),
                        Err(failed) => (failed.id(), Err(failed.to_string())),
                    };
                    if let Some(name) = names.remove(&id) {
                        self.note(&name, result, Instant::now());
                    }
                }
            }
        }
    }

    /// The steps to take now, and when to look again if nothing happens before.
    fn due(&mut self, now: Instant) -> (Vec<(PodName, Step)>, Option<Instant>) {
        let input = self.input.borrow_and_update();
        let node = self.node.borrow_and_update();
        let all: BTreeSet<&PodName> = input.static_pods.keys().chain(input.mirrors.keys()).collect();
        self.memory.retain(|name, memory| memory.running || all.contains(name));
        let (mut steps, mut next) = (Vec::new(), None::<Instant>);
        for name in all {
            let memory = self.memory.entry(name.clone()).or_default();
            let seen =
                input.mirrors.get(name).filter(|mirror| memory.deleted.as_ref() != Some(&PodKey::of(mirror).uid));
            if seen.is_some() {
                memory.created = None;
            }
            let Some(step) = step(name, seen.map(Arc::as_ref), &input, node.as_ref()) else {
                (memory.failures, memory.not_before) = (0, None);
                continue;
            };
            let unseen = match (&step, &memory.created) {
                (Step::Create(pod), Some((hash, at))) if hash == manifest::hash(pod) => Some(*at + SEEN_WITHIN),
                _ => None,
            };
            match memory.not_before.max(unseen).filter(|at| *at > now) {
                _ if memory.running => {}
                Some(at) => next = Some(next.map_or(at, |earlier| earlier.min(at))),
                None => steps.push((name.clone(), step)),
            }
        }
        (steps, next)
    }

    fn begin(
        &mut self,
        name: &PodName,
        step: Step,
        requests: &mut JoinSet<Result<Option<PodUid>, String>>,
    ) -> Option<Id> {
        let client = self.client.clone();
        let memory = self.memory.entry(name.clone()).or_default();
        let (namespace, pod_name) = name.clone();
        let task = match step {
            Step::Create(pod) => {
                let mirror = mirror_of(&pod, self.node.borrow().as_ref()?);
                memory.created = Some((manifest::hash(&pod).to_owned(), Instant::now()));
                requests.spawn(async move {
                    info!(namespace, name = pod_name, "Creating a mirror pod for static pod");
                    patch::create_pod(&client, &mirror).await.map_err(|error| error.to_string())?;
                    Ok(None)
                })
            }
            Step::Delete(uid) => requests.spawn(async move {
                info!(namespace, name = pod_name, uid = uid.as_str(), "Deleting a mirror pod");
                let key = PodKey { namespace, name: pod_name, uid: uid.clone() };
                patch::delete_pod(&client, &key, 0).await.map_err(|error| error.to_string())?;
                Ok(Some(uid))
            }),
        };
        memory.running = true;
        Some(task.id())
    }

    fn note(&mut self, name: &PodName, result: Result<Option<PodUid>, String>, now: Instant) {
        let memory = self.memory.entry(name.clone()).or_default();
        memory.running = false;
        match result {
            Ok(deleted) => {
                (memory.failures, memory.not_before, memory.fault) = (0, None, None);
                if deleted.is_some() {
                    memory.deleted = deleted;
                    memory.created = None;
                }
            }
            Err(error) => {
                memory.created = None;
                let wait = RETRY_FIRST.saturating_mul(1 << memory.failures.min(10)).min(RETRY_MAX);
                memory.failures = memory.failures.saturating_add(1);
                memory.not_before = Some(now + wait);
                if memory.fault.as_ref() != Some(&error) {
                    warn!(namespace = name.0, name = name.1, error, "a mirror pod cannot be kept; it is tried again");
                    memory.fault = Some(error);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
