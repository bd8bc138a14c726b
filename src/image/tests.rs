//! The manager as a whole, on a paused clock with a registry in memory.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{LocalObjectReference, Pod, PodSpec, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rstest::rstest;
use tonic::Code;

use crate::model::pod::{ContainerKind, PodUid};
use crate::model::{EventType, clock};
use crate::runtime::{RuntimeError, cri};

use super::*;

/// A registry, the node's images, and what went on between them.
#[derive(Default)]
struct World {
    present: Mutex<HashSet<String>>,
    refusals: Mutex<HashMap<String, Vec<String>>>,
    status_error: Mutex<Option<String>>,
    /// User that the registry wants; none lets everybody pull.
    wants_user: Mutex<Option<String>>,
    pull_time: Mutex<Duration>,
    pulls: Mutex<Vec<String>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    cancelled: AtomicUsize,
    events: Mutex<Vec<String>>,
    secrets: Mutex<HashMap<String, Secret>>,
}

fn refused(rpc: &'static str, message: &str) -> RuntimeError {
    RuntimeError::Refused { rpc, code: Code::Unknown, message: message.to_owned() }
}

struct Running<'a>(&'a World, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl ImageService for World {
    fn image_status(&self, image: cri::ImageSpec) -> BoxFuture<'_, Result<Option<cri::Image>, RuntimeError>> {
        async move {
            if let Some(error) = self.status_error.lock().unwrap().as_deref() {
                return Err(refused("ImageStatus", error));
            }
            let present = self.present.lock().unwrap().contains(&image.image);
            Ok(present.then(|| cri::Image {
                id: format!("id-of-{}", image.image),
                size: 4321,
                uid: Some(cri::Int64Value { value: 1000 }),
                ..Default::default()
            }))
        }
        .boxed()
    }

    fn pull_image(
        &self,
        image: cri::ImageSpec,
        auth: Option<cri::AuthConfig>,
        _: Option<cri::PodSandboxConfig>,
    ) -> BoxFuture<'_, Result<String, RuntimeError>> {
        async move {
            let user = auth.map_or("anonymous".to_owned(), |auth| auth.username);
            self.pulls.lock().unwrap().push(format!("{} as {user}", image.image));
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_running.fetch_max(now, Ordering::SeqCst);
            let mut running = Running(self, false);
            let time = *self.pull_time.lock().unwrap();
            tokio::time::sleep(time).await;
            running.1 = true;
            if self.wants_user.lock().unwrap().as_ref().is_some_and(|wanted| *wanted != user) {
                return Err(refused("PullImage", &format!("{user} is unauthorized")));
            }
            let mut refusals = self.refusals.lock().unwrap();
            if let Some(error) = refusals.get_mut(&image.image).and_then(Vec::pop) {
                return Err(refused("PullImage", &error));
            }
            self.present.lock().unwrap().insert(image.image.clone());
            Ok(format!("id-of-{}", image.image))
        }
        .boxed()
    }
}

impl ImageEvents for World {
    fn event(
        &self,
        _: &Pod,
        kind: ContainerKind,
        container: &str,
        event_type: EventType,
        reason: &'static str,
        message: String,
    ) {
        assert_eq!((kind, container), (ContainerKind::Regular, "app"));
        self.events.lock().unwrap().push(format!("{event_type:?} {reason} {message}"));
    }

    fn pod_event(&self, _: &Pod, event_type: EventType, reason: &'static str, message: String) {
        self.events.lock().unwrap().push(format!("{event_type:?} {reason} {message}"));
    }
}

impl PullSecrets for World {
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SecretError>> {
        async move {
            let secrets = self.secrets.lock().unwrap();
            let secret = secrets.get(name).ok_or_else(|| format!("secret {namespace}/{name} not found"))?;
            Ok(Arc::new(secret.clone()))
        }
        .boxed()
    }
}

impl World {
    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    fn pulls(&self) -> Vec<String> {
        std::mem::take(&mut self.pulls.lock().unwrap())
    }

    fn refuse(&self, image: &str, errors: &[&str]) {
        let errors = errors.iter().rev().map(|e| (*e).to_owned()).collect();
        self.refusals.lock().unwrap().insert(image.to_owned(), errors);
    }

    fn add_secret(&self, name: &str, user: &str) {
        let json = format!(r#"{{"auths": {{"reg.io": {{"username": "{user}", "password": "p"}}}}}}"#);
        self.secrets.lock().unwrap().insert(name.to_owned(), secret(name, &json));
    }
}

fn secret(name: &str, json: &str) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))].into()),
        type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
        ..Default::default()
    }
}

fn settings() -> ImageSettings {
    ImageSettings {
        serialize: false,
        max_parallel: None,
        pull_qps: 0.0,
        pull_burst: 0,
        node_config: NodeConfigFiles::default(),
    }
}

fn manager(settings: ImageSettings) -> (Arc<World>, ImageManager) {
    let world = Arc::new(World::default());
    let manager = ImageManager::new(settings, None, world.clone(), world.clone(), world.clone());
    (world, manager)
}

/// A manager with the records below a root directory, as after a start of the agent.
fn verifying(world: &Arc<World>, root: &Path) -> ImageManager {
    let access = ImageAccess::open(root, VerificationPolicy::NeverPreloaded).unwrap();
    ImageManager::new(settings(), Some(access), world.clone(), world.clone(), world.clone())
}

fn request(uid: &str, image: &str, pull_policy: PullPolicy) -> ImageRequest {
    ImageRequest {
        pod: Arc::new(pod(uid, &[])),
        container: Some((ContainerKind::Regular, "app".to_owned())),
        image: image.to_owned(),
        pull_policy,
        sandbox_config: None,
    }
}

fn pod(uid: &str, secrets: &[&str]) -> Pod {
    let references = secrets.iter().map(|name| LocalObjectReference { name: (*name).to_owned() });
    Pod {
        metadata: ObjectMeta {
            uid: Some(uid.to_owned()),
            namespace: Some("ns".to_owned()),
            name: Some("web".to_owned()),
            ..Default::default()
        },
        spec: Some(PodSpec { image_pull_secrets: Some(references.collect()), ..Default::default() }),
        ..Default::default()
    }
}

#[rstest]
#[case::there_and_if_not_present(
    PullPolicy::IfNotPresent, true, Ok(()), 0,
    &[r#"Normal Pulled Container image "reg.io/a:1" already present on machine"#])]
#[case::there_and_never(
    PullPolicy::Never, true, Ok(()), 0,
    &[r#"Normal Pulled Container image "reg.io/a:1" already present on machine"#])]
#[case::absent_and_never(
    PullPolicy::Never, false,
    Err(("ErrImageNeverPull", r#"Container image "reg.io/a:1" is not present with pull policy of Never"#)), 0,
    &[
        r#"Warning ErrImageNeverPull Container image "reg.io/a:1" is not present with pull policy of Never"#,
        "Warning Failed Error: ErrImageNeverPull",
    ])]
#[case::absent(
    PullPolicy::IfNotPresent, false, Ok(()), 1,
    &[
        r#"Normal Pulling Pulling image "reg.io/a:1""#,
        r#"Normal Pulled Successfully pulled image "reg.io/a:1" in 1.25s (1.25s including waiting). Image size: 4321 bytes."#,
    ])]
#[case::always(
    PullPolicy::Always, true, Ok(()), 1,
    &[
        r#"Normal Pulling Pulling image "reg.io/a:1""#,
        r#"Normal Pulled Successfully pulled image "reg.io/a:1" in 1.25s (1.25s including waiting). Image size: 4321 bytes."#,
    ])]
#[tokio::test(start_paused = true)]
async fn policies(
    #[case] policy: PullPolicy,
    #[case] present: bool,
    #[case] expected: Result<(), (&str, &str)>,
    #[case] pulls: usize,
    #[case] events: &[&str],
) {
    let (world, manager) = manager(settings());
    *world.pull_time.lock().unwrap() = Duration::from_millis(1250);
    if present {
        world.present.lock().unwrap().insert("reg.io/a:1".to_owned());
    }
    let ensured = manager.ensure(request("u1", "reg.io/a:1", policy)).await;
    match (&ensured, expected) {
        (Ok(image), Ok(())) => {
            assert_eq!(image.image_ref, "id-of-reg.io/a:1");
            assert_eq!(image.user, ImageUser { uid: Some(1000), username: String::new() });
        }
        (Err(error), Err((reason, message))) => {
            assert_eq!((error.reason, error.message.as_str(), error.retry_at), (reason, message, None));
        }
        _ => panic!("{ensured:?}"),
    }
    assert_eq!(world.pulls().len(), pulls);
    assert_eq!(world.events(), events);
}

#[rstest]
#[case(None, "a", PullPolicy::Always)]
#[case(None, "a:latest", PullPolicy::Always)]
#[case(None, "a:1", PullPolicy::IfNotPresent)]
#[case(Some(""), "a:1", PullPolicy::IfNotPresent)]
#[case(Some("Never"), "a", PullPolicy::Never)]
#[case(Some("IfNotPresent"), "a", PullPolicy::IfNotPresent)]
#[case(Some("Always"), "a:1", PullPolicy::Always)]
fn default_policy(#[case] set: Option<&str>, #[case] image: &str, #[case] expected: PullPolicy) {
    assert_eq!(PullPolicy::of(set, image), expected);
}

#[tokio::test(start_paused = true)]
async fn the_default_tag_is_pulled_and_the_given_name_is_shown() {
    let (world, manager) = manager(settings());
    manager.ensure(request("u1", "reg.io/a", PullPolicy::Always)).await.unwrap();
    assert_eq!(world.pulls(), ["reg.io/a:latest as anonymous"]);
    assert_eq!(world.events()[0], r#"Normal Pulling Pulling image "reg.io/a""#);
}

#[tokio::test(start_paused = true)]
async fn a_bad_name_is_told() {
    let (world, manager) = manager(settings());
    let error = manager.ensure(request("u1", "reg.io/A", PullPolicy::Always)).await.unwrap_err();
    let message = "Failed to apply default image tag \"reg.io/A\": couldn't parse image name \"reg.io/A\": \
                   invalid reference format: repository name (A) must be lowercase";
    assert_eq!((error.reason, error.message.as_str()), ("InvalidImageName", message));
    assert_eq!(
        world.events(),
        [format!("Warning InspectFailed {message}"), "Warning Failed Error: InvalidImageName".to_owned()]
    );
    assert!(world.pulls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_cannot_tell_is_told() {
    let (world, manager) = manager(settings());
    *world.status_error.lock().unwrap() = Some("metadata store is closed".to_owned());
    let error = manager.ensure(request("u1", "reg.io/a:1", PullPolicy::IfNotPresent)).await.unwrap_err();
    assert_eq!(error.reason, "ImageInspectError");
    assert_eq!(error.message, r#"Failed to inspect image "reg.io/a:1": metadata store is closed"#);
    assert_eq!(world.events().len(), 2);
    let error = manager.ensure(request("u1", "reg.io/a:1", PullPolicy::Always)).await.unwrap_err();
    assert_eq!(error.reason, "ImageInspectError", "pulled, but its user is not known");
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_is_held_back_and_tried_again() {
    let (world, manager) = manager(settings());
    world.refuse("reg.io/a:1", &["no such host", "still no such host"]);
    let ask = || manager.ensure(request("u1", "reg.io/a:1", PullPolicy::IfNotPresent));
    let uid = PodUid::from("u1");

    let error = ask().await.unwrap_err();
    assert_eq!((error.reason, error.message.as_str()), ("ErrImagePull", "no such host"));
    let wait = error.retry_at.unwrap().duration_since(clock::now()).as_secs_f64();
    assert!((9.0..=10.0).contains(&wait), "{wait}");
    assert_eq!(
        world.events(),
        [
            r#"Normal Pulling Pulling image "reg.io/a:1""#,
            r#"Warning Failed Failed to pull image "reg.io/a:1": no such host"#,
            "Warning Failed Error: ErrImagePull",
        ]
    );

    tokio::time::advance(Duration::from_secs(9)).await;
    let held = manager.held_back(&uid, "reg.io/a:1").unwrap();
    let error = ask().await.unwrap_err();
    assert_eq!((error.reason, error.message.as_str()), ("ImagePullBackOff", held.message.as_str()));
    assert_eq!(error.message, r#"Back-off pulling image "reg.io/a:1": ErrImagePull: no such host"#);
    assert_eq!(
        world.events(),
        [r#"Normal BackOff Back-off pulling image "reg.io/a:1""#, "Warning Failed Error: ImagePullBackOff"]
    );
    assert_eq!(manager.held_back(&PodUid::from("u2"), "reg.io/a:1"), None, "other pods are not held back");

    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(manager.held_back(&uid, "reg.io/a:1"), None);
    assert_eq!(ask().await.unwrap_err().reason, "ErrImagePull");
    tokio::time::advance(Duration::from_secs(19)).await;
    assert_eq!(ask().await.unwrap_err().reason, "ImagePullBackOff");
    tokio::time::advance(Duration::from_secs(1)).await;
    ask().await.unwrap();
    assert_eq!(world.pulls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_back_off_of_a_pod_goes_with_it() {
    let (world, manager) = manager(settings());
    world.refuse("reg.io/a:1", &["no"]);
    manager.ensure(request("u1", "reg.io/a:1", PullPolicy::Always)).await.unwrap_err();
    manager.forget_pod(&PodUid::from("u1"));
    assert_eq!(manager.held_back(&PodUid::from("u1"), "reg.io/a:1"), None);
}

#[rstest]
#[case(
    "RegistryUnavailable: dial tcp",
    "RegistryUnavailable",
    "image pull failed for reg.io/a:1 because the registry is unavailable: dial tcp"
)]
#[case(
    "SignatureValidationFailed",
    "SignatureValidationFailed",
    "image pull failed for reg.io/a:1 because the signature validation failed"
)]
#[tokio::test(start_paused = true)]
async fn marked_causes(#[case] answer: &str, #[case] reason: &str, #[case] message: &str) {
    let (world, manager) = manager(settings());
    world.refuse("reg.io/a:1", &[answer]);
    let error = manager.ensure(request("u1", "reg.io/a:1", PullPolicy::Always)).await.unwrap_err();
    assert_eq!((error.reason, error.message.as_str()), (reason, message));
    assert_eq!(world.events()[2], format!("Warning Failed Error: {reason}"));
    let held = manager.held_back(&PodUid::from("u1"), "reg.io/a:1").unwrap();
    assert_eq!(held.message, format!(r#"Back-off pulling image "reg.io/a:1": {reason}: {message}"#));
}

#[tokio::test(start_paused = true)]
async fn each_credential_is_tried_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    let node_config = NodeConfigFiles::new(dir.path(), None, None);
    let node_json = r#"{"auths": {"reg.io": {"username": "node", "password": "p"}}}"#;
    std::fs::write(dir.path().join("config.json"), node_json).unwrap();
    let (world, manager) = manager(ImageSettings { node_config, ..settings() });
    world.add_secret("first", "ann");
    world.add_secret("second", "bob");
    let mut request = request("u1", "reg.io/a:1", PullPolicy::Always);
    request.pod = Arc::new(pod("u1", &["first", "", "second"]));

    *world.wants_user.lock().unwrap() = Some("bob".to_owned());
    manager.ensure(request.clone()).await.unwrap();
    assert_eq!(world.pulls(), ["reg.io/a:1 as ann", "reg.io/a:1 as bob"]);

    *world.wants_user.lock().unwrap() = Some("eve".to_owned());
    let error = manager.ensure(request).await.unwrap_err();
    assert_eq!(world.pulls().len(), 3, "the pod's own, then the node's");
    assert_eq!(error.message, "[ann is unauthorized, bob is unauthorized, node is unauthorized]");
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_told_when_the_pull_fails() {
    let (world, manager) = manager(settings());
    world.secrets.lock().unwrap().insert("broken".to_owned(), secret("broken", "{"));
    world.refuse("reg.io/a:1", &["denied"]);
    let mut request = request("u1", "reg.io/a:1", PullPolicy::Always);
    request.pod = Arc::new(pod("u1", &["gone", "broken"]));
    manager.ensure(request.clone()).await.unwrap_err();
    let expected = "Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (gone, broken); \
                    attempting to pull the image may not succeed.";
    assert!(world.events().contains(&expected.to_owned()));
    tokio::time::advance(Duration::from_secs(10)).await;
    manager.ensure(request).await.unwrap();
    assert!(!world.events().iter().any(|event| event.contains("FailedToRetrieve")), "not when the pull worked");
}

async fn ensure_all(manager: &ImageManager, requests: Vec<ImageRequest>) -> Vec<Result<EnsuredImage, ImageError>> {
    futures::future::join_all(requests.into_iter().map(|request| manager.ensure(request))).await
}

#[tokio::test(start_paused = true)]
async fn the_same_pull_is_done_once() {
    let (world, manager) = manager(settings());
    *world.pull_time.lock().unwrap() = Duration::from_secs(5);
    let requests = (0..20).map(|n| request(&format!("u{n}"), "reg.io/a:1", PullPolicy::Always)).collect();
    let all = ensure_all(&manager, requests).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(world.pulls().len(), 1);
    let events = world.events();
    assert_eq!(events.len(), 40, "each pod has its own events");
    let pulling: Vec<_> = events.iter().filter(|event| event.contains(" Pulling ")).collect();
    assert_eq!(pulling[0], "Normal Pulling Pulling image \"reg.io/a:1\"");
    let joined = "Normal Pulling Pulling image \"reg.io/a:1\": waiting for the pull that pod ns/web began";
    assert!(pulling[1..].iter().all(|event| *event == joined), "{pulling:?}");
    manager.ensure(request("u0", "reg.io/a:1", PullPolicy::Always)).await.unwrap();
    assert_eq!(world.pulls().len(), 1, "a pull that is over is not joined");
}

#[tokio::test(start_paused = true)]
async fn a_shared_pull_fails_for_all() {
    let (world, manager) = manager(settings());
    *world.pull_time.lock().unwrap() = Duration::from_secs(5);
    world.refuse("reg.io/a:1", &["gone"]);
    let requests = (0..3).map(|n| request(&format!("u{n}"), "reg.io/a:1", PullPolicy::Always)).collect();
    for result in ensure_all(&manager, requests).await {
        assert_eq!(result.unwrap_err().message, "gone");
    }
    for n in 0..3 {
        assert!(manager.held_back(&PodUid::from(format!("u{n}")), "reg.io/a:1").is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn other_credentials_are_another_pull() {
    let (world, manager) = manager(settings());
    *world.pull_time.lock().unwrap() = Duration::from_secs(5);
    world.add_secret("s", "ann");
    let anonymous = request("u1", "reg.io/a:1", PullPolicy::Always);
    let mut with_secret = request("u2", "reg.io/a:1", PullPolicy::Always);
    with_secret.pod = Arc::new(pod("u2", &["s"]));
    ensure_all(&manager, vec![anonymous, with_secret]).await;
    assert_eq!(world.pulls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pull_ends_with_the_last_who_waits() {
    let (world, manager) = manager(settings());
    *world.pull_time.lock().unwrap() = Duration::from_secs(60);
    let mut first = manager.ensure(request("u1", "reg.io/a:1", PullPolicy::Always)).boxed();
    let mut second = manager.ensure(request("u2", "reg.io/a:1", PullPolicy::Always)).boxed();
    let both = async { tokio::join!(&mut first, &mut second) };
    assert!(tokio::time::timeout(Duration::from_secs(10), both).await.is_err());
    drop(first);
    assert_eq!(world.cancelled.load(Ordering::SeqCst), 0);
    assert!(tokio::time::timeout(Duration::from_secs(10), &mut second).await.is_err());
    drop(second);
    assert_eq!(world.cancelled.load(Ordering::SeqCst), 1);
    assert_eq!(world.running.load(Ordering::SeqCst), 0);
    *world.pull_time.lock().unwrap() = Duration::ZERO;
    manager.ensure(request("u1", "reg.io/a:1", PullPolicy::Always)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_one_who_stays_gets_the_image() {
    let (world, manager) = manager(settings());
    *world.pull_time.lock().unwrap() = Duration::from_secs(60);
    let mut first = manager.ensure(request("u1", "reg.io/a:1", PullPolicy::Always)).boxed();
    let mut second = manager.ensure(request("u2", "reg.io/a:1", PullPolicy::Always)).boxed();
    let both = async { tokio::join!(&mut first, &mut second) };
    assert!(tokio::time::timeout(Duration::from_secs(10), both).await.is_err());
    drop(first);
    second.await.unwrap();
    assert_eq!(world.pulls().len(), 1);
}

#[rstest]
#[case(true, None, 1)]
#[case(true, Some(5), 1)]
#[case(false, Some(3), 3)]
#[case(false, None, 16)]
#[tokio::test(start_paused = true)]
async fn pulls_are_bounded(#[case] serialize: bool, #[case] max_parallel: Option<u32>, #[case] expected: usize) {
    let (world, manager) = manager(ImageSettings { serialize, max_parallel, ..settings() });
    *world.pull_time.lock().unwrap() = Duration::from_secs(2);
    let requests = (0..20).map(|n| request("u", &format!("reg.io/a:{n}"), PullPolicy::Always)).collect();
    assert!(ensure_all(&manager, requests).await.iter().all(Result::is_ok));
    assert_eq!(world.most_running.load(Ordering::SeqCst), expected);
    let events = world.events();
    let rounds = 20usize.div_ceil(expected);
    let last = format!("in 2s ({}s including waiting)", rounds * 2);
    assert!(events.iter().any(|event| event.contains(&last)), "{last}: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn pulls_have_a_rate() {
    let (world, manager) = manager(ImageSettings { pull_qps: 1.0, pull_burst: 2, ..settings() });
    let requests = (0..5).map(|n| request("u", &format!("reg.io/a:{n}"), PullPolicy::Always)).collect();
    let refused: Vec<_> = ensure_all(&manager, requests).await.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 3);
    assert_eq!((refused[0].reason, refused[0].message.as_str()), ("ErrImagePull", "pull QPS exceeded"));
    assert_eq!(world.pulls().len(), 2);
}

#[test]
fn places_of_the_nodes_credentials() {
    let files = NodeConfigFiles::new(Path::new("/var/lib/kubelet"), Some(Path::new("/work")), Some(Path::new("/root")));
    let shown: Vec<_> = files.config_json.iter().map(|path| path.display().to_string()).collect();
    let expected =
        ["/var/lib/kubelet/config.json", "/work/config.json", "/root/.docker/config.json", "/.docker/config.json"];
    assert_eq!(shown, expected);
}

#[tokio::test(start_paused = true)]
async fn what_one_pod_pulled_with_its_secret_is_closed_to_pods_without() {
    let (world, root) = (Arc::new(World::default()), tempfile::tempdir().unwrap());
    world.present.lock().unwrap().insert("reg.io/preloaded:1".to_owned());
    *world.wants_user.lock().unwrap() = Some("joe".to_owned());
    world.add_secret("joes", "joe");
    let of = |uid: &str, secrets: &[&str], image: &str, policy| ImageRequest {
        pod: Arc::new(pod(uid, secrets)),
        ..request(uid, image, policy)
    };
    let manager = verifying(&world, root.path());
    manager.ensure(of("u1", &["joes"], "reg.io/a:1", PullPolicy::IfNotPresent)).await.unwrap();
    assert_eq!(world.pulls(), ["reg.io/a:1 as joe"]);

    // An agent that starts knows it, too.
    for manager in [manager, verifying(&world, root.path())] {
        world.events();
        manager.ensure(of("u2", &["joes"], "reg.io/a:1", PullPolicy::Never)).await.unwrap();
        let message = r#"Container image "reg.io/a:1" already present on machine and can be accessed by the pod"#;
        assert_eq!(world.events(), [format!("Normal Pulled {message}")]);
        manager.ensure(of("u3", &[], "reg.io/preloaded:1", PullPolicy::Never)).await.unwrap();
        assert!(world.pulls().is_empty());

        let never = manager.ensure(of("u4", &[], "reg.io/a:1", PullPolicy::Never)).await.unwrap_err();
        assert_eq!(never.reason, "ErrImageNeverPull", "whether it is there is not told");
        let refused = manager.ensure(of("u5", &[], "reg.io/a:1", PullPolicy::IfNotPresent)).await.unwrap_err();
        assert_eq!(refused.message, "anonymous is unauthorized");
        assert_eq!(world.pulls(), ["reg.io/a:1 as anonymous"]);
        manager.forget_pod(&PodUid::from("u5"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_was_cut_off_is_settled_by_the_next_agent() {
    let (world, root) = (Arc::new(World::default()), tempfile::tempdir().unwrap());
    let manager = verifying(&world, root.path());
    *world.pull_time.lock().unwrap() = Duration::from_secs(60);
    let cut_off = manager.ensure(request("u1", "reg.io/a:1", PullPolicy::IfNotPresent));
    assert!(tokio::time::timeout(Duration::from_secs(1), cut_off).await.is_err());
    let files = |folder: &str| std::fs::read_dir(root.path().join("image_manager").join(folder)).unwrap().count();
    verifying(&world, root.path()).settle_pulls().await;
    assert_eq!((files("pulling"), files("pulled")), (1, 0), "it is not there");

    world.present.lock().unwrap().insert("reg.io/a:1".to_owned());
    let manager = verifying(&world, root.path());
    manager.settle_pulls().await;
    assert_eq!((files("pulling"), files("pulled")), (0, 1));
    world.pulls();
    // Nobody knows with which credentials it was pulled, so the next pod pulls, and then it is open.
    for uid in ["u2", "u3"] {
        manager.ensure(request(uid, "reg.io/a:1", PullPolicy::IfNotPresent)).await.unwrap();
    }
    assert_eq!(world.pulls(), ["reg.io/a:1 as anonymous"]);
}
