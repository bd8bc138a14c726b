//! The node's conditions (peer: `nodestatus` condition setters). New ones are appended in the order MemoryPressure,
//! DiskPressure, PIDPressure, Ready; clients take the last condition for Ready, so it comes last.

use k8s_openapi::api::core::v1::NodeCondition;

use crate::model::{Timestamp, clock};

use super::events::NodeEvent;

/// What the node is short of; eviction tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Memory.
    pub memory: bool,
    /// Disk space or inodes.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

/// A reason for the node not to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReadyCause {
    /// What the condition's message says.
    pub message: String,
    /// It is only that something was not looked at yet: on a restart of the agent no evidence against the node.
    pub pending: bool,
}

impl NotReadyCause {
    /// Something is wrong.
    pub fn known(message: impl Into<String>) -> Self {
        NotReadyCause { message: message.into(), pending: false }
    }

    /// Something is not known yet.
    pub fn pending(message: impl Into<String>) -> Self {
        NotReadyCause { message: message.into(), pending: true }
    }
}

/// Texts of one pressure condition.
struct Texts {
    type_: &'static str,
    /// Reason, message and event under pressure.
    under: [&'static str; 3],
    /// Reason, message and event without.
    relaxed: [&'static str; 3],
}

const MEMORY: Texts = Texts {
    type_: "MemoryPressure",
    under: ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "NodeHasInsufficientMemory"],
    relaxed: ["KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasSufficientMemory"],
};
const DISK: Texts = Texts {
    type_: "DiskPressure",
    under: ["KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"],
    relaxed: ["KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"],
};
const PID: Texts = Texts {
    type_: "PIDPressure",
    under: ["KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"],
    relaxed: ["KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"],
};

/// Writes the pressure conditions; tells of those that changed.
pub fn apply_pressures(
    conditions: &mut Vec<NodeCondition>,
    node: &str,
    pressures: Pressures,
    now: Timestamp,
) -> Vec<NodeEvent> {
    let all = [(&MEMORY, pressures.memory), (&DISK, pressures.disk), (&PID, pressures.pid)];
    all.into_iter().filter_map(|(texts, is_under)| apply_pressure(conditions, node, texts, is_under, now)).collect()
}

fn apply_pressure(
    conditions: &mut Vec<NodeCondition>,
    node: &str,
    texts: &Texts,
    is_under: bool,
    now: Timestamp,
) -> Option<NodeEvent> {
    let condition = entry(conditions, texts.type_);
    condition.last_heartbeat_time = Some(clock::api_time(now));
    let status = if is_under { "True" } else { "False" };
    if condition.status == status {
        return None;
    }
    let [reason, message, event] = if is_under { texts.under } else { texts.relaxed };
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
    condition.last_transition_time = Some(clock::api_time(now));
    Some(NodeEvent::status_is_now(node, event))
}

/// Writes Ready. A node that is Ready stays so while all that speaks against it is pending and `is_starting`, so that a
/// restart of the agent flips nothing.
pub fn apply_ready(
    conditions: &mut Vec<NodeCondition>,
    node: &str,
    causes: &[NotReadyCause],
    is_starting: bool,
    now: Timestamp,
) -> Option<NodeEvent> {
    let condition = entry(conditions, "Ready");
    condition.last_heartbeat_time = Some(clock::api_time(now));
    let is_held = is_starting && condition.status == "True" && causes.iter().all(|cause| cause.pending);
    let (status, reason, message) = if causes.is_empty() || is_held {
        ("True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("False", "KubeletNotReady", aggregate(causes.iter().map(|cause| cause.message.as_str())))
    };
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message);
    if condition.status == status {
        return None;
    }
    let is_new = condition.last_transition_time.is_none();
    condition.status = status.to_owned();
    condition.last_transition_time = Some(clock::api_time(now));
    let event = if status == "True" { "NodeReady" } else { "NodeNotReady" };
    (!is_new).then(|| NodeEvent::status_is_now(node, event))
}

/// The condition of that type, appended without a status if it is new.
fn entry<'a>(conditions: &'a mut Vec<NodeCondition>, type_: &str) -> &'a mut NodeCondition {
    let index = conditions.iter().position(|condition| condition.type_ == type_).unwrap_or_else(|| {
        conditions.push(NodeCondition {
            type_: type_.to_owned(),
            status: "Unknown".to_owned(),
            ..NodeCondition::default()
        });
        conditions.len() - 1
    });
    &mut conditions[index]
}

/// Several messages as one: alone as it is, else `[a, b]`; the same text only once.
pub fn aggregate<'a>(messages: impl Iterator<Item = &'a str>) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for message in messages {
        if !distinct.contains(&message) {
            distinct.push(message);
        }
    }
    match distinct.as_slice() {
        [only] => (*only).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Whether the condition of that type is True.
pub fn is_true(conditions: &[NodeCondition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn shown(conditions: &[NodeCondition]) -> Vec<String> {
        let seconds =
            |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.as_ref().unwrap().0.as_second();
        let line = |c: &NodeCondition| {
            let (heartbeat, transition) = (seconds(&c.last_heartbeat_time), seconds(&c.last_transition_time));
            format!("{} {} {} {heartbeat} {transition}", c.type_, c.status, c.reason.as_deref().unwrap())
        };
        conditions.iter().map(line).collect()
    }

    fn reasons(events: impl IntoIterator<Item = NodeEvent>) -> Vec<&'static str> {
        events.into_iter().map(|event| event.reason).collect()
    }

    #[test]
    fn transitions_are_times_of_change_and_heartbeats_of_report() {
        let mut conditions = Vec::new();
        let events = apply_pressures(&mut conditions, "n", Pressures::default(), at(10));
        assert_eq!(reasons(events), ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
        assert_eq!(apply_ready(&mut conditions, "n", &[NotReadyCause::known("no")], false, at(10)), None);
        assert_eq!(
            shown(&conditions),
            [
                "MemoryPressure False KubeletHasSufficientMemory 10 10",
                "DiskPressure False KubeletHasNoDiskPressure 10 10",
                "PIDPressure False KubeletHasSufficientPID 10 10",
                "Ready False KubeletNotReady 10 10",
            ]
        );

        let pressures = Pressures { disk: true, ..Pressures::default() };
        let events = apply_pressures(&mut conditions, "n", pressures, at(20));
        assert_eq!(events, [NodeEvent::status_is_now("n", "NodeHasDiskPressure")]);
        let event = apply_ready(&mut conditions, "n", &[], false, at(20));
        assert_eq!(event.unwrap().message, "Node n status is now: NodeReady");
        assert_eq!(
            shown(&conditions),
            [
                "MemoryPressure False KubeletHasSufficientMemory 20 10",
                "DiskPressure True KubeletHasDiskPressure 20 20",
                "PIDPressure False KubeletHasSufficientPID 20 10",
                "Ready True KubeletReady 20 20",
            ]
        );

        let event = apply_ready(&mut conditions, "n", &[NotReadyCause::known("no")], false, at(30));
        assert_eq!(reasons(event), ["NodeNotReady"]);
        let event = apply_ready(&mut conditions, "n", &[NotReadyCause::known("still no")], false, at(40));
        assert_eq!(event, None);
        assert_eq!(shown(&conditions)[3], "Ready False KubeletNotReady 40 30");
        assert_eq!(conditions[3].message.as_deref(), Some("still no"));
    }

    #[test]
    fn takes_over_from_the_node_controller_and_leaves_others_conditions() {
        let condition = |type_: &str, status: &str| NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some("X".into()),
            last_heartbeat_time: Some(clock::api_time(at(1))),
            last_transition_time: Some(clock::api_time(at(1))),
            ..NodeCondition::default()
        };
        let mut conditions = vec![
            condition("NetworkUnavailable", "False"),
            condition("PIDPressure", "Unknown"),
            condition("Ready", "Unknown"),
        ];
        let events = apply_pressures(&mut conditions, "n", Pressures::default(), at(5));
        assert_eq!(events.len(), 3);
        assert_eq!(reasons(apply_ready(&mut conditions, "n", &[], false, at(5))), ["NodeReady"]);
        assert_eq!(
            shown(&conditions),
            [
                "NetworkUnavailable False X 1 1",
                "PIDPressure False KubeletHasSufficientPID 5 5",
                "Ready True KubeletReady 5 5",
                "MemoryPressure False KubeletHasSufficientMemory 5 5",
                "DiskPressure False KubeletHasNoDiskPressure 5 5",
            ]
        );
    }

    #[rstest]
    #[case::restart(true, true, "True")]
    #[case::grace_over(false, true, "False")]
    #[case::evidence(true, false, "False")]
    fn a_restart_flips_no_ready(#[case] is_starting: bool, #[case] pending: bool, #[case] expected: &str) {
        let mut conditions = Vec::new();
        apply_ready(&mut conditions, "n", &[], false, at(1));
        let causes = [NotReadyCause::pending("not looked"), NotReadyCause { message: "cause".into(), pending }];
        let event = apply_ready(&mut conditions, "n", &causes, is_starting, at(9));
        assert_eq!(conditions[0].status, expected);
        assert_eq!(event.is_none(), expected == "True");
        assert_eq!(conditions[0].last_heartbeat_time, Some(clock::api_time(at(9))));
    }

    #[test]
    fn a_node_that_was_not_ready_is_not_held() {
        let mut conditions = Vec::new();
        apply_ready(&mut conditions, "n", &[NotReadyCause::pending("not looked")], true, at(1));
        assert_eq!(shown(&conditions), ["Ready False KubeletNotReady 1 1"]);
    }

    #[rstest]
    #[case(&["a"], "a")]
    #[case(&["a", "a"], "a")]
    #[case(&["a", "b", "a"], "[a, b]")]
    fn aggregates_messages(#[case] messages: &[&str], #[case] expected: &str) {
        assert_eq!(aggregate(messages.iter().copied()), expected);
    }
}
