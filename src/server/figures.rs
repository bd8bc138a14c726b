//! `/stats/summary` and the `/metrics` family.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;

use super::introspection::Introspection;
use super::{compression, text};
use crate::metrics::Exposition;
use crate::metrics::family::Family;
use crate::metrics::{
    kubelet,
    text::{CONTENT_TYPE as METRICS_TYPE, Kind},
};
use crate::model::Timestamp;
use crate::stats::StatsCollector;

/// What of `/metrics` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metrics {
    /// The agent's own.
    Agent,
    /// Every cgroup.
    Cadvisor,
    /// Processor time and memory of pods.
    Resource,
    /// Probes' results.
    Probes,
    /// Health checks' results.
    Slis,
}

/// `/stats/summary`.
pub(super) async fn summary(stats: Option<&StatsCollector>, query: &str) -> Response {
    let Some(stats) = stats else { return unknown() };
    let mut only = query.split('&').filter_map(|pair| pair.strip_prefix("only_cpu_and_memory="));
    // As in the peer: `true` alone, and given once.
    let only_cpu_and_memory = only.next() == Some("true") && only.next().is_none();
    let summary = match stats.summary(only_cpu_and_memory).await {
        Ok(summary) => serde_json::to_vec(&summary).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match summary {
        Ok(body) => text::json(body.into()),
        Err(problem) => text::text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {problem}")),
    }
}

/// `/metrics` and what is below it, in gzip if that is asked for.
pub(super) async fn metrics(
    stats: Option<&StatsCollector>,
    introspection: &Introspection,
    started_at: Timestamp,
    which: Metrics,
    gzip: bool,
) -> Response {
    let text = match families(stats, introspection, started_at, which).await {
        Ok(text) => Bytes::from(text),
        Err(refusal) => return refusal,
    };
    let typed = |body: Bytes| {
        let mut response = text::text(StatusCode::OK, body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
        // When the agent was started in seconds since 1970: counters begin anew there.
        headers.insert("process-start-time-unix", HeaderValue::from(started_at.as_second()));
        response
    };
    if !gzip {
        return typed(text);
    }
    match compression::gzip(text.clone()).await {
        Ok(compressed) => compression::is_in_gzip(typed(compressed)),
        // As the peer's library does.
        Err(_) => typed(text),
    }
}

async fn families(
    stats: Option<&StatsCollector>,
    introspection: &Introspection,
    started_at: Timestamp,
    which: Metrics,
) -> Result<String, Response> {
    match which {
        Metrics::Agent => {
            if let Some(stats) = stats {
                stats.update_agent_metrics().await;
            }
            if let Some(refresh) = &introspection.refresh {
                refresh();
            }
            let mut text = Exposition::new();
            kubelet::write_all(&mut text);
            Ok(text.finish())
        }
        Metrics::Resource => Ok(stats.ok_or_else(unknown)?.resource_metrics().await),
        Metrics::Cadvisor => {
            let metrics = stats.ok_or_else(unknown)?.cadvisor_metrics().await;
            metrics.map_err(|error| text::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
        Metrics::Probes | Metrics::Slis => {
            let mut text = Exposition::new();
            if which == Metrics::Slis {
                kubelet::HEALTHCHECK.write(&mut text);
                kubelet::HEALTHCHECKS.write(&mut text);
            } else if let Some(probes) = &introspection.probes {
                probes(&mut text);
            }
            // With other words than in /metrics.
            let (name, help) = ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");
            text.family(name, &format!("[ALPHA] {help}"), Kind::Gauge);
            text.sample(name, [], started_at.as_duration().as_secs_f64(), None);
            Ok(text.finish())
        }
    }
}

/// DELETE of `/metrics/slis`: the health checks are counted anew.
pub(super) fn reset_slis() -> Response {
    kubelet::HEALTHCHECK.replace::<2>([]);
    kubelet::HEALTHCHECKS.clear();
    text::text(StatusCode::OK, "metrics reset\n")
}

fn unknown() -> Response {
    text::text(StatusCode::SERVICE_UNAVAILABLE, "the node's figures are not known")
}

/// The labels `method`, `path` and `long_running` of a request. A path counts by its first part, so that callers cannot make
/// series at will.
pub(super) fn labels(method: &Method, path: &str) -> [&'static str; 3] {
    const LONG_RUNNING: [&str; 4] = ["exec", "attach", "portforward", "debug"];
    let path = path.trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    let bucket = match path {
        "metrics/cadvisor" => "metrics/cadvisor",
        "metrics/probes" => "metrics/probes",
        "metrics/resource" => "metrics/resource",
        _ => super::routes::first_part(first).unwrap_or("other"),
    };
    let method = match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "other",
    };
    let long_running = if LONG_RUNNING.contains(&first) { "true" } else { "false" };
    [long_running, method, bucket]
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Method::GET, "/stats/summary", ["false", "GET", "stats"])]
    #[case(Method::GET, "/metrics/cadvisor", ["false", "GET", "metrics/cadvisor"])]
    #[case(Method::GET, "/metrics/x", ["false", "GET", "metrics"])]
    #[case(Method::POST, "/exec/a/b/c", ["true", "POST", "exec"])]
    #[case(Method::GET, "/../../etc", ["false", "GET", "other"])]
    #[case(Method::from_bytes(b"BREW").unwrap(), "/", ["false", "other", "other"])]
    fn a_request_is_counted_by_its_first_part(#[case] method: Method, #[case] path: &str, #[case] expected: [&str; 3]) {
        assert_eq!(labels(&method, path), expected);
    }
}
