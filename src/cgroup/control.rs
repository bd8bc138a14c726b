//! From values to control files and their contents on each version of cgroups. Pure.

use crate::model::linux_resources::{cpu_weight, huge_page_unit};

use super::hierarchy::Version;
use super::values::{CgroupValues, HugePages};

/// No limit on huge pages: more than any machine has.
const UNBOUNDED_HUGE_PAGES: i64 = 1 << 62;

/// One content for one control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The controller whose hierarchy holds the file; empty for files that belong to none.
    pub controller: &'static str,
    /// The file's name.
    pub file: String,
    /// What is written.
    pub content: String,
    /// Whether a kernel without the file is fine.
    pub optional: bool,
}

impl Setting {
    fn new(controller: &'static str, file: impl Into<String>, content: impl ToString) -> Self {
        Setting { controller, file: file.into(), content: content.to_string(), optional: false }
    }
}

/// The file that a cgroup's CPU share stands in, and the content that the kernel gives a new cgroup: since it is set last
/// and on every pod, it tells a cgroup that was made but not finished.
pub fn cpu_share_file(version: Version) -> (&'static str, &'static str) {
    match version {
        Version::V1 => ("cpu.shares", "1024"),
        Version::V2 => ("cpu.weight", "100"),
    }
}

/// The settings that put values into force, in their order. `page_sizes` are the node's huge page sizes in the kernel's
/// spelling; none if the hugetlb controller is not there.
pub fn settings(values: &CgroupValues, version: Version, page_sizes: &[String]) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(limit) = values.pids {
        settings.push(Setting::new("pids", "pids.max", pids_content(limit)));
    }
    if let Some(bytes) = values.memory_bytes.filter(|bytes| *bytes != 0) {
        settings.push(match version {
            Version::V1 => Setting::new("memory", "memory.limit_in_bytes", bytes.max(-1)),
            Version::V2 if bytes < 0 => Setting::new("memory", "memory.max", "max"),
            Version::V2 => Setting::new("memory", "memory.max", bytes),
        });
    }
    if let Some(huge_pages) = &values.huge_pages {
        settings.extend(huge_page_settings(huge_pages, version, page_sizes));
    }
    if version == Version::V2 {
        for (file, content) in &values.unified {
            settings.push(Setting::new("", file.clone(), content));
        }
    }
    settings.extend(quota_settings(values, version));
    if let Some(shares) = values.cpu_shares {
        let (file, _) = cpu_share_file(version);
        let content = if version == Version::V1 { shares } else { cpu_weight(shares) };
        settings.push(Setting::new("cpu", file, content));
    }
    settings
}

// systemd cannot set 0, so both drivers make it 1, which forbids as much.
fn pids_content(limit: i64) -> String {
    match limit {
        ..0 => "max".to_owned(),
        0 => "1".to_owned(),
        limit => limit.to_string(),
    }
}

fn quota_settings(values: &CgroupValues, version: Version) -> Vec<Setting> {
    let quota = values.cpu_quota_us.filter(|quota| *quota != 0);
    let mut settings = Vec::new();
    match version {
        Version::V1 => {
            if let Some(period) = values.cpu_period_us {
                settings.push(Setting::new("cpu", "cpu.cfs_period_us", period));
            }
            if let Some(quota) = quota {
                settings.push(Setting::new("cpu", "cpu.cfs_quota_us", quota.max(-1)));
            }
        }
        Version::V2 => {
            if quota.is_some() || values.cpu_period_us.is_some() {
                let limit = quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
                let period = values.cpu_period_us.unwrap_or(crate::model::linux_resources::DEFAULT_CPU_PERIOD_US);
                settings.push(Setting::new("cpu", "cpu.max", format!("{limit} {period}")));
            }
        }
    }
    settings
}

fn huge_page_settings(huge_pages: &HugePages, version: Version, page_sizes: &[String]) -> Vec<Setting> {
    let suffix = if version == Version::V1 { "limit_in_bytes" } else { "max" };
    let limit_of = |unit: &str| match huge_pages {
        HugePages::Unbounded => UNBOUNDED_HUGE_PAGES,
        HugePages::Only(limits) => {
            let named = limits.iter().find(|(size, _)| huge_page_unit(**size).as_deref() == Some(unit));
            named.map_or(0, |(_, bytes)| (*bytes).max(0))
        }
    };
    let of_size = |unit: &String| {
        let limit = limit_of(unit);
        // Reservations are limited apart from use on kernels since 5.7.
        let reserved = Setting::new("hugetlb", format!("hugetlb.{unit}.rsvd.{suffix}"), limit);
        [Setting::new("hugetlb", format!("hugetlb.{unit}.{suffix}"), limit), Setting { optional: true, ..reserved }]
    };
    page_sizes.iter().flat_map(of_size).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn text(values: &CgroupValues, version: Version, page_sizes: &[&str]) -> Vec<String> {
        let page_sizes: Vec<String> = page_sizes.iter().map(|size| (*size).to_owned()).collect();
        let settings = settings(values, version, &page_sizes).into_iter();
        settings.map(|s| format!("{}={}{}", s.file, s.content, if s.optional { "?" } else { "" })).collect()
    }

    fn full() -> CgroupValues {
        CgroupValues {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(1 << 30),
            pids: Some(100),
            huge_pages: Some(HugePages::Only(BTreeMap::from([(2 << 20, 4 << 20)]))),
            unified: BTreeMap::from([("memory.low".to_owned(), "5".to_owned())]),
        }
    }

    #[test]
    fn v1() {
        let expected = [
            "pids.max=100",
            "memory.limit_in_bytes=1073741824",
            "hugetlb.2MB.limit_in_bytes=4194304",
            "hugetlb.2MB.rsvd.limit_in_bytes=4194304?",
            "hugetlb.1GB.limit_in_bytes=0",
            "hugetlb.1GB.rsvd.limit_in_bytes=0?",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpu.shares=1024",
        ];
        assert_eq!(text(&full(), Version::V1, &["2MB", "1GB"]), expected);
    }

    #[test]
    fn v2() {
        let expected = [
            "pids.max=100",
            "memory.max=1073741824",
            "hugetlb.2MB.max=4194304",
            "hugetlb.2MB.rsvd.max=4194304?",
            "memory.low=5",
            "cpu.max=50000 100000",
            "cpu.weight=39",
        ];
        assert_eq!(text(&full(), Version::V2, &["2MB"]), expected);
    }

    #[test]
    fn what_is_not_given_is_not_written() {
        for version in [Version::V1, Version::V2] {
            assert!(text(&CgroupValues::default(), version, &["2MB"]).is_empty());
        }
    }

    #[test]
    fn no_limit_is_spelt_by_version() {
        let values = CgroupValues {
            cpu_quota_us: Some(-1),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(-1),
            pids: Some(-1),
            huge_pages: Some(HugePages::Unbounded),
            ..CgroupValues::default()
        };
        let v1 = text(&values, Version::V1, &["2MB"]);
        assert_eq!(
            v1[..3],
            ["pids.max=max", "memory.limit_in_bytes=-1", "hugetlb.2MB.limit_in_bytes=4611686018427387904"]
        );
        assert_eq!(v1[4..], ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1"]);
        let v2 = text(&values, Version::V2, &[]);
        assert_eq!(v2, ["pids.max=max", "memory.max=max", "cpu.max=max 100000"]);
    }

    #[test]
    fn no_process_at_all_is_one_at_most() {
        let values =
            CgroupValues { pids: Some(0), memory_bytes: Some(0), cpu_quota_us: Some(0), ..CgroupValues::default() };
        assert_eq!(text(&values, Version::V2, &[]), ["pids.max=1"]);
    }
}
