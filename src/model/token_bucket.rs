//! The token bucket by which requests, pulls and events are limited. A value with the time as an argument.

use std::time::Duration;

/// Tokens that come back with time. `now` is the time since any moment that stays the same.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled_at: Duration,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens, of which `per_second` come back, a number above 0.
    pub fn full(per_second: f64, burst: u32, now: Duration) -> Self {
        let burst = f64::from(burst);
        TokenBucket { per_second, burst, tokens: burst, filled_at: now }
    }

    /// Takes a token, if one is there.
    pub fn try_take(&mut self, now: Duration) -> bool {
        self.fill(now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    /// Takes a token that may yet have to come back, and tells how long that is.
    pub fn reserve(&mut self, now: Duration) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }

    /// A clock that was set back gains nothing and loses nothing.
    fn fill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn reservations_come_at_once_up_to_the_burst_and_then_at_the_rate() {
        let mut bucket = TokenBucket::full(50.0, 3, START);
        let mut waits = |now, number| (0..number).map(|_| bucket.reserve(now).as_millis()).collect::<Vec<_>>();
        assert_eq!(waits(START, 5), [0, 0, 0, 20, 40]);
        assert_eq!(waits(START + Duration::from_secs(60), 4), [0, 0, 0, 20], "never more than the burst");
    }

    #[test]
    fn what_is_not_there_is_not_taken() {
        let mut bucket = TokenBucket::full(2.0, 3, START);
        let mut taken = |after| (0..10).filter(|_| bucket.try_take(START + Duration::from_millis(after))).count();
        assert_eq!([taken(0), taken(499), taken(1000), taken(60_000)], [3, 0, 2, 3]);
        assert_eq!([taken(0), taken(60_000), taken(60_500)], [0, 0, 1], "a clock that was set back");
    }

    proptest! {
        /// In any stretch of time, no more reservations are due than the burst and the rate allow.
        #[test]
        fn never_above_the_rate(gaps in proptest::collection::vec(0u64..200, 1..200), rate in 1u32..100, burst in 1u32..20) {
            let mut bucket = TokenBucket::full(f64::from(rate), burst, START);
            let mut now = START;
            let mut due = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                due.push((now + bucket.reserve(now)).as_secs_f64());
            }
            for (i, first) in due.iter().enumerate() {
                for (n, last) in (1u32..).zip(&due[i..]) {
                    let allowed = f64::from(burst) + (last - first) * f64::from(rate);
                    prop_assert!(f64::from(n) < allowed + 1.001, "{} in {} s", n, last - first);
                }
            }
        }
    }
}
