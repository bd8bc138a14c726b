//! The node's tasks together, against an API server and a runtime in memory, on a paused clock.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use tokio::time::{Instant, sleep};

use super::runtime_state::tests::{FakeRuntime, response};
use super::status::tests::World;
use super::testing::ApiServer;
use super::*;
use crate::runtime::cri;
use crate::sys::network::{NetworkError, NetworkSnapshot};

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl NodeEvents for Recorder {
    fn record(&self, uid: Option<&str>, event: NodeEvent) {
        let known = if uid.is_some() { "" } else { " (no uid)" };
        self.0.lock().unwrap().push(format!("{:?} {}{known}: {}", event.event_type, event.reason, event.message));
    }
}

struct FakeNetwork(Mutex<NetworkSnapshot>);

impl Network for FakeNetwork {
    fn snapshot(&self) -> Result<NetworkSnapshot, NetworkError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

struct Bench {
    server: ApiServer,
    runtime: Arc<FakeRuntime>,
    events: Arc<Recorder>,
    network: Arc<FakeNetwork>,
    is_listed: Arc<AtomicBool>,
    node: NodeHandle,
    runtime_state: RuntimeStateHandle,
    contributions: ContributionsHandle,
    cancel: CancellationToken,
    tasks: JoinSet<Result<(), NodeError>>,
}

impl Bench {
    /// An agent that starts, with the runtime listed already.
    fn start(server: &ApiServer, runtime: &Arc<FakeRuntime>) -> Self {
        Self::start_with(server, runtime, |_| {})
    }

    fn start_with(
        server: &ApiServer,
        runtime: &Arc<FakeRuntime>,
        change: impl FnOnce(&mut NodeParts<FakeRuntime>),
    ) -> Self {
        let world = World::healthy();
        let events = Arc::new(Recorder::default());
        let network = Arc::new(FakeNetwork(Mutex::new(world.network)));
        let is_listed = Arc::new(AtomicBool::new(true));
        let listed = Arc::clone(&is_listed);
        let clients = NodeClients { main: server.client(), heartbeat: server.heartbeat_client() };
        let relist_age: RelistAge = Arc::new(move || listed.load(Ordering::Relaxed).then_some(Duration::ZERO));
        let mut parts = NodeParts::new(
            world.settings,
            world.facts,
            Some(clients),
            Arc::clone(runtime),
            relist_age,
            Arc::clone(&events) as Arc<dyn NodeEvents>,
        );
        parts.network = Arc::clone(&network) as Arc<dyn Network>;
        parts.lookup = Arc::new(|_| Box::pin(async { Vec::new() }));
        parts.now = paused_now;
        change(&mut parts);
        let manager = NodeManager::new(parts);
        let (node, runtime_state, contributions) = (manager.node(), manager.runtime_state(), manager.contributions());
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(manager.run(cancel.clone()));
        Bench {
            server: server.clone(),
            runtime: Arc::clone(runtime),
            events,
            network,
            is_listed,
            node,
            runtime_state,
            contributions,
            cancel,
            tasks,
        }
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    fn ready(&self) -> Option<NodeCondition> {
        let conditions = self.server.node()?.status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "Ready")
    }

    fn is_ready(&self) -> bool {
        self.ready().is_some_and(|ready| ready.status == "True")
    }

    fn message(&self) -> String {
        self.ready().unwrap().message.unwrap()
    }

    /// How long until the API server has what the test waits for.
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < Duration::from_secs(600), "{what} never came: {:#?}", self.server.node());
            sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.0.lock().unwrap())
    }

    fn status_patches(&self) -> usize {
        self.server.log().iter().filter(|line| line.starts_with("PATCH")).count()
    }
}

/// A wall clock that goes with the paused one.
fn paused_now() -> Timestamp {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = Instant::now().saturating_duration_since(*START.get_or_init(Instant::now));
    super::status::tests::at(i64::try_from(elapsed.as_secs()).unwrap())
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_node_is_ready_at_once() {
    let runtime = FakeRuntime::ready();
    runtime.set(|state| {
        state.images = vec![cri::Image { size: 7, repo_tags: vec!["busybox:1".into()], ..Default::default() }];
    });
    let bench = Bench::start(&ApiServer::default(), &runtime);
    assert!(bench.until("Ready", Bench::is_ready).await < Duration::from_millis(500));
    sleep(Duration::from_millis(50)).await;
    assert_eq!(
        bench.take_events(),
        [
            "Normal NodeHasSufficientMemory: Node node-a status is now: NodeHasSufficientMemory",
            "Normal NodeHasNoDiskPressure: Node node-a status is now: NodeHasNoDiskPressure",
            "Normal NodeHasSufficientPID: Node node-a status is now: NodeHasSufficientPID",
            "Normal Starting: Starting kubelet.",
            "Normal NodeReady: Node node-a status is now: NodeReady",
        ]
    );
    let status = bench.server.node().unwrap().status.unwrap();
    assert_eq!(status.images.unwrap()[0].size_bytes, Some(7));
    assert_eq!(status.node_info.unwrap().container_runtime_version, "containerd://2.1.4");
    assert_eq!(bench.node.host_ips(), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    assert!(bench.server.lease().is_some() && bench.server.csi_node().is_some());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_nothing_changes() {
    let bench = Bench::start(&ApiServer::default(), &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    seconds(5).await;
    let sent = bench.status_patches();
    // A random part of the interval first, so that a fleet does not report together; then the interval.
    let first = bench.until("first report", |bench| bench.status_patches() > sent).await.as_secs();
    assert!((144..=460).contains(&first), "{first}");
    for report in 2..5 {
        let next = bench.until("next report", |bench| bench.status_patches() > sent + report - 1).await.as_secs();
        assert!((299..=311).contains(&next), "{next}");
    }
    assert!(bench.runtime.get().image_calls <= 1400 / 30 + 2);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_reported_at_once() {
    let bench = Bench::start(&ApiServer::default(), &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    seconds(3).await;
    bench.take_events();

    bench.contributions.set_shutdown(Some("node is shutting down".into()));
    let waited = bench.until("shutdown", |bench| bench.message() == "node is shutting down").await;
    assert!(waited < Duration::from_millis(100), "{waited:?}");
    bench.contributions.set_shutdown(None);
    bench.until("Ready", Bench::is_ready).await;

    bench.runtime.set(|state| state.status = Some(response(true, false)));
    let waited = bench.until("NotReady", |bench| !bench.is_ready()).await;
    assert!(waited <= Duration::from_millis(5050), "as soon as the runtime is asked: {waited:?}");
    assert_eq!(bench.message(), "container runtime network not ready: NetworkReady=false reason:R message:M m");
    assert!(bench.runtime_state.network_error().is_some());
    bench.runtime.set(|state| state.status = Some(response(true, true)));
    bench.until("Ready", Bench::is_ready).await;
    let reasons: Vec<_> = bench.take_events().iter().map(|e| e.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(reasons, ["Normal NodeNotReady", "Normal NodeReady", "Normal NodeNotReady", "Normal NodeReady"]);

    // The interfaces have no event of their own: the next look tells.
    let moved: IpAddr = "10.0.0.6".parse().unwrap();
    bench.network.0.lock().unwrap().interfaces[0].addresses = vec![moved];
    let waited = bench.until("address", |bench| bench.node.host_ips() == [moved]).await;
    assert!(waited <= Duration::from_millis(10_500), "{waited:?}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_do_to_the_node_is_seen() {
    let bench = Bench::start(&ApiServer::default(), &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    seconds(3).await;
    bench.take_events();

    // The node controller gave the node up.
    bench.server.change_node(|node| {
        let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions.iter_mut().for_each(|condition| condition.status = "Unknown".into());
    });
    let waited = bench.until("Ready", Bench::is_ready).await;
    assert!(waited <= Duration::from_millis(1100), "{waited:?}");

    bench.server.change_node(|node| {
        let spec = node.spec.get_or_insert_default();
        spec.unschedulable = Some(true);
        spec.pod_cidrs = Some(vec!["10.1.0.0/24".into(), "fd01::/64".into()]);
    });
    bench.runtime.set(|state| state.fail_config = true);
    seconds(3).await;
    assert_eq!(bench.runtime.get().pod_cidrs, Vec::<String>::new());
    bench.runtime.set(|state| state.fail_config = false);
    seconds(30).await;
    assert_eq!(bench.runtime.get().pod_cidrs, ["10.1.0.0/24,fd01::/64"], "given once");
    bench.server.change_node(|node| node.spec.as_mut().unwrap().unschedulable = None);
    seconds(3).await;
    let events = bench.take_events();
    let about_scheduling: Vec<_> = events.iter().filter(|event| event.contains("Schedulable")).collect();
    assert_eq!(
        about_scheduling,
        [
            "Normal NodeNotSchedulable: Node node-a status is now: NodeNotSchedulable",
            "Normal NodeSchedulable: Node node-a status is now: NodeSchedulable"
        ]
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_flips_nothing() {
    let server = ApiServer::default();
    let runtime = FakeRuntime::ready();
    let bench = Bench::start(&server, &runtime);
    bench.until("Ready", Bench::is_ready).await;
    seconds(60).await;
    bench.stop().await;
    let before = server.node().unwrap();

    // The new agent finds a runtime that takes its time.
    runtime.set(|state| state.hangs = true);
    let bench = Bench::start_with(&server, &runtime, |parts| parts.relist_age = Arc::new(|| None));
    for _ in 0..200 {
        sleep(Duration::from_millis(100)).await;
        assert!(bench.is_ready(), "{:?}", bench.ready());
    }
    assert!(!status::has_changed(&before, &server.node().unwrap()));
    assert_eq!(bench.take_events(), ["Normal Starting: Starting kubelet."]);
    // But not for ever.
    let waited = bench.until("NotReady", |bench| !bench.is_ready()).await;
    assert!(waited < Duration::from_secs(21), "{waited:?}");
    assert!(
        bench.message().starts_with("[container runtime status check may not have completed yet, PLEG is not healthy")
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reboot_is_told_once() {
    let server = ApiServer::default();
    let bench = Bench::start(&server, &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    bench.stop().await;
    let bench =
        Bench::start_with(&server, &FakeRuntime::ready(), |parts| parts.facts.machine.boot_id = "boot-2".into());
    seconds(60).await;
    let events = bench.take_events();
    let reboots: Vec<_> = events.iter().filter(|event| event.contains("Rebooted")).collect();
    assert_eq!(reboots, ["Warning Rebooted: Node node-a has been rebooted, boot id: boot-2"]);
    assert!(bench.is_ready());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_before_the_api_server_catches_up() {
    let server = ApiServer::default();
    server.set_outage(true);
    let bench = Bench::start(&server, &FakeRuntime::ready());
    seconds(120).await;
    assert_eq!(bench.node.host_ips(), ["10.0.0.5".parse::<IpAddr>().unwrap()], "pods can be admitted meanwhile");
    let posts = server.log().iter().filter(|line| line.starts_with("POST /api/v1/nodes")).count();
    assert!((18..30).contains(&posts), "{posts}");
    server.set_outage(false);
    let waited = bench.until("Ready", Bench::is_ready).await;
    assert!(waited < Duration::from_millis(7500), "{waited:?}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_changed_during_an_outage_is_reported_after_it() {
    let server = ApiServer::default();
    let bench = Bench::start(&server, &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    server.set_outage(true);
    bench.runtime.set(|state| state.status = Some(response(false, true)));
    seconds(300).await;
    assert!(bench.is_ready());
    server.set_outage(false);
    let waited = bench.until("NotReady", |bench| !bench.is_ready()).await;
    assert!(waited <= Duration::from_millis(10_500), "{waited:?}");
    assert!(bench.message().contains("container runtime is down"));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_blocks_nothing_for_ever() {
    let server = ApiServer::default();
    let bench = Bench::start(&server, &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    server.set_hanging(true);
    bench.is_listed.store(false, Ordering::Relaxed);
    seconds(120).await;
    server.set_hanging(false);
    let waited = bench.until("NotReady", |bench| !bench.is_ready()).await;
    assert!(waited <= Duration::from_secs(21), "{waited:?}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_answered_with_the_true_node() {
    let server = ApiServer::default();
    let bench = Bench::start(&server, &FakeRuntime::ready());
    bench.until("Ready", Bench::is_ready).await;
    server.fail("PATCH", 409);
    server.fail("PATCH", 500);
    server.clear_log();
    bench.contributions.set_shutdown(Some("x".into()));
    bench.until("NotReady", |bench| !bench.is_ready()).await;
    let log = server.log();
    let about_status: Vec<_> = log.iter().filter(|line| line.contains("/nodes/")).collect();
    let (get, patch) = ("GET /api/v1/nodes/node-a", "PATCH /api/v1/nodes/node-a/status");
    assert_eq!(about_status, [patch, get, patch, get, patch]);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_registered_waits_for_one() {
    let server = ApiServer::default();
    let bench = Bench::start_with(&server, &FakeRuntime::ready(), |parts| parts.settings.register_node = false);
    seconds(30).await;
    assert!(server.node().is_none());
    let mut node = Node::default();
    node.metadata.name = Some("node-a".into());
    server.store_node(node);
    bench.until("Ready", Bench::is_ready).await;
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_standalone_node_needs_no_api_server() {
    let server = ApiServer::default();
    let bench = Bench::start_with(&server, &FakeRuntime::ready(), |parts| parts.clients = None);
    seconds(1).await;
    let node = bench.node.current_or_initial().unwrap();
    assert!(conditions::is_true(node.status.as_ref().unwrap().conditions.as_ref().unwrap(), "Ready"));
    assert_eq!(bench.node.current(), None);
    assert_eq!(server.log(), Vec::<String>::new());
    bench.stop().await;
}
