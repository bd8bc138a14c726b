//! What the runtime refuses to start.

use serde_json::json;
use tonic::Status;

use super::world::{World, container, is_ready, last_end, pod, pod_with, restarts, waiting};
use crate::fake_runtime::Behaviour;

#[tokio::test]
async fn a_sandbox_is_tried_again_with_growing_pauses() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.fail("RunPodSandbox", 3, Status::unknown("no more addresses"));
    world.api.create(pod("a"));
    let status = world.until_ready("a").await;
    let tries: Vec<_> = world.runtime.calls_of("RunPodSandbox").into_iter().map(|call| call.started).collect();
    let pauses: Vec<u128> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(pauses.len(), 3);
    for (pause, least) in pauses.iter().zip([1000, 2000, 4000]) {
        assert!((least..least + 1500).contains(pause), "{pauses:?}");
    }
    let told = world.told("a", "FailedCreatePodSandBox");
    assert_eq!(told, vec!["Failed to create pod sandbox: no more addresses"; 3]);
    assert_eq!(restarts(&status, "app"), 0);
    assert_eq!(world.runtime.snapshot().sandboxes[0].attempt, 0);
    world.assert_sound();
}

#[tokio::test]
async fn pods_wait_for_the_network_but_for_those_in_the_nodes() {
    let world = World::new().await;
    let agent = world.agent().await;
    agent.network_problem.send_replace(Some("cni plugin not initialized".to_owned()));
    world.api.create(pod("a"));
    // The API server defaults the security context, without which a runtime is told nothing of namespaces.
    world.api.create(pod_with("host", json!({"hostNetwork": true, "securityContext": {}})));
    world.until_ready("host").await;
    world.until("told", &["a"], || !world.told("a", "NetworkNotReady").is_empty()).await;
    assert_eq!(world.told("a", "NetworkNotReady")[0], "network is not ready: cni plugin not initialized");
    assert_eq!(world.count("a", "RunPodSandbox"), 0);
    agent.network_problem.send_replace(None);
    world.until_ready("a").await;
    world.assert_sound();
}

#[tokio::test]
async fn a_runtime_class_names_the_handler_and_one_that_is_not_there_is_told() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.create(pod_with("a", json!({"runtimeClassName": "known"})));
    world.api.create(pod_with("b", json!({"runtimeClassName": "absent"})));
    world.until_ready("a").await;
    assert_eq!(world.runtime.snapshot().sandboxes[0].runtime_handler, "other");
    world.until("told", &["b"], || !world.told("b", "FailedCreatePodSandBox").is_empty()).await;
    let message = "Failed to create pod sandbox: runtimeclass.node.k8s.io \"absent\" not found";
    assert_eq!(world.told("b", "FailedCreatePodSandBox")[0], message);
    assert_eq!(world.count("b", "RunPodSandbox"), 0);
    world.api.delete("b", 30);
    world.until("gone", &["b"], || world.api.pod("b").is_none()).await;
    world.assert_sound();
}

#[tokio::test]
async fn a_container_that_cannot_be_made_waits_with_the_cause() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.fail("CreateContainer", 1, Status::unknown("no space left on device"));
    world.api.create(pod("a"));
    let refused = |status: &_| waiting(status, "app") == Some("CreateContainerError");
    let status = world.until_status("refused", "a", refused).await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert!(!is_ready(&status));
    assert_eq!(world.told("a", "Failed"), ["Error: no space left on device"]);
    let status = world.until_ready("a").await;
    assert_eq!(restarts(&status, "app"), 0);
    assert_eq!(world.count("a", "CreateContainer"), 2);
}

#[tokio::test]
async fn a_container_that_was_made_and_not_started_is_made_anew() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.fail("StartContainer", 1, Status::unknown("the shim did not start"));
    world.api.create(pod("a"));
    let refused = |status: &_| waiting(status, "app") == Some("RunContainerError");
    world.until_status("refused", "a", refused).await;
    assert_eq!(world.told("a", "Failed"), ["Error: the shim did not start"]);
    let status = world.until_ready("a").await;
    assert_eq!(restarts(&status, "app"), 0, "it never ran");
    assert_eq!(world.runtime.snapshot().containers.len(), 1, "the first one is gone");
    world.assert_sound();
}

#[tokio::test]
async fn a_process_that_cannot_be_executed_counts_as_a_restart() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let message = "exec: \"nope\": executable file not found in $PATH".to_owned();
    world.runtime.on_starts("app", [Behaviour::FailStart { message: message.clone() }, Behaviour::Run]);
    world.api.create(pod("a"));
    let refused = |status: &_| waiting(status, "app") == Some("RunContainerError");
    let status = world.until_status("refused", "a", refused).await;
    assert_eq!(last_end(&status, "app"), Some((128, "StartError".to_owned())));
    assert_eq!(world.told("a", "Failed"), [format!("Error: {message}")]);
    let status = world.until_ready("a").await;
    assert_eq!(restarts(&status, "app"), 1);
    assert_eq!(last_end(&status, "app"), Some((128, "StartError".to_owned())));
    world.assert_sound();
}

#[tokio::test]
async fn one_container_that_fails_does_not_hold_up_the_next() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.on_start("bad", Behaviour::FailStart { message: "bad".to_owned() });
    world.api.create(pod_with("a", json!({"containers": [container("bad"), container("good")]})));
    world.runtime.until("the second runs", |snapshot| snapshot.running("uid-a") == ["good"]).await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
}

#[tokio::test]
async fn answers_that_get_lost_do_not_make_twins() {
    let world = World::new().await;
    let _agent = world.agent().await;
    for rpc in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        world.runtime.lose_answers(rpc, 1);
    }
    world.api.create(pod("a"));
    let status = world.until_ready("a").await;
    assert_eq!(restarts(&status, "app"), 0, "{:?}", world.changes("a"));
    let snapshot = world.runtime.snapshot();
    assert_eq!(snapshot.sandboxes.len(), 1);
    assert_eq!(snapshot.running("uid-a"), ["app"]);
    world.assert_sound();
}
