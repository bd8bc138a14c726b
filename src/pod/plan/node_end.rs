//! What a pod's status says when the node itself did not take the pod or decided to end it.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use super::conditions::{DISRUPTION_TARGET, OWN_DISRUPTION, is_owned_condition, replace_or_append};
use crate::model::Timestamp;
use crate::model::clock::api_time;
use crate::model::qos::QosClass;

/// That the node itself ends a pod, and why: the pod's phase becomes `Failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEnd {
    /// `status.reason`.
    reason: String,
    /// `status.message`.
    message: String,
    /// The message of the condition `DisruptionTarget`, for a pod that is ended for the sake of others. None for one that the
    /// node does not take at all.
    disruption: Option<String>,
}

impl NodeEnd {
    /// The node does not take the pod.
    pub fn rejected(reason: impl Into<String>, message: &str) -> Self {
        NodeEnd { reason: reason.into(), message: format!("Pod was rejected: {message}"), disruption: None }
    }

    /// The pod makes room for a critical one.
    pub fn preempted() -> Self {
        NodeEnd {
            reason: "Preempting".to_owned(),
            message: "Preempted in order to admit critical pod".to_owned(),
            disruption: Some("Pod was preempted by Kubelet to accommodate a critical pod.".to_owned()),
        }
    }

    /// `status.reason`, and that of the event.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// `status.message`.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the node did not take the pod.
    pub(super) fn is_rejection(&self) -> bool {
        self.disruption.is_none()
    }

    /// The status of a pod of which nothing was ever started here: only what others wrote stays beside the verdict.
    pub(super) fn status_of_rejected(&self, pod: &Pod, previous: &PodStatus, first_seen: Timestamp) -> PodStatus {
        let others = previous.conditions.iter().flatten().filter(|condition| !is_owned_condition(&condition.type_));
        PodStatus {
            phase: Some("Failed".to_owned()),
            reason: Some(self.reason.clone()),
            message: Some(self.message.clone()),
            qos_class: Some(QosClass::of(pod).as_str().to_owned()),
            start_time: previous.start_time.clone().or_else(|| Some(api_time(first_seen))),
            observed_generation: pod.metadata.generation,
            nominated_node_name: previous.nominated_node_name.clone(),
            resource_claim_statuses: previous.resource_claim_statuses.clone(),
            resize: previous.resize.clone(),
            conditions: Some(others.cloned().collect()),
            ..PodStatus::default()
        }
    }

    /// Writes the verdict into the status by which the pod becomes `Failed`.
    pub(super) fn tell(&self, status: &mut PodStatus, now: Timestamp) {
        status.reason = Some(self.reason.clone());
        status.message = Some(self.message.clone());
        let Some(message) = &self.disruption else { return };
        let condition = PodCondition {
            type_: DISRUPTION_TARGET.to_owned(),
            status: "True".to_owned(),
            reason: Some(OWN_DISRUPTION.to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(api_time(now)),
            observed_generation: status.observed_generation,
            ..PodCondition::default()
        };
        replace_or_append(status.conditions.get_or_insert_default(), condition);
    }
}
