//! `/healthz` and its checks, which kubeadm and other supervisors poll.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use tracing::warn;

use super::introspection::Introspection;
use super::listener::{Limits, Server};
use super::routes::{Access, Port, router};
use super::system_logs::SystemLogs;
use super::{Endpoints, ServerError, text};
use crate::metrics::kubelet as metrics;

/// What can be wrong with the agent: nothing, or one line. Asked at each request: it must not wait.
pub type HealthCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

impl Server {
    /// The plain server of `healthzBindAddress:healthzPort`, which has nothing but the health check.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn health(address: SocketAddr, health: HealthCheck) -> Result<Self, ServerError> {
        let endpoints = Endpoints {
            health,
            pods: None,
            stats: None,
            containers: None,
            system_logs: SystemLogs::default(),
            configz: bytes::Bytes::new(),
            debugging: false,
            profiling: false,
            debug_flags: false,
            introspection: Introspection::default(),
            started_at: crate::model::clock::now(),
        };
        let router = router(Port::Health, &Access::Open, &Arc::new(endpoints));
        Server::bind(address, None, router, Limits::default()).await
    }
}

/// The names of the checks, in their order; the first two cannot fail in an agent that answers.
const CHECKS: [&str; 3] = ["ping", "log", "syncloop"];

/// All checks: `ok`, or which of them failed. Why is only told where rights to the single check are needed, and in the log.
/// Of the query, `verbose` lists the checks and `exclude=<check>` leaves one out.
pub(super) fn all(query: &str, sync_loop: &HealthCheck) -> Response {
    let parameters = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
    let excluded: Vec<&str> =
        parameters.clone().filter_map(|(name, value)| (name == "exclude").then_some(value)).collect();
    let is_verbose = parameters.clone().any(|(name, _)| name == "verbose");
    let (mut lines, mut failed) = (String::new(), false);
    for check in CHECKS {
        if excluded.contains(&check) {
            lines += &format!("[+]{check} excluded: ok\n");
            continue;
        }
        let result = if check == "syncloop" { sync_loop() } else { Ok(()) };
        let (passed, status) = if result.is_ok() { (1.0, "success") } else { (0.0, "error") };
        metrics::HEALTHCHECK.set(&[check, "healthz"], passed);
        metrics::HEALTHCHECKS.increment(&[check, status, "healthz"]);
        match result {
            Ok(()) => lines += &format!("[+]{check} ok\n"),
            Err(problem) => {
                warn!(check, problem, "the health check failed");
                lines += &format!("[-]{check} failed: reason withheld\n");
                failed = true;
            }
        }
    }
    let mut unknown: Vec<String> =
        excluded.iter().filter(|name| !CHECKS.contains(name)).map(|name| format!("{name:?}")).collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        unknown.dedup();
        lines += &format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(","));
    }
    if failed {
        return text::text(StatusCode::INTERNAL_SERVER_ERROR, lines + "healthz check failed\n");
    }
    let body = if is_verbose { lines + "healthz check passed\n" } else { "ok".to_owned() };
    text::text(StatusCode::OK, body)
}

/// One check: `ok`, or what is wrong.
pub(super) fn one(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => text::text(StatusCode::OK, "ok"),
        Err(problem) => text::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {problem}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_follows_the_check_and_other_paths_are_not_found() {
        let healthy = Arc::new(AtomicBool::new(true));
        let flag = healthy.clone();
        let check: HealthCheck =
            Arc::new(move || if flag.load(Ordering::SeqCst) { Ok(()) } else { Err("stuck".into()) });
        let server = Server::health("127.0.0.1:0".parse().unwrap(), check).await.unwrap();
        let address = server.address();
        let cancel = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(server.run(cancel.clone()));
        let answer = fetch(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
        let answer = fetch(address, "/healthz?verbose&exclude=log&exclude=x").await;
        let lines = "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\nwarn: some health checks cannot be excluded: no matches \
                     for \"x\"\nhealthz check passed\n";
        assert!(answer.ends_with(lines), "{answer}");
        for path in ["/pods", "/configz", "/", "/healthz/", "/healthz/../configz"] {
            assert!(fetch(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
        healthy.store(false, Ordering::SeqCst);
        let answer = fetch(address, "/healthz").await;
        let lines = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
        assert!(answer.starts_with("HTTP/1.1 500") && answer.ends_with(lines), "{answer}");
        assert!(fetch(address, "/healthz/syncloop").await.ends_with("internal server error: stuck\n"));
        assert!(fetch(address, "/healthz?exclude=syncloop").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/healthz/ping").await.starts_with("HTTP/1.1 200"));
        cancel.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let check: HealthCheck = Arc::new(|| Ok(()));
        let first = Server::health("127.0.0.1:0".parse().unwrap(), check.clone()).await.unwrap();
        let Err(error) = Server::health(first.address(), check).await else { panic!("bound twice") };
        assert!(error.to_string().contains(&first.address().to_string()));
    }
}
