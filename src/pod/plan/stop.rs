//! How one container is stopped: its preStop hook first, at the cost of the grace period, then the stop signal, and SIGKILL
//! at the latest when the grace period is over.

use k8s_openapi::api::core::v1::Pod;

use super::Draft;
use super::action::{Action, Hook, HookCall, HookKind, KillContainer};
use super::hooks;
use super::memory::{Due, RetryPolicy, Step, later};
use super::termination::requested_grace;
use super::view::View;
use crate::model::observation::{ContainerObservation, ContainerState, PodObservation, SandboxObservation};
use crate::model::{SignedDuration, Timestamp};

/// A stop is sent again when the deadline moves forward by more than this.
const NOTABLE_CHANGE: SignedDuration = SignedDuration::from_millis(500);

/// A container is given at least this long from its stop signal, whatever the grace period says (the peer's minimum).
pub(super) const SHORTEST_GRACE: SignedDuration = SignedDuration::from_secs(2);

const STOP_RETRY: RetryPolicy = RetryPolicy { first: SignedDuration::from_secs(1), max: SignedDuration::from_secs(10) };

/// A container that must be stopped, and how.
#[derive(Clone, Debug)]
pub(super) struct Stop<'a> {
    pub container: &'a ContainerObservation,
    /// Time from now to SIGKILL.
    pub grace: SignedDuration,
    /// The text of the `Killing` event.
    pub message: String,
    /// The container is to be started again, however it ends.
    pub restart: bool,
    /// Others must end before: only the hook is run now, and the signal waits for them, as long as the grace period lasts.
    pub waits: bool,
}

impl<'a> Stop<'a> {
    /// A stop at once.
    pub fn now(container: &'a ContainerObservation, grace: SignedDuration, message: String) -> Self {
        Stop { container, grace, message, restart: false, waits: false }
    }

    /// A stop like any other.
    pub fn plainly(container: &'a ContainerObservation, grace: SignedDuration) -> Self {
        Stop::now(container, grace, plain_message(&container.name))
    }
}

/// The text of the event of a stop like any other.
fn plain_message(container: &str) -> String {
    format!("Stopping container {container}")
}

/// What is left of the grace period in which all containers of a pod that goes on are stopped: it began with the first of these
/// stops.
pub(super) fn grace_of_all(view: &View<'_>, observed: &PodObservation) -> SignedDuration {
    let newest = |c: &&ContainerObservation| observed.container(&c.name).is_some_and(|newest| newest.id == c.id);
    let begun = observed.containers.iter().filter(newest).filter_map(|c| {
        view.memory.kills.get(&c.id).filter(|kill| kill.message == plain_message(&c.name)).map(|kill| kill.deadline)
    });
    let left = |deadline: Timestamp| deadline.duration_since(view.now).max(SignedDuration::ZERO);
    begun.min().map_or_else(|| container_grace(view.pod), left)
}

/// Asks for the next step of a stop, unless it is under way with the same or an earlier deadline.
pub(super) fn stop(view: &View<'_>, stop: Stop<'_>, draft: &mut Draft) {
    let container = stop.container;
    let known = view.memory.kills.get(&container.id);
    let requested = later(view.now, stop.grace);
    let deadline = known.map_or(requested, |kill| kill.deadline.min(requested));
    match known.map(|kill| (&kill.pre_stop, &kill.step)) {
        None => {
            if let Some(call) = pre_stop(view, &stop) {
                draft.act(Action::RunHook(Hook {
                    kind: HookKind::PreStop,
                    id: container.id.clone(),
                    container: container.name.clone(),
                    call,
                    deadline,
                    message: stop.message,
                    restart: stop.restart,
                }));
                draft.wake(deadline);
                return;
            }
        }
        Some((Step::Running { .. }, Step::Idle)) => {
            if view.now < deadline {
                draft.wake(deadline);
                return;
            }
            // What runs in the container goes on until that ends: its last seconds are its own.
            if !matches!(hooks::pre_stop(view, container), Some(HookCall::Exec(_))) {
                draft.act(Action::CancelHook {
                    id: container.id.clone(),
                    container: container.name.clone(),
                    failed: Some(HookKind::PreStop),
                });
            }
        }
        Some(_) => {}
    }
    if stop.waits && view.now < deadline {
        draft.wake(deadline);
        return;
    }
    signal(view, &stop, deadline, draft);
}

fn signal(view: &View<'_>, stop: &Stop<'_>, deadline: Timestamp, draft: &mut Draft) {
    let known = view.memory.kills.get(&stop.container.id);
    let grace = deadline.duration_since(view.now).max(SHORTEST_GRACE);
    if let Some(kill) = known {
        match kill.step.due(view.now, &STOP_RETRY) {
            Due::No if kill.deadline.duration_since(later(view.now, grace)) <= NOTABLE_CHANGE => return,
            Due::At(at) => return draft.wake(at),
            Due::No | Due::Now => {}
        }
    }
    draft.act(Action::KillContainer(KillContainer {
        id: stop.container.id.clone(),
        container: stop.container.name.clone(),
        grace,
        message: stop.message.clone(),
        repeated: known.is_some(),
        restart: stop.restart,
    }));
}

/// When a sandbox must be stopped. A stop that the runtime called done and that left the sandbox ready is repeated after a
/// pause; one that has ended by itself is stopped once, which releases its network.
pub(super) fn sandbox_stop_due(view: &View<'_>, sandbox: &SandboxObservation) -> Due {
    match view.memory.sandbox_stops.get(&sandbox.id) {
        None => Due::Now,
        Some(Step::Ended { .. }) if !sandbox.ready => Due::No,
        Some(step) => step.due(view.now, &STOP_RETRY),
    }
}

/// The container's preStop hook, if it has one and there is time for it.
fn pre_stop(view: &View<'_>, stop: &Stop<'_>) -> Option<HookCall> {
    let runs = matches!(stop.container.state, ContainerState::Running { .. });
    if runs && stop.grace > SignedDuration::ZERO { hooks::pre_stop(view, stop.container) } else { None }
}

/// The grace period of a single container that is stopped while its pod goes on.
pub(super) fn container_grace(pod: &Pod) -> SignedDuration {
    let spec = crate::model::pod::spec(pod);
    match (pod.metadata.deletion_grace_period_seconds, spec.termination_grace_period_seconds) {
        (None, Some(seconds)) => SignedDuration::from_secs(seconds.max(0)),
        _ => requested_grace(pod),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::super::*;
    use super::*;
    use crate::model::observation::PodObservation;

    /// The seconds between the first stops of a pod for which the runtime says each time that it is done, and nothing comes
    /// of it.
    fn pauses(pod: &Pod, observed: &PodObservation, mut memory: PodMemory) -> Vec<i64> {
        let (mut now, mut stops) = (at(10), Vec::new());
        while stops.len() < 7 {
            let plan = plan_at(pod, Some(observed), &memory, now);
            let is_stop = |a: &Action| matches!(a, Action::StopSandbox { .. } | Action::KillContainer(_));
            let acted = plan.actions.iter().filter(|a| is_stop(a)).count();
            assert!(acted < 2, "{:?}", plan.actions);
            if acted == 0 {
                let next = plan.wake_at.unwrap();
                assert!(next > now, "again at once");
                now = next;
                continue;
            }
            stops.push(now);
            for action in &plan.actions {
                memory.note_started(action, now);
                memory.note_outcome(action, Outcome::from(Ok(())), now);
            }
        }
        stops.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs()).collect()
    }

    fn ending(pod: &Pod) -> PodMemory {
        PodMemory { termination: Some(Termination::new(SignedDuration::from_secs(1), at(9))), ..prepared(pod) }
    }

    #[test]
    fn a_sandbox_that_stays_ready_is_stopped_again_with_growing_pauses() {
        let pod = simple();
        assert_eq!(pauses(&pod, &observation(Vec::new()), ending(&pod)), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn so_is_one_that_another_is_to_follow() {
        let pod = simple();
        let mut observed = observation(Vec::new());
        observed.sandboxes[0].ips.clear();
        assert_eq!(pauses(&pod, &observed, prepared(&pod)), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn so_is_a_container_that_runs_on() {
        let pod = simple();
        let observed = observation(vec![instance(&pod, "c", 0, running())]);
        assert_eq!(pauses(&pod, &observed, ending(&pod)), [1, 2, 4, 8, 10, 10]);
    }
}
