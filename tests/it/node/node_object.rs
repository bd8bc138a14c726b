//! The Node object and its lease.

use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::harness::*;

/// A Node without what is another on every start: times, ids of the object, and figures that differ between two looks.
fn comparable(node: &Node) -> Value {
    let mut node = serde_json::to_value(node).unwrap();
    let metadata = node["metadata"].clone();
    node["metadata"] = json!({"labels": metadata["labels"], "annotations": metadata["annotations"]});
    if let Some(spec) = node["spec"].as_object_mut() {
        spec.remove("taints"); // Written by the controllers.
        spec.remove("podCIDR");
        spec.remove("podCIDRs");
    }
    for condition in node["status"]["conditions"].as_array_mut().unwrap() {
        let condition = condition.as_object_mut().unwrap();
        condition.remove("lastHeartbeatTime");
        condition.remove("lastTransitionTime");
    }
    let status = node["status"].as_object_mut().unwrap();
    // What is declared and what the HTTPS API's port stands for differs while those features do.
    status.remove("declaredFeatures");
    node
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_node_is_what_the_kubelet_makes_of_it() {
    let client = client().await;
    let nodes: Api<Node> = Api::all(client.clone());
    let mut seen = Vec::new();
    for kind in [Kind::Peer, Kind::Ferrolet] {
        if nodes.get_opt(&node_name()).await.unwrap().is_some() {
            nodes.delete(&node_name(), &DeleteParams::default()).await.unwrap();
        }
        let agent = Agent::start(kind).await;
        // Images are listed with the first full status.
        let node = wait("a full status", 30, async || {
            let node = nodes.get(&node_name()).await.unwrap();
            let complete = node.status.as_ref().is_some_and(|s| s.images.as_ref().is_some_and(|i| !i.is_empty()));
            complete.then_some(node)
        })
        .await;
        seen.push(comparable(&node));
        agent.kill().await;
    }
    pretty_compare(&seen[0], &seen[1]);
}

fn pretty_compare(peer: &Value, ours: &Value) {
    let text = |v: &Value| serde_json::to_string_pretty(v).unwrap();
    assert!(peer == ours, "the kubelet's node:\n{}\nours:\n{}", text(peer), text(ours));
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_lease_is_renewed_and_belongs_to_the_node() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let client = client().await;
    let node = Api::<Node>::all(client.clone()).get(&node_name()).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let renewed = async || leases.get(&node_name()).await.unwrap().spec.unwrap().renew_time;
    let lease = wait("an owned lease", 30, async || {
        let lease = leases.get_opt(&node_name()).await.unwrap()?;
        lease.metadata.owner_references.is_some().then_some(lease)
    })
    .await;
    assert_eq!(lease.spec.as_ref().unwrap().lease_duration_seconds, Some(40));
    assert_eq!(lease.metadata.owner_references.unwrap()[0].uid, node.metadata.uid.unwrap());
    let first = renewed().await;
    wait("a renewal", 15, async || (renewed().await > first).then_some(())).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn ready_follows_the_runtime() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let nodes: Api<Node> = Api::all(client().await);
    let ready = async || condition(&nodes.get(&node_name()).await.unwrap(), "Ready");
    let outage = Outage::begin("containerd").await;
    wait("Ready to be False", 60, async || (ready().await.as_deref() == Some("False")).then_some(())).await;
    let node = nodes.get(&node_name()).await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    let last = conditions.last().unwrap();
    assert_eq!(last.type_, "Ready");
    assert!(last.message.as_ref().unwrap().contains("container runtime is down"), "{last:?}");
    outage.end().await;
    wait("Ready to be True", 30, async || (ready().await.as_deref() == Some("True")).then_some(())).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_node_is_told_of_what_it_lacks() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("told").await;
    let events: Api<Event> = Api::namespaced(client().await, "default");
    let told = async |reason: &str| {
        let of_node = format!("involvedObject.kind=Node,reason={reason}");
        let found = events.list(&ListParams::default().fields(&of_node)).await.unwrap();
        found.items.into_iter().find_map(|event| event.message)
    };
    wait("the event on old cgroups", 30, async || told("CgroupV1").await).await;
    // No clusterDNS is configured: pods that want it get the node's resolver.
    let pod = namespace.script("p", "true", "Never").await;
    namespace.wait_event("p", "MissingClusterDNS").await;
    let message = wait("the event on cluster DNS", 30, async || told("MissingClusterDNS").await).await;
    assert!(message.contains("\"ClusterFirst\""), "{message}");
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_kernel_is_set_as_a_node_needs_it() {
    assert_eq!(std::env::var("FERROLET_ISOLATED").as_deref(), Ok("1"), "a file must stand for the setting");
    let setting = "/proc/sys/vm/overcommit_memory";
    let value = || std::fs::read_to_string(setting).unwrap().trim().to_owned();
    std::fs::write(setting, "0").unwrap();
    Agent::start(Kind::Ferrolet).await.kill().await;
    assert_eq!(value(), "1");
    std::fs::write(setting, "0").unwrap();
    let refused = Agent::launch(Kind::Ferrolet, &["--protect-kernel-defaults"]).await;
    assert_eq!((refused.end().await, value().as_str()), (Some(1), "0"));
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn labels_are_set_again_and_others_are_kept() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let nodes: Api<Node> = Api::all(client().await);
    let patch = json!({"metadata": {"labels": {"kubernetes.io/arch": "wrong", "mine": "kept"}}});
    nodes.patch(&node_name(), &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    agent.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    wait("the label to be right", 20, async || {
        let labels = nodes.get(&node_name()).await.unwrap().metadata.labels.unwrap();
        assert_eq!(labels.get("mine").map(String::as_str), Some("kept"));
        (labels.get("kubernetes.io/arch").map(String::as_str) == Some("amd64")).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn bad_input_ends_the_start_with_one_line() {
    let binary = std::env::var("FERROLET_BIN").unwrap();
    let no_file = "No such file or directory (os error 2)";
    for (arguments, expected) in [
        (&["--no-such-flag"][..], "unknown flag: --no-such-flag".to_owned()),
        (&["--max-pods=many"], "invalid argument \"many\" for flag --max-pods: must be a whole number".to_owned()),
        (&["--config=/not/there.yaml"], format!("cannot read configuration /not/there.yaml: {no_file}")),
        (
            &["--kubeconfig=/not/there.conf", "--fail-cgroupv1=false", "--fail-swap-on=false"],
            format!("kubeconfig /not/there.conf: {no_file}"),
        ),
        (
            &["--port=-1", "--fail-cgroupv1=false"],
            "invalid configuration: port (--port) -1 must be between 1 and 65535".to_owned(),
        ),
        (
            &["--cloud-provider=aws", "--fail-cgroupv1=false"],
            "invalid configuration: --cloud-provider \"aws\" must be empty or \"external\"".to_owned(),
        ),
    ] {
        let run = tokio::process::Command::new(&binary)
            .args(arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .output();
        let output = tokio::time::timeout(Duration::from_secs(20), run).await.expect("it did not end").unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(last, format!("ferrolet: {expected}"), "{arguments:?}: {text}");
    }
}
