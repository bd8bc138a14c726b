//! The rules on amounts: reserved resources, eviction thresholds, log sizes.

use std::collections::{BTreeMap, BTreeSet};

use super::Faults;
use crate::config::names;
use crate::config::types::KubeletConfiguration;
use crate::model::go_duration::GoDuration;
use crate::model::quantity::{self, Amount};

/// The signals that thresholds can be set for (`evictionapi.Signal`), in the order that messages list them.
const SIGNALS: &[&str] = &[
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
    "allocatableMemory.available",
];

pub(super) fn check(faults: &mut Faults, c: &KubeletConfiguration) {
    reserved(faults, "systemReserved", &c.system_reserved);
    reserved(faults, "kubeReserved", &c.kube_reserved);
    qos_reserved(faults, &c.qos_reserved);
    reserved_memory(faults, c);
    for (field, thresholds) in [("evictionHard", &c.eviction_hard), ("evictionSoft", &c.eviction_soft)] {
        by_signal(faults, field, thresholds, threshold_fault);
    }
    by_signal(faults, "evictionSoftGracePeriod", &c.eviction_soft_grace_period, grace_period_fault);
    by_signal(faults, "evictionMinimumReclaim", &c.eviction_minimum_reclaim, reclaim_fault);
    for (signal, threshold) in &c.eviction_soft {
        let is_off = matches!(threshold.as_str(), "0%" | "100%");
        let has_grace = c.eviction_soft_grace_period.contains_key(signal);
        let allowed = "needs a grace period of that signal in evictionSoftGracePeriod (--eviction-soft-grace-period)";
        faults.require(is_off || has_grace, &format!("evictionSoft[{signal}]"), threshold, allowed);
    }
    let size = &c.container_log_max_size;
    // The peer takes a negative size as "never rotate".
    let is_size = quantity::parse(size).is_ok();
    faults.require(is_size, "containerLogMaxSize", format!("{size:?}"), "must be a quantity of bytes, like 10Mi");
}

fn reserved(faults: &mut Faults, field: &str, amounts: &BTreeMap<String, String>) {
    for (resource, amount) in amounts {
        let field = format!("{field}[{resource}]");
        if !matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid") {
            let allowed = "cannot be reserved, only cpu, memory, ephemeral-storage and pid can";
            faults.add(&field, format!("{amount:?}"), allowed);
            continue;
        }
        let is_amount = quantity::parse(amount).is_ok_and(|amount| !amount.is_negative());
        faults.require(
            is_amount,
            &field,
            format!("{amount:?}"),
            "must be a quantity that is not negative, like 500m or 1Gi",
        );
    }
}

fn qos_reserved(faults: &mut Faults, shares: &BTreeMap<String, String>) {
    for (resource, share) in shares {
        let field = format!("qosReserved[{resource}]");
        if resource != "memory" {
            faults.add(&field, format!("{share:?}"), "cannot be reserved, only memory can");
            continue;
        }
        let percent = share.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
        let is_share = percent.is_some_and(|percent| (0..=100).contains(&percent));
        faults.require(is_share, &field, format!("{share:?}"), "must be a percentage from 0% to 100%");
    }
}

fn reserved_memory(faults: &mut Faults, c: &KubeletConfiguration) {
    let mut seen = BTreeSet::new();
    for reservation in &c.reserved_memory {
        let node = reservation.numa_node;
        for (kind, amount) in &reservation.limits {
            let field = format!("reservedMemory[NUMA node {node}, {kind}]");
            let is_kind = names::is_reservable_memory(kind);
            faults.require(is_kind, &field, &amount.0, "cannot be reserved, only memory and hugepages-<size> can");
            let is_nothing = Amount::from_quantity(amount).is_ok_and(Amount::is_zero);
            faults.require(!is_nothing, &field, &amount.0, "must not be zero");
            faults.require(seen.insert((node, kind)), &field, &amount.0, "must be given once");
        }
    }
}

/// Checks each value of a map from signals with a function that tells what is wrong with it.
fn by_signal(
    faults: &mut Faults,
    field: &str,
    values: &BTreeMap<String, String>,
    fault: fn(&str) -> Option<&'static str>,
) {
    for (signal, value) in values {
        let field = format!("{field}[{signal}]");
        if !SIGNALS.contains(&signal.as_str()) {
            let allowed = format!("is of no known signal, which are {}", SIGNALS.join(", "));
            faults.add(&field, format!("{value:?}"), allowed);
        } else if let Some(allowed) = fault(value) {
            faults.add(&field, format!("{value:?}"), allowed);
        }
    }
}

/// A percentage as a number of hundredths.
fn percentage(value: &str) -> Option<Option<f64>> {
    let number = value.strip_suffix('%')?;
    Some(number.parse().ok().filter(|percent: &f64| percent.is_finite()))
}

fn threshold_fault(value: &str) -> Option<&'static str> {
    let is_good = match percentage(value) {
        Some(percent) => percent.is_some_and(|percent| (0.0..=100.0).contains(&percent)),
        None => quantity::parse(value).is_ok_and(|amount| amount > Amount::ZERO),
    };
    (!is_good).then_some("must be a quantity above zero, like 100Mi, or a percentage from 0% to 100%")
}

fn grace_period_fault(value: &str) -> Option<&'static str> {
    let is_good = value.parse::<GoDuration>().is_ok_and(|period| !period.is_negative());
    (!is_good).then_some("must be a duration that is not negative, like 1m30s")
}

fn reclaim_fault(value: &str) -> Option<&'static str> {
    let is_good = match percentage(value) {
        Some(percent) => percent.is_some_and(|percent| percent > 0.0),
        None => quantity::parse(value).is_ok_and(|amount| !amount.is_negative()),
    };
    (!is_good).then_some("must be a quantity that is not negative, like 1Gi, or a percentage above 0%")
}
