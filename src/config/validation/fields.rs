//! The rules on single fields and pairs of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Faults;
use crate::config::gates::{FeatureGates, Gate};
use crate::config::load::clean;
use crate::config::names;
use crate::config::types::KubeletConfiguration;
use crate::model::go_duration::GoDuration;
use crate::model::sysctl;
use crate::sys::cpu_list;

const SECOND: GoDuration = GoDuration::from_secs(1);

pub(super) fn check(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    numbers(faults, c);
    choices(faults, c, gates);
    images(faults, c, gates);
    shutdown(faults, c, gates);
    back_off(faults, c, gates);
    enforcement(faults, c);
    cpus(faults, c);
    memory(faults, c, gates);
    logs(faults, c, gates);
    logging(faults, c, gates);
    tracing(faults, c);
    sysctls(faults, c, gates);
}

fn numbers(faults: &mut Faults, c: &KubeletConfiguration) {
    const NOT_NEGATIVE: &str = "must not be negative";
    let lease = c.node_lease_duration_seconds;
    faults.require(lease > 0, "nodeLeaseDurationSeconds", lease, "must be greater than 0");
    for (field, value) in [
        ("eventBurst", c.event_burst),
        ("eventRecordQPS", c.event_record_qps),
        ("kubeAPIBurst", c.kube_api_burst),
        ("kubeAPIQPS", c.kube_api_qps),
        ("maxPods", c.max_pods),
        ("podsPerCore", c.pods_per_core),
        ("registryBurst", c.registry_burst),
        ("registryPullQPS", c.registry_pull_qps),
    ] {
        faults.require(value >= 0, field, value, NOT_NEGATIVE);
    }
    faults.require(c.max_open_files >= 0, "maxOpenFiles", c.max_open_files, NOT_NEGATIVE);
    faults.require((1..=65535).contains(&c.port), "port", c.port, "must be between 1 and 65535");
    for (field, port) in [("healthzPort", c.healthz_port), ("readOnlyPort", c.read_only_port)] {
        faults.require((0..=65535).contains(&port), field, port, "must be between 1 and 65535, or 0 for none");
    }
    for (field, bit) in [("iptablesDropBit", c.iptables_drop_bit), ("iptablesMasqueradeBit", c.iptables_masquerade_bit)]
    {
        faults.require((0..=31).contains(&bit), field, bit, "must be between 0 and 31");
    }
    let (images, adjustment) = (c.node_status_max_images, c.oom_score_adj);
    faults.require(images >= -1, "nodeStatusMaxImages", images, "must be -1 or greater");
    faults.require((-1000..=1000).contains(&adjustment), "oomScoreAdj", adjustment, "must be between -1000 and 1000");
    faults.require(
        (GoDuration::from_millis(1)..=SECOND).contains(&c.cpu_cfs_quota_period),
        "cpuCFSQuotaPeriod",
        c.cpu_cfs_quota_period,
        "must be between 1ms and 1s",
    );
    if let Some(ids) = c.user_namespaces.as_ref().and_then(|user| user.ids_per_pod) {
        faults.require(
            (65536..=i64::from(u32::MAX)).contains(&ids) && ids % 65536 == 0,
            "userNamespaces.idsPerPod",
            ids,
            "must be a multiple of 65536 from 65536 to 4294967295",
        );
    }
}

fn choices(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    faults.require_one_of(
        "topologyManagerPolicy",
        &c.topology_manager_policy,
        &["none", "best-effort", "restricted", "single-numa-node"],
    );
    faults.require_one_of("topologyManagerScope", &c.topology_manager_scope, &["container", "pod"]);
    faults.require_one_of("cpuManagerPolicy", &c.cpu_manager_policy, &["none", "static"]);
    faults.require_one_of("memoryManagerPolicy", &c.memory_manager_policy, &["None", "Static"]);
    faults.require_one_of("hairpinMode", &c.hairpin_mode, &["promiscuous-bridge", "hairpin-veth", "none"]);
    faults.require_one_of("cgroupDriver", &c.cgroup_driver, &["cgroupfs", "systemd"]);
    faults.require_one_of("authorization.mode", &c.authorization.mode, &["Webhook", "AlwaysAllow"]);
    faults.require_one_of(
        "configMapAndSecretChangeDetectionStrategy",
        &c.config_map_and_secret_change_detection_strategy,
        &["Watch", "Cache", "Get"],
    );
    faults.require_one_of("memorySwap.swapBehavior", &c.memory_swap.swap_behavior, &["", "NoSwap", "LimitedSwap"]);
    let versions = ["", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"];
    faults.require_one_of("tlsMinVersion", &c.tls_min_version, &versions);
    // Only the previous minor version's hidden metrics can be shown.
    faults.require_one_of("showHiddenMetricsForVersion", &c.show_hidden_metrics_for_version, &["", "1.36"]);
    faults.require(!c.run_once, "runOnce", c.run_once, "must be false: there is no such mode any more");
    faults.require(
        !c.server_tls_bootstrap || gates.enabled(Gate::RotateKubeletServerCertificate),
        "serverTLSBootstrap",
        c.server_tls_bootstrap,
        "needs the feature gate RotateKubeletServerCertificate",
    );
    faults.require(
        c.system_cgroups.is_empty() || !c.cgroup_root.is_empty(),
        "systemCgroups",
        format!("{:?}", c.system_cgroups),
        "needs cgroupRoot (--cgroup-root) to be set",
    );
    let endpoint = &c.container_runtime_endpoint;
    faults.require(!endpoint.is_empty(), "containerRuntimeEndpoint", endpoint, "must be set");
}

fn images(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    let (high, low) = (c.image_gc_high_threshold_percent, c.image_gc_low_threshold_percent);
    for (field, percent) in [("imageGCHighThresholdPercent", high), ("imageGCLowThresholdPercent", low)] {
        faults.require((0..=100).contains(&percent), field, percent, "must be between 0 and 100");
    }
    if low >= high {
        let allowed = format!("must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}");
        faults.add("imageGCLowThresholdPercent", low, allowed);
    }
    let (least, most) = (c.image_minimum_gc_age, c.image_maximum_gc_age);
    faults.require(!least.is_negative(), "imageMinimumGCAge", least, "must not be negative");
    faults.require(!most.is_negative(), "imageMaximumGCAge", most, "must not be negative");
    if most > GoDuration::ZERO && most <= least {
        let allowed = format!("must be 0 or greater than imageMinimumGCAge (--minimum-image-ttl-duration) {least}");
        faults.add("imageMaximumGCAge", most, allowed);
    }
    faults.require(
        most.is_zero() || gates.enabled(Gate::ImageMaximumGCAge),
        "imageMaximumGCAge",
        most,
        "needs the feature gate ImageMaximumGCAge",
    );
    if let Some(pulls) = c.max_parallel_image_pulls {
        faults.require(pulls >= 1, "maxParallelImagePulls", pulls, "must be 1 or greater");
        faults.require(
            pulls <= 1 || !c.serialize_image_pulls,
            "maxParallelImagePulls",
            pulls,
            "must be 1 unless serializeImagePulls (--serialize-image-pulls) is false",
        );
    }
    let policy = &c.image_pull_credentials_verification_policy;
    let allowlist = &c.preloaded_images_verification_allowlist;
    if !gates.enabled(Gate::KubeletEnsureSecretPulledImages) {
        const NEEDS: &str = "needs the feature gate KubeletEnsureSecretPulledImages";
        faults.require(policy.is_empty(), "imagePullCredentialsVerificationPolicy", format!("{policy:?}"), NEEDS);
        faults.require(allowlist.is_empty(), "preloadedImagesVerificationAllowlist", allowlist.join(","), NEEDS);
        return;
    }
    faults.require_one_of(
        "imagePullCredentialsVerificationPolicy",
        policy,
        &["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"],
    );
    faults.require(
        allowlist.is_empty() || policy == "NeverVerifyAllowlistedImages",
        "preloadedImagesVerificationAllowlist",
        allowlist.join(","),
        "needs imagePullCredentialsVerificationPolicy \"NeverVerifyAllowlistedImages\"",
    );
    for pattern in allowlist.iter().filter(|pattern| !is_image_pattern(pattern)) {
        faults.add(
            "preloadedImagesVerificationAllowlist",
            format!("{pattern:?}"),
            "must be an image without tag or digest, or a registry or path followed by /*",
        );
    }
}

/// An image without tag and digest, or a prefix that ends in `/*`.
fn is_image_pattern(pattern: &str) -> bool {
    let is_clean = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '*');
    match pattern.strip_suffix("/*") {
        Some(prefix) => is_clean(prefix),
        None => {
            let last = pattern.rsplit('/').next().unwrap_or_default();
            is_clean(pattern) && !pattern.contains('@') && !last.is_empty() && !last.contains(':')
        }
    }
}

fn shutdown(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    let (whole, critical) = (c.shutdown_grace_period, c.shutdown_grace_period_critical_pods);
    let periods = [("shutdownGracePeriod", whole), ("shutdownGracePeriodCriticalPods", critical)];
    if gates.enabled(Gate::GracefulNodeShutdown) {
        if critical > whole {
            let allowed = format!("must not be greater than shutdownGracePeriod {whole}");
            faults.add("shutdownGracePeriodCriticalPods", critical, allowed);
        }
        for (field, period) in periods {
            faults.require(period.is_zero() || period >= SECOND, field, period, "must be 0 or at least 1s");
        }
    } else {
        for (field, period) in periods {
            faults.require(period <= GoDuration::ZERO, field, period, "needs the feature gate GracefulNodeShutdown");
        }
    }
    if c.shutdown_grace_period_by_pod_priority.is_empty() {
        return;
    }
    let count = format!("with {} entries", c.shutdown_grace_period_by_pod_priority.len());
    if gates.enabled(Gate::GracefulNodeShutdownBasedOnPodPriority) {
        faults.require(
            whole <= GoDuration::ZERO && critical <= GoDuration::ZERO,
            "shutdownGracePeriodByPodPriority",
            count,
            "excludes shutdownGracePeriod and shutdownGracePeriodCriticalPods",
        );
    } else {
        let allowed = "needs the feature gate GracefulNodeShutdownBasedOnPodPriority";
        faults.add("shutdownGracePeriodByPodPriority", count, allowed);
    }
}

fn back_off(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    const FIELD: &str = "crashLoopBackOff.maxContainerRestartPeriod";
    let is_enabled = gates.enabled(Gate::KubeletCrashLoopBackOffMax);
    match c.crash_loop_back_off.max_container_restart_period {
        Some(period) if is_enabled => {
            // The peer compares milliseconds.
            let is_in_range = (1_000..=300_000).contains(&(period.as_nanos() / 1_000_000));
            faults.require(is_in_range, FIELD, period, "must be between 1s and 5m");
        }
        Some(period) => faults.add(FIELD, period, "needs the feature gate KubeletCrashLoopBackOffMax"),
        None if is_enabled => {
            faults.add(FIELD, "", "must be set with the feature gate KubeletCrashLoopBackOffMax");
        }
        None => {}
    }
}

fn enforcement(faults: &mut Faults, c: &KubeletConfiguration) {
    const FIELD: &str = "enforceNodeAllocatable";
    let enforced = &c.enforce_node_allocatable;
    let has = |name: &str| enforced.iter().any(|item| item == name);
    for (whole, compressible) in
        [("system-reserved", "system-reserved-compressible"), ("kube-reserved", "kube-reserved-compressible")]
    {
        if has(whole) && has(compressible) {
            faults.add(FIELD, enforced.join(","), format!("must not hold both {whole:?} and {compressible:?}"));
        }
    }
    let mut seen = BTreeSet::new();
    for item in enforced {
        if !seen.insert(item) {
            faults.add(FIELD, enforced.join(","), format!("must not hold {item:?} twice"));
            continue;
        }
        match item.as_str() {
            "none" => {
                let allowed = "must hold nothing else beside \"none\"";
                faults.require(enforced.len() == 1, FIELD, enforced.join(","), allowed);
                continue;
            }
            "pods" => {}
            "system-reserved" | "system-reserved-compressible" => {
                let allowed = "needs systemReservedCgroup (--system-reserved-cgroup) to be set";
                faults.require(!c.system_reserved_cgroup.is_empty(), FIELD, item, allowed);
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                let allowed = "needs kubeReservedCgroup (--kube-reserved-cgroup) to be set";
                faults.require(!c.kube_reserved_cgroup.is_empty(), FIELD, item, allowed);
            }
            _ => {
                let allowed = "must be pods, system-reserved, system-reserved-compressible, kube-reserved, \
                               kube-reserved-compressible or none";
                faults.add(FIELD, format!("{item:?}"), allowed);
                continue;
            }
        }
        faults.require(c.cgroups_per_qos, FIELD, item, "needs cgroupsPerQOS (--cgroups-per-qos) to be true");
    }
}

fn cpus(faults: &mut Faults, c: &KubeletConfiguration) {
    let cpus = &c.reserved_system_cpus;
    if cpus.is_empty() {
        return;
    }
    faults.require(
        c.system_reserved_cgroup.is_empty() && c.kube_reserved_cgroup.is_empty(),
        "reservedSystemCPUs",
        cpus,
        "excludes systemReservedCgroup (--system-reserved-cgroup) and kubeReservedCgroup (--kube-reserved-cgroup)",
    );
    faults.require(
        cpu_list::parse(cpus).is_some(),
        "reservedSystemCPUs",
        cpus,
        "must be CPUs and ranges of them, like 0-1,4",
    );
}

fn memory(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    /// What files written for earlier releases hold as their default.
    const FORMER_DEFAULT: f64 = 0.9;
    let is_enabled = gates.enabled(Gate::MemoryQoS);
    if let Some(factor) = c.memory_throttling_factor {
        let is_former_default = (factor - FORMER_DEFAULT).abs() < f64::EPSILON;
        faults.require(
            is_enabled || is_former_default,
            "memoryThrottlingFactor",
            factor,
            "needs the feature gate MemoryQoS",
        );
        let is_share = factor > 0.0 && factor <= 1.0;
        faults.require(is_share, "memoryThrottlingFactor", factor, "must be greater than 0 and at most 1");
    }
    let policy = &c.memory_reservation_policy;
    faults.require_one_of("memoryReservationPolicy", policy, &["None", "TieredReservation"]);
    faults.require(
        is_enabled || policy != "TieredReservation",
        "memoryReservationPolicy",
        format!("{policy:?}"),
        "needs the feature gate MemoryQoS",
    );
}

fn logs(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    if c.enable_system_log_query {
        let has_gate = gates.enabled(Gate::NodeLogQuery);
        faults.require(has_gate, "enableSystemLogQuery", true, "needs the feature gate NodeLogQuery");
        let has_handler = c.enable_system_log_handler;
        faults.require(has_handler, "enableSystemLogQuery", true, "needs enableSystemLogHandler to be true");
    }
    let (workers, files) = (c.container_log_max_workers, c.container_log_max_files);
    faults.require(workers >= 1, "containerLogMaxWorkers", workers, "must be 1 or greater");
    faults.require(files > 1, "containerLogMaxFiles", files, "must be greater than 1");
    let interval = c.container_log_monitor_interval;
    let is_long = interval >= GoDuration::from_secs(3);
    faults.require(is_long, "containerLogMonitorInterval", interval, "must be at least 3s");

    let folder = c.pod_logs_dir.as_str();
    let is_plain = folder.starts_with('/') && clean(Path::new(folder)).as_os_str() == folder && folder.is_ascii();
    let allowed = "must be an absolute path in ASCII, without \".\", \"..\", doubled or trailing slashes";
    faults.require(is_plain, "podLogsDir", format!("{folder:?}"), allowed);
}

fn logging(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    let logging = &c.logging;
    let is_positive = logging.flush_frequency > GoDuration::ZERO;
    faults.require(is_positive, "logging.flushFrequency", logging.flush_frequency, "must be greater than 0");
    faults.require_one_of("logging.format", &logging.format, &["text", "json"]);
    faults.require(
        logging.format != "json" || gates.enabled(Gate::LoggingBetaOptions),
        "logging.format",
        "\"json\"",
        "needs the feature gate LoggingBetaOptions",
    );
    const HIGHEST: u32 = i32::MAX.unsigned_abs();
    faults.require(logging.verbosity <= HIGHEST, "logging.verbosity", logging.verbosity, "must fit in 31 bits");
    faults.require(
        logging.vmodule.is_empty() || logging.format == "text",
        "logging.vmodule",
        format!("with {} entries", logging.vmodule.len()),
        "needs logging.format (--logging-format) \"text\"",
    );
    for (position, item) in logging.vmodule.iter().enumerate() {
        let field = format!("logging.vmodule[{position}]");
        let is_pattern = !item.file_pattern.is_empty() && !item.file_pattern.contains(['=', ',']);
        let allowed = "must have a file pattern without equal sign and comma";
        faults.require(is_pattern, &field, format!("{:?}", item.file_pattern), allowed);
        faults.require(item.verbosity <= HIGHEST, &field, item.verbosity, "must fit in 31 bits");
    }
    if gates.enabled(Gate::LoggingAlphaOptions) {
        return;
    }
    const NEEDS: &str = "needs the feature gate LoggingAlphaOptions";
    for (format, options) in [("text", &logging.options.text), ("json", &logging.options.json)] {
        let field = format!("logging.options.{format}.splitStream");
        faults.require(!options.split_stream, &field, true, NEEDS);
        let field = format!("logging.options.{format}.infoBufferSize");
        let size = &options.info_buffer_size.0;
        faults.require(size == "0", &field, size, NEEDS);
    }
}

fn tracing(faults: &mut Faults, c: &KubeletConfiguration) {
    let Some(tracing) = &c.tracing else { return };
    if let Some(rate) = tracing.sampling_rate_per_million {
        let is_share = (0..=1_000_000).contains(&rate);
        faults.require(is_share, "tracing.samplingRatePerMillion", rate, "must be between 0 and 1000000");
    }
    if let Some(endpoint) = &tracing.endpoint {
        let is_address = match endpoint.split_once("//") {
            Some((scheme, _)) => matches!(scheme, "dns:" | "unix:" | "unix-abstract:"),
            None => !endpoint.contains(char::is_whitespace),
        };
        let allowed = "must be host:port or begin with dns://, unix:// or unix-abstract://";
        faults.require(is_address, "tracing.endpoint", format!("{endpoint:?}"), allowed);
    }
}

fn sysctls(faults: &mut Faults, c: &KubeletConfiguration, gates: &FeatureGates) {
    const NOT_NAMESPACED: &str = "must be a sysctl of a namespace that pods have for themselves (net., kernel.shm, \
                                  kernel.msg, kernel.sem, fs.mqueue. and the like)";
    for pattern in &c.allowed_unsafe_sysctls {
        let shown = format!("{pattern:?}");
        if !names::is_sysctl_pattern(pattern) {
            faults.add("allowedUnsafeSysctls", shown, "must be a sysctl's name, or a prefix of names followed by *");
        } else if !names::is_namespaced_sysctl(pattern) {
            faults.add("allowedUnsafeSysctls", shown, NOT_NAMESPACED);
        }
    }
    if c.default_pod_sysctls.is_empty() {
        return;
    }
    if !gates.enabled(Gate::DefaultPodSysctls) {
        let count = format!("with {} entries", c.default_pod_sysctls.len());
        faults.add("defaultPodSysctls", count, "needs the feature gate DefaultPodSysctls");
        return;
    }
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for name in c.default_pod_sysctls.keys() {
        let shown = format!("{name:?}");
        if !names::is_sysctl_name(name) {
            faults.add("defaultPodSysctls", shown, "must be a sysctl's name");
            continue;
        }
        faults.require(names::is_namespaced_sysctl(name), "defaultPodSysctls", &shown, NOT_NAMESPACED);
        if let Some(other) = seen.insert(sysctl::normal_name(name), name) {
            faults.add("defaultPodSysctls", shown, format!("must not be the same sysctl as {other:?}"));
        }
    }
}
