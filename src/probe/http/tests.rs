use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rstest::rstest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::probe::tls::tests::acceptor;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A server that gives the answers in turn, and what it was asked.
struct Script {
    port: u16,
    tasks: JoinSet<Vec<String>>,
}

impl Script {
    async fn new(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers: Vec<String> = answers.iter().map(|a| a.replace("PORT", &port.to_string())).collect();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                asked.push(serve(stream, &answer).await);
            }
            asked
        });
        Script { port, tasks }
    }

    async fn asked(mut self) -> Vec<String> {
        self.tasks.join_next().await.unwrap().unwrap()
    }

    fn action(&self, path: &str) -> HTTPGetAction {
        action(self.port, path)
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    if answer.ends_with("HANG") {
        // Until the client hangs up.
        let _ = stream.read_u8().await;
    }
    let _ = stream.shutdown().await;
    String::from_utf8(asked).unwrap()
}

fn action(port: u16, path: &str) -> HTTPGetAction {
    HTTPGetAction { path: Some(path.into()), port: IntOrString::Int(port.into()), ..HTTPGetAction::default() }
}

fn header(name: &str, value: &str) -> HTTPHeader {
    HTTPHeader { name: name.into(), value: value.into() }
}

async fn ask(action: &HTTPGetAction) -> Attempt {
    probe(Request::of(action, &Container::default(), "127.0.0.1").unwrap(), TIMEOUT).await
}

fn target_of(path: &str) -> String {
    Request::of(&action(1, path), &Container::default(), "127.0.0.1").unwrap().url.target
}

#[rstest]
#[case("", "/")]
#[case("healthz", "/healthz")]
#[case("/a/b?c=d&e=f#g", "/a/b?c=d&e=f")]
#[case("/a b", "/a%20b")]
#[case("/a%20b", "/a%20b")]
#[case("/a%2", "/a%252")]
#[case("/a%2?b", "/a%252%3Fb")]
#[case("/ü", "/%C3%BC")]
#[case("http://elsewhere:1/path?q", "/path?q")]
#[case("?q=1", "/?q=1")]
fn what_is_sent_for_a_path(#[case] path: &str, #[case] expected: &str) {
    assert_eq!(target_of(path), expected);
}

#[rstest]
#[case("/new", "http://10.0.0.1:80/new")]
#[case("new?x=1", "http://10.0.0.1:80/a/new?x=1")]
#[case("../new/./x", "http://10.0.0.1:80/new/x")]
#[case("?x=1", "http://10.0.0.1:80/a/b?x=1")]
#[case("//other/p", "http://other:80/p")]
#[case("https://10.0.0.1/p", "https://10.0.0.1:443/p")]
#[case("HTTP://10.0.0.1:8080", "http://10.0.0.1:8080/")]
#[case("http://[fd00::1]:8080/p", "http://[fd00::1]:8080/p")]
fn where_a_redirect_leads(#[case] location: &str, #[case] expected: &str) {
    let from = Request::of(&action(80, "/a/b?q"), &Container::default(), "10.0.0.1").unwrap().url;
    assert_eq!(from.join(location).unwrap().to_string(), expected);
}

#[test]
fn a_redirect_to_another_scheme_leads_nowhere() {
    let from = Request::of(&action(80, "/"), &Container::default(), "10.0.0.1").unwrap().url;
    assert_eq!(from.join("mailto:someone"), None);
    assert_eq!(from.join("http://10.0.0.1:port/"), None);
}

#[tokio::test]
async fn a_plain_request_looks_as_the_peers() {
    let script = Script::new(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]).await;
    let port = script.port;
    assert_eq!(ask(&script.action("/healthz?full=1")).await, Attempt::Success);
    let asked = script.asked().await.remove(0);
    let mut lines: Vec<&str> = asked.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /healthz?full=1 HTTP/1.1");
    lines.sort_unstable();
    let host = format!("Host: 127.0.0.1:{port}");
    assert_eq!(lines, ["Accept: */*", "Connection: close", &host, "User-Agent: kube-probe/1.37"]);
}

#[tokio::test]
async fn headers_are_those_of_the_probe() {
    let script = Script::new(&["HTTP/1.1 204 No Content\r\n\r\n"]).await;
    let headers = vec![
        header("X-Muffins-Or-Cupcakes", "muffins"),
        header("x-muffins-or-cupcakes", "both"),
        header("Host", "example.org"),
        header("User-Agent", "mine"),
        header("Accept", ""),
        header("Content-Length", "5"),
    ];
    let action = HTTPGetAction { http_headers: Some(headers), ..script.action("/") };
    assert_eq!(ask(&action).await, Attempt::Success);
    let asked = script.asked().await.remove(0);
    let mut lines: Vec<&str> = asked.trim_end().split("\r\n").skip(1).collect();
    lines.sort_unstable();
    let expected = [
        "Connection: close",
        "Host: example.org",
        "User-Agent: mine",
        "X-Muffins-Or-Cupcakes: both",
        "X-Muffins-Or-Cupcakes: muffins",
    ];
    assert_eq!(lines, expected);
}

#[rstest]
#[case("HTTP/1.1 200 OK\r\n\r\n", Attempt::Success)]
#[case("HTTP/1.0 399 Odd\r\n\r\n", Attempt::Warning("Probe terminated redirects, Response body: ".into()))]
#[case("HTTP/1.1 400 Bad\r\n\r\nsecret", Attempt::Failure("HTTP probe failed with statuscode: 400".into()))]
#[case("HTTP/1.1 503 Down\r\n\r\n", Attempt::Failure("HTTP probe failed with statuscode: 503".into()))]
#[case(
    "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.invalid/\r\n\r\nmoved",
    Attempt::Warning("Probe terminated redirects, Response body: moved".into())
)]
#[case(
    "HTTP/1.1 302 Found\r\n\r\nlost",
    Attempt::Warning("Probe terminated redirects, Response body: lost".into())
)]
#[tokio::test]
async fn what_an_answer_says(#[case] answer: &str, #[case] expected: Attempt) {
    let script = Script::new(&[answer]).await;
    assert_eq!(ask(&script.action("/")).await, expected);
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed() {
    let script = Script::new(&[
        "HTTP/1.1 302 Found\r\nLocation: /next?a=b\r\n\r\n",
        "HTTP/1.1 307 Temporary\r\nLocation: http://127.0.0.1:PORT/last\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ])
    .await;
    assert_eq!(ask(&script.action("/first")).await, Attempt::Success);
    let firsts: Vec<String> = script.asked().await.iter().map(|a| a.lines().next().unwrap().to_owned()).collect();
    assert_eq!(firsts, ["GET /first HTTP/1.1", "GET /next?a=b HTTP/1.1", "GET /last HTTP/1.1"]);
}

#[tokio::test]
async fn redirects_end() {
    let script = Script::new(&["HTTP/1.1 302 Found\r\nLocation: /loop\r\n\r\n"; 10]).await;
    let expected = format!("Get \"http://127.0.0.1:{}/loop\": stopped after 10 redirects", script.port);
    assert_eq!(ask(&script.action("/")).await, Attempt::Failure(expected));
    assert_eq!(script.asked().await.len(), 10);
}

#[tokio::test]
async fn a_refused_connection_is_told_as_the_peer_does() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let expected = format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(ask(&action(port, "/x")).await, Attempt::Failure(expected));
}

#[tokio::test]
async fn a_connection_that_closes_without_an_answer_is_an_eof() {
    let script = Script::new(&[""]).await;
    let expected = format!("Get \"http://127.0.0.1:{}/\": EOF", script.port);
    assert_eq!(ask(&script.action("/")).await, Attempt::Failure(expected));
}

#[tokio::test]
async fn time_that_runs_out_before_the_head_is_a_failure_and_later_an_error() {
    let short = Duration::from_millis(50);
    let script = Script::new(&["HTTP/1.1 200 OK\r\nX-Slow: HANG"]).await;
    let request = |script: &Script| Request::of(&script.action("/"), &Container::default(), "127.0.0.1").unwrap();
    let expected = format!(
        "Get \"http://127.0.0.1:{}/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        script.port
    );
    assert_eq!(probe(request(&script), short).await, Attempt::Failure(expected));

    let script = Script::new(&["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHANG"]).await;
    let expected = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
    assert_eq!(probe(request(&script), short).await, Attempt::Errored { state: "failure", message: expected.into() });
}

#[tokio::test]
async fn a_long_body_is_cut() {
    let body = "x".repeat(100_000);
    let script = Script::new(&["HTTP/1.1 304 Odd\r\nContent-Length: 0\r\n\r\n"]).await;
    assert!(matches!(ask(&script.action("/")).await, Attempt::Warning(_)));
    let script = Script::new(&[&format!("HTTP/1.1 300 Many\r\nContent-Length: 100000\r\n\r\n{body}")]).await;
    let Attempt::Warning(text) = ask(&script.action("/")).await else { panic!("no warning") };
    assert_eq!(text.len(), "Probe terminated redirects, Response body: ".len() + 10 * 1024);
}

#[tokio::test]
async fn certificates_are_not_verified() {
    let acceptor = acceptor(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(acceptor.accept(stream).await.unwrap(), "HTTP/1.1 200 OK\r\n\r\n").await
    });
    let https = HTTPGetAction { scheme: Some("HTTPS".into()), ..action(port, "/") };
    assert_eq!(ask(&https).await, Attempt::Success);
}

/// Answers one connection by HTTP/2; what was asked: the URI, the user agent, and whether the connection was to be closed.
async fn serve_http2(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, body: String) -> Vec<String> {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = asked.clone();
    let answer = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let agent = request.headers().get("user-agent").unwrap().to_str().unwrap().to_owned();
        let closes = request.headers().contains_key("connection");
        seen.lock().unwrap().push(format!("{} {agent} {closes}", request.uri()));
        let status = if body.len() > 10 { 300 } else { 200 };
        let body = http_body_util::Full::new(bytes::Bytes::from(body.clone()));
        let answer = http::Response::builder().status(status).body(body);
        std::future::ready(answer)
    });
    let executor = hyper_util::rt::TokioExecutor::new();
    let server = hyper::server::conn::http2::Builder::new(executor);
    let _ = server.serve_connection(hyper_util::rt::TokioIo::new(stream), answer).await;
    asked.lock().unwrap().clone()
}

#[tokio::test]
async fn a_server_that_chooses_http2_is_asked_by_it() {
    let acceptor = acceptor(&[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve_http2(acceptor.accept(stream).await.unwrap(), "well".to_owned()).await
    });
    let host = Some(vec![header("Host", "example.org")]);
    let https = HTTPGetAction { scheme: Some("HTTPS".into()), http_headers: host, ..action(port, "/a?b=c") };
    assert_eq!(ask(&https).await, Attempt::Success);
    let asked = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(asked, ["https://example.org/a?b=c kube-probe/1.37 false"]);
}

#[tokio::test]
async fn http2_in_plain_text_is_spoken_where_the_probe_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    let body = "x".repeat(100_000);
    tasks.spawn(async move { serve_http2(listener.accept().await.unwrap().0, body).await });
    let mut request = Request::of(&action(port, "/"), &Container::default(), "127.0.0.1").unwrap();
    request.plain_http2 = true;
    // The whole body must come, which needs the connection driven to its end.
    let Attempt::Warning(text) = probe(request, TIMEOUT).await else { panic!("no warning") };
    assert_eq!(text.len(), "Probe terminated redirects, Response body: ".len() + 10 * 1024);
    let asked = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(asked, [format!("http://127.0.0.1:{port}/ kube-probe/1.37 false")]);
}

#[tokio::test]
async fn plain_http_where_tls_is_asked_for_is_told_as_the_peer_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Until the client hangs up.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let https = HTTPGetAction { scheme: Some("HTTPS".into()), ..action(port, "/") };
    let expected = format!("Get \"https://127.0.0.1:{port}/\": http: server gave HTTP response to HTTPS client");
    assert_eq!(ask(&https).await, Attempt::Failure(expected));
}
