//! Kubernetes events: what a user sees of a node's work. Recording never waits; a task correlates and writes them.

mod correlator;
mod lru;
mod sender;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::kube::Client;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;

pub use self::sender::{BusySince, EventSender};
use crate::model::pod::ContainerKind;
use crate::model::{EventType, Timestamp, clock};

/// The component that events come from: clients select by it.
const COMPONENT: &str = "kubelet";
/// Events that may wait to be written; client-go's number.
const QUEUE: usize = 1000;
/// Longest message, bytes: an event that the API would refuse for its size tells nothing.
const MAX_MESSAGE: usize = 64 * 1024;

/// Records events. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventRecorder {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Queue { queue: mpsc::Sender<Event>, host: Arc<str>, names: Arc<AtomicI64>, dropped: Arc<AtomicU64> },
    List(Arc<Mutex<Vec<RecordedEvent>>>),
    Nowhere,
}

/// An event as a test sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// What it is about.
    pub object: ObjectReference,
    /// Normal or Warning.
    pub event_type: EventType,
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl EventRecorder {
    /// A recorder and the task that writes what it records, with a client of the events' own limit (`eventRecordQPS`,
    /// `eventBurst`).
    pub fn new(client: Client, node_name: &str) -> (EventRecorder, EventSender) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let target = Target::Queue { queue, host: node_name.into(), names: Arc::default(), dropped: Arc::default() };
        (EventRecorder { target }, EventSender::new(client, receiver))
    }

    /// A test double: events are kept for [`Self::recorded`].
    pub fn recording() -> Self {
        EventRecorder { target: Target::List(Arc::default()) }
    }

    /// A recorder without an API (standalone mode): events only go to the log.
    pub fn discarding() -> Self {
        EventRecorder { target: Target::Nowhere }
    }

    /// What a [`Self::recording`] recorder has so far, oldest first; nothing of another one.
    pub fn recorded(&self) -> Vec<RecordedEvent> {
        match &self.target {
            Target::List(events) => events.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            _ => Vec::new(),
        }
    }

    /// Records an event about an object. When the queue is full the event is dropped and counted.
    pub fn event(&self, object: &ObjectReference, event_type: EventType, reason: &str, message: impl Into<String>) {
        self.annotated_event(object, event_type, reason, message, BTreeMap::new());
    }

    /// Records an event with annotations of its own, such as an eviction's.
    pub fn annotated_event(
        &self,
        object: &ObjectReference,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
        annotations: BTreeMap<String, String>,
    ) {
        let message = bounded(message.into());
        let (kind, namespace, name) = (text(&object.kind), text(&object.namespace), text(&object.name));
        tracing::debug!(kind, namespace, name, reason, r#type = event_type.as_str(), "event: {message}");
        match &self.target {
            Target::Queue { queue, host, names, dropped } => {
                let now = distinct(names, clock::now());
                let event = new_event(object, event_type, reason, message, annotations, host, now);
                if queue.try_send(event).is_err() {
                    let total = dropped.fetch_add(1, Ordering::Relaxed) + 1;
                    if total.is_power_of_two() {
                        tracing::warn!(total, reason, "events are dropped: too many wait for the API server");
                    }
                }
            }
            Target::List(events) => {
                let (object, reason) = (object.clone(), reason.to_owned());
                let event = RecordedEvent { object, event_type, reason, message, annotations };
                events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
            Target::Nowhere => {}
        }
    }
}

/// The time, moved on by nanoseconds where the last event had the same one: the time is the event's name.
fn distinct(last: &AtomicI64, now: Timestamp) -> Timestamp {
    let nanos = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let advance = |last: i64| Some(nanos.max(last.saturating_add(1)));
    let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance).unwrap_or(0);
    Timestamp::from_nanosecond(i128::from(nanos.max(before.saturating_add(1)))).unwrap_or(now)
}

fn new_event(
    object: &ObjectReference,
    event_type: EventType,
    reason: &str,
    message: String,
    annotations: BTreeMap<String, String>,
    host: &str,
    now: Timestamp,
) -> Event {
    let namespace = object.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
    Event {
        metadata: ObjectMeta {
            name: Some(correlator::event_name(object, now)),
            namespace: Some(namespace),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        involved_object: object.clone(),
        reason: Some(reason.into()),
        message: Some(message),
        type_: Some(event_type.as_str().into()),
        count: Some(1),
        first_timestamp: Some(clock::api_time(now)),
        last_timestamp: Some(clock::api_time(now)),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(host.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(host.into()),
        ..Event::default()
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    }
    message
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// A reference to a pod.
pub fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to one of a pod's containers: the pod, with the container as its field path.
pub fn container_reference(pod: &Pod, kind: ContainerKind, name: &str) -> ObjectReference {
    ObjectReference { field_path: Some(kind.field_path(name)), ..pod_reference(pod) }
}

/// A reference to a node; without its UID while that is not known.
pub fn node_reference(name: &str, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: uid.filter(|uid| !uid.is_empty()).map(Into::into),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u", "resourceVersion": "7"}}),
        )
        .unwrap()
    }

    #[test]
    fn an_event_as_the_peer_writes_it() {
        let now = Timestamp::from_nanosecond(1_800_000_000_123_456_789).unwrap();
        let object = container_reference(&pod(), ContainerKind::Init, "c");
        let event = new_event(&object, EventType::Warning, "Failed", "text".into(), BTreeMap::new(), "n1", now);
        let expected = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": "p.18fae2769b0fcd15", "namespace": "ns"},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "p", "uid": "u",
                "resourceVersion": "7", "fieldPath": "spec.initContainers{c}"},
            "reason": "Failed", "message": "text", "type": "Warning", "count": 1,
            "firstTimestamp": "2027-01-15T08:00:00Z", "lastTimestamp": "2027-01-15T08:00:00Z",
            "source": {"component": "kubelet", "host": "n1"},
            "reportingComponent": "kubelet", "reportingInstance": "n1",
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), expected);
    }

    #[test]
    fn no_two_events_share_their_time() {
        let (last, now) = (AtomicI64::new(0), Timestamp::from_second(1_800_000_000).unwrap());
        let names: std::collections::HashSet<i128> = (0..100).map(|_| distinct(&last, now).as_nanosecond()).collect();
        assert_eq!(names.len(), 100);
        let later = Timestamp::from_second(1_800_000_001).unwrap();
        assert_eq!(distinct(&last, later), later);
    }

    #[test]
    fn node_events_are_in_default() {
        let object = node_reference("n1", Some("uid"));
        let event = new_event(&object, EventType::Normal, "Starting", "x".into(), BTreeMap::new(), "n1", clock::now());
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(node_reference("n1", Some("")).uid, None);
    }

    #[test]
    fn the_double_keeps_what_it_gets() {
        let recorder = EventRecorder::recording();
        recorder.clone().event(&pod_reference(&pod()), EventType::Normal, "Pulled", "done");
        let events = recorder.recorded();
        assert_eq!((events[0].reason.as_str(), events[0].message.as_str()), ("Pulled", "done"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let cut = bounded("ä".repeat(MAX_MESSAGE));
        assert!(cut.len() <= MAX_MESSAGE && cut.chars().all(|c| c == 'ä'));
    }
}
