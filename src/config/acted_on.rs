//! What the node acts on, so that what it does not act on yet can be named at the start instead of being passed over.

use serde_json::Value;

use super::flags::{FLAGS, Flags, Target};
use super::gates::{FeatureGates, Gate};
use super::types::KubeletConfiguration;

/// Settings that something acts on: fields of the configuration file, with dots inside of them, and flags that have no
/// field, with their dashes. A field covers those inside of it.
pub const ACTED_ON: &[&str] = &[
    "--bootstrap-kubeconfig",
    "--cert-dir",
    "--cloud-provider",
    "--config",
    "--config-dir",
    "--experimental-allocatable-ignore-eviction",
    "--hostname-override",
    "--kubeconfig",
    "--node-ip",
    "--node-labels",
    "--root-dir",
    "--runtime-cgroups",
    "--seccomp-default",
    "address",
    "allowedUnsafeSysctls",
    "authentication",
    "authorization",
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "clusterDNS",
    "clusterDomain",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxFiles",
    "containerLogMaxSize",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "containerRuntimeEndpoint",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "crashLoopBackOff",
    "defaultPodSysctls",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    "evictionHard",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "fileCheckFrequency",
    "healthzBindAddress",
    "healthzPort",
    "httpCheckFrequency",
    "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReserved",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging.flushFrequency",
    "logging.format",
    "logging.options.json.infoBufferSize",
    "logging.options.json.splitStream",
    "logging.options.text.infoBufferSize",
    "logging.options.text.splitStream",
    "logging.verbosity",
    "logging.vmodule",
    "maxOpenFiles",
    "maxParallelImagePulls",
    "maxPods",
    "memoryReservationPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeLeaseDurationSeconds",
    "nodeStatusMaxImages",
    "nodeStatusReportFrequency",
    "nodeStatusUpdateFrequency",
    "oomScoreAdj",
    "podLogsDir",
    "podPidsLimit",
    "podsPerCore",
    "port",
    "preloadedImagesVerificationAllowlist",
    "protectKernelDefaults",
    "providerID",
    "readOnlyPort",
    "registerNode",
    "registerWithTaints",
    "registryBurst",
    "registryPullQPS",
    "reservedSystemCPUs",
    "resolvConf",
    "rotateCertificates",
    "runtimeRequestTimeout",
    "seccompDefault",
    "serializeImagePulls",
    "serverTLSBootstrap",
    "singleProcessOOMKill",
    "staticPodPath",
    "staticPodURL",
    "staticPodURLHeader",
    "streamingConnectionIdleTimeout",
    "systemCgroups",
    "systemReserved",
    "systemReservedCgroup",
    "tlsCertFile",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "tlsPrivateKeyFile",
    "userNamespaces",
    "volumeStatsAggPeriod",
];

/// Feature gates that something acts on when they differ from their default.
pub const ACTED_ON_GATES: &[Gate] = &[
    Gate::AllAlpha,
    Gate::AllBeta,
    Gate::AllowDNSOnlyNodeCSR,
    Gate::ChangeContainerStatusOnKubeletRestart,
    Gate::ContainerCheckpoint,
    Gate::ContainerRestartRules,
    Gate::ContainerStopSignals,
    Gate::DefaultPodSysctls,
    Gate::EnvFiles,
    Gate::GRPCContainerProbeTLS,
    Gate::H2CContainerProbe,
    Gate::KubeletCrashLoopBackOffMax,
    Gate::KubeletEnsureSecretPulledImages,
    Gate::KubeletInUserNamespace,
    Gate::MemoryQoS,
    Gate::PodLevelResources,
    Gate::PodLogsQuerySplitStreams,
    Gate::ReduceDefaultCrashLoopBackOffDecay,
    Gate::RestartAllContainersOnContainerExits,
    Gate::TaintTolerationComparisonOperators,
];

/// The settings that differ from their default and are not in the tables above.
pub(super) fn not_acted_on(
    flags: &Flags,
    configuration: &KubeletConfiguration,
    gates: &FeatureGates,
    baseline: &KubeletConfiguration,
) -> Vec<String> {
    let mut names = Vec::new();
    let mut given = Target { flags: flags.clone(), ..Target::over(configuration.clone()) };
    let mut default = Target::over(KubeletConfiguration::default());
    for spec in FLAGS.iter().filter(|spec| spec.field.is_none()) {
        let name = format!("--{}", spec.name);
        if !ACTED_ON.contains(&name.as_str()) && spec.binding.show(&mut given) != spec.binding.show(&mut default) {
            names.push(name);
        }
    }
    // Values that are left out because they are zero read as null.
    let as_value = |configuration: &KubeletConfiguration| serde_json::to_value(configuration).unwrap_or_default();
    differences("", &as_value(configuration), &as_value(baseline), &mut names);
    // Allocatable heeds the thresholds; what can never be reached, 0% or 100%, is nothing to act on.
    let evicts = configuration.eviction_hard.iter().any(|(signal, threshold)| {
        baseline.eviction_hard.get(signal) != Some(threshold) && !matches!(threshold.as_str(), "0%" | "100%")
    });
    if evicts {
        names.push("evictionHard (nothing is evicted)".to_owned());
    }
    // Those that AllAlpha or AllBeta turned on are not named one by one.
    let named = gates.changed().filter(|(gate, _)| configuration.feature_gates.contains_key(gate.name()));
    let unheeded = named.filter(|(gate, _)| !ACTED_ON_GATES.contains(gate));
    names.extend(unheeded.map(|(gate, _)| format!("featureGates.{gate}")));
    names
}

/// Collects the fields of `given` that differ from `default` and that nothing acts on.
fn differences(prefix: &str, given: &Value, default: &Value, names: &mut Vec<String>) {
    let empty = serde_json::Map::new();
    let given = given.as_object().unwrap_or(&empty);
    let default = default.as_object().unwrap_or(&empty);
    let mut fields: Vec<&String> = given.keys().chain(default.keys()).collect();
    fields.sort();
    fields.dedup();
    for field in fields {
        let name = if prefix.is_empty() { field.clone() } else { format!("{prefix}.{field}") };
        let given = given.get(field).unwrap_or(&Value::Null);
        let default = default.get(field).unwrap_or(&Value::Null);
        if given == default || ACTED_ON.contains(&name.as_str()) {
            continue;
        }
        let is_structure = STRUCTURES.contains(&name.as_str());
        if is_structure {
            differences(&name, given, default, names);
        } else {
            names.push(name);
        }
    }
}

/// Fields that are looked into rather than named whole.
const STRUCTURES: &[&str] = &[
    "authentication",
    "authentication.anonymous",
    "authentication.webhook",
    "authentication.x509",
    "authorization",
    "authorization.webhook",
    "crashLoopBackOff",
    "logging",
    "logging.options",
    "logging.options.json",
    "logging.options.text",
    "memorySwap",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags;

    #[test]
    fn what_is_acted_on_exists() {
        // Fields that are left out when they are zero.
        let configuration = KubeletConfiguration {
            default_pod_sysctls: [("net.core.somaxconn".to_owned(), "1".to_owned())].into(),
            max_parallel_image_pulls: Some(1),
            memory_throttling_factor: Some(0.8),
            preloaded_images_verification_allowlist: vec!["reg.io/a".to_owned()],
            single_process_oom_kill: Some(true),
            static_pod_url: "http://localhost".to_owned(),
            tls_curve_preferences: vec![29],
            user_namespaces: Some(crate::config::types::UserNamespaces::default()),
            ..Default::default()
        };
        let known: Vec<String> = flags::FLAGS
            .iter()
            .map(|spec| spec.field.map_or_else(|| format!("--{}", spec.name), str::to_owned))
            .chain(serde_json::to_value(configuration).unwrap().as_object().unwrap().keys().cloned())
            .collect();
        for name in ACTED_ON {
            assert!(known.iter().any(|known| known == name), "{name} is no setting");
        }
        assert!(ACTED_ON.is_sorted());
    }
}
