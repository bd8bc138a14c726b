//! The client-side request limit (`kubeAPIQPS`, `kubeAPIBurst`, `eventRecordQPS`, `eventBurst`): a token bucket as a tower layer.
//!
//! The wait is inside the request's future, so that requests that wait do not hold up the service's readiness.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service};

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

/// Limits a service by a bucket shared by all clones.
#[derive(Clone, Debug)]
pub(super) struct LimitLayer {
    bucket: Option<Arc<Mutex<TokenBucket>>>,
}

impl LimitLayer {
    /// `per_second` of 0 or less is no limit.
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        let limited = per_second > 0.0 && per_second.is_finite();
        let bucket = limited.then(|| Arc::new(Mutex::new(TokenBucket::new(per_second, burst, Instant::now()))));
        LimitLayer { bucket }
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limit<S>;

    fn layer(&self, inner: S) -> Limit<S> {
        Limit { inner, bucket: self.bucket.clone() }
    }
}

/// The limited service.
#[derive(Clone, Debug)]
pub(super) struct Limit<S> {
    inner: S,
    bucket: Option<Arc<Mutex<TokenBucket>>>,
}

impl<S, R> Service<R> for Limit<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let wait = match &self.bucket {
            Some(bucket) => bucket.lock().unwrap_or_else(PoisonError::into_inner).reserve(Instant::now()),
            None => Duration::ZERO,
        };
        // The inner future does nothing before its first poll: calling it here keeps the order of reservations.
        let response = self.inner.call(request);
        Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            response.await
        })
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
        let mut service = LimitLayer::new(0.0, 0).layer(tower::service_fn(|n: u32| async move { Ok::<_, ()>(n) }));
        let start = Instant::now();
        for n in 0..1000 {
            assert_eq!(service.call(n).await, Ok(n));
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn clones_share_the_bucket() {
        let layer = LimitLayer::new(10.0, 1);
        let mut one = layer.layer(tower::service_fn(|(): ()| async { Ok::<_, ()>(()) }));
        let mut two = one.clone();
        let start = Instant::now();
        let _ = tokio::join!(one.call(()), two.call(()));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
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
