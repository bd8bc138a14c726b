//! The table of all that is served, and the router made from it.
//!
//! A row is the whole of what the server knows of a path. On the HTTPS port a request is let in by the row's subresources
//! before anything else is looked at, and what matches no row by `nodes/proxy`, as in the peer (`pkg/kubelet/server/auth.go`).
//! A path matches as it was sent: nothing is decoded, cleaned or redirected first, so that what is allowed is what is served.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, any};
use http_body_util::Limited;

use super::figures::{self, Metrics};
use super::guard::Guard;
use super::{Endpoints, compression, health, introspection, pods, text, zpages};
use crate::metrics::kubelet as metrics;
use crate::model::clock;

/// Size of a request's body: what is served takes none, or a little.
const BODY_BYTES: usize = 1 << 20;

/// The ports of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// `port`, with TLS.
    Secure,
    /// `readOnlyPort`, open to all.
    ReadOnly,
    /// `healthzPort`, open to all.
    Health,
}

/// Who may use a port.
pub(super) enum Access {
    /// Everyone.
    Open,
    /// Whom the guard lets in.
    Guarded(Arc<Guard>),
}

/// What methods a path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Methods {
    /// All.
    Any,
    /// GET alone.
    Get,
    /// POST alone.
    Post,
    /// GET and POST.
    GetOrPost,
}

impl Methods {
    /// What it must be instead, if a method is not taken.
    fn refuse(self, method: &Method) -> Option<&'static str> {
        let (taken, allowed) = match self {
            Methods::Any => (true, ""),
            Methods::Get => (method == Method::GET, "GET"),
            Methods::Post => (method == Method::POST, "POST"),
            Methods::GetOrPost => (method == Method::GET || method == Method::POST, "GET, POST"),
        };
        (!taken).then_some(allowed)
    }
}

/// With which setting of `enableDebuggingHandlers` a path is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// With either.
    Always,
    /// With true.
    Debugging,
    /// With false.
    NotDebugging,
}

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Health,
    Fine,
    SyncLoop,
    Pods,
    RunningPods,
    Summary,
    Metrics(Metrics),
    Configz,
    Flagz,
    Statusz,
    DebugFlags,
    Profiling,
    Exec,
    Attach,
    PortForward,
    Run,
    Checkpoint,
    ContainerLogs,
    SystemLogs,
    DebuggingDisabled,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Route {
    /// Spellings of the path.
    pub paths: &'static [&'static str],
    pub methods: Methods,
    /// Subresources of the Node, any of which a caller must be allowed to use.
    pub subresources: &'static [&'static str],
    pub ports: &'static [Port],
    pub when: When,
    pub endpoint: Endpoint,
}

const EVERYWHERE: &[Port] = &[Port::Secure, Port::ReadOnly, Port::Health];
const BOTH: &[Port] = &[Port::Secure, Port::ReadOnly];
const SECURE: &[Port] = &[Port::Secure];

const HEALTH: &[&str] = &["healthz", "proxy"];
const PODS: &[&str] = &["pods", "proxy"];
const CONFIGZ: &[&str] = &["configz", "proxy"];
const FLAGZ: &[&str] = &["configz"];
const LOG: &[&str] = &["log"];
const CHECKPOINT: &[&str] = &["checkpoint"];
const METRICS: &[&str] = &["metrics"];
const STATS: &[&str] = &["stats"];
const STATUSZ: &[&str] = &["statusz"];
/// What everything needs that has no subresource of its own.
pub(super) const PROXY: &[&str] = &["proxy"];

const fn disabled(paths: &'static [&'static str], subresources: &'static [&'static str]) -> Route {
    let (when, endpoint) = (When::NotDebugging, Endpoint::DebuggingDisabled);
    Route { paths, methods: Methods::Any, subresources, ports: BOTH, when, endpoint }
}

const fn always(
    paths: &'static [&'static str],
    methods: Methods,
    subresources: &'static [&'static str],
    ports: &'static [Port],
    endpoint: Endpoint,
) -> Route {
    Route { paths, methods, subresources, ports, when: When::Always, endpoint }
}

const fn debugging(
    paths: &'static [&'static str],
    methods: Methods,
    subresources: &'static [&'static str],
    endpoint: Endpoint,
) -> Route {
    Route { paths, methods, subresources, ports: SECURE, when: When::Debugging, endpoint }
}

/// All that is served.
pub(super) const ROUTES: &[Route] = &[
    always(&["/healthz"], Methods::Any, HEALTH, EVERYWHERE, Endpoint::Health),
    always(&["/healthz/ping"], Methods::Any, HEALTH, EVERYWHERE, Endpoint::Fine),
    always(&["/healthz/log"], Methods::Any, HEALTH, EVERYWHERE, Endpoint::Fine),
    always(&["/healthz/syncloop"], Methods::Any, HEALTH, EVERYWHERE, Endpoint::SyncLoop),
    always(&["/pods", "/pods/"], Methods::Get, PODS, BOTH, Endpoint::Pods),
    always(&["/stats/summary"], Methods::GetOrPost, STATS, BOTH, Endpoint::Summary),
    always(&["/metrics"], Methods::Any, METRICS, BOTH, Endpoint::Metrics(Metrics::Agent)),
    always(&["/metrics/cadvisor"], Methods::Any, METRICS, BOTH, Endpoint::Metrics(Metrics::Cadvisor)),
    always(&["/metrics/probes"], Methods::Any, METRICS, BOTH, Endpoint::Metrics(Metrics::Probes)),
    always(&["/metrics/resource"], Methods::Any, METRICS, BOTH, Endpoint::Metrics(Metrics::Resource)),
    always(&["/metrics/slis"], Methods::Any, METRICS, BOTH, Endpoint::Metrics(Metrics::Slis)),
    debugging(&["/runningpods", "/runningpods/"], Methods::Get, PODS, Endpoint::RunningPods),
    debugging(&["/configz"], Methods::Any, CONFIGZ, Endpoint::Configz),
    debugging(&["/statusz"], Methods::Any, STATUSZ, Endpoint::Statusz),
    debugging(&["/flagz"], Methods::Any, FLAGZ, Endpoint::Flagz),
    debugging(&["/debug/flags/v"], Methods::Any, PROXY, Endpoint::DebugFlags),
    debugging(&["/debug/pprof/", "/debug/pprof/{*rest}"], Methods::Get, PROXY, Endpoint::Profiling),
    debugging(
        &["/exec/{namespace}/{pod}/{name}", "/exec/{namespace}/{pod}/{name}/{last}"],
        Methods::GetOrPost,
        PROXY,
        Endpoint::Exec,
    ),
    debugging(
        &["/attach/{namespace}/{pod}/{name}", "/attach/{namespace}/{pod}/{name}/{last}"],
        Methods::GetOrPost,
        PROXY,
        Endpoint::Attach,
    ),
    debugging(
        &["/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"],
        Methods::GetOrPost,
        PROXY,
        Endpoint::PortForward,
    ),
    debugging(
        &["/run/{namespace}/{pod}/{name}", "/run/{namespace}/{pod}/{name}/{last}"],
        Methods::Post,
        PROXY,
        Endpoint::Run,
    ),
    debugging(&["/containerLogs/{namespace}/{pod}/{container}"], Methods::Get, PROXY, Endpoint::ContainerLogs),
    debugging(&["/logs", "/logs/", "/logs/{*rest}"], Methods::Get, LOG, Endpoint::SystemLogs),
    debugging(&["/checkpoint/{namespace}/{pod}/{container}"], Methods::Post, CHECKPOINT, Endpoint::Checkpoint),
    disabled(&["/run/", "/run/{*rest}"], PROXY),
    disabled(&["/exec/", "/exec/{*rest}"], PROXY),
    disabled(&["/attach/", "/attach/{*rest}"], PROXY),
    disabled(&["/portForward/", "/portForward/{*rest}"], PROXY),
    disabled(&["/containerLogs/", "/containerLogs/{*rest}"], PROXY),
    disabled(&["/runningpods/", "/runningpods/{*rest}"], PODS),
    disabled(&["/debug/pprof/", "/debug/pprof/{*rest}"], PROXY),
    disabled(&["/logs/", "/logs/{*rest}"], LOG),
];

/// The first part of a served path that is this one.
pub(super) fn first_part(first: &str) -> Option<&'static str> {
    let mut firsts = ROUTES.iter().flat_map(|route| route.paths).filter_map(|path| path.split('/').nth(1));
    firsts.find(|known| *known == first)
}

/// Whether a port serves what begins with the same part as a path, and tells methods apart there: the peer's web services.
fn is_parted(port: Port, debugging: bool, path: &str) -> bool {
    let first = |path: &str| path.split('/').nth(1).unwrap_or_default().to_owned();
    let is_service = |route: &&Route| route.methods != Methods::Any && route.endpoint != Endpoint::Profiling;
    let mut paths = served(port, debugging).filter(is_service).flat_map(|route| route.paths);
    paths.any(|known| first(known) == first(path))
}

/// The rows that a port serves.
pub(super) fn served(port: Port, debugging: bool) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| {
        let when = match route.when {
            When::Always => true,
            When::Debugging => debugging,
            When::NotDebugging => !debugging,
        };
        when && route.ports.contains(&port)
    })
}

/// The router of a port.
pub(super) fn router(port: Port, access: &Access, endpoints: &Arc<Endpoints>) -> Router {
    let mut router = Router::new();
    for route in served(port, endpoints.debugging) {
        let endpoints = endpoints.clone();
        let handler = any(move |request: Request| answer(route, endpoints.clone(), request));
        let handler = behind(access, handler, route.subresources);
        for path in route.paths {
            router = router.route(path, handler.clone());
        }
    }
    let debugging = endpoints.debugging;
    let nothing = any(move |request: Request| async move {
        if is_parted(port, debugging, request.uri().path()) { text::no_route() } else { text::not_found() }
    });
    let nothing = behind(access, nothing, PROXY);
    let router = router.fallback_service(nothing).layer(middleware::from_fn(limit_body));
    let server_type = match port {
        Port::Secure => "readwrite",
        Port::ReadOnly => "readonly",
        // The peer counts no health checks.
        Port::Health => return router,
    };
    router.layer(middleware::from_fn(move |request: Request, next: Next| measured(server_type, request, next)))
}

/// Counts a request and measures how long its answer takes to begin.
async fn measured(server_type: &'static str, request: Request, next: Next) -> Response {
    let [long_running, method, path] = figures::labels(request.method(), request.uri().path());
    let labels = [long_running, method, path, server_type];
    metrics::HTTP_REQUESTS.increment(&labels);
    let _inflight = Inflight::begin(labels);
    let began = tokio::time::Instant::now();
    let response = next.run(request).await;
    metrics::HTTP_DURATION.observe(&labels, began.elapsed().as_secs_f64());
    response
}

/// A request under way; also one whose caller goes before the answer.
struct Inflight([&'static str; 4]);

impl Inflight {
    fn begin(labels: [&'static str; 4]) -> Self {
        metrics::HTTP_INFLIGHT.add(&labels, 1.0);
        Inflight(labels)
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        metrics::HTTP_INFLIGHT.add(&self.0, -1.0);
    }
}

fn behind(access: &Access, handler: MethodRouter, subresources: &'static [&'static str]) -> MethodRouter {
    match access {
        Access::Open => handler,
        Access::Guarded(guard) => {
            let guard = guard.clone();
            handler.layer(middleware::from_fn(move |request: Request, next: Next| {
                let guard = guard.clone();
                async move { guard.pass(request, next, subresources).await }
            }))
        }
    }
}

/// Refuses a body that says that it is too large, and ends one that turns out to be.
async fn limit_body(request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES as u64) {
        return text::too_large();
    }
    next.run(request.map(|body| axum::body::Body::new(Limited::new(body, BODY_BYTES)))).await
}

async fn answer(route: &'static Route, endpoints: Arc<Endpoints>, request: Request) -> Response {
    if let Some(allowed) = route.methods.refuse(request.method()) {
        return text::method_not_allowed(allowed);
    }
    match route.endpoint {
        Endpoint::Health => health::all(request.uri().query().unwrap_or_default(), &endpoints.health),
        Endpoint::Fine => health::one(Ok(())),
        Endpoint::SyncLoop => health::one((endpoints.health)()),
        Endpoint::Pods => match &endpoints.pods {
            Some(lister) => match lister.pods().await {
                Some(known) => list(pods::encode(known.iter().map(AsRef::as_ref))),
                None => unknown_pods(),
            },
            None => unknown_pods(),
        },
        Endpoint::RunningPods => match &endpoints.pods {
            Some(lister) => match lister.running_pods().await {
                Ok(running) => list(pods::encode(&running)),
                Err(problem) => text::text(StatusCode::INTERNAL_SERVER_ERROR, problem),
            },
            None => unknown_pods(),
        },
        Endpoint::Summary => {
            figures::summary(endpoints.stats.as_ref(), request.uri().query().unwrap_or_default()).await
        }
        Endpoint::Metrics(Metrics::Slis) if request.method() == Method::DELETE => figures::reset_slis(),
        Endpoint::Metrics(which) => {
            let gzip = compression::prefers_gzip(request.headers());
            let (stats, started_at) = (endpoints.stats.as_ref(), endpoints.started_at);
            figures::metrics(stats, &endpoints.introspection, started_at, which, gzip).await
        }
        Endpoint::Statusz => {
            let paths = served(Port::Secure, endpoints.debugging).flat_map(|route| route.paths).copied();
            zpages::statusz(request.headers(), clock::now(), endpoints.started_at, paths)
        }
        Endpoint::Profiling if !endpoints.profiling => {
            text::text(StatusCode::METHOD_NOT_ALLOWED, "profiling endpoint is disabled.\n")
        }
        Endpoint::Profiling => introspection::profile(request.uri().path()),
        Endpoint::Flagz => zpages::flagz(request.headers(), &endpoints.introspection.flags),
        Endpoint::DebugFlags if !endpoints.debug_flags => {
            text::text(StatusCode::METHOD_NOT_ALLOWED, "flags endpoint is disabled.\n")
        }
        Endpoint::DebugFlags => endpoints.introspection.verbosity(request).await,
        Endpoint::Configz => text::json(endpoints.configz.clone()),
        Endpoint::Exec
        | Endpoint::Attach
        | Endpoint::PortForward
        | Endpoint::Run
        | Endpoint::Checkpoint
        | Endpoint::ContainerLogs => {
            let Some(containers) = &endpoints.containers else { return unknown_pods() };
            match route.endpoint {
                Endpoint::Exec => containers.exec(request).await,
                Endpoint::Attach => containers.attach(request).await,
                Endpoint::PortForward => containers.port_forward(request).await,
                Endpoint::Run => containers.run(request).await,
                Endpoint::ContainerLogs => containers.logs(request).await,
                _ => containers.checkpoint(request).await,
            }
        }
        Endpoint::SystemLogs => endpoints.system_logs.serve(request).await,
        Endpoint::DebuggingDisabled => text::text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n"),
    }
}

fn list(encoded: Result<bytes::Bytes, serde_json::Error>) -> Response {
    match encoded {
        Ok(body) => text::json(body),
        Err(error) => text::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn unknown_pods() -> Response {
    text::text(StatusCode::SERVICE_UNAVAILABLE, "the node's pods are not known")
}
