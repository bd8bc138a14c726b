//! The CSINode object that goes with the Node: made at the start even without CSI drivers, since schedulers and the
//! attach-detach controller read from it which in-tree plugins this node has handed over to CSI (KEP-625; peer:
//! `csi/nodeinfomanager`). Until it is there the node is not Ready, as in the peer.

use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{DeleteParams, PostParams};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeSpec};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::conditions::NotReadyCause;
use super::contributions::ContributionsHandle;
use super::handle::NodeHandle;
use super::lease::owner_reference;
use super::requests::{Doubling, NodeError, within};
use super::settings::NodeSettings;

const MIGRATED_PLUGINS_ANNOTATION: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// In-tree plugins whose volumes are CSI's, in the order of the annotation.
const MIGRATED_PLUGINS: [&str; 7] = [
    "kubernetes.io/aws-ebs",
    "kubernetes.io/azure-disk",
    "kubernetes.io/azure-file",
    "kubernetes.io/cinder",
    "kubernetes.io/gce-pd",
    "kubernetes.io/portworx-volume",
    "kubernetes.io/vsphere-volume",
];

/// What Ready says until the CSINode is there.
pub(super) fn pending() -> NotReadyCause {
    NotReadyCause::pending("CSINode is not yet initialized")
}

/// What is to be done about the CSINode.
#[derive(Debug, PartialEq)]
enum Step {
    /// There is none.
    Create(CSINode),
    /// It belongs to an earlier Node of that name, whose UID is given.
    Delete(String),
    /// It does not tell the migrated plugins.
    Update(CSINode),
    /// It is right.
    Keep,
}

fn step(existing: Option<CSINode>, node: &str, uid: &str) -> Step {
    let Some(mut csi_node) = existing else {
        let mut csi_node = CSINode { spec: CSINodeSpec { drivers: Vec::new() }, ..CSINode::default() };
        csi_node.metadata.name = Some(node.to_owned());
        csi_node.metadata.owner_references = Some(vec![owner_reference(node, uid)]);
        csi_node.metadata.annotations =
            Some([(MIGRATED_PLUGINS_ANNOTATION.to_owned(), MIGRATED_PLUGINS.join(","))].into());
        return Step::Create(csi_node);
    };
    let owners = csi_node.metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Node");
    let mut foreign = String::new();
    let mut is_ours = false;
    for owner in owners {
        foreign.clone_from(&owner.uid);
        is_ours |= owner.name == node && owner.uid == uid;
    }
    if !is_ours {
        return Step::Delete(foreign);
    }
    let annotations = csi_node.metadata.annotations.get_or_insert_default();
    let present = annotations.get(MIGRATED_PLUGINS_ANNOTATION).map(String::as_str).unwrap_or_default();
    let mut present: Vec<_> = present.split(',').filter(|plugin| !plugin.is_empty()).collect();
    present.sort_unstable();
    present.dedup();
    if present == MIGRATED_PLUGINS {
        return Step::Keep;
    }
    annotations.insert(MIGRATED_PLUGINS_ANNOTATION.to_owned(), MIGRATED_PLUGINS.join(","));
    Step::Update(csi_node)
}

/// Publishes the CSINode.
pub(super) struct CsiNodePublisher {
    csi_nodes: Api<CSINode>,
    nodes: Api<Node>,
    node: NodeHandle,
    settings: Arc<NodeSettings>,
    contributions: ContributionsHandle,
}

impl CsiNodePublisher {
    pub(super) fn new(
        client: Client,
        node: NodeHandle,
        settings: Arc<NodeSettings>,
        contributions: ContributionsHandle,
    ) -> Self {
        CsiNodePublisher { csi_nodes: Api::all(client.clone()), nodes: Api::all(client), node, settings, contributions }
    }

    /// Tries until the CSINode is right, then ends; ends also when cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            // Every step can be done again.
            () = cancel.cancelled() => {}
            () = self.publish() => {}
        }
    }

    async fn publish(mut self) {
        self.node.stored().await;
        let mut waits = Doubling::from(Duration::from_millis(50));
        loop {
            let error = match self.try_publish().await {
                Ok(()) => return self.contributions.set_storage(None),
                Err(error) => error,
            };
            // An outage is no evidence against the node; a refusal is.
            if error.is_refusal() {
                let message = format!("failed to initialize CSINode: {}", error.chain());
                self.contributions.set_storage(Some(NotReadyCause::known(message)));
            }
            let wait = waits.next();
            tracing::warn!(error = error.chain(), ?wait, "the CSINode cannot be published");
            sleep(wait).await;
        }
    }

    async fn try_publish(&self) -> Result<(), NodeError> {
        let (name, limit) = (self.node.name(), self.settings.heartbeat_timeout());
        let action = |verb: &'static str| move || format!("{verb} CSINode {name}");
        // The UID must be the one of now: a CSINode of any other is deleted.
        let node = within(limit, || format!("get node {name}"), self.nodes.get(name)).await?;
        let uid = node.metadata.uid.ok_or_else(|| NodeError::NoUid { node: name.to_owned() })?;
        let existing = within(limit, action("get"), self.csi_nodes.get_opt(name)).await?;
        match step(existing, name, &uid) {
            Step::Keep => Ok(()),
            Step::Create(csi_node) => {
                within(limit, action("create"), self.csi_nodes.create(&PostParams::default(), &csi_node))
                    .await
                    .map(drop)
            }
            Step::Update(csi_node) => {
                let parameters = PostParams::default();
                within(limit, action("update"), self.csi_nodes.replace(name, &parameters, &csi_node)).await.map(drop)
            }
            Step::Delete(owner) => {
                within(limit, action("delete"), self.csi_nodes.delete(name, &DeleteParams::default())).await?;
                Err(NodeError::ForeignCsiNode { node: name.to_owned(), owner })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::ApiServer;
    use super::*;

    fn created(uid: &str) -> CSINode {
        match step(None, "node-a", uid) {
            Step::Create(csi_node) => csi_node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn makes_one_that_tells_the_migrated_plugins() {
        insta::assert_json_snapshot!(created("u"), @r#"
        {
          "apiVersion": "storage.k8s.io/v1",
          "kind": "CSINode",
          "metadata": {
            "annotations": {
              "storage.alpha.kubernetes.io/migrated-plugins": "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume"
            },
            "name": "node-a",
            "ownerReferences": [
              {
                "apiVersion": "v1",
                "kind": "Node",
                "name": "node-a",
                "uid": "u"
              }
            ]
          },
          "spec": {
            "drivers": []
          }
        }
        "#);
    }

    #[test]
    fn decides_what_an_existing_one_needs() {
        assert_eq!(step(Some(created("u")), "node-a", "u"), Step::Keep);
        assert_eq!(step(Some(created("old")), "node-a", "u"), Step::Delete("old".into()));

        let mut shuffled = created("u");
        let value = MIGRATED_PLUGINS.iter().rev().copied().collect::<Vec<_>>().join(",");
        shuffled.metadata.annotations.as_mut().unwrap().insert(MIGRATED_PLUGINS_ANNOTATION.into(), value);
        assert_eq!(step(Some(shuffled), "node-a", "u"), Step::Keep);

        let mut bare = created("u");
        bare.metadata.annotations = Some([("kept".to_owned(), "yes".to_owned())].into());
        let Step::Update(updated) = step(Some(bare), "node-a", "u") else { panic!("not updated") };
        let annotations = updated.metadata.annotations.unwrap();
        assert_eq!(annotations["kept"], "yes");
        assert_eq!(annotations[MIGRATED_PLUGINS_ANNOTATION], MIGRATED_PLUGINS.join(","));
    }

    async fn publish(server: &ApiServer) -> ContributionsHandle {
        let handle = NodeHandle::new("node-a");
        handle.offer(server.node().unwrap());
        let contributions = ContributionsHandle::default();
        contributions.set_storage(Some(pending()));
        let settings = Arc::new(NodeSettings::named("node-a"));
        let publisher = CsiNodePublisher::new(server.client(), handle, settings, contributions.clone());
        publisher.run(CancellationToken::new()).await;
        contributions
    }

    fn with_node() -> ApiServer {
        let server = ApiServer::default();
        let mut node = Node::default();
        node.metadata.name = Some("node-a".into());
        server.store_node(node);
        server
    }

    #[tokio::test(start_paused = true)]
    async fn publishing_ends_the_wait_for_storage() {
        let server = with_node();
        let contributions = publish(&server).await;
        assert_eq!(contributions.current().storage, None);
        let owner = server.csi_node().unwrap().metadata.owner_references.unwrap().remove(0);
        assert_eq!(Some(owner.uid), server.node().unwrap().metadata.uid);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_an_earlier_node_is_replaced() {
        let server = with_node();
        server.store_csi_node(created("long ago"));
        publish(&server).await;
        let owner = server.csi_node().unwrap().metadata.owner_references.unwrap().remove(0);
        assert_eq!(Some(owner.uid), server.node().unwrap().metadata.uid);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_and_tried_again() {
        let server = with_node();
        server.fail("POST", 403);
        let handle = NodeHandle::new("node-a");
        handle.offer(server.node().unwrap());
        let contributions = ContributionsHandle::default();
        contributions.set_storage(Some(pending()));
        let settings = Arc::new(NodeSettings::named("node-a"));
        let publisher = CsiNodePublisher::new(server.client(), handle, settings, contributions.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(publisher.run(CancellationToken::new()));
        let mut changes = contributions.clone();
        let cause = loop {
            changes.changed().await;
            match contributions.current().storage {
                Some(cause) if cause == pending() => {}
                other => break other.unwrap(),
            }
        };
        assert!(!cause.pending);
        assert!(cause.message.starts_with("failed to initialize CSINode: cannot create CSINode node-a"), "{cause:?}");
        tasks.join_all().await;
        assert_eq!(contributions.current().storage, None);
    }
}
