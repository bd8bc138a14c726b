//! Logs of containers.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::fixture::{Fixture, body, read_all, status, text};

const LOGS: &str = "/containerLogs/default/pod-u1/app";

fn line(text: &str) -> String {
    format!("2026-01-02T03:04:05.6Z stdout F {text}\n")
}

fn append(path: &Path, lines: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
}

/// What is sent in chunks, put together.
fn joined(answer: &str) -> String {
    let (mut rest, mut all) = (body(answer), String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        all += &after[..size];
        rest = &after[size + 2..];
        if size == 0 {
            break;
        }
    }
    all
}

async fn log(server: &Fixture, query: &str) -> String {
    let answer = server.request("GET", &format!("{LOGS}?{query}")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    joined(&answer)
}

#[tokio::test]
async fn a_log_is_read_as_asked() {
    let server = Fixture::start().await;
    let log_file = [line("one"), line("two"), "2026-01-02T03:04:07Z stderr F three\n".to_owned()].concat();
    std::fs::write(server.log(), log_file).unwrap();
    assert_eq!(log(&server, "").await, "one\ntwo\nthree\n");
    assert_eq!(log(&server, "tailLines=2").await, "two\nthree\n");
    assert_eq!(log(&server, "tail=1&timestamps=true").await, "2026-01-02T03:04:07.000000000Z three\n");
    assert_eq!(log(&server, "sinceTime=2026-01-02T03:04:06Z").await, "three\n");
    assert_eq!(log(&server, "sinceSeconds=5").await, "");
    assert_eq!(log(&server, "limitBytes=6").await, "one\ntw");
    assert_eq!(log(&server, "tailLines=0").await, "");
    server.stop().await;
}

#[rstest]
#[case(&format!("{LOGS}?tailLines=x"), 400, "{\"message\": \"Unable to decode query.\"}")]
#[case(&format!("{LOGS}?limitBytes=0"), 422, "{\"message\": \"Invalid request.\"}")]
#[case("/containerLogs/default/nothing/app", 404, "pod \"nothing\" does not exist")]
#[case("/containerLogs/default/pod-u1/nothing", 404, "container \"nothing\" not found in pod \"pod-u1\"")]
#[case("/containerLogs/default/pod-u1/ended", 400, "container \"ended\" in pod \"pod-u1\" is not available")]
#[case(&format!("{LOGS}?previous=true"), 400, "previous terminated container \"app\" in pod \"pod-u1\" not found")]
#[case(&format!("{LOGS}?stream=Stderr"), 400,
       "unable to return the given log stream: \"Stderr\". Please enable PodLogsQuerySplitStreams feature gate in kubelet")]
#[tokio::test]
async fn what_cannot_be_is_refused_in_the_peers_words(#[case] path: &str, #[case] code: u16, #[case] words: &str) {
    let server = Fixture::start().await;
    std::fs::write(server.log(), line("one")).unwrap();
    let answer = server.request("GET", path).await;
    assert_eq!((status(&answer), body(&answer)), (code, words));
    assert_eq!(status(&server.request("POST", path).await), 405);
    server.stop().await;
}

#[tokio::test]
async fn a_log_that_leads_elsewhere_or_is_away_is_an_error() {
    let server = Fixture::start().await;
    let secret = server.folder.path().join("secret");
    std::fs::write(&secret, line("secret")).unwrap();
    std::os::unix::fs::symlink(&secret, server.log()).unwrap();
    for what in ["a link", "nothing"] {
        let answer = server.request("GET", LOGS).await;
        assert_eq!(status(&answer), 400, "{what}");
        assert!(body(&answer).starts_with("failed to open log file") && !answer.contains("F secret"), "{answer}");
        let _ = std::fs::remove_file(server.log());
    }
    std::fs::write(server.log(), "nonsense\n").unwrap();
    let told = log(&server, "").await;
    assert_eq!(told, "failed to get parse function: unsupported log format: \"nonsense\\n\"");
    server.runtime.lose_container(&server.container_id);
    let answer = server.request("GET", LOGS).await;
    let words = format!("unable to retrieve container logs for fake://{}", server.container_id);
    assert_eq!((status(&answer), body(&answer)), (400, words.as_str()));
    server.stop().await;
}

/// The lines of a log that is followed, as they come.
struct Followed(Lines<BufReader<TlsStream<TcpStream>>>);

impl Followed {
    async fn begin(server: &Fixture, query: &str) -> Self {
        let stream = server.send(&format!("GET {LOGS}?follow=true{query} HTTP/1.0\nHost: x\n\n")).await;
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.next_line().await.unwrap().unwrap().contains("200 OK"));
        while !lines.next_line().await.unwrap().unwrap().is_empty() {}
        Followed(lines)
    }

    async fn next(&mut self) -> Option<String> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.0.next_line());
        next.await.expect("a line in time").ok().flatten()
    }
}

#[tokio::test]
async fn a_log_is_followed_over_rotations_until_the_container_ends() {
    let server = Fixture::start().await;
    let path = server.log();
    append(&path, &[line("one"), line("two")].concat());
    let mut followed = Followed::begin(&server, "&tailLines=1").await;
    assert_eq!(followed.next().await.unwrap(), "two");
    append(&path, &line("three"));
    assert_eq!(followed.next().await.unwrap(), "three");
    // A line that is not yet whole waits.
    append(&path, "2026-01-02T03:04:05.6Z stdout F fo");
    append(&path, "ur\n");
    assert_eq!(followed.next().await.unwrap(), "four");
    for number in 0..3 {
        let mut old = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::fs::rename(&path, path.with_extension(format!("log.{number}"))).unwrap();
        old.write_all(line(&format!("late {number}")).as_bytes()).unwrap();
        append(&path, &line(&format!("new {number}")));
        assert_eq!(followed.next().await.unwrap(), format!("late {number}"));
        assert_eq!(followed.next().await.unwrap(), format!("new {number}"));
    }
    append(&path, &line("last"));
    server.runtime.kill_container(&server.container_id, 0);
    append(&path, "2026-01-02T03:04:05.6Z stdout F unfinished");
    assert_eq!(followed.next().await.unwrap(), "last");
    assert_eq!(followed.next().await.unwrap(), "unfinished");
    assert_eq!(followed.next().await, None);
    server.stop().await;
}

#[tokio::test]
async fn following_an_ended_container_ends_and_a_runtime_that_is_away_ends_nothing() {
    let server = Fixture::start().await;
    append(&server.log(), &line("one"));
    let mut followed = Followed::begin(&server, "").await;
    assert_eq!(followed.next().await.unwrap(), "one");
    server.runtime.stop().await;
    append(&server.log(), &line("two"));
    assert_eq!(followed.next().await.unwrap(), "two");
    server.runtime.resume().await;
    server.runtime.kill_container(&server.container_id, 0);
    append(&server.log(), &line("three"));
    assert_eq!(followed.next().await.unwrap(), "three");
    assert_eq!(followed.next().await, None);
    assert_eq!(log(&server, "follow=true").await, "one\ntwo\nthree\n");
    server.stop().await;
}

/// Whether this process hears of changes in a directory, by what the kernel tells of its inotify instances (proc_pid_fdinfo(5)).
fn is_watched(directory: &Path) -> bool {
    let inode = format!(" ino:{:x} ", std::fs::metadata(directory).unwrap().ino());
    let files = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let watches = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    watches
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .any(|line| line.starts_with("inotify ") && line.contains(&inode))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_client_that_goes_ends_the_following() {
    let server = Fixture::start().await;
    append(&server.log(), &line("one"));
    let mut followed = Followed::begin(&server, "").await;
    assert_eq!(followed.next().await.unwrap(), "one");
    let folder = server.log().parent().unwrap().to_owned();
    until("the log's directory is watched", || is_watched(&folder)).await;
    drop(followed);
    until("nobody watches it any more", || !is_watched(&folder)).await;
    server.stop().await;
}

#[tokio::test]
async fn a_large_log_reaches_a_slow_client_whole() {
    const LINES: usize = 200_000;
    let server = Fixture::start().await;
    let mut log_file = String::new();
    for number in 0..LINES {
        log_file += &line(&format!("{number:099}"));
    }
    std::fs::write(server.log(), log_file).unwrap();
    let mut stream = server.send(&format!("GET {LOGS} HTTP/1.0\nHost: x\n\n")).await;
    // All that the sockets hold is there, and it is not all of the log: the server waits for the client.
    let mut held = 0;
    loop {
        let now = rustix::io::ioctl_fionread(stream.get_ref().0).unwrap();
        if now > 0 && now == held {
            break;
        }
        held = now;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(held < 100 * LINES as u64, "{held}");
    let answer = text(&read_all(&mut stream).await);
    let lines: Vec<&str> = body(&answer).lines().collect();
    assert_eq!(lines.len(), LINES);
    assert_eq!(lines[LINES - 1], format!("{:099}", LINES - 1));
    server.stop().await;
}

#[tokio::test]
async fn the_nodes_own_logs_are_listed_unless_that_is_turned_off() {
    let server = Fixture::start().await;
    let answer = server.request("GET", "/logs/").await;
    assert_eq!(status(&answer), 200);
    assert!(joined_or_whole(&answer).starts_with("<!doctype html>\n"), "{answer}");
    for path in ["/logs/../passwd", "/logs/%2e%2e/passwd", "/logs/absent-file-of-nobody", "/logs//etc/passwd"] {
        assert_eq!(status(&server.request("GET", path).await), 404, "{path}");
    }
    server.stop().await;
    let server = Fixture::start_with(|configuration, _| configuration.enable_system_log_handler = false).await;
    let answer = server.request("GET", "/logs/").await;
    assert_eq!((status(&answer), body(&answer)), (405, "logs endpoint is disabled.\n"));
    server.stop().await;
    let server = Fixture::start_with(|configuration, _| configuration.enable_system_log_query = true).await;
    let answer = server.request("GET", "/logs/?tailLines=3").await;
    assert_eq!((status(&answer), body(&answer)), (406, "query: Required value: cannot be empty with options\n"));
    let answer = server.request("GET", "/logs/x?query=kubelet").await;
    assert_eq!((status(&answer), body(&answer)), (406, "path not allowed in query mode\n"));
    let answer = server.request("GET", "/logs/?query=service-of-nobody").await;
    assert_eq!((status(&answer), joined(&answer).as_str()), (200, "\nlog not found for service-of-nobody\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_query_of_the_nodes_logs_is_answered_in_gzip_if_that_is_asked_for() {
    let server = Fixture::start_with(|configuration, _| configuration.enable_system_log_query = true).await;
    let ask = async |headers: &str| {
        let head = format!("GET /logs/?query=service-of-nobody HTTP/1.0\nHost: x\n{headers}\n");
        let answer = read_all(&mut server.send(&head).await).await;
        let at = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        (text(&answer[..at]), answer[at + 4..].to_vec())
    };
    let (plain_head, plain) = ask("").await;
    assert!(!plain_head.contains("content-encoding"), "{plain_head}");
    let (head, body) = ask("Accept-Encoding: gzip\n").await;
    assert!(head.contains("content-encoding: gzip") && head.contains("text/plain;charset=UTF-8"), "{head}");
    let mut expanded = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut expanded).unwrap();
    assert_eq!((text(&expanded), text(&plain).as_str()), (text(&plain), "\nlog not found for service-of-nobody\n"));
    // As the kubelet, which looks for this word alone.
    assert_eq!(ask("Accept-Encoding: gzip, deflate\n").await.1, plain);
    server.stop().await;
}

fn joined_or_whole(answer: &str) -> String {
    if answer.contains("transfer-encoding: chunked") { joined(answer) } else { body(answer).to_owned() }
}
