//! How much is asked of the runtime at the same time.
//!
//! A runtime is fastest with a few calls under way; more only make each other wait inside it. What someone waits for (starts
//! and stops) goes before what nobody does (removal of what is left).

use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// A stop that takes longer than this no longer counts: it waits for a process to end rather than for a processor.
pub(super) const STOP_PATIENCE: Duration = Duration::from_millis(400);
/// The same for a start: one that hangs, as in a network plugin, must not keep the others from theirs.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(5);
/// Work that nobody waits for is put off for no longer than this.
const PUT_OFF: Duration = Duration::from_secs(10);

/// The limits of all pods together.
#[derive(Debug)]
pub(super) struct Limits {
    foreground: Semaphore,
    total: usize,
    background: Semaphore,
    idle: Notify,
}

/// The right to make a call.
pub(super) struct Permit<'a> {
    limits: &'a Limits,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.permit = None;
        if self.limits.foreground.available_permits() == self.limits.total {
            self.limits.idle.notify_waiters();
        }
    }
}

impl Limits {
    /// At most `parallel` calls that someone waits for.
    pub fn new(parallel: usize) -> Self {
        let total = parallel.max(1);
        Limits {
            foreground: Semaphore::new(total),
            total,
            background: Semaphore::new(total.div_ceil(2)),
            idle: Notify::new(),
        }
    }

    /// Whether calls wait for each other.
    pub fn is_busy(&self) -> bool {
        self.foreground.available_permits() == 0
    }

    /// Waits for the turn of a call that someone waits for.
    pub async fn foreground(&self) -> Permit<'_> {
        // The semaphore is never closed.
        let permit = self.foreground.acquire().await.ok();
        Permit { limits: self, permit }
    }

    /// Makes a call that may take long by itself, such as a stop with a grace period: it gives up its turn after a while.
    pub async fn patient<T>(&self, patience: Duration, call: impl Future<Output = T>) -> T {
        let permit = self.foreground().await;
        tokio::pin!(call);
        // Cancel-safe: the call is pinned outside and goes on after the timer has won.
        tokio::select! {
            result = &mut call => return result,
            () = tokio::time::sleep(patience) => drop(permit),
        }
        call.await
    }

    /// Makes a call that nobody waits for, when nothing else is to be done.
    pub async fn background<T>(&self, call: impl Future<Output = T>) -> T {
        let wait = async {
            loop {
                let idle = self.idle.notified();
                if self.foreground.available_permits() == self.total {
                    return;
                }
                idle.await;
            }
        };
        // Running out of patience is as good as having waited.
        let _ = tokio::time::timeout(PUT_OFF, wait).await;
        let _permit = self.background.acquire().await;
        call.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_run_and_a_slow_one_gives_way() {
        let limits = Limits::new(2);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = async || {
            let _permit = limits.foreground().await;
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.fetch_sub(1, Ordering::SeqCst);
        };
        futures::future::join_all((0..10).map(|_| call())).await;
        assert_eq!(most.load(Ordering::SeqCst), 2);

        let began = tokio::time::Instant::now();
        let slow = limits.patient(STOP_PATIENCE, tokio::time::sleep(Duration::from_secs(30)));
        let also_slow = limits.patient(STOP_PATIENCE, tokio::time::sleep(Duration::from_secs(30)));
        let quick = async {
            limits.patient(STOP_PATIENCE, async {}).await;
            began.elapsed()
        };
        let (_, _, waited) = tokio::join!(slow, also_slow, quick);
        assert_eq!(waited, STOP_PATIENCE);
        assert_eq!(began.elapsed(), Duration::from_secs(30), "the slow ones went on");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_goes_last_but_not_never() {
        let limits = Limits::new(1);
        let began = tokio::time::Instant::now();
        let permit = limits.foreground().await;
        assert!(limits.is_busy());
        let background = limits.background(async { began.elapsed() });
        let release = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(permit);
        };
        let (done, ()) = tokio::join!(background, release);
        assert_eq!(done, Duration::from_secs(3));

        let _held = limits.foreground().await;
        limits.background(async {}).await;
        assert_eq!(began.elapsed(), Duration::from_secs(13));
    }
}
