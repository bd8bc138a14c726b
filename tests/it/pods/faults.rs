//! A runtime that restarts, lies or keeps silent, and what is found in it.

use std::time::Duration;

use ferrolet::model::SignedDuration;
use ferrolet::pod::plan::BackoffPolicy;
use ferrolet::runtime::cri;
use rstest::rstest;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::world::{World, container, is_ready, pod, pod_with, restarts, uid};
use crate::fake_runtime::sample;

#[tokio::test]
async fn a_restart_of_the_runtime_in_the_middle_is_caught_up_with() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let names: Vec<String> = (0..5).map(|n| format!("p{n}")).collect();
    for rpc in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        world.runtime.delay(rpc, Duration::from_millis(20));
    }
    for name in &names {
        world.api.create(pod_with(name, json!({"initContainers": [container("init")]})));
    }
    world.runtime.on_start("init", crate::fake_runtime::Behaviour::Exit { after: Duration::from_millis(10), code: 0 });
    world.until_called("p0", "CreateContainer", 1).await;
    world.runtime.restart(Duration::from_millis(300)).await;
    world.until_all_ready(&names).await;
    for name in &names {
        let status = world.status(name).unwrap();
        assert_eq!((restarts(&status, "init"), restarts(&status, "app")), (0, 0), "{name}: {:?}", world.changes(name));
    }
    // Once they run, a restart of the runtime is nobody's business.
    let starts = world.runtime.calls_of("StartContainer").len();
    world.runtime.restart(Duration::from_millis(200)).await;
    let id = world.runtime.running_container(&uid("p0"), "app").unwrap().id;
    world.runtime.kill_container(&id, 1);
    world.until_status("restarted", "p0", |status| is_ready(status) && restarts(status, "app") == 1).await;
    assert_eq!(world.runtime.calls_of("StartContainer").len(), starts + 1);
    for name in &names[1..] {
        assert!(is_ready(&world.status(name).unwrap()));
    }
    world.assert_sound();
}

/// When lists stop to follow what happens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stale {
    /// Before the pod's sandbox.
    Empty,
    /// Between sandbox and container.
    SandboxOnly,
    /// While all runs; then the sandbox dies.
    SandboxReady,
    /// After the sandbox has died.
    SandboxDead,
    /// While all runs; then the container ends.
    ContainerRunning,
}

#[rstest]
#[case::empty(Stale::Empty, 0)]
#[case::sandbox_only(Stale::SandboxOnly, 0)]
#[case::sandbox_ready(Stale::SandboxReady, 1)]
#[case::sandbox_dead(Stale::SandboxDead, 1)]
#[case::container_running(Stale::ContainerRunning, 1)]
#[tokio::test]
async fn lists_that_lie_make_no_twins(#[case] stale: Stale, #[case] restarted: i32) {
    let mut world = World::new().await;
    world.backoff = BackoffPolicy { initial: SignedDuration::from_millis(100), max: SignedDuration::from_secs(1) };
    let runtime = &world.runtime;
    let _agent = world.agent().await;
    if matches!(stale, Stale::Empty) {
        runtime.freeze_lists();
    }
    let gate = (stale == Stale::SandboxOnly).then(|| runtime.hold("CreateContainer"));
    world.api.create(pod("a"));
    match stale {
        Stale::Empty => world.until_called("a", "RunPodSandbox", 2).await,
        Stale::SandboxOnly => {
            world.until_called("a", "CreateContainer", 1).await;
            runtime.freeze_lists();
            drop(gate);
            world.until_called("a", "CreateContainer", 2).await;
        }
        _ => {
            world.until_ready("a").await;
            let sandbox = runtime.snapshot().sandboxes[0].id.clone();
            let app = runtime.running_container(&uid("a"), "app").unwrap().id;
            match stale {
                Stale::SandboxReady => {
                    runtime.freeze_lists();
                    runtime.kill_sandbox(&sandbox);
                    world.until_called("a", "CreateContainer", 2).await;
                }
                Stale::SandboxDead => {
                    runtime.kill_sandbox(&sandbox);
                    runtime.freeze_lists();
                    world.until_called("a", "RunPodSandbox", 3).await;
                }
                _ => {
                    runtime.freeze_lists();
                    runtime.kill_container(&app, 1);
                    world.until_called("a", "CreateContainer", 3).await;
                }
            }
        }
    }
    sleep(Duration::from_millis(200)).await;
    runtime.thaw_lists();
    let settled = |status: &_| is_ready(status) && restarts(status, "app") == restarted;
    world.until_status("Ready", "a", settled).await;
    let snapshot = runtime.snapshot();
    assert_eq!(snapshot.running(&uid("a")), ["app"]);
    assert_eq!(snapshot.sandboxes.iter().filter(|sandbox| sandbox.ready).count(), 1);
    world.assert_sound();
}

/// Ends the container of a Ready pod without an event; how long its restart took.
async fn time_of_restart(world: &World) -> Duration {
    world.api.create(pod("a"));
    world.until_ready("a").await;
    // A new stream of events is not trusted in its first second.
    sleep(Duration::from_millis(1500)).await;
    let id = world.runtime.running_container(&uid("a"), "app").unwrap().id;
    world.runtime.mute_events(true);
    world.runtime.kill_container(&id, 1);
    let began = Instant::now();
    world.until_status("restarted", "a", |status| is_ready(status) && restarts(status, "app") == 1).await;
    world.assert_sound();
    began.elapsed()
}

#[tokio::test]
async fn an_end_without_an_event_is_found_within_ten_seconds() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let took = time_of_restart(&world).await;
    assert!((Duration::from_secs(4)..Duration::from_secs(12)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn without_events_ends_are_found_within_a_second() {
    let world = World::new().await;
    world.runtime.support_events(false);
    let _agent = world.agent().await;
    let took = time_of_restart(&world).await;
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[tokio::test]
async fn what_no_source_knows_is_removed_once_the_source_has_spoken() {
    let world = World::new().await;
    let client = world.runtime.client();
    sample::run_pod(&client, "uid-orphan", "app").await.unwrap();
    let stranger = cri::PodSandboxConfig { labels: Default::default(), ..sample::sandbox("uid-stranger", 0) };
    let stranger = client.run_pod_sandbox(stranger, "").await.unwrap();
    std::fs::create_dir_all(world.root().join("pods/uid-disk/volumes/kubernetes.io~empty-dir/scratch")).unwrap();
    let gate = world.api.hold_lists("pods");
    let _agent = world.agent().await;
    let lists = || world.runtime.calls_of("ListPodSandbox").len();
    world.until("the runtime is read", &[], || lists() > 0).await;
    sleep(Duration::from_millis(400)).await;
    assert_eq!(world.runtime.snapshot().running("uid-orphan"), ["app"], "it may be in the API yet");
    assert!(world.root().join("pods/uid-disk").exists());
    drop(gate);
    world
        .until("the orphans are gone", &[], || {
            world.runtime.snapshot().containers.is_empty() && !world.root().join("pods/uid-disk").exists()
        })
        .await;
    let left = |snapshot: &crate::fake_runtime::Snapshot| snapshot.sandboxes.len() == 1;
    let snapshot = world.runtime.until("its sandbox too", left).await;
    assert_eq!(snapshot.sandboxes[0].id, stranger, "what is not a pod's is nobody's to remove");
    assert!(snapshot.sandboxes[0].ready);
    assert!(world.api.writes().is_empty(), "{:?}", world.api.writes());
}

#[tokio::test]
async fn logs_of_pods_that_are_long_gone_are_removed() {
    let world = World::new().await;
    std::fs::create_dir_all(world.logs().join("default_gone_uid-gone/app")).unwrap();
    std::fs::write(world.logs().join("default_gone_uid-gone/app/0.log"), "x").unwrap();
    let _agent = world.agent().await;
    world.until("the logs are gone", &[], || !world.logs().join("default_gone_uid-gone").exists()).await;
}
