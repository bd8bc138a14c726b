//! The Node object: registration, lease, status and conditions, and the CSINode that goes with it.
//!
//! Must not know of pods' lifecycle, volumes or the HTTPS server; what they say about the node comes in through
//! [`ContributionsHandle`], what the node is goes out through [`NodeHandle`] and [`RuntimeStateHandle`].
//!
//! Decided purely: [`initial`] (the Node to create, the reconcile of an existing one), [`status`] (the status, whether and
//! when to send it), [`address`], [`conditions`], [`inventory`], [`patch`] and [`resources`]. Acting on it are the long
//! tasks below, which [`NodeManager::run`] spawns; each ends when its token is cancelled, and by itself only where said.
//!
//! | task | inputs | output |
//! |---|---|---|
//! | runtime monitor | CRI `Status` every 5 s (100 ms until first ready) | [`RuntimeStateHandle`] |
//! | node watch | watch of the one Node | [`NodeHandle`] |
//! | reporter | all handles, network, images every 30 s | the Node created; its status patched; events; CRI `UpdateRuntimeConfig` |
//! | lease | the Node's UID, time | the Lease renewed |
//! | CSINode | the Node's UID | the CSINode; ends when it is right |

use std::sync::Arc;

use ::kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::model::{Timestamp, clock};
use crate::sys::network::{HostNetwork, Network};

pub mod address;
pub mod conditions;
mod contributions;
mod csi_node;
mod events;
mod handle;
pub mod initial;
pub mod inventory;
mod lease;
pub mod patch;
mod registration;
mod reporter;
mod requests;
pub mod resources;
mod runtime_state;
pub mod settings;
mod startup;
pub mod status;
mod surroundings;
#[cfg(test)]
mod testing;

pub use contributions::ContributionsHandle;
pub use events::{NodeEvent, NodeEvents};
pub use handle::NodeHandle;
pub use requests::NodeError;
pub use runtime_state::{NetworkState, NodeRuntime, RelistAge, RuntimeMonitor, RuntimeSnapshot, RuntimeStateHandle};
pub use settings::{NodeFacts, NodeSettings, node_name};
pub use surroundings::{NameLookup, system_lookup};

/// Called when a heartbeat failed more than once in a row: the place to drop connections that may be dead.
pub type RepeatedFailureHook = Arc<dyn Fn() + Send + Sync>;

/// Clients of the API server.
#[derive(Clone)]
pub struct NodeClients {
    /// For registration, the CSINode and the watch of the Node.
    pub main: Client,
    /// For status and lease: with a rate limit of its own, so that a node that is busy with pods does not miss its
    /// heartbeats. It may have a timeout, which ends a watch as well.
    pub heartbeat: Client,
}

/// What a [`NodeManager`] is made of.
pub struct NodeParts<R> {
    /// The configuration.
    pub settings: NodeSettings,
    /// The machine.
    pub facts: NodeFacts,
    /// None for a node without an API server.
    pub clients: Option<NodeClients>,
    /// The container runtime.
    pub runtime: Arc<R>,
    /// How long ago the runtime was last fully listed.
    pub relist_age: RelistAge,
    /// Where events go.
    pub events: Arc<dyn NodeEvents>,
    /// The host's network.
    pub network: Arc<dyn Network>,
    /// The name service.
    pub lookup: NameLookup,
    /// Called when heartbeats fail repeatedly.
    pub on_repeated_failure: RepeatedFailureHook,
    /// The wall clock.
    pub now: fn() -> Timestamp,
}

impl<R: NodeRuntime> NodeParts<R> {
    /// Parts with this host's network and name service.
    pub fn new(
        settings: NodeSettings,
        facts: NodeFacts,
        clients: Option<NodeClients>,
        runtime: Arc<R>,
        relist_age: RelistAge,
        events: Arc<dyn NodeEvents>,
    ) -> Self {
        NodeParts {
            settings,
            facts,
            clients,
            runtime,
            relist_age,
            events,
            network: Arc::new(HostNetwork::default()),
            lookup: system_lookup(),
            on_repeated_failure: Arc::new(|| {}),
            now: clock::now,
        }
    }
}

/// All that the agent does about its Node.
pub struct NodeManager<R> {
    parts: NodeParts<R>,
    node: NodeHandle,
    monitor: RuntimeMonitor<R>,
    runtime_state: RuntimeStateHandle,
    contributions: ContributionsHandle,
}

impl<R: NodeRuntime> NodeManager<R> {
    /// Makes the handles; nothing is done yet.
    pub fn new(parts: NodeParts<R>) -> Self {
        let (monitor, runtime_state) = RuntimeMonitor::new(Arc::clone(&parts.runtime));
        let node = NodeHandle::new(&parts.settings.node_name);
        let contributions = ContributionsHandle::default();
        if parts.clients.is_some() {
            contributions.set_storage(Some(csi_node::pending()));
        }
        NodeManager { parts, node, monitor, runtime_state, contributions }
    }

    /// The Node object.
    pub fn node(&self) -> NodeHandle {
        self.node.clone()
    }

    /// The runtime's state.
    pub fn runtime_state(&self) -> RuntimeStateHandle {
        self.runtime_state.clone()
    }

    /// Where other parts say what they know of the node.
    pub fn contributions(&self) -> ContributionsHandle {
        self.contributions.clone()
    }

    /// Runs the node's tasks until cancelled. Ends with an error when one of them ended though it must not.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), NodeError> {
        let settings = Arc::new(self.parts.settings);
        let surroundings = surroundings::Surroundings::new(surroundings::Sources {
            settings: Arc::clone(&settings),
            facts: Arc::new(self.parts.facts),
            network: self.parts.network,
            lookup: self.parts.lookup,
            runtime: self.parts.runtime,
            runtime_state: self.runtime_state,
            relist_age: self.parts.relist_age,
            contributions: self.contributions.clone(),
            now: self.parts.now,
        });
        self.node
            .set_initial(surroundings.with_inputs(|inputs| initial::initial_node(inputs, (self.parts.now)())).node);

        // A child: when one task fails the others end, without ending the agent before it knows why.
        let all = cancel.child_token();
        let mut tasks = JoinSet::new();
        tasks.spawn(named("runtime monitor", self.monitor.run(all.clone())));
        match self.parts.clients {
            Some(NodeClients { main, heartbeat }) => {
                let watch = handle::NodeWatch::new(main.clone(), self.node.clone());
                let hook = &self.parts.on_repeated_failure;
                let lease = lease::LeaseKeeper::new(
                    heartbeat.clone(),
                    self.node.clone(),
                    Arc::clone(&settings),
                    Arc::clone(hook),
                );
                let publisher =
                    csi_node::CsiNodePublisher::new(main.clone(), self.node.clone(), settings, self.contributions);
                let events = self.parts.events;
                let reporter =
                    reporter::Reporter::new(surroundings, main, heartbeat, self.node, events, Arc::clone(hook));
                tasks.spawn(named("watch", watch.run(all.clone())));
                tasks.spawn(named("lease", lease.run(all.clone())));
                tasks.spawn(named(CSI_NODE, publisher.run(all.clone())));
                tasks.spawn(named("reporter", reporter.run(all.clone())));
            }
            None => {
                tasks.spawn(named("standalone", reporter::run_standalone(surroundings, self.node, all.clone())));
            }
        }

        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let failure = match ended {
                Ok(CSI_NODE) => continue,
                Ok(_) if all.is_cancelled() => continue,
                Ok(task) => NodeError::TaskEnded { task },
                Err(source) => NodeError::TaskFailed { source },
            };
            all.cancel();
            // The first failure is the cause.
            result = result.and(Err(failure));
        }
        result
    }
}

/// The one task that ends when its work is done.
const CSI_NODE: &str = "CSINode";

/// A task that tells its name when it ends.
async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

#[cfg(test)]
mod tests;
