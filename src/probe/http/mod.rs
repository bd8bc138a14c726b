//! Probes by an HTTP request: any status from 200 to 399 is a success.
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

use self::exchange::{Failed, Response};
pub(super) use self::request::{Request, USER_AGENT};
use super::attempt::Attempt;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Asks the server.
pub(super) async fn probe(request: Request, timeout: Duration) -> Attempt {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut url = request.url.clone();
    let failure = |url: &request::Url, cause: &str| Attempt::Failure(format!("Get {:?}: {cause}", url.to_string()));
    for redirects in 0.. {
        let answer = match tokio::time::timeout_at(deadline, exchange::exchange(&request, &url)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Failed(cause))) => return failure(&url, &cause),
            Err(_) => {
                let cause = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
                return failure(&url, cause);
            }
        };
        match next_url(&url, &answer) {
            Some(next) if next.host == request.url.host => {
                if redirects + 1 >= MAX_REDIRECTS {
                    return failure(&next, "stopped after 10 redirects");
                }
                url = next;
            }
            // A redirect to elsewhere is an answer as well: the probe is about this container alone.
            _ => return judge(answer, deadline).await,
        }
    }
    Attempt::unknown("no redirect was the last")
}

/// Where a redirect leads; none if the answer is none.
fn next_url(url: &request::Url, answer: &Response) -> Option<request::Url> {
    let follows = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = answer.location.as_deref().filter(|l| follows && !l.is_empty())?;
    url.join(location)
}

async fn judge(answer: Response, deadline: tokio::time::Instant) -> Attempt {
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
