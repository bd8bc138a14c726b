//! ConfigMaps and Secrets that this node's pods refer to.
//!
//! By default one watch per object (`configMapAndSecretChangeDetectionStrategy: Watch`), since a node may read no more than
//! that: from the first pod that refers to it until a minute after the last one, so that a pod that is made anew finds it there.
//! An immutable object is read once and no longer watched. Objects are cut down to their content.

mod store;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::kube::Client;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use self::store::{ObjectKey, Store};
use super::error;
use super::references::{References, referenced_objects};
use super::tokens::TokenManager;
use crate::model::pod::{PodKey, PodUid};

/// Changes that may wait for a slow listener; one that lags is told so and reads everything again.
const CHANGE_QUEUE: usize = 256;

/// The two kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ObjectKind {
    /// The word that the peer's error texts use.
    pub fn resource(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "configmap",
            ObjectKind::Secret => "secret",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource())
    }
}

/// How changes come to be known (`configMapAndSecretChangeDetectionStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeDetection {
    /// One watch per object.
    Watch,
    /// Read when needed, and kept that long (the peer: 1 min); a newly registered pod makes it read again.
    Cache {
        /// How long a read counts.
        ttl: Duration,
    },
    /// Read each time.
    Get,
}

/// The content of a referenced object changed, or it came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectChange {
    /// ConfigMap or Secret.
    pub kind: ObjectKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The registered pods that refer to it.
    pub pods: Vec<PodUid>,
}

/// Why an object, or a token, could not be read. The texts are those that clients match in events.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// No registered pod refers to it, so that it is not watched.
    #[error("object \"{namespace}\"/\"{name}\" not registered")]
    NotRegistered {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Its first read did not end in time: the API server is away, or does not let this node read it.
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    NotSynced {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the last attempt failed by, if one ended.
        cause: Option<String>,
    },
    /// The API server's answer to a direct read.
    #[error("{}", error::message(.source))]
    Api {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The answer.
        #[source]
        source: ::kube::Error,
    },
    /// There is no API server (standalone mode).
    #[error("no kubeClient defined")]
    NoApi,
}

impl ObjectError {
    /// The object does not exist, which an `optional` reference forgives.
    pub fn is_not_found(&self) -> bool {
        match self {
            ObjectError::NotFound { .. } => true,
            ObjectError::Api { source, .. } => error::is_not_found(source),
            _ => false,
        }
    }
}

/// What volumes read from the API.
#[derive(Clone)]
pub struct ApiObjects {
    /// ConfigMaps and Secrets.
    pub objects: ObjectCache,
    /// Service account tokens.
    pub tokens: TokenManager,
}

/// The objects that registered pods refer to. A cheap handle; [`Self::run`] has to run beside it.
#[derive(Clone)]
pub struct ObjectCache {
    shared: Arc<Shared>,
}

struct Shared {
    pods: Mutex<HashMap<PodUid, (String, References)>>,
    config_maps: Arc<Store<ConfigMap>>,
    secrets: Arc<Store<Secret>>,
    changes: broadcast::Sender<ObjectChange>,
    released: Arc<Notify>,
}

impl ObjectCache {
    /// A cache in which no pod is registered.
    pub fn new(client: Client, detection: ChangeDetection) -> Self {
        let changes = broadcast::Sender::new(CHANGE_QUEUE);
        let released = Arc::new(Notify::new());
        let shared = Shared {
            pods: Mutex::default(),
            config_maps: Store::new(client.clone(), detection, changes.clone(), Arc::clone(&released)),
            secrets: Store::new(client, detection, changes.clone(), Arc::clone(&released)),
            changes,
            released,
        };
        ObjectCache { shared: Arc::new(shared) }
    }

    /// Makes known what a pod refers to; again when the pod changed. Starts watches at once and does not wait for them.
    /// Has to be called within a tokio runtime.
    pub fn register_pod(&self, pod: &Pod) {
        let key = PodKey::of(pod);
        let now_referenced = referenced_objects(pod);
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pods.insert(key.uid.clone(), (key.namespace.clone(), now_referenced.clone()));
        let before = before.map(|(_, references)| references).unwrap_or_default();
        // New references first: an object that only moved within the pod keeps its watch.
        self.add(&key, &now_referenced, &before);
        self.release(&key.namespace, &key.uid, &before, &now_referenced);
    }

    /// Forgets a pod. Its objects stay watched for a minute.
    pub fn unregister_pod(&self, uid: &PodUid) {
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((namespace, references)) = pods.remove(uid) {
            self.release(&namespace, uid, &references, &References::default());
        }
    }

    /// Whether a pod is registered.
    pub fn has_pod(&self, uid: &PodUid) -> bool {
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid)
    }

    fn add(&self, key: &PodKey, references: &References, except: &References) {
        for name in references.config_maps.difference(&except.config_maps) {
            self.shared.config_maps.add(ObjectKey::new(&key.namespace, name), &key.uid);
        }
        for name in references.secrets.difference(&except.secrets) {
            self.shared.secrets.add(ObjectKey::new(&key.namespace, name), &key.uid);
        }
    }

    fn release(&self, namespace: &str, uid: &PodUid, references: &References, except: &References) {
        for name in references.config_maps.difference(&except.config_maps) {
            self.shared.config_maps.release(&ObjectKey::new(namespace, name), uid);
        }
        for name in references.secrets.difference(&except.secrets) {
            self.shared.secrets.release(&ObjectKey::new(namespace, name), uid);
        }
    }

    /// A referenced ConfigMap; waits at most 1 s for its first read.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<ConfigMap>, ObjectError> {
        self.shared.config_maps.get(namespace, name).await
    }

    /// A referenced Secret; waits at most 1 s for its first read.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Secret>, ObjectError> {
        self.shared.secrets.get(namespace, name).await
    }

    /// Changes of watched objects from now on: of content, of coming and going, and of a first read that came too late for its
    /// reader. A listener that lags behind has to take everything as changed.
    pub fn changes(&self) -> broadcast::Receiver<ObjectChange> {
        self.shared.changes.subscribe()
    }

    /// Ends watches a minute after their last reference, until cancelled; then ends all and waits for them.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            let due = [self.shared.config_maps.purge(), self.shared.secrets.purge()].into_iter().flatten().min();
            let wait = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // All arms are cancel-safe: what is due is worked out anew each time, and a stored permit is not lost.
            tokio::select! {
                () = cancel.cancelled() => break,
                () = wait => {}
                () = self.shared.released.notified() => {}
            }
        }
        self.shared.config_maps.close().await;
        self.shared.secrets.close().await;
    }
}

#[cfg(test)]
mod tests;
