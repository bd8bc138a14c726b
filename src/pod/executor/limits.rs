//! How much is asked of the runtime at the same time.
//!
//! A runtime is fastest with a few calls under way; more only make each other wait inside it. What someone waits for (starts
//! and stops) goes before what nobody does (removal of what is left), and a pod that has begun to start goes before one that
//! has not: of many pods one after the other becomes ready, instead of all of them at the very end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

/// A stop that takes longer than this no longer counts: it waits for a process to end rather than for a processor.
pub(super) const STOP_PATIENCE: Duration = Duration::from_millis(400);
/// The same for a start: one that hangs, as in a network plugin, must not keep the others from theirs.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(5);
/// Work that nobody waits for is put off for no longer than this.
const PUT_OFF: Duration = Duration::from_secs(10);

/// The place of a call among those that someone waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next call of a pod that has begun to start, or to end.
    GoesOn,
    /// The first call of a pod that starts, or of one that ends.
    Begins,
}

/// The limits of all pods together.
#[derive(Debug)]
pub(super) struct Limits {
    foreground: Arc<Turns>,
    background: Semaphore,
}

impl Limits {
    /// At most `parallel` calls that someone waits for.
    pub fn new(parallel: usize) -> Self {
        let total = parallel.max(1);
        Limits { foreground: Arc::new(Turns::new(total)), background: Semaphore::new(total.div_ceil(2)) }
    }

    /// Whether calls wait for each other.
    pub fn is_busy(&self) -> bool {
        self.foreground.lock().free == 0
    }

    /// Since when no place was free, if there was no rest since: unlike [`Limits::is_busy`] this holds through a burst of pods,
    /// in which now and then a place is free for a moment, to its last call.
    pub fn in_burst_since(&self) -> Option<Instant> {
        self.foreground.lock().in_burst_since
    }

    /// Waits for the turn of a call that someone waits for.
    pub async fn foreground(&self, turn: Turn) -> Permit {
        Turns::acquire(&self.foreground, turn).await
    }

    /// Makes a call that may take long by itself, such as a stop with a grace period: it gives up its turn after a while.
    pub async fn patient<T>(&self, turn: Turn, patience: Duration, call: impl Future<Output = T>) -> T {
        let permit = self.foreground(turn).await;
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
                let idle = self.foreground.idle.notified();
                if self.foreground.is_idle() {
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

/// Permits for calls, given to those that go on before those that begin, and else in their order.
#[derive(Debug)]
struct Turns {
    total: usize,
    queues: Mutex<Queues>,
    /// Told when no call is under way.
    idle: Notify,
}

#[derive(Debug)]
struct Queues {
    free: usize,
    /// When the last place was taken, until all are free again.
    in_burst_since: Option<Instant>,
    go_on: VecDeque<oneshot::Sender<Permit>>,
    begin: VecDeque<oneshot::Sender<Permit>>,
}

impl Queues {
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        self.go_on.pop_front().or_else(|| self.begin.pop_front())
    }
}

/// The right to make a call.
#[derive(Debug)]
pub(super) struct Permit {
    turns: Option<Arc<Turns>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            Turns::give_back(turns);
        }
    }
}

impl Turns {
    fn new(total: usize) -> Self {
        let queues = Queues { free: total, in_burst_since: None, go_on: VecDeque::new(), begin: VecDeque::new() };
        Turns { total, queues: Mutex::new(queues), idle: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.lock().free == self.total
    }

    /// A permit that was sent to one that no longer waits comes back by itself, so nothing is lost with a dropped future.
    async fn acquire(turns: &Arc<Self>, turn: Turn) -> Permit {
        loop {
            let waiter = {
                let mut queues = turns.lock();
                if queues.free > 0 {
                    queues.free -= 1;
                    if queues.free == 0 {
                        queues.in_burst_since.get_or_insert_with(Instant::now);
                    }
                    return Permit { turns: Some(turns.clone()) };
                }
                let (sender, waiter) = oneshot::channel();
                match turn {
                    Turn::GoesOn => queues.go_on.push_back(sender),
                    Turn::Begins => queues.begin.push_back(sender),
                }
                waiter
            };
            if let Ok(permit) = waiter.await {
                return permit;
            }
        }
    }

    fn give_back(turns: Arc<Self>) {
        let mut permit = Permit { turns: Some(turns.clone()) };
        loop {
            let next = {
                let mut queues = turns.lock();
                let next = queues.next();
                if next.is_none() {
                    permit.turns = None;
                    queues.free += 1;
                    if queues.free == turns.total {
                        queues.in_burst_since = None;
                    }
                }
                next
            };
            let Some(next) = next else { break };
            match next.send(permit) {
                Ok(()) => return,
                Err(back) => permit = back,
            }
        }
        if turns.is_idle() {
            turns.idle.notify_waiters();
        }
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
            let _permit = limits.foreground(Turn::Begins).await;
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.fetch_sub(1, Ordering::SeqCst);
        };
        futures::future::join_all((0..10).map(|_| call())).await;
        assert_eq!(most.load(Ordering::SeqCst), 2);

        let began = Instant::now();
        let slow = limits.patient(Turn::GoesOn, STOP_PATIENCE, tokio::time::sleep(Duration::from_secs(30)));
        let also_slow = limits.patient(Turn::GoesOn, STOP_PATIENCE, tokio::time::sleep(Duration::from_secs(30)));
        let quick = async {
            limits.patient(Turn::GoesOn, STOP_PATIENCE, async {}).await;
            began.elapsed()
        };
        let (_, _, waited) = tokio::join!(slow, also_slow, quick);
        assert_eq!(waited, STOP_PATIENCE);
        assert_eq!(began.elapsed(), Duration::from_secs(30), "the slow ones went on");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_goes_last_but_not_never() {
        let limits = Limits::new(1);
        let began = Instant::now();
        let permit = limits.foreground(Turn::Begins).await;
        assert!(limits.is_busy());
        let background = limits.background(async { began.elapsed() });
        let release = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(permit);
        };
        let (done, ()) = tokio::join!(background, release);
        assert_eq!(done, Duration::from_secs(3));

        let _held = limits.foreground(Turn::Begins).await;
        limits.background(async {}).await;
        assert_eq!(began.elapsed(), Duration::from_secs(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_has_begun_goes_before_one_that_has_not() {
        let limits = Limits::new(1);
        let order = Mutex::new(Vec::new());
        let call = async |turn, name| {
            let _permit = limits.foreground(turn).await;
            order.lock().unwrap().push(name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        tokio::join!(
            call(Turn::Begins, "first"),
            call(Turn::Begins, "second"),
            call(Turn::Begins, "third"),
            call(Turn::GoesOn, "goes on"),
        );
        assert_eq!(*order.lock().unwrap(), ["first", "goes on", "second", "third"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_lasts_from_when_no_place_is_free_to_the_last_call() {
        let limits = Limits::new(2);
        let one = limits.foreground(Turn::Begins).await;
        assert_eq!(limits.in_burst_since(), None);
        let began = Instant::now();
        let two = limits.foreground(Turn::Begins).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(one);
        assert!(!limits.is_busy());
        let three = limits.foreground(Turn::Begins).await;
        assert_eq!(limits.in_burst_since(), Some(began));
        drop((two, three));
        assert_eq!(limits.in_burst_since(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_no_longer_waits_leaves_no_gap() {
        let limits = Limits::new(1);
        let held = limits.foreground(Turn::Begins).await;
        {
            let mut given_up = Box::pin(limits.foreground(Turn::GoesOn));
            assert!(futures::poll!(given_up.as_mut()).is_pending());
            let mut late = Box::pin(limits.foreground(Turn::GoesOn));
            assert!(futures::poll!(late.as_mut()).is_pending());
            drop(given_up);
            drop(held);
            // It was given to `late`, which has not looked yet.
            assert!(limits.is_busy());
        }
        assert!(!limits.is_busy());
        drop(limits.foreground(Turn::Begins).await);
        assert!(!limits.is_busy());
    }
}
