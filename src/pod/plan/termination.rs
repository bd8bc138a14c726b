//! How a pod ends: the grace period in force, which containers are stopped when, and what follows.

use k8s_openapi::api::core::v1::Pod;

use super::Draft;
use super::action::Action;
use super::hooks;
use super::memory::{RetryPolicy, Step, later};
use super::restart::was_cut_off;
use super::stop::{Stop, sandbox_stop_due, stop};
use super::view::View;
use crate::model::observation::{ContainerObservation, ContainerState, PodObservation};
use crate::model::pod::{self, ContainerKind};
use crate::model::{SignedDuration, Timestamp};

const CLEAN_UP_RETRY: RetryPolicy =
    RetryPolicy { first: SignedDuration::from_millis(200), max: SignedDuration::from_secs(30) };

/// That a pod must end, and by when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Termination {
    /// When the end began.
    pub since: Timestamp,
    /// Grace period counted from `since`.
    pub grace: SignedDuration,
}

impl Termination {
    /// An end that begins now.
    pub fn new(grace: SignedDuration, now: Timestamp) -> Self {
        Termination { since: now, grace: grace.max(SignedDuration::from_secs(1)) }
    }

    /// The end of something that no source knows: 1 s of grace.
    pub fn of_orphan(now: Timestamp) -> Self {
        Termination::new(SignedDuration::from_secs(1), now)
    }

    /// A new grace period asked for at `now`; it may only bring the end forward.
    pub fn shrink(&mut self, grace: SignedDuration, now: Timestamp) {
        let grace = grace.max(SignedDuration::from_secs(1));
        if grace < self.grace {
            // The shorter period counts from the new request, as `kubectl delete --grace-period` means it, but never ends
            // later than the earlier one.
            let elapsed = now.duration_since(self.since).max(SignedDuration::ZERO);
            self.grace = self.grace.min(elapsed.saturating_add(grace));
        }
    }

    /// When an end that has not been reached must be told: half as much again as the grace period after it began, and 10 s
    /// at least.
    fn overdue_at(&self) -> Timestamp {
        let patience = self.grace.saturating_add(self.grace / 2).max(SignedDuration::from_secs(10));
        later(self.since, patience)
    }

    /// What is left of the grace period.
    pub fn remaining(&self, now: Timestamp) -> SignedDuration {
        later(self.since, self.grace).duration_since(now).max(SignedDuration::ZERO)
    }
}

/// The grace period that the pod object asks for: that of its deletion, else that of its spec.
pub fn requested_grace(pod: &Pod) -> SignedDuration {
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or(pod::spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
        .max(1);
    SignedDuration::from_secs(seconds)
}

/// Plans the end: containers first (sidecars after the others, in reverse order), then sandboxes, then what lies on the node.
pub(super) fn plan(view: &View<'_>, termination: &Termination, draft: &mut Draft) {
    hooks::cancel_post_start(view, draft);
    hooks::cancel_pre_stop(view, draft);
    if view.observed.is_none() || view.memory.containers.values().any(|c| c.start.is_running()) {
        // What a start under way leaves behind is seen when it has ended; the containers that run already stop meanwhile.
        if let Some(observed) = view.observed {
            stop_in_order(view, observed, termination.remaining(view.now), draft);
        }
        return;
    }
    let Some(observed) = view.observed else { return };
    if stop_in_order(view, observed, termination.remaining(view.now), draft) {
        let overdue_at = termination.overdue_at();
        match (view.memory.told_exceeded_grace, overdue_at <= view.now) {
            (true, _) => {}
            (false, true) => draft.act(Action::TellExceededGrace),
            (false, false) => draft.wake(overdue_at),
        }
        return;
    }
    if view.memory.sandbox.is_running() {
        return;
    }
    let mut stopping = false;
    for sandbox in observed.sandboxes.iter().filter(|s| s.ready) {
        stopping = true;
        if draft.due(sandbox_stop_due(view, sandbox)) {
            draft.act(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
    if stopping || view.memory.volumes.is_running() || view.memory.cgroup.is_running() {
        return;
    }
    draft.nothing_runs = true;
    if draft.due(view.memory.clean_up.due(view.now, &CLEAN_UP_RETRY)) {
        draft.act(Action::CleanUp);
    }
    if !view.memory.clean_up.is_done() {
        return;
    }
    draft.cleaned_up = true;
    // Logs and containers of a pod that merely ended stay until it is deleted.
    if view.memory.removed {
        let was_removed = matches!(view.memory.remains, Step::Ended { .. });
        draft.forget = was_removed && observed.sandboxes.is_empty() && observed.containers.is_empty();
        if !draft.forget && draft.due(view.memory.remains.due(view.now, &CLEAN_UP_RETRY)) {
            draft.act(remove_remains(observed, was_removed));
        }
    }
}

fn remove_remains(observed: &PodObservation, repeated: bool) -> Action {
    let sandboxes: Vec<String> = observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
    // What was left of a start would keep the runtime from removing its sandbox.
    let never_ran = |container: &ContainerObservation| match &container.state {
        ContainerState::Created => true,
        ContainerState::Exited(exit) => was_cut_off(exit),
        ContainerState::Running { .. } | ContainerState::Unknown => false,
    };
    let alone = observed.containers.iter().filter(|c| never_ran(c) || !sandboxes.contains(&c.sandbox_id));
    let containers = alone.map(|container| container.id.clone()).collect();
    Action::RemoveRemains { sandboxes, containers, repeated }
}

/// Stops what runs within a grace period. Returns whether anything still does.
pub(super) fn stop_in_order(
    view: &View<'_>,
    observed: &PodObservation,
    grace: SignedDuration,
    draft: &mut Draft,
) -> bool {
    let running: Vec<&ContainerObservation> = observed.containers.iter().filter(|c| c.state.may_run()).collect();
    let is_regular = |name: &str| view.spec.containers.iter().any(|c| c.name == name);
    let regular_run = running.iter().any(|c| is_regular(&c.name));
    let last_sidecar = running.iter().filter_map(|c| view.sidecar_position(&c.name)).max();
    for container in &running {
        // Sidecars serve the regular containers until these have ended, then end one after the other, the one that started
        // last first. Their hooks are all run at once.
        let position = view.sidecar_position(&container.name);
        let waits = position.is_some() && (regular_run || position < last_sidecar);
        stop(view, Stop { waits, ..Stop::plainly(container, grace) }, draft);
    }
    !running.is_empty()
}

/// The place of a container in its pod's list of init containers, for sidecars only.
pub(super) fn sidecar_position(pod: &Pod, name: &str) -> Option<usize> {
    pod::init_and_regular_containers(pod::spec(pod))
        .enumerate()
        .find(|(_, (kind, c))| *kind == ContainerKind::Init && pod::is_sidecar(c) && c.name == name)
        .map(|(position, _)| position)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::tests::at;
    use super::*;

    #[rstest]
    // At 10 s of 30: what is left is replaced by a shorter period, which counts from then.
    #[case(5, 15)]
    #[case(0, 11)]
    // A longer one, or one that would end later, changes nothing.
    #[case(60, 30)]
    #[case(25, 30)]
    #[case(30, 30)]
    fn a_grace_period_only_shrinks(#[case] asked: i64, #[case] ends: i64) {
        let mut termination = Termination::new(SignedDuration::from_secs(30), at(0));
        termination.shrink(SignedDuration::from_secs(asked), at(10));
        assert_eq!(termination.remaining(at(0)), SignedDuration::from_secs(ends));
        // The deletion that asked for it is seen again with each change of the object.
        termination.shrink(SignedDuration::from_secs(asked), at(10));
        assert_eq!(termination.remaining(at(0)), SignedDuration::from_secs(ends));
    }
}
