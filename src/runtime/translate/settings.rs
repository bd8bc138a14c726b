//! What the translation must know of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::container_resources::LinuxResourceSettings;

/// The node's side of every translation: from the configuration, the machine and the runtime. Cheap to share; a change
/// (a new allocatable, a cluster DNS that became known) makes a new value.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSettings {
    /// `--root-dir`.
    pub root_dir: String,
    /// `podLogsDir`.
    pub pod_logs_dir: String,
    /// `clusterDomain`; empty for none.
    pub cluster_domain: String,
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// The node's addresses, primary first: they decide the order of a pod's addresses and the loopback nameservers.
    pub node_ips: Vec<IpAddr>,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    /// How CPU, memory, swap and huge pages become cgroup values.
    pub resources: LinuxResourceSettings,
    /// The node's `status.allocatable`: stands in for limits that a `resourceFieldRef` asks for and nobody set.
    pub allocatable: BTreeMap<String, Quantity>,
    /// The machine's `/sys/devices/system/cpu/cpu*/thermal_throttle` folders, hidden from containers beside the rest.
    pub thermal_throttle_paths: Vec<String>,
    /// Whether SELinux is in force.
    pub is_selinux_enabled: bool,
    /// Gate `ContainerStopSignals`.
    pub container_stop_signals: bool,
    /// Gate `EnvFiles`.
    pub env_files: bool,
    /// The node's sysctls for every pod (gate `DefaultPodSysctls`); empty where the gate is off.
    pub default_pod_sysctls: BTreeMap<String, String>,
}

impl Default for NodeSettings {
    /// The peer's defaults on a machine of which nothing is known.
    fn default() -> Self {
        NodeSettings {
            root_dir: "/var/lib/kubelet".to_owned(),
            pod_logs_dir: "/var/log/pods".to_owned(),
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            node_ips: Vec::new(),
            seccomp_default: false,
            resources: LinuxResourceSettings::default(),
            allocatable: BTreeMap::new(),
            thermal_throttle_paths: Vec::new(),
            is_selinux_enabled: false,
            container_stop_signals: false,
            env_files: true,
            default_pod_sysctls: BTreeMap::new(),
        }
    }
}
