use serde_json::{Value, json};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::testing::{Exchange, FakeApi, Feed, list, object};
use super::*;

struct Setup {
    fake: FakeApi,
    cache: ObjectCache,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl Setup {
    fn new(detection: ChangeDetection) -> Self {
        let fake = FakeApi::new();
        let cache = ObjectCache::new(fake.client(), detection);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(cache.clone().run(cancel.clone()));
        Setup { fake, cache, cancel, tasks }
    }

    /// Answers the list of one object and then accepts its watch.
    async fn serve(&mut self, items: &[Value]) -> Feed {
        self.fake.next().await.json(list("List", 5, None, items));
        self.fake.next().await.watch()
    }

    async fn quiet(&mut self) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(self.fake.waiting().is_none(), "an unexpected request");
    }
}

fn pod(uid: &str, secrets: &[&str]) -> Pod {
    let env_from: Vec<Value> = secrets.iter().map(|s| json!({"secretRef": {"name": s}})).collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": uid, "uid": uid},
        "spec": {"containers": [{"name": "c", "image": "i", "envFrom": env_from}]},
    }))
    .unwrap()
}

fn secret(version: u32, value: &str) -> Value {
    object(
        "v1",
        "Secret",
        "ns",
        "s",
        version,
        json!({"data": {"k": value}, "type": "Opaque", "metadata": {"uid": "u1", "annotations": {"a": "b"}}}),
    )
}

fn text(result: Result<Arc<Secret>, ObjectError>) -> String {
    match result {
        Ok(secret) => String::from_utf8(secret.data.as_ref().unwrap()["k"].0.clone()).unwrap(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn one_watch_for_all_pods_and_changes_are_told() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    let mut changes = setup.cache.changes();
    setup.cache.register_pod(&pod("a", &["s"]));
    setup.cache.register_pod(&pod("b", &["s"]));
    let request = setup.fake.next().await;
    assert_eq!(request.path(), "/api/v1/namespaces/ns/secrets?&fieldSelector=metadata.name%3Ds&limit=500");
    request.json(list("SecretList", 5, None, &[secret(5, "b25l")]));
    assert_eq!(text(setup.cache.secret("ns", "s").await), "one");
    let kept = setup.cache.secret("ns", "s").await.unwrap();
    assert!(kept.metadata.annotations.is_none() && kept.metadata.managed_fields.is_none());

    let feed = setup.fake.next().await.watch();
    feed.send("MODIFIED", secret(6, "dHdv"));
    let mut change = changes.recv().await.unwrap();
    change.pods.sort();
    let expected = ObjectChange {
        kind: ObjectKind::Secret,
        namespace: "ns".into(),
        name: "s".into(),
        pods: vec!["a".into(), "b".into()],
    };
    assert_eq!(change, expected);
    assert_eq!(text(setup.cache.secret("ns", "s").await), "two");

    // Same content, new version: nobody needs to know.
    feed.send("MODIFIED", secret(7, "dHdv"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(changes.try_recv(), Err(TryRecvError::Empty));

    feed.send("DELETED", secret(8, "dHdv"));
    assert_eq!(changes.recv().await.unwrap().name, "s");
    let error = setup.cache.secret("ns", "s").await.unwrap_err();
    assert_eq!(error.to_string(), "secret \"s\" not found");
    assert!(error.is_not_found());
    setup.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_object_is_told_when_it_comes() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let feed = setup.serve(&[]).await;
    assert_eq!(text(setup.cache.secret("ns", "s").await), "secret \"s\" not found");
    let mut changes = setup.cache.changes();
    feed.send("ADDED", secret(6, "b25l"));
    assert_eq!(changes.recv().await.unwrap().pods, ["a".into()]);
    assert_eq!(text(setup.cache.secret("ns", "s").await), "one");
}

#[tokio::test(start_paused = true)]
async fn unregistered_objects_are_refused() {
    let setup = Setup::new(ChangeDetection::Watch);
    assert_eq!(text(setup.cache.secret("ns", "s").await), "object \"ns\"/\"s\" not registered");
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_a_second_for_the_first_sync() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    let mut changes = setup.cache.changes();
    setup.cache.register_pod(&pod("a", &["s"]));
    let start = Instant::now();
    assert_eq!(
        text(setup.cache.secret("ns", "s").await),
        "failed to sync secret cache: timed out waiting for the condition"
    );
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    // The late first sync is told, as someone failed for it.
    let _feed = setup.serve(&[secret(5, "b25l")]).await;
    assert_eq!(changes.recv().await.unwrap().name, "s");
    assert_eq!(text(setup.cache.secret("ns", "s").await), "one");
}

#[tokio::test(start_paused = true)]
async fn the_authorizer_may_be_behind() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let start = Instant::now();
    let cache = setup.cache.clone();
    let (read, ()) = tokio::join!(cache.secret("ns", "s"), async {
        for _ in 0..3 {
            setup.fake.next().await.status(403, "Forbidden", "no relationship found between node and this object");
        }
        setup.fake.next().await.json(list("SecretList", 5, None, &[secret(5, "b25l")]));
    });
    assert_eq!(text(read), "one");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_cause_of_a_missing_sync_is_kept() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let cache = setup.cache.clone();
    let refuse = async {
        loop {
            setup.fake.next().await.status(403, "Forbidden", "not yours");
        }
    };
    let read = tokio::select! {
        read = cache.secret("ns", "s") => read,
        () = refuse => unreachable!(),
    };
    assert!(matches!(read, Err(ObjectError::NotSynced { cause: Some(cause), .. }) if cause == "not yours"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_outlives_its_last_pod_by_a_minute() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let feed = setup.serve(&[secret(5, "b25l")]).await;
    setup.cache.unregister_pod(&"a".into());
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(feed.is_read());
    // A pod made anew finds it at once, without a request.
    setup.cache.register_pod(&pod("b", &["s"]));
    assert_eq!(text(setup.cache.secret("ns", "s").await), "one");
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(feed.is_read());
    setup.cache.unregister_pod(&"b".into());
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!feed.is_read());
    assert_eq!(text(setup.cache.secret("ns", "s").await), "object \"ns\"/\"s\" not registered");
    setup.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_pod_moves_its_references() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let feed = setup.serve(&[secret(5, "b25l")]).await;
    setup.cache.register_pod(&pod("a", &["other"]));
    let request = setup.fake.next().await;
    assert!(request.path().contains("metadata.name%3Dother"), "{}", request.path());
    request.json(list("SecretList", 5, None, &[]));
    let _other = setup.fake.next().await.watch();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!feed.is_read(), "the old reference is gone");
    assert_eq!(text(setup.cache.secret("ns", "other").await), "secret \"other\" not found");
}

#[tokio::test(start_paused = true)]
async fn an_immutable_object_is_not_watched_and_not_kept_beyond_its_pods() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let mut fixed = secret(5, "b25l");
    fixed["immutable"] = true.into();
    setup.fake.next().await.json(list("SecretList", 5, None, &[fixed]));
    assert_eq!(text(setup.cache.secret("ns", "s").await), "one");
    setup.quiet().await;
    assert_eq!(text(setup.cache.secret("ns", "s").await), "one");

    setup.cache.unregister_pod(&"a".into());
    setup.cache.register_pod(&pod("b", &["s"]));
    let _feed = setup.serve(&[secret(9, "dHdv")]).await;
    assert_eq!(text(setup.cache.secret("ns", "s").await), "two");
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_what_is_known() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let feed = setup.serve(&[secret(5, "b25l")]).await;
    let mut changes = setup.cache.changes();
    feed.disconnect();
    for _ in 0..5 {
        setup.fake.next().await.refuse();
        assert_eq!(text(setup.cache.secret("ns", "s").await), "one");
    }
    // Back with an expired version: the list tells what was missed.
    setup.fake.next().await.status(410, "Expired", "too old");
    setup.fake.next().await.json(list("SecretList", 50, None, &[secret(40, "dHdv")]));
    assert_eq!(changes.recv().await.unwrap().name, "s");
    assert_eq!(text(setup.cache.secret("ns", "s").await), "two");
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_every_watch() {
    let mut setup = Setup::new(ChangeDetection::Watch);
    setup.cache.register_pod(&pod("a", &["s"]));
    let feed = setup.serve(&[secret(5, "b25l")]).await;
    setup.cancel.cancel();
    setup.tasks.join_all().await;
    tokio::task::yield_now().await;
    assert!(!feed.is_read());
}

#[tokio::test(start_paused = true)]
async fn get_reads_each_time() {
    let mut setup = Setup::new(ChangeDetection::Get);
    setup.cache.register_pod(&pod("a", &["s"]));
    for value in ["b25l", "dHdv"] {
        let cache = setup.cache.clone();
        let (read, ()) = tokio::join!(cache.secret("ns", "s"), async {
            let request = setup.fake.next().await;
            assert_eq!(request.path(), "/api/v1/namespaces/ns/secrets/s");
            request.json(secret(5, value));
        });
        assert!(["one", "two"].contains(&text(read).as_str()));
    }
    let cache = setup.cache.clone();
    let (read, ()) = tokio::join!(cache.secret("ns", "s"), async { missing(setup.fake.next().await) });
    assert!(read.unwrap_err().is_not_found());
}

fn missing(exchange: Exchange) {
    exchange.status(404, "NotFound", "secrets \"s\" not found");
}

#[tokio::test(start_paused = true)]
async fn cache_reads_once_a_while_and_for_each_new_pod() {
    let mut setup = Setup::new(ChangeDetection::Cache { ttl: Duration::from_secs(60) });
    setup.cache.register_pod(&pod("a", &["s"]));
    let cache = setup.cache.clone();
    let (read, ()) = tokio::join!(cache.secret("ns", "s"), async { setup.fake.next().await.json(secret(5, "b25l")) });
    assert_eq!(text(read), "one");
    assert_eq!(text(cache.secret("ns", "s").await), "one");

    setup.cache.register_pod(&pod("b", &["s"]));
    let (read, ()) = tokio::join!(cache.secret("ns", "s"), async { setup.fake.next().await.json(secret(6, "dHdv")) });
    assert_eq!(text(read), "two");

    tokio::time::sleep(Duration::from_secs(61)).await;
    let (read, ()) = tokio::join!(cache.secret("ns", "s"), async { setup.fake.next().await.refuse() });
    assert_eq!(text(read), "two", "the old one while the server is away");
    let (read, ()) = tokio::join!(cache.secret("ns", "s"), async { missing(setup.fake.next().await) });
    assert!(read.unwrap_err().is_not_found());
}

#[test]
fn standalone_says_there_is_no_api() {
    assert_eq!(ObjectError::NoApi.to_string(), "no kubeClient defined");
}

#[test]
fn texts_that_clients_match() {
    let error = ObjectError::NotFound { kind: ObjectKind::ConfigMap, namespace: "ns".into(), name: "x".into() };
    assert_eq!(error.to_string(), "configmap \"x\" not found");
}
