//! Which images are asked for, and when: those of all containers and volumes together, from the pod's start.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

use super::Draft;
use super::action::{Action, Failure, ReadyImage};
use super::memory::{Due, RetryPolicy, Step, later};
use super::running::{Candidate, waiting_until};
use super::view::View;
use crate::model::observation::PodObservation;
use crate::model::pod::{self, ContainerKind};
use crate::model::{SignedDuration, Timestamp};

const IMAGE_RETRY: RetryPolicy =
    RetryPolicy { first: SignedDuration::from_secs(1), max: SignedDuration::from_secs(30) };

/// How far the images are that a container is made with.
pub(super) enum Images<'a> {
    /// They are there.
    Ready {
        /// The container's own.
        own: &'a ReadyImage,
        /// Those that it mounts as volumes, by the volume's name: the reference to mount them by.
        volumes: BTreeMap<String, String>,
    },
    /// One of them cannot be had now.
    Failed,
    /// One of them is asked for, or will be at once.
    Pending,
}

/// Before the runtime has been read, images of pods that have not been seen running are already worth having.
pub(super) fn first(view: &View<'_>, draft: &mut Draft) {
    if view.memory.status.container_statuses.as_ref().is_some_and(|s| !s.is_empty()) {
        return;
    }
    for (kind, container) in pod::init_and_regular_containers(view.spec) {
        pull(view, kind, container, draft);
    }
    pull_volumes(view, &[], draft);
}

/// Asks for the images of all containers that have not been made yet, and of those to be started again.
pub(super) fn pull_all(view: &View<'_>, observed: &PodObservation, candidates: &[Candidate<'_>], draft: &mut Draft) {
    let mut wanted: Vec<&Container> = Vec::new();
    for candidate in candidates.iter().filter(|c| c.kind == ContainerKind::Ephemeral) {
        pull(view, candidate.kind, &candidate.container, draft);
        wanted.push(&candidate.container);
    }
    for (kind, container) in pod::init_and_regular_containers(view.spec) {
        let candidate = candidates.iter().find(|c| c.container.name == container.name);
        let is_wanted = match candidate {
            Some(candidate) => waiting_until(view, candidate).is_none(),
            None => observed.container(&container.name).is_none() && !candidates.is_empty(),
        };
        if is_wanted {
            pull(view, kind, container, draft);
            wanted.push(container);
        }
    }
    if !wanted.is_empty() {
        pull_volumes(view, &wanted, draft);
    }
}

fn pull(view: &View<'_>, kind: ContainerKind, container: &Container, draft: &mut Draft) {
    let idle = Step::Idle;
    let memory = view.memory.container(&container.name);
    if memory.is_some_and(|m| m.start.is_running()) {
        return;
    }
    let image = container.image.clone().unwrap_or_default();
    // What is known of another image says nothing of this one; a pull under way for it is let go on.
    let known = memory.filter(|m| m.image_name == image || m.image.is_running());
    if draft.due(due(known.map_or(&idle, |m| &m.image), view.now)) {
        draft.act(Action::PullImage { container: container.name.clone(), kind, image });
    }
}

/// Asks for the images of all volumes, also of those that nobody mounts, and again for those that one of these containers
/// was started with before: the policy may want a pull, and the image may be gone.
fn pull_volumes(view: &View<'_>, wanted: &[&Container], draft: &mut Draft) {
    for (volume, _) in pod::image_volumes(view.spec) {
        let is_due = match view.memory.volume_images.get(volume) {
            None => true,
            Some(known) if known.step.is_done() => {
                wanted.iter().any(|c| known.used_by.contains(&c.name) && pod::mounts(c, volume))
            }
            Some(known) => draft.due(due(&known.step, view.now)),
        };
        if is_due {
            draft.act(Action::PullVolumeImage { volume: volume.to_owned() });
        }
    }
}

fn due(step: &Step, now: Timestamp) -> Due {
    match step {
        // Asked again soon, the image manager tells that the pull is held back, and until when.
        Step::Failed(failed) if failed.failure.reason == "ErrImagePull" => {
            Due::from(later(failed.at, IMAGE_RETRY.first), now)
        }
        step => step.due(now, &IMAGE_RETRY),
    }
}

/// How far the images of a container are.
pub(super) fn of<'a>(view: &View<'a>, container: &Container) -> Images<'a> {
    let Some(memory) = view.memory.container(&container.name) else {
        return Images::Pending; // It has just been asked for.
    };
    if memory.image_name != container.image.as_deref().unwrap_or_default() {
        return Images::Pending; // It has just been changed, and the new one asked for.
    }
    let mut volumes = BTreeMap::new();
    let mut is_pending = false;
    for (volume, _) in pod::image_volumes(view.spec).filter(|(volume, _)| pod::mounts(container, volume)) {
        let known = view.memory.volume_images.get(volume);
        match known.map(|known| (&known.step, &known.image_ref, known.used_by.contains(&container.name))) {
            Some((Step::Failed(_), ..)) => return Images::Failed,
            Some((Step::Done, Some(image_ref), false)) => {
                volumes.insert(volume.to_owned(), image_ref.clone());
            }
            _ => is_pending = true,
        }
    }
    match (&memory.image, &memory.ready_image) {
        (Step::Failed(_), _) => Images::Failed,
        (Step::Done, Some(own)) if !is_pending => Images::Ready { own, volumes },
        _ => Images::Pending,
    }
}

/// Why an image that the container needs is not there; a volume's before its own, as the peer asks for them in that order.
/// None also while one of a volume that has failed is tried again: what was told of it stands.
pub(super) fn failure<'a>(view: &View<'a>, container: &Container) -> Option<&'a Failure> {
    let mounted = pod::image_volumes(view.spec).filter(|(volume, _)| pod::mounts(container, volume));
    let steps = mounted.filter_map(|(volume, _)| view.memory.volume_images.get(volume)).map(|known| &known.step);
    let failed = steps.filter(|step| step.failure().is_some() || step.is_tried_again()).last();
    let own = || view.memory.container(&container.name).map(|memory| &memory.image);
    failed.or_else(own)?.failure()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::tests::*;
    use super::super::*;
    use crate::model::observation::PodObservation;
    use crate::model::pod::ContainerKind;

    fn volume(name: &str) -> Value {
        json!({"name": name, "image": {"reference": format!("{name}:1"), "pullPolicy": "IfNotPresent"}})
    }

    fn container_with(name: &str, volumes: &[&str]) -> Value {
        let mounts: Vec<Value> = volumes.iter().map(|v| json!({"name": v, "mountPath": format!("/{v}")})).collect();
        json!({"name": name, "image": "i", "volumeMounts": mounts})
    }

    /// `a` mounts both images, `b` one of them, and nobody the third.
    fn with_volumes() -> Pod {
        pod_of(json!({
            "restartPolicy": "Always",
            "containers": [container_with("a", &["data", "model"]), container_with("b", &["model"])],
            "volumes": [volume("data"), {"name": "tmp", "emptyDir": {}}, volume("model"), volume("unused")],
        }))
    }

    fn pull(volume: &str) -> Action {
        Action::PullVolumeImage { volume: volume.into() }
    }

    fn pulled(memory: &mut PodMemory, volume: &str, result: Result<(), Failure>, second: i64) {
        memory.note_started(&pull(volume), at(second));
        let image =
            result.is_ok().then(|| ReadyImage { image_ref: format!("sha256:{volume}"), ..ReadyImage::default() });
        memory.note_outcome(&pull(volume), Outcome { image, ..Outcome::from(result) }, at(second));
    }

    fn pulls(plan: &Plan) -> Vec<&str> {
        let pulls = plan.actions.iter().filter_map(|action| match action {
            Action::PullImage { container, .. } => Some(container.as_str()),
            Action::PullVolumeImage { volume } => Some(volume.as_str()),
            _ => None,
        });
        pulls.collect()
    }

    fn start(plan: &Plan) -> Option<&StartContainer> {
        plan.actions.iter().find_map(|action| match action {
            Action::StartContainer(start) => Some(start),
            _ => None,
        })
    }

    fn refused(reason: &str) -> Failure {
        Failure::new(reason, format!("{reason} of the volume"))
    }

    #[test]
    fn those_of_volumes_are_asked_for_from_the_start_with_those_of_containers() {
        let pod = with_volumes();
        let memory = PodMemory::new(&pod, at(0));
        let all = ["a", "b", "data", "model", "unused"];
        assert_eq!(pulls(&plan_at(&pod, None, &memory, at(0))), all);
        let nothing = PodObservation::default();
        assert_eq!(pulls(&plan_at(&pod, Some(&nothing), &memory, at(0))), all);
        let runs = observation(vec![instance(&pod, "a", 0, running()), instance(&pod, "b", 0, running())]);
        assert_eq!(pulls(&plan_at(&pod, Some(&runs), &memory, at(5))), [""; 0], "another agent has started all");
    }

    #[test]
    fn a_container_starts_once_its_own_volumes_are_there() {
        let pod = with_volumes();
        let mut memory = prepared(&pod);
        let observed = observation(Vec::new());
        memory.note_started(&pull("data"), at(1));
        memory.note_started(&pull("unused"), at(1));
        pulled(&mut memory, "model", Ok(()), 1);
        let plan = plan_at(&pod, Some(&observed), &memory, at(2));
        assert_eq!(start(&plan), None, "the first waits, and the second for the first");
        pulled(&mut memory, "data", Ok(()), 2);
        let plan = plan_at(&pod, Some(&observed), &memory, at(2));
        let started = start(&plan).unwrap();
        let volumes: Vec<_> = started.image_volumes.iter().map(|(v, image)| (v.as_str(), image.as_str())).collect();
        assert_eq!(
            (started.container.as_str(), volumes),
            ("a", vec![("data", "sha256:data"), ("model", "sha256:model")])
        );
    }

    #[test]
    fn one_that_fails_holds_up_those_alone_that_mount_it_and_tells_why() {
        let pod = with_volumes();
        let mut memory = prepared(&pod);
        let observed = observation(Vec::new());
        pulled(&mut memory, "model", Ok(()), 1);
        pulled(&mut memory, "unused", Ok(()), 1);
        pulled(&mut memory, "data", Err(refused("ErrImagePull")), 1);
        let plan = plan_at(&pod, Some(&observed), &memory, at(1));
        assert_eq!(started(&plan), [("b", 0)]);
        let waiting = |plan: &Plan| {
            let state = container(plan, "a").state.clone().unwrap().waiting.unwrap();
            (state.reason.unwrap(), state.message.unwrap())
        };
        let told = ("ErrImagePull".to_owned(), "ErrImagePull of the volume".to_owned());
        assert_eq!(waiting(&plan), told);
        assert_eq!(plan.wake_at, Some(at(2)));
        memory.status = plan.status.clone().unwrap();
        // Its own image fails as well, and the volume's is tried again: what was told stands.
        let own = Action::PullImage { container: "a".into(), kind: ContainerKind::Regular, image: "i".into() };
        memory.note_started(&own, at(1));
        memory.note_outcome(&own, Outcome::from(Err(refused("ImageInspectError"))), at(1));
        let again = plan_at(&pod, Some(&observed), &memory, at(2));
        assert!(again.actions.contains(&pull("data")));
        memory.note_started(&pull("data"), at(2));
        assert_eq!(waiting(&plan_at(&pod, Some(&observed), &memory, at(2))), told);
    }

    #[test]
    fn those_of_a_container_that_is_started_again_are_asked_for_again() {
        let pod = with_volumes();
        let mut memory = prepared(&pod);
        for volume in ["data", "model", "unused"] {
            pulled(&mut memory, volume, Ok(()), 1);
        }
        let starts = |memory: &mut PodMemory, containers: Vec<_>, result: Result<(), Failure>, second| {
            let observed = observation(containers);
            let plan = plan_at(&pod, Some(&observed), memory, at(second));
            let start = Action::StartContainer(start(&plan).unwrap().clone());
            memory.note_started(&start, at(second));
            memory.note_outcome(&start, Outcome::from(result), at(second));
        };
        starts(&mut memory, Vec::new(), Ok(()), 2);
        let a = || instance(&pod, "a", 0, running());
        let plan = plan_at(&pod, Some(&observation(vec![a()])), &memory, at(3));
        assert_eq!((pulls(&plan), started(&plan)), (Vec::new(), vec![("b", 0)]), "what is there serves both");
        starts(&mut memory, vec![a()], Ok(()), 3);
        // The second ends: its image and volume are asked for again, and those of the other are not.
        let ended = observation(vec![a(), instance(&pod, "b", 0, exited(1, 4))]);
        let plan = plan_at(&pod, Some(&ended), &memory, at(60));
        assert_eq!((pulls(&plan), started(&plan)), (vec!["b", "model"], Vec::new()));
        let own = Action::PullImage { container: "b".into(), kind: ContainerKind::Regular, image: "i".into() };
        memory.note_started(&own, at(60));
        memory.note_outcome(&own, Outcome { image: Some(ReadyImage::default()), ..Outcome::from(Ok(())) }, at(60));
        memory.note_started(&pull("model"), at(60));
        let plan = plan_at(&pod, Some(&ended), &memory, at(61));
        assert_eq!((pulls(&plan), started(&plan)), (Vec::new(), Vec::new()), "the volume's is under way");
        pulled(&mut memory, "model", Ok(()), 61);
        assert_eq!(started(&plan_at(&pod, Some(&ended), &memory, at(62))), [("b", 1)]);
    }

    #[test]
    fn those_of_a_start_that_failed_are_asked_for_again() {
        let pod = with_volumes();
        let mut memory = prepared(&pod);
        for volume in ["data", "model", "unused"] {
            pulled(&mut memory, volume, Ok(()), 1);
        }
        let observed = observation(Vec::new());
        let plan = plan_at(&pod, Some(&observed), &memory, at(2));
        let start = Action::StartContainer(start(&plan).unwrap().clone());
        memory.note_started(&start, at(2));
        memory.note_outcome(&start, Outcome::from(Err(refused("CreateContainerError"))), at(2));
        let plan = plan_at(&pod, Some(&observed), &memory, at(3));
        assert_eq!(pulls(&plan), ["a", "data", "model"]);
    }
}
