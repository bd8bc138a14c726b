//! The pods of this node: one worker each, fed from the sources.
//!
//! Task: [`PodManager::run`]; inputs: what the sources tell, hints of the runtime's observer, changes of ConfigMaps and
//! Secrets, a slow timer; output: inputs of the workers, what mirrors must show; stops at its token, and with it the workers,
//! whose pods go on.
//!
//! What the runtime, the disk or the cgroup tree holds of pods that no source knows is ended, once the sources have told all
//! that they know. Static pods wait for no source but their own; of those with one name there is never more than one at a time.

mod judge;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::judge::{Standing, Unjudged};
use super::admission::{AdmissionFacts, Admitted, NodeView};
use super::executor::Executor;
use super::list::PodList;
use super::mirror::{MirrorInput, PodName, name_of};
use super::plan::NodeFacts;
use super::source::{Source, SourceEvent, Sources};
use super::status_writer::StatusWriter;
use super::worker::{Worker, WorkerHandle, WorkerInput, WorkerParts};
use crate::cgroup::{CgroupError, CgroupManager};
use crate::kube::objects::{ObjectCache, ObjectChange};
use crate::kube::pods::PodEvent;
use crate::metrics::kubelet as metrics;
use crate::model::observation::PodObservation;
use crate::model::pod::{self, CONFIG_SOURCE_ANNOTATION, PodKey, PodUid};
use crate::probe::ProbeManager;
use crate::runtime::observer::Observer;
use crate::volume::VolumeManager;

pub use self::judge::NodeReader;

/// How often left-overs of unknown pods are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

/// How soon the runtime is asked again for what it holds while static pods wait for the answer.
const SCAN_RETRY: Duration = Duration::from_secs(1);

/// How long the QoS cgroups' values may lag behind the pods.
const QOS_DELAY: Duration = Duration::from_millis(500);

/// How long until they are tried again after a failure.
const QOS_RETRY: Duration = Duration::from_secs(10);

/// What the manager works with.
pub struct PodManagerParts {
    /// Carries out the workers' actions.
    pub executor: Arc<Executor>,
    /// Publishes statuses; none without an API server.
    pub status_writer: Option<StatusWriter>,
    /// What plans need to know of the node.
    pub node: watch::Receiver<NodeFacts>,
    /// Probes the pods' containers.
    pub probes: ProbeManager,
    /// Lists what the runtime holds.
    pub observer: Observer,
    /// Lists what lies on the disk.
    pub volumes: VolumeManager,
    /// Lists the pods of the cgroup tree.
    pub cgroups: CgroupManager,
    /// Watches what pods refer to; none without an API server.
    pub objects: Option<ObjectCache>,
    /// Shows static pods in the API; none without an API server.
    pub mirrors: Option<watch::Sender<MirrorInput>>,
    /// What pods are judged by before they are taken.
    pub admission: watch::Receiver<AdmissionFacts>,
    /// Reads the Node when what is known of it may be too old; none without an API server.
    pub read_node: Option<NodeReader>,
}

/// What the manager listens to.
pub struct PodManagerInputs {
    /// Where pods come from.
    pub sources: Sources,
    /// Pods whose state in the runtime may have changed.
    pub hints: mpsc::Receiver<PodUid>,
    /// Changes of objects that pods refer to.
    pub objects: Option<broadcast::Receiver<ObjectChange>>,
}

/// Whether anything of a pod can be there already.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// From its source, for the first time.
    New,
    /// From its source; this agent or an earlier one has worked on it.
    Known,
}

struct Entry {
    handle: WorkerHandle,
    key: PodKey,
    /// None for an orphan.
    source: Option<Source>,
    is_static: bool,
    /// What the pod holds of the node; none if it was not taken.
    admitted: Option<Admitted>,
    /// A pod of the same UID that came while the remains of the one before were still being ended.
    successor: Option<(Source, Arc<Pod>)>,
}

impl Entry {
    fn is_orphan(&self) -> bool {
        self.source.is_none()
    }

    /// Whether the pod is meant to be on the node.
    fn is_wanted(&self) -> bool {
        !self.is_orphan() && !self.handle.input.borrow().removed
    }

    /// Whether what the pod was given of the node is still its own: it may run, and a source wants it.
    fn holds_its_claim(&self) -> bool {
        self.is_wanted() && !self.handle.has_stopped()
    }
}

/// Starts, feeds and ends the workers.
pub struct PodManager {
    parts: PodManagerParts,
    list: PodList,
    workers: HashMap<PodUid, Entry>,
    tasks: JoinSet<PodUid>,
    task_pods: HashMap<Id, PodUid>,
    /// The sources that have told all that they know.
    ready: BTreeSet<Source>,
    configured: BTreeSet<Source>,
    /// What the runtime holds was looked at since a source was read.
    scanned: bool,
    /// Static pods that are not begun before what the runtime holds is known and another of their name has ended.
    waiting: BTreeMap<PodName, (Source, Arc<Pod>)>,
    /// Pods that are not judged yet or that wait for room, in the order of their coming.
    unjudged: Vec<Unjudged>,
    /// Told by a worker when what its pod held of the node is free.
    freed: Arc<Notify>,
    /// The API's mirrors of static pods.
    mirrors: BTreeMap<PodName, Arc<Pod>>,
    /// Static pods that have ended for good since the agent started.
    ended: BTreeSet<PodName>,
    /// When the QoS cgroups must follow the pods that have come or gone.
    qos_due: Option<Instant>,
    qos_fails: bool,
    scan_wanted: bool,
    scan_retry: Option<Instant>,
}

impl PodManager {
    /// A manager without pods.
    pub fn new(parts: PodManagerParts) -> Self {
        PodManager {
            parts,
            list: PodList::default(),
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            task_pods: HashMap::new(),
            ready: BTreeSet::new(),
            configured: BTreeSet::new(),
            scanned: false,
            waiting: BTreeMap::new(),
            unjudged: Vec::new(),
            freed: Arc::new(Notify::new()),
            mirrors: BTreeMap::new(),
            ended: BTreeSet::new(),
            qos_due: None,
            qos_fails: false,
            scan_wanted: false,
            scan_retry: None,
        }
    }

    /// The pods that this node has.
    pub fn pods(&self) -> PodList {
        self.list.clone()
    }

    /// Runs the node's pods until cancelled.
    pub async fn run(mut self, mut inputs: PodManagerInputs, cancel: CancellationToken) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // A scan of the node under way: asking the runtime may take long, and pods must not wait for it.
        let mut scan: Option<BoxFuture<'static, Option<Vec<FoundPod>>>> = None;
        let mut node_read: Option<BoxFuture<'static, Option<NodeView>>> = None;
        let mut qos: Option<BoxFuture<'static, Result<(), CgroupError>>> = None;
        self.configured.clone_from(inputs.sources.configured());
        loop {
            node_read = node_read.or_else(|| self.read_node());
            if scan.is_none() && self.scan_wanted {
                self.scan_wanted = false;
                scan = Some(self.scan());
            }
            let end_of_patience = self.end_of_patience();
            // Cancel-safe: channels and join_next_with_id lose nothing when another arm wins, a tick that is lost comes again, and
            // what reads the Node, scans the machine or writes cgroups lives outside.
            tokio::select! {
                () = cancel.cancelled() => break,
                event = inputs.sources.next() => self.note_source_event(event, &cancel),
                Some(uid) = inputs.hints.recv() => {
                    if let Some(entry) = self.workers.get(&uid) {
                        entry.handle.runtime_changed.notify_one();
                    }
                }
                change = next_change(&mut inputs.objects) => self.note_object_change(change),
                Some(ended) = self.tasks.join_next_with_id() => self.note_worker_end(ended, &cancel),
                () = super::sleep_until(self.qos_due), if qos.is_none() => qos = Some(self.update_qos()),
                ended = finished(&mut qos) => {
                    qos = None;
                    self.note_qos(ended);
                }
                Ok(()) = self.parts.admission.changed() => self.judge_waiting(&cancel),
                node = finished(&mut node_read) => {
                    node_read = None;
                    self.note_node_read(node, &cancel);
                }
                () = self.freed.notified() => self.start_those_with_room(&cancel),
                () = super::sleep_until(end_of_patience) => self.start_those_with_room(&cancel),
                _ = housekeeping.tick() => self.scan_wanted = !self.ready.is_empty(),
                () = super::sleep_until(self.scan_retry) => (self.scan_wanted, self.scan_retry) = (true, None),
                found = finished(&mut scan) => {
                    scan = None;
                    self.note_scan(found, &cancel);
                }
            }
        }
        // Workers hold their own child of the token; what they were doing is dropped, and the pods go on.
        while self.tasks.join_next().await.is_some() {}
    }

    /// Pods come and go in bursts, and the QoS cgroups' values change little with each: one update follows them all.
    fn schedule_qos(&mut self) {
        self.qos_due.get_or_insert_with(|| Instant::now() + QOS_DELAY);
    }

    fn update_qos(&mut self) -> BoxFuture<'static, Result<(), CgroupError>> {
        self.qos_due = None;
        let running =
            self.workers.values().filter(|entry| entry.admitted.is_some()).map(|entry| entry.handle.input.borrow());
        let active =
            |input: &WorkerInput| !input.removed && !pod::phase(&input.pod).is_some_and(pod::is_terminal_phase);
        let pods: Vec<Arc<Pod>> = running.filter(|input| active(input)).map(|input| input.pod.clone()).collect();
        let cgroups = self.parts.cgroups.clone();
        Box::pin(async move { cgroups.update_qos(&pods).await })
    }

    fn note_qos(&mut self, ended: Result<(), CgroupError>) {
        if let Err(error) = ended {
            if !self.qos_fails {
                warn!(%error, "the QoS cgroups do not follow the pods; it is tried again every 10 s");
            }
            self.qos_fails = true;
            self.qos_due.get_or_insert_with(|| Instant::now() + QOS_RETRY);
        } else {
            self.qos_fails = false;
        }
    }

    fn note_source_event(&mut self, told: SourceEvent, cancel: &CancellationToken) {
        let SourceEvent { source, event, complete } = told;
        self.list.note(source, &event);
        match event {
            PodEvent::Applied(pod) if pod::is_mirror(&pod) => self.note_mirror(name_of(&PodKey::of(&pod)), Some(pod)),
            PodEvent::Deleted(pod) if pod::is_mirror(&pod) => self.note_mirror(name_of(&PodKey::of(&pod)), None),
            PodEvent::Applied(pod) => self.apply(source, pod, cancel),
            PodEvent::Deleted(pod) => self.remove(&PodKey::of(&pod).uid, Some(pod)),
            PodEvent::Synced(pods) => self.note_all(source, pods, complete, cancel),
        }
    }

    /// Takes all pods of a source.
    fn note_all(&mut self, source: Source, pods: Vec<Arc<Pod>>, complete: bool, cancel: &CancellationToken) {
        let (mirrors, pods): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| pod::is_mirror(pod));
        let known: HashSet<PodUid> = pods.iter().map(|pod| PodKey::of(pod).uid).collect();
        let gone = |(uid, entry): &(&PodUid, &Entry)| entry.source == Some(source) && !known.contains(*uid);
        let gone: Vec<PodUid> = self.workers.iter().filter(gone).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid, None);
        }
        self.waiting.retain(|_, (from, pod)| *from != source || known.contains(&PodKey::of(pod).uid));
        self.unjudged.retain(|unjudged| unjudged.source() != source || known.contains(&unjudged.key().uid));
        for pod in judge::in_order(pods) {
            self.apply(source, pod, cancel);
        }
        if source == Source::Api {
            let mirrors: BTreeMap<PodName, Arc<Pod>> =
                mirrors.into_iter().map(|mirror| (name_of(&PodKey::of(&mirror)), mirror)).collect();
            let gone: Vec<PodName> = self.mirrors.keys().filter(|name| !mirrors.contains_key(*name)).cloned().collect();
            gone.into_iter().for_each(|name| self.note_mirror(name, None));
            mirrors.into_iter().for_each(|(name, mirror)| self.note_mirror(name, Some(mirror)));
        }
        if complete && self.ready.insert(source) {
            self.scan_wanted = true;
        }
        self.scan_wanted |= !self.scanned;
        self.tell_mirrors();
    }

    /// Takes what the API has, or has no more, by the name of a static pod.
    fn note_mirror(&mut self, name: PodName, mirror: Option<Arc<Pod>>) {
        for entry in self.workers.values().filter(|entry| entry.is_static && name_of(&entry.key) == name) {
            entry.handle.input.send_if_modified(|input| {
                let changed = input.mirror != mirror;
                input.mirror.clone_from(&mirror);
                changed
            });
        }
        match mirror {
            Some(mirror) => self.mirrors.insert(name, mirror),
            None => self.mirrors.remove(&name),
        };
        self.tell_mirrors();
    }

    /// Tells what the API must show of static pods.
    fn tell_mirrors(&mut self) {
        let Some(sender) = &self.parts.mirrors else { return };
        let mut input = MirrorInput {
            left: self.waiting.keys().cloned().collect(),
            ended: self.ended.clone(),
            mirrors: self.mirrors.clone(),
            mirrors_known: self.ready.contains(&Source::Api),
            static_pods_known: self.scanned && self.configured.iter().all(|source| self.ready.contains(source)),
            ..MirrorInput::default()
        };
        for entry in self.workers.values().filter(|entry| entry.is_static) {
            let name = name_of(&entry.key);
            if entry.is_wanted() {
                input.static_pods.insert(name, entry.handle.input.borrow().pod.clone());
            } else {
                input.left.insert(name);
            }
        }
        for unjudged in self.unjudged.iter().filter(|unjudged| pod::is_static(unjudged.pod())) {
            input.static_pods.insert(name_of(&unjudged.key()), unjudged.pod().clone());
        }
        sender.send_if_modified(|known| {
            let changed = *known != input;
            *known = input;
            changed
        });
    }

    fn apply(&mut self, source: Source, pod: Arc<Pod>, cancel: &CancellationToken) {
        if self.update_unjudged(&pod, cancel) {
            return;
        }
        let key = PodKey::of(&pod);
        let must_wait = source != Source::Api && (!self.scanned || self.is_name_taken(&key));
        match self.workers.get_mut(&key.uid) {
            Some(entry) if !entry.is_wanted() => entry.successor = Some((source, pod)),
            Some(entry) => {
                match &self.parts.objects {
                    Some(objects) if entry.admitted.is_some() && needs_objects(&pod) => objects.register_pod(&pod),
                    // Pods that have ended may stay in the API for long: nothing is watched for them.
                    Some(objects) => objects.unregister_pod(&key.uid),
                    None => {}
                }
                entry.handle.input.send_if_modified(|input| {
                    let changed = match source {
                        Source::Api => input.pod.metadata.resource_version != pod.metadata.resource_version,
                        Source::File | Source::Http => *input.pod != *pod,
                    };
                    if changed {
                        input.pod = pod;
                    }
                    changed
                });
            }
            None if must_wait => {
                self.waiting.insert(name_of(&key), (source, pod));
            }
            None => {
                // Of the pods that the API has at first, an earlier agent may have worked on any.
                let is_new = source == Source::Api && self.ready.contains(&source);
                let origin = if is_new { Origin::New } else { Origin::Known };
                self.receive(pod, (source, origin), cancel);
            }
        }
    }

    /// Whether another pod of that name has yet to end.
    fn is_name_taken(&self, key: &PodKey) -> bool {
        let is_other =
            |other: &PodKey| other.uid != key.uid && other.name == key.name && other.namespace == key.namespace;
        self.workers.values().any(|entry| is_other(&entry.key))
            || self.unjudged.iter().any(|unjudged| is_other(&unjudged.key()))
    }

    /// Begins the static pods that no longer have to wait.
    fn start_waiting(&mut self, cancel: &CancellationToken) {
        if !self.scanned {
            return;
        }
        let is_free = |(_, (_, pod)): &(&PodName, &(Source, Arc<Pod>))| !self.is_name_taken(&PodKey::of(pod));
        let free: Vec<PodName> = self.waiting.iter().filter(is_free).map(|(name, _)| name.clone()).collect();
        for name in free {
            if let Some((source, pod)) = self.waiting.remove(&name) {
                self.apply(source, pod, cancel);
            }
        }
        self.tell_mirrors();
    }

    fn remove(&mut self, uid: &PodUid, last: Option<Arc<Pod>>) {
        self.unjudged.retain(|unjudged| unjudged.key().uid != *uid);
        let Some(entry) = self.workers.get_mut(uid) else { return };
        entry.successor = None;
        entry.handle.input.send_modify(|input| {
            input.removed = true;
            if let Some(pod) = last {
                input.pod = pod;
            }
        });
        self.schedule_qos();
    }

    /// Starts a pod's worker; without a source it is an orphan's.
    fn start(&mut self, pod: Arc<Pod>, from: Option<(Source, Origin)>, standing: Standing, cancel: &CancellationToken) {
        let orphan = from.is_none();
        let key = PodKey::of(&pod);
        let name = name_of(&key);
        let is_static = pod::is_static(&pod);
        if is_static {
            self.ended.remove(&name);
        }
        self.schedule_qos();
        let is_admitted = standing.admitted.is_some();
        if let Some(objects) = self.parts.objects.as_ref().filter(|_| is_admitted && needs_objects(&pod)) {
            objects.register_pod(&pod);
        }
        let parts = WorkerParts {
            executor: self.parts.executor.clone(),
            status_writer: self.parts.status_writer.clone(),
            node: self.parts.node.clone(),
            list: self.list.clone(),
            probes: self.parts.probes.pod(&key),
            // The runtime holds nothing of a pod that this very agent is the first to hear of.
            observed: (from.is_some_and(|(_, origin)| origin == Origin::New)).then(PodObservation::default),
            orphan,
            mirror: self.mirrors.get(&name).filter(|_| is_static).cloned(),
            node_end: standing.end,
            freed: self.freed.clone(),
        };
        let (worker, handle) = Worker::new(pod, parts);
        let task = self.tasks.spawn(worker.run(cancel.child_token()));
        self.task_pods.insert(task.id(), key.uid.clone());
        let source = from.map(|(source, _)| source);
        self.workers.insert(
            key.uid.clone(),
            Entry { handle, key, source, is_static, admitted: standing.admitted, successor: None },
        );
    }

    fn note_worker_end(&mut self, ended: Result<(Id, PodUid), tokio::task::JoinError>, cancel: &CancellationToken) {
        let (id, failure) = match ended {
            Ok((id, _)) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(uid) = self.task_pods.remove(&id) else { return };
        let Some(entry) = self.workers.remove(&uid) else { return };
        if let Some(objects) = &self.parts.objects {
            objects.unregister_pod(&uid);
        }
        if let Some(failure) = failure {
            let input: WorkerInput = entry.handle.input.borrow().clone();
            error!(pod = %PodKey::of(&input.pod), error = %failure, "a pod's worker ended abnormally; it is started again");
            let from = entry.source.filter(|_| !input.removed).map(|source| (source, Origin::Known));
            let standing = Standing { admitted: entry.admitted, end: input.node_end };
            self.start(input.pod.clone(), from, standing, cancel);
            if let Some(restarted) = self.workers.get_mut(&uid) {
                restarted.successor = entry.successor;
            }
            return;
        }
        if entry.is_static {
            self.ended.insert(name_of(&entry.key));
        }
        if let Some((source, pod)) = entry.successor {
            metrics::RESTARTED_PODS.increment(&[if entry.is_static { "true" } else { "" }]);
            self.receive(pod, (source, Origin::Known), cancel);
        }
        if entry.is_static || !self.waiting.is_empty() {
            self.start_waiting(cancel);
        }
        // A critical pod may have waited for this one.
        self.start_those_with_room(cancel);
    }

    fn note_object_change(&self, change: Option<ObjectChange>) {
        match change {
            Some(change) => {
                for entry in change.pods.iter().filter_map(|uid| self.workers.get(uid)) {
                    entry.handle.references_changed.notify_one();
                }
            }
            // Some changes were missed, so any pod may be concerned.
            None => self.workers.values().for_each(|entry| entry.handle.references_changed.notify_one()),
        }
    }

    /// Looks for all that the node holds of pods: in the runtime, on the disk, in the cgroup tree. None if the runtime could
    /// not be asked.
    fn scan(&self) -> BoxFuture<'static, Option<Vec<FoundPod>>> {
        let (observer, volumes, cgroups) =
            (self.parts.observer.clone(), self.parts.volumes.clone(), self.parts.cgroups.clone());
        let executor = self.parts.executor.clone();
        Box::pin(async move {
            let mut found: HashMap<PodUid, FoundPod> = HashMap::new();
            match observer.list_pods().await {
                Ok(pods) => {
                    for pod in pods {
                        let source = pod.source.as_deref().and_then(Source::by_name);
                        found.insert(pod.key.uid.clone(), FoundPod { key: pod.key, source });
                    }
                }
                Err(error) => {
                    warn!(%error, "listing the runtime's pods failed; left-over pods are looked for later");
                    return None;
                }
            }
            let mut uids = volumes.pods_on_disk().await;
            uids.extend(executor.pods_with_logs().await);
            match cgroups.pods().await {
                Ok(pods) => uids.extend(pods.into_iter().map(|pod| pod.uid)),
                Err(error) => warn!(%error, "listing the cgroups of pods failed"),
            }
            for uid in uids {
                let key = PodKey { namespace: String::new(), name: String::new(), uid: uid.clone() };
                found.entry(uid).or_insert(FoundPod { key, source: None });
            }
            Some(found.into_values().collect())
        })
    }

    fn note_scan(&mut self, found: Option<Vec<FoundPod>>, cancel: &CancellationToken) {
        match found {
            Some(found) => {
                self.end_orphans(found, cancel);
                self.scanned = true;
                self.start_waiting(cancel);
            }
            None if !self.scanned => self.scan_retry = Some(Instant::now() + SCAN_RETRY),
            None => {}
        }
    }

    /// Ends what is left on the node of pods that no source knows.
    fn end_orphans(&mut self, found: Vec<FoundPod>, cancel: &CancellationToken) {
        let unjudged = self.unjudged.iter().map(|unjudged| unjudged.key().uid);
        let is_waiting: HashSet<PodUid> =
            self.waiting.values().map(|(_, pod)| PodKey::of(pod).uid).chain(unjudged).collect();
        for found in found {
            if self.workers.contains_key(&found.key.uid)
                || is_waiting.contains(&found.key.uid)
                || !self.is_orphan(&found)
            {
                continue;
            }
            let FoundPod { key, source } = found;
            info!(pod = %key, "ending what is left of a pod that is not known");
            // Only the runtime tells names.
            if !key.name.is_empty() {
                metrics::ORPHANED_RUNTIME_PODS.increment(&[]);
            }
            let text = |text: String| (!text.is_empty()).then_some(text);
            let source = source.map(|source| (CONFIG_SOURCE_ANNOTATION.to_owned(), source.name().to_owned()));
            let metadata = ObjectMeta {
                uid: Some(key.uid.to_string()),
                name: text(key.name),
                namespace: text(key.namespace),
                annotations: Some(source.into_iter().collect()),
                ..ObjectMeta::default()
            };
            self.start(Arc::new(Pod { metadata, ..Pod::default() }), None, Standing::default(), cancel);
        }
    }

    /// Whether no source can want a pod any more: its own has told all that it knows, or has another of its name.
    fn is_orphan(&self, found: &FoundPod) -> bool {
        match found.source.filter(|source| self.configured.contains(source)) {
            Some(source) => {
                let other = self.waiting.get(&name_of(&found.key)).filter(|_| source != Source::Api);
                self.ready.contains(&source) || other.is_some_and(|(from, _)| *from == source)
            }
            None => self.configured.iter().all(|source| self.ready.contains(source)),
        }
    }
}

/// A pod that the node holds something of.
struct FoundPod {
    key: PodKey,
    /// Where it came from, if the runtime knows.
    source: Option<Source>,
}

/// What the work under way gives; waits for ever if there is none.
async fn finished<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Whether the pod's ConfigMaps and Secrets are still of use to it.
fn needs_objects(pod: &Pod) -> bool {
    !pod::phase(pod).is_some_and(pod::is_terminal_phase)
}

/// The next change; `None` when some were missed. Waits for ever without a source.
async fn next_change(changes: &mut Option<broadcast::Receiver<ObjectChange>>) -> Option<ObjectChange> {
    loop {
        let Some(receiver) = changes else { return std::future::pending().await };
        match receiver.recv().await {
            Ok(change) => return Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => return None,
            Err(broadcast::error::RecvError::Closed) => *changes = None,
        }
    }
}
