//! Events on the Node object, with the reasons and texts that clients match on (peer: `kubelet/events`).

use crate::model::EventType;

/// One event on the Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// `Event.type`.
    pub event_type: EventType,
    /// `Event.reason`.
    pub reason: &'static str,
    /// `Event.message`.
    pub message: String,
}

impl NodeEvent {
    /// The agent came up.
    pub fn starting() -> Self {
        NodeEvent { event_type: EventType::Normal, reason: "Starting", message: "Starting kubelet.".to_owned() }
    }

    /// The machine has cgroups v1, which newer versions of the peer will not run on.
    pub fn cgroup_v1() -> Self {
        let message = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. \
                       Please migrate to cgroup v2. More information at \
                       https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";
        NodeEvent { event_type: EventType::Warning, reason: "CgroupV1", message: message.to_owned() }
    }

    /// The node's resolv.conf is not fit for pods.
    pub fn resolv_conf(message: String) -> Self {
        NodeEvent { event_type: EventType::Warning, reason: "CheckLimitsForResolvConf", message }
    }

    /// A condition or the schedulability of the node changed: `Node <name> status is now: <reason>`.
    pub fn status_is_now(node: &str, reason: &'static str) -> Self {
        let message = format!("Node {node} status is now: {reason}");
        NodeEvent { event_type: EventType::Normal, reason, message }
    }

    /// The machine has another boot id than its Node.
    pub fn rebooted(node: &str, boot_id: &str) -> Self {
        let message = format!("Node {node} has been rebooted, boot id: {boot_id}");
        NodeEvent { event_type: EventType::Warning, reason: "Rebooted", message }
    }
}

/// Takes events on the Node; must not block.
pub trait NodeEvents: Send + Sync {
    /// Records one. `uid` is the Node's, once it is known.
    fn record(&self, uid: Option<&str>, event: NodeEvent);
}
