//! All containers of a pod are started anew, in the same sandbox and on the same volumes, once one of them ends as a rule
//! with the action `RestartAllContainers` says (KEP 5532).
//!
//! Those that run are stopped, then all are removed, and those whose end asked for it last: any agent sees from what is left
//! that it was begun. With nothing left the pod starts with its first init container. Ephemeral containers are let be.

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, PodSpec,
    PodStatus,
};

use super::restart::{RestartRules, was_cut_off};
use crate::model::observation::{ContainerObservation, ContainerState, PodObservation};
use crate::model::pod;

/// The pod's condition while it is under way.
pub(super) const CONDITION: &str = "AllContainersRestarting";
/// Why a container waits, and how its removed instance is shown to have ended.
pub(super) const REASON: &str = "RestartingAllContainers";
const MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// Whether a container of the pod can ask for it: only such pods have the condition.
pub(super) fn is_possible(rules: RestartRules, spec: &PodSpec) -> bool {
    pod::init_and_regular_containers(spec).any(|(_, container)| rules.can_ask_for_all(container))
}

/// Whether the containers have to be removed.
pub(super) fn is_due(rules: RestartRules, spec: &PodSpec, observed: &PodObservation) -> bool {
    let asks = |c: &Container| observed.container(&c.name).is_some_and(|latest| has_asked(rules, c, latest));
    pod::init_and_regular_containers(spec).any(|(_, container)| asks(container))
}

/// Whether a container that is missing has been removed for that.
pub(super) fn is_under_way(
    rules: RestartRules,
    spec: &PodSpec,
    observed: &PodObservation,
    previous: &PodStatus,
) -> bool {
    let told = previous.conditions.iter().flatten().any(|c| c.type_ == CONDITION && c.status == "True");
    is_possible(rules, spec) && (told || is_due(rules, spec, observed))
}

fn has_asked(rules: RestartRules, container: &Container, instance: &ContainerObservation) -> bool {
    match &instance.state {
        ContainerState::Exited(exit) => !was_cut_off(exit) && rules.asks_for_all(container, exit.code),
        _ => false,
    }
}

/// What is next: the containers to stop, or else those to remove.
pub(super) fn next<'a>(
    rules: RestartRules,
    spec: &PodSpec,
    observed: &'a PodObservation,
) -> (Vec<&'a ContainerObservation>, Vec<&'a ContainerObservation>) {
    let of_spec = |instance: &ContainerObservation| {
        pod::init_and_regular_containers(spec).map(|(_, container)| container).find(|c| c.name == instance.name)
    };
    let instances = || observed.containers.iter().filter_map(|i| Some((of_spec(i)?, i)));
    let running: Vec<_> = instances().map(|(_, i)| i).filter(|i| i.state.may_run()).collect();
    if !running.is_empty() {
        return (running, Vec::new());
    }
    let (sources, targets): (Vec<_>, Vec<_>) = instances().partition(|(container, i)| has_asked(rules, container, i));
    let removals = if targets.is_empty() { sources } else { targets };
    (Vec::new(), removals.into_iter().map(|(_, i)| i).collect())
}

/// Shows a container that has just been removed.
pub(super) fn show_removed(old: &ContainerStatus, status: &mut ContainerStatus) {
    let waiting = ContainerStateWaiting { reason: Some(REASON.to_owned()), message: Some(MESSAGE.to_owned()) };
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(REASON.to_owned()),
        message: Some(MESSAGE.to_owned()),
        ..ContainerStateTerminated::default()
    };
    status.state = Some(ApiState { waiting: Some(waiting), ..ApiState::default() });
    status.last_state = Some(ApiState { terminated: Some(terminated), ..ApiState::default() });
    status.restart_count = old.restart_count.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::super::tests::*;
    use super::super::*;
    use super::*;
    use crate::model::probe_results::ProbeResults;

    /// A pod that never restarts but for its container `source`, whose exit code 42 restarts all.
    fn pod_with_rule() -> Pod {
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
        let source = json!({
            "name": "source", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule],
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        });
        pod_of(json!({
            "restartPolicy": "Never",
            "initContainers": [{"name": "init", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}],
            "containers": [source, {"name": "other", "image": "i", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}],
        }))
    }

    fn plan_of(pod: &Pod, memory: &mut PodMemory, containers: Vec<ContainerObservation>, second: i64) -> Plan {
        let node = NodeFacts { host_ips: vec!["192.0.2.1".into()], ..NodeFacts::default() };
        let (observed, probes) = (observation(containers), ProbeResults::default());
        let plan =
            plan(&PlanInput { pod, observed: Some(&observed), memory, probes: &probes, node: &node, now: at(second) });
        memory.note_status(plan.status.as_ref().unwrap(), at(second));
        plan
    }

    fn removed(plan: &Plan) -> Vec<&str> {
        let mut names: Vec<&str> = plan
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::RemoveContainer { container, log_path, .. } => {
                    assert_eq!(log_path, "", "its log is kept");
                    Some(container.as_str())
                }
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn all_are_stopped_removed_and_started_from_the_first() {
        let pod = pod_with_rule();
        let mut memory = prepared(&pod);
        let of = |name: &str, state| instance(&pod, name, 0, state);
        let init = || of("init", exited(0, 2));
        let up = vec![of("source", running()), of("other", running()), of("side", running()), init()];
        let plan = plan_of(&pod, &mut memory, up, 3);
        assert_eq!(condition(&plan, CONDITION), ("False".to_owned(), None));

        let ended = vec![of("source", exited(42, 4)), of("other", running()), of("side", running()), init()];
        let plan = plan_of(&pod, &mut memory, ended, 4);
        let mut killed = Vec::new();
        for action in &plan.actions {
            let Action::KillContainer(kill) = action else { panic!("{action:?}") };
            assert_eq!((kill.message.as_str(), kill.grace.as_secs()), ("killing", 2), "no hook, the shortest grace");
            killed.push(kill.container.as_str());
        }
        assert_eq!(killed, ["other", "side"]);
        assert!(!plan.completed);
        let reason = Some("RestartAllContainersStarted".to_owned());
        assert_eq!(condition(&plan, CONDITION), ("True".to_owned(), reason));

        let killed = vec![of("source", exited(42, 4)), of("other", exited(137, 5)), of("side", exited(137, 5)), init()];
        assert_eq!(removed(&plan_of(&pod, &mut memory, killed, 5)), ["init", "other", "side"]);
        let plan = plan_of(&pod, &mut memory, vec![of("source", exited(42, 4))], 6);
        assert_eq!(removed(&plan), ["source"], "whose end asked for it goes last");
        let again = plan_of(&pod, &mut memory, vec![of("source", exited(42, 4))], 6);
        let shown = container(&again, "init").state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!(shown.reason.as_deref(), Some(REASON), "it has not merely been lost");

        let plan = plan_of(&pod, &mut memory, vec![], 7);
        assert_eq!(condition(&plan, CONDITION).0, "False");
        assert_eq!(plan.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
        assert_eq!(started(&plan), [("init", 1)]);
        for name in ["source", "other"] {
            let shown = container(&plan, name);
            assert_eq!(shown.restart_count, 1, "{name}");
            assert_eq!(shown.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some(REASON));
            let last = shown.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
            assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some(REASON)));
        }
        let plan = plan_of(&pod, &mut memory, vec![instance(&pod, "init", 1, running())], 8);
        assert_eq!(container(&plan, "other").restart_count, 1, "it is counted once");
        assert_eq!(plan.status.as_ref().unwrap().phase.as_deref(), Some("Pending"), "its init containers run again");
    }

    #[test]
    fn what_has_started_anew_is_let_be_whatever_the_api_still_says() {
        let mut pod = pod_with_rule();
        let told = json!({"conditions": [{"type": CONDITION, "status": "True"}]});
        pod.status = Some(serde_json::from_value(told).unwrap());
        let mut memory = prepared(&pod);
        let plan = plan_of(&pod, &mut memory, vec![instance(&pod, "init", 1, running())], 3);
        assert_eq!((plan.actions.len(), condition(&plan, CONDITION).0.as_str()), (0, "False"));
    }

    #[test]
    fn an_end_without_a_rule_restarts_nothing() {
        let pod = pod_with_rule();
        let mut memory = prepared(&pod);
        let ended = |name: &str| instance(&pod, name, 0, exited(1, 4));
        let init = instance(&pod, "init", 0, exited(0, 2));
        let plan = plan_of(&pod, &mut memory, vec![ended("source"), ended("other"), ended("side"), init], 4);
        assert!(plan.completed);
    }
}
