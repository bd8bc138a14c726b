//! Linux resources in CRI's words.

use crate::model::container_resources::LinuxResources;
use crate::runtime::cri::{HugepageLimit, LinuxContainerResources};

/// Resources as CRI carries them. The CPU and memory node sets of the resource managers are added by their owner.
pub fn linux_resources(resources: LinuxResources) -> LinuxContainerResources {
    let huge_page = |(page_size, limit)| HugepageLimit { page_size, limit };
    LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        hugepage_limits: resources.hugepage_limits.into_iter().map(huge_page).collect(),
        unified: resources.unified.into_iter().collect(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
        ..LinuxContainerResources::default()
    }
}
