//! Creates the Node, or puts an existing one right (peer: `registerWithAPIServer`, `tryRegisterWithAPIServer`).

use std::time::Duration;

use ::kube::Api;
use ::kube::api::{Patch, PatchParams, PostParams};
use k8s_openapi::api::core::v1::Node;

use super::initial::reconcile_existing;
use super::patch::node_patch;
use super::requests::{NodeError, within};

/// A Node that is stored.
#[derive(Debug)]
pub(super) struct Registered {
    /// As the API server has it.
    pub(super) node: Node,
    /// Whether it is new.
    pub(super) is_created: bool,
}

/// One try. A node that may not create its Node may still find one that someone else made.
pub(super) async fn try_register(
    api: &Api<Node>,
    initial: &Node,
    reset_extended: bool,
    limit: Duration,
) -> Result<Registered, NodeError> {
    let name = initial.metadata.name.clone().unwrap_or_default();
    let parameters = PostParams::default();
    let request = api.create(&parameters, initial);
    let refusal = match within(limit, || format!("create node {name}"), request).await {
        Ok(node) => return Ok(Registered { node, is_created: true }),
        Err(error) if error.is_already_exists() || error.is_forbidden() => error,
        Err(error) => return Err(error),
    };
    let existing = match within(limit, || format!("get node {name}"), api.get(&name)).await {
        Ok(node) => node,
        // Why it could not be created says more than that it is not there.
        Err(error) if error.is_not_found() && refusal.is_forbidden() => return Err(refusal),
        Err(error) => return Err(error),
    };
    let Some(wanted) = reconcile_existing(&existing, initial, reset_extended) else {
        return Ok(Registered { node: existing, is_created: false });
    };
    let patch = node_patch(&existing, &wanted).map_err(|source| NodeError::Patch { node: name.clone(), source })?;
    let Some(patch) = patch else { return Ok(Registered { node: existing, is_created: false }) };
    let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
    let request = api.patch_status(&name, &parameters, &patch);
    let node = within(limit, || format!("put node {name} right"), request).await?;
    Ok(Registered { node, is_created: false })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::initial::initial_node;
    use super::super::status::tests::{World, at};
    use super::super::testing::ApiServer;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn initial() -> Node {
        initial_node(&World::healthy().inputs(), at(0)).node
    }

    async fn register(server: &ApiServer) -> Result<Registered, NodeError> {
        try_register(&Api::all(server.client()), &initial(), false, LIMIT).await
    }

    #[tokio::test(start_paused = true)]
    async fn creates_the_node() {
        let server = ApiServer::default();
        let registered = register(&server).await.unwrap();
        assert!(registered.is_created);
        assert_eq!(server.node().unwrap().status, initial().status);
        assert_eq!(server.log(), ["POST /api/v1/nodes"]);
    }

    #[rstest]
    #[case::exists(None)]
    #[case::may_not_create(Some(403))]
    #[tokio::test(start_paused = true)]
    async fn puts_an_existing_node_right(#[case] refusal: Option<u16>) {
        let server = ApiServer::default();
        let mut node = initial();
        node.metadata.labels.as_mut().unwrap().insert("kubernetes.io/hostname".into(), "old".into());
        server.store_node(node);
        refusal.into_iter().for_each(|code| server.fail("POST", code));
        let registered = register(&server).await.unwrap();
        assert!(!registered.is_created);
        assert_eq!(registered.node.metadata.labels.unwrap()["kubernetes.io/hostname"], "node-a");
        assert_eq!(
            server.log(),
            ["POST /api/v1/nodes", "GET /api/v1/nodes/node-a", "PATCH /api/v1/nodes/node-a/status"]
        );
        // And leaves alone what is right.
        register(&server).await.unwrap();
        assert_eq!(server.log().len(), 5);
    }

    #[rstest]
    #[case(403, "cannot create node node-a")]
    #[case(500, "cannot create node node-a")]
    #[tokio::test(start_paused = true)]
    async fn says_why_it_cannot(#[case] code: u16, #[case] expected: &str) {
        let server = ApiServer::default();
        server.fail("POST", code);
        let error = register(&server).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.chain().contains("told to fail"), "{}", error.chain());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_an_error() {
        let server = ApiServer::default();
        server.set_outage(true);
        assert!(!register(&server).await.unwrap_err().is_refusal());
    }
}
