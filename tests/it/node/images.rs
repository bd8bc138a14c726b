//! Images: policies, failures and what the API shows of them.

use serde_json::json;
use tokio::time::Instant;

use super::harness::*;

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
