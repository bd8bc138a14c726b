use std::ffi::OsString;

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::config::{self, Invocation};

#[derive(Deserialize)]
struct Refused {
    set: Value,
    says: String,
}

fn start(arguments: &[&str]) -> Result<Invocation, ConfigError> {
    config::load(arguments.iter().map(OsString::from))
}

/// Starts with a file that holds these fields.
fn start_with(mut fields: Value) -> Result<Invocation, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fields["apiVersion"] = "kubelet.config.k8s.io/v1beta1".into();
    fields["kind"] = "KubeletConfiguration".into();
    std::fs::write(&path, fields.to_string()).unwrap();
    start(&["--config", path.to_str().unwrap()])
}

#[test]
fn refuses_in_one_line_that_names_setting_value_and_what_is_allowed() {
    let cases: Vec<Refused> = serde_saphyr::from_str(include_str!("../testdata/refused.yaml")).unwrap();
    assert!(cases.len() > 130);
    for case in cases {
        let error = start_with(case.set.clone()).expect_err(&case.set.to_string()).to_string();
        assert!(error.contains(&case.says), "{}\n  says  {error}\n  wants {}", case.set, case.says);
        assert!(!error.contains('\n'), "{error}");
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn all_faults_are_in_the_line() {
    let error = start_with(serde_json::json!({"port": -1, "maxPods": -1, "hairpinMode": "x"})).unwrap_err();
    let ConfigError::Invalid { violations } = &error else { panic!("{error}") };
    assert_eq!(violations.len(), 3);
    assert_eq!(error.to_string().matches("; ").count(), 2);
    assert!(error.to_string().starts_with("invalid configuration: maxPods (--max-pods) -1 must not be negative; "));
}

#[test]
fn the_edges_of_what_is_allowed_are_allowed() {
    for fields in [
        serde_json::json!({"cpuCFSQuotaPeriod": "1ms", "oomScoreAdj": -1000, "iptablesDropBit": 31, "port": 65535}),
        serde_json::json!({"cpuCFSQuotaPeriod": "1s", "oomScoreAdj": 1000, "nodeStatusMaxImages": -1, "healthzPort": 0}),
        serde_json::json!({"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0}),
        serde_json::json!({"maxParallelImagePulls": 1, "serializeImagePulls": true}),
        serde_json::json!({"maxParallelImagePulls": 10}),
        serde_json::json!({"shutdownGracePeriod": "1s", "shutdownGracePeriodCriticalPods": "1s"}),
        serde_json::json!({"crashLoopBackOff": {"maxContainerRestartPeriod": "1s"}}),
        serde_json::json!({"crashLoopBackOff": {"maxContainerRestartPeriod": "300s"}}),
        serde_json::json!({"enforceNodeAllocatable": ["none"], "cgroupsPerQOS": false}),
        serde_json::json!({"enforceNodeAllocatable": [], "cgroupsPerQOS": false}),
        serde_json::json!({"enforceNodeAllocatable": ["pods", "system-reserved-compressible"], "systemReservedCgroup": "/s"}),
        serde_json::json!({"evictionHard": {"memory.available": "0%", "nodefs.available": "100%", "pid.available": "0.5%"}}),
        serde_json::json!({"evictionSoft": {"memory.available": "100%"}}),
        serde_json::json!({"evictionMinimumReclaim": {"memory.available": "0Mi", "nodefs.available": "200%"}}),
        serde_json::json!({"containerLogMaxSize": "-1", "containerLogMaxFiles": 2, "containerLogMonitorInterval": "3s"}),
        serde_json::json!({"userNamespaces": {"idsPerPod": 65536}, "memoryThrottlingFactor": 1.0}),
        serde_json::json!({"featureGates": {"MemoryQoS": false}, "memoryThrottlingFactor": 0.9}),
        serde_json::json!({"reservedSystemCPUs": "0,2-3"}),
        serde_json::json!({"logging": {"format": "json"}}),
        serde_json::json!({"tracing": {"endpoint": "unix:///run/otel.sock", "samplingRatePerMillion": 1_000_000}}),
        serde_json::json!({
            "imagePullCredentialsVerificationPolicy": "NeverVerifyAllowlistedImages",
            "preloadedImagesVerificationAllowlist": ["docker.io/library/busybox", "registry.local:5000/*", "a/b/*"],
        }),
        serde_json::json!({"allowedUnsafeSysctls": ["net.*", "kernel.msg*", "kernel.shm_rmid_forced"]}),
        serde_json::json!({"systemReserved": {"cpu": "100m", "memory": "1Gi", "ephemeral-storage": "1Gi", "pid": "1000"}}),
        serde_json::json!({"registerWithTaints": [{"key": "a"}, {"key": "b", "effect": "NoExecute"}]}),
    ] {
        start_with(fields.clone()).unwrap_or_else(|error| panic!("{fields}: {error}"));
    }
}

#[test]
fn node_labels_are_checked_before_any_file_is_read() {
    let error = start(&["--config=/does/not/exist", "--node-labels=node-role.kubernetes.io/worker="]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--node-labels node-role.kubernetes.io/worker= is a label of Kubernetes"), "{text}");
    assert!(text.contains("kubelet.kubernetes.io, node.kubernetes.io"), "{text}");
    for bad in ["--node-labels=a=$", "--node-labels=/a=b", "--node-labels=kubernetes.io/role=x"] {
        assert!(start(&[bad]).is_err(), "{bad}");
    }
    for good in
        ["--node-labels=", "--node-labels=a", "--node-labels=node.kubernetes.io/x=y,topology.kubernetes.io/zone=z"]
    {
        assert!(start(&[good]).is_ok(), "{good}");
    }
}

#[test]
fn flags_without_a_field_are_checked() {
    let error = start(&["--cloud-provider=aws", "--exit-on-lock-contention"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "invalid configuration: --cloud-provider \"aws\" must be empty or \"external\"; \
         --exit-on-lock-contention true needs --lock-file to be set"
    );
    assert!(start(&["--cloud-provider=external", "--exit-on-lock-contention", "--lock-file=/l"]).is_ok());
}

#[test]
fn cgroup_v1_must_be_asked_for() {
    let mut configuration = KubeletConfiguration::default();
    assert!(validate_for_cgroup(&configuration, false).is_ok());
    let error = validate_for_cgroup(&configuration, true).unwrap_err().to_string();
    assert!(error.contains("failCgroupV1 (--fail-cgroupv1) true must be false on this host"), "{error}");

    configuration.fail_cgroup_v1 = false;
    assert!(validate_for_cgroup(&configuration, true).is_ok());
    configuration.single_process_oom_kill = Some(false);
    configuration.memory_swap.swap_behavior = "LimitedSwap".to_owned();
    assert!(validate_for_cgroup(&configuration, false).is_ok());
    let ConfigError::Invalid { violations } = validate_for_cgroup(&configuration, true).unwrap_err() else { panic!() };
    assert_eq!(violations.len(), 2);
}
