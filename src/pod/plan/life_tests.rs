//! Probes, hooks and sidecars: single decisions, each on a pod written out by hand.

use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::json;

use super::tests::*;
use super::*;
use crate::model::observation::{ContainerObservation, PodObservation};
use crate::model::probe_results::{ContainerProbeResults, ProbeVerdict};
use crate::model::{SignedDuration, pod};
use crate::probe::WhichProbes;
use ProbeVerdict::{Failure as Failed, Success};

/// Results of one container's probes.
fn results(id: &str, startup: Option<ProbeVerdict>, readiness: Option<ProbeVerdict>) -> ProbeResults {
    let results = ContainerProbeResults { startup, readiness, liveness: None };
    ProbeResults { containers: [(id.to_owned(), results)].into() }
}

fn not_alive(id: &str) -> ProbeResults {
    let results = ContainerProbeResults { liveness: Some(Failed), ..ContainerProbeResults::default() };
    ProbeResults { containers: [(id.to_owned(), results)].into() }
}

/// A pod whose one container has the probes of these kinds.
fn probed_pod(kinds: &[&str]) -> Pod {
    let mut container = json!({"name": "c", "image": "i"});
    for kind in kinds {
        container[*kind] = json!({"exec": {"command": ["true"]}});
    }
    pod_of(json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "containers": [container]}))
}

fn plan_with(
    pod: &Pod,
    observed: &PodObservation,
    memory: &PodMemory,
    probes: &ProbeResults,
    now: Timestamp,
) -> (Plan, Vec<crate::probe::ProbedContainer>) {
    let node =
        NodeFacts { host_ips: vec!["192.0.2.1".into()], runtime_name: "containerd".into(), ..NodeFacts::default() };
    let input = PlanInput { pod, observed: Some(observed), memory, probes, node: &node, now };
    (plan(&input), probed(&input).unwrap())
}

fn kills(plan: &Plan) -> Vec<&KillContainer> {
    let mut kills = Vec::new();
    for action in &plan.actions {
        if let Action::KillContainer(kill) = action {
            kills.push(kill);
        }
    }
    kills
}

fn hooks(plan: &Plan) -> Vec<(HookKind, &str)> {
    let mut hooks = Vec::new();
    for action in &plan.actions {
        if let Action::RunHook(hook) = action {
            hooks.push((hook.kind, hook.container.as_str()));
        }
    }
    hooks
}

fn note(memory: &mut PodMemory, plan: &Plan, now: Timestamp) {
    for action in &plan.actions {
        memory.note_started(action, now);
    }
}

#[rstest]
#[case(&[], None, None, (true, true))]
#[case(&["startupProbe"], None, None, (false, false))]
#[case(&["startupProbe"], Some(Failed), None, (false, false))]
#[case(&["startupProbe"], Some(Success), None, (true, true))]
#[case(&["readinessProbe"], None, None, (true, false))]
#[case(&["readinessProbe"], None, Some(Failed), (true, false))]
#[case(&["readinessProbe"], None, Some(Success), (true, true))]
#[case(&["startupProbe", "readinessProbe"], None, Some(Success), (false, false))]
#[case(&["startupProbe", "readinessProbe"], Some(Success), Some(Success), (true, true))]
fn started_and_ready(
    #[case] kinds: &[&str],
    #[case] startup: Option<ProbeVerdict>,
    #[case] readiness: Option<ProbeVerdict>,
    #[case] expected: (bool, bool),
) {
    let pod = probed_pod(kinds);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let (plan, _) = plan_with(&pod, &observed, &prepared(&pod), &results("c-0", startup, readiness), at(5));
    let shown = container(&plan, "c");
    assert_eq!((shown.started, shown.ready), (Some(expected.0), expected.1));
    assert_eq!(condition(&plan, "Ready").0, if expected.1 { "True" } else { "False" });
}

#[test]
fn another_agent_keeps_what_was_known_of_a_container_until_it_is_probed_again() {
    let mut pod = probed_pod(&["startupProbe", "readinessProbe"]);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let known = results("c-0", Some(Success), Some(Success));
    let (before, _) = plan_with(&pod, &observed, &prepared(&pod), &known, at(5));
    pod.status = before.status.clone();
    let none = ProbeResults::default();
    let (after, probed) = plan_with(&pod, &observed, &prepared(&pod), &none, at(60));
    assert_eq!(after.status, before.status, "nothing flaps");
    assert!(probed[0].started);
    assert_eq!(probed[0].initial_ready, Some(true));
    let (failed, _) = plan_with(&pod, &observed, &prepared(&pod), &results("c-0", None, Some(Failed)), at(61));
    assert!(!container(&failed, "c").ready);
    // The next instance has yet to show what it can.
    let observed = observation(vec![instance(&pod, "c", 1, running()), instance(&pod, "c", 0, exited(1, 62))]);
    let (next, _) = plan_with(&pod, &observed, &prepared(&pod), &none, at(63));
    assert_eq!((container(&next, "c").started, container(&next, "c").ready), (Some(false), false));
}

#[test]
fn with_its_gate_another_agent_starts_from_nothing() {
    let mut pod = probed_pod(&["startupProbe", "readinessProbe"]);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    pod.status =
        plan_with(&pod, &observed, &prepared(&pod), &results("c-0", Some(Success), Some(Success)), at(5)).0.status;
    let node = NodeFacts { forgets_probes: true, host_ips: vec!["192.0.2.1".into()], ..NodeFacts::default() };
    let (memory, none) = (prepared(&pod), ProbeResults::default());
    let input =
        PlanInput { pod: &pod, observed: Some(&observed), memory: &memory, probes: &none, node: &node, now: at(60) };
    let after = plan(&input);
    assert_eq!((container(&after, "c").started, container(&after, "c").ready), (Some(false), false));
    let probed = probed(&input).unwrap();
    assert!(probed[0].probes.startup);
    assert_eq!(probed[0].initial_ready, None);
}

#[test]
fn what_is_probed_depends_on_how_far_the_container_is() {
    let pod = probed_pod(&["startupProbe", "readinessProbe", "livenessProbe"]);
    let mut memory = prepared(&pod);
    let up = observation(vec![instance(&pod, "c", 0, running())]);
    let which = |memory: &PodMemory, observed: &PodObservation, results: &ProbeResults| {
        let (_, probed) = plan_with(&pod, observed, memory, results, at(5));
        probed.into_iter().map(|c| c.probes).collect::<Vec<_>>()
    };
    let none = ProbeResults::default();
    let passed = results("c-0", Some(Success), None);
    let of = |startup, readiness, liveness| vec![WhichProbes { startup, readiness, liveness }];
    assert_eq!(which(&memory, &up, &none), of(true, false, false));
    assert_eq!(which(&memory, &up, &passed), of(false, true, true));
    let down = observation(vec![instance(&pod, "c", 0, exited(0, 4))]);
    assert_eq!(which(&memory, &down, &passed), []);
    memory.note_removed(&pod, at(5));
    assert_eq!(which(&memory, &up, &passed), of(false, true, false), "what ends is only asked whether it serves");
    let input = PlanInput {
        pod: &pod,
        observed: None,
        memory: &memory,
        probes: &none,
        node: &NodeFacts::default(),
        now: at(5),
    };
    assert_eq!(probed(&input), None, "what is not known changes nothing");
}

#[test]
fn init_containers_are_not_probed_and_sidecars_are() {
    let probe = json!({"exec": {"command": ["true"]}});
    let pod = pod_of(json!({
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "livenessProbe": probe},
            {"name": "init", "readinessProbe": probe},
        ],
        "containers": [{"name": "c"}],
    }));
    let observed = observation(vec![instance(&pod, "init", 0, running()), instance(&pod, "side", 0, running())]);
    let (_, probed) = plan_with(&pod, &observed, &prepared(&pod), &ProbeResults::default(), at(5));
    assert_eq!(probed.iter().map(|c| (c.name.as_str(), c.pod_ip.as_str())).collect::<Vec<_>>(), [("side", "10.0.0.1")]);
}

#[rstest]
#[case("Always", None, "Container c failed liveness probe, will be restarted", 30)]
#[case("Always", Some(7), "Container c failed liveness probe, will be restarted", 7)]
#[case("OnFailure", None, "Container c failed liveness probe, will be restarted", 30)]
#[case("Never", None, "Container c failed liveness probe", 30)]
fn a_container_that_is_not_alive_is_stopped(
    #[case] policy: &str,
    #[case] own_grace: Option<i64>,
    #[case] message: &str,
    #[case] grace: i64,
) {
    let mut pod = probed_pod(&["livenessProbe"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.restart_policy = Some(policy.into());
    spec.containers[0].liveness_probe.as_mut().unwrap().termination_grace_period_seconds = own_grace;
    let mut memory = prepared(&pod);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let (plan, _) = plan_with(&pod, &observed, &memory, &not_alive("c-0"), at(5));
    assert_eq!(kills(&plan).len(), 1);
    assert_eq!(kills(&plan)[0].message, message);
    assert_eq!(kills(&plan)[0].grace, SignedDuration::from_secs(grace));
    note(&mut memory, &plan, at(5));

    // It ends well on its stop signal, and is restarted all the same.
    let observed = observation(vec![instance(&pod, "c", 0, exited(0, 6))]);
    let (plan, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(6));
    assert_eq!(started(&plan), if policy == "Never" { vec![] } else { vec![("c", 1)] });
    assert_eq!(plan.completed, policy == "Never");
    // The API lets no container out of an end that its policy would not follow by a restart.
    let shown = container(&plan, "c").state.as_ref().unwrap();
    assert_eq!(shown.waiting.is_some(), policy == "OnFailure");
}

#[test]
fn nothing_of_a_pod_starts_while_one_of_its_containers_is_stopped() {
    let mut pod = probed_pod(&["livenessProbe"]);
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].lifecycle = serde_json::from_value(json!({"preStop": {"sleep": {"seconds": 5}}})).unwrap();
    let mut other = spec.containers[0].clone();
    (other.name, other.liveness_probe, other.lifecycle) = ("d".into(), None, None);
    spec.containers.push(other);
    let mut memory = prepared(&pod);
    let crashed = |c| observation(vec![instance(&pod, "c", 0, c), instance(&pod, "d", 0, exited(1, 4))]);
    let (plan, _) = plan_with(&pod, &crashed(running()), &memory, &not_alive("c-0"), at(5));
    assert_eq!((hooks(&plan).as_slice(), started(&plan)), ([(HookKind::PreStop, "c")].as_slice(), vec![]));
    note(&mut memory, &plan, at(5));
    assert_eq!(started(&plan_with(&pod, &crashed(running()), &memory, &not_alive("c-0"), at(6)).0), []);
    let (plan, _) = plan_with(&pod, &crashed(exited(0, 7)), &memory, &ProbeResults::default(), at(7));
    assert_eq!(started(&plan), [("c", 1)]);
}

#[test]
fn a_stop_that_was_begun_goes_on_when_its_cause_is_forgotten() {
    let mut pod = probed_pod(&["livenessProbe"]);
    pod.spec.as_mut().unwrap().containers[0].lifecycle =
        serde_json::from_value(json!({"preStop": {"sleep": {"seconds": 5}}})).unwrap();
    let mut memory = prepared(&pod);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let (first, _) = plan_with(&pod, &observed, &memory, &not_alive("c-0"), at(5));
    assert_eq!(hooks(&first), [(HookKind::PreStop, "c")]);
    note(&mut memory, &first, at(5));
    let (during, probed) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(6));
    assert_eq!(during.actions, []);
    assert_eq!(probed, [], "nobody asks whether it lives");
    memory.note_outcome(&first.actions[0], Ok(()).into(), at(10));
    let (after, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(10));
    assert_eq!(kills(&after)[0].grace, SignedDuration::from_secs(25), "the hook's time is charged");
    assert!(kills(&after)[0].repeated, "its event was sent before the hook");
}

fn with_hooks(lifecycle: serde_json::Value) -> Pod {
    pod_of(json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "c", "image": "i", "lifecycle": lifecycle}, {"name": "d", "image": "i"}],
    }))
}

#[test]
fn a_container_counts_as_started_and_the_next_one_starts_once_its_hook_has_ended() {
    let pod = with_hooks(json!({"postStart": {"exec": {"command": ["true"]}}}));
    let mut memory = prepared(&pod);
    let (plan, _) = plan_with(&pod, &observation(vec![]), &memory, &ProbeResults::default(), at(3));
    let start = plan.actions[0].clone();
    assert_eq!(started(&plan), [("c", 0)]);
    memory.note_started(&start, at(3));
    memory.note_outcome(&start, Outcome { container_id: Some("c-0".into()), ..Outcome::from(Ok(())) }, at(3));

    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let (plan, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(4));
    assert_eq!(hooks(&plan), [(HookKind::PostStart, "c")]);
    let hook = plan.actions.iter().find(|a| matches!(a, Action::RunHook(_))).unwrap().clone();
    memory.note_started(&hook, at(4));
    let (during, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(5));
    assert_eq!((started(&during), hooks(&during)), (vec![], vec![]));
    assert_eq!(container(&during, "c").started, Some(false));

    let mut succeeded = memory.clone();
    succeeded.note_outcome(&hook, Ok(()).into(), at(6));
    let (after, _) = plan_with(&pod, &observed, &succeeded, &ProbeResults::default(), at(6));
    assert_eq!(started(&after), [("d", 0)]);
    assert_eq!(container(&after, "c").started, Some(true));

    memory.note_outcome(&hook, Err(Failure::new("PostStartHookError", "it said no")).into(), at(6));
    let (after, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(6));
    assert_eq!(kills(&after)[0].message, "FailedPostStartHook");
    note(&mut memory, &after, at(6));
    let observed = observation(vec![instance(&pod, "c", 0, exited(143, 7))]);
    let (after, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(7));
    let waiting = container(&after, "c").state.as_ref().unwrap().waiting.clone().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PostStartHookError"));
    assert_eq!(waiting.message.as_deref(), Some("it said no"));
}

#[test]
fn a_hook_that_hangs_ends_with_its_pod_and_with_its_container() {
    let pod = with_hooks(json!({"postStart": {"exec": {"command": ["sleep"]}}}));
    let mut memory = prepared(&pod);
    let step = Step::Running { attempts: 0 };
    let post_start = PostStart { container_id: "c-0".into(), pod_ip: None, step };
    memory.containers.get_mut("c").unwrap().post_start = Some(post_start);
    let cancelled = |observed: &PodObservation, memory: &PodMemory| {
        let (plan, _) = plan_with(&pod, observed, memory, &ProbeResults::default(), at(9));
        plan.actions.iter().any(|a| matches!(a, Action::CancelHook { id, .. } if id == "c-0"))
    };
    let up = observation(vec![instance(&pod, "c", 0, running())]);
    assert!(!cancelled(&up, &memory));
    assert!(cancelled(&observation(vec![instance(&pod, "c", 0, exited(1, 8))]), &memory));
    memory.note_removed(&pod, at(9));
    let (plan, _) = plan_with(&pod, &up, &memory, &ProbeResults::default(), at(9));
    assert!(cancelled(&up, &memory) && kills(&plan).len() == 1, "{:?}", plan.actions);
}

/// A pod with a preStop hook that is being deleted with that grace period since second 10.
fn deleted(lifecycle: serde_json::Value, grace: i64) -> (Pod, PodMemory) {
    let mut pod = with_hooks(lifecycle);
    let mut memory = prepared(&pod);
    let previous = pod.clone();
    pod.metadata.deletion_timestamp = Some(crate::model::clock::api_time(at(10 + grace)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    memory.note_pod(&pod, Some(&previous), at(10));
    (pod, memory)
}

#[rstest]
#[case(json!({"httpGet": {"port": 80}}), true)]
#[case(json!({"exec": {"command": ["sleep"]}}), false)]
fn a_pre_stop_hook_that_takes_too_long_is_waited_for_no_more(#[case] handler: serde_json::Value, #[case] is_cut: bool) {
    let (pod, mut memory) = deleted(json!({"preStop": handler}), 20);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let none = ProbeResults::default();
    let (plan, _) = plan_with(&pod, &observed, &memory, &none, at(10));
    assert_eq!(hooks(&plan), [(HookKind::PreStop, "c")]);
    assert_eq!(plan.wake_at, Some(at(30)));
    note(&mut memory, &plan, at(10));
    assert_eq!(plan_with(&pod, &observed, &memory, &none, at(29)).0.actions, []);
    let (plan, _) = plan_with(&pod, &observed, &memory, &none, at(30));
    let cancel = Action::CancelHook { id: "c-0".into(), container: "c".into(), failed: Some(HookKind::PreStop) };
    assert_eq!(plan.actions.contains(&cancel), is_cut, "what runs in the container ends with that");
    assert_eq!(kills(&plan)[0].grace, SignedDuration::from_secs(2), "there is always time for the stop signal");
    note(&mut memory, &plan, at(30));
    assert_eq!(plan_with(&pod, &observed, &memory, &none, at(31)).0.actions, []);
    let ended = observation(vec![instance(&pod, "c", 0, exited(137, 32))]);
    let (plan, _) = plan_with(&pod, &ended, &memory, &none, at(32));
    assert_eq!(plan.actions.contains(&cancel), !is_cut, "it is told once that the hook failed");
}

#[test]
fn a_shorter_grace_period_cuts_a_hook_off_too() {
    let (mut pod, mut memory) = deleted(json!({"preStop": {"sleep": {"seconds": 100}}}), 60);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let none = ProbeResults::default();
    let (plan, _) = plan_with(&pod, &observed, &memory, &none, at(10));
    note(&mut memory, &plan, at(10));
    let previous = pod.clone();
    pod.metadata.deletion_grace_period_seconds = Some(3);
    memory.note_pod(&pod, Some(&previous), at(12));
    let (plan, _) = plan_with(&pod, &observed, &memory, &none, at(12));
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(at(15))));
    assert_eq!(kills(&plan_with(&pod, &observed, &memory, &none, at(15)).0).len(), 1);
}

#[test]
fn a_hook_of_a_container_that_has_ended_is_given_up() {
    let (pod, mut memory) = deleted(json!({"preStop": {"sleep": {"seconds": 100}}}), 60);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let none = ProbeResults::default();
    let (plan, _) = plan_with(&pod, &observed, &memory, &none, at(10));
    note(&mut memory, &plan, at(10));
    let observed = observation(vec![instance(&pod, "c", 0, exited(0, 11))]);
    let (plan, _) = plan_with(&pod, &observed, &memory, &none, at(11));
    let cancel = Action::CancelHook { id: "c-0".into(), container: "c".into(), failed: None };
    assert_eq!(plan.actions, [cancel, Action::StopSandbox { id: "s0".into() }]);
}

#[test]
fn an_orphans_hook_is_found_in_its_annotations() {
    let pod = pod_of(json!({"containers": []}));
    let mut memory = PodMemory::of_orphan(at(10));
    let mut orphan = instance(&simple(), "c", 0, running());
    orphan.annotations =
        [("io.kubernetes.container.preStopHandler".to_owned(), r#"{"exec":{"command":["bye"]}}"#.to_owned())].into();
    let (plan, _) = plan_with(&pod, &observation(vec![orphan]), &memory, &ProbeResults::default(), at(10));
    let Action::RunHook(hook) = &plan.actions[0] else { panic!("{:?}", plan.actions) };
    assert_eq!((&hook.call, hook.deadline), (&HookCall::Exec(vec!["bye".into()]), at(11)));
    memory.note_started(&plan.actions[0], at(10));
}

#[test]
fn a_grace_period_of_zero_leaves_no_time_for_hooks() {
    let mut pod = with_hooks(json!({"preStop": {"sleep": {"seconds": 1}}}));
    let spec = pod.spec.as_mut().unwrap();
    spec.termination_grace_period_seconds = Some(0);
    spec.containers[0].liveness_probe = Some(Default::default());
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let (plan, _) = plan_with(&pod, &observed, &prepared(&pod), &not_alive("c-0"), at(10));
    assert_eq!(hooks(&plan), []);
    assert_eq!(kills(&plan)[0].grace, SignedDuration::from_secs(2));
}

fn with_sidecars() -> Pod {
    let probe = json!({"exec": {"command": ["true"]}});
    let hook = json!({"preStop": {"sleep": {"seconds": 1}}});
    pod_of(json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
        "initContainers": [
            {"name": "s1", "restartPolicy": "Always", "startupProbe": probe, "lifecycle": hook},
            {"name": "i", "image": "i"},
            {"name": "s2", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "c", "image": "i"}],
    }))
}

#[test]
fn what_follows_a_sidecar_waits_for_its_startup() {
    let pod = with_sidecars();
    let memory = prepared(&pod);
    let run = |name: &str| instance(&pod, name, 0, running());
    let starts = |containers: Vec<ContainerObservation>, results: &ProbeResults| {
        let (plan, _) = plan_with(&pod, &observation(containers), &memory, results, at(5));
        started(&plan).into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let none = ProbeResults::default();
    let up = results("s1-0", Some(Success), None);
    assert_eq!(starts(vec![run("s1")], &none), [""; 0]);
    assert_eq!(starts(vec![run("s1")], &up), ["i"]);
    let done = instance(&pod, "i", 0, exited(0, 4));
    assert_eq!(starts(vec![done.clone(), run("s1")], &up), ["s2"]);
    assert_eq!(starts(vec![run("s2"), done.clone(), run("s1")], &up), ["c"]);
    // A sidecar that fails once its turn is over is restarted, and holds nobody up.
    let mut backing_off = memory.clone();
    let failed = instance(&pod, "s1", 1, exited(1, 4));
    let (plan, _) =
        plan_with(&pod, &observation(vec![run("s2"), done.clone(), failed.clone()]), &backing_off, &none, at(5));
    assert_eq!(started(&plan), [("s1", 2)]);
    let start = plan.actions.iter().find(|a| matches!(a, Action::StartContainer(_))).unwrap();
    backing_off.note_started(start, at(4));
    backing_off.note_outcome(start, Ok(()).into(), at(4));
    let (plan, _) = plan_with(&pod, &observation(vec![run("s2"), done, failed]), &backing_off, &none, at(5));
    assert_eq!(started(&plan), [("c", 0)]);
}

#[test]
fn a_sidecar_that_does_not_start_up_is_restarted() {
    let pod = with_sidecars();
    let observed = observation(vec![instance(&pod, "s1", 0, running())]);
    let (plan, _) = plan_with(&pod, &observed, &prepared(&pod), &results("s1-0", Some(Failed), None), at(5));
    let Action::RunHook(hook) = plan.actions.iter().find(|a| matches!(a, Action::RunHook(_))).unwrap() else {
        panic!()
    };
    assert_eq!(hook.message, "Init container s1 failed startup probe");
}

#[test]
fn at_the_end_what_could_have_been_started_is_shown_as_lost() {
    let pod = with_sidecars();
    let codes = |initialized: &str, containers: Vec<ContainerObservation>| {
        let mut memory = prepared(&pod);
        let told = json!({"conditions": [{"type": "Initialized", "status": initialized}]});
        memory.status = serde_json::from_value(told).unwrap();
        memory.note_removed(&pod, at(10));
        let mut observed = observation(containers);
        observed.sandboxes[0].ready = false;
        let (plan, _) = plan_with(&pod, &observed, &memory, &ProbeResults::default(), at(11));
        ["s1", "i", "s2", "c"].map(|name| {
            let ended = container(&plan, name).state.as_ref().and_then(|state| state.terminated.as_ref());
            ended.map(|ended| ended.exit_code)
        })
    };
    let ended = |name: &str| instance(&pod, name, 0, exited(0, 9));
    let all = || vec![ended("s2"), ended("i"), ended("s1")];
    // Its last sidecar had started up, so the container should have run, or it had not.
    assert_eq!(codes("True", all()), [Some(0), Some(0), Some(0), Some(137)]);
    assert_eq!(codes("False", all()), [Some(0), Some(0), Some(0), None]);
    assert_eq!(codes("False", vec![ended("s1")]), [Some(0), None, None, None]);
    assert_eq!(codes("False", vec![]), [Some(137), None, None, None]);
}

#[test]
fn sidecars_end_in_reverse_order_and_their_hooks_run_at_once() {
    let pod = with_sidecars();
    let mut memory = prepared(&pod);
    memory.note_removed(&pod, at(10));
    let none = ProbeResults::default();
    let run = |name: &str| instance(&pod, name, 0, running());
    let mut containers = vec![run("c"), run("s2"), run("s1")];
    let mut step = |containers: &[ContainerObservation], now| {
        let (plan, _) = plan_with(&pod, &observation(containers.to_vec()), &memory, &none, now);
        note(&mut memory, &plan, now);
        for hook in plan.actions.iter().filter(|a| matches!(a, Action::RunHook(_))) {
            memory.note_outcome(hook, Ok(()).into(), now);
        }
        let killed = kills(&plan).iter().map(|kill| (kill.container.clone(), kill.grace.as_secs())).collect::<Vec<_>>();
        (hooks(&plan).iter().map(|(_, name)| (*name).to_owned()).collect::<Vec<_>>(), killed)
    };
    assert_eq!(step(&containers, at(10)), (vec!["s1".into()], vec![("c".into(), 30)]));
    containers.remove(0);
    assert_eq!(step(&containers, at(15)), (vec![], vec![("s2".into(), 25)]));
    assert_eq!(step(&containers, at(16)), (vec![], vec![]));
    // When the grace period is over, order no longer counts.
    assert_eq!(step(&containers, at(40)), (vec![], vec![("s1".into(), 2)]));
    assert_eq!(pod::spec(&pod).containers.len(), 1);
}

#[test]
fn with_a_dead_sandbox_what_still_runs_in_it_ends_in_the_same_order() {
    let mut pod = with_sidecars();
    pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].lifecycle = None;
    let mut memory = prepared(&pod);
    let run = |name: &str| instance(&pod, name, 0, running());
    let mut observed = observation(vec![run("c"), run("s2"), run("s1")]);
    observed.sandboxes[0].ready = false;
    let mut killed = |observed: &PodObservation, now| {
        let (plan, _) = plan_with(&pod, observed, &memory, &ProbeResults::default(), now);
        note(&mut memory, &plan, now);
        kills(&plan).iter().map(|kill| (kill.container.clone(), kill.grace.as_secs())).collect::<Vec<_>>()
    };
    assert_eq!(killed(&observed, at(10)), [("c".to_owned(), 30)]);
    assert_eq!(killed(&observed, at(15)), []);
    observed.containers[0].state = exited(0, 19);
    assert_eq!(killed(&observed, at(20)), [("s2".to_owned(), 20)], "what the first one took is gone");
    assert_eq!(killed(&observed, at(40)), [("s1".to_owned(), 2)], "time is over for all");
}

#[test]
fn an_end_that_takes_too_long_is_told_once() {
    let (pod, mut memory) = deleted(json!({}), 30);
    let observed = observation(vec![instance(&pod, "c", 0, running())]);
    let tells = |memory: &PodMemory, second| {
        let (plan, _) = plan_with(&pod, &observed, memory, &ProbeResults::default(), at(second));
        plan.actions.contains(&Action::TellExceededGrace)
    };
    assert!(!tells(&memory, 54));
    assert!(tells(&memory, 55));
    memory.note_started(&Action::TellExceededGrace, at(55));
    assert!(!tells(&memory, 56));
}
