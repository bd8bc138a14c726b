//! Static pods from a URL (`staticPodURL`): a `Pod` or a `PodList`, asked for every `httpCheckFrequency` with the headers of
//! `staticPodURLHeader`.
//!
//! What is no answer, or no pods, is told of when it changes, and the pods go on as they were. Redirections are not followed. Of
//! several pods with one name the first counts, and events tell of the others.

use std::time::Duration;

use futures::TryStreamExt;
use http::Request;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::manifest::{self, Location, ManifestError};
use super::{Common, Double, Known, MAX_MANIFEST, Source, StaticPods, StaticPodsReceiver};
use crate::kube::events::{EventRecorder, pod_reference};
use crate::model::pod::PodKey;
use crate::model::{EventType, clock};

/// Bounds one request with its body.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the URL gave no pods.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The URL or a header is none.
    #[error("staticPodURL: {0}")]
    Request(#[from] http::Error),
    /// Of another scheme, or without a host.
    #[error("staticPodURL {url:?}: not the URL of an HTTP server")]
    Url {
        /// The URL.
        url: String,
    },
    /// There can be no client for it.
    #[error("staticPodURL {url}: {source}")]
    Client {
        /// The URL.
        url: String,
        /// Why.
        source: Box<::kube::Error>,
    },
    /// No answer.
    #[error("{url}: {source}")]
    Get {
        /// The URL.
        url: String,
        /// Why.
        source: Box<::kube::Error>,
    },
    /// No answer in time.
    #[error("{url}: no answer within 10 s")]
    Timeout {
        /// The URL.
        url: String,
    },
    /// An answer that is none.
    #[error("{url}: {status}")]
    Status {
        /// The URL.
        url: String,
        /// What it said.
        status: http::StatusCode,
    },
    /// An answer that is too long.
    #[error("{url}: the read limit is reached")]
    TooLong {
        /// The URL.
        url: String,
    },
    /// An answer of nothing.
    #[error("zero-length data received from {url}")]
    Empty {
        /// The URL.
        url: String,
    },
    /// An answer that is no pods.
    #[error("{url}: {source}")]
    Manifest {
        /// The URL.
        url: String,
        /// What is wrong.
        source: ManifestError,
    },
}

/// The source, to be run as a task.
pub struct UrlSource {
    url: String,
    headers: Vec<(String, String)>,
    node_name: String,
    period: Duration,
    client: ::kube::Client,
    events: EventRecorder,
    sender: watch::Sender<Option<StaticPods>>,
    /// The answer that holds the pods as they are now.
    text: Option<Vec<u8>>,
    known: Known,
    fault: Option<String>,
}

impl UrlSource {
    /// A source that asks `url` with these headers for the pods of the node of that name, and where they are to be had. Events
    /// tell of pods that do not count.
    ///
    /// # Errors
    /// The URL is none.
    pub fn new(
        url: &str,
        headers: Vec<(String, String)>,
        node_name: &str,
        period: Duration,
        events: EventRecorder,
    ) -> Result<(Self, StaticPodsReceiver), UrlError> {
        let target: http::Uri = url.parse().map_err(http::Error::from)?;
        if !matches!(target.scheme_str(), Some("http" | "https")) || target.host().is_none_or(str::is_empty) {
            return Err(UrlError::Url { url: url.to_owned() });
        }
        let mut base = http::uri::Parts::default();
        base.scheme = target.scheme().cloned();
        base.authority = target.authority().cloned();
        base.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        let base = http::Uri::from_parts(base).map_err(http::Error::from)?;
        let client = ::kube::Client::try_from(::kube::Config::new(base))
            .map_err(|source| UrlError::Client { url: url.to_owned(), source: Box::new(source) })?;
        let (sender, receiver) = watch::channel(None);
        let source = UrlSource {
            url: url.to_owned(),
            headers,
            node_name: node_name.to_owned(),
            period: if period.is_zero() { Duration::from_secs(20) } else { period },
            client,
            events,
            sender,
            text: None,
            known: Known::default(),
            fault: None,
        };
        source.request()?;
        Ok((source, receiver))
    }

    /// Asks until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        info!(url = self.url, "reading static pods");
        let mut timer = tokio::time::interval(self.period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: a tick that is lost does not matter once cancelled.
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = timer.tick() => {}
            }
            // An answer that is cut off is asked for anew by the next start.
            let result = tokio::select! {
                () = cancel.cancelled() => return,
                result = self.look() => result,
            };
            self.tell(result.err().map(|error| error.to_string()));
        }
    }

    fn tell(&mut self, fault: Option<String>) {
        if self.fault != fault {
            match &fault {
                Some(error) => warn!(error, "Failed to read pods from URL"),
                None => info!("Successfully read pods from URL"),
            }
            self.fault = fault;
        }
    }

    fn request(&self) -> Result<Request<::kube::client::Body>, UrlError> {
        let target: http::Uri = self.url.parse().map_err(http::Error::from)?;
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        let request =
            self.headers.iter().fold(Request::get(path), |request, (name, value)| request.header(name, value));
        Ok(request.body(::kube::client::Body::empty())?)
    }

    async fn look(&mut self) -> Result<(), UrlError> {
        let url = self.url.clone();
        let text =
            tokio::time::timeout(TIMEOUT, self.get()).await.map_err(|_| UrlError::Timeout { url: url.clone() })??;
        if text.is_empty() {
            self.text = None;
            self.publish(Vec::new());
            return Err(UrlError::Empty { url });
        }
        if self.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let pods = manifest::pods(&text, Location::Url(&self.url), &self.node_name);
        let pods = pods.map_err(|source| UrlError::Manifest { url, source })?;
        self.text = Some(text);
        self.publish(pods);
        Ok(())
    }

    async fn get(&self) -> Result<Vec<u8>, UrlError> {
        let failed = |source| UrlError::Get { url: self.url.clone(), source: Box::new(source) };
        let response = self.client.send(self.request()?).await.map_err(failed)?;
        let status = response.status();
        let mut body = response.into_body().into_data_stream();
        let mut text = Vec::new();
        while let Some(part) = body.try_next().await.map_err(|error| failed(::kube::Error::Service(error.into())))? {
            if (text.len() + part.len()) as u64 > MAX_MANIFEST {
                return Err(UrlError::TooLong { url: self.url.clone() });
            }
            text.extend_from_slice(&part);
        }
        match status {
            http::StatusCode::OK => Ok(text),
            status => Err(UrlError::Status { url: self.url.clone(), status }),
        }
    }

    fn publish(&mut self, pods: Vec<k8s_openapi::api::core::v1::Pod>) {
        let told = self.known.take(pods, clock::now());
        for Double { pod, by } in told.doubles {
            let key = PodKey::of(&pod);
            warn!(pod = %key, "several pods of the URL have this name or UID; the first one counts");
            if by == Common::Name {
                let message = format!(
                    "Error validating pod {key} from {} due to duplicate pod name {:?}, ignoring",
                    Source::Http.name(),
                    key.name
                );
                self.events.event(&pod_reference(&pod), EventType::Warning, "FailedValidation", message);
            }
        }
        self.sender.send_replace(Some(StaticPods { pods: told.pods, complete: true }));
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
