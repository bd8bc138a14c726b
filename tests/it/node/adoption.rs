//! Either agent takes the other's pods over as they are.

use std::time::Duration;

use serde_json::json;

use super::harness::*;

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_kubelets_pods_are_taken_over_and_given_back() {
    let peer = Agent::start(Kind::Peer).await;
    let namespace = TestNamespace::create("adoption").await;
    let mut uids = Vec::new();
    for index in 0..3 {
        let spec = json!({
            "initContainers": [{"name": "init", "image": BUSYBOX, "command": ["true"]}],
            "containers": [
                {"name": "c", "image": PAUSE, "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "20Mi"}},
                    "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "<&>"}]},
                {"name": "d", "image": BUSYBOX, "command": ["sleep", "3600"]}],
        });
        uids.push(uid(&namespace.pod(&format!("p{index}"), spec).await));
    }
    for index in 0..3 {
        namespace.wait_ready(&format!("p{index}")).await;
    }
    let before = namespace.container_ids().await;
    peer.kill().await;

    let agent = Agent::start(Kind::Ferrolet).await;
    uids.push(uid(&namespace
        .pod("ours", json!({"containers": [{"name": "c", "image": PAUSE, "ports": [{"containerPort": 80}]}]}))
        .await));
    namespace.wait_ready("ours").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let with_ours = namespace.container_ids().await;
    for (container, id) in &before {
        assert_eq!(with_ours.get(container), Some(id), "{container:?} was made again");
    }
    agent.kill().await;

    let peer = Agent::start(Kind::Peer).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(namespace.container_ids().await, with_ours, "the kubelet made a container of ours again");
    for pod in namespace.pods().await {
        assert_eq!(container(&pod, "c").restart_count, 0);
        assert_eq!(condition(&pod, "Ready").as_deref(), Some("True"));
    }
    namespace.delete("ours", None).await;
    namespace.wait_gone("ours", 40).await;
    peer.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    namespace.clean_up(&uids).await;
}
