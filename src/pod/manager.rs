//! The pods of this node: one worker each, fed from the sources.
//!
//! Task: [`PodManager::run`]; inputs: pod events of the API source, hints of the runtime's observer, changes of ConfigMaps
//! and Secrets, a slow timer; output: inputs of the workers; stops at its token, and with it the workers, whose pods go on.
//!
//! What the runtime, the disk or the cgroup tree holds of pods that no source knows is ended, once the sources have told all
//! that they know.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::executor::Executor;
use super::list::PodList;
use super::plan::NodeFacts;
use super::status_writer::StatusWriter;
use super::worker::{Worker, WorkerHandle, WorkerInput, WorkerParts};
use crate::cgroup::CgroupManager;
use crate::kube::objects::{ObjectCache, ObjectChange};
use crate::kube::pods::{PodEvent, PodEvents};
use crate::model::observation::PodObservation;
use crate::model::pod::{self, PodKey, PodUid};
use crate::probe::ProbeManager;
use crate::runtime::observer::Observer;
use crate::volume::VolumeManager;

/// How often left-overs of unknown pods are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(30);

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
}

/// What the manager listens to.
pub struct PodManagerInputs {
    /// The API source.
    pub pods: PodEvents,
    /// Pods whose state in the runtime may have changed.
    pub hints: mpsc::Receiver<PodUid>,
    /// Changes of objects that pods refer to.
    pub objects: Option<broadcast::Receiver<ObjectChange>>,
}

/// Where a worker's pod comes from.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// From its source, for the first time.
    New,
    /// From its source; this agent or an earlier one has worked on it.
    Known,
    /// From the node alone.
    Orphan,
}

struct Entry {
    handle: WorkerHandle,
    orphan: bool,
    /// A pod of the same UID that came while an orphan's remains were still being ended.
    successor: Option<Arc<Pod>>,
}

/// Starts, feeds and ends the workers.
pub struct PodManager {
    parts: PodManagerParts,
    list: PodList,
    workers: HashMap<PodUid, Entry>,
    tasks: JoinSet<PodUid>,
    task_pods: HashMap<Id, PodUid>,
    synced: bool,
    /// When the QoS cgroups must follow the pods that have come or gone.
    qos_due: Option<Instant>,
    qos_fails: bool,
    /// Static pods that are left alone were told of.
    told_of_static: bool,
    scan_wanted: bool,
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
            synced: false,
            qos_due: None,
            qos_fails: false,
            told_of_static: false,
            scan_wanted: false,
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
        let mut scan: Option<BoxFuture<'static, Vec<FoundPod>>> = None;
        loop {
            if scan.is_none() && self.scan_wanted {
                self.scan_wanted = false;
                scan = Some(self.scan());
            }
            // Cancel-safe: channels and join_next_with_id lose nothing when another arm wins, a tick that is lost comes again.
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(event) = inputs.pods.next() => self.note_pod_event(event, &cancel),
                Some(uid) = inputs.hints.recv() => {
                    if let Some(entry) = self.workers.get(&uid) {
                        entry.handle.runtime_changed.notify_one();
                    }
                }
                change = next_change(&mut inputs.objects) => self.note_object_change(change),
                Some(ended) = self.tasks.join_next_with_id() => self.note_worker_end(ended, &cancel),
                () = super::sleep_until(self.qos_due) => self.update_qos().await,
                _ = housekeeping.tick() => self.scan_wanted = self.synced,
                found = scanned(&mut scan) => {
                    scan = None;
                    self.end_orphans(found, &cancel);
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

    async fn update_qos(&mut self) {
        self.qos_due = None;
        let running = self.workers.values().filter(|entry| !entry.orphan).map(|entry| entry.handle.input.borrow());
        let active =
            |input: &WorkerInput| !input.removed && !pod::phase(&input.pod).is_some_and(pod::is_terminal_phase);
        let pods: Vec<Arc<Pod>> = running.filter(|input| active(input)).map(|input| input.pod.clone()).collect();
        if let Err(error) = self.parts.cgroups.update_qos(&pods).await {
            if !self.qos_fails {
                warn!(%error, "the QoS cgroups do not follow the pods; it is tried again every 10 s");
            }
            self.qos_fails = true;
            self.qos_due = Some(Instant::now() + QOS_RETRY);
        } else {
            self.qos_fails = false;
        }
    }

    fn note_pod_event(&mut self, event: PodEvent, cancel: &CancellationToken) {
        self.list.note(&event);
        match event {
            PodEvent::Applied(pod) => self.apply(pod, cancel),
            PodEvent::Deleted(pod) => self.remove(&PodKey::of(&pod).uid, Some(pod)),
            PodEvent::Synced(pods) => {
                let known: HashSet<PodUid> = pods.iter().map(|pod| PodKey::of(pod).uid).collect();
                let gone: Vec<PodUid> = self
                    .workers
                    .iter()
                    .filter(|(uid, entry)| !entry.orphan && !known.contains(*uid))
                    .map(|(uid, _)| uid.clone())
                    .collect();
                for uid in gone {
                    self.remove(&uid, None);
                }
                for pod in pods {
                    self.apply(pod, cancel);
                }
                if !self.synced {
                    self.synced = true;
                    self.scan_wanted = true;
                }
            }
        }
    }

    fn apply(&mut self, pod: Arc<Pod>, cancel: &CancellationToken) {
        if pod::is_mirror(&pod) {
            // It only shows a static pod, which runs under another UID.
            return;
        }
        let uid = PodKey::of(&pod).uid;
        match self.workers.get_mut(&uid) {
            Some(entry) if entry.orphan || entry.handle.input.borrow().removed => entry.successor = Some(pod),
            Some(entry) => {
                if let Some(objects) = self.parts.objects.as_ref().filter(|_| needs_objects(&pod)) {
                    objects.register_pod(&pod);
                }
                entry.handle.input.send_if_modified(|input| {
                    let changed = input.pod.metadata.resource_version != pod.metadata.resource_version;
                    if changed {
                        input.pod = pod;
                    }
                    changed
                });
            }
            None => self.start(pod, Origin::New, cancel),
        }
    }

    fn remove(&mut self, uid: &PodUid, last: Option<Arc<Pod>>) {
        let Some(entry) = self.workers.get_mut(uid) else { return };
        self.qos_due.get_or_insert_with(|| Instant::now() + QOS_DELAY);
        entry.successor = None;
        entry.handle.input.send_modify(|input| {
            input.removed = true;
            if let Some(pod) = last {
                input.pod = pod;
            }
        });
    }

    fn start(&mut self, pod: Arc<Pod>, origin: Origin, cancel: &CancellationToken) {
        let orphan = origin == Origin::Orphan;
        let key = PodKey::of(&pod);
        self.schedule_qos();
        if let Some(objects) = self.parts.objects.as_ref().filter(|_| !orphan && needs_objects(&pod)) {
            objects.register_pod(&pod);
        }
        let parts = WorkerParts {
            executor: self.parts.executor.clone(),
            status_writer: self.parts.status_writer.clone(),
            node: self.parts.node.clone(),
            list: self.list.clone(),
            probes: self.parts.probes.pod(&key),
            // The runtime holds nothing of a pod that this very agent is the first to hear of.
            observed: (self.synced && origin == Origin::New).then(PodObservation::default),
            orphan,
        };
        let (worker, handle) = Worker::new(pod, parts);
        let task = self.tasks.spawn(worker.run(cancel.child_token()));
        self.task_pods.insert(task.id(), key.uid.clone());
        self.workers.insert(key.uid, Entry { handle, orphan, successor: None });
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
            let origin = if entry.orphan || input.removed { Origin::Orphan } else { Origin::Known };
            self.start(input.pod.clone(), origin, cancel);
            if let Some(restarted) = self.workers.get_mut(&uid) {
                restarted.successor = entry.successor;
            }
            return;
        }
        if let Some(pod) = entry.successor {
            self.start(pod, Origin::Known, cancel);
        }
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

    /// Looks for all that the node holds of pods: in the runtime, on the disk, in the cgroup tree. Empty if the runtime could
    /// not be asked.
    fn scan(&self) -> BoxFuture<'static, Vec<FoundPod>> {
        let (observer, volumes, cgroups) =
            (self.parts.observer.clone(), self.parts.volumes.clone(), self.parts.cgroups.clone());
        let executor = self.parts.executor.clone();
        Box::pin(async move {
            let mut found: HashMap<PodUid, FoundPod> = HashMap::new();
            match observer.list_pods().await {
                Ok(pods) => {
                    for pod in pods {
                        found.insert(pod.key.uid.clone(), FoundPod { key: pod.key, is_static: pod.is_static });
                    }
                }
                Err(error) => {
                    warn!(%error, "listing the runtime's pods failed; left-over pods are looked for later");
                    return Vec::new();
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
                found.entry(uid).or_insert(FoundPod { key, is_static: false });
            }
            found.into_values().collect()
        })
    }

    /// Ends what is left on the node of pods that no source knows.
    fn end_orphans(&mut self, found: Vec<FoundPod>, cancel: &CancellationToken) {
        for FoundPod { key, is_static } in found {
            if self.workers.contains_key(&key.uid) {
                continue;
            }
            if is_static {
                // Only an agent that reads the node's manifests can tell whether it is still wanted.
                if !self.told_of_static {
                    self.told_of_static = true;
                    warn!(pod = %key, "static pods are not supported yet: those that run are left alone");
                }
                continue;
            }
            info!(pod = %key, "ending what is left of a pod that is not known");
            let text = |text: String| (!text.is_empty()).then_some(text);
            let metadata = ObjectMeta {
                uid: Some(key.uid.to_string()),
                name: text(key.name),
                namespace: text(key.namespace),
                ..ObjectMeta::default()
            };
            self.start(Arc::new(Pod { metadata, ..Pod::default() }), Origin::Orphan, cancel);
        }
    }
}

/// A pod that the node holds something of.
struct FoundPod {
    key: PodKey,
    is_static: bool,
}

async fn scanned(scan: &mut Option<BoxFuture<'static, Vec<FoundPod>>>) -> Vec<FoundPod> {
    match scan {
        Some(scan) => scan.await,
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
