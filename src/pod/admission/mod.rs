//! Admission: whether this node takes a pod that its source gave it, and if not, why.
//!
//! The scheduler has judged before, from what it knew; static pods and pods bound by hand were judged by nobody. So the node
//! judges again, by the rules and in the order of the kubelet's admission handlers (peer: `kubelet/lifecycle`,
//! `kubelet/sysctl`, `kubelet/preemption`), whose reasons and messages users and controllers know.
//!
//! Pure: [`admit`] decides from the pod, the pods that the node has taken already, and what is known of the node. The manager
//! acts on the [`Verdict`].

mod facts;
mod fit;
mod node_match;
mod preemption;
mod support;
mod sysctls;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Toleration};

pub use facts::{AdmissionFacts, AdmissionSettings, NodeView, Pressure};
pub use fit::Claim;
pub use sysctls::SysctlAllowlist;

use crate::model::pod::{self, PodUid};
use crate::model::qos::QosClass;

/// Why the node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason` of the pod, and the reason of its event.
    pub reason: String,
    /// The event's message; the status says `Pod was rejected: ` before it.
    pub message: String,
}

/// The reasons that are counted by their own name, as with the kubelet.
const COUNTED_REASONS: &[&str] = &[
    "AppArmor",
    "Evicted",
    "InvalidNodeInfo",
    "NodeShutdown",
    "OutOfcpu",
    "OutOfephemeral-storage",
    "OutOfmemory",
    "OutOfpods",
    "PodFeatureUnsupported",
    "PodLevelResourcesNotSupported",
    "PodOSNotSupported",
    "PodOSSelectorNodeLabelDoesNotMatch",
    "SupplementalGroupsPolicyNotSupported",
    "SysctlForbidden",
    "UnexpectedAdmissionError",
];

impl Rejection {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Rejection { reason: reason.into(), message: message.into() }
    }

    /// The name under which it is counted: pods can make up resources, and each would be a series of its own.
    pub fn counted_as(&self) -> &'static str {
        let reason = self.reason.as_str();
        let by_resource = if reason.starts_with("OutOf") { "OutOfExtendedResources" } else { "Other" };
        COUNTED_REASONS.iter().find(|counted| **counted == reason).copied().unwrap_or(by_resource)
    }
}

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Run it.
    Admit,
    /// Fail it.
    Reject(Rejection),
    /// Only the node's labels are in the way, and what is known of them may be old: read the Node, judge again, and fail the
    /// pod if it is still so.
    ReadNode(Rejection),
    /// Run it once others have ended, which must give way to it.
    Preempt {
        /// Those.
        victims: Vec<PodUid>,
        /// The first resource that it lacks.
        resource: String,
    },
}

/// A pod that the node has taken and that may still run.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The pod as it was taken.
    pub pod: Arc<Pod>,
    /// What it holds of the node.
    pub claim: Claim,
}

impl Admitted {
    /// A pod with what it holds.
    pub fn new(pod: Arc<Pod>) -> Self {
        Admitted { claim: Claim::of(&pod), pod }
    }
}

/// Why the general part of the rules refuses a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    Insufficient(fit::Shortage),
    Predicate { name: &'static str, cause: &'static str },
}

impl Refusal {
    fn rejection(&self) -> Rejection {
        match self {
            Refusal::Insufficient(shortage) => {
                Rejection::new(format!("OutOf{}", shortage.resource), shortage.to_string())
            }
            Refusal::Predicate { name, cause } => Rejection::new(*name, format!("Predicate {name} failed: {cause}")),
        }
    }
}

/// Judges a pod. `others` are the pods that the node has taken and that may still run, without this one.
pub fn admit(pod: &Pod, others: &[&Admitted], facts: &AdmissionFacts) -> Verdict {
    let Some(node) = &facts.node else {
        return Verdict::Reject(Rejection::new("InvalidNodeInfo", "Kubelet cannot get node info."));
    };
    let settings = &facts.settings;
    let before = || {
        under_pressure(pod, facts)?;
        settings.sysctls.check(pod)?;
        support::operating_system(pod)?;
        support::supplemental_groups(pod, node)
    };
    if let Err(rejection) = before() {
        return Verdict::Reject(rejection);
    }
    let refusals = refusals(pod, others, facts, node);
    let after = || {
        support::app_armor(pod, settings)?;
        support::pod_level_resources(pod, settings)?;
        support::declared_features(pod, settings)?;
        if facts.shutting_down {
            return Err(Rejection::new("NodeShutdown", "Pod was rejected as the node is shutting down."));
        }
        Ok(())
    };
    let Some(first) = refusals.first() else {
        return after().map_or_else(Verdict::Reject, |()| Verdict::Admit);
    };
    if refusals.iter().all(|refusal| matches!(refusal, Refusal::Predicate { name: NODE_AFFINITY, .. })) {
        return Verdict::ReadNode(first.rejection());
    }
    if !pod::is_critical(pod) {
        return Verdict::Reject(first.rejection());
    }
    // A critical pod is not refused for want of resources: others give way to it. Nothing is ended for a pod that something
    // else would refuse.
    if let Some(other) = refusals.iter().find(|refusal| !matches!(refusal, Refusal::Insufficient(_))) {
        return Verdict::Reject(other.rejection());
    }
    if let Err(rejection) = after() {
        return Verdict::Reject(rejection);
    }
    let shortages = refusals.iter().filter_map(|refusal| match refusal {
        Refusal::Insufficient(shortage) => Some(shortage.clone()),
        Refusal::Predicate { .. } => None,
    });
    let shortages: Vec<_> = shortages.collect();
    let resource = shortages.first().map(|shortage| shortage.resource.clone()).unwrap_or_default();
    match preemption::victims(pod, others, &shortages) {
        Ok(victims) => Verdict::Preempt { victims, resource },
        Err(cause) => Verdict::Reject(Rejection::new(
            "UnexpectedAdmissionError",
            format!("Unexpected error while attempting to recover from admission failure: {cause}"),
        )),
    }
}

const NODE_AFFINITY: &str = "NodeAffinity";

/// What the scheduler would refuse the pod for too, all of it, in the order in which the first one is told.
fn refusals(pod: &Pod, others: &[&Admitted], facts: &AdmissionFacts, node: &NodeView) -> Vec<Refusal> {
    let claim = Claim::of(pod);
    let mut refusals: Vec<Refusal> =
        fit::shortages(&claim, others, &node.allocatable).into_iter().map(Refusal::Insufficient).collect();
    let mut refuse = |name, cause| refusals.push(Refusal::Predicate { name, cause });
    if !node_match::matches_node(pod, node) {
        refuse(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector");
    }
    let wanted = pod::spec(pod).node_name.as_deref().filter(|name| !name.is_empty());
    if wanted.is_some_and(|name| name != node.name) {
        refuse("NodeName", "node(s) didn't match the requested node name");
    }
    if !fit::are_ports_free(&claim, others) {
        refuse("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    // Static pods run whatever the taints say.
    let tolerations = tolerations(pod);
    let comparing = facts.settings.compares_taints;
    let untolerated = |taint: &&k8s_openapi::api::core::v1::Taint| {
        taint.effect == "NoExecute" && !node_match::is_tolerated(taint, tolerations, comparing)
    };
    if !pod::is_static(pod) && node.taints.iter().any(|taint| untolerated(&taint)) {
        refuse("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    refusals
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod::spec(pod).tolerations.as_deref().unwrap_or_default()
}

/// While the node evicts pods, it takes only those that would not be evicted at once.
fn under_pressure(pod: &Pod, facts: &AdmissionFacts) -> Result<(), Rejection> {
    if facts.pressures.is_empty() || pod::is_critical(pod) {
        return Ok(());
    }
    if facts.pressures == [Pressure::Memory] {
        let taint = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        let comparing = facts.settings.compares_taints;
        if QosClass::of(pod) != QosClass::BestEffort || node_match::is_tolerated(&taint, tolerations(pod), comparing) {
            return Ok(());
        }
    }
    let names: Vec<&str> = facts.pressures.iter().map(|pressure| pressure.as_str()).collect();
    Err(Rejection::new("Evicted", format!("The node had condition: [{}]. ", names.join(" "))))
}
