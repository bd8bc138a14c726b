use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::kube::testing::FakeApi;

fn name() -> PodName {
    ("ns".to_owned(), "s-node".to_owned())
}

fn static_pod(hash: &str) -> Arc<Pod> {
    let annotations = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.source": "file"});
    let metadata = json!({"namespace": "ns", "name": "s-node", "uid": hash, "annotations": annotations});
    let pod = json!({"metadata": metadata, "spec": {"containers": []}, "status": {"phase": "Pending"}});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn mirror(uid: &str, hash: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({"metadata": {"namespace": "ns", "name": "s-node", "uid": uid, "annotations": {"kubernetes.io/config.mirror": hash}}});
    pod["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn node(deleting: bool) -> NodeOwner {
    NodeOwner { name: "node".to_owned(), uid: "node-uid".to_owned(), deleting }
}

fn input(static_hash: Option<&str>, mirror: Option<Arc<Pod>>) -> MirrorInput {
    MirrorInput {
        static_pods: static_hash.map(|hash| (name(), static_pod(hash))).into_iter().collect(),
        mirrors: mirror.map(|mirror| (name(), mirror)).into_iter().collect(),
        mirrors_known: true,
        static_pods_known: true,
        ..MirrorInput::default()
    }
}

fn decide(input: &MirrorInput, node: Option<&NodeOwner>) -> &'static str {
    match step(&name(), input.mirrors.get(&name()).map(Arc::as_ref), input, node) {
        None => "nothing",
        Some(Step::Create(_)) => "create",
        Some(Step::Delete(uid)) => {
            assert_eq!(uid.as_str(), "m");
            "delete"
        }
    }
}

#[rstest]
#[case::shown(Some("h"), Some(mirror("m", "h", json!({}))), "nothing")]
#[case::missing(Some("h"), None, "create")]
#[case::edited(Some("h"), Some(mirror("m", "old", json!({}))), "delete")]
#[case::being_deleted(Some("h"), Some(mirror("m", "h", json!({"deletionTimestamp": "2027-01-15T08:00:00Z"}))), "delete")]
#[case::over(None, Some(mirror("m", "h", json!({}))), "delete")]
fn steps(#[case] static_hash: Option<&str>, #[case] mirror: Option<Arc<Pod>>, #[case] expected: &str) {
    let input = input(static_hash, mirror);
    assert_eq!(decide(&input, Some(&node(false))), expected);
    let unknown = MirrorInput { mirrors_known: false, ..input.clone() };
    assert_eq!(decide(&unknown, Some(&node(false))), "nothing");
    let early = MirrorInput { static_pods_known: false, ..input.clone() };
    let wanted = if static_hash.is_none() { "nothing" } else { expected };
    assert_eq!(decide(&early, Some(&node(false))), wanted, "a mirror stays until its static pod can be known");
    let ended = MirrorInput { ended: [name()].into(), ..early };
    assert_eq!(decide(&ended, Some(&node(false))), expected);
    for owner in [None, Some(node(true))] {
        let wanted = if expected == "create" { "nothing" } else { expected };
        assert_eq!(decide(&input, owner.as_ref()), wanted, "nothing is made without a Node");
    }
}

#[test]
fn the_mirror_of_a_pod_that_ends_stays() {
    let input = MirrorInput { left: [name()].into(), ..input(None, Some(mirror("m", "h", json!({})))) };
    assert_eq!(decide(&input, Some(&node(false))), "nothing");
}

#[test]
fn a_mirror_is_owned_by_the_node() {
    let mirror = mirror_of(&static_pod("h"), &node(false));
    let expected = json!({
        "namespace": "ns",
        "name": "s-node",
        "annotations": {"kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h", "kubernetes.io/config.source": "file"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node", "uid": "node-uid", "controller": true}],
    });
    assert_eq!(serde_json::to_value(&mirror.metadata).unwrap(), expected);
    assert_eq!(mirror.status, None);
    assert!(shows(&mirror, &static_pod("h")) && !shows(&mirror, &static_pod("other")));
}

#[test]
fn a_restart_of_the_agent_does_not_move_the_times() {
    let status = |start: &str, since: &str, ready: &str| -> PodStatus {
        let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": since});
        serde_json::from_value(json!({"startTime": start, "conditions": [condition]})).unwrap()
    };
    let (early, late) = ("2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z");
    let mut shown = Pod::clone(&mirror("m", "h", json!({})));
    assert_eq!(status_for(&shown, &status(late, late, "True")), status(late, late, "True"));
    shown.status = Some(status(early, early, "True"));
    assert_eq!(status_for(&shown, &status(late, late, "True")), status(early, early, "True"));
    assert_eq!(status_for(&shown, &status(late, late, "False")), status(early, late, "False"));
}

#[tokio::test(start_paused = true)]
async fn mirrors_are_made_deleted_and_made_again() {
    let mut fake = FakeApi::new();
    let (node_sender, node_owner) = watch::channel(None);
    let (keeper, sender) = MirrorKeeper::new(fake.client(), node_owner);
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(cancel.clone()));
    sender.send_replace(input(Some("h1"), None));
    node_sender.send_replace(Some(node(false)));
    let request = fake.next().await;
    assert_eq!((request.method(), request.path().as_str()), ("POST", "/api/v1/namespaces/ns/pods?"));
    request.status(500, "InternalError", "not now");
    let request = fake.next().await;
    assert_eq!(request.method(), "POST", "a failure is tried again");
    request.json(serde_json::to_value(&*mirror("m1", "h1", json!({}))).unwrap());
    sender.send_replace(input(Some("h1"), Some(mirror("m1", "h1", json!({})))));
    // Edited: the old one goes, with its UID as the condition, and the new one follows without waiting for the watch.
    sender.send_replace(input(Some("h2"), Some(mirror("m1", "h1", json!({})))));
    let request = fake.next().await;
    assert_eq!((request.method(), request.path().as_str()), ("DELETE", "/api/v1/namespaces/ns/pods/s-node?"));
    let body = request.body();
    assert_eq!((&body["gracePeriodSeconds"], &body["preconditions"]["uid"]), (&json!(0), &json!("m1")));
    request.json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
    let request = fake.next().await;
    assert_eq!(request.method(), "POST");
    assert_eq!(request.body()["metadata"]["annotations"]["kubernetes.io/config.mirror"], "h2");
    request.json(serde_json::to_value(&*mirror("m2", "h2", json!({}))).unwrap());
    sender.send_replace(input(None, Some(mirror("m2", "h2", json!({})))));
    assert_eq!(fake.next().await.method(), "DELETE");
    cancel.cancel();
    tasks.join_all().await;
}
