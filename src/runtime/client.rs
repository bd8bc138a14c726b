//! The client of the container runtime: one method per RPC, each with the peer's deadline. Dropping a call's future cancels
//! the call in the runtime.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::connect::{lazy_channel, socket_path};
use super::cri;
use super::cri::image_service_client::ImageServiceClient;
use super::cri::runtime_service_client::RuntimeServiceClient;
use super::error::RuntimeError;
use super::operation::Operation;
use crate::metrics::kubelet as metrics;

/// Largest message that is taken from the runtime, bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Where the runtime is and how long it may take to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// `containerRuntimeEndpoint`, for example `unix:///run/containerd/containerd.sock`.
    pub runtime_endpoint: String,
    /// `imageServiceEndpoint`; none or empty is the runtime's own.
    pub image_endpoint: Option<String>,
    /// `runtimeRequestTimeout`, the deadline of most calls.
    pub request_timeout: Duration,
}

impl ClientSettings {
    /// Settings with the default deadline of two minutes for one endpoint that serves containers and images.
    pub fn for_endpoint(endpoint: impl Into<String>) -> Self {
        ClientSettings {
            runtime_endpoint: endpoint.into(),
            image_endpoint: None,
            request_timeout: Duration::from_secs(120),
        }
    }
}

/// A handle on the container runtime; clones share the connection.
#[derive(Clone)]
pub struct RuntimeClient {
    containers: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    container_endpoint: Arc<str>,
    image_endpoint: Arc<str>,
    timeout: Duration,
}

/// Which of the two services a call goes to.
#[derive(Clone, Copy)]
pub(super) enum Service {
    Containers,
    Images,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code; another one than 0 is no error of the call.
    pub exit_code: i32,
}

impl RuntimeClient {
    /// Makes the client without connecting: the first call connects, and each later one does so again if it must.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`RuntimeError::Endpoint`] if an endpoint is not an absolute path of a unix socket.
    pub fn new(settings: &ClientSettings) -> Result<Self, RuntimeError> {
        let channel = lazy_channel(socket_path(&settings.runtime_endpoint)?);
        let own_images = settings.image_endpoint.as_deref();
        let own_images = own_images.filter(|e| !e.is_empty() && *e != settings.runtime_endpoint);
        let image_channel = match own_images {
            Some(endpoint) => lazy_channel(socket_path(endpoint)?),
            None => channel.clone(),
        };
        Ok(RuntimeClient {
            containers: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(image_channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            channel,
            container_endpoint: settings.runtime_endpoint.as_str().into(),
            image_endpoint: own_images.unwrap_or(&settings.runtime_endpoint).into(),
            timeout: settings.request_timeout,
        })
    }

    /// The runtime's endpoint as configured.
    pub fn endpoint(&self) -> &str {
        &self.container_endpoint
    }

    /// The deadline of most calls.
    pub fn request_timeout(&self) -> Duration {
        self.timeout
    }

    /// The connection to the runtime itself.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn container_service(&self) -> RuntimeServiceClient<Channel> {
        self.containers.clone()
    }

    pub(super) fn image_service(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    /// Sends one message and waits for the answer, at most for `timeout`. Boxes the call at once, not in an `async fn` that
    /// would hold the message too: the messages of some calls are so large that the futures of callers would be so as well.
    pub(super) fn call<M, A, F>(
        &self,
        service: Service,
        rpc: &'static str,
        timeout: Option<Duration>,
        message: M,
        send: impl FnOnce(Request<M>) -> F,
    ) -> impl Future<Output = Result<A, RuntimeError>>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let endpoint = match service {
            Service::Containers => &self.container_endpoint,
            Service::Images => &self.image_endpoint,
        };
        let mut request = Request::new(message);
        if let Some(after) = timeout {
            // The runtime learns of the deadline too and ends its own work with it.
            request.set_timeout(after);
        }
        let sent = Box::pin(send(request));
        async move {
            let mut operation = Operation::begin(rpc);
            let answer = match timeout {
                Some(after) => match tokio::time::timeout(after, sent).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(RuntimeError::Timeout { rpc, endpoint: endpoint.clone(), after }),
                },
                None => sent.await,
            };
            match answer {
                Ok(answer) => {
                    operation.succeed();
                    Ok(answer.into_inner())
                }
                Err(status) => Err(RuntimeError::from_status(rpc, endpoint, timeout, status)),
            }
        }
    }

    fn containers<M, A, F>(
        &self,
        rpc: &'static str,
        message: M,
        send: impl FnOnce(RuntimeServiceClient<Channel>, Request<M>) -> F,
    ) -> impl Future<Output = Result<A, RuntimeError>>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.containers_within(rpc, Some(self.timeout), message, send)
    }

    fn containers_within<M, A, F>(
        &self,
        rpc: &'static str,
        timeout: Option<Duration>,
        message: M,
        send: impl FnOnce(RuntimeServiceClient<Channel>, Request<M>) -> F,
    ) -> impl Future<Output = Result<A, RuntimeError>>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let client = self.container_service();
        self.call(Service::Containers, rpc, timeout, message, |request| send(client, request))
    }

    /// Names and versions of the runtime.
    ///
    /// # Errors
    /// As every call: see [`RuntimeError`].
    pub async fn version(&self) -> Result<cri::VersionResponse, RuntimeError> {
        // The peer sends the version of its own side of the API.
        let message = cri::VersionRequest { version: "0.1.0".to_owned() };
        let version = self.containers("Version", message, |mut c, m| async move { c.version(m).await }).await?;
        let set = [&version.version, &version.runtime_name, &version.runtime_version, &version.runtime_api_version];
        if set.iter().any(|text| text.is_empty()) {
            return Err(malformed("Version", "a name or version is empty"));
        }
        Ok(version)
    }

    /// The runtime's conditions (RuntimeReady, NetworkReady), handlers and features.
    ///
    /// # Errors
    /// As every call, and [`RuntimeError::Malformed`] if a condition is missing.
    pub async fn status(&self, verbose: bool) -> Result<cri::StatusResponse, RuntimeError> {
        let message = cri::StatusRequest { verbose };
        let status = self.containers("Status", message, |mut c, m| async move { c.status(m).await }).await?;
        if status.status.as_ref().is_none_or(|s| s.conditions.len() < 2) {
            return Err(malformed("Status", "the condition RuntimeReady or NetworkReady is not set"));
        }
        Ok(status)
    }

    /// The runtime's cgroup driver (KubeletCgroupDriverFromCRI).
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_unimplemented`] with old runtimes.
    pub async fn runtime_config(&self) -> Result<cri::RuntimeConfigResponse, RuntimeError> {
        let message = cri::RuntimeConfigRequest {};
        self.containers("RuntimeConfig", message, |mut c, m| async move { c.runtime_config(m).await }).await
    }

    /// Tells the runtime the node's pod CIDR.
    ///
    /// # Errors
    /// As every call.
    pub async fn update_runtime_config(&self, pod_cidr: &str) -> Result<(), RuntimeError> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let message = cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.update_runtime_config(m).await };
        self.containers("UpdateRuntimeConfig", message, send).await.map(drop)
    }

    /// Makes and starts a pod's sandbox; its id. May take twice the request timeout.
    ///
    /// # Errors
    /// As every call.
    pub async fn run_pod_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, RuntimeError> {
        let message = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        let timeout = Some(self.timeout * 2);
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.run_pod_sandbox(m).await };
        let began = tokio::time::Instant::now();
        let made = self.containers_within("RunPodSandbox", timeout, message, send).await;
        metrics::RUN_PODSANDBOX_DURATION.observe(&[runtime_handler], began.elapsed().as_secs_f64());
        if made.is_err() {
            metrics::RUN_PODSANDBOX_ERRORS.increment(&[runtime_handler]);
        }
        let id = made?.pod_sandbox_id;
        if id.is_empty() {
            return Err(malformed("RunPodSandbox", "the sandbox has no id"));
        }
        Ok(id)
    }

    /// Stops a sandbox and all in it, and frees its network. Idempotent.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let message = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.stop_pod_sandbox(m).await };
        self.containers("StopPodSandbox", message, send).await.map(drop)
    }

    /// Removes a sandbox and all in it. Idempotent.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let message = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.remove_pod_sandbox(m).await };
        self.containers("RemovePodSandbox", message, send).await.map(drop)
    }

    /// A sandbox's state, addresses and namespaces.
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_not_found`] if it is gone.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatus, RuntimeError> {
        let message = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.pod_sandbox_status(m).await };
        let answer = self.containers("PodSandboxStatus", message, send).await?;
        answer.status.ok_or_else(|| malformed("PodSandboxStatus", "it holds no status"))
    }

    /// Sandboxes, those that a filter selects or all.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_pod_sandbox(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Result<Vec<cri::PodSandbox>, RuntimeError> {
        let message = cri::ListPodSandboxRequest { filter };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.list_pod_sandbox(m).await };
        Ok(self.containers("ListPodSandbox", message, send).await?.items)
    }

    /// Makes a container in a sandbox; its id.
    ///
    /// # Errors
    /// As every call.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let message = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.create_container(m).await };
        let id = self.containers("CreateContainer", message, send).await?.container_id;
        if id.is_empty() {
            return Err(malformed("CreateContainer", "the container has no id"));
        }
        Ok(id)
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    /// As every call.
    pub async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let message = cri::StartContainerRequest { container_id: id.to_owned() };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.start_container(m).await };
        self.containers("StartContainer", message, send).await.map(drop)
    }

    /// Ends a container: its stop signal, then SIGKILL after `grace_seconds`; waits for the end. The call may take the grace
    /// on top of the request timeout. Idempotent.
    ///
    /// # Errors
    /// As every call.
    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<(), RuntimeError> {
        let grace = grace_seconds.max(0);
        let message = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let timeout = self.timeout.saturating_add(Duration::from_secs(grace.unsigned_abs()));
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.stop_container(m).await };
        self.containers_within("StopContainer", Some(timeout), message, send).await.map(drop)
    }

    /// Removes a container, running or not. Idempotent.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let message = cri::RemoveContainerRequest { container_id: id.to_owned() };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.remove_container(m).await };
        self.containers("RemoveContainer", message, send).await.map(drop)
    }

    /// Containers, those that a filter selects or all.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_containers(
        &self,
        filter: Option<cri::ContainerFilter>,
    ) -> Result<Vec<cri::Container>, RuntimeError> {
        let message = cri::ListContainersRequest { filter };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.list_containers(m).await };
        Ok(self.containers("ListContainers", message, send).await?.containers)
    }

    /// A container's state and settings.
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_not_found`] if it is gone.
    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatus, RuntimeError> {
        let message = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.container_status(m).await };
        let answer = self.containers("ContainerStatus", message, send).await?;
        answer.status.ok_or_else(|| malformed("ContainerStatus", "it holds no status"))
    }

    /// Changes the resources of a running container.
    ///
    /// # Errors
    /// As every call.
    pub async fn update_container_resources(
        &self,
        id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let message = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..Default::default()
        };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.update_container_resources(m).await };
        self.containers("UpdateContainerResources", message, send).await.map(drop)
    }

    /// Tells the runtime that a pod's resources change.
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_unimplemented`] with old runtimes.
    pub async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        overhead: cri::LinuxContainerResources,
        resources: cri::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let message = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.to_owned(),
            overhead: Some(overhead),
            resources: Some(resources),
        };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.update_pod_sandbox_resources(m).await };
        self.containers("UpdatePodSandboxResources", message, send).await.map(drop)
    }

    /// Makes the runtime open a container's log file anew, after a rotation.
    ///
    /// # Errors
    /// As every call.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError> {
        let message = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.reopen_container_log(m).await };
        self.containers("ReopenContainerLog", message, send).await.map(drop)
    }

    /// Runs a command in a container and waits for its end. A zero `timeout` sets no limit; any other is cut to whole seconds
    /// for the runtime, and the call may take the request timeout longer.
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_timeout`] if the command took too long.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let message = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let deadline = (!timeout.is_zero()).then(|| self.timeout.saturating_add(timeout));
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.exec_sync(m).await };
        let answer = self.containers_within("ExecSync", deadline, message, send).await?;
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    /// The URL at which the runtime streams a command's input and output.
    ///
    /// # Errors
    /// As every call.
    pub async fn exec(&self, request: cri::ExecRequest) -> Result<String, RuntimeError> {
        let answer = self.containers("Exec", request, |mut c, m| async move { c.exec(m).await }).await?;
        streaming_url("Exec", answer.url)
    }

    /// The URL at which the runtime streams a container's own input and output.
    ///
    /// # Errors
    /// As every call.
    pub async fn attach(&self, request: cri::AttachRequest) -> Result<String, RuntimeError> {
        let answer = self.containers("Attach", request, |mut c, m| async move { c.attach(m).await }).await?;
        streaming_url("Attach", answer.url)
    }

    /// The URL at which the runtime streams to ports of a pod.
    ///
    /// # Errors
    /// As every call.
    pub async fn port_forward(&self, sandbox_id: &str, ports: Vec<i32>) -> Result<String, RuntimeError> {
        let message = cri::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port: ports };
        let answer = self.containers("PortForward", message, |mut c, m| async move { c.port_forward(m).await }).await?;
        streaming_url("PortForward", answer.url)
    }

    /// What one container uses.
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_not_found`] if it is gone.
    pub async fn container_stats(&self, id: &str) -> Result<cri::ContainerStats, RuntimeError> {
        let message = cri::ContainerStatsRequest { container_id: id.to_owned() };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.container_stats(m).await };
        let answer = self.containers("ContainerStats", message, send).await?;
        answer.stats.ok_or_else(|| malformed("ContainerStats", "it holds no statistics"))
    }

    /// What containers use, those that a filter selects or all.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_container_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, RuntimeError> {
        let message = cri::ListContainerStatsRequest { filter };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.list_container_stats(m).await };
        Ok(self.containers("ListContainerStats", message, send).await?.stats)
    }

    /// Writes a checkpoint of a container to `location`; takes at least the request timeout into account.
    ///
    /// # Errors
    /// As every call.
    pub async fn checkpoint_container(&self, id: &str, location: &str, timeout: Duration) -> Result<(), RuntimeError> {
        let timeout = timeout.max(self.timeout);
        let message = cri::CheckpointContainerRequest {
            container_id: id.to_owned(),
            location: location.to_owned(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.checkpoint_container(m).await };
        self.containers_within("CheckpointContainer", Some(timeout), message, send).await.map(drop)
    }

    /// Opens the runtime's event stream; without a deadline. A runtime may answer only when the first event comes.
    ///
    /// # Errors
    /// As every call; [`RuntimeError::is_unimplemented`] if the runtime has none.
    pub(super) async fn container_events(&self) -> Result<tonic::Streaming<cri::ContainerEventResponse>, RuntimeError> {
        let send = |mut c: RuntimeServiceClient<Channel>, m| async move { c.get_container_events(m).await };
        self.containers_within("GetContainerEvents", None, cri::GetEventsRequest {}, send).await
    }

    /// Classifies a failure of the event stream after it was opened.
    pub(super) fn event_error(&self, status: Status) -> RuntimeError {
        RuntimeError::from_status("GetContainerEvents", &self.container_endpoint, None, status)
    }
}

pub(super) fn malformed(rpc: &'static str, problem: &str) -> RuntimeError {
    RuntimeError::Malformed { rpc, problem: problem.to_owned() }
}

fn streaming_url(rpc: &'static str, url: String) -> Result<String, RuntimeError> {
    if url.is_empty() { Err(malformed(rpc, "the URL is not set")) } else { Ok(url) }
}
