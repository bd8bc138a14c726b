//! What the machine is told of when the agent starts, as events on its Node.

use crate::cgroup::Version;
use crate::config::KubeletConfiguration;
use crate::node::NodeEvent;
use crate::runtime::translate::{check_resolv_conf, parse_resolv_conf};

/// The warnings about cgroups and `resolvConf`, of which nobody else hears. Reads the file.
pub(super) fn at_start(version: Version, configuration: &KubeletConfiguration) -> Vec<NodeEvent> {
    let cgroup = (version == Version::V1).then(NodeEvent::cgroup_v1);
    let resolver = resolver_problem(&configuration.resolv_conf, &configuration.cluster_domain);
    cgroup.into_iter().chain(resolver.map(NodeEvent::resolv_conf)).collect()
}

/// Why the node's resolv.conf is not fit for pods, if it is not.
fn resolver_problem(path: &str, cluster_domain: &str) -> Option<String> {
    if path.is_empty() {
        return None;
    }
    match std::fs::read_to_string(path) {
        Err(error) => Some(format!("open {path}: {error}")),
        Ok(text) => match parse_resolv_conf(&text) {
            Err(error) => Some(error.to_string()),
            Ok(parsed) => check_resolv_conf(path, &parsed, cluster_domain),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_of_old_cgroups_and_of_a_resolver_file_that_is_unfit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut configuration =
            KubeletConfiguration { resolv_conf: path.to_string_lossy().into(), ..KubeletConfiguration::default() };
        let reasons = |version, configuration: &KubeletConfiguration| {
            at_start(version, configuration).into_iter().map(|event| event.reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(Version::V2, &configuration), ["CheckLimitsForResolvConf"], "no file");
        for (text, is_fit) in [("nameserver 192.0.2.1\n", true), ("nameserver\n", false)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(reasons(Version::V2, &configuration).is_empty(), is_fit, "{text}");
        }
        std::fs::write(&path, format!("search {}\n", "a ".repeat(30))).unwrap();
        assert_eq!(reasons(Version::V2, &configuration), [""; 0]);
        configuration.cluster_domain = "cluster.local".into();
        assert_eq!(reasons(Version::V1, &configuration), ["CgroupV1", "CheckLimitsForResolvConf"]);
        configuration.resolv_conf.clear();
        assert_eq!(reasons(Version::V1, &configuration), ["CgroupV1"]);
    }
}
