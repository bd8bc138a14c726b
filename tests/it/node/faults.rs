//! The agent, the runtime and the API server go away and come back: nothing that runs is touched, nothing is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrolet::runtime::cri;
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::harness::*;
use super::lifecycle::{deployment, rolled_out};

/// Watches pods and notes every one that is seen not Ready after it was Ready.
async fn watch_for_flips(namespace: &TestNamespace) -> (Arc<Mutex<Vec<String>>>, tokio::task::JoinHandle<()>) {
    let flips: Arc<Mutex<Vec<String>>> = Arc::default();
    let (api, noted) = (namespace.api::<Pod>(), flips.clone());
    #[allow(clippy::disallowed_methods, reason = "the test ends it")]
    let task = tokio::spawn(async move {
        let mut ready = BTreeSet::new();
        let stream = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
        tokio::pin!(stream);
        while let Ok(Some(pod)) = stream.try_next().await {
            let name = pod.metadata.name.clone().unwrap();
            if name == "crash" {
                continue; // It is meant to.
            }
            if condition(&pod, "Ready").as_deref() == Some("True") {
                ready.insert(name);
            } else if ready.contains(&name) && pod.metadata.deletion_timestamp.is_none() {
                noted.lock().await.push(name);
            }
        }
    });
    (flips, task)
}

async fn ready_pods(namespace: &TestNamespace, count: usize) -> Vec<String> {
    let mut uids = Vec::new();
    for index in 0..count {
        let spec = json!({"containers": [{"name": "c", "image": PAUSE}]});
        uids.push(uid(&namespace.pod(&format!("p{index}"), spec).await));
    }
    for index in 0..count {
        namespace.wait_ready(&format!("p{index}")).await;
    }
    uids
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_killed_agent_finds_its_pods_as_they_were() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("killed").await;
    let uids = ready_pods(&namespace, 5).await;
    let crashing = namespace.script("crash", "exit 1", "Always").await;
    let seen = namespace.wait_pod("crash", "two restarts", 60, |p| {
        p.status.as_ref().and_then(|s| s.container_statuses.as_ref()).is_some_and(|c| c[0].restart_count >= 2)
    });
    let restarts = container(&seen.await, "c").restart_count;
    let (flips, watch) = watch_for_flips(&namespace).await;
    let before = namespace.container_ids().await;
    agent.kill().await;
    let agent = Agent::start(Kind::Ferrolet).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut after = namespace.container_ids().await;
    let mut same = before.clone();
    for ids in [&mut after, &mut same] {
        ids.remove(&("crash".to_owned(), "c".to_owned()));
    }
    assert_eq!(same, after, "a container was changed");
    assert!(
        container(&namespace.get("crash").await.unwrap(), "c").restart_count >= restarts,
        "a restart count was lost"
    );
    let (took, code) = agent.terminate().await;
    assert!(took < Duration::from_secs(1) && code == Some(0), "SIGTERM: {took:?}, code {code:?}");
    let _agent = Agent::start(Kind::Ferrolet).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut again = namespace.container_ids().await;
    again.remove(&("crash".to_owned(), "c".to_owned()));
    assert_eq!(again, after, "a container was changed");
    assert_eq!(*flips.lock().await, Vec::<String>::new(), "Ready flipped");
    watch.abort();
    namespace.clean_up(&[uids, vec![uid(&crashing)]].concat()).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_crash_loop_goes_on_where_the_killed_agent_left_it() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("killed-crash-loop").await;
    let pod = namespace.script("p", "exit 3", "Always").await;
    let waits = |seconds: u32| {
        let begin = format!("back-off {seconds}s ");
        move |pod: &Pod| {
            let state = find_container(pod, "c").and_then(|status| status.state);
            state.and_then(|state| state.waiting?.message).is_some_and(|message| message.starts_with(&begin))
        }
    };
    let last_end = |pod: &Pod| container(pod, "c").last_state.unwrap().terminated.unwrap();
    let before = namespace.wait_pod("p", "a back-off of 20 s", 60, waits(20)).await;
    agent.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    let after = namespace.wait_pod("p", "a back-off of 40 s", 60, waits(40)).await;
    let restarts = [&before, &after].map(|pod| container(pod, "c").restart_count);
    assert_eq!(restarts, [2, 3]);
    // Both are whole seconds.
    let paused = last_end(&after).started_at.unwrap().0.duration_since(last_end(&before).finished_at.unwrap().0);
    assert!((19..=23).contains(&paused.as_secs()), "{paused}");
    namespace.clean_up(&[uid(&pod)]).await;
}

/// Kills the agent again and again while something goes on.
async fn harried<T>(agent: Agent, kills: usize, pause: Duration, work: impl Future<Output = T>) -> (Agent, T) {
    let harry = async {
        let mut agent = agent;
        for _ in 0..kills {
            tokio::time::sleep(pause).await;
            agent.kill().await;
            agent = Agent::launch(Kind::Ferrolet, &[]).await;
        }
        agent
    };
    tokio::join!(harry, work)
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn thirty_pods_survive_an_agent_that_is_killed_all_the_time() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("harried").await;
    let (agent, uids) = harried(agent, 4, Duration::from_millis(900), ready_pods(&namespace, 30)).await;
    for pod in namespace.pods().await {
        assert_eq!(container(&pod, "c").restart_count, 0, "{:?} was restarted", pod.metadata.name);
    }
    let deletion = async {
        namespace.api::<Pod>().delete_collection(&Default::default(), &Default::default()).await.unwrap();
        wait("all pods to be gone", 90, async || namespace.pods().await.is_empty().then_some(())).await;
    };
    let (_agent, ()) = harried(agent, 4, Duration::from_millis(700), deletion).await;
    wait_nothing_left(&uids).await;
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_deployment_is_rolled_over_by_an_agent_that_is_killed_all_the_time() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("harried-rollover").await;
    namespace.create_object::<Deployment>(deployment("d", 10, "1")).await;
    rolled_out(&namespace, "d", "1").await;
    let mut uids: Vec<String> = namespace.pods().await.iter().map(uid).collect();
    let rollover = async {
        namespace.patch::<Deployment>("d", deployment("d", 10, "2")).await;
        rolled_out(&namespace, "d", "2").await;
    };
    let (_agent, ()) = harried(agent, 4, Duration::from_millis(900), rollover).await;
    for pod in namespace.pods().await {
        assert_eq!(container(&pod, "c").restart_count, 0, "{:?} was restarted", pod.metadata.name);
        uids.push(uid(&pod));
    }
    namespace.api::<Deployment>().delete("d", &Default::default()).await.unwrap();
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn pods_deleted_while_the_agent_is_away_are_ended_by_the_next() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("away").await;
    let uids = ready_pods(&namespace, 3).await;
    agent.kill().await;
    namespace.delete("p0", Some(0)).await;
    namespace.delete("p1", None).await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    namespace.wait_gone("p1", 30).await;
    wait_nothing_left(&uids[..2]).await;
    assert_eq!(condition(&namespace.get("p2").await.unwrap(), "Ready").as_deref(), Some("True"));
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_restarted_runtime_is_found_again() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("runtime-restart").await;
    let mut uids = ready_pods(&namespace, 3).await;
    let before = namespace.container_ids().await;
    let (flips, watch) = watch_for_flips(&namespace).await;
    component("restart", "containerd").await;
    uids.push(uid(&namespace.script("after", "sleep 3600", "Always").await));
    namespace.wait_ready("after").await;
    let mut after = namespace.container_ids().await;
    after.remove(&("after".to_owned(), "c".to_owned()));
    assert_eq!(before, after);
    assert_eq!(*flips.lock().await, Vec::<String>::new());
    watch.abort();
    // What happens while the runtime is away is seen when it is back.
    let outage = Outage::begin("containerd").await;
    namespace.delete("p0", None).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    outage.end().await;
    namespace.wait_gone("p0", 40).await;
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn an_api_server_that_was_away_is_caught_up_with() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("api-away").await;
    let mut uids = ready_pods(&namespace, 2).await;
    let once = namespace.script("once", "sleep 4; exit 5", "Never").await;
    namespace.wait_phase("once", "Running").await;
    uids.push(uid(&once));
    component("kill", "kube-apiserver").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    component("start", "kube-apiserver").await;
    let client = client().await;
    wait("the API server", 60, async || client.apiserver_version().await.ok()).await;
    let ended = namespace.wait_phase("once", "Failed").await;
    assert_eq!(container(&ended, "c").state.unwrap().terminated.unwrap().exit_code, 5);
    uids.push(uid(&namespace.script("after", "sleep 3600", "Always").await));
    namespace.wait_ready("after").await;
    for name in ["p0", "p1"] {
        assert_eq!(container(&namespace.get(name).await.unwrap(), "c").restart_count, 0);
    }
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn pods_go_on_while_the_api_server_is_away_for_long() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("api-away-long").await;
    let mut uids = ready_pods(&namespace, 2).await;
    let ending = namespace.script("ends", "sleep 20; exit 5", "Always").await;
    namespace.wait_ready("ends").await;
    uids.push(uid(&ending));
    let running = async |pod: &str| {
        let containers = runtime().list_containers(None).await.unwrap().into_iter();
        let of_pod = containers.filter(|c| c.labels.get("io.kubernetes.pod.uid").is_some_and(|uid| uid == pod));
        let running = of_pod.filter(|c| c.state() == cri::ContainerState::ContainerRunning);
        running.map(|c| (c.id, c.metadata.unwrap().attempt)).collect::<Vec<_>>()
    };
    let before = [running(&uids[0]).await, running(&uids[1]).await];
    let outage = Outage::begin("kube-apiserver").await;
    let began = Instant::now();
    // Its end is seen and answered with nobody to tell: at once, and the next time after the back-off.
    for restarts in 1..=2 {
        wait("a restart", 60, async || {
            running(&uids[2]).await.iter().any(|(_, attempt)| *attempt == restarts).then_some(())
        })
        .await;
    }
    namespace.client.apiserver_version().await.unwrap_err();
    tokio::time::sleep_until(began + Duration::from_secs(90)).await;
    assert_eq!([running(&uids[0]).await, running(&uids[1]).await], before);
    outage.end().await;
    wait("the API server", 60, async || namespace.client.apiserver_version().await.ok()).await;
    let restarted = |pod: &Pod| container(pod, "c").restart_count >= 2;
    let told = namespace.wait_pod("ends", "its restarts", 60, restarted).await;
    assert_eq!(container(&told, "c").last_state.unwrap().terminated.unwrap().exit_code, 5);
    for name in ["p0", "p1"] {
        assert_eq!(container(&namespace.wait_ready(name).await, "c").restart_count, 0);
    }
    uids.push(uid(&namespace.script("after", "sleep 3600", "Always").await));
    namespace.wait_ready("after").await;
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_store_that_hangs_is_waited_for() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("etcd-hangs").await;
    let mut uids = ready_pods(&namespace, 2).await;
    let once = namespace.script("once", "sleep 4; exit 5", "Never").await;
    namespace.wait_phase("once", "Running").await;
    uids.push(uid(&once));
    let before = namespace.container_ids().await;
    let etcd = Frozen::begin("etcd").await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    drop(etcd);
    let ended = namespace.wait_phase("once", "Failed").await;
    assert_eq!(container(&ended, "c").state.unwrap().terminated.unwrap().exit_code, 5);
    assert_eq!(namespace.container_ids().await, before);
    uids.push(uid(&namespace.script("after", "sleep 3600", "Always").await));
    namespace.wait_ready("after").await;
    for name in ["p0", "p1"] {
        let pod = namespace.get(name).await.unwrap();
        assert_eq!((container(&pod, "c").restart_count, condition(&pod, "Ready").as_deref()), (0, Some("True")));
    }
    namespace.clean_up(&uids).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_sandbox_that_dies_is_made_again() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("sandbox").await;
    let uids = ready_pods(&namespace, 1).await;
    let sandboxes = runtime().list_pod_sandbox(None).await.unwrap();
    let sandbox = sandboxes.iter().find(|s| s.labels.get("io.kubernetes.pod.uid") == Some(&uids[0])).unwrap();
    runtime().stop_pod_sandbox(&sandbox.id).await.unwrap();
    namespace.wait_event("p0", "SandboxChanged").await;
    let again = namespace
        .wait_pod("p0", "a new container", 30, |p| {
            condition(p, "Ready").as_deref() == Some("True") && container(p, "c").restart_count == 1
        })
        .await;
    assert!(container(&again, "c").last_state.unwrap().terminated.is_some());
    namespace.clean_up(&uids).await;
}
