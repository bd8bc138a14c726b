//! Which files of a container's log are removed and compressed when it is rotated (peer: `kubelet/logs`): decided from their
//! names alone.

use crate::model::{SignedDuration, Timestamp};

/// The end of a compressed file's name.
pub(super) const COMPRESSED: &str = ".gz";
/// The end of the name of a file that is being compressed.
pub(super) const UNFINISHED: &str = ".tmp";

/// What is done before the log itself takes the place of the newest rotated file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Files to remove, the oldest first.
    pub remove: Vec<String>,
    /// Files to compress.
    pub compress: Vec<String>,
}

/// Plans the rotation of the log of that name. `names` are those of the files beside it; of the files of the log, itself and
/// the newest rotated one included, `max_files` are left.
pub(super) fn plan(log: &str, names: &[String], max_files: usize) -> Plan {
    let is_of_log = |name: &&String| name.strip_prefix(log).is_some_and(|rest| rest.starts_with('.'));
    let is_left_over = |name: &&String| {
        let is_superseded = !name.ends_with(COMPRESSED) && names.contains(&format!("{name}{COMPRESSED}"));
        name.ends_with(UNFINISHED) || is_superseded
    };
    let (left_over, mut rotated): (Vec<&String>, Vec<&String>) =
        names.iter().filter(is_of_log).partition(|name| is_left_over(name));
    // Their names end in the time of their rotation.
    rotated.sort_unstable();
    let excess = rotated.len().saturating_sub(max_files.saturating_sub(2));
    let kept = rotated.split_off(excess);
    Plan {
        remove: left_over.into_iter().chain(rotated).cloned().collect(),
        compress: kept.into_iter().filter(|name| !name.ends_with(COMPRESSED)).cloned().collect(),
    }
}

/// The name that a log gets when it is rotated; `utc_offset` is that of the machine's time zone, seconds.
pub(super) fn rotated_name(log: &str, at: Timestamp, utc_offset: i32) -> String {
    let local = at.checked_add(SignedDuration::from_secs(utc_offset.into())).unwrap_or(at);
    format!("{log}.{}", local.strftime("%Y%m%d-%H%M%S"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn older_files_are_compressed_and_the_oldest_removed() {
        let there = names(&["0.log", "1.log.20260101-000000", "0.log.20260101-000003", "0.log.20260101-000001.gz"]);
        let expected = Plan { remove: vec![], compress: names(&["0.log.20260101-000003"]) };
        assert_eq!(plan("0.log", &there, 5), expected);
        assert_eq!(plan("0.log", &there, 4), expected);
        assert_eq!(plan("0.log", &there, 3), Plan { remove: names(&["0.log.20260101-000001.gz"]), ..expected });
        let all = names(&["0.log.20260101-000001.gz", "0.log.20260101-000003"]);
        assert_eq!(plan("0.log", &there, 2), Plan { remove: all, compress: vec![] });
    }

    #[test]
    fn what_an_earlier_rotation_left_is_removed() {
        let there = names(&["0.log", "0.log.1", "0.log.1.gz", "0.log.2", "0.log.2.tmp"]);
        let expected = Plan { remove: names(&["0.log.1", "0.log.2.tmp"]), compress: names(&["0.log.2"]) };
        assert_eq!(plan("0.log", &there, 5), expected);
    }

    #[test]
    fn names_tell_the_local_time() {
        let at = "2026-01-02T23:30:05.9Z".parse().unwrap();
        assert_eq!(rotated_name("0.log", at, 0), "0.log.20260102-233005");
        assert_eq!(rotated_name("0.log", at, 3600), "0.log.20260103-003005");
    }

    proptest! {
        #[test]
        fn the_log_and_others_are_left_alone_and_few_files_remain(
            there in prop::collection::btree_set("[01]\\.log(\\.[1-9](\\.gz|\\.tmp)?)?", 0..12), max_files in 2_usize..6,
        ) {
            let there: Vec<String> = there.into_iter().collect();
            let planned = plan("0.log", &there, max_files);
            for name in planned.remove.iter().chain(&planned.compress) {
                prop_assert!(name.starts_with("0.log.") && there.contains(name));
            }
            let is_left = |name: &&String| name.starts_with("0.log.") && !planned.remove.contains(name);
            prop_assert!(there.iter().filter(is_left).count() <= max_files - 2);
            prop_assert!(planned.compress.iter().all(|name| !planned.remove.contains(name)));
        }
    }
}
