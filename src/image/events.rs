//! Where events about images go.

use k8s_openapi::api::core::v1::Pod;

use crate::model::EventType;
use crate::model::pod::ContainerKind;

/// Records events about a container of a pod.
pub trait ImageEvents: Send + Sync {
    /// Records an event; must not block.
    fn event(
        &self,
        pod: &Pod,
        kind: ContainerKind,
        container: &str,
        event_type: EventType,
        reason: &'static str,
        message: String,
    );

    /// Records an event about the pod as a whole; must not block.
    fn pod_event(&self, pod: &Pod, event_type: EventType, reason: &'static str, message: String);
}
