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
    let kubelet = match configuration.kubelet_cgroups.as_str() {
        "" => own_cgroup(proc).unwrap_or_default(),
        configured => configured.to_owned(),
    };
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
        system_cgroups: vec![
            ("kubelet", kubelet),
            ("runtime", settings.flags.runtime_cgroups.clone().unwrap_or_default()),
            ("misc", configuration.system_cgroups.clone()),
        ],
    };
    StatsCollector::new(stats, runtime, observer, cgroups, Arc::new(pods))
}

/// The agent's own cgroup, if it has one that is not the root and is the same for processors and memory.
fn own_cgroup(proc: &Path) -> Option<String> {
    cgroup_of(&std::fs::read_to_string(proc.join("self/cgroup")).ok()?)
}

fn cgroup_of(text: &str) -> Option<String> {
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|known| known == controller).then_some(path)
        })
    };
    let (cpu, memory) = (path_of("cpu").or(path_of("")), path_of("memory").or(path_of("")));
    cpu.filter(|cpu| Some(*cpu) == memory && *cpu != "/").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0::/system.slice/kubelet.service\n", Some("/system.slice/kubelet.service"))]
    #[case("0::/\n", None)]
    #[case("3:cpu,cpuacct:/a\n2:memory:/a\n0::/b\n", Some("/a"))]
    #[case("3:cpu,cpuacct:/a\n2:memory:/b\n", None)]
    #[case("", None)]
    fn an_own_cgroup_is_one_for_processors_and_memory(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(cgroup_of(text).as_deref(), expected);
    }
}
