//! The runtime service.

use std::collections::HashMap;
use std::sync::Arc;

use ferrolet::runtime::cri;
use futures::StreamExt;
use futures::stream::{BoxStream, Empty};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::Shared;

#[derive(Clone)]
pub(super) struct Pods(pub Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

fn selects(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn unserved<T>(rpc: &str) -> Answer<T> {
    Err(Status::unimplemented(format!("the fake runtime does not serve {rpc}")))
}

#[tonic::async_trait]
impl cri::runtime_service_server::RuntimeService for Pods {
    type StreamPodSandboxesStream = Empty<Result<cri::StreamPodSandboxesResponse, Status>>;
    type StreamContainersStream = Empty<Result<cri::StreamContainersResponse, Status>>;
    type StreamContainerStatsStream = Empty<Result<cri::StreamContainerStatsResponse, Status>>;
    type StreamPodSandboxStatsStream = Empty<Result<cri::StreamPodSandboxStatsResponse, Status>>;
    type StreamPodSandboxMetricsStream = Empty<Result<cri::StreamPodSandboxMetricsResponse, Status>>;
    type GetContainerEventsStream = BoxStream<'static, Result<cri::ContainerEventResponse, Status>>;

    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        let call = self.0.enter("Version", "").await?;
        call.answer(Ok(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "v1.2.3".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, _: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let call = self.0.enter("Status", "").await?;
        let conditions = {
            let model = self.0.model();
            let condition = |name: &str, status: bool| cri::RuntimeCondition {
                r#type: name.to_owned(),
                status,
                reason: if status { String::new() } else { format!("{name}Not") },
                message: if status { String::new() } else { "cni plugin not initialized".to_owned() },
            };
            vec![condition("RuntimeReady", model.runtime_ready), condition("NetworkReady", model.network_ready)]
        };
        let status = Some(cri::RuntimeStatus { conditions });
        call.answer(Ok(cri::StatusResponse { status, ..Default::default() }))
    }

    async fn runtime_config(&self, _: Request<cri::RuntimeConfigRequest>) -> Answer<cri::RuntimeConfigResponse> {
        let call = self.0.enter("RuntimeConfig", "").await?;
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs.into() };
        call.answer(Ok(cri::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|c| c.network_config);
        let pod_cidr = network.map(|n| n.pod_cidr).unwrap_or_default();
        let call = self.0.enter("UpdateRuntimeConfig", &pod_cidr).await?;
        self.0.model().pod_cidr = pod_cidr;
        call.answer(Ok(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(&self, request: Request<cri::RunPodSandboxRequest>) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let uid = config.metadata.as_ref().map(|m| m.uid.clone()).unwrap_or_default();
        let call = self.0.enter_for("RunPodSandbox", "", &uid, "").await?;
        let made = self.0.run_sandbox(config, request.runtime_handler);
        call.answer(made.map(|pod_sandbox_id| cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let call = self.0.enter("StopPodSandbox", &id).await?;
        self.0.stop_sandbox(&id);
        call.answer(Ok(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let call = self.0.enter("RemovePodSandbox", &id).await?;
        self.0.remove_sandbox(&id);
        call.answer(Ok(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let call = self.0.enter("PodSandboxStatus", &id).await?;
        let status = {
            let model = self.0.model();
            let hidden = model.hidden.contains(&id);
            if hidden { Err(Status::not_found("hidden")) } else { model.sandbox(&id).map(|s| s.status(&id)) }
        };
        let answer = |status| cri::PodSandboxStatusResponse { status: Some(status), ..Default::default() };
        call.answer(status.map(answer))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let call = self.0.enter("ListPodSandbox", "").await?;
        let mut items = self.0.model().shown_lists().0;
        if let Some(filter) = request.into_inner().filter {
            items.retain(|s| {
                (filter.id.is_empty() || s.id == filter.id)
                    && filter.state.is_none_or(|state| s.state == state.state)
                    && selects(&filter.label_selector, &s.labels)
            });
        }
        call.answer(Ok(cri::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let uid = self.0.model().pod_uid_of(&request.pod_sandbox_id);
        let name = request.config.as_ref().and_then(|c| c.metadata.as_ref()).map(|m| m.name.clone());
        let name = name.unwrap_or_default();
        let call = self.0.enter_for("CreateContainer", &request.pod_sandbox_id, &uid, &name).await?;
        let made = self.0.create_container(request);
        call.answer(made.map(|container_id| cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let call = self.0.enter("StartContainer", &id).await?;
        let started = self.0.start_container(&id);
        call.answer(started.map(|()| cri::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<cri::StopContainerRequest>) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        let call = self.0.enter("StopContainer", &request.container_id).await?;
        self.0.stop_container(&request.container_id, request.timeout).await;
        call.answer(Ok(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let call = self.0.enter("RemoveContainer", &id).await?;
        self.0.remove_container(&id);
        call.answer(Ok(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let call = self.0.enter("ListContainers", "").await?;
        let mut containers = self.0.model().shown_lists().1;
        if let Some(filter) = request.into_inner().filter {
            containers.retain(|c| {
                (filter.id.is_empty() || c.id == filter.id)
                    && (filter.pod_sandbox_id.is_empty() || c.pod_sandbox_id == filter.pod_sandbox_id)
                    && filter.state.is_none_or(|state| c.state == state.state)
                    && selects(&filter.label_selector, &c.labels)
            });
        }
        call.answer(Ok(cri::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let call = self.0.enter("ContainerStatus", &id).await?;
        let status = {
            let model = self.0.model();
            let hidden = model.hidden.contains(&id);
            if hidden { Err(Status::not_found("hidden")) } else { model.container(&id).map(|c| c.status(&id)) }
        };
        let answer = |status| cri::ContainerStatusResponse { status: Some(status), ..Default::default() };
        call.answer(status.map(answer))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let call = self.0.enter("UpdateContainerResources", &request.container_id).await?;
        let updated = {
            let mut model = self.0.model();
            let exists = model.container(&request.container_id).map(drop);
            if let Some(container) = model.containers.get_mut(&request.container_id) {
                container.config.linux.get_or_insert_default().resources = request.linux;
            }
            exists
        };
        call.answer(updated.map(|()| cri::UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let call = self.0.enter("UpdatePodSandboxResources", &request.into_inner().pod_sandbox_id).await?;
        call.answer(Ok(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let call = self.0.enter("ReopenContainerLog", &request.into_inner().container_id).await?;
        call.answer(Ok(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let call = self.0.enter("ExecSync", &request.container_id).await?;
        let exists = self.0.model().container(&request.container_id).map(drop);
        let stdout = request.cmd.join(" ").into_bytes();
        // Every command succeeds but the one that never does.
        let exit_code = i32::from(request.cmd.first().is_some_and(|program| program == "false"));
        call.answer(exists.map(|()| cri::ExecSyncResponse { stdout, stderr: Vec::new(), exit_code }))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let call = self.0.enter("Exec", &request.into_inner().container_id).await?;
        let url = format!("{}/exec/token", self.0.model().stream_url);
        call.answer(Ok(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let call = self.0.enter("Attach", &request.into_inner().container_id).await?;
        let url = format!("{}/attach/token", self.0.model().stream_url);
        call.answer(Ok(cri::AttachResponse { url }))
    }

    async fn port_forward(&self, request: Request<cri::PortForwardRequest>) -> Answer<cri::PortForwardResponse> {
        let call = self.0.enter("PortForward", &request.into_inner().pod_sandbox_id).await?;
        let url = format!("{}/portforward/token", self.0.model().stream_url);
        call.answer(Ok(cri::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let call = self.0.enter("ContainerStats", &id).await?;
        let exists = self.0.model().container(&id).map(drop);
        let stats = Some(cri::ContainerStats::default());
        call.answer(exists.map(|()| cri::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        _: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let call = self.0.enter("ListContainerStats", "").await?;
        call.answer(Ok(cri::ListContainerStatsResponse::default()))
    }

    async fn get_container_events(&self, _: Request<cri::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        let call = self.0.enter("GetContainerEvents", "").await?;
        if self.0.faults().events_unsupported {
            return call.answer(Err(Status::unimplemented("unknown method GetContainerEvents")));
        }
        let events = BroadcastStream::new(self.0.events.subscribe());
        // A listener that is too slow loses events, as with a real runtime.
        let events = events.filter_map(async |event| event.ok().map(Ok)).boxed();
        call.answer(Ok(events))
    }

    async fn stream_pod_sandboxes(
        &self,
        _: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        unserved("StreamPodSandboxes")
    }

    async fn stream_containers(
        &self,
        _: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        unserved("StreamContainers")
    }

    async fn stream_container_stats(
        &self,
        _: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        unserved("StreamContainerStats")
    }

    async fn pod_sandbox_stats(&self, _: Request<cri::PodSandboxStatsRequest>) -> Answer<cri::PodSandboxStatsResponse> {
        unserved("PodSandboxStats")
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        unserved("ListPodSandboxStats")
    }

    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        unserved("StreamPodSandboxStats")
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        unserved("CheckpointContainer")
    }

    async fn checkpoint_pod(&self, _: Request<cri::CheckpointPodRequest>) -> Answer<cri::CheckpointPodResponse> {
        unserved("CheckpointPod")
    }

    async fn restore_pod(&self, _: Request<cri::RestorePodRequest>) -> Answer<cri::RestorePodResponse> {
        unserved("RestorePod")
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        unserved("ListMetricDescriptors")
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        unserved("ListPodSandboxMetrics")
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        unserved("StreamPodSandboxMetrics")
    }
}
