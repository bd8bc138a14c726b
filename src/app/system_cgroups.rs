//! Keeps the agent in the cgroup that `kubeletCgroups` names and with its OOM score, and what runs beside pods and agents in the
//! one that `systemCgroups` names: others may move them, or remove the cgroup.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cgroup::{CgroupManager, oom};
use crate::config::KubeletConfiguration;

/// Between two looks, as in the peer's container manager; it looks at the OOM score of an agent without a cgroup of its own
/// every five minutes only.
const PERIOD: Duration = Duration::from_secs(60);

/// Who should be where.
pub(super) struct Kept {
    /// `systemCgroups`; empty for nowhere.
    system: String,
    /// `kubeletCgroups`; empty for wherever it is.
    own: String,
    /// `oomScoreAdj`.
    oom_score: i32,
}

impl Kept {
    pub(super) fn of(configuration: &KubeletConfiguration) -> Self {
        let (system, own) = (configuration.system_cgroups.clone(), configuration.kubelet_cgroups.clone());
        Kept { system, own, oom_score: configuration.oom_score_adj }
    }
}

/// Looks until cancelled.
pub(super) async fn keep(cgroups: CgroupManager, kept: Kept, cancel: CancellationToken) {
    let Kept { system, own, oom_score } = &kept;
    let (mut moving, mut entering) = (Trouble::default(), Trouble::default());
    // The start has set it, or told why not.
    let mut scoring = Trouble { is_told: true };
    loop {
        if !system.is_empty()
            && let Some(moved) =
                moving.tell("what runs in the root cgroup cannot be moved", cgroups.gather_system(system).await)
            && moved > 0
        {
            info!(moved, cgroup = system, "moved what ran in the root cgroup");
        }
        if !own.is_empty()
            && let Some(true) = entering.tell("the agent cannot go into its cgroup", cgroups.enter(own).await)
        {
            info!(cgroup = own, "the agent went back into its cgroup");
        }
        scoring.tell("the agent's OOM score cannot be set", oom::set_own_score(Path::new("/proc"), *oom_score));
        // Cancel-safe: a wait.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Something that fails again and again is told once until it has worked.
#[derive(Default)]
struct Trouble {
    is_told: bool,
}

impl Trouble {
    fn tell<T, E: Display>(&mut self, problem: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(done) => {
                self.is_told = false;
                Some(done)
            }
            Err(error) => {
                if self.is_told {
                    debug!(%error, "{problem}");
                } else {
                    warn!(%error, "{problem}; it is tried again every minute");
                }
                self.is_told = true;
                None
            }
        }
    }
}
