//! The image manager through the real client on the fake runtime.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrolet::image::{
    ImageEvents, ImageManager, ImageRequest, ImageSettings, ImageUser, NodeConfigFiles, PullPolicy, PullSecrets,
    SecretError,
};
use ferrolet::model::EventType;
use ferrolet::model::pod::ContainerKind;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Secret};

use crate::fake_runtime::{FakeRuntime, PullScript, sample};

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl ImageEvents for Recorder {
    fn event(&self, _: &Pod, _: ContainerKind, _: &str, _: EventType, reason: &'static str, _: String) {
        self.0.lock().unwrap().push(reason.to_owned());
    }

    fn pod_event(&self, _: &Pod, _: EventType, reason: &'static str, _: String) {
        self.0.lock().unwrap().push(reason.to_owned());
    }
}

struct NoSecrets;

impl PullSecrets for NoSecrets {
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SecretError>> {
        async move { Err(format!("{name} not found").into()) }.boxed()
    }
}

fn manager(runtime: &FakeRuntime) -> (Arc<Recorder>, ImageManager) {
    let settings = ImageSettings {
        serialize: false,
        max_parallel: None,
        pull_qps: 5.0,
        pull_burst: 10,
        node_config: NodeConfigFiles::default(),
    };
    let events = Arc::new(Recorder::default());
    let manager = ImageManager::new(settings, None, Arc::new(runtime.client()), Arc::new(NoSecrets), events.clone());
    (events, manager)
}

fn request(uid: &str, image: &str, pull_policy: PullPolicy) -> ImageRequest {
    let mut pod = Pod::default();
    pod.metadata.uid = Some(uid.to_owned());
    ImageRequest {
        pod: Arc::new(pod),
        container: Some((ContainerKind::Regular, "app".to_owned())),
        image: image.to_owned(),
        pull_policy,
        sandbox_config: Some(sample::sandbox(uid, 0)),
    }
}

#[tokio::test]
async fn one_question_for_an_image_that_is_there() {
    let runtime = FakeRuntime::start().await;
    runtime.add_image_with_user("busybox:1", None, "nobody");
    let (_, manager) = manager(&runtime);
    let image = manager.ensure(request("u1", "busybox:1", PullPolicy::IfNotPresent)).await.unwrap();
    assert_eq!(image.user, ImageUser { uid: None, username: "nobody".to_owned() });
    let calls: Vec<_> = runtime.calls().iter().map(|call| call.rpc).collect();
    assert_eq!(calls, ["ImageStatus"]);
}

#[tokio::test]
async fn a_pull_carries_the_sandbox_and_ends_in_a_usable_image() {
    let runtime = FakeRuntime::start().await;
    let (events, manager) = manager(&runtime);
    let image = manager.ensure(request("u1", "busybox", PullPolicy::IfNotPresent)).await.unwrap();
    assert_eq!(runtime.calls_of("PullImage")[0].pod_uid, "u1");
    assert_eq!(runtime.calls_of("PullImage")[0].object, "busybox:latest");
    assert_eq!(image.image_ref, runtime.snapshot().images[0].id);
    assert_eq!(*events.0.lock().unwrap(), ["Pulling", "Pulled"]);
}

#[tokio::test]
async fn fifty_pods_share_one_pull() {
    let runtime = FakeRuntime::start().await;
    runtime.on_pull("big:1", PullScript { takes: Duration::from_millis(200), ..Default::default() });
    let (_, manager) = manager(&runtime);
    let requests = (0..50).map(|n| manager.ensure(request(&format!("u{n}"), "big:1", PullPolicy::Always)));
    let all = futures::future::join_all(requests).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(runtime.calls_of("PullImage").len(), 1);
}

#[tokio::test]
async fn a_pod_that_goes_cancels_its_pull() {
    let runtime = FakeRuntime::start().await;
    runtime.on_pull("big:1", PullScript { takes: Duration::from_secs(60), ..Default::default() });
    let (events, manager) = manager(&runtime);
    let pull = manager.ensure(request("u1", "big:1", PullPolicy::Always));
    let begun = runtime.until("the pull is under way", |_| runtime.calls_of("PullImage").len() == 1);
    // The loser is dropped.
    let first = futures::future::select(Box::pin(pull), Box::pin(begun)).await;
    assert!(matches!(first, futures::future::Either::Right(_)), "the pull ended");
    drop(first);
    runtime.until("the pull is given up", |_| runtime.calls_of("PullImage")[0].was_cancelled()).await;
    assert_eq!(*events.0.lock().unwrap(), ["Pulling"]);
}

#[tokio::test]
async fn a_runtime_that_goes_away_is_named_in_the_message() {
    let runtime = FakeRuntime::start().await;
    let (_, manager) = manager(&runtime);
    runtime.on_pull("big:1", PullScript { takes: Duration::from_secs(60), ..Default::default() });
    let pull = manager.ensure(request("u1", "big:1", PullPolicy::Always));
    let stop = async {
        runtime.until("the pull is under way", |_| runtime.calls_of("PullImage").len() == 1).await;
        runtime.stop().await;
    };
    let (pulled, ()) = tokio::join!(pull, stop);
    let error = pulled.unwrap_err();
    assert_eq!(error.reason, "ErrImagePull");
    assert!(error.message.contains("broke during PullImage"), "{}", error.message);
}
