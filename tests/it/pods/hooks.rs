//! Lifecycle hooks and the order of sidecars.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::world::{World, container, pod_with, restarts, uid};
use crate::fake_runtime::Behaviour;

/// How long something is watched not to happen.
const WHILE: Duration = Duration::from_millis(300);

fn hooked(name: &str, lifecycle: Value) -> Value {
    let mut container = container(name);
    container["lifecycle"] = lifecycle;
    container
}

fn exec() -> Value {
    json!({"exec": {"command": ["hook"]}})
}

/// A pod whose container `app` has that lifecycle and ends on its stop signal.
async fn world_with(lifecycle: Value) -> (World, super::world::Agent) {
    let world = World::new().await;
    world.runtime.on_start("app", Behaviour::ExitOnTerm { after: Duration::ZERO, code: 0 });
    let agent = world.agent().await;
    world.api.create(pod_with("a", json!({"containers": [hooked("app", lifecycle)]})));
    (world, agent)
}

#[tokio::test]
async fn the_next_container_and_readiness_wait_for_the_post_start_hook() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let gate = world.runtime.hold("ExecSync");
    let containers = json!([hooked("app", json!({"postStart": exec()})), container("next")]);
    world.api.create(pod_with("a", json!({"containers": containers})));
    world.until_called("a", "ExecSync", 1).await;
    sleep(WHILE).await;
    assert_eq!(world.count("a", "CreateContainer"), 1);
    assert_eq!(world.count("a", "ExecSync"), 1);
    drop(gate);
    world.until_ready("a").await;
    assert_eq!(
        world.changes("a")[1..],
        ["CreateContainer app", "StartContainer app", "CreateContainer next", "StartContainer next"]
    );
    world.assert_sound();
}

#[tokio::test]
async fn a_failed_post_start_hook_stops_its_container() {
    let world = World::new().await;
    let _agent = world.agent().await;
    world.runtime.fail("ExecSync", 1, Status::unknown("no such hook"));
    world.api.create(pod_with("a", json!({"containers": [hooked("app", json!({"postStart": exec()}))]})));
    let status = world.until_status("restarted", "a", |s| super::world::is_ready(s) && restarts(s, "app") == 1).await;
    assert_eq!(super::world::last_end(&status, "app").map(|(code, _)| code), Some(143));
    assert_eq!(world.told("a", "FailedPostStartHook"), ["PostStartHook failed"]);
    assert_eq!(world.told("a", "Killing"), ["FailedPostStartHook"]);
}

#[tokio::test]
async fn a_pod_is_deleted_while_its_post_start_hook_hangs() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let _gate = world.runtime.hold("ExecSync");
    world.api.create(pod_with("a", json!({"containers": [hooked("app", json!({"postStart": exec()}))]})));
    world.until_called("a", "ExecSync", 1).await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    assert!(world.runtime.calls_of("ExecSync")[0].was_cancelled());
    world.assert_sound();
}

#[tokio::test]
async fn a_pre_stop_hook_runs_before_the_stop_signal() {
    let (world, _agent) = world_with(json!({"preStop": exec()})).await;
    world.until_ready("a").await;
    let gate = world.runtime.hold("ExecSync");
    world.api.delete("a", 30);
    world.until_called("a", "ExecSync", 1).await;
    sleep(WHILE).await;
    assert_eq!(world.count("a", "StopContainer"), 0);
    drop(gate);
    world.until_gone(&["a"]).await;
    assert_eq!(world.told("a", "Killing"), ["Stopping container app"]);
    assert_eq!(world.told("a", "FailedPreStopHook"), [""; 0]);
    assert_eq!(world.count("a", "ExecSync"), 1);
}

#[tokio::test]
async fn a_failed_pre_stop_hook_is_told_and_holds_nothing_up() {
    let (world, _agent) = world_with(json!({"preStop": exec()})).await;
    world.until_ready("a").await;
    world.runtime.fail("ExecSync", 1, Status::unknown("no such hook"));
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    assert_eq!(world.told("a", "FailedPreStopHook"), ["PreStopHook failed"]);
}

#[tokio::test]
async fn a_pre_stop_hook_costs_no_more_than_the_grace_period() {
    let (world, _agent) = world_with(json!({"preStop": {"sleep": {"seconds": 100}}})).await;
    world.until_ready("a").await;
    let began = Instant::now();
    world.api.delete("a", 1);
    world.until_gone(&["a"]).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(world.told("a", "FailedPreStopHook"), ["PreStopHook failed"]);
}

#[tokio::test]
async fn a_pre_stop_hook_ends_with_its_container() {
    let (world, _agent) = world_with(json!({"preStop": {"sleep": {"seconds": 100}}})).await;
    world.until_ready("a").await;
    let began = Instant::now();
    world.api.delete("a", 30);
    world.until("told", &["a"], || !world.told("a", "Killing").is_empty()).await;
    let app = world.runtime.running_container(&uid("a"), "app").unwrap();
    world.runtime.kill_container(&app.id, 0);
    world.until_gone(&["a"]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(world.told("a", "FailedPreStopHook"), [""; 0]);
}

#[tokio::test]
async fn another_agent_runs_the_hook_of_an_orphan() {
    let (world, agent) = world_with(json!({"preStop": exec()})).await;
    world.until_ready("a").await;
    agent.kill().await;
    world.api.delete("a", 0);
    let _agent = world.agent().await;
    world.until_gone(&["a"]).await;
    assert_eq!(world.count("a", "ExecSync"), 1);
}

/// Answers requests in plain HTTP, telling each one's head.
async fn server() -> (u16, tokio::sync::mpsc::Receiver<String>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heads, received) = tokio::sync::mpsc::channel(8);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let _ = stream.write_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
            let _ = heads.send(String::from_utf8_lossy(&head[..read]).into_owned()).await;
        }
    });
    (port, received, tasks)
}

#[tokio::test]
async fn any_answer_to_an_http_hook_is_a_success() {
    let (port, mut heads, _server) = server().await;
    let get =
        json!({"host": "127.0.0.1", "port": port, "path": "/bye?x=1", "httpHeaders": [{"name": "X-Y", "value": "z"}]});
    let (world, _agent) = world_with(json!({"preStop": {"httpGet": get}})).await;
    world.until_ready("a").await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    let head = heads.recv().await.unwrap().to_lowercase();
    assert!(head.starts_with("get /bye?x=1 http/1.1\r\n"), "{head}");
    for header in ["user-agent: kube-lifecycle/1.37", "accept: */*", "x-y: z", &format!("host: 127.0.0.1:{port}")] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    assert_eq!(world.told("a", "FailedPreStopHook"), [""; 0]);
}

#[tokio::test]
async fn an_http_hook_goes_where_it_is_sent_on_the_same_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut asked = Vec::new();
        for answer in ["HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n", "HTTP/1.1 204 Done\r\n\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            asked.push(head.split(" HTTP").next().unwrap().to_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    let get = json!({"host": "127.0.0.1", "port": port, "path": "/here now"});
    let (world, _agent) = world_with(json!({"postStart": {"httpGet": get}})).await;
    world.until_ready("a").await;
    assert_eq!(server.join_next().await.unwrap().unwrap(), ["GET /here%20now", "GET /there"]);
}

#[tokio::test]
async fn an_https_hook_falls_back_to_plain_text() {
    let (port, mut heads, _server) = server().await;
    let headers = json!([{"name": "Authorization", "value": "secret"}]);
    let get = json!({"host": "127.0.0.1", "port": port, "scheme": "HTTPS", "httpHeaders": headers});
    let (world, _agent) = world_with(json!({"postStart": {"httpGet": get}})).await;
    world.until_ready("a").await;
    let _hello = heads.recv().await.unwrap();
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && !head.contains("secret"), "{head}");
    let told = format!("request to HTTPS lifecycle hook 127.0.0.1:{port} got HTTP response, retry with HTTP succeeded");
    assert_eq!(world.told("a", "LifecycleHTTPFallback"), [told]);
}

#[tokio::test]
async fn sidecars_end_after_what_they_serve() {
    let world = World::new().await;
    for name in ["app", "first", "second"] {
        world.runtime.on_start(name, Behaviour::ExitOnTerm { after: Duration::from_millis(50), code: 0 });
    }
    let _agent = world.agent().await;
    let sidecar = |name: &str| {
        let mut sidecar = hooked(name, json!({"preStop": exec()}));
        sidecar["restartPolicy"] = "Always".into();
        sidecar
    };
    let spec = json!({"initContainers": [sidecar("first"), sidecar("second")], "containers": [container("app")]});
    world.api.create(pod_with("a", spec));
    world.until_ready("a").await;
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    let calls = world.runtime.calls();
    let began = |rpc: &str, name: &str| calls.iter().find(|c| c.rpc == rpc && c.container == name).unwrap().started;
    assert!(began("StopContainer", "app") < began("StopContainer", "second"));
    assert!(began("StopContainer", "second") < began("StopContainer", "first"));
    for name in ["first", "second"] {
        assert!(began("ExecSync", name) < began("StopContainer", "second"), "hooks run at once");
    }
}
