//! The one thing that containerd must be asked for beside CRI, on the same socket.
//!
//! A start that is cut off between the making of its task and the answer to that (the agent was killed) leaves a task that
//! containerd's CRI part knows nothing of: the container counts as ended, is not stopped, and cannot be removed while the task
//! is there, nor can its sandbox.

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::client::{RuntimeClient, Service};
use super::error::RuntimeError;

/// The namespace in which the CRI part of containerd keeps its containers, and the header that names it.
const NAMESPACE: (&str, &str) = ("containerd-namespace", "k8s.io");

/// `containerd.services.tasks.v1.DeleteTaskRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeleteTaskRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

/// `containerd.services.tasks.v1.DeleteResponse`, of which nothing is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct DeleteResponse {}

impl RuntimeClient {
    /// Deletes the task of a container, whose process must have ended.
    ///
    /// # Errors
    /// As every call; of another runtime that it is not implemented.
    pub async fn delete_task(&self, container_id: &str) -> Result<(), RuntimeError> {
        let mut grpc = Grpc::new(self.channel());
        let message = DeleteTaskRequest { container_id: container_id.to_owned() };
        let send = |mut request: Request<DeleteTaskRequest>| async move {
            request.metadata_mut().insert(NAMESPACE.0, MetadataValue::from_static(NAMESPACE.1));
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static("/containerd.services.tasks.v1.Tasks/Delete");
            grpc.unary(request, path, ProstCodec::<DeleteTaskRequest, DeleteResponse>::default()).await
        };
        self.call(Service::Containers, "DeleteTask", Some(self.request_timeout()), message, send).await.map(drop)
    }
}
