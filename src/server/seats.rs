//! How many connections there are at once, and who gives way when there is no room for another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The places for connections. When all are taken, the connection that has been silent for longest since it was made gives way
/// to the newest: however many are opened and left idle, who asks something is served.
#[derive(Debug)]
pub(super) struct Seats {
    count: usize,
    free: Arc<Semaphore>,
    /// Those that have not asked anything yet, the oldest first, and some that have or that are gone.
    silent: Mutex<VecDeque<Silent>>,
}

#[derive(Clone, Debug)]
struct Silent {
    settled: CancellationToken,
    leave: CancellationToken,
}

/// A connection's place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _permit: Option<OwnedSemaphorePermit>,
    silent: Silent,
}

impl Seats {
    /// So many places.
    pub(super) fn new(count: usize) -> Self {
        Seats { count, free: Arc::new(Semaphore::new(count)), silent: Mutex::default() }
    }

    /// A place, as soon as there is one. Cancel-safe: a place that is not taken stays free.
    pub(super) async fn take(&self) -> Seat {
        if self.free.available_permits() == 0 {
            self.give_way();
        }
        // Never closed.
        let permit = self.free.clone().acquire_owned().await.ok();
        let silent = Silent { settled: CancellationToken::new(), leave: CancellationToken::new() };
        let mut all = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= 2 * self.count {
            all.retain(|one| !one.settled.is_cancelled());
        }
        all.push_back(silent.clone());
        Seat { _permit: permit, silent }
    }

    /// Asks the oldest silent connection to leave, if there is one.
    fn give_way(&self) {
        let mut all = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(oldest) = all.pop_front() {
            if !oldest.settled.is_cancelled() {
                oldest.leave.cancel();
                return;
            }
        }
    }
}

impl Seat {
    /// To be cancelled when the first request is there: the connection stays from then on.
    pub(super) fn settled(&self) -> CancellationToken {
        self.silent.settled.clone()
    }

    /// Waits until the connection has to leave.
    pub(super) async fn must_leave(&self) {
        self.silent.leave.cancelled().await;
        if self.silent.settled.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.silent.settled.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_oldest_silent_one_gives_way() {
        let seats = Seats::new(2);
        let (asked, silent) = (seats.take().await, seats.take().await);
        asked.settled().cancel();
        assert!(seats.take().now_or_never().is_none(), "it has to leave first");
        assert!(silent.must_leave().now_or_never().is_some());
        assert!(asked.must_leave().now_or_never().is_none());
        drop(silent);
        let third = seats.take().now_or_never().unwrap();
        third.settled().cancel();
        // All have asked: the next one waits.
        assert!(seats.take().now_or_never().is_none());
        assert!(third.must_leave().now_or_never().is_none());
        drop(asked);
        assert!(seats.take().now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_remembered_of_connections_is_bounded() {
        let seats = Seats::new(2);
        for _ in 0..100 {
            drop(seats.take().await);
        }
        assert!(seats.silent.lock().unwrap().len() <= 4);
    }
}
