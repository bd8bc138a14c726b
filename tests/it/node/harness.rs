//! The agent under test beside a real control plane and containerd, as `hack/isolated --cluster` gives them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ferrolet::runtime::client::{ClientSettings, RuntimeClient};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Event, Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The image of a container that does nothing.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
/// The image with a shell.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.35";

/// A variable that hack/isolated sets.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the node tests by hack/test"))
}

/// Which agent runs the node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The binary of this project.
    Ferrolet,
    /// The kubelet, for comparison and adoption.
    Peer,
}

/// A running agent; it is killed when dropped.
pub struct Agent {
    child: tokio::process::Child,
}

impl Agent {
    /// Starts an agent and waits until its node is Ready by its word: a Ready that an earlier agent left does not count.
    pub async fn start(kind: Kind) -> Agent {
        Self::start_with(kind, &[]).await
    }

    /// The same with extra flags.
    pub async fn start_with(kind: Kind, extra: &[&str]) -> Agent {
        let nodes: Api<Node> = Api::all(client().await);
        let ready = async || {
            let status = nodes.get_opt(&node_name()).await.unwrap()?.status?;
            let ready = status.conditions?.into_iter().find(|condition| condition.type_ == "Ready")?;
            Some((ready.status, ready.last_heartbeat_time?.0))
        };
        let left = ready().await.map(|(_, heartbeat)| heartbeat);
        // Heartbeats are whole seconds: the new agent's must fall into another one to be told apart.
        if let Some(left) = left {
            wait("the next second", 60, async || {
                (ferrolet::model::clock::now().as_second() > left.as_second()).then_some(())
            })
            .await;
        }
        let agent = Self::launch(kind, extra).await;
        wait("the node to be Ready", 60, async || {
            let (status, heartbeat) = ready().await?;
            (status == "True" && Some(heartbeat) != left).then_some(())
        })
        .await;
        agent
    }

    /// Starts an agent with extra flags and waits for nothing.
    pub async fn launch(kind: Kind, extra: &[&str]) -> Agent {
        let cluster = cluster_folder();
        let kubeconfig = format!("--kubeconfig={}", cluster.join("kubelet.conf").display());
        let flags: Vec<&str> = [kubeconfig.as_str()].iter().chain(extra).copied().collect();
        Self::spawn(kind, &cluster.join("kubelet.yaml"), &flags)
    }

    /// Starts an agent that knows of no API server.
    pub fn standalone(kind: Kind, config: &Path) -> Agent {
        Self::spawn(kind, config, &[])
    }

    fn spawn(kind: Kind, config: &Path, flags: &[&str]) -> Agent {
        let cluster = cluster_folder();
        let binary = match kind {
            Kind::Ferrolet => variable("FERROLET_BIN"),
            Kind::Peer => variable("FERROLET_PEER_BIN"),
        };
        let log = std::fs::OpenOptions::new().create(true).append(true).open(cluster.join("log/agent.log")).unwrap();
        let child = tokio::process::Command::new(binary)
            .arg(format!("--config={}", config.display()))
            .arg(format!("--hostname-override={}", node_name()))
            .arg(format!("--node-ip={}", variable("FERROLET_NODE_IP")))
            .arg("-v=4")
            .args(flags)
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Agent { child }
    }

    /// Kills it with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it ends by itself. Returns its exit code.
    pub async fn end(mut self) -> Option<i32> {
        tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.unwrap().unwrap().code()
    }

    /// Ends it by SIGTERM. Returns how long it took and its exit code.
    pub async fn terminate(mut self) -> (Duration, Option<i32>) {
        let began = Instant::now();
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.unwrap().unwrap();
        (began.elapsed(), status.code())
    }
}

/// The next agent finds the ports free only when the process is gone, not when it was told to go.
impl Drop for Agent {
    fn drop(&mut self) {
        // Without an id it has been waited for already.
        let Some(pid) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) else { return };
        if self.child.start_kill().is_ok() {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// `hack/component VERB NAME`: starts, stops or kills a part of the cluster.
pub async fn component(verb: &str, name: &str) {
    let status = tokio::process::Command::new(component_script()).args([verb, name]).status().await.unwrap();
    assert!(status.success(), "component {verb} {name}: {status}");
}

/// A part of the cluster that is stopped. It is started again when this is dropped, so that a failing test fails alone.
pub struct Outage {
    name: &'static str,
    is_over: bool,
}

impl Outage {
    /// Stops the part.
    pub async fn begin(name: &'static str) -> Self {
        component("stop", name).await;
        Self { name, is_over: false }
    }

    /// Starts the part.
    pub async fn end(mut self) {
        self.is_over = true;
        component("start", self.name).await;
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = std::process::Command::new(component_script()).args(["start", self.name]).status();
        }
    }
}

/// A part of the cluster that hangs. It goes on when this is dropped.
pub struct Frozen(rustix::process::Pid);

impl Frozen {
    /// Lets the part hang.
    pub async fn begin(name: &str) -> Self {
        let output = tokio::process::Command::new(component_script()).args(["pid", name]).output().await.unwrap();
        let pid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let frozen = Self(rustix::process::Pid::from_raw(pid).unwrap());
        rustix::process::kill_process(frozen.0, rustix::process::Signal::STOP).unwrap();
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

fn component_script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("hack/component")
}

/// A program that hack/ keeps beside the kubelet.
pub fn program(name: &str) -> PathBuf {
    PathBuf::from(variable("FERROLET_PEER_BIN")).with_file_name(name)
}

/// kubectl with these arguments, and nothing to read.
pub fn kubectl(arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(program("kubectl"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Where the cluster keeps its files.
pub fn cluster_folder() -> PathBuf {
    PathBuf::from(variable("FERROLET_CLUSTER"))
}

/// The node's name.
pub fn node_name() -> String {
    variable("FERROLET_NODE")
}

/// A cluster-admin's client.
pub async fn client() -> kube::Client {
    kube::Client::try_from(kube::Config::infer().await.unwrap()).unwrap()
}

/// A client of the runtime.
pub fn runtime() -> RuntimeClient {
    RuntimeClient::new(&ClientSettings::for_endpoint(variable("CONTAINER_RUNTIME_ENDPOINT"))).unwrap()
}

/// Asks until there is an answer, up to so many seconds.
pub async fn wait<T>(what: &str, seconds: u64, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "gave up waiting for {what} after {seconds} s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The status of one condition of any object.
pub fn condition(object: &impl serde::Serialize, type_: &str) -> Option<String> {
    let object = serde_json::to_value(object).unwrap();
    let conditions = object["status"]["conditions"].as_array()?.clone();
    let found = conditions.into_iter().find(|c| c["type"] == type_)?;
    found["status"].as_str().map(str::to_owned)
}

/// A namespace of its own for one test.
pub struct TestNamespace {
    /// Its name.
    pub name: String,
    /// A cluster-admin's client.
    pub client: kube::Client,
}

impl TestNamespace {
    /// Makes it and waits for its service account.
    pub async fn create(name: &str) -> Self {
        let client = client().await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), name);
        // After the API server was away, controllers look again only when their back-off is over.
        wait("the default service account", 120, async || accounts.get_opt("default").await.unwrap()).await;
        wait("the cluster's CA", 120, async || maps.get_opt("kube-root-ca.crt").await.unwrap()).await;
        TestNamespace { name: name.to_owned(), client }
    }

    /// An API of namespaced objects.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates any object.
    pub async fn create_object<K>(&self, object: Value) -> K
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + Debug,
        K::DynamicType: Default,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    /// Creates a pod on this node.
    pub async fn pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = json!(node_name());
        spec["tolerations"] = json!([{"operator": "Exists"}]);
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        self.create_object(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})).await
    }

    /// A pod with one shell script.
    pub async fn script(&self, name: &str, script: &str, restart_policy: &str) -> Pod {
        let container = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]});
        self.pod(name, json!({"restartPolicy": restart_policy, "containers": [container]})).await
    }

    /// The pod now.
    pub async fn get(&self, name: &str) -> Option<Pod> {
        self.api::<Pod>().get_opt(name).await.unwrap()
    }

    /// All pods now.
    pub async fn pods(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits for a pod to be as wished.
    pub async fn wait_pod(&self, name: &str, what: &str, seconds: u64, mut wished: impl FnMut(&Pod) -> bool) -> Pod {
        let mut last = None;
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(pod) = self.get(name).await {
                if wished(&pod) {
                    return pod;
                }
                last = Some(pod);
            }
            let status = last.as_ref().map(|p| serde_json::to_string_pretty(&p.status).unwrap());
            assert!(Instant::now() < end, "pod {name}: gave up waiting for {what}: {}", status.unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the pod is Ready.
    pub async fn wait_ready(&self, name: &str) -> Pod {
        self.wait_pod(name, "Ready", 60, |pod| condition(pod, "Ready").as_deref() == Some("True")).await
    }

    /// Waits for a phase.
    pub async fn wait_phase(&self, name: &str, phase: &str) -> Pod {
        self.wait_pod(name, phase, 60, |pod| self::phase(pod) == phase).await
    }

    /// What the container left as its termination message; the pod must have ended.
    pub async fn message(&self, name: &str) -> String {
        let pod = self.wait_pod(name, "an end", 60, |p| ["Succeeded", "Failed"].contains(&self::phase(p))).await;
        let status = container(&pod, "c");
        status.state.unwrap().terminated.unwrap().message.unwrap_or_default()
    }

    /// Deletes a pod; no grace period given leaves the pod's own.
    pub async fn delete(&self, name: &str, grace: Option<u32>) {
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        self.api::<Pod>().delete(name, &params).await.unwrap();
    }

    /// Waits until a pod is gone from the API.
    pub async fn wait_gone(&self, name: &str, seconds: u64) {
        wait(&format!("pod {name} to be gone"), seconds, async || self.get(name).await.is_none().then_some(())).await;
    }

    /// The reasons of a pod's events, with how often, and all their messages.
    pub async fn events(&self, pod: &str) -> Vec<Event> {
        let params = ListParams::default().fields(&format!("involvedObject.name={pod}"));
        self.api::<Event>().list(&params).await.unwrap().items
    }

    /// Waits for an event of a pod.
    pub async fn wait_event(&self, pod: &str, reason: &str) -> Event {
        wait(&format!("event {reason} of {pod}"), 30, async || {
            self.events(pod).await.into_iter().find(|e| e.reason.as_deref() == Some(reason))
        })
        .await
    }

    /// A merge patch of a pod or other object.
    pub async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + serde::de::DeserializeOwned + Clone + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Ids of the pods' containers by pod and container name.
    pub async fn container_ids(&self) -> BTreeMap<(String, String), String> {
        let mut ids = BTreeMap::new();
        for pod in self.pods().await {
            let name = pod.metadata.name.clone().unwrap();
            for status in pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()) {
                ids.insert((name.clone(), status.name.clone()), status.container_id.clone().unwrap_or_default());
            }
        }
        ids
    }

    /// Deletes all that is in it, waits until the pods are gone and nothing of them is left on the node.
    pub async fn clean_up(self, uids: &[String]) {
        self.api::<Pod>().delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        wait("all pods to be gone", 90, async || self.pods().await.is_empty().then_some(())).await;
        wait_nothing_left(uids).await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.name, &DeleteParams::background()).await.unwrap();
    }
}

/// A pod's phase.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// A pod's UID.
pub fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap()
}

/// The status of a container, init or regular; none before the agent has published any.
pub fn find_container(pod: &Pod, name: &str) -> Option<ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name).cloned()
}

/// The status of a container, init or regular.
pub fn container(pod: &Pod, name: &str) -> ContainerStatus {
    find_container(pod, name).unwrap_or_else(|| panic!("no status of {name}"))
}

/// The reason why a container waits.
pub fn waiting_reason(pod: &Pod, name: &str) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|c| c.name == name)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// What is left on the node of pods: containers, sandboxes, cgroups, mounts, directories, logs.
pub async fn left_of(uids: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    let runtime = runtime();
    let of = |uid: Option<&String>| uid.is_some_and(|uid| uids.contains(uid));
    for sandbox in runtime.list_pod_sandbox(None).await.unwrap() {
        if of(sandbox.labels.get("io.kubernetes.pod.uid")) {
            left.push(format!("sandbox {}", sandbox.id));
        }
    }
    for container in runtime.list_containers(None).await.unwrap() {
        if of(container.labels.get("io.kubernetes.pod.uid")) {
            left.push(format!("container {}", container.id));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|l| uids.iter().any(|u| l.contains(u.as_str()))).map(|l| format!("mount {l}")));
    for root in ["/sys/fs/cgroup", "/var/lib/kubelet/pods", "/var/log/pods"] {
        find(&PathBuf::from(root), 6, &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if uids.iter().any(|u| name.contains(u.as_str())) {
                left.push(format!("directory {}", path.display()));
            }
        });
    }
    left
}

fn find(directory: &PathBuf, depth: u32, note: &mut impl FnMut(&PathBuf)) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            note(&path);
            if depth > 0 {
                find(&path, depth - 1, note);
            }
        }
    }
}

/// Waits until nothing is left of pods.
pub async fn wait_nothing_left(uids: &[String]) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let left = left_of(uids).await;
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left on the node:\n{}", left.join("\n"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
