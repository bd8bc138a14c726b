//! Whether a pod's node selector and required node affinity match the node, and its tolerations the node's taints (peer:
//! `component-helpers/scheduling/corev1`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use super::NodeView;
use crate::model::pod;

/// Whether the node is one that the pod may run on by `spec.nodeSelector` and the required part of its node affinity.
pub(super) fn matches_node(pod: &Pod, node: &NodeView) -> bool {
    let spec = pod::spec(pod);
    let has_labels = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    has_labels && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// A term without requirements, and one with a requirement that makes no sense, matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| has_label(requirement, &node.labels))
        && fields.iter().all(|requirement| has_field(requirement, node))
}

fn has_label(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let value = labels.get(&requirement.key);
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => !values.is_empty() && value.is_none_or(|value| !values.contains(value)),
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        "Gt" | "Lt" => {
            let [bound] = values else { return false };
            let (Some(value), Some(bound)) = (value.and_then(|value| integer(value)), integer(bound)) else {
                return false;
            };
            if requirement.operator == "Gt" { value > bound } else { value < bound }
        }
        _ => false,
    }
}

/// Only the name can be asked for, with exactly one value.
fn has_field(requirement: &NodeSelectorRequirement, node: &NodeView) -> bool {
    let [wanted] = requirement.values.as_deref().unwrap_or_default() else { return false };
    let value = if requirement.key == "metadata.name" { node.name.as_str() } else { "" };
    match requirement.operator.as_str() {
        "In" => value == wanted,
        "NotIn" => value != wanted,
        _ => false,
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// Whether one of the tolerations tolerates the taint. `comparing`: whether the operators `Gt` and `Lt` exist.
pub(super) fn is_tolerated(taint: &Taint, tolerations: &[Toleration], comparing: bool) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let tolerates = |toleration: &Toleration| {
        let (effect, key) = (text(&toleration.effect), text(&toleration.key));
        if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
            return false;
        }
        let (own, value) = (text(&toleration.value), text(&taint.value));
        match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => own == value,
            "Exists" => true,
            "Gt" if comparing => matches!((decimal(&value), decimal(&own)), (Some(taint), Some(own)) if taint > own),
            "Lt" if comparing => matches!((decimal(&value), decimal(&own)), (Some(taint), Some(own)) if taint < own),
            _ => false,
        }
    };
    tolerations.iter().any(tolerates)
}

/// An integer in its one way of writing: without a plus sign and leading zeros.
fn decimal(text: &str) -> Option<i64> {
    let value = integer(text)?;
    (value.to_string() == text).then_some(value)
}
