//! Clients that send too much, too slowly or nothing, or do not read: the server stays within its bounds and serves others.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::listener::Limits;
use super::tests::{Fixture, read_all, status};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn large_requests_are_refused() {
    let server = Fixture::usual().await;
    let head = "POST /pods HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n";
    let answer = server.send(None, &format!("{head}Content-Length: 99999999999\r\n\r\n")).await;
    assert_eq!((status(&answer), answer.contains("connection: close")), (413, true), "{answer}");
    let answer = server.send(None, &format!("GET /pods HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000))).await;
    assert_eq!(status(&answer), 431, "{answer}");
    let long = "x".repeat(70_000);
    assert_ne!(status(&server.get(&format!("/{long}"), Some("admin")).await), 200);
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_100_mb_is_not_taken() {
    const SIZE: usize = 100 << 20;
    let server = Fixture::usual().await;
    for (path, length, code) in [
        ("/pods", format!("Content-Length: {SIZE}"), 413),
        ("/pods", "Transfer-Encoding: chunked".to_owned(), 405),
        // Without anything that looks at it.
        ("/healthz", "Transfer-Encoding: chunked".to_owned(), 200),
    ] {
        let mut stream = server.connect_as(None).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let body = async {
            let piece = [&b"10000\r\n"[..], &[7; 0x10000], b"\r\n"].concat();
            let mut sent = 0;
            while sent < SIZE && matches!(timeout(SOON, writer.write_all(&piece)).await, Ok(Ok(()))) {
                sent += piece.len();
            }
            sent
        };
        let (sent, answer) = tokio::join!(body, read_all(&mut reader));
        // As much as the sockets hold.
        assert!(sent < SIZE / 2, "{path}: {sent} bytes were taken");
        assert!(answer.is_empty() || status(&answer) == code, "{path}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let limits = Limits { write_stall: Duration::from_millis(700), ..Limits::default() };
    let server = Fixture::start(|_, _| {}, limits).await;
    let mut stream = server.connect_as(None).await;
    let request = b"GET /configz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n";
    // Asks for more than the sockets hold, until nothing is taken any more.
    let (began, mut asked) = (Instant::now(), 0);
    while began.elapsed() < 3 * SOON && matches!(timeout(SOON, stream.write_all(request)).await, Ok(Ok(()))) {
        asked += 1;
    }
    assert!(began.elapsed() < 3 * SOON, "{asked} requests, and it still listens");
    let answered = read_all(&mut stream).await.matches("HTTP/1.1 200 OK").count();
    assert!(0 < answered && answered < asked, "{answered} of {asked} were answered");
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    server.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_others_get_their_turn() {
    let limits = Limits {
        connections: 4,
        handshake: Duration::from_millis(700),
        first_request: Duration::from_millis(700),
        idle: Duration::from_millis(700),
        ..Limits::default()
    };
    let server = Fixture::start(|_, _| {}, limits).await;
    // Says nothing, not even the handshake.
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Begins a request, and does not end it.
    let mut slow = server.connect_as(None).await;
    slow.write_all(b"GET /pods HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    // Asked, and is idle.
    let mut idle = server.connect_as(None).await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n").await.unwrap();
    let started = tokio::time::Instant::now();
    assert!(read_all(&mut silent[0]).await.is_empty());
    assert_eq!(read_all(&mut slow).await, "");
    let answered = read_all(&mut idle).await;
    assert!(answered.starts_with("HTTP/1.1 200") && answered.ends_with("ok"), "{answered}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    server.stop().await;
}

#[tokio::test]
async fn however_many_connections_are_idle_who_asks_is_served() {
    let server = Fixture::start(|_, _| {}, Limits { connections: 8, ..Limits::default() }).await;
    // Without handshake, and with one.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let started = tokio::time::Instant::now();
    let mut shaken = Vec::new();
    for _ in 0..20 {
        shaken.push(server.connect_as(None).await);
    }
    // One that has asked keeps its place.
    let mut busy = server.connect_as(None).await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n\r\n";
    let mut first = [0; 12];
    busy.write_all(request).await.unwrap();
    busy.read_exact(&mut first).await.unwrap();
    for _ in 0..20 {
        shaken.push(server.connect_as(None).await);
    }
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    busy.write_all(request).await.unwrap();
    busy.read_exact(&mut first).await.unwrap();
    // Nobody had to wait for the time limits of those that are idle.
    assert!(started.elapsed() < Limits::default().first_request);
    drop((idle, shaken));
    server.stop().await;
}

#[tokio::test]
async fn of_10_000_idle_connections_no_more_are_kept_than_may_be() {
    const COUNT: usize = 10_000;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let server = Fixture::usual().await;
    let mut idle = Vec::new();
    for _ in 0..COUNT {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let began = Instant::now();
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    assert!(began.elapsed() < Limits::default().first_request, "it had to wait for those that are idle");
    // Those that had to leave were told so, before their time.
    let is_open = |connection: &&TcpStream| connection.try_read(&mut [0]).is_err();
    while idle.iter().filter(is_open).count() > Limits::default().connections {
        assert!(began.elapsed() < Limits::default().first_request);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}
