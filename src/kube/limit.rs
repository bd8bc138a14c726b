//! The client-side request limit (`kubeAPIQPS`, `kubeAPIBurst`, `eventRecordQPS`, `eventBurst`): a token bucket.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that hands out reservations: a caller takes its token at once and is told how long to wait for it.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket. A burst below 1 would never let anything through and counts as 1.
    pub(super) fn new(per_second: f64, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        TokenBucket { per_second, burst, tokens: burst, updated: now }
    }

    /// Takes one token and tells how long to wait until it is there.
    pub(super) fn reserve(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.updated = self.updated.max(now);
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst) - 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }
}

/// The limit of one client's requests.
#[derive(Debug)]
pub(super) struct RequestLimit {
    bucket: Option<Mutex<TokenBucket>>,
}

impl RequestLimit {
    /// `per_second` of 0 or less is no limit.
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        let limited = per_second > 0.0 && per_second.is_finite();
        RequestLimit { bucket: limited.then(|| Mutex::new(TokenBucket::new(per_second, burst, Instant::now()))) }
    }

    /// Takes the next request's place and tells how long to wait until it may be sent.
    pub(super) fn reserve(&self) -> Duration {
        match &self.bucket {
            Some(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).reserve(Instant::now()),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn burst_then_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(50.0, 3, start);
        let waits: Vec<u128> = (0..5).map(|_| bucket.reserve(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 20, 40]);
        // Refills no further than its burst.
        let later = start + Duration::from_secs(60);
        let waits: Vec<u128> = (0..4).map(|_| bucket.reserve(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_when_rate_is_zero() {
        let limit = RequestLimit::new(0.0, 0);
        assert!((0..1000).all(|_| limit.reserve().is_zero()));
    }

    proptest! {
        /// In any stretch of time, no more requests are let through than the burst and the rate allow.
        #[test]
        fn never_above_rate(gaps in proptest::collection::vec(0u64..200, 1..200), rate in 1u32..100, burst in 1u32..20) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let start = Instant::now();
                let mut bucket = TokenBucket::new(f64::from(rate), burst, start);
                let mut now = start;
                let mut passes = Vec::new();
                for gap in gaps {
                    now += Duration::from_millis(gap);
                    passes.push((now + bucket.reserve(now)).duration_since(start).as_secs_f64());
                }
                for (i, first) in passes.iter().enumerate() {
                    for (n, last) in passes[i..].iter().enumerate() {
                        let allowed = f64::from(burst) + (last - first) * f64::from(rate);
                        assert!((n as f64) < allowed + 0.001, "{} requests in {} s", n + 1, last - first);
                    }
                }
            });
        }
    }
}
