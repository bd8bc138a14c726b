//! Single decisions, each on a pod written out by hand. Whole lives are in `simulation`.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use serde_json::json;

use super::*;
use crate::model::observation::{ContainerObservation, ContainerState, Exit, SandboxObservation};
use crate::model::pod::ContainerKind;
use crate::model::{SignedDuration, pod};
use crate::runtime::translate::container_hash;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn pod_of(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3},
        "spec": spec,
    }))
    .unwrap()
}

pub(super) fn simple() -> Pod {
    pod_of(
        json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}),
    )
}

fn sandbox() -> SandboxObservation {
    SandboxObservation {
        id: "s0".into(),
        attempt: 0,
        created_at: at(0),
        ready: true,
        ips: vec!["10.0.0.1".into()],
        host_network: false,
        runtime_handler: String::new(),
    }
}

pub(super) fn instance(pod: &Pod, name: &str, count: u32, state: ContainerState) -> ContainerObservation {
    let (_, container) = pod::container_by_name(pod::spec(pod), name).unwrap();
    ContainerObservation {
        id: format!("{name}-{count}"),
        sandbox_id: "s0".into(),
        name: name.into(),
        restart_count: count,
        hash: container_hash(&container),
        created_at: at(1),
        state,
        image: "i".into(),
        image_ref: "sha256:1".into(),
        resources: None,
        user: None,
        stop_signal: None,
        annotations: Default::default(),
        log_path: String::new(),
    }
}

pub(super) fn running() -> ContainerState {
    ContainerState::Running { started_at: at(2) }
}

pub(super) fn exited(code: i32, second: i64) -> ContainerState {
    ContainerState::Exited(Exit {
        started_at: Some(at(2)),
        finished_at: at(second),
        code,
        reason: if code == 0 { "Completed".into() } else { "Error".into() },
        message: String::new(),
    })
}

pub(super) fn observation(containers: Vec<ContainerObservation>) -> PodObservation {
    PodObservation { sandboxes: vec![sandbox()], containers }
}

/// A memory in which all preparations are done.
pub(super) fn prepared(pod: &Pod) -> PodMemory {
    let mut memory = PodMemory::new(pod, at(0));
    memory.cgroup = Step::Done;
    memory.references = Step::Done;
    memory.volumes = Step::Done;
    memory.volumes_mounted = true;
    for (_, container) in pod::init_and_regular_containers(pod::spec(pod)) {
        let image = ReadyImage { image_ref: "sha256:1".into(), ..ReadyImage::default() };
        let ready = ContainerMemory {
            image: Step::Done,
            image_name: container.image.clone().unwrap_or_default(),
            ready_image: Some(image),
            ..memory.containers.remove(&container.name).unwrap_or_default()
        };
        memory.containers.insert(container.name.clone(), ready);
    }
    memory
}

pub(super) fn plan_at(pod: &Pod, observed: Option<&PodObservation>, memory: &PodMemory, now: Timestamp) -> Plan {
    let node =
        NodeFacts { host_ips: vec!["192.0.2.1".into()], runtime_name: "containerd".into(), ..NodeFacts::default() };
    plan(&PlanInput { pod, observed, memory, probes: &ProbeResults::default(), node: &node, now })
}

pub(super) fn started(plan: &Plan) -> Vec<(&str, u32)> {
    let mut started = Vec::new();
    for action in &plan.actions {
        if let Action::StartContainer(start) = action {
            started.push((start.container.as_str(), start.restart_count));
        }
    }
    started
}

fn status(plan: &Plan) -> &PodStatus {
    plan.status.as_ref().unwrap()
}

pub(super) fn container<'a>(plan: &'a Plan, name: &str) -> &'a ContainerStatus {
    let status = status(plan);
    let lists = [&status.init_container_statuses, &status.container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name).unwrap()
}

pub(super) fn condition(plan: &Plan, type_: &str) -> (String, Option<String>) {
    let condition = status(plan).conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn preparations_begin_before_the_runtime_has_been_read() {
    let pod = simple();
    let plan = plan_at(&pod, None, &PodMemory::new(&pod, at(0)), at(0));
    let pull = Action::PullImage { container: "c".into(), kind: ContainerKind::Regular, image: "i".into() };
    assert_eq!(plan.actions, [Action::CreateCgroup, Action::ResolveReferences, pull]);
    assert_eq!(plan.status, None, "what is not known is not published");
}

#[test]
fn volumes_that_are_due_again_at_once_are_not_refreshed_all_the_time() {
    let pod = simple();
    let mut memory = prepared(&pod);
    let seen = observation(vec![instance(&pod, "c", 0, running())]);
    let mounted_with = |memory: &mut PodMemory, refresh_at, now| {
        memory.note_started(&Action::MountVolumes, now);
        let outcome = Outcome { refresh_at, ..Outcome::from(Ok(())) };
        memory.note_outcome(&Action::MountVolumes, outcome, now);
    };
    let refreshed = |plan: &Plan| plan.actions.contains(&Action::MountVolumes);
    // The token could not be renewed, so the old one, which was due, is still there.
    mounted_with(&mut memory, Some(at(10)), at(20));
    let early = plan_at(&pod, Some(&seen), &memory, at(20));
    assert!(!refreshed(&early), "{:?}", early.actions);
    assert_eq!(early.wake_at, Some(at(80)));
    assert!(refreshed(&plan_at(&pod, Some(&seen), &memory, at(80))));
    // One that is due later is waited for.
    mounted_with(&mut memory, Some(at(3000)), at(80));
    assert_eq!(plan_at(&pod, Some(&seen), &memory, at(80)).wake_at, Some(at(3000)));
}

#[test]
fn a_sandbox_waits_for_the_cgroup_and_not_for_the_images() {
    let pod = simple();
    let mut memory = prepared(&pod);
    memory.containers.clear();
    let empty = PodObservation::default();
    assert!(plan_at(&pod, Some(&empty), &memory, at(0)).actions.contains(&Action::CreateSandbox { attempt: 0 }));
    memory.cgroup = Step::Running { attempts: 0 };
    assert!(!plan_at(&pod, Some(&empty), &memory, at(0)).actions.contains(&Action::CreateSandbox { attempt: 0 }));
}

#[test]
fn a_container_starts_once_its_image_and_volumes_are_there() {
    let pod = simple();
    let observed = observation(vec![]);
    let mut memory = prepared(&pod);
    assert_eq!(started(&plan_at(&pod, Some(&observed), &memory, at(3))), [("c", 0)]);
    memory.volumes_mounted = false;
    assert_eq!(started(&plan_at(&pod, Some(&observed), &memory, at(3))), []);
    memory.volumes_mounted = true;
    memory.containers.get_mut("c").unwrap().image = Step::Running { attempts: 0 };
    assert_eq!(started(&plan_at(&pod, Some(&observed), &memory, at(3))), []);
}

#[test]
fn what_runs_is_left_alone_after_a_restart_of_the_agent() {
    let mut pod = simple();
    let observed = observation(vec![instance(&pod, "c", 4, running())]);
    let first = plan_at(&pod, Some(&observed), &prepared(&pod), at(10));
    assert_eq!(condition(&first, "Ready").0, "True");
    assert_eq!(status(&first).phase.as_deref(), Some("Running"));
    pod.status = first.status.clone();
    let again = plan_at(&pod, Some(&observed), &prepared(&pod), at(500));
    assert_eq!(again.status, first.status, "a restart changes nothing, not even a transition time");
    assert!(again.actions.is_empty(), "{:?}", again.actions);
    assert_eq!(container(&again, "c").restart_count, 4);
}

#[test]
fn a_crash_is_restarted_at_once_and_the_next_one_waits() {
    let pod = simple();
    let mut memory = prepared(&pod);
    let observed = observation(vec![instance(&pod, "c", 0, exited(1, 20))]);
    let first = plan_at(&pod, Some(&observed), &memory, at(20));
    assert_eq!(started(&first), [("c", 1)]);
    let start = first.actions.into_iter().find(|a| matches!(a, Action::StartContainer(_))).unwrap();
    memory.note_started(&start, at(20));
    memory.note_outcome(&start, Ok(()).into(), at(20));

    let observed = observation(vec![instance(&pod, "c", 1, exited(1, 25)), instance(&pod, "c", 0, exited(1, 20))]);
    let second = plan_at(&pod, Some(&observed), &memory, at(26));
    assert_eq!(started(&second), []);
    assert_eq!(second.wake_at, Some(at(35)), "10 s after its end");
    assert!(second.actions.contains(&Action::TellBackoff { container: "c".into(), finished_at: at(25) }));
    let shown = container(&second, "c");
    let waiting = shown.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=c pod=p_ns(u)"));
    assert_eq!(shown.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(shown.restart_count, 1);
    assert_eq!(status(&second).phase.as_deref(), Some("Running"));

    let image = ReadyImage { image_ref: "sha256:1".into(), ..ReadyImage::default() };
    let pull = Action::PullImage { container: "c".into(), kind: ContainerKind::Regular, image: "i".into() };
    assert!(plan_at(&pod, Some(&observed), &memory, at(35)).actions.contains(&pull), "the image is asked for again");
    memory.note_started(&pull, at(35));
    memory.note_outcome(&pull, Outcome { image: Some(image), ..Outcome::from(Ok(())) }, at(35));
    assert_eq!(started(&plan_at(&pod, Some(&observed), &memory, at(35))), [("c", 2)]);
}

#[test]
fn another_agent_goes_on_with_the_back_off_that_was_told() {
    let mut pod = simple();
    let mut memory = prepared(&pod);
    let start_of = |plan: Plan| plan.actions.into_iter().find(|a| matches!(a, Action::StartContainer(_))).unwrap();
    for (count, second) in [(0, 20), (1, 32), (2, 54), (3, 96)] {
        let crashed = observation(vec![instance(&pod, "c", count, exited(1, second))]);
        let start = start_of(plan_at(&pod, Some(&crashed), &prepared(&pod), at(second)));
        memory.note_started(&start, at(second));
        memory.note_outcome(&start, Ok(()).into(), at(second));
    }
    let crashed = observation(vec![instance(&pod, "c", 4, exited(1, 100))]);
    let first = plan_at(&pod, Some(&crashed), &memory, at(101));
    assert_eq!((started(&first), first.wake_at), (vec![], Some(at(180))));
    pod.status.clone_from(&first.status);

    let mut memory = prepared(&pod);
    let again = plan_at(&pod, Some(&crashed), &memory, at(150));
    assert_eq!((started(&again), again.wake_at), (vec![], Some(at(180))));
    assert_eq!(container(&again, "c"), container(&first, "c"));
    let start = start_of(plan_at(&pod, Some(&crashed), &memory, at(180)));
    memory.note_started(&start, at(180));
    memory.note_outcome(&start, Ok(()).into(), at(180));
    let crashed_again = observation(vec![instance(&pod, "c", 5, exited(1, 181))]);
    assert_eq!(plan_at(&pod, Some(&crashed_again), &memory, at(182)).wake_at, Some(at(181 + 160)));

    // Another image does not wait for what the one before did.
    pod.spec.as_mut().unwrap().containers[0].image = Some("another".into());
    assert_eq!(started(&plan_at(&pod, Some(&crashed), &prepared(&pod), at(150))), [("c", 5)]);
    // Nor does anything wait for what no agent tells.
    let told = |message: &str| {
        let mut status = container(&first, "c").clone();
        status.state.as_mut().unwrap().waiting.as_mut().unwrap().message = Some(message.to_owned());
        Backoff::told_by(&status)
    };
    assert!(told("back-off 5m0s restarting failed container=c pod=p_ns(u)").is_some());
    for nonsense in ["back-off 5m1s restarting", "back-off -10s restarting", "back-off 10s", "back-off soon now", ""] {
        assert_eq!(told(nonsense), None, "{nonsense}");
    }
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod_of(json!({"restartPolicy": "Always",
        "initContainers": [{"name": "a"}, {"name": "side", "restartPolicy": "Always"}, {"name": "b"}],
        "containers": [{"name": "c"}]}));
    let memory = prepared(&pod);
    type Started = &'static [(&'static str, u32)];
    let steps: [(Vec<ContainerObservation>, Started); 6] = [
        (vec![], &[("a", 0)]),
        (vec![instance(&pod, "a", 0, running())], &[]),
        (vec![instance(&pod, "a", 0, exited(1, 5))], &[("a", 1)]),
        (vec![instance(&pod, "a", 0, exited(0, 5))], &[("side", 0)]),
        (vec![instance(&pod, "side", 0, running()), instance(&pod, "a", 0, exited(0, 5))], &[("b", 0)]),
        (vec![instance(&pod, "b", 0, exited(0, 6)), instance(&pod, "side", 0, running())], &[("c", 0)]),
    ];
    for (containers, expected) in steps {
        let observed = observation(containers.clone());
        let plan = plan_at(&pod, Some(&observed), &memory, at(7));
        assert_eq!(started(&plan), expected, "{containers:?}");
        assert_eq!(status(&plan).phase.as_deref(), Some("Pending"));
    }
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let pod =
        pod_of(json!({"restartPolicy": "Never", "initContainers": [{"name": "a"}], "containers": [{"name": "c"}]}));
    let mut observed = observation(vec![instance(&pod, "a", 0, exited(3, 5))]);
    let mut memory = prepared(&pod);
    let plan = plan_at(&pod, Some(&observed), &memory, at(6));
    assert!(plan.completed);
    assert_eq!(status(&plan).phase.as_deref(), Some("Pending"), "the sandbox still runs");
    assert!(plan.actions.contains(&Action::StopSandbox { id: "s0".into() }));
    memory.note_completed(&pod, at(6));
    observed.sandboxes[0].ready = false;
    let plan = plan_at(&pod, Some(&observed), &memory, at(7));
    assert_eq!(status(&plan).phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&plan, "Initialized"), ("False".into(), Some("ContainersNotInitialized".into())));
    assert_eq!(condition(&plan, "Ready"), ("False".into(), Some("PodFailed".into())));
}

#[test]
fn the_first_cause_of_a_start_that_fails_is_shown() {
    let pod = simple();
    let mut memory = prepared(&pod);
    let start = plan_at(&pod, Some(&observation(vec![])), &memory, at(3)).actions.remove(0);
    memory.note_started(&start, at(3));
    let failure = Failure::new("CreateContainerConfigError", "configmap \"x\" not found");
    memory.note_outcome(&start, Err(failure).into(), at(4));
    let plan = plan_at(&pod, Some(&observation(vec![])), &memory, at(4));
    let waiting = container(&plan, "c").state.as_ref().unwrap().waiting.clone().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(waiting.message.as_deref(), Some("configmap \"x\" not found"));
    assert_eq!(started(&plan), [], "not again at once");
    memory.note_references_changed(at(5));
    let image = ReadyImage::default();
    let pull = Action::PullImage { container: "c".into(), kind: ContainerKind::Regular, image: "i".into() };
    memory.note_started(&pull, at(5));
    memory.note_outcome(&pull, Outcome { image: Some(image), ..Outcome::from(Ok(())) }, at(5));
    assert_eq!(started(&plan_at(&pod, Some(&observation(vec![])), &memory, at(5))), [("c", 0)], "but when it may help");
}

#[test]
fn a_deleted_pod_ends_in_order_and_is_deleted_last() {
    let mut pod = simple();
    let mut memory = prepared(&pod);
    let previous = pod.clone();
    pod.metadata.deletion_timestamp = Some(crate::model::clock::api_time(at(40)));
    pod.metadata.deletion_grace_period_seconds = Some(5);
    memory.status.phase = Some("Running".into());
    memory.note_pod(&pod, Some(&previous), at(10));
    let mut observed = observation(vec![instance(&pod, "c", 0, running())]);
    let plan = plan_at(&pod, Some(&observed), &memory, at(10));
    let Action::KillContainer(kill) = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    assert_eq!((kill.id.as_str(), kill.grace), ("c-0", SignedDuration::from_secs(5)));
    assert_eq!(kill.message, "Stopping container c");
    assert!(!plan.deletable);
    memory.note_started(&plan.actions[0], at(10));
    assert!(plan_at(&pod, Some(&observed), &memory, at(11)).actions.is_empty(), "one stop is enough");

    observed.containers[0].state = exited(0, 12);
    let plan = plan_at(&pod, Some(&observed), &memory, at(12));
    assert_eq!(plan.actions, [Action::StopSandbox { id: "s0".into() }]);
    assert_eq!(status(&plan).phase.as_deref(), Some("Running"));
    memory.note_started(&plan.actions[0], at(12));
    memory.note_outcome(&plan.actions[0], Outcome::from(Ok(())), at(12));
    memory.forget_gone(&observed);
    let plan = plan_at(&pod, Some(&observed), &memory, at(12));
    assert_eq!((plan.actions.as_slice(), plan.wake_at), (&[][..], Some(at(13))), "what is still ready is not rushed");
    let plan = plan_at(&pod, Some(&observed), &memory, at(13));
    assert_eq!(plan.actions, [Action::StopSandbox { id: "s0".into() }]);
    observed.sandboxes[0].ready = false;
    let plan = plan_at(&pod, Some(&observed), &memory, at(13));
    assert_eq!(plan.actions, [Action::CleanUp]);
    assert_eq!(status(&plan).phase.as_deref(), Some("Succeeded"), "a Job counts on it");
    assert!(!plan.deletable, "its volumes are still there");
    memory.clean_up = Step::Done;
    let plan = plan_at(&pod, Some(&observed), &memory, at(14));
    assert!(plan.deletable && !plan.forget);
    memory.note_removed(&pod, at(15));
    let (sandboxes, containers) = (vec!["s0".to_owned()], vec!["c-1".to_owned()]);
    let remove =
        Action::RemoveRemains { sandboxes: sandboxes.clone(), containers: containers.clone(), repeated: false };
    let sandbox_id = "gone".to_owned();
    observed.containers.push(ContainerObservation { sandbox_id, ..instance(&pod, "c", 1, exited(0, 12)) });
    assert_eq!(plan_at(&pod, Some(&observed), &memory, at(15)).actions, std::slice::from_ref(&remove));
    memory.note_started(&remove, at(15));
    memory.note_outcome(&remove, Outcome::from(Ok(())), at(16));
    let plan = plan_at(&pod, Some(&observed), &memory, at(17));
    let again = Action::RemoveRemains { sandboxes, containers, repeated: true };
    assert_eq!((plan.forget, plan.actions), (false, vec![again]), "the runtime has not done what it said");
    assert!(plan_at(&pod, Some(&PodObservation::default()), &memory, at(17)).forget);
}

#[test]
fn what_a_start_that_was_cut_off_has_left_goes_before_its_sandbox() {
    let pod = simple();
    let mut memory = prepared(&pod);
    memory.note_removed(&pod, at(10));
    memory.clean_up = Step::Done;
    let cut_off = ContainerState::Exited(Exit {
        started_at: None,
        finished_at: at(5),
        code: 128,
        reason: "StartError".into(),
        message: "failed to get task pid: context canceled".into(),
    });
    let containers = [(0, exited(0, 3)), (1, cut_off), (2, ContainerState::Created)];
    let mut observed = observation(containers.map(|(count, state)| instance(&pod, "c", count, state)).into());
    observed.sandboxes[0].ready = false;
    let actions = plan_at(&pod, Some(&observed), &memory, at(10)).actions;
    let [Action::RemoveRemains { sandboxes, containers, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(
        (sandboxes.as_slice(), containers.as_slice()),
        (&["s0".to_owned()][..], &["c-1".to_owned(), "c-2".into()][..])
    );
}

#[test]
fn a_shorter_grace_period_brings_a_stop_forward() {
    let mut pod = simple();
    let mut memory = prepared(&pod);
    let mut delete = |memory: &mut PodMemory, grace, now| {
        let previous = pod.clone();
        pod.metadata.deletion_timestamp = Some(crate::model::clock::api_time(at(40)));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        memory.note_pod(&pod, Some(&previous), now);
        pod.clone()
    };
    let observed = observation(vec![instance(&simple(), "c", 0, running())]);
    let deleted = delete(&mut memory, 30, at(10));
    let plan = plan_at(&deleted, Some(&observed), &memory, at(10));
    memory.note_started(&plan.actions[0], at(10));
    let deleted = delete(&mut memory, 60, at(11));
    assert!(plan_at(&deleted, Some(&observed), &memory, at(11)).actions.is_empty(), "it is never lengthened");
    let deleted = delete(&mut memory, 4, at(12));
    let plan = plan_at(&deleted, Some(&observed), &memory, at(12));
    let Action::KillContainer(kill) = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    assert_eq!((kill.grace, kill.repeated), (SignedDuration::from_secs(4), true));
}

#[test]
fn a_pod_that_never_started_ends_as_failed() {
    let mut pod = simple();
    let mut memory = PodMemory::new(&pod, at(0));
    let previous = pod.clone();
    pod.metadata.deletion_timestamp = Some(crate::model::clock::api_time(at(40)));
    memory.note_pod(&pod, Some(&previous), at(1));
    let plan = plan_at(&pod, Some(&PodObservation::default()), &memory, at(1));
    assert_eq!(status(&plan).phase.as_deref(), Some("Failed"));
    assert_eq!(plan.actions, [Action::CleanUp]);
}

#[test]
fn a_vanished_container_counts_as_a_restart() {
    let mut pod = simple();
    let before = plan_at(&pod, Some(&observation(vec![instance(&pod, "c", 0, running())])), &prepared(&pod), at(5));
    pod.status = before.status.clone();
    let mut memory = prepared(&pod);
    let plan = plan_at(&pod, Some(&observation(vec![])), &memory, at(6));
    let shown = container(&plan, "c");
    assert_eq!(shown.restart_count, 1);
    let last = shown.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!(started(&plan), [("c", 1)]);
    memory.status = plan.status.clone().unwrap();
    assert_eq!(started(&plan_at(&pod, Some(&observation(vec![])), &memory, at(6))), [("c", 1)], "it is counted once");
}

#[test]
fn the_restarts_of_a_static_pod_go_on_from_its_mirror() {
    let pod = simple();
    let mut mirror = pod.clone();
    let shown = json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
        "restartCount": 2, "state": {"running": {}}}]});
    mirror.status = serde_json::from_value(shown).unwrap();
    let mut memory = prepared(&pod);
    memory.note_mirror(&mirror);
    let plan = plan_at(&pod, Some(&observation(vec![])), &memory, at(3));
    assert_eq!(started(&plan), [("c", 3)]);
    memory.status = plan.status.clone().unwrap();
    assert_eq!(started(&plan_at(&pod, Some(&observation(vec![])), &memory, at(3))), [("c", 3)], "it is counted once");

    // Later agents learn it from the mirror as well, whether or not the container was started meanwhile.
    for _ in 0..2 {
        let shown = PodStatus { container_statuses: memory.status.container_statuses.clone(), ..PodStatus::default() };
        memory = prepared(&pod);
        memory.note_mirror(&Pod { status: Some(shown), ..pod.clone() });
        let plan = plan_at(&pod, Some(&observation(vec![])), &memory, at(5));
        assert_eq!((started(&plan).as_slice(), container(&plan, "c").restart_count), (&[("c", 3)][..], 3));
        memory.status = plan.status.clone().unwrap();
    }

    let mut memory = prepared(&pod);
    memory.note_mirror(&mirror);
    let up = plan_at(&pod, Some(&observation(vec![instance(&pod, "c", 2, running())])), &memory, at(4));
    assert_eq!(container(&up, "c").restart_count, 2, "what still runs was not started again");
}

#[test]
fn an_end_that_is_taken_for_granted_does_not_count_up_with_each_agent() {
    let pod = pod_of(json!({
        "initContainers": [{"name": "init", "image": "i"}], "containers": [{"name": "c", "image": "i"}],
    }));
    let mut mirror = pod.clone();
    for _ in 0..3 {
        let mut memory = prepared(&pod);
        memory.note_mirror(&mirror);
        let plan = plan_at(&pod, Some(&observation(vec![instance(&pod, "c", 0, running())])), &memory, at(5));
        let init = &status(&plan).init_container_statuses.as_ref().unwrap()[0];
        let has_ended = init.state.as_ref().unwrap().terminated.is_some();
        assert!(has_ended && init.restart_count == 0, "{init:?}");
        mirror.status = plan.status;
    }
}

#[test]
fn a_changed_image_restarts_the_container_even_if_the_pod_never_restarts() {
    let pod = pod_of(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "new"}]}));
    let mut old = instance(&pod, "c", 0, running());
    old.hash = "another".into();
    let mut memory = prepared(&pod);
    let plan = plan_at(&pod, Some(&observation(vec![old.clone()])), &memory, at(5));
    let Action::KillContainer(kill) = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    assert_eq!(kill.message, "Container c definition changed, will be restarted");
    memory.status = plan.status.clone().unwrap();
    memory.note_started(&plan.actions[0], at(5));
    old.state = exited(0, 6);

    // Its end would be the last that the API server takes in of it.
    let plan = plan_at(&pod, Some(&observation(vec![old.clone()])), &memory, at(6));
    assert_eq!(started(&plan), [("c", 1)]);
    let shown = container(&plan, "c");
    assert!(shown.state.as_ref().unwrap().running.is_some());
    assert!(!shown.ready);
    assert_eq!(plan.status.as_ref().unwrap().phase.as_deref(), Some("Running"));

    let mut failed = memory.clone();
    let pull = Action::PullImage { container: "c".into(), kind: ContainerKind::Regular, image: "new".into() };
    failed.note_started(&pull, at(6));
    failed.note_outcome(&pull, Err(Failure::new("ErrImagePull", "none")).into(), at(7));
    let plan = plan_at(&pod, Some(&observation(vec![old.clone()])), &failed, at(7));
    assert_eq!(waiting_reason(&plan).as_deref(), Some("ErrImagePull"));

    let new = instance(&pod, "c", 1, running());
    let plan = plan_at(&pod, Some(&observation(vec![new, old])), &memory, at(8));
    let last = container(&plan, "c").last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, container(&plan, "c").restart_count), (0, 1));
}

#[test]
fn a_container_that_has_ended_for_good_does_not_start_again_for_another_image() {
    let pod = pod_of(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "new"}, {"name": "d"}]}));
    let mut old = instance(&pod, "c", 0, exited(0, 6));
    old.hash = "another".into();
    let plan = plan_at(&pod, Some(&observation(vec![old, instance(&pod, "d", 0, running())])), &prepared(&pod), at(7));
    assert_eq!(started(&plan), []);
    assert!(container(&plan, "c").state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn readiness_gates_hold_back_ready() {
    let mut pod = pod_of(json!({"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "x/y"}]}));
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let plan = plan_at(&pod, Some(&observed), &prepared(&pod), at(5));
    assert_eq!(condition(&plan, "Ready"), ("False".into(), Some("ReadinessGatesNotReady".into())));
    assert_eq!(condition(&plan, "ContainersReady").0, "True");
    pod.status = serde_json::from_value(json!({"conditions": [{"type": "x/y", "status": "True"}]})).unwrap();
    let plan = plan_at(&pod, Some(&observed), &prepared(&pod), at(5));
    assert_eq!(condition(&plan, "Ready").0, "True");
    assert_eq!(condition(&plan, "x/y").0, "True", "others' conditions are kept");
}

#[test]
fn old_instances_go_and_the_last_end_stays_known() {
    let pod = simple();
    let containers = vec![
        instance(&pod, "c", 2, running()),
        instance(&pod, "c", 1, exited(1, 9)),
        instance(&pod, "c", 0, exited(1, 5)),
    ];
    let plan = plan_at(&pod, Some(&observation(containers)), &prepared(&pod), at(10));
    assert_eq!(
        plan.actions,
        [Action::RemoveContainer { id: "c-0".into(), container: "c".into(), log_path: String::new() }]
    );
    assert!(container(&plan, "c").last_state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn the_termination_messages_of_a_pod_share_what_they_may_take() {
    let pod = pod_of(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "ephemeralContainers": [{"name": "debug", "image": "i"}],
    }));
    let ended = |name: &str, message: String| {
        let mut ended = instance(&pod, name, 0, exited(1, 4));
        let ContainerState::Exited(exit) = &mut ended.state else { panic!("{ended:?}") };
        exit.message = message;
        ended
    };
    let containers = vec![ended("a", "x".repeat(4096)), ended("b", "ä".repeat(2048)), ended("init", "short".into())];
    let plan = plan_at(&pod, Some(&observation(containers)), &prepared(&pod), at(5));
    let length = |name: &str| {
        let state = container(&plan, name).state.clone().unwrap();
        state.terminated.unwrap().message.unwrap().len()
    };
    assert_eq!([length("a"), length("b"), length("init")], [3072, 3072, 5]);
}

#[test]
fn stop_signals_are_shown_with_their_gate() {
    let pod = simple();
    let mut up = instance(&pod, "c", 0, running());
    up.stop_signal = Some("SIGUSR1".into());
    let observed = observation(vec![up]);
    let shown = |shows_stop_signals| {
        let node = NodeFacts { shows_stop_signals, host_ips: vec!["192.0.2.1".into()], ..NodeFacts::default() };
        let (memory, probes) = (prepared(&pod), ProbeResults::default());
        let input = PlanInput {
            pod: &pod,
            observed: Some(&observed),
            memory: &memory,
            probes: &probes,
            node: &node,
            now: at(5),
        };
        container(&plan(&input), "c").stop_signal.clone()
    };
    assert_eq!((shown(true).as_deref(), shown(false)), (Some("SIGUSR1"), None));
}

/// The plan on a node with those addresses and handlers.
fn plan_on(pod: &Pod, observed: &PodObservation, memory: &PodMemory, ips: &[&str], handlers: &[&str]) -> Plan {
    let node = NodeFacts {
        host_ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        recursive_read_only_handlers: handlers.iter().map(|name| (*name).to_owned()).collect(),
        ..NodeFacts::default()
    };
    plan(&PlanInput {
        pod,
        observed: Some(observed),
        memory,
        probes: &ProbeResults::default(),
        node: &node,
        now: at(10),
    })
}

fn waiting_reason(plan: &Plan) -> Option<String> {
    container(plan, "c").state.as_ref().unwrap().waiting.as_ref()?.reason.clone()
}

#[test]
fn a_crash_loop_shows_its_back_off_until_the_next_instance_has_started() {
    let pod = simple();
    let mut memory = prepared(&pod);
    let observed = observation(vec![instance(&pod, "c", 0, exited(1, 20))]);
    let first = plan_at(&pod, Some(&observed), &memory, at(20));
    assert_eq!(waiting_reason(&first), None, "the first restart comes at once");
    memory.status = status(&first).clone();
    let start = first.actions.into_iter().find(|a| matches!(a, Action::StartContainer(_))).unwrap();
    memory.note_started(&start, at(20));
    assert_eq!(waiting_reason(&plan_at(&pod, Some(&observed), &memory, at(20))), None);
    memory.note_outcome(&start, Ok(()).into(), at(20));

    let crashed = observation(vec![instance(&pod, "c", 1, exited(2, 25)), instance(&pod, "c", 0, exited(1, 20))]);
    let backing_off = plan_at(&pod, Some(&crashed), &memory, at(26));
    let shown = container(&backing_off, "c").clone();
    assert_eq!(waiting_reason(&backing_off).as_deref(), Some("CrashLoopBackOff"));
    memory.status = status(&backing_off).clone();
    let expired = plan_at(&pod, Some(&crashed), &memory, at(36));
    assert_eq!(*container(&expired, "c"), shown, "its image is asked for");
    memory.status = status(&expired).clone();
    let image = ReadyImage { image_ref: "sha256:1".into(), ..ReadyImage::default() };
    let pull = Action::PullImage { container: "c".into(), kind: ContainerKind::Regular, image: "i".into() };
    memory.note_started(&pull, at(36));
    memory.note_outcome(&pull, Outcome { image: Some(image), ..Outcome::from(Ok(())) }, at(36));
    let starting = plan_at(&pod, Some(&crashed), &memory, at(36));
    let start = starting.actions.into_iter().find(|a| matches!(a, Action::StartContainer(_))).unwrap();
    memory.note_started(&start, at(36));
    assert_eq!(*container(&plan_at(&pod, Some(&crashed), &memory, at(36)), "c"), shown, "it is being started");
    memory.note_outcome(&start, Ok(()).into(), at(37));

    let up = observation(vec![instance(&pod, "c", 2, running()), instance(&pod, "c", 1, exited(2, 25))]);
    assert_eq!(waiting_reason(&plan_at(&pod, Some(&up), &memory, at(37))), None);
    // It ran and ended before anybody looked: what was said of the end before does not hold for this one.
    memory.containers.get_mut("c").unwrap().backoff = Backoff::default();
    let again = observation(vec![instance(&pod, "c", 2, exited(3, 38)), instance(&pod, "c", 1, exited(2, 25))]);
    let plan = plan_at(&pod, Some(&again), &memory, at(38));
    assert_eq!(waiting_reason(&plan), None);
    assert_eq!(container(&plan, "c").state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
}

#[test]
fn a_start_that_is_tried_again_shows_why_it_failed() {
    let pod = simple();
    let mut memory = prepared(&pod);
    let empty = observation(vec![]);
    let start = plan_at(&pod, Some(&empty), &memory, at(3)).actions.remove(0);
    memory.note_started(&start, at(3));
    memory.note_outcome(&start, Err(Failure::new("CreateContainerError", "m")).into(), at(4));
    let failed = plan_at(&pod, Some(&empty), &memory, at(4));
    assert_eq!(waiting_reason(&failed).as_deref(), Some("CreateContainerError"));
    memory.status = status(&failed).clone();
    memory.note_started(&start, at(8));
    assert_eq!(plan_at(&pod, Some(&empty), &memory, at(8)).status, failed.status);
    let up = observation(vec![instance(&pod, "c", 0, running())]);
    assert_eq!(waiting_reason(&plan_at(&pod, Some(&up), &memory, at(9))), None);
}

#[test]
fn mounts_are_said_to_be_read_only_all_the_way_down_only_where_they_are() {
    let mounts = json!([{"name": "v", "mountPath": "/a", "readOnly": true, "recursiveReadOnly": "IfPossible"},
        {"name": "v", "mountPath": "/b", "readOnly": true}, {"name": "v", "mountPath": "/c"}]);
    let mut pod = pod_of(json!({"containers": [{"name": "c", "volumeMounts": mounts}]}));
    let shown = |pod: &Pod, observed: &PodObservation, handlers: &[&str]| {
        let plan = plan_on(pod, observed, &prepared(pod), &[], handlers);
        let mounts = container(&plan, "c").volume_mounts.clone().unwrap();
        mounts.into_iter().map(|m| m.recursive_read_only.unwrap_or_default()).collect::<Vec<_>>()
    };
    let (none, mut with) = (PodObservation::default(), observation(vec![]));
    assert_eq!(shown(&pod, &none, &[]), ["Disabled", "Disabled", ""]);
    assert_eq!(shown(&pod, &none, &[""]), ["Enabled", "Disabled", ""]);
    pod.spec.as_mut().unwrap().runtime_class_name = Some("class".into());
    assert_eq!(shown(&pod, &none, &[""])[0], "Disabled", "which handler is not known yet");
    with.sandboxes[0].runtime_handler = "vm".into();
    assert_eq!(shown(&pod, &with, &[""])[0], "Disabled");
    assert_eq!(shown(&pod, &with, &["vm"])[0], "Enabled");
    // What was published stays: a mount does not change.
    pod.status = plan_on(&pod, &with, &prepared(&pod), &[], &["vm"]).status;
    with.containers = vec![instance(&pod, "c", 0, running())];
    assert_eq!(shown(&pod, &with, &[])[0], "Enabled");
}

#[test]
fn addresses_of_the_node_are_never_taken_back() {
    let shown = |plan: &Plan| {
        let status = status(plan);
        let hosts: Vec<String> = status.host_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        let pods: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        assert_eq!((status.host_ip.as_ref(), status.pod_ip.as_ref()), (hosts.first(), pods.first()));
        (hosts.join(" "), pods.join(" "))
    };
    let text = |host: &str, pod: &str| (host.to_owned(), pod.to_owned());
    let mut pod = pod_of(json!({"hostNetwork": true, "containers": [{"name": "c"}]}));
    let mut observed = observation(vec![]);
    observed.sandboxes[0].host_network = true;
    let mut next = |ips: &[&str]| {
        let plan = plan_on(&pod, &observed, &prepared(&pod), ips, &[]);
        pod.status = plan.status.clone();
        shown(&plan)
    };
    assert_eq!(next(&[]), text("", ""));
    assert_eq!(next(&["192.0.2.1"]), text("192.0.2.1", "192.0.2.1"));
    assert_eq!(next(&[]), text("192.0.2.1", "192.0.2.1"));
    assert_eq!(next(&["192.0.2.9", "192.0.2.8"]), text("192.0.2.9 192.0.2.8", "192.0.2.1"), "the pod's stay");
    assert_eq!(next(&["192.0.2.1", "fd00::1"]), text("192.0.2.1 fd00::1", "192.0.2.1 fd00::1"));
    assert_eq!(next(&["192.0.2.1"]), text("192.0.2.1", "192.0.2.1 fd00::1"));

    // The family of the last known node address orders a pod's own addresses too.
    let mut pod = simple();
    pod.status = serde_json::from_value(json!({"hostIP": "fd00::1", "hostIPs": [{"ip": "fd00::1"}]})).unwrap();
    let mut observed = observation(vec![]);
    observed.sandboxes[0].ips = vec!["10.0.0.1".into(), "fd01::1".into()];
    let plan = plan_on(&pod, &observed, &prepared(&pod), &[], &[]);
    assert_eq!(shown(&plan), text("fd00::1", "fd01::1 10.0.0.1"));
}

#[test]
fn a_disruption_that_others_announce_is_kept_and_the_own_one_stands_in_its_place() {
    let mut pod = simple();
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let target =
        |reason: &str| json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]});
    let reasons = |plan: &Plan| {
        let all = status(plan).conditions.iter().flatten();
        all.filter(|c| c.type_ == "DisruptionTarget").filter_map(|c| c.reason.clone()).collect::<Vec<_>>()
    };
    pod.status = serde_json::from_value(target("EvictionByEvictionAPI")).unwrap();
    let mut memory = prepared(&pod);
    assert_eq!(reasons(&plan_at(&pod, Some(&observed), &memory, at(5))), ["EvictionByEvictionAPI"]);
    pod.status = None;
    assert!(reasons(&plan_at(&pod, Some(&observed), &memory, at(5))).is_empty(), "nor is it put back");
    pod.status = serde_json::from_value(target("EvictionByEvictionAPI")).unwrap();
    memory.status = serde_json::from_value(target("TerminationByKubelet")).unwrap();
    assert_eq!(reasons(&plan_at(&pod, Some(&observed), &memory, at(5))), ["TerminationByKubelet"]);
}

#[test]
fn the_resources_of_the_pod_are_shown() {
    let resources = json!({"requests": {"cpu": "100m", "ephemeral-storage": "1Gi"}});
    let pod = pod_of(json!({"containers": [{"name": "c", "resources": resources}]}));
    let starting = plan_at(&pod, Some(&observation(vec![])), &prepared(&pod), at(5));
    let up = observation(vec![instance(&pod, "c", 0, running())]);
    let running = plan_at(&pod, Some(&up), &prepared(&pod), at(5));
    for (plan, in_force) in [(&starting, resources.clone()), (&running, json!({"requests": {"cpu": "100m"}}))] {
        assert_eq!(serde_json::to_value(&status(plan).resources).unwrap(), in_force);
        assert_eq!(serde_json::to_value(&status(plan).allocated_resources).unwrap(), resources["requests"]);
    }
}

#[test]
fn a_start_that_the_agents_end_cut_off_is_made_again_and_does_not_count() {
    let pod = pod_of(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}));
    let cut_off = |message: &str| {
        instance(
            &pod,
            "c",
            0,
            ContainerState::Exited(Exit {
                started_at: None,
                finished_at: at(4),
                code: 128,
                reason: "StartError".into(),
                message: message.into(),
            }),
        )
    };
    let observed = observation(vec![cut_off("failed to start containerd task \"c\": context canceled")]);
    let plan = plan_at(&pod, Some(&observed), &prepared(&pod), at(5));
    let removal = Action::RemoveContainer { id: "c-0".into(), container: "c".into(), log_path: String::new() };
    assert!(plan.actions.contains(&removal), "{:?}", plan.actions);
    assert!(!plan.completed);
    assert_eq!(status(&plan).phase.as_deref(), Some("Pending"));
    let mut memory = prepared(&pod);
    memory.status = plan.status.clone().unwrap();
    assert_eq!(started(&plan_at(&pod, Some(&observation(vec![])), &memory, at(6))), [("c", 0)]);

    let observed = observation(vec![cut_off("exec: \"/nothing\": no such file or directory")]);
    assert!(plan_at(&pod, Some(&observed), &prepared(&pod), at(5)).completed, "a real failure counts");
}
