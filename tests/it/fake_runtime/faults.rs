//! The log of calls, and what goes wrong with them on request.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::Shared;

const RPCS: &[&str] = &[
    "Version",
    "Status",
    "RuntimeConfig",
    "UpdateRuntimeConfig",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "GetContainerEvents",
    "ListImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
    "ImageFsInfo",
];

/// The name of an RPC that the fake serves.
///
/// # Panics
/// For any other: a fault on it would never come.
pub(super) fn known(rpc: &str) -> &'static str {
    RPCS.iter().find(|known| **known == rpc).unwrap_or_else(|| panic!("no RPC {rpc}; known are {RPCS:?}"))
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The RPC, as `RunPodSandbox`.
    pub rpc: &'static str,
    /// The id or name in the request; empty for lists.
    pub object: String,
    /// The pod, as far as the request or its object tells.
    pub pod_uid: String,
    /// The container's name, as far as the request or its object tells.
    pub container: String,
    /// When it came.
    pub started: Instant,
    /// When it was answered or given up; none while it is under way.
    pub ended: Option<Instant>,
    /// The answer; none while it is under way and if the caller gave up.
    pub outcome: Option<Code>,
}

impl Call {
    /// Whether the caller went away before the answer.
    pub fn was_cancelled(&self) -> bool {
        self.ended.is_some() && self.outcome.is_none()
    }
}

/// Lets held calls go when dropped.
#[must_use = "calls are held only as long as the gate lives"]
pub struct Gate {
    _open: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct Faults {
    calls: BTreeMap<u64, Call>,
    next: u64,
    /// How many calls have come, for those who wait for one.
    pub(super) come: watch::Sender<u64>,
    failures: HashMap<&'static str, VecDeque<(usize, Status)>>,
    lost_answers: HashMap<&'static str, usize>,
    delays: HashMap<&'static str, Duration>,
    gates: HashMap<&'static str, watch::Receiver<()>>,
    pub(super) events_muted: bool,
    pub(super) events_unsupported: bool,
}

impl Faults {
    pub(super) fn fail(&mut self, rpc: &str, times: usize, status: Status) {
        self.failures.entry(known(rpc)).or_default().push_back((times, status));
    }

    pub(super) fn lose_answers(&mut self, rpc: &str, times: usize) {
        self.lost_answers.insert(known(rpc), times);
    }

    pub(super) fn delay(&mut self, rpc: &str, by: Duration) {
        self.delays.insert(known(rpc), by);
    }

    pub(super) fn hold(&mut self, rpc: &str) -> Gate {
        let (open, held) = watch::channel(());
        self.gates.insert(known(rpc), held);
        Gate { _open: open }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.values().cloned().collect()
    }

    pub(super) fn clear_calls(&mut self) {
        self.calls.retain(|_, call| call.ended.is_none());
    }

    fn next_failure(&mut self, rpc: &str) -> Option<Status> {
        let failures = self.failures.get_mut(rpc)?;
        let (times, status) = failures.front_mut()?;
        let status = Status::new(status.code(), status.message());
        *times = times.saturating_sub(1);
        if *times == 0 {
            failures.pop_front();
        }
        Some(status)
    }

    fn loses_answer(&mut self, rpc: &str) -> bool {
        let Some(times) = self.lost_answers.get_mut(rpc).filter(|times| **times > 0) else { return false };
        *times -= 1;
        true
    }
}

/// A call under way; dropping it without an answer logs that the caller went away.
pub(super) struct Entered {
    shared: Arc<Shared>,
    rpc: &'static str,
    number: u64,
    outcome: Option<Code>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(call) = self.shared.faults().calls.get_mut(&self.number) {
            (call.ended, call.outcome) = (Some(Instant::now()), self.outcome);
        }
    }
}

impl Entered {
    /// Gives the answer, unless it is to get lost.
    pub(super) fn answer<T>(mut self, answer: Result<T, Status>) -> Result<Response<T>, Status> {
        let lost = answer.is_ok() && self.shared.faults().loses_answer(self.rpc);
        let answer = if lost { Err(Status::unavailable("the answer got lost")) } else { answer };
        self.outcome = Some(answer.as_ref().err().map_or(Code::Ok, Status::code));
        answer.map(Response::new)
    }
}

impl Shared {
    /// Logs a call and lets happen to it what was asked for.
    pub(super) async fn enter(self: &Arc<Self>, rpc: &'static str, object: &str) -> Result<Entered, Status> {
        let (pod_uid, container) = self.model().describe(object);
        self.enter_for(rpc, object, &pod_uid, &container).await
    }

    /// As [`Shared::enter`], for what does not exist yet.
    pub(super) async fn enter_for(
        self: &Arc<Self>,
        rpc: &'static str,
        object: &str,
        pod_uid: &str,
        container: &str,
    ) -> Result<Entered, Status> {
        let (mut entered, gate, delay) = {
            let mut faults = self.faults();
            let number = faults.next;
            faults.next += 1;
            faults.come.send_replace(number + 1);
            let call = Call {
                rpc: known(rpc),
                object: object.to_owned(),
                pod_uid: pod_uid.to_owned(),
                container: container.to_owned(),
                started: Instant::now(),
                ended: None,
                outcome: None,
            };
            faults.calls.insert(number, call);
            let entered = Entered { shared: self.clone(), rpc, number, outcome: None };
            (entered, faults.gates.get(rpc).cloned(), faults.delays.get(rpc).copied())
        };
        if let Some(mut gate) = gate {
            // Never sent to: an error is the gate's end.
            while gate.changed().await.is_ok() {}
        }
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        let failure = self.faults().next_failure(rpc);
        match failure {
            Some(status) => {
                entered.outcome = Some(status.code());
                Err(status)
            }
            None => Ok(entered),
        }
    }
}
