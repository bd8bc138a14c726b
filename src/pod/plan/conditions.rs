//! The conditions of a pod that the node's agent owns.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use super::restart_all;
use super::view::SandboxNeed;
use crate::model::Timestamp;
use crate::model::clock::api_time;
use crate::model::pod::{self, ContainerKind};

/// The condition types that only the node's agent writes; all others are kept as they are.
const OWNED: &[&str] = &[
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
    restart_all::CONDITION,
];

/// The condition that the node's agent shares with others: the eviction API, the taint manager and the scheduler set it too.
pub(super) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Its reason when the node's agent itself decided to end the pod.
pub(super) const OWN_DISRUPTION: &str = "TerminationByKubelet";

/// Whether a condition of a pod is the node's agent's to write.
pub fn is_owned_condition(type_: &str) -> bool {
    OWNED.contains(&type_)
}

/// Whether a condition says that this node's agent itself decided to end the pod. It takes the place of another writer's only
/// in the update that makes the pod's phase terminal.
pub fn is_own_disruption(condition: &PodCondition) -> bool {
    condition.type_ == DISRUPTION_TARGET && condition.reason.as_deref() == Some(OWN_DISRUPTION)
}

/// A condition's status, reason and message.
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Verdict { status: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Verdict { status: false, reason: Some(reason), message }
    }
}

/// What the conditions are made from.
pub(super) struct Facts<'a> {
    pub pod: &'a Pod,
    pub previous: &'a PodStatus,
    pub phase: &'a str,
    pub init: &'a [ContainerStatus],
    pub regular: &'a [ContainerStatus],
    /// Why the pod has no sandbox to run containers in.
    pub sandbox_need: Option<SandboxNeed>,
    /// A rule of it can have all its containers started anew.
    pub can_restart_all: bool,
    /// Its containers are being removed to be started anew.
    pub restarts_all: bool,
    pub now: Timestamp,
}

/// All conditions of the pod in the peer's order, those of others first.
pub(super) fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    let api = facts.pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions: Vec<PodCondition> =
        api.into_iter().flatten().filter(|c| !is_owned_condition(&c.type_)).cloned().collect();
    if let Some(own) = facts.previous.conditions.iter().flatten().find(|c| is_own_disruption(c)) {
        // Set once, when the node itself decides to end the pod.
        replace_or_append(&mut conditions, own.clone());
    }

    let sandbox = match facts.sandbox_need {
        None => Verdict::yes(),
        Some(need) => Verdict::no("PodSandboxNotReady", Some(need.message().to_owned())),
    };
    let containers_ready = containers_ready(facts);
    let ready = ready(facts, &containers_ready, &conditions);
    for (type_, verdict) in [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(facts)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes()),
    ] {
        conditions.push(condition(facts, type_, verdict));
    }
    if facts.can_restart_all {
        conditions.push(condition(facts, restart_all::CONDITION, restarting(facts)));
    }
    conditions
}

/// Puts a condition in the place of the one of its type, or last.
pub(crate) fn replace_or_append(conditions: &mut Vec<PodCondition>, condition: PodCondition) {
    match conditions.iter_mut().find(|c| c.type_ == condition.type_) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

fn condition(facts: &Facts<'_>, type_: &str, verdict: Verdict) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let previous = facts.previous.conditions.iter().flatten().find(|c| c.type_ == type_);
    let unchanged = previous.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: Some(unchanged.unwrap_or_else(|| api_time(facts.now))),
        last_probe_time: None,
        observed_generation: facts.pod.metadata.generation,
    }
}

fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

/// `containers with ... status: [...]` for each list that is not empty.
fn complaint(lists: &[(&str, &[&str])]) -> Option<String> {
    let parts: Vec<String> = lists
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(what, list)| format!("containers with {what} status: {}", names(list)))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn containers_ready(facts: &Facts<'_>) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (kind, container) in pod::init_and_regular_containers(pod::spec(facts.pod)) {
        let statuses = match kind {
            ContainerKind::Init if pod::is_sidecar(container) => facts.init,
            ContainerKind::Init => continue,
            _ => facts.regular,
        };
        match statuses.iter().find(|s| s.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match facts.phase {
        "Succeeded" if unknown.is_empty() => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    match complaint(&[("unknown", &unknown), ("unready", &unready)]) {
        Some(message) => Verdict::no("ContainersNotReady", Some(message)),
        None => Verdict::yes(),
    }
}

fn ready(facts: &Facts<'_>, containers_ready: &Verdict, conditions: &[PodCondition]) -> Verdict {
    if !containers_ready.status {
        return Verdict { status: false, reason: containers_ready.reason, message: containers_ready.message.clone() };
    }
    let gates = pod::spec(facts.pod).readiness_gates.iter().flatten();
    let complaints: Vec<String> = gates
        .filter_map(|gate| {
            let type_ = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *type_) {
                None => Some(format!("corresponding condition of pod readiness gate \"{type_}\" does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate \"{type_}\" is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    if complaints.is_empty() {
        Verdict::yes()
    } else {
        Verdict::no("ReadinessGatesNotReady", Some(complaints.join(", ")))
    }
}

fn restarting(facts: &Facts<'_>) -> Verdict {
    let reason = match facts.phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ if facts.restarts_all => {
            let message = Some("container exited with restart policy rule".to_owned());
            return Verdict { status: true, reason: Some("RestartAllContainersStarted"), message };
        }
        _ => None,
    };
    Verdict { status: false, reason, message: None }
}

/// Whether the status tells that the init containers are done.
pub(super) fn was_initialized(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Initialized" && c.status == "True")
}

fn initialized(facts: &Facts<'_>) -> Verdict {
    let spec = pod::spec(facts.pod);
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec.init_containers.iter().flatten() {
        match facts.init.iter().find(|s| s.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = if pod::is_sidecar(container) { status.started == Some(true) } else { status.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if facts.phase == "Succeeded" && unknown.is_empty() {
        return Verdict { status: true, reason: Some("PodCompleted"), message: None };
    }
    let has_run = facts.regular.iter().any(|s| {
        let now = s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        now || s.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    });
    let was = was_initialized(facts.previous);
    if has_run {
        return Verdict::yes();
    }
    match complaint(&[("unknown", &unknown), ("incomplete", &incomplete)]) {
        // Once initialized, a pod stays so: containers started again in place do not take it back.
        Some(_) if was => Verdict::yes(),
        Some(message) => Verdict::no("ContainersNotInitialized", Some(message)),
        None => Verdict::yes(),
    }
}
