//! Counts requests to the API server and measures how long their answers take to begin, as a tower layer.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::metrics::kubelet as metrics;

/// Measures the service below it.
#[derive(Clone, Copy, Debug)]
pub(super) struct MeasureLayer;

impl<S> Layer<S> for MeasureLayer {
    type Service = Measure<S>;

    fn layer(&self, inner: S) -> Measure<S> {
        Measure { inner }
    }
}

/// The measured service.
#[derive(Clone, Debug)]
pub(super) struct Measure<S> {
    inner: S,
}

impl<S, I, O> Service<Request<I>> for Measure<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    O: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let method = request.method().clone();
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let began = Instant::now();
            let answer = answer.await;
            let code = answer.as_ref().map_or("<error>", |answer| code_text(answer.status().as_u16()));
            metrics::REST_REQUESTS.increment(&[code, &host, method.as_str()]);
            metrics::REST_DURATION.observe(&[&host, method.as_str()], began.elapsed().as_secs_f64());
            answer
        })
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

    #[tokio::test]
    async fn an_answer_is_counted_by_code_and_host() {
        let inner = tower::service_fn(|_: Request<()>| async {
            let mut answer = Response::new(());
            *answer.status_mut() = http::StatusCode::CONFLICT;
            Ok::<_, Infallible>(answer)
        });
        let mut measured = MeasureLayer.layer(inner);
        let request = Request::builder().method("PUT").uri("https://measured.test:6443/api").body(()).unwrap();
        measured.call(request).await.unwrap();
        let mut text = Exposition::new();
        metrics::REST_REQUESTS.write(&mut text);
        let line = "rest_client_requests_total{code=\"409\",host=\"measured.test:6443\",method=\"PUT\"} 1";
        assert!(text.finish().lines().any(|known| known == line));
    }
}
