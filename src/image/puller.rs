//! Pulls: bounded in number and rate, and one for all who want the same image with the same credentials.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::metrics::kubelet as metrics;
use crate::model::TokenBucket;
use crate::model::pod::PodKey;
use crate::runtime::{RuntimeClient, RuntimeError, cri};

use super::credentials::Credential;

/// Annotation of a pod by which containerd chooses where an image is unpacked.
const RUNTIME_HANDLER_ANNOTATION: &str = "io.containerd.cri.runtime-handler";

/// The runtime's image service, as far as pulls need it.
pub trait ImageService: Send + Sync {
    /// See [`RuntimeClient::image_status`].
    fn image_status(&self, image: cri::ImageSpec) -> BoxFuture<'_, Result<Option<cri::Image>, RuntimeError>>;

    /// See [`RuntimeClient::pull_image`].
    fn pull_image(
        &self,
        image: cri::ImageSpec,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> BoxFuture<'_, Result<String, RuntimeError>>;
}

impl ImageService for RuntimeClient {
    fn image_status(&self, image: cri::ImageSpec) -> BoxFuture<'_, Result<Option<cri::Image>, RuntimeError>> {
        self.image_status(image).boxed()
    }

    fn pull_image(
        &self,
        image: cri::ImageSpec,
        auth: Option<cri::AuthConfig>,
        sandbox_config: Option<cri::PodSandboxConfig>,
    ) -> BoxFuture<'_, Result<String, RuntimeError>> {
        self.pull_image(image, auth, sandbox_config).boxed()
    }
}

/// What to pull.
#[derive(Clone)]
pub(super) struct Pull {
    pub image: cri::ImageSpec,
    /// Tried in turn; none is an anonymous pull.
    pub credentials: Vec<Arc<Credential>>,
    pub sandbox_config: Option<cri::PodSandboxConfig>,
    /// The pod that needs the image.
    pub pod: PodKey,
}

/// A pull that worked.
#[derive(Clone, Debug)]
pub(super) struct Pulled {
    pub image_ref: String,
    /// With what; none is an anonymous pull.
    pub credential: Option<Arc<Credential>>,
    /// The image as the runtime shows it after the pull.
    pub image: Result<Option<cri::Image>, RuntimeError>,
    /// Without the wait for a place.
    pub took: Duration,
}

/// A pull that did not; the text of its first cause, or of all if several credentials failed differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct PullError(pub String);

type PullResult = Result<Pulled, PullError>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    image: String,
    runtime_handler: Option<String>,
    credentials: Vec<String>,
}

/// All pulls of the node.
pub(super) struct Puller {
    shared: Arc<Bounds>,
    /// Weak, so that a pull ends with the last of those who wait for it.
    under_way: Mutex<HashMap<Key, UnderWay>>,
}

/// A pull under way, and the pod that it was begun for.
struct UnderWay {
    pull: WeakShared<BoxFuture<'static, PullResult>>,
    pod: PodKey,
}

struct Bounds {
    service: Arc<dyn ImageService>,
    places: Semaphore,
    began: Instant,
    rate: Option<Mutex<TokenBucket>>,
}

impl Puller {
    /// A puller with at most `parallel` pulls at once and that rate of starts (`registryPullQPS`, `registryBurst`), where 0 sets
    /// no limit.
    pub(super) fn new(service: Arc<dyn ImageService>, parallel: usize, per_second: f64, burst: u32) -> Self {
        let rate = || Mutex::new(TokenBucket::full(per_second, burst, Duration::ZERO));
        let rate = (per_second > 0.0).then(rate);
        let bounds = Bounds { service, places: Semaphore::new(parallel.max(1)), began: Instant::now(), rate };
        Puller { shared: Arc::new(bounds), under_way: Mutex::new(HashMap::new()) }
    }

    /// Pulls an image, or joins the same pull that is under way; then the pod that it was begun for is told too. Dropping the
    /// future ends the pull unless others wait too.
    pub(super) fn pull(&self, pull: Pull) -> (impl Future<Output = PullResult> + Send + use<>, Option<PodKey>) {
        let key = Key {
            image: pull.image.image.clone(),
            runtime_handler: pull.image.annotations.get(RUNTIME_HANDLER_ANNOTATION).cloned(),
            credentials: pull.credentials.iter().map(|c| c.hash()).collect(),
        };
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, known| known.pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        let known = under_way.get(&key).and_then(|known| Some((known.pull.upgrade()?, known.pod.clone())));
        match known {
            Some((joined, pod)) => (joined, Some(pod)),
            None => {
                let pod = pull.pod.clone();
                let started: Shared<BoxFuture<'static, PullResult>> = self.shared.clone().pull(pull).boxed().shared();
                if let Some(pull) = started.downgrade() {
                    under_way.insert(key, UnderWay { pull, pod });
                }
                (started, None)
            }
        }
    }
}

impl Bounds {
    async fn pull(self: Arc<Self>, pull: Pull) -> PullResult {
        // Never closed, so never an error.
        let _place = self.places.acquire().await;
        if let Some(rate) = &self.rate {
            let taken = rate.lock().unwrap_or_else(PoisonError::into_inner).try_take(self.began.elapsed());
            if !taken {
                return Err(PullError("pull QPS exceeded".to_owned()));
            }
        }
        let started = Instant::now();
        let (image_ref, credential) = self.pull_with_each(&pull).await?;
        let took = started.elapsed();
        let image = self.service.image_status(pull.image).await;
        let size = image.as_ref().ok().and_then(Option::as_ref).map_or(0, |image| image.size);
        metrics::IMAGE_PULL_DURATION.observe(&[metrics::image_size_label(size)], took.as_secs_f64());
        Ok(Pulled { image_ref, credential, image, took })
    }

    /// The reference, and the credential that let it be pulled.
    async fn pull_with_each(&self, pull: &Pull) -> Result<(String, Option<Arc<Credential>>), PullError> {
        let anonymous = pull.credentials.is_empty().then_some(None);
        let attempts = pull.credentials.iter().map(Some).chain(anonymous);
        let mut errors: Vec<String> = Vec::new();
        for credential in attempts {
            let auth = credential.map(|c| c.to_auth_config());
            match self.service.pull_image(pull.image.clone(), auth, pull.sandbox_config.clone()).await {
                Ok(image_ref) => return Ok((image_ref, credential.cloned())),
                Err(error) => {
                    let source = credential.map(|c| &c.source);
                    tracing::info!(image = pull.image.image, credentials = ?source, %error, "pull failed");
                    let text = error.to_string();
                    if !errors.contains(&text) {
                        errors.push(text);
                    }
                }
            }
        }
        Err(PullError(match errors.as_slice() {
            [only] => only.clone(),
            all => format!("[{}]", all.join(", ")),
        }))
    }
}
