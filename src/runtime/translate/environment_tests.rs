use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rstest::rstest;
use serde_json::{Value, json};

use super::super::testing::{container, node, pod, pod_with};
use super::*;
use crate::model::service::ServicePortInfo;

fn sources() -> EnvSources {
    let config_map = |data: &[(&str, &str)]| {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Fetched::Found(Arc::new(ConfigMap { data: Some(data), ..ConfigMap::default() }))
    };
    let secret = |data: &[(&str, &[u8])]| {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.to_vec()))).collect();
        Fetched::Found(Arc::new(Secret { data: Some(data), ..Secret::default() }))
    };
    let file = |text: Result<&str, &str>| EnvFile {
        host_path: "/v/conf/app.env".into(),
        text: text.map(str::to_owned).map_err(str::to_owned),
    };
    let key = |path: &str| EnvFileKey { volume: "conf".into(), path: path.into() };
    EnvSources {
        config_maps: BTreeMap::from([
            ("cm".to_owned(), config_map(&[("a", "from-cm"), ("b", "cm-b"), ("odd.key", "x")])),
            ("absent".to_owned(), Fetched::NotFound),
            ("broken".to_owned(), Fetched::Failed("failed to sync configmap cache: timed out".into())),
        ]),
        secrets: BTreeMap::from([
            ("s".to_owned(), secret(&[("a", b"from-secret"), ("raw", &[0xff, 0x00])])),
            ("absent".to_owned(), Fetched::NotFound),
            ("broken".to_owned(), Fetched::Failed("object \"shop\"/\"broken\" not registered".into())),
        ]),
        files: BTreeMap::from([
            (key("app.env"), file(Ok("A='from file'\nEMPTY=''\n"))),
            (key("bad.env"), file(Ok("nonsense"))),
            (key("gone.env"), file(Err("No such file or directory"))),
        ]),
    }
}

fn services() -> Vec<ServiceInfo> {
    let service = |namespace: &str, name: &str, ip: &str| ServiceInfo {
        namespace: namespace.into(),
        name: name.into(),
        cluster_ip: ip.into(),
        ports: vec![ServicePortInfo { port: 80, ..ServicePortInfo::default() }],
    };
    vec![service("default", "kubernetes", "10.96.0.1"), service("shop", "db", "10.96.0.7")]
}

fn build(pod: &Pod, fields: Value) -> Result<Environment, TranslateError> {
    let container = container(fields);
    let addresses = PodAddresses {
        pod_ips: vec!["fd00::2".into(), "10.0.0.2".into()],
        host_ips: vec!["192.0.2.1".into(), "2001:db8::1".into()],
    };
    let input = EnvironmentInput {
        pod,
        container: &container,
        addresses: &addresses,
        sources: &sources(),
        services: Some(&services()),
        plugin_variables: &[("PLUGIN".into(), "p".into()), ("OWN".into(), "plugin".into())],
    };
    let allocatable = [("cpu", "4"), ("memory", "8Gi"), ("ephemeral-storage", "10Gi")];
    let allocatable = allocatable.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into();
    environment(&NodeSettings { allocatable, ..node() }, &input)
}

/// `NAME=value` of all but the services and the plugin.
fn own(environment: &Environment) -> Vec<String> {
    let is_own = |name: &str| !name.starts_with("KUBERNETES_") && !name.starts_with("DB_") && name != "PLUGIN";
    let line = |(name, value): (&str, &[u8])| format!("{name}={}", String::from_utf8_lossy(value));
    environment.iter().filter(|(name, _)| is_own(name)).map(line).collect()
}

fn env(variables: Value) -> Value {
    json!({"env": variables})
}

#[test]
fn the_order_is_that_of_the_spec_and_services_come_last() {
    let fields = json!({
        "envFrom": [
            {"configMapRef": {"name": "cm"}},
            {"prefix": "S_", "secretRef": {"name": "s"}},
        ],
        "env": [{"name": "OWN", "value": "1"}, {"name": "b", "value": "overridden"}],
    });
    let environment = build(&pod(json!({"containers": []})), fields).unwrap();
    let names: Vec<&str> = environment.iter().map(|(name, _)| name).collect();
    assert_eq!(names[..6], ["a", "b", "odd.key", "S_a", "S_raw", "OWN"]);
    assert_eq!(names[6], "DB_SERVICE_HOST");
    assert_eq!(names.last(), Some(&"PLUGIN"));
    assert_eq!(environment.get("b"), Some(b"overridden".as_slice()));
    assert_eq!(environment.get("S_raw"), Some([0xff, 0x00].as_slice()));
    assert_eq!(environment.get("OWN"), Some(b"1".as_slice()));
    assert_eq!(environment.get("KUBERNETES_SERVICE_HOST"), Some(b"10.96.0.1".as_slice()));
}

#[test]
fn later_sources_override_earlier_ones() {
    let fields = json!({"envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "cm"}}]});
    let environment = build(&pod(json!({"containers": []})), fields).unwrap();
    assert_eq!(environment.get("a"), Some(b"from-cm".as_slice()));
}

#[test]
fn expansion_sees_what_stands_before_and_the_services() {
    let variables = json!([
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)-$(LATER)-$$(A)-$(DB_SERVICE_HOST)-$(PLUGIN)"},
        {"name": "LATER", "value": "2"},
        {"name": "A", "value": "$(A)$(A)"},
        {"name": "DB_SERVICE_HOST", "value": "own"},
        {"name": "C", "value": "$(A)$(DB_SERVICE_HOST)"},
        {"name": "EMPTY"},
    ]);
    let environment = build(&pod(json!({"containers": []})), env(variables)).unwrap();
    let expected = ["A=11", "B=1-$(LATER)-$(A)-10.96.0.7-$(PLUGIN)", "LATER=2", "C=11own", "EMPTY=", "OWN=plugin"];
    assert_eq!(own(&environment), expected);
    assert_eq!(environment.get("DB_SERVICE_HOST"), Some(b"own".as_slice()));
}

#[rstest]
#[case(json!({"fieldRef": {"fieldPath": "metadata.name"}}), "web")]
#[case(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}}), "front")]
#[case(json!({"fieldRef": {"fieldPath": "spec.nodeName"}}), "n1")]
#[case(json!({"fieldRef": {"fieldPath": "status.podIP"}}), "10.0.0.2")]
#[case(json!({"fieldRef": {"fieldPath": "status.podIPs"}}), "10.0.0.2,fd00::2")]
#[case(json!({"fieldRef": {"fieldPath": "status.hostIP"}}), "192.0.2.1")]
#[case(json!({"fieldRef": {"fieldPath": "status.hostIPs"}}), "192.0.2.1,2001:db8::1")]
#[case(json!({"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}), "250")]
#[case(json!({"resourceFieldRef": {"resource": "limits.cpu"}}), "4")]
#[case(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}), "300")]
#[case(json!({"configMapKeyRef": {"name": "cm", "key": "a"}}), "from-cm")]
#[case(json!({"secretKeyRef": {"name": "s", "key": "a"}}), "from-secret")]
#[case(json!({"fileKeyRef": {"volumeName": "conf", "path": "app.env", "key": "A"}}), "from file")]
#[case(json!({}), "")]
fn values_from_elsewhere(#[case] source: Value, #[case] expected: &str) {
    let app = json!({"name": "app", "image": "busybox", "resources": {"requests": {"cpu": "250m"}}});
    let spec = json!({"nodeName": "n1", "containers": [app], "resources": {"limits": {"memory": "300Mi"}}});
    let pod = pod_with(json!({"labels": {"app": "front"}}), spec);
    let environment = build(&pod, env(json!([{"name": "X", "valueFrom": source}]))).unwrap();
    assert_eq!(environment.get("X").map(String::from_utf8_lossy).as_deref(), Some(expected));
}

#[test]
fn ephemeral_containers_have_resources_too() {
    let spec = json!({"containers": [], "ephemeralContainers": [{"name": "app", "image": "busybox"}]});
    let source = json!({"resourceFieldRef": {"resource": "limits.cpu"}});
    let environment = build(&pod(spec), env(json!([{"name": "X", "valueFrom": source}]))).unwrap();
    assert_eq!(environment.get("X"), Some(b"4".as_slice()));
}

#[rstest]
#[case(json!({"configMapKeyRef": {"name": "absent", "key": "a", "optional": true}}))]
#[case(json!({"configMapKeyRef": {"name": "cm", "key": "none", "optional": true}}))]
#[case(json!({"secretKeyRef": {"name": "absent", "key": "a", "optional": true}}))]
#[case(json!({"secretKeyRef": {"name": "s", "key": "none", "optional": true}}))]
#[case(json!({"fileKeyRef": {"volumeName": "conf", "path": "app.env", "key": "NONE", "optional": true}}))]
#[case(json!({"fileKeyRef": {"volumeName": "conf", "path": "app.env", "key": "EMPTY", "optional": true}}))]
fn an_absent_optional_source_leaves_the_variable_alone(#[case] source: Value) {
    let variables =
        json!([{"name": "X", "valueFrom": source}, {"name": "Y", "value": "1"}, {"name": "Y", "valueFrom": source}]);
    let environment = build(&pod(json!({"containers": []})), env(variables)).unwrap();
    assert_eq!(own(&environment), ["Y=1", "OWN=plugin"]);
}

#[rstest]
#[case(json!({"configMapKeyRef": {"name": "absent", "key": "a"}}), "configmap \"absent\" not found")]
#[case(json!({"secretKeyRef": {"name": "absent", "key": "a"}}), "secret \"absent\" not found")]
#[case(json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "couldn't find key k in ConfigMap shop/cm")]
#[case(json!({"secretKeyRef": {"name": "s", "key": "k"}}), "couldn't find key k in Secret shop/s")]
#[case(
    json!({"configMapKeyRef": {"name": "broken", "key": "k", "optional": true}}),
    "failed to sync configmap cache: timed out"
)]
#[case(
    json!({"secretKeyRef": {"name": "broken", "key": "k", "optional": true}}),
    "object \"shop\"/\"broken\" not registered"
)]
#[case(
    json!({"secretKeyRef": {"name": "other", "key": "k", "optional": true}}),
    "secret shop/other was not read before the container was translated"
)]
#[case(
    json!({"fileKeyRef": {"volumeName": "x", "path": "app.env", "key": "A", "optional": true}}),
    "cannot find the volume \"x\" referenced by FileKeyRef"
)]
#[case(json!({"fileKeyRef": {"volumeName": "conf", "path": "bad.env", "key": "A"}}), "couldn't parse env file")]
#[case(json!({"fileKeyRef": {"volumeName": "conf", "path": "gone.env", "key": "A"}}), "couldn't parse env file")]
#[case(
    json!({"fileKeyRef": {"volumeName": "conf", "path": "app.env", "key": "B"}}),
    "environment variable key \"B\" not found in file \"/v/conf/app.env\""
)]
#[case(json!({"fieldRef": {"fieldPath": "spec.x"}}), "unsupported fieldPath: spec.x")]
#[case(json!({"resourceFieldRef": {"resource": "limits.cpu"}}), "container app not found")]
fn what_must_be_there(#[case] source: Value, #[case] message: &str) {
    let error = build(&pod(json!({"containers": []})), env(json!([{"name": "X", "valueFrom": source}]))).unwrap_err();
    assert_eq!(error.to_string(), message);
    assert_eq!(error.waiting_reason(), "CreateContainerConfigError");
}

#[rstest]
#[case(json!([{"configMapRef": {"name": "absent"}}]), Some("configmap \"absent\" not found"))]
#[case(json!([{"secretRef": {"name": "absent"}}]), Some("secret \"absent\" not found"))]
#[case(json!([{"configMapRef": {"name": "absent", "optional": true}}, {"secretRef": {"name": "absent", "optional": true}}]), None)]
#[case(json!([{"secretRef": {"name": "broken", "optional": true}}]), Some("object \"shop\"/\"broken\" not registered"))]
fn whole_objects(#[case] env_from: Value, #[case] message: Option<&str>) {
    let built = build(&pod(json!({"containers": []})), json!({"envFrom": env_from}));
    assert_eq!(built.err().map(|e| e.to_string()).as_deref(), message);
}

#[test]
fn services_must_have_been_read_but_for_static_pods() {
    let container = container(json!({"env": [{"name": "A", "value": "1"}]}));
    let build = |pod: &Pod| {
        let input = EnvironmentInput {
            pod,
            container: &container,
            addresses: &PodAddresses::default(),
            sources: &EnvSources::default(),
            services: None,
            plugin_variables: &[],
        };
        environment(&node(), &input)
    };
    let error = build(&pod(json!({"containers": []}))).unwrap_err();
    assert_eq!(error.to_string(), "services have not yet been read at least once, cannot construct envvars");
    let annotations = json!({"annotations": {"kubernetes.io/config.source": "file"}});
    let of_file = build(&pod_with(annotations, json!({"containers": []}))).unwrap();
    assert_eq!(of_file.iter().collect::<Vec<_>>(), [("A", b"1".as_slice())]);
}

#[test]
fn without_service_links_the_api_server_is_still_told() {
    let pod = pod(json!({"containers": [], "enableServiceLinks": false}));
    let environment = build(&pod, json!({})).unwrap();
    assert!(environment.get("KUBERNETES_SERVICE_HOST").is_some());
    assert_eq!(environment.get("DB_SERVICE_HOST"), None);
}

#[test]
fn environment_files_need_their_gate() {
    let source = json!({"fileKeyRef": {"volumeName": "conf", "path": "app.env", "key": "A"}});
    let container = container(env(json!([{"name": "X", "valueFrom": source}])));
    let input = EnvironmentInput {
        pod: &pod(json!({"containers": []})),
        container: &container,
        addresses: &PodAddresses::default(),
        sources: &sources(),
        services: Some(&[]),
        plugin_variables: &[],
    };
    let built = environment(&NodeSettings { env_files: false, ..node() }, &input).unwrap();
    assert_eq!(built.get("X"), Some(b"".as_slice()));
}

#[test]
fn references_are_told_before_they_are_fetched() {
    let container = container(json!({
        "envFrom": [
            {"configMapRef": {"name": "all"}},
            {"prefix": "P_", "secretRef": {"name": "all-s", "optional": true}},
        ],
        "env": [
            {"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "unused", "key": "k"}}},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
            {"name": "D", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
            {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }));
    let reference = |kind, name: &str, key: Option<&str>, optional| EnvReference {
        kind,
        name: name.into(),
        key: key.map(Into::into),
        optional,
    };
    assert_eq!(
        env_references(&container),
        [
            reference(EnvReferenceKind::ConfigMap, "all", None, false),
            reference(EnvReferenceKind::Secret, "all-s", None, true),
            reference(EnvReferenceKind::ConfigMap, "cm", Some("k"), false),
            reference(EnvReferenceKind::Secret, "s", Some("k"), true),
        ]
    );
    assert_eq!(env_file_references(&container), [EnvFileKey { volume: "v".into(), path: "p".into() }]);
}

#[test]
fn debug_output_shows_no_values() {
    let fields = json!({"envFrom": [{"secretRef": {"name": "s"}}]});
    let environment = build(&pod(json!({"containers": []})), fields).unwrap();
    let text = format!("{environment:?} {:?}", sources());
    assert!(text.contains("\"raw\"") && text.contains("gone.env"), "{text}");
    for secret in ["from-secret", "102, 114, 111", "from file"] {
        assert!(!text.contains(secret), "{text}");
    }
}
