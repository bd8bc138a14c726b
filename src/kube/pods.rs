//! The pods bound to this node, as the API has them.

use std::collections::HashMap;
use std::sync::Arc;

use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::watch::{ObjectWatch, WatchEvent, WatchOptions};
use crate::model::pod::{CONFIG_SEEN_ANNOTATION, CONFIG_SOURCE_ANNOTATION, PodUid};
use crate::model::{Timestamp, clock};

/// Events that may wait for their reader.
const QUEUE: usize = 256;

/// A change of the node's pods.
#[derive(Clone, Debug, PartialEq)]
pub enum PodEvent {
    /// All of them: first after start, and again whenever the watch had to begin anew. Pods not in it are gone from the API.
    Synced(Vec<Arc<Pod>>),
    /// Added or changed.
    Applied(Arc<Pod>),
    /// Gone from the API; its last state.
    Deleted(Arc<Pod>),
}

/// The watch of this node's pods (`spec.nodeName`), to be run as a task.
pub struct PodSource {
    watch: ObjectWatch<Pod>,
    sightings: Sightings,
    sender: mpsc::Sender<PodEvent>,
}

/// The reader's end.
pub struct PodEvents {
    receiver: mpsc::Receiver<PodEvent>,
}

impl PodEvents {
    /// The next event; none when the source has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<PodEvent> {
        self.receiver.recv().await
    }
}

impl PodSource {
    /// A source for one node and the end to read it from. Pods carry the peer's annotations `kubernetes.io/config.source=api`
    /// and `kubernetes.io/config.seen`, and no managed fields.
    pub fn new(client: Client, node_name: &str) -> (PodSource, PodEvents) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut options = WatchOptions::new("this node's pods");
        options.fields = Some(format!("spec.nodeName={node_name}"));
        options.prune = |pod: &mut Pod| pod.metadata.managed_fields = None;
        let source =
            PodSource { watch: ObjectWatch::new(Api::all(client), options), sightings: Sightings::default(), sender };
        (source, PodEvents { receiver })
    }

    /// Watches until cancelled or until the reader is gone.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            // Both arms are cancel-safe, and after a cancellation nothing is read any more.
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = self.watch.next() => event,
            };
            // The watch logs its failures and goes on by itself.
            let Ok(event) = event else { continue };
            let event = self.sightings.stamp(event, clock::now());
            // A send that is dropped loses its event, which does not matter once cancelled.
            let sent = tokio::select! {
                () = cancel.cancelled() => return,
                sent = self.sender.send(event) => sent,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// When each pod was first seen: its `config.seen` stays the same over all its updates.
#[derive(Default)]
struct Sightings {
    first_seen: HashMap<PodUid, String>,
}

impl Sightings {
    fn stamp(&mut self, event: WatchEvent<Pod>, now: Timestamp) -> PodEvent {
        match event {
            WatchEvent::Replaced(pods) => {
                let mut before = std::mem::take(&mut self.first_seen);
                let stamped = pods.into_iter().map(|pod| {
                    let uid = uid(&pod);
                    let seen = before.remove(&uid).unwrap_or_else(|| now.to_string());
                    let pod = stamped(pod, &seen);
                    self.first_seen.insert(uid, seen);
                    pod
                });
                PodEvent::Synced(stamped.collect())
            }
            WatchEvent::Applied(pod) => {
                let seen = self.first_seen.entry(uid(&pod)).or_insert_with(|| now.to_string());
                PodEvent::Applied(stamped(pod, seen))
            }
            WatchEvent::Deleted(pod) => {
                let seen = self.first_seen.remove(&uid(&pod)).unwrap_or_else(|| now.to_string());
                PodEvent::Deleted(stamped(pod, &seen))
            }
        }
    }
}

fn uid(pod: &Pod) -> PodUid {
    PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn stamped(mut pod: Pod, seen: &str) -> Arc<Pod> {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE_ANNOTATION.into(), "api".into());
    annotations.insert(CONFIG_SEEN_ANNOTATION.into(), seen.into());
    Arc::new(pod)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::task::JoinSet;

    use super::super::testing::{FakeApi, list, object};
    use super::*;
    use crate::model::pod::annotation;

    fn pod(name: &str, version: u32) -> Value {
        let mut pod = object("v1", "Pod", "ns", name, version, json!({"spec": {"nodeName": "n1", "containers": []}}));
        pod["metadata"]["uid"] = format!("uid-{name}").into();
        pod
    }

    fn typed(name: &str) -> Pod {
        serde_json::from_value(pod(name, 1)).unwrap()
    }

    fn seen(pod: &Pod) -> &str {
        annotation(pod, CONFIG_SEEN_ANNOTATION).unwrap()
    }

    #[test]
    fn first_sight_outlives_updates_and_relists() {
        let mut sightings = Sightings::default();
        let at = |nanos: i64| Timestamp::from_nanosecond(1_800_000_000_000_000_000 + i128::from(nanos)).unwrap();
        let PodEvent::Synced(pods) =
            sightings.stamp(WatchEvent::Replaced(vec![typed("a"), typed("b")]), at(120_000_000))
        else {
            panic!()
        };
        assert_eq!(seen(&pods[0]), "2027-01-15T08:00:00.12Z");
        assert_eq!(annotation(&pods[0], CONFIG_SOURCE_ANNOTATION), Some("api"));
        let PodEvent::Applied(changed) = sightings.stamp(WatchEvent::Applied(typed("a")), at(500_000_000)) else {
            panic!()
        };
        assert_eq!(seen(&changed), "2027-01-15T08:00:00.12Z");
        let PodEvent::Synced(pods) =
            sightings.stamp(WatchEvent::Replaced(vec![typed("a"), typed("c")]), at(1_000_000_000))
        else {
            panic!()
        };
        assert_eq!([seen(&pods[0]), seen(&pods[1])], ["2027-01-15T08:00:00.12Z", "2027-01-15T08:00:01Z"]);
        assert_eq!(sightings.first_seen.len(), 2, "what is gone is forgotten");
        let PodEvent::Deleted(_) = sightings.stamp(WatchEvent::Deleted(typed("a")), at(2)) else { panic!() };
        assert_eq!(sightings.first_seen.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn watches_its_node_and_ends_when_asked() {
        let mut fake = FakeApi::new();
        let (source, mut events) = PodSource::new(fake.client(), "n1");
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(source.run(cancel.clone()));
        let request = fake.next().await;
        assert_eq!(request.path(), "/api/v1/pods?&fieldSelector=spec.nodeName%3Dn1&limit=500");
        request.json(list("PodList", 5, None, &[pod("a", 5)]));
        let Some(PodEvent::Synced(pods)) = events.next().await else { panic!() };
        assert_eq!(pods.len(), 1);
        assert!(pods[0].metadata.managed_fields.is_none());
        let feed = fake.next().await.watch();
        feed.send("DELETED", pod("a", 6));
        assert!(matches!(events.next().await, Some(PodEvent::Deleted(_))));
        // A relist gives the complete set again.
        feed.error(410, "Expired", "too old");
        fake.next().await.json(list("PodList", 9, None, &[pod("b", 9)]));
        let Some(PodEvent::Synced(pods)) = events.next().await else { panic!() };
        assert_eq!(pods[0].metadata.name.as_deref(), Some("b"));
        cancel.cancel();
        tasks.join_all().await;
        assert!(events.next().await.is_none());
    }
}
