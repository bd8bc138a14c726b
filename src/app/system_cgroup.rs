//! Keeps what runs beside pods and agents in the cgroup that `systemCgroups` names.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cgroup::CgroupManager;

/// Between two looks, as in the peer.
const PERIOD: Duration = Duration::from_secs(60);

/// Looks until cancelled.
pub(super) async fn keep(cgroups: CgroupManager, path: String, cancel: CancellationToken) {
    let mut fails = false;
    loop {
        match cgroups.gather_system(&path).await {
            Ok(moved) => {
                fails = false;
                if moved > 0 {
                    info!(moved, cgroup = path, "moved what ran in the root cgroup");
                }
            }
            Err(error) if fails => debug!(%error, "what runs in the root cgroup cannot be moved"),
            Err(error) => {
                fails = true;
                warn!(%error, "what runs in the root cgroup cannot be moved; it is tried again every minute");
            }
        }
        // Cancel-safe: a wait.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}
