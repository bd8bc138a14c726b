//! The eyes of the agent on the runtime: reads one pod on request, lists all of them, and tells which pods to look at again.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::kubelet as metrics;
use crate::model::observation::{ContainerObservation, ContainerState, PodObservation, SandboxObservation};
use crate::model::pod::PodUid;
use crate::model::{SignedDuration, clock};

use super::cache::Cache;
use super::client::RuntimeClient;
use super::cri;
use super::error::RuntimeError;
use super::events::{self, Events, Signal};
use super::labels;
use super::relist::{self, RuntimePod, Tracker};
use super::snapshot::{self, SandboxNetwork};
use super::termination::MessageSource;

/// Calls under way at once for one pod.
const PARALLEL_CALLS: usize = 8;
/// Most containers and sandboxes that are remembered.
const CACHE_CAPACITY: usize = 1024;
/// A container that ended must have ended so long ago to be remembered: a runtime may still learn that it was the kernel
/// that killed it (`OOMKilled`).
const SETTLED: SignedDuration = SignedDuration::from_secs(10);

/// How often the runtime's lists are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObserverSettings {
    /// While the event stream works.
    pub relist_interval: Duration,
    /// While it does not.
    pub fallback_interval: Duration,
}

impl Default for ObserverSettings {
    fn default() -> Self {
        ObserverSettings { relist_interval: Duration::from_secs(10), fallback_interval: Duration::from_secs(1) }
    }
}

/// A handle on the observation of the runtime; clones share what they remember.
#[derive(Clone)]
pub struct Observer {
    shared: Arc<Shared>,
}

struct Shared {
    client: RuntimeClient,
    settings: ObserverSettings,
    memory: Mutex<Memory>,
    last_relist: Mutex<Option<Instant>>,
}

struct Memory {
    /// Containers that ended: nothing of them changes any more.
    ended: Cache<Arc<ContainerObservation>>,
    /// Addresses and host network of sandboxes, which stay while a sandbox is ready.
    networks: Cache<SandboxNetwork>,
    tracker: Tracker,
}

impl Observer {
    /// An observer of that runtime.
    pub fn new(client: RuntimeClient, settings: ObserverSettings) -> Self {
        let memory = Memory {
            ended: Cache::new(CACHE_CAPACITY),
            networks: Cache::new(CACHE_CAPACITY),
            tracker: Tracker::default(),
        };
        let shared = Shared { client, settings, memory: Mutex::new(memory), last_relist: Mutex::new(None) };
        Observer { shared: Arc::new(shared) }
    }

    /// What the runtime holds of a pod now. Each call asks the runtime: never older than the call. A sandbox or container
    /// that goes while it is asked for is left out.
    ///
    /// # Errors
    /// Any call to the runtime that fails fails the whole: a part of a pod would be a lie.
    pub async fn observe(&self, uid: &PodUid) -> Result<PodObservation, RuntimeError> {
        let began = Instant::now();
        let observed = self.read_pod(uid).await;
        metrics::PLEG_POD_RELIST_DURATION.observe(&[], began.elapsed().as_secs_f64());
        observed
    }

    /// Whether something was told of the pod, by an event or a relist, that no observation of it has shown since.
    pub fn has_news(&self, uid: &PodUid) -> bool {
        self.memory(|memory| memory.tracker.has_news(uid))
    }

    async fn read_pod(&self, uid: &PodUid) -> Result<PodObservation, RuntimeError> {
        let client = &self.shared.client;
        let start = self.memory(|memory| memory.tracker.begin_observation());
        let sandbox_filter =
            cri::PodSandboxFilter { label_selector: labels::pod_selector(uid.as_str()), ..Default::default() };
        let container_filter =
            cri::ContainerFilter { label_selector: labels::pod_selector(uid.as_str()), ..Default::default() };
        let (mut sandboxes, containers) = tokio::try_join!(
            client.list_pod_sandbox(Some(sandbox_filter)),
            client.list_containers(Some(container_filter)),
        )?;
        snapshot::sort_listed_sandboxes(&mut sandboxes);
        let sandboxes = futures::stream::iter(sandboxes)
            .map(|listed| self.observe_sandbox(listed))
            .buffered(PARALLEL_CALLS)
            .try_filter_map(async |seen| Ok(seen))
            .try_collect();
        let containers = futures::stream::iter(containers)
            .map(|listed| self.observe_container(listed))
            .buffered(PARALLEL_CALLS)
            .try_filter_map(async |seen| Ok(seen))
            .try_collect();
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let mut observation = PodObservation { sandboxes, containers };
        snapshot::sort_containers(&mut observation);
        self.memory(|memory| memory.tracker.note_observation(uid, start, &observation));
        Ok(observation)
    }

    /// Everything that the runtime holds, grouped by pod and ordered by UID. What carries no pod UID label is left out.
    ///
    /// # Errors
    /// A call to the runtime that failed.
    pub async fn list_pods(&self) -> Result<Vec<RuntimePod>, RuntimeError> {
        let client = &self.shared.client;
        let (sandboxes, containers) = tokio::try_join!(client.list_pod_sandbox(None), client.list_containers(None))?;
        Ok(relist::group(sandboxes, containers))
    }

    /// When the runtime's lists were last read in full by [`Observer::run`]; none before the first time. The node is not
    /// healthy when this is more than three minutes ago (the peer's PLEG threshold).
    pub fn last_relist(&self) -> Option<Instant> {
        *self.shared.last_relist.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long ago that was.
    pub fn since_last_relist(&self) -> Option<Duration> {
        self.last_relist().map(|at| at.elapsed())
    }

    async fn observe_sandbox(&self, listed: cri::PodSandbox) -> Result<Option<SandboxObservation>, RuntimeError> {
        if let Some(network) = self.memory(|memory| memory.networks.get(&listed.id)) {
            return Ok(Some(snapshot::sandbox(listed, network)));
        }
        let network = match self.shared.client.pod_sandbox_status(&listed.id).await {
            Ok(status) => SandboxNetwork::of(&status),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        if network.is_final() {
            self.memory(|memory| memory.networks.insert(&listed.id, network.clone()));
        }
        Ok(Some(snapshot::sandbox(listed, network)))
    }

    async fn observe_container(&self, listed: cri::Container) -> Result<Option<ContainerObservation>, RuntimeError> {
        if listed.state() == cri::ContainerState::ContainerExited
            && let Some(ended) = self.memory(|memory| memory.ended.get(&listed.id))
        {
            return Ok(Some(ended.as_ref().clone()));
        }
        let status = match self.shared.client.container_status(&listed.id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let exited = status.state() == cri::ContainerState::ContainerExited;
        let message = match exited.then(|| MessageSource::of(&status)).flatten() {
            Some(source) => match tokio::task::spawn_blocking(move || source.read()).await {
                Ok(message) => message,
                Err(error) => format!("Error on reading termination message: {error}"),
            },
            None => String::new(),
        };
        let seen = snapshot::container(listed.pod_sandbox_id, status, &message);
        if let ContainerState::Exited(exit) = &seen.state
            && clock::now().duration_since(exit.finished_at) >= SETTLED
        {
            self.memory(|memory| memory.ended.insert(&seen.id, Arc::new(seen.clone())));
        }
        Ok(Some(seen))
    }

    fn memory<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        with(&mut self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the UID of each pod to look at again: at the start of every pod that the runtime holds, then of those of which
    /// the runtime tells an event or a relist shows a change. No UID is lost while the channel is full. Ends when cancelled
    /// or when the channel is closed.
    pub async fn run(&self, hints: mpsc::Sender<PodUid>, cancel: CancellationToken) {
        let mut watch = Watch {
            events: Events::new(self.shared.client.clone()),
            dirty: DirtyPods::default(),
            next_relist: Instant::now(),
            relist_began: Instant::now(),
            failing: false,
        };
        let mut relisting: Option<BoxFuture<'_, Result<Vec<RuntimePod>, RuntimeError>>> = None;
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: waits for a flag.
                () = cancel.cancelled() => return,
                // Cancel-safe: a place that was not taken is given back.
                place = hints.reserve(), if !watch.dirty.is_empty() => match place {
                    Ok(place) => if let Some(uid) = watch.dirty.pop() { place.send(uid) },
                    Err(_) => return,
                },
                // Cancel-safe: the future is kept across turns.
                pods = async { match relisting.as_mut() { Some(r) => r.await, None => std::future::pending().await } } => {
                    relisting = None;
                    self.relisted(&mut watch, pods);
                }
                // Cancel-safe: the stream is kept across turns.
                signal = watch.events.next() => self.heard(&mut watch, signal),
                // Cancel-safe: a timer.
                () = tokio::time::sleep_until(watch.next_relist), if relisting.is_none() => {
                    watch.relist_began = Instant::now();
                    relisting = Some(self.list_pods().boxed());
                }
            }
        }
    }

    fn relisted(&self, watch: &mut Watch, pods: Result<Vec<RuntimePod>, RuntimeError>) {
        let now = Instant::now();
        metrics::PLEG_RELIST_DURATION.observe(&[], (now - watch.relist_began).as_secs_f64());
        if let Some(last) = self.last_relist().filter(|_| pods.is_ok()) {
            metrics::PLEG_RELIST_INTERVAL.observe(&[], (now - last).as_secs_f64());
        }
        match pods {
            Ok(pods) => {
                let changed = self.memory(|memory| {
                    let changed = memory.tracker.update(&pods);
                    memory.ended.retain(|id| memory.tracker.knows(id));
                    memory.networks.retain(|id| memory.tracker.knows(id));
                    changed
                });
                changed.into_iter().for_each(|uid| watch.dirty.push(uid));
                *self.shared.last_relist.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                watch.events.runtime_answers();
                if std::mem::take(&mut watch.failing) {
                    tracing::info!(endpoint = self.shared.client.endpoint(), "the container runtime answers again");
                }
            }
            Err(error) => {
                // Once for each outage: the next line is the one that tells its end.
                if !std::mem::replace(&mut watch.failing, true) {
                    tracing::warn!(%error, "cannot list the container runtime's pods");
                }
            }
        }
        let settings = self.shared.settings;
        let quiet = watch.events.is_working() && !watch.failing;
        watch.next_relist = now + if quiet { settings.relist_interval } else { settings.fallback_interval };
    }

    fn heard(&self, watch: &mut Watch, signal: Signal) {
        let soon = Instant::now() + self.shared.settings.fallback_interval;
        match signal {
            Signal::Event(event) => {
                let owner = self.memory(|memory| {
                    let uid = events::pod_of(&event).or_else(|| memory.tracker.owner(&event.container_id).cloned())?;
                    let is_news = memory.tracker.note_event(&event.container_id, event.container_event_type(), &uid);
                    Some((uid, is_news))
                });
                match owner {
                    Some((uid, true)) => watch.dirty.push(uid),
                    Some((_, false)) => {}
                    // Something went of which nothing was known: only the lists can tell.
                    None => watch.next_relist = watch.next_relist.min(soon),
                }
            }
            Signal::Opened => watch.next_relist = watch.next_relist.min(soon),
            Signal::Lost(error) => {
                if error.is_unimplemented() {
                    tracing::info!(
                        "the container runtime has no event stream: its lists are read every second instead"
                    );
                } else {
                    tracing::debug!(%error, "the container runtime's event stream broke");
                }
                watch.next_relist = watch.next_relist.min(soon);
            }
        }
    }
}

/// What [`Observer::run`] keeps between two turns.
struct Watch {
    events: Events,
    dirty: DirtyPods,
    next_relist: Instant,
    /// When the relist under way, or the last one, began.
    relist_began: Instant,
    failing: bool,
}

/// Pods to be told of, each once, first come first served.
#[derive(Default)]
struct DirtyPods {
    queue: VecDeque<PodUid>,
    queued: HashSet<PodUid>,
}

impl DirtyPods {
    fn push(&mut self, uid: PodUid) {
        if self.queued.insert(uid.clone()) {
            self.queue.push_back(uid);
        }
    }

    fn pop(&mut self) -> Option<PodUid> {
        let uid = self.queue.pop_front()?;
        self.queued.remove(&uid);
        Some(uid)
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dirty_pod_waits_once_and_in_turn() {
        let mut dirty = DirtyPods::default();
        for uid in ["b", "a", "b"] {
            dirty.push(PodUid::from(uid));
        }
        assert_eq!(dirty.pop(), Some(PodUid::from("b")));
        dirty.push(PodUid::from("b"));
        assert_eq!(dirty.pop(), Some(PodUid::from("a")));
        assert_eq!(dirty.pop(), Some(PodUid::from("b")));
        assert!(dirty.pop().is_none() && dirty.is_empty());
    }
}
