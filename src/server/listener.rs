//! Accepts connections, with or without TLS, and serves each in a task of its own within limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::ServerError;
use super::connection::{Connection, Patience};
use super::seats::{Seat, Seats};
use super::stall::StallLimit;
use super::tls::TlsFiles;

/// What a client may use of the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once; when they are reached, a silent one gives way to the next ([`Seats`]).
    pub connections: usize,
    /// Time of the TLS handshake.
    pub handshake: Duration,
    /// Time from there to the end of the first request's header.
    pub first_request: Duration,
    /// Time from an answer to the end of the next request's header. The peer's, and that of Go's clients.
    pub idle: Duration,
    /// Time for which a client may leave what it is sent unread.
    pub write_stall: Duration,
    /// Size of a request's header. A node's callers carry a token, which is a few KiB.
    pub header_bytes: usize,
    /// Time that requests have to end when the server does.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1024,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(90),
            write_stall: Duration::from_secs(300),
            header_bytes: 64 * 1024,
            drain: Duration::from_millis(300),
        }
    }
}

/// Wait after the kernel could not give a connection, as when files ran out.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// Silence after which the kernel asks a client whether it is still there (Go's).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The other end of a connection; in the extensions of each request.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub address: SocketAddr,
    /// What certificates it showed, its own first; it has the key of that one, but no authority is known to stand for it.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// A server that listens.
pub struct Server {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<TlsFiles>>,
    router: Router,
    limits: Limits,
}

impl Server {
    /// Listens on an address; `tls` none for plain HTTP.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(super) async fn bind(
        address: SocketAddr,
        tls: Option<TlsFiles>,
        router: Router,
        limits: Limits,
    ) -> Result<Self, ServerError> {
        let socket = TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        let address = socket.local_addr().unwrap_or(address);
        Ok(Server { socket, address, tls: tls.map(Arc::new), router, limits })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let seats = Seats::new(self.limits.connections);
        let mut connections = JoinSet::new();
        let mut failing = false;
        loop {
            // Cancel-safe: accept loses no connection, and an ended task has nothing more to tell.
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, address)) => {
                    failing = false;
                    // Cancel-safe: a seat that was not taken stays free.
                    let seat = tokio::select! {
                        () = cancel.cancelled() => break,
                        seat = seats.take() => seat,
                    };
                    connections.spawn(self.serve(stream, address, seat, cancel.clone()));
                }
                Err(error) => {
                    if !failing {
                        warn!(address = %self.address, %error, "a connection cannot be accepted; trying on");
                        failing = true;
                    }
                    // Cancel-safe: only a wait.
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_RETRY) => {}
                    }
                }
            }
        }
        drop(self.socket);
        // Each connection ends by the same token, within the drain limit.
        while connections.join_next().await.is_some() {}
    }

    fn serve(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        seat: Seat,
        cancel: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (tls, router, limits) = (self.tls.clone(), self.router.clone(), self.limits);
        async move {
            prepare(&stream);
            let settled = seat.settled();
            let served = Box::pin(async {
                let Some(tls) = tls else {
                    let peer = Peer { address, certificates: Arc::new([]) };
                    return serve_requests(stream, peer, router, (limits, settled), &cancel).await;
                };
                let config = tls.config().await;
                let accepting = TlsAcceptor::from(config).accept(stream);
                // Cancel-safe: a handshake that is given up ends its connection.
                let accepted = tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    accepted = timeout(limits.handshake, accepting) => accepted,
                };
                let Ok(accepted) = accepted else { return Err("the TLS handshake took too long".into()) };
                let stream = match (accepted, tls.missing()) {
                    (Err(_), Some(missing)) => return Err(missing.into()),
                    (accepted, _) => accepted?,
                };
                let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let peer =
                    Peer { address, certificates: shown.iter().cloned().map(CertificateDer::into_owned).collect() };
                serve_requests(stream, peer, router, (limits, settled), &cancel).await
            });
            // Cancel-safe: a connection that leaves has not asked anything.
            let ended = tokio::select! {
                ended = served => ended,
                () = seat.must_leave() => Err("it said nothing, and another needed its place".into()),
            };
            if let Err(error) = ended {
                debug!(client = %address, %error, "a connection ended");
            }
        }
    }
}

/// No delays, and a client that is gone is noticed. A socket that takes none of it is as good.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(stream, KEEP_ALIVE);
    let _ = rustix::net::sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE);
}

async fn serve_requests<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: IO,
    peer: Peer,
    router: Router,
    (limits, asked): (Limits, CancellationToken),
    cancel: &CancellationToken,
) -> Result<(), tower::BoxError> {
    let first = asked.clone();
    let patience = Patience::new(limits.write_stall);
    let handle = Connection::new(patience.clone());
    let handed_on = handle.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        first.cancel();
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(handed_on.clone());
        let router = router.clone();
        async move { router.oneshot(request.map(Body::new)).await.map_err(|never: Infallible| never) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_header_size(limits.header_bytes)
        .serve_connection(TokioIo::new(StallLimit::new(io, patience)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let silent = async {
        if timeout(limits.first_request, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    // Cancel-safe: the connection goes on in its own arm or is ended here.
    tokio::select! {
        ended = connection.as_mut() => {
            ended?;
            return upgraded(&handle, cancel).await;
        }
        () = silent => return Err("the first request took too long".into()),
        () = cancel.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    match timeout(limits.drain, connection).await {
        Ok(ended) => Ok(ended?),
        Err(_) => Err("cut off at the server's end".into()),
    }
}

/// Goes on with a connection that was upgraded. What is streamed has no end of its own to wait for: the server's cuts it off.
async fn upgraded(handle: &Connection, cancel: &CancellationToken) -> Result<(), tower::BoxError> {
    if let Some(next) = handle.take_next() {
        // Cancel-safe: a stream that is given up ends both of its connections.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = next => {}
        }
    }
    Ok(())
}
