//! An answer that is given again for a short time: several scrapers ask at about the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// For how long an answer is given again.
pub(super) const SHARED: Duration = Duration::from_secs(2);

/// The last answer, while it is shared.
#[derive(Debug)]
pub(super) struct Recent<T> {
    /// Behind a lock that makes those who ask at the same time wait for one answer.
    last: Mutex<Option<(Instant, Arc<T>)>>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent { last: Mutex::default() }
    }
}

impl<T> Recent<T> {
    /// The last answer, or a new one that `read` gives.
    ///
    /// # Errors
    /// That of `read`; the next one who asks tries again.
    pub(super) async fn get<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<Arc<T>, E> {
        let mut last = self.last.lock().await;
        if let Some((_, answer)) = last.as_ref().filter(|(at, _)| at.elapsed() < SHARED) {
            return Ok(answer.clone());
        }
        let answer = Arc::new(read.await?);
        *last = Some((Instant::now(), answer.clone()));
        Ok(answer)
    }

    /// Lets go of an answer that nobody gets any more. While a new one is read, nothing is waited for: it takes the old one's
    /// place.
    pub(super) fn forget_old(&self) {
        if let Ok(mut last) = self.last.try_lock() {
            last.take_if(|(at, _)| at.elapsed() >= SHARED);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_for_a_while_and_then_let_go() {
        let recent = Recent::default();
        let get = async |answer: u32| recent.get(async { Ok::<_, Infallible>(answer) }).await.unwrap();
        let first = Arc::downgrade(&get(1).await);
        tokio::time::advance(SHARED - Duration::from_millis(1)).await;
        recent.forget_old();
        assert_eq!(*get(2).await, 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(first.upgrade().is_some(), "kept until it is looked at");
        recent.forget_old();
        assert!(first.upgrade().is_none());
        assert_eq!(*get(3).await, 3);
    }

    #[tokio::test]
    async fn a_fault_is_not_kept() {
        let recent = Recent::default();
        assert_eq!(recent.get(async { Err("no") }).await, Err("no"));
        assert_eq!(recent.get(async { Ok::<_, &str>(1) }).await.as_deref(), Ok(&1));
    }
}
