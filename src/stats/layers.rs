//! The sizes of containers' writable layers, as the runtime told them last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::{RuntimeClient, RuntimeError, cri};

/// The runtime measures layers by itself this often, and tells the same in between.
const FRESH: Duration = Duration::from_secs(10);
/// What is older is not shown.
const OLDEST: Duration = Duration::from_secs(60);

/// Writable layers by the container's id.
pub(super) type Layers = Arc<HashMap<String, cri::FilesystemUsage>>;

/// What is done with what is known.
#[derive(Debug, PartialEq)]
enum Use {
    Show,
    ShowAndRefresh,
    Wait,
}

/// What to do with layers that were told so long ago.
fn judge(age: Option<Duration>) -> Use {
    match age {
        Some(age) if age < FRESH => Use::Show,
        Some(age) if age < OLDEST => Use::ShowAndRefresh,
        _ => Use::Wait,
    }
}

/// The runtime answers only after it has asked every container for all its figures, of which only the layers' are wanted.
/// So an answer holds what it told the last time, each layer with the time of its measurement, and has it asked again beside.
pub(super) struct WritableLayers {
    runtime: RuntimeClient,
    told: Mutex<Option<(Instant, Layers)>>,
    wanted: Notify,
}

impl WritableLayers {
    pub(super) fn new(runtime: RuntimeClient) -> Self {
        WritableLayers { runtime, told: Mutex::default(), wanted: Notify::new() }
    }

    /// The layers; waits for the runtime only if nothing of the last minute is known.
    pub(super) async fn latest(&self) -> Result<Layers, RuntimeError> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (judge(told.as_ref().map(|(at, _)| at.elapsed())), told) {
            (Use::Show, Some((_, layers))) => Ok(layers),
            (Use::ShowAndRefresh, Some((_, layers))) => {
                self.wanted.notify_one();
                Ok(layers)
            }
            _ => self.read().await,
        }
    }

    /// Asks the runtime again whenever an answer showed what is no longer fresh.
    pub(super) async fn run(&self, cancel: CancellationToken) {
        let refresh = async {
            loop {
                self.wanted.notified().await;
                if let Err(error) = self.read().await {
                    tracing::warn!(%error, "the sizes of writable layers cannot be read");
                }
            }
        };
        cancel.run_until_cancelled(refresh).await;
    }

    async fn read(&self) -> Result<Layers, RuntimeError> {
        let stats = self.runtime.list_container_stats(None).await?;
        let layers = stats.into_iter().filter_map(|stats| Some((stats.attributes?.id, stats.writable_layer?)));
        let layers: Layers = Arc::new(layers.collect());
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), layers.clone()));
        Ok(layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::unknown(None, Use::Wait)]
    #[case::new(Some(0), Use::Show)]
    #[case::still_the_same(Some(9), Use::Show)]
    #[case::measured_again(Some(10), Use::ShowAndRefresh)]
    #[case::last_minute(Some(59), Use::ShowAndRefresh)]
    #[case::too_old(Some(60), Use::Wait)]
    fn what_is_known_is_shown_while_it_is_of_use(#[case] age: Option<u64>, #[case] expected: Use) {
        assert_eq!(judge(age.map(Duration::from_secs)), expected);
    }
}
