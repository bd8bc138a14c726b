use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::model::pod::PodKey;

/// A pod that asks for what `requests` says and has these fields of its spec.
fn pod_with(name: &str, requests: Value, spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]},
    });
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn plain(spec: Value) -> Pod {
    pod_with("p", json!({}), spec)
}

fn other(name: &str, requests: Value, spec: Value) -> Admitted {
    Admitted::new(Arc::new(pod_with(name, requests, spec)))
}

/// One CPU, 1 GiB of memory, 10 pods.
fn node() -> Value {
    json!({
        "metadata": {"name": "node-a", "labels": {"kubernetes.io/os": "linux", "disk": "ssd", "cores": "16"}},
        "status": {
            "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10", "ephemeral-storage": "1Gi", "example.com/gpu": "2",
                "example.com/none": "0", "hugepages-2Mi": "4Mi"},
        },
    })
}

fn facts_of(node: Value) -> AdmissionFacts {
    let node: Node = serde_json::from_value(node).unwrap();
    let settings = AdmissionSettings {
        sysctls: SysctlAllowlist::new("6.18.0", &["net.core.*".to_owned(), "kernel.msgmax".to_owned()]),
        pod_level_resources: true,
        ..AdmissionSettings::default()
    };
    AdmissionFacts {
        node: Some(Arc::new(NodeView::from(&node))),
        is_node_settled: true,
        settings: Arc::new(settings),
        ..AdmissionFacts::default()
    }
}

fn facts() -> AdmissionFacts {
    facts_of(node())
}

/// The reason and the message, or nothing for a pod that is taken.
fn verdict(pod: &Pod, others: &[Admitted], facts: &AdmissionFacts) -> String {
    let others: Vec<&Admitted> = others.iter().collect();
    match admit(pod, &others, facts) {
        Verdict::Admit => String::new(),
        Verdict::Reject(r) => format!("{}: {}", r.reason, r.message),
        Verdict::ReadNode(r) => format!("read the node, else {}: {}", r.reason, r.message),
        Verdict::Preempt { victims, resource } => {
            format!("for {resource} preempt {}", victims.iter().map(PodUid::as_str).collect::<Vec<_>>().join(" "))
        }
    }
}

#[rstest]
#[case("OutOfcpu", "OutOfcpu")]
#[case("OutOfexample.com/made-up", "OutOfExtendedResources")]
#[case("SysctlForbidden", "SysctlForbidden")]
#[case("NodeAffinity", "Other")]
#[case("TaintToleration", "Other")]
fn rejections_are_counted_by_few_names(#[case] reason: &str, #[case] expected: &str) {
    assert_eq!(Rejection::new(reason, "").counted_as(), expected);
}

#[rstest]
#[case::fits(json!({"cpu": "400m", "memory": "512Mi"}), "")]
#[case::nothing_asked(json!({}), "")]
#[case::exactly_what_is_left(json!({"cpu": "600m"}), "")]
#[case::cpu(json!({"cpu": "601m"}),
    "OutOfcpu: Node didn't have enough resource: cpu, requested: 601, used: 400, capacity: 1000")]
#[case::memory(json!({"memory": "1Gi"}),
    "OutOfmemory: Node didn't have enough resource: memory, requested: 1073741824, used: 268435456, capacity: 1073741824")]
#[case::storage(json!({"ephemeral-storage": "2Gi"}),
    "OutOfephemeral-storage: Node didn't have enough resource: ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824")]
#[case::the_first_of_several_is_told(json!({"memory": "2Gi", "cpu": "5"}),
    "OutOfcpu: Node didn't have enough resource: cpu, requested: 5000, used: 400, capacity: 1000")]
#[case::extended(json!({"example.com/gpu": "2"}),
    "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 2, used: 1, capacity: 2")]
#[case::extended_and_fits(json!({"example.com/gpu": "1"}), "")]
#[case::extended_that_the_node_knows_and_lacks(json!({"example.com/none": "1"}),
    "OutOfexample.com/none: Node didn't have enough resource: example.com/none, requested: 1, used: 0, capacity: 0")]
#[case::extended_that_is_the_clusters(json!({"example.com/licence": "7"}), "")]
#[case::huge_pages(json!({"hugepages-2Mi": "6Mi"}),
    "OutOfhugepages-2Mi: Node didn't have enough resource: hugepages-2Mi, requested: 6291456, used: 0, capacity: 4194304")]
#[case::huge_pages_of_a_size_that_the_node_lacks(json!({"hugepages-1Gi": "1Gi"}),
    "OutOfhugepages-1Gi: Node didn't have enough resource: hugepages-1Gi, requested: 1073741824, used: 0, capacity: 0")]
fn resources(#[case] requests: Value, #[case] expected: &str) {
    let others = [other("o", json!({"cpu": "400m", "memory": "256Mi", "example.com/gpu": "1"}), json!({}))];
    assert_eq!(verdict(&pod_with("p", requests, json!({})), &others, &facts()), expected);
}

#[test]
fn a_full_node_takes_no_pod_that_asks_for_nothing() {
    let others: Vec<Admitted> = (0..10).map(|i| other(&format!("o{i}"), json!({}), json!({}))).collect();
    let expected = "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 10, capacity: 10";
    assert_eq!(verdict(&plain(json!({})), &others, &facts()), expected);
    assert_eq!(verdict(&plain(json!({})), &others[1..], &facts()), "");
}

#[test]
fn overhead_and_pod_level_resources_count() {
    let pod = pod_with("p", json!({"cpu": "900m"}), json!({"overhead": {"cpu": "200m"}}));
    assert!(verdict(&pod, &[], &facts()).starts_with("OutOfcpu"));
    let pod = pod_with("p", json!({"cpu": "100m"}), json!({"resources": {"requests": {"cpu": "1100m"}}}));
    assert!(verdict(&pod, &[], &facts()).starts_with("OutOfcpu"));
    let mut settings = AdmissionSettings::clone(&facts().settings);
    settings.pod_level_resources = false;
    let without_gate = AdmissionFacts { settings: Arc::new(settings), ..facts() };
    let pod = pod_with("p", json!({}), json!({"resources": {"requests": {"cpu": "100m"}}}));
    let expected = "PodLevelResourcesNotSupported: PodLevelResources feature gate is disabled";
    assert_eq!(verdict(&pod, &[], &without_gate), expected);
    assert_eq!(verdict(&pod, &[], &facts()), "");
}

const AFFINITY: &str = "read the node, else NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";

#[rstest]
#[case::has_the_label(json!({"disk": "ssd"}), "")]
#[case::another_value(json!({"disk": "hdd"}), AFFINITY)]
#[case::no_such_label(json!({"disk": "ssd", "zone": ""}), AFFINITY)]
fn node_selectors(#[case] selector: Value, #[case] expected: &str) {
    assert_eq!(verdict(&plain(json!({"nodeSelector": selector})), &[], &facts()), expected);
}

#[rstest]
#[case::one_of(json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["x", "ssd"]}]}]), true)]
#[case::none_of(json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["x"]}]}]), false)]
#[case::absent_is_in_nothing(json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["x"]}]}]), false)]
#[case::not_in(json!([{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["x"]}]}]), true)]
#[case::absent_is_not_in(json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["x"]}]}]), true)]
#[case::not_in_fails(json!([{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}]), false)]
#[case::exists(json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]), true)]
#[case::exists_with_values_is_nonsense(json!([{"matchExpressions": [{"key": "disk", "operator": "Exists", "values": ["ssd"]}]}]), false)]
#[case::does_not_exist(json!([{"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}]), true)]
#[case::exists_after_all(json!([{"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]}]), false)]
#[case::more(json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["15"]}]}]), true)]
#[case::not_more(json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["16"]}]}]), false)]
#[case::less(json!([{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["17"]}]}]), true)]
#[case::not_a_number(json!([{"matchExpressions": [{"key": "disk", "operator": "Lt", "values": ["17"]}]}]), false)]
#[case::unknown_operator(json!([{"matchExpressions": [{"key": "disk", "operator": "Near", "values": ["17"]}]}]), false)]
#[case::all_expressions(json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}, {"key": "zone", "operator": "Exists"}]}]), false)]
#[case::any_term(json!([{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]), true)]
#[case::an_empty_term_matches_nothing(json!([{}]), false)]
#[case::no_terms_match_nothing(json!([]), false)]
#[case::by_name(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}]), true)]
#[case::by_another_name(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-b"]}]}]), false)]
#[case::not_by_name(json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-b"]}]}]), true)]
#[case::by_two_names_is_nonsense(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a", "b"]}]}]), false)]
#[case::fields_and_labels(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}],
    "matchExpressions": [{"key": "zone", "operator": "Exists"}]}]), false)]
fn required_node_affinity(#[case] terms: Value, #[case] matches: bool) {
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    let pod = plain(json!({"affinity": {"nodeAffinity": required}}));
    assert_eq!(verdict(&pod, &[], &facts()), if matches { "" } else { AFFINITY });
}

#[test]
fn preferred_affinity_decides_nothing() {
    let term = json!({"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}});
    let pod = plain(json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}));
    assert_eq!(verdict(&pod, &[], &facts()), "");
}

#[test]
fn the_node_is_read_again_only_if_labels_alone_are_in_the_way() {
    let pod = pod_with("p", json!({"cpu": "2"}), json!({"nodeSelector": {"disk": "hdd"}}));
    assert!(verdict(&pod, &[], &facts()).starts_with("OutOfcpu: "));
    let pod = plain(json!({"nodeName": "node-b", "nodeSelector": {"disk": "hdd"}}));
    assert!(verdict(&pod, &[], &facts()).starts_with("NodeAffinity: "));
    let pod = plain(json!({"nodeName": "node-b"}));
    let expected = "NodeName: Predicate NodeName failed: node(s) didn't match the requested node name";
    assert_eq!(verdict(&pod, &[], &facts()), expected);
    assert_eq!(verdict(&plain(json!({"nodeName": "node-a"})), &[], &facts()), "");
}

const PORTS: &str = "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";

#[rstest]
#[case::the_same(json!({"hostPort": 80}), json!({"hostPort": 80}), false)]
#[case::another(json!({"hostPort": 80}), json!({"hostPort": 81}), true)]
#[case::another_protocol(json!({"hostPort": 80, "protocol": "UDP"}), json!({"hostPort": 80}), true)]
#[case::tcp_is_the_default(json!({"hostPort": 80, "protocol": "TCP"}), json!({"hostPort": 80}), false)]
#[case::another_address(json!({"hostPort": 80, "hostIP": "10.0.0.1"}), json!({"hostPort": 80, "hostIP": "10.0.0.2"}), true)]
#[case::the_same_address(json!({"hostPort": 80, "hostIP": "10.0.0.1"}), json!({"hostPort": 80, "hostIP": "10.0.0.1"}), false)]
#[case::all_addresses_are_taken(json!({"hostPort": 80}), json!({"hostPort": 80, "hostIP": "10.0.0.2"}), false)]
#[case::all_addresses_are_wanted(json!({"hostPort": 80, "hostIP": "10.0.0.1"}), json!({"hostPort": 80, "hostIP": "0.0.0.0"}), false)]
#[case::not_of_the_host(json!({"hostPort": 80}), json!({}), true)]
fn host_ports(#[case] taken: Value, #[case] wanted: Value, #[case] is_free: bool) {
    let with_port = |mut port: Value| {
        port["containerPort"] = json!(8080);
        json!({"containers": [{"name": "c", "image": "i", "ports": [port]}]})
    };
    let others = [other("o", json!({}), with_port(taken))];
    let expected = if is_free { "" } else { PORTS };
    assert_eq!(verdict(&plain(with_port(wanted)), &others, &facts()), expected);
}

#[test]
fn ports_of_sidecars_count_and_those_of_init_containers_do_not() {
    let init = |policy: Value| {
        let port = json!({"containerPort": 1, "hostPort": 80});
        json!({"initContainers": [{"name": "i", "image": "i", "restartPolicy": policy, "ports": [port]}]})
    };
    let taken = || [other("o", json!({}), init(json!("Always")))];
    assert_eq!(verdict(&plain(init(json!("Always"))), &taken(), &facts()), PORTS);
    assert_eq!(verdict(&plain(init(Value::Null)), &taken(), &facts()), "");
}

const TAINT: &str =
    "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";

#[rstest]
#[case::not_tolerated("NoExecute", json!([]), false)]
#[case::the_scheduler_alone_minds("NoSchedule", json!([]), true)]
#[case::equal("NoExecute", json!([{"key": "a", "operator": "Equal", "value": "5"}]), true)]
#[case::equal_is_the_default("NoExecute", json!([{"key": "a", "value": "5"}]), true)]
#[case::another_value("NoExecute", json!([{"key": "a", "value": "6"}]), false)]
#[case::another_key("NoExecute", json!([{"key": "b", "operator": "Exists"}]), false)]
#[case::any_value("NoExecute", json!([{"key": "a", "operator": "Exists"}]), true)]
#[case::any_key("NoExecute", json!([{"operator": "Exists"}]), true)]
#[case::of_the_effect("NoExecute", json!([{"operator": "Exists", "effect": "NoExecute"}]), true)]
#[case::of_another_effect("NoExecute", json!([{"operator": "Exists", "effect": "NoSchedule"}]), false)]
#[case::unknown_operator("NoExecute", json!([{"key": "a", "operator": "Near", "value": "5"}]), false)]
#[case::comparing_is_off("NoExecute", json!([{"key": "a", "operator": "Gt", "value": "4"}]), false)]
fn taints(#[case] effect: &str, #[case] tolerations: Value, #[case] is_taken: bool) {
    let mut node = node();
    node["spec"] = json!({"taints": [{"key": "a", "value": "5", "effect": effect}]});
    let pod = plain(json!({"tolerations": tolerations}));
    assert_eq!(verdict(&pod, &[], &facts_of(node)), if is_taken { "" } else { TAINT });
}

#[rstest]
#[case("Gt", "4", true)]
#[case("Gt", "5", false)]
#[case("Lt", "6", true)]
#[case("Lt", "5", false)]
#[case("Gt", "04", false)]
#[case("Gt", "x", false)]
fn tolerations_that_compare(#[case] operator: &str, #[case] value: &str, #[case] is_taken: bool) {
    let mut node = node();
    node["spec"] = json!({"taints": [{"key": "a", "value": "5", "effect": "NoExecute"}]});
    let mut facts = facts_of(node);
    facts.settings = Arc::new(AdmissionSettings { compares_taints: true, ..AdmissionSettings::clone(&facts.settings) });
    let pod = plain(json!({"tolerations": [{"key": "a", "operator": operator, "value": value}]}));
    assert_eq!(verdict(&pod, &[], &facts), if is_taken { "" } else { TAINT });
}

fn as_static(mut pod: Pod) -> Pod {
    pod.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    pod
}

#[test]
fn static_pods_run_whatever_the_taints_say() {
    let mut node = node();
    node["spec"] = json!({"taints": [{"key": "a", "value": "5", "effect": "NoExecute"}]});
    assert_eq!(verdict(&as_static(plain(json!({}))), &[], &facts_of(node)), "");
}

const OS_LABEL: &str = "PodOSSelectorNodeLabelDoesNotMatch: Failed to admit pod as the `kubernetes.io/os` label doesn't match \
                        node label";
const OS_FIELD: &str = "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS";

#[rstest]
#[case(None, None, "")]
#[case(Some("linux"), Some("linux"), "")]
#[case(Some("windows"), None, OS_LABEL)]
#[case(None, Some("windows"), OS_FIELD)]
#[case(Some("windows"), Some("windows"), OS_LABEL)]
fn operating_systems(#[case] label: Option<&str>, #[case] field: Option<&str>, #[case] expected: &str) {
    let mut pod = plain(json!({"os": field.map(|name| json!({"name": name}))}));
    pod.metadata.labels = label.map(|label| [("kubernetes.io/os".to_owned(), label.to_owned())].into());
    assert_eq!(verdict(&pod, &[], &facts()), expected);
}

#[rstest]
#[case("kernel.shm_rmid_forced", json!({}), "")]
#[case("kernel.shm_rmid_forced", json!({"hostIPC": true}), "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled")]
#[case("net/ipv4/tcp_syncookies", json!({}), "")]
#[case("net.ipv4.tcp_syncookies", json!({"hostNetwork": true}), "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled")]
#[case("net.core.somaxconn", json!({}), "")]
#[case("net.core.somaxconn", json!({"hostNetwork": true}), "forbidden sysctl: \"net.core.somaxconn\" not allowed with host Net enabled")]
#[case("kernel.msgmax", json!({}), "")]
#[case("kernel.msgmnb", json!({}), "forbidden sysctl: \"kernel.msgmnb\" not allowlisted")]
#[case("net/ipv4/ip_forward", json!({}), "forbidden sysctl: \"net.ipv4.ip_forward\" not allowlisted")]
#[case("vm.swappiness", json!({}), "forbidden sysctl: \"vm.swappiness\" not allowlisted")]
fn sysctls(#[case] name: &str, #[case] mut spec: Value, #[case] expected: &str) {
    spec["securityContext"] = json!({"sysctls": [
        {"name": "net.ipv4.ip_local_port_range", "value": "1024 65535"},
        {"name": name, "value": "1"},
    ]});
    if spec["hostNetwork"] == json!(true) {
        spec["securityContext"]["sysctls"].as_array_mut().unwrap().remove(0);
    }
    let expected = if expected.is_empty() { String::new() } else { format!("SysctlForbidden: {expected}") };
    assert_eq!(verdict(&plain(spec), &[], &facts()), expected);
}

#[test]
fn sysctls_of_the_user_namespace_need_one() {
    let mut facts = facts();
    let sysctls = SysctlAllowlist::new("6.18.0", &["user.*".to_owned()]);
    facts.settings = Arc::new(AdmissionSettings { sysctls, ..AdmissionSettings::clone(&facts.settings) });
    let pod = |host_users: Value| {
        let context = json!({"sysctls": [{"name": "user.max_net_namespaces", "value": "1"}]});
        plain(json!({"hostUsers": host_users, "securityContext": context}))
    };
    let refused = "SysctlForbidden: forbidden sysctl: \"user.max_net_namespaces\" not allowed with host User enabled";
    assert_eq!(verdict(&pod(Value::Null), &[], &facts), refused);
    assert_eq!(verdict(&pod(json!(true)), &[], &facts), refused);
    assert_eq!(verdict(&pod(json!(false)), &[], &facts), "");
}

#[test]
fn strict_group_policies_need_a_runtime_that_knows_them() {
    let pod = |policy: &str| plain(json!({"securityContext": {"supplementalGroupsPolicy": policy}}));
    let expected =
        "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node";
    assert_eq!(verdict(&pod("Strict"), &[], &facts()), expected);
    assert_eq!(verdict(&pod("Merge"), &[], &facts()), "");
    let mut node = node();
    node["status"]["features"] = json!({"supplementalGroupsPolicy": true});
    assert_eq!(verdict(&pod("Strict"), &[], &facts_of(node)), "");
}

#[rstest]
#[case::none(json!({}), true, true)]
#[case::unconfined(json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}), true, true)]
#[case::of_the_pod(json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}), false, true)]
#[case::of_a_container(json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}]}), false, true)]
#[case::of_an_init_container(json!({"initContainers": [{"name": "i", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}]}), false, true)]
#[case::without_a_name(json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": " "}}}), false, false)]
#[case::with_a_name(json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}}}), false, true)]
fn app_armor(#[case] spec: Value, #[case] without: bool, #[case] with: bool) {
    let pod = plain(spec);
    let refused = verdict(&pod, &[], &facts());
    assert_eq!(refused.is_empty(), without);
    if !without {
        assert_eq!(refused, "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    let mut enforcing = facts();
    enforcing.settings = Arc::new(AdmissionSettings { app_armor: true, ..AdmissionSettings::clone(&facts().settings) });
    assert_eq!(verdict(&pod, &[], &enforcing).is_empty(), with);
    let mut running = pod.clone();
    running.status = serde_json::from_value(json!({"phase": "Running"})).unwrap();
    assert_eq!(verdict(&running, &[], &facts()), "", "judged when it began");
}

#[test]
fn app_armor_by_annotation() {
    let mut pod = plain(json!({}));
    let name = "container.apparmor.security.beta.kubernetes.io/c";
    pod.metadata.annotations = Some([(name.to_owned(), "localhost/".to_owned())].into());
    assert!(verdict(&pod, &[], &facts()).starts_with("AppArmor: "));
    let mut enforcing = facts();
    enforcing.settings = Arc::new(AdmissionSettings { app_armor: true, ..AdmissionSettings::clone(&facts().settings) });
    let nameless = "AppArmor: Cannot enforce AppArmor: invalid empty AppArmor profile name: \"\"";
    assert_eq!(verdict(&pod, &[], &enforcing), nameless);
    pod.metadata.annotations = Some([(name.to_owned(), "unconfined".to_owned())].into());
    assert_eq!(verdict(&pod, &[], &facts()), "");
}

#[rstest]
#[case(json!({"hostNetwork": true, "hostUsers": false}), "UserNamespacesHostNetworkSupport")]
#[case(json!({"containers": [{"name": "c", "restartPolicyRules": [{"action": "RestartAllContainers"}]}]}),
    "RestartAllContainersOnContainerExits")]
#[case(json!({"containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "bindMountOptions": ["noexec"]}]}]}),
    "VolumeBindMountOptions")]
fn declared_features(#[case] spec: Value, #[case] feature: &str) {
    let pod = plain(spec);
    let expected = format!("PodFeatureUnsupported: Pod requires node features that are not available: {feature}");
    assert_eq!(verdict(&pod, &[], &facts()), expected);
    let mut facts = facts();
    let declared_features = [feature.to_owned()].into();
    facts.settings = Arc::new(AdmissionSettings { declared_features, ..AdmissionSettings::clone(&facts.settings) });
    assert_eq!(verdict(&pod, &[], &facts), "");
}

#[rstest]
#[case::best_effort_under_memory_pressure(&[Pressure::Memory], json!({}), json!({}), "[MemoryPressure]")]
#[case::burstable_under_memory_pressure(&[Pressure::Memory], json!({"cpu": "1m"}), json!({}), "")]
#[case::tolerated(&[Pressure::Memory], json!({}), json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}), "")]
#[case::disk(&[Pressure::Disk], json!({"cpu": "1m"}), json!({}), "[DiskPressure]")]
#[case::both(&[Pressure::Memory, Pressure::Pid], json!({"cpu": "1m"}), json!({}), "[MemoryPressure PIDPressure]")]
#[case::critical(&[Pressure::Disk], json!({}), json!({"priority": 2_000_000_000}), "")]
fn pressure(#[case] pressures: &[Pressure], #[case] requests: Value, #[case] spec: Value, #[case] expected: &str) {
    let facts = AdmissionFacts { pressures: pressures.to_vec(), ..facts() };
    let expected =
        if expected.is_empty() { String::new() } else { format!("Evicted: The node had condition: {expected}. ") };
    assert_eq!(verdict(&pod_with("p", requests, spec), &[], &facts), expected);
}

#[test]
fn a_node_on_its_way_down_takes_nothing() {
    let facts = AdmissionFacts { shutting_down: true, ..facts() };
    let expected = "NodeShutdown: Pod was rejected as the node is shutting down.";
    assert_eq!(verdict(&plain(json!({})), &[], &facts), expected);
    assert_eq!(verdict(&as_static(plain(json!({}))), &[], &facts), expected);
    let full = [other("o", json!({"cpu": "1"}), json!({}))];
    let critical = pod_with("p", json!({"cpu": "1"}), json!({"priority": 2_000_000_000}));
    assert_eq!(verdict(&critical, &full, &facts), expected, "and ends nothing");
}

#[test]
fn without_a_node_nothing_is_taken() {
    let facts = AdmissionFacts { node: None, ..facts() };
    assert_eq!(verdict(&plain(json!({})), &[], &facts), "InvalidNodeInfo: Kubelet cannot get node info.");
}

fn critical(requests: Value) -> Pod {
    pod_with("critical", requests, json!({"priority": 2_000_000_000}))
}

#[rstest]
#[case::the_lower_class_first(&[("burstable", "600m", 0), ("best-effort", "", 0)], "1 pods", "best-effort")]
#[case::one_that_is_enough_rather_than_two(&[("a", "200m", 0), ("b", "300m", 0), ("c", "500m", 0)], "500m", "c")]
#[case::the_smallest_that_is_enough(&[("a", "300m", 0), ("b", "700m", 0)], "200m", "a")]
#[case::several_where_one_is_not_enough(&[("a", "200m", 0), ("b", "300m", 0), ("c", "500m", 0)], "750m", "c b")]
#[case::critical_ones_never_for_an_equal(&[("a", "800m", 2_000_000_000), ("b", "200m", 0)], "200m", "b")]
fn preemption(#[case] running: &[(&str, &str, i32)], #[case] wanted: &str, #[case] victims: &str) {
    let others: Vec<Admitted> = running
        .iter()
        .map(|(name, cpu, priority)| {
            let requests = if cpu.is_empty() { json!({}) } else { json!({"cpu": cpu}) };
            other(name, requests, json!({"priority": priority}))
        })
        .collect();
    let (pod, facts) = match wanted {
        "1 pods" => {
            let mut node = node();
            node["status"]["allocatable"]["pods"] = json!("2");
            (critical(json!({})), facts_of(node))
        }
        cpu => (critical(json!({"cpu": cpu})), facts()),
    };
    let resource = if wanted == "1 pods" { "pods" } else { "cpu" };
    assert_eq!(verdict(&pod, &others, &facts), format!("for {resource} preempt {victims}"));
    assert!(verdict(&pod_with("p", json!({"cpu": "2"}), json!({"priority": 5})), &others, &facts).starts_with("OutOf"));
}

#[test]
fn static_pods_preempt_too_and_guaranteed_ones_go_last() {
    let guaranteed = json!({"containers": [{"name": "c", "resources":
        {"requests": {"cpu": "500m", "memory": "1Mi"}, "limits": {"cpu": "500m", "memory": "1Mi"}}}]});
    let others = [other("guaranteed", json!({}), guaranteed), other("burstable", json!({"cpu": "500m"}), json!({}))];
    let pod = as_static(pod_with("p", json!({"cpu": "500m"}), json!({})));
    assert_eq!(verdict(&pod, &others, &facts()), "for cpu preempt burstable");
    let pod = as_static(pod_with("p", json!({"cpu": "600m"}), json!({})));
    assert_eq!(verdict(&pod, &others, &facts()), "for cpu preempt burstable guaranteed");
}

#[test]
fn what_cannot_be_freed_is_told() {
    let others = [other("a", json!({"cpu": "1"}), json!({}))];
    assert_eq!(
        verdict(&critical(json!({"cpu": "1500m"})), &others, &facts()),
        "UnexpectedAdmissionError: Unexpected error while attempting to recover from admission failure: preemption: error \
         finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 500), ]"
    );
}

#[test]
fn a_critical_pod_is_still_refused_for_other_causes_than_resources() {
    let others = [other("a", json!({"cpu": "1"}), json!({}))];
    let spec = json!({"priority": 2_000_000_000, "nodeSelector": {"disk": "hdd"}});
    let pod = pod_with("critical", json!({"cpu": "1"}), spec);
    assert!(verdict(&pod, &others, &facts()).starts_with("NodeAffinity: "));
}

prop_compose! {
    fn claims()(cpu in 0i64..800, memory in 0i64..1000, gpu in 0i64..3) -> (i64, i64, i64) {
        (cpu, memory, gpu)
    }
}

fn requests((cpu, memory, gpu): (i64, i64, i64)) -> Value {
    json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi"), "example.com/gpu": gpu.to_string()})
}

proptest! {
    /// Whatever comes, what is taken never exceeds what there is, and what is refused would have.
    #[test]
    fn the_node_is_never_overcommitted(wanted in prop::collection::vec(claims(), 1..30)) {
        let facts = facts();
        let mut taken: Vec<Admitted> = Vec::new();
        let mut sums = (0, 0, 0);
        for (i, claim) in wanted.into_iter().enumerate() {
            let pod = pod_with(&format!("p{i}"), requests(claim), json!({}));
            let others: Vec<&Admitted> = taken.iter().collect();
            let with = (sums.0 + claim.0, sums.1 + claim.1, sums.2 + claim.2);
            // A resource that a pod asks nothing of cannot be why it does not fit.
            let fits = taken.len() < 10
                && (claim.0 == 0 || with.0 <= 1000) && (claim.1 == 0 || with.1 <= 1024) && (claim.2 == 0 || with.2 <= 2);
            let is_admitted = admit(&pod, &others, &facts) == Verdict::Admit;
            prop_assert_eq!(is_admitted, fits);
            if fits {
                sums = with;
                taken.push(Admitted::new(Arc::new(pod)));
            }
            prop_assert!(sums.0 <= 1000 && sums.1 <= 1024 && sums.2 <= 2);
        }
    }

    /// Once those that give way are gone, the critical pod fits; none of them is critical; none is ended in vain.
    #[test]
    fn preemption_makes_room_and_no_more(running in prop::collection::vec((claims(), any::<bool>()), 0..10), wanted in claims()) {
        let facts = facts();
        let mut taken: Vec<Admitted> = Vec::new();
        for (i, (claim, is_critical)) in running.into_iter().enumerate() {
            let priority = if is_critical { 2_000_000_000 } else { 0 };
            let pod = pod_with(&format!("p{i}"), requests(claim), json!({"priority": priority}));
            if admit(&pod, &taken.iter().collect::<Vec<_>>(), &facts) == Verdict::Admit {
                taken.push(Admitted::new(Arc::new(pod)));
            }
        }
        let pod = critical(requests(wanted));
        let all: Vec<&Admitted> = taken.iter().collect();
        match admit(&pod, &all, &facts) {
            Verdict::Admit => {}
            Verdict::Preempt { victims, .. } => {
                let is_victim = |other: &Admitted| victims.iter().any(|uid| *uid == PodKey::of(&other.pod).uid);
                let rest: Vec<&Admitted> = all.iter().copied().filter(|other| !is_victim(other)).collect();
                prop_assert_eq!(rest.len() + victims.len(), all.len());
                prop_assert_eq!(admit(&pod, &rest, &facts), Verdict::Admit);
                prop_assert!(all.iter().all(|other| !is_victim(other) || !crate::model::pod::is_critical(&other.pod)));
            }
            Verdict::Reject(rejection) => {
                prop_assert_eq!(rejection.reason, "UnexpectedAdmissionError");
                let critical: Vec<&Admitted> =
                    all.iter().copied().filter(|other| crate::model::pod::is_critical(&other.pod)).collect();
                prop_assert!(admit(&pod, &critical, &facts) != Verdict::Admit, "even without all the others");
            }
            Verdict::ReadNode(_) => prop_assert!(false),
        }
    }
}
