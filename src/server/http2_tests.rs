//! The HTTPS server over HTTP/2: many requests on a connection, and clients that misuse that.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONNECTION};
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::listener::Limits;
use super::tests::{Fixture, status};

const SOON: Duration = Duration::from_secs(10);
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A connection, and how it ended.
struct Client {
    requests: SendRequest<Body>,
    connection: JoinSet<hyper::Result<()>>,
}

impl Client {
    async fn connect(server: &Fixture) -> Self {
        let stream = server.connect_offering(None, BOTH).await;
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        Client { requests, connection: connections }
    }

    fn ask(&self, method: Method, path: &str, token: &str, body: Body) -> impl Future<Output = hyper::Result<Answer>> {
        let request = Request::builder().method(method).uri(format!("https://node{path}"));
        let request = request.header(AUTHORIZATION, format!("Bearer {token}")).body(body).unwrap();
        let mut requests = self.requests.clone();
        async move {
            let answer = requests.send_request(request).await?;
            let (head, body) = answer.into_parts();
            assert!(!head.headers.contains_key(CONNECTION));
            Ok(Answer { status: head.status, body: body.collect().await?.to_bytes() })
        }
    }

    async fn get(&self, path: &str, token: &str) -> hyper::Result<Answer> {
        self.ask(Method::GET, path, token, Body::empty()).await
    }

    async fn ended(&mut self) {
        timeout(SOON, self.connection.join_next()).await.expect("an end");
    }
}

struct Answer {
    status: StatusCode,
    body: Bytes,
}

#[tokio::test]
async fn what_is_spoken_is_what_the_client_offers() {
    let server = Fixture::usual().await;
    for (offered, spoken) in [(BOTH, Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)] {
        let mut stream = server.connect_offering(None, offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), spoken);
        if spoken != Some(b"h2") {
            stream.write_all(b"GET /pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            assert_eq!(status(&super::tests::read_all(&mut stream).await), 401);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_share_a_connection() {
    let server = Fixture::usual().await;
    let client = Client::connect(&server).await;
    let one = client.get("/configz", "admin").await.unwrap();
    for answer in join_all((0..200).map(|_| client.get("/configz", "admin"))).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, &answer.body), (StatusCode::OK, &one.body));
    }
    for (method, path, token, expected) in [
        (Method::GET, "/pods", "pods", StatusCode::OK),
        (Method::GET, "/configz", "pods", StatusCode::FORBIDDEN),
        (Method::POST, "/pods", "admin", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/nothing", "admin", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(client.ask(method, path, token, Body::empty()).await.unwrap().status, expected, "{path} {token}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let server = Fixture::usual().await;
    let client = Client::connect(&server).await;
    let answer = client.ask(Method::POST, "/pods", "admin", Body::from(vec![7; 2 << 20])).await;
    // The rest of the body is not waited for.
    assert!(answer.is_ok_and(|answer| answer.status == StatusCode::PAYLOAD_TOO_LARGE));
    let client = Client::connect(&server).await;
    let answer = client.get("/pods", &"x".repeat(70_000)).await.unwrap();
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    server.stop().await;
}

#[tokio::test]
async fn a_caller_without_credentials_holds_no_connection() {
    let limits = Limits { first_request: Duration::from_millis(700), ..Limits::default() };
    let server = Fixture::start(|_, _| {}, limits).await;
    let mut client = Client::connect(&server).await;
    assert_eq!(client.get("/pods", "admin").await.unwrap().status, StatusCode::OK);
    let refused = client.get("/pods", "wrong").await.unwrap();
    assert_eq!((refused.status, &refused.body[..]), (StatusCode::UNAUTHORIZED, &b"Unauthorized"[..]));
    client.ended().await;
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_ends_and_so_does_one_on_which_nothing_is_asked() {
    let (idle, first_request) = (Duration::from_millis(900), Duration::from_millis(700));
    let server = Fixture::start(|_, _| {}, Limits { idle, first_request, ..Limits::default() }).await;
    let mut silent = Client::connect(&server).await;
    let mut used = Client::connect(&server).await;
    assert_eq!(used.get("/pods", "admin").await.unwrap().status, StatusCode::OK);
    let began = Instant::now();
    silent.ended().await;
    used.ended().await;
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    server.stop().await;
}

/// A connection that speaks bytes: the client's preface is said.
async fn raw(server: &Fixture, settings: &[(u16, u32)]) -> TlsStream<TcpStream> {
    let mut stream = server.connect_offering(None, BOTH).await;
    let settings: Vec<u8> =
        settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
    stream
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET https://x/configz` with a token (RFC 7541).
fn request(stream: u32, token: &str) -> Vec<u8> {
    let mut headers = vec![0x82, 0x87, 0x04, 8];
    headers.extend_from_slice(b"/configz");
    headers.extend_from_slice(&[0x01, 1, b'x', 0x0f, 0x08, u8::try_from(token.len()).unwrap() + 7]);
    headers.extend_from_slice(format!("Bearer {token}").as_bytes());
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &headers)
}

/// The frames that come until the connection ends or one of this kind was there: kinds and payloads.
async fn frames(stream: &mut TlsStream<TcpStream>, until: u8) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let reading = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            if stream.read_exact(&mut payload).await.is_err() {
                break;
            }
            all.push((head[3], payload));
            if head[3] == until {
                break;
            }
        }
    };
    timeout(SOON, reading).await.expect("an end");
    all
}

#[tokio::test]
async fn the_number_of_requests_at_once_is_bounded() {
    let server = Fixture::usual().await;
    let mut stream = raw(&server, &[]).await;
    let told = frames(&mut stream, SETTINGS).await;
    let settings = &told.last().unwrap().1;
    // SETTINGS_MAX_CONCURRENT_STREAMS, as the kubelet has it.
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 250]), "{settings:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_flood_of_requests_that_are_taken_back_ends_its_connection() {
    let server = Fixture::usual().await;
    let mut stream = raw(&server, &[]).await;
    let mut flood = Vec::new();
    for number in 0..20_000 {
        flood.extend(request(2 * number + 1, "admin"));
        flood.extend(frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let mut told = Vec::new();
    // Its end may cut either off.
    let (_, _) = tokio::join!(timeout(SOON, reader.read_to_end(&mut told)), timeout(SOON, writer.write_all(&flood)));
    // ENHANCE_YOUR_CALM.
    assert!(told.windows(4).any(|code| code == 11_u32.to_be_bytes()), "{} bytes", told.len());
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    server.stop().await;
}

#[tokio::test]
async fn a_header_without_end_ends_its_connection() {
    let server = Fixture::usual().await;
    let mut stream = raw(&server, &[]).await;
    let mut sent = frame(HEADERS, END_STREAM, 1, &[0x82, 0x87, 0x84]);
    for _ in 0..10_000 {
        // A header of its own in each piece, which is not to be remembered.
        sent.extend(frame(CONTINUATION, 0, 1, &[&[0x00, 1, b'a', 100][..], &[b'b'; 100]].concat()));
    }
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let mut told = Vec::new();
    let (read, _) = tokio::join!(timeout(SOON, reader.read_to_end(&mut told)), timeout(SOON, writer.write_all(&sent)));
    assert!(read.is_ok(), "it still listens");
    server.stop().await;
}

#[tokio::test]
async fn pings_are_answered_and_a_client_that_reads_no_answers_is_cut_off() {
    let limits = Limits { write_stall: Duration::from_millis(700), ..Limits::default() };
    let server = Fixture::start(|_, _| {}, limits).await;
    let mut stream = raw(&server, &[]).await;
    stream.write_all(&request(1, "admin")).await.unwrap();
    stream.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    let told = frames(&mut stream, PING).await;
    assert_eq!(told.last().unwrap().1, b"12345678");
    let pings = frame(PING, 0, 0, b"12345678").repeat(1000);
    let began = Instant::now();
    while began.elapsed() < 3 * SOON && matches!(timeout(SOON, stream.write_all(&pings)).await, Ok(Ok(()))) {}
    assert!(began.elapsed() < 3 * SOON, "it still listens");
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_held_back_ends_its_connection() {
    let limits = Limits { write_stall: Duration::from_millis(700), ..Limits::default() };
    let server = Fixture::start(|_, _| {}, limits).await;
    // SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent.
    let mut stream = raw(&server, &[(4, 0)]).await;
    let began = Instant::now();
    stream.write_all(&request(1, "admin")).await.unwrap();
    let told = frames(&mut stream, u8::MAX).await;
    let kinds: Vec<u8> = told.iter().map(|(kind, _)| *kind).collect();
    assert!(kinds.contains(&HEADERS) && kinds.contains(&GO_AWAY), "{kinds:?}");
    assert!(began.elapsed() >= Duration::from_millis(700));
    server.stop().await;
}
