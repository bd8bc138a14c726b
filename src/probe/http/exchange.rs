//! One request and its answer on a connection of its own.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::http2;
use super::request::{Request, Url};
use crate::probe::attempt::MAX_OUTPUT;
use crate::probe::tcp::{authority, connect, system_error};
use crate::probe::tls::{HTTP2, Offer, lenient_tls};

/// Largest head of an answer, bytes; also all that a connection may buffer.
const MAX_HEAD: usize = 64 * 1024;

/// Why there is no answer of a server that speaks no TLS.
pub(super) const NOT_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// Why there is no answer, in the words of the peer's HTTP client.
pub(super) struct Failed(pub String);

/// An answer whose body has not been read.
pub(super) struct Response {
    pub status: StatusCode,
    pub location: Option<String>,
    incoming: Incoming,
    /// The connection, which has to be driven for the body to come.
    connection: BoxFuture<'static, ()>,
    addresses: Addresses,
}

/// Both ends of a connection, for messages.
#[derive(Clone, Copy)]
struct Addresses(Option<(SocketAddr, SocketAddr)>);

impl Response {
    /// The first [`MAX_OUTPUT`] bytes of the body.
    pub(super) async fn body(self) -> Result<Vec<u8>, Failed> {
        let Response { mut incoming, connection, addresses, .. } = self;
        let read = async move {
            let mut body = Vec::new();
            while let Some(frame) = incoming.frame().await {
                let frame = frame.map_err(|error| Failed(describe(&error, addresses, "unexpected EOF")))?;
                if let Ok(data) = frame.into_data() {
                    body.extend_from_slice(&data);
                }
                if body.len() >= MAX_OUTPUT {
                    body.truncate(MAX_OUTPUT);
                    break;
                }
            }
            Ok(body)
        };
        beside(connection, read).await.0
    }
}

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    fn http2_if(is_http2: bool) -> Self {
        if is_http2 { Protocol::Http2 } else { Protocol::Http1 }
    }
}

/// What requests are sent by.
enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Sender {
    async fn send(&mut self, message: http::Request<Empty<Bytes>>) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Sender::Http1(sender) => sender.send_request(message).await,
            Sender::Http2(sender) => sender.send_request(message).await,
        }
    }
}

/// Sends the request to that URL; the answer once its head has come.
pub(super) async fn exchange(request: &Request, url: &Url) -> Result<Response, Failed> {
    let stream = connect(&url.host, url.port).await.map_err(Failed)?;
    let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
    let addresses = Addresses(ends);
    if !url.https {
        return send(request, url, Protocol::http2_if(request.plain_http2), stream, addresses).await;
    }
    let name = ServerName::try_from(url.host.clone()).map_err(|error| Failed(error.to_string()))?;
    match TlsConnector::from(lenient_tls(Offer::AnyHttp)).connect(name, stream).await {
        Ok(stream) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
            send(request, url, Protocol::http2_if(is_http2), stream, addresses).await
        }
        Err(error) => Err(Failed(describe_handshake(&error, addresses))),
    }
}

async fn send<S>(
    request: &Request,
    url: &Url,
    protocol: Protocol,
    stream: S,
    addresses: Addresses,
) -> Result<Response, Failed>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let fail = |error: hyper::Error| Failed(describe(&error, addresses, "EOF"));
    let (mut sender, connection) = match protocol {
        Protocol::Http1 => {
            // Header names in the case that Go writes them: there are servers that mind.
            let mut builder = hyper::client::conn::http1::Builder::new();
            builder.title_case_headers(true).max_buf_size(MAX_HEAD);
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(fail)?;
            (Sender::Http1(sender), connection.map(drop).boxed())
        }
        Protocol::Http2 => {
            let (sender, connection) = http2::handshake(stream).await.map_err(fail)?;
            (Sender::Http2(sender), connection)
        }
    };
    let message = message(request, url, protocol)?;
    let (answer, connection) = beside(connection, sender.send(message)).await;
    let (head, incoming) = answer.map_err(fail)?.into_parts();
    let location = head.headers.get(header::LOCATION);
    let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Ok(Response { status: head.status, location, incoming, connection, addresses })
}

fn message(request: &Request, url: &Url, protocol: Protocol) -> Result<http::Request<Empty<Bytes>>, Failed> {
    let unusable = |error: http::Error| Failed(error.to_string());
    let host = match &request.host {
        Some(host) => host.clone(),
        None => HeaderValue::try_from(authority(&url.host, url.port)).map_err(|error| unusable(error.into()))?,
    };
    let mut headers = request.headers.clone();
    let uri = match protocol {
        Protocol::Http1 => {
            headers.insert(header::HOST, host);
            http::Uri::try_from(&url.target).map_err(|error| unusable(error.into()))?
        }
        Protocol::Http2 => {
            headers.remove(header::CONNECTION);
            let uri = http::Uri::builder().scheme(if url.https { "https" } else { "http" }).authority(host.as_bytes());
            uri.path_and_query(&url.target).build().map_err(unusable)?
        }
    };
    let mut message = http::Request::get(uri).body(Empty::new()).map_err(unusable)?;
    *message.headers_mut() = headers;
    Ok(message)
}

/// Waits for `work` while the connection that it needs is driven. The connection comes back, ended or not: why it ended is
/// told to those who wait for something of it.
async fn beside<T>(
    mut connection: BoxFuture<'static, ()>,
    work: impl Future<Output = T>,
) -> (T, BoxFuture<'static, ()>) {
    let mut work = Box::pin(work);
    // Cancel-safe: both are only borrowed, nothing is lost with the arm that did not end.
    let done = tokio::select! {
        biased;
        done = &mut work => Some(done),
        () = &mut connection => None,
    };
    match done {
        Some(done) => (done, connection),
        None => (work.await, Box::pin(std::future::pending())),
    }
}

fn describe(error: &hyper::Error, addresses: Addresses, at_end: &str) -> String {
    if error.is_incomplete_message() {
        return at_end.to_owned();
    }
    if error.is_parse() {
        return format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {error}");
    }
    match cause::<io::Error>(error) {
        Some(error) => addresses.describe(error),
        None => error.to_string(),
    }
}

fn describe_handshake(error: &io::Error, addresses: Addresses) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => NOT_TLS.to_owned(),
        Some(error) => format!("tls: {error}"),
        None => addresses.describe(error),
    }
}

impl Addresses {
    fn describe(self, error: &io::Error) -> String {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return "EOF".to_owned();
        }
        match self.0 {
            Some((own, other)) if error.raw_os_error().is_some() => {
                format!("read tcp {own}->{other}: read: {}", system_error(error))
            }
            _ => system_error(error),
        }
    }
}

fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}
