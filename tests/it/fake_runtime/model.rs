//! What the fake runtime holds: sandboxes, containers, images.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use ferrolet::model::clock;
use ferrolet::runtime::{cri, labels};
use tonic::Status;

use super::streaming::StreamAnswer;

/// What a container's process does.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// Runs until it is told to end, then ends at once with code 143.
    Run,
    /// Ends by itself.
    Exit {
        /// So long after its start.
        after: Duration,
        /// With this code.
        code: i32,
    },
    /// Runs until it is told to end, and takes its time then.
    ExitOnTerm {
        /// How long it takes.
        after: Duration,
        /// With this code.
        code: i32,
    },
    /// Runs until it is killed.
    IgnoreTerm,
    /// Cannot be started: the container ends with code 128 and reason `StartError`.
    FailStart {
        /// The runtime's words.
        message: String,
    },
}

/// How pulls of an image go.
#[derive(Clone, Debug, Default)]
pub struct PullScript {
    /// How long a pull takes.
    pub takes: Duration,
    /// Errors of the first pulls.
    pub errors: VecDeque<String>,
    /// The only user that may pull it; none lets everybody.
    pub wants_user: Option<String>,
}

pub(super) struct Sandbox {
    pub config: cri::PodSandboxConfig,
    pub runtime_handler: String,
    pub created_at: i64,
    pub ready: bool,
    pub ip: String,
}

pub(super) struct Container {
    pub sandbox_id: String,
    pub config: cri::ContainerConfig,
    pub log_path: String,
    pub image_ref: String,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub state: cri::ContainerState,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub behaviour: Behaviour,
}

pub(super) struct Image {
    pub uid: Option<i64>,
    pub username: String,
}

/// Sandboxes and containers as lists give them.
pub(super) type Lists = (Vec<cri::PodSandbox>, Vec<cri::Container>);

pub(super) struct Model {
    pub sandboxes: BTreeMap<String, Sandbox>,
    pub containers: BTreeMap<String, Container>,
    pub images: BTreeMap<String, Image>,
    pub behaviours: HashMap<String, VecDeque<Behaviour>>,
    pub pull_scripts: HashMap<String, PullScript>,
    pub frozen_lists: Option<Lists>,
    pub hidden: HashSet<String>,
    pub violations: Vec<String>,
    pub runtime_ready: bool,
    pub network_ready: bool,
    pub pod_cidr: String,
    pub stream_url: String,
    pub stream_answer: StreamAnswer,
    pub stream_requests: Vec<String>,
    made: u64,
    last_time: i64,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            behaviours: HashMap::new(),
            pull_scripts: HashMap::new(),
            frozen_lists: None,
            hidden: HashSet::new(),
            violations: Vec::new(),
            runtime_ready: true,
            network_ready: true,
            pod_cidr: String::new(),
            stream_url: "http://127.0.0.1:1".to_owned(),
            stream_answer: StreamAnswer::default(),
            stream_requests: Vec::new(),
            made: 0,
            last_time: 0,
        }
    }
}

/// All that exists at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// In order of creation.
    pub sandboxes: Vec<SandboxView>,
    /// In order of creation.
    pub containers: Vec<ContainerView>,
    /// By name.
    pub images: Vec<ImageView>,
}

/// A sandbox in a snapshot.
#[derive(Clone, Debug)]
pub struct SandboxView {
    pub id: String,
    pub pod_uid: String,
    pub pod_name: String,
    pub attempt: u32,
    pub ready: bool,
    pub ip: String,
    pub runtime_handler: String,
    pub config: cri::PodSandboxConfig,
}

/// A container in a snapshot.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub id: String,
    pub sandbox_id: String,
    pub pod_uid: String,
    pub name: String,
    pub attempt: u32,
    pub state: cri::ContainerState,
    pub exit_code: i32,
    pub config: cri::ContainerConfig,
}

/// An image in a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageView {
    pub name: String,
    pub id: String,
}

impl ContainerView {
    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        self.state == cri::ContainerState::ContainerRunning
    }
}

impl Snapshot {
    /// Nothing of any pod.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// The containers of a pod.
    pub fn containers_of<'a>(&'a self, pod_uid: &'a str) -> impl Iterator<Item = &'a ContainerView> {
        self.containers.iter().filter(move |c| c.pod_uid == pod_uid)
    }

    /// The sandboxes of a pod.
    pub fn sandboxes_of<'a>(&'a self, pod_uid: &'a str) -> impl Iterator<Item = &'a SandboxView> {
        self.sandboxes.iter().filter(move |s| s.pod_uid == pod_uid)
    }

    /// Names of a pod's running containers, in order of creation.
    pub fn running<'a>(&'a self, pod_uid: &'a str) -> Vec<&'a str> {
        self.containers_of(pod_uid).filter(|c| c.is_running()).map(|c| c.name.as_str()).collect()
    }
}

impl Sandbox {
    pub(super) fn metadata(&self) -> cri::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    pub(super) fn is_host_network(&self) -> bool {
        let context = self.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let options = context.and_then(|c| c.namespace_options.as_ref());
        options.is_some_and(|o| o.network() == cri::NamespaceMode::Node)
    }

    pub(super) fn state(&self) -> cri::PodSandboxState {
        if self.ready { cri::PodSandboxState::SandboxReady } else { cri::PodSandboxState::SandboxNotready }
    }

    pub(super) fn status(&self, id: &str) -> cri::PodSandboxStatus {
        let context = self.config.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let options = context.and_then(|c| c.namespace_options.clone());
        cri::PodSandboxStatus {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            network: Some(cri::PodSandboxNetworkStatus {
                ip: if self.ready { self.ip.clone() } else { String::new() },
                additional_ips: Vec::new(),
            }),
            linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }
}

impl Container {
    pub(super) fn name(&self) -> String {
        self.config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default()
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == cri::ContainerState::ContainerRunning
    }

    pub(super) fn status(&self, id: &str) -> cri::ContainerStatus {
        let linux = self.config.linux.as_ref();
        let user = linux.and_then(|l| l.security_context.as_ref()).and_then(|c| c.run_as_user.as_ref());
        cri::ContainerStatus {
            id: id.to_owned(),
            metadata: self.config.metadata.clone(),
            state: self.state.into(),
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            image: Some(cri::ImageSpec {
                image: self.config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
                ..Default::default()
            }),
            image_ref: self.image_ref.clone(),
            reason: self.reason.clone(),
            message: self.message.clone(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: self.log_path.clone(),
            resources: linux
                .and_then(|l| l.resources.clone())
                .map(|resources| cri::ContainerResources { linux: Some(resources), windows: None }),
            user: Some(cri::ContainerUser {
                linux: Some(cri::LinuxContainerUser { uid: user.map_or(0, |user| user.value), ..Default::default() }),
            }),
            ..Default::default()
        }
    }
}

impl Model {
    /// A new id that tells what it is of.
    pub(super) fn new_id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}-{:04}", self.made)
    }

    /// The wall clock, never the same twice.
    pub(super) fn now(&mut self) -> i64 {
        let now = i64::try_from(clock::now().as_nanosecond()).expect("a time of this age");
        self.last_time = now.max(self.last_time + 1);
        self.last_time
    }

    pub(super) fn new_ip(&self) -> String {
        format!("10.88.{}.{}", self.made / 250, self.made % 250 + 2)
    }

    pub(super) fn next_behaviour(&mut self, container: &str) -> Behaviour {
        match self.behaviours.get_mut(container) {
            Some(all) if all.len() > 1 => all.pop_front().unwrap_or(Behaviour::Run),
            Some(all) => all.front().cloned().unwrap_or(Behaviour::Run),
            None => Behaviour::Run,
        }
    }

    /// Pod UID and container name of a sandbox or container.
    pub(super) fn describe(&self, id: &str) -> (String, String) {
        if let Some(container) = self.containers.get(id) {
            return (self.pod_uid_of(&container.sandbox_id), container.name());
        }
        (self.pod_uid_of(id), String::new())
    }

    pub(super) fn pod_uid_of(&self, sandbox_id: &str) -> String {
        self.sandboxes.get(sandbox_id).map(|s| s.metadata().uid).unwrap_or_default()
    }

    pub(super) fn sandbox(&self, id: &str) -> Result<&Sandbox, Status> {
        let missing =
            || Status::not_found(format!("an error occurred when try to find sandbox: sandbox {id:?}: not found"));
        self.sandboxes.get(id).ok_or_else(missing)
    }

    pub(super) fn container(&self, id: &str) -> Result<&Container, Status> {
        let missing = || {
            Status::not_found(format!(
                "an error occurred when try to find container {id:?}: container {id:?}: not found"
            ))
        };
        self.containers.get(id).ok_or_else(missing)
    }

    pub(super) fn lists(&self) -> Lists {
        let sandboxes = self.sandboxes.iter().map(|(id, s)| cri::PodSandbox {
            id: id.clone(),
            metadata: s.config.metadata.clone(),
            state: s.state().into(),
            created_at: s.created_at,
            labels: s.config.labels.clone(),
            annotations: s.config.annotations.clone(),
            runtime_handler: s.runtime_handler.clone(),
        });
        let containers = self.containers.iter().map(|(id, c)| cri::Container {
            id: id.clone(),
            pod_sandbox_id: c.sandbox_id.clone(),
            metadata: c.config.metadata.clone(),
            image: c.config.image.clone(),
            image_ref: c.image_ref.clone(),
            state: c.state.into(),
            created_at: c.created_at,
            labels: c.config.labels.clone(),
            annotations: c.config.annotations.clone(),
            image_id: c.image_ref.clone(),
        });
        (sandboxes.collect(), containers.collect())
    }

    /// What lists answer: the truth, or what it was once.
    pub(super) fn shown_lists(&self) -> Lists {
        self.frozen_lists.clone().unwrap_or_else(|| self.lists())
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut sandboxes: Vec<_> = self.sandboxes.iter().collect();
        sandboxes.sort_by_key(|(_, s)| s.created_at);
        let mut containers: Vec<_> = self.containers.iter().collect();
        containers.sort_by_key(|(_, c)| c.created_at);
        Snapshot {
            sandboxes: sandboxes
                .into_iter()
                .map(|(id, s)| SandboxView {
                    id: id.clone(),
                    pod_uid: s.metadata().uid,
                    pod_name: s.metadata().name,
                    attempt: s.metadata().attempt,
                    ready: s.ready,
                    ip: s.ip.clone(),
                    runtime_handler: s.runtime_handler.clone(),
                    config: s.config.clone(),
                })
                .collect(),
            containers: containers
                .into_iter()
                .map(|(id, c)| ContainerView {
                    id: id.clone(),
                    sandbox_id: c.sandbox_id.clone(),
                    pod_uid: c.config.labels.get(labels::POD_UID).cloned().unwrap_or_default(),
                    name: c.name(),
                    attempt: c.config.metadata.as_ref().map_or(0, |m| m.attempt),
                    state: c.state,
                    exit_code: c.exit_code,
                    config: c.config.clone(),
                })
                .collect(),
            images: self.images.keys().map(|name| ImageView { name: name.clone(), id: image_id(name) }).collect(),
        }
    }

    pub(super) fn add_image(&mut self, name: &str, uid: Option<i64>, username: &str) {
        let image = Image { uid, username: username.to_owned() };
        self.images.insert(name.to_owned(), image);
    }

    /// The name of an image that is on the node, found by name or id.
    pub(super) fn find_image(&self, name_or_id: &str) -> Option<String> {
        let by_name = self.images.contains_key(name_or_id).then(|| name_or_id.to_owned());
        by_name.or_else(|| self.images.keys().find(|name| image_id(name) == name_or_id).cloned())
    }
}

/// The id of an image: the same for the same name.
pub(super) fn image_id(name: &str) -> String {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex:0<64.64}")
}
