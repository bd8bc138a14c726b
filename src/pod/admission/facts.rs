//! What admission needs to know of the node, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::SysctlAllowlist;
use crate::model::resources::ResourceTotals;

/// Settings that stay as they are while the agent runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmissionSettings {
    /// The sysctls that pods may set: the safe ones, and those of `allowedUnsafeSysctls`.
    pub sysctls: SysctlAllowlist,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// Features that this node declares (`status.declaredFeatures`).
    pub declared_features: BTreeSet<String>,
    /// Gate PodLevelResources.
    pub pod_level_resources: bool,
    /// Gate TaintTolerationComparisonOperators: whether `Gt` and `Lt` mean something in tolerations.
    pub compares_taints: bool,
}

/// What the node runs short of, so that it evicts pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Memory.
    Memory,
    /// Disk space or inodes.
    Disk,
    /// Process ids.
    Pid,
}

impl Pressure {
    /// The Node's condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

/// The Node as admission sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// `metadata.name`.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// What pods can have of it.
    pub allocatable: ResourceTotals,
    /// `status.features.supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
}

impl From<&Node> for NodeView {
    fn from(node: &Node) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let features = status.and_then(|status| status.features.as_ref());
        NodeView {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            allocatable: status
                .and_then(|status| status.allocatable.as_ref())
                .map(ResourceTotals::of_list)
                .unwrap_or_default(),
            supplemental_groups_policy: features.and_then(|features| features.supplemental_groups_policy) == Some(true),
        }
    }
}

/// All that a pod is judged by, beside the other pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdmissionFacts {
    /// The Node, as the API server has it or, while it has none, as the agent would create it. None before that is known.
    pub node: Option<Arc<NodeView>>,
    /// The API server has told whether it has the Node: until then pods of the API wait, since labels and taints that only
    /// the stored Node carries could be missed. Static pods do not wait.
    pub is_node_settled: bool,
    /// What the node runs short of.
    pub pressures: Vec<Pressure>,
    /// The machine is on its way down.
    pub shutting_down: bool,
    /// The settings.
    pub settings: Arc<AdmissionSettings>,
}
