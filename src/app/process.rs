//! What the agent is as a process: its cgroup, open files, its chance to be killed for memory, the memory that it holds, swap
//! on its machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cgroup::{self, Driver, Hierarchy, HostPaths, Version};
use crate::config::{KubeletConfiguration, validate_for_cgroup};

/// Looks at the host's cgroups and goes into the one that the configuration names (`kubeletCgroups`); without one, or if it
/// cannot, the agent stays where it was started. The driver is the configured one: the runtime has not been asked yet.
///
/// Fails if the host's cgroups cannot be told or are not those that the configuration wants.
pub(super) fn settle(configuration: &KubeletConfiguration) -> anyhow::Result<Hierarchy> {
    let hierarchy = Hierarchy::detect(&HostPaths::default()).context("the host's cgroups")?;
    validate_for_cgroup(configuration, hierarchy.version() == Version::V1)?;
    let path = configuration.kubelet_cgroups.as_str();
    // An unknown name of a driver is told of when the runtime has been asked for the true one.
    if let (false, Some(driver)) = (path.is_empty(), Driver::parse(&configuration.cgroup_driver))
        && let Err(error) = cgroup::enter(hierarchy.clone(), driver, path)
    {
        warn!(%error, cgroup = path, "the agent cannot go into its cgroup and stays where it is");
    }
    Ok(hierarchy)
}

/// Raises the limit of open files to `maxOpenFiles`, as far as the machine lets it.
pub(super) fn raise_open_files(wanted: i64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = u64::try_from(wanted).unwrap_or(0);
    let hard = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted.max(hard.unwrap_or(u64::MAX))) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        let soft = hard.map_or(wanted, |hard| wanted.min(hard));
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: hard }) {
            warn!(%error, wanted, "the limit of open files stays as it is");
        }
    }
}

/// How often memory that is not in use goes back to the system.
const GIVE_BACK: Duration = Duration::from_secs(60);

/// Task: gives memory back that is not in use, until cancelled.
pub(super) async fn give_memory_back(cancel: CancellationToken) {
    // Cancel-safe: a timer.
    while cancel.run_until_cancelled(tokio::time::sleep(GIVE_BACK)).await.is_some() {
        crate::sys::memory::give_back();
    }
}

/// Whether any swap space is in use: `/proc/swaps` has a line after its head, memory-backed ones apart.
pub(super) fn is_swap_on(proc: &Path) -> bool {
    let swaps = std::fs::read_to_string(proc.join("swaps")).unwrap_or_default();
    swaps.lines().skip(1).any(|line| !line.trim().is_empty() && !line.contains("/zram"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let swaps = directory.path().join("swaps");
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(!is_swap_on(directory.path()), "no such file");
        std::fs::write(&swaps, head).unwrap();
        assert!(!is_swap_on(directory.path()));
        std::fs::write(&swaps, format!("{head}/dev/zram0 partition 8 0 100\n")).unwrap();
        assert!(!is_swap_on(directory.path()));
        std::fs::write(&swaps, format!("{head}/dev/sda2 partition 8 0 -2\n")).unwrap();
        assert!(is_swap_on(directory.path()));
    }
}
