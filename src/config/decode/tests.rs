use std::collections::BTreeMap;

use rstest::rstest;

use super::*;
use crate::model::document::parse;

fn decoded(text: &str) -> Decoded {
    configuration(parse(text).unwrap().value, &BTreeMap::new()).unwrap()
}

#[rstest]
#[case("a: 1", "\"\"")]
#[case("apiVersion: v1\nkind: Pod", "\"Pod\"")]
#[case("apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration", "\"kubelet.config.k8s.io/v1\"")]
#[case("- a", "\"\"")]
fn something_else_is_no_configuration(#[case] text: &str, #[case] found: &str) {
    let error = check_kind(&parse(text).unwrap().value).unwrap_err().to_string();
    assert!(error.contains(found) && error.contains("must be \"kubelet.config.k8s.io/v1beta1\""), "{error}");
}

#[test]
fn unknown_fields_are_found_at_any_depth() {
    let decoded = decoded("maxPods: 5\nmaxpods: 6\nauthentication: {x509: {file: a}}\nlogging: {level: 1}\n");
    assert_eq!(decoded.configuration.max_pods, 5);
    let mut unknown = decoded.unknown;
    unknown.sort();
    assert_eq!(unknown, ["authentication.x509.file", "logging.level", "maxpods"]);
}

#[test]
fn null_is_absence() {
    let decoded = decoded("maxPods: null\nevictionHard: null\nauthentication: null\ntracing: null\n");
    assert_eq!(decoded.configuration, KubeletConfiguration::default());
    assert!(!decoded.has_eviction_hard);
}

#[test]
fn zeros_that_mean_the_default() {
    let zeros = "syncFrequency: 0s\nport: 0\nmaxPods: 0\ncgroupDriver: ''\nregistryBurst: 0\n\
                 authorization: {mode: '', webhook: {cacheAuthorizedTTL: 0s}}\nlogging: {format: '', flushFrequency: 0}\n\
                 imagePullCredentialsVerificationPolicy: ''\nnodeStatusUpdateFrequency: 0s\ncrashLoopBackOff: {}\n\
                 podPidsLimit: -5\nmemorySwap: {}\ncontainerRuntimeEndpoint: ''\n";
    assert_eq!(decoded(zeros).configuration, KubeletConfiguration::default());
}

#[test]
fn zeros_that_mean_zero() {
    let zeros = "healthzPort: 0\noomScoreAdj: 0\nregistryPullQPS: 0\neventRecordQPS: 0\nresolvConf: ''\npodPidsLimit: 0\n\
                 imageGCLowThresholdPercent: 0\nenforceNodeAllocatable: []\n";
    let c = decoded(zeros).configuration;
    assert_eq!((c.healthz_port, c.oom_score_adj, c.registry_pull_qps, c.event_record_qps), (0, 0, 0, 0));
    assert_eq!((c.resolv_conf.as_str(), c.pod_pids_limit, c.image_gc_low_threshold_percent), ("", 0, 0));
    assert!(c.enforce_node_allocatable.is_empty());
}

#[rstest]
#[case("{}", "10s", "5m")]
#[case("{nodeStatusUpdateFrequency: 4s}", "4s", "4s")]
#[case("{nodeStatusUpdateFrequency: 4s, nodeStatusReportFrequency: 0s}", "4s", "4s")]
#[case("{nodeStatusUpdateFrequency: 0s}", "10s", "5m")]
#[case("{nodeStatusReportFrequency: 1m}", "10s", "1m")]
#[case("{nodeStatusUpdateFrequency: 4s, nodeStatusReportFrequency: 1m}", "4s", "1m")]
fn the_report_follows_the_update(#[case] text: &str, #[case] update: &str, #[case] report: &str) {
    let c = decoded(text).configuration;
    let parsed = |text: &str| text.parse::<GoDuration>().unwrap();
    assert_eq!((c.node_status_update_frequency, c.node_status_report_frequency), (parsed(update), parsed(report)));
}

#[rstest]
#[case("{}", true)]
#[case("{maxParallelImagePulls: 1}", true)]
#[case("{maxParallelImagePulls: 2}", false)]
#[case("{maxParallelImagePulls: 2, serializeImagePulls: true}", true)]
#[case("{serializeImagePulls: false}", false)]
fn parallel_pulls_are_not_serial(#[case] text: &str, #[case] serialize: bool) {
    assert_eq!(decoded(text).configuration.serialize_image_pulls, serialize);
}

#[test]
fn two_defaults_hang_on_a_gate_set_inside_or_outside() {
    let gates = "KubeletCrashLoopBackOffMax: false, KubeletEnsureSecretPulledImages: false";
    let inside = decoded(&format!("featureGates: {{{gates}}}")).configuration;
    let outside = ["KubeletCrashLoopBackOffMax", "KubeletEnsureSecretPulledImages"];
    let outside = outside.into_iter().map(|gate| (gate.to_owned(), false)).collect();
    let outside = configuration(serde_json::json!({}), &outside).unwrap().configuration;
    for c in [inside, outside] {
        assert_eq!(c.crash_loop_back_off.max_container_restart_period, None);
        assert_eq!(c.image_pull_credentials_verification_policy, "");
    }
}

#[test]
fn flush_frequency_and_sizes_take_numbers_and_text() {
    let c = decoded("logging: {flushFrequency: 7000000000, options: {text: {infoBufferSize: 1024}}}").configuration;
    assert_eq!(c.logging.flush_frequency, GoDuration::from_secs(7));
    assert_eq!(c.logging.options.text.info_buffer_size.0, "1024");
    let c = decoded("logging: {flushFrequency: 7s, options: {json: {infoBufferSize: 1.5Ki}}}").configuration;
    assert_eq!(c.logging.flush_frequency, GoDuration::from_secs(7));
    assert_eq!(c.logging.options.json.info_buffer_size.0, "1536");
}

#[test]
fn what_is_written_reads_back() {
    let full = include_str!("../testdata/full.yaml");
    let first = decoded(full);
    assert!(first.unknown.is_empty(), "{:?}", first.unknown);
    let written = serde_json::to_value(&first.configuration).unwrap();
    // Every field has a value that is not the default in that file, so that none goes unwritten.
    assert_eq!(written.as_object().unwrap().len(), parse(full).unwrap().value.as_object().unwrap().len() - 2 + 1);
    let second = configuration(written, &BTreeMap::new()).unwrap();
    assert_eq!(second.configuration, first.configuration);
    let default = serde_json::to_value(KubeletConfiguration::default()).unwrap();
    assert_eq!(configuration(default, &BTreeMap::new()).unwrap().configuration, KubeletConfiguration::default());
}
