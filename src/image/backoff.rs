//! Back-off of image pulls, one for each pod and image. A value with `now` as an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Wait after the first failure.
pub(super) const FIRST: Duration = Duration::from_secs(10);
/// Longest wait.
pub(super) const LAST: Duration = Duration::from_secs(300);

/// The waits of all keys.
#[derive(Debug, Default)]
pub(super) struct BackOff {
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    failed_at: Instant,
    wait: Duration,
    error: String,
}

/// What holds a pull back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// How long still.
    pub remaining: Duration,
    /// The failure that it waits after, as reason and message.
    pub error: String,
}

impl BackOff {
    /// What holds the key back now; none if it may be tried.
    pub(super) fn held(&self, key: &str, now: Instant) -> Option<Held> {
        let entry = self.entries.get(key)?;
        let remaining = entry.wait.checked_sub(now.duration_since(entry.failed_at)).filter(|r| !r.is_zero())?;
        Some(Held { remaining, error: entry.error.clone() })
    }

    /// Notes a failure; the wait until the next attempt. It doubles unless the last failure is long past.
    pub(super) fn failed(&mut self, key: &str, now: Instant, error: String) -> Duration {
        let previous = self.entries.get(key).filter(|entry| !entry.is_forgotten(now));
        let wait = previous.map_or(FIRST, |entry| (entry.wait * 2).min(LAST));
        self.entries.insert(key.to_owned(), Entry { failed_at: now, wait, error });
        self.collect(now);
        wait
    }

    /// Drops the keys whose failures are long past.
    pub(super) fn collect(&mut self, now: Instant) {
        self.entries.retain(|_, entry| !entry.is_forgotten(now));
    }

    /// Drops the keys that start so: those of a pod that is gone.
    pub(super) fn forget(&mut self, prefix: &str) {
        self.entries.retain(|key, _| !key.starts_with(prefix));
    }
}

impl Entry {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.duration_since(self.failed_at) > LAST * 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn doubles_to_its_bound_and_starts_anew_after_ten_minutes() {
        let mut back_off = BackOff::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..7 {
            let wait = back_off.failed("k", now, "no".to_owned());
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(back_off.held("k", now), None);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        now += Duration::from_secs(300);
        assert_eq!(back_off.failed("k", now, "no".to_owned()), LAST, "600 s after the last failure");
        now += Duration::from_secs(601);
        assert_eq!(back_off.failed("k", now, "no".to_owned()), FIRST);
    }

    #[test]
    fn holds_back_with_the_last_error() {
        let mut back_off = BackOff::default();
        let now = Instant::now();
        back_off.failed("u1_a", now, "ErrImagePull: no such host".to_owned());
        let held = back_off.held("u1_a", now + Duration::from_secs(4)).unwrap();
        assert_eq!(held.remaining, Duration::from_secs(6));
        assert_eq!(held.error, "ErrImagePull: no such host");
        assert_eq!(back_off.held("u2_a", now), None);
        back_off.forget("u1_");
        assert_eq!(back_off.held("u1_a", now), None);
    }

    #[test]
    fn old_keys_do_not_pile_up() {
        let mut back_off = BackOff::default();
        let now = Instant::now();
        back_off.failed("old", now, String::new());
        back_off.failed("new", now + Duration::from_secs(601), String::new());
        assert_eq!(back_off.entries.len(), 1);
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds(gaps in prop::collection::vec(0u64..2000, 1..40)) {
            let mut back_off = BackOff::default();
            let mut now = Instant::now();
            for gap in gaps {
                now += Duration::from_secs(gap);
                let wait = back_off.failed("k", now, String::new());
                prop_assert!((FIRST..=LAST).contains(&wait));
                prop_assert_eq!(back_off.held("k", now).map(|h| h.remaining), Some(wait));
            }
        }
    }
}
