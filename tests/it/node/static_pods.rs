//! Static pods: without the API server, through edits and restarts, with their mirrors, and with no API server at all.

use std::path::PathBuf;
use std::time::Duration;

use ferrolet::runtime::cri;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use super::harness::*;

/// The folder that the agent's configuration names.
fn manifests() -> PathBuf {
    cluster_folder().join("manifests")
}

fn manifest(name: &str, label: &str) -> String {
    let script = "trap 'exit 0' TERM; env; while :; do sleep 0.1; done";
    let container = json!({
        "name": "c",
        "image": BUSYBOX,
        "command": ["sh", "-c", script],
        "env": [{"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
        "volumeMounts": [{"name": "etc", "mountPath": "/host", "readOnly": true}],
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"version": label}},
        "spec": {
            "hostNetwork": true,
            "containers": [container],
            "volumes": [{"name": "etc", "hostPath": {"path": "/etc", "type": "Directory"}}],
        },
    })
    .to_string()
}

fn write(name: &str, label: &str) {
    std::fs::create_dir_all(manifests()).unwrap();
    std::fs::write(manifests().join(format!("{name}.yaml")), manifest(name, label)).unwrap();
}

/// Takes its manifest away when a test ends, however it ends.
struct Cleanup(&'static str);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(manifests().join(format!("{}.yaml", self.0)));
    }
}

/// UIDs of the pod's running containers, by the runtime's word.
async fn running(name: &str) -> Vec<String> {
    let full = format!("{name}-{}", node_name());
    let containers = runtime().list_containers(None).await.unwrap();
    let of_pod = containers.into_iter().filter(|c| {
        c.labels.get("io.kubernetes.pod.name") == Some(&full) && c.state() == cri::ContainerState::ContainerRunning
    });
    of_pod.map(|c| c.labels["io.kubernetes.pod.uid"].clone()).collect()
}

async fn wait_running(name: &str, not: Option<&str>) -> String {
    wait("the static pod to run", 60, async || match running(name).await.as_slice() {
        [one] if Some(one.as_str()) != not => Some(one.clone()),
        [_] | [] => None,
        more => panic!("two at once: {more:?}"),
    })
    .await
}

/// The mirror once it shows the static pod of that UID as Ready.
async fn wait_mirror(pods: &Api<Pod>, name: &str, uid: &str) -> Pod {
    let full = format!("{name}-{}", node_name());
    wait("the mirror to be Ready", 60, async || {
        let mirror = pods.get_opt(&full).await.ok()??;
        let hash = mirror.metadata.annotations.as_ref()?.get("kubernetes.io/config.mirror")?;
        (hash == uid && condition(&mirror, "Ready").as_deref() == Some("True")).then_some(mirror)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_static_pod_lives_with_and_without_the_api_server() {
    let cleanup = Cleanup("plain");
    let outage = Outage::begin("kube-apiserver").await;
    write("plain", "1");
    let agent = Agent::launch(Kind::Ferrolet, &[]).await;
    let first = wait_running("plain", None).await;
    outage.end().await;
    let pods: Api<Pod> = Api::namespaced(client().await, "default");
    let mirror = wait_mirror(&pods, "plain", &first).await;
    let owner = &mirror.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), &owner.name), ("Node", &node_name()));
    let full = mirror.metadata.name.clone().unwrap();

    // Edited: another pod, after the end of this one.
    write("plain", "2");
    let second = wait_running("plain", Some(&first)).await;
    let mirror = wait_mirror(&pods, "plain", &second).await;

    // Half a manifest changes nothing.
    let text = manifest("plain", "3");
    std::fs::write(manifests().join("plain.yaml"), &text[..text.len() / 2]).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(running("plain").await, std::slice::from_ref(&second));
    write("plain", "2");

    // A deleted mirror comes back, and the pod does not notice.
    let container_id = container(&mirror, "c").container_id;
    pods.delete(&full, &DeleteParams::default()).await.unwrap();
    wait("another mirror", 60, async || {
        let now = pods.get_opt(&full).await.unwrap()?;
        (now.metadata.uid != mirror.metadata.uid).then_some(())
    })
    .await;
    assert_eq!(container(&wait_mirror(&pods, "plain", &second).await, "c").container_id, container_id);

    // Another agent takes it over; one that was edited meanwhile is exchanged.
    agent.kill().await;
    let agent = Agent::start(Kind::Ferrolet).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(container(&wait_mirror(&pods, "plain", &second).await, "c").container_id, container_id);
    agent.kill().await;
    write("plain", "4");
    let agent = Agent::start(Kind::Ferrolet).await;
    let third = wait_running("plain", Some(&second)).await;
    wait_mirror(&pods, "plain", &third).await;

    drop(cleanup);
    wait("the mirror to be gone", 60, async || pods.get_opt(&full).await.unwrap().is_none().then_some(())).await;
    wait_nothing_left(&[first, second, third]).await;
    agent.kill().await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_node_without_an_api_server_runs_its_static_pods() {
    let cleanup = Cleanup("alone");
    let given = std::fs::read_to_string(cluster_folder().join("kubelet.yaml")).unwrap();
    // Nobody can be asked who calls.
    let (head, tail) = given.split_once("authentication:").unwrap();
    let tail = tail.split_once("staticPodPath:").unwrap().1;
    let config = cluster_folder().join("standalone.yaml");
    let text = format!(
        "{head}authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}\nauthorization: {{mode: AlwaysAllow}}\nreadOnlyPort: 10255\nstaticPodPath:{tail}"
    );
    std::fs::write(&config, text).unwrap();
    write("alone", "1");
    let agent = Agent::standalone(Kind::Ferrolet, &config);
    let uid = wait_running("alone", None).await;
    let full = format!("alone-{}", node_name());
    wait("/pods to show it Ready", 30, async || {
        let output =
            tokio::process::Command::new("curl").args(["-s", "http://127.0.0.1:10255/pods"]).output().await.unwrap();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let pod = list["items"].as_array()?.iter().find(|pod| pod["metadata"]["name"] == full.as_str())?.clone();
        (condition(&pod, "Ready").as_deref() == Some("True")).then_some(())
    })
    .await;
    drop(cleanup);
    wait_nothing_left(&[uid]).await;
    agent.kill().await;
    // With what only an API server can answer, it says so and ends.
    let refused = Agent::standalone(Kind::Ferrolet, &cluster_folder().join("kubelet.yaml"));
    assert_eq!(refused.end().await, Some(1));
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn static_pods_change_hands_without_a_restart() {
    let cleanup = Cleanup("swapped");
    write("swapped", "1");
    let peer = Agent::start(Kind::Peer).await;
    let uid = wait_running("swapped", None).await;
    let pods: Api<Pod> = Api::namespaced(client().await, "default");
    let before = wait_mirror(&pods, "swapped", &uid).await;
    peer.kill().await;
    let mut agent = Agent::start(Kind::Ferrolet).await;
    for next in [Kind::Peer, Kind::Ferrolet] {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(running("swapped").await, std::slice::from_ref(&uid));
        let now = wait_mirror(&pods, "swapped", &uid).await;
        assert_eq!(now.metadata.uid, before.metadata.uid);
        assert_eq!(container(&now, "c").container_id, container(&before, "c").container_id);
        assert_eq!(now.status.unwrap().start_time, before.status.as_ref().unwrap().start_time);
        agent.kill().await;
        agent = Agent::start(next).await;
    }
    drop(cleanup);
    wait_nothing_left(&[uid]).await;
    agent.kill().await;
}
