//! The manager's part in admission: who waits to be judged or for room, which pods count, and what follows from a verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Origin, PodManager};
use crate::metrics::kubelet as metrics;
use crate::model::pod::{self, PodKey, PodUid};
use crate::model::qos::QosClass;
use crate::model::resources;
use crate::pod::admission::{self, Admitted, NodeView, Verdict};
use crate::pod::plan::NodeEnd;
use crate::pod::source::Source;

/// Reads the Node from the API server; none if that fails.
pub type NodeReader = Arc<dyn Fn() -> BoxFuture<'static, Option<NodeView>> + Send + Sync>;

/// How long a critical pod waits at least for those that give way to it.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// How a pod stands with the node.
#[derive(Default)]
pub(super) struct Standing {
    /// What it holds of the node; none if it was not taken.
    pub admitted: Option<Admitted>,
    /// Why the node ends it at once.
    pub end: Option<NodeEnd>,
}

/// A pod without a worker: it is not judged yet, or waits for room.
pub(super) struct Unjudged {
    candidate: Admitted,
    from: Arrival,
    wait: Wait,
}

/// Where a pod came from.
type Arrival = (Source, Origin);

/// What a pod waits for.
#[derive(Clone, PartialEq)]
enum Wait {
    /// That the Node is known at all.
    Node,
    /// That the Node is read again.
    FreshNode { asked: bool },
    /// That others have given way to it, or time is up. It counts among the admitted, so that no other takes its room.
    Room { victims: Vec<PodUid>, until: Instant },
}

impl Unjudged {
    pub fn key(&self) -> PodKey {
        PodKey::of(&self.candidate.pod)
    }

    pub fn pod(&self) -> &Arc<Pod> {
        &self.candidate.pod
    }

    pub fn source(&self) -> Source {
        self.from.0
    }
}

impl PodManager {
    /// Takes in a pod that has no worker.
    pub(super) fn receive(&mut self, pod: Arc<Pod>, from: Arrival, cancel: &CancellationToken) {
        let has_ended = pod::phase(&pod).is_some_and(pod::is_terminal_phase);
        let candidate = Admitted::new(pod);
        if has_ended || pod::is_deleting(&candidate.pod) {
            // What only has to end is not judged; it counts until it has ended.
            let pod = candidate.pod.clone();
            let standing = Standing { admitted: (!has_ended).then_some(candidate), end: None };
            return self.start(pod, Some(from), standing, cancel);
        }
        self.judge(candidate, from, None, cancel);
    }

    /// Takes in a new state of a pod that waits. Returns whether it was one.
    pub(super) fn update_unjudged(&mut self, pod: &Arc<Pod>, cancel: &CancellationToken) -> bool {
        let uid = PodKey::of(pod).uid;
        let Some(at) = self.unjudged.iter().position(|unjudged| unjudged.key().uid == uid) else { return false };
        if pod::is_deleting(pod) || pod::phase(pod).is_some_and(pod::is_terminal_phase) {
            let from = self.unjudged.remove(at).from;
            self.receive(pod.clone(), from, cancel);
        } else if let Some(unjudged) = self.unjudged.get_mut(at) {
            unjudged.candidate = Admitted::new(pod.clone());
        }
        true
    }

    /// Judges a pod, by the Node that was read for it if there is one.
    fn judge(
        &mut self,
        candidate: Admitted,
        from: Arrival,
        read: Option<Option<Arc<NodeView>>>,
        cancel: &CancellationToken,
    ) {
        let mut facts = self.parts.admission.borrow().clone();
        let was_read = read.is_some();
        if let Some(node) = read.flatten() {
            facts.node = Some(node);
        }
        if facts.node.is_none() || !(facts.is_node_settled || pod::is_static(&candidate.pod)) {
            self.unjudged.push(Unjudged { candidate, from, wait: Wait::Node });
            return;
        }
        let key = PodKey::of(&candidate.pod);
        let verdict = admission::admit(&candidate.pod, &self.taken(), &facts);
        match verdict {
            Verdict::ReadNode(_) if !was_read && self.parts.read_node.is_some() => {
                self.unjudged.push(Unjudged { candidate, from, wait: Wait::FreshNode { asked: false } });
            }
            Verdict::Reject(rejection) | Verdict::ReadNode(rejection) => {
                let (reason, message) = (&rejection.reason, &rejection.message);
                warn!(pod = %key, reason, message, "the pod is rejected");
                metrics::ADMISSION_REJECTIONS.increment(&[rejection.counted_as()]);
                self.parts.executor.warn_of_pod(&candidate.pod, reason, message);
                let end = Some(NodeEnd::rejected(reason.clone(), message));
                self.start(candidate.pod, Some(from), Standing { admitted: None, end }, cancel);
            }
            Verdict::Preempt { victims, resource } if !victims.is_empty() => {
                count_admitted(&candidate.pod);
                let mut patience = LEAST_PATIENCE;
                for victim in &victims {
                    metrics::PREEMPTIONS.increment(&[&resource]);
                    patience = patience.max(self.preempt(victim, &key, cancel));
                }
                let wait = Wait::Room { victims, until: Instant::now() + patience };
                self.unjudged.push(Unjudged { candidate, from, wait });
                self.start_those_with_room(cancel);
            }
            Verdict::Admit | Verdict::Preempt { .. } => {
                count_admitted(&candidate.pod);
                let pod = candidate.pod.clone();
                self.start(pod, Some(from), Standing { admitted: Some(candidate), end: None }, cancel);
            }
        }
    }

    /// The pods that hold something of the node, or are about to.
    fn taken(&self) -> Vec<&Admitted> {
        let with_worker = self.workers.values().filter(|entry| entry.holds_its_claim());
        let about_to = self.unjudged.iter().filter(|unjudged| matches!(unjudged.wait, Wait::Room { .. }));
        let about_to = about_to.map(|unjudged| &unjudged.candidate);
        with_worker.filter_map(|entry| entry.admitted.as_ref()).chain(about_to).collect()
    }

    /// Ends a pod for the sake of another. Returns how long that may take.
    fn preempt(&mut self, victim: &PodUid, by: &PodKey, cancel: &CancellationToken) -> Duration {
        let end = NodeEnd::preempted();
        if let Some(at) = self.unjudged.iter().position(|unjudged| unjudged.key().uid == *victim) {
            let Unjudged { candidate, from, .. } = self.unjudged.remove(at);
            self.parts.executor.warn_of_pod(&candidate.pod, end.reason(), end.message());
            self.start(candidate.pod, Some(from), Standing { admitted: None, end: Some(end) }, cancel);
            return Duration::ZERO;
        }
        let Some(entry) = self.workers.get(victim) else { return Duration::ZERO };
        let pod = entry.handle.input.borrow().pod.clone();
        info!(pod = %PodKey::of(&pod), %by, "the pod is ended to make room for a critical one");
        self.parts.executor.warn_of_pod(&pod, end.reason(), end.message());
        entry.handle.input.send_modify(|input| input.node_end = Some(end));
        let grace = pod::spec(&pod).termination_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(grace).unwrap_or(0)).mul_f64(1.5)
    }

    /// Starts the critical pods whose room has become free, and those that have waited long enough.
    pub(super) fn start_those_with_room(&mut self, cancel: &CancellationToken) {
        let now = Instant::now();
        let is_gone = |uid: &PodUid| self.workers.get(uid).is_none_or(|entry| !entry.holds_its_claim());
        let has_room = |unjudged: &mut Unjudged| match &unjudged.wait {
            Wait::Room { victims, until } => *until <= now || victims.iter().all(is_gone),
            Wait::Node | Wait::FreshNode { .. } => false,
        };
        let ready: Vec<Unjudged> = self.unjudged.extract_if(.., has_room).collect();
        for Unjudged { candidate, from, .. } in ready {
            let pod = candidate.pod.clone();
            self.start(pod, Some(from), Standing { admitted: Some(candidate), end: None }, cancel);
        }
    }

    /// When the first critical pod has waited long enough.
    pub(super) fn end_of_patience(&self) -> Option<Instant> {
        let until = |unjudged: &Unjudged| match unjudged.wait {
            Wait::Room { until, .. } => Some(until),
            Wait::Node | Wait::FreshNode { .. } => None,
        };
        self.unjudged.iter().filter_map(until).min()
    }

    /// Judges the pods that waited until the Node is known.
    pub(super) fn judge_waiting(&mut self, cancel: &CancellationToken) {
        let waits = |unjudged: &mut Unjudged| unjudged.wait == Wait::Node;
        let waiting: Vec<Unjudged> = self.unjudged.extract_if(.., waits).collect();
        for Unjudged { candidate, from, .. } in waiting {
            self.judge(candidate, from, None, cancel);
        }
    }

    /// Begins to read the Node if a pod waits for that.
    pub(super) fn read_node(&mut self) -> Option<BoxFuture<'static, Option<NodeView>>> {
        let mut is_wanted = false;
        for unjudged in &mut self.unjudged {
            if let Wait::FreshNode { asked } = &mut unjudged.wait {
                is_wanted = true;
                *asked = true;
            }
        }
        self.parts.read_node.as_ref().filter(|_| is_wanted).map(|read| read())
    }

    /// Judges the pods for which the Node was read.
    pub(super) fn note_node_read(&mut self, node: Option<NodeView>, cancel: &CancellationToken) {
        let node = node.map(Arc::new);
        let waits = |unjudged: &mut Unjudged| unjudged.wait == Wait::FreshNode { asked: true };
        let waiting: Vec<Unjudged> = self.unjudged.extract_if(.., waits).collect();
        for Unjudged { candidate, from, .. } in waiting {
            self.judge(candidate, from, Some(node.clone()), cancel);
        }
    }
}

/// Counts a pod that is taken.
fn count_admitted(pod: &Pod) {
    let spec = pod::spec(pod);
    let says = |container: &Container| {
        let resources = container.resources.as_ref();
        let is_said = |list: Option<&BTreeMap<String, Quantity>>| list.is_some_and(|list| !list.is_empty());
        resources.is_some_and(|r| is_said(r.requests.as_ref()) || is_said(r.limits.as_ref()))
    };
    let by_container = spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(says);
    let mode = match (resources::has_pod_level_resources(spec), by_container) {
        (true, true) => "pod_and_container_level",
        (true, false) => "pod_level",
        (false, true) => "container_level",
        (false, false) => "",
    };
    let class = QosClass::of(pod).as_str().to_ascii_lowercase();
    metrics::POD_LEVEL_ADMISSIONS.increment(&[mode, &class]);
}

/// The pods in the order in which they are judged when many come at once: those that an agent took before, which may run, come
/// first, and the older before the younger.
pub(super) fn in_order(mut pods: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    pods.sort_by_key(|pod| {
        let is_new = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).is_none();
        (is_new, pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
    });
    pods
}
