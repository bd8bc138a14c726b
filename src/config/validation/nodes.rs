//! The rules on what the node shows of itself, and on flags that have no field.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Faults, Violation};
use crate::config::flags::Flags;
use crate::config::names;
use crate::config::types::KubeletConfiguration;

pub(super) fn check(faults: &mut Faults, c: &KubeletConfiguration, flags: &Flags) {
    taints(faults, c);
    addresses(faults, c);
    if !matches!(flags.cloud_provider.as_str(), "" | "external") {
        flag(faults, "--cloud-provider", &format!("{:?}", flags.cloud_provider), "must be empty or \"external\"");
    }
    if flags.exit_on_lock_contention && flags.lock_file.is_none() {
        flag(faults, "--exit-on-lock-contention", "true", "needs --lock-file to be set");
    }
}

fn flag(faults: &mut Faults, flag: &str, value: &str, allowed: &str) {
    faults.violations.push(Violation {
        setting: flag.to_owned(),
        value: value.to_owned(),
        allowed: allowed.to_owned(),
    });
}

pub(super) fn check_labels(faults: &mut Faults, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        let shown = format!("{key}={value}");
        if names::is_forbidden_node_label(key) {
            let allowed = format!(
                "is a label of Kubernetes that a node may not set on itself; of kubernetes.io and k8s.io it may set those \
                 of {} and {}",
                names::NODE_LABEL_NAMESPACES.join(", "),
                names::NODE_LABELS.join(", ")
            );
            flag(faults, "--node-labels", &shown, &allowed);
        }
        if let Err(problem) = names::check_qualified_name(key) {
            flag(faults, "--node-labels", &shown, &format!("has a bad key: {problem}"));
        }
        if let Err(problem) = names::check_label_value(value) {
            flag(faults, "--node-labels", &shown, &format!("has a bad value: {problem}"));
        }
    }
}

fn taints(faults: &mut Faults, c: &KubeletConfiguration) {
    for (position, taint) in c.register_with_taints.iter().enumerate() {
        let field = format!("registerWithTaints[{position}]");
        let value = taint.value.as_deref().unwrap_or_default();
        let shown = format!("{}={value}:{}", taint.key, taint.effect);
        if let Err(problem) = names::check_qualified_name(&taint.key) {
            faults.add(&field, &shown, format!("has a bad key: {problem}"));
        }
        if let Err(problem) = names::check_label_value(value) {
            faults.add(&field, &shown, format!("has a bad value: {problem}"));
        }
        if !taint.effect.is_empty()
            && let Err(problem) = names::check_taint_effect(&taint.effect)
        {
            faults.add(&field, &shown, problem);
        }
        faults.require(taint.time_added.is_none(), &field, &shown, "must not have timeAdded set");
    }
}

/// The peer fails on these when it binds, later in its start and less clearly.
fn addresses(faults: &mut Faults, c: &KubeletConfiguration) {
    for (field, address, is_used) in
        [("address", &c.address, c.enable_server), ("healthzBindAddress", &c.healthz_bind_address, c.healthz_port > 0)]
    {
        let is_address = address.parse::<IpAddr>().is_ok();
        faults.require(is_address || !is_used, field, format!("{address:?}"), "must be an IP address");
    }
}
