//! The client-side request limit (`kubeAPIQPS`, `kubeAPIBurst`, `eventRecordQPS`, `eventBurst`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::TokenBucket;

/// The limit of one client's requests.
#[derive(Debug)]
pub(super) struct RequestLimit {
    began: Instant,
    bucket: Option<Mutex<TokenBucket>>,
}

impl RequestLimit {
    /// `per_second` of 0 or less is no limit. A burst below 1 would never let anything through and counts as 1.
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        let is_limited = per_second > 0.0 && per_second.is_finite();
        let bucket = || Mutex::new(TokenBucket::full(per_second, burst.max(1), Duration::ZERO));
        RequestLimit { began: Instant::now(), bucket: is_limited.then(bucket) }
    }

    /// Takes the next request's place and tells how long to wait until it may be sent.
    pub(super) fn reserve(&self) -> Duration {
        match &self.bucket {
            Some(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).reserve(self.began.elapsed()),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_their_turn() {
        let limit = RequestLimit::new(10.0, 0);
        let waits = || [limit.reserve(), limit.reserve()].map(|wait| wait.as_millis());
        assert_eq!(waits(), [0, 100]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(waits(), [0, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_when_rate_is_zero() {
        let limit = RequestLimit::new(0.0, 0);
        assert!((0..1000).all(|_| limit.reserve().is_zero()));
    }
}
