//! One kind's objects by name, each with its source: a watch, or reads with a time to live.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::kube::core::NamespaceResourceScope;
use ::kube::{Api, Client, Resource};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ChangeDetection, ObjectChange, ObjectError, ObjectKind};
use crate::kube::error;
use crate::kube::watch::{ObjectWatch, WatchEvent, WatchOptions};
use crate::model::pod::PodUid;

/// How long a read waits for the first sync; the peer's number, as its error text is.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an object without a reference stays watched.
const IDLE: Duration = Duration::from_secs(60);
/// The first retry: the node authorizer learns of a fresh pod within some ten milliseconds.
const FIRST_RETRY: Duration = Duration::from_millis(25);

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectKey {
    namespace: Box<str>,
    name: Box<str>,
}

impl ObjectKey {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

/// What the two kinds differ in.
pub(super) trait CachedObject:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
    const KIND: ObjectKind;

    fn is_immutable(&self) -> bool;

    fn has_content_of(&self, other: &Self) -> bool;

    /// Leaves only what identifies the object beside its content: annotations may hold a second copy of it.
    fn prune(&mut self) {
        let full = std::mem::take(self.meta_mut());
        *self.meta_mut() = ObjectMeta {
            name: full.name,
            namespace: full.namespace,
            uid: full.uid,
            resource_version: full.resource_version,
            ..ObjectMeta::default()
        };
    }
}

impl CachedObject for ConfigMap {
    const KIND: ObjectKind = ObjectKind::ConfigMap;

    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    fn has_content_of(&self, other: &Self) -> bool {
        self.data == other.data && self.binary_data == other.binary_data
    }
}

impl CachedObject for Secret {
    const KIND: ObjectKind = ObjectKind::Secret;

    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    fn has_content_of(&self, other: &Self) -> bool {
        self.data == other.data && self.type_ == other.type_
    }
}

/// All referenced objects of one kind.
pub(super) struct Store<K> {
    client: Client,
    detection: ChangeDetection,
    entries: Mutex<HashMap<ObjectKey, Entry<K>>>,
    changes: broadcast::Sender<ObjectChange>,
    released: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<K> Drop for Store<K> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Entry<K> {
    pods: HashSet<PodUid>,
    idle_since: Option<Instant>,
    source: Source<K>,
}

enum Source<K> {
    Watched { content: watch::Receiver<Content<K>>, late: Arc<AtomicBool>, stop: CancellationToken },
    Read(Arc<Slot<K>>),
}

/// What a watch knows.
enum Content<K> {
    Pending { cause: Option<String> },
    Absent,
    Present(Arc<K>),
}

/// What was read, and when.
struct Slot<K> {
    stale: AtomicBool,
    last: tokio::sync::Mutex<Option<(Instant, Option<Arc<K>>)>>,
}

impl<K: CachedObject> Store<K> {
    pub(super) fn new(
        client: Client,
        detection: ChangeDetection,
        changes: broadcast::Sender<ObjectChange>,
        released: Arc<Notify>,
    ) -> Arc<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Arc::new(Store { client, detection, entries: Mutex::default(), changes, released, tasks, stop })
    }

    /// Counts a pod's reference; the first one starts the watch.
    pub(super) fn add(self: &Arc<Self>, key: ObjectKey, pod: &PodUid) {
        if self.detection == ChangeDetection::Get {
            return;
        }
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_insert_with(|| {
            let source = match self.detection {
                ChangeDetection::Watch => self.watch(key),
                _ => {
                    Source::Read(Arc::new(Slot { stale: AtomicBool::new(false), last: tokio::sync::Mutex::default() }))
                }
            };
            Entry { pods: HashSet::new(), idle_since: None, source }
        });
        entry.pods.insert(pod.clone());
        entry.idle_since = None;
        if let Source::Read(slot) = &entry.source {
            slot.stale.store(true, Ordering::Relaxed);
        }
    }

    /// Takes a pod's reference back.
    pub(super) fn release(&self, key: &ObjectKey, pod: &PodUid) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.pods.remove(pod);
        if !entry.pods.is_empty() {
            return;
        }
        // Without a live watch nothing would tell that a kept object is out of date: an immutable one may be deleted and made
        // anew with other content.
        let live = matches!(&entry.source, Source::Watched { content, .. } if content.has_changed().is_ok());
        if live {
            entry.idle_since = Some(Instant::now());
            self.released.notify_one();
        } else {
            entries.remove(key);
        }
    }

    /// Ends watches that were idle long enough; tells when the next one will have been.
    pub(super) fn purge(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        self.entries().retain(|_, entry| {
            let Some(due) = entry.idle_since.map(|since| since + IDLE) else { return true };
            if due <= now {
                if let Source::Watched { stop, .. } = &entry.source {
                    stop.cancel();
                }
                return false;
            }
            next = Some(next.map_or(due, |n: Instant| n.min(due)));
            true
        });
        next
    }

    /// Ends all watches and waits for their tasks.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) async fn get(&self, namespace: &str, name: &str) -> Result<Arc<K>, ObjectError> {
        let found = {
            let entries = self.entries();
            let entry = entries.get(&ObjectKey::new(namespace, name));
            entry.map(|entry| match &entry.source {
                Source::Watched { content, late, .. } => Err((content.clone(), Arc::clone(late))),
                Source::Read(slot) => Ok(Arc::clone(slot)),
            })
        };
        match (found, self.detection) {
            (_, ChangeDetection::Get) => match self.read(namespace, name).await? {
                Some(object) => Ok(object),
                None => Err(not_found::<K>(namespace, name)),
            },
            (Some(Err((content, late))), _) => self.watched(namespace, name, content, &late).await,
            (Some(Ok(slot)), ChangeDetection::Cache { ttl }) => self.cached(namespace, name, &slot, ttl).await,
            _ => Err(ObjectError::NotRegistered { kind: K::KIND, namespace: namespace.into(), name: name.into() }),
        }
    }

    async fn watched(
        &self,
        namespace: &str,
        name: &str,
        mut content: watch::Receiver<Content<K>>,
        late: &AtomicBool,
    ) -> Result<Arc<K>, ObjectError> {
        let synced = content.wait_for(|content| !matches!(content, Content::Pending { .. }));
        if let Ok(Ok(content)) = tokio::time::timeout(READ_TIMEOUT, synced).await {
            return match &*content {
                Content::Present(object) => Ok(Arc::clone(object)),
                _ => Err(not_found::<K>(namespace, name)),
            };
        }
        late.store(true, Ordering::Relaxed);
        let cause = match &*content.borrow() {
            // It came between the timeout and here.
            Content::Present(object) => return Ok(Arc::clone(object)),
            Content::Absent => return Err(not_found::<K>(namespace, name)),
            Content::Pending { cause } => cause.clone(),
        };
        Err(ObjectError::NotSynced { kind: K::KIND, namespace: namespace.into(), name: name.into(), cause })
    }

    async fn cached(&self, namespace: &str, name: &str, slot: &Slot<K>, ttl: Duration) -> Result<Arc<K>, ObjectError> {
        let mut last = slot.last.lock().await;
        let stale = slot.stale.swap(false, Ordering::Relaxed);
        let fresh = last.as_ref().is_some_and(|(at, object)| object.is_some() && !stale && at.elapsed() < ttl);
        if !fresh {
            match (self.read(namespace, name).await, last.as_ref()) {
                (Ok(object), _) => *last = Some((Instant::now(), object)),
                // What was read before serves until the server answers.
                (Err(_), Some((_, Some(_)))) => slot.stale.store(true, Ordering::Relaxed),
                (Err(error), _) => {
                    slot.stale.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        match last.as_ref() {
            Some((_, Some(object))) => Ok(Arc::clone(object)),
            _ => Err(not_found::<K>(namespace, name)),
        }
    }

    /// A direct read; none if there is no such object. A refusal is asked again for a second, as the authorizer may be behind.
    async fn read(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, ObjectError> {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut pause = FIRST_RETRY;
        loop {
            match api.get(name).await {
                Ok(mut object) => {
                    object.prune();
                    return Ok(Some(Arc::new(object)));
                }
                Err(source) if error::is_not_found(&source) => return Ok(None),
                Err(source) if error::is_forbidden(&source) && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(source) => {
                    let (namespace, name) = (namespace.into(), name.into());
                    return Err(ObjectError::Api { kind: K::KIND, namespace, name, source });
                }
            }
        }
    }

    fn watch(self: &Arc<Self>, key: ObjectKey) -> Source<K> {
        let mut options = WatchOptions::new(format!("{} {}/{}", K::KIND, key.namespace, key.name));
        options.fields = Some(format!("metadata.name={}", key.name));
        // The peer's: these watches are many and quiet.
        options.timeout_seconds = 1800..3600;
        // There may be hundreds of these watches: together they must not use up the client's limit while the server is away,
        // nor each report it.
        options.first_retry = Duration::from_millis(200);
        options.refused_retry = FIRST_RETRY;
        options.max_retry = Duration::from_secs(8);
        options.quiet = true;
        options.prune = CachedObject::prune;
        let watch = ObjectWatch::new(Api::namespaced(self.client.clone(), &key.namespace), options);
        let (sender, content) = watch::channel(Content::Pending { cause: None });
        let (late, stop) = (Arc::new(AtomicBool::new(false)), self.stop.child_token());
        let follower = Follower { store: Arc::downgrade(self), key, content: sender, late: Arc::clone(&late), watch };
        self.tasks.spawn(follower.run(stop.clone()));
        Source::Watched { content, late, stop }
    }

    fn announce(&self, key: &ObjectKey) {
        let pods = self.entries().get(key).map(|entry| entry.pods.iter().cloned().collect()).unwrap_or_default();
        let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
        // An error only says that nobody listens.
        let _ = self.changes.send(ObjectChange { kind: K::KIND, namespace, name, pods });
    }

    /// Drops an entry that no pod refers to; tells whether it did.
    fn abandon(&self, key: &ObjectKey) -> bool {
        let mut entries = self.entries();
        let idle = entries.get(key).is_none_or(|entry| entry.pods.is_empty());
        if idle {
            entries.remove(key);
        }
        idle
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ObjectKey, Entry<K>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found<K: CachedObject>(namespace: &str, name: &str) -> ObjectError {
    ObjectError::NotFound { kind: K::KIND, namespace: namespace.into(), name: name.into() }
}

/// The task that follows one object.
struct Follower<K> {
    store: Weak<Store<K>>,
    key: ObjectKey,
    content: watch::Sender<Content<K>>,
    late: Arc<AtomicBool>,
    watch: ObjectWatch<K>,
}

impl<K: CachedObject> Follower<K> {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // Both arms are cancel-safe.
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = self.watch.next() => event,
            };
            let Some(store) = self.store.upgrade() else { return };
            let object = match event {
                // The field selector leaves at most one.
                Ok(WatchEvent::Replaced(mut objects)) => objects.pop(),
                Ok(WatchEvent::Applied(object)) => Some(object),
                Ok(WatchEvent::Deleted(_)) => None,
                Err(failure) => {
                    // Refused and unreferenced: the authorizer has taken the last pod's leave before us.
                    if failure.is_forbidden() && store.abandon(&self.key) {
                        return;
                    }
                    let words = error::message(&failure.source);
                    self.content.send_if_modified(|content| {
                        if let Content::Pending { cause } = content {
                            *cause = Some(words);
                        }
                        false
                    });
                    continue;
                }
            };
            let immutable = object.as_ref().is_some_and(CachedObject::is_immutable);
            if self.update(object) {
                store.announce(&self.key);
            }
            if immutable {
                tracing::debug!(namespace = %self.key.namespace, name = %self.key.name, "{} is immutable, its watch ends", K::KIND);
                return;
            }
        }
    }

    /// Takes over the object's state; tells whether listeners should hear of it.
    fn update(&self, object: Option<K>) -> bool {
        let mut tell = false;
        self.content.send_if_modified(|content| {
            let same = match (&*content, &object) {
                (Content::Pending { .. }, _) => {
                    tell = self.late.load(Ordering::Relaxed);
                    false
                }
                (Content::Absent, None) => true,
                (Content::Present(old), Some(new)) => {
                    old.has_content_of(new)
                        && old.meta().uid == new.meta().uid
                        && old.is_immutable() == new.is_immutable()
                }
                _ => false,
            };
            if same {
                return false;
            }
            let first = matches!(content, Content::Pending { .. });
            let differs = match (&*content, &object) {
                (Content::Present(old), Some(new)) => !old.has_content_of(new),
                _ => true,
            };
            tell |= !first && differs;
            *content = object.map_or(Content::Absent, |object| Content::Present(Arc::new(object)));
            true
        });
        tell
    }
}
