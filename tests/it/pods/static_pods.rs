//! Static pods: from manifests, with and without an API server, and their mirrors in it.

use std::sync::Arc;
use std::time::Duration;

use ferrolet::pod::source::manifest::{self, Location};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::sleep;

use super::world::{World, is_ready, pod};

/// The static pod's name here.
const NAME: &str = "s-node";

fn text(label: &str) -> String {
    let container = json!({"name": "app", "image": "busybox:1"});
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "s", "labels": {"version": label}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 5, "dnsPolicy": "Default"},
    })
    .to_string()
}

/// Writes the manifest as one step. Returns the UID of its pod.
fn write(world: &World, label: &str) -> String {
    let path = world.manifests().join("s.yaml");
    std::fs::create_dir_all(world.manifests()).unwrap();
    std::fs::write(world.manifests().join(".s.new"), text(label)).unwrap();
    std::fs::rename(world.manifests().join(".s.new"), &path).unwrap();
    uid(world, label)
}

fn uid(world: &World, label: &str) -> String {
    let path = world.manifests().join("s.yaml");
    manifest::pod(text(label).as_bytes(), Location::File(&path), "node").unwrap().metadata.uid.unwrap()
}

fn remove(world: &World) {
    std::fs::remove_file(world.manifests().join("s.yaml")).unwrap();
}

async fn until_running(world: &World, uid: &str) {
    world.until("running", &[NAME], || world.runtime.snapshot().running(uid) == ["app"]).await;
}

/// Waits until the API shows the static pod of that UID as Ready.
async fn until_shown(world: &World, uid: &str) -> Pod {
    let shown = || {
        world.api.pod(NAME).filter(|mirror| {
            let hash = mirror.metadata.annotations.as_ref().and_then(|all| all.get("kubernetes.io/config.mirror"));
            hash.is_some_and(|hash| hash == uid) && mirror.status.as_ref().is_some_and(is_ready)
        })
    };
    world.until("shown as Ready", &[NAME], || shown().is_some()).await;
    shown().unwrap()
}

fn is_gone(world: &World, uid: &str) -> bool {
    let snapshot = world.runtime.snapshot();
    snapshot.sandboxes_of(uid).count() == 0 && snapshot.containers_of(uid).count() == 0
}

/// The place of the first call of an RPC for a pod among all calls.
fn first_call(world: &World, uid: &str, rpc: &str) -> usize {
    world.runtime.calls().iter().position(|call| call.pod_uid == uid && call.rpc == rpc).unwrap()
}

#[tokio::test]
async fn a_static_pod_runs_without_the_api_server_and_is_shown_once_it_is_there() {
    let world = World::new().await;
    world.api.go_away();
    let uid = write(&world, "1");
    let agent = world.agent().await;
    until_running(&world, &uid).await;
    let shown =
        || agent.pods.find("default", NAME, Some(&uid)).is_some_and(|pod| pod.status.as_ref().is_some_and(is_ready));
    world.until("listed as Ready", &[NAME], shown).await;
    world.api.come_back();
    let mirror = until_shown(&world, &uid).await;
    assert_ne!(mirror.metadata.uid.as_deref(), Some(uid.as_str()));
    let owner = &mirror.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Node", "node", "node-uid"));
    assert!(agent.pods.find("default", NAME, mirror.metadata.uid.as_deref()).is_some(), "by its mirror's UID");
    assert_eq!(world.runtime.snapshot().sandboxes.len(), 1, "the mirror is no pod of its own");
    world.assert_sound();
}

#[tokio::test]
async fn an_edited_pod_ends_before_the_new_one_begins() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let old = write(&world, "1");
    until_shown(&world, &old).await;
    let new = write(&world, "2");
    until_shown(&world, &new).await;
    assert!(is_gone(&world, &old));
    assert!(first_call(&world, &old, "StopPodSandbox") < first_call(&world, &new, "RunPodSandbox"));
    let writes: Vec<_> = world.api.writes_of(NAME).into_iter().filter(|(method, _)| method == "DELETE").collect();
    assert_eq!(writes, [("DELETE".to_owned(), 200)], "one mirror after the other");
    world.assert_sound();
}

#[tokio::test]
async fn a_pod_whose_manifest_is_removed_ends_with_its_mirror() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let uid = write(&world, "1");
    until_shown(&world, &uid).await;
    remove(&world);
    world.until_gone(&[NAME]).await;
    // And back.
    write(&world, "1");
    until_shown(&world, &uid).await;
    world.assert_sound();
}

#[tokio::test]
async fn a_manifest_that_is_put_back_at_once_starts_its_pod_anew() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let uid = write(&world, "1");
    let first = until_shown(&world, &uid).await;
    // It is back before its pod has ended, so that the mirror is never without a pod.
    world.runtime.delay("StopContainer", Duration::from_secs(2));
    remove(&world);
    write(&world, "1");
    let restarts = || {
        let statuses = world.api.pod(NAME)?.status?.container_statuses?;
        statuses.first().filter(|status| status.ready).map(|status| status.restart_count)
    };
    world.until("started anew", &[NAME], || restarts() == Some(1)).await;
    assert_eq!(until_shown(&world, &uid).await.metadata.uid, first.metadata.uid, "the mirror stays");
    world.assert_sound();
}

#[tokio::test]
async fn a_mirror_that_is_deleted_is_made_again() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let uid = write(&world, "1");
    let first = until_shown(&world, &uid).await;
    world.runtime.clear_calls();
    for grace in [0, 30] {
        let before = world.api.pod(NAME).unwrap().metadata.uid;
        world.api.delete(NAME, grace);
        let is_new = || world.api.pod(NAME).is_some_and(|mirror| mirror.metadata.uid != before);
        world.until("another mirror", &[NAME], is_new).await;
        let again = until_shown(&world, &uid).await;
        assert_eq!(again.status.unwrap().start_time, first.status.clone().unwrap().start_time);
    }
    assert!(world.runtime.calls_of("StopContainer").is_empty() && world.runtime.calls_of("RunPodSandbox").is_empty());
}

#[tokio::test]
async fn a_new_agent_takes_a_static_pod_over_or_ends_it() {
    let world = World::new().await;
    let agent = world.agent().await;
    let old = write(&world, "1");
    until_shown(&world, &old).await;
    agent.kill().await;
    world.runtime.clear_calls();
    let writes = world.api.writes().len();
    let agent = world.agent().await;
    world.until("it is read", &[NAME], || !world.runtime.calls_of("ContainerStatus").is_empty()).await;
    sleep(Duration::from_millis(700)).await;
    assert_eq!(world.runtime.snapshot().running(&old), ["app"]);
    assert!(world.runtime.calls_of("CreateContainer").is_empty() && world.runtime.calls_of("StopContainer").is_empty());
    let told = world.api.writes().split_off(writes);
    assert!(told.is_empty(), "nothing is new: {told:?}");
    agent.kill().await;

    // Edited meanwhile: never both at once, also while the API server is away.
    world.api.go_away();
    let new = write(&world, "2");
    let agent = world.agent().await;
    until_running(&world, &new).await;
    assert!(first_call(&world, &old, "StopPodSandbox") < first_call(&world, &new, "RunPodSandbox"));
    agent.kill().await;

    // Unreadable meanwhile: nothing is known of what it wants.
    std::fs::write(world.manifests().join("s.yaml"), "nonsense").unwrap();
    world.api.come_back();
    let agent = world.agent().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.runtime.snapshot().running(&new), ["app"], "left alone");
    agent.kill().await;

    // Removed meanwhile.
    remove(&world);
    let _agent = world.agent().await;
    world.until_gone(&[NAME]).await;
    world.assert_sound();
}

#[tokio::test]
async fn pods_of_the_api_are_left_alone_until_it_has_told_of_them() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.api.create(pod("a"));
    world.until_ready("a").await;
    agent.kill().await;
    world.api.go_away();
    let uid = write(&world, "1");
    let _agent = world.agent().await;
    until_running(&world, &uid).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(world.runtime.snapshot().running(&super::world::uid("a")), ["app"]);
    world.api.come_back();
    until_shown(&world, &uid).await;
    world.api.delete("a", 1);
    world.until("gone", &["a"], || world.api.pod("a").is_none()).await;
}

#[tokio::test]
async fn a_node_without_an_api_server() {
    let world = World::new().await;
    let agent = world.standalone_agent().await;
    let uid = write(&world, "1");
    until_running(&world, &uid).await;
    let shown = || agent.pods.find("default", NAME, None).is_some_and(|pod| pod.status.as_ref().is_some_and(is_ready));
    world.until("listed as Ready", &[NAME], shown).await;
    remove(&world);
    world.until("gone", &[NAME], || is_gone(&world, &uid) && agent.pods.all().unwrap().is_empty()).await;
    assert!(world.api.writes().is_empty());
    world.assert_sound();
}

#[tokio::test]
async fn a_static_pod_that_is_refused_says_why_in_its_mirror_until_its_manifest_goes() {
    let world = World::new().await;
    let mut roomy = None;
    world.admission.send_modify(|facts| {
        let mut node = (**facts.node.as_ref().unwrap()).clone();
        node.allocatable.other.insert("pods".to_owned(), 0);
        roomy = facts.node.replace(Arc::new(node));
    });
    let uid = write(&world, "1");
    let _agent = world.agent().await;
    let status = world.until_status("Failed", NAME, |status| status.phase.as_deref() == Some("Failed")).await;
    // Static pods are critical: others would give way, but there are none.
    assert_eq!(status.reason.as_deref(), Some("UnexpectedAdmissionError"));
    assert!(status.message.unwrap().ends_with("[(res: pods, q: 1), ]"));
    assert!(is_gone(&world, &uid));
    world.admission.send_modify(|facts| facts.node = roomy);
    remove(&world);
    world.until("gone", &[NAME], || world.api.pod(NAME).is_none()).await;
    let second = write(&world, "2");
    until_shown(&world, &second).await;
}
