//! The proxy of upgraded connections: a client's request goes to the runtime's streaming server, and once that has taken
//! the upgrade, bytes go both ways as they are. SPDY and WebSocket alike: nothing in between is understood or changed.
//!
//! The address comes from the runtime and is one of this machine, or it is refused. Redirects are not followed. Of the
//! client's headers only those of the upgrade itself are passed on, so no credentials are.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, HOST, ORIGIN, UPGRADE, USER_AGENT};
use axum::http::uri::{PathAndQuery, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response as HttpResponse, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::FusedFuture;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::connection::Connection;
use super::listener::Peer;
use super::relay::{Silence, relay};
use super::text;

/// Time to reach the runtime's server, which is on this machine.
const CONNECT: Duration = Duration::from_secs(10);
/// Time of the runtime's server to take or refuse the upgrade.
const ANSWER: Duration = Duration::from_secs(30);
/// Silence after which a stream ends of which one side has ended already.
const HALF_CLOSED: Duration = Duration::from_secs(30);
/// What is passed on of a refusal.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Why a request is not passed on.
#[derive(Debug, thiserror::Error)]
enum UpgradeError {
    #[error("Upgrade request required")]
    NotAsked,
    #[error("the container runtime's streaming address {url:?}: {problem}")]
    Address { url: String, problem: &'static str },
    #[error("error dialing backend: {0}")]
    Dial(std::io::Error),
    #[error("error dialing backend: no answer from {0}")]
    Late(SocketAddr),
    #[error("error sending request: {0}")]
    Send(#[from] hyper::Error),
    #[error("error sending request: {0}")]
    Request(#[from] axum::http::Error),
    #[error("invalid upgrade response: status code {0}")]
    Answer(u16),
    #[error("request connection cannot be hijacked")]
    NoConnection,
}

/// Passes a request on to where the runtime streams; `idle` is `streamingConnectionIdleTimeout`.
pub(super) async fn proxy(request: Request, url: &str, idle: Duration) -> Response {
    match pass_on(request, url, idle).await {
        Ok(response) => response,
        Err(error) => {
            debug!(%error, "a stream is not passed on");
            text::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        }
    }
}

async fn pass_on(mut request: Request, url: &str, idle: Duration) -> Result<Response, UpgradeError> {
    if !is_upgrade(request.headers()) {
        return Err(UpgradeError::NotAsked);
    }
    let (address, path) = target(url)?;
    let Some(connection) = request.extensions().get::<Connection>().cloned() else {
        return Err(UpgradeError::NoConnection);
    };
    let client = hyper::upgrade::on(&mut request);
    let socket = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(socket) => socket.map_err(UpgradeError::Dial)?,
        Err(_) => return Err(UpgradeError::Late(address)),
    };
    // As on the client's side: a keystroke must not wait. A socket that does not take it works as well.
    let _ = socket.set_nodelay(true);
    let (mut sender, backend) = http1::handshake(TokioIo::new(socket)).await?;
    let mut backend = pin!(backend.with_upgrades().fuse());
    let sent = outgoing(&request, address, path)?;
    let answered = beside(&mut backend, timeout(ANSWER, sender.send_request(sent))).await;
    let mut answer = answered.map_err(|_| UpgradeError::Late(address))??;
    let status = answer.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        if status.as_u16() < 400 {
            return Err(UpgradeError::Answer(status.as_u16()));
        }
        return Ok(beside(&mut backend, refusal(answer)).await);
    }
    let taken = hyper::upgrade::on(&mut answer);
    let far = beside(&mut backend, timeout(ANSWER, taken)).await.map_err(|_| UpgradeError::Late(address))??;
    // From here on a person may stop reading for as long as they like.
    connection.be_patient(idle);
    connection.then(
        async move {
            let Ok(near) = client.await else { return };
            let silence = Silence { open: idle, half_closed: HALF_CLOSED.min(idle) };
            let end = relay(TokioIo::new(near), TokioIo::new(far), silence).await;
            debug!(?end, "a stream ended");
        }
        .boxed(),
    );
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().extend(upgrade_headers(answer.headers()));
    Ok(response)
}

/// Whether a request asks for an upgrade, as the peer's `httpstream.IsUpgradeRequest` tells.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| contains(value, "upgrade"))
}

/// Whether it asks for a WebSocket.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    is_upgrade(headers) && headers.get(UPGRADE).is_some_and(|value| contains(value, "websocket"))
}

fn contains(value: &HeaderValue, wanted: &str) -> bool {
    value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains(wanted))
}

/// Where the runtime streams: an address of this machine alone.
fn target(url: &str) -> Result<(SocketAddr, PathAndQuery), UpgradeError> {
    let refused = |problem| UpgradeError::Address { url: url.to_owned(), problem };
    let uri: Uri = url.parse().map_err(|_| refused("not a URL"))?;
    if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        return Err(refused("only http is supported"));
    }
    let host = uri.host().ok_or_else(|| refused("no host"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ip: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.parse().map_err(|_| refused("its host is no address of this machine"))?,
    };
    // A server on all addresses is one on this machine's own.
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    if !ip.is_loopback() {
        return Err(refused("its host is no loopback address"));
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((SocketAddr::new(ip, uri.port_u16().unwrap_or(80)), path))
}

/// The request as the runtime gets it.
fn outgoing(
    request: &Request,
    address: SocketAddr,
    path: PathAndQuery,
) -> Result<axum::http::Request<Empty<Bytes>>, UpgradeError> {
    let mut builder = axum::http::Request::builder().method(request.method()).uri(Uri::from(path));
    if let Some(headers) = builder.headers_mut() {
        headers.extend(upgrade_headers(request.headers()));
        for name in [USER_AGENT, ORIGIN] {
            headers.extend(request.headers().get(&name).map(|value| (name, value.clone())));
        }
    }
    builder = builder.header(HOST, address.to_string());
    if let Some(peer) = request.extensions().get::<Peer>() {
        builder = builder.header("x-forwarded-for", peer.address.ip().to_string());
    }
    Ok(builder.body(Empty::new())?)
}

/// What of a message's headers belongs to the upgrade.
fn upgrade_headers(headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    headers.iter().filter(|(name, _)| is_of_upgrade(name)).map(|(name, value)| (name.clone(), value.clone()))
}

fn is_of_upgrade(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "connection" | "upgrade" | "x-stream-protocol-version" | "x-accepted-stream-protocol-versions")
        || name.starts_with("sec-websocket-")
}

/// The runtime's refusal, as far as a client needs it.
async fn refusal(answer: HttpResponse<hyper::body::Incoming>) -> Response {
    let (parts, body) = answer.into_parts();
    let body = match timeout(ANSWER, Limited::new(body, REFUSAL_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    let mut response = text::last(text::text(parts.status, body));
    let accepted = HeaderName::from_static("x-accepted-stream-protocol-versions");
    for (name, value) in parts.headers.iter().filter(|(name, _)| **name == accepted || **name == CONTENT_TYPE) {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

/// Does something while a connection is driven beside it, to its end at most.
async fn beside<W: Future>(connection: &mut (impl FusedFuture + Unpin), work: W) -> W::Output {
    let mut work = pin!(work);
    loop {
        // Cancel-safe: both futures are kept across turns.
        tokio::select! {
            biased;
            output = work.as_mut() => return output,
            _ = &mut *connection, if !connection.is_terminated() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_runtime_says_only_this_machine_is_connected_to(
            url in "(http://)?([0-9a-f.:]{0,18}|localhost|\\[[0-9a-f:]{0,12}\\]|[a-z@.%]{0,12})(:[0-9]{0,6})?(/.{0,10})?",
        ) {
            if let Ok((address, _)) = target(&url) {
                prop_assert!(address.ip().is_loopback(), "{}", address);
            }
        }

        #[test]
        fn no_header_passes_that_is_not_of_the_upgrade(name in "[a-z-]{1,30}", value in "[ -~]{0,30}") {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::try_from(name.as_str()).unwrap(), HeaderValue::from_str(&value).unwrap());
            let passed = upgrade_headers(&headers).count() == 1;
            let is_known = name.starts_with("sec-websocket-") || name == "connection" || name == "upgrade"
                || name.ends_with("-protocol-version") || name.ends_with("-protocol-versions");
            prop_assert!(!passed || is_known, "{}", name);
        }
    }

    #[rstest]
    #[case("http://127.0.0.1:34567/exec/abc?x=1", Ok(("127.0.0.1:34567", "/exec/abc?x=1")))]
    #[case("http://[::1]:34567/attach/abc", Ok(("[::1]:34567", "/attach/abc")))]
    #[case("http://localhost/p", Ok(("127.0.0.1:80", "/p")))]
    #[case("http://0.0.0.0:9/p", Ok(("127.0.0.1:9", "/p")))]
    #[case("//127.0.0.1:9/p", Err("no host"))]
    #[case("https://127.0.0.1:9/p", Err("only http"))]
    #[case("http://10.0.0.1:9/p", Err("no loopback"))]
    #[case("http://169.254.169.254/latest/meta-data", Err("no loopback"))]
    #[case("http://evil.example:9/p", Err("no address of this machine"))]
    #[case("http://2130706433/p", Err("no address of this machine"))]
    #[case("/exec/abc", Err("no host"))]
    #[case("", Err("not a URL"))]
    fn only_this_machine_is_connected_to(#[case] url: &str, #[case] expected: Result<(&str, &str), &str>) {
        match (target(url), expected) {
            (Ok((address, path)), Ok((wanted, wanted_path))) => {
                assert_eq!((address.to_string().as_str(), path.as_str()), (wanted, wanted_path));
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{url}: {got:?}"),
        }
    }

    #[test]
    fn only_headers_of_the_upgrade_are_passed_on() {
        let request = Request::builder()
            .method("POST")
            .uri("https://node:10250/exec/a/b/c?command=x")
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io")
            .header("x-stream-protocol-version", "v3.channel.k8s.io")
            .header("sec-websocket-key", "k")
            .header("authorization", "Bearer secret")
            .header("cookie", "secret")
            .header("x-remote-user", "admin")
            .body(Body::empty())
            .unwrap();
        let sent = outgoing(&request, "127.0.0.1:9".parse().unwrap(), PathAndQuery::from_static("/exec/t")).unwrap();
        let mut names: Vec<String> =
            sent.headers().iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "connection=Upgrade",
                "host=127.0.0.1:9",
                "sec-websocket-key=k",
                "upgrade=SPDY/3.1",
                "x-stream-protocol-version=v3.channel.k8s.io",
                "x-stream-protocol-version=v4.channel.k8s.io",
            ]
        );
        assert_eq!((sent.method().as_str(), sent.uri().to_string().as_str()), ("POST", "/exec/t"));
    }

    #[test]
    fn upgrades_are_recognised_as_by_the_peer() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            HeaderMap::from_iter(pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))))
        };
        assert!(is_upgrade(&headers(&[("connection", "keep-alive, Upgrade")])));
        assert!(!is_upgrade(&headers(&[("upgrade", "SPDY/3.1")])));
        assert!(is_websocket(&headers(&[("connection", "upgrade"), ("upgrade", "WebSocket")])));
        assert!(!is_websocket(&headers(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")])));
    }
}
