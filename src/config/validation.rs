//! Holds settings to what is allowed (`ValidateKubeletConfiguration` and the checks that the peer makes later in its start).
//!
//! All faults are found, not the first alone, and each names the setting, its value and what is allowed.

mod fields;
mod nodes;
mod quantities;

use std::collections::BTreeMap;
use std::fmt;

use super::ConfigError;
use super::flags::{Flags, flag_of_field};
use super::gates::FeatureGates;
use super::types::KubeletConfiguration;

/// A value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field of the configuration file, with its flag if it has one, or the flag alone.
    pub setting: String,
    /// Its value; empty if it is absent.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.value.is_empty() { "(empty)" } else { &self.value };
        write!(f, "{} {value} {}", self.setting, self.allowed)
    }
}

/// The faults found so far.
#[derive(Default)]
struct Faults {
    violations: Vec<Violation>,
}

impl Faults {
    /// A fault of a field of the configuration file.
    fn add(&mut self, field: &str, value: impl fmt::Display, allowed: impl Into<String>) {
        // Inner fields of a list or map have no flag of their own.
        let outer = field.split(['[', ' ']).next().unwrap_or(field);
        let setting = match flag_of_field(outer) {
            Some(flag) => format!("{field} (--{flag})"),
            None => field.to_owned(),
        };
        self.violations.push(Violation { setting, value: value.to_string(), allowed: allowed.into() });
    }

    /// A fault unless something holds.
    fn require(&mut self, holds: bool, field: &str, value: impl fmt::Display, allowed: &str) {
        if !holds {
            self.add(field, value, allowed);
        }
    }

    /// A fault unless the value is one of those.
    fn require_one_of(&mut self, field: &str, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let list: Vec<String> = allowed.iter().map(|item| format!("{item:?}")).collect();
            self.add(field, format!("{value:?}"), format!("must be one of {}", list.join(", ")));
        }
    }

    fn into_result(self) -> Result<(), ConfigError> {
        if self.violations.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { violations: self.violations }) }
    }
}

/// Checks all settings that can be checked without looking at the host.
pub(super) fn check(
    configuration: &KubeletConfiguration,
    flags: &Flags,
    gates: &FeatureGates,
) -> Result<(), ConfigError> {
    let mut faults = Faults::default();
    fields::check(&mut faults, configuration, gates);
    quantities::check(&mut faults, configuration);
    nodes::check(&mut faults, configuration, flags);
    faults.into_result()
}

/// Checks `--node-labels`, which the peer does before it reads any file.
pub(super) fn check_node_labels(labels: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let mut faults = Faults::default();
    nodes::check_labels(&mut faults, labels);
    faults.into_result()
}

/// Checks what depends on the host's cgroup version.
pub fn validate_for_cgroup(configuration: &KubeletConfiguration, is_cgroup_v1: bool) -> Result<(), ConfigError> {
    let mut faults = Faults::default();
    if is_cgroup_v1 {
        faults.require(
            !configuration.fail_cgroup_v1,
            "failCgroupV1",
            configuration.fail_cgroup_v1,
            "must be false on this host, which uses cgroup v1: cgroup v1 is unsupported and will be removed in a later release",
        );
        faults.require(
            configuration.single_process_oom_kill != Some(false),
            "singleProcessOOMKill",
            false,
            "must not be false on cgroup v1",
        );
        faults.require(
            configuration.memory_swap.swap_behavior != "LimitedSwap",
            "memorySwap.swapBehavior",
            "\"LimitedSwap\"",
            "needs cgroup v2",
        );
    }
    faults.into_result()
}

#[cfg(test)]
mod tests;
