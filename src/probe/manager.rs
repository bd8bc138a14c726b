//! The one task that runs the probes of all pods. What is due when is the schedules'; this wakes for the earliest of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::attempt::{self, Attempt, Target};
use super::counters::{ProbeCounts, ProbeSample};
use super::schedule::{Answer, Begin, Schedule, Timing};
use super::types::{ProbeEvents, ProbeFeatures, ProbeKind, ProbedContainer};
use crate::model::clock;
use crate::model::pod::{self, ContainerKind, PodKey};
use crate::model::probe_results::{ContainerProbeResults, ProbeResults, ProbeVerdict};
use crate::runtime::client::RuntimeClient;

/// Commands that run in containers at the same time. Each keeps a shim busy, and one that hangs holds its place until its
/// time runs out.
const PARALLEL_COMMANDS: usize = 32;
/// Connections to containers at the same time.
const PARALLEL_CONNECTIONS: usize = 64;

/// What probing works with.
pub struct ProbeManagerParts {
    /// Runs commands in containers.
    pub runtime: RuntimeClient,
    /// Where warnings go.
    pub events: Arc<dyn ProbeEvents>,
    /// What of the probes counts.
    pub features: ProbeFeatures,
}

/// A cheap handle on the probes of all pods.
#[derive(Clone)]
pub struct ProbeManager {
    shared: Arc<Shared>,
}

struct Shared {
    parts: ProbeManagerParts,
    start: Instant,
    commands: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    state: Mutex<State>,
    /// Something is due before the time that the task sleeps until.
    wake: Notify,
}

#[derive(Default)]
struct State {
    pods: HashMap<u64, PodEntry>,
    next_number: u64,
    /// What is due, earliest first; of what was changed since, the schedule knows better.
    queue: BinaryHeap<Reverse<Due>>,
    /// The time that the task sleeps until.
    sleeps_until: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    probe: ProbeId,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ProbeId {
    pod: u64,
    container: Arc<str>,
    kind: ProbeKind,
}

struct PodEntry {
    key: PodKey,
    pod: Arc<Pod>,
    containers: BTreeMap<Arc<str>, ContainerEntry>,
    counts: BTreeMap<(String, ProbeKind), ProbeCounts>,
    results: watch::Sender<Arc<ProbeResults>>,
}

struct ContainerEntry {
    probed: ProbedContainer,
    /// It has a startup probe, which has passed.
    passed_startup: bool,
    probes: Vec<Probed>,
}

struct Probed {
    kind: ProbeKind,
    schedule: Schedule,
    task: Option<AbortHandle>,
}

impl Drop for Probed {
    fn drop(&mut self) {
        // What is said of a container that is not asked any more is of no use, and it may be about to be stopped.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Finished {
    probe: ProbeId,
    attempt: Attempt,
    took: Duration,
}

/// A warning to be recorded once the lock is gone.
struct Told {
    pod: Arc<Pod>,
    kind: ContainerKind,
    container: String,
    reason: &'static str,
    message: String,
}

impl ProbeManager {
    /// Nothing is probed before [`ProbeManager::run`] does.
    pub fn new(parts: ProbeManagerParts) -> Self {
        let shared = Shared {
            parts,
            start: Instant::now(),
            commands: Arc::new(Semaphore::new(PARALLEL_COMMANDS)),
            connections: Arc::new(Semaphore::new(PARALLEL_CONNECTIONS)),
            state: Mutex::default(),
            wake: Notify::new(),
        };
        ProbeManager { shared: Arc::new(shared) }
    }

    /// Begins to hold probes for a pod.
    pub fn pod(&self, pod: &PodKey) -> PodProbes {
        let (sender, results) = watch::channel(Arc::default());
        let mut state = self.shared.state();
        let number = state.next_number;
        state.next_number += 1;
        let entry = PodEntry {
            key: pod.clone(),
            pod: Arc::default(),
            containers: BTreeMap::new(),
            counts: BTreeMap::new(),
            results: sender,
        };
        state.pods.insert(number, entry);
        drop(state);
        PodProbes { shared: self.shared.clone(), number, results }
    }

    /// The counts of all probes that are held.
    pub fn samples(&self) -> Vec<ProbeSample> {
        let state = self.shared.state();
        let mut samples = Vec::new();
        for PodEntry { key, counts, .. } in state.pods.values() {
            samples.extend(counts.iter().map(|((container, kind), counts)| ProbeSample {
                namespace: key.namespace.clone(),
                pod: key.name.clone(),
                pod_uid: key.uid.to_string(),
                container: container.clone(),
                kind: *kind,
                counts: counts.clone(),
            }));
        }
        samples
    }

    /// Probes until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let shared = self.shared;
        let mut running = JoinSet::new();
        loop {
            let next = shared.begin_due(&mut running);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: a notice that came while another arm won is kept by the Notify, `join_next_with_id` loses nothing.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = shared.wake.notified() => {}
                () = due => {}
                Some(ended) = running.join_next_with_id() => shared.finish(ended),
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn set(&self, number: u64, pod: &Arc<Pod>, probed: Vec<ProbedContainer>) {
        let now = self.now();
        let wall = clock::now();
        let mut state = self.state();
        let State { pods, queue, sleeps_until, .. } = &mut *state;
        let Some(entry) = pods.get_mut(&number) else { return };
        entry.pod = pod.clone();
        let mut before = std::mem::take(&mut entry.containers);
        for probed in probed {
            let Some(spec) = container(pod, &probed.name) else { continue };
            let (id, mut known) = before.remove_entry(probed.id.as_str()).unwrap_or_else(|| {
                let known = ContainerEntry { probed: probed.clone(), passed_startup: false, probes: Vec::new() };
                (probed.id.as_str().into(), known)
            });
            known.passed_startup = probed.started && spec.startup_probe.is_some();
            let age = Duration::try_from(wall.duration_since(probed.started_at)).unwrap_or_default();
            let (wanted, passed) = (probed.probes, known.passed_startup);
            let is_wanted = |kind: ProbeKind| wanted.has(kind) && !(kind == ProbeKind::Startup && passed);
            known.probes.retain(|probe| is_wanted(probe.kind));
            for kind in ProbeKind::ALL {
                let Some(probe) = kind.spec(spec).filter(|_| is_wanted(kind)) else { continue };
                if known.probes.iter().any(|held| held.kind == kind) {
                    continue;
                }
                let taken_over = kind == ProbeKind::Readiness && probed.initial_ready == Some(true);
                let verdict = taken_over.then_some(ProbeVerdict::Success);
                let begin = Begin { now, age, verdict, jitter: rand::random() };
                let schedule = Schedule::new(kind, Timing::of(probe), begin);
                let probe = ProbeId { pod: number, container: id.clone(), kind };
                queue.extend(schedule.due().map(|at| Reverse(Due { at, probe })));
                known.probes.push(Probed { kind, schedule, task: None });
            }
            known.probed = probed;
            entry.containers.insert(id, known);
        }
        entry.publish();
        let first = queue.peek().map(|Reverse(due)| due.at);
        if first.is_some_and(|first| sleeps_until.is_none_or(|until| first < until)) {
            self.wake.notify_one();
        }
    }

    /// Begins what is due. Returns when something will be next.
    fn begin_due(&self, running: &mut JoinSet<Finished>) -> Option<Instant> {
        let now = self.now();
        let mut state = self.state();
        let State { pods, queue, sleeps_until, .. } = &mut *state;
        while let Some(due) = queue.pop_if_due(now) {
            let Some(entry) = pods.get_mut(&due.probe.pod) else { continue };
            let Some(known) = entry.containers.get_mut(&due.probe.container) else { continue };
            let Some(probe) = known.probes.iter_mut().find(|probe| probe.kind == due.probe.kind) else { continue };
            if probe.schedule.due() != Some(due.at) {
                continue;
            }
            let run = Run {
                runtime: self.parts.runtime.clone(),
                features: self.parts.features,
                permits: self.permits(&entry.pod, &known.probed.name, due.probe.kind),
                key: entry.key.clone(),
                pod: entry.pod.clone(),
                container: known.probed.name.clone(),
                ip: known.probed.pod_ip.clone(),
                timeout: probe.schedule.timeout(),
                probe: due.probe,
            };
            probe.schedule.begin();
            probe.task = Some(running.spawn(run.run()));
        }
        *sleeps_until = queue.peek().map(|Reverse(due)| due.at);
        sleeps_until.map(|until| self.start + until)
    }

    fn permits(&self, pod: &Pod, name: &str, kind: ProbeKind) -> Arc<Semaphore> {
        let is_exec = container(pod, name).and_then(|c| kind.spec(c)).is_some_and(attempt::is_exec);
        if is_exec { self.commands.clone() } else { self.connections.clone() }
    }

    fn finish(&self, ended: Result<(Id, Finished), JoinError>) {
        let now = self.now();
        let mut state = self.state();
        let told = match ended {
            Ok((task, finished)) => state.finish(now, task, finished),
            Err(error) => {
                if !error.is_cancelled() {
                    error!(%error, "a probe ended abnormally");
                }
                state.give_up(now, error.id());
                None
            }
        };
        drop(state);
        if let Some(Told { pod, kind, container, reason, message }) = told {
            debug!(pod = %PodKey::of(&pod), container, message, "a probe told something");
            self.parts.events.warning(&pod, kind, &container, reason, message);
        }
    }

    fn remove(&self, number: u64) {
        // Its tasks are aborted with it.
        let entry = self.state().pods.remove(&number);
        drop(entry);
    }
}

impl State {
    fn finish(&mut self, now: Duration, task: Id, finished: Finished) -> Option<Told> {
        let Finished { probe: id, attempt, took } = finished;
        let entry = self.pods.get_mut(&id.pod)?;
        let known = entry.containers.get_mut(&id.container)?;
        let probe = known.probes.iter_mut().find(|probe| probe.kind == id.kind)?;
        // The probe may have been dropped and held anew since.
        probe.task.take_if(|handle| handle.id() == task)?;
        let kind = id.kind;
        let (answer, text) = match attempt {
            Attempt::Success => (Answer::Success, None),
            Attempt::Warning(output) => {
                (Answer::Success, Some(("ProbeWarning", format!("{} probe warning: {output}", kind.name()))))
            }
            Attempt::Failure(output) => {
                (Answer::Failure, Some(("Unhealthy", format!("{} probe failed: {output}", kind.name()))))
            }
            Attempt::Errored { state, message } => {
                let message = format!("{} probe errored and resulted in {state} state: {message}", kind.name());
                (Answer::Errored, Some(("Unhealthy", message)))
            }
        };
        let before = probe.schedule.verdict();
        let counts = probe.schedule.end(now, answer);
        let decided = probe.schedule.verdict() != before;
        self.queue.extend(probe.schedule.due().map(|at| Reverse(Due { at, probe: id })));
        let (name, container_kind) = (known.probed.name.clone(), known.probed.kind);
        if !counts {
            return None;
        }
        let counters = entry.counts.entry((name.clone(), kind)).or_default();
        match answer {
            Answer::Success => counters.success(took),
            Answer::Failure => counters.failure(),
            Answer::Errored => {}
        }
        if decided {
            entry.publish();
        }
        let (reason, message) = text?;
        Some(Told { pod: entry.pod.clone(), kind: container_kind, container: name, reason, message })
    }

    /// The run left no answer: the probe is asked again at its next tick.
    fn give_up(&mut self, now: Duration, task: Id) {
        for (number, entry) in &mut self.pods {
            for (container, known) in &mut entry.containers {
                for probe in &mut known.probes {
                    if probe.task.take_if(|handle| handle.id() == task).is_none() {
                        continue;
                    }
                    probe.schedule.end(now, Answer::Errored);
                    let id = ProbeId { pod: *number, container: container.clone(), kind: probe.kind };
                    self.queue.extend(probe.schedule.due().map(|at| Reverse(Due { at, probe: id })));
                }
            }
        }
    }
}

impl PodEntry {
    /// Makes known what has changed.
    fn publish(&self) {
        let results = ProbeResults {
            containers: self.containers.iter().map(|(id, known)| (id.to_string(), known.results())).collect(),
        };
        self.results.send_if_modified(|current| {
            let changed = **current != results;
            if changed {
                *current = Arc::new(results);
            }
            changed
        });
    }
}

impl ContainerEntry {
    fn results(&self) -> ContainerProbeResults {
        let of = |kind| self.probes.iter().find(|probe| probe.kind == kind).and_then(|probe| probe.schedule.verdict());
        ContainerProbeResults {
            startup: if self.passed_startup { Some(ProbeVerdict::Success) } else { of(ProbeKind::Startup) },
            readiness: of(ProbeKind::Readiness),
            liveness: of(ProbeKind::Liveness),
        }
    }
}

trait PopIfDue {
    fn pop_if_due(&mut self, now: Duration) -> Option<Due>;
}

impl PopIfDue for BinaryHeap<Reverse<Due>> {
    fn pop_if_due(&mut self, now: Duration) -> Option<Due> {
        if self.peek()?.0.at > now {
            return None;
        }
        self.pop().map(|Reverse(due)| due)
    }
}

/// One run of a probe: all that its task needs.
struct Run {
    runtime: RuntimeClient,
    features: ProbeFeatures,
    permits: Arc<Semaphore>,
    key: PodKey,
    pod: Arc<Pod>,
    container: String,
    ip: String,
    timeout: Duration,
    probe: ProbeId,
}

impl Run {
    async fn run(self) -> Finished {
        // The semaphores are never closed.
        let _permit = self.permits.acquire().await;
        let began = Instant::now();
        // Boxed so that what waits for its turn is small.
        let attempt = Box::pin(self.attempt()).await;
        Finished { attempt, took: began.elapsed(), probe: self.probe.clone() }
    }

    async fn attempt(&self) -> Attempt {
        let container = container(&self.pod, &self.container);
        let Some((container, probe)) = container.and_then(|c| Some((c, self.probe.kind.spec(c)?))) else {
            return Attempt::unknown(format!("missing probe handler for {}:{}", self.key, self.container));
        };
        let id = &self.probe.container;
        let (runtime, ip, features) = (&self.runtime, self.ip.as_str(), self.features);
        let target = Target { runtime, pod: self.key.to_string(), container, id, ip, features };
        attempt::run(&target, probe, self.timeout).await
    }
}

fn container<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    pod::init_and_regular_containers(pod::spec(pod)).map(|(_, c)| c).find(|c| c.name == name)
}

/// One pod's probes; dropping it ends them.
pub struct PodProbes {
    shared: Arc<Shared>,
    number: u64,
    results: watch::Receiver<Arc<ProbeResults>>,
}

impl PodProbes {
    /// What should be probed from now on. What is no longer in it is forgotten, its runs are cut off; what is unchanged goes on.
    pub fn set(&self, pod: &Arc<Pod>, probed: Vec<ProbedContainer>) {
        self.shared.set(self.number, pod, probed);
    }

    /// What is known now. Before the first verdict nothing is, but what an earlier agent knew.
    pub fn results(&self) -> Arc<ProbeResults> {
        self.results.borrow().clone()
    }

    /// Waits until [`PodProbes::results`] may tell something new. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.results.changed().await.is_err() {
            // The sender lives as long as the pod's entry does, which is as long as this.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for PodProbes {
    fn drop(&mut self) {
        self.shared.remove(self.number);
    }
}

#[cfg(test)]
mod tests;
