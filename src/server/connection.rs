//! What a handler may do with the connection that its request came by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;

/// How long a client may leave what it is sent unread, milliseconds; shared with the guard that ends the connection.
#[derive(Clone, Debug)]
pub(super) struct Patience(Arc<AtomicU64>);

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Patience(Arc::new(AtomicU64::new(millis(limit))))
    }

    pub(super) fn limit(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, limit: Duration) {
        self.0.store(millis(limit), Ordering::Relaxed);
    }
}

/// A time in whole milliseconds, as atomics hold it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A handle on the connection; in the extensions of each request.
#[derive(Clone)]
pub(super) struct Connection {
    patience: Patience,
    next: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
}

impl Connection {
    pub(super) fn new(patience: Patience) -> Self {
        Connection { patience, next: Arc::default() }
    }

    /// Lets the client leave what it is sent unread for so long from now on: for streams that a person may pause.
    pub(super) fn be_patient(&self, limit: Duration) {
        self.patience.set(limit);
    }

    /// What is done with the connection once it is upgraded. It runs in the connection's own task, within its slot, and
    /// ends with the server.
    pub(super) fn then(&self, next: BoxFuture<'static, ()>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }

    /// What [`Connection::then`] was told.
    pub(super) fn take_next(&self) -> Option<BoxFuture<'static, ()>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
