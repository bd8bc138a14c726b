//! What reads the node's figures, put together.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::cgroup::CgroupManager;
use crate::config::Settings;
use crate::model::clock;
use crate::node::NodeFacts;
use crate::pod::list::PodList;
use crate::runtime::client::RuntimeClient;
use crate::runtime::observer::Observer;
use crate::stats::{KnownPods, NodeConstants, StatsCollector, StatsSettings, booted_at};

use super::node_settings;

impl KnownPods for PodList {
    fn known_pods(&self) -> Option<Vec<Arc<Pod>>> {
        self.all()
    }
}

/// The collector of the node's figures.
pub(super) fn collector(
    settings: &Settings,
    node_name: &str,
    facts: &NodeFacts,
    runtime: RuntimeClient,
    observer: Observer,
    cgroups: CgroupManager,
    pods: PodList,
) -> StatsCollector {
    let configuration = &settings.configuration;
    let proc = Path::new("/proc");
    let huge_pages = facts.machine.huge_pages.iter().map(|pool| pool.page_bytes.saturating_mul(pool.pages));
    let stats = StatsSettings {
        node: NodeConstants {
            name: node_name.to_owned(),
            booted_at: booted_at(proc).unwrap_or_else(clock::now),
            huge_page_bytes: u64::try_from(huge_pages.sum::<i64>()).unwrap_or(0),
        },
        machine: facts.machine.clone(),
        root_dir: settings.flags.root_dir.clone(),
        pod_logs_dir: configuration.pod_logs_dir.clone(),
        volume_period: node_settings::duration(configuration.volume_stats_agg_period),
        agent_cgroup: configuration.kubelet_cgroups.clone(),
        system_cgroups: vec![
            ("runtime", settings.flags.runtime_cgroups.clone().unwrap_or_default()),
            ("misc", configuration.system_cgroups.clone()),
        ],
    };
    StatsCollector::new(stats, runtime, observer, cgroups, Arc::new(pods))
}
