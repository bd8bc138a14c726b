//! The agent killed at any moment and started again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rstest::rstest;
use serde_json::json;
use tokio::time::sleep;

use super::world::{World, container, is_ready, last_end, pod, pod_with, restarts, uid};
use crate::fake_runtime::Behaviour;

/// RPCs by which pods come and go.
const STEPS: [&str; 6] =
    ["RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox", "RemovePodSandbox"];

#[tokio::test]
async fn a_new_agent_finds_running_pods_and_leaves_them_alone() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.runtime.on_start("init", Behaviour::Exit { after: Duration::from_millis(10), code: 0 });
    world.api.create(pod("plain"));
    world.api.create(pod_with("init", json!({"initContainers": [container("init")]})));
    world.api.create(pod("restarted"));
    for name in ["plain", "init", "restarted"] {
        world.until_ready(name).await;
    }
    let id = world.runtime.running_container(&uid("restarted"), "app").unwrap().id;
    world.runtime.kill_container(&id, 1);
    world.until_status("restarted", "restarted", |s| is_ready(s) && restarts(s, "app") == 1).await;
    agent.kill().await;
    sleep(Duration::from_millis(50)).await;
    let before: Vec<_> = world.runtime.snapshot().containers.iter().map(|c| (c.id.clone(), c.state)).collect();
    let writes = world.api.writes().len();
    world.runtime.clear_calls();

    let agent = world.agent().await;
    // Three pods with one more container than that: each running one is asked for when its pod is read.
    world.until("all pods are read", &[], || world.runtime.calls_of("ContainerStatus").len() >= 3).await;
    sleep(Duration::from_millis(700)).await;
    for name in ["plain", "init", "restarted"] {
        assert_eq!(world.changes(name), Vec::<String>::new(), "{name}");
    }
    let after: Vec<_> = world.runtime.snapshot().containers.iter().map(|c| (c.id.clone(), c.state)).collect();
    assert_eq!(before, after);
    let told = world.api.writes().split_off(writes);
    assert!(told.is_empty(), "nothing is new: {told:?}");

    // What happens while there is no agent is found by the next one.
    agent.kill().await;
    let id = world.runtime.running_container(&uid("plain"), "app").unwrap().id;
    world.runtime.kill_container(&id, 9);
    world.api.delete("init", 30);
    let _agent = world.agent().await;
    let status = world.until_status("restarted", "plain", |s| is_ready(s) && restarts(s, "app") == 1).await;
    assert_eq!(last_end(&status, "app"), Some((9, "Error".to_owned())));
    let gone = || world.api.pod("init").is_none() && world.runtime.snapshot().sandboxes_of(&uid("init")).count() == 0;
    world.until("gone", &["init"], gone).await;
    world.assert_sound();
}

/// Runs the agent, killing it several times after a random number of calls, until the condition holds.
async fn with_kills(world: &World, random: &mut StdRng, names: &[&str], holds: impl Fn() -> bool) {
    for _ in 0..random.random_range(2..5) {
        // A call that takes a while is cut off before it has done anything; one that does not, after.
        let takes = Duration::from_millis(if random.random_bool(0.5) { 4 } else { 0 });
        for rpc in STEPS {
            world.runtime.delay(rpc, takes);
        }
        let agent = world.agent().await;
        tokio::select! {
            () = world.runtime.calls_to_come(random.random_range(1..60)) => {}
            () = world.until("done", names, &holds) => {}
        }
        agent.kill().await;
    }
    let agent = world.agent().await;
    world.until("done", names, holds).await;
    agent.kill().await;
}

async fn killed_at_random(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    world.runtime.on_start("init", Behaviour::Exit { after: Duration::from_millis(5), code: 0 });
    let mut app = container("app");
    app["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let volumes = json!([{"name": "scratch", "emptyDir": {"medium": "Memory"}}]);
    let names = ["p0", "p1", "p2", "p3", "p4"];
    for (n, name) in names.iter().enumerate() {
        let init = if n % 2 == 0 { json!([container("init")]) } else { json!([]) };
        world.api.create(pod_with(name, json!({"initContainers": init, "containers": [app], "volumes": volumes})));
    }
    let all_ready = || names.iter().all(|name| world.status(name).is_some_and(|status| is_ready(&status)));
    with_kills(&world, &mut random, &names, all_ready).await;
    let snapshot = world.runtime.snapshot();
    for name in names {
        let status = world.status(name).unwrap();
        let counts = (restarts(&status, "init"), restarts(&status, "app"));
        assert_eq!(counts, (0, 0), "seed {seed}, {name}: {:?}", world.changes(name));
        assert_eq!(snapshot.running(&uid(name)), ["app"], "seed {seed}, {name}");
        let was_ready: Vec<bool> = world.api.statuses(name).iter().map(is_ready).collect();
        assert!(was_ready.is_sorted(), "seed {seed}, {name}: Ready was taken back: {was_ready:?}");
    }
    assert_eq!(world.runtime.violations(), Vec::<String>::new(), "seed {seed}");

    for name in names {
        world.api.delete(name, 30);
    }
    let all_gone = || {
        let folders = std::fs::read_dir(world.root().join("pods")).map_or(0, Iterator::count);
        world.api.names().is_empty()
            && world.runtime.snapshot().is_empty()
            && world.mounts.mounted().is_empty()
            && folders == 0
    };
    with_kills(&world, &mut random, &names, all_gone).await;
    assert_eq!(world.runtime.violations(), Vec::<String>::new(), "seed {seed}");
}

/// `KILL_SEEDS` in the environment runs more seeds of each case.
#[rstest]
#[case(0)]
#[case(1_000)]
#[case(2_000)]
#[case(3_000)]
#[tokio::test]
async fn kills_at_any_moment_lose_and_double_nothing(#[case] first: u64) {
    let seeds = std::env::var("KILL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    for seed in first..first + seeds {
        killed_at_random(seed).await;
    }
}
