//! Deadlines, restarts of all containers, and who looks into a pod, on real containers.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::harness::*;

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_pod_ends_at_its_deadline() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("deadline").await;
    let script = "trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let container = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]});
    let pod = namespace.pod("p", json!({"activeDeadlineSeconds": 3, "containers": [container]})).await;
    // Of this one the container ends well and in time, and its sidecar does not.
    let slow = "trap 'sleep 10; exit 0' TERM; while true; do sleep 0.1; done";
    let side = json!({"name": "side", "image": BUSYBOX, "command": ["sh", "-c", slow], "restartPolicy": "Always"});
    let spec = json!({
        "activeDeadlineSeconds": 6,
        "terminationGracePeriodSeconds": 30,
        "restartPolicy": "Never",
        "initContainers": [side],
        "containers": [{"name": "c", "image": BUSYBOX, "command": ["true"]}],
    });
    let late = namespace.pod("late", spec).await;
    namespace.wait_ready("p").await;
    let status = namespace.wait_phase("p", "Failed").await.status.unwrap();
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("DeadlineExceeded"), Some(message)));
    let ended = status.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.clone().unwrap();
    let lasted = ended.finished_at.unwrap().0.duration_since(status.start_time.unwrap().0);
    assert!((3..10).contains(&lasted.as_secs()), "{lasted}");
    let event = namespace.wait_event("p", "DeadlineExceeded").await;
    assert_eq!((event.type_.as_deref(), event.message.as_deref()), (Some("Normal"), Some(message)));

    let status = namespace.wait_phase("late", "Failed").await.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    let ended = status.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.clone().unwrap();
    assert_eq!(ended.exit_code, 0);
    namespace.wait_event("late", "DeadlineExceeded").await;
    namespace.clean_up(&[uid(&pod), uid(&late)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn one_container_restarts_all_in_place() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("restart-all").await;
    let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let script = "if [ -e /v/done ]; then sleep 100000; fi; sleep 2; touch /v/done; exit 42";
    let source = json!({
        "name": "source", "image": BUSYBOX, "command": ["sh", "-c", script],
        "restartPolicy": "Never", "restartPolicyRules": [rule],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    });
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [
            {"name": "init", "image": BUSYBOX, "command": ["true"]},
            {"name": "side", "image": BUSYBOX, "command": ["sleep", "100000"], "restartPolicy": "Always"},
        ],
        "containers": [source, {"name": "other", "image": BUSYBOX, "command": ["sleep", "100000"]}],
    });
    let pod = namespace.pod("p", spec).await;
    let before = namespace.wait_ready("p").await;
    let told = |pod: &Pod| condition(pod, "AllContainersRestarting").as_deref() == Some("True");
    namespace.wait_pod("p", "the condition", 30, told).await;
    // Another agent goes on with it.
    agent.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    let names = ["init", "side", "source", "other"];
    let restarted = |pod: &Pod| {
        let count = |name: &&str| find_container(pod, name).is_some_and(|c| c.restart_count == 1);
        names.iter().all(count) && condition(pod, "Ready").as_deref() == Some("True")
    };
    let after = namespace.wait_pod("p", "all to be started anew", 60, restarted).await;
    for name in names {
        let last = container(&after, name).last_state.unwrap().terminated.unwrap();
        assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("RestartingAllContainers")), "{name}");
    }
    assert_eq!(condition(&after, "AllContainersRestarting").as_deref(), Some("False"));
    let ip = |pod: &Pod| pod.status.as_ref().unwrap().pod_ip.clone();
    assert_eq!((ip(&after), phase(&after)), (ip(&before), "Running"));
    let logs = format!("/var/log/pods/restart-all_p_{}/other", uid(&pod));
    let mut kept: Vec<_> = std::fs::read_dir(logs).unwrap().map(|e| e.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept, ["0.log", "1.log"]);
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn who_looks_into_a_pod_sees_the_processes_of_its_target() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("ephemeral").await;
    let target = json!({"name": "c", "image": BUSYBOX, "command": ["sleep", "100001"]});
    let pod = namespace.pod("p", json!({"containers": [target]})).await;
    let before = container(&namespace.wait_ready("p").await, "c");
    let script = "grep -q 100001 /proc/1/cmdline && echo seen > /dev/termination-log; exit 3";
    let debug = json!({
        "name": "debug", "image": BUSYBOX, "command": ["sh", "-c", script], "targetContainerName": "c",
    });
    let patch = json!({"spec": {"ephemeralContainers": [debug]}});
    namespace
        .api::<Pod>()
        .patch_ephemeral_containers("p", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .unwrap();
    let state = |pod: &Pod| {
        let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
        statuses.first()?.state.as_ref()?.terminated.clone()
    };
    let after = namespace.wait_pod("p", "the end of what looked", 30, |pod| state(pod).is_some()).await;
    let ended = state(&after).unwrap();
    assert_eq!((ended.exit_code, ended.message.as_deref()), (3, Some("seen\n")));
    assert_eq!(container(&after, "c").container_id, before.container_id);
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_container_that_takes_more_memory_than_it_may_is_killed_and_restarted_by_its_policy() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("oom").await;
    let limits = json!({"limits": {"memory": "32Mi"}});
    let hungry = |policy: &str| {
        let command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
        let container = json!({"name": "c", "image": BUSYBOX, "command": command, "resources": limits});
        json!({"restartPolicy": policy, "containers": [container]})
    };
    let never = namespace.pod("never", hungry("Never")).await;
    let failing = namespace.pod("failing", hungry("OnFailure")).await;
    let oom = (137, Some("OOMKilled".to_owned()));
    let status = namespace.wait_phase("never", "Failed").await;
    let ended = container(&status, "c").state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason), oom);
    assert_eq!(container(&status, "c").restart_count, 0);
    let restarted = |pod: &Pod| find_container(pod, "c").is_some_and(|c| c.restart_count > 0 && c.last_state.is_some());
    let status = namespace.wait_pod("failing", "a restart", 60, restarted).await;
    let last = container(&status, "c").last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason), oom);
    // An init container has failed by that even where its shell goes on and ends well.
    let init = json!({
        "name": "i", "image": BUSYBOX, "resources": limits,
        "command": ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 0"],
    });
    let spec =
        json!({"restartPolicy": "Never", "initContainers": [init], "containers": [{"name": "c", "image": PAUSE}]});
    let with_init = namespace.pod("init", spec).await;
    let status = namespace.wait_phase("init", "Failed").await;
    let ended = container(&status, "i").state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("OOMKilled")));
    namespace.clean_up(&[uid(&never), uid(&failing), uid(&with_init)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn without_their_gates_containers_have_no_restart_rules_of_their_own() {
    let gates = "--feature-gates=ContainerRestartRules=false,RestartAllContainersOnContainerExits=false";
    let agent = Agent::start_with(Kind::Ferrolet, &[gates]).await;
    let namespace = TestNamespace::create("no-rules").await;
    let ruled = |action: &str| {
        let rule = json!({"action": action, "exitCodes": {"operator": "In", "values": [42]}});
        json!({
            "name": "c", "image": BUSYBOX, "command": ["sh", "-c", "exit 42"],
            "restartPolicy": "Never", "restartPolicyRules": [rule],
        })
    };
    let own = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", "exit 42"], "restartPolicy": "Always"});
    let mut uids = Vec::new();
    for (name, container) in [("one", ruled("Restart")), ("all", ruled("RestartAllContainers")), ("own", own)] {
        let pod = namespace.pod(name, json!({"restartPolicy": "Never", "containers": [container]})).await;
        uids.push(uid(&pod));
    }
    // A node that does not declare the feature does not take who asks for it.
    let refused = namespace.wait_phase("all", "Failed").await.status.unwrap();
    assert_eq!(refused.reason.as_deref(), Some("PodFeatureUnsupported"));
    for name in ["one", "own"] {
        let pod = namespace.wait_phase(name, "Failed").await;
        let status = container(&pod, "c");
        assert_eq!((status.restart_count, status.state.unwrap().terminated.unwrap().exit_code), (0, 42), "{name}");
    }
    // With them the same pod is restarted.
    agent.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    let pod = namespace.pod("with", json!({"restartPolicy": "Never", "containers": [ruled("Restart")]})).await;
    uids.push(uid(&pod));
    let restarted = |pod: &Pod| find_container(pod, "c").is_some_and(|c| c.restart_count > 0);
    namespace.wait_pod("with", "a restart", 60, restarted).await;
    namespace.clean_up(&uids).await;
}
