//! HTTP requests of lifecycle hooks. Any answer is a success, whatever its status; a server that speaks plain HTTP where TLS
//! was asked for is asked again without (the peer's `lifecycle.handlerRunner`).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kube::error::chain;
use crate::model::release::minor_release;
use crate::pod::plan::HttpCall;

/// The peer's user agent for hooks.
const AGENT: &str = concat!("kube-lifecycle/", minor_release!());

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    /// In the protocol asked for.
    AsAsked,
    /// In plain HTTP, where TLS was asked for.
    InPlainText,
}

enum SendError {
    /// The server does not speak TLS.
    NotTls,
    Failed(String),
}

/// Host and port as in a URL.
pub(super) fn authority(call: &HttpCall) -> String {
    let host = if call.host.contains(':') { format!("[{}]", call.host) } else { call.host.clone() };
    format!("{host}:{}", call.port)
}

/// Makes the request. It waits for the answer as long as it takes.
pub(super) async fn send(call: &HttpCall) -> Result<Answer, String> {
    let headers = headers(call)?;
    match try_send(call, headers.clone(), call.is_https).await {
        Ok(()) => Ok(Answer::AsAsked),
        Err(SendError::Failed(error)) => Err(error),
        Err(SendError::NotTls) => {
            let mut headers = headers;
            headers.remove(AUTHORIZATION);
            match try_send(call, headers, false).await {
                Ok(()) => Ok(Answer::InPlainText),
                Err(_) => Err("server gave HTTP response to HTTPS client".to_owned()),
            }
        }
    }
}

fn headers(call: &HttpCall) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &call.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("invalid header name: {name}"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("invalid value of header {name}"))?;
        headers.append(name, value);
    }
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if !headers.contains_key(HOST) {
        let host = HeaderValue::try_from(authority(call)).map_err(|_| format!("invalid host: {}", call.host))?;
        headers.insert(HOST, host);
    }
    Ok(headers)
}

async fn try_send(call: &HttpCall, headers: HeaderMap, tls: bool) -> Result<(), SendError> {
    let failed = |error: &(dyn std::error::Error + 'static)| SendError::Failed(chain(error));
    let stream = TcpStream::connect((call.host.as_str(), call.port)).await.map_err(|error| failed(&error))?;
    if !tls {
        return exchange(call, headers, stream).await;
    }
    let config = crate::probe::lenient_tls(crate::probe::Offer::Nothing);
    let name = rustls::pki_types::ServerName::try_from(call.host.clone()).map_err(|error| failed(&error))?;
    let connector = TlsConnector::from(Arc::clone(&config));
    match connector.connect(name, stream).await {
        Ok(stream) => exchange(call, headers, stream).await,
        Err(error) if is_plain_text(&error) => Err(SendError::NotTls),
        Err(error) => Err(failed(&error)),
    }
}

/// Whether a handshake failed because what came was no TLS at all.
fn is_plain_text(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

async fn exchange<S>(call: &HttpCall, headers: HeaderMap, stream: S) -> Result<(), SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &(dyn std::error::Error + 'static)| SendError::Failed(chain(error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let mut request = Request::get(call.path.as_str()).body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    *request.headers_mut() = headers;
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    // Cancel-safe: both are pinned outside, and whichever ends first decides; the connection cannot end well before the
    // answer has come.
    tokio::select! {
        answer = &mut answer => answer.map(drop).map_err(|error| failed(&error)),
        ended = &mut connection => match ended {
            Err(error) => Err(failed(&error)),
            // The answer may have come with the end of the connection.
            Ok(()) => answer.await.map(drop).map_err(|error| failed(&error)),
        },
    }
}
