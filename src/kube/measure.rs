//! Counts requests to the API server, measures how long their answers take to begin, and how large both are.

use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Body;
use tokio::time::Instant;

use crate::metrics::{float, kubelet as metrics};

/// A request under way.
pub(super) struct Measured {
    method: Method,
    host: String,
    began: Instant,
    is_watch: bool,
}

impl Measured {
    /// Of a request that is about to be sent and has waited so long for its turn.
    pub(super) fn begin<B: Body>(request: &Request<B>, waited: Duration) -> Self {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let labels = [host.as_str(), request.method().as_str()];
        metrics::REST_WAIT.observe(&labels, waited.as_secs_f64());
        if let Some(size) = request.body().size_hint().exact() {
            metrics::REST_REQUEST_SIZE.observe(&labels, float(size));
        }
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        let is_watch = parameters.any(|parameter| matches!(parameter, "watch=true" | "watch=1"));
        Measured { method: request.method().clone(), host, began: Instant::now(), is_watch }
    }

    /// The answer has begun, or there is none. What it holds is yet to come.
    pub(super) fn end<B, E>(self, answer: &Result<Response<B>, E>) -> AnswerSize {
        let (host, method) = (self.host.as_str(), self.method.as_str());
        let code = answer.as_ref().map_or("<error>", |answer| code_text(answer.status().as_u16()));
        metrics::REST_REQUESTS.increment(&[code, host, method]);
        metrics::REST_DURATION.observe(&[host, method], self.began.elapsed().as_secs_f64());
        let of = (!self.is_watch).then_some((self.host, self.method));
        AnswerSize { of, bytes: 0 }
    }
}

/// What came of an answer.
#[derive(Debug, Default)]
pub(super) struct AnswerSize {
    /// Host and method; none of a watch, which the peer does not measure, and once it was told.
    of: Option<(String, Method)>,
    bytes: u64,
}

impl AnswerSize {
    /// A piece came.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// All came.
    pub(super) fn tell(&mut self) {
        if let Some((host, method)) = self.of.take() {
            metrics::REST_RESPONSE_SIZE.observe(&[&host, method.as_str()], float(self.bytes));
        }
    }
}

/// The label of a status code; rare ones share theirs, so that there are few series.
pub(crate) fn code_text(code: u16) -> &'static str {
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

    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    use super::*;
    use crate::metrics::Exposition;
    use crate::metrics::family::Family;

    #[test]
    fn an_answer_is_counted_by_code_and_host_and_by_its_size() {
        let uri = "https://measured.test:6443/api";
        let request = Request::builder().method("PUT").uri(uri).body(Full::<Bytes>::from("12345")).unwrap();
        let answer = || Response::builder().status(http::StatusCode::CONFLICT).body(()).unwrap();
        let mut size = Measured::begin(&request, Duration::ZERO).end(&Ok::<_, Infallible>(answer()));
        size.add(300);
        size.add(400);
        size.tell();
        size.tell();
        // A watch has no size.
        let watch = Request::builder().uri(format!("{uri}?a=b&watch=true")).body(Empty::<Bytes>::new()).unwrap();
        Measured::begin(&watch, Duration::ZERO).end(&Ok::<_, Infallible>(answer())).tell();
        let mut text = Exposition::new();
        for family in
            [&metrics::REST_REQUESTS as &dyn Family, &metrics::REST_REQUEST_SIZE, &metrics::REST_RESPONSE_SIZE]
        {
            family.write(&mut text);
        }
        let text = text.finish();
        let told: Vec<&str> = text.lines().filter(|line| line.contains("measured.test")).collect();
        for line in [
            "rest_client_requests_total{code=\"409\",host=\"measured.test:6443\",method=\"PUT\"} 1",
            "rest_client_request_size_bytes_sum{host=\"measured.test:6443\",verb=\"PUT\"} 5",
            "rest_client_request_size_bytes_count{host=\"measured.test:6443\",verb=\"GET\"} 1",
            "rest_client_response_size_bytes_bucket{host=\"measured.test:6443\",verb=\"PUT\",le=\"512\"} 0",
            "rest_client_response_size_bytes_bucket{host=\"measured.test:6443\",verb=\"PUT\",le=\"1024\"} 1",
            "rest_client_response_size_bytes_sum{host=\"measured.test:6443\",verb=\"PUT\"} 700",
        ] {
            assert!(told.contains(&line), "{line} in {told:#?}");
        }
        assert!(!told.iter().any(|line| line.starts_with("rest_client_response_size") && line.contains("GET")));
    }
}
