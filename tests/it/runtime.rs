//! The runtime client and the observer against the fake runtime.

use std::collections::HashMap;
use std::time::Duration;

use ferrolet::model::observation::ContainerState;
use ferrolet::model::pod::PodUid;
use ferrolet::runtime::error::Code;
use ferrolet::runtime::{
    ClientSettings, ListedState, Observer, ObserverSettings, RuntimeClient, RuntimeError, cri, labels,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::fake_runtime::{Behaviour, FakeRuntime, sample};

const SHORT: Duration = Duration::from_millis(150);

async fn runtime() -> FakeRuntime {
    let runtime = FakeRuntime::start().await;
    runtime.add_image("busybox:1");
    runtime
}

mod client {
    use super::*;

    #[tokio::test]
    async fn a_pod_from_start_to_end() {
        let runtime = runtime().await;
        let client = runtime.client();
        assert_eq!(client.version().await.unwrap().runtime_name, "fake");
        assert_eq!(client.status(false).await.unwrap().status.unwrap().conditions.len(), 2);
        let driver = client.runtime_config().await.unwrap().linux.unwrap().cgroup_driver();
        assert_eq!(driver, cri::CgroupDriver::Cgroupfs);
        client.update_runtime_config("10.88.0.0/16").await.unwrap();
        let (sandbox, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        assert_eq!(client.pod_sandbox_status(&sandbox).await.unwrap().metadata.unwrap().uid, "u1");
        assert_eq!(client.container_status(&container).await.unwrap().image_ref.len(), 71);
        let command = vec!["echo".to_owned(), "hi".to_owned()];
        let output = client.exec_sync(&container, command, Duration::from_secs(1)).await.unwrap();
        assert_eq!((output.stdout.as_slice(), output.exit_code), (b"echo hi".as_slice(), 0));
        client.stop_container(&container, 1).await.unwrap();
        assert_eq!(client.container_status(&container).await.unwrap().exit_code, 143);
        client.remove_container(&container).await.unwrap();
        assert!(client.container_status(&container).await.unwrap_err().is_not_found());
        client.stop_pod_sandbox(&sandbox).await.unwrap();
        client.remove_pod_sandbox(&sandbox).await.unwrap();
        assert!(client.pod_sandbox_status(&sandbox).await.unwrap_err().is_not_found());
        assert!(runtime.snapshot().is_empty());
        assert!(runtime.violations().is_empty());
    }

    #[tokio::test]
    async fn an_answer_keeps_its_words_and_code() {
        let runtime = runtime().await;
        let client = runtime.client();
        runtime.fail("RunPodSandbox", 1, Status::resource_exhausted("no more addresses in the pool"));
        let error = client.run_pod_sandbox(sample::sandbox("u1", 0), "").await.unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.code()),
            ("no more addresses in the pool", Code::ResourceExhausted)
        );
        assert!(matches!(error, RuntimeError::Refused { rpc: "RunPodSandbox", .. }), "{error:?}");
        client.run_pod_sandbox(sample::sandbox("u1", 0), "").await.unwrap();
    }

    #[tokio::test]
    async fn deadlines_are_the_peers() {
        let runtime = runtime().await;
        const LIMIT: Duration = Duration::from_millis(400);
        let client = runtime.client_with_timeout(LIMIT);
        let (_, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        runtime.delay("Status", Duration::from_secs(60));
        let started = Instant::now();
        let error = client.status(false).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Timeout { rpc: "Status", .. }) && error.is_timeout(), "{error:?}");
        assert!((LIMIT..LIMIT * 20).contains(&started.elapsed()), "{:?}", started.elapsed());
        assert!(error.to_string().ends_with("did not answer Status within 400ms"), "{error}");

        runtime.delay("RunPodSandbox", LIMIT * 5 / 4);
        client.run_pod_sandbox(sample::sandbox("u2", 0), "").await.expect("twice as long for a sandbox");
        runtime.delay("StopContainer", LIMIT * 2);
        client.stop_container(&container, 1).await.expect("the grace on top for a stop");
        runtime.delay("PullImage", LIMIT * 2);
        let image = cri::ImageSpec { image: "busybox:1".to_owned(), ..Default::default() };
        client.pull_image(image, None, None).await.expect("no limit for a pull");
        runtime.delay("ExecSync", LIMIT * 2);
        client.exec_sync(&container, vec![], Duration::ZERO).await.expect("no limit for a command without one");
        let limited = client.exec_sync(&container, vec![], Duration::from_millis(1)).await;
        assert!(limited.unwrap_err().is_timeout());
    }

    #[tokio::test]
    async fn a_dropped_call_is_cancelled_in_the_runtime() {
        let runtime = runtime().await;
        let client = runtime.client();
        let gate = runtime.hold("PullImage");
        let image = cri::ImageSpec { image: "big:1".to_owned(), ..Default::default() };
        assert!(timeout(SHORT, client.pull_image(image, None, None)).await.is_err());
        runtime.until("the pull is given up", |_| runtime.calls_of("PullImage")[0].was_cancelled()).await;
        drop(gate);
        assert_eq!(runtime.snapshot().images.len(), 1);
    }

    #[tokio::test]
    async fn without_a_runtime_calls_fail_fast_and_plainly() {
        let client = RuntimeClient::new(&ClientSettings::for_endpoint("unix:///nowhere/runtime.sock")).unwrap();
        let started = Instant::now();
        for _ in 0..20 {
            let error = client.version().await.unwrap_err();
            assert!(matches!(error, RuntimeError::Unreachable { .. }) && error.is_unavailable(), "{error:?}");
            let text = error.to_string();
            assert!(
                text.starts_with("the container runtime at unix:///nowhere/runtime.sock cannot be reached: "),
                "{text}"
            );
            assert!(text.contains("No such file or directory"), "{text}");
        }
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_restarted_runtime_is_found_again() {
        let runtime = runtime().await;
        let client = runtime.client();
        let (sandbox, _) = sample::run_pod(&client, "u1", "app").await.unwrap();
        let gate = runtime.hold("StopPodSandbox");
        let mut calls = JoinSet::new();
        let during = client.clone();
        let id = sandbox.clone();
        calls.spawn(async move { during.stop_pod_sandbox(&id).await });
        runtime.until("the call is under way", |_| runtime.calls_of("StopPodSandbox").len() == 1).await;
        runtime.stop().await;
        let error = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, RuntimeError::Interrupted { .. }) && error.is_unavailable(), "{error:?}");
        drop(gate);
        for _ in 0..30 {
            assert!(client.version().await.unwrap_err().is_unavailable());
        }
        runtime.resume().await;
        client.version().await.expect("the new socket is dialled at once");
        assert!(client.pod_sandbox_status(&sandbox).await.is_ok(), "what ran goes on");
        client.stop_pod_sandbox(&sandbox).await.unwrap();
    }

    #[tokio::test]
    async fn large_lists_are_taken_up_to_sixteen_mebibytes() {
        let runtime = runtime().await;
        let client = runtime.client();
        let with_ballast = |uid: &str, bytes: usize| {
            let mut config = sample::sandbox(uid, 0);
            config.annotations = HashMap::from([("ballast".to_owned(), "x".repeat(bytes))]);
            config
        };
        // One request may be no larger than what the fake's server takes, 4 MiB.
        for n in 0..5 {
            client.run_pod_sandbox(with_ballast(&format!("u{n}"), 3 << 20), "").await.unwrap();
        }
        assert_eq!(client.list_pod_sandbox(None).await.unwrap().len(), 5);
        client.run_pod_sandbox(with_ballast("u6", 3 << 20), "").await.unwrap();
        let error = client.list_pod_sandbox(None).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
    }

    #[tokio::test]
    async fn images_may_have_an_endpoint_of_their_own() {
        let (runtime, images) = (runtime().await, FakeRuntime::start().await);
        images.add_image("other:1");
        let settings = ClientSettings {
            image_endpoint: Some(images.endpoint()),
            ..ClientSettings::for_endpoint(runtime.endpoint())
        };
        let client = RuntimeClient::new(&settings).unwrap();
        client.version().await.unwrap();
        let listed = client.list_images().await.unwrap();
        assert_eq!(listed[0].repo_tags, ["other:1"]);
        assert_eq!((runtime.calls().len(), images.calls().len()), (1, 1));
    }
}

mod observing {
    use super::*;

    fn observer(client: &RuntimeClient) -> Observer {
        Observer::new(client.clone(), ObserverSettings::default())
    }

    #[tokio::test]
    async fn a_pod_as_it_is() {
        let runtime = runtime().await;
        let client = runtime.client();
        let observer = observer(&client);
        let uid = PodUid::from("u1");
        assert_eq!(observer.observe(&uid).await.unwrap(), Default::default());

        runtime.on_starts("app", [Behaviour::Exit { after: Duration::ZERO, code: 3 }, Behaviour::Run]);
        let old = client.run_pod_sandbox(sample::sandbox("u1", 0), "").await.unwrap();
        client.stop_pod_sandbox(&old).await.unwrap();
        let new = client.run_pod_sandbox(sample::sandbox("u1", 1), "gvisor").await.unwrap();
        let first = sample::run_container(&client, "u1", &new, "app", 0).await.unwrap();
        runtime.until("the first ends", |s| s.running("u1").is_empty()).await;
        let second = sample::run_container(&client, "u1", &new, "app", 1).await.unwrap();
        sample::run_pod(&client, "u2", "app").await.unwrap();

        let seen = observer.observe(&uid).await.unwrap();
        let sandboxes: Vec<_> = seen.sandboxes.iter().map(|s| (s.id.as_str(), s.ready, s.ips.len())).collect();
        assert_eq!(sandboxes, [(new.as_str(), true, 1), (old.as_str(), false, 0)]);
        assert_eq!((seen.sandboxes[0].attempt, seen.sandboxes[0].runtime_handler.as_str()), (1, "gvisor"));
        let containers: Vec<_> = seen.containers.iter().map(|c| (c.id.as_str(), c.restart_count)).collect();
        assert_eq!(containers, [(second.as_str(), 1), (first.as_str(), 0)]);
        assert!(matches!(seen.containers[0].state, ContainerState::Running { .. }));
        let ContainerState::Exited(exit) = &seen.containers[1].state else { panic!("{:?}", seen.containers[1]) };
        assert_eq!((exit.code, exit.reason.as_str()), (3, "Error"));
        assert_eq!(seen.containers[0].hash, "c0ffee");
        assert_eq!(seen.containers[0].log_path, "/var/log/pods/default_pod-u1_u1/app/1.log");
    }

    #[tokio::test]
    async fn the_network_of_the_node() {
        let runtime = runtime().await;
        let client = runtime.client();
        client.run_pod_sandbox(sample::host_network_sandbox("u1"), "").await.unwrap();
        let seen = observer(&client).observe(&PodUid::from("u1")).await.unwrap();
        assert!(seen.sandboxes[0].host_network && seen.sandboxes[0].ips.is_empty());
    }

    #[tokio::test]
    async fn what_cannot_change_is_asked_once() {
        let runtime = runtime().await;
        let client = runtime.client();
        let observer = observer(&client);
        let uid = PodUid::from("u1");
        let (sandbox, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        let first = observer.observe(&uid).await.unwrap();
        runtime.clear_calls();
        assert_eq!(observer.observe(&uid).await.unwrap(), first);
        assert_eq!(runtime.calls_of("PodSandboxStatus").len(), 0);
        assert_eq!(runtime.calls_of("ContainerStatus").len(), 1);

        // A container that has just ended may still turn out to be OOM-killed.
        runtime.kill_container(&container, 137);
        observer.observe(&uid).await.unwrap();
        runtime.clear_calls();
        observer.observe(&uid).await.unwrap();
        assert_eq!(runtime.calls_of("ContainerStatus").len(), 1);

        runtime.age_exit(&container, Duration::from_secs(11));
        let settled = observer.observe(&uid).await.unwrap();
        runtime.clear_calls();
        assert_eq!(observer.observe(&uid).await.unwrap(), settled);
        assert_eq!(runtime.calls_of("ContainerStatus").len(), 0);

        client.stop_pod_sandbox(&sandbox).await.unwrap();
        let seen = observer.observe(&uid).await.unwrap();
        assert!(!seen.sandboxes[0].ready && seen.sandboxes[0].ips.is_empty(), "the cached address is not shown");
    }

    #[tokio::test]
    async fn what_vanishes_in_between_is_left_out() {
        let runtime = runtime().await;
        let client = runtime.client();
        let (sandbox, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        runtime.freeze_lists();
        client.remove_pod_sandbox(&sandbox).await.unwrap();
        let seen = observer(&client).observe(&PodUid::from("u1")).await.unwrap();
        assert_eq!(seen, Default::default());
        runtime.thaw_lists();
        let (_, other) = sample::run_pod(&client, "u2", "app").await.unwrap();
        runtime.hide_status(&other);
        let seen = observer(&client).observe(&PodUid::from("u2")).await.unwrap();
        assert_eq!((seen.sandboxes.len(), seen.containers.len()), (1, 0));
        assert!(!container.is_empty());
    }

    #[tokio::test]
    async fn half_a_pod_is_no_observation() {
        let runtime = runtime().await;
        let client = runtime.client();
        let observer = observer(&client);
        sample::run_pod(&client, "u1", "app").await.unwrap();
        for rpc in ["ListPodSandbox", "ListContainers", "PodSandboxStatus", "ContainerStatus"] {
            runtime.fail(rpc, 1, Status::internal("no idea"));
            let error = observer.observe(&PodUid::from("u1")).await.unwrap_err();
            assert_eq!(error.to_string(), "no idea", "{rpc}");
        }
        observer.observe(&PodUid::from("u1")).await.unwrap();
    }

    #[tokio::test]
    async fn the_termination_message_is_read() {
        let runtime = runtime().await;
        let client = runtime.client();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a1b2c3d4");
        std::fs::write(&file, "gave up").unwrap();
        let sandbox = client.run_pod_sandbox(sample::sandbox("u1", 0), "").await.unwrap();
        let mut config = sample::container("u1", "app", 0);
        config.annotations.insert(labels::TERMINATION_MESSAGE_PATH.to_owned(), "/dev/termination-log".to_owned());
        config.mounts.push(cri::Mount {
            container_path: "/dev/termination-log".to_owned(),
            host_path: file.display().to_string(),
            ..Default::default()
        });
        runtime.on_start("app", Behaviour::FailStart { message: "exec: no such file".to_owned() });
        let container = client.create_container(&sandbox, config, sample::sandbox("u1", 0)).await.unwrap();
        let error = client.start_container(&container).await.unwrap_err();
        assert_eq!(error.to_string(), "exec: no such file");
        let seen = observer(&client).observe(&PodUid::from("u1")).await.unwrap();
        let ContainerState::Exited(exit) = &seen.containers[0].state else { panic!("{:?}", seen.containers[0]) };
        assert_eq!(exit.message, "exec: no such file: gave up");
        assert_eq!((exit.started_at, exit.code, exit.reason.as_str()), (None, 128, "StartError"));
    }

    #[tokio::test]
    async fn all_pods_by_their_labels() {
        let runtime = runtime().await;
        let client = runtime.client();
        sample::run_pod(&client, "u2", "app").await.unwrap();
        sample::run_pod(&client, "u1", "app").await.unwrap();
        let mut stranger = sample::sandbox("u3", 0);
        stranger.labels.clear();
        client.run_pod_sandbox(stranger, "").await.unwrap();
        let pods = observer(&client).list_pods().await.unwrap();
        let keys: Vec<_> = pods.iter().map(|p| p.key.to_string()).collect();
        assert_eq!(keys, ["pod-u1_default(u1)", "pod-u2_default(u2)"]);
        assert_eq!(pods[0].containers[0].state, ListedState::Running);
    }
}

mod watching {
    use super::*;

    struct Watched {
        observer: Observer,
        hints: mpsc::Receiver<PodUid>,
        tasks: JoinSet<()>,
        cancel: CancellationToken,
    }

    /// Runs an observer with those intervals.
    fn watch(runtime: &FakeRuntime, capacity: usize, relist: Duration, fallback: Duration) -> Watched {
        let settings = ObserverSettings { relist_interval: relist, fallback_interval: fallback };
        let observer = Observer::new(runtime.client(), settings);
        let (sender, hints) = mpsc::channel(capacity);
        let (mut tasks, cancel) = (JoinSet::new(), CancellationToken::new());
        let (running, token) = (observer.clone(), cancel.clone());
        tasks.spawn(async move { running.run(sender, token).await });
        Watched { observer, hints, tasks, cancel }
    }

    impl Watched {
        async fn hint(&mut self) -> String {
            let hint = timeout(Duration::from_secs(5), self.hints.recv()).await.expect("a hint");
            hint.expect("an open channel").to_string()
        }

        /// The hints until there is none for a while.
        async fn quiet(&mut self) -> Vec<String> {
            let mut hints = Vec::new();
            while let Ok(Some(hint)) = timeout(Duration::from_millis(400), self.hints.recv()).await {
                hints.push(hint.to_string());
            }
            hints
        }

        async fn stop(mut self) {
            self.cancel.cancel();
            timeout(Duration::from_secs(1), self.tasks.join_next()).await.expect("it ends").unwrap().unwrap();
        }
    }

    /// Waits until that many event streams were opened, and the runtime sends its events to the last of them.
    async fn streams_opened(runtime: &FakeRuntime, count: usize) {
        let opened = || runtime.calls_of("GetContainerEvents").iter().filter(|c| c.outcome == Some(Code::Ok)).count();
        runtime.until("the event stream is open", |_| opened() == count).await;
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_runs_at_the_start_is_told_then_events() {
        let runtime = runtime().await;
        let client = runtime.client();
        sample::run_pod(&client, "u1", "app").await.unwrap();
        let (_, container) = sample::run_pod(&client, "u2", "app").await.unwrap();
        let mut watched = watch(&runtime, 16, NEVER, NEVER);
        assert_eq!(watched.quiet().await, ["u1", "u2"]);
        assert!(watched.observer.since_last_relist().unwrap() < Duration::from_secs(1));
        streams_opened(&runtime, 1).await;

        runtime.kill_container(&container, 1);
        assert_eq!(watched.hint().await, "u2", "with no relist to come");
        assert_eq!(watched.quiet().await, Vec::<String>::new());
        client.remove_container(&container).await.unwrap();
        assert_eq!(watched.quiet().await, ["u2"]);
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_removed_sandbox_is_traced_to_its_pod() {
        let runtime = runtime().await;
        let client = runtime.client();
        let sandbox = client.run_pod_sandbox(sample::sandbox("u1", 0), "").await.unwrap();
        client.stop_pod_sandbox(&sandbox).await.unwrap();
        let mut watched = watch(&runtime, 16, NEVER, NEVER);
        assert_eq!(watched.quiet().await, ["u1"]);
        client.remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(watched.hint().await, "u1");
        watched.stop().await;
    }

    #[tokio::test]
    async fn lost_events_are_made_good_by_relists() {
        let runtime = runtime().await;
        let client = runtime.client();
        let (_, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        sample::run_pod(&client, "u2", "app").await.unwrap();
        let mut watched = watch(&runtime, 16, SHORT, SHORT);
        watched.quiet().await;
        runtime.mute_events(true);
        runtime.kill_container(&container, 1);
        assert_eq!(watched.hint().await, "u1");
        assert_eq!(watched.quiet().await, Vec::<String>::new(), "only what changed, and once");
        watched.stop().await;
    }

    #[tokio::test]
    async fn without_events_the_lists_are_read_often() {
        let runtime = runtime().await;
        runtime.support_events(false);
        let client = runtime.client();
        let mut watched = watch(&runtime, 16, NEVER, Duration::from_millis(50));
        let (_, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        assert_eq!(watched.hint().await, "u1");
        watched.quiet().await;
        runtime.kill_container(&container, 1);
        assert_eq!(watched.hint().await, "u1");
        assert_eq!(runtime.calls_of("GetContainerEvents").len(), 1, "it is not asked for events over and over");
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_working_stream_makes_relists_rare() {
        let runtime = runtime().await;
        let client = runtime.client();
        let mut watched = watch(&runtime, 16, NEVER, Duration::from_millis(50));
        streams_opened(&runtime, 1).await;
        sample::run_pod(&client, "u1", "app").await.unwrap();
        watched.quiet().await;
        // The events have proven the stream: after the relist that was due, there is none.
        runtime.clear_calls();
        tokio::time::sleep(SHORT).await;
        let relists = runtime.calls_of("ListContainers").len();
        assert!(relists <= 1, "{relists} relists");
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_restarted_runtime_is_watched_again() {
        let runtime = runtime().await;
        let client = runtime.client();
        let (_, container) = sample::run_pod(&client, "u1", "app").await.unwrap();
        let mut watched = watch(&runtime, 16, NEVER, Duration::from_millis(50));
        assert_eq!(watched.hint().await, "u1");
        streams_opened(&runtime, 1).await;
        runtime.stop().await;
        runtime.kill_container(&container, 1);
        runtime.resume().await;
        assert_eq!(watched.hint().await, "u1", "what happened while it was away");
        streams_opened(&runtime, 2).await;
        watched.quiet().await;
        let (_, _) = sample::run_pod(&client, "u2", "app").await.unwrap();
        assert_eq!(watched.hint().await, "u2");
        watched.stop().await;
    }

    #[tokio::test]
    async fn no_hint_is_lost_when_nobody_takes_them() {
        let runtime = runtime().await;
        let client = runtime.client();
        let mut watched = watch(&runtime, 1, NEVER, NEVER);
        streams_opened(&runtime, 1).await;
        for n in 0..50 {
            // Starts are the agent's own and tell it nothing; ends do.
            let (sandbox, container) = sample::run_pod(&client, &format!("u{n:02}"), "app").await.unwrap();
            runtime.kill_container(&container, 1);
            client.stop_pod_sandbox(&sandbox).await.unwrap();
        }
        tokio::time::sleep(SHORT).await;
        let hints = watched.quiet().await;
        let mut pods = hints.clone();
        pods.sort();
        pods.dedup();
        assert_eq!(pods.len(), 50);
        assert!(hints.len() <= 52, "a pod that waits is told once: {hints:?}");
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_failing_list_is_tried_again_and_shows_in_the_age() {
        let runtime = runtime().await;
        runtime.fail("ListContainers", 3, Status::internal("busy"));
        let mut watched = watch(&runtime, 16, NEVER, Duration::from_millis(20));
        assert_eq!(watched.observer.last_relist(), None);
        sample::run_pod(&runtime.client(), "u1", "app").await.unwrap();
        assert_eq!(watched.hint().await, "u1");
        let observer = watched.observer.clone();
        runtime.until("a relist worked", |_| observer.last_relist().is_some()).await;
        watched.stop().await;
    }

    #[tokio::test]
    async fn it_ends_when_nobody_listens_any_more() {
        let runtime = runtime().await;
        sample::run_pod(&runtime.client(), "u1", "app").await.unwrap();
        let mut watched = watch(&runtime, 1, NEVER, NEVER);
        watched.hints.close();
        while watched.hints.recv().await.is_some() {}
        timeout(Duration::from_secs(2), watched.tasks.join_next()).await.expect("it ends");
    }
}

mod log_rotation {
    use std::path::Path;

    use ferrolet::runtime::log_rotation::{LogRotator, RotationSettings};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_large_log_is_moved_aside_unless_the_runtime_keeps_it() {
        let runtime = runtime().await;
        let client = runtime.client();
        let logs = tempfile::tempdir().unwrap();
        let folder = logs.path().join("default_pod_u1");
        let sandbox = cri::PodSandboxConfig { log_directory: folder.display().to_string(), ..sample::sandbox("u1", 0) };
        let sandbox_id = client.run_pod_sandbox(sandbox.clone(), "").await.unwrap();
        let container = sample::container("u1", "app", 0);
        let id = client.create_container(&sandbox_id, container, sandbox).await.unwrap();
        client.start_container(&id).await.unwrap();
        let folder = &folder.join("app");
        std::fs::create_dir_all(folder).unwrap();
        let log = folder.join("0.log");
        let settings = RotationSettings {
            root: logs.path().to_owned(),
            max_size: 10,
            max_files: 2,
            workers: 1,
            interval: Duration::from_secs(10),
        };
        let mut rotator = LogRotator::new(client, settings);
        std::fs::write(&log, "small").unwrap();
        rotator.round().await;
        assert_eq!(names(folder), ["0.log"]);

        std::fs::write(&log, "0123456789").unwrap();
        runtime.fail("ReopenContainerLog", 1, Status::internal("not now"));
        rotator.round().await;
        assert_eq!(names(folder), ["0.log"], "moved back");
        rotator.round().await;
        let rotated = names(folder);
        assert!(rotated.len() == 1 && rotated[0].starts_with("0.log."), "the runtime makes the new one: {rotated:?}");
        assert_eq!(std::fs::read(folder.join(&rotated[0])).unwrap(), b"0123456789");

        // A log that is away is asked for.
        let asked = runtime.calls_of("ReopenContainerLog").len();
        rotator.round().await;
        assert_eq!(runtime.calls_of("ReopenContainerLog").len(), asked + 1);
        // Where the log is was asked once.
        assert_eq!(runtime.calls_of("ContainerStatus").len(), 1);
    }
}
