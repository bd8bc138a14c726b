//! What systemd gets of a cgroup: the slice's unit name, how it is made, and the properties that stand for its values. Pure.
//!
//! systemd writes its units' values into the cgroups when it likes (daemon-reload), so it has to know them, besides the
//! control files that are written directly. Properties: systemd.resource-control(5), chosen as libcontainer does.

use crate::model::linux_resources::{DEFAULT_CPU_PERIOD_US, cpu_weight};
use crate::sys::systemd::Property;

use super::hierarchy::Version;
use super::name::{CgroupName, Driver};
use super::values::CgroupValues;

/// The slice that all others are below.
const ROOT_SLICE: &str = "-.slice";
/// systemd's "no limit".
const INFINITY: u64 = u64::MAX;
/// Since this version the CFS period is a property.
const PERIOD_SINCE: u32 = 242;
/// systemd keeps a quota in whole percent of a processor: microseconds per second are multiples of this.
const QUOTA_STEP_US: i64 = 10_000;

/// The name of a cgroup's slice unit.
pub fn unit(name: &CgroupName) -> String {
    let path = name.path(Driver::Systemd);
    path.rsplit('/').next().filter(|last| !last.is_empty()).unwrap_or(ROOT_SLICE).to_owned()
}

/// The slice unit above a cgroup's.
fn parent_unit(name: &CgroupName) -> String {
    let path = name.path(Driver::Systemd);
    path.rsplit('/').nth(1).filter(|parent| !parent.is_empty()).unwrap_or(ROOT_SLICE).to_owned()
}

/// The properties that a cgroup's slice is made with: all accounting on, so that its controllers are at work from the
/// beginning, and no dependencies that would stop it before its pods at shutdown.
pub fn creation(name: &CgroupName, version: Version) -> Vec<Property> {
    let io = if version == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
    vec![
        Property::new("Description", format!("cgroup {}", name.path(Driver::Cgroupfs))),
        Property::new("Wants", vec![parent_unit(name)]),
        Property::new("MemoryAccounting", true),
        Property::new("CPUAccounting", true),
        Property::new(io, true),
        Property::new("TasksAccounting", true),
        Property::new("DefaultDependencies", false),
    ]
}

/// The properties that stand for values, of those that systemd knows. `systemd` is its version.
pub fn properties(values: &CgroupValues, version: Version, systemd: u32) -> Vec<Property> {
    let mut properties = Vec::new();
    if let Some(bytes) = values.memory_bytes.filter(|bytes| *bytes != 0) {
        let name = if version == Version::V1 { "MemoryLimit" } else { "MemoryMax" };
        properties.push(Property::new(name, u64::try_from(bytes).unwrap_or(INFINITY)));
    }
    if let Some(shares) = values.cpu_shares {
        properties.push(match version {
            Version::V1 => Property::new("CPUShares", shares),
            Version::V2 => Property::new("CPUWeight", cpu_weight(shares)),
        });
    }
    let period = values.cpu_period_us.filter(|period| *period > 0);
    if let Some(period) = period.and_then(|period| u64::try_from(period).ok())
        && systemd >= PERIOD_SINCE
    {
        properties.push(Property::new("CPUQuotaPeriodUSec", period));
    }
    let quota = values.cpu_quota_us.filter(|quota| *quota != 0);
    if quota.is_some() || period.is_some() {
        let per_second = quota.filter(|quota| *quota > 0).map(|quota| quota_per_second(quota, values));
        let per_second = per_second.and_then(|quota| u64::try_from(quota).ok()).unwrap_or(INFINITY);
        properties.push(Property::new("CPUQuotaPerSecUSec", per_second));
    }
    if let Some(limit) = values.pids {
        // systemd cannot set 0.
        properties.push(Property::new("TasksMax", u64::try_from(limit).map_or(INFINITY, |limit| limit.max(1))));
    }
    if version == Version::V2 {
        properties.extend(values.unified.iter().filter_map(|(file, content)| unified(file, content)));
    }
    properties
}

fn unified(file: &str, content: &str) -> Option<Property> {
    let name = match file {
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.max" => "MemoryMax",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        _ => return None,
    };
    let number = if content == "max" { INFINITY } else { content.parse().ok()? };
    Some(Property::new(name, number))
}

fn quota_per_second(quota: i64, values: &CgroupValues) -> i64 {
    let per_second = i128::from(quota) * 1_000_000 / i128::from(period(values));
    let step = i128::from(QUOTA_STEP_US);
    i64::try_from((per_second + step - 1) / step * step).unwrap_or(i64::MAX)
}

fn period(values: &CgroupValues) -> i64 {
    values.cpu_period_us.filter(|period| *period > 0).unwrap_or(DEFAULT_CPU_PERIOD_US)
}

/// The values with the quota as systemd keeps it, rounded up to a percent of a processor: what is written to the control
/// file must be the same, or systemd would raise it later, and containers below could not have what they ask for.
pub fn as_kept(values: &CgroupValues) -> CgroupValues {
    let kept = |quota: i64| {
        let kept = i128::from(quota_per_second(quota, values)) * i128::from(period(values)) / 1_000_000;
        // A whole percent stays, whatever the division lost.
        i64::try_from(kept).unwrap_or(i64::MAX).max(quota)
    };
    let cpu_quota_us = values.cpu_quota_us.map(|quota| if quota > 0 { kept(quota) } else { quota });
    CgroupValues { cpu_quota_us, ..values.clone() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::sys::systemd::PropertyValue;

    fn brief(properties: &[Property]) -> Vec<String> {
        let text = |value: &PropertyValue| match value {
            PropertyValue::Number(INFINITY) => "infinity".to_owned(),
            PropertyValue::Number(number) => number.to_string(),
            PropertyValue::Flag(flag) => flag.to_string(),
            PropertyValue::Text(text) => text.clone(),
            PropertyValue::Texts(texts) => texts.join(","),
        };
        properties.iter().map(|property| format!("{}={}", property.name, text(&property.value))).collect()
    }

    #[rstest]
    #[case("/", "-.slice", "-.slice")]
    #[case("/kubepods", "kubepods.slice", "-.slice")]
    #[case("/kubepods/burstable", "kubepods-burstable.slice", "kubepods.slice")]
    #[case("/kubepods/podab-cd", "kubepods-podab_cd.slice", "kubepods.slice")]
    #[case("/kubelet/kubepods", "kubelet-kubepods.slice", "kubelet.slice")]
    fn units_and_their_parents(#[case] path: &str, #[case] own: &str, #[case] parent: &str) {
        let name = CgroupName::from_cgroupfs(path).unwrap();
        assert_eq!((unit(&name).as_str(), parent_unit(&name).as_str()), (own, parent));
    }

    #[test]
    fn a_slice_is_made_with_accounting_and_without_dependencies() {
        let name = CgroupName::from_cgroupfs("/kubepods/burstable").unwrap();
        let expected = [
            "Description=cgroup /kubepods/burstable",
            "Wants=kubepods.slice",
            "MemoryAccounting=true",
            "CPUAccounting=true",
            "IOAccounting=true",
            "TasksAccounting=true",
            "DefaultDependencies=false",
        ];
        assert_eq!(brief(&creation(&name, Version::V2)), expected);
        assert_eq!(brief(&creation(&name, Version::V1))[4], "BlockIOAccounting=true");
    }

    fn full() -> CgroupValues {
        CgroupValues {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(1 << 30),
            pids: Some(100),
            unified: BTreeMap::from([("memory.low".to_owned(), "5".to_owned()), ("other".to_owned(), "6".to_owned())]),
            ..CgroupValues::default()
        }
    }

    #[rstest]
    #[case::v2(Version::V2, 252, &["MemoryMax=1073741824", "CPUWeight=39", "CPUQuotaPeriodUSec=100000",
        "CPUQuotaPerSecUSec=500000", "TasksMax=100", "MemoryLow=5"])]
    #[case::v1(Version::V1, 252, &["MemoryLimit=1073741824", "CPUShares=1024", "CPUQuotaPeriodUSec=100000",
        "CPUQuotaPerSecUSec=500000", "TasksMax=100"])]
    #[case::old(Version::V1, 239, &["MemoryLimit=1073741824", "CPUShares=1024", "CPUQuotaPerSecUSec=500000", "TasksMax=100"])]
    fn all_values(#[case] version: Version, #[case] systemd: u32, #[case] expected: &[&str]) {
        assert_eq!(brief(&properties(&full(), version, systemd)), expected);
    }

    #[test]
    fn no_limit_is_infinity_and_what_is_not_given_is_not_set() {
        let unlimited = CgroupValues {
            cpu_quota_us: Some(-1),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(-1),
            pids: Some(-1),
            unified: BTreeMap::from([("memory.high".to_owned(), "max".to_owned())]),
            ..CgroupValues::default()
        };
        let expected = [
            "MemoryMax=infinity",
            "CPUQuotaPeriodUSec=100000",
            "CPUQuotaPerSecUSec=infinity",
            "TasksMax=infinity",
            "MemoryHigh=infinity",
        ];
        assert_eq!(brief(&properties(&unlimited, Version::V2, 252)), expected);
        assert!(properties(&CgroupValues::default(), Version::V2, 252).is_empty());
        let zero =
            CgroupValues { pids: Some(0), memory_bytes: Some(0), cpu_quota_us: Some(0), ..CgroupValues::default() };
        assert_eq!(brief(&properties(&zero, Version::V2, 252)), ["TasksMax=1"]);
    }

    #[rstest]
    #[case::whole_percents_stay(50_000, 100_000, 500_000, 50_000)]
    #[case::fractions_go_up(1_100, 100_000, 20_000, 2_000)]
    #[case::by_the_period(5_500, 50_000, 110_000, 5_500)]
    #[case::short_periods(1_001, 1_000, 1_010_000, 1_010)]
    fn quotas_are_whole_percents(#[case] quota: i64, #[case] period: i64, #[case] per_second: u64, #[case] kept: i64) {
        let values = CgroupValues { cpu_quota_us: Some(quota), cpu_period_us: Some(period), ..CgroupValues::default() };
        assert!(properties(&values, Version::V2, 252).contains(&Property::new("CPUQuotaPerSecUSec", per_second)));
        assert_eq!(as_kept(&values).cpu_quota_us, Some(kept));
    }

    proptest! {
        #[test]
        fn a_kept_quota_is_at_most_a_percent_higher_and_stays(quota in 1_000i64..1 << 40, period in 1_000i64..=1_000_000) {
            let values = CgroupValues { cpu_quota_us: Some(quota), cpu_period_us: Some(period), ..CgroupValues::default() };
            let kept = as_kept(&values);
            let more = kept.cpu_quota_us.unwrap() - quota;
            prop_assert!((0..=period / 100 + 1).contains(&more), "{more}");
            prop_assert_eq!(as_kept(&kept), kept);
        }
    }
}
