//! Everything that the runtime holds, grouped by pod, and what of it changed since the last look. Pure.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use crate::model::Timestamp;
use crate::model::clock;
use crate::model::observation::{ContainerState, PodObservation};
use crate::model::pod::{CONFIG_SOURCE_ANNOTATION, PodKey, PodUid};

use super::cri;
use super::labels;

/// What the runtime holds of one pod, as its lists tell.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimePod {
    /// From the labels of the sandboxes and containers.
    pub key: PodKey,
    /// Where it came from, `api`, `file` or `http` (annotation `kubernetes.io/config.source`); none if its sandbox is gone.
    pub source: Option<String>,
    /// Its sandboxes, newest first.
    pub sandboxes: Vec<ListedSandbox>,
    /// Its containers, newest first.
    pub containers: Vec<ListedContainer>,
}

/// A sandbox as listed.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedSandbox {
    /// The runtime's id.
    pub id: String,
    /// Counted up each time the pod's sandbox is made again.
    pub attempt: u32,
    /// Creation time.
    pub created_at: Timestamp,
    /// Whether the runtime calls it ready.
    pub ready: bool,
}

/// A container as listed.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedContainer {
    /// The runtime's id.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Its name in the pod spec.
    pub name: String,
    /// Creation time.
    pub created_at: Timestamp,
    /// Its state.
    pub state: ListedState,
}

/// A container's state as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListedState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know; to be taken as running.
    Unknown,
}

impl ListedState {
    fn of(state: &ContainerState) -> Self {
        match state {
            ContainerState::Created => ListedState::Created,
            ContainerState::Running { .. } => ListedState::Running,
            ContainerState::Exited(_) => ListedState::Exited,
            ContainerState::Unknown => ListedState::Unknown,
        }
    }
}

impl RuntimePod {
    /// Whether anything of the pod may run: a container that has not ended, or a ready sandbox.
    pub fn is_anything_running(&self) -> bool {
        let runs = |c: &ListedContainer| matches!(c.state, ListedState::Running | ListedState::Unknown);
        self.containers.iter().any(runs) || self.sandboxes.iter().any(|s| s.ready)
    }

    fn summary(&self) -> u64 {
        summarize(
            self.sandboxes.iter().map(|s| (s.id.as_str(), s.ready)),
            self.containers.iter().map(|c| (c.id.as_str(), c.state)),
        )
    }
}

/// As much of a pod as tells whether something appeared, went or changed state.
fn summarize<'a>(
    sandboxes: impl Iterator<Item = (&'a str, bool)>,
    containers: impl Iterator<Item = (&'a str, ListedState)>,
) -> u64 {
    let sandboxes = sandboxes.map(|(id, ready)| (id, None, ready));
    let containers = containers.map(|(id, state)| (id, Some(state), false));
    let mut objects: Vec<_> = sandboxes.chain(containers).collect();
    objects.sort_unstable_by_key(|object| object.0);
    let mut hasher = fnv::FnvHasher::default();
    objects.hash(&mut hasher);
    hasher.finish()
}

/// Groups lists by pod, ordered by UID. What carries no pod UID label was not made by a kubelet and is left out: nothing of
/// ours may ever touch it.
pub(super) fn group(sandboxes: Vec<cri::PodSandbox>, containers: Vec<cri::Container>) -> Vec<RuntimePod> {
    let mut pods: HashMap<PodUid, RuntimePod> = HashMap::new();
    let mut pod_of = |labels: &HashMap<String, String>| -> Option<PodUid> {
        let uid = PodUid::from(labels::value(labels, labels::POD_UID)?);
        let text = |key| labels::value(labels, key).unwrap_or_default().to_owned();
        pods.entry(uid.clone()).or_insert_with(|| RuntimePod {
            key: PodKey { namespace: text(labels::POD_NAMESPACE), name: text(labels::POD_NAME), uid: uid.clone() },
            source: None,
            sandboxes: Vec::new(),
            containers: Vec::new(),
        });
        Some(uid)
    };
    let sandboxes: Vec<_> = sandboxes.into_iter().filter_map(|s| Some((pod_of(&s.labels)?, s))).collect();
    let containers: Vec<_> = containers.into_iter().filter_map(|c| Some((pod_of(&c.labels)?, c))).collect();
    for (uid, s) in sandboxes {
        let Some(pod) = pods.get_mut(&uid) else { continue };
        if let Some(source) = s.annotations.get(CONFIG_SOURCE_ANNOTATION) {
            pod.source.get_or_insert_with(|| source.clone());
        }
        pod.sandboxes.push(ListedSandbox {
            attempt: s.metadata.as_ref().map_or(0, |m| m.attempt),
            created_at: clock::from_nanoseconds(s.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            ready: s.state() == cri::PodSandboxState::SandboxReady,
            id: s.id,
        });
    }
    for (uid, c) in containers {
        let Some(pod) = pods.get_mut(&uid) else { continue };
        let name = labels::value(&c.labels, labels::CONTAINER_NAME).map(str::to_owned);
        pod.containers.push(ListedContainer {
            name: name.or_else(|| c.metadata.as_ref().map(|m| m.name.clone())).unwrap_or_default(),
            created_at: clock::from_nanoseconds(c.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            state: match c.state() {
                cri::ContainerState::ContainerCreated => ListedState::Created,
                cri::ContainerState::ContainerRunning => ListedState::Running,
                cri::ContainerState::ContainerExited => ListedState::Exited,
                cri::ContainerState::ContainerUnknown => ListedState::Unknown,
            },
            sandbox_id: c.pod_sandbox_id,
            id: c.id,
        });
    }
    let mut pods: Vec<RuntimePod> = pods.into_values().collect();
    for pod in &mut pods {
        pod.sandboxes.sort_by(|a, b| (b.attempt, b.created_at, &a.id).cmp(&(a.attempt, a.created_at, &b.id)));
        pod.containers.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
    }
    pods.sort_by(|a, b| a.key.uid.cmp(&b.key.uid));
    pods
}

/// Remembers what was seen of each pod last, as little of it as tells what changed.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    pods: HashMap<PodUid, Tracked>,
    /// The pods of sandboxes and containers.
    owners: HashMap<String, PodUid>,
    /// Counts relists.
    relists: u64,
    /// Counts objects that became known.
    numbers: u64,
}

/// What is known of a pod.
#[derive(Debug, Default)]
struct Tracked {
    /// Of what a relist or the pod's worker saw last; none if that was nothing.
    summary: Option<u64>,
    /// Its sandboxes and containers by id.
    objects: HashMap<String, Known>,
    /// The relist that differed from what was seen, until the pod's worker has looked since.
    news: Option<u64>,
}

/// What is known of a sandbox or container.
#[derive(Debug)]
struct Known {
    number: u64,
    /// What the pod's worker has seen of it.
    seen: Seen,
    /// What events have told of it.
    told: Seen,
}

/// How far a sandbox or container has come, in the one order that there is: nothing that has ended begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Never,
    Alive,
    Ended,
    Gone,
}

impl Known {
    /// One that nobody has seen yet.
    fn new(numbers: &mut u64) -> Self {
        let number = *numbers;
        *numbers += 1;
        Known { number, seen: Seen::Never, told: Seen::Never }
    }
}

impl Tracker {
    /// Takes the newest relist; the pods of which something appeared, went or changed state since they were seen last.
    pub(super) fn update(&mut self, pods: &[RuntimePod]) -> Vec<PodUid> {
        self.relists += 1;
        let mut before = std::mem::take(&mut self.pods);
        self.owners.clear();
        let mut changed = Vec::new();
        for pod in pods {
            let (uid, summary) = (&pod.key.uid, Some(pod.summary()));
            let Tracked { summary: last, objects: mut known, mut news } = before.remove(uid).unwrap_or_default();
            if last != summary {
                news = Some(self.relists);
                changed.push(uid.clone());
            }
            let mut objects = HashMap::new();
            for id in pod.sandboxes.iter().map(|s| &s.id).chain(pod.containers.iter().map(|c| &c.id)) {
                let of_id = known.remove(id).unwrap_or_else(|| Known::new(&mut self.numbers));
                objects.insert(id.clone(), of_id);
                self.owners.insert(id.clone(), uid.clone());
            }
            self.pods.insert(uid.clone(), Tracked { summary, objects, news });
        }
        // What was gone already is not told again, and forgotten: nobody reads it any more.
        let vanished = before.into_iter().filter(|(_, tracked)| tracked.summary.is_some());
        let mut vanished: Vec<PodUid> = vanished.map(|(uid, _)| uid).collect();
        vanished.sort_unstable();
        for uid in &vanished {
            self.pods.insert(uid.clone(), Tracked { news: Some(self.relists), ..Tracked::default() });
        }
        changed.append(&mut vanished);
        changed
    }

    /// What an observation that begins now is to be handed in with.
    pub(super) fn begin_observation(&self) -> ObservationStart {
        ObservationStart { relists: self.relists, numbers: self.numbers }
    }

    /// Takes what the pod's worker has read: a relist that shows the same tells it nothing, and neither does an event of an
    /// end that it has seen. Of two readings that overtake each other the older may stay, for which the next relist only has
    /// the pod looked at once more.
    pub(super) fn note_observation(&mut self, uid: &PodUid, start: ObservationStart, seen: &PodObservation) {
        let sandboxes = || seen.sandboxes.iter().map(|s| (s.id.as_str(), s.ready));
        let containers = || seen.containers.iter().map(|c| (c.id.as_str(), ListedState::of(&c.state)));
        let ended = |ended| if ended { Seen::Ended } else { Seen::Alive };
        let shown: HashMap<&str, Seen> = sandboxes()
            .map(|(id, ready)| (id, ended(!ready)))
            .chain(containers().map(|(id, state)| (id, ended(state == ListedState::Exited))))
            .collect();
        shown.keys().for_each(|id| self.note_owner(id, uid));
        let Some(tracked) = self.pods.get_mut(uid) else { return };
        tracked.summary = (!shown.is_empty()).then(|| summarize(sandboxes(), containers()));
        tracked.news.take_if(|relist| *relist <= start.relists);
        for (id, known) in &mut tracked.objects {
            // What became known since may be younger than the lists that were read.
            let absent = if known.number < start.numbers { Seen::Gone } else { known.seen };
            known.seen = known.seen.max(shown.get(id.as_str()).copied().unwrap_or(absent));
        }
    }

    /// Takes an event of a pod's object, which is known from then on. Returns whether it tells something that the pod's worker
    /// has not seen.
    pub(super) fn note_event(&mut self, id: &str, event: cri::ContainerEventType, uid: &PodUid) -> bool {
        self.note_owner(id, uid);
        let told = match event {
            // What is created or started is so by the agent, which looks at it when its call returns; should somebody else
            // do it, a relist tells.
            cri::ContainerEventType::ContainerCreatedEvent | cri::ContainerEventType::ContainerStartedEvent => {
                return false;
            }
            cri::ContainerEventType::ContainerStoppedEvent => Seen::Ended,
            cri::ContainerEventType::ContainerDeletedEvent => Seen::Gone,
        };
        let known = self.pods.get_mut(uid).and_then(|tracked| tracked.objects.get_mut(id));
        known.is_none_or(|known| {
            known.told = known.told.max(told);
            known.seen < told
        })
    }

    /// Whether something was told of the pod that its worker has not seen.
    pub(super) fn has_news(&self, uid: &PodUid) -> bool {
        let has_news = |pod: &Tracked| pod.news.is_some() || pod.objects.values().any(|known| known.seen < known.told);
        self.pods.get(uid).is_some_and(has_news)
    }

    /// The pod of a sandbox or container, as far as known.
    pub(super) fn owner(&self, id: &str) -> Option<&PodUid> {
        self.owners.get(id)
    }

    /// Remembers the pod of a sandbox or container until the next relist.
    fn note_owner(&mut self, id: &str, uid: &PodUid) {
        if !self.owners.contains_key(id) {
            self.owners.insert(id.to_owned(), uid.clone());
            let known = Known::new(&mut self.numbers);
            self.pods.entry(uid.clone()).or_default().objects.insert(id.to_owned(), known);
        }
    }

    /// Whether a sandbox or container was in the last relist or came up since.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.owners.contains_key(id)
    }
}

/// When an observation began.
#[derive(Clone, Copy, Debug)]
pub(super) struct ObservationStart {
    relists: u64,
    numbers: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::snapshot::{self, SandboxNetwork};

    fn pod_labels(uid: &str) -> HashMap<String, String> {
        let labels = [(labels::POD_UID, uid), (labels::POD_NAME, "web"), (labels::POD_NAMESPACE, "prod")];
        labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn sandbox(id: &str, uid: &str, state: cri::PodSandboxState) -> cri::PodSandbox {
        cri::PodSandbox {
            id: id.to_owned(),
            state: state.into(),
            created_at: 1,
            labels: pod_labels(uid),
            ..Default::default()
        }
    }

    fn container(id: &str, uid: &str, created_at: i64, state: cri::ContainerState) -> cri::Container {
        let mut labels = pod_labels(uid);
        labels.insert(labels::CONTAINER_NAME.to_owned(), "app".to_owned());
        cri::Container { id: id.to_owned(), state: state.into(), created_at, labels, ..Default::default() }
    }

    use cri::ContainerState::{ContainerExited as EXITED, ContainerRunning as RUNNING};
    use cri::PodSandboxState::{SandboxNotready as NOT_READY, SandboxReady as READY};

    #[test]
    fn groups_by_the_label_and_leaves_strangers_out() {
        let strangers = (sandbox("x", "", READY), container("y", "", 1, RUNNING));
        let pods = group(
            vec![sandbox("s1", "u1", READY), strangers.0],
            vec![
                container("c1", "u1", 1, EXITED),
                container("c2", "u1", 2, RUNNING),
                strangers.1,
                container("c3", "u0", 1, EXITED),
            ],
        );
        let uids: Vec<_> = pods.iter().map(|p| p.key.uid.as_str()).collect();
        assert_eq!(uids, ["u0", "u1"]);
        assert_eq!((pods[1].key.namespace.as_str(), pods[1].key.name.as_str()), ("prod", "web"));
        let ids: Vec<_> = pods[1].containers.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["c2", "c1"]);
        assert!(pods[1].is_anything_running() && !pods[0].is_anything_running());
    }

    #[test]
    fn only_changes_are_told() {
        let mut tracker = Tracker::default();
        let mut relist = |sandboxes, containers| -> Vec<String> {
            let changed = tracker.update(&group(sandboxes, containers));
            changed.into_iter().map(|uid| uid.to_string()).collect()
        };
        let sandboxes = || vec![sandbox("s1", "u1", READY), sandbox("s2", "u2", READY)];
        assert_eq!(relist(sandboxes(), vec![]), ["u1", "u2"]);
        assert!(relist(sandboxes(), vec![]).is_empty());
        assert_eq!(relist(sandboxes(), vec![container("c", "u2", 1, RUNNING)]), ["u2"]);
        assert_eq!(relist(sandboxes(), vec![container("c", "u2", 1, EXITED)]), ["u2"]);
        let reordered = vec![sandbox("s2", "u2", READY), sandbox("s1", "u1", NOT_READY)];
        assert_eq!(relist(reordered, vec![container("c", "u2", 1, EXITED)]), ["u1"]);
        assert_eq!(relist(vec![], vec![container("c", "u2", 1, EXITED)]), ["u2", "u1"]);
        assert_eq!(relist(vec![], vec![]), ["u2"]);
    }

    #[test]
    fn what_a_worker_has_seen_is_not_told_again() {
        let mut tracker = Tracker::default();
        let uid = PodUid::from("u1");
        let seen = |state| observation(Some(true), Some(state));
        let relist = |tracker: &mut Tracker, state| {
            tracker.update(&group(vec![sandbox("s1", "u1", READY)], vec![container("c1", "u1", 1, state)]))
        };
        tracker.note_observation(&uid, tracker.begin_observation(), &seen(RUNNING));
        assert!(relist(&mut tracker, RUNNING).is_empty());
        assert_eq!(relist(&mut tracker, EXITED), std::slice::from_ref(&uid));
        tracker.note_observation(&uid, tracker.begin_observation(), &seen(EXITED));
        assert!(relist(&mut tracker, EXITED).is_empty());
        tracker.note_observation(&uid, tracker.begin_observation(), &PodObservation::default());
        assert!(tracker.update(&[]).is_empty());
        assert_eq!(relist(&mut tracker, EXITED), [uid]);
    }

    fn observation(sandbox_ready: Option<bool>, container: Option<cri::ContainerState>) -> PodObservation {
        let state = |ready| if ready { READY } else { NOT_READY };
        let network = || SandboxNetwork::of(&Default::default());
        let status = |state: cri::ContainerState| cri::ContainerStatus {
            id: "c1".to_owned(),
            state: state.into(),
            ..Default::default()
        };
        let sandboxes = sandbox_ready.map(|ready| snapshot::sandbox(sandbox("s1", "u1", state(ready)), network()));
        let containers = container.map(|state| snapshot::container("s1".to_owned(), status(state), ""));
        PodObservation { sandboxes: sandboxes.into_iter().collect(), containers: containers.into_iter().collect() }
    }

    const STOPPED: cri::ContainerEventType = cri::ContainerEventType::ContainerStoppedEvent;
    const DELETED: cri::ContainerEventType = cri::ContainerEventType::ContainerDeletedEvent;

    #[test]
    fn an_end_is_news_until_it_was_seen() {
        let (mut tracker, uid) = (Tracker::default(), PodUid::from("u1"));
        let look = |tracker: &mut Tracker, seen| {
            let start = tracker.begin_observation();
            tracker.note_observation(&uid, start, &seen);
        };
        look(&mut tracker, observation(Some(true), Some(RUNNING)));
        assert!(!tracker.has_news(&uid));
        assert!(tracker.note_event("c1", STOPPED, &uid) && tracker.has_news(&uid));
        look(&mut tracker, observation(Some(true), Some(RUNNING)));
        assert!(tracker.has_news(&uid), "a look that was too early");
        look(&mut tracker, observation(Some(true), Some(EXITED)));
        assert!(!tracker.has_news(&uid));
        assert!(!tracker.note_event("c1", STOPPED, &uid), "seen already");
        look(&mut tracker, observation(Some(false), Some(EXITED)));
        assert!(!tracker.note_event("s1", STOPPED, &uid));
        assert!(tracker.note_event("c1", DELETED, &uid));
        look(&mut tracker, observation(None, None));
        assert!(!tracker.has_news(&uid) && !tracker.note_event("s1", DELETED, &uid));
        assert!(!tracker.note_event("c1", cri::ContainerEventType::ContainerStartedEvent, &uid));
    }

    #[test]
    fn what_a_look_was_too_early_for_is_not_taken_for_gone() {
        let (mut tracker, uid) = (Tracker::default(), PodUid::from("u1"));
        let start = tracker.begin_observation();
        tracker.note_owner("c1", &uid);
        tracker.note_observation(&uid, start, &observation(Some(true), None));
        assert!(tracker.note_event("c1", STOPPED, &uid) && tracker.has_news(&uid));
    }

    #[test]
    fn a_relist_is_news_until_the_next_look() {
        let (mut tracker, uid) = (Tracker::default(), PodUid::from("u1"));
        let early = tracker.begin_observation();
        tracker.update(&group(vec![sandbox("s1", "u1", READY)], vec![container("c1", "u1", 1, EXITED)]));
        assert!(tracker.has_news(&uid));
        tracker.note_observation(&uid, early, &observation(Some(true), Some(RUNNING)));
        assert!(tracker.has_news(&uid), "it began before");
        let start = tracker.begin_observation();
        tracker.note_observation(&uid, start, &observation(Some(true), Some(EXITED)));
        assert!(!tracker.has_news(&uid));
        tracker.update(&[]);
        assert!(tracker.has_news(&uid));
        tracker.update(&[]);
        assert!(!tracker.has_news(&uid), "nobody asks for what is long gone");
    }

    #[test]
    fn owners_last_until_the_relist_that_misses_them() {
        let mut tracker = Tracker::default();
        tracker.update(&group(vec![sandbox("s1", "u1", READY)], vec![]));
        tracker.note_owner("c9", &PodUid::from("u1"));
        assert_eq!(tracker.owner("s1").map(PodUid::as_str), Some("u1"));
        assert!(tracker.knows("c9"));
        tracker.update(&[]);
        assert!(!tracker.knows("s1") && !tracker.knows("c9"));
    }
}
