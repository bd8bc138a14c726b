//! How fast processor time is used: that takes two readings, and nothing runs in between to take them. Pure.
//!
//! Every reading is kept for a while as a baseline of later ones. A rate is the use since the newest baseline that is old
//! enough to be more than noise.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// A window shorter than this is noise.
const SHORTEST: Duration = Duration::from_millis(400);
/// A window that is preferred: the peer reads every ten seconds.
const PREFERRED: Duration = Duration::from_secs(5);
/// A window longer than this says nothing about now.
const LONGEST: Duration = Duration::from_secs(90);
/// Baselines that are kept.
const KEPT: usize = 4;

#[derive(Debug)]
struct Baseline {
    at: Instant,
    /// Nanoseconds of processor time by cgroup.
    usage: BTreeMap<Box<str>, u64>,
}

/// The readings so far.
#[derive(Debug, Default)]
pub(super) struct Rates {
    baselines: VecDeque<Baseline>,
}

impl Rates {
    /// Whether a reading at `now` would have a baseline.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.baseline(now).is_some()
    }

    /// How long to wait after a first reading for a second one.
    pub(super) const FIRST_WINDOW: Duration = Duration::from_millis(500);

    /// Keeps a reading.
    pub(super) fn add<'a>(&mut self, now: Instant, usage: impl IntoIterator<Item = (&'a str, u64)>) {
        self.baselines.retain(|baseline| now.saturating_duration_since(baseline.at) <= LONGEST);
        // Readings in quick succession would push out those that are worth comparing with.
        let newest = self.baselines.back();
        if newest.is_some_and(|newest| now.saturating_duration_since(newest.at) < PREFERRED) && self.is_ready(now) {
            return;
        }
        if self.baselines.len() == KEPT {
            self.baselines.pop_front();
        }
        let usage = usage.into_iter().map(|(path, usage)| (path.into(), usage)).collect();
        self.baselines.push_back(Baseline { at: now, usage });
    }

    /// Nanocores that a cgroup used until `now`; none without a baseline. A cgroup that is younger than the baseline is
    /// measured over its own age.
    pub(super) fn nano_cores(&self, now: Instant, path: &str, usage: u64, age: Option<Duration>) -> Option<u64> {
        let baseline = self.baseline(now)?;
        let window = now.saturating_duration_since(baseline.at);
        let (before, window) = match baseline.usage.get(path) {
            Some(before) => (*before, window),
            None => (0, age?.min(window).max(SHORTEST)),
        };
        // Counted anew under the same name: the use since then.
        let used = usage.checked_sub(before).unwrap_or(usage);
        let nano_cores = u128::from(used) * 1_000_000_000 / window.as_nanos().max(1);
        u64::try_from(nano_cores).ok()
    }

    fn baseline(&self, now: Instant) -> Option<&Baseline> {
        let age = |baseline: &&Baseline| now.saturating_duration_since(baseline.at);
        let usable = || self.baselines.iter().filter(|b| (SHORTEST..=LONGEST).contains(&age(b)));
        usable().filter(|b| age(b) >= PREFERRED).min_by_key(age).or_else(|| usable().max_by_key(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_newest_baseline_that_is_old_enough_counts() {
        let start = Instant::now();
        let mut rates = Rates::default();
        assert!(!rates.is_ready(start));
        rates.add(start, [("/a", 0)]);
        assert_eq!(rates.nano_cores(start + SECOND / 10, "/a", 5, None), None);
        assert_eq!(rates.nano_cores(start + SECOND, "/a", 500_000_000, None), Some(500_000_000));
        rates.add(start + 6 * SECOND, [("/a", 1_000_000_000)]);
        rates.add(start + 12 * SECOND, [("/a", 4_000_000_000)]);
        // Compared with the second reading, which is 7 s old, not with the last one.
        assert_eq!(rates.nano_cores(start + 13 * SECOND, "/a", 8_000_000_000, None), Some(1_000_000_000));
        assert!(!rates.is_ready(start + 200 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn quick_readings_do_not_push_out_the_baseline() {
        let start = Instant::now();
        let mut rates = Rates::default();
        for step in 0..100 {
            rates.add(start + SECOND * step / 10, [("/a", u64::from(step))]);
        }
        assert!(rates.baselines.len() <= KEPT);
        let window = start + 10 * SECOND;
        assert!(rates.baseline(window).is_some_and(|b| window - b.at >= PREFERRED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_young_cgroup_is_measured_over_its_age_and_a_recounted_one_from_zero() {
        let start = Instant::now();
        let mut rates = Rates::default();
        rates.add(start, [("/a", 900)]);
        let now = start + 10 * SECOND;
        assert_eq!(rates.nano_cores(now, "/new", 1_000_000_000, Some(2 * SECOND)), Some(500_000_000));
        assert_eq!(rates.nano_cores(now, "/new", 1_000_000_000, None), None);
        assert_eq!(rates.nano_cores(now, "/a", 10, None), Some(1));
    }
}
