//! What must happen before a container's image can be used, with the peer's reasons, messages and events
//! (pkg/kubelet/images/image_manager.go).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::metrics::kubelet as metrics;
use crate::model::go_duration::GoDuration;
use crate::model::pod::{ContainerKind, PodKey, PodUid};
use crate::model::{EventType, Timestamp, clock};
use crate::runtime::cri;

use super::access::ImageAccess;
use super::backoff::{BackOff, Held};
use super::credentials::Credential;
use super::events::ImageEvents;
use super::node_config::NodeConfigFiles;
use super::puller::{ImageService, Pull, Pulled, Puller};
use super::reference::{self, Reference};
use super::secrets::{self, PullSecrets};
use super::verification::{bare_name, proven_by, secret_of};

/// Waiting reason: the pull failed.
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
/// Waiting reason: the pull failed before and is not tried again yet.
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
/// Waiting reason: the image is not there and must not be pulled.
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
/// Waiting reason: the runtime could not be asked for the image.
pub const IMAGE_INSPECT_ERROR: &str = "ImageInspectError";
/// Waiting reason: the image's name is none.
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
/// Waiting reason, from the start of the runtime's message: the registry does not answer.
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
/// Waiting reason, from the start of the runtime's message: the image's signature was refused.
pub const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";

/// Pulls at once when the configuration sets no number: enough for any link, few enough for any disk. (The peer has no bound.)
const DEFAULT_PARALLEL_PULLS: usize = 16;

/// How images are pulled.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSettings {
    /// `serializeImagePulls`.
    pub serialize: bool,
    /// `maxParallelImagePulls`.
    pub max_parallel: Option<u32>,
    /// `registryPullQPS`; 0 sets no limit.
    pub pull_qps: f64,
    /// `registryBurst`.
    pub pull_burst: u32,
    /// The node's own credentials.
    pub node_config: NodeConfigFiles,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Pull what is not there.
    IfNotPresent,
    /// Use what is there.
    Never,
}

impl PullPolicy {
    /// The label of metrics.
    fn label(self) -> &'static str {
        match self {
            PullPolicy::Always => "always",
            PullPolicy::IfNotPresent => "ifnotpresent",
            PullPolicy::Never => "never",
        }
    }

    /// A container's policy. One that is not set, as in a static pod, is `Always` for an image's newest version and
    /// `IfNotPresent` for any other, as the API defaults it.
    pub fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            Some("IfNotPresent") => PullPolicy::IfNotPresent,
            _ if Reference::parse(image).is_ok_and(|r| r.is_latest()) => PullPolicy::Always,
            _ => PullPolicy::IfNotPresent,
        }
    }

    /// The policy as the API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// An image that a pod needs.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// The pod: pull secrets, annotations, and the object of events.
    pub pod: Arc<Pod>,
    /// The container that is made from it: the list that it stands in, and its name. None for the image of a volume, whose
    /// events are the pod's.
    pub container: Option<(ContainerKind, String)>,
    /// The image as the pod spec names it.
    pub image: String,
    /// Whether to pull.
    pub pull_policy: PullPolicy,
    /// The pod's sandbox, of which the runtime takes what a pull depends on.
    pub sandbox_config: Option<cri::PodSandboxConfig>,
}

/// An image that is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnsuredImage {
    /// What containers are made of (`ContainerConfig.image.image`).
    pub image_ref: String,
    /// The user that the image asks for.
    pub user: ImageUser,
}

/// The user that an image asks for: a number, a name, or neither, which is root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// User id.
    pub uid: Option<i64>,
    /// User name; empty if there is none.
    pub username: String,
}

/// Why an image is not on the node: `reason` and `message` of the container's waiting state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// The waiting reason, one of the constants of this module.
    pub reason: &'static str,
    /// The waiting message.
    pub message: String,
    /// When the next attempt is let through; none if nothing holds it back.
    pub retry_at: Option<Timestamp>,
}

impl ImageError {
    fn new(reason: &'static str, message: String) -> Self {
        ImageError { reason, message, retry_at: None }
    }

    fn back_off(image: &str, held: &Held) -> Self {
        ImageError {
            reason: IMAGE_PULL_BACK_OFF,
            message: format!("Back-off pulling image {image:?}: {}", held.error),
            retry_at: after(held.remaining),
        }
    }
}

/// A handle on the images of the node; clones share all pulls and back-offs.
#[derive(Clone)]
pub struct ImageManager {
    shared: Arc<Shared>,
}

struct Shared {
    service: Arc<dyn ImageService>,
    puller: Puller,
    back_off: Mutex<BackOff>,
    node_config: NodeConfigFiles,
    secrets: Arc<dyn PullSecrets>,
    events: Arc<dyn ImageEvents>,
    /// None where every pod may use what is on the node.
    access: Option<ImageAccess>,
}

/// The credentials to try, and the names of pull secrets that are missing.
type FoundCredentials = (Vec<Arc<Credential>>, Vec<String>);

impl ImageManager {
    /// A manager that pulls through that service. With `access`, pods may only use what they could have pulled
    /// (KubeletEnsureSecretPulledImages).
    pub fn new(
        settings: ImageSettings,
        access: Option<ImageAccess>,
        service: Arc<dyn ImageService>,
        secrets: Arc<dyn PullSecrets>,
        events: Arc<dyn ImageEvents>,
    ) -> Self {
        let parallel = match (settings.serialize, settings.max_parallel) {
            (true, _) => 1,
            (false, Some(max)) if max > 0 => usize::try_from(max).unwrap_or(DEFAULT_PARALLEL_PULLS),
            (false, _) => DEFAULT_PARALLEL_PULLS,
        };
        let puller = Puller::new(service.clone(), parallel, settings.pull_qps, settings.pull_burst);
        let back_off = Mutex::new(BackOff::default());
        let node_config = settings.node_config;
        ImageManager { shared: Arc::new(Shared { service, puller, back_off, node_config, secrets, events, access }) }
    }

    /// Finds out what became of pulls that an earlier agent did not see to their end. To be called once, at start.
    pub async fn settle_pulls(&self) {
        let Some(access) = &self.shared.access else { return };
        for image in access.left_over() {
            let Ok((full_name, reference)) = reference::with_default_tag(&image) else { continue };
            let spec = cri::ImageSpec { image: full_name, ..Default::default() };
            match self.shared.service.image_status(spec).await {
                Ok(Some(found)) => {
                    let name = bare_name(&image, &reference).to_owned();
                    access.settle(image, name, found.id).await;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(image, %error, "cannot tell whether an image was pulled to the end"),
            }
        }
    }

    /// Sees to it that an image is on the node, by its pull policy. Dropping the future ends a pull that nobody else waits for.
    ///
    /// # Errors
    /// Why it is not; the events are recorded by then.
    pub async fn ensure(&self, request: ImageRequest) -> Result<EnsuredImage, ImageError> {
        let ensured = Box::pin(self.ensure_present(&request)).await;
        if let Err(error) = &ensured
            && request.container.is_some()
        {
            self.event(&request, EventType::Warning, "Failed", format!("Error: {}", error.reason));
        }
        ensured
    }

    /// What [`ImageManager::ensure`] would say of an image whose pull is held back; none if it would try. Records no event.
    pub fn held_back(&self, pod: &PodUid, image: &str) -> Option<ImageError> {
        let held = self.back_off(|back_off| back_off.held(&back_off_key(pod.as_str(), image), Instant::now()))?;
        Some(ImageError::back_off(image, &held))
    }

    /// Forgets the back-offs of a pod that is gone.
    pub fn forget_pod(&self, pod: &PodUid) {
        self.back_off(|back_off| back_off.forget(&back_off_key(pod.as_str(), "")));
    }

    async fn ensure_present(&self, request: &ImageRequest) -> Result<EnsuredImage, ImageError> {
        let (full_name, reference) = match reference::with_default_tag(&request.image) {
            Ok(named) => named,
            Err(error) => {
                let message = format!("Failed to apply default image tag {:?}: {error}", request.image);
                self.event(request, EventType::Warning, "InspectFailed", message.clone());
                return Err(ImageError::new(INVALID_IMAGE_NAME, message));
            }
        };
        let count = |is_present: &str, is_pulled: &str| {
            metrics::ENSURE_IMAGE_REQUESTS.increment(&[is_present, request.pull_policy.label(), is_pulled]);
        };
        let annotations = request.pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
        let spec = cri::ImageSpec { image: full_name, annotations, ..Default::default() };
        let mut credentials = None;
        if request.pull_policy == PullPolicy::Always {
            count("unknown", "true");
        } else {
            let present = match self.inspect(request, spec.clone()).await {
                Ok(present) => present,
                Err(error) => {
                    count("unknown", "unknown");
                    return Err(error);
                }
            };
            let is_present = if present.is_some() { "true" } else { "false" };
            let present = match present {
                Some(image) if self.may_use(request, &reference, &image, &mut credentials).await => Some(image),
                _ => None,
            };
            if let Some(image) = present {
                let checked = if self.shared.access.is_some() { " and can be accessed by the pod" } else { "" };
                let message = format!("Container image {:?} already present on machine{checked}", request.image);
                self.event(request, EventType::Normal, "Pulled", message);
                count(is_present, "false");
                return Ok(EnsuredImage { image_ref: image.id.clone(), user: user_of(&image) });
            }
            count(is_present, "true");
            if request.pull_policy == PullPolicy::Never {
                let message = format!("Container image {:?} is not present with pull policy of Never", request.image);
                self.event(request, EventType::Warning, "ErrImageNeverPull", message.clone());
                return Err(ImageError::new(ERR_IMAGE_NEVER_PULL, message));
            }
        }
        self.pull(request, spec, &reference, credentials).await
    }

    /// Whether the pod may use an image that is on the node. Its credentials are looked up only if they count, and kept.
    async fn may_use(
        &self,
        request: &ImageRequest,
        reference: &Reference,
        image: &cri::Image,
        credentials: &mut Option<FoundCredentials>,
    ) -> bool {
        let Some(access) = &self.shared.access else { return true };
        let of_pod = async {
            let (found, _) = credentials.insert(self.credentials(request, &reference.repository).await);
            found.iter().filter_map(|credential| secret_of(credential)).collect()
        };
        access.may_use(&request.image, bare_name(&request.image, reference), &image.id, of_pod).await
    }

    async fn inspect(&self, request: &ImageRequest, spec: cri::ImageSpec) -> Result<Option<cri::Image>, ImageError> {
        match self.shared.service.image_status(spec).await {
            Ok(image) => Ok(image),
            Err(error) => {
                let message = format!("Failed to inspect image {:?}: {error}", request.image);
                self.event(request, EventType::Warning, "InspectFailed", message.clone());
                Err(ImageError::new(IMAGE_INSPECT_ERROR, message))
            }
        }
    }

    async fn pull(
        &self,
        request: &ImageRequest,
        spec: cri::ImageSpec,
        reference: &Reference,
        credentials: Option<FoundCredentials>,
    ) -> Result<EnsuredImage, ImageError> {
        let image = &request.image;
        let key = back_off_key(request.pod.metadata.uid.as_deref().unwrap_or_default(), image);
        if let Some(held) = self.back_off(|back_off| back_off.held(&key, Instant::now())) {
            self.event(request, EventType::Normal, "BackOff", format!("Back-off pulling image {image:?}"));
            return Err(ImageError::back_off(image, &held));
        }
        let intent = match &self.shared.access {
            Some(access) => Some(access.intend(image).await.map_err(|error| {
                let text = format!("Failed to record image pull intent for container image {image:?}: {error}");
                ImageError::new(ERR_IMAGE_PULL, text)
            })?),
            None => None,
        };
        let (credentials, missing) = match credentials {
            Some(found) => found,
            None => self.credentials(request, &reference.repository).await,
        };
        let started = Instant::now();
        let pod = PodKey::of(&request.pod);
        let pull =
            Pull { image: spec.clone(), credentials, sandbox_config: request.sandbox_config.clone(), pod: pod.clone() };
        let (pull, begun_for) = self.shared.puller.pull(pull);
        let message = match begun_for.filter(|other| *other != pod) {
            Some(other) => {
                format!(
                    "Pulling image {image:?}: waiting for the pull that pod {}/{} began",
                    other.namespace, other.name
                )
            }
            None => format!("Pulling image {image:?}"),
        };
        self.event(request, EventType::Normal, "Pulling", message);
        match pull.await {
            Ok(pulled) => {
                if let Some(intent) = intent {
                    let used = proven_by(pulled.credential.as_deref());
                    intent.pulled(bare_name(image, reference).to_owned(), pulled.image_ref.clone(), used).await;
                }
                self.pulled(request, &pulled, started.elapsed(), spec).await
            }
            Err(error) => {
                if let Some(intent) = intent {
                    intent.failed().await;
                }
                let text = error.to_string();
                self.event(request, EventType::Warning, "Failed", format!("Failed to pull image {image:?}: {text}"));
                if !missing.is_empty() {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        missing.join(", ")
                    );
                    let pod = &request.pod;
                    let reason = "FailedToRetrieveImagePullSecret";
                    self.shared.events.pod_event(pod, EventType::Warning, reason, message);
                }
                let (reason, message) = pull_failure(image, &text);
                let now = Instant::now();
                let wait = self.back_off(|b| b.failed(&key, now, format!("{reason}: {message}")));
                Err(ImageError { reason, message, retry_at: after(wait) })
            }
        }
    }

    async fn pulled(
        &self,
        request: &ImageRequest,
        pulled: &Pulled,
        with_wait: Duration,
        spec: cri::ImageSpec,
    ) -> Result<EnsuredImage, ImageError> {
        // The size is for the event alone, but a container must not start as root because its image's user is not known.
        let image = match &pulled.image {
            Ok(Some(image)) => image.clone(),
            _ => {
                let by_ref = cri::ImageSpec { image: pulled.image_ref.clone(), ..spec };
                self.inspect(request, by_ref).await?.ok_or_else(|| {
                    let message = format!("Image {:?} was pulled, but the runtime does not know it", request.image);
                    ImageError::new(IMAGE_INSPECT_ERROR, message)
                })?
            }
        };
        let message = format!(
            "Successfully pulled image {:?} in {} ({} including waiting). Image size: {} bytes.",
            request.image,
            go_milliseconds(pulled.took.min(with_wait)),
            go_milliseconds(with_wait),
            image.size
        );
        self.event(request, EventType::Normal, "Pulled", message);
        self.back_off(|back_off| back_off.collect(Instant::now()));
        Ok(EnsuredImage { image_ref: pulled.image_ref.clone(), user: user_of(&image) })
    }

    /// The credentials to try, the pod's own before the node's.
    async fn credentials(&self, request: &ImageRequest, repository: &str) -> FoundCredentials {
        let own = secrets::read(&request.pod, self.shared.secrets.as_ref()).await;
        let files = self.shared.node_config.clone();
        let node = tokio::task::spawn_blocking(move || files.read()).await.unwrap_or_default();
        let mut credentials = own.keyring.lookup(repository);
        credentials.extend(node.lookup(repository));
        (credentials, own.missing)
    }

    fn event(&self, request: &ImageRequest, event_type: EventType, reason: &'static str, message: String) {
        let (events, pod) = (&self.shared.events, &request.pod);
        match &request.container {
            Some((kind, container)) => events.event(pod, *kind, container, event_type, reason, message),
            None => events.pod_event(pod, event_type, reason, message),
        }
    }

    fn back_off<T>(&self, with: impl FnOnce(&mut BackOff) -> T) -> T {
        with(&mut self.shared.back_off.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn back_off_key(uid: &str, image: &str) -> String {
    format!("{uid}_{image}")
}

fn user_of(image: &cri::Image) -> ImageUser {
    ImageUser { uid: image.uid.as_ref().map(|uid| uid.value), username: image.username.clone() }
}

fn after(wait: Duration) -> Option<Timestamp> {
    clock::now().checked_add(wait).ok()
}

fn go_milliseconds(duration: Duration) -> GoDuration {
    GoDuration::from_millis(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// Reason and message of a failed pull. A runtime marks some causes by how its message starts (cri-api, pkg/errors).
fn pull_failure(image: &str, text: &str) -> (&'static str, String) {
    let marked = [
        (REGISTRY_UNAVAILABLE, "because the registry is unavailable"),
        (SIGNATURE_VALIDATION_FAILED, "because the signature validation failed"),
    ];
    for (reason, because) in marked {
        if let Some(rest) = text.strip_prefix(reason) {
            return (reason, format!("image pull failed for {image} {because}{rest}"));
        }
    }
    (ERR_IMAGE_PULL, text.to_owned())
}
