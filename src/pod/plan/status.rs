//! The pod's API status, from what the runtime holds and what is remembered.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, PodIP, PodStatus, ResourceRequirements,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::backoff;
use super::conditions::{self, Facts};
use super::images;
use super::memory::{ContainerMemory, starts};
use super::node_end::NodeEnd;
use super::phase::phase;
use super::pod_resources;
use super::probes;
use super::restart::{is_success, was_cut_off};
use super::restart_all;
use super::running::{self, is_stopped_to_restart};
use super::view::{View, instance_in, usable_sandbox};
use crate::model::clock::api_time;
use crate::model::observation::{ContainerObservation, ContainerState, Exit, ObservedResources, PodObservation};
use crate::model::pod::{self, ContainerKind, PodKey};
use crate::model::qos::QosClass;
use crate::model::quantity;
use crate::runtime::translate::recursive_read_only;

/// Most bytes that the termination messages of a pod's containers may take together (`MaxPodTerminationMessageLogLength`).
const MAX_POD_TERMINATION_MESSAGES: usize = 12 * 1024;
const LOST: &str = "ContainerStatusUnknown";
const LOST_AT_END: &str = "The container could not be located when the pod was terminated";
const LOST_RUNNING: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";

/// Whether a container of the pod was ever started, as far as the runtime, the published status or a mirror tells.
fn was_ever_started(view: &View<'_>, observed: &PodObservation) -> bool {
    let memory = view.memory;
    let published = [&memory.status.init_container_statuses, &memory.status.container_statuses];
    !observed.containers.is_empty()
        || published.into_iter().flatten().flatten().any(|status| starts(status) > 0)
        || memory.earlier_starts.values().any(|count| *count > 0)
}

/// The status to publish. `ending`: the pod must end or has; `nothing_runs`: none of its processes can exist any more.
pub(super) fn pod_status(view: &View<'_>, observed: &PodObservation, ending: bool, nothing_runs: bool) -> PodStatus {
    let previous = &view.memory.status;
    let was_terminal = previous.phase.as_deref().is_some_and(pod::is_terminal_phase);
    if was_terminal && nothing_runs && observed.containers.is_empty() {
        // Nothing is left that could tell more than what has been published.
        return previous.clone();
    }
    let node_end = view.memory.node_end.as_ref().filter(|_| nothing_runs && !was_terminal);
    if let Some(end) = node_end.filter(|end| end.is_rejection() && !was_ever_started(view, observed)) {
        return end.status_of_rejected(view.pod, previous, view.memory.first_seen);
    }
    let mut init = container_statuses(view, observed, ContainerKind::Init, previous.init_container_statuses.as_deref());
    let mut regular =
        container_statuses(view, observed, ContainerKind::Regular, previous.container_statuses.as_deref());
    let ephemeral =
        container_statuses(view, observed, ContainerKind::Ephemeral, previous.ephemeral_container_statuses.as_deref());
    if ending && nothing_runs {
        mark_lost(view, &mut init, &mut regular);
    }
    tell_earlier_starts(view, &mut init);
    tell_earlier_starts(view, &mut regular);
    let sandbox = usable_sandbox(view.spec, observed);
    let has_run = sandbox.is_ok_and(|s| {
        let started =
            |c: &Container| instance_in(observed, &c.name, &s.id).is_some_and(|o| o.state != ContainerState::Created);
        view.spec.containers.iter().any(started)
    });
    let rules = view.node.restart_rules;
    let computed = phase(rules, view.pod, &init, &regular, ending && nothing_runs, has_run);
    let phase = settle_phase(view, computed, ending, nothing_runs);
    let keeps_phase = previous.phase.as_deref() == Some(phase);

    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        qos_class: Some(QosClass::of(view.pod).as_str().to_owned()),
        start_time: previous.start_time.clone().or_else(|| Some(api_time(view.memory.first_seen))),
        reason: previous.reason.clone().filter(|_| keeps_phase),
        message: previous.message.clone().filter(|_| keeps_phase),
        observed_generation: view.pod.metadata.generation,
        nominated_node_name: previous.nominated_node_name.clone(),
        resource_claim_statuses: previous.resource_claim_statuses.clone(),
        resize: previous.resize.clone(),
        allocated_resources: pod_resources::allocated(view.pod),
        resources: Some(pod_resources::in_force(view.pod, phase)),
        ..PodStatus::default()
    };
    let conditions = conditions::conditions(&Facts {
        pod: view.pod,
        previous,
        phase,
        init: &init,
        regular: &regular,
        sandbox_need: sandbox.err(),
        can_restart_all: restart_all::is_possible(rules, view.spec),
        restarts_all: restart_all::is_due(rules, view.spec, observed),
        now: view.now,
    });
    status.conditions = Some(conditions);
    if let Some(end) = node_end.filter(|_| pod::is_terminal_phase(phase) && !keeps_phase) {
        end.tell(&mut status, view.now);
    }
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = (!regular.is_empty()).then_some(regular);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    addresses(view, observed, &mut status);
    status
}

/// The phase to show: terminal phases are for good, and are shown only when nothing of the pod can run any more.
fn settle_phase<'a>(view: &View<'a>, computed: &'a str, ending: bool, nothing_runs: bool) -> &'a str {
    let previous = view.memory.status.phase.as_deref();
    let api = pod::phase(view.pod);
    if let Some(terminal) = api.filter(|p| pod::is_terminal_phase(p)).or(previous.filter(|p| pod::is_terminal_phase(p)))
    {
        return terminal;
    }
    match (pod::is_terminal_phase(computed), nothing_runs) {
        (true, false) => previous.filter(|p| !p.is_empty()).unwrap_or("Pending"),
        (_, true) if view.memory.node_end.as_ref().is_some_and(NodeEnd::fails_the_pod) => "Failed",
        (false, true) if ending && !pod::is_static(view.pod) => "Failed",
        _ => computed,
    }
}

fn addresses(view: &View<'_>, observed: &PodObservation, status: &mut PodStatus) {
    let host_ips = &view.node.host_ips;
    let old = &view.memory.status;
    if host_ips.is_empty() {
        // The node does not know its addresses yet: what an earlier agent published stays.
        status.host_ip.clone_from(&old.host_ip);
        status.host_ips.clone_from(&old.host_ips);
    } else {
        status.host_ip = host_ips.first().cloned();
        status.host_ips = Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    }
    let previous: Vec<String> = old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    let ips = if pod::is_host_network(view.spec) {
        host_network_ips(previous, host_ips)
    } else {
        // A sandbox that has ended keeps telling the addresses it had; without one the last known stay.
        match observed.sandbox() {
            Some(sandbox) if !sandbox.ips.is_empty() => sort_by_family(&sandbox.ips, status.host_ip.as_ref()),
            _ => previous,
        }
    };
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

fn is_v6(ip: &str) -> bool {
    ip.contains(':')
}

/// The addresses of a pod with the host's network: the node's as they were first known, which never change, and the node's
/// second one of the other family once it has one.
fn host_network_ips(previous: Vec<String>, host_ips: &[String]) -> Vec<String> {
    match (previous.as_slice(), host_ips) {
        ([], _) => host_ips.to_vec(),
        ([only], [_, second]) if is_v6(only) != is_v6(second) => vec![only.clone(), second.clone()],
        _ => previous,
    }
}

/// The first address of the node's own family, then the first of the other one.
pub(super) fn sort_by_family(ips: &[String], node: Option<&String>) -> Vec<String> {
    let node_v6 = node.is_some_and(|ip| is_v6(ip));
    let first = |v6: bool| ips.iter().find(|ip| is_v6(ip) == v6).cloned();
    [first(node_v6), first(!node_v6)].into_iter().flatten().collect()
}

fn container_statuses(
    view: &View<'_>,
    observed: &PodObservation,
    kind: ContainerKind,
    previous: Option<&[ContainerStatus]>,
) -> Vec<ContainerStatus> {
    let status_of = |container: &Container| {
        let old = previous.unwrap_or_default().iter().find(|s| s.name == container.name);
        container_status(view, observed, kind, container, old)
    };
    match kind {
        ContainerKind::Init => view.init_containers().iter().map(status_of).collect(),
        ContainerKind::Regular => {
            let mut statuses: Vec<ContainerStatus> = view.spec.containers.iter().map(status_of).collect();
            statuses.sort_by(|a, b| a.name.cmp(&b.name));
            statuses
        }
        ContainerKind::Ephemeral => {
            let ephemeral = view.spec.ephemeral_containers.iter().flatten();
            let mut statuses: Vec<ContainerStatus> =
                ephemeral.map(|c| status_of(&pod::ephemeral_as_container(c))).collect();
            statuses.sort_by(|a, b| a.name.cmp(&b.name));
            statuses
        }
    }
}

fn container_status(
    view: &View<'_>,
    observed: &PodObservation,
    kind: ContainerKind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut instances = observed.instances(&container.name);
    let mut status = match instances.next() {
        Some(newest) => {
            let mut status = from_instance(view, kind, container, newest, old);
            // What was mounted how is for good.
            let known = old.and_then(|o| o.volume_mounts.clone());
            status.volume_mounts = known.or_else(|| volume_mounts(view, observed, container));
            if let Some(earlier) = instances.next()
                && let ContainerState::Exited(exit) = &earlier.state
            {
                status.last_state = Some(terminated(view, earlier, exit));
            }
            status
        }
        None => without_instance(view, observed, kind, container, old),
    };
    show_waiting(view, kind, container, observed, old, &mut status);
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let ended_well = status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
    // The state shown and the instance may differ: one that ended is waited for.
    let instance = observed.container(&container.name).filter(|_| running);
    (status.started, status.ready) = match kind {
        ContainerKind::Init if !pod::is_sidecar(container) => (Some(running), ended_well),
        ContainerKind::Ephemeral => (None, false),
        ContainerKind::Init | ContainerKind::Regular => (
            Some(instance.is_some_and(|i| probes::is_started(view, container, i))),
            instance.is_some_and(|i| probes::is_ready(view, container, i)),
        ),
    };
    status
}

fn default_waiting(view: &View<'_>) -> &'static str {
    if view.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" }
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn lost(message: &str) -> ApiState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(LOST.to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    };
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

fn container_id(view: &View<'_>, id: &str) -> String {
    format!("{}://{id}", view.node.runtime_name)
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A container's share of what the termination messages of its pod may take.
fn termination_message<'e>(view: &View<'_>, exit: &'e Exit) -> &'e str {
    let ephemeral = view.spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
    let containers = view.spec.containers.len() + view.init_containers().len() + ephemeral;
    let share = MAX_POD_TERMINATION_MESSAGES / containers.max(1);
    &exit.message[..exit.message.floor_char_boundary(share)]
}

fn terminated(view: &View<'_>, container: &ContainerObservation, exit: &Exit) -> ApiState {
    let terminated = ContainerStateTerminated {
        exit_code: exit.code,
        reason: text(&exit.reason),
        message: text(termination_message(view, exit)),
        started_at: exit.started_at.map(api_time),
        finished_at: Some(api_time(exit.finished_at)),
        container_id: Some(container_id(view, &container.id)),
        signal: None,
    };
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

fn from_instance(
    view: &View<'_>,
    kind: ContainerKind,
    container: &Container,
    instance: &ContainerObservation,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let id = container_id(view, &instance.id);
    let old_count = old.map_or(0, |o| o.restart_count);
    let old_last = old.and_then(|o| {
        let ended = o.state.as_ref().filter(|s| s.terminated.is_some());
        match ended {
            Some(state) if o.container_id.as_deref() != Some(id.as_str()) => Some(state.clone()),
            _ => o.last_state.clone().filter(|s| s.terminated.is_some()),
        }
    });
    let state = match &instance.state {
        ContainerState::Running { started_at } => ApiState {
            running: Some(ContainerStateRunning { started_at: Some(api_time(*started_at)) }),
            ..ApiState::default()
        },
        ContainerState::Exited(exit) if was_cut_off(exit) => waiting(default_waiting(view), None),
        ContainerState::Exited(exit) => {
            let replaced = is_replaced(view, kind, container, instance, exit);
            let shown = if replaced { state_of_replaced(view, old) } else { None };
            shown.unwrap_or_else(|| terminated(view, instance, exit))
        }
        ContainerState::Created => waiting(default_waiting(view), None),
        ContainerState::Unknown => match old.and_then(|o| o.state.as_ref()).filter(|s| s.running.is_some()) {
            Some(_) => lost(LOST_AT_END),
            None => waiting(default_waiting(view), None),
        },
    };
    let running = matches!(instance.state, ContainerState::Running { .. });
    ContainerStatus {
        name: container.name.clone(),
        image: instance.image.clone(),
        image_id: instance.image_ref.clone(),
        container_id: Some(id),
        restart_count: i32::try_from(instance.restart_count).unwrap_or(i32::MAX).max(old_count),
        state: Some(state),
        last_state: old_last,
        resources: resources(kind, container, instance.resources.as_ref().filter(|_| running)),
        allocated_resources: allocated(kind, container),
        stop_signal: instance.stop_signal.clone().filter(|_| view.node.shows_stop_signals),
        user: instance.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: (!user.supplemental_groups.is_empty()).then(|| user.supplemental_groups.clone()),
            }),
        }),
        ..ContainerStatus::default()
    }
}

/// Whether the instance ended because the next one is to be started, and its restart policy alone would leave it there.
fn is_replaced(
    view: &View<'_>,
    kind: ContainerKind,
    container: &Container,
    instance: &ContainerObservation,
    exit: &Exit,
) -> bool {
    let by_policy = view.should_restart(kind, container, exit.code);
    view.memory.termination.is_none() && !by_policy && is_stopped_to_restart(view, instance)
}

/// What is shown of one that is replaced: what was shown before. The API server lets no container leave an end after which its
/// policy does not restart it, so that end, once published, would hide all that follows.
fn state_of_replaced(view: &View<'_>, old: Option<&ContainerStatus>) -> Option<ApiState> {
    match old.and_then(|old| old.state.as_ref()) {
        Some(state) if state.terminated.is_some() => None,
        Some(state) => Some(state.clone()),
        None => Some(waiting(default_waiting(view), None)),
    }
}

fn without_instance(
    view: &View<'_>,
    observed: &PodObservation,
    kind: ContainerKind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(default_waiting(view), None)),
        volume_mounts: volume_mounts(view, observed, container),
        ..ContainerStatus::default()
    };
    if let Some(old) = old {
        let old_state = old.state.as_ref();
        let was_waiting = old_state.is_none_or(|s| s.waiting.is_some());
        let counts = kind != ContainerKind::Ephemeral && !was_waiting;
        if counts && restart_all::is_under_way(view.node.restart_rules, view.spec, observed, &view.memory.status) {
            restart_all::show_removed(old, &mut status);
            return status;
        }
        if old_state.is_some_and(|s| s.terminated.is_some()) {
            return old.clone();
        }
        status.restart_count = old.restart_count;
        status.last_state.clone_from(&old.last_state);
        let has_last = old.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
        if old_state.is_some_and(|s| s.running.is_some()) && !has_last {
            // It ran, and nobody saw its end: shown as stopped, so that the pod does not seem never to have started.
            status.last_state = Some(lost(LOST_RUNNING));
            if !pod::is_deleting(view.pod) {
                status.restart_count = status.restart_count.saturating_add(1);
            }
        }
    }
    let regular_made = view.spec.containers.iter().any(|c| observed.container(&c.name).is_some());
    let reset = restart_all::is_due(view.node.restart_rules, view.spec, observed);
    if kind == ContainerKind::Init && !pod::is_sidecar(container) && regular_made && !reset {
        let terminated = ContainerStateTerminated {
            exit_code: 0,
            reason: Some("Completed".to_owned()),
            message: Some(
                "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"
                    .to_owned(),
            ),
            ..ContainerStateTerminated::default()
        };
        status.state = Some(ApiState { terminated: Some(terminated), ..ApiState::default() });
    }
    status
}

/// What a mirror told of containers that the runtime no longer knows is told on: a later agent may have nothing else to count
/// from.
fn tell_earlier_starts(view: &View<'_>, statuses: &mut [ContainerStatus]) {
    for status in statuses.iter_mut().filter(|status| status.container_id.is_none()) {
        let Some(earlier) = view.memory.earlier_starts.get(&status.name) else { continue };
        // Of one that has ended the last start is the one that is shown.
        let has_ended = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
        let count = i32::try_from(*earlier).unwrap_or(i32::MAX) - i32::from(has_ended);
        status.restart_count = status.restart_count.max(count);
    }
}

/// A container that should be started and cannot be is waiting, with the first cause.
fn show_waiting(
    view: &View<'_>,
    kind: ContainerKind,
    container: &Container,
    observed: &PodObservation,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    if view.memory.termination.is_some() {
        return;
    }
    let latest = observed.container(&container.name);
    let exit = match latest.map(|c| &c.state) {
        Some(ContainerState::Running { .. }) => return,
        Some(ContainerState::Exited(exit)) => Some(exit),
        _ => None,
    };
    let is_init = kind == ContainerKind::Init;
    if exit.is_some() && restart_all::is_due(view.node.restart_rules, view.spec, observed) {
        return; // Removed at once, it waits for nothing.
    }
    if let Some(exit) = exit {
        let code = if is_init && !is_success(exit) { exit.code.max(1) } else { exit.code };
        let replaced = latest.is_some_and(|latest| is_replaced(view, kind, container, latest, exit));
        if kind == ContainerKind::Ephemeral || !(replaced || view.should_restart(kind, container, code)) {
            return;
        }
    }
    let memory = view.memory.container(&container.name);
    let reason = memory.and_then(|memory| waiting_reason(view, container, memory, latest, exit));
    let shown = match reason {
        Some((reason, message)) => Some(waiting(&reason, Some(message))),
        None => still_waiting(status, old).or_else(|| waits_for_pod(view, status, old)),
    };
    let Some(shown) = shown else { return };
    if let Some(state) = status.state.replace(shown).filter(|s| s.terminated.is_some()) {
        status.last_state = Some(state);
    }
}

/// What keeps a container from being started that the pod itself lacks: a volume, its sandbox. The reason stays that of a
/// container being made, which everybody knows; the message tells the cause, also while the next attempt is under way.
fn waits_for_pod(view: &View<'_>, status: &ContainerStatus, old: Option<&ContainerStatus>) -> Option<ApiState> {
    let reason = status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    let memory = view.memory;
    let volumes = Some(&memory.volumes).filter(|_| !memory.volumes_mounted);
    let steps = [Some(&memory.cgroup), Some(&memory.references), volumes, Some(&memory.sandbox)];
    let step = steps.into_iter().flatten().find(|step| step.failure().is_some() || step.is_tried_again())?;
    let message = match step.failure() {
        Some(failure) => failure.message.clone(),
        None => old?.state.as_ref()?.waiting.as_ref()?.message.clone()?,
    };
    Some(waiting(reason, Some(message)))
}

/// What a container was last said to wait for. It stands until the next start has succeeded, also while that start is under
/// way and so has neither failed nor to be waited for.
fn still_waiting(status: &ContainerStatus, old: Option<&ContainerStatus>) -> Option<ApiState> {
    let old = old?;
    let state = old.state.as_ref()?;
    let reason = state.waiting.as_ref()?.reason.as_deref().filter(|reason| !reason.is_empty())?;
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let ended = |state: Option<&ApiState>| state?.terminated.as_ref()?.container_id.clone();
    // Said of an earlier end it tells nothing of this one.
    let end = ended(status.state.as_ref());
    (end.is_none() || end == ended(old.last_state.as_ref())).then(|| state.clone())
}

fn waiting_reason(
    view: &View<'_>,
    container: &Container,
    memory: &ContainerMemory,
    latest: Option<&ContainerObservation>,
    exit: Option<&Exit>,
) -> Option<(String, String)> {
    // The delay that a start has begun is the one after the next end.
    if let Some(exit) = exit.filter(|_| !memory.start.is_running())
        && let Some((_, delay)) = running::backing_off(view, container, exit.finished_at)
    {
        return Some((backoff::REASON.to_owned(), backoff::message(delay, &container.name, &PodKey::of(view.pod))));
    }
    let hook = latest.and_then(|latest| view.memory.post_start(&container.name, &latest.id));
    let hook_failure = hook.and_then(|hook| hook.step.failure());
    let failure = memory.start.failure().or_else(|| images::failure(view, container)).or(hook_failure)?;
    Some((failure.reason.clone(), failure.message.clone()))
}

/// At the end a container without a known end is shown as failed, unless the pod never came so far as to start it (the peer's
/// `TerminatePod`). It always came as far as its first init container.
fn mark_lost(view: &View<'_>, init: &mut [ContainerStatus], regular: &mut [ContainerStatus]) {
    let ended = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.terminated.is_some());
    let has_ended_once = |s: &ContainerStatus| s.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    let moved = |s: &ContainerStatus| has_ended_once(s) || s.state.as_ref().is_some_and(|s| s.waiting.is_none());
    let last_init_done = init.last().is_some_and(|s| {
        if view.init_containers().last().is_some_and(pod::is_sidecar) {
            // That it has started up is no longer to be seen, but was told.
            return conditions::was_initialized(&view.memory.status);
        }
        let state = |s: Option<&ApiState>| s.and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
        state(s.state.as_ref()) || state(s.last_state.as_ref())
    });
    let initialized = view.init_containers().is_empty() || last_init_done || regular.iter().any(moved);
    if initialized {
        for status in regular.iter_mut().filter(|s| !ended(s)) {
            set_lost(status);
        }
    }
    let begun = init.iter().rposition(moved).map_or(1, |last| last + 1);
    for status in init.iter_mut().take(begun).filter(|s| !ended(s)) {
        set_lost(status);
    }
}

fn set_lost(status: &mut ContainerStatus) {
    status.state = Some(lost(LOST_AT_END));
    status.ready = false;
    status.started = Some(false);
}

/// Whether the pod's mounts are made read-only all the way down where that is asked for.
fn supports_recursive_read_only(view: &View<'_>, observed: &PodObservation) -> bool {
    let handler = match observed.sandbox() {
        Some(sandbox) => sandbox.runtime_handler.as_str(),
        None if view.spec.runtime_class_name.is_none() => "",
        // Only the sandbox tells which handler the class stands for.
        None => return false,
    };
    view.node.recursive_read_only_handlers.contains(handler)
}

fn volume_mounts(view: &View<'_>, observed: &PodObservation, container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let supported = supports_recursive_read_only(view, observed);
    let status = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|r| *r),
        recursive_read_only: (mount.read_only == Some(true)).then(|| match recursive_read_only(mount, supported) {
            Ok(true) => "Enabled".to_owned(),
            // Also where it cannot be had: the container is not started then.
            Ok(false) | Err(_) => "Disabled".to_owned(),
        }),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(status).collect())
}

fn allocated(kind: ContainerKind, container: &Container) -> Option<BTreeMap<String, Quantity>> {
    if kind == ContainerKind::Ephemeral {
        return None;
    }
    container.resources.as_ref()?.requests.clone().filter(|r| !r.is_empty())
}

/// The container's resources as allocated, with what the runtime says is in force.
fn resources(
    kind: ContainerKind,
    container: &Container,
    observed: Option<&ObservedResources>,
) -> Option<ResourceRequirements> {
    let mut resources = container.resources.clone().unwrap_or_default();
    if kind == ContainerKind::Ephemeral {
        return None;
    }
    if let Some(observed) = observed {
        if let Some(limits) = resources.limits.as_mut() {
            if limits.contains_key("memory") && observed.memory_limit_bytes > 0 {
                replace(limits, "memory", quantity::binary(observed.memory_limit_bytes));
            }
            if observed.cpu_quota > 0 && observed.cpu_period > 0 {
                let milli = observed.cpu_quota.saturating_mul(1000) / observed.cpu_period;
                replace_above(limits, milli, 10);
            }
        }
        if let Some(requests) = resources.requests.as_mut()
            && observed.cpu_shares > 0
        {
            let milli = (observed.cpu_shares.saturating_mul(1000).saturating_add(1023)) / 1024;
            replace_above(requests, milli, 2);
        }
    }
    Some(resources)
}

/// Sets the CPU value, unless both the old and the new one are at or below what the kernel can express.
fn replace_above(list: &mut BTreeMap<String, Quantity>, milli: i64, smallest: i64) {
    let old = list.get("cpu").and_then(|q| quantity::Amount::from_quantity(q).ok()).map(|a| a.milli_value());
    if let Some(old) = old
        && (milli > smallest || old > smallest)
    {
        replace(list, "cpu", quantity::milli_decimal(milli));
    }
}

/// Replaces a value unless it already means the same: the user's own spelling stays.
fn replace(list: &mut BTreeMap<String, Quantity>, name: &str, value: Quantity) {
    let amount = |q: &Quantity| quantity::Amount::from_quantity(q).ok();
    if let Some(old) = list.get_mut(name)
        && amount(old) != amount(&value)
    {
        *old = value;
    }
}
