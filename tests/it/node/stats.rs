//! What the node says that its pods use, and what the kubelet says of the same pod.

use serde_json::{Value, json};

use super::harness::*;

/// A path of the node's own API, by the API server.
async fn fetch(namespace: &TestNamespace, path: &str) -> Result<String, kube::Error> {
    let path = format!("/api/v1/nodes/{}/proxy/{path}", node_name());
    namespace.client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await
}

async fn summary(namespace: &TestNamespace, pod: &str) -> Option<Value> {
    let text = fetch(namespace, "stats/summary").await.ok()?;
    let summary: Value = serde_json::from_str(&text).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let of_pod = |p: &&Value| p["podRef"]["name"] == pod && p["podRef"]["namespace"] == namespace.name.as_str();
    Some(json!({"node": summary["node"], "pod": pods.iter().find(of_pod)?}))
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {value:#}"))
}

/// A pod that uses a processor, 20 MiB of memory, 5 MiB of an emptyDir and 80 KiB of its own layer.
async fn busy_pod(namespace: &TestNamespace) -> String {
    let script = "echo hello; dd if=/dev/zero of=/outside bs=4096 count=20 2>/dev/null; \
        dd if=/dev/zero of=/data/file bs=1M count=5 2>/dev/null; dd if=/dev/zero of=/memory/file bs=1M count=20 2>/dev/null; \
        sync; touch /data/ready; while true; do :; done";
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
            "resources": {"limits": {"memory": "80M", "cpu": "500m"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "memory", "mountPath": "/memory"}],
        }],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
    });
    let pod = namespace.pod("busy", spec).await;
    namespace.wait_ready("busy").await;
    uid(&pod)
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_busy_pod_is_seen_as_busy_and_as_the_kubelet_sees_it() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("summary").await;
    let uid = busy_pod(&namespace).await;
    let seen = wait("the pod's figures", 30, async || {
        let seen = summary(&namespace, "busy").await?;
        let cores = seen.pointer("/pod/cpu/usageNanoCores").and_then(Value::as_f64)?;
        (cores > 3e8).then_some(seen)
    })
    .await;
    assert!(number(&seen, "/pod/cpu/usageNanoCores") < 7e8, "half a processor: {seen:#}");
    assert!((2e7..8e7).contains(&number(&seen, "/pod/memory/workingSetBytes")), "{seen:#}");
    assert!(number(&seen, "/pod/memory/availableBytes") < 6e7, "{seen:#}");
    let container = "/pod/containers/0";
    assert_eq!(seen.pointer("/pod/containers/0/name"), Some(&json!("main")));
    for field in [
        "/cpu/usageCoreNanoSeconds",
        "/memory/rssBytes",
        "/logs/usedBytes",
        "/rootfs/capacityBytes",
        "/cpu/psi/some/total",
    ] {
        assert!(seen.pointer(&format!("{container}{field}")).is_some_and(Value::is_number), "{field} in {seen:#}");
    }
    let volume = |name: &str| {
        let volumes = seen.pointer("/pod/volume").and_then(Value::as_array).unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        volume.unwrap_or_else(|| panic!("no volume {name} in {seen:#}")).clone()
    };
    assert!((5e6..7e6).contains(&number(&volume("data"), "/usedBytes")), "{seen:#}");
    assert!((2e7..3e7).contains(&number(&volume("memory"), "/usedBytes")), "{seen:#}");
    assert_eq!(number(&volume("data"), "/inodesUsed"), 3.0, "the folder and two files: {seen:#}");
    assert_eq!(seen.pointer("/pod/network/name"), Some(&json!("eth0")));
    assert!(number(&seen, "/pod/network/rxBytes") > 0.0 && number(&seen, "/pod/process_stats/process_count") >= 1.0);
    assert!(number(&seen, "/pod/ephemeral-storage/usedBytes") > 5e6, "{seen:#}");
    for field in
        ["cpu/usageNanoCores", "memory/availableBytes", "network/rxBytes", "fs/usedBytes", "runtime/imageFs/usedBytes"]
    {
        assert!(number(&seen, &format!("/node/{field}")) > 0.0, "{field} in {seen:#}");
    }
    let resource = fetch(&namespace, "metrics/resource").await.unwrap();
    let own = format!("{{container=\"main\",namespace=\"{}\",pod=\"busy\"}} ", namespace.name);
    for family in
        ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"]
    {
        let line = resource.lines().find(|line| line.starts_with(&format!("{family}{own}")));
        assert!(line.is_some(), "{family} in {resource}");
    }
    assert!(resource.ends_with("resource_scrape_error 0\n"), "{resource}");
    let cadvisor = fetch(&namespace, "metrics/cadvisor").await.unwrap();
    assert!(cadvisor.contains("container_network_receive_bytes_total{container=\"\",id=\"/kubepods/"), "{cadvisor}");
    let metrics = fetch(&namespace, "metrics").await.unwrap();
    for line in ["kubelet_running_pods 1", "kubelet_running_containers{container_state=\"running\"} 1"] {
        assert!(metrics.lines().any(|known| known == line), "{line} in {metrics}");
    }
    assert!(metrics.contains("kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 1\n"), "{metrics}");
    // One pod was started, which reached each stage once.
    for stage in ["scheduled", "volumes", "images", "sandbox", "started", "ready"] {
        let line = format!("ferrolet_pod_start_stage_seconds_count{{stage=\"{stage}\"}} 1\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }

    agent.kill().await;
    let _peer = Agent::start(Kind::Peer).await;
    let theirs = wait("the kubelet's figures", 120, async || {
        let theirs = summary(&namespace, "busy").await?;
        theirs.pointer("/pod/cpu/usageNanoCores").and_then(Value::as_f64).filter(|cores| *cores > 3e8)?;
        Some(theirs)
    })
    .await;
    let mine = &seen;
    for (path, factor) in [
        ("/pod/cpu/usageNanoCores", 1.5),
        ("/pod/memory/workingSetBytes", 1.5),
        ("/pod/memory/availableBytes", 1.5),
        ("/pod/containers/0/memory/rssBytes", 2.0),
        ("/pod/containers/0/rootfs/capacityBytes", 1.0),
        ("/node/memory/workingSetBytes", 2.0),
        ("/node/fs/capacityBytes", 1.0),
        ("/node/fs/usedBytes", 1.5),
        ("/node/runtime/imageFs/usedBytes", 1.5),
    ] {
        let (mine, theirs) = (number(mine, path), number(&theirs, path));
        assert!(mine <= theirs * factor && theirs <= mine * factor, "{path}: {mine}, the kubelet: {theirs}");
    }
    // On cgroup v1 the kubelet leaves out containers' pressure and the pod's processes, which are known here.
    let mine = keys(mine);
    let missing: Vec<String> = keys(&theirs).into_iter().filter(|key| !mine.contains(key)).collect();
    assert_eq!(missing, Vec::<String>::new());
    namespace.clean_up(&[uid]).await;
}

/// Families of the kubelet's that are not here, by how they begin: those of Go and of its libraries.
const OF_LIBRARIES: &[&str] = &[
    "aggregator_",
    "apiserver_audit_",
    "apiserver_client_",
    "apiserver_envelope_",
    "apiserver_storage_",
    "apiserver_validation_",
    "apiserver_webhooks_",
    "cardinality_enforcement_",
    "disabled_metrics_total",
    "go_",
    "hidden_metrics_total",
    "registered_metrics_total",
    "rest_client_exec_plugin_",
    "rest_client_transport_",
    "workqueue_",
];
/// Those of what this agent does not have, or does in another way; `kubelet_restarted_pods_total` is shown once it is not 0.
const OF_WHAT_IS_MISSING: &[&str] = &[
    "dra_",
    "force_cleaned_failed_volume_",
    "kubelet_cpu_manager_",
    "kubelet_evented_pleg_",
    "kubelet_graceful_shutdown_",
    "kubelet_imagemanager_inmemory_",
    "kubelet_memory_manager_",
    "kubelet_orphan_pod_cleaned_volumes",
    "kubelet_pleg_discard_events",
    "kubelet_pod_in_progress_resizes",
    "kubelet_pod_watch_events_dropped_total",
    "kubelet_restarted_pods_total",
    "kubelet_topology_manager_",
    "reconstruct_volume_",
    "volume_operation_total_seconds",
];

/// The names of all families in an exposition.
fn families(text: &str) -> std::collections::BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_kubelets_families_are_there_but_for_those_of_what_is_missing() {
    let agent = Agent::start(Kind::Peer).await;
    let namespace = TestNamespace::create("families").await;
    let mut uids = Vec::new();
    let ended = async |name: &str| {
        let pod = namespace.script(name, "true", "Never").await;
        namespace.wait_phase(name, "Succeeded").await;
        uid(&pod)
    };
    uids.push(ended("theirs").await);
    let theirs = fetch(&namespace, "metrics").await.unwrap();
    agent.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    uids.push(ended("ours").await);
    // One that runs, so that there are volumes.
    let pod = namespace.script("runs", "sleep 1000", "Never").await;
    namespace.wait_ready("runs").await;
    uids.push(uid(&pod));
    let ours = fetch(&namespace, "metrics").await.unwrap();
    let (there, here) = (families(&theirs), families(&ours));
    let is_explained =
        |name: &str| OF_LIBRARIES.iter().chain(OF_WHAT_IS_MISSING).any(|absent| name.starts_with(absent));
    let absent: Vec<&String> = there.difference(&here).filter(|name| !is_explained(name)).collect();
    assert!(absent.is_empty(), "{absent:#?}");
    let head = |text: &str, name: &str| {
        let is_of = |line: &&str| line.starts_with("# ") && line.split(' ').nth(2) == Some(name);
        text.lines().filter(is_of).map(str::to_owned).collect::<Vec<_>>()
    };
    for name in there.intersection(&here) {
        assert_eq!(head(&ours, name), head(&theirs, name), "{name}");
    }
    assert!(
        ours.contains("kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"0\""),
        "{ours}"
    );
    namespace.clean_up(&uids).await;
}

/// Every field of the pod and the node, without what depends on where the agent runs and on when the kubelet last looked.
fn keys(seen: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}"), into)),
            Value::Array(items) => items.first().into_iter().for_each(|item| walk(item, path, into)),
            _ => into.push(path.to_owned()),
        }
    }
    let mut all = Vec::new();
    walk(seen, "", &mut all);
    all.retain(|path| !path.starts_with("/node/systemContainers") && !path.starts_with("/pod/volume"));
    all
}
