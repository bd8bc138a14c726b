//! The node's heartbeat: a Lease in kube-node-lease, renewed every quarter of its duration (KEP-589; peer:
//! `component-helpers/apimachinery/lease`).

use std::sync::Arc;
use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::model::{Timestamp, clock};

use super::RepeatedFailureHook;
use super::handle::NodeHandle;
use super::requests::{Doubling, NodeError, jittered, within};
use super::settings::NodeSettings;

const NAMESPACE: &str = "kube-node-lease";
/// Tries of one renewal before the next interval.
const TRIES: u32 = 5;

/// The lease as it should be: a new one, or the known one renewed. The owner, set once the Node's UID is known, lets the
/// lease go with the Node.
fn renewed(known: Option<&Lease>, node: &str, uid: Option<&str>, duration_seconds: i32, now: Timestamp) -> Lease {
    let mut lease = known.cloned().unwrap_or_else(|| {
        let mut lease = Lease::default();
        lease.metadata.name = Some(node.to_owned());
        lease.metadata.namespace = Some(NAMESPACE.to_owned());
        lease.spec = Some(LeaseSpec { holder_identity: Some(node.to_owned()), ..LeaseSpec::default() });
        lease
    });
    let spec = lease.spec.get_or_insert_default();
    spec.lease_duration_seconds = Some(duration_seconds);
    // The wire form holds microseconds.
    spec.renew_time = Some(MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)));
    let owners = lease.metadata.owner_references.get_or_insert_default();
    if let (true, Some(uid)) = (owners.is_empty(), uid) {
        owners.push(owner_reference(node, uid));
    }
    lease
}

/// A reference that lets an object go with the Node.
pub(super) fn owner_reference(node: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

/// Keeps the lease.
pub(super) struct LeaseKeeper {
    leases: Api<Lease>,
    nodes: Api<Node>,
    node: NodeHandle,
    settings: Arc<NodeSettings>,
    on_repeated_failure: RepeatedFailureHook,
}

impl LeaseKeeper {
    pub(super) fn new(
        client: Client,
        node: NodeHandle,
        settings: Arc<NodeSettings>,
        on_repeated_failure: RepeatedFailureHook,
    ) -> Self {
        let leases = Api::namespaced(client.clone(), NAMESPACE);
        LeaseKeeper { leases, nodes: Api::all(client), node, settings, on_repeated_failure }
    }

    /// Renews until cancelled. The lease stays: it tells how long ago this node was last alive.
    pub(super) async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            // A renewal that is cut off is at worst one that took place.
            () = cancel.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(mut self) {
        // Without a Node there is no owner to give; but an API server that shows none may have the lease all the same.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.node.stored()).await;
        let mut latest = None;
        loop {
            latest = self.renew(latest).await;
            let wait = match &latest {
                Some(_) => self.settings.lease_renew_interval(),
                None => self.settings.lease_renew_interval().min(Duration::from_secs(1)),
            };
            sleep(jittered(wait)).await;
        }
    }

    /// One renewal. Nobody else writes the lease, so the last known one is updated without asking for it first.
    async fn renew(&self, latest: Option<Lease>) -> Option<Lease> {
        if let Some(known) = latest {
            match self.update(known).await {
                Ok(lease) => return Some(lease),
                Err(error) => tracing::warn!(error = error.chain(), "the node lease is looked up anew"),
            }
        }
        let (lease, is_created) = self.ensure().await?;
        if is_created {
            return Some(lease);
        }
        match self.update(lease.clone()).await {
            Ok(lease) => Some(lease),
            Err(error) => {
                tracing::warn!(error = error.chain(), "the node lease is not renewed this time");
                Some(lease)
            }
        }
    }

    async fn update(&self, mut known: Lease) -> Result<Lease, NodeError> {
        let mut attempt = 1;
        loop {
            let owner = if has_owner(&known) { None } else { self.uid().await.ok() };
            let lease = self.renewed(Some(&known), owner.as_deref());
            let parameters = PostParams::default();
            let request = self.leases.replace(self.node.name(), &parameters, &lease);
            let error = match within(self.limit(), || self.action("renew"), request).await {
                Ok(lease) => return Ok(lease),
                Err(error) => error,
            };
            if attempt > 1 {
                (self.on_repeated_failure)();
            }
            if attempt == TRIES {
                return Err(error);
            }
            if error.is_conflict()
                && let Some((newer, _)) = self.ensure().await
            {
                known = newer;
            }
            attempt += 1;
        }
    }

    /// The stored lease, created if there is none; tries until the API server answers. None if there is no Node yet to
    /// own it.
    async fn ensure(&self) -> Option<(Lease, bool)> {
        let mut waits = Doubling::from(Duration::from_millis(200));
        loop {
            match self.get_or_create().await {
                Ok(lease) => return Some(lease),
                Err(NodeError::NoUid { .. }) => return None,
                Err(error) => {
                    let wait = waits.next();
                    tracing::warn!(error = error.chain(), ?wait, "the node lease cannot be looked up or made");
                    sleep(wait).await;
                }
            }
        }
    }

    async fn get_or_create(&self) -> Result<(Lease, bool), NodeError> {
        let request = self.leases.get(self.node.name());
        match within(self.limit(), || self.action("get"), request).await {
            Ok(lease) => return Ok((lease, false)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        let uid = self.uid().await?;
        let lease = self.renewed(None, Some(&uid));
        let parameters = PostParams::default();
        let request = self.leases.create(&parameters, &lease);
        within(self.limit(), || self.action("create"), request).await.map(|lease| (lease, true))
    }

    /// The Node's UID. A Node that is not there is not waited for.
    async fn uid(&self) -> Result<String, NodeError> {
        let no_uid = || NodeError::NoUid { node: self.node.name().to_owned() };
        if let Some(uid) = self.node.uid() {
            return Ok(uid);
        }
        let action = || format!("get node {}", self.node.name());
        match within(self.limit(), action, self.nodes.get(self.node.name())).await {
            Ok(node) => node.metadata.uid.ok_or_else(no_uid),
            Err(error) if error.is_not_found() => Err(no_uid()),
            Err(error) => Err(error),
        }
    }

    fn renewed(&self, known: Option<&Lease>, uid: Option<&str>) -> Lease {
        renewed(known, self.node.name(), uid, self.settings.lease_duration_seconds, clock::now())
    }

    fn limit(&self) -> Duration {
        self.settings.heartbeat_timeout()
    }

    fn action(&self, verb: &str) -> String {
        format!("{verb} lease {NAMESPACE}/{}", self.node.name())
    }
}

fn has_owner(lease: &Lease) -> bool {
    lease.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::task::JoinSet;

    use super::super::testing::ApiServer;
    use super::*;

    fn node() -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("node-a".into());
        node
    }

    struct Running {
        _tasks: JoinSet<()>,
        failures: Arc<AtomicU32>,
        handle: NodeHandle,
    }

    fn keep(server: &ApiServer) -> Running {
        let handle = NodeHandle::new("node-a");
        let failures = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&failures);
        let hook: RepeatedFailureHook = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let settings = Arc::new(NodeSettings::named("node-a"));
        let keeper = LeaseKeeper::new(server.client(), handle.clone(), settings, hook);
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(CancellationToken::new()));
        Running { _tasks: tasks, failures, handle }
    }

    async fn seconds(seconds: u64) {
        sleep(Duration::from_secs(seconds)).await;
    }

    #[test]
    fn a_new_lease_and_its_renewal() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let new = renewed(None, "node-a", Some("u-1"), 40, at("2027-01-15T08:00:00.123456789Z"));
        insta::assert_json_snapshot!(new, @r#"
        {
          "apiVersion": "coordination.k8s.io/v1",
          "kind": "Lease",
          "metadata": {
            "name": "node-a",
            "namespace": "kube-node-lease",
            "ownerReferences": [
              {
                "apiVersion": "v1",
                "kind": "Node",
                "name": "node-a",
                "uid": "u-1"
              }
            ]
          },
          "spec": {
            "holderIdentity": "node-a",
            "leaseDurationSeconds": 40,
            "renewTime": "2027-01-15T08:00:00.123456Z"
          }
        }
        "#);
        let again = renewed(Some(&new), "node-a", Some("u-2"), 20, at("2027-01-15T08:00:10Z"));
        assert_eq!(again.metadata, new.metadata, "an owner once set stays");
        let spec = again.spec.unwrap();
        assert_eq!((spec.lease_duration_seconds, spec.holder_identity), (Some(20), Some("node-a".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn creates_the_lease_once_the_node_is_there_and_renews_it() {
        let server = ApiServer::default();
        let running = keep(&server);
        seconds(3).await;
        assert!(server.lease().is_none());
        server.store_node(node());
        running.handle.offer(server.node().unwrap());
        seconds(2).await;
        let lease = server.lease().unwrap();
        let owner = lease.metadata.owner_references.unwrap().remove(0);
        assert_eq!(Some(owner.uid), server.node().unwrap().metadata.uid);

        server.clear_log();
        seconds(55).await;
        assert_eq!(server.log(), vec!["PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-a"; 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn takes_over_a_lease_and_its_changes() {
        let server = ApiServer::default();
        server.store_node(node());
        server.store_lease(renewed(None, "node-a", None, 40, clock::now()));
        let _running = keep(&server);
        seconds(5).await;
        let lease = server.lease().unwrap();
        assert_eq!(lease.metadata.owner_references.unwrap().len(), 1, "the owner is set later");

        // Someone else writes it: the renewal conflicts, and takes place all the same.
        server.store_lease(renewed(None, "node-a", Some("u"), 99, clock::now()));
        seconds(12).await;
        assert_eq!(server.lease().unwrap().spec.unwrap().lease_duration_seconds, Some(40));

        server.delete_lease();
        seconds(12).await;
        assert!(server.lease().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn survives_outages() {
        let server = ApiServer::default();
        server.store_node(node());
        let running = keep(&server);
        seconds(2).await;
        server.set_outage(true);
        server.clear_log();
        seconds(600).await;
        let tries = server.log().len();
        assert!((80..140).contains(&tries), "backs off to 7 s: {tries}");
        assert_eq!(running.failures.load(Ordering::Relaxed), TRIES - 1, "connections are dropped from the second on");
        server.set_outage(false);
        server.clear_log();
        seconds(8).await;
        assert!(server.log().iter().any(|line| line.starts_with("PUT")), "{:?}", server.log());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_api_server_holds_up_nothing_for_ever() {
        let server = ApiServer::default();
        server.store_node(node());
        let _running = keep(&server);
        seconds(2).await;
        server.set_hanging(true);
        seconds(120).await;
        server.set_hanging(false);
        server.clear_log();
        seconds(20).await;
        assert!(server.log().iter().any(|line| line.starts_with("PUT")), "{:?}", server.log());
    }
}
