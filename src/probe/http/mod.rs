//! Probes by an HTTP request: any status from 200 to 399 is a success. Lifecycle hooks send theirs by [`HttpGet`].
//!
//! Every request has a connection of its own, without a proxy and with certificates unverified. Over TLS the server chooses
//! between HTTP/2 and HTTP/1.1; in plain text it is HTTP/1.1 unless the probe asks for the other.

mod exchange;
mod http2;
mod request;
#[cfg(test)]
mod tests;

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use self::exchange::{Failed, Response};
pub(super) use self::request::{Request, USER_AGENT};
use super::attempt::Attempt;
use super::tcp::authority;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// A GET request to a container that is no probe.
#[derive(Clone, Copy)]
pub struct HttpGet<'a> {
    /// Whether by TLS.
    pub https: bool,
    /// A name or an address, an IPv6 address without its brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The path, and what follows it.
    pub path: &'a str,
    /// Headers beside those that every request has.
    pub headers: &'a [(String, String)],
    /// How the request calls itself.
    pub agent: &'static str,
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HttpGetError {
    /// The cause in the peer's words.
    message: String,
    /// The server speaks plain HTTP where TLS was asked for.
    pub is_plain_text: bool,
}

impl HttpGet<'_> {
    /// Host and port as in a URL.
    pub fn authority(&self) -> String {
        authority(self.host, self.port)
    }

    /// Makes the request and follows redirects that stay on the host. Any answer is one, whatever its status. It is waited for
    /// as long as it takes.
    ///
    /// # Errors
    /// What kept the answer from coming.
    pub async fn send(&self) -> Result<(), HttpGetError> {
        let failed = |message| HttpGetError { message, is_plain_text: false };
        let request = Request::of_get(self).map_err(failed)?;
        follow(&request, None).await.map(drop).map_err(|unanswered| HttpGetError {
            is_plain_text: unanswered.cause == exchange::NOT_TLS,
            message: unanswered.to_string(),
        })
    }
}

/// A request without an answer, in the words of the peer's HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("Get {:?}: {cause}", url.to_string())]
struct Unanswered {
    url: request::Url,
    cause: String,
}

/// Asks the server.
pub(super) async fn probe(request: Request, timeout: Duration) -> Attempt {
    let deadline = Instant::now() + timeout;
    match follow(&request, Some(deadline)).await {
        Ok(answer) => judge(answer, deadline).await,
        Err(unanswered) => Attempt::Failure(unanswered.to_string()),
    }
}

/// Sends the request, and again where redirects lead to.
async fn follow(request: &Request, deadline: Option<Instant>) -> Result<Response, Unanswered> {
    let mut url = request.url.clone();
    let mut redirects = 0;
    loop {
        let exchanged = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, exchange::exchange(request, &url)).await,
            None => Ok(exchange::exchange(request, &url).await),
        };
        let answer = match exchanged {
            Ok(Ok(answer)) => answer,
            Ok(Err(Failed(cause))) => return Err(Unanswered { url, cause }),
            Err(_) => {
                let cause = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned();
                return Err(Unanswered { url, cause });
            }
        };
        match next_url(&url, &answer) {
            Some(next) if next.host == request.url.host => {
                redirects += 1;
                if redirects >= MAX_REDIRECTS {
                    return Err(Unanswered { url: next, cause: "stopped after 10 redirects".to_owned() });
                }
                url = next;
            }
            // A redirect to elsewhere is an answer as well: what is asked is this container alone.
            _ => return Ok(answer),
        }
    }
}

/// Where a redirect leads; none if the answer is none.
fn next_url(url: &request::Url, answer: &Response) -> Option<request::Url> {
    let follows = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = answer.location.as_deref().filter(|l| follows && !l.is_empty())?;
    url.join(location)
}

async fn judge(answer: Response, deadline: Instant) -> Attempt {
    let status = answer.status;
    // It is read even where it does not matter: a server that does not get to the end of its answer is not well.
    let body = match tokio::time::timeout_at(deadline, answer.body()).await {
        Ok(Ok(body)) => body,
        Ok(Err(Failed(message))) => return Attempt::Errored { state: "failure", message },
        Err(_) => {
            let message = "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
            return Attempt::Errored { state: "failure", message: message.to_owned() };
        }
    };
    if status < StatusCode::OK || status >= StatusCode::BAD_REQUEST {
        // Without the body, which may hold what an event must not tell.
        return Attempt::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()));
    }
    if status >= StatusCode::MULTIPLE_CHOICES {
        let body = String::from_utf8_lossy(&body);
        return Attempt::Warning(format!("Probe terminated redirects, Response body: {body}"));
    }
    Attempt::Success
}
