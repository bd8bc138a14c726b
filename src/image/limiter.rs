//! The token bucket of `registryPullQPS` and `registryBurst`. A value with `now` as an argument.

use tokio::time::Instant;

/// Tokens that come back with time.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: f64,
    capacity: f64,
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    /// A full bucket; none if the rate is 0, which sets no limit.
    pub(super) fn new(per_second: f64, burst: u32, now: Instant) -> Option<Self> {
        let capacity = f64::from(burst);
        (per_second > 0.0).then_some(TokenBucket { per_second, capacity, tokens: capacity, filled_at: now })
    }

    /// Takes a token, if one is there.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.filled_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.capacity);
        self.filled_at = now;
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2.0, 3, start).unwrap();
        let taken = |bucket: &mut TokenBucket, at| (0..10).filter(|_| bucket.try_take(at)).count();
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(499)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(1000)), 2);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(60)), 3, "never more than the burst");
    }

    #[test]
    fn no_rate_no_limit() {
        assert!(TokenBucket::new(0.0, 10, Instant::now()).is_none());
    }
}
