//! What `kubectl` streams of a pod, through the API server: logs, commands, attached containers, ports, files.

use std::process::{Output, Stdio};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::harness::*;

fn kubectl_in(namespace: &TestNamespace, arguments: &[&str]) -> Command {
    kubectl(&[&["-n", &namespace.name], arguments].concat())
}

async fn run(namespace: &TestNamespace, arguments: &[&str]) -> Output {
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), kubectl_in(namespace, arguments).output());
    output.await.unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end")).unwrap()
}

async fn stdout(namespace: &TestNamespace, arguments: &[&str]) -> String {
    let output = run(namespace, arguments).await;
    assert!(output.status.success(), "kubectl {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn commands_run_in_containers() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("exec").await;
    let pod = namespace.script("p", "sleep 1000", "Always").await;
    namespace.wait_ready("p").await;
    for websockets in ["true", "false"] {
        let mut command = kubectl_in(&namespace, &["exec", "-i", "p", "--", "sh", "-c", "cat; echo err >&2; exit 7"]);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // More than any buffer holds; its end is told to the command.
        let sent = "0123456789".repeat(200_000);
        let mut stdin = child.stdin.take().unwrap();
        let written = async {
            stdin.write_all(sent.as_bytes()).await.unwrap();
            drop(stdin);
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), written);
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(7));
        assert!(output.stdout == sent.as_bytes(), "{} bytes", output.stdout.len());
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("err\n"));
    }
    // kubectl asks for a terminal only if it has one.
    let line = format!("{} -n {} exec -it p -- tty", program("kubectl").display(), namespace.name);
    let terminal = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let terminal = tokio::time::timeout(std::time::Duration::from_secs(60), terminal).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&terminal.stdout).contains("/dev/pts/"), "{terminal:?}");
    let refused = run(&namespace, &["exec", "p", "-c", "nothing", "--", "true"]).await;
    assert!(!refused.status.success());
    let file = std::env::temp_dir().join(format!("ferrolet-cp-{}", std::process::id()));
    std::fs::write(&file, vec![42; 3_000_000]).unwrap();
    stdout(&namespace, &["cp", file.to_str().unwrap(), "p:/tmp/f"]).await;
    assert_eq!(stdout(&namespace, &["exec", "p", "--", "sh", "-c", "wc -c < /tmp/f"]).await.trim(), "3000000");
    let back = file.with_extension("back");
    stdout(&namespace, &["cp", "p:/tmp/f", back.to_str().unwrap()]).await;
    assert!(std::fs::read(&back).unwrap() == vec![42; 3_000_000]);
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_container_is_attached_to_and_a_port_forwarded() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("attach").await;
    let script = "mkdir /w; echo served > /w/index.html; httpd -p 8080 -h /w; while read l; do echo \"got $l\"; done";
    let container = json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], "stdin": true});
    let pod = namespace.pod("p", json!({"containers": [container]})).await;
    namespace.wait_ready("p").await;
    let mut attached = kubectl_in(&namespace, &["attach", "-i", "p"]);
    let mut attached = attached.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    attached.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let mut lines = BufReader::new(attached.stdout.take().unwrap()).lines();
    let echoed = async { while lines.next_line().await.unwrap().expect("an echo") != "got hello" {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), echoed).await.unwrap();
    let mut forward = kubectl_in(&namespace, &["port-forward", "p", ":8080"]);
    let mut forward = forward.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.split_whitespace().nth(2).unwrap().to_owned();
    for _ in 0..3 {
        let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("served\n"), "{answer}");
    }
    drop((attached, forward));
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn pods_and_the_node_are_debugged() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("debug").await;
    let pod = namespace.script("p", "sleep 100001", "Always").await;
    namespace.wait_ready("p").await;
    let image = format!("--image={BUSYBOX}");
    let look = ["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"];
    let arguments = ["debug", "p", &image, "--container=look", "--target=c", "--profile=general", "--"];
    stdout(&namespace, &[&arguments[..], &look].concat()).await;
    wait("the target's command", 30, async || {
        let logs = run(&namespace, &["logs", "p", "-c", "look"]).await;
        String::from_utf8(logs.stdout).unwrap().contains("sleep 100001").then_some(())
    })
    .await;
    let node = format!("node/{}", node_name());
    stdout(&namespace, &["debug", &node, &image, "--profile=general", "--", "test", "-e", "/host/etc/passwd"]).await;
    let pods = namespace.pods().await;
    let debugger = pods.iter().find(|pod| pod.metadata.name.as_deref().unwrap().starts_with("node-debugger-")).unwrap();
    namespace.wait_phase(debugger.metadata.name.as_deref().unwrap(), "Succeeded").await;
    namespace.clean_up(&[uid(&pod), uid(debugger)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn logs_are_shown_and_followed() {
    let _agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("logs").await;
    // The runtime reads the two streams apart from each other: what is written at the same time comes in any order.
    let script = "for i in 1 2 3; do echo line $i; done; sleep 1; echo err >&2; sleep 2; echo late; exit 3";
    let pod = namespace.script("p", script, "OnFailure").await;
    namespace.wait_ready("p").await;
    // Ends with the container.
    let followed = stdout(&namespace, &["logs", "-f", "p"]).await;
    assert!(followed.ends_with("late\n") && followed.starts_with("line 1\nline 2\nline 3\n"), "{followed}");
    namespace.wait_pod("p", "a restart", 60, |p| container(p, "c").restart_count >= 1).await;
    let previous = stdout(&namespace, &["logs", "--previous", "p"]).await;
    assert!(previous.contains("late") && previous.contains("err"), "{previous}");
    assert_eq!(stdout(&namespace, &["logs", "--tail=1", "--previous", "p"]).await, "late\n");
    let timed = stdout(&namespace, &["logs", "--timestamps", "--since=1h", "--previous", "p"]).await;
    for line in timed.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.parse::<k8s_openapi::jiff::Timestamp>().is_ok() && time.len() >= 30, "{line}");
    }
    assert_eq!(stdout(&namespace, &["logs", "--limit-bytes=6", "--previous", "p"]).await, "line 1");
    let absent = run(&namespace, &["logs", "p", "-c", "nothing"]).await;
    assert!(!absent.status.success());
    namespace.clean_up(&[uid(&pod)]).await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_log_is_rotated_while_it_is_followed() {
    let flags = ["--container-log-max-size=100Ki", "--container-log-max-files=3"];
    let _agent = Agent::launch(Kind::Ferrolet, &flags).await;
    let namespace = TestNamespace::create("rotation").await;
    // Each round is larger than a log may become, and takes about as long as it takes until logs are looked at again.
    let script = "for r in 1 2 3 4; do \
        awk -v r=$r 'BEGIN { for (i = 0; i < 3000; i++) printf(\"%d %d %080d\\n\", r, i, 0) }'; sleep 11; done";
    let pod = namespace.script("p", script, "Never").await;
    namespace.wait_ready("p").await;
    let followed = stdout(&namespace, &["logs", "-f", "p"]).await;
    let expected = (1..=4).flat_map(|round| (0..3000).map(move |line| format!("{round} {line} {:080}", 0)));
    assert!(followed.lines().map(str::to_owned).eq(expected), "{} lines", followed.lines().count());
    let uid = uid(&pod);
    let folder = format!("/var/log/pods/{}_p_{uid}/c", namespace.name);
    let mut files: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files[0] == "0.log" && files[1].ends_with(".gz") && !files[2].ends_with(".gz"), "{files:?}");
    namespace.clean_up(&[uid]).await;
}
