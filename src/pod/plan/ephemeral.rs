//! Ephemeral containers: each is started once in the pod's sandbox and never again, however it ends (`kubectl debug`).

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

use super::view::View;
use crate::model::observation::{PodObservation, SandboxObservation};
use crate::model::pod;

/// The ephemeral containers that have never been made, each with the container whose processes it is to see, by the
/// runtime's id. One whose target has not been made yet comes once that is.
pub(super) fn to_start<'a>(
    view: &View<'a>,
    observed: &'a PodObservation,
    sandbox: &'a SandboxObservation,
) -> impl Iterator<Item = (Container, Option<String>)> {
    let containers = view.spec.ephemeral_containers.iter().flatten();
    let new: Vec<&EphemeralContainer> = containers.filter(|c| !was_made(view, observed, &c.name)).collect();
    new.into_iter().filter_map(|container| {
        let target = container.target_container_name.as_deref().filter(|name| !name.is_empty());
        let target = match target {
            Some(name) => Some(observed.instances(name).find(|c| c.sandbox_id == sandbox.id)?.id.clone()),
            None => None,
        };
        Some((pod::ephemeral_as_container(container), target))
    })
}

/// Whether the container was made once, by what the runtime holds or by what the API was told.
fn was_made(view: &View<'_>, observed: &PodObservation, name: &str) -> bool {
    let told = view.memory.status.ephemeral_container_statuses.iter().flatten().find(|s| s.name == name);
    let state = told.and_then(|status| status.state.as_ref());
    observed.container(name).is_some() || state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::*;
    use super::super::*;
    use crate::model::observation::ContainerObservation;
    use crate::model::pod::ContainerKind;

    fn debugged(target: Option<&str>) -> Pod {
        let mut debug = json!({"name": "debug", "image": "tools"});
        if let Some(target) = target {
            debug["targetContainerName"] = target.into();
        }
        pod_of(json!({
            "restartPolicy": "Always",
            "initContainers": [{"name": "init", "image": "i"}],
            "containers": [{"name": "c", "image": "i"}],
            "ephemeralContainers": [debug],
        }))
    }

    fn with_image(pod: &Pod) -> PodMemory {
        let mut memory = prepared(pod);
        let pull =
            Action::PullImage { container: "debug".into(), kind: ContainerKind::Ephemeral, image: "tools".into() };
        memory.note_started(&pull, at(1));
        let image = Some(ReadyImage { image_ref: "sha256:2".into(), ..ReadyImage::default() });
        memory.note_outcome(&pull, Outcome { image, ..Outcome::from(Ok(())) }, at(1));
        memory
    }

    fn plan_of(pod: &Pod, memory: &PodMemory, containers: Vec<ContainerObservation>) -> Plan {
        plan_at(pod, Some(&observation(containers)), memory, at(5))
    }

    fn target(plan: &Plan) -> Option<Option<&str>> {
        plan.actions.iter().find_map(|action| match action {
            Action::StartContainer(start) if start.container == "debug" => Some(start.target_id.as_deref()),
            _ => None,
        })
    }

    #[test]
    fn one_is_pulled_and_started_beside_whatever_the_others_do() {
        let pod = debugged(None);
        let init = || vec![instance(&pod, "init", 0, running())];
        let pulls = plan_of(&pod, &prepared(&pod), init());
        let pull =
            Action::PullImage { container: "debug".into(), kind: ContainerKind::Ephemeral, image: "tools".into() };
        assert!(pulls.actions.contains(&pull));
        assert_eq!(started(&pulls), []);
        assert_eq!(started(&plan_of(&pod, &with_image(&pod), init())), [("debug", 0)]);
    }

    #[test]
    fn one_that_was_made_once_is_never_started_again() {
        let mut pod = debugged(None);
        let memory = with_image(&pod);
        let all = |state| {
            let ended = instance(&pod, "init", 0, exited(0, 2));
            vec![instance(&pod, "debug", 0, state), instance(&pod, "c", 0, running()), ended]
        };
        for state in [running(), exited(1, 4)] {
            let plan = plan_of(&pod, &memory, all(state));
            assert_eq!(started(&plan), []);
            assert!(!plan.completed);
        }
        // Another agent knows it from the API, the runtime having forgotten it.
        let shown = plan_of(&pod, &memory, all(exited(1, 4))).status;
        let statuses = shown.as_ref().unwrap().ephemeral_container_statuses.as_ref().unwrap();
        assert_eq!(statuses[0].state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
        let left = all(running()).split_off(1);
        pod.status = shown;
        assert_eq!(started(&plan_of(&pod, &with_image(&pod), left)), []);
    }

    #[test]
    fn one_with_a_target_waits_for_it_and_joins_it() {
        let pod = debugged(Some("c"));
        let memory = with_image(&pod);
        let init = instance(&pod, "init", 0, exited(0, 2));
        assert_eq!(target(&plan_of(&pod, &memory, vec![init.clone()])), None);
        let up = vec![instance(&pod, "c", 3, running()), init];
        assert_eq!(target(&plan_of(&pod, &memory, up)), Some(Some("c-3")));
    }

    #[test]
    fn none_keeps_a_pod_from_its_end() {
        let mut pod = debugged(None);
        pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
        let ended = vec![instance(&pod, "c", 0, exited(0, 4)), instance(&pod, "init", 0, exited(0, 2))];
        let plan = plan_of(&pod, &with_image(&pod), ended);
        assert!(plan.completed);
        assert_eq!(started(&plan), []);
    }
}
