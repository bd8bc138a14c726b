//! Pods that the node does not take, and pods that give way to others.

use std::sync::Arc;
use std::time::Duration;

use ferrolet::model::{SignedDuration, clock};
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::{World, container, is_ready, pod, pod_with, uid};
use crate::fake_runtime::Behaviour;

/// A pod that asks for so much CPU, with other fields of its spec.
fn asking(name: &str, cpu: &str, spec: Value) -> Value {
    let mut pod = pod_with(name, spec);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

fn with_port(name: &str) -> Value {
    let mut container = container("app");
    container["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
    pod_with(name, json!({"containers": [container]}))
}

fn has_failed(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Failed")
}

#[tokio::test]
async fn a_rejected_pod_fails_at_once_and_nothing_of_it_is_started() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let mut huge = asking("huge", "5", json!({}));
    let scheduled = json!({"type": "PodScheduled", "status": "True"});
    huge["status"] =
        json!({"phase": "Pending", "conditions": [scheduled, {"type": "example.com/x", "status": "True"}]});
    world.api.create(huge);
    let status = world.until_status("Failed", "huge", has_failed).await;
    let cause = "Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: 4000";
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(status.message, Some(format!("Pod was rejected: {cause}")));
    assert_eq!(status.qos_class.as_deref(), Some("Burstable"));
    assert_eq!(status.observed_generation, Some(1));
    assert!(status.start_time.is_some() && status.container_statuses.is_none() && status.host_ip.is_none());
    let conditions: Vec<_> = status.conditions.iter().flatten().map(|c| c.type_.as_str()).collect();
    assert_eq!(conditions, ["example.com/x"], "others' alone");
    assert_eq!(world.told("huge", "OutOfcpu"), [cause]);
    assert_eq!(world.changes("huge"), Vec::<String>::new());
    // It holds nothing of the node, and it can be deleted.
    world.api.create(asking("small", "4", json!({})));
    world.until_ready("small").await;
    world.api.delete("huge", 30);
    world.until("gone", &["huge"], || world.api.pod("huge").is_none()).await;
    assert_eq!(world.reasons("huge"), ["OutOfcpu"]);
    world.assert_sound();
}

#[tokio::test]
async fn a_new_agent_does_not_judge_a_rejected_pod_again() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.api.create(asking("huge", "5", json!({})));
    world.until_status("Failed", "huge", has_failed).await;
    agent.kill().await;
    let writes = world.api.writes().len();
    let _agent = world.agent().await;
    world.api.create(pod("other"));
    world.until_ready("other").await;
    assert_eq!(world.told("huge", "OutOfcpu").len(), 1);
    let told: Vec<_> = world.api.writes().split_off(writes).into_iter().filter(|w| w.path.contains("/huge")).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn what_a_pod_holds_is_free_only_when_it_has_ended() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.on_start("app", Behaviour::ExitOnTerm { after: Duration::from_millis(400), code: 0 });
    world.api.create(with_port("first"));
    world.until_ready("first").await;
    world.api.delete("first", 30);
    world.until_called("first", "StopContainer", 1).await;
    world.api.create(with_port("early"));
    let status = world.until_status("Failed", "early", has_failed).await;
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    world.until("gone", &["first"], || world.api.pod("first").is_none()).await;
    world.api.create(with_port("late"));
    world.until_ready("late").await;
    world.assert_sound();
}

#[tokio::test]
async fn a_pod_that_is_done_makes_room() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.on_start("app", Behaviour::Exit { after: Duration::from_millis(10), code: 0 });
    world.api.create(asking("job", "3", json!({"restartPolicy": "Never"})));
    world.until_status("Succeeded", "job", |s| s.phase.as_deref() == Some("Succeeded")).await;
    world.runtime.on_start("app", Behaviour::Run);
    world.api.create(asking("next", "3", json!({})));
    world.until_ready("next").await;
}

#[tokio::test]
async fn a_critical_pod_waits_until_those_that_give_way_have_ended() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.on_start("app", Behaviour::ExitOnTerm { after: Duration::from_millis(300), code: 0 });
    for (name, cpu) in [("one", "1500m"), ("two", "2"), ("critical-already", "500m")] {
        let priority = if name.starts_with("critical") { 2_000_001_000 } else { 0 };
        world.api.create(asking(name, cpu, json!({"priority": priority})));
        world.until_ready(name).await;
    }
    world.api.create(asking("critical", "1", json!({"priority": 2_000_001_000})));
    world.until_called("one", "StopContainer", 1).await;
    world.api.create(asking("thief", "1", json!({})));
    world.until_status("Failed", "thief", has_failed).await;
    assert_eq!(world.changes("critical"), Vec::<String>::new());
    world.until_ready("critical").await;

    let status = world.status("one").unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Succeeded"), None));
    let disruption = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").unwrap();
    assert_eq!((disruption.status.as_str(), disruption.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    assert_eq!(disruption.message.as_deref(), Some("Pod was preempted by Kubelet to accommodate a critical pod."));
    assert!(!is_ready(&status));
    assert_eq!(world.told("one", "Preempting"), ["Preempted in order to admit critical pod"]);
    let phases: Vec<_> = world.api.statuses("one").into_iter().filter_map(|status| status.phase).collect();
    assert!(phases.iter().skip_while(|phase| *phase != "Succeeded").all(|phase| phase == "Succeeded"), "{phases:?}");
    for name in ["two", "critical-already"] {
        assert!(is_ready(&world.status(name).unwrap()), "{name} goes on");
    }
    world.api.delete("one", 30);
    world.until("gone", &["one"], || world.api.pod("one").is_none()).await;
    world.assert_sound();
}

#[tokio::test]
async fn pods_wait_until_the_node_is_known() {
    let world = World::new().await;
    world.admission.send_modify(|facts| facts.is_node_settled = false);
    let _agent = world.agent().await;
    world.api.create(pod("a"));
    world.api.create(pod("b"));
    world.api.create(pod("c"));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(world.changes("a"), Vec::<String>::new());
    // Deletion does not wait.
    world.api.delete("b", 30);
    world.until("gone", &["b"], || world.api.pod("b").is_none()).await;
    world.admission.send_modify(|facts| {
        let mut node = (**facts.node.as_ref().unwrap()).clone();
        node.allocatable.other.insert("pods".to_owned(), 1);
        facts.node = Some(Arc::new(node));
        facts.is_node_settled = true;
    });
    world.until_ready("a").await;
    let status = world.until_status("Failed", "c", has_failed).await;
    assert_eq!(status.reason.as_deref(), Some("OutOfpods"));
}

#[tokio::test]
async fn after_a_restart_those_that_ran_are_judged_before_newcomers() {
    let world = World::new().await;
    let agent = world.agent().await;
    let created = |ago: i64| json!(clock::api_time(clock::now() - SignedDuration::from_secs(ago)));
    for name in ["young", "old"] {
        let mut pod = asking(name, "2", json!({}));
        pod["metadata"]["creationTimestamp"] = created(if name == "old" { 100 } else { 10 });
        world.api.create(pod);
        world.until_ready(name).await;
    }
    agent.kill().await;
    // Older than both, and never seen here: it must not take the place of one that runs.
    let mut stranger = asking("stranger", "1", json!({}));
    stranger["metadata"]["creationTimestamp"] = created(1000);
    world.api.create(stranger);
    let agent = world.agent().await;
    world.until_status("Failed", "stranger", has_failed).await;
    sleep(Duration::from_millis(200)).await;
    assert!(is_ready(&world.status("young").unwrap()) && is_ready(&world.status("old").unwrap()));
    agent.kill().await;

    // A node that has become smaller keeps the older ones; the others end, and fail when they have ended.
    world.runtime.clear_calls();
    world.admission.send_modify(|facts| {
        let mut node = (**facts.node.as_ref().unwrap()).clone();
        node.allocatable.cpu_milli = Some(2500);
        facts.node = Some(Arc::new(node));
    });
    let _agent = world.agent().await;
    let status = world.until_status("Failed", "young", has_failed).await;
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(world.runtime.snapshot().running(&uid("young")), Vec::<String>::new());
    assert!(is_ready(&world.status("old").unwrap()));
    assert_eq!(world.changes("old"), Vec::<String>::new());
    world.assert_sound();
}
