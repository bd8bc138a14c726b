//! Probes, lifecycle hooks and sidecars on real containers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{ContainerStateRunning, Pod};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::harness::*;

/// A probe by a shell test, every second.
fn test(condition: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", format!("test {condition}")]}, "periodSeconds": 1, "failureThreshold": 1})
}

fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script]})
}

fn running(pod: &Pod, name: &str) -> Option<ContainerStateRunning> {
    find_container(pod, name)?.state?.running
}

fn is_started(pod: &Pod, name: &str) -> bool {
    find_container(pod, name).is_some_and(|c| c.started == Some(true))
}

fn ready_since(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready")?;
    Some((ready.status.clone(), ready.last_transition_time.as_ref()?.0.to_string()))
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_container_that_is_not_alive_runs_its_hook_and_is_restarted() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("liveness").await;
    let script = "trap 'echo term >> /dev/termination-log; exit 0' TERM; touch /alive; sleep 3; rm /alive; \
                  while true; do sleep 0.1; done";
    let mut c = shell("c", script);
    c["livenessProbe"] = test("-e /alive");
    c["livenessProbe"]["initialDelaySeconds"] = json!(1);
    let hook = "echo hook >> /dev/termination-log; sleep 1; echo after >> /dev/termination-log";
    c["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", hook]}}});
    let spec = json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 10, "containers": [c]});
    let pod = namespace.pod("p", spec).await;
    let runs_again = |p: &Pod| running(p, "c").is_some() && container(p, "c").restart_count == 1;
    let restarted = namespace.wait_pod("p", "a restart", 60, runs_again).await;
    let last = container(&restarted, "c").last_state.unwrap().terminated.unwrap();
    // It ended well on its stop signal, after its hook, and is restarted all the same.
    assert_eq!((last.exit_code, last.message.as_deref()), (0, Some("hook\nafter\nterm\n")));
    namespace.wait_event("p", "Unhealthy").await;
    let killing = namespace.wait_event("p", "Killing").await;
    assert_eq!(killing.message.as_deref(), Some("Container c failed liveness probe, will be restarted"));
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn readiness_follows_its_probe_and_outlives_the_agent() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("readiness").await;
    let mut c = shell("c", "sleep 2; touch /ready; sleep 100000");
    c["readinessProbe"] = test("-e /ready");
    c["startupProbe"] = test("-d /tmp");
    let pod = namespace.pod("p", json!({"containers": [c]})).await;
    let started = namespace.wait_pod("p", "started", 30, |p| is_started(p, "c")).await;
    assert!(!container(&started, "c").ready);
    let ready = ready_since(&namespace.wait_ready("p").await);
    agent.kill().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    // Long enough for the new agent to have published and probed.
    for _ in 0..50 {
        assert_eq!(ready_since(&namespace.get("p").await.unwrap()), ready);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn containers_wait_for_sidecars_and_for_post_start_hooks() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("sidecars").await;
    let mut side = shell("side", "sleep 2; touch /up; trap 'exit 0' TERM; while true; do sleep 0.1; done");
    side["restartPolicy"] = json!("Always");
    side["startupProbe"] = test("-e /up");
    side["startupProbe"]["failureThreshold"] = json!(30);
    let mut first = shell("first", "sleep 100000");
    first["lifecycle"] = json!({"postStart": {"exec": {"command": ["sleep", "2"]}}});
    let spec = json!({"initContainers": [side], "containers": [first, shell("second", "sleep 100000")]});
    let pod = namespace.pod("p", spec).await;
    let pod_now = namespace.wait_ready("p").await;
    let started = |name: &str| running(&pod_now, name).unwrap().started_at.unwrap().0;
    assert!(started("first").duration_since(started("side")).as_secs() >= 2, "the sidecar has to start up");
    assert!(started("second").duration_since(started("first")).as_secs() >= 2, "the hook has to end");

    let mut fails = shell("c", "sleep 100000");
    fails["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 3"]}}});
    let failing = namespace.pod("f", json!({"containers": [fails]})).await;
    let reason = "PostStartHookError";
    let waits = |p: &Pod| {
        waiting_reason(p, "c").as_deref() == Some(reason) || find_container(p, "c").is_some_and(|c| c.restart_count > 0)
    };
    namespace.wait_pod("f", reason, 60, waits).await;
    let event = namespace.wait_event("f", "FailedPostStartHook").await;
    assert_eq!(event.message.as_deref(), Some("PostStartHook failed"));
    namespace.clean_up(&[uid(&pod), uid(&failing)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_pod_has_users_of_its_own_and_files_from_volumes() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("userns").await;
    let script = "cat /proc/self/uid_map > /dev/termination-log; echo $FROM_FILE >> /dev/termination-log";
    let mut c = shell("c", script);
    c["env"] =
        json!([{"name": "FROM_FILE", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "e", "key": "A"}}}]);
    let mut init = shell("init", "echo \"A='1'\" > /v/e");
    init["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let spec = json!({
        "hostUsers": false,
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [init],
        "containers": [c],
    });
    let pod = namespace.pod("p", spec).await;
    let message = namespace.message("p").await;
    let words: Vec<&str> = message.split_whitespace().collect();
    assert_eq!((words[0], words[2], words[3]), ("0", "65536", "1"), "{message}");
    assert!(words[1].parse::<u32>().unwrap() >= 65_536, "{message}");
    namespace.clean_up(&[uid(&pod)]).await;
}

/// A server that speaks HTTP/2 over TLS and nothing else. It counts the requests.
struct Http2Server {
    port: u16,
    asked: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Http2Server {
    async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["probed".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        // Who offers another protocol alone is refused.
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (asked_here, refused_here) = (asked.clone(), refused.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let stream = match acceptor.accept(stream).await {
                    Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => stream,
                    _ => {
                        refused_here.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                };
                let answer = hyper::service::service_fn(|_: http::Request<hyper::body::Incoming>| {
                    asked_here.fetch_add(1, Ordering::Relaxed);
                    let body = http_body_util::Full::new(bytes::Bytes::from("well"));
                    std::future::ready(http::Response::builder().status(200).body(body))
                });
                let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = server.serve_connection(hyper_util::rt::TokioIo::new(stream), answer).await;
            }
        });
        Http2Server { port, asked, refused, _tasks: tasks }
    }
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_server_that_speaks_http2_alone_is_probed() {
    let server = Http2Server::start().await;
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("http2").await;
    let get = json!({"scheme": "HTTPS", "host": "127.0.0.1", "port": server.port, "path": "/healthz"});
    let probe = json!({"httpGet": get, "periodSeconds": 1, "failureThreshold": 1});
    let c = json!({
        "name": "c", "image": PAUSE,
        "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe,
    });
    let pod = namespace.pod("p", json!({"containers": [c]})).await;
    namespace.wait_ready("p").await;
    let before = server.asked.load(Ordering::Relaxed);
    wait("more probes", 30, async || (server.asked.load(Ordering::Relaxed) >= before + 6).then_some(())).await;
    let status = namespace.get("p").await.unwrap();
    assert_eq!((container(&status, "c").restart_count, container(&status, "c").ready), (0, true));
    assert_eq!(server.refused.load(Ordering::Relaxed), 0);
    namespace.clean_up(&[uid(&pod)]).await;
}
