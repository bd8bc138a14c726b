//! Random lives of random pods on a simulated clock, with a simulated runtime: actions take time and fail, containers exit,
//! sandboxes die, images change, the agent is killed and starts again, pods are rejected, give way to others and are deleted.
//! Some of them are static. After every step the invariants of a pod's life are checked.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes, ContainerStatus, EphemeralContainer,
    ImageVolumeSource, Lifecycle, LifecycleHandler, Pod, PodSpec, PodStatus, Probe, SleepAction, Volume, VolumeMount,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::model::observation::{ContainerObservation, ContainerState, Exit, SandboxObservation};
use crate::model::probe_results::ProbeVerdict;
use crate::model::{SignedDuration, pod};
use crate::probe::ProbedContainer;
use crate::runtime::translate::container_hash;

/// How unkind a world is.
#[derive(Clone, Copy, Debug)]
struct Unkindness {
    /// Per mille of actions that fail.
    failures: u32,
    /// Per mille of steps in which something happens to the pod from outside.
    incidents: u32,
}

struct World {
    rng: StdRng,
    unkindness: Unkindness,
    now: Timestamp,
    pod: Pod,
    runtime: PodObservation,
    memory: PodMemory,
    observed: Option<PodObservation>,
    in_flight: Vec<(Timestamp, Action)>,
    next_id: u32,
    node: NodeFacts,
    probes: ProbeResults,
    /// What is probed now.
    probed: Vec<ProbedContainer>,
    /// Containers that have once been seen to have started up: their ids, and their names with their sandbox.
    started: BTreeSet<String>,
    /// preStop hooks that this agent has run, by container.
    pre_stops: BTreeSet<String>,
    /// The API's status: the last published one.
    api: PodStatus,
    forgotten: bool,
    deletable: bool,
    trace: Vec<String>,
    starts: BTreeMap<String, u32>,
    /// The definitions from which containers were last begun, by name.
    begun_from: BTreeMap<String, String>,
    /// Since when containers run of which the pod has another definition, by id.
    outdated: BTreeMap<String, Timestamp>,
    /// Turns of the worker's loop.
    steps: u64,
}

fn after(now: Timestamp, milliseconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_millis(milliseconds)).unwrap()
}

fn random_container(rng: &mut StdRng, name: String, restart_policy: Option<&str>) -> Container {
    let is_init = name.starts_with("init") && restart_policy.is_none();
    let mut probe = |likely: f64| {
        (!is_init && rng.random_bool(likely)).then(|| Probe {
            termination_grace_period_seconds: rng.random_bool(0.3).then(|| rng.random_range(1..10)),
            ..Probe::default()
        })
    };
    let (startup_probe, readiness_probe, liveness_probe) = (probe(0.3), probe(0.4), probe(0.4));
    let volume_mounts = (0..rng.random_range(0..3))
        .map(|_| VolumeMount { name: format!("image-{}", rng.random_range(0..2)), ..VolumeMount::default() });
    let volume_mounts = Some(volume_mounts.collect());
    let mut hook = |likely: f64| {
        let seconds = rng.random_range(0..20);
        let sleep = LifecycleHandler { sleep: Some(SleepAction { seconds }), ..LifecycleHandler::default() };
        (!is_init && rng.random_bool(likely)).then_some(sleep)
    };
    let lifecycle = Lifecycle { post_start: hook(0.2), pre_stop: hook(0.3), stop_signal: None };
    Container {
        name,
        image: Some("image".into()),
        restart_policy: restart_policy.map(Into::into),
        startup_probe,
        readiness_probe,
        liveness_probe,
        lifecycle: Some(lifecycle),
        volume_mounts,
        ..Container::default()
    }
}

/// A regular container, perhaps with a restart policy and a rule of its own.
fn random_regular(rng: &mut StdRng, name: String) -> Container {
    let mut container = random_container(rng, name, None);
    if rng.random_bool(0.5) {
        container.restart_policy = Some(["Always", "OnFailure", "Never"][rng.random_range(0..3)].into());
        let operator = ["In", "NotIn"][rng.random_range(0..2)].into();
        let codes = ContainerRestartRuleOnExitCodes { operator, values: Some(vec![1]) };
        let action = ["Restart", "RestartAllContainers"][rng.random_range(0..2)].into();
        let rule = ContainerRestartRule { action, exit_codes: Some(codes) };
        container.restart_policy_rules = rng.random_bool(0.5).then(|| vec![rule]);
    }
    container
}

fn random_pod(rng: &mut StdRng) -> Pod {
    let inits = rng.random_range(0..4);
    let init = (0..inits)
        .map(|i| {
            let policy = rng.random_bool(0.5).then_some("Always");
            random_container(rng, format!("init-{i}"), policy)
        })
        .collect();
    let regulars = rng.random_range(1..3);
    let containers = (0..regulars).map(|i| random_regular(rng, format!("main-{i}"))).collect();
    let restart_policy = ["Always", "OnFailure", "Never"][rng.random_range(0..3)];
    let volumes = (0..2).map(|i| Volume {
        name: format!("image-{i}"),
        image: rng.random_bool(0.3).then(ImageVolumeSource::default),
        ..Volume::default()
    });
    let volumes = Some(volumes.collect());
    Pod {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("p".into()),
            namespace: Some("ns".into()),
            uid: Some("uid".into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some(restart_policy.into()),
            init_containers: Some(init),
            containers,
            termination_grace_period_seconds: Some(rng.random_range(0..20)),
            volumes,
            active_deadline_seconds: rng.random_bool(0.1).then(|| rng.random_range(1..120)),
            ..PodSpec::default()
        }),
        status: None,
    }
}

impl World {
    fn new(seed: u64, unkindness: Unkindness) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pod = random_pod(&mut rng);
        if rng.random_bool(0.2) {
            let source = (pod::CONFIG_SOURCE_ANNOTATION.to_owned(), "file".to_owned());
            pod.metadata.annotations = Some([source].into());
        }
        let restart_rules = match rng.random_range(0..10) {
            0 => RestartRules::Ignored,
            1 => RestartRules::OwnContainer,
            _ => RestartRules::AllContainers,
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let mut world = World {
            memory: PodMemory::new(&pod, now),
            rng,
            unkindness,
            now,
            pod,
            runtime: PodObservation::default(),
            observed: None,
            in_flight: Vec::new(),
            next_id: 0,
            node: NodeFacts {
                host_ips: vec!["192.0.2.1".into()],
                runtime_name: "sim".into(),
                restart_rules,
                ..NodeFacts::default()
            },
            probes: ProbeResults::default(),
            probed: Vec::new(),
            started: BTreeSet::new(),
            pre_stops: BTreeSet::new(),
            api: PodStatus::default(),
            forgotten: false,
            deletable: false,
            trace: Vec::new(),
            starts: BTreeMap::new(),
            begun_from: BTreeMap::new(),
            outdated: BTreeMap::new(),
            steps: 0,
        };
        if world.chance(50) {
            world.reject();
        }
        world
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.rng.random_range(0..1000) < per_mille
    }

    fn id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}-{}", self.next_id)
    }

    fn note(&mut self, text: String) {
        let at = self.now.as_millisecond() - 1_800_000_000_000;
        self.trace.push(format!("{at:>9} {text}"));
    }

    /// One turn of the worker's loop.
    fn turn(&mut self) {
        self.steps += 1;
        if self.observed.is_none() && !self.memory.is_runtime_busy() {
            self.observed = Some(self.runtime.clone());
            self.memory.forget_gone(&self.runtime.clone());
        }
        let plan = plan(&PlanInput {
            pod: &self.pod,
            observed: self.observed.as_ref(),
            memory: &self.memory,
            probes: &self.probes,
            node: &self.node,
            now: self.now,
        });
        if let Some(status) = plan.status.clone() {
            self.memory.status = status.clone();
            // The status of a pod that is gone from its source is nobody's to see.
            if !self.memory.removed {
                self.check_status(&status);
                self.api = status.clone();
                // Of a static pod only its mirror tells.
                if !pod::is_static(&self.pod) {
                    self.pod.status = Some(status);
                }
            }
        }
        self.check_definitions();
        self.probe();
        self.forgotten |= plan.forget;
        self.deletable = plan.deletable;
        if plan.completed && self.memory.termination.is_none() {
            let pod = self.pod.clone();
            self.memory.note_completed(&pod, self.now);
            return;
        }
        for action in plan.actions {
            self.check_action(&action);
            self.note(format!("begin {action:?}"));
            if let Action::StartContainer(start) = &action {
                let (_, container) = pod::container_by_name(pod::spec(&self.pod), &start.container).unwrap();
                self.begun_from.insert(start.container.clone(), container_hash(&container));
            }
            self.memory.note_started(&action, self.now);
            if let Action::CancelHook { id, .. } = &action {
                self.in_flight.retain(|(_, a)| !matches!(a, Action::RunHook(hook) if hook.id == *id));
            }
            if !action.is_told() {
                let duration = self.duration(&action);
                self.in_flight.push((after(self.now, duration), action));
            }
        }
        let next_end = self.in_flight.iter().map(|(at, _)| *at).min();
        let wake = [next_end, plan.wake_at].into_iter().flatten().min();
        if self.in_flight.is_empty() && plan.wake_at.is_some_and(|at| at < self.now) {
            panic!("the plan wants to be made again in the past: {:?} at {}", plan.wake_at, self.now);
        }
        // Something else may happen before.
        let other = after(self.now, self.rng.random_range(50..3000));
        self.now = wake.map_or(other, |at| at.max(after(self.now, 1))).min(other);
    }

    /// Milliseconds that an action takes.
    fn duration(&mut self, action: &Action) -> i64 {
        let hangs = self.chance(self.unkindness.failures);
        match action {
            Action::RunHook(_) if hangs => 3_600_000,
            Action::RunHook(hook) => match hook.call {
                HookCall::Sleep(time) => i64::try_from(time.as_millis()).unwrap() + 1,
                _ => 1,
            },
            Action::KillContainer(kill) if hangs => i64::try_from(kill.grace.as_millis()).unwrap() + 1,
            _ => self.rng.random_range(1..400),
        }
    }

    /// The prober is told what to probe.
    fn probe(&mut self) {
        let input = PlanInput {
            pod: &self.pod,
            observed: self.observed.as_ref(),
            memory: &self.memory,
            probes: &self.probes,
            node: &self.node,
            now: self.now,
        };
        let Some(probed) = probed(&input) else { return };
        for container in &probed {
            let observed = self.observed.as_ref().unwrap();
            let instance = observed.containers.iter().find(|c| c.id == container.id).unwrap();
            assert!(matches!(instance.state, ContainerState::Running { .. }), "what does not run is probed");
            let which = container.probes;
            let ending = self.memory.termination.is_some();
            assert!(!ending || !(which.startup || which.liveness), "an ending container is probed for life");
            assert!(which.startup != (which.readiness || which.liveness), "probed before it started: {container:?}");
        }
        let ids: BTreeSet<&str> = probed.iter().map(|c| c.id.as_str()).collect();
        self.probes.containers.retain(|id, _| ids.contains(id.as_str()));
        self.probed = probed;
    }

    /// A probe comes to a result.
    fn probe_one(&mut self) {
        if self.probed.is_empty() {
            return;
        }
        let container = self.probed[self.rng.random_range(0..self.probed.len())].clone();
        let verdict = if self.rng.random_bool(0.7) { ProbeVerdict::Success } else { ProbeVerdict::Failure };
        self.note(format!("probes of {} tell {verdict:?}", container.name));
        let results = self.probes.containers.entry(container.id.clone()).or_default();
        if container.probes.startup {
            results.startup = Some(verdict);
            if verdict == ProbeVerdict::Success {
                let sandbox = self.runtime.containers.iter().find(|c| c.id == container.id).map(|c| &c.sandbox_id);
                self.started.extend(sandbox.map(|sandbox| format!("{} in {sandbox}", container.name)));
                self.started.insert(container.id);
            }
        } else if container.probes.readiness && (!container.probes.liveness || self.rng.random_bool(0.5)) {
            results.readiness = Some(verdict);
        } else if container.probes.liveness && (verdict == ProbeVerdict::Success || self.rng.random_bool(0.2)) {
            results.liveness = Some(verdict);
        }
    }

    fn end_actions(&mut self) {
        let now = self.now;
        let (ended, running): (Vec<_>, Vec<_>) = self.in_flight.drain(..).partition(|(at, _)| *at <= now);
        self.in_flight = running;
        for (_, action) in ended {
            let failed = self.chance(self.unkindness.failures);
            let outcome = self.carry_out(&action, failed);
            self.note(format!("end {action:?}: {:?}", outcome.result));
            if self.memory.note_outcome(&action, outcome, now) {
                self.observed = None;
            }
        }
    }

    fn carry_out(&mut self, action: &Action, failed: bool) -> Outcome {
        let now = self.now;
        if failed {
            // A start can fail after the container was made.
            if let Action::StartContainer(start) = action
                && self.rng.random_bool(0.5)
            {
                let container = self.make_container(start, ContainerState::Created);
                self.runtime.containers.insert(0, container);
            }
            return Outcome::from(Err(Failure::new("Simulated", "it failed")));
        }
        match action {
            Action::CreateSandbox { attempt } => {
                let sandbox = SandboxObservation {
                    id: self.id("sandbox"),
                    attempt: *attempt,
                    created_at: now,
                    ready: true,
                    ips: vec!["10.0.0.1".into()],
                    host_network: false,
                    runtime_handler: String::new(),
                };
                self.runtime.sandboxes.insert(0, sandbox);
            }
            // A runtime that says it has stopped what it has not.
            Action::StopSandbox { .. } if self.rng.random_bool(0.05) => {}
            Action::StopSandbox { id } => {
                let now = self.now;
                for sandbox in self.runtime.sandboxes.iter_mut().filter(|s| s.id == *id) {
                    sandbox.ready = false;
                }
                for container in self.runtime.containers.iter_mut().filter(|c| c.sandbox_id == *id) {
                    end(container, now, 137);
                }
            }
            Action::StartContainer(start) => {
                let alive = self.runtime.sandboxes.iter().any(|s| s.id == start.sandbox_id && s.ready);
                if !alive {
                    return Outcome::from(Err(Failure::new("Simulated", "the sandbox is gone")));
                }
                self.check_start(start);
                let container = self.make_container(start, ContainerState::Running { started_at: now });
                let id = container.id.clone();
                self.runtime.containers.insert(0, container);
                return Outcome { container_id: Some(id), ..Outcome::from(Ok(())) };
            }
            Action::KillContainer(kill) => {
                let code = if self.rng.random_bool(0.3) { 0 } else { 143 };
                for container in self.runtime.containers.iter_mut().filter(|c| c.id == kill.id) {
                    end(container, now, code);
                }
            }
            Action::RemoveContainer { id, .. } => self.runtime.containers.retain(|c| c.id != *id),
            Action::RemoveSandbox { id } => self.runtime.sandboxes.retain(|s| s.id != *id),
            // And one that says it has removed what it has not.
            Action::RemoveRemains { .. } if self.rng.random_bool(0.05) => {}
            Action::RemoveRemains { sandboxes, containers, .. } => {
                self.runtime.sandboxes.retain(|s| !sandboxes.contains(&s.id));
                self.runtime.containers.retain(|c| !containers.contains(&c.id) && !sandboxes.contains(&c.sandbox_id));
            }
            Action::PullImage { image, .. } => {
                let image = ReadyImage { image_ref: image_ref(image), ..ReadyImage::default() };
                return Outcome { image: Some(image), ..Outcome::from(Ok(())) };
            }
            Action::PullVolumeImage { .. } => {
                let image = ReadyImage { image_ref: "sha256:1".into(), ..ReadyImage::default() };
                return Outcome { image: Some(image), ..Outcome::from(Ok(())) };
            }
            Action::MountVolumes => {
                let refresh_at = self.rng.random_bool(0.3).then(|| after(now, 30_000));
                return Outcome { refresh_at, ..Outcome::from(Ok(())) };
            }
            _ => {}
        }
        Outcome::from(Ok(()))
    }

    fn make_container(&mut self, start: &StartContainer, state: ContainerState) -> ContainerObservation {
        ContainerObservation {
            id: self.id("container"),
            sandbox_id: start.sandbox_id.clone(),
            name: start.container.clone(),
            restart_count: start.restart_count,
            // The pod may have changed meanwhile.
            hash: self.begun_from[&start.container].clone(),
            created_at: self.now,
            state,
            image: "image".into(),
            image_ref: "sha256:1".into(),
            resources: None,
            user: None,
            stop_signal: None,
            annotations: BTreeMap::new(),
            log_path: String::new(),
        }
    }

    /// Something that the agent did not do.
    fn incident(&mut self) {
        match self.rng.random_range(0..22) {
            10..=19 => self.probe_one(),
            20 => self.change_image(),
            21 if self.rng.random_bool(0.3) => self.preempt(),
            0..=4 => self.exit_one(),
            5 => self.kill_sandbox(),
            6 => self.restart_agent(),
            7 => {
                self.note("objects changed".into());
                self.memory.note_references_changed(self.now);
            }
            8 if self.rng.random_bool(0.3) => self.delete_pod(),
            9 => self.add_ephemeral(),
            _ => {}
        }
    }

    /// The node does not take the pod.
    fn reject(&mut self) {
        self.note("the pod is rejected".into());
        self.memory.note_node_end(&NodeEnd::rejected("OutOfcpu", "no room"), &self.pod, self.now);
    }

    /// The pod has to make room for another one.
    fn preempt(&mut self) {
        if self.memory.removed || self.memory.node_end.is_some() {
            return;
        }
        self.note("the pod is preempted".into());
        self.memory.note_node_end(&NodeEnd::preempted(), &self.pod, self.now);
    }

    /// A container gets another image, as API and manifests let it.
    fn change_image(&mut self) {
        if self.memory.removed {
            return;
        }
        let previous = self.pod.clone();
        let image = self.id("image");
        let spec = self.pod.spec.get_or_insert_default();
        let mut containers: Vec<&mut Container> =
            spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).collect();
        let index = self.rng.random_range(0..containers.len());
        containers[index].image = Some(image.clone());
        let note = format!("the image of {} changes to {image}", containers[index].name);
        self.note(note);
        self.memory.note_pod(&self.pod, Some(&previous), self.now);
    }

    /// Somebody wants to look into the pod.
    fn add_ephemeral(&mut self) {
        let previous = self.pod.clone();
        let targeted = self.rng.random_bool(0.5);
        let containers = self.pod.spec.get_or_insert_default().ephemeral_containers.get_or_insert_default();
        if self.memory.removed || pod::is_static(&previous) || containers.len() == 2 {
            return;
        }
        let name = format!("debug-{}", containers.len());
        let note = format!("{name} is added");
        containers.push(EphemeralContainer {
            name,
            image: Some("tools".into()),
            target_container_name: targeted.then(|| "main-0".into()),
            ..EphemeralContainer::default()
        });
        self.note(note);
        let pod = self.pod.clone();
        self.memory.note_pod(&pod, Some(&previous), self.now);
    }

    fn exit_one(&mut self) {
        let running: Vec<usize> = (0..self.runtime.containers.len())
            .filter(|i| matches!(self.runtime.containers[*i].state, ContainerState::Running { .. }))
            .collect();
        if running.is_empty() {
            return;
        }
        let index = running[self.rng.random_range(0..running.len())];
        let code = if self.rng.random_bool(0.6) { 0 } else { 1 };
        let name = self.runtime.containers[index].name.clone();
        self.note(format!("{name} exits with {code}"));
        end(&mut self.runtime.containers[index], self.now, code);
        self.observed = None;
    }

    fn kill_sandbox(&mut self) {
        let now = self.now;
        if let Some(sandbox) = self.runtime.sandboxes.first_mut().filter(|s| s.ready) {
            sandbox.ready = false;
            let id = sandbox.id.clone();
            for container in self.runtime.containers.iter_mut().filter(|c| c.sandbox_id == id) {
                end(container, now, 137);
            }
            self.note("the sandbox dies".into());
            self.observed = None;
        }
    }

    /// The agent is killed: calls under way end somehow, and all that it remembered is gone.
    fn restart_agent(&mut self) {
        self.note("the agent is killed and starts again".into());
        for (_, action) in std::mem::take(&mut self.in_flight) {
            if self.rng.random_bool(0.5) {
                let failed = self.rng.random_bool(0.3);
                self.carry_out(&action, failed);
            }
        }
        if self.memory.removed {
            self.memory = PodMemory::of_orphan(self.now);
        } else {
            self.memory = PodMemory::new(&self.pod, self.now);
            if pod::is_static(&self.pod) {
                self.meet_mirror();
            }
            // What has ended or must is not judged again.
            if self.memory.termination.is_none() && self.chance(50) {
                self.reject();
            }
        }
        self.observed = None;
        self.probes = ProbeResults::default();
        self.probed.clear();
        self.pre_stops.clear();
    }

    /// A new agent shows of a static pod what the runtime tells. How often its containers were started it takes from the mirror, if
    /// the API server is there.
    fn meet_mirror(&mut self) {
        let shown = std::mem::take(&mut self.api);
        if self.chance(200) {
            self.starts.clear();
        } else {
            self.memory.note_mirror(&Pod { status: Some(shown), ..Pod::default() });
        }
    }

    fn delete_pod(&mut self) {
        if pod::is_deleting(&self.pod) || self.memory.removed {
            return;
        }
        let previous = self.pod.clone();
        let is_static = pod::is_static(&self.pod);
        if is_static || self.rng.random_bool(0.2) {
            self.note(if is_static { "the manifest is removed" } else { "the pod is deleted by force" }.into());
            self.memory.note_removed(&previous, self.now);
            return;
        }
        self.note("the pod is deleted".into());
        let grace = pod::spec(&self.pod).termination_grace_period_seconds;
        self.pod.metadata.deletion_grace_period_seconds = grace;
        self.pod.metadata.deletion_timestamp = Some(crate::model::clock::api_time(self.now));
        let pod = self.pod.clone();
        self.memory.note_pod(&pod, Some(&previous), self.now);
    }

    fn check_action(&mut self, action: &Action) {
        let in_flight = self.in_flight.iter().map(|(_, a)| a);
        match action {
            Action::StartContainer(start) => {
                assert!(self.memory.termination.is_none(), "a start after the end began: {action:?}");
                let (_, container) = pod::container_by_name(pod::spec(&self.pod), &start.container).unwrap();
                let image = container.image.as_deref().unwrap_or_default();
                assert_eq!(start.image.image_ref, image_ref(image), "{} starts from another image", start.container);
                for (volume, _) in pod::image_volumes(pod::spec(&self.pod)).filter(|(v, _)| pod::mounts(&container, v))
                {
                    assert!(start.image_volumes.contains_key(volume), "{} starts without {volume}", start.container);
                }
                assert!(!in_flight.clone().any(|a| matches!(a, Action::StartContainer(_))), "two starts at once");
                assert!(self.memory.volumes_mounted, "a start without volumes");
                let hook = in_flight.clone().any(|a| matches!(a, Action::RunHook(h) if h.kind == HookKind::PostStart));
                assert!(!hook, "a start beside a hook that holds it up");
            }
            Action::RunHook(hook) if hook.kind == HookKind::PostStart => {
                assert!(self.memory.termination.is_none(), "a postStart hook after the end began");
            }
            Action::RunHook(hook) => {
                assert!(self.pre_stops.insert(hook.id.clone()), "a preStop hook twice");
            }
            Action::KillContainer(kill) => {
                let hook =
                    |a: &Action| matches!(a, Action::RunHook(h) if h.kind == HookKind::PreStop && h.id == kill.id);
                assert!(!in_flight.clone().any(hook), "a stop beside its hook");
                assert!(kill.grace >= SignedDuration::from_secs(2), "a stop without grace");
                self.check_stop_order(kill);
            }
            Action::CreateSandbox { .. } => {
                assert!(self.memory.termination.is_none(), "a sandbox after the end began");
                assert!(!in_flight.clone().any(|a| matches!(a, Action::CreateSandbox { .. })), "two sandboxes at once");
                assert!(!self.runtime.sandboxes.iter().any(|s| s.ready), "a second sandbox beside a ready one");
            }
            Action::CleanUp => assert!(!self.runtime.is_anything_running(), "volumes taken away from what runs"),
            Action::RemoveContainer { id, .. } => {
                let victim = self.runtime.containers.iter().find(|c| c.id == *id);
                assert!(!victim.is_some_and(|c| c.state.may_run()), "a running container removed");
                let (spec, rules) = (pod::spec(&self.pod), self.node.restart_rules);
                let asks = |c: &ContainerObservation| match &c.state {
                    ContainerState::Exited(exit) => pod::container_by_name(spec, &c.name)
                        .is_some_and(|(_, container)| rules.asks_for_all(&container, exit.code)),
                    _ => false,
                };
                let is_other = |c: &&ContainerObservation| !asks(c) && !c.name.starts_with("debug");
                if victim.is_some_and(|c| asks(c) && self.runtime.container(&c.name).is_some_and(|l| l.id == c.id)) {
                    let left = self.runtime.containers.iter().find(is_other);
                    assert!(left.is_none(), "what asked for a restart of all is removed before {left:?}");
                }
            }
            _ => {}
        }
        if !matches!(action, Action::KillContainer(_)) {
            assert!(!in_flight.clone().any(|a| a == action), "the same action twice at once: {action:?}");
        }
    }

    /// What runs from another definition than the pod's is not left to run.
    fn check_definitions(&mut self) {
        let spec = pod::spec(&self.pod);
        let runs = |c: &&ContainerObservation| matches!(c.state, ContainerState::Running { .. });
        let is_outdated = |c: &&ContainerObservation| {
            spec.containers.iter().any(|known| known.name == c.name && container_hash(known) != c.hash)
        };
        let is_ending = self.memory.termination.is_some();
        let all = self.runtime.containers.iter().filter(|_| !is_ending);
        let outdated = all.filter(runs).filter(is_outdated);
        let since = |c: &ContainerObservation| (c.id.clone(), *self.outdated.get(&c.id).unwrap_or(&self.now));
        self.outdated = outdated.map(since).collect();
        for (id, since) in &self.outdated {
            assert!(self.now.duration_since(*since) < SignedDuration::from_mins(3), "{id} runs from another image");
        }
    }

    /// Sidecars end after what they serve, unless the grace period is over.
    fn check_stop_order(&self, kill: &KillContainer) {
        let Some(termination) = self.memory.termination else { return };
        let spec = pod::spec(&self.pod);
        let Some(position) = termination::sidecar_position(&self.pod, &kill.container) else { return };
        if termination.remaining(self.now) == SignedDuration::ZERO
            || self.memory.kills.get(&kill.id).is_some_and(|kill| kill.deadline <= self.now || kill.step.is_running())
        {
            return;
        }
        let observed = self.observed.as_ref().unwrap();
        let runs = |name: &str| observed.instances(name).any(|c| c.state.may_run());
        assert!(!spec.containers.iter().any(|c| runs(&c.name)), "a sidecar ends before what it serves");
        let later = spec.init_containers.iter().flatten().skip(position + 1).filter(|c| pod::is_sidecar(c));
        assert!(!later.into_iter().any(|c| runs(&c.name)), "sidecars end in the wrong order");
    }

    fn check_start(&mut self, start: &StartContainer) {
        let spec = pod::spec(&self.pod);
        let in_sandbox = |name: &str| {
            let instances = self.runtime.instances(name).filter(|c| c.sandbox_id == start.sandbox_id);
            instances.map(|c| c.state.clone()).collect::<Vec<_>>()
        };
        assert!(
            !self.runtime.instances(&start.container).any(|c| c.state.may_run()),
            "two of {} at the same time",
            start.container
        );
        if start.kind == pod::ContainerKind::Ephemeral {
            assert!(self.runtime.container(&start.container).is_none(), "{} is started again", start.container);
            return;
        }
        let was_initialized = spec.containers.iter().any(|c| !in_sandbox(&c.name).is_empty());
        for init in spec.init_containers.iter().flatten() {
            if init.name == start.container {
                break;
            }
            if !was_initialized && !pod::is_sidecar(init) {
                let done = in_sandbox(&init.name).iter().any(|s| matches!(s, ContainerState::Exited(e) if e.code == 0));
                assert!(done, "{} starts before {} is done", start.container, init.name);
            }
            if !was_initialized && pod::is_sidecar(init) && init.startup_probe.is_some() {
                let started = self.started.contains(&format!("{} in {}", init.name, start.sandbox_id));
                assert!(started, "{} starts before {} has", start.container, init.name);
            }
        }
        let count = self.starts.entry(start.container.clone()).or_insert(start.restart_count);
        assert!(*count <= start.restart_count, "the restart count of {} went back", start.container);
        *count = start.restart_count;
        if let (Some(finished_at), Some(memory)) = (start.restart_of, self.memory.container(&start.container)) {
            // The restart that is under way has been noted, so the delay in force is the next one.
            if let Some((_, delay)) = memory.backoff.wait(finished_at, finished_at) {
                assert!(delay <= self.node.backoff.max && delay >= self.node.backoff.initial);
            }
        }
    }

    fn check_status(&self, status: &PodStatus) {
        let phase = status.phase.as_deref().unwrap();
        if let Some(before) = self.api.phase.as_deref().filter(|p| pod::is_terminal_phase(p)) {
            assert_eq!(phase, before, "a terminal phase was left");
        }
        if pod::is_terminal_phase(phase) {
            let runs = self.runtime.containers.iter().any(|c| c.state.may_run());
            let starting = self.in_flight.iter().any(|(_, a)| matches!(a, Action::StartContainer(_)));
            assert!(!runs && !starting, "phase {phase} while something runs");
        }
        let was_terminal = self.api.phase.as_deref().is_some_and(pod::is_terminal_phase);
        if let Some(end) = self.memory.node_end.as_ref().filter(|_| pod::is_terminal_phase(phase) && !was_terminal) {
            let told =
                if phase == "Failed" { status.reason.as_deref() == Some(end.reason()) } else { !end.fails_the_pod() };
            assert!(told, "{phase} does not tell of {end:?}");
        }
        let counts = |s: &PodStatus| -> BTreeMap<String, i32> {
            s.container_statuses.iter().flatten().map(|c: &ContainerStatus| (c.name.clone(), c.restart_count)).collect()
        };
        for (name, count) in counts(&self.api) {
            let now = counts(status).get(&name).copied().unwrap_or(0);
            assert!(now >= count, "the API's restart count of {name} went from {count} to {now}");
        }
        for old in self.api.container_statuses.iter().flatten() {
            let ended = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
            let new = status.container_statuses.iter().flatten().find(|s| s.name == old.name);
            if let (Some(code), Some(None)) = (ended(old), new.map(ended)) {
                let (spec, rules) = (pod::spec(&self.pod), self.node.restart_rules);
                let (_, container) = pod::container_by_name(spec, &old.name).unwrap();
                let by_rule = restart_all::is_possible(rules, spec);
                let allowed = by_rule || rules.should_restart(spec, &container, code, false);
                assert!(allowed, "the API refuses that {} leaves its end with {code}", old.name);
            }
        }
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let observed = self.observed.as_ref().unwrap();
        let all_run = pod::spec(&self.pod)
            .containers
            .iter()
            .all(|c| observed.container(&c.name).is_some_and(|o| matches!(o.state, ContainerState::Running { .. })));
        assert!(!ready || all_run, "Ready while a container does not run");
        for container in status.container_statuses.iter().flatten().filter(|c| c.ready) {
            self.check_ready(container);
        }
        let types: BTreeSet<&str> = status.conditions.iter().flatten().map(|c| c.type_.as_str()).collect();
        assert_eq!(types.len(), status.conditions.as_ref().unwrap().len(), "a condition twice");
    }

    /// A container is ready only while its probe says so, or, until it says anything, while it was so before.
    fn check_ready(&self, container: &ContainerStatus) {
        assert_eq!(container.started, Some(true), "ready before it has started");
        let (_, spec) = pod::container_by_name(pod::spec(&self.pod), &container.name).unwrap();
        let id = container.container_id.as_deref().unwrap().trim_start_matches("sim://");
        if spec.startup_probe.is_some() {
            assert!(self.started.contains(id), "started without its probe");
        }
        if spec.readiness_probe.is_none() {
            return;
        }
        let verdict = self.probes.containers.get(id).and_then(|r| r.readiness);
        let before =
            self.api.container_statuses.iter().flatten().any(|c| c.ready && c.container_id == container.container_id);
        assert!(verdict == Some(ProbeVerdict::Success) || (verdict.is_none() && before), "ready without its probe");
    }

    fn is_gone(&self) -> bool {
        self.forgotten || (self.deletable && pod::is_deleting(&self.pod))
    }
}

fn image_ref(image: &str) -> String {
    format!("sha256:{image}")
}

fn end(container: &mut ContainerObservation, now: Timestamp, code: i32) {
    if let ContainerState::Running { started_at } = container.state {
        container.state = ContainerState::Exited(Exit {
            started_at: Some(started_at),
            finished_at: now,
            code,
            reason: if code == 0 { "Completed".into() } else { "Error".into() },
            message: String::new(),
        });
    }
}

/// Lets a pod live for a while, then deletes it and waits for its end.
fn live(seed: u64, unkindness: Unkindness) -> World {
    let mut world = World::new(seed, unkindness);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..150 {
            world.end_actions();
            if world.chance(world.unkindness.incidents) {
                world.incident();
            }
            world.turn();
            if world.is_gone() {
                return;
            }
        }
        world.note("the last deletion".into());
        world.unkindness.incidents = 0;
        world.delete_pod();
        let limit = after(world.now, 600_000);
        while !world.is_gone() {
            world.end_actions();
            world.turn();
            assert!(world.now < limit, "the pod does not end");
        }
        assert!(!world.runtime.is_anything_running(), "something still runs of a pod that has ended");
    }));
    if let Err(panic) = outcome {
        let cause = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a failed assertion".to_owned());
        let tail = world.trace.len().saturating_sub(60);
        panic!("seed {seed}: {cause}\n{:#?}\n{}", pod::spec(&world.pod), world.trace[tail..].join("\n"));
    }
    world
}

/// A simulation in which nothing happens would hold every invariant.
#[test]
fn the_simulation_reaches_what_it_checks() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..500 {
        let world = live(seed, Unkindness { failures: 100, incidents: 200 });
        for what in [
            "begin StartContainer",
            "begin TellBackoff",
            "begin RemoveContainer",
            "begin PullVolumeImage",
            "begin TellSandboxChanged",
            "begin RunHook(Hook { kind: PostStart",
            "begin RunHook(Hook { kind: PreStop",
            "begin CancelHook",
            "failed liveness probe",
            "failed startup probe",
            "FailedPostStartHook",
            "begin EndByDeadline",
            "message: \"killing\"",
            "kind: Ephemeral, sandbox_id",
            "the agent is killed",
            "the pod is rejected",
            "the pod is preempted",
            "the manifest is removed",
            "the image of main",
            "definition changed",
        ] {
            *seen.entry(what).or_default() += world.trace.iter().filter(|line| line.contains(what)).count();
        }
        *seen.entry("restarts").or_default() += world.starts.values().filter(|count| **count > 0).count();
        for phase in ["Succeeded", "Failed"] {
            *seen.entry(phase).or_default() += usize::from(world.api.phase.as_deref() == Some(phase));
        }
    }
    for (what, count) in &seen {
        assert!(*count > 20, "{what} was seen {count} times only: {seen:?}");
    }
}

/// Lets many pods live, each from a seed of its own: `FERROLET_SIMULATED_LIVES` of them. Every life is more than 50 steps on
/// average, so that 10,000 in each of two worlds are more than a million.
#[allow(clippy::print_stderr, reason = "whoever runs more lives than usual wants to know how many steps they were")]
fn live_all(unkindness: Unkindness) {
    let lives = std::env::var("FERROLET_SIMULATED_LIVES").ok().and_then(|lives| lives.parse().ok()).unwrap_or(400);
    let first: u64 = rand::random();
    let steps: u64 = (0..lives).map(|life| live(first.wrapping_add(life), unkindness).steps).sum();
    eprintln!("{lives} lives in {steps} steps, from seed {first}: {unkindness:?}");
    assert!(steps > lives * 50, "{lives} lives in {steps} steps only");
}

#[test]
fn pods_live_and_end_as_they_should() {
    live_all(Unkindness { failures: 0, incidents: 150 });
}

#[test]
fn pods_in_an_unkind_world_do_too() {
    live_all(Unkindness { failures: 200, incidents: 300 });
}
