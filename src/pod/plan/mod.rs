//! The pure heart: from a pod, what the runtime says of it, what is remembered and the time, to what must be done now, when
//! to look again, and the status to publish.
//!
//! Knows no tasks, clients or files. The whole life of a pod is decided here and nowhere else:
//! [`running`] decides what is started, [`images`] what is pulled for it, [`restart_all`] when all of it anew, [`termination`] how a pod ends and [`deadline`] when at the latest, [`stop`] and [`hooks`] how one container is stopped
//! and what is run in it on the way, [`probes`] what is probed and what that means, [`backoff`] how long a crashed container
//! waits, [`ephemeral`] who looks into it, [`status`] what the API shows, [`phases`] how long a start took. [`PodMemory`] is
//! what is remembered between two plans.

mod action;
mod backoff;
mod conditions;
mod deadline;
mod ephemeral;
mod hooks;
mod images;
mod memory;
mod node_end;
mod phase;
mod phases;
mod pod_resources;
mod probes;
mod restart;
mod restart_all;
mod running;
mod status;
mod stop;
mod termination;
mod view;

#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

pub use action::{
    Action, Failure, Hook, HookCall, HookKind, HttpCall, KillContainer, Outcome, ReadyImage, StartContainer,
};
pub use backoff::{Backoff, BackoffPolicy};
pub(crate) use conditions::replace_or_append;
pub use conditions::{is_own_disruption, is_owned_condition};
pub use memory::{ContainerMemory, Kill, PodMemory, PostStart, Step, VolumeImage};
pub use node_end::NodeEnd;
pub use phases::PodPhases;
pub use probes::probed;
pub use restart::RestartRules;
pub use termination::Termination;

use crate::model::Timestamp;
use crate::model::observation::PodObservation;
use crate::model::probe_results::ProbeResults;
use memory::Due;
use view::View;

/// What a plan needs to know of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The node's addresses, primary first: `status.hostIPs`, and the pod's own with the host's network.
    pub host_ips: Vec<String>,
    /// Prefix of container ids in the API: the runtime's name.
    pub runtime_name: String,
    /// Crash-loop settings.
    pub backoff: BackoffPolicy,
    /// How far containers' own restart policies and rules count.
    pub restart_rules: RestartRules,
    /// Whether containers' stop signals are shown (gate ContainerStopSignals).
    pub shows_stop_signals: bool,
    /// Whether a container that an earlier agent found started and ready must be probed before it is shown so again (gate
    /// ChangeContainerStatusOnKubeletRestart).
    pub forgets_probes: bool,
    /// The runtime handlers (empty name: the default one) with which mounts are made read-only all the way down: that the
    /// runtime can do it and that this agent asks it to.
    pub recursive_read_only_handlers: BTreeSet<String>,
    /// The runtime handlers (empty name: the default one) whose pods can have a user namespace of their own.
    pub user_namespace_handlers: BTreeSet<String>,
}

/// All that a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The pod as its source last gave it.
    pub pod: &'a Pod,
    /// What the runtime holds of it, read after the last action that changed it; none while that is not known.
    pub observed: Option<&'a PodObservation>,
    /// What is remembered.
    pub memory: &'a PodMemory,
    /// What its probes say.
    pub probes: &'a ProbeResults,
    /// The node.
    pub node: &'a NodeFacts,
    /// The time.
    pub now: Timestamp,
}

/// What must be done for a pod now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Actions to begin, none of them under way already.
    pub actions: Vec<Action>,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// The status to publish; none while the runtime's state is not known.
    pub status: Option<PodStatus>,
    /// The pod has done all that it had to do and must end ([`PodMemory::note_completed`]).
    pub completed: bool,
    /// The pod is ending, and nothing of it can run any more: what it held of the node is free.
    pub stopped: bool,
    /// The published status is final and nothing of the pod is left that its API object must stand for: it may be deleted
    /// there if that was asked for.
    pub deletable: bool,
    /// Nothing is left to do, ever.
    pub forget: bool,
}

/// A plan being made.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    actions: Vec<Action>,
    wake_at: Option<Timestamp>,
    completed: bool,
    nothing_runs: bool,
    cleaned_up: bool,
    forget: bool,
}

impl Draft {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether a step is due now; notes when to look again if it is due later.
    fn due(&mut self, due: Due) -> bool {
        match due {
            Due::Now => true,
            Due::At(at) => {
                self.wake(at);
                false
            }
            Due::No => false,
        }
    }
}

/// Plans what a pod needs now.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let view = View::new(input);
    let mut draft = Draft::default();
    match input.memory.termination {
        // The action is remembered, and the plan is made again.
        _ if deadline::plan(&view, &mut draft) => {}
        Some(termination) => termination::plan(&view, &termination, &mut draft),
        None => {
            running::plan(&view, &mut draft);
            if draft.completed {
                let termination = Termination::new(termination::requested_grace(input.pod), input.now);
                termination::plan(&view, &termination, &mut draft);
            }
        }
    }
    let ending = input.memory.termination.is_some() || draft.completed;
    let status = view.observed.map(|observed| status::pod_status(&view, observed, ending, draft.nothing_runs));
    Plan {
        stopped: ending && draft.nothing_runs,
        deletable: draft.cleaned_up && status.is_some(),
        actions: draft.actions,
        wake_at: draft.wake_at,
        status,
        completed: draft.completed,
        forget: draft.forget,
    }
}
