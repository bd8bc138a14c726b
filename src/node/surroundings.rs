//! Gathers what a status is made of: looks at the network, the name service and the runtime as seldom as the status
//! allows.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use crate::model::Timestamp;
use crate::sys::network::{Network, NetworkSnapshot};

use super::address;
use super::contributions::ContributionsHandle;
use super::inventory::Inventory;
use super::runtime_state::{NodeRuntime, RelistAge, RuntimeStateHandle};
use super::settings::{NodeFacts, NodeSettings};
use super::status::StatusInputs;

/// How old the list of images may be; the peer's is as old at most.
const INVENTORY_AGE: Duration = Duration::from_secs(30);
/// How long the runtime may take to list its images.
const INVENTORY_LIMIT: Duration = Duration::from_secs(5);
/// How long what the node's name resolves to is believed while the interfaces stay the same.
const LOOKUP_AGE: Duration = Duration::from_secs(60);
/// How long a lookup may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
/// How long after the start of the agent things not known yet leave a Ready node Ready: as long as a silent runtime does.
const STARTING: Duration = Duration::from_secs(30);

/// Resolves a host name; no addresses if it has none.
pub type NameLookup = Arc<dyn Fn(String) -> BoxFuture<'static, Vec<IpAddr>> + Send + Sync>;

/// The system's resolver: /etc/hosts, DNS and what else nsswitch.conf names.
pub fn system_lookup() -> NameLookup {
    Arc::new(|name| {
        Box::pin(async move {
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(addresses) => addresses.map(|address| address.ip().to_canonical()).collect(),
                Err(_) => Vec::new(),
            }
        })
    })
}

/// What was last seen around the node.
pub(super) struct Surroundings<R> {
    pub(super) settings: Arc<NodeSettings>,
    facts: Arc<NodeFacts>,
    network: Arc<dyn Network>,
    lookup: NameLookup,
    pub(super) runtime: Arc<R>,
    pub(super) runtime_state: RuntimeStateHandle,
    relist_age: RelistAge,
    pub(super) contributions: ContributionsHandle,
    /// The wall clock.
    pub(super) now: fn() -> Timestamp,
    started: Instant,
    seen_network: NetworkSnapshot,
    resolved: Vec<IpAddr>,
    resolved_at: Option<Instant>,
    inventory: Option<Inventory>,
    inventory_at: Option<Instant>,
}

/// Where [`Surroundings`] look.
pub(super) struct Sources<R> {
    pub(super) settings: Arc<NodeSettings>,
    pub(super) facts: Arc<NodeFacts>,
    pub(super) network: Arc<dyn Network>,
    pub(super) lookup: NameLookup,
    pub(super) runtime: Arc<R>,
    pub(super) runtime_state: RuntimeStateHandle,
    pub(super) relist_age: RelistAge,
    pub(super) contributions: ContributionsHandle,
    pub(super) now: fn() -> Timestamp,
}

impl<R: NodeRuntime> Surroundings<R> {
    /// Looks at the network once, so that a first status can be computed.
    pub(super) fn new(sources: Sources<R>) -> Self {
        let mut surroundings = Surroundings {
            settings: sources.settings,
            facts: sources.facts,
            network: sources.network,
            lookup: sources.lookup,
            runtime: sources.runtime,
            runtime_state: sources.runtime_state,
            relist_age: sources.relist_age,
            contributions: sources.contributions,
            now: sources.now,
            started: Instant::now(),
            seen_network: NetworkSnapshot::default(),
            resolved: Vec::new(),
            resolved_at: None,
            inventory: None,
            inventory_at: None,
        };
        surroundings.look_at_network();
        surroundings
    }

    /// Runs a decision on what is known now.
    pub(super) fn with_inputs<T>(&self, decide: impl FnOnce(&StatusInputs<'_>) -> T) -> T {
        let runtime = self.runtime_state.snapshot();
        let contributions = self.contributions.current();
        decide(&StatusInputs {
            settings: &self.settings,
            facts: &self.facts,
            network: &self.seen_network,
            resolved: &self.resolved,
            runtime: &runtime,
            relist_age: (self.relist_age)(),
            inventory: self.inventory.as_ref(),
            contributions: &contributions,
            is_starting: self.started.elapsed() < STARTING,
        })
    }

    /// Looks again at what may have changed. Never waits longer than its limits.
    pub(super) async fn refresh(&mut self) {
        let is_changed = self.look_at_network();
        self.resolve(is_changed).await;
        self.take_inventory().await;
    }

    /// Tells whether the network changed. One that cannot be read stays as it was.
    fn look_at_network(&mut self) -> bool {
        match self.network.snapshot() {
            Ok(network) if network == self.seen_network => false,
            Ok(network) => {
                self.seen_network = network;
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the host's network cannot be read");
                false
            }
        }
    }

    async fn resolve(&mut self, is_network_changed: bool) {
        let is_fresh = self.resolved_at.is_some_and(|at| at.elapsed() < LOOKUP_AGE);
        if !address::needs_resolution(&self.settings) || (is_fresh && !is_network_changed) {
            return;
        }
        self.resolved_at = Some(Instant::now());
        match timeout(LOOKUP_LIMIT, (self.lookup)(self.settings.node_name.clone())).await {
            Ok(addresses) => self.resolved = addresses,
            // What was known before is better than an address that comes and goes with the name service.
            Err(_) => tracing::warn!(node = self.settings.node_name, "the node's name could not be resolved in time"),
        }
    }

    /// A runtime that is not ready is not asked: what it had before is shown on.
    async fn take_inventory(&mut self) {
        let is_fresh = self.inventory_at.is_some_and(|at| at.elapsed() < INVENTORY_AGE);
        if is_fresh || self.runtime_state.snapshot().since_ready.is_none() {
            return;
        }
        self.inventory_at = Some(Instant::now());
        let answers = async {
            let version = self.runtime.version().await?;
            Ok::<_, R::Error>((version, self.runtime.list_images().await?))
        };
        match timeout(INVENTORY_LIMIT, answers).await {
            Ok(Ok((version, images))) => {
                self.inventory = Some(Inventory::of(&version, images, self.settings.status_max_images));
            }
            Ok(Err(error)) => tracing::warn!(%error, "the runtime's version and images cannot be read"),
            Err(_) => tracing::warn!("the runtime did not tell its version and images in time"),
        }
    }
}
