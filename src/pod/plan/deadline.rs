//! How long a pod may be active on the node (`activeDeadlineSeconds`), counted from its `status.startTime`.

use super::Draft;
use super::action::Action;
use super::memory::later;
use super::termination::requested_grace;
use super::view::View;
use crate::model::clock::api_time;
use crate::model::pod;
use crate::model::{SignedDuration, Timestamp};

/// Ends the pod once its time is over, else notes when that will be. Returns whether that has just come.
///
/// It comes also while the pod ends for another cause: as long as something of it runs it is active, so a deletion or a
/// sidecar that takes long lets it fail (the kubelet's activeDeadlineHandler is asked at each of its status updates).
pub(super) fn plan(view: &View<'_>, draft: &mut Draft) -> bool {
    let memory = view.memory;
    let has_ended = |phase: Option<&str>| phase.is_some_and(pod::is_terminal_phase);
    if has_ended(memory.status.phase.as_deref()) || has_ended(pod::phase(view.pod)) {
        return false;
    }
    // What ends a pod first stays its reason, and of a pod that is gone there is nobody to tell.
    if memory.node_end.is_some() || memory.removed {
        return false;
    }
    let Some(at) = deadline(view) else { return false };
    if view.now < at {
        draft.wake(at);
        return false;
    }
    draft.act(Action::EndByDeadline { grace: requested_grace(view.pod) });
    true
}

fn deadline(view: &View<'_>) -> Option<Timestamp> {
    let allowed = SignedDuration::from_secs(view.spec.active_deadline_seconds?);
    let first_seen = view.memory.first_seen;
    let start = match &view.memory.status.start_time {
        // The API knows whole seconds only.
        Some(start) if *start != api_time(first_seen) => start.0,
        _ => first_seen,
    };
    Some(later(start, allowed))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::super::tests::*;
    use super::super::*;
    use crate::model::observation::PodObservation;
    use crate::model::probe_results::ProbeResults;

    fn plan_of(pod: &Pod, observed: &PodObservation, memory: &PodMemory, now: Timestamp) -> Plan {
        let node = NodeFacts { host_ips: vec!["192.0.2.1".into()], ..NodeFacts::default() };
        let probes = ProbeResults::default();
        plan(&PlanInput { pod, observed: Some(observed), memory, probes: &probes, node: &node, now })
    }

    fn limited() -> Pod {
        let spec = json!({
            "activeDeadlineSeconds": 10,
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": "i"}],
        });
        pod_of(spec)
    }

    #[rstest]
    // First seen at 0 by this agent.
    #[case(None, 9, Some(10))]
    #[case(None, 10, None)]
    // Started under an earlier agent.
    #[case(Some(-4), 5, Some(6))]
    #[case(Some(-4), 6, None)]
    fn a_pod_ends_when_its_time_is_over(#[case] start: Option<i64>, #[case] now: i64, #[case] wakes: Option<i64>) {
        let mut pod = limited();
        let start_time = start.map(|start| crate::model::clock::api_time(at(start)));
        pod.status = Some(PodStatus { start_time, ..PodStatus::default() });
        let memory = prepared(&pod);
        let plan = plan_of(&pod, &observation(vec![instance(&pod, "c", 0, running())]), &memory, at(now));
        let ended = plan.actions.iter().any(|action| matches!(action, Action::EndByDeadline { .. }));
        assert_eq!((ended, plan.wake_at), (wakes.is_none(), wakes.map(at)));
    }

    #[test]
    fn its_status_tells_so_once_nothing_runs() {
        let pod = limited();
        let mut memory = prepared(&pod);
        let up = observation(vec![instance(&pod, "c", 0, running())]);
        memory.status = plan_of(&pod, &up, &memory, at(1)).status.unwrap();
        let over = plan_of(&pod, &up, &memory, at(10));
        memory.note_started(&over.actions[0], at(10));
        let ending = plan_of(&pod, &up, &memory, at(10));
        let status = ending.status.unwrap();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Running"), None));
        let Some(Action::KillContainer(kill)) = ending.actions.first() else { panic!("{:?}", ending.actions) };
        assert_eq!(kill.grace, crate::model::SignedDuration::from_secs(5));

        let mut down = observation(vec![instance(&pod, "c", 0, exited(0, 11))]);
        down.sandboxes[0].ready = false;
        let status = plan_of(&pod, &down, &memory, at(11)).status.unwrap();
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
        assert_eq!(status.message.as_deref(), Some("Pod was active on the node longer than the specified deadline"));
        assert!(!status.conditions.unwrap().iter().any(|c| c.type_ == "DisruptionTarget"));
    }

    #[test]
    fn it_may_pass_while_the_pod_ends_already() {
        let mut pod = limited();
        pod.metadata.deletion_timestamp = Some(crate::model::clock::api_time(at(8)));
        pod.metadata.deletion_grace_period_seconds = Some(60);
        let mut memory = prepared(&pod);
        let up = observation(vec![instance(&pod, "c", 0, running())]);
        memory.status = plan_of(&pod, &up, &memory, at(8)).status.unwrap();
        let ending = plan_of(&pod, &up, &memory, at(9));
        assert_eq!(ending.wake_at, Some(at(10)));
        assert!(matches!(ending.actions.as_slice(), [Action::KillContainer(_)]), "{:?}", ending.actions);

        // Also if that is seen only when the last container has ended.
        let mut down = observation(vec![instance(&pod, "c", 0, exited(0, 11))]);
        down.sandboxes[0].ready = false;
        let over = plan_of(&pod, &down, &memory, at(11));
        assert_eq!(over.actions, [Action::EndByDeadline { grace: crate::model::SignedDuration::from_secs(60) }]);
        assert_eq!(over.status.unwrap().phase.as_deref(), Some("Running"), "nothing final is told before it counts");
        let grace = memory.termination.unwrap().grace;
        memory.note_started(&over.actions[0], at(11));
        assert_eq!(memory.termination.unwrap().grace, grace);
        let status = plan_of(&pod, &down, &memory, at(11)).status.unwrap();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    }

    #[test]
    fn a_pod_that_gives_way_says_so_however_long_it_takes() {
        let pod = limited();
        let mut memory = prepared(&pod);
        memory.note_node_end(&NodeEnd::preempted(), &pod, at(8));
        let up = observation(vec![instance(&pod, "c", 0, running())]);
        let plan = plan_of(&pod, &up, &memory, at(12));
        assert!(matches!(plan.actions.as_slice(), [Action::KillContainer(_)]), "{:?}", plan.actions);
    }

    #[test]
    fn a_pod_that_has_ended_is_left_as_it_is() {
        let mut pod = limited();
        pod.status = Some(PodStatus { phase: Some("Succeeded".into()), ..PodStatus::default() });
        let memory = PodMemory::new(&pod, at(0));
        let plan = plan_of(&pod, &observation(vec![instance(&pod, "c", 0, exited(0, 2))]), &memory, at(20));
        assert!(!plan.actions.iter().any(|action| matches!(action, Action::EndByDeadline { .. })));
        assert_eq!(plan.status.unwrap().phase.as_deref(), Some("Succeeded"));
    }
}
