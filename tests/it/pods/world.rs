//! A node for tests: a fake runtime, a fake API server, folders of its own, and the agent's pod machinery on them, which can
//! be killed and started again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrolet::cgroup::{CgroupManager, CgroupSettings, Enforcement, Hierarchy};
use ferrolet::image::{ImageEvents, ImageManager, ImageSettings, NodeConfigFiles, PullSecrets, SecretError};
use ferrolet::kube::events::{EventRecorder, container_reference, pod_reference};
use ferrolet::kube::objects::{ChangeDetection, ObjectCache};
use ferrolet::kube::pods::PodSource;
use ferrolet::kube::services::ServiceCache;
use ferrolet::model::EventType;
use ferrolet::model::pod::ContainerKind;
use ferrolet::pod::admission::{AdmissionFacts, NodeView};
use ferrolet::pod::executor::{Executor, ExecutorParts};
use ferrolet::pod::list::PodList;
use ferrolet::pod::manager::{PodManager, PodManagerInputs, PodManagerParts};
use ferrolet::pod::mirror::{MirrorKeeper, NodeOwner};
use ferrolet::pod::plan::{BackoffPolicy, NodeFacts};
use ferrolet::pod::source::file::FileSource;
use ferrolet::pod::source::{Source, Sources};
use ferrolet::pod::status_writer::StatusWriter;
use ferrolet::probe::{ProbeEvents, ProbeFeatures, ProbeManager, ProbeManagerParts};
use ferrolet::runtime::translate::NodeSettings;
use ferrolet::runtime::{Observer, ObserverSettings};
use ferrolet::sys::mount::RecordingMounts;
use ferrolet::volume::{ObjectFailure, ServiceAccountToken, TokenRequest, VolumeManager, VolumeObjects};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Node, Pod, PodStatus, Secret};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::FakeApi;
use crate::fake_runtime::FakeRuntime;

/// How long a test waits for what should take much less.
pub const LIMIT: Duration = Duration::from_secs(20);

/// RPCs that change something.
const CHANGES: [&str; 7] = [
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
];

/// All that outlives the agent.
pub struct World {
    pub runtime: FakeRuntime,
    pub api: FakeApi,
    pub mounts: Arc<RecordingMounts>,
    pub events: EventRecorder,
    pub backoff: BackoffPolicy,
    pub request_timeout: Duration,
    /// What pods are judged by.
    pub admission: watch::Sender<AdmissionFacts>,
    dir: tempfile::TempDir,
}

/// The running agent. Dropped, it ends as by SIGKILL.
pub struct Agent {
    /// The pods as the agent shows them.
    pub pods: PodList,
    /// What the pods refer to.
    pub objects: Option<ObjectCache>,
    /// What is wrong with the runtime's network.
    pub network_problem: watch::Sender<Option<String>>,
    tasks: JoinSet<()>,
    // Held, as the tasks that follow them would spin once they are gone.
    _facts: watch::Sender<NodeFacts>,
    _node_owner: watch::Sender<Option<NodeOwner>>,
}

impl Agent {
    /// Ends it at once: whatever it was doing is left as it is.
    pub async fn kill(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Events(EventRecorder);

impl ImageEvents for Events {
    fn event(
        &self,
        pod: &Pod,
        kind: ContainerKind,
        container: &str,
        event_type: EventType,
        reason: &'static str,
        message: String,
    ) {
        self.0.event(&container_reference(pod, kind, container), event_type, reason, message);
    }

    fn pod_event(&self, pod: &Pod, event_type: EventType, reason: &'static str, message: String) {
        self.0.event(&pod_reference(pod), event_type, reason, message);
    }
}

impl ProbeEvents for Events {
    fn warning(&self, pod: &Pod, kind: ContainerKind, container: &str, reason: &'static str, message: String) {
        self.0.event(&container_reference(pod, kind, container), EventType::Warning, reason, message);
    }
}

/// Neither secrets nor anything else.
struct NoObjects;

impl PullSecrets for NoObjects {
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SecretError>> {
        async move { Err(format!("{name} not found").into()) }.boxed()
    }
}

fn missing<T>(kind: &str, name: &str) -> Result<T, ObjectFailure> {
    Err(ObjectFailure { message: format!("{kind} \"{name}\" not found"), not_found: true })
}

impl VolumeObjects for NoObjects {
    fn config_map<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
        async move { missing("configmap", name) }.boxed()
    }

    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        async move { missing("secret", name) }.boxed()
    }

    fn service_account_token<'a>(
        &'a self,
        request: &'a TokenRequest,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, ObjectFailure>> {
        async move { missing("serviceaccount", &request.service_account) }.boxed()
    }
}

impl World {
    /// A node with the image `busybox:1` and no pods.
    pub async fn new() -> Self {
        let runtime = FakeRuntime::start().await;
        runtime.add_image("busybox:1");
        let dir = tempfile::tempdir().unwrap();
        for folder in ["root", "logs", "cgroup"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        World {
            runtime,
            api: FakeApi::default(),
            mounts: Arc::default(),
            events: EventRecorder::recording(),
            backoff: BackoffPolicy::default(),
            request_timeout: Duration::from_secs(120),
            admission: watch::Sender::new(roomy_node()),
            dir,
        }
    }

    /// The folder of all that the node keeps.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root directory.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The pods' logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    /// The folder of static pods, which is made by the first of them.
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Starts the agent, wired as the program does it.
    pub async fn agent(&self) -> Agent {
        self.agent_with(Some(self.api.client())).await
    }

    /// Starts an agent that knows of no API server.
    pub async fn standalone_agent(&self) -> Agent {
        self.agent_with(None).await
    }

    async fn agent_with(&self, client: Option<kube::Client>) -> Agent {
        let runtime = self.runtime.client_with_timeout(self.request_timeout);
        let observer = Observer::new(runtime.clone(), ObserverSettings::default());
        let volumes = VolumeManager::new(self.root(), Arc::new(NoObjects), self.mounts.clone());
        volumes.prepare_root().await.unwrap();
        let settings =
            CgroupSettings { cgroups_per_qos: false, enforce: Enforcement::default(), ..CgroupSettings::default() };
        let hierarchy = Hierarchy::v2(self.dir.path().join("cgroup"), "cpu cpuset memory pids", Vec::new());
        let cgroups = CgroupManager::new(settings, hierarchy).unwrap();
        let image_settings = ImageSettings {
            serialize: false,
            max_parallel: None,
            pull_qps: 0.0,
            pull_burst: 0,
            node_config: NodeConfigFiles::default(),
        };
        let images = ImageManager::new(
            image_settings,
            None,
            Arc::new(runtime.clone()),
            Arc::new(NoObjects),
            Arc::new(Events(self.events.clone())),
        );
        let services = client.clone().map(ServiceCache::new);
        let node = NodeSettings {
            root_dir: self.root().display().to_string(),
            pod_logs_dir: self.logs().display().to_string(),
            ..NodeSettings::default()
        };
        let facts = NodeFacts {
            host_ips: vec!["192.0.2.1".to_owned()],
            runtime_name: "fake".to_owned(),
            backoff: self.backoff,
            ..NodeFacts::default()
        };
        let (facts, node_facts) = watch::channel(facts);
        let (problem_sender, network_problem) = watch::channel(None);
        let probes = ProbeManager::new(ProbeManagerParts {
            runtime: runtime.clone(),
            events: Arc::new(Events(self.events.clone())),
            features: ProbeFeatures::default(),
        });
        let executor = Arc::new(Executor::new(ExecutorParts {
            runtime,
            observer: observer.clone(),
            images,
            volumes: volumes.clone(),
            cgroups: cgroups.clone(),
            events: self.events.clone(),
            objects: None,
            services: services.clone(),
            client: client.clone(),
            node: Arc::new(node),
            facts: node_facts.clone(),
            ids_per_pod: 65_536,
            network_problem,
            resolv_conf: PathBuf::new(),
            parallel_calls: 4,
        }));
        let busy: Arc<dyn Fn() -> bool + Send + Sync> = {
            let executor = executor.clone();
            Arc::new(move || executor.is_busy())
        };
        let status_writer = client.clone().map(|client| StatusWriter::new(client, busy));
        let owner = NodeOwner { name: "node".to_owned(), uid: "node-uid".to_owned(), deleting: false };
        let (owner_sender, owner) = watch::channel(Some(owner));
        let (keeper, mirrors) = client.clone().map(|client| MirrorKeeper::new(client, owner)).unzip();
        let objects = client.clone().map(|client| ObjectCache::new(client, ChangeDetection::Get));
        let manager = PodManager::new(PodManagerParts {
            executor,
            status_writer: status_writer.clone(),
            node: node_facts,
            probes: probes.clone(),
            observer: observer.clone(),
            volumes,
            cgroups,
            objects: objects.clone(),
            mirrors,
            admission: self.admission.subscribe(),
            read_node: None,
        });
        let (source, pods) = client.map(|client| PodSource::new(client, "node")).unzip();
        let (files, static_pods) = FileSource::new(&self.manifests(), "node", Duration::from_secs(20));
        let sources = Sources::new(pods).with(Source::File, static_pods);
        let pods = manager.pods();
        let (hint_sender, hints) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(files.run(cancel.clone()));
        if let (Some(services), Some(source), Some(writer), Some(keeper)) = (services, source, status_writer, keeper) {
            tasks.spawn(services.run(cancel.clone()));
            tasks.spawn(source.run(cancel.clone()));
            tasks.spawn(writer.run(cancel.clone()));
            tasks.spawn(keeper.run(cancel.clone()));
        }
        let token = cancel.clone();
        tasks.spawn(async move { observer.run(hint_sender, token).await });
        tasks.spawn(probes.run(cancel.clone()));
        tasks.spawn(manager.run(PodManagerInputs { sources, hints, objects: None }, cancel));
        Agent { pods, objects, network_problem: problem_sender, tasks, _facts: facts, _node_owner: owner_sender }
    }

    /// The calls so far for a pod that change something, as `RPC container`.
    pub fn changes(&self, name: &str) -> Vec<String> {
        let uid = uid(name);
        let calls = self.runtime.calls().into_iter();
        let calls = calls.filter(|call| call.pod_uid == uid && CHANGES.contains(&call.rpc));
        calls.map(|call| format!("{} {}", call.rpc, call.container).trim_end().to_owned()).collect()
    }

    /// How often an RPC was called for a pod.
    pub fn count(&self, name: &str, rpc: &str) -> usize {
        self.runtime.calls_of(rpc).iter().filter(|call| call.pod_uid == uid(name)).count()
    }

    /// The messages of a pod's events with that reason.
    pub fn told(&self, name: &str, reason: &str) -> Vec<String> {
        let events = self.events.recorded().into_iter();
        let of_pod = events.filter(|event| event.object.name.as_deref() == Some(name) && event.reason == reason);
        of_pod.map(|event| event.message).collect()
    }

    /// The reasons of a pod's events.
    pub fn reasons(&self, name: &str) -> Vec<String> {
        let events = self.events.recorded().into_iter();
        events.filter(|event| event.object.name.as_deref() == Some(name)).map(|event| event.reason).collect()
    }

    /// A pod's status in the API.
    pub fn status(&self, name: &str) -> Option<PodStatus> {
        self.api.pod(name)?.status
    }

    /// Waits until the API shows a pod as wanted; its status then.
    pub async fn until_status(&self, what: &str, name: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let end = Instant::now() + LIMIT;
        loop {
            let status = self.status(name);
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            if Instant::now() >= end {
                self.give_up(what, &[name]);
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Waits until a pod is Ready.
    pub async fn until_ready(&self, name: &str) -> PodStatus {
        self.until_status("Ready", name, is_ready).await
    }

    /// Waits until all these pods are Ready.
    pub async fn until_all_ready(&self, names: &[String]) {
        for name in names {
            self.until_ready(name).await;
        }
    }

    /// Waits until these pods are gone from the API and nothing of any pod is left on the node.
    pub async fn until_gone(&self, names: &[&str]) {
        let gone = || {
            names.iter().all(|name| self.api.pod(name).is_none())
                && self.runtime.snapshot().is_empty()
                && self.mounts.mounted().is_empty()
                && is_empty(&self.root().join("pods"))
                && is_empty(&self.logs())
        };
        self.until("gone without a trace", names, gone).await;
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, names: &[&str], holds: impl Fn() -> bool) {
        let end = Instant::now() + LIMIT;
        while !holds() {
            if Instant::now() >= end {
                self.give_up(what, names);
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Waits until an RPC was called so often for a pod.
    pub async fn until_called(&self, name: &str, rpc: &str, times: usize) {
        let what = format!("{times} x {rpc}");
        self.until(&what, &[name], || self.count(name, rpc) >= times).await;
    }

    /// Asserts that what must never happen did not.
    pub fn assert_sound(&self) {
        assert_eq!(self.runtime.violations(), Vec::<String>::new());
    }

    fn give_up(&self, what: &str, names: &[&str]) -> ! {
        let name =
            names.iter().find(|name| self.api.pod(name).is_some()).or(names.first()).copied().unwrap_or_default();
        let snapshot = self.runtime.snapshot();
        let state: Vec<_> = snapshot.containers.iter().map(|c| (&c.id, &c.pod_uid, &c.name, c.state)).collect();
        let sandboxes: Vec<_> = snapshot.sandboxes.iter().map(|s| (&s.id, &s.pod_uid, s.attempt, s.ready)).collect();
        panic!(
            "{what}: still not so; {name} in the API: {:#?}\nits calls: {:?}\nits writes: {:?}\nits events: {:?}\n\
             sandboxes: {sandboxes:?}\ncontainers: {state:?}\nmounts: {:?}\npods on disk: {:?}\nlogs: {:?}",
            self.api.pod(name).map(|pod| (pod.metadata, pod.status)),
            self.changes(name),
            self.api.writes_of(name),
            self.reasons(name),
            self.mounts.mounted(),
            entries(&self.root().join("pods")),
            entries(&self.logs()),
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The links for log collectors stand in the host's own folder; those of pods that a test left go with it.
        for link in entries(Path::new("/var/log/containers")) {
            if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(self.dir.path())) {
                let _ = std::fs::remove_file(link);
            }
        }
    }
}

/// A node named `node` with 110 pods, 4 CPUs and 8 GiB of memory to give.
pub fn roomy_node() -> AdmissionFacts {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "node", "labels": {"kubernetes.io/os": "linux"}},
        "status": {"allocatable": {"pods": "110", "cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi"}},
    }))
    .unwrap();
    AdmissionFacts { node: Some(Arc::new(NodeView::from(&node))), is_node_settled: true, ..AdmissionFacts::default() }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn is_empty(directory: &Path) -> bool {
    entries(directory).is_empty()
}

/// The UID of the pod of that name.
pub fn uid(name: &str) -> String {
    format!("uid-{name}")
}

/// A container of the image `busybox:1`.
pub fn container(name: &str) -> Value {
    json!({"name": name, "image": "busybox:1", "imagePullPolicy": "IfNotPresent"})
}

/// A pod with one container `app`.
pub fn pod(name: &str) -> Value {
    pod_with(name, json!({}))
}

/// The same with other fields of its spec.
pub fn pod_with(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid(name)},
        "spec": {
            "nodeName": "node",
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "Default",
            "containers": [container("app")],
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

/// The pod's condition `Ready`.
pub fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The status of a container.
pub fn container_status<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|container| container.name == name)
}

/// How often a container was restarted.
pub fn restarts(status: &PodStatus, name: &str) -> i32 {
    container_status(status, name).map_or(0, |container| container.restart_count)
}

/// Why a container waits.
pub fn waiting<'a>(status: &'a PodStatus, name: &str) -> Option<&'a str> {
    container_status(status, name)?.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// Exit code and reason of a container's last end.
pub fn last_end(status: &PodStatus, name: &str) -> Option<(i32, String)> {
    let ended = container_status(status, name)?.last_state.as_ref()?.terminated.as_ref()?;
    Some((ended.exit_code, ended.reason.clone().unwrap_or_default()))
}
