//! The flags of kubelet v1.37.2, and those that earlier releases had.

use super::binding::{Binding, Split};

/// One flag.
pub(in crate::config) struct FlagSpec {
    /// Name, with dashes.
    pub(in crate::config) name: &'static str,
    /// Where its value goes.
    pub(in crate::config) binding: Binding,
    /// The field of the configuration file that says the same; none for what only flags can say.
    pub(in crate::config) field: Option<&'static str>,
    /// What it is for, where no field says so.
    pub(in crate::config) help: &'static str,
}

impl FlagSpec {
    const fn own(name: &'static str, binding: Binding, help: &'static str) -> Self {
        FlagSpec { name, binding, field: None, help }
    }

    const fn of_file(name: &'static str, field: &'static str, binding: Binding) -> Self {
        FlagSpec { name, binding, field: Some(field), help: "" }
    }
}

/// The flags by name.
pub(in crate::config) const FLAGS: &[FlagSpec] = &[
    FlagSpec::of_file("address", "address", Binding::Ip(|t| &mut t.configuration.address)),
    FlagSpec::of_file(
        "allowed-unsafe-sysctls",
        "allowedUnsafeSysctls",
        Binding::Texts(|t| &mut t.configuration.allowed_unsafe_sysctls),
    ),
    FlagSpec::of_file(
        "anonymous-auth",
        "authentication.anonymous.enabled",
        Binding::Bool(|t| &mut t.configuration.authentication.anonymous.enabled),
    ),
    FlagSpec::of_file(
        "authentication-token-webhook",
        "authentication.webhook.enabled",
        Binding::Bool(|t| &mut t.configuration.authentication.webhook.enabled),
    ),
    FlagSpec::of_file(
        "authentication-token-webhook-cache-ttl",
        "authentication.webhook.cacheTTL",
        Binding::Duration(|t| &mut t.configuration.authentication.webhook.cache_ttl),
    ),
    FlagSpec::of_file(
        "authorization-mode",
        "authorization.mode",
        Binding::Text(|t| &mut t.configuration.authorization.mode),
    ),
    FlagSpec::of_file(
        "authorization-webhook-cache-authorized-ttl",
        "authorization.webhook.cacheAuthorizedTTL",
        Binding::Duration(|t| &mut t.configuration.authorization.webhook.cache_authorized_ttl),
    ),
    FlagSpec::of_file(
        "authorization-webhook-cache-unauthorized-ttl",
        "authorization.webhook.cacheUnauthorizedTTL",
        Binding::Duration(|t| &mut t.configuration.authorization.webhook.cache_unauthorized_ttl),
    ),
    FlagSpec::own(
        "bootstrap-kubeconfig",
        Binding::OptionalPath(|t| &mut t.flags.bootstrap_kubeconfig),
        "Kubeconfig that asks for a client certificate if --kubeconfig does not exist yet.",
    ),
    FlagSpec::own(
        "cert-dir",
        Binding::Path(|t| &mut t.flags.cert_dir),
        "Folder of the certificates that the agent makes or is given.",
    ),
    FlagSpec::of_file("cgroup-driver", "cgroupDriver", Binding::Text(|t| &mut t.configuration.cgroup_driver)),
    FlagSpec::of_file("cgroup-root", "cgroupRoot", Binding::Text(|t| &mut t.configuration.cgroup_root)),
    FlagSpec::of_file("cgroups-per-qos", "cgroupsPerQOS", Binding::Bool(|t| &mut t.configuration.cgroups_per_qos)),
    FlagSpec::of_file(
        "client-ca-file",
        "authentication.x509.clientCAFile",
        Binding::Text(|t| &mut t.configuration.authentication.x509.client_ca_file),
    ),
    FlagSpec::own(
        "cloud-provider",
        Binding::Text(|t| &mut t.flags.cloud_provider),
        "Empty, or external for a cloud provider that runs elsewhere.",
    ),
    FlagSpec::of_file("cluster-dns", "clusterDNS", Binding::Texts(|t| &mut t.configuration.cluster_dns)),
    FlagSpec::of_file("cluster-domain", "clusterDomain", Binding::Text(|t| &mut t.configuration.cluster_domain)),
    FlagSpec::own(
        "config",
        Binding::OptionalPath(|t| &mut t.flags.config),
        "KubeletConfiguration file, YAML or JSON. Flags win over it.",
    ),
    FlagSpec::own(
        "config-dir",
        Binding::OptionalPath(|t| &mut t.flags.config_dir),
        "Folder of *.conf files that are merged over --config in the order of their names.",
    ),
    FlagSpec::of_file(
        "container-log-max-files",
        "containerLogMaxFiles",
        Binding::Int32(|t| &mut t.configuration.container_log_max_files),
    ),
    FlagSpec::of_file(
        "container-log-max-size",
        "containerLogMaxSize",
        Binding::Text(|t| &mut t.configuration.container_log_max_size),
    ),
    FlagSpec::of_file(
        "container-runtime-endpoint",
        "containerRuntimeEndpoint",
        Binding::Text(|t| &mut t.configuration.container_runtime_endpoint),
    ),
    FlagSpec::of_file(
        "contention-profiling",
        "enableContentionProfiling",
        Binding::Bool(|t| &mut t.configuration.enable_contention_profiling),
    ),
    FlagSpec::of_file("cpu-cfs-quota", "cpuCFSQuota", Binding::Bool(|t| &mut t.configuration.cpu_cfs_quota)),
    FlagSpec::of_file(
        "cpu-cfs-quota-period",
        "cpuCFSQuotaPeriod",
        Binding::Duration(|t| &mut t.configuration.cpu_cfs_quota_period),
    ),
    FlagSpec::of_file(
        "cpu-manager-policy",
        "cpuManagerPolicy",
        Binding::Text(|t| &mut t.configuration.cpu_manager_policy),
    ),
    FlagSpec::of_file(
        "cpu-manager-policy-options",
        "cpuManagerPolicyOptions",
        Binding::Pairs(|t| &mut t.configuration.cpu_manager_policy_options, '=', Split::No),
    ),
    FlagSpec::of_file(
        "cpu-manager-reconcile-period",
        "cpuManagerReconcilePeriod",
        Binding::Duration(|t| &mut t.configuration.cpu_manager_reconcile_period),
    ),
    FlagSpec::of_file(
        "enable-controller-attach-detach",
        "enableControllerAttachDetach",
        Binding::Bool(|t| &mut t.configuration.enable_controller_attach_detach),
    ),
    FlagSpec::of_file(
        "enable-debugging-handlers",
        "enableDebuggingHandlers",
        Binding::Bool(|t| &mut t.configuration.enable_debugging_handlers),
    ),
    FlagSpec::of_file("enable-server", "enableServer", Binding::Bool(|t| &mut t.configuration.enable_server)),
    FlagSpec::of_file(
        "enforce-node-allocatable",
        "enforceNodeAllocatable",
        Binding::Texts(|t| &mut t.configuration.enforce_node_allocatable),
    ),
    FlagSpec::of_file("event-burst", "eventBurst", Binding::Int32(|t| &mut t.configuration.event_burst)),
    FlagSpec::of_file("event-qps", "eventRecordQPS", Binding::Int32(|t| &mut t.configuration.event_record_qps)),
    FlagSpec::of_file(
        "eviction-hard",
        "evictionHard",
        Binding::Pairs(|t| &mut t.configuration.eviction_hard, '<', Split::Commas),
    ),
    FlagSpec::of_file(
        "eviction-max-pod-grace-period",
        "evictionMaxPodGracePeriod",
        Binding::Int32(|t| &mut t.configuration.eviction_max_pod_grace_period),
    ),
    FlagSpec::of_file(
        "eviction-minimum-reclaim",
        "evictionMinimumReclaim",
        Binding::Pairs(|t| &mut t.configuration.eviction_minimum_reclaim, '=', Split::Commas),
    ),
    FlagSpec::of_file(
        "eviction-pressure-transition-period",
        "evictionPressureTransitionPeriod",
        Binding::Duration(|t| &mut t.configuration.eviction_pressure_transition_period),
    ),
    FlagSpec::of_file(
        "eviction-soft",
        "evictionSoft",
        Binding::Pairs(|t| &mut t.configuration.eviction_soft, '<', Split::Commas),
    ),
    FlagSpec::of_file(
        "eviction-soft-grace-period",
        "evictionSoftGracePeriod",
        Binding::Pairs(|t| &mut t.configuration.eviction_soft_grace_period, '=', Split::Commas),
    ),
    FlagSpec::own(
        "exit-on-lock-contention",
        Binding::Bool(|t| &mut t.flags.exit_on_lock_contention),
        "End when another process opens --lock-file.",
    ),
    FlagSpec::own(
        "experimental-allocatable-ignore-eviction",
        Binding::Bool(|t| &mut t.flags.experimental_allocatable_ignore_eviction),
        "Leave hard eviction thresholds out of the allocatable resources. Deprecated.",
    ),
    FlagSpec::own(
        "experimental-mounter-path",
        Binding::OptionalPath(|t| &mut t.flags.experimental_mounter_path),
        "Program that mounts instead of mount(8). Deprecated.",
    ),
    FlagSpec::of_file("fail-cgroupv1", "failCgroupV1", Binding::Bool(|t| &mut t.configuration.fail_cgroup_v1)),
    FlagSpec::of_file("fail-swap-on", "failSwapOn", Binding::Bool(|t| &mut t.configuration.fail_swap_on)),
    FlagSpec::of_file("feature-gates", "featureGates", Binding::Gates),
    FlagSpec::of_file(
        "file-check-frequency",
        "fileCheckFrequency",
        Binding::Duration(|t| &mut t.configuration.file_check_frequency),
    ),
    FlagSpec::of_file("hairpin-mode", "hairpinMode", Binding::Text(|t| &mut t.configuration.hairpin_mode)),
    FlagSpec::of_file(
        "healthz-bind-address",
        "healthzBindAddress",
        Binding::Ip(|t| &mut t.configuration.healthz_bind_address),
    ),
    FlagSpec::of_file("healthz-port", "healthzPort", Binding::Int32(|t| &mut t.configuration.healthz_port)),
    FlagSpec::own(
        "hostname-override",
        Binding::OptionalText(|t| &mut t.flags.hostname_override),
        "Name of the node instead of the host name.",
    ),
    FlagSpec::own(
        "housekeeping-interval",
        Binding::Duration(|t| &mut t.flags.housekeeping_interval),
        "Time between two measurements of containers.",
    ),
    FlagSpec::of_file(
        "http-check-frequency",
        "httpCheckFrequency",
        Binding::Duration(|t| &mut t.configuration.http_check_frequency),
    ),
    FlagSpec::own(
        "image-credential-provider-bin-dir",
        Binding::OptionalPath(|t| &mut t.flags.image_credential_provider_bin_dir),
        "Folder of the image credential plugins.",
    ),
    FlagSpec::own(
        "image-credential-provider-config",
        Binding::OptionalPath(|t| &mut t.flags.image_credential_provider_config),
        "Configuration of the image credential plugins.",
    ),
    FlagSpec::of_file(
        "image-gc-high-threshold",
        "imageGCHighThresholdPercent",
        Binding::Int32(|t| &mut t.configuration.image_gc_high_threshold_percent),
    ),
    FlagSpec::of_file(
        "image-gc-low-threshold",
        "imageGCLowThresholdPercent",
        Binding::Int32(|t| &mut t.configuration.image_gc_low_threshold_percent),
    ),
    FlagSpec::of_file(
        "image-service-endpoint",
        "imageServiceEndpoint",
        Binding::Text(|t| &mut t.configuration.image_service_endpoint),
    ),
    FlagSpec::of_file(
        "kernel-memcg-notification",
        "kernelMemcgNotification",
        Binding::Bool(|t| &mut t.configuration.kernel_memcg_notification),
    ),
    FlagSpec::of_file("kube-api-burst", "kubeAPIBurst", Binding::Int32(|t| &mut t.configuration.kube_api_burst)),
    FlagSpec::of_file("kube-api-content-type", "contentType", Binding::Text(|t| &mut t.configuration.content_type)),
    FlagSpec::of_file("kube-api-qps", "kubeAPIQPS", Binding::Int32(|t| &mut t.configuration.kube_api_qps)),
    FlagSpec::of_file(
        "kube-reserved",
        "kubeReserved",
        Binding::Pairs(|t| &mut t.configuration.kube_reserved, '=', Split::Commas),
    ),
    FlagSpec::of_file(
        "kube-reserved-cgroup",
        "kubeReservedCgroup",
        Binding::Text(|t| &mut t.configuration.kube_reserved_cgroup),
    ),
    FlagSpec::own(
        "kubeconfig",
        Binding::OptionalPath(|t| &mut t.flags.kubeconfig),
        "How to reach the API server. Without it the node runs static pods alone.",
    ),
    FlagSpec::of_file("kubelet-cgroups", "kubeletCgroups", Binding::Text(|t| &mut t.configuration.kubelet_cgroups)),
    FlagSpec::of_file(
        "local-storage-capacity-isolation",
        "localStorageCapacityIsolation",
        Binding::Bool(|t| &mut t.configuration.local_storage_capacity_isolation),
    ),
    FlagSpec::own("lock-file", Binding::OptionalPath(|t| &mut t.flags.lock_file), "File locked while running."),
    FlagSpec::of_file(
        "log-flush-frequency",
        "logging.flushFrequency",
        Binding::Duration(|t| &mut t.configuration.logging.flush_frequency),
    ),
    FlagSpec::of_file(
        "log-json-info-buffer-size",
        "logging.options.json.infoBufferSize",
        Binding::Size(|t| &mut t.configuration.logging.options.json.info_buffer_size),
    ),
    FlagSpec::of_file(
        "log-json-split-stream",
        "logging.options.json.splitStream",
        Binding::Bool(|t| &mut t.configuration.logging.options.json.split_stream),
    ),
    FlagSpec::of_file(
        "log-text-info-buffer-size",
        "logging.options.text.infoBufferSize",
        Binding::Size(|t| &mut t.configuration.logging.options.text.info_buffer_size),
    ),
    FlagSpec::of_file(
        "log-text-split-stream",
        "logging.options.text.splitStream",
        Binding::Bool(|t| &mut t.configuration.logging.options.text.split_stream),
    ),
    FlagSpec::of_file("logging-format", "logging.format", Binding::Text(|t| &mut t.configuration.logging.format)),
    FlagSpec::of_file(
        "make-iptables-util-chains",
        "makeIPTablesUtilChains",
        Binding::Bool(|t| &mut t.configuration.make_iptables_util_chains),
    ),
    FlagSpec::of_file("manifest-url", "staticPodURL", Binding::Text(|t| &mut t.configuration.static_pod_url)),
    FlagSpec::of_file("manifest-url-header", "staticPodURLHeader", Binding::Headers),
    FlagSpec::of_file("max-open-files", "maxOpenFiles", Binding::Int64(|t| &mut t.configuration.max_open_files)),
    FlagSpec::of_file("max-pods", "maxPods", Binding::Int32(|t| &mut t.configuration.max_pods)),
    FlagSpec::own(
        "maximum-dead-containers",
        Binding::Int32(|t| &mut t.flags.maximum_dead_containers),
        "Ended containers kept on the node; -1 for no limit. Deprecated.",
    ),
    FlagSpec::own(
        "maximum-dead-containers-per-container",
        Binding::Int32(|t| &mut t.flags.maximum_dead_containers_per_container),
        "Ended instances kept of each container. Deprecated.",
    ),
    FlagSpec::of_file(
        "memory-manager-policy",
        "memoryManagerPolicy",
        Binding::Text(|t| &mut t.configuration.memory_manager_policy),
    ),
    FlagSpec::own(
        "minimum-container-ttl-duration",
        Binding::Duration(|t| &mut t.flags.minimum_container_ttl_duration),
        "Age of an ended container before it may be removed. Deprecated.",
    ),
    FlagSpec::of_file(
        "minimum-image-ttl-duration",
        "imageMinimumGCAge",
        Binding::Duration(|t| &mut t.configuration.image_minimum_gc_age),
    ),
    FlagSpec::own(
        "node-ip",
        Binding::NodeIps,
        "Address of the node, or one of each family; :: or 0.0.0.0 for a choice of that family.",
    ),
    FlagSpec::own(
        "node-labels",
        Binding::Labels(|t| &mut t.flags.node_labels),
        "Labels of the node when it registers.",
    ),
    FlagSpec::of_file(
        "node-status-max-images",
        "nodeStatusMaxImages",
        Binding::Int32(|t| &mut t.configuration.node_status_max_images),
    ),
    FlagSpec::of_file(
        "node-status-update-frequency",
        "nodeStatusUpdateFrequency",
        Binding::Duration(|t| &mut t.configuration.node_status_update_frequency),
    ),
    FlagSpec::of_file("oom-score-adj", "oomScoreAdj", Binding::Int32(|t| &mut t.configuration.oom_score_adj)),
    FlagSpec::of_file("pod-cidr", "podCIDR", Binding::Text(|t| &mut t.configuration.pod_cidr)),
    FlagSpec::of_file("pod-manifest-path", "staticPodPath", Binding::Text(|t| &mut t.configuration.static_pod_path)),
    FlagSpec::of_file("pod-max-pids", "podPidsLimit", Binding::Int64(|t| &mut t.configuration.pod_pids_limit)),
    FlagSpec::of_file("pods-per-core", "podsPerCore", Binding::Int32(|t| &mut t.configuration.pods_per_core)),
    FlagSpec::of_file("port", "port", Binding::Int32(|t| &mut t.configuration.port)),
    FlagSpec::of_file(
        "protect-kernel-defaults",
        "protectKernelDefaults",
        Binding::Bool(|t| &mut t.configuration.protect_kernel_defaults),
    ),
    FlagSpec::of_file("provider-id", "providerID", Binding::Text(|t| &mut t.configuration.provider_id)),
    FlagSpec::of_file(
        "qos-reserved",
        "qosReserved",
        Binding::Pairs(|t| &mut t.configuration.qos_reserved, '=', Split::Commas),
    ),
    FlagSpec::of_file("read-only-port", "readOnlyPort", Binding::Int32(|t| &mut t.configuration.read_only_port)),
    FlagSpec::of_file("register-node", "registerNode", Binding::Bool(|t| &mut t.configuration.register_node)),
    FlagSpec::of_file("register-with-taints", "registerWithTaints", Binding::Taints),
    FlagSpec::of_file("registry-burst", "registryBurst", Binding::Int32(|t| &mut t.configuration.registry_burst)),
    FlagSpec::of_file("registry-qps", "registryPullQPS", Binding::Int32(|t| &mut t.configuration.registry_pull_qps)),
    FlagSpec::of_file(
        "reserved-cpus",
        "reservedSystemCPUs",
        Binding::Text(|t| &mut t.configuration.reserved_system_cpus),
    ),
    FlagSpec::of_file("reserved-memory", "reservedMemory", Binding::ReservedMemory),
    FlagSpec::of_file("resolv-conf", "resolvConf", Binding::Text(|t| &mut t.configuration.resolv_conf)),
    FlagSpec::own("root-dir", Binding::Path(|t| &mut t.flags.root_dir), "Folder of the agent's files."),
    FlagSpec::of_file(
        "rotate-certificates",
        "rotateCertificates",
        Binding::Bool(|t| &mut t.configuration.rotate_certificates),
    ),
    FlagSpec::of_file(
        "rotate-server-certificates",
        "serverTLSBootstrap",
        Binding::Bool(|t| &mut t.configuration.server_tls_bootstrap),
    ),
    FlagSpec::of_file("runonce", "runOnce", Binding::Bool(|t| &mut t.configuration.run_once)),
    FlagSpec::own(
        "runtime-cgroups",
        Binding::OptionalText(|t| &mut t.flags.runtime_cgroups),
        "Cgroup of the container runtime.",
    ),
    FlagSpec::of_file(
        "runtime-request-timeout",
        "runtimeRequestTimeout",
        Binding::Duration(|t| &mut t.configuration.runtime_request_timeout),
    ),
    FlagSpec::own(
        "seccomp-default",
        Binding::Bool(|t| &mut t.flags.seccomp_default),
        "Give pods without a seccomp profile the runtime's.",
    ),
    FlagSpec::of_file(
        "serialize-image-pulls",
        "serializeImagePulls",
        Binding::Bool(|t| &mut t.configuration.serialize_image_pulls),
    ),
    FlagSpec::of_file(
        "streaming-connection-idle-timeout",
        "streamingConnectionIdleTimeout",
        Binding::Duration(|t| &mut t.configuration.streaming_connection_idle_timeout),
    ),
    FlagSpec::of_file("sync-frequency", "syncFrequency", Binding::Duration(|t| &mut t.configuration.sync_frequency)),
    FlagSpec::of_file("system-cgroups", "systemCgroups", Binding::Text(|t| &mut t.configuration.system_cgroups)),
    FlagSpec::of_file(
        "system-reserved",
        "systemReserved",
        Binding::Pairs(|t| &mut t.configuration.system_reserved, '=', Split::Commas),
    ),
    FlagSpec::of_file(
        "system-reserved-cgroup",
        "systemReservedCgroup",
        Binding::Text(|t| &mut t.configuration.system_reserved_cgroup),
    ),
    FlagSpec::of_file("tls-cert-file", "tlsCertFile", Binding::Text(|t| &mut t.configuration.tls_cert_file)),
    FlagSpec::of_file(
        "tls-cipher-suites",
        "tlsCipherSuites",
        Binding::Texts(|t| &mut t.configuration.tls_cipher_suites),
    ),
    FlagSpec::of_file("tls-min-version", "tlsMinVersion", Binding::Text(|t| &mut t.configuration.tls_min_version)),
    FlagSpec::of_file(
        "tls-private-key-file",
        "tlsPrivateKeyFile",
        Binding::Text(|t| &mut t.configuration.tls_private_key_file),
    ),
    FlagSpec::of_file(
        "topology-manager-policy",
        "topologyManagerPolicy",
        Binding::Text(|t| &mut t.configuration.topology_manager_policy),
    ),
    FlagSpec::of_file(
        "topology-manager-policy-options",
        "topologyManagerPolicyOptions",
        Binding::Pairs(|t| &mut t.configuration.topology_manager_policy_options, '=', Split::Commas),
    ),
    FlagSpec::of_file(
        "topology-manager-scope",
        "topologyManagerScope",
        Binding::Text(|t| &mut t.configuration.topology_manager_scope),
    ),
    FlagSpec::of_file("v", "logging.verbosity", Binding::Level(|t| &mut t.configuration.logging.verbosity)),
    FlagSpec::of_file("vmodule", "logging.vmodule", Binding::VModule(|t| &mut t.configuration.logging.vmodule)),
    FlagSpec::of_file(
        "volume-plugin-dir",
        "volumePluginDir",
        Binding::Text(|t| &mut t.configuration.volume_plugin_dir),
    ),
    FlagSpec::of_file(
        "volume-stats-agg-period",
        "volumeStatsAggPeriod",
        Binding::Duration(|t| &mut t.configuration.volume_stats_agg_period),
    ),
];

/// A flag that an earlier release had: taken and ignored, so that a node's old flag files still start it.
pub(super) struct DeadFlag {
    /// Name, with dashes.
    pub(super) name: &'static str,
    /// Whether a value must follow; otherwise it was a boolean.
    pub(super) takes_value: bool,
}

const fn text(name: &'static str) -> DeadFlag {
    DeadFlag { name, takes_value: true }
}

const fn boolean(name: &'static str) -> DeadFlag {
    DeadFlag { name, takes_value: false }
}

/// The flags that are gone.
pub(super) const DEAD_FLAGS: &[DeadFlag] = &[
    boolean("add-dir-header"),
    boolean("allow-privileged"),
    boolean("alsologtostderr"),
    text("application-metrics-count-limit"),
    text("azure-container-registry-config"),
    text("boot-id-file"),
    text("bootstrap-checkpoint-path"),
    text("cadvisor-port"),
    text("chaos-chance"),
    text("cloud-config"),
    text("cni-bin-dir"),
    text("cni-cache-dir"),
    text("cni-conf-dir"),
    text("container-hints"),
    text("container-runtime"),
    text("containerd"),
    text("containerd-namespace"),
    boolean("containerized"),
    text("docker"),
    text("docker-endpoint"),
    text("docker-env-metadata-whitelist"),
    boolean("docker-only"),
    text("docker-root"),
    boolean("docker-tls"),
    text("docker-tls-ca"),
    text("docker-tls-cert"),
    text("docker-tls-key"),
    text("dynamic-config-dir"),
    boolean("enable-cadvisor-json-endpoints"),
    boolean("enable-custom-metrics"),
    boolean("enable-load-reader"),
    text("event-storage-age-limit"),
    text("event-storage-event-limit"),
    boolean("experimental-check-node-capabilities-before-mount"),
    text("experimental-dockershim-root-directory"),
    boolean("experimental-fail-swap-on"),
    boolean("experimental-kernel-memcg-notification"),
    boolean("experimental-logging-sanitization"),
    text("global-housekeeping-interval"),
    text("host-ipc-sources"),
    text("host-network-sources"),
    text("host-pid-sources"),
    text("image-pull-progress-deadline"),
    text("iptables-drop-bit"),
    text("iptables-masquerade-bit"),
    boolean("keep-terminated-pod-volumes"),
    text("log-backtrace-at"),
    boolean("log-cadvisor-usage"),
    text("log-dir"),
    text("log-file"),
    text("log-file-max-size"),
    boolean("logtostderr"),
    text("machine-id-file"),
    text("master-service-namespace"),
    text("network-plugin"),
    text("network-plugin-mtu"),
    text("non-masquerade-cidr"),
    boolean("one-output"),
    text("pod-infra-container-image"),
    boolean("really-crash-for-testing"),
    boolean("redirect-container-streaming"),
    boolean("register-schedulable"),
    text("rkt-api-endpoint"),
    text("rkt-path"),
    text("seccomp-profile-root"),
    boolean("skip-headers"),
    boolean("skip-log-headers"),
    text("stderrthreshold"),
    text("storage-driver-buffer-duration"),
    text("storage-driver-db"),
    text("storage-driver-host"),
    text("storage-driver-password"),
    boolean("storage-driver-secure"),
    text("storage-driver-table"),
    text("storage-driver-user"),
    text("update-machine-info-interval"),
];
