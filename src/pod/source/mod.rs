//! Where pods come from: the API, manifests in files of this node ([`mod@file`]), a URL ([`http`]); [`Sources`] is all of them as
//! the manager reads them. [`manifest`] makes pods of a manifest's text.
//!
//! | task | input | output | stops |
//! |---|---|---|---|
//! | [`file::FileSource::run`] | `staticPodPath`, watched | [`StaticPods`] | at its token |
//! | [`http::UrlSource::run`] | `staticPodURL`, asked now and then | [`StaticPods`] | at its token |

mod defaults;
pub mod file;
mod go_dump;
pub mod http;
pub mod manifest;
mod references;
mod validation;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::kube::pods::{PodEvent, PodEvents};
use crate::model::Timestamp;
use crate::model::pod::{CONFIG_SEEN_ANNOTATION, PodKey, PodUid, annotation};

/// The longest manifest in bytes.
pub(super) const MAX_MANIFEST: u64 = 10 << 20;

/// A source of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The API server.
    Api,
    /// `staticPodPath`.
    File,
    /// `staticPodURL`.
    Http,
}

impl Source {
    /// The source of that name in the annotation `kubernetes.io/config.source`.
    pub fn by_name(name: &str) -> Option<Self> {
        [Source::Api, Source::File, Source::Http].into_iter().find(|source| source.name() == name)
    }

    /// Its name there.
    pub fn name(self) -> &'static str {
        match self {
            Source::Api => "api",
            Source::File => "file",
            Source::Http => "http",
        }
    }
}

/// All static pods of one source.
#[derive(Clone, Debug, Default)]
pub struct StaticPods {
    /// The pods, one of each name.
    pub pods: Vec<Arc<Pod>>,
    /// Each manifest could be read, now or earlier: what runs and is not among the pods is wanted no more.
    pub complete: bool,
}

/// The newest of a source of static pods; none before it was read for the first time.
pub type StaticPodsReceiver = watch::Receiver<Option<StaticPods>>;

/// What a source has told.
#[derive(Clone, Debug)]
pub struct SourceEvent {
    /// Which one.
    pub source: Source,
    /// What it told.
    pub event: PodEvent,
    /// Whether all pods of the source are known with it.
    pub complete: bool,
}

/// The sources that are configured, as one.
#[derive(Default)]
pub struct Sources {
    api: Option<PodEvents>,
    static_pods: Vec<(Source, StaticPodsReceiver)>,
    configured: BTreeSet<Source>,
}

impl Sources {
    /// No source but the API; none at all without it.
    pub fn new(api: Option<PodEvents>) -> Self {
        let configured = api.iter().map(|_| Source::Api).collect();
        Sources { api, static_pods: Vec::new(), configured }
    }

    /// With a source of static pods.
    #[must_use]
    pub fn with(mut self, source: Source, pods: StaticPodsReceiver) -> Self {
        self.configured.insert(source);
        self.static_pods.push((source, pods));
        self
    }

    /// The sources that there are.
    pub fn configured(&self) -> &BTreeSet<Source> {
        &self.configured
    }

    /// What a source tells next. Waits for ever when all have ended. Cancel-safe.
    pub async fn next(&mut self) -> SourceEvent {
        loop {
            let (api, static_pods) = (&mut self.api, &mut self.static_pods);
            // Cancel-safe: a channel's event is taken only by the arm that wins, and a watch's stays until it is looked at.
            tokio::select! {
                event = next_of_api(api) => match event {
                    Some(event) => return SourceEvent { source: Source::Api, event, complete: true },
                    None => self.api = None,
                },
                index = changed(static_pods) => {
                    let Some((source, receiver)) = static_pods.get_mut(index) else { continue };
                    let told = receiver.borrow_and_update().clone();
                    if let Some(StaticPods { pods, complete }) = told {
                        return SourceEvent { source: *source, event: PodEvent::Synced(pods), complete };
                    }
                }
            }
        }
    }
}

async fn next_of_api(api: &mut Option<PodEvents>) -> Option<PodEvent> {
    match api {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The place of a source that has something new. One whose task has ended keeps what it told last.
async fn changed(sources: &mut [(Source, StaticPodsReceiver)]) -> usize {
    let waits = sources.iter_mut().enumerate().map(|(index, (_, receiver))| {
        Box::pin(async move {
            match receiver.changed().await {
                Ok(()) => index,
                Err(_) => std::future::pending().await,
            }
        })
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waits).await.0
}

/// What a source of static pods has told, so that a pod that stays the same stays the same object.
#[derive(Default)]
struct Known {
    pods: HashMap<PodUid, Arc<Pod>>,
}

/// A set of pods without doubles.
struct Distinct {
    pods: Vec<Arc<Pod>>,
    doubles: Vec<Double>,
}

/// A pod that does not count beside another one.
#[derive(Debug)]
struct Double {
    pod: Pod,
    /// What the two have in common.
    by: Common,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Common {
    Name,
    Uid,
}

impl Known {
    /// Takes the pods as read now. Each is told to have been seen since it was first among them; of two with one name or UID the
    /// first counts.
    fn take(&mut self, read: impl IntoIterator<Item = Pod>, now: Timestamp) -> Distinct {
        let mut before = std::mem::take(&mut self.pods);
        let (mut names, mut doubles, mut pods) = (HashSet::new(), Vec::new(), Vec::new());
        for mut pod in read {
            let key = PodKey::of(&pod);
            let by = match names.insert((key.namespace.clone(), key.name.clone())) {
                false => Some(Common::Name),
                true => self.pods.contains_key(&key.uid).then_some(Common::Uid),
            };
            if let Some(by) = by {
                doubles.push(Double { pod, by });
                continue;
            }
            let earlier = before.remove(&key.uid);
            let seen = earlier.as_deref().and_then(|pod| annotation(pod, CONFIG_SEEN_ANNOTATION));
            let seen = seen.map_or_else(|| now.to_string(), str::to_owned);
            pod.metadata.annotations.get_or_insert_default().insert(CONFIG_SEEN_ANNOTATION.to_owned(), seen);
            let pod = earlier.filter(|earlier| **earlier == pod).unwrap_or_else(|| Arc::new(pod));
            self.pods.insert(key.uid, pod.clone());
            pods.push(pod);
        }
        Distinct { pods, doubles }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, image: &str) -> Pod {
        let containers = json!([{"name": "c", "image": image}]);
        let metadata = json!({"name": name, "namespace": "default", "uid": uid});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn what_stays_the_same_stays_the_same_object() {
        let mut known = Known::default();
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let first = known.take(vec![pod("a", "1", "x"), pod("b", "2", "x")], at(0)).pods;
        let second = known.take(vec![pod("a", "1", "x"), pod("b", "2", "y"), pod("c", "3", "x")], at(5)).pods;
        assert!(Arc::ptr_eq(&first[0], &second[0]));
        let seen = |pod: &Pod| annotation(pod, CONFIG_SEEN_ANNOTATION).map(str::to_owned);
        assert_eq!(seen(&first[1]), seen(&second[1]), "edited under the same UID");
        assert_ne!(first[1], second[1]);
        assert_ne!(seen(&second[2]), seen(&second[0]));
        known.take(Vec::new(), at(6));
        assert!(known.pods.is_empty());
    }

    #[test]
    fn of_two_with_one_name_the_first_counts() {
        let mut known = Known::default();
        let now = Timestamp::UNIX_EPOCH;
        let told =
            known.take(vec![pod("a", "1", "x"), pod("b", "2", "x"), pod("a", "3", "x"), pod("c", "2", "x")], now);
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap();
        assert_eq!(told.pods.iter().map(|pod| uid(pod)).collect::<Vec<_>>(), ["1", "2"]);
        let doubles: Vec<_> = told.doubles.iter().map(|double| (uid(&double.pod), double.by)).collect();
        assert_eq!(doubles, [("3".to_owned(), Common::Name), ("2".to_owned(), Common::Uid)]);
    }

    #[tokio::test]
    async fn sources_are_read_as_one() {
        let (file, file_pods) = watch::channel(None);
        let (http, http_pods) = watch::channel(None);
        let mut sources = Sources::new(None).with(Source::File, file_pods).with(Source::Http, http_pods);
        assert_eq!(sources.configured().iter().copied().collect::<Vec<_>>(), [Source::File, Source::Http]);
        http.send_replace(Some(StaticPods { pods: vec![Arc::new(pod("a", "1", "x"))], complete: true }));
        let told = sources.next().await;
        assert_eq!((told.source, told.complete), (Source::Http, true));
        file.send_replace(Some(StaticPods::default()));
        let told = sources.next().await;
        assert_eq!((told.source, told.complete, told.event), (Source::File, false, PodEvent::Synced(Vec::new())));
        drop(file);
        http.send_replace(Some(StaticPods::default()));
        assert_eq!(sources.next().await.source, Source::Http, "one that has ended keeps the others going");
    }
}
