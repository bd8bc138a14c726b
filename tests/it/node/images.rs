//! Images: policies, failures and what the API shows of them.

use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::json;
use tokio::time::Instant;

use super::harness::*;
use super::registry::Registry;

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn an_image_that_cannot_be_had_says_why_and_is_tried_again() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("no-image").await;
    let spec = json!({"containers": [{"name": "c", "image": "127.0.0.1:1/nothing:1"}]});
    let pod = namespace.pod("p", spec).await;
    let shown = namespace
        .wait_pod("p", "ImagePullBackOff", 60, |p| waiting_reason(p, "c").as_deref() == Some("ImagePullBackOff"))
        .await;
    let message = container(&shown, "c").state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("Back-off pulling image \"127.0.0.1:1/nothing:1\""), "{message}");
    assert!(message.contains("connection refused"), "the first cause: {message}");
    for reason in ["Pulling", "Failed", "BackOff"] {
        namespace.wait_event("p", reason).await;
    }
    assert_eq!(phase(&shown), "Pending");
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn never_means_never() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("never-pull").await;
    let spec = json!({"containers": [{"name": "c", "image": "127.0.0.1:1/nothing:1", "imagePullPolicy": "Never"}]});
    let pod = namespace.pod("p", spec).await;
    let reason = |p: &_| waiting_reason(p, "c").as_deref() == Some("ErrImageNeverPull");
    namespace.wait_pod("p", "ErrImageNeverPull", 60, reason).await;
    namespace.wait_event("p", "ErrImageNeverPull").await;
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_pod_deleted_while_its_image_is_pulled_goes_at_once() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("slow-pull").await;
    // A registry that accepts the connection and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("127.0.0.1:{}/nothing:1", silent.local_addr().unwrap().port());
    let pod = namespace.pod("p", json!({"containers": [{"name": "c", "image": image}]})).await;
    namespace.wait_event("p", "Pulling").await;
    let began = Instant::now();
    namespace.delete("p", None).await;
    namespace.wait_gone("p", 20).await;
    assert!(began.elapsed().as_secs_f64() < 5.0, "{:?}", began.elapsed());
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_command_that_is_not_in_the_image_is_named() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("no-command").await;
    let spec =
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": BUSYBOX, "command": ["/not-there"]}]});
    let pod = namespace.pod("p", spec).await;
    let shown = namespace
        .wait_pod("p", "a reason", 60, |p| {
            matches!(waiting_reason(p, "c").as_deref(), Some("RunContainerError" | "CrashLoopBackOff"))
        })
        .await;
    let status = container(&shown, "c");
    let last = status.last_state.and_then(|s| s.terminated).unwrap();
    assert_eq!(last.reason.as_deref(), Some("StartError"));
    assert!(last.message.unwrap().contains("/not-there"));
    let event = namespace.wait_event("p", "Failed").await;
    assert!(event.message.unwrap().starts_with("Error: "));
    namespace.clean_up(&[uid(&pod)]).await;
}

/// A pod's container of an image that has no program: where it got the image, it fails to start.
async fn closed_pod(namespace: &TestNamespace, name: &str, image: &str, policy: &str, secret: Option<&str>) -> Pod {
    let spec = json!({
        "restartPolicy": "Never",
        "imagePullSecrets": secret.map(|name| json!([{"name": name}])).unwrap_or_default(),
        "containers": [{"name": "c", "image": image, "imagePullPolicy": policy, "command": ["/nothing"]}],
    });
    namespace.pod(name, spec).await
}

async fn wait_started(namespace: &TestNamespace, name: &str) {
    let has_image = |pod: &Pod| {
        let state = find_container(pod, "c").and_then(|c| c.state);
        state.and_then(|s| s.terminated).and_then(|t| t.reason).as_deref() == Some("StartError")
    };
    namespace.wait_pod(name, "its image", 60, has_image).await;
}

async fn wait_refused(namespace: &TestNamespace, name: &str, reason: &str) {
    namespace.wait_pod(name, reason, 60, |pod| waiting_reason(pod, "c").as_deref() == Some(reason)).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn what_a_secret_pulled_is_closed_to_pods_without_for_either_agent() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let registry = Registry::start("joe", "secret").await;
    let namespace = TestNamespace::create("closed-image").await;
    for name in ["joe", "copy"] {
        namespace.create_object::<Secret>(registry.pull_secret(name)).await;
    }
    let image = registry.image();
    let mut uids = Vec::new();
    let mut pod = async |name: &str, policy: &str, secret: Option<&str>| {
        uids.push(uid(&closed_pod(&namespace, name, &image, policy, secret).await));
    };
    pod("first", "IfNotPresent", Some("joe")).await;
    wait_started(&namespace, "first").await;
    let pulls = registry.pulls();
    assert!(pulls > 0);

    pod("without", "IfNotPresent", None).await;
    pod("never", "Never", None).await;
    pod("again", "Never", Some("joe")).await;
    pod("copied", "IfNotPresent", Some("copy")).await;
    wait_refused(&namespace, "without", "ImagePullBackOff").await;
    wait_refused(&namespace, "never", "ErrImageNeverPull").await;
    wait_started(&namespace, "again").await;
    wait_started(&namespace, "copied").await;
    assert_eq!(registry.pulls(), pulls, "known secrets pull nothing");
    agent.kill().await;

    let peer = Agent::start(Kind::Peer).await;
    pod("never-peer", "Never", None).await;
    pod("again-peer", "Never", Some("joe")).await;
    pod("copied-peer", "Never", Some("copy")).await;
    wait_refused(&namespace, "never-peer", "ErrImageNeverPull").await;
    wait_started(&namespace, "again-peer").await;
    wait_started(&namespace, "copied-peer").await;
    // Recorded by the kubelet, and read by the next agent.
    let other = Registry::start("ann", "secret").await;
    namespace.create_object::<Secret>(other.pull_secret("ann")).await;
    uids.push(uid(&closed_pod(&namespace, "of-peer", &other.image(), "IfNotPresent", Some("ann")).await));
    wait_started(&namespace, "of-peer").await;
    peer.kill().await;

    let _agent = Agent::start(Kind::Ferrolet).await;
    for (name, secret) in [("of-peer-again", Some("ann")), ("of-peer-never", Some("joe"))] {
        uids.push(uid(&closed_pod(&namespace, name, &other.image(), "Never", secret).await));
    }
    wait_started(&namespace, "of-peer-again").await;
    wait_refused(&namespace, "of-peer-never", "ErrImageNeverPull").await;
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn an_image_is_mounted_as_a_volume_and_one_that_cannot_be_had_says_why() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let registry = Registry::start("joe", "secret").await;
    let namespace = TestNamespace::create("image-volume").await;
    namespace.create_object::<Secret>(registry.pull_secret("joe")).await;
    let volume = |name: &str, reference: &str| json!({"name": name, "image": {"reference": reference, "pullPolicy": "IfNotPresent"}});
    let container_of = |name: &str, volumes: &[&str], script: &str| {
        let mounts: Vec<_> = volumes.iter().map(|v| json!({"name": v, "mountPath": format!("/{v}")})).collect();
        json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], "volumeMounts": mounts})
    };
    let script = "{ ls /there/pause; ls -d /pulled; touch /there/new || echo read-only; } > /dev/termination-log";
    let spec = json!({
        "restartPolicy": "Never",
        "imagePullSecrets": [{"name": "joe"}],
        "volumes": [
            volume("there", PAUSE),
            volume("pulled", &registry.image()),
            volume("nowhere", "127.0.0.1:1/nothing:1"),
        ],
        "containers": [container_of("c", &["there", "pulled"], script), container_of("d", &["nowhere"], "true")],
    });
    let pod = namespace.pod("p", spec).await;
    let ended = |pod: &_| find_container(pod, "c").is_some_and(|c| c.state.unwrap().terminated.is_some());
    let shown = namespace.wait_pod("p", "an end", 60, ended).await;
    let message = container(&shown, "c").state.unwrap().terminated.unwrap().message;
    assert_eq!(message.as_deref(), Some("/there/pause\n/pulled\nread-only\n"));
    assert!(registry.pulls() > 0);
    let held = |pod: &_| waiting_reason(pod, "d").as_deref() == Some("ImagePullBackOff");
    let shown = namespace.wait_pod("p", "ImagePullBackOff", 60, held).await;
    let message = container(&shown, "d").state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("Back-off pulling image \"127.0.0.1:1/nothing:1\""), "{message}");
    let event = namespace.wait_event("p", "BackOff").await;
    assert_eq!(event.involved_object.field_path, None, "it is no container's: {event:?}");
    namespace.clean_up(&[uid(&pod)]).await;
}
