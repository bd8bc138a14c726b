//! Blocking calls that may never come back (a file system whose server is away, a system bus that does not answer) in bounded
//! places, one for each kind: however many of them hang, the threads of all other work stay free.
//!
//! A place costs nothing while it is free: threads are the async runtime's, which makes them when they are needed and lets them
//! go. Its limit of blocking threads has to have room for all places and for the rest of the work.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Why a blocking call was not made, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// All places were taken for too long.
    #[error("{subject}: {places} calls are out and none came back within {} s", patience.as_secs())]
    Full {
        /// What the calls are about.
        subject: &'static str,
        /// How many there may be at once.
        places: usize,
        /// How long was waited for one to end.
        patience: Duration,
    },
    /// The thread that did the work ended before it answered.
    #[error("{subject}: the work was cut off: {source}")]
    CutOff {
        /// What the call was about.
        subject: &'static str,
        /// How the thread ended.
        source: JoinError,
    },
}

/// A number of places for blocking calls of one kind. Clones share them.
#[derive(Clone, Debug)]
pub struct Bulkhead {
    subject: &'static str,
    places: usize,
    patience: Duration,
    free: Arc<Semaphore>,
}

impl Bulkhead {
    /// So many places for calls about the subject, which names them in errors. Who finds all of them taken waits as long as
    /// `patience`.
    pub fn new(subject: &'static str, places: usize, patience: Duration) -> Self {
        Bulkhead { subject, places, patience, free: Arc::new(Semaphore::new(places)) }
    }

    /// Makes a call on a blocking thread. A call that its caller gives up goes on and keeps its place until it comes back.
    ///
    /// # Errors
    /// When no place came free in time, or the call panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, BlockingError> {
        let Bulkhead { subject, places, patience, ref free } = *self;
        let place = tokio::time::timeout(patience, Arc::clone(free).acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(place)) = place else { return Err(BlockingError::Full { subject, places, patience }) };
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|source| BlockingError::CutOff { subject, source })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_call_that_hangs_keeps_its_place_and_no_other() {
        let patient = Bulkhead::new("a dead disk", 2, Duration::from_secs(60));
        let impatient = Bulkhead { patience: Duration::ZERO, ..patient.clone() };
        let (release, hanging) = mpsc::channel::<()>();
        let given_up = patient.run(move || hanging.recv().is_err()).now_or_never();
        assert!(given_up.is_none(), "it hangs, and nobody waits for it any more");

        assert_eq!(impatient.run(|| 1).await.unwrap(), 1);
        let (second, hanging) = mpsc::channel::<()>();
        assert!(patient.run(move || hanging.recv().is_err()).now_or_never().is_none());
        let error = impatient.run(|| 2).await.unwrap_err().to_string();
        assert_eq!(error, "a dead disk: 2 calls are out and none came back within 0 s");

        drop(release);
        assert_eq!(patient.run(|| 3).await.unwrap(), 3);
        drop(second);
    }

    #[tokio::test]
    async fn a_call_that_panics_gives_its_place_back() {
        let places = Bulkhead::new("faults", 1, Duration::from_secs(60));
        let error = places.run(|| assert!(std::hint::black_box(false), "a fault")).await.unwrap_err();
        assert!(error.to_string().starts_with("faults: the work was cut off: "), "{error}");
        places.run(|| ()).await.unwrap();
    }
}
