//! Probes on the fake runtime: how many run at once, what thousands of them cost while none is due, and what becomes of their
//! results when the agent ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferrolet::model::clock;
use ferrolet::model::pod::{ContainerKind, PodKey};
use ferrolet::model::probe_results::ProbeVerdict;
use ferrolet::probe::{
    PodProbes, ProbeEvents, ProbeFeatures, ProbeManager, ProbeManagerParts, ProbedContainer, WhichProbes,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::world::{LIMIT, World, container, container_status, is_ready, pod_with, restarts};
use crate::fake_runtime::{FakeRuntime, sample};

/// How long something is watched not to happen.
const WHILE: Duration = Duration::from_millis(300);
/// Most commands, and most connections, at the same time.
const COMMANDS: usize = 32;
const CONNECTIONS: usize = 64;
/// The time that the runtime gets for a command on top of the command's own.
const RUNTIME_TIME: Duration = Duration::from_millis(200);

struct NoEvents;

impl ProbeEvents for NoEvents {
    fn warning(&self, _: &Pod, _: ContainerKind, _: &str, _: &'static str, _: String) {}
}

/// Pods that are probed for readiness without anything else of an agent.
struct Probing {
    runtime: FakeRuntime,
    manager: ProbeManager,
    /// A container that runs.
    container: String,
    pods: Vec<PodProbes>,
    tasks: JoinSet<()>,
}

impl Probing {
    async fn new() -> Self {
        let runtime = FakeRuntime::start().await;
        runtime.add_image("busybox:1");
        let (_, container) = sample::run_pod(&runtime.client(), "u", "app").await.unwrap();
        let client = runtime.client_with_timeout(RUNTIME_TIME);
        let manager = ProbeManager::new(ProbeManagerParts {
            runtime: client,
            events: Arc::new(NoEvents),
            features: ProbeFeatures::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(manager.clone().run(CancellationToken::new()));
        Probing { runtime, manager, container, pods: Vec::new(), tasks }
    }

    /// Begins to probe so many more pods. Each is asked at once, and then not for an hour.
    fn add(&mut self, count: usize, probe: &Value) {
        for _ in 0..count {
            let name = format!("pod-{}", self.pods.len());
            let mut probe = probe.clone();
            (probe["periodSeconds"], probe["failureThreshold"]) = (3600.into(), 1.into());
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "default", "uid": name},
                "spec": {"containers": [{"name": "app", "readinessProbe": probe}]},
            }))
            .unwrap();
            let pod = Arc::new(pod);
            let probes = self.manager.pod(&PodKey::of(&pod));
            let probed = ProbedContainer {
                id: self.container.clone(),
                name: "app".to_owned(),
                kind: ContainerKind::Regular,
                started_at: clock::now(),
                pod_ip: "127.0.0.1".to_owned(),
                started: false,
                probes: WhichProbes { readiness: true, ..WhichProbes::default() },
                initial_ready: None,
            };
            probes.set(&pod, vec![probed]);
            self.pods.push(probes);
        }
    }

    /// How many pods have that verdict.
    fn having(&self, verdict: ProbeVerdict) -> usize {
        let readiness = |probes: &PodProbes| probes.results().containers.get(&self.container)?.readiness;
        self.pods.iter().filter(|probes| readiness(probes) == Some(verdict)).count()
    }

    /// How many commands were asked of the runtime.
    fn commands(&self) -> usize {
        self.runtime.calls_of("ExecSync").len()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}: still not so");
        sleep(Duration::from_millis(3)).await;
    }
}

#[tokio::test]
async fn commands_are_bounded_and_those_that_hang_make_room_when_their_time_is_over() {
    let mut probing = Probing::new().await;
    let gate = probing.runtime.hold("ExecSync");
    let more = 8;
    // Long enough that none is over while it is watched that there are no more, on a busy machine as well.
    probing.add(COMMANDS + more, &json!({"exec": {"command": ["true"]}, "timeoutSeconds": 3}));
    until("as many as may", || probing.commands() >= COMMANDS).await;
    sleep(WHILE).await;
    assert_eq!(probing.commands(), COMMANDS);
    until("the others", || probing.commands() == COMMANDS + more).await;
    drop(gate);
    until("the others succeed", || probing.having(ProbeVerdict::Success) == more).await;
    assert_eq!(probing.having(ProbeVerdict::Failure), COMMANDS);
}

/// A server that answers no request before the gate is open. Its port, the gate, and how many requests it has.
async fn slow_server(tasks: &mut JoinSet<()>) -> (u16, watch::Sender<bool>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (gate, is_open) = watch::channel(false);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut is_open, count) = (is_open.clone(), count.clone());
            connections.spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                count.fetch_add(1, Ordering::SeqCst);
                let _ = is_open.wait_for(|open| *open).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    (port, gate, asked)
}

#[tokio::test]
async fn connections_are_bounded() {
    let mut probing = Probing::new().await;
    let (port, gate, asked) = slow_server(&mut probing.tasks).await;
    let pods = CONNECTIONS * 3;
    probing.add(pods, &json!({"httpGet": {"port": port}, "timeoutSeconds": 60}));
    until("as many as may", || asked.load(Ordering::SeqCst) >= CONNECTIONS).await;
    sleep(WHILE).await;
    assert_eq!(asked.load(Ordering::SeqCst), CONNECTIONS);
    // Commands have a bound of their own: a slow server holds none of them up.
    probing.add(1, &json!({"exec": {"command": ["true"]}}));
    until("the command", || probing.having(ProbeVerdict::Success) == 1).await;
    gate.send(true).unwrap();
    until("all succeed", || probing.having(ProbeVerdict::Success) == pods + 1).await;
}

#[tokio::test]
async fn thousands_of_probes_are_one_task() {
    let mut probing = Probing::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    probing.tasks.spawn(async move { while listener.accept().await.is_ok() {} });
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    sleep(WHILE).await;
    let before = alive();
    let pods = 3000;
    probing.add(pods, &json!({"tcpSocket": {"port": port}, "timeoutSeconds": 10}));
    until("all succeed", || probing.having(ProbeVerdict::Success) == pods).await;
    until("nothing is left running", || alive() <= before).await;
    assert_eq!(probing.manager.samples().len(), pods);
    probing.pods.clear();
    assert_eq!(probing.manager.samples(), []);
}

fn probed(probes: Value) -> Value {
    let mut app = container("app");
    for (kind, command) in probes.as_object().unwrap() {
        app[kind] = json!({"exec": {"command": [command]}, "periodSeconds": 1, "timeoutSeconds": 30});
    }
    json!({"containers": [app]})
}

#[tokio::test]
async fn what_probes_said_outlives_the_agent() {
    let world = World::new().await;
    let agent = world.agent().await;
    let all = json!({"startupProbe": "true", "readinessProbe": "true", "livenessProbe": "true"});
    world.api.create(pod_with("ready", probed(all)));
    world.api.create(pod_with("unready", probed(json!({"readinessProbe": "false"}))));
    world.api.create(pod_with("started", probed(json!({"startupProbe": "true"}))));
    world.until_ready("ready").await;
    world.until_ready("started").await;
    world.until("told", &["unready"], || !world.told("unready", "Unhealthy").is_empty()).await;
    // Liveness is asked first after a period.
    world.until_called("ready", "ExecSync", 3).await;
    agent.kill().await;
    let writes = world.api.writes().len();
    world.runtime.clear_calls();

    // The next agent asks, and for long gets no answer.
    let gate = world.runtime.hold("ExecSync");
    let _agent = world.agent().await;
    world.until_called("ready", "ExecSync", 2).await;
    world.until_called("unready", "ExecSync", 1).await;
    sleep(WHILE).await;
    let told = world.api.writes().split_off(writes);
    assert!(told.is_empty(), "nothing is new: {told:?}");
    let app = world.status("ready").unwrap();
    assert_eq!(container_status(&app, "app").map(|app| (app.ready, app.started)), Some((true, Some(true))));

    drop(gate);
    world.until_called("ready", "ExecSync", 4).await;
    world.until_called("unready", "ExecSync", 3).await;
    assert_eq!(world.count("started", "ExecSync"), 0, "a container starts up once");
    for name in ["ready", "unready", "started"] {
        let was_ready: Vec<bool> = world.api.statuses(name).iter().map(is_ready).collect();
        assert!(was_ready.is_sorted(), "{name}: Ready was taken back: {was_ready:?}");
        assert_eq!(was_ready.last(), Some(&(name != "unready")), "{name}");
        assert_eq!(world.changes(name).len(), 0, "{name}");
        assert_eq!(restarts(&world.status(name).unwrap(), "app"), 0, "{name}");
    }
    world.assert_sound();
}

#[tokio::test]
async fn a_probe_that_fails_for_good_restarts_its_container_under_the_next_agent_too() {
    let world = World::new().await;
    let agent = world.agent().await;
    let mut spec = probed(json!({"livenessProbe": "false"}));
    spec["containers"][0]["livenessProbe"]["failureThreshold"] = 1.into();
    spec["containers"][0]["livenessProbe"]["initialDelaySeconds"] = 1.into();
    spec["terminationGracePeriodSeconds"] = 1.into();
    let gate = world.runtime.hold("ExecSync");
    world.api.create(pod_with("a", spec));
    world.until_called("a", "ExecSync", 1).await;
    // The answer is lost with the agent that asked.
    agent.kill().await;
    drop(gate);
    let _agent = world.agent().await;
    world.until_status("restarted", "a", |status| restarts(status, "app") == 1).await;
    let told = world.told("a", "Killing");
    assert_eq!(told.first().map(String::as_str), Some("Container app failed liveness probe, will be restarted"));
    world.assert_sound();
}
