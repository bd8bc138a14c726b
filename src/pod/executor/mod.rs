//! Carries out a plan's actions. An executor never decides: it does what an action says, turns what went wrong into a
//! [`Failure`] with the first cause, and tells it by an event.
//!
//! [`sandbox`] makes and ends sandboxes, [`container`] creates, starts and stops containers, [`hooks`] runs their lifecycle
//! hooks, [`teardown`] removes what a pod leaves on the node, once what [`file_work`] still does there has ended.

mod container;
mod file_work;
mod hooks;
mod limits;
mod resolver;
mod sandbox;
mod teardown;
mod user_namespaces;

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::file_work::FileWork;
use self::hooks::container_kind;
use self::limits::Limits;
use self::resolver::ResolverFile;
use self::user_namespaces::UserNamespaces;
use super::plan::{Action, Failure, NodeEnd, NodeFacts, Outcome, ReadyImage};
use crate::cgroup::CgroupManager;
use crate::image::{EnsuredImage, ImageError, ImageManager, ImageRequest, PullPolicy};
use crate::kube::error::chain;
use crate::kube::events::{EventRecorder, container_reference, pod_reference};
use crate::kube::objects::ObjectCache;
use crate::kube::services::ServiceCache;
use crate::model::EventType;
use crate::model::observation::PodObservation;
use crate::model::pod::{self, ContainerKind, PodKey, PodUid};
use crate::runtime::client::RuntimeClient;
use crate::runtime::error::RuntimeError;
use crate::runtime::observer::Observer;
use crate::runtime::translate::NodeSettings;
use crate::volume::{MountedVolumes, VolumeManager};

/// Pods read from the runtime at the same time.
const PARALLEL_OBSERVATIONS: usize = 16;

/// What the executor works with.
pub struct ExecutorParts {
    /// The runtime.
    pub runtime: RuntimeClient,
    /// Reads pods from the runtime.
    pub observer: Observer,
    /// Pulls images.
    pub images: ImageManager,
    /// Mounts volumes.
    pub volumes: VolumeManager,
    /// The cgroup tree.
    pub cgroups: CgroupManager,
    /// Records events.
    pub events: EventRecorder,
    /// ConfigMaps and Secrets; none without an API server.
    pub objects: Option<ObjectCache>,
    /// Services, for environment variables; none without an API server.
    pub services: Option<ServiceCache>,
    /// For RuntimeClass objects; none without an API server.
    pub client: Option<::kube::Client>,
    /// The node's settings for translation.
    pub node: Arc<NodeSettings>,
    /// What plans and containers know of the node.
    pub facts: tokio::sync::watch::Receiver<NodeFacts>,
    /// How many user ids a pod with a user namespace of its own gets (`userNamespaces.idsPerPod`).
    pub ids_per_pod: u32,
    /// Why the runtime's network is not ready, if it is not.
    pub network_problem: tokio::sync::watch::Receiver<Option<String>>,
    /// The host's resolver configuration (`resolvConf`); empty if there is none.
    pub resolv_conf: PathBuf,
    /// How many starts and stops are asked of the runtime at the same time.
    pub parallel_calls: usize,
}

/// Carries out actions for all pods.
pub struct Executor {
    parts: ExecutorParts,
    limits: Limits,
    observations: Semaphore,
    resolver: ResolverFile,
    user_namespaces: Arc<UserNamespaces>,
    files: FileWork,
}

/// The pod that an action is for.
#[derive(Clone)]
pub struct PodContext {
    /// The pod as its source last gave it.
    pub pod: Arc<Pod>,
    /// Its key.
    pub key: PodKey,
    /// Its volumes, once mounted.
    pub volumes: Option<Arc<MountedVolumes>>,
    /// Cancelled once the pod must end.
    pub ending: CancellationToken,
}

/// How an action ended, with what later actions need of it.
pub struct Executed {
    /// What the plan is told.
    pub outcome: Outcome,
    /// The volumes, from mounting them.
    pub volumes: Option<Arc<MountedVolumes>>,
}

impl From<Outcome> for Executed {
    fn from(outcome: Outcome) -> Self {
        Executed { outcome, volumes: None }
    }
}

impl From<Result<(), Failure>> for Executed {
    fn from(result: Result<(), Failure>) -> Self {
        Outcome::from(result).into()
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Failure { reason: error.reason.to_owned(), message: error.message, retry_at: error.retry_at }
    }
}

impl Executor {
    /// An executor over the node's managers.
    pub fn new(parts: ExecutorParts) -> Self {
        let limits = Limits::new(parts.parallel_calls);
        let pods = user_namespaces::pods_directory(&parts.node.root_dir);
        let user_namespaces = Arc::new(UserNamespaces::new(pods, parts.ids_per_pod));
        let resolver = ResolverFile::new(parts.resolv_conf.clone());
        let observations = Semaphore::new(PARALLEL_OBSERVATIONS);
        Executor { parts, limits, observations, resolver, user_namespaces, files: FileWork::default() }
    }

    /// Whether starts and stops wait for each other.
    pub fn is_busy(&self) -> bool {
        self.limits.is_busy()
    }

    /// Since when many pods start or end at once; none if they do not.
    pub fn in_burst_since(&self) -> Option<Instant> {
        self.limits.in_burst_since()
    }

    /// What the runtime holds of a pod.
    pub async fn observe(&self, uid: &PodUid) -> Result<PodObservation, RuntimeError> {
        // All pods are read at once when the agent starts, and when the runtime is back.
        let _permit = self.observations.acquire().await;
        self.parts.observer.observe(uid).await
    }

    /// Whether something was told of the pod that no observation has shown since.
    pub fn has_news(&self, uid: &PodUid) -> bool {
        self.parts.observer.has_news(uid)
    }

    /// Carries out one action.
    pub async fn execute(&self, context: &PodContext, action: &Action) -> Executed {
        match action {
            Action::CreateCgroup => self.create_cgroup(context).await.into(),
            Action::ResolveReferences => self.resolve_references(context).await.into(),
            Action::MountVolumes => self.mount_volumes(context).await,
            Action::CreateSandbox { attempt } => self.create_sandbox(context, *attempt).await.into(),
            Action::StopSandbox { id } => self.stop_sandbox(context, id).await.into(),
            Action::RemoveSandbox { id } => self.remove_sandbox(id).await.into(),
            Action::PullImage { container, kind, .. } => self.pull_image(context, container, *kind).await,
            Action::PullVolumeImage { volume } => self.pull_volume_image(context, volume).await,
            Action::StartContainer(start) => self.start_container(context, start).await,
            Action::RunHook(hook) => self.run_hook(context, hook).await.into(),
            Action::KillContainer(kill) => self.kill_container(context, kill).await.into(),
            Action::RemoveContainer { id, container, log_path } => {
                self.collect_container(context, id, container, log_path).await.into()
            }
            Action::CleanUp => self.clean_up(context).await.into(),
            Action::RemoveRemains { sandboxes, containers, repeated } => {
                if *repeated {
                    warn!(pod = %context.key, ?sandboxes, ?containers, "the runtime still holds what it said it had removed");
                }
                self.remove_remains(context, sandboxes, containers).await.into()
            }
            Action::TellBackoff { .. }
            | Action::TellSandboxChanged
            | Action::TellExceededGrace
            | Action::EndByDeadline { .. }
            | Action::CancelHook { .. } => {
                self.tell(&context.pod, action);
                Ok(()).into()
            }
        }
    }

    /// Records the event that an action is.
    pub fn tell(&self, pod: &Pod, action: &Action) {
        match action {
            Action::TellBackoff { container, .. } => {
                let kind = container_kind(pod, container);
                let message = format!("Back-off restarting failed container {container} in pod {}", PodKey::of(pod));
                self.container_event(pod, kind, container, EventType::Warning, "BackOff", message);
            }
            Action::TellSandboxChanged => {
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                self.pod_event(pod, EventType::Normal, "SandboxChanged", message);
            }
            Action::TellExceededGrace => {
                let message = "Container runtime did not kill the pod within specified grace period.".to_owned();
                self.pod_event(pod, EventType::Warning, "ExceededGracePeriod", message);
            }
            Action::EndByDeadline { .. } => {
                let end = NodeEnd::deadline_exceeded();
                self.pod_event(pod, EventType::Normal, end.reason(), end.message().to_owned());
            }
            Action::CancelHook { container, failed: Some(hook), .. } => self.tell_failed_hook(pod, container, *hook),
            _ => {}
        }
    }

    /// Tells by an event what is wrong with a pod as a whole.
    pub fn warn_of_pod(&self, pod: &Pod, reason: &str, message: &str) {
        self.pod_event(pod, EventType::Warning, reason, message.to_owned());
    }

    fn pod_event(&self, pod: &Pod, event_type: EventType, reason: &str, message: String) {
        if pod.metadata.name.is_some() {
            self.parts.events.event(&pod_reference(pod), event_type, reason, message);
        }
    }

    fn container_event(
        &self,
        pod: &Pod,
        kind: ContainerKind,
        container: &str,
        event_type: EventType,
        reason: &str,
        message: String,
    ) {
        if pod.metadata.name.is_some() {
            self.parts.events.event(&container_reference(pod, kind, container), event_type, reason, message);
        }
    }

    fn host_ips(&self) -> Vec<String> {
        self.parts.facts.borrow().host_ips.clone()
    }

    async fn create_cgroup(&self, context: &PodContext) -> Result<(), Failure> {
        self.parts.cgroups.ensure_pod(&context.pod).await.map_err(|error| {
            let message = format!("unable to ensure pod container exists: {}", chain(&error));
            self.pod_event(&context.pod, EventType::Warning, "FailedCreatePodContainer", message.clone());
            Failure::new("FailedCreatePodContainer", message)
        })
    }

    async fn resolve_references(&self, context: &PodContext) -> Result<(), Failure> {
        self.parts.volumes.resolve(&context.pod).await.map_err(|error| self.mount_failed(context, &error))
    }

    async fn mount_volumes(&self, context: &PodContext) -> Executed {
        match self.parts.volumes.mount(&context.pod).await {
            Ok(volumes) => {
                let refresh_at = volumes.refresh_at();
                let outcome = Outcome { refresh_at, ..Outcome::from(Ok(())) };
                Executed { outcome, volumes: Some(Arc::new(volumes)) }
            }
            Err(error) => Err(self.mount_failed(context, &error)).into(),
        }
    }

    fn mount_failed(&self, context: &PodContext, error: &crate::volume::VolumeError) -> Failure {
        for message in error.messages() {
            self.pod_event(&context.pod, EventType::Warning, "FailedMount", message);
        }
        Failure::new("FailedMount", error.to_string())
    }

    async fn pull_image(&self, context: &PodContext, container: &str, kind: ContainerKind) -> Executed {
        let Some((_, spec)) = pod::container_by_name(pod::spec(&context.pod), container) else {
            return Err(Failure::new("InvalidImageName", format!("container {container} is not in the pod"))).into();
        };
        let request = ImageRequest {
            pod: context.pod.clone(),
            container: Some((kind, container.to_owned())),
            pull_policy: PullPolicy::of(spec.image_pull_policy.as_deref(), spec.image.as_deref().unwrap_or_default()),
            image: spec.image.clone().unwrap_or_default(),
            sandbox_config: None,
        };
        ensured_image(self.parts.images.ensure(request).await)
    }

    /// Its events are those of the pod; that a container cannot be made without it is told of the container.
    async fn pull_volume_image(&self, context: &PodContext, volume: &str) -> Executed {
        let spec = pod::spec(&context.pod);
        let Some((_, image)) = pod::image_volumes(spec).find(|(name, _)| *name == volume) else {
            return Err(Failure::new("InvalidImageName", format!("volume {volume} is no image of the pod"))).into();
        };
        let reference = image.reference.clone().unwrap_or_default();
        let request = ImageRequest {
            pod: context.pod.clone(),
            container: None,
            pull_policy: PullPolicy::of(image.pull_policy.as_deref(), &reference),
            image: reference,
            sandbox_config: None,
        };
        let ensured = self.parts.images.ensure(request).await;
        if let Err(error) = &ensured {
            for (kind, container) in pod::init_and_regular_containers(spec).filter(|(_, c)| pod::mounts(c, volume)) {
                let message = format!("Error: {}", error.reason);
                self.container_event(&context.pod, kind, &container.name, EventType::Warning, "Failed", message);
            }
        }
        ensured_image(ensured)
    }
}

fn ensured_image(ensured: Result<EnsuredImage, ImageError>) -> Executed {
    match ensured {
        Ok(image) => {
            let ready = ReadyImage { image_ref: image.image_ref, uid: image.user.uid, username: image.user.username };
            Outcome { image: Some(ready), ..Outcome::from(Ok(())) }.into()
        }
        Err(error) => Err(Failure::from(error)).into(),
    }
}
