//! A container runtime for tests: a real CRI server on a socket of its own, with pods in memory instead of processes, faults
//! on request, and a log of all calls.
//!
//! ```ignore
//! let runtime = FakeRuntime::start().await;
//! runtime.add_image("busybox:1");
//! runtime.on_start("app", Behaviour::Exit { after: Duration::from_millis(50), code: 1 });
//! runtime.fail("RunPodSandbox", 2, Status::unavailable("no network"));
//! // ... the agent works on runtime.endpoint() ...
//! assert!(runtime.violations().is_empty());
//! ```

#![allow(dead_code, unused_imports, reason = "a toolbox: not every test needs every tool")]

mod faults;
mod images;
mod model;
mod pods;
mod runtime_service;
pub mod sample;
mod streaming;
mod transport;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrolet::runtime::{ClientSettings, RuntimeClient, cri};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

pub use faults::{Call, Gate};
pub use streaming::StreamAnswer;

pub use model::{Behaviour, ContainerView, ImageView, PullScript, SandboxView, Snapshot};

use faults::Faults;
use model::Model;

/// A fake container runtime. Its tasks end when it is dropped.
pub struct FakeRuntime {
    shared: Arc<Shared>,
    // Holds the socket's folder for as long as the runtime lives.
    _dir: tempfile::TempDir,
    socket: PathBuf,
    server: tokio::sync::Mutex<Option<transport::Server>>,
}

/// What the server's tasks share with the tests.
pub(crate) struct Shared {
    model: Mutex<Model>,
    faults: Mutex<Faults>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl FakeRuntime {
    /// Starts a runtime that serves on a new socket.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the socket");
        let socket = dir.path().join("runtime.sock");
        let shared = Arc::new(Shared {
            model: Mutex::new(Model::default()),
            faults: Mutex::new(Faults::default()),
            events: broadcast::channel(4096).0,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let server = transport::Server::start(&socket, &shared);
        FakeRuntime { shared, _dir: dir, socket, server: tokio::sync::Mutex::new(Some(server)) }
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The socket as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A new client with the default deadline.
    pub fn client(&self) -> RuntimeClient {
        RuntimeClient::new(&ClientSettings::for_endpoint(self.endpoint())).expect("a client")
    }

    /// A new client whose calls may take so long.
    pub fn client_with_timeout(&self, request_timeout: Duration) -> RuntimeClient {
        let settings = ClientSettings { request_timeout, ..ClientSettings::for_endpoint(self.endpoint()) };
        RuntimeClient::new(&settings).expect("a client")
    }

    // Images.

    /// Puts an image on the node.
    pub fn add_image(&self, name: &str) {
        self.shared.model().add_image(name, None, "");
    }

    /// Puts an image on the node that asks for a user.
    pub fn add_image_with_user(&self, name: &str, uid: Option<i64>, username: &str) {
        self.shared.model().add_image(name, uid, username);
    }

    /// Says how pulls of an image go; without, each pull works at once.
    pub fn on_pull(&self, name: &str, script: PullScript) {
        self.shared.model().pull_scripts.insert(name.to_owned(), script);
    }

    // Containers.

    /// Says what the processes of containers of that name do; without, they run until they are told to end.
    pub fn on_start(&self, container: &str, behaviour: Behaviour) {
        self.on_starts(container, [behaviour]);
    }

    /// Says what one start after the other does; the last goes on for all that follow.
    pub fn on_starts(&self, container: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        let behaviours = behaviours.into_iter().collect();
        self.shared.model().behaviours.insert(container.to_owned(), behaviours);
    }

    /// Ends a container's process, as if it did so itself.
    pub fn kill_container(&self, id: &str, code: i32) {
        self.shared.exit(id, code, None);
    }

    /// Ends a container's process as the kernel does when memory is short.
    pub fn oom_kill_container(&self, id: &str) {
        self.shared.exit(id, 137, Some("OOMKilled"));
    }

    /// Lets a container have ended so much earlier.
    pub fn age_exit(&self, id: &str, by: Duration) {
        if let Some(container) = self.shared.model().containers.get_mut(id) {
            container.finished_at -= i64::try_from(by.as_nanos()).expect("a short time");
        }
    }

    /// The running container of that name in a pod.
    pub fn running_container(&self, pod_uid: &str, name: &str) -> Option<ContainerView> {
        self.snapshot().containers.into_iter().find(|c| c.pod_uid == pod_uid && c.name == name && c.is_running())
    }

    /// Takes a sandbox and its containers down, as when the pause process dies.
    pub fn kill_sandbox(&self, id: &str) {
        self.shared.stop_sandbox(id);
    }

    /// Removes a container behind the agent's back.
    pub fn lose_container(&self, id: &str) {
        self.shared.remove_container(id);
    }

    // Streams.

    /// Serves the streams that `Exec`, `Attach` and `PortForward` promise.
    pub async fn serve_streams(&self) {
        let address = streaming::serve(&self.shared).await;
        self.shared.model().stream_url = format!("http://{address}");
    }

    /// Says where streams are promised to be.
    pub fn promise_streams(&self, url: &str) {
        self.shared.model().stream_url = url.to_owned();
    }

    /// Says what the streaming server does from now on.
    pub fn on_stream(&self, answer: StreamAnswer) {
        self.shared.model().stream_answer = answer;
    }

    /// The heads of the requests for streams so far.
    pub fn stream_requests(&self) -> Vec<String> {
        self.shared.model().stream_requests.clone()
    }

    // Faults.

    /// Lets the next `times` calls fail without doing anything.
    pub fn fail(&self, rpc: &str, times: usize, status: Status) {
        self.shared.faults().fail(rpc, times, status);
    }

    /// Lets the next `times` calls work, but the answer gets lost: the caller sees `Unavailable`.
    pub fn lose_answers(&self, rpc: &str, times: usize) {
        self.shared.faults().lose_answers(rpc, times);
    }

    /// Takes so long for each call from now on, before doing anything.
    pub fn delay(&self, rpc: &str, by: Duration) {
        self.shared.faults().delay(rpc, by);
    }

    /// Lets calls wait, before doing anything, until the gate is dropped.
    pub fn hold(&self, rpc: &str) -> Gate {
        self.shared.faults().hold(rpc)
    }

    /// Answers lists from now on with what they hold now, whatever happens, until [`FakeRuntime::thaw_lists`].
    pub fn freeze_lists(&self) {
        let mut model = self.shared.model();
        let lists = model.lists();
        model.frozen_lists = Some(lists);
    }

    /// Lets lists tell the truth again.
    pub fn thaw_lists(&self) {
        self.shared.model().frozen_lists = None;
    }

    /// Lists a container or sandbox still, but knows nothing of it when asked for its status.
    pub fn hide_status(&self, id: &str) {
        self.shared.model().hidden.insert(id.to_owned());
    }

    /// Loses all events, as long as set.
    pub fn mute_events(&self, mute: bool) {
        self.shared.faults().events_muted = mute;
    }

    /// Whether the runtime knows the event stream at all; changes new streams only.
    pub fn support_events(&self, supported: bool) {
        self.shared.faults().events_unsupported = !supported;
    }

    /// Sets the conditions that `Status` gives, as readiness of runtime and network.
    pub fn set_ready(&self, runtime: bool, network: bool) {
        let mut model = self.shared.model();
        (model.runtime_ready, model.network_ready) = (runtime, network);
    }

    /// Breaks all connections and serves no more; what runs goes on.
    pub async fn stop(&self) {
        if let Some(server) = self.server.lock().await.take() {
            server.stop().await;
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Serves again after [`FakeRuntime::stop`].
    pub async fn resume(&self) {
        let mut server = self.server.lock().await;
        if server.is_none() {
            *server = Some(transport::Server::start(&self.socket, &self.shared));
        }
    }

    /// Breaks all connections, is away for so long, and serves again on the same socket; what ran goes on.
    pub async fn restart(&self, down_for: Duration) {
        self.stop().await;
        tokio::time::sleep(down_for).await;
        self.resume().await;
    }

    // What was seen.

    /// All calls so far, by their start.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.faults().calls()
    }

    /// The calls of one RPC so far.
    pub fn calls_of(&self, rpc: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.rpc == faults::known(rpc)).collect()
    }

    /// Waits until so many more calls have come. Wakes before the last of them is answered.
    pub async fn calls_to_come(&self, number: u64) {
        let mut come = self.shared.faults().come.subscribe();
        let wanted = *come.borrow() + number;
        // The sender lives as long as the runtime.
        let _ = come.wait_for(|come| *come >= wanted).await;
    }

    /// Forgets the calls so far that are over.
    pub fn clear_calls(&self) {
        self.shared.faults().clear_calls();
    }

    /// All that exists now.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.model().snapshot()
    }

    /// What must never happen and did: two containers of one name running in a pod, two ready sandboxes of a pod.
    pub fn violations(&self) -> Vec<String> {
        self.shared.model().violations.clone()
    }

    /// Waits until what exists is as wanted.
    ///
    /// # Panics
    /// When it is not after ten seconds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let snapshot = self.snapshot();
            if wanted(&snapshot) {
                return snapshot;
            }
            assert!(tokio::time::Instant::now() < end, "{what}: still not so: {snapshot:#?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
