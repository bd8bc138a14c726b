//! exec, attach, port forwarding, run.

use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Status;

use super::fixture::{Fixture, body, read_all, status, text};
use crate::fake_runtime::StreamAnswer;

const SPDY: &str = "Upgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io\n";
const WEBSOCKET: &str = "Upgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: a2V5\n\
                         Sec-WebSocket-Protocol: v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0\n\
                         Authorization: Bearer secret\nCookie: secret\n";
const EXEC: &str = "/exec/default/pod-u1/app?command=sh&input=1&output=1&error=1";

#[rstest]
#[case("GET", EXEC, WEBSOCKET, "Exec")]
#[case("POST", EXEC, SPDY, "Exec")]
#[case("POST", "/exec/default/pod-u1/u1/app?command=sh&output=1", SPDY, "Exec")]
#[case("POST", "/attach/default/pod-u1/app?input=1&output=1", SPDY, "Attach")]
#[case("GET", "/attach/default/pod-u1/u1/app?input=1&output=1", WEBSOCKET, "Attach")]
#[case("POST", "/portForward/default/pod-u1", SPDY, "PortForward")]
#[case("POST", "/portForward/default/pod-u1/u1", SPDY, "PortForward")]
#[case("GET", "/portForward/default/pod-u1?port=80", WEBSOCKET, "PortForward")]
#[tokio::test]
async fn bytes_go_both_ways(#[case] method: &str, #[case] path: &str, #[case] headers: &str, #[case] rpc: &str) {
    let server = Fixture::start().await;
    let (head, mut stream) = server.upgrade(method, path, headers).await;
    assert_eq!(status(&head), 101, "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io") && !head.contains("cookie"), "{head}");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let written = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    // The client has ended, and still hears what comes after that.
    let (received, ()) = tokio::join!(read_all(&mut reader), written);
    assert_eq!(received.len(), sent.len() + 3);
    assert!(received.starts_with(&sent) && received.ends_with(b"bye"));
    let requests = server.runtime.stream_requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with(&format!("{method} /{}/token HTTP/1.1\r\n", rpc.to_lowercase())), "{requests:?}");
    assert!(!requests[0].contains("secret") && !requests[0].contains("c2VjcmV0"), "{requests:?}");
    let calls = server.runtime.calls_of(rpc);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].object == server.container_id, rpc != "PortForward", "{calls:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_comes_with_the_answer_is_not_lost() {
    let server = Fixture::start().await;
    server.runtime.on_stream(StreamAnswer::Say(b"at once".to_vec()));
    let (head, mut stream) = server.upgrade("POST", EXEC, SPDY).await;
    assert_eq!(status(&head), 101);
    assert_eq!(text(&read_all(&mut stream).await), "at once");
    server.stop().await;
}

#[rstest]
#[case("/exec/default/pod-u1/app?command=sh", 400, "you must specify at least 1 of stdin, stdout, stderr")]
#[case("/exec/default/pod-u1/app?error=1&tty=1", 400, "you must specify at least 1 of stdin, stdout, stderr")]
#[case("/exec/default/nothing/app?output=1", 404, "pod does not exist")]
#[case("/exec/other/pod-u1/app?output=1", 404, "pod does not exist")]
#[case("/exec/default/pod-u1/ended?output=1", 500, "container not found (\"ended\")")]
#[case("/attach/default/pod-u1/ended?output=1", 500, "container ended not found in pod pod-u1_default")]
#[case("/attach/default/pod-u1/u2/app?output=1", 500, "pod pod-u1_default not found")]
#[case("/portForward/default/nothing", 404, "pod does not exist")]
#[case("/portForward/default/pod-u1/u2", 404, "pod not found")]
#[case("/exec/default/pod-u1/app?output=1", 500, "Upgrade request required\n")]
#[tokio::test]
async fn what_cannot_be_is_refused_in_the_peers_words(
    #[case] path: &str,
    #[case] expected: u16,
    #[case] expected_text: &str,
) {
    let server = Fixture::start().await;
    let answer = server.request("POST", path).await;
    assert_eq!((status(&answer), body(&answer)), (expected, expected_text), "{path}");
    let answer = server.request("PUT", path).await;
    assert_eq!(status(&answer), 405);
    assert!(server.runtime.stream_requests().is_empty());
    server.stop().await;
}

#[rstest]
#[case::refused(
    "HTTP/1.1 403 Forbidden\r\nX-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io\r\nContent-Length: 7\r\n\r\nno such",
    403,
    "no such"
)]
#[case::redirected(
    "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    500,
    "invalid upgrade response: status code 302\n"
)]
#[case::not_upgraded(
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    500,
    "invalid upgrade response: status code 200\n"
)]
#[tokio::test]
async fn what_the_runtime_answers_instead_is_told(#[case] raw: &str, #[case] expected: u16, #[case] words: &str) {
    let server = Fixture::start().await;
    server.runtime.on_stream(StreamAnswer::Raw(raw.to_owned()));
    let (head, mut stream) = server.upgrade("POST", EXEC, &format!("{SPDY}Content-Length: 0\n")).await;
    assert_eq!(status(&head), expected, "{head}");
    if expected == 403 {
        assert!(head.contains("x-accepted-stream-protocol-versions: v4.channel.k8s.io"), "{head}");
        assert_eq!(text(&read_all(&mut stream).await), words);
    } else {
        let mut told = vec![0; words.len()];
        stream.read_exact(&mut told).await.unwrap();
        assert_eq!(text(&told), words);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_runtime_that_is_away_or_elsewhere_is_an_error() {
    let server = Fixture::start().await;
    for (url, words) in [
        ("http://127.0.0.1:1", "error dialing backend: "),
        ("http://192.0.2.1:80", "no loopback address"),
        ("https://127.0.0.1:1", "only http is supported"),
    ] {
        server.runtime.promise_streams(url);
        let (head, stream) = server.upgrade("POST", EXEC, SPDY).await;
        assert_eq!(status(&head), 500, "{head}");
        let mut stream = stream;
        let mut told = vec![0; 200];
        let count = stream.read(&mut told).await.unwrap();
        assert!(text(&told[..count]).contains(words), "{}", text(&told));
    }
    for (error, expected) in [(Status::not_found("gone"), 404), (Status::resource_exhausted("many"), 429)] {
        server.runtime.fail("Exec", 1, error);
        let answer = server.request("POST", EXEC).await;
        assert_eq!((status(&answer), answer.contains("retry-after: 60")), (expected, expected == 429), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_silent_stream_ends_and_the_servers_end_cuts_streams_off() {
    let server = Fixture::start_with(|configuration, _| {
        configuration.streaming_connection_idle_timeout = "1s".parse().unwrap();
    })
    .await;
    let (_, mut stream) = server.upgrade("POST", EXEC, SPDY).await;
    let began = tokio::time::Instant::now();
    assert_eq!(text(&read_all(&mut stream).await), "");
    assert!(began.elapsed() >= Duration::from_millis(900));
    server.stop().await;

    let server = Fixture::start().await;
    let (_, mut stream) = server.upgrade("POST", EXEC, SPDY).await;
    server.stop().await;
    assert_eq!(text(&read_all(&mut stream).await), "");
}

#[tokio::test]
async fn a_commands_output_is_the_answer_of_run() {
    let server = Fixture::start().await;
    let answer = server.request("POST", "/run/default/pod-u1/app?cmd=echo+a+b").await;
    assert_eq!((status(&answer), body(&answer)), (200, "echo a b"));
    let answer = server.request("POST", "/run/default/pod-u1/ended?cmd=true").await;
    assert_eq!((status(&answer), body(&answer)), (500, "container not found (\"ended\")"));
    let answer = server.request("GET", "/run/default/pod-u1/app?cmd=true").await;
    assert_eq!(status(&answer), 405);
    server.stop().await;
}

#[tokio::test]
async fn checkpoints_are_asked_for_with_the_peers_checks() {
    let server = Fixture::start().await;
    let answer = server.request("POST", "/checkpoint/default/pod-u1/nothing").await;
    assert_eq!((status(&answer), body(&answer)), (404, "container nothing does not exist"));
    let answer = server.request("POST", "/checkpoint/default/pod-u1/app?timeout=x").await;
    assert_eq!((status(&answer), body(&answer)), (404, "cannot parse value of timeout parameter"));
    let answer = server.request("POST", "/checkpoint/default/pod-u1/app").await;
    let words = "checkpointing of default/pod-u1/app failed (the fake runtime does not serve CheckpointContainer)";
    assert_eq!((status(&answer), body(&answer)), (500, words));
    server.stop().await;
}
