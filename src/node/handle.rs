//! The Node object as the API server has it, for every part that asks: kept by a watch of this one object.

use std::net::IpAddr;
use std::sync::Arc;

use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kube::watch::{ObjectWatch, WatchEvent, WatchOptions};

use super::address;

#[derive(Debug)]
struct Shared {
    name: String,
    /// What the API server has.
    stored: watch::Sender<Option<Arc<Node>>>,
    /// What the agent would create.
    initial: watch::Sender<Option<Arc<Node>>>,
    /// The API server has told whether it has the Node.
    settled: watch::Sender<bool>,
}

/// The newest Node.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    changes: watch::Receiver<Option<Arc<Node>>>,
    settling: watch::Receiver<bool>,
}

impl NodeHandle {
    /// A handle that knows no node yet.
    pub(super) fn new(name: &str) -> Self {
        let (stored, changes) = watch::channel(None);
        let (settled, settling) = watch::channel(false);
        let shared = Shared { name: name.to_owned(), stored, initial: watch::Sender::new(None), settled };
        NodeHandle { shared: Arc::new(shared), changes, settling }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The Node as the API server has it; none until it was seen, and when it was deleted.
    pub fn current(&self) -> Option<Arc<Node>> {
        self.shared.stored.borrow().clone()
    }

    /// The stored Node, or, while the API server has not shown one, the one that the agent would create: enough for
    /// admission and for the addresses of pods. None only before the first status was computed.
    pub fn current_or_initial(&self) -> Option<Arc<Node>> {
        self.current().or_else(|| self.shared.initial.borrow().clone())
    }

    /// The Node's UID, once it was seen.
    pub fn uid(&self) -> Option<String> {
        self.current()?.metadata.uid.clone()
    }

    /// The host's addresses as pods are told them: at most one of each family; empty if none is known.
    pub fn host_ips(&self) -> Vec<IpAddr> {
        self.current_or_initial().map(|node| address::host_ips(&node)).unwrap_or_default()
    }

    /// The node's pod networks, `a,b` for dual stack; none if it was given none.
    pub fn pod_cidrs(&self) -> Option<String> {
        pod_cidrs(self.current()?.as_ref())
    }

    /// Waits until [`current_or_initial`](Self::current_or_initial) is another than when this handle last waited.
    pub async fn changed(&mut self) {
        // The sender lives in `shared`, which this handle keeps: it cannot be gone.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the API server has told if it has the Node, so that [`Self::current_or_initial`] is no guess.
    pub fn is_settled(&self) -> bool {
        *self.shared.settled.borrow()
    }

    /// Waits until [`Self::current_or_initial`] or [`Self::is_settled`] may say something else than when this handle last
    /// waited.
    pub async fn known(&mut self) {
        // Cancel-safe: both only tell that something is new. Their senders live in `shared`, which this handle keeps.
        tokio::select! {
            _ = self.changes.changed() => {}
            _ = self.settling.changed() => {}
        }
    }

    /// Waits until the API server has the Node.
    pub async fn stored(&mut self) -> Arc<Node> {
        loop {
            if let Some(node) = self.changes.borrow_and_update().clone() {
                return node;
            }
            self.changed().await;
        }
    }

    /// Takes in a Node that the API server gave, unless a newer one is known already.
    pub(super) fn offer(&self, mut node: Node) {
        prune(&mut node);
        self.shared.stored.send_if_modified(|stored| {
            let is_newer = stored.as_deref().is_none_or(|known| is_newer(known, &node));
            if is_newer {
                *stored = Some(Arc::new(node));
            }
            is_newer
        });
        self.settle();
    }

    pub(super) fn deleted(&self) {
        self.shared.stored.send_if_modified(|stored| stored.take().is_some());
        self.settle();
    }

    fn settle(&self) {
        self.shared.settled.send_if_modified(|settled| !std::mem::replace(settled, true));
    }

    /// Takes the Node that the agent would create. Whoever waits for a change is told, since it may stand for the stored one.
    pub(super) fn set_initial(&self, node: Node) {
        self.shared.initial.send_replace(Some(Arc::new(node)));
        self.shared.stored.send_if_modified(|stored| stored.is_none());
    }
}

/// Whether `new` is a later state than `known`: of one object the higher resource version, else the other object.
fn is_newer(known: &Node, new: &Node) -> bool {
    let version = |node: &Node| node.metadata.resource_version.as_deref().and_then(|v| v.parse::<u128>().ok());
    match (known.metadata.uid == new.metadata.uid, version(known), version(new)) {
        (true, Some(known), Some(new)) => new > known,
        _ => true,
    }
}

/// `spec.podCIDRs` as the runtime takes them.
pub(super) fn pod_cidrs(node: &Node) -> Option<String> {
    let cidrs = node.spec.as_ref()?.pod_cidrs.as_ref()?;
    (!cidrs.is_empty()).then(|| cidrs.join(","))
}

/// Who wrote which field is half of the object's size and of no use here.
fn prune(node: &mut Node) {
    node.metadata.managed_fields = None;
}

/// Keeps a [`NodeHandle`] up to date.
pub(super) struct NodeWatch {
    watch: ObjectWatch<Node>,
    handle: NodeHandle,
}

impl NodeWatch {
    pub(super) fn new(client: Client, handle: NodeHandle) -> Self {
        let subject = format!("node {}", handle.name());
        let fields = Some(format!("metadata.name={}", handle.name()));
        let options = WatchOptions { fields, prune, ..WatchOptions::new(subject) };
        NodeWatch { watch: ObjectWatch::new(Api::all(client), options), handle }
    }

    /// Watches until cancelled, through restarts of the API server and expired resource versions.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let event = tokio::select! {
                // The watch is dropped with its connection.
                () = cancel.cancelled() => return,
                // Cancel-safe: no event is lost by a call that is dropped.
                event = self.watch.next() => event,
            };
            match event {
                Ok(WatchEvent::Replaced(nodes)) => match nodes.into_iter().next() {
                    Some(node) => self.handle.offer(node),
                    None => self.handle.deleted(),
                },
                Ok(WatchEvent::Applied(node)) => self.handle.offer(node),
                Ok(WatchEvent::Deleted(_)) => self.handle.deleted(),
                // The watch has logged it and goes on.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::ApiServer;
    use super::*;

    fn node(uid: &str, version: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("node-a".into());
        node.metadata.uid = Some(uid.into());
        node.metadata.resource_version = Some(version.into());
        node
    }

    fn version(handle: &NodeHandle) -> Option<String> {
        handle.current()?.metadata.resource_version.clone()
    }

    #[test]
    fn an_older_state_does_not_come_back() {
        let handle = NodeHandle::new("node-a");
        for (offered, expected) in
            [(node("u", "9"), "9"), (node("u", "8"), "9"), (node("u", "10"), "10"), (node("other", "3"), "3")]
        {
            handle.offer(offered);
            assert_eq!(version(&handle).as_deref(), Some(expected));
        }
        handle.deleted();
        assert_eq!(version(&handle), None);
    }

    #[test]
    fn the_initial_node_stands_in() {
        let handle = NodeHandle::new("node-a");
        assert_eq!(handle.host_ips(), Vec::<IpAddr>::new());
        let mut initial = node("", "");
        let address = |address: &str| k8s_openapi::api::core::v1::NodeAddress {
            type_: "InternalIP".into(),
            address: address.into(),
        };
        initial.status.get_or_insert_default().addresses = Some(vec![address("10.0.0.5")]);
        handle.set_initial(initial);
        assert_eq!(handle.host_ips(), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        assert!(handle.current().is_none() && handle.current_or_initial().is_some());

        let mut stored = node("u", "1");
        stored.status.get_or_insert_default().addresses = Some(vec![address("10.0.0.6"), address("fd00::6")]);
        stored.spec.get_or_insert_default().pod_cidrs = Some(vec!["10.1.0.0/24".into(), "fd01::/64".into()]);
        handle.offer(stored);
        assert_eq!(handle.host_ips(), ["10.0.0.6", "fd00::6"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        assert_eq!(handle.pod_cidrs().as_deref(), Some("10.1.0.0/24,fd01::/64"));
        assert_eq!(handle.uid().as_deref(), Some("u"));
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_api_server_through_an_outage() {
        let server = ApiServer::default();
        let mut handle = NodeHandle::new("node-a");
        let cancel = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(NodeWatch::new(server.client(), handle.clone()).run(cancel.clone()));

        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(handle.current().is_none());
        server.store_node(node("u", ""));
        assert_eq!(handle.stored().await.metadata.uid.as_deref(), Some("u"));

        server.set_outage(true);
        tokio::time::sleep(std::time::Duration::from_secs(90)).await;
        assert!(handle.current().is_some(), "an outage is no deletion");
        server.set_outage(false);
        server.change_node(|node| node.spec.get_or_insert_default().unschedulable = Some(true));
        handle.changed().await;
        assert_eq!(handle.current().unwrap().spec.as_ref().unwrap().unschedulable, Some(true));

        server.delete_node();
        handle.changed().await;
        assert!(handle.current().is_none());
        cancel.cancel();
        tasks.join_all().await;
    }
}
