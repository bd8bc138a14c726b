//! KubeletConfiguration of `kubelet.config.k8s.io/v1beta1`, all of it, with the defaults of kubelet v1.37.2.
//!
//! The values are the effective ones: what the API leaves open has its default here. Which fields were written in a file is
//! known to [`super::decode`] alone. Fields that the API knows as text with a few allowed values stay text, since flags
//! and files may set anything; [`super::validation`] holds them to what is allowed.

mod parts;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

use crate::model::go_duration::GoDuration;

pub use parts::{
    CrashLoopBackOffConfig, FormatOptions, KubeletAnonymousAuthentication, KubeletAuthentication, KubeletAuthorization,
    KubeletWebhookAuthentication, KubeletWebhookAuthorization, KubeletX509Authentication, LoggingConfiguration,
    MemoryReservation, MemorySwapConfiguration, OutputRoutingOptions, SecretHeaders, ShutdownGracePeriodByPodPriority,
    TracingConfiguration, UserNamespaces, VModuleItem,
};

/// `apiVersion` of the configuration.
pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// `kind` of the configuration.
pub const KIND: &str = "KubeletConfiguration";

/// The node agent's configuration (`kubelet.config.k8s.io/v1beta1`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    /// Whether the HTTPS server runs. Default true.
    pub enable_server: bool,
    /// File or folder with static pods; empty for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub static_pod_path: String,
    /// Folder of the pods' logs. Default /var/log/pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub pod_logs_dir: String,
    /// Longest time between two looks at a pod. Default 1m.
    pub sync_frequency: GoDuration,
    /// Time between two reads of the static pod path. Default 20s.
    pub file_check_frequency: GoDuration,
    /// Time between two reads of the static pod URL. Default 20s.
    pub http_check_frequency: GoDuration,
    /// URL of a list of static pods; empty for none.
    #[serde(rename = "staticPodURL", skip_serializing_if = "is_zero")]
    pub static_pod_url: String,
    /// Headers sent to the static pod URL. May hold credentials.
    #[serde(rename = "staticPodURLHeader", skip_serializing_if = "is_zero")]
    pub static_pod_url_header: SecretHeaders,
    /// Address that the HTTPS server listens on. Default 0.0.0.0.
    #[serde(skip_serializing_if = "is_zero")]
    pub address: String,
    /// Port of the HTTPS server. Default 10250.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: i32,
    /// Port of the server without authentication; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub read_only_port: i32,
    /// Serving certificate (PEM, with intermediates).
    #[serde(skip_serializing_if = "is_zero")]
    pub tls_cert_file: String,
    /// Key of the serving certificate (PEM).
    #[serde(skip_serializing_if = "is_zero")]
    pub tls_private_key_file: String,
    /// Cipher suites of TLS 1.2 by their IANA names; empty for the library's choice.
    #[serde(skip_serializing_if = "is_zero")]
    pub tls_cipher_suites: Vec<String>,
    /// Key exchanges by their IANA numbers; empty for the library's choice.
    #[serde(skip_serializing_if = "is_zero")]
    pub tls_curve_preferences: Vec<i32>,
    /// `VersionTLS12`, `VersionTLS13` and so on; empty for the library's choice.
    #[serde(skip_serializing_if = "is_zero")]
    pub tls_min_version: String,
    /// Whether client certificates are renewed through the API.
    #[serde(skip_serializing_if = "is_zero")]
    pub rotate_certificates: bool,
    /// Whether the serving certificate is asked for through the API.
    #[serde(rename = "serverTLSBootstrap", skip_serializing_if = "is_zero")]
    pub server_tls_bootstrap: bool,
    /// How callers of the HTTPS server are identified.
    pub authentication: KubeletAuthentication,
    /// How callers of the HTTPS server are allowed.
    pub authorization: KubeletAuthorization,
    /// Image pulls a second; 0 for no limit. Default 5.
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: i32,
    /// Image pulls at once above the rate. Default 10.
    #[serde(skip_serializing_if = "is_zero")]
    pub registry_burst: i32,
    /// For which present images a pod must prove that it could have pulled them; empty if the feature gate is off. Default NeverVerifyPreloadedImages.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_pull_credentials_verification_policy: String,
    /// Images that need no proof under `NeverVerifyAllowlistedImages`.
    #[serde(skip_serializing_if = "is_zero")]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// Events written a second; 0 for no limit. Default 50.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: i32,
    /// Events at once above the rate. Default 100.
    #[serde(skip_serializing_if = "is_zero")]
    pub event_burst: i32,
    /// Whether logs, exec, attach and port forwarding are served. Default true.
    pub enable_debugging_handlers: bool,
    /// Block profiling.
    #[serde(skip_serializing_if = "is_zero")]
    pub enable_contention_profiling: bool,
    /// Port of the health check; 0 for none. Default 10248.
    pub healthz_port: i32,
    /// Address of the health check. Default 127.0.0.1.
    #[serde(skip_serializing_if = "is_zero")]
    pub healthz_bind_address: String,
    /// The agent's own `oom_score_adj`. Default -999.
    pub oom_score_adj: i32,
    /// DNS domain of the cluster.
    #[serde(skip_serializing_if = "is_zero")]
    pub cluster_domain: String,
    /// Addresses of the cluster's DNS servers.
    #[serde(rename = "clusterDNS", skip_serializing_if = "is_zero")]
    pub cluster_dns: Vec<String>,
    /// Time after which an idle exec, attach or port-forward connection is closed. Default 4h.
    pub streaming_connection_idle_timeout: GoDuration,
    /// Time between two computations of the node status. Default 10s.
    pub node_status_update_frequency: GoDuration,
    /// Time between two reports of an unchanged node status. Follows `nodeStatusUpdateFrequency` if only that is set. Default 5m.
    pub node_status_report_frequency: GoDuration,
    /// Duration that the node's lease is held for. Default 40.
    #[serde(skip_serializing_if = "is_zero")]
    pub node_lease_duration_seconds: i32,
    /// Age that an unused image reaches before it is removed. Default 2m.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    /// Age at which an unused image is removed in any case; 0 for never.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    /// Disk use that starts the removal of images. Default 85.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: i32,
    /// Disk use that the removal of images aims at. Default 80.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: i32,
    /// Time between two measurements of a pod's volumes. Default 1m.
    pub volume_stats_agg_period: GoDuration,
    /// Cgroup to move the agent into.
    #[serde(skip_serializing_if = "is_zero")]
    pub kubelet_cgroups: String,
    /// Cgroup to move all processes into that are in none.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_cgroups: String,
    /// Cgroup under which all pod cgroups are made; empty for the runtime's default.
    #[serde(skip_serializing_if = "is_zero")]
    pub cgroup_root: String,
    /// Whether pods and QoS classes have cgroups. Default true.
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    /// `cgroupfs` or `systemd`; overridden by what the runtime answers. Default cgroupfs.
    #[serde(skip_serializing_if = "is_zero")]
    pub cgroup_driver: String,
    /// `none` or `static`. Default none.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_manager_policy: String,
    /// Whether the kernel's OOM killer takes single processes instead of whole containers; none for false on cgroup v2 and true on v1.
    #[serde(rename = "singleProcessOOMKill", skip_serializing_if = "Option::is_none")]
    pub single_process_oom_kill: Option<bool>,
    /// Options of the CPU manager policy.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    /// Time between two reconciles of CPU assignments. Default 10s.
    pub cpu_manager_reconcile_period: GoDuration,
    /// `None` or `Static`. Default None.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_manager_policy: String,
    /// `none`, `best-effort`, `restricted` or `single-numa-node`. Default none.
    #[serde(skip_serializing_if = "is_zero")]
    pub topology_manager_policy: String,
    /// `container` or `pod`. Default container.
    #[serde(skip_serializing_if = "is_zero")]
    pub topology_manager_scope: String,
    /// Options of the topology manager policy.
    #[serde(skip_serializing_if = "is_zero")]
    pub topology_manager_policy_options: BTreeMap<String, String>,
    /// Share of a resource that lower QoS classes may not use, as a percentage; `memory` only.
    #[serde(skip_serializing_if = "is_zero")]
    pub qos_reserved: BTreeMap<String, String>,
    /// Timeout of CRI calls other than pulls and streams. Default 2m.
    pub runtime_request_timeout: GoDuration,
    /// `promiscuous-bridge`, `hairpin-veth` or `none`. Has no effect with CRI. Default promiscuous-bridge.
    #[serde(skip_serializing_if = "is_zero")]
    pub hairpin_mode: String,
    /// Pods that the node takes. Default 110.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_pods: i32,
    /// Pod address range in standalone mode.
    #[serde(rename = "podCIDR", skip_serializing_if = "is_zero")]
    pub pod_cidr: String,
    /// Processes a pod may have; -1 for what the node has. Default -1.
    pub pod_pids_limit: i64,
    /// Resolver configuration that pods' DNS settings start from; empty for none. Default /etc/resolv.conf.
    pub resolv_conf: String,
    /// Must be false.
    #[serde(skip_serializing_if = "is_zero")]
    pub run_once: bool,
    /// Whether CPU limits become CFS quotas. Default true.
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    /// CFS period. Default 100ms.
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: GoDuration,
    /// Images in the node status; -1 for all. Default 50.
    pub node_status_max_images: i32,
    /// Open files the agent may have. Default 1000000.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_open_files: i64,
    /// Media type of API requests. Default application/vnd.kubernetes.protobuf.
    #[serde(skip_serializing_if = "is_zero")]
    pub content_type: String,
    /// API requests a second. Default 50.
    #[serde(rename = "kubeAPIQPS")]
    pub kube_api_qps: i32,
    /// API requests at once above the rate. Default 100.
    #[serde(rename = "kubeAPIBurst", skip_serializing_if = "is_zero")]
    pub kube_api_burst: i32,
    /// Whether images are pulled one at a time. False by default if `maxParallelImagePulls` is 2 or more. Default true.
    pub serialize_image_pulls: bool,
    /// Image pulls at once; none for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<i32>,
    /// Thresholds that evict at once, by signal. The `--config` file has defaults here, see [`default_eviction_hard`].
    #[serde(skip_serializing_if = "is_zero")]
    pub eviction_hard: BTreeMap<String, String>,
    /// Thresholds that evict after a grace period, by signal.
    #[serde(skip_serializing_if = "is_zero")]
    pub eviction_soft: BTreeMap<String, String>,
    /// Grace periods of the soft thresholds, by signal.
    #[serde(skip_serializing_if = "is_zero")]
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    /// Time for which a pressure condition stays after its cause is gone. Default 5m.
    pub eviction_pressure_transition_period: GoDuration,
    /// Grace period, seconds, of pods evicted by a soft threshold.
    #[serde(skip_serializing_if = "is_zero")]
    pub eviction_max_pod_grace_period: i32,
    /// What an eviction must free at least, by signal.
    #[serde(skip_serializing_if = "is_zero")]
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// Whether hard thresholds that are not set keep their defaults.
    pub merge_default_eviction_settings: bool,
    /// Pods a CPU; 0 for no such limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub pods_per_core: i32,
    /// Whether volumes are attached by the controller manager. Default true.
    pub enable_controller_attach_detach: bool,
    /// Whether a kernel setting that differs from what is wanted ends the start.
    #[serde(skip_serializing_if = "is_zero")]
    pub protect_kernel_defaults: bool,
    /// Whether marker chains are made in iptables. Default true.
    #[serde(rename = "makeIPTablesUtilChains")]
    pub make_iptables_util_chains: bool,
    /// Packet mark bit for SNAT. Default 14.
    pub iptables_masquerade_bit: i32,
    /// Packet mark bit for dropping. Default 15.
    pub iptables_drop_bit: i32,
    /// Feature gates by name.
    #[serde(skip_serializing_if = "is_zero")]
    pub feature_gates: BTreeMap<String, bool>,
    /// Whether swap ends the start. Default true.
    pub fail_swap_on: bool,
    /// How pods use swap.
    pub memory_swap: MemorySwapConfiguration,
    /// Size at which a container's log is rotated. Default 10Mi.
    #[serde(skip_serializing_if = "is_zero")]
    pub container_log_max_size: String,
    /// Log files kept for a container. Default 5.
    pub container_log_max_files: i32,
    /// Log rotations at once. Default 1.
    pub container_log_max_workers: i32,
    /// Time between two looks at log sizes. Default 10s.
    pub container_log_monitor_interval: GoDuration,
    /// `Watch`, `Cache` or `Get`. Default Watch.
    #[serde(skip_serializing_if = "is_zero")]
    pub config_map_and_secret_change_detection_strategy: String,
    /// Resources kept for the system, by name.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_reserved: BTreeMap<String, String>,
    /// Resources kept for Kubernetes' own components, by name.
    #[serde(skip_serializing_if = "is_zero")]
    pub kube_reserved: BTreeMap<String, String>,
    /// CPUs kept for the system and Kubernetes, like `0-1,4`.
    #[serde(rename = "reservedSystemCPUs", skip_serializing_if = "is_zero")]
    pub reserved_system_cpus: String,
    /// Version whose hidden metrics are shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub show_hidden_metrics_for_version: String,
    /// Cgroup that `systemReserved` limits.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_reserved_cgroup: String,
    /// Cgroup that `kubeReserved` limits.
    #[serde(skip_serializing_if = "is_zero")]
    pub kube_reserved_cgroup: String,
    /// What the node's allocatable resources are enforced on. Default `pods`.
    #[serde(skip_serializing_if = "is_zero")]
    pub enforce_node_allocatable: Vec<String>,
    /// Unsafe sysctls, or patterns of them, that pods may set.
    #[serde(skip_serializing_if = "is_zero")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Sysctls set in each pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub default_pod_sysctls: BTreeMap<String, String>,
    /// Folder of flexvolume plugins. Default
    /// `/usr/libexec/kubernetes/kubelet-plugins/volume/exec/`.
    #[serde(skip_serializing_if = "is_zero")]
    pub volume_plugin_dir: String,
    /// The node's `spec.providerID`.
    #[serde(rename = "providerID", skip_serializing_if = "is_zero")]
    pub provider_id: String,
    /// Whether memory thresholds are watched through the kernel.
    #[serde(skip_serializing_if = "is_zero")]
    pub kernel_memcg_notification: bool,
    /// Log format and verbosity.
    pub logging: LoggingConfiguration,
    /// Whether `/logs/` is served. Default true.
    pub enable_system_log_handler: bool,
    /// Whether the node's logs can be queried.
    pub enable_system_log_query: bool,
    /// Time by which the node's shutdown is delayed.
    pub shutdown_grace_period: GoDuration,
    /// Part of it that is kept for critical pods.
    pub shutdown_grace_period_critical_pods: GoDuration,
    /// Shutdown grace periods by pod priority, instead of the two above.
    #[serde(skip_serializing_if = "is_zero")]
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority>,
    /// Back-off of crashing containers.
    pub crash_loop_back_off: CrashLoopBackOffConfig,
    /// Memory kept by NUMA node.
    #[serde(skip_serializing_if = "is_zero")]
    pub reserved_memory: Vec<MemoryReservation>,
    /// Whether `/debug/pprof` is served. Default true.
    pub enable_profiling_handler: bool,
    /// Whether `/debug/flags/v` is served. Default true.
    pub enable_debug_flags_handler: bool,
    /// Whether pods without a seccomp profile get the runtime's.
    pub seccomp_default: bool,
    /// Share of a memory limit at which a container is throttled (cgroup v2 `memory.high`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_throttling_factor: Option<f64>,
    /// `None` or `TieredReservation`. Default None.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_reservation_policy: String,
    /// Taints of a node that the agent registers.
    #[serde(skip_serializing_if = "is_zero")]
    pub register_with_taints: Vec<Taint>,
    /// Whether the agent creates its Node object. Default true.
    pub register_node: bool,
    /// OpenTelemetry traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingConfiguration>,
    /// Whether ephemeral storage is measured and limited. Default true.
    pub local_storage_capacity_isolation: bool,
    /// CRI socket of the runtime. Default unix:///run/containerd/containerd.sock.
    pub container_runtime_endpoint: String,
    /// CRI socket of the image service; empty for the runtime's.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_service_endpoint: String,
    /// Whether cgroup v1 ends the start. Default true.
    pub fail_cgroup_v1: bool,
    /// Size of pods' user namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespaces: Option<UserNamespaces>,
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        KubeletConfiguration {
            enable_server: true,
            static_pod_path: String::new(),
            pod_logs_dir: "/var/log/pods".to_owned(),
            sync_frequency: GoDuration::from_mins(1),
            file_check_frequency: GoDuration::from_secs(20),
            http_check_frequency: GoDuration::from_secs(20),
            static_pod_url: String::new(),
            static_pod_url_header: SecretHeaders::default(),
            address: "0.0.0.0".to_owned(),
            port: 10250,
            read_only_port: 0,
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            tls_cipher_suites: Vec::new(),
            tls_curve_preferences: Vec::new(),
            tls_min_version: String::new(),
            rotate_certificates: false,
            server_tls_bootstrap: false,
            authentication: KubeletAuthentication::default(),
            authorization: KubeletAuthorization::default(),
            registry_pull_qps: 5,
            registry_burst: 10,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            event_record_qps: 50,
            event_burst: 100,
            enable_debugging_handlers: true,
            enable_contention_profiling: false,
            healthz_port: 10248,
            healthz_bind_address: "127.0.0.1".to_owned(),
            oom_score_adj: -999,
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            streaming_connection_idle_timeout: GoDuration::from_mins(4 * 60),
            node_status_update_frequency: GoDuration::from_secs(10),
            node_status_report_frequency: GoDuration::from_mins(5),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: GoDuration::from_mins(2),
            image_maximum_gc_age: GoDuration::ZERO,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            volume_stats_agg_period: GoDuration::from_mins(1),
            kubelet_cgroups: String::new(),
            system_cgroups: String::new(),
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".to_owned(),
            cpu_manager_policy: "none".to_owned(),
            single_process_oom_kill: None,
            cpu_manager_policy_options: BTreeMap::new(),
            cpu_manager_reconcile_period: GoDuration::from_secs(10),
            memory_manager_policy: "None".to_owned(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_scope: "container".to_owned(),
            topology_manager_policy_options: BTreeMap::new(),
            qos_reserved: BTreeMap::new(),
            runtime_request_timeout: GoDuration::from_mins(2),
            hairpin_mode: "promiscuous-bridge".to_owned(),
            max_pods: 110,
            pod_cidr: String::new(),
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".to_owned(),
            run_once: false,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: GoDuration::from_millis(100),
            node_status_max_images: 50,
            max_open_files: 1_000_000,
            content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            kube_api_qps: 50,
            kube_api_burst: 100,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            eviction_hard: BTreeMap::new(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_pressure_transition_period: GoDuration::from_mins(5),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            merge_default_eviction_settings: false,
            pods_per_core: 0,
            enable_controller_attach_detach: true,
            protect_kernel_defaults: false,
            make_iptables_util_chains: true,
            iptables_masquerade_bit: 14,
            iptables_drop_bit: 15,
            feature_gates: BTreeMap::new(),
            fail_swap_on: true,
            memory_swap: MemorySwapConfiguration::default(),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: GoDuration::from_secs(10),
            config_map_and_secret_change_detection_strategy: "Watch".to_owned(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            show_hidden_metrics_for_version: String::new(),
            system_reserved_cgroup: String::new(),
            kube_reserved_cgroup: String::new(),
            enforce_node_allocatable: vec!["pods".to_owned()],
            allowed_unsafe_sysctls: Vec::new(),
            default_pod_sysctls: BTreeMap::new(),
            volume_plugin_dir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".to_owned(),
            provider_id: String::new(),
            kernel_memcg_notification: false,
            logging: LoggingConfiguration::default(),
            enable_system_log_handler: true,
            enable_system_log_query: false,
            shutdown_grace_period: GoDuration::ZERO,
            shutdown_grace_period_critical_pods: GoDuration::ZERO,
            shutdown_grace_period_by_pod_priority: Vec::new(),
            crash_loop_back_off: CrashLoopBackOffConfig {
                max_container_restart_period: Some(GoDuration::from_mins(5)),
            },
            reserved_memory: Vec::new(),
            enable_profiling_handler: true,
            enable_debug_flags_handler: true,
            seccomp_default: false,
            memory_throttling_factor: None,
            memory_reservation_policy: "None".to_owned(),
            register_with_taints: Vec::new(),
            register_node: true,
            tracing: None,
            local_storage_capacity_isolation: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            image_service_endpoint: String::new(),
            fail_cgroup_v1: true,
            user_namespaces: None,
        }
    }
}

impl KubeletConfiguration {
    /// Puts the default where a field holds the zero that the API reads as "not set".
    pub(super) fn replace_zeros_by_defaults(&mut self) {
        /// The listed fields of `$target`, from `$default` where they are zero.
        macro_rules! fill {
            ($target:expr, $default:expr, $($($field:ident).+),+ $(,)?) => {
                $(if is_zero(&$target.$($field).+) {
                    $target.$($field).+ = $default.$($field).+;
                })+
            };
        }
        let default = KubeletConfiguration::default();
        fill!(
            self,
            default,
            pod_logs_dir,
            sync_frequency,
            file_check_frequency,
            http_check_frequency,
            address,
            port,
            registry_burst,
            event_burst,
            healthz_bind_address,
            streaming_connection_idle_timeout,
            node_lease_duration_seconds,
            image_minimum_gc_age,
            volume_stats_agg_period,
            cgroup_driver,
            cpu_manager_policy,
            cpu_manager_reconcile_period,
            memory_manager_policy,
            topology_manager_policy,
            topology_manager_scope,
            runtime_request_timeout,
            hairpin_mode,
            max_pods,
            max_open_files,
            content_type,
            kube_api_burst,
            eviction_pressure_transition_period,
            container_log_max_size,
            config_map_and_secret_change_detection_strategy,
            volume_plugin_dir,
            memory_reservation_policy,
            container_runtime_endpoint,
            authentication.webhook.cache_ttl,
            authorization.mode,
            authorization.webhook.cache_authorized_ttl,
            authorization.webhook.cache_unauthorized_ttl,
            logging.format,
            logging.flush_frequency,
        );
        if self.pod_pids_limit < 0 {
            self.pod_pids_limit = -1;
        }
    }

    /// The image service's socket: the runtime's unless another is set.
    pub fn image_endpoint(&self) -> &str {
        if self.image_service_endpoint.is_empty() {
            &self.container_runtime_endpoint
        } else {
            &self.image_service_endpoint
        }
    }

    /// Whether the OOM killer takes single processes; by default it does on cgroup v1, which cannot do otherwise.
    pub fn single_process_oom_kill_on(&self, is_cgroup_v1: bool) -> bool {
        self.single_process_oom_kill.unwrap_or(is_cgroup_v1)
    }
}

/// Thresholds that hold when the `--config` file sets none (`eviction.DefaultEvictionHard` on Linux).
pub fn default_eviction_hard() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .into_iter()
    .map(|(signal, threshold)| (signal.to_owned(), threshold.to_owned()))
    .collect()
}

/// Whether a value is what Go calls the zero value, which the API leaves out.
fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
