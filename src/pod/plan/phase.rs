//! The pod's phase, from the statuses of its containers.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};

use super::restart::RestartRules;
use super::restart_all;
use crate::model::pod;

#[derive(Default)]
struct Count {
    pending_init: u32,
    pending_sidecars: u32,
    failed_init: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    final_stops: u32,
    succeeded: u32,
}

enum Seen<'a> {
    Absent,
    Running(&'a ContainerStatus),
    /// The exit code of the current or, while it waits for its restart, the last end.
    Stopped(i32),
    /// Removed to be started anew with all others.
    Reset,
    Waiting,
}

fn seen<'a>(statuses: &'a [ContainerStatus], name: &str) -> Seen<'a> {
    let Some(status) = statuses.iter().find(|s| s.name == name) else { return Seen::Absent };
    let Some(state) = &status.state else { return Seen::Absent };
    if state.running.is_some() {
        return Seen::Running(status);
    }
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    match state.terminated.as_ref().or(if state.waiting.is_some() { last } else { None }) {
        Some(terminated) if terminated.reason.as_deref() == Some(restart_all::REASON) => Seen::Reset,
        Some(terminated) => Seen::Stopped(terminated.exit_code),
        None if state.waiting.is_some() => Seen::Waiting,
        None => Seen::Absent,
    }
}

/// The phase of a pod (`status.phase`; the peer's getPhase).
///
/// `is_terminal`: nothing of the pod can run any more and nothing is started again, whatever the restart policy says.
/// `has_run`: a regular container has been started in the current sandbox.
pub(super) fn phase(
    rules: RestartRules,
    pod: &Pod,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    is_terminal: bool,
    has_run: bool,
) -> &'static str {
    let spec = pod::spec(pod);
    let count = count(rules, spec, init, regular);
    if count.failed_init > 0 {
        return "Failed";
    }
    if count.pending_init > 0 || (count.pending_sidecars > 0 && !has_run) || count.waiting > 0 {
        return "Pending";
    }
    if count.unknown > 0 {
        return "Pending";
    }
    if count.running > 0 {
        return "Running";
    }
    if count.stopped == 0 {
        return "Pending";
    }
    let restarting = count.stopped != count.final_stops;
    if restarting && (!is_terminal || pod::is_static(pod)) {
        return "Running";
    }
    if count.stopped == count.succeeded { "Succeeded" } else { "Failed" }
}

fn count(rules: RestartRules, spec: &PodSpec, init: &[ContainerStatus], regular: &[ContainerStatus]) -> Count {
    let mut count = Count::default();
    for container in spec.init_containers.iter().flatten() {
        if pod::is_sidecar(container) {
            count_sidecar(container, init, &mut count);
        } else {
            count_init(rules, spec, container, init, &mut count);
        }
    }
    for container in &spec.containers {
        match seen(regular, &container.name) {
            Seen::Absent => count.unknown += 1,
            Seen::Running(_) => count.running += 1,
            Seen::Waiting => count.waiting += 1,
            Seen::Reset => count.stopped += 1,
            Seen::Stopped(code) => {
                count.stopped += 1;
                count.succeeded += u32::from(code == 0);
                count.final_stops += u32::from(!rules.should_restart(spec, container, code, false));
            }
        }
    }
    count
}

fn count_init(rules: RestartRules, spec: &PodSpec, container: &Container, init: &[ContainerStatus], count: &mut Count) {
    match seen(init, &container.name) {
        Seen::Stopped(0) | Seen::Reset => {}
        Seen::Stopped(code) => count.failed_init += u32::from(!rules.should_restart(spec, container, code, true)),
        Seen::Absent | Seen::Running(_) | Seen::Waiting => count.pending_init += 1,
    }
}

fn count_sidecar(container: &Container, init: &[ContainerStatus], count: &mut Count) {
    match seen(init, &container.name) {
        // A stopped sidecar says nothing of the pod's phase: it neither holds a pod nor fails it.
        Seen::Stopped(_) | Seen::Reset => {}
        Seen::Running(status) => {
            count.running += 1;
            count.pending_sidecars += u32::from(status.started != Some(true));
        }
        Seen::Waiting => {
            count.pending_sidecars += 1;
            count.waiting += 1;
        }
        Seen::Absent => count.unknown += 1,
    }
}
