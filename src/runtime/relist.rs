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
    summaries: HashMap<PodUid, u64>,
    objects: HashMap<String, Known>,
    /// What was told of a pod since its worker last read it, and is not explained by what that read showed.
    news: HashMap<PodUid, News>,
    /// Counts relists.
    relists: u64,
    /// Counts objects that became known.
    numbers: u64,
}

/// What is known of a sandbox or container.
#[derive(Debug)]
struct Known {
    uid: PodUid,
    number: u64,
    /// What the pod's worker has seen of it.
    seen: Seen,
}

/// How far a sandbox or container has come, in the one order that there is: nothing that has ended begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    #[default]
    Never,
    Alive,
    Ended,
    Gone,
}

#[derive(Debug, Default)]
struct News {
    /// The relist that differed from what was seen.
    relist: Option<u64>,
    /// How far objects have come, as events told.
    events: HashMap<String, Seen>,
}

impl Tracker {
    /// Takes the newest relist; the pods of which something appeared, went or changed state since they were seen last.
    pub(super) fn update(&mut self, pods: &[RuntimePod]) -> Vec<PodUid> {
        self.relists += 1;
        let mut before = std::mem::take(&mut self.summaries);
        let mut objects = std::mem::take(&mut self.objects);
        let mut changed = Vec::new();
        for pod in pods {
            let (uid, summary) = (&pod.key.uid, pod.summary());
            if before.remove(uid) != Some(summary) {
                changed.push(uid.clone());
            }
            self.summaries.insert(uid.clone(), summary);
            let sandboxes = pod.sandboxes.iter().map(|s| &s.id);
            for id in sandboxes.chain(pod.containers.iter().map(|c| &c.id)) {
                match objects.remove_entry(id) {
                    Some((id, known)) => drop(self.objects.insert(id, known)),
                    None => self.note_owner(id, uid),
                }
            }
        }
        let mut vanished: Vec<PodUid> = before.into_keys().collect();
        vanished.sort_unstable();
        changed.append(&mut vanished);
        for uid in &changed {
            self.news.entry(uid.clone()).or_default().relist = Some(self.relists);
        }
        // An object that went is news by the lists as well, and a pod that is long gone has nobody who would read it.
        let (objects, summaries, relist) = (&self.objects, &self.summaries, Some(self.relists));
        self.news.retain(|uid, news| {
            news.events.retain(|id, _| objects.contains_key(id));
            news.relist == relist || summaries.contains_key(uid)
        });
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
        match seen.sandboxes.is_empty() && seen.containers.is_empty() {
            true => self.summaries.remove(uid),
            false => self.summaries.insert(uid.clone(), summarize(sandboxes(), containers())),
        };
        let ended = |ended| if ended { Seen::Ended } else { Seen::Alive };
        let shown: HashMap<&str, Seen> = sandboxes()
            .map(|(id, ready)| (id, ended(!ready)))
            .chain(containers().map(|(id, state)| (id, ended(state == ListedState::Exited))))
            .collect();
        for (id, known) in self.objects.iter_mut().filter(|(_, known)| known.uid == *uid) {
            // What became known since may be younger than the lists that were read.
            let absent = if known.number < start.numbers { Seen::Gone } else { known.seen };
            known.seen = known.seen.max(shown.get(id.as_str()).copied().unwrap_or(absent));
        }
        for (id, seen) in shown {
            self.note_owner(id, uid);
            if let Some(known) = self.objects.get_mut(id) {
                known.seen = known.seen.max(seen);
            }
        }
        let Some(news) = self.news.get_mut(uid) else { return };
        news.relist.take_if(|relist| *relist <= start.relists);
        news.events.retain(|id, told| self.objects.get(id).is_none_or(|known| known.seen < *told));
        if news.relist.is_none() && news.events.is_empty() {
            self.news.remove(uid);
        }
    }

    /// Takes an event of a pod's object. Returns whether it tells something that the pod's worker has not seen.
    pub(super) fn note_event(&mut self, id: &str, event: cri::ContainerEventType, uid: &PodUid) -> bool {
        let told = match event {
            // What is created or started is so by the agent, which looks at it when its call returns; should somebody else
            // do it, a relist tells.
            cri::ContainerEventType::ContainerCreatedEvent | cri::ContainerEventType::ContainerStartedEvent => {
                return false;
            }
            cri::ContainerEventType::ContainerStoppedEvent => Seen::Ended,
            cri::ContainerEventType::ContainerDeletedEvent => Seen::Gone,
        };
        if self.objects.get(id).is_some_and(|known| known.seen >= told) {
            return false;
        }
        let events = &mut self.news.entry(uid.clone()).or_default().events;
        let before = events.entry(id.to_owned()).or_default();
        *before = told.max(*before);
        true
    }

    /// Whether something was told of the pod that its worker has not seen.
    pub(super) fn has_news(&self, uid: &PodUid) -> bool {
        self.news.contains_key(uid)
    }

    /// The pod of a sandbox or container, as far as known.
    pub(super) fn owner(&self, id: &str) -> Option<&PodUid> {
        self.objects.get(id).map(|known| &known.uid)
    }

    /// Remembers the pod of a sandbox or container until the next relist.
    pub(super) fn note_owner(&mut self, id: &str, uid: &PodUid) {
        if !self.objects.contains_key(id) {
            let known = Known { uid: uid.clone(), number: self.numbers, seen: Seen::Never };
            self.numbers += 1;
            self.objects.insert(id.to_owned(), known);
        }
    }

    /// Whether a sandbox or container was in the last relist or came up since.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.objects.contains_key(id)
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
        let seen = |state: cri::ContainerState| PodObservation {
            sandboxes: vec![snapshot::sandbox(sandbox("s1", "u1", READY), SandboxNetwork::of(&Default::default()))],
            containers: vec![snapshot::container(
                "s1".to_owned(),
                cri::ContainerStatus { id: "c1".to_owned(), state: state.into(), ..Default::default() },
                "",
            )],
        };
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
