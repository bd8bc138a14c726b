//! Work on a pod's files in threads of their own. It cannot be stopped, so it goes on when those who asked for it are gone, as
//! with a start that is given up because its pod must end. Before the pod's directory is removed it is waited for: whatever
//! was made afterwards would stay for good.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::pod::PodUid;

/// The work under way.
#[derive(Clone, Default)]
pub(super) struct FileWork {
    /// How many pieces of each pod.
    under_way: Arc<watch::Sender<HashMap<PodUid, usize>>>,
}

/// One piece of work, until it is dropped.
struct Piece {
    of: FileWork,
    pod: PodUid,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.under_way.send_modify(|under_way| {
            if let Some(count) = under_way.get_mut(&self.pod) {
                *count -= 1;
                if *count == 0 {
                    under_way.remove(&self.pod);
                }
            }
        });
    }
}

impl FileWork {
    /// Does work on a pod's files.
    ///
    /// # Errors
    /// The work's own, or that it ended abnormally.
    pub async fn run<T: Send + 'static>(
        &self,
        pod: &PodUid,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.under_way.send_modify(|under_way| *under_way.entry(pod.clone()).or_default() += 1);
        let piece = Piece { of: self.clone(), pod: pod.clone() };
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(piece);
            result
        });
        done.await.map_err(|error| error.to_string())?
    }

    /// Waits until nobody works on the pod's files.
    pub async fn settled(&self, pod: &PodUid) {
        // The sender lives as long as this, so there is no error.
        let _ = self.under_way.subscribe().wait_for(|under_way| !under_way.contains_key(pod)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_that_was_given_up_is_waited_for() {
        let files = FileWork::default();
        let (a, b) = (PodUid::from("a"), PodUid::from("b"));
        let (go, gone) = mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let work = files.run(&a, move || {
            let _ = begin.send(());
            gone.recv().map_err(|error| error.to_string())
        });
        let given_up = tokio::select! {
            _ = work => false,
            begun = begun => begun.is_ok(),
        };
        assert!(given_up);
        assert_eq!(files.settled(&b).now_or_never(), Some(()), "of another pod");
        assert_eq!(files.settled(&a).now_or_never(), None);
        go.send(()).unwrap();
        files.settled(&a).await;
        assert!(files.under_way.borrow().is_empty());
    }

    #[tokio::test]
    async fn work_that_ends_abnormally_is_not_waited_for() {
        let files = FileWork::default();
        let pod = PodUid::from("a");
        let result = files.run(&pod, || -> Result<(), String> { panic!("as it must not") }).await;
        assert!(result.is_err());
        files.settled(&pod).await;
    }
}
