//! What a pod that is meant to run needs: its cgroup, volumes and images, a sandbox, and its containers in their order.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Container;

use super::Draft;
use super::action::{Action, StartContainer};
use super::ephemeral;
use super::hooks;
use super::images::{self, Images};
use super::memory::{Due, RetryPolicy, Step, later, starts};
use super::probes;
use super::restart::{is_success, was_cut_off};
use super::restart_all;
use super::stop::{Stop, container_grace, grace_of_all, sandbox_stop_due, stop};
use super::termination;
use super::view::{View, instance_in, usable_sandbox};
use crate::model::observation::{ContainerObservation, ContainerState, Exit, PodObservation, SandboxObservation};
use crate::model::pod::{self, ContainerKind};
use crate::model::{SignedDuration, Timestamp};
use crate::runtime::translate::{backoff_key, container_hash};

const PREPARE_RETRY: RetryPolicy =
    RetryPolicy { first: SignedDuration::from_millis(500), max: SignedDuration::from_secs(30) };
const SANDBOX_RETRY: RetryPolicy =
    RetryPolicy { first: SignedDuration::from_secs(1), max: SignedDuration::from_secs(15) };
const REMOVE_RETRY: RetryPolicy =
    RetryPolicy { first: SignedDuration::from_secs(1), max: SignedDuration::from_mins(1) };
const START_RETRY: RetryPolicy =
    RetryPolicy { first: SignedDuration::from_secs(2), max: SignedDuration::from_secs(12) };
/// A sandbox that is stopped takes its containers along before it is seen to have ended itself: a container that was killed
/// is not restarted before this time, lest it is started in a sandbox that is about to go.
const SANDBOX_DEATH: SignedDuration = SignedDuration::from_millis(300);
/// Exit code of a process that SIGKILL ended.
const KILLED: i32 = 137;

/// A container that should be started as soon as all that it needs is there.
pub(super) struct Candidate<'a> {
    pub kind: ContainerKind,
    pub container: Cow<'a, Container>,
    restart_count: u32,
    restart_of: Option<Timestamp>,
    /// It was killed, then; by whom is not known.
    killed_at: Option<Timestamp>,
    /// The container whose processes it is to see.
    target_id: Option<String>,
}

/// What the pod's containers are up to.
#[derive(Default)]
struct Progress<'a> {
    /// To be started, in order.
    candidates: Vec<Candidate<'a>>,
    /// To be stopped first.
    stops: Vec<Stop<'a>>,
    /// To be removed first.
    removals: Vec<&'a ContainerObservation>,
    /// To be removed before all are started anew; their logs stay as long as the pod.
    resets: Vec<&'a ContainerObservation>,
    /// Nothing of the pod will ever be started again, and its regular containers have ended.
    completed: bool,
}

/// Plans a pod that is meant to run.
pub(super) fn plan(view: &View<'_>, draft: &mut Draft) {
    let memory = view.memory;
    if draft.due(memory.cgroup.due(view.now, &PREPARE_RETRY)) {
        draft.act(Action::CreateCgroup);
    }
    if draft.due(memory.references.due(view.now, &PREPARE_RETRY)) {
        draft.act(Action::ResolveReferences);
    }
    volumes(view, draft);
    hooks::post_start(view, draft);
    hooks::cancel_pre_stop(view, draft);

    let Some(observed) = view.observed else {
        images::first(view, draft);
        return;
    };
    let sandbox = usable_sandbox(view.spec, observed).ok();
    let progress = progress(view, observed, sandbox);
    if progress.completed {
        draft.completed = true;
        return;
    }
    images::pull_all(view, observed, &progress.candidates, draft);
    if progress.resets.is_empty() {
        collect_garbage(view, observed, draft);
    }
    for container in &progress.removals {
        remove(view, container, draft);
    }
    for container in &progress.resets {
        if draft.due(removal(view, &container.id)) {
            draft.act(remove_action(container, String::new()));
        }
    }
    let stops = !progress.stops.is_empty();
    for needed in progress.stops {
        stop(view, needed, draft);
    }
    // What must be stopped ends before anything else of the pod starts, hook and all.
    if stops {
        return;
    }
    // Before the node's addresses are known nothing is started: containers are told of them when they start.
    if memory.is_runtime_busy() || progress.candidates.is_empty() || view.node.host_ips.is_empty() {
        return;
    }
    // A container that waits for its hook has not been started yet, so the next one is not begun.
    if memory.is_post_start_pending() {
        return;
    }
    match sandbox {
        Some(sandbox) => start(view, sandbox, &progress.candidates, draft),
        None => make_sandbox(view, observed, draft),
    }
}

fn volumes(view: &View<'_>, draft: &mut Draft) {
    let memory = view.memory;
    if !memory.references.is_done() {
        return;
    }
    match &memory.volumes {
        Step::Done => {
            let refresh = match memory.volumes_refresh_at {
                Some(at) if at <= view.now => true,
                Some(at) => {
                    draft.wake(at);
                    false
                }
                None => false,
            };
            if refresh || memory.volumes_stale {
                draft.act(Action::MountVolumes);
            }
        }
        step => {
            if draft.due(step.due(view.now, &PREPARE_RETRY)) {
                draft.act(Action::MountVolumes);
            }
        }
    }
}

/// Until when a candidate waits for its crash-loop back-off, or to see whether its sandbox died with it.
pub(super) fn waiting_until(view: &View<'_>, candidate: &Candidate<'_>) -> Option<Timestamp> {
    backing_off_until(view, candidate).or_else(|| {
        let until = later(candidate.killed_at?, SANDBOX_DEATH);
        (view.now < until).then_some(until)
    })
}

fn backing_off_until(view: &View<'_>, candidate: &Candidate<'_>) -> Option<Timestamp> {
    backing_off(view, &candidate.container, candidate.restart_of?).map(|(until, _)| until)
}

/// Until when a container whose newest instance ended at that time waits for its crash-loop back-off, and the delay in force.
pub(super) fn backing_off(
    view: &View<'_>,
    container: &Container,
    finished_at: Timestamp,
) -> Option<(Timestamp, SignedDuration)> {
    let memory = view.memory.container(&container.name)?;
    let latest = view.observed.and_then(|observed| observed.container(&container.name));
    // What another image did says nothing of this one, also if it was changed while no agent was there to note it.
    if memory.backoff_key != backoff_key(view.pod, container) || latest.is_some_and(|c| is_changed(container, c)) {
        return None;
    }
    memory.backoff.wait(finished_at, view.now)
}

fn start(view: &View<'_>, sandbox: &SandboxObservation, candidates: &[Candidate<'_>], draft: &mut Draft) {
    for candidate in candidates {
        let name = &candidate.container.name;
        if let (Some(until), Some(finished_at)) = (waiting_until(view, candidate), candidate.restart_of) {
            draft.wake(until);
            let told = view.memory.container(name).is_some_and(|m| m.backoff_told_for == Some(finished_at));
            if !told && backing_off_until(view, candidate).is_some() {
                draft.act(Action::TellBackoff { container: name.clone(), finished_at });
            }
            continue;
        }
        let (image, image_volumes) = match images::of(view, &candidate.container) {
            Images::Ready { own, volumes } => (own, volumes),
            // One that failed does not hold up the next; one under way does, since containers start in their order.
            Images::Failed => continue,
            // Who looks into a pod neither waits for its containers nor holds them up.
            Images::Pending if candidate.kind == ContainerKind::Ephemeral => continue,
            Images::Pending => return,
        };
        let idle = Step::Idle;
        let start = view.memory.container(name).map_or(&idle, |memory| &memory.start);
        match start.due(view.now, &START_RETRY) {
            Due::Now => {}
            Due::At(at) => {
                draft.wake(at);
                continue;
            }
            Due::No => return,
        }
        if !view.memory.volumes_mounted {
            return;
        }
        draft.act(Action::StartContainer(StartContainer {
            container: name.clone(),
            kind: candidate.kind,
            sandbox_id: sandbox.id.clone(),
            runtime_handler: sandbox.runtime_handler.clone(),
            pod_ips: sandbox.ips.clone(),
            restart_count: candidate.restart_count,
            image: image.clone(),
            image_volumes,
            restart_of: candidate.restart_of,
            backoff: view.node.backoff,
            backoff_key: backoff_key(view.pod, &candidate.container),
            target_id: candidate.target_id.clone(),
            has_post_start: candidate.container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()),
        }));
        return;
    }
}

fn make_sandbox(view: &View<'_>, observed: &PodObservation, draft: &mut Draft) {
    if let Some(newest) = observed.sandbox() {
        // The old one goes first, with all that runs in it, and its network is released.
        if termination::stop_in_order(view, observed, grace_of_all(view, observed), draft) {
            return;
        }
        let mut ended = true;
        for sandbox in observed.sandboxes.iter().filter(|s| s.ready || s.id == newest.id) {
            let due = sandbox_stop_due(view, sandbox);
            // None is under way: the runtime would be busy.
            ended &= due == Due::No;
            if draft.due(due) {
                draft.act(Action::TellSandboxChanged);
                draft.act(Action::StopSandbox { id: sandbox.id.clone() });
            }
        }
        if !ended {
            return;
        }
        let restarts = view.spec.restart_policy.as_deref() != Some("Never");
        if !restarts && !observed.containers.is_empty() {
            // What has run of a pod that never restarts is not run again in another sandbox.
            return;
        }
    }
    if let Some((made_at, streak)) = view.memory.sandbox_made {
        let earliest = later(made_at, SANDBOX_RETRY.delay(streak));
        if view.now < earliest {
            draft.wake(earliest);
            return;
        }
    }
    if !view.memory.cgroup.is_done() || !view.memory.references.is_done() || view.memory.volumes.failure().is_some() {
        return;
    }
    if draft.due(view.memory.sandbox.due(view.now, &SANDBOX_RETRY)) {
        draft.act(Action::CreateSandbox { attempt: observed.sandbox().map_or(0, |s| s.attempt.saturating_add(1)) });
    }
}

fn progress<'a>(
    view: &View<'a>,
    observed: &'a PodObservation,
    sandbox: Option<&'a SandboxObservation>,
) -> Progress<'a> {
    let mut progress = Progress::default();
    let rules = view.node.restart_rules;
    if restart_all::is_due(rules, view.spec, observed) {
        let (running, ended) = restart_all::next(rules, view.spec, observed);
        let stop = |instance| Stop::now(instance, SignedDuration::ZERO, "killing".to_owned());
        progress.stops = running.into_iter().map(stop).collect();
        progress.resets = ended;
        return progress;
    }
    if is_completed(view, observed) {
        progress.completed = true;
        return progress;
    }
    if let Some(sandbox) = sandbox {
        progress.candidates.extend(ephemeral::to_start(view, observed, sandbox).map(|(container, target_id)| {
            Candidate {
                kind: ContainerKind::Ephemeral,
                container: Cow::Owned(container),
                restart_count: 0,
                restart_of: None,
                killed_at: None,
                target_id,
            }
        }));
    }
    let initialized = sandbox.is_some_and(|sandbox| {
        view.spec.containers.iter().any(|c| instance_in(observed, &c.name, &sandbox.id).is_some())
    });
    if initialized {
        for sidecar in view.init_containers().iter().filter(|c| pod::is_sidecar(c)) {
            consider(view, observed, sandbox, ContainerKind::Init, sidecar, &mut progress);
        }
    } else if !init_containers(view, observed, sandbox, &mut progress) {
        return progress;
    }
    for container in &view.spec.containers {
        consider(view, observed, sandbox, ContainerKind::Regular, container, &mut progress);
    }
    progress
}

/// Looks at the init containers. Returns whether they are done and the regular ones may start.
///
/// How far they are is told by the furthest one that has been made in this sandbox: those before it were done once, and only
/// sidecars among them are kept running.
fn init_containers<'a>(
    view: &View<'a>,
    observed: &'a PodObservation,
    sandbox: Option<&'a SandboxObservation>,
    progress: &mut Progress<'a>,
) -> bool {
    let in_sandbox = |c: &Container| sandbox.and_then(|s| instance_in(observed, &c.name, &s.id));
    let containers = view.init_containers();
    let furthest = containers.iter().rposition(|c| in_sandbox(c).is_some());
    let mut consider = |container| consider(view, observed, sandbox, ContainerKind::Init, container, progress);
    let next = match furthest {
        None => 0,
        Some(furthest) => {
            for earlier in containers.iter().take(furthest).filter(|c| pod::is_sidecar(c)) {
                consider(earlier);
            }
            let Some((container, instance)) = containers.get(furthest).and_then(|c| Some((c, in_sandbox(c)?))) else {
                return false;
            };
            match &instance.state {
                ContainerState::Running { .. } if pod::is_sidecar(container) => {
                    consider(container);
                    if !probes::is_started(view, container, instance) {
                        return false;
                    }
                }
                ContainerState::Running { .. } => return false,
                ContainerState::Exited(exit) if !pod::is_sidecar(container) && is_success(exit) => {}
                _ => {
                    consider(container);
                    return false;
                }
            }
            furthest + 1
        }
    };
    match containers.get(next) {
        Some(container) => {
            consider(container);
            false
        }
        None => true,
    }
}

/// Decides about one container whose turn it is.
fn consider<'a>(
    view: &View<'a>,
    observed: &'a PodObservation,
    sandbox: Option<&'a SandboxObservation>,
    kind: ContainerKind,
    container: &'a Container,
    progress: &mut Progress<'a>,
) {
    let mut candidate = |restart_count, exit: Option<&Exit>| {
        progress.candidates.push(Candidate {
            kind,
            container: Cow::Borrowed(container),
            restart_count,
            target_id: None,
            restart_of: exit.map(|exit| exit.finished_at),
            killed_at: exit.filter(|exit| exit.code == KILLED).map(|exit| exit.finished_at),
        });
    };
    let Some(latest) = observed.container(&container.name) else {
        candidate(next_count_without_instance(view, kind, &container.name), None);
        return;
    };
    let in_sandbox = sandbox.is_some_and(|s| s.id == latest.sandbox_id);
    match &latest.state {
        ContainerState::Running { .. } => {
            if !in_sandbox {
                // Without a sandbox to run in it has to be started again; the sandbox's change stops it.
                candidate(latest.restart_count.saturating_add(1), None);
            } else if let Some(stop) = needed_stop(view, kind, container, latest) {
                progress.stops.push(stop);
            }
        }
        ContainerState::Created => {
            // Left by an agent that ended between the two calls. It never ran, so it does not count as a restart.
            progress.removals.push(latest);
        }
        ContainerState::Unknown => {
            let what = if kind == ContainerKind::Init { "Init container" } else { "Container" };
            let message = format!("{what} is in \"unknown\" state, try killing it before restart");
            progress.stops.push(Stop::now(latest, container_grace(view.pod), message));
        }
        ContainerState::Exited(exit) if was_cut_off(exit) => progress.removals.push(latest),
        ContainerState::Exited(exit) => {
            let rerun_init = kind == ContainerKind::Init && !in_sandbox;
            if rerun_init || restarts(view, container, kind, latest, exit) {
                candidate(latest.restart_count.saturating_add(1), Some(exit));
            }
        }
    }
}

/// Why a container that runs must be stopped while its pod goes on.
fn needed_stop<'a>(
    view: &View<'a>,
    kind: ContainerKind,
    container: &Container,
    instance: &'a ContainerObservation,
) -> Option<Stop<'a>> {
    let name = &container.name;
    let grace = container_grace(view.pod);
    if let Some(kill) = view.memory.kills.get(&instance.id) {
        // What was begun is brought to its end, whatever became of its cause.
        let grace = kill.deadline.duration_since(view.now).max(SignedDuration::ZERO);
        return Some(Stop { restart: kill.restart, ..Stop::now(instance, grace, kill.message.clone()) });
    }
    if view.memory.post_start(name, &instance.id).is_some_and(|hook| hook.step.failure().is_some()) {
        return Some(Stop::now(instance, grace, "FailedPostStartHook".to_owned()));
    }
    let (cause, grace, restart) = if is_changed(container, instance) {
        ("definition changed".to_owned(), grace, true)
    } else {
        let failure = probes::failure(view, container, instance)?;
        let own = failure.grace.filter(|_| view.pod.metadata.deletion_grace_period_seconds.is_none());
        let policy = view.node.restart_rules.policy(view.spec, container, kind == ContainerKind::Init);
        (format!("failed {} probe", failure.probe), own.unwrap_or(grace), policy != "Never")
    };
    let message = match kind {
        ContainerKind::Init => format!("Init container {name} {cause}"),
        _ if restart => format!("Container {name} {cause}, will be restarted"),
        _ => format!("Container {name} {cause}"),
    };
    Some(Stop { restart, ..Stop::now(instance, grace, message) })
}

fn restarts(
    view: &View<'_>,
    container: &Container,
    kind: ContainerKind,
    latest: &ContainerObservation,
    exit: &Exit,
) -> bool {
    let code = if kind == ContainerKind::Init && exit.code == 0 && !is_success(exit) { 1 } else { exit.code };
    is_stopped_to_restart(view, latest) || view.should_restart(kind, container, code)
}

/// Whether the instance was stopped to be started anew, whatever the restart policy says of its end.
pub(super) fn is_stopped_to_restart(view: &View<'_>, instance: &ContainerObservation) -> bool {
    view.memory.container(&instance.name).is_some_and(|m| m.restarted.as_ref() == Some(&instance.id))
}

/// Whether the container was made from another definition. Only its name and image count.
fn is_changed(container: &Container, latest: &ContainerObservation) -> bool {
    !latest.hash.is_empty() && latest.hash != container_hash(container)
}

/// The restart count of a container that the runtime knows nothing of: one more than the API's if it ran before.
fn next_count_without_instance(view: &View<'_>, kind: ContainerKind, name: &str) -> u32 {
    let statuses = match kind {
        ContainerKind::Init => &view.memory.status.init_container_statuses,
        ContainerKind::Regular => &view.memory.status.container_statuses,
        ContainerKind::Ephemeral => &view.memory.status.ephemeral_container_statuses,
    };
    // The status computed when a running container vanished has counted it already and shows it as waiting.
    let published = statuses.iter().flatten().find(|s| s.name == name).map_or(0, starts);
    published.max(view.memory.earlier_starts.get(name).copied().unwrap_or(0))
}

/// Whether the regular containers have all ended for good, or an init container has failed for good.
fn is_completed(view: &View<'_>, observed: &PodObservation) -> bool {
    let ended_for_good = |container: &Container, kind: ContainerKind| match observed.container(&container.name) {
        Some(latest) => match &latest.state {
            ContainerState::Exited(exit) => !was_cut_off(exit) && !restarts(view, container, kind, latest, exit),
            _ => false,
        },
        None => false,
    };
    let init_failed = view.init_containers().iter().filter(|c| !pod::is_sidecar(c)).any(|c| {
        let failed = match observed.container(&c.name).map(|o| &o.state) {
            Some(ContainerState::Exited(exit)) => !was_cut_off(exit) && !is_success(exit),
            _ => false,
        };
        failed && ended_for_good(c, ContainerKind::Init)
    });
    let regular = &view.spec.containers;
    init_failed || (!regular.is_empty() && regular.iter().all(|c| ended_for_good(c, ContainerKind::Regular)))
}

/// Of each container the newest instance is kept and, while that one has not ended, the newest that has; sandboxes that are
/// no longer in use go with their last container.
fn collect_garbage(view: &View<'_>, observed: &PodObservation, draft: &mut Draft) {
    let mut names: Vec<&str> = observed.containers.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut instances = observed.instances(name);
        let newest_ended = instances.next().is_some_and(|c| matches!(c.state, ContainerState::Exited(_)));
        let dead = instances.filter(|c| matches!(c.state, ContainerState::Exited(_) | ContainerState::Created));
        for container in dead.skip(usize::from(!newest_ended)) {
            remove(view, container, draft);
        }
    }
    for sandbox in observed.sandboxes.iter().skip(1).filter(|s| !s.ready) {
        if observed.containers.iter().all(|c| c.sandbox_id != sandbox.id) && draft.due(removal(view, &sandbox.id)) {
            draft.act(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

fn remove(view: &View<'_>, container: &ContainerObservation, draft: &mut Draft) {
    let starting = view.memory.container(&container.name).is_some_and(|m| m.start.is_running());
    if !starting && draft.due(removal(view, &container.id)) {
        draft.act(remove_action(container, container.log_path.clone()));
    }
}

fn remove_action(container: &ContainerObservation, log_path: String) -> Action {
    Action::RemoveContainer { id: container.id.clone(), container: container.name.clone(), log_path }
}

fn removal(view: &View<'_>, id: &str) -> Due {
    let idle = Step::Idle;
    view.memory.removals.get(id).unwrap_or(&idle).due(view.now, &REMOVE_RETRY)
}
