//! Registers the node, then keeps its status at the API server: a change at once, everything at long intervals (peer:
//! `syncNodeStatus`, `fastNodeStatusUpdate`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Patch, PatchParams};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Node;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::model::Timestamp;
use crate::runtime::cri;
use crate::sys::machine::boot_second;

use super::RepeatedFailureHook;
use super::address::AddressError;
use super::events::{NodeEvent, NodeEvents};
use super::handle::{self, NodeHandle};
use super::initial::initial_node;
use super::patch::node_patch;
use super::registration::{Registered, try_register};
use super::requests::{Doubling, NodeError, jittered, within};
use super::runtime_state::NodeRuntime;
use super::startup::{Startup, tell};
use super::status::{has_changed, node_status, report_interval, should_report};
use super::surroundings::Surroundings;

/// Tries of one report before the next look.
const TRIES: u32 = 5;
/// How long the first answer of the runtime is waited for, so that the first status tells its state.
const FIRST_ANSWER: Duration = Duration::from_millis(500);
/// Between two looks for the sake of the Node object, which others may write often.
const NODE_CHANGE_PAUSE: Duration = Duration::from_secs(1);

/// Reports the node's status.
pub(super) struct Reporter<R> {
    surroundings: Surroundings<R>,
    /// For registration.
    nodes: Api<Node>,
    /// For heartbeats: a client that no other traffic can hold up.
    heartbeat: Api<Node>,
    node: NodeHandle,
    events: Arc<dyn NodeEvents>,
    on_repeated_failure: RepeatedFailureHook,
    last_report: Option<Instant>,
    interval: Duration,
    pod_cidrs: Option<String>,
    was_unschedulable: bool,
    problem: Option<AddressError>,
    startup: Startup,
}

fn booted_at() -> Option<Timestamp> {
    Timestamp::from_second(boot_second(Path::new("/proc"))?).ok()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl<R: NodeRuntime> Reporter<R> {
    pub(super) fn new(
        surroundings: Surroundings<R>,
        client: Client,
        heartbeat: Client,
        node: NodeHandle,
        events: Arc<dyn NodeEvents>,
        on_repeated_failure: RepeatedFailureHook,
    ) -> Self {
        let startup = Startup::new(booted_at(), (surroundings.now)());
        Reporter {
            startup,
            interval: surroundings.settings.status_report_frequency,
            surroundings,
            nodes: Api::all(client),
            heartbeat: Api::all(heartbeat),
            node,
            events,
            on_repeated_failure,
            last_report: None,
            pod_cidrs: None,
            was_unschedulable: false,
            problem: None,
        }
    }

    /// Registers, then reports until cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            // A report that is cut off is made again by the next start.
            () = cancel.cancelled() => {}
            () = self.report() => {}
        }
    }

    async fn report(&mut self) {
        let mut runtime_state = self.surroundings.runtime_state.clone();
        let mut contributions = self.surroundings.contributions.clone();
        let mut node = self.node.clone();
        let _ = timeout(FIRST_ANSWER, runtime_state.changed()).await;
        if self.surroundings.settings.register_node {
            self.register().await;
        }
        self.record(NodeEvent::starting());
        loop {
            self.sync().await;
            let earliest = Instant::now() + NODE_CHANGE_PAUSE;
            // All arms may lose a change that they saw when another one is first: a look follows in any case.
            tokio::select! {
                () = runtime_state.changed() => {}
                () = contributions.changed() => {}
                () = async { node.changed().await; sleep_until(earliest).await } => {}
                () = sleep(jittered(self.surroundings.settings.status_update_frequency)) => {}
            }
        }
    }

    async fn register(&mut self) {
        let mut waits = Doubling::from(Duration::from_millis(100));
        loop {
            self.surroundings.refresh().await;
            let now = self.surroundings.now;
            let initial = self.surroundings.with_inputs(|inputs| initial_node(inputs, now()));
            self.node.set_initial(initial.node.clone());
            self.note(initial.problem);
            self.startup.attempts(now());
            let limit = self.surroundings.settings.heartbeat_timeout();
            match try_register(&self.nodes, &initial.node, false, limit).await {
                Ok(Registered { node, is_created }) => {
                    tracing::info!(node = self.node.name(), is_created, "node registered");
                    self.node.offer(node);
                    if is_created {
                        tell(self.startup.registered(now()));
                        initial.events.into_iter().for_each(|event| self.record(event));
                    }
                    return;
                }
                Err(error) => {
                    let wait = waits.next();
                    tracing::warn!(
                        error = error.chain(),
                        node = self.node.name(),
                        ?wait,
                        "the node cannot be registered"
                    );
                    sleep(wait).await;
                }
            }
        }
    }

    /// Looks, and reports if there is reason to.
    async fn sync(&mut self) {
        self.surroundings.refresh().await;
        for attempt in 1..=TRIES {
            match self.try_sync(attempt == 1).await {
                Ok(()) => return,
                Err(error) => {
                    if attempt > 1 {
                        (self.on_repeated_failure)();
                    }
                    tracing::warn!(error = error.chain(), attempt, "the node's status cannot be reported");
                }
            }
        }
    }

    async fn try_sync(&mut self, use_known: bool) -> Result<(), NodeError> {
        let name = self.node.name().to_owned();
        let limit = self.surroundings.settings.heartbeat_timeout();
        // The watched object costs nothing; if it was stale, the next try asks for the true one.
        let existing = match self.node.current().filter(|_| use_known) {
            Some(node) => node,
            None => Arc::new(within(limit, || format!("get node {name}"), self.heartbeat.get(&name)).await?),
        };
        self.apply_pod_cidrs(&existing).await;
        self.note_schedulability(&existing);

        let now = self.surroundings.now;
        let mut outcome = self.surroundings.with_inputs(|inputs| node_status(&existing, inputs, now()));
        self.note(outcome.problem.take());
        let is_changed = has_changed(&existing, &outcome.node);
        let since_report = self.last_report.map(|at| at.elapsed());
        if !should_report(is_changed, since_report, self.interval) {
            return Ok(());
        }
        let patch =
            node_patch(&existing, &outcome.node).map_err(|source| NodeError::Patch { node: name.clone(), source })?;
        if let Some(patch) = patch {
            let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
            let request = self.heartbeat.patch_status(&name, &parameters, &patch);
            let stored = within(limit, || format!("report the status of node {name}"), request).await?;
            self.node.offer(stored);
        }
        let frequency = self.surroundings.settings.status_report_frequency;
        self.interval = report_interval(is_changed, self.last_report.is_none(), frequency, rand::random());
        self.last_report = Some(Instant::now());
        if is_ready(&outcome.node) {
            tell(self.startup.ready(now()));
        }
        outcome.events.into_iter().for_each(|event| self.record(event));
        Ok(())
    }

    /// Tells the runtime the pods' network when it changed; a failure is tried again with the next look.
    async fn apply_pod_cidrs(&mut self, node: &Node) {
        let Some(cidrs) = handle::pod_cidrs(node).filter(|cidrs| Some(cidrs) != self.pod_cidrs.as_ref()) else {
            return;
        };
        let network_config = cri::NetworkConfig { pod_cidr: cidrs.clone() };
        let config = cri::RuntimeConfig { network_config: Some(network_config) };
        match self.surroundings.runtime.update_runtime_config(config).await {
            Ok(()) => {
                tracing::info!(cidrs, "pod network given to the runtime");
                self.pod_cidrs = Some(cidrs);
            }
            Err(error) => tracing::warn!(%error, cidrs, "the runtime did not take the pod network"),
        }
    }

    fn note_schedulability(&mut self, node: &Node) {
        let is_unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if is_unschedulable != self.was_unschedulable {
            let reason = if is_unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" };
            self.was_unschedulable = is_unschedulable;
            self.record(NodeEvent::status_is_now(self.node.name(), reason));
        }
    }

    /// Logs a problem when it comes and when it goes, not with every look.
    fn note(&mut self, problem: Option<AddressError>) {
        if problem != self.problem {
            match &problem {
                Some(problem) => tracing::error!(%problem, "the node's addresses stay as they were"),
                None => tracing::info!("the node's addresses are known again"),
            }
            self.problem = problem;
        }
    }

    fn record(&self, event: NodeEvent) {
        self.events.record(self.node.uid().as_deref(), event);
    }
}

/// Without an API server there is nobody to report to, but admission still asks for the node.
pub(super) async fn run_standalone<R: NodeRuntime>(
    mut surroundings: Surroundings<R>,
    node: NodeHandle,
    cancel: CancellationToken,
) {
    let mut runtime_state = surroundings.runtime_state.clone();
    loop {
        tokio::select! {
            // A look that is cut off leaves the last node in place.
            () = cancel.cancelled() => return,
            () = surroundings.refresh() => {}
        }
        let now = surroundings.now;
        node.set_initial(surroundings.with_inputs(|inputs| initial_node(inputs, now())).node);
        tokio::select! {
            // Nothing is held while waiting.
            () = cancel.cancelled() => return,
            () = runtime_state.changed() => {}
            () = sleep(surroundings.settings.status_report_frequency) => {}
        }
    }
}
