use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;

use super::*;

const SIMPLE: &str =
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: busybox:1\n";

fn from_file(text: &str) -> Result<Pod, ManifestError> {
    pod(text.as_bytes(), Location::File(Path::new("/etc/manifests/web.yaml")), "Node-1")
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap()
}

#[test]
fn a_pod_of_a_file_runs_here() {
    let pod = from_file(SIMPLE).unwrap();
    let metadata = serde_json::to_value(&pod.metadata).unwrap();
    let uid = uid(&pod);
    assert_eq!(uid.len(), 32);
    let expected = json!({
        "name": "web-node-1",
        "namespace": "default",
        "uid": uid,
        "annotations": {"kubernetes.io/config.hash": uid, "kubernetes.io/config.source": "file"},
    });
    assert_eq!(metadata, expected);
    let spec = spec(&pod);
    assert_eq!(spec.node_name.as_deref(), Some("Node-1"));
    assert_eq!(
        serde_json::to_value(&spec.tolerations).unwrap(),
        json!([{"operator": "Exists", "effect": "NoExecute"}])
    );
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
}

#[test]
fn json_is_as_good_as_yaml() {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "creationTimestamp": null},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}]},
        "status": {},
    });
    assert_eq!(from_file(&text.to_string()), from_file(SIMPLE));
}

#[test]
fn the_uid_tells_one_manifest_from_another() {
    let of = |text: &str, location, node| pod(text.as_bytes(), location, node).unwrap();
    let file = Location::File(Path::new("/a"));
    let pods = [
        of(SIMPLE, file, "n1"),
        of(SIMPLE, file, "n2"),
        of(SIMPLE, Location::File(Path::new("/b")), "n1"),
        of(SIMPLE, Location::Url("http://a"), "n1"),
        of(&SIMPLE.replace("busybox:1", "busybox:2"), file, "n1"),
        of(&SIMPLE.replace("metadata:", "metadata:\n  labels: {a: b}"), file, "n1"),
    ];
    let uids: std::collections::BTreeSet<&str> = pods.iter().map(uid).collect();
    assert_eq!(uids.len(), pods.len());
    assert_eq!(uid(&of(&format!("# a comment\n{SIMPLE}"), file, "n1")), uid(&pods[0]));
    let own = of(&SIMPLE.replace("metadata:", "metadata:\n  uid: own"), file, "n1");
    assert_eq!((uid(&own), hash(&own)), ("own", "own"));
}

#[test]
fn a_pod_of_a_url_may_be_evicted() {
    let pod = pod(SIMPLE.as_bytes(), Location::Url("http://a"), "n").unwrap();
    assert_eq!(spec(&pod).tolerations, None);
    assert_eq!(annotation(&pod, CONFIG_SOURCE_ANNOTATION), Some("http"));
}

#[test]
fn an_own_toleration_of_everything_is_not_doubled() {
    let own = "spec:\n  tolerations: [{operator: Exists, effect: NoExecute, tolerationSeconds: 5}, {key: a, operator: Exists}]";
    let pod = from_file(&SIMPLE.replace("spec:", own)).unwrap();
    let expected = json!([{"operator": "Exists", "effect": "NoExecute"}, {"key": "a", "operator": "Exists"}]);
    assert_eq!(serde_json::to_value(&spec(&pod).tolerations).unwrap(), expected);
}

#[rstest]
#[case("", "couldn't parse as pod: the file is empty")]
#[case("a: [", "couldn't parse as pod: neither YAML nor JSON: ")]
#[case(
    "apiVersion: apps/v1\nkind: Deployment\n",
    "couldn't parse as pod: apiVersion \"apps/v1\" and kind \"Deployment\" must be \"v1\" and \"Pod\""
)]
#[case(
    "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: 7}]}\n",
    "couldn't parse as pod: spec.containers[0].image: "
)]
#[case(
    "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, image: x}]}\n",
    "invalid pod: name is needed for the pod"
)]
#[case("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n", "invalid pod: [spec.containers: Required value]")]
#[case(
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {serviceAccountName: s, containers: [{name: c, image: x}]}\n",
    "static pods may not reference serviceaccounts"
)]
fn what_is_wrong_is_told(#[case] text: &str, #[case] expected: &str) {
    let error = from_file(text).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_list_is_taken_from_a_url_alone() {
    let item = |name: &str| json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let list = json!({"apiVersion": "v1", "kind": "PodList", "items": [item("a"), item("b")]}).to_string();
    let all = pods(list.as_bytes(), Location::Url("http://a"), "n").unwrap();
    let names: Vec<_> = all.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["a-n", "b-n"]);
    assert!(matches!(from_file(&list), Err(ManifestError::Kind { .. })));
    assert_eq!(pods(SIMPLE.as_bytes(), Location::Url("http://a"), "n").unwrap().len(), 1);
    let empty = pods(b"{\"apiVersion\": \"v1\", \"kind\": \"PodList\"}", Location::Url("http://a"), "n");
    assert_eq!(empty, Ok(Vec::new()));
    let wrong = json!({"apiVersion": "v1", "kind": "PodList", "items": [item("a"), item("")]}).to_string();
    assert_eq!(pods(wrong.as_bytes(), Location::Url("http://a"), "n"), Err(ManifestError::NoName));
}

#[rstest]
#[case(json!({}), None)]
#[case(json!({"priority": 2_000_001_000, "priorityClassName": "system-node-critical"}), None)]
#[case(json!({"priorityClassName": "system-node-critical"}), Some("Static pod has priorityClassName and nil priority."))]
#[case(json!({"priority": 1}), Some("Static pod has priority without priorityClassName."))]
#[case(json!({"priority": 1, "priorityClassName": "low"}), Some("Static pod has a priority other than 2000001000"))]
fn priorities(#[case] spec: serde_json::Value, #[case] expected: Option<&str>) {
    let mut spec = spec;
    spec["containers"] = json!([]);
    let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
    let warning = priority_warning(&pod);
    assert_eq!(warning.is_some(), expected.is_some());
    assert!(warning.unwrap_or_default().starts_with(expected.unwrap_or_default()));
}

/// A control plane's pod as kubeadm writes it.
#[test]
fn a_manifest_of_kubeadm() {
    let text = include_str!("testdata/kube-apiserver.yaml");
    let pod =
        pod(text.as_bytes(), Location::File(Path::new("/etc/kubernetes/manifests/kube-apiserver.yaml")), "cp").unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("kube-apiserver-cp"));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("kube-system"));
    assert_eq!(priority_warning(&pod), None);
    let container = &spec(&pod).containers[0];
    assert_eq!(container.ports.as_ref().unwrap()[0].host_port, Some(6443));
    let probe = container.startup_probe.as_ref().unwrap();
    assert_eq!((probe.success_threshold, probe.period_seconds, probe.failure_threshold), (Some(1), Some(10), Some(24)));
    assert_eq!(spec(&pod).dns_policy.as_deref(), Some("ClusterFirst"));
}

proptest! {
    #[test]
    fn any_bytes_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = pods(&bytes, Location::Url("http://a"), "n");
    }

    #[test]
    fn any_change_of_a_manifest_is_borne(at in 0usize..2000, with in "[ -~\n]{0,12}", cut in 0usize..40) {
        let mut text = include_str!("testdata/kube-apiserver.yaml").to_owned();
        let start = at.min(text.len());
        let end = (start + cut).min(text.len());
        text.replace_range(start..end, &with);
        if let Ok(pod) = from_file(&text) {
            prop_assert!(validation::faults(&pod).is_empty());
        }
    }
}

/// What the kubelet prints and hashes of a manifest with fields of many kinds.
#[test]
fn the_text_that_is_hashed_is_the_kubelets() {
    let value = value(include_bytes!("testdata/rich.yaml")).unwrap();
    let mut pod: Pod = typed(value).unwrap();
    defaults::set(&mut pod);
    let text = go_dump::pod(&serde_json::to_value(&pod).unwrap());
    let expected = include_str!("testdata/rich.txt");
    let differs = text.bytes().zip(expected.bytes()).position(|(a, b)| a != b);
    let around = |text: &str, at: usize| text.chars().skip(at.saturating_sub(80)).take(160).collect::<String>();
    if let Some(at) = differs {
        panic!("at {at}:\n{}\n{}", around(&text, at), around(expected, at));
    }
    assert_eq!(text.len(), expected.len());
}

#[rstest]
#[case(include_str!("testdata/rich.yaml"), "/etc/kubernetes/manifests/rich.yaml", "node-1", "baed293e4861aa14a0ba3b6e426c0725")]
#[case(
    include_str!("testdata/kube-apiserver.yaml"),
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "cp",
    "96506be370102d13e1059e9bb5bff4cd"
)]
fn the_uid_is_the_kubelets(#[case] text: &str, #[case] path: &str, #[case] node: &str, #[case] expected: &str) {
    let pod = pod(text.as_bytes(), Location::File(Path::new(path)), node).unwrap();
    assert_eq!(uid(&pod), expected);
}
