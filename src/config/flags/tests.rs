use rstest::rstest;

use super::*;
use crate::config::load::legacy_defaults;

fn read(arguments: &[&str]) -> Result<CommandLine, FlagError> {
    parse(arguments.iter().map(OsString::from))
}

/// The target after these flags, over the defaults.
fn applied(arguments: &[&str]) -> Target {
    let mut target = Target::over(legacy_defaults());
    read(arguments).unwrap().apply(&mut target).unwrap();
    target
}

#[rstest]
#[case(&["--max-pods=7"])]
#[case(&["--max-pods", "7"])]
#[case(&["--max_pods=7"])]
#[case(&["--max_pods", "7"])]
#[case(&["--max-pods=0x7"])]
#[case(&["--max-pods=1", "--max-pods=7"])]
#[case(&["--max-pods", "1", "--max_pods=7"])]
fn a_number_in_every_spelling(#[case] arguments: &[&str]) {
    assert_eq!(applied(arguments).configuration.max_pods, 7);
}

#[rstest]
#[case(&["--fail-swap-on"], true)]
#[case(&["--fail-swap-on=true"], true)]
#[case(&["--fail-swap-on=T"], true)]
#[case(&["--fail-swap-on=1"], true)]
#[case(&["--fail_swap_on=false"], false)]
#[case(&["--fail-swap-on=0"], false)]
#[case(&["--fail-swap-on=false", "--fail-swap-on"], true)]
fn a_boolean_in_every_spelling(#[case] arguments: &[&str], #[case] expected: bool) {
    assert_eq!(applied(arguments).configuration.fail_swap_on, expected);
}

#[rstest]
#[case(&["-v=4"])]
#[case(&["-v", "4"])]
#[case(&["-v4"])]
#[case(&["--v=4"])]
#[case(&["--v", "4"])]
#[case(&["-v=2", "--v=4"])]
fn verbosity_in_every_spelling(#[case] arguments: &[&str]) {
    assert_eq!(applied(arguments).configuration.logging.verbosity, 4);
}

#[test]
fn a_separate_value_is_taken_whatever_it_looks_like() {
    let target = applied(&["--oom-score-adj", "-5", "--hostname-override", "--max-pods=3", "--root-dir="]);
    assert_eq!(target.configuration.oom_score_adj, -5);
    assert_eq!(target.flags.hostname_override.as_deref(), Some("--max-pods=3"));
    assert_eq!(target.flags.root_dir, PathBuf::new());
    assert_eq!(target.configuration.max_pods, 110);
}

#[test]
fn lists_replace_the_default_and_then_append() {
    assert_eq!(applied(&["--cluster-dns=a,b", "--cluster-dns=c"]).configuration.cluster_dns, ["a", "b", "c"]);
    let target = applied(&["--enforce-node-allocatable=none"]);
    assert_eq!(target.configuration.enforce_node_allocatable, ["none"]);
    assert!(applied(&["--enforce-node-allocatable="]).configuration.enforce_node_allocatable.is_empty());
    let target = applied(&["--register-with-taints=a:NoSchedule", "--register-with-taints=b:NoSchedule"]);
    assert_eq!(target.configuration.register_with_taints.len(), 1, "taints replace each other");
}

#[test]
fn maps_replace_what_was_there_and_then_add() {
    let mut target = Target::over(legacy_defaults());
    target.configuration.system_reserved.insert("memory".to_owned(), "1Gi".to_owned());
    read(&["--system-reserved=cpu=1, pid = 9,", "--system-reserved=cpu=2"]).unwrap().apply(&mut target).unwrap();
    let shown: Vec<_> = target.configuration.system_reserved.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(shown, [("cpu", "2"), ("pid", "9")]);

    let target = applied(&["--eviction-hard=memory.available<1Gi,nodefs.available<5%"]);
    assert_eq!(target.configuration.eviction_hard["nodefs.available"], "5%");
    let target = applied(&["--cpu-manager-policy-options=a=1,b=2"]);
    assert_eq!(target.configuration.cpu_manager_policy_options["a"], "1,b=2");
    let target = applied(&["--feature-gates=A=true,B=false", "--feature-gates=B=1"]);
    assert_eq!(target.configuration.feature_gates, [("A".to_owned(), true), ("B".to_owned(), true)].into());
}

#[test]
fn node_labels_may_be_empty_and_values_may_be_missing() {
    assert!(applied(&["--node-labels="]).flags.node_labels.is_empty());
    let labels = applied(&["--node-labels=a=b,c", "--node-labels= d = e =f"]).flags.node_labels;
    let shown: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(shown, [("a", "b"), ("c", ""), ("d", "e =f")]);
}

#[rstest]
#[case("10.0.0.1", &["10.0.0.1"])]
#[case("10.0.0.1,fd00::1", &["10.0.0.1", "fd00::1"])]
#[case("fd00::1, 10.0.0.1", &["fd00::1", "10.0.0.1"])]
#[case("::", &["::"])]
#[case("", &[])]
#[case("nonsense,10.0.0.1", &["10.0.0.1"])]
fn node_addresses(#[case] text: &str, #[case] expected: &[&str]) {
    let target = applied(&["--node-ip", text]);
    let shown: Vec<_> = target.flags.node_ip.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected);
    assert_eq!(target.warnings.len(), usize::from(text.contains("nonsense")));
}

#[rstest]
#[case("10.0.0.1,10.0.0.2")]
#[case("10.0.0.1,::")]
#[case("10.0.0.1,fd00::1,fd00::2")]
fn node_addresses_that_make_no_node(#[case] text: &str) {
    let error = read(&["--node-ip", text]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("invalid argument {text:?} for flag --node-ip: must ")), "{error}");
}

#[rstest]
#[case(&["--no-such-flag"], "unknown flag: --no-such-flag")]
#[case(&["--no-such-flag=x"], "unknown flag: --no-such-flag")]
#[case(&["-x"], "unknown flag: -x")]
#[case(&["-hx"], "unknown flag: -hx")]
#[case(&["--=x"], "bad flag syntax: --=x")]
#[case(&["---v=1"], "bad flag syntax: ---v=1")]
#[case(&["--max-pods"], "flag needs an argument: --max-pods")]
#[case(&["-v"], "flag needs an argument: -v")]
#[case(&["--max-pods=many"], "invalid argument \"many\" for flag --max-pods: must be a whole number")]
#[case(&["--max-pods=3000000000"], "invalid argument \"3000000000\" for flag --max-pods: must fit in 32 bits")]
#[case(&["--fail-swap-on=maybe"], "invalid argument \"maybe\" for flag --fail-swap-on: must be true or false")]
#[case(&["--fail-swap-on="], "invalid argument \"\" for flag --fail-swap-on: must be true or false")]
#[case(&["-v=x"], "invalid argument \"x\" for flag --v: must be a whole number from 0")]
#[case(&["-v="], "invalid argument \"\" for flag --v: must be a whole number from 0")]
#[case(&["-vmodule=a=1"], "invalid argument \"module=a=1\" for flag --v: must be a whole number from 0")]
#[case(&["--address=localhost"], "invalid argument \"localhost\" for flag --address: must be an IP address")]
#[case(
    &["--sync-frequency=10"],
    "invalid argument \"10\" for flag --sync-frequency: must be a duration like 1h30m, 10s or 300ms: a unit is missing"
)]
#[case(&["--eviction-hard=memory.available=1Gi"], "must be pairs like key<value")]
#[case(&["--system-reserved=cpu"], "must be pairs like key=value")]
#[case(&["--feature-gates=A"], "must be pairs like key=value")]
#[case(&["--feature-gates=A=yes"], "A: must be true or false")]
#[case(&["--register-with-taints=a"], "taint \"a\" must have the form key=value:effect")]
#[case(&["--reserved-memory=0"], "must have the form node:type=quantity")]
#[case(&["--log-text-info-buffer-size=big"], "\"big\" is not a quantity")]
#[case(&["--version=maybe"], "invalid argument \"maybe\" for flag --version: must be true, false or raw")]
#[case(&["--container-runtime=docker"], "must be remote: the node works through the CRI alone")]
#[case(&["--max-pods=x", "--no-such-flag"], "--max-pods")]
fn faults_name_the_flag_the_value_and_what_is_allowed(#[case] arguments: &[&str], #[case] expected: &str) {
    let error = read(arguments).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains('\n'));
}

#[test]
fn headers_are_not_shown_in_faults_nor_in_debug_text() {
    let error = read(&["--manifest-url-header=Bearer s3cr3t"]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
    let target = applied(&["--manifest-url-header=Authorization:Bearer s3cr3t,a:b", "--manifest-url-header=a:c"]);
    assert!(!format!("{target:?}").contains("s3cr3t"));
    let headers = target.configuration.static_pod_url_header.expose();
    assert_eq!((headers["Authorization"].as_slice(), headers["a"].len()), (["Bearer s3cr3t".to_owned()].as_slice(), 2));
    assert!(!format!("{:?}", read(&["--manifest-url-header=a:s3cr3t"]).unwrap()).contains("s3cr3t"));
}

#[test]
fn flags_of_earlier_releases_are_borne_with_a_note() {
    let line = read(&[
        "--pod-infra-container-image=registry.k8s.io/pause:3.9",
        "--container-runtime=remote",
        "--network-plugin",
        "cni",
        "--keep-terminated-pod-volumes",
        "--allow_privileged=true",
        "--logtostderr",
        "--max-pods=5",
    ])
    .unwrap();
    assert_eq!(line.warnings.len(), 6);
    assert!(line.warnings[0].starts_with("--pod-infra-container-image has no effect"), "{:?}", line.warnings);
    assert!(line.positional.is_empty(), "{:?}", line.positional);
}

#[test]
fn what_is_no_flag_is_left_over() {
    assert_eq!(read(&["a", "--max-pods=1", "-", "", "--", "--b", "c"]).unwrap().positional, ["a", "-", "", "--b", "c"]);
    assert_eq!(read(&["--fail-swap-on", "false"]).unwrap().positional, ["false"]);
}

#[test]
fn version_and_help() {
    assert!(read(&["--version"]).unwrap().is_version);
    assert!(read(&["--version=true"]).unwrap().is_version);
    assert!(read(&["--version=raw"]).unwrap().is_version);
    assert!(!read(&["--version=false"]).unwrap().is_version);
    assert!(read(&["-h"]).unwrap().is_help);
    assert!(read(&["--help"]).unwrap().is_help);
    assert!(!read(&["--help=false"]).unwrap().is_help);
    let text = help(legacy_defaults());
    for wanted in
        ["--kubeconfig path", "-v, --v level", "--max-pods int", "(default 110)", "(default 10255)", "-h, --help"]
    {
        assert!(text.contains(wanted), "{wanted}");
    }
}

#[test]
fn arguments_must_be_text() {
    use std::os::unix::ffi::OsStringExt;
    let bad = OsString::from_vec(b"--root-dir=/\xff".to_vec());
    assert!(matches!(parse([bad].into_iter()), Err(FlagError::NotText { .. })));
}

#[test]
fn the_table_is_that_of_the_peer() {
    // 128 flags in `kubelet --help`, of which the table leaves out --version, and two that its JSON log format brings.
    assert_eq!(FLAGS.len(), 129);
    assert!(FLAGS.is_sorted_by_key(|spec| spec.name));
    assert!(DEAD_FLAGS.is_sorted_by_key(|dead| dead.name));
    for dead in DEAD_FLAGS {
        assert!(FLAGS.iter().all(|spec| spec.name != dead.name), "{}", dead.name);
    }
    let fields: BTreeSet<_> = FLAGS.iter().filter_map(|spec| spec.field).collect();
    assert_eq!(fields.len(), FLAGS.iter().filter(|spec| spec.field.is_some()).count(), "a field twice");
}

proptest::proptest! {
    #[test]
    fn never_panics(arguments in proptest::collection::vec("-{0,3}(v|h|max-pods|node_ip|cluster-dns|feature-gates|x|)[=]?[-a-z0-9,:=<\"]{0,8}", 0..5)) {
        let _ = parse(arguments.iter().map(OsString::from));
    }
}

#[test]
fn every_flag_has_a_value_as_the_peer_shows_it() {
    let flags = [
        "--node-labels=a=b",
        "--feature-gates=AllAlpha=false",
        "--cluster-dns=10.0.0.10",
        "--sync-frequency=60s",
        "-v4",
    ];
    let values = values(&read(&flags).unwrap(), legacy_defaults()).unwrap();
    for (name, value) in [
        ("node-labels", "a=b"),
        ("feature-gates", "AllAlpha=false"),
        ("cluster-dns", "[10.0.0.10]"),
        ("sync-frequency", "1m0s"),
        ("v", "4"),
        ("enforce-node-allocatable", "[pods]"),
        ("allowed-unsafe-sysctls", "[]"),
        ("anonymous-auth", "true"),
        ("register-with-taints", ""),
        ("reserved-memory", ""),
        ("help", "false"),
    ] {
        assert_eq!(values.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(values.len(), FLAGS.len() + 2);
}

#[test]
fn a_header_that_may_be_a_credential_is_masked() {
    let line = read(&["--manifest-url-header=Authorization:secret"]).unwrap();
    let values = values(&line, legacy_defaults()).unwrap();
    assert_eq!(values["manifest-url-header"], "Authorization:<masked>");
}
