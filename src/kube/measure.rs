//! Counts requests to the API server and measures how long their answers take to begin.

use std::time::Duration;

use http::{Method, Request, Response};
use tokio::time::Instant;

use crate::metrics::kubelet as metrics;

/// A request under way.
pub(super) struct Measured {
    method: Method,
    host: String,
    began: Instant,
}

impl Measured {
    /// Of a request that is about to be sent and has waited so long for its turn.
    pub(super) fn begin<B>(request: &Request<B>, waited: Duration) -> Self {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        metrics::REST_WAIT.observe(&[&host, request.method().as_str()], waited.as_secs_f64());
        Measured { method: request.method().clone(), host, began: Instant::now() }
    }

    /// The answer has begun, or there is none.
    pub(super) fn end<B, E>(self, answer: &Result<Response<B>, E>) {
        let (host, method) = (self.host.as_str(), self.method.as_str());
        let code = answer.as_ref().map_or("<error>", |answer| code_text(answer.status().as_u16()));
        metrics::REST_REQUESTS.increment(&[code, host, method]);
        metrics::REST_DURATION.observe(&[host, method], self.began.elapsed().as_secs_f64());
    }
}

/// The label of a status code; rare ones share theirs, so that there are few series.
fn code_text(code: u16) -> &'static str {
    match code {
        101 => "101",
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        409 => "409",
        410 => "410",
        422 => "422",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::metrics::Exposition;
    use crate::metrics::family::Family;

    #[test]
    fn an_answer_is_counted_by_code_and_host() {
        let request = Request::builder().method("PUT").uri("https://measured.test:6443/api").body(()).unwrap();
        let answer = Response::builder().status(http::StatusCode::CONFLICT).body(()).unwrap();
        Measured::begin(&request, Duration::ZERO).end(&Ok::<_, Infallible>(answer));
        let mut text = Exposition::new();
        metrics::REST_REQUESTS.write(&mut text);
        let line = "rest_client_requests_total{code=\"409\",host=\"measured.test:6443\",method=\"PUT\"} 1";
        assert!(text.finish().lines().any(|known| known == line));
    }
}
