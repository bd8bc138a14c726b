//! What pods go through when nothing goes wrong around them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrolet::model::SignedDuration;
use ferrolet::model::pod::PodUid;
use ferrolet::pod::plan::BackoffPolicy;
use serde_json::json;
use tokio::time::Instant;

use super::world::{World, container, container_status, is_ready, last_end, pod, pod_with, restarts, uid, waiting};
use crate::fake_runtime::{Behaviour, PullScript};

fn exits(code: i32) -> Behaviour {
    Behaviour::Exit { after: Duration::from_millis(10), code }
}

#[tokio::test]
async fn a_pod_becomes_ready_with_each_call_made_once() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.create(pod("a"));
    let status = world.until_ready("a").await;
    assert_eq!(world.changes("a"), ["RunPodSandbox", "CreateContainer app", "StartContainer app"]);
    assert_eq!(world.reasons("a"), ["Pulled", "Created", "Started"]);
    let snapshot = world.runtime.snapshot();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some(snapshot.sandboxes[0].ip.as_str()));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.observed_generation, Some(1));
    let app = container_status(&status, "app").unwrap();
    assert_eq!(app.container_id, Some(format!("fake://{}", snapshot.containers[0].id)));
    assert_eq!((app.restart_count, app.ready, app.started), (0, true, Some(true)));
    let phases: Vec<_> = world.api.statuses("a").into_iter().filter_map(|status| status.phase).collect();
    assert!(phases.iter().is_sorted(), "from Pending to Running: {phases:?}");
}

/// The log lines of everything on this thread while this lives.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
    /// With one subscriber alone, whether anybody wants a line is asked of the thread that is the first to write it, which may
    /// be another test's, and remembered.
    _second: tracing::Dispatch,
}

impl Log {
    fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let to = text.clone();
        let writer = move || Lines(to.clone());
        let _second = tracing::Dispatch::new(tracing_subscriber::registry());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
        Log { text, _guard: tracing::subscriber::set_default(subscriber), _second }
    }

    fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The times of the stages as one line tells them: `volumes +0.001s, ...`.
fn stages(line: &str) -> BTreeMap<&str, f64> {
    let (_, told) = line.split_once("phases=").unwrap();
    let stage = |part: &'_ str| -> Option<(usize, f64)> {
        let (name, time) = part.trim().split_once(' ')?;
        Some((name.len(), time.strip_suffix('s')?.parse().ok()?))
    };
    let parts = told.split(',').map(str::trim);
    parts.filter_map(|part| stage(part).map(|(length, time)| (&part[..length], time))).collect()
}

#[tokio::test]
async fn a_start_tells_in_one_line_when_it_reached_each_stage() {
    let log = Log::capture();
    let world = World::new().await;
    let _agent = world.agent().await;
    let [sandbox, pull, start] = [300, 800, 200].map(Duration::from_millis);
    world.runtime.delay("RunPodSandbox", sandbox);
    world.runtime.delay("StartContainer", start);
    world.runtime.on_pull("big:1", PullScript { takes: pull, ..PullScript::default() });
    let mut app = container("app");
    app["image"] = "big:1".into();
    let mut made = pod_with("a", json!({"containers": [app]}));
    let bound = ferrolet::model::clock::now() - SignedDuration::from_secs(5);
    let bound = ferrolet::model::clock::api_time(bound).0.to_string();
    made["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": bound}]);
    let began = Instant::now();
    world.api.create(made);
    world.until_ready("a").await;
    let took = began.elapsed().as_secs_f64();
    // A second start of the container is not the pod's.
    let running = world.runtime.running_container(&uid("a"), "app").unwrap();
    world.runtime.kill_container(&running.id, 1);
    world.until_called("a", "StartContainer", 2).await;
    world.until_status("Ready again", "a", |status| is_ready(status) && restarts(status, "app") == 1).await;
    let text = log.text();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("phases=")).collect();
    let [line] = lines[..] else { panic!("not one line: {lines:#?}") };
    assert!(line.contains("uid-a"), "{line}");
    let told = stages(line);
    assert!((-6.5..=-5.0).contains(&told["scheduled"]), "{line}");
    let after = |stage: &str, least: f64| assert!(told[stage] >= least && told[stage] <= took, "{stage}: {line}");
    after("volumes", 0.0);
    after("sandbox", 0.3);
    after("images", 0.8);
    after("started", told["images"] + 0.2);
    after("ready", told["started"]);
    assert!(told["sandbox"] < told["started"] && told["volumes"] < told["started"], "{line}");
    assert_eq!(told.len(), 6, "{line}");
}

#[tokio::test]
async fn init_containers_run_one_by_one_and_again_until_they_succeed() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.create(pod_with("a", json!({"initContainers": [container("one"), container("two")]})));
    for (name, attempt, code) in [("one", 0, 1), ("one", 1, 0), ("two", 0, 0)] {
        let snapshot = world.runtime.until(name, |snapshot| {
            snapshot.containers_of(&uid("a")).any(|c| c.name == name && c.attempt == attempt && c.is_running())
        });
        assert_eq!(snapshot.await.running(&uid("a")), [name], "alone");
        let running = world.runtime.running_container(&uid("a"), name).unwrap();
        world.runtime.kill_container(&running.id, code);
    }
    let status = world.until_ready("a").await;
    let created: Vec<_> = world.runtime.calls_of("CreateContainer").into_iter().map(|call| call.container).collect();
    assert_eq!(created, ["one", "one", "two", "app"]);
    assert_eq!((restarts(&status, "one"), restarts(&status, "two"), restarts(&status, "app")), (1, 0, 0));
    assert_eq!(world.count("a", "RunPodSandbox"), 1);
    world.assert_sound();
}

#[tokio::test]
async fn a_crash_loop_waits_longer_each_time() {
    let mut world = World::new().await;
    world.backoff = BackoffPolicy { initial: SignedDuration::from_millis(200), max: SignedDuration::from_millis(800) };
    let _agent = world.agent().await;
    world.runtime.on_start("app", exits(3));
    world.api.create(pod("a"));
    world.until_called("a", "StartContainer", 6).await;
    world.runtime.on_start("app", Behaviour::Run);
    let status = world.until_ready("a").await;
    let started: Vec<_> = world.runtime.calls_of("StartContainer").into_iter().map(|call| call.started).collect();
    let gaps: Vec<u128> = started.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    for (gap, least) in gaps.iter().zip([10, 200, 400, 800, 800]) {
        assert!((least..least + 2000).contains(gap), "{gaps:?}");
    }
    assert_eq!(usize::try_from(restarts(&status, "app")).unwrap(), started.len() - 1);
    assert_eq!(last_end(&status, "app"), Some((3, "Error".to_owned())));
    let seen = world.api.statuses("a");
    assert!(seen.iter().any(|status| waiting(status, "app") == Some("CrashLoopBackOff") && !is_ready(status)));
    assert!(seen.windows(2).all(|pair| restarts(&pair[0], "app") <= restarts(&pair[1], "app")));
    let told = world.told("a", "BackOff");
    assert!(told.len() >= 4 && told[0].starts_with("Back-off restarting failed container app in pod "), "{told:?}");
    // Of the dead ones the last is kept.
    world.until("old ones are removed", &["a"], || world.runtime.snapshot().containers.len() == 2).await;
    world.assert_sound();
}

#[tokio::test]
async fn pods_that_end_are_done_by_their_restart_policy() {
    let world = World::new().await;
    let agent = world.agent().await;
    let objects = agent.objects.as_ref().unwrap();
    let registered = |name: &str| objects.has_pod(&PodUid::from(uid(name)));
    let task = |name: &str, policy: &str| {
        let spec = json!({"restartPolicy": policy, "containers": [container(&format!("c-{name}"))]});
        world.api.create(pod_with(name, spec));
    };
    world.runtime.on_start("c-never", exits(0));
    world.runtime.on_start("c-fails", exits(4));
    world.runtime.on_starts("c-again", [exits(1), exits(0)]);
    task("never", "Never");
    task("fails", "Never");
    task("again", "OnFailure");
    world.api.create(pod("stays"));
    world.until_ready("stays").await;
    for (name, phase, restarted) in [("never", "Succeeded", 0), ("fails", "Failed", 0), ("again", "Succeeded", 1)] {
        let status = world.until_status(phase, name, |status| status.phase.as_deref() == Some(phase)).await;
        assert_eq!(restarts(&status, &format!("c-{name}")), restarted, "{name}");
        assert!(!is_ready(&status));
        assert_eq!(world.count(name, "StopPodSandbox"), 1, "{name}: its network is released");
        assert_eq!(world.count(name, "RemovePodSandbox"), 0, "{name}: its logs stay");
        assert!(world.logs().join(format!("default_{name}_uid-{name}")).exists());
        world.until("nothing is watched for it any more", &[name], || !registered(name)).await;
    }
    assert!(registered("stays"));
    let all = ["never", "fails", "again", "stays"];
    all.iter().for_each(|name| world.api.delete(name, 30));
    world.until_gone(&all).await;
    world.assert_sound();
}

#[tokio::test]
async fn a_sandbox_that_dies_is_replaced() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.api.create(pod("a"));
    let before = world.until_ready("a").await;
    world.runtime.kill_sandbox(&world.runtime.snapshot().sandboxes[0].id);
    let replaced = |status: &_| is_ready(status) && restarts(status, "app") == 1;
    let after = world.until_status("replaced", "a", replaced).await;
    assert_ne!(before.pod_ip, after.pod_ip);
    assert_eq!(world.told("a", "SandboxChanged").len(), 1);
    let snapshot = world.runtime.snapshot();
    let ready: Vec<_> = snapshot.sandboxes.iter().filter(|sandbox| sandbox.ready).collect();
    assert_eq!((ready.len(), ready[0].attempt), (1, 1));
    world.assert_sound();
}

#[tokio::test]
async fn in_a_new_sandbox_init_containers_run_again_unless_the_pod_never_restarts() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.on_start("one", exits(0));
    world.runtime.on_start("two", exits(0));
    let init = json!([container("one"), container("two")]);
    for (name, policy) in [("always", "Always"), ("never", "Never")] {
        world.api.create(pod_with(name, json!({"restartPolicy": policy, "initContainers": init})));
        world.until_ready(name).await;
    }
    for sandbox in world.runtime.snapshot().sandboxes {
        world.runtime.kill_sandbox(&sandbox.id);
    }
    let again = |status: &_| is_ready(status) && restarts(status, "app") == 1;
    let status = world.until_status("replaced", "always", again).await;
    assert_eq!((restarts(&status, "one"), restarts(&status, "two")), (1, 1));
    let of_pod = |name: &str| {
        let calls = world.runtime.calls_of("CreateContainer").into_iter().filter(|call| call.pod_uid == uid(name));
        calls.map(|call| call.container).collect::<Vec<_>>()
    };
    assert_eq!(of_pod("always"), ["one", "two", "app", "one", "two", "app"]);
    world.until_status("Failed", "never", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!((of_pod("never").len(), world.count("never", "RunPodSandbox")), (3, 1));
    world.assert_sound();
}

#[tokio::test]
async fn a_burst_of_fifty_pods_comes_and_goes() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let names: Vec<String> = (0..50).map(|n| format!("p{n}")).collect();
    for name in &names {
        world.api.create(pod(name));
    }
    world.until_all_ready(&names).await;
    for name in &names {
        assert_eq!(world.changes(name), ["RunPodSandbox", "CreateContainer app", "StartContainer app"], "{name}");
        assert_eq!(restarts(&world.status(name).unwrap(), "app"), 0);
        world.api.delete(name, 30);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.until_gone(&names).await;
    for name in names {
        assert_eq!(world.count(name, "StopContainer"), 1, "{name}");
    }
    world.assert_sound();
}
