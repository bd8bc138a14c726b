//! The node's limits on its pods and on reserved cgroups (`enforceNodeAllocatable`): put into force at the start, and tried again
//! where the kernel refused those of the pods.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cgroup::CgroupManager;
use crate::kube::error::chain;
use crate::kube::events::{EventRecorder, node_reference};
use crate::model::EventType;
use crate::model::resources::ResourceTotals;

/// Between two tries, as in the peer.
const RETRY: Duration = Duration::from_secs(60);

/// What is put into force, and where that is told.
pub(super) struct Allocatable {
    pub cgroups: CgroupManager,
    /// CPU, memory, process ids (`pid`) and huge pages of the machine.
    pub capacity: ResourceTotals,
    pub recorder: EventRecorder,
    pub node_name: String,
}

impl Allocatable {
    /// Makes the tree and puts the limits into force. Returns whether the pods' are.
    ///
    /// # Errors
    /// When the tree cannot be made, or a reserved cgroup cannot be limited.
    pub(super) async fn enforce(&self) -> anyhow::Result<bool> {
        let mut in_force = true;
        for enforced in self.cgroups.ensure_node(&self.capacity).await.context("making the cgroup tree")? {
            let event_type = if enforced.error.is_none() { EventType::Normal } else { EventType::Warning };
            let node = node_reference(&self.node_name, None);
            self.recorder.event(&node, event_type, enforced.reason(), enforced.message());
            if enforced.is_fatal() {
                bail!("{}", enforced.message());
            }
            in_force &= enforced.error.is_none();
        }
        Ok(in_force)
    }

    /// Tries again until the limits are in force: the pods that an earlier agent left may use more than they may now. Runs until
    /// cancelled.
    pub(super) async fn keep_trying(self, mut in_force: bool, cancel: CancellationToken) {
        while !in_force {
            // Cancel-safe: a wait.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
            in_force = self.enforce().await.unwrap_or_else(|error| {
                warn!(error = chain(&*error), "the limits of all pods are not in force; trying on");
                false
            });
        }
        cancel.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::cgroup::{CgroupSettings, Hierarchy};

    #[tokio::test(start_paused = true)]
    async fn limits_that_are_refused_are_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let pods = folder.path().join("pods");
        std::fs::create_dir(&pods).unwrap();
        std::fs::write(pods.join("cgroup.controllers"), "cpu cpuset memory pids").unwrap();
        let files = ["cgroup.procs", "cpu.weight", "cpu.max", "pids.max"];
        files.iter().for_each(|file| std::fs::write(pods.join(file), "").unwrap());
        // Without a tree for pods the limits are those of the root that is given.
        let settings =
            CgroupSettings { cgroups_per_qos: false, cgroup_root: "/pods".to_owned(), ..CgroupSettings::default() };
        let hierarchy = Hierarchy::v2(folder.path().to_owned(), "cpu cpuset memory pids", Vec::new());
        let allocatable = Allocatable {
            cgroups: CgroupManager::new(settings, hierarchy).unwrap(),
            capacity: ResourceTotals { memory_bytes: Some(1 << 30), ..ResourceTotals::default() },
            recorder: EventRecorder::recording(),
            node_name: "n".to_owned(),
        };
        let recorder = allocatable.recorder.clone();
        let reasons = || recorder.recorded().into_iter().map(|event| event.reason).collect::<Vec<_>>();
        // memory.max cannot be written yet.
        assert!(!allocatable.enforce().await.unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(allocatable.keep_trying(false, CancellationToken::new()));
        tokio::time::sleep(RETRY + RETRY / 2).await;
        std::fs::write(pods.join("memory.max"), "").unwrap();
        tokio::time::sleep(RETRY * 5).await;
        let (failed, done) = ("FailedNodeAllocatableEnforcement", "NodeAllocatableEnforced");
        assert_eq!(reasons(), [failed, failed, done]);
        assert_eq!(std::fs::read_to_string(pods.join("memory.max")).unwrap(), (1u64 << 30).to_string());
    }
}
