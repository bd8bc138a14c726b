//! The HTTP service under every client: HTTP/2 to the API server over as few connections as its streams need.
//!
//! A watch is a stream that lasts, and an API server takes about 100 streams a connection (`--http2-max-streams-per-connection`);
//! above that a request would wait for a watch to end. So streams are counted, and a further connection is made before one is
//! full. Connections are pinged like client-go's (30 s idle, 15 s for the answer), so that a dead server is noticed; a server
//! that speaks HTTP/1.1 only is watched by TCP keep-alive instead.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ::kube::client::{Body, ConfigExt};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode, Uri};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tower::{BoxError, Service};

use super::client::FieldError;
use super::credentials::Credentials;
use super::limit::RequestLimit;
use super::measure::{AnswerSize, Measured};

/// Streams on one connection; below the API server's default of 100, so that short requests always find room.
const STREAMS_PER_CONNECTION: usize = 64;
/// Time for TCP connect and TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that was silent that long is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A ping unanswered that long ends the connection.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

type HttpClient = Client<Connector, Body>;

/// The connections of one client. Clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    credentials: Arc<Credentials>,
    limit: RequestLimit,
    timeout: Option<Duration>,
    lanes: Mutex<Lanes>,
}

/// Lanes of the newest client certificate.
#[derive(Default)]
struct Lanes {
    generation: u64,
    lanes: Vec<Arc<Lane>>,
}

/// One HTTP client, which holds one HTTP/2 connection, and the number of its requests under way.
struct Lane {
    http: HttpClient,
    in_flight: AtomicUsize,
}

/// A place on a lane, given back when the response's body is done with.
struct Place(Arc<Lane>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Prepares connections; none is made yet. `timeout` bounds each request including its credentials and its body.
    pub(super) fn new(
        config: &::kube::Config,
        proxy: Option<&str>,
        credentials: Arc<Credentials>,
        limit: RequestLimit,
        timeout: Option<Duration>,
    ) -> Result<Self, FieldError> {
        // Only one provider is compiled in; installed by name all the same, so that a second one could never be a surprise.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut tls = config.rustls_client_config().map_err(|e| FieldError::Tls(Box::new(e)))?;
        tls.client_auth_cert_resolver = credentials.resolver();
        // A resumed session keeps the identity it began with, which a rotated certificate must replace.
        tls.resumption = rustls::client::Resumption::disabled();
        let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        if let Some(name) = &config.tls_server_name {
            let parsed = name.clone().try_into().map_err(|_| FieldError::ServerName(name.clone()))?;
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(parsed));
        }
        let dial = Dial::to(&config.cluster_url, proxy)?;
        // client-go's switch for servers or proxies whose HTTP/2 is broken.
        let http1_only = std::env::var_os("DISABLE_HTTP2").is_some_and(|v| !v.is_empty());
        let connector = match http1_only {
            true => builder.enable_http1().wrap_connector(dial),
            false => builder.enable_http1().enable_http2().wrap_connector(dial),
        };
        let connector = Connector(connector);
        Ok(Connections { shared: Arc::new(Shared { connector, credentials, limit, timeout, lanes: Mutex::default() }) })
    }
}

impl Shared {
    /// A place on the first lane with room; a lane is added when all are full, and lanes out of use are let go.
    fn place(&self, generation: u64) -> Place {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that was about to be sent when the certificate changed goes by the new one too.
        if lanes.generation < generation {
            // Requests under way keep their lane until they end.
            lanes.lanes.clear();
            lanes.generation = generation;
        }
        let mut position = 0;
        lanes.lanes.retain(|lane| {
            position += 1;
            position == 1 || lane.in_flight.load(Ordering::Relaxed) > 0
        });
        let free = lanes.lanes.iter().find(|lane| lane.in_flight.load(Ordering::Relaxed) < STREAMS_PER_CONNECTION);
        let lane = match free {
            Some(lane) => Arc::clone(lane),
            None => {
                let lane = Arc::new(Lane { http: self.http_client(), in_flight: AtomicUsize::new(0) });
                lanes.lanes.push(Arc::clone(&lane));
                lane
            }
        };
        lane.in_flight.fetch_add(1, Ordering::Relaxed);
        Place(lane)
    }

    /// Gives up all connections: the next request makes a new one.
    fn reset(&self) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).lanes.clear();
    }

    fn http_client(&self) -> HttpClient {
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_initial_stream_window_size(256 * 1024)
            .http2_initial_connection_window_size(1024 * 1024)
            .build(self.connector.clone())
    }

    async fn send(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<ResponseBody>, BoxError> {
        // Holds for the credentials too: a plugin that hangs must not hold up a heartbeat for as long as it may take.
        let mut deadline = self.timeout.map(|after| Box::pin(tokio::time::sleep(after)));
        let current = match &mut deadline {
            None => self.credentials.current().await?,
            Some(deadline) => tokio::select! {
                current = self.credentials.current() => current?,
                () = deadline.as_mut() => return Err(Box::new(NoCredentials)),
            },
        };
        if let Some(value) = current.authorization {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let place = self.place(current.generation);
        let response = place.0.http.request(request);
        let response = match &mut deadline {
            None => response.await?,
            Some(deadline) => tokio::select! {
                response = response => response?,
                () = deadline.as_mut() => {
                    // The connection may be dead, with the ping's verdict still to come.
                    self.reset();
                    return Err(Box::new(TimedOut));
                }
            },
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            self.credentials.rejected(current.generation);
        }
        let size = AnswerSize::default();
        Ok(response.map(|body| ResponseBody { body, size, deadline, shared: Arc::clone(&self), _place: place }))
    }
}

impl Service<Request<Body>> for Connections {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        // Here and not in the future, so that requests are sent in the order in which they are made.
        let wait = shared.limit.reserve();
        Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let measured = Measured::begin(&request, wait);
            let answer = shared.send(request).await;
            let size = measured.end(&answer);
            answer.map(|answer| answer.map(|body| ResponseBody { size, ..body }))
        })
    }
}

/// The API server did not take the connection, or did not answer, in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within the timeout")]
pub(super) struct TimedOut;

/// The credentials to ask with were not there in time: a plugin is at work, or the first certificate is yet to come.
#[derive(Debug, thiserror::Error)]
#[error("no credentials within the timeout")]
struct NoCredentials;

/// A response's body, which holds its stream's place and ends with an error at the request's deadline.
pub(super) struct ResponseBody {
    body: Incoming,
    size: AnswerSize,
    deadline: Option<Pin<Box<Sleep>>>,
    shared: Arc<Shared>,
    _place: Place,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            match &frame {
                Some(Ok(frame)) => self.size.add(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => {}
                None => self.size.tell(),
            }
            // Who was told of a length need not ask for the end.
            if self.body.is_end_stream() {
                self.size.tell();
            }
            return Poll::Ready(frame.map(|f| f.map_err(Into::into)));
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            self.shared.reset();
            return Poll::Ready(Some(Err(Box::new(TimedOut))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Connect and handshake, within their timeout.
#[derive(Clone)]
struct Connector(HttpsConnector<Dial>);

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.0.call(target);
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| Err(Box::new(TimedOut)))
        })
    }
}

/// The way to the server's TCP port: direct, or a tunnel through an HTTP proxy.
#[derive(Clone)]
enum Dial {
    Direct(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
}

impl Dial {
    /// `proxy-url` if there is one, else what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say, else direct. As in Go, the loopback
    /// is never reached through the environment's proxy.
    fn to(server: &Uri, proxy: Option<&str>) -> Result<Self, FieldError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(PING_INTERVAL));
        tcp.set_keepalive_interval(Some(PING_TIMEOUT / 3));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(Some(PING_INTERVAL + PING_TIMEOUT));

        let intercept = match proxy {
            Some(url) => Matcher::builder().all(url).build().intercept(server),
            None if is_loopback(server) => None,
            None => Matcher::from_env().intercept(server),
        };
        let Some(intercept) = intercept else {
            return match proxy {
                Some(url) => Err(FieldError::Proxy { url: without_user(url), what: "not a proxy address" }),
                None => Ok(Dial::Direct(tcp)),
            };
        };
        if intercept.uri().scheme_str() != Some("http") {
            let url = without_user(&intercept.uri().to_string());
            return Err(FieldError::Proxy { url, what: "only http proxies are supported" });
        }
        let mut tunnel = Tunnel::new(intercept.uri().clone(), tcp);
        if let Some(auth) = intercept.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        Ok(Dial::Tunnel(tunnel))
    }
}

fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An address without the password it may carry.
fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Dial::Direct(tcp) => Service::poll_ready(tcp, cx).map_err(Into::into),
            Dial::Tunnel(tunnel) => Service::poll_ready(tunnel, cx).map_err(Into::into),
        }
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        match self {
            Dial::Direct(tcp) => {
                let connecting = Service::call(tcp, target);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
            Dial::Tunnel(tunnel) => {
                let connecting = Service::call(tunnel, target);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::credentials::CredentialSource;
    use super::*;

    async fn shared() -> Arc<Shared> {
        let credentials =
            Credentials::load(CredentialSource::Static { identity: None, authorization: None }).await.unwrap();
        let config = ::kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        Connections::new(&config, None, Arc::new(credentials), RequestLimit::new(0.0, 0), None).unwrap().shared
    }

    fn lanes(shared: &Shared) -> Vec<usize> {
        shared.lanes.lock().unwrap().lanes.iter().map(|l| l.in_flight.load(Ordering::Relaxed)).collect()
    }

    #[tokio::test]
    async fn a_full_connection_gets_a_second_beside_it() {
        let shared = shared().await;
        let mut places: Vec<Place> = (0..STREAMS_PER_CONNECTION + 3).map(|_| shared.place(1)).collect();
        assert_eq!(lanes(&shared), [STREAMS_PER_CONNECTION, 3]);
        // Room on the first is used first, and the second goes when it is empty.
        places.drain(..1);
        places.push(shared.place(1));
        assert_eq!(lanes(&shared), [STREAMS_PER_CONNECTION, 3]);
        places.drain(STREAMS_PER_CONNECTION - 1..STREAMS_PER_CONNECTION + 2);
        assert_eq!(lanes(&shared), [STREAMS_PER_CONNECTION, 0]);
        places.truncate(3);
        let _place = shared.place(1);
        assert_eq!(lanes(&shared).len(), 1);
    }

    #[tokio::test]
    async fn a_new_certificate_leaves_old_connections() {
        let shared = shared().await;
        let old = shared.place(1);
        let new = shared.place(2);
        assert!(!Arc::ptr_eq(&old.0, &new.0));
        assert_eq!(lanes(&shared), [1]);
        let late = shared.place(1);
        assert!(Arc::ptr_eq(&late.0, &new.0), "no way back");
    }

    #[rstest]
    #[case("http://127.0.0.1:6443", true)]
    #[case("https://[::1]:6443", true)]
    #[case("https://localhost:6443", true)]
    #[case("https://10.0.0.1:6443", false)]
    fn loopback(#[case] url: &str, #[case] expected: bool) {
        assert_eq!(is_loopback(&url.parse().unwrap()), expected);
    }

    #[test]
    fn proxies() {
        let server: Uri = "https://10.0.0.1:6443".parse().unwrap();
        assert!(matches!(Dial::to(&server, Some("http://u:p@proxy:3128")).unwrap(), Dial::Tunnel(_)));
        let error = Dial::to(&server, Some("socks5://u:secret@proxy:1080")).err().unwrap().to_string();
        assert!(error.starts_with("proxy socks5://proxy:1080") && !error.contains("secret"), "{error}");
    }
}
