//! Pods start, restart, report and end.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;

use super::harness::*;

/// A Deployment of pods with an init container, told apart by their version.
pub fn deployment(name: &str, replicas: u32, version: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name, "version": version}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "initContainers": [{"name": "init", "image": BUSYBOX, "command": ["true"]}],
                    "containers": [{"name": "c", "image": PAUSE, "env": [{"name": "VERSION", "value": version}]}],
                },
            },
        },
    })
}

/// Waits until all pods of a Deployment are of that version and Ready.
pub async fn rolled_out(namespace: &TestNamespace, name: &str, version: &str) {
    wait(&format!("rollout of version {version}"), 120, async || {
        let deployment = namespace.api::<Deployment>().get(name).await.unwrap();
        let status = deployment.status.as_ref()?;
        let wanted = deployment.spec.replicas;
        let current = status.observed_generation >= deployment.metadata.generation;
        let pods = namespace.pods().await;
        let new = |p: &Pod| p.metadata.labels.as_ref().is_some_and(|l| l.get("version").is_some_and(|v| v == version));
        (current && status.ready_replicas == wanted && status.updated_replicas == wanted && pods.iter().all(new))
            .then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_deployment_of_ten_is_rolled_over_twice() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("rollover").await;
    namespace.create_object::<Deployment>(deployment("d", 10, "1")).await;
    let mut uids = BTreeSet::new();
    rolled_out(&namespace, "d", "1").await;
    uids.extend(namespace.pods().await.iter().map(uid));
    for version in ["2", "3"] {
        namespace.patch::<Deployment>("d", deployment("d", 10, version)).await;
        rolled_out(&namespace, "d", version).await;
        uids.extend(namespace.pods().await.iter().map(uid));
    }
    assert!(uids.len() >= 30, "{} pods were seen", uids.len());
    for pod in namespace.pods().await {
        assert_eq!(container(&pod, "c").restart_count, 0);
    }
    namespace.api::<Deployment>().delete("d", &Default::default()).await.unwrap();
    let uids: Vec<String> = uids.into_iter().collect();
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_crash_loop_waits_longer_each_time() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("crash-loop").await;
    let pod = namespace.script("p", "exit 3", "Always").await;
    let mut starts = Vec::new();
    for count in 1..=3 {
        let what = format!("restart {count}");
        namespace.wait_pod("p", &what, 60, |p| restart_count(p) >= count).await;
        starts.push(Instant::now());
    }
    let gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    // The first restart comes at once, the next after 10 s, the one after that after 20 s.
    assert!((9.5..12.5).contains(&gaps[0]) && (19.5..22.5).contains(&gaps[1]), "{gaps:?}");
    let waiting = namespace
        .wait_pod("p", "CrashLoopBackOff", 10, |p| waiting_reason(p, "c").as_deref() == Some("CrashLoopBackOff"))
        .await;
    assert_eq!(phase(&waiting), "Running");
    let last = container(&waiting, "c").last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    let event = namespace.wait_event("p", "BackOff").await;
    let message = event.message.unwrap();
    assert!(message.starts_with("Back-off restarting failed container c in pod p_crash-loop("), "{message}");
    namespace.clean_up(&[uid(&pod)]).await;
}

fn restart_count(pod: &Pod) -> i32 {
    pod.status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .and_then(|c| c.first())
        .map_or(0, |c| c.restart_count)
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn thirty_pods_at_once_leave_nothing_behind() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("thirty").await;
    let mut uids = Vec::new();
    for index in 0..30 {
        let spec = json!({"containers": [{"name": "c", "image": PAUSE}],
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]});
        uids.push(uid(&namespace.pod(&format!("p{index}"), spec).await));
    }
    for index in 0..30 {
        namespace.wait_ready(&format!("p{index}")).await;
    }
    assert!(left_of(&uids).await.len() > 100, "the search for left-overs must see what runs");
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn init_containers_run_in_order_and_before_the_others() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("init").await;
    let step = |name: &str, script: &str| {
        json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]})
    };
    let pod = namespace
        .pod(
            "p",
            json!({"restartPolicy": "Never",
                "initContainers": [step("a", "echo a >> /v/order"), step("b", "sleep 0.5; echo b >> /v/order")],
                "containers": [step("c", "cat /v/order > /dev/termination-log")],
                "volumes": [{"name": "v", "emptyDir": {}}]}),
        )
        .await;
    assert_eq!(namespace.message("p").await, "a\nb\n");
    let ended = namespace.get("p").await.unwrap();
    assert_eq!(phase(&ended), "Succeeded");
    assert_eq!(condition(&ended, "Initialized").as_deref(), Some("True"));
    assert_eq!(container(&ended, "a").state.unwrap().terminated.unwrap().reason.as_deref(), Some("Completed"));
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn restart_policies_are_kept() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("policies").await;
    let pods = [
        namespace.script("never", "exit 2", "Never").await,
        namespace.script("done", "exit 0", "OnFailure").await,
        namespace.script("retry", "exit 2", "OnFailure").await,
    ];
    let failed = namespace.wait_phase("never", "Failed").await;
    assert_eq!(container(&failed, "c").restart_count, 0);
    assert_eq!(container(&failed, "c").state.unwrap().terminated.unwrap().exit_code, 2);
    assert_eq!(phase(&namespace.wait_phase("done", "Succeeded").await), "Succeeded");
    namespace.wait_pod("retry", "a restart", 30, |p| restart_count(p) >= 1).await;
    let uids: Vec<String> = pods.iter().map(uid).collect();
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn commands_and_environment_are_expanded() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("environment").await;
    let pod = namespace
        .pod(
            "p",
            json!({"restartPolicy": "Never", "hostname": "h", "containers": [{
                "name": "c", "image": BUSYBOX, "command": ["sh", "-c"],
                "args": ["echo \"$(GREETING) $$(GREETING) $NAME $IP $CPU $KUBERNETES_SERVICE_PORT $(hostname)\" > /dev/termination-log"],
                "resources": {"limits": {"cpu": "200m", "memory": "32Mi"}},
                "env": [{"name": "WHO", "value": "world"}, {"name": "GREETING", "value": "hello $(WHO)"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
            }]}),
        )
        .await;
    let message = namespace.message("p").await;
    let ended = namespace.get("p").await.unwrap();
    let ip = ended.status.as_ref().unwrap().pod_ip.clone().unwrap();
    // `$$(GREETING)` reaches the shell as a command substitution of a command that does not exist.
    assert_eq!(message.trim(), format!("hello world  p {ip} 200 443 h"));
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_pod_that_ignores_the_signal_is_killed_when_its_grace_is_over() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("grace").await;
    let pod = namespace.script("p", "trap '' TERM; while :; do sleep 0.1; done", "Always").await;
    namespace.wait_ready("p").await;
    let began = Instant::now();
    namespace.delete("p", Some(4)).await;
    namespace.wait_gone("p", 30).await;
    let took = began.elapsed().as_secs_f64();
    assert!((3.8..7.0).contains(&took), "{took}");
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_pod_deleted_by_force_is_gone_from_the_node_too() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("force").await;
    let pod = namespace.pod("p", json!({"containers": [{"name": "c", "image": PAUSE}]})).await;
    namespace.wait_ready("p").await;
    namespace.delete("p", Some(0)).await;
    namespace.wait_gone("p", 1).await;
    wait_nothing_left(&[uid(&pod)]).await;
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_running_pod_that_is_deleted_is_seen_to_end_first() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("ends").await;
    let pod = namespace.script("p", "trap 'exit 7' TERM; while :; do sleep 0.1; done", "Never").await;
    namespace.wait_ready("p").await;
    // A finalizer keeps the object, so that what was written last can be read.
    namespace.patch::<Pod>("p", json!({"metadata": {"finalizers": ["test.example/hold"]}})).await;
    namespace.delete("p", Some(10)).await;
    let ended = namespace.wait_phase("p", "Failed").await;
    assert_eq!(container(&ended, "c").state.unwrap().terminated.unwrap().exit_code, 7);
    assert_eq!(condition(&ended, "Ready").as_deref(), Some("False"));
    namespace.patch::<Pod>("p", json!({"metadata": {"finalizers": null}})).await;
    namespace.wait_gone("p", 30).await;
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn limits_reach_the_cgroups() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("limits").await;
    let resources = json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "32Mi"}});
    let spec = json!({"containers": [{"name": "c", "image": PAUSE, "resources": resources}]});
    let pod = namespace.pod("p", spec).await;
    let ready = namespace.wait_ready("p").await;
    let status = ready.status.as_ref().unwrap();
    assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
    assert_eq!(status.observed_generation, ready.metadata.generation);
    assert_eq!(serde_json::to_value(&container(&ready, "c").resources).unwrap(), resources);
    let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let (memory, cpu) = if v2 {
        (
            format!("kubepods/burstable/pod{}/memory.max", uid(&pod)),
            format!("kubepods/burstable/pod{}/cpu.max", uid(&pod)),
        )
    } else {
        (
            format!("memory/kubepods/burstable/pod{}/memory.limit_in_bytes", uid(&pod)),
            format!("cpu/kubepods/burstable/pod{}/cpu.cfs_quota_us", uid(&pod)),
        )
    };
    let read = |path: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{path}")).unwrap();
    assert_eq!(read(&memory).trim(), (32 << 20).to_string());
    assert!(read(&cpu).starts_with("20000"), "{}", read(&cpu));
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn logs_lie_where_the_kubelet_puts_them() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("logs").await;
    let pod = namespace.script("p", "echo hello; sleep 3600", "Always").await;
    let ready = namespace.wait_ready("p").await;
    let log = format!("/var/log/pods/logs_p_{}/c/0.log", uid(&pod));
    wait("the log line", 10, async || {
        std::fs::read_to_string(&log).ok().filter(|text| text.ends_with("stdout F hello\n"))
    })
    .await;
    let id = container(&ready, "c").container_id.unwrap();
    let link = format!("/var/log/containers/p_logs_c-{}.log", id.strip_prefix("containerd://").unwrap());
    assert_eq!(std::fs::read_link(&link).unwrap().to_str().unwrap(), log);
    namespace.clean_up(&[uid(&pod)]).await;
    assert!(std::fs::symlink_metadata(&link).is_err(), "the link stays behind");
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_pod_in_the_nodes_network_has_the_nodes_address() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("host-network").await;
    let spec = json!({"hostNetwork": true, "containers": [{"name": "c", "image": PAUSE}]});
    let pod = namespace.pod("p", spec).await;
    let ready = namespace.wait_ready("p").await;
    let status = ready.status.as_ref().unwrap();
    assert_eq!(status.pod_ip, status.host_ip);
    assert!(status.host_ip.is_some());
    namespace.clean_up(&[uid(&pod)]).await;
}
