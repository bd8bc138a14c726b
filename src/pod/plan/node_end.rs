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
    /// The node does not take the pod at all.
    is_rejection: bool,
    /// The message of the condition `DisruptionTarget`, for a pod that is ended for the sake of others.
    disruption: Option<String>,
}

impl NodeEnd {
    /// The node does not take the pod.
    pub fn rejected(reason: impl Into<String>, message: &str) -> Self {
        NodeEnd {
            reason: reason.into(),
            message: format!("Pod was rejected: {message}"),
            is_rejection: true,
            disruption: None,
        }
    }

    /// The pod makes room for a critical one.
    pub fn preempted() -> Self {
        NodeEnd {
            reason: "Preempting".to_owned(),
            message: "Preempted in order to admit critical pod".to_owned(),
            is_rejection: false,
            disruption: Some("Pod was preempted by Kubelet to accommodate a critical pod.".to_owned()),
        }
    }

    /// The pod was active for as long as it may.
    pub fn deadline_exceeded() -> Self {
        NodeEnd {
            reason: "DeadlineExceeded".to_owned(),
            message: "Pod was active on the node longer than the specified deadline".to_owned(),
            is_rejection: false,
            disruption: None,
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
        self.is_rejection
    }

    /// Whether the pod has failed however its processes ended; one that gave way to another may have succeeded.
    pub(super) fn fails_the_pod(&self) -> bool {
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

    /// Writes the verdict into the status by which the pod's phase becomes terminal. One that gave way and whose processes all
    /// ended well has succeeded, as with the kubelet: only the condition tells what happened.
    pub(super) fn tell(&self, status: &mut PodStatus, now: Timestamp) {
        if status.phase.as_deref() == Some("Failed") {
            status.reason = Some(self.reason.clone());
            status.message = Some(self.message.clone());
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Action, Failure, NodeFacts, Outcome, Plan, PlanInput, PodMemory, plan};
    use super::*;
    use crate::model::observation::{ContainerObservation, ContainerState, Exit, PodObservation, SandboxObservation};
    use crate::model::probe_results::ProbeResults;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 2},
            "spec": {"restartPolicy": "Always", "terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
            ]},
        }))
        .unwrap()
    }

    fn holding(state: ContainerState) -> PodObservation {
        let container = ContainerObservation {
            id: "c-0".into(),
            sandbox_id: "s".into(),
            name: "c".into(),
            restart_count: 0,
            hash: String::new(),
            created_at: at(0),
            state,
            image: "i".into(),
            image_ref: "i".into(),
            resources: None,
            user: None,
            stop_signal: None,
            annotations: Default::default(),
            log_path: String::new(),
        };
        let ready = container.state.may_run();
        let sandbox = SandboxObservation {
            id: "s".into(),
            attempt: 0,
            created_at: at(0),
            ready,
            ips: vec!["10.0.0.1".into()],
            host_network: false,
            runtime_handler: String::new(),
        };
        PodObservation { sandboxes: vec![sandbox], containers: vec![container] }
    }

    fn exited() -> ContainerState {
        let exit = Exit {
            started_at: Some(at(0)),
            finished_at: at(1),
            code: 0,
            reason: "Completed".into(),
            message: String::new(),
        };
        ContainerState::Exited(exit)
    }

    fn planned(memory: &PodMemory, observed: &PodObservation) -> Plan {
        let node = NodeFacts::default();
        plan(&PlanInput {
            pod: &pod(),
            observed: Some(observed),
            memory,
            probes: &ProbeResults::default(),
            node: &node,
            now: at(2),
        })
    }

    #[test]
    fn of_a_rejected_pod_only_the_verdict_is_told() {
        let mut memory = PodMemory::new(&pod(), at(0));
        memory.note_node_end(&NodeEnd::rejected("OutOfcpu", "too much"), &pod(), at(0));
        let plan = planned(&memory, &PodObservation::default());
        assert_eq!((plan.actions, plan.stopped), (vec![Action::CleanUp], true));
        insta::assert_json_snapshot!(plan.status, @r#"
        {
          "conditions": [
            {
              "reason": "EvictionByEvictionAPI",
              "status": "True",
              "type": "DisruptionTarget"
            }
          ],
          "message": "Pod was rejected: too much",
          "observedGeneration": 2,
          "phase": "Failed",
          "qosClass": "BestEffort",
          "reason": "OutOfcpu",
          "startTime": "2027-01-15T08:00:00Z"
        }
        "#);
    }

    #[test]
    fn a_pod_that_runs_is_stopped_first_and_keeps_its_containers_statuses() {
        let mut memory = PodMemory::new(&pod(), at(0));
        memory.note_node_end(&NodeEnd::rejected("NodeAffinity", "elsewhere"), &pod(), at(0));
        let running = planned(&memory, &holding(ContainerState::Running { started_at: at(0) }));
        assert!(matches!(running.actions.as_slice(), [Action::KillContainer(kill)] if kill.id == "c-0"));
        let status = running.status.unwrap();
        assert_eq!((running.stopped, status.phase.as_deref(), status.reason), (false, Some("Running"), None));
        let ended = planned(&memory, &holding(exited()));
        let status = ended.status.unwrap();
        assert_eq!((ended.stopped, status.phase.as_deref()), (true, Some("Failed")));
        assert_eq!(status.reason.as_deref(), Some("NodeAffinity"));
        let container = &status.container_statuses.unwrap()[0];
        assert!(container.state.as_ref().unwrap().terminated.is_some());
    }

    #[test]
    fn what_a_rejected_pod_has_run_before_is_told_even_if_the_runtime_has_lost_it() {
        let mut before = pod();
        let shown = json!([{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 2, "state": {"running": {}}}]);
        before.status.as_mut().unwrap().container_statuses = serde_json::from_value(shown).unwrap();
        let of_the_api = PodMemory::new(&before, at(0));
        let mut of_a_mirror = PodMemory::new(&pod(), at(0));
        of_a_mirror.note_mirror(&before);
        let rejected = |mut memory: PodMemory| {
            memory.note_node_end(&NodeEnd::rejected("OutOfcpu", "too much"), &pod(), at(0));
            let status = planned(&memory, &PodObservation::default()).status.unwrap();
            assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
            status
        };
        let count = |status: &PodStatus| status.container_statuses.as_ref().unwrap()[0].restart_count;
        // That it was lost while it ran counts as its restart.
        assert_eq!(count(&rejected(of_the_api)), 3);
        let mut status = rejected(of_a_mirror);
        for _ in 0..2 {
            assert_eq!(count(&status), 2, "each agent tells the same");
            let mut next = PodMemory::new(&pod(), at(0));
            next.note_mirror(&Pod { status: Some(status), ..pod() });
            status = rejected(next);
        }
    }

    #[test]
    fn a_preempted_pod_is_told_to_be_disrupted_by_the_node_when_it_has_ended() {
        let mut memory = PodMemory::new(&pod(), at(0));
        memory.note_node_end(&NodeEnd::preempted(), &pod(), at(0));
        let disruption = |status: &PodStatus| {
            let conditions = status.conditions.clone().unwrap_or_default();
            conditions.into_iter().find(|c| c.type_ == DISRUPTION_TARGET).and_then(|c| c.reason)
        };
        let status = planned(&memory, &holding(ContainerState::Running { started_at: at(0) })).status.unwrap();
        assert_eq!(disruption(&status).as_deref(), Some("EvictionByEvictionAPI"), "others' stays until then");
        let status = planned(&memory, &holding(exited())).status.unwrap();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Succeeded"), None));
        assert_eq!(disruption(&status).as_deref(), Some("TerminationByKubelet"));
        // What was told stays.
        memory.status = status.clone();
        let again = planned(&memory, &holding(exited())).status.unwrap();
        assert_eq!((again.reason.clone(), disruption(&again)), (status.reason.clone(), disruption(&status)));
    }

    #[test]
    fn the_first_reason_stays_and_none_comes_after_the_end() {
        let mut memory = PodMemory::new(&pod(), at(0));
        memory.note_node_end(&NodeEnd::preempted(), &pod(), at(0));
        memory.note_node_end(&NodeEnd::rejected("Late", ""), &pod(), at(0));
        assert_eq!(memory.node_end, Some(NodeEnd::preempted()));
        let mut memory = PodMemory::new(&pod(), at(0));
        memory.status.phase = Some("Succeeded".to_owned());
        memory.note_node_end(&NodeEnd::preempted(), &pod(), at(0));
        assert_eq!(memory.node_end, None);
    }

    #[test]
    fn a_container_that_waits_for_the_pods_volumes_says_what_they_lack() {
        let waiting = |memory: &PodMemory| {
            let status = planned(memory, &PodObservation::default()).status.unwrap();
            let state = status.container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap();
            (state.reason.unwrap(), state.message.unwrap_or_default())
        };
        let mut memory = PodMemory::new(&pod(), at(0));
        assert_eq!(waiting(&memory), ("ContainerCreating".to_owned(), String::new()));
        let missing = || Outcome::from(Err(Failure::new("FailedMount", "configmap \"x\" not found")));
        memory.note_started(&Action::MountVolumes, at(0));
        memory.note_outcome(&Action::MountVolumes, missing(), at(0));
        let told = ("ContainerCreating".to_owned(), "configmap \"x\" not found".to_owned());
        assert_eq!(waiting(&memory), told);
        memory.status = planned(&memory, &PodObservation::default()).status.unwrap();
        memory.note_started(&Action::MountVolumes, at(1));
        assert_eq!(waiting(&memory), told, "still so while it is tried again");
        memory.note_outcome(&Action::MountVolumes, Outcome::from(Ok(())), at(1));
        memory.status = planned(&memory, &PodObservation::default()).status.unwrap();
        assert_eq!(waiting(&memory), ("ContainerCreating".to_owned(), String::new()));
    }
}
