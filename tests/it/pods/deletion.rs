//! Deletion at every stage of a pod's life.

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::world::{World, container, pod, pod_with, uid};
use crate::fake_runtime::{Behaviour, PullScript};

/// How long something is watched not to happen.
const WHILE: Duration = Duration::from_millis(300);

async fn running_pod(behaviour: Behaviour) -> (World, super::world::Agent) {
    let world = World::new().await;
    world.runtime.on_start("app", behaviour);
    let agent = world.agent().await;
    world.api.create(pod("a"));
    world.until_ready("a").await;
    (world, agent)
}

#[tokio::test]
async fn a_running_pod_is_stopped_reported_and_removed() {
    let (world, _agent) = running_pod(Behaviour::ExitOnTerm { after: Duration::from_millis(100), code: 0 }).await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    let changes = world.changes("a");
    assert_eq!(changes[3..], ["StopContainer app", "StopPodSandbox", "RemovePodSandbox"]);
    assert_eq!(world.told("a", "Killing"), ["Stopping container app"]);
    // The end is told before the pod goes, and nothing is told of it afterwards.
    let writes = world.api.writes_of("a");
    let deleted = writes.iter().position(|(method, _)| method == "DELETE").unwrap();
    assert_eq!(writes[deleted], ("DELETE".to_owned(), 200));
    assert!(writes[deleted..].iter().all(|(method, _)| method == "DELETE"), "{writes:?}");
    let last = world.api.statuses("a").pop().unwrap();
    assert_eq!(last.phase.as_deref(), Some("Succeeded"), "{last:?}");
    world.assert_sound();
}

#[tokio::test]
async fn a_pull_under_way_is_given_up() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let gate = world.runtime.hold("PullImage");
    let mut app = container("app");
    app["image"] = "big:1".into();
    world.api.create(pod_with("a", json!({"containers": [app]})));
    world.runtime.until("the pull is under way", |_| world.runtime.calls_of("PullImage").len() == 1).await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    world.runtime.until("the pull is given up", |_| world.runtime.calls_of("PullImage")[0].was_cancelled()).await;
    assert_eq!(world.count("a", "CreateContainer"), 0);
    drop(gate);
}

#[tokio::test]
async fn a_pod_whose_pull_is_held_back_goes_at_once() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let errors = ["manifest unknown".to_owned(), "manifest unknown".to_owned()].into();
    world.runtime.on_pull("none:1", PullScript { errors, ..PullScript::default() });
    let mut app = container("app");
    app["image"] = "none:1".into();
    world.api.create(pod_with("a", json!({"containers": [app]})));
    let held = |status: &_| super::world::waiting(status, "app") == Some("ImagePullBackOff");
    world.until_status("held back", "a", held).await;
    assert!(world.api.statuses("a").iter().any(|s| super::world::waiting(s, "app") == Some("ErrImagePull")));
    world.api.delete("a", 30);
    let began = Instant::now();
    world.until_gone(&["a"]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_sandbox_that_is_being_made_is_removed_once_it_is_there() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let gate = world.runtime.hold("RunPodSandbox");
    world.api.create(pod("a"));
    world.until_called("a", "RunPodSandbox", 1).await;
    world.api.delete("a", 30);
    sleep(WHILE).await;
    assert!(world.api.pod("a").is_some(), "what may come up must not be forgotten");
    drop(gate);
    world.until_gone(&["a"]).await;
    assert_eq!(world.count("a", "CreateContainer"), 0);
    world.assert_sound();
}

#[tokio::test]
async fn a_sandbox_that_never_comes_is_given_up_at_its_deadline() {
    let mut world = World::new().await;
    world.request_timeout = Duration::from_millis(400);
    let _agent = world.agent().await;
    let _gate = world.runtime.hold("RunPodSandbox");
    world.api.create(pod("a"));
    world.until_called("a", "RunPodSandbox", 1).await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    assert_eq!(world.count("a", "RunPodSandbox"), 1);
}

#[tokio::test]
async fn a_container_that_is_being_made_is_not_started_any_more() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let gate = world.runtime.hold("CreateContainer");
    world.api.create(pod("a"));
    world.until_called("a", "CreateContainer", 1).await;
    world.api.delete("a", 30);
    sleep(WHILE).await;
    assert!(world.api.pod("a").is_some());
    drop(gate);
    world.until_gone(&["a"]).await;
    assert_eq!(world.count("a", "StartContainer"), 0);
    assert_eq!(world.told("a", "Failed"), Vec::<String>::new(), "it did not fail, it was called off");
    world.assert_sound();
}

#[tokio::test]
async fn while_the_runtime_is_away_a_pod_stays_and_ends_when_it_is_back() {
    let (world, _agent) = running_pod(Behaviour::Run).await;
    world.runtime.stop().await;
    world.api.delete("a", 30);
    world.until("a stop was tried", &["a"], || !world.told("a", "FailedKillPod").is_empty()).await;
    sleep(WHILE).await;
    assert!(world.api.pod("a").is_some());
    world.runtime.resume().await;
    world.until_gone(&["a"]).await;
    world.assert_sound();
}

#[tokio::test]
async fn stops_that_fail_are_tried_again() {
    let (world, _agent) = running_pod(Behaviour::Run).await;
    world.runtime.fail("StopContainer", 2, Status::unknown("the shim is stuck"));
    world.runtime.fail("StopPodSandbox", 1, Status::unknown("the network plugin failed"));
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    assert_eq!(world.count("a", "StopContainer"), 3);
    assert_eq!(world.count("a", "StopPodSandbox"), 2);
    assert_eq!(world.told("a", "Killing").len(), 1, "told once");
    let told = world.told("a", "FailedKillPod");
    assert_eq!(told.len(), 3);
    assert_eq!(told[0], "error killing pod: failed to \"KillContainer\" for \"app\": the shim is stuck");
    assert!(told[2].ends_with("the network plugin failed"), "{told:?}");
}

#[tokio::test]
async fn volumes_that_cannot_be_unmounted_hold_the_pod() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let mut app = container("app");
    app["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let volumes = json!([{"name": "scratch", "emptyDir": {"medium": "Memory"}}]);
    world.api.create(pod_with("a", json!({"containers": [app], "volumes": volumes})));
    world.until_ready("a").await;
    let mounted: Vec<PathBuf> = world.mounts.mounted();
    assert_eq!(mounted.len(), 1, "{mounted:?}");
    world.mounts.fail(&mounted[0], Errno::BUSY);
    world.api.delete("a", 30);
    world.until_called("a", "StopPodSandbox", 1).await;
    sleep(WHILE * 2).await;
    assert!(world.api.pod("a").is_some(), "its data may still be in use");
    assert!(world.root().join("pods").join(uid("a")).exists());
    world.mounts.heal(&mounted[0]);
    world.until_gone(&["a"]).await;
}

#[tokio::test]
async fn a_forced_deletion_needs_no_word_to_the_api() {
    let (world, _agent) = running_pod(Behaviour::IgnoreTerm).await;
    let writes = world.api.writes_of("a").len();
    world.api.delete("a", 0);
    let began = Instant::now();
    world.until_gone(&["a"]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    sleep(WHILE).await;
    assert_eq!(world.api.writes_of("a").len(), writes, "{:?}", world.api.writes_of("a"));
}

#[tokio::test]
async fn a_name_may_be_used_again_while_its_last_owner_ends() {
    let (world, _agent) = running_pod(Behaviour::ExitOnTerm { after: Duration::from_millis(600), code: 0 }).await;
    world.runtime.on_start("app", Behaviour::Run);
    world.api.delete("a", 0);
    let mut successor = pod("a");
    successor["metadata"]["uid"] = "uid-next".into();
    world.api.create(successor);
    world.until_ready("a").await;
    let old_is_gone = || world.runtime.snapshot().sandboxes_of(&uid("a")).count() == 0;
    world.until("the old one is gone", &["a"], old_is_gone).await;
    let snapshot = world.runtime.snapshot();
    assert_eq!(snapshot.running("uid-next"), ["app"]);
    assert_eq!(world.api.pod("a").unwrap().metadata.uid.as_deref(), Some("uid-next"));
}

#[tokio::test]
async fn a_shorter_grace_period_overtakes_a_longer_one() {
    let (world, _agent) = running_pod(Behaviour::IgnoreTerm).await;
    world.api.delete("a", 60);
    world.until_called("a", "StopContainer", 1).await;
    sleep(WHILE).await;
    world.api.delete("a", 1);
    let began = Instant::now();
    world.until_gone(&["a"]).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(world.told("a", "Killing").len(), 1, "told once");
    assert_eq!(world.api.statuses("a").pop().unwrap().phase.as_deref(), Some("Failed"));
}

/// A file that nobody can write to until somebody reads it, as on a disk that hangs.
struct SlowFile(PathBuf);

impl SlowFile {
    fn new(path: PathBuf) -> Self {
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        SlowFile(path)
    }

    fn read(&self) -> std::fs::File {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(&self.0).unwrap()
    }
}

/// A test that fails must not hang.
impl Drop for SlowFile {
    fn drop(&mut self) {
        let _ = self.read();
    }
}

#[tokio::test]
async fn files_that_are_still_being_made_are_waited_for_and_do_not_come_back() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let slow = SlowFile::new(world.dir().join("slow"));
    let own = world.root().join("pods").join(uid("a"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::hard_link(&slow.0, own.join("etc-hosts")).unwrap();
    world.api.create(pod("a"));
    world.until_called("a", "RunPodSandbox", 1).await;
    sleep(WHILE).await;
    assert_eq!(world.count("a", "CreateContainer"), 0, "it waits for its file");
    world.api.delete("a", 30);
    world.until_called("a", "StopPodSandbox", 1).await;
    sleep(WHILE).await;
    assert!(own.exists() && world.api.pod("a").is_some(), "who writes there is waited for");
    let mut reader = slow.read();
    world.until_gone(&["a"]).await;
    let mut written = String::new();
    std::io::Read::read_to_string(&mut reader, &mut written).unwrap();
    assert!(written.contains("localhost"), "it went on: {written}");
    world.assert_sound();
}
