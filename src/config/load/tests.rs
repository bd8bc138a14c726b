use std::fs;

use rstest::rstest;

use super::*;
use crate::config::effective::{effective_value, effective_yaml};
use crate::config::gates::Gate;

#[path = "swap_in.rs"]
mod swap_in;

const TESTDATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata");

fn start(arguments: &[&str]) -> Result<Invocation, ConfigError> {
    load(arguments.iter().map(OsString::from))
}

fn settings(arguments: &[&str]) -> Settings {
    match start(arguments).unwrap() {
        Invocation::Run(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

/// Arguments with the files that they name taken from the test data; `@file` stands for those in it, one a line.
fn from_testdata(arguments: &[&str]) -> Vec<String> {
    if let [file] = arguments
        && let Some(file) = file.strip_prefix('@')
    {
        return fs::read_to_string(format!("{TESTDATA}/{file}")).unwrap().lines().map(str::to_owned).collect();
    }
    let replaced = arguments.iter().map(|argument| match argument.split_once('=') {
        Some((flag @ ("--config" | "--config-dir"), file)) => format!("{flag}=src/config/testdata/{file}"),
        _ => (*argument).to_owned(),
    });
    replaced.collect()
}

/// The effective configuration is, to the last field, what kubelet v1.37.2 logs for the same command line and files
/// (`testdata/peer`, without `runOnce`).
#[rstest]
#[case("legacy", &[])]
#[case("empty", &["--config=empty.yaml"])]
#[case("sparse", &["--config=sparse.yaml"])]
#[case(
    "kubeadm",
    &[
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=kubeadm.yaml",
        "--node-ip=10.0.0.5",
        "--register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule",
        "--runtime-cgroups=/system.slice/containerd.service",
    ]
)]
#[case(
    "kind",
    &[
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=kind.yaml",
        "--node-ip=172.18.0.2",
        "--node-labels=",
        "--provider-id=kind://docker/kind/kind-control-plane",
        "--v=4",
        "--container-log-max-files=10",
        "--container-log-max-size=100Mi",
        "--runtime-cgroups=/system.slice/containerd.service",
    ]
)]
#[case(
    "eks",
    &[
        "--config=eks.json",
        "--config-dir=eks.json.d",
        "--kubeconfig=/var/lib/kubelet/kubeconfig",
        "--node-ip=10.1.2.3",
        "--cloud-provider=external",
        "--hostname-override=i-1234567890abcdef0",
        "--node-labels=a=b",
        "--max-pods=61",
    ]
)]
#[case("full", &["--config=full.yaml"])]
#[case(
    "alone",
    &[
        "--config-dir=alone.d",
        "--feature-gates=EventedPLEG=false",
        "--feature-gates=ContainerStopSignals=true",
        "--eviction-hard=nodefs.available<5%",
        "--read-only-port=0",
    ]
)]
#[case("flags", &["@flags.args"])]
fn the_effective_configuration_is_that_of_the_peer(#[case] name: &str, #[case] arguments: &[&str]) {
    let line = flags::parse(from_testdata(arguments).iter().map(OsString::from)).unwrap();
    let merged = merge(&line).unwrap();
    let ours = effective_value(&merged.target.configuration).unwrap();

    let peers = fs::read_to_string(format!("{TESTDATA}/peer/{name}.yaml")).unwrap();
    let above = Path::new(TESTDATA).parent().unwrap().to_str().unwrap();
    let peers = peers.replace("@FOLDER@", TESTDATA).replace("@ABOVE@", above);
    let peers = document::parse(&peers).unwrap().value;
    similar(&ours, &peers);
}

fn similar(ours: &Value, peers: &Value) {
    let (ours, peers) = (ours.as_object().unwrap(), peers.as_object().unwrap());
    for field in ours.keys().chain(peers.keys()) {
        assert_eq!(ours.get(field), peers.get(field), "{field}");
    }
}

#[test]
fn kubeadm_and_kind_and_eks_start() {
    let kubeadm = settings(
        &from_testdata(&["--config=kubeadm.yaml", "--kubeconfig=/k"]).iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert!(kubeadm.warnings.is_empty(), "{:?}", kubeadm.warnings);
    assert!(!kubeadm.is_standalone());
    assert_eq!(kubeadm.configuration.cluster_dns, ["10.96.0.10"]);

    let kind = from_testdata(&["--config=kind.yaml", "--node-labels=", "--v=4"]);
    let kind = settings(&kind.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(kind.gates.enabled(Gate::KubeletInUserNamespace));
    assert_eq!((kind.verbosity(), kind.configuration.cgroup_root.as_str()), (4, "/kubelet"));

    let eks = from_testdata(&["--config=eks.json", "--config-dir=eks.json.d"]);
    let eks = settings(&eks.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(eks.configuration.max_pods, 60);
    assert_eq!(eks.configuration.shutdown_grace_period, crate::model::go_duration::GoDuration::ZERO);
    assert!(eks.gates.enabled(Gate::EventedPLEG));
}

#[test]
fn invocations_that_do_not_run() {
    assert!(matches!(start(&["--version"]).unwrap(), Invocation::Version));
    assert!(matches!(start(&["-h"]).unwrap(), Invocation::Help(text) if text.contains("--kubeconfig")));
    // A bad flag is told before anything is printed, a left-over argument too.
    assert!(start(&["--version", "--max-pods=x"]).is_err());
    let error = start(&["--version", "run"]).unwrap_err().to_string();
    assert!(error.starts_with("unknown command \"run\""), "{error}");
    assert!(matches!(start(&["--version=false"]).unwrap(), Invocation::Run(_)));
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

fn with_head(text: &str) -> String {
    format!("{HEAD}{text}")
}

#[test]
fn flags_win_over_drop_ins_and_those_over_the_file() {
    let files = folder(&[
        (
            "config",
            &with_head(
                "maxPods: 1\nport: 1\npodsPerCore: 1\nfeatureGates: {EventedPLEG: true, CRIListStreaming: true}\n",
            ),
        ),
        ("d/10.conf", &with_head("maxPods: 2\nport: 2\nfeatureGates: {CRIListStreaming: false}\n")),
        ("d/20.conf", &with_head("maxPods: 3\n")),
    ]);
    let config = format!("--config={}", files.path().join("config").display());
    let config_dir = format!("--config-dir={}", files.path().join("d").display());
    let settings = settings(&[&config, &config_dir, "--max-pods=4", "--feature-gates=EventedPLEG=false"]);
    let c = &settings.configuration;
    assert_eq!((c.max_pods, c.port, c.pods_per_core), (4, 2, 1));
    assert!(!settings.gates.enabled(Gate::EventedPLEG));
    assert!(!settings.gates.enabled(Gate::CRIListStreaming));
    assert_eq!(c.feature_gates.len(), 2);
}

#[test]
fn drop_ins_are_taken_in_the_order_of_a_walk() {
    let files = folder(&[
        ("b.conf", ""),
        ("a/z.conf", ""),
        ("a/b/c.conf", ""),
        ("a-b.conf", ""),
        ("c.conf.bak", ""),
        ("d.yaml", ""),
        (".conf", ""),
        ("e.conf/f.conf", ""),
    ]);
    let names: Vec<_> = drop_ins(files.path())
        .unwrap()
        .iter()
        .map(|path| path.strip_prefix(files.path()).unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, [".conf", "a/b/c.conf", "a/z.conf", "a-b.conf", "b.conf", "e.conf/f.conf"]);
}

#[rstest]
#[case("maxPods: 1\n", "apiVersion \"\" and kind \"\" must be")]
#[case("", "the file is empty")]
#[case("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: Other\n", "kind \"Other\" must be")]
#[case("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: x\n", "maxPods: invalid type")]
fn a_bad_drop_in_is_named(#[case] text: &str, #[case] expected: &str) {
    let files = folder(&[("ok.conf", HEAD), ("x.conf", text)]);
    let error = start(&["--config-dir", files.path().to_str().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("x.conf: ") && error.contains(expected), "{error}");
}

#[rstest]
#[case("maxPods: 1\n", "must be \"kubelet.config.k8s.io/v1beta1\"")]
#[case("\n", "the file is empty")]
#[case("a: [", "neither YAML nor JSON")]
fn a_bad_file_is_named(#[case] text: &str, #[case] expected: &str) {
    let files = folder(&[("x.yaml", text)]);
    let error = start(&["--config", files.path().join("x.yaml").to_str().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("x.yaml: ") && error.contains(expected), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn missing_files_are_named() {
    let error = start(&["--config=/does/not/exist"]).unwrap_err().to_string();
    assert!(error.starts_with("cannot read configuration /does/not/exist: "), "{error}");
    let error = start(&["--config-dir=/does/not/exist"]).unwrap_err().to_string();
    assert!(error.starts_with("cannot read configuration /does/not/exist: "), "{error}");
}

#[test]
fn strays_are_borne_with_a_note() {
    let files = folder(&[
        ("c.yaml", &with_head("maxPods: 1\nmaxPods: 2\nmaxPodz: 3\n")),
        ("d/a.conf", &with_head("logging: {colour: red}\nport: 1\nport: 2\n")),
    ]);
    let config = files.path().join("c.yaml");
    let config_dir = files.path().join("d");
    let settings = settings(&["--config", config.to_str().unwrap(), "--config-dir", config_dir.to_str().unwrap()]);
    assert_eq!((settings.configuration.max_pods, settings.configuration.port), (2, 2));
    let warnings = settings.warnings.join("\n");
    for expected in [
        "c.yaml: unknown field \"maxPodz\" is ignored",
        "c.yaml: field \"maxPods\" is given twice",
        "a.conf: unknown field \"logging.colour\" is ignored",
        "a.conf: field \"port\" is given twice",
    ] {
        assert!(warnings.contains(expected), "{expected} not in {warnings}");
    }
    assert_eq!(settings.warnings.len(), 4, "{warnings}");
}

#[rstest]
#[case("/a/b", "/a/b")]
#[case("/a/./b//c/", "/a/b/c")]
#[case("/a/../../b", "/b")]
#[case("a/../..", "..")]
#[case("a/..", ".")]
#[case("../../a", "../../a")]
#[case("/", "/")]
#[case("", ".")]
fn cleans_paths_as_go_does(#[case] path: &str, #[case] expected: &str) {
    assert_eq!(clean(Path::new(path)).to_str().unwrap(), expected);
}

#[test]
fn the_log_shows_everything_but_secrets() {
    let settings = settings(&["--manifest-url-header=Authorization:Bearer s3cr3t", "--max-pods=5"]);
    let text = effective_yaml(&settings);
    assert!(text.contains("maxPods: 5") && text.contains("kind: KubeletConfiguration"), "{text}");
    assert!(text.contains("Authorization") && text.contains("<masked>"), "{text}");
    assert!(!text.contains("s3cr3t"));
    assert!(!format!("{settings:?}").contains("s3cr3t"));
}

#[test]
fn settings_that_nothing_acts_on_are_named_once() {
    assert!(settings(&[]).not_acted_on.is_empty(), "the legacy defaults are defaults");
    let files = folder(&[(
        "c.yaml",
        &with_head(
            "rotateCertificates: false\nshutdownGracePeriod: 10s\nmaxPods: 5\n\
             logging: {verbosity: 3, vmodule: [{filePattern: a, verbosity: 1}]}\nevictionSoft: {}\n\
             featureGates: {EventedPLEG: true, CRIListStreaming: false}\nsyncFrequency: 0s\n",
        ),
    )]);
    let config = files.path().join("c.yaml");
    let mut settings = settings(&[
        "--config",
        config.to_str().unwrap(),
        "--lock-file=/l",
        "--runtime-cgroups=",
        "--housekeeping-interval=10s",
        "--kubeconfig=/k",
        "--make-iptables-util-chains=false",
    ]);
    settings.not_acted_on.sort();
    assert_eq!(
        settings.not_acted_on,
        ["--lock-file", "featureGates.EventedPLEG", "makeIPTablesUtilChains", "shutdownGracePeriod",]
    );
}

#[test]
fn thresholds_by_which_nothing_is_evicted_are_named() {
    let named = |thresholds: &str| {
        let files = folder(&[("c.yaml", &with_head(thresholds))]);
        let config = files.path().join("c.yaml");
        settings(&["--config", config.to_str().unwrap()]).not_acted_on
    };
    let unheeded = ["evictionHard (nothing is evicted)"];
    assert_eq!(named("evictionHard: {memory.available: 200Mi}\n"), unheeded);
    assert_eq!(named("evictionHard: {memory.available: 100Mi, pid.available: 10%}\n"), unheeded);
    for nothing in ["memory.available: 100Mi", "memory.available: 0%, nodefs.available: 100%", ""] {
        assert_eq!(named(&format!("evictionHard: {{{nothing}}}\n")), [""; 0], "{nothing}");
    }
    assert_eq!(settings(&["--eviction-hard=memory.available<200Mi"]).not_acted_on, unheeded);
}

#[test]
fn seccomp_default_is_on_if_either_says_so() {
    let files = folder(&[("c.yaml", &with_head("seccompDefault: true\n"))]);
    let config = files.path().join("c.yaml");
    let config = config.to_str().unwrap();
    assert!(settings(&["--config", config, "--seccomp-default=false"]).configuration.seccomp_default);
    assert!(settings(&["--seccomp-default"]).configuration.seccomp_default);
    assert!(!settings(&[]).configuration.seccomp_default);
}

#[test]
fn gates_are_checked_wherever_they_stand() {
    let error = start(&["--feature-gates=Nope=true"]).unwrap_err().to_string();
    assert_eq!(error, "featureGates (--feature-gates): Nope is not a feature gate of Kubernetes 1.37");
    let files = folder(&[("a.conf", &with_head("featureGates: {Nope: true}\n"))]);
    assert!(start(&["--config-dir", files.path().to_str().unwrap()]).is_err());
}
