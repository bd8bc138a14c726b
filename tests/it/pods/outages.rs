//! An API server that fails or is away.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::time::sleep;

use super::world::{World, container_status, is_ready, last_end, pod, restarts, uid};

fn failed_patches(world: &World, name: &str) -> usize {
    world.api.writes_of(name).iter().filter(|write| **write == ("PATCH".to_owned(), 500)).count()
}

#[tokio::test]
async fn a_status_that_was_refused_arrives_later() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.fail("PATCH");
    world.api.create(pod("a"));
    world.until("it is tried again", &["a"], || failed_patches(&world, "a") >= 3).await;
    assert_eq!(world.runtime.snapshot().running(&uid("a")), ["app"], "nothing waits for the API");
    assert!(world.status("a").is_none());
    world.api.heal("PATCH");
    let status = world.until_ready("a").await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[tokio::test]
async fn a_pod_is_deleted_only_after_its_end_was_told() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.create(pod("a"));
    world.until_ready("a").await;
    world.api.fail("PATCH");
    world.api.delete("a", 30);
    world.until_called("a", "StopPodSandbox", 1).await;
    world.until("its end is told in vain", &["a"], || failed_patches(&world, "a") >= 2).await;
    sleep(Duration::from_millis(300)).await;
    let writes = world.api.writes_of("a");
    assert!(writes.iter().all(|(method, _)| method != "DELETE"), "{writes:?}");
    world.api.heal("PATCH");
    world.until_gone(&["a"]).await;
    let writes = world.api.writes_of("a");
    let deleted = writes.iter().position(|(method, _)| method == "DELETE").unwrap();
    assert_eq!(writes[deleted - 1], ("PATCH".to_owned(), 200), "{writes:?}");
    let last = world.api.statuses("a").pop().unwrap();
    assert_eq!(last.phase.as_deref(), Some("Failed"), "the process ended with 143");
    let ended = last.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!(ended.exit_code, 143);
}

#[tokio::test]
async fn a_deletion_that_was_refused_is_asked_for_again() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.create(pod("a"));
    world.until_ready("a").await;
    world.api.fail("DELETE");
    world.api.delete("a", 30);
    let refused = || world.api.writes_of("a").contains(&("DELETE".to_owned(), 500));
    world.until("it was refused", &["a"], refused).await;
    world.api.heal("DELETE");
    world.until_gone(&["a"]).await;
}

#[tokio::test]
async fn a_pod_is_deleted_once() {
    let world = World::new().await;
    let _agent = world.agent().await;
    // The watch is faster than the answer.
    world.api.slow_down("PATCH", Duration::from_millis(20));
    world.api.create(pod("a"));
    world.until_ready("a").await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    sleep(Duration::from_millis(300)).await;
    let writes = world.api.writes_of("a");
    assert_eq!(writes.iter().filter(|(method, _)| method == "DELETE").count(), 1, "{writes:?}");
}

#[tokio::test]
async fn a_container_says_that_the_services_are_not_known_and_starts_once_they_are() {
    let world = World::new().await;
    let gate = world.api.hold_lists("services");
    let _agent = world.agent().await;
    world.api.create(pod("a"));
    let told = |status: &PodStatus| {
        let waiting = container_status(status, "app").and_then(|c| c.state.as_ref()?.waiting.clone());
        waiting.is_some_and(|w| {
            w.reason.as_deref() == Some("CreateContainerConfigError")
                && w.message.is_some_and(|message| message.starts_with("services have not yet been read"))
        })
    };
    world.until_status("why it waits", "a", told).await;
    assert!(world.runtime.snapshot().running(&uid("a")).is_empty(), "its environment would lack services");
    drop(gate);
    world.until_ready("a").await;
}

/// `expired`: the server has forgotten meanwhile what has changed, so that all must be listed again.
async fn outage(expired: bool) {
    let world = World::new().await;
    let _agent = world.agent().await;
    for name in ["crashes", "deleted", "stays"] {
        world.api.create(pod(name));
    }
    for name in ["crashes", "deleted", "stays"] {
        world.until_ready(name).await;
    }
    world.api.go_away();
    let id = world.runtime.running_container(&uid("crashes"), "app").unwrap().id;
    world.runtime.kill_container(&id, 7);
    world.api.delete("deleted", 0);
    world.api.create(pod("new"));
    world.until_called("crashes", "StartContainer", 2).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.runtime.snapshot().running(&uid("deleted")), ["app"], "nobody could know");
    if expired {
        world.api.compact();
    }
    world.api.come_back();
    world.until_ready("new").await;
    let seen = |status: &_| is_ready(status) && restarts(status, "app") == 1;
    let status = world.until_status("its restart is told", "crashes", seen).await;
    assert_eq!(last_end(&status, "app"), Some((7, "Error".to_owned())));
    let gone = || world.runtime.snapshot().sandboxes_of(&uid("deleted")).count() == 0;
    world.until("the deleted one is gone", &["stays"], gone).await;
    assert_eq!(world.changes("stays").len(), 3, "{:?}", world.changes("stays"));
    assert!(is_ready(&world.status("stays").unwrap()));
    world.assert_sound();
}

#[tokio::test]
async fn what_changed_while_the_api_was_away_is_caught_up_with() {
    outage(false).await;
}

#[tokio::test]
async fn what_changed_is_found_by_a_new_list_if_history_has_expired() {
    outage(true).await;
}
