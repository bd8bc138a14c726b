//! Commands in containers, their input and output, and ports of pods: `/exec`, `/attach`, `/portForward`, `/run`, and
//! `/checkpoint`. What is asked is checked in the peer's order and refused in its words (`pkg/kubelet/server/server.go`); the
//! runtime then says where it streams, and the connection is passed on there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use k8s_openapi::api::core::v1::Pod;
use tracing::warn;

use super::pods::PodLister;
use super::query::{Query, unsigned};
use super::{text, upgrade};
use crate::metrics::kubelet as metrics;
use crate::model::pod;
use crate::model::{Timestamp, clock};
use crate::runtime::error::Code;
use crate::runtime::{RuntimeClient, RuntimeError, cri, labels};
use crate::sys::file_events::FileEvents;

/// Wait that a client is told when the runtime has too many requests for streams: they are kept for a minute.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("60");

/// The node's containers as the endpoints reach them.
#[derive(Clone)]
pub(super) struct Containers {
    pub runtime: RuntimeClient,
    pub pods: Arc<dyn PodLister>,
    /// `streamingConnectionIdleTimeout`.
    pub idle: Duration,
    /// Where checkpoints are written; none if the gate `ContainerCheckpoint` is off.
    pub checkpoints: Option<PathBuf>,
    pub logs: LogSettings,
}

/// How logs are read.
#[derive(Clone)]
pub(super) struct LogSettings {
    /// `podLogsDir`.
    pub root: String,
    /// Whether one stream alone can be asked for: the gate `PodLogsQuerySplitStreams`.
    pub split_streams: bool,
    pub events: FileEvents,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("pod does not exist")]
    NoPod,
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl Refusal {
    /// As the peer's `streaming.WriteError` and its `WriteError` calls choose.
    fn status(&self) -> StatusCode {
        match self {
            Refusal::BadRequest(_) => StatusCode::BAD_REQUEST,
            Refusal::NoPod | Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Runtime(error) => match error.code() {
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    pub(super) fn response(&self) -> Response {
        let status = self.status();
        let mut response = text::text(status, self.to_string());
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

/// What a path names: `/<endpoint>/<namespace>/<pod>[/<uid>][/<container>]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
}

impl Named {
    /// Of a path of a container.
    pub(super) fn container(path: &str) -> Option<Self> {
        let (namespace, pod, uid, container) = match segments(path).as_slice() {
            [namespace, pod, container] => (*namespace, *pod, "", *container),
            [namespace, pod, uid, container] => (*namespace, *pod, *uid, *container),
            _ => return None,
        };
        Some(Named::new(namespace, pod, uid, container))
    }

    /// Of a path of a pod.
    fn pod(path: &str) -> Option<Self> {
        let (namespace, pod, uid) = match segments(path).as_slice() {
            [namespace, pod] => (*namespace, *pod, ""),
            [namespace, pod, uid] => (*namespace, *pod, *uid),
            _ => return None,
        };
        Some(Named::new(namespace, pod, uid, ""))
    }

    fn new(namespace: &str, pod: &str, uid: &str, container: &str) -> Self {
        let [namespace, pod, uid, container] = [namespace, pod, uid, container].map(str::to_owned);
        Named { namespace, pod, uid, container }
    }

    fn full_name(&self) -> String {
        format!("{}_{}", self.pod, self.namespace)
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(2).collect()
}

/// Which of a process's streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    /// With a terminal there is no standard error of its own: asked for, it is passed over.
    fn of(query: &Query) -> Result<Self, Refusal> {
        let tty = query.is_one("tty");
        let (stdin, stdout) = (query.is_one("input"), query.is_one("output"));
        let stderr = query.is_one("error") && !tty;
        if !stdin && !stdout && !stderr {
            return Err(Refusal::BadRequest("you must specify at least 1 of stdin, stdout, stderr".to_owned()));
        }
        Ok(Streams { stdin, stdout, stderr, tty })
    }
}

/// The ports that a WebSocket client wants; others name theirs in the stream.
fn ports(headers: &HeaderMap, query: &Query) -> Result<Vec<i32>, Refusal> {
    if !upgrade::is_websocket(headers) {
        return Ok(Vec::new());
    }
    let refused = |text: String| Err(Refusal::BadRequest(text));
    let mut ports = Vec::new();
    for value in query.all("port") {
        if value.is_empty() {
            return refused("query parameter \"port\" cannot be empty".to_owned());
        }
        for part in value.split(',') {
            match unsigned(part, u16::MAX.into()) {
                Ok(0) => return refused(format!("port {value:?} must be > 0")),
                Ok(port) => ports.push(i32::try_from(port).unwrap_or_default()),
                Err(problem) => return refused(format!("unable to parse {value:?} as a port: {problem}")),
            }
        }
    }
    if ports.is_empty() {
        return refused("query parameter \"port\" is required".to_owned());
    }
    Ok(ports)
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Containers {
    fn pod_of(&self, named: &Named) -> Result<Arc<Pod>, Refusal> {
        self.pods.find(&named.namespace, &named.pod, None).ok_or(Refusal::NoPod)
    }

    /// Whether a path that has a UID has that of the pod, or of its mirror in the API.
    fn is_uid_of(&self, named: &Named) -> bool {
        named.uid.is_empty() || self.pods.find(&named.namespace, &named.pod, Some(&named.uid)).is_some()
    }

    /// The runtime's id of a container that runs.
    async fn running(&self, pod: &Pod, container: &str) -> Result<Option<String>, RuntimeError> {
        let mut selector = labels::pod_selector(uid(pod));
        selector.insert(labels::CONTAINER_NAME.to_owned(), container.to_owned());
        let state = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
        let filter = cri::ContainerFilter { state: Some(state), label_selector: selector, ..Default::default() };
        let containers = self.runtime.list_containers(Some(filter)).await?;
        Ok(containers.into_iter().max_by_key(|container| container.created_at).map(|container| container.id))
    }

    /// `/exec`.
    pub(super) async fn exec(&self, request: Request) -> Response {
        count_websocket(&request, "exec");
        match self.exec_url(request.uri()).await {
            Ok(url) => upgrade::proxy(request, &url, self.idle).await,
            Err(refusal) => refusal.response(),
        }
    }

    async fn exec_url(&self, uri: &Uri) -> Result<String, Refusal> {
        let query = Query::of(uri);
        let streams = Streams::of(&query)?;
        let named = Named::container(uri.path()).ok_or(Refusal::NoPod)?;
        let pod = self.pod_of(&named)?;
        let container_id = self.running_or_refuse(&pod, &named.container).await?;
        let cmd = query.all("command").map(str::to_owned).collect();
        let Streams { stdin, stdout, stderr, tty } = streams;
        Ok(self.runtime.exec(cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await?)
    }

    async fn running_or_refuse(&self, pod: &Pod, container: &str) -> Result<String, Refusal> {
        let running = self.running(pod, container).await?;
        running.ok_or_else(|| Refusal::Failed(format!("container not found ({container:?})")))
    }

    /// `/attach`.
    pub(super) async fn attach(&self, request: Request) -> Response {
        count_websocket(&request, "attach");
        match self.attach_url(request.uri()).await {
            Ok(url) => upgrade::proxy(request, &url, self.idle).await,
            Err(refusal) => refusal.response(),
        }
    }

    async fn attach_url(&self, uri: &Uri) -> Result<String, Refusal> {
        let Streams { stdin, stdout, stderr, .. } = Streams::of(&Query::of(uri))?;
        let named = Named::container(uri.path()).ok_or(Refusal::NoPod)?;
        let pod = self.pod_of(&named)?;
        let absent =
            || Refusal::Failed(format!("container {} not found in pod {}", named.container, named.full_name()));
        let container_id = self.running(&pod, &named.container).await?.ok_or_else(absent)?;
        if !self.is_uid_of(&named) {
            return Err(Refusal::Failed(format!("pod {} not found", named.full_name())));
        }
        let (_, spec) = pod::container_by_name(pod::spec(&pod), &named.container).ok_or_else(absent)?;
        // Whether there is a terminal was settled when the container was made, whatever the client says.
        let tty = spec.tty == Some(true);
        let request = cri::AttachRequest { container_id, stdin, tty, stdout, stderr };
        Ok(self.runtime.attach(request).await?)
    }

    /// `/portForward`.
    pub(super) async fn port_forward(&self, request: Request) -> Response {
        count_websocket(&request, "portforward");
        match self.port_forward_url(request.uri(), request.headers()).await {
            Ok(url) => upgrade::proxy(request, &url, self.idle).await,
            Err(refusal) => refusal.response(),
        }
    }

    async fn port_forward_url(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, Refusal> {
        let ports = ports(headers, &Query::of(uri))?;
        let named = Named::pod(uri.path()).ok_or(Refusal::NoPod)?;
        let pod = self.pod_of(&named)?;
        if !self.is_uid_of(&named) {
            return Err(Refusal::NotFound("pod not found".to_owned()));
        }
        let state = cri::PodSandboxStateValue { state: cri::PodSandboxState::SandboxReady.into() };
        let label_selector = labels::pod_selector(uid(&pod));
        let filter = cri::PodSandboxFilter { state: Some(state), label_selector, ..Default::default() };
        let sandboxes = self.runtime.list_pod_sandbox(Some(filter)).await?;
        let newest = sandboxes.into_iter().max_by_key(|sandbox| sandbox.created_at);
        let absent = || Refusal::Failed(format!("pod not found ({:?})", named.full_name()));
        Ok(self.runtime.port_forward(&newest.ok_or_else(absent)?.id, ports).await?)
    }

    /// `/run`: what a command printed, once it has ended.
    pub(super) async fn run(&self, request: Request) -> Response {
        match self.run_output(request.uri()).await {
            Ok(output) if output.is_empty() => text::empty(),
            Ok(output) => text::json(output.into()),
            Err(Refusal::Runtime(error)) => Refusal::Failed(in_grpc(&error)).response(),
            Err(refusal) => refusal.response(),
        }
    }

    async fn run_output(&self, uri: &Uri) -> Result<Vec<u8>, Refusal> {
        let named = Named::container(uri.path()).ok_or(Refusal::NoPod)?;
        let pod = self.pod_of(&named)?;
        let query = Query::of(uri);
        let line = query.get("cmd").unwrap_or_default();
        let command = line.split(' ').map(str::to_owned).collect();
        let id = self.running_or_refuse(&pod, &named.container).await?;
        let mut output = self.runtime.exec_sync(&id, command, Duration::ZERO).await?;
        if output.exit_code != 0 {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(Refusal::Failed(format!("command '{line}' exited with {}: {stderr}", output.exit_code)));
        }
        output.stdout.append(&mut output.stderr);
        Ok(output.stdout)
    }

    /// `/checkpoint`.
    pub(super) async fn checkpoint(&self, request: Request) -> Response {
        let Some(folder) = &self.checkpoints else { return text::not_found() };
        match self.write_checkpoint(request.uri(), folder, clock::now()).await {
            Ok(location) => text::json(serde_json::json!({"items": [location]}).to_string().into()),
            Err(refusal) => refusal.response(),
        }
    }

    async fn write_checkpoint(&self, uri: &Uri, folder: &Path, now: Timestamp) -> Result<String, Refusal> {
        let named = Named::container(uri.path()).ok_or(Refusal::NoPod)?;
        let pod = self.pod_of(&named)?;
        if pod::container_by_name(pod::spec(&pod), &named.container).is_none() {
            return Err(Refusal::NotFound(format!("container {} does not exist", named.container)));
        }
        let query = Query::of(uri);
        let timeout = query.all("timeout").last().map(str::parse::<i64>).transpose();
        let timeout =
            timeout.map_err(|_| Refusal::NotFound("cannot parse value of timeout parameter".to_owned()))?.unwrap_or(0);
        let failed = |why: &dyn std::fmt::Display| {
            let Named { namespace, pod, container, .. } = &named;
            Refusal::Failed(format!("checkpointing of {namespace}/{pod}/{container} failed ({why})"))
        };
        let Ok(timeout) = u64::try_from(timeout) else {
            return Err(failed(&"CheckpointContainer requires the timeout value to be > 0"));
        };
        let running = self.running(&pod, &named.container).await.map_err(|error| failed(&error))?;
        let id = running.ok_or_else(|| failed(&format_args!("container {} not found", named.container)))?;
        make_private(folder).await.map_err(|error| failed(&error))?;
        let location = folder.join(checkpoint_file(&named, now)).display().to_string();
        let written = self.runtime.checkpoint_container(&id, &location, Duration::from_secs(timeout)).await;
        written.map_err(|error| {
            warn!(location, %error, "a checkpoint was not written");
            failed(&error)
        })?;
        Ok(location)
    }
}

/// An error of the runtime with its code, as Go's gRPC writes it.
fn in_grpc(error: &RuntimeError) -> String {
    let code = match error.code() {
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {error}")
}

fn count_websocket(request: &Request, subresource: &str) {
    if upgrade::is_websocket(request.headers()) {
        metrics::WEBSOCKET_REQUESTS.increment(&[subresource]);
    }
}

/// The memory of processes is in there: for root alone.
async fn make_private(folder: &Path) -> std::io::Result<()> {
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await
}

/// The name that the peer gives a checkpoint.
fn checkpoint_file(named: &Named, now: Timestamp) -> String {
    format!("checkpoint-{}-{}-{}.tar", named.full_name(), named.container, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

#[cfg(test)]
mod tests {
    use axum::http::header::{CONNECTION, UPGRADE};
    use rstest::rstest;

    use super::*;

    #[test]
    fn paths_name_containers_and_pods() {
        let named = Named::container("/exec/default/web/app").unwrap();
        assert_eq!((named.namespace.as_str(), named.pod.as_str(), named.uid.as_str()), ("default", "web", ""));
        assert_eq!(named.container, "app");
        let named = Named::container("/attach/default/web/u1/app").unwrap();
        assert_eq!((named.uid.as_str(), named.container.as_str()), ("u1", "app"));
        assert_eq!(Named::pod("/portForward/default/web/u1").unwrap().uid, "u1");
        assert_eq!(Named::container("/exec/default/web"), None);
        assert_eq!(Named::pod("/portForward/default"), None);
        let name = checkpoint_file(&Named::new("ns", "web", "", "app"), "2026-01-02T03:04:05.6Z".parse().unwrap());
        assert_eq!(name, "checkpoint-web_ns-app-2026-01-02T03:04:05Z.tar");
    }

    #[rstest]
    #[case("input=1&output=1&error=1", Some((true, true, true, false)))]
    #[case("output=1&error=1&tty=1", Some((false, true, false, true)))]
    #[case("error=1&tty=1", None)]
    #[case("input=true", None)]
    #[case("", None)]
    fn streams(#[case] query: &str, #[case] expected: Option<(bool, bool, bool, bool)>) {
        let got = Streams::of(&Query::parse(query));
        match (got, expected) {
            (Ok(got), Some(expected)) => assert_eq!((got.stdin, got.stdout, got.stderr, got.tty), expected),
            (Err(error), None) => {
                assert_eq!(error.status(), StatusCode::BAD_REQUEST);
                assert_eq!(error.to_string(), "you must specify at least 1 of stdin, stdout, stderr");
            }
            (got, _) => panic!("{got:?}"),
        }
    }

    #[rstest]
    #[case("port=80", Ok(vec![80]))]
    #[case("port=80,443&port=1", Ok(vec![80, 443, 1]))]
    #[case("", Err("query parameter \"port\" is required"))]
    #[case("port=", Err("query parameter \"port\" cannot be empty"))]
    #[case("port=0", Err("port \"0\" must be > 0"))]
    #[case(
        "port=70000",
        Err("unable to parse \"70000\" as a port: strconv.ParseUint: parsing \"70000\": value out of range")
    )]
    #[case("port=x", Err("unable to parse \"x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax"))]
    fn ports_of_web_sockets(#[case] query: &str, #[case] expected: Result<Vec<i32>, &str>) {
        let mut headers = HeaderMap::new();
        assert!(ports(&headers, &Query::parse(query)).unwrap().is_empty());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        match (ports(&headers, &Query::parse(query)), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(error), Err(part)) => assert!(error.to_string().starts_with(part), "{error}"),
            (got, _) => panic!("{got:?}"),
        }
    }
}
