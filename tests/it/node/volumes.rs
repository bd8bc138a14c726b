//! Volumes in real pods. A container tells what it sees by its termination message.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::harness::*;

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn every_kind_of_volume_holds_what_it_should() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("volumes").await;
    namespace.create_object::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"k": "from the map"}})).await;
    namespace.create_object::<Secret>(json!({"metadata": {"name": "s"}, "stringData": {"k": "from the secret"}})).await;
    std::fs::create_dir_all("/run/host-volume").unwrap();
    std::fs::write("/run/host-volume/f", "from the host").unwrap();
    let script = "{ cat /map/k; echo; cat /secret/k; echo; cat /downward/name; echo; cat /host/f; echo; cat /projected/map; echo;
        cat /projected/name; echo; cat /sub; echo; stat -c %a /scratch; df -T /memory | awk 'NR==2{print $2}';
        df -T /secret | awk 'NR==2{print $2}'; wc -c < /var/run/secrets/kubernetes.io/serviceaccount/token | awk '{print ($1 > 500)}';
        head -c 27 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt; } > /dev/termination-log";
    let pod = namespace
        .pod(
            "p",
            json!({"restartPolicy": "Never",
                "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], "volumeMounts": [
                    {"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret", "readOnly": true},
                    {"name": "downward", "mountPath": "/downward"}, {"name": "host", "mountPath": "/host"},
                    {"name": "projected", "mountPath": "/projected"}, {"name": "map", "mountPath": "/sub", "subPath": "k"},
                    {"name": "scratch", "mountPath": "/scratch"}, {"name": "memory", "mountPath": "/memory"}]}],
                "volumes": [
                    {"name": "map", "configMap": {"name": "m"}}, {"name": "secret", "secret": {"secretName": "s"}},
                    {"name": "downward", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                    {"name": "host", "hostPath": {"path": "/run/host-volume", "type": "Directory"}},
                    {"name": "projected", "projected": {"sources": [
                        {"configMap": {"name": "m", "items": [{"key": "k", "path": "map"}]}},
                        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}},
                    {"name": "scratch", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]}),
        )
        .await;
    let seen = namespace.message("p").await;
    let expected = "from the map\nfrom the secret\np\nfrom the host\nfrom the map\np\nfrom the map\n777\ntmpfs\ntmpfs\n1\n-----BEGIN CERTIFICATE-----";
    assert_eq!(seen, expected);
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_changed_config_map_reaches_the_pod_in_seconds() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("update").await;
    namespace.create_object::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {"k": "old"}})).await;
    let script = "while [ \"$(cat /map/k)\" != new ]; do sleep 0.1; done; echo -n seen > /dev/termination-log";
    let pod = namespace
        .pod(
            "p",
            json!({"restartPolicy": "Never",
                "containers": [{"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "map", "mountPath": "/map"}]}],
                "volumes": [{"name": "map", "configMap": {"name": "m"}}]}),
        )
        .await;
    namespace.wait_ready("p").await;
    let began = tokio::time::Instant::now();
    namespace.patch::<ConfigMap>("m", json!({"data": {"k": "new"}})).await;
    assert_eq!(namespace.message("p").await, "seen");
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_missing_object_is_named_and_waited_for() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("missing").await;
    let volume = namespace
        .pod(
            "volume",
            json!({"containers": [{"name": "c", "image": PAUSE, "volumeMounts": [{"name": "map", "mountPath": "/map"}]}],
                "volumes": [{"name": "map", "configMap": {"name": "later"}}]}),
        )
        .await;
    let env = namespace
        .pod(
            "env",
            json!({"containers": [{"name": "c", "image": PAUSE,
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "k"}}}]}]}),
        )
        .await;
    let event = namespace.wait_event("volume", "FailedMount").await;
    assert!(event.message.as_ref().unwrap().contains("configmap \"later\" not found"), "{event:?}");
    let shown = namespace
        .wait_pod("env", "its reason", 30, |p| waiting_reason(p, "c").as_deref() == Some("CreateContainerConfigError"))
        .await;
    let message = container(&shown, "c").state.unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "configmap \"later\" not found");
    namespace.create_object::<ConfigMap>(json!({"metadata": {"name": "later"}, "data": {"k": "v"}})).await;
    let began = tokio::time::Instant::now();
    namespace.wait_ready("volume").await;
    namespace.wait_ready("env").await;
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    namespace.clean_up(&[uid(&volume), uid(&env)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_group_of_the_pod_owns_its_volumes() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("fs-group").await;
    let pod = namespace
        .pod(
            "p",
            json!({"restartPolicy": "Never", "securityContext": {"fsGroup": 1234, "runAsUser": 1000},
                "containers": [{"name": "c", "image": BUSYBOX,
                    "command": ["sh", "-c", "{ stat -c '%g %a' /v; id -G; cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; } > /dev/termination-log"],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]}),
        )
        .await;
    let seen = namespace.message("p").await;
    assert!(seen.starts_with("1234 2777\n") && seen.contains("1234") && seen.ends_with("fs-group"), "{seen}");
    namespace.clean_up(&[uid(&pod)]).await;
}
