//! Pods that the node refuses, with the texts of the kubelet.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::harness::*;

fn pause() -> Value {
    json!({"name": "c", "image": PAUSE})
}

fn with_port() -> Value {
    json!({"containers": [{"name": "c", "image": PAUSE, "ports": [{"containerPort": 80, "hostPort": 18_080}]}]})
}

fn asking(resource: &str, amount: &str) -> Value {
    json!({"containers": [{"name": "c", "image": PAUSE, "resources": {"requests": {resource: amount}}}]})
}

/// Waits until a pod was refused; checks reason, message and event, that nothing of it was started, and that it can be deleted.
async fn refused(namespace: &TestNamespace, name: &str, reason: &str, message: &str) {
    let pod = namespace.wait_phase(name, "Failed").await;
    let status = pod.status.clone().unwrap();
    assert_eq!(status.reason.as_deref(), Some(reason), "{name}");
    assert_eq!(status.message, Some(format!("Pod was rejected: {message}")), "{name}");
    assert!(status.container_statuses.is_none() && status.conditions.is_none() && status.pod_ip.is_none(), "{name}");
    let event = namespace.wait_event(name, reason).await;
    assert_eq!((event.type_.as_deref(), event.message.as_deref()), (Some("Warning"), Some(message)), "{name}");
    assert_eq!(left_of(&[uid(&pod)]).await, Vec::<String>::new());
    namespace.delete(name, None).await;
    namespace.wait_gone(name, 10).await;
}

async fn label_node(client: &kube::Client, value: Value) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"example.com/late": value}}}));
    Api::<Node>::all(client.clone()).patch(&node_name(), &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn pods_that_cannot_run_here_are_refused_with_the_cause() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("admission").await;
    let node = Api::<Node>::all(namespace.client.clone()).get(&node_name()).await.unwrap();
    let allocatable = node.status.unwrap().allocatable.unwrap();
    let cores: i64 = allocatable["cpu"].0.parse().unwrap();
    let first = namespace.pod("first", with_port()).await;
    namespace.wait_ready("first").await;

    namespace.pod("cpu", asking("cpu", "999")).await;
    let message =
        format!("Node didn't have enough resource: cpu, requested: 999000, used: 0, capacity: {}", cores * 1000);
    refused(&namespace, "cpu", "OutOfcpu", &message).await;

    namespace.pod("port", with_port()).await;
    let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    refused(&namespace, "port", "NodePorts", message).await;

    namespace.pod("selector", json!({"nodeSelector": {"example.com/late": "yes"}, "containers": [pause()]})).await;
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    refused(&namespace, "selector", "NodeAffinity", message).await;

    let sysctls = json!([{"name": "kernel.msgmax", "value": "65536"}]);
    namespace.pod("sysctl", json!({"securityContext": {"sysctls": sysctls}, "containers": [pause()]})).await;
    refused(&namespace, "sysctl", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted").await;

    namespace.pod("os", json!({"os": {"name": "windows"}, "containers": [pause()]})).await;
    refused(&namespace, "os", "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS").await;

    // A label that came a moment before the pod counts, and one that is gone when a new agent judges it, too.
    label_node(&namespace.client, json!("yes")).await;
    let late =
        namespace.pod("late", json!({"nodeSelector": {"example.com/late": "yes"}, "containers": [pause()]})).await;
    namespace.wait_ready("late").await;
    agent.kill().await;
    label_node(&namespace.client, Value::Null).await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    let ended = namespace.wait_phase("late", "Failed").await;
    assert_eq!(ended.status.unwrap().reason.as_deref(), Some("NodeAffinity"));
    let going_on = namespace.wait_ready("first").await;
    assert_eq!(container(&going_on, "c").restart_count, 0);
    namespace.clean_up(&[uid(&first), uid(&late)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn pods_give_way_to_a_critical_one() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("preemption").await;
    let node = Api::<Node>::all(namespace.client.clone()).get(&node_name()).await.unwrap();
    let cores: i64 = node.status.unwrap().allocatable.unwrap()["cpu"].0.parse().unwrap();
    let part = |tenths: i64| format!("{}m", cores * 100 * tenths);
    let big = namespace.pod("big", asking("cpu", &part(6))).await;
    let small = namespace.pod("small", asking("cpu", &part(3))).await;
    namespace.wait_ready("big").await;
    namespace.wait_ready("small").await;
    let mut critical = asking("cpu", &part(5));
    critical["priorityClassName"] = json!("system-node-critical");
    let critical = namespace.pod("critical", critical).await;
    namespace.wait_ready("critical").await;
    let preempted: Pod = namespace.get("big").await.unwrap();
    let status = preempted.status.clone().unwrap();
    assert_eq!((phase(&preempted), status.reason.as_deref()), ("Succeeded", None));
    assert_eq!(condition(&preempted, "DisruptionTarget").as_deref(), Some("True"));
    namespace.wait_event("big", "Preempting").await;
    namespace.wait_ready("small").await;
    namespace.clean_up(&[uid(&big), uid(&small), uid(&critical)]).await;
}
