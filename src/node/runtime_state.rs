//! How the container runtime does: its readiness and its network's, polled over CRI `Status` and kept as the newest value
//! (peer: `kubelet/runtime.go`, `Kubelet.updateRuntimeUp`).

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::model::go_duration::GoDuration;
use crate::runtime::cri;

use super::conditions::NotReadyCause;

/// Between two looks at the runtime.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks until the runtime and its network are ready for the first time.
const FAST_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the fast looks go on.
const FAST_POLL_PERIOD: Duration = Duration::from_secs(120);
/// A runtime that gave no good answer for this long is down.
const DOWN_AFTER: Duration = Duration::from_secs(30);
/// A runtime that was not fully listed for this long is unhealthy.
const RELIST_THRESHOLD: Duration = Duration::from_secs(180);

/// What the node needs of a container runtime. Errors' texts are the runtime's message alone.
pub trait NodeRuntime: Send + Sync + 'static {
    /// Why a call failed.
    type Error: Error + Send + Sync + 'static;

    /// CRI `Status`, not verbose.
    fn status(&self) -> impl Future<Output = Result<cri::StatusResponse, Self::Error>> + Send;
    /// CRI `Version`.
    fn version(&self) -> impl Future<Output = Result<cri::VersionResponse, Self::Error>> + Send;
    /// CRI `ListImages` without a filter.
    fn list_images(&self) -> impl Future<Output = Result<Vec<cri::Image>, Self::Error>> + Send;
    /// CRI `UpdateRuntimeConfig`.
    fn update_runtime_config(&self, config: cri::RuntimeConfig)
    -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Tells how long ago the runtime was last fully listed; none if never. Must not block.
pub type RelistAge = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// What is known of the pods' network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkState {
    /// The runtime was not asked yet.
    #[default]
    Unknown,
    /// Not ready, with the message for Ready.
    NotReady(String),
    /// Pods can be given addresses.
    Ready,
}

/// The runtime's state at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeSnapshot {
    /// How long ago the runtime last called itself ready; none if never.
    pub since_ready: Option<Duration>,
    /// What the runtime says against itself.
    pub runtime_error: Option<String>,
    /// What it says of the network.
    pub network: NetworkState,
    /// Its handlers, by name; none if it was not ready yet.
    pub handlers: Option<Vec<NodeRuntimeHandler>>,
    /// Its features, where it tells.
    pub features: Option<NodeFeatures>,
}

impl RuntimeSnapshot {
    /// What keeps the node from being ready, in the order of the condition's message.
    pub fn causes(&self, relist_age: Option<Duration>) -> Vec<NotReadyCause> {
        let mut causes = Vec::new();
        match self.since_ready {
            None => causes.push(NotReadyCause::pending("container runtime status check may not have completed yet")),
            Some(age) if age >= DOWN_AFTER => causes.push(NotReadyCause::known("container runtime is down")),
            Some(_) => {}
        }
        match relist_age {
            None => causes.push(NotReadyCause::pending("PLEG is not healthy: pleg has yet to be successful")),
            Some(age) if age > RELIST_THRESHOLD => {
                let [age, threshold] =
                    [age, RELIST_THRESHOLD].map(|span| GoDuration::from(Duration::from_secs(span.as_secs())));
                causes.push(NotReadyCause::known(format!(
                    "PLEG is not healthy: pleg was last seen active {age} ago; threshold is {threshold}"
                )));
            }
            Some(_) => {}
        }
        causes.extend(self.runtime_error.clone().map(NotReadyCause::known));
        match &self.network {
            NetworkState::Unknown => causes.push(NotReadyCause::pending("network state unknown")),
            NetworkState::NotReady(message) => causes.push(NotReadyCause::known(message.clone())),
            NetworkState::Ready => {}
        }
        causes
    }
}

/// What the last answers of the runtime said.
#[derive(Clone, Debug, Default, PartialEq)]
struct Observed {
    last_ready: Option<Instant>,
    runtime_error: Option<String>,
    network: NetworkState,
    handlers: Option<Vec<NodeRuntimeHandler>>,
    features: Option<NodeFeatures>,
}

impl Observed {
    /// Takes in an answer. One that calls the runtime not ready says nothing about handlers and features.
    fn take(&mut self, response: &cri::StatusResponse, now: Instant) {
        let condition = |type_: &str| {
            let conditions = response.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            conditions.iter().find(|condition| condition.r#type == type_)
        };
        self.network = match condition("NetworkReady") {
            Some(ready) if ready.status => NetworkState::Ready,
            other => NetworkState::NotReady(format!("container runtime network not ready: {}", describe(other))),
        };
        match condition("RuntimeReady") {
            Some(ready) if ready.status => {
                self.runtime_error = None;
                self.handlers = Some(handlers(&response.runtime_handlers));
                self.features = response.features.as_ref().map(|features| NodeFeatures {
                    supplemental_groups_policy: Some(features.supplemental_groups_policy),
                });
                self.last_ready = Some(now);
            }
            other => self.runtime_error = Some(format!("container runtime not ready: {}", describe(other))),
        }
    }

    fn snapshot(&self, now: Instant) -> RuntimeSnapshot {
        RuntimeSnapshot {
            since_ready: self.last_ready.map(|at| now.saturating_duration_since(at)),
            runtime_error: self.runtime_error.clone(),
            network: self.network.clone(),
            handlers: self.handlers.clone(),
            features: self.features.clone(),
        }
    }

    /// All but the time of the last answer, which always changes.
    fn is_like(&self, other: &Observed) -> bool {
        let untimed = |observed: &Observed| Observed { last_ready: None, ..observed.clone() };
        untimed(self) == untimed(other) && self.last_ready.is_some() == other.last_ready.is_some()
    }

    fn is_fully_ready(&self) -> bool {
        self.last_ready.is_some() && self.runtime_error.is_none() && self.network == NetworkState::Ready
    }
}

/// `NetworkReady=false reason:R message:M`; a condition that the runtime does not give shows as `<nil>`.
fn describe(condition: Option<&cri::RuntimeCondition>) -> String {
    match condition {
        Some(c) => format!("{}={} reason:{} message:{}", c.r#type, c.status, c.reason, c.message),
        None => "<nil>".to_owned(),
    }
}

fn handlers(handlers: &[cri::RuntimeHandler]) -> Vec<NodeRuntimeHandler> {
    let handler = |handler: &cri::RuntimeHandler| {
        let features = handler.features.unwrap_or_default();
        NodeRuntimeHandler {
            // Empty, not absent, for the default handler: so the API server gives it back.
            name: Some(handler.name.clone()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        }
    };
    let mut handlers: Vec<_> = handlers.iter().map(handler).collect();
    handlers.sort_by(|one, other| one.name.cmp(&other.name));
    handlers
}

/// The newest state of the runtime, for everyone who waits for it.
#[derive(Clone, Debug)]
pub struct RuntimeStateHandle {
    observed: watch::Receiver<Observed>,
}

impl RuntimeStateHandle {
    /// The state now.
    pub fn snapshot(&self) -> RuntimeSnapshot {
        self.observed.borrow().snapshot(Instant::now())
    }

    /// Why pods cannot be given a network yet; none if they can.
    pub fn network_error(&self) -> Option<String> {
        match &self.observed.borrow().network {
            NetworkState::Unknown => Some("network state unknown".to_owned()),
            NetworkState::NotReady(message) => Some(message.clone()),
            NetworkState::Ready => None,
        }
    }

    /// Waits until the state is another than when this handle last waited, or the runtime is found to be down. Never ends
    /// once the monitor is gone: select it beside a cancellation.
    pub async fn changed(&mut self) {
        // The sender lives as long as the monitor; without it nothing changes any more.
        if self.observed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Polls the runtime.
pub struct RuntimeMonitor<R> {
    runtime: Arc<R>,
    observed: watch::Sender<Observed>,
    /// The last good answer of a runtime that was announced to be down since.
    announced_down: Option<Instant>,
    /// The last answer's failure, so that one that goes on is logged once.
    failure: Option<String>,
}

impl<R: NodeRuntime> RuntimeMonitor<R> {
    /// A monitor that has not looked yet, and the handle to what it will see.
    pub fn new(runtime: Arc<R>) -> (Self, RuntimeStateHandle) {
        let (sender, receiver) = watch::channel(Observed::default());
        let monitor = RuntimeMonitor { runtime, observed: sender, announced_down: None, failure: None };
        (monitor, RuntimeStateHandle { observed: receiver })
    }

    /// Asks the runtime every 5 s, every 100 ms in the first two minutes until it is ready for the first time. Ends when
    /// cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let started = Instant::now();
        let mut is_fast = true;
        loop {
            tokio::select! {
                // Nothing is kept halfway: an answer that is cut off is asked for at the next start.
                () = cancel.cancelled() => return,
                () = self.poll() => {}
            }
            is_fast = is_fast && !self.observed.borrow().is_fully_ready() && started.elapsed() < FAST_POLL_PERIOD;
            tokio::select! {
                // A sleep holds no state.
                () = cancel.cancelled() => return,
                () = sleep(if is_fast { FAST_POLL_INTERVAL } else { POLL_INTERVAL }) => {}
                () = self.until_down() => self.announce_down(),
            }
        }
    }

    /// Until the runtime counts as down; for ever if that was announced, or if it never gave a good answer.
    async fn until_down(&self) {
        let last_ready = self.observed.borrow().last_ready;
        match last_ready.filter(|_| last_ready != self.announced_down) {
            Some(at) => sleep_until(at + DOWN_AFTER).await,
            None => std::future::pending().await,
        }
    }

    /// Wakes those who wait, who see it by the age of the last good answer.
    fn announce_down(&mut self) {
        tracing::warn!("container runtime is down");
        self.announced_down = self.observed.borrow().last_ready;
        self.observed.send_modify(|_| {});
    }

    async fn poll(&mut self) {
        let runtime = Arc::clone(&self.runtime);
        let status = runtime.status();
        tokio::pin!(status);
        let answer = tokio::select! {
            answer = &mut status => answer,
            // The call may hang for minutes in a runtime that is stuck; the node must not stay Ready meanwhile.
            () = self.until_down() => {
                self.announce_down();
                status.await
            }
        };
        match answer {
            Ok(response) => {
                self.failure = None;
                self.take(&response);
            }
            Err(error) => {
                let failure = Some(error.to_string());
                if failure != self.failure {
                    tracing::warn!(%error, "container runtime status cannot be read");
                    self.failure = failure;
                }
            }
        }
    }

    fn take(&self, response: &cri::StatusResponse) {
        let now = Instant::now();
        self.observed.send_if_modified(|observed| {
            let before = observed.clone();
            observed.take(response, now);
            let was_down = before.last_ready.is_some() && before.last_ready == self.announced_down;
            let is_changed = !observed.is_like(&before) || (was_down && observed.last_ready != before.last_ready);
            if is_changed {
                tracing::info!(
                    runtime_error = observed.runtime_error, network = ?observed.network, "container runtime state changed"
                );
            }
            is_changed
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use rstest::rstest;

    use super::*;

    /// A runtime that says what the test set.
    #[derive(Default)]
    pub struct FakeRuntime {
        pub state: Mutex<FakeState>,
    }

    #[derive(Clone, Default)]
    pub struct FakeState {
        pub status: Option<cri::StatusResponse>,
        pub hangs: bool,
        pub images: Vec<cri::Image>,
        pub pod_cidrs: Vec<String>,
        pub fail_config: bool,
        pub status_calls: u32,
        pub image_calls: u32,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    pub struct Failure(pub &'static str);

    impl FakeRuntime {
        pub fn ready() -> Arc<Self> {
            let fake = FakeRuntime::default();
            fake.set(|state| state.status = Some(response(true, true)));
            Arc::new(fake)
        }

        pub fn set(&self, change: impl FnOnce(&mut FakeState)) {
            change(&mut self.state.lock().unwrap());
        }

        pub fn get(&self) -> FakeState {
            self.state.lock().unwrap().clone()
        }
    }

    impl NodeRuntime for FakeRuntime {
        type Error = Failure;

        async fn status(&self) -> Result<cri::StatusResponse, Failure> {
            self.set(|state| state.status_calls += 1);
            if self.get().hangs {
                std::future::pending::<()>().await;
            }
            self.get().status.ok_or(Failure("connection refused"))
        }

        async fn version(&self) -> Result<cri::VersionResponse, Failure> {
            Ok(cri::VersionResponse {
                runtime_name: "containerd".into(),
                runtime_version: "v2.1.4".into(),
                ..Default::default()
            })
        }

        async fn list_images(&self) -> Result<Vec<cri::Image>, Failure> {
            self.set(|state| state.image_calls += 1);
            Ok(self.get().images)
        }

        async fn update_runtime_config(&self, config: cri::RuntimeConfig) -> Result<(), Failure> {
            if self.get().fail_config {
                return Err(Failure("not now"));
            }
            self.set(|state| state.pod_cidrs.push(config.network_config.unwrap().pod_cidr));
            Ok(())
        }
    }

    pub fn response(runtime: bool, network: bool) -> cri::StatusResponse {
        let condition = |type_: &str, status: bool| cri::RuntimeCondition {
            r#type: type_.into(),
            status,
            reason: if status { "" } else { "R" }.into(),
            message: if status { "" } else { "M m" }.into(),
        };
        let handler = |name: &str, user_namespaces| cri::RuntimeHandler {
            name: name.into(),
            features: Some(cri::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces }),
        };
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", runtime), condition("NetworkReady", network)],
            }),
            runtime_handlers: vec![handler("runc", true), handler("", true), handler("kata", false)],
            features: Some(cri::RuntimeFeatures { supplemental_groups_policy: true, ..Default::default() }),
            ..Default::default()
        }
    }

    fn messages(snapshot: &RuntimeSnapshot, relist_age: Option<u64>) -> Vec<String> {
        let causes = snapshot.causes(relist_age.map(Duration::from_secs));
        causes.into_iter().map(|c| format!("{}{}", if c.pending { "(pending) " } else { "" }, c.message)).collect()
    }

    fn after(response: &cri::StatusResponse) -> RuntimeSnapshot {
        let now = Instant::now();
        let mut observed = Observed::default();
        observed.take(response, now);
        observed.snapshot(now)
    }

    #[tokio::test(start_paused = true)]
    async fn tells_what_is_wrong() {
        assert_eq!(
            messages(&RuntimeSnapshot::default(), None),
            [
                "(pending) container runtime status check may not have completed yet",
                "(pending) PLEG is not healthy: pleg has yet to be successful",
                "(pending) network state unknown",
            ]
        );
        assert_eq!(messages(&after(&response(true, true)), Some(180)), Vec::<String>::new());
        assert_eq!(
            messages(&after(&response(true, false)), Some(0)),
            ["container runtime network not ready: NetworkReady=false reason:R message:M m"]
        );
        assert_eq!(
            messages(&after(&response(false, true)), Some(0)),
            [
                "(pending) container runtime status check may not have completed yet",
                "container runtime not ready: RuntimeReady=false reason:R message:M m",
            ]
        );
        assert_eq!(
            messages(&after(&cri::StatusResponse::default()), Some(0))[1..],
            ["container runtime not ready: <nil>", "container runtime network not ready: <nil>"]
        );
    }

    #[rstest]
    #[case(29, 180, &[])]
    #[case(30, 180, &["container runtime is down"])]
    #[case(0, 185, &["PLEG is not healthy: pleg was last seen active 3m5s ago; threshold is 3m0s"])]
    fn silence_is_a_cause(#[case] since_ready: u64, #[case] relist_age: u64, #[case] expected: &[&str]) {
        let snapshot = RuntimeSnapshot {
            since_ready: Some(Duration::from_secs(since_ready)),
            network: NetworkState::Ready,
            ..RuntimeSnapshot::default()
        };
        assert_eq!(messages(&snapshot, Some(relist_age)), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn handlers_are_sorted_and_the_default_one_is_among_them() {
        let snapshot = after(&response(true, true));
        let shown = |h: &NodeRuntimeHandler| {
            let features = h.features.clone().unwrap();
            (h.name.clone(), features.recursive_read_only_mounts, features.user_namespaces)
        };
        assert_eq!(
            snapshot.handlers.unwrap().iter().map(shown).collect::<Vec<_>>(),
            [
                (Some(String::new()), Some(true), Some(true)),
                (Some("kata".into()), Some(true), Some(false)),
                (Some("runc".into()), Some(true), Some(true)),
            ]
        );
        assert_eq!(snapshot.features.unwrap().supplemental_groups_policy, Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn polls_fast_until_ready_then_slowly() {
        let runtime = Arc::new(FakeRuntime::default());
        runtime.set(|state| state.status = Some(response(true, false)));
        let (monitor, mut handle) = RuntimeMonitor::new(Arc::clone(&runtime));
        let cancel = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(monitor.run(cancel.clone()));

        handle.changed().await;
        assert_eq!(handle.network_error().unwrap(), messages(&after(&response(true, false)), Some(0))[0]);
        sleep(Duration::from_secs(1)).await;
        assert!((9..=12).contains(&runtime.get().status_calls), "{}", runtime.get().status_calls);

        let before = Instant::now();
        runtime.set(|state| state.status = Some(response(true, true)));
        handle.changed().await;
        assert!(before.elapsed() <= Duration::from_millis(200), "{:?}", before.elapsed());
        assert_eq!(handle.network_error(), None);

        let calls = runtime.get().status_calls;
        sleep(Duration::from_secs(60)).await;
        assert!((11..=12).contains(&(runtime.get().status_calls - calls)));
        cancel.cancel();
        tasks.join_all().await;
    }

    #[rstest]
    #[case::refuses(false)]
    #[case::hangs(true)]
    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_is_silent_for_30_s_is_down_and_comes_back(#[case] hangs: bool) {
        let runtime = FakeRuntime::ready();
        let (monitor, mut handle) = RuntimeMonitor::new(Arc::clone(&runtime));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(monitor.run(CancellationToken::new()));
        handle.changed().await;
        assert_eq!(messages(&handle.snapshot(), Some(0)), Vec::<String>::new());

        runtime.set(|state| (state.hangs, state.status) = (hangs, None));
        let before = Instant::now();
        handle.changed().await;
        assert_eq!(messages(&handle.snapshot(), Some(0)), ["container runtime is down"]);
        assert_eq!(before.elapsed().as_secs(), 30);

        if !hangs {
            runtime.set(|state| state.status = Some(response(true, true)));
            handle.changed().await;
            assert_eq!(messages(&handle.snapshot(), Some(0)), Vec::<String>::new());
        }
    }
}
