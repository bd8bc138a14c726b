use k8s_openapi::api::core::v1::{ExecAction, PodSpec, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpListener;

use super::super::types::WhichProbes;
use super::*;
use crate::runtime::client::ClientSettings;

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl ProbeEvents for Told {
    fn warning(&self, pod: &Pod, kind: ContainerKind, container: &str, reason: &'static str, message: String) {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        self.0.lock().unwrap().push(format!("{pod} {} {reason}: {message}", kind.field_path(container)));
    }
}

/// A manager whose task runs; the runtime is away.
struct World {
    manager: ProbeManager,
    told: Arc<Told>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let runtime = RuntimeClient::new(&ClientSettings::for_endpoint("unix:///nowhere/runtime.sock")).unwrap();
        let told = Arc::new(Told::default());
        let manager =
            ProbeManager::new(ProbeManagerParts { runtime, events: told.clone(), features: ProbeFeatures::default() });
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(manager.clone().run(cancel.clone()));
        World { manager, told, cancel, tasks }
    }

    fn told(&self) -> Vec<String> {
        self.told.0.lock().unwrap().clone()
    }

    async fn end(mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

fn tcp(port: u16) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction { port: IntOrString::Int(port.into()), ..TCPSocketAction::default() }),
        period_seconds: Some(1),
        failure_threshold: Some(1),
        ..Probe::default()
    }
}

fn pod(container: Container) -> Arc<Pod> {
    let metadata = ObjectMeta { name: Some("web".into()), uid: Some("u".into()), ..ObjectMeta::default() };
    let container = Container { name: "app".into(), ..container };
    let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
    Arc::new(Pod { metadata, spec: Some(spec), ..Pod::default() })
}

fn probed(probes: WhichProbes) -> ProbedContainer {
    ProbedContainer {
        id: "c1".into(),
        name: "app".into(),
        kind: ContainerKind::Regular,
        started_at: clock::now(),
        pod_ip: "127.0.0.1".into(),
        started: false,
        probes,
        initial_ready: None,
    }
}

const READINESS: WhichProbes = WhichProbes { startup: false, readiness: true, liveness: false };

fn of(probes: &PodProbes, id: &str) -> ContainerProbeResults {
    probes.results().containers.get(id).cloned().unwrap_or_default()
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn readiness_follows_the_container() {
    let world = World::new();
    let (listener, port) = listener().await;
    let pod = pod(Container { readiness_probe: Some(tcp(port)), ..Container::default() });
    let mut probes = world.manager.pod(&PodKey::of(&pod));
    probes.set(&pod, vec![probed(READINESS)]);
    while of(&probes, "c1").readiness != Some(ProbeVerdict::Success) {
        probes.changed().await;
    }
    assert_eq!(world.told(), [""; 0]);

    drop(listener);
    while of(&probes, "c1").readiness != Some(ProbeVerdict::Failure) {
        probes.changed().await;
    }
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(world.told(), [format!("web spec.containers{{app}} Unhealthy: Readiness probe failed: {refused}")]);
    let samples = world.manager.samples();
    assert_eq!(samples.len(), 1);
    let ProbeSample { container, kind, counts, pod_uid, .. } = &samples[0];
    assert_eq!((container.as_str(), *kind, pod_uid.as_str()), ("app", ProbeKind::Readiness, "u"));
    assert!(counts.successful >= 1 && counts.failed == 1, "{counts:?}");

    // What is not to be probed any more is forgotten.
    probes.set(&pod, Vec::new());
    assert_eq!(*probes.results(), ProbeResults::default());
    drop(probes);
    assert_eq!(world.manager.samples(), []);
    world.end().await;
}

#[tokio::test]
async fn what_an_earlier_agent_knew_holds_until_it_is_asked_again() {
    let world = World::new();
    let (_listener, port) = listener().await;
    let container =
        Container { startup_probe: Some(tcp(port)), readiness_probe: Some(tcp(port)), ..Container::default() };
    let pod = pod(container);
    let probes = world.manager.pod(&PodKey::of(&pod));
    let taken_over = ProbedContainer { started: true, initial_ready: Some(true), ..probed(READINESS) };
    probes.set(&pod, vec![taken_over]);
    let known = of(&probes, "c1");
    assert_eq!((known.startup, known.readiness), (Some(ProbeVerdict::Success), Some(ProbeVerdict::Success)));
    world.end().await;
}

#[tokio::test]
async fn a_startup_probe_decides_once() {
    let world = World::new();
    let (listener, port) = listener().await;
    let pod = pod(Container { startup_probe: Some(tcp(port)), ..Container::default() });
    let mut probes = world.manager.pod(&PodKey::of(&pod));
    probes.set(&pod, vec![probed(WhichProbes { startup: true, ..WhichProbes::default() })]);
    while of(&probes, "c1").startup != Some(ProbeVerdict::Success) {
        probes.changed().await;
    }
    assert!(world.manager.shared.state().queue.is_empty(), "nothing is left to be asked");
    drop(listener);
    world.end().await;
}

#[tokio::test]
async fn a_runtime_that_is_away_says_nothing_of_the_container() {
    let world = World::new();
    let exec = ExecAction { command: Some(vec!["true".into()]) };
    let probe = Probe { exec: Some(exec), tcp_socket: None, ..tcp(1) };
    let pod = pod(Container { readiness_probe: Some(probe), ..Container::default() });
    let probes = world.manager.pod(&PodKey::of(&pod));
    probes.set(&pod, vec![probed(READINESS)]);
    while world.told().is_empty() {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = world.told().remove(0);
    let expected = "web spec.containers{app} Unhealthy: Readiness probe errored and resulted in unknown state: ";
    assert!(told.starts_with(expected), "{told}");
    assert_eq!(of(&probes, "c1").readiness, None);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_wakes_the_task_when_nothing_is_due() {
    let world = World::new();
    let pod = pod(Container { liveness_probe: Some(tcp(1)), ..Container::default() });
    let probes = world.manager.pod(&PodKey::of(&pod));
    let liveness = WhichProbes { liveness: true, ..WhichProbes::default() };
    probes.set(&pod, vec![probed(liveness)]);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let planned = world.manager.shared.state().sleeps_until.unwrap();
    assert!(planned >= Duration::from_millis(900), "{planned:?}");
    // Telling the same again changes nothing.
    probes.set(&pod, vec![probed(liveness)]);
    assert_eq!(world.manager.shared.state().queue.len(), 1);
    probes.set(&pod, Vec::new());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.manager.shared.state().sleeps_until, None);
    assert_eq!(world.told(), [""; 0]);
    world.end().await;
}

#[tokio::test]
async fn a_probe_that_is_not_wanted_any_more_is_cut_off() {
    let world = World::new();
    // Takes connections in its backlog, and never answers.
    let (_listener, port) = listener().await;
    let action = k8s_openapi::api::core::v1::GRPCAction { port: port.into(), ..Default::default() };
    let probe = Probe { grpc: Some(action), tcp_socket: None, timeout_seconds: Some(3600), ..tcp(1) };
    let pod = pod(Container { readiness_probe: Some(probe), ..Container::default() });
    let probes = world.manager.pod(&PodKey::of(&pod));
    probes.set(&pod, vec![probed(READINESS)]);
    let connections = &world.manager.shared.connections;
    while connections.available_permits() == PARALLEL_CONNECTIONS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(probes);
    while connections.available_permits() != PARALLEL_CONNECTIONS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.end().await;
}
