//! The small traits by which modules see each other, filled in.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

use crate::image::{ImageEvents, PullSecrets, SecretError};
use crate::kube::events::{EventRecorder, container_reference, node_reference, pod_reference};
use crate::kube::objects::{ApiObjects, ObjectCache, ObjectError};
use crate::kube::tokens::ServiceAccountTokenRequest;
use crate::model::EventType;
use crate::model::pod::{ContainerKind, PodUid};
use crate::node::{NodeEvent, NodeEvents, NodeRuntime};
use crate::pod::list::PodList;
use crate::probe::ProbeEvents;
use crate::runtime::client::RuntimeClient;
use crate::runtime::cri;
use crate::runtime::error::RuntimeError;
use crate::runtime::observer::Observer;
use crate::server::{PodLister, running_pod};
use crate::volume::{ObjectFailure, ServiceAccountToken, TokenRequest, VolumeObjects};

use secrecy::ExposeSecret;

/// Events of images and of the node, by the one recorder.
#[derive(Clone)]
pub(super) struct Events {
    pub recorder: EventRecorder,
    pub node_name: String,
}

impl ImageEvents for Events {
    fn event(
        &self,
        pod: &Pod,
        kind: ContainerKind,
        container: &str,
        event_type: EventType,
        reason: &'static str,
        message: String,
    ) {
        self.recorder.event(&container_reference(pod, kind, container), event_type, reason, message);
    }

    fn pod_event(&self, pod: &Pod, event_type: EventType, reason: &'static str, message: String) {
        self.recorder.event(&pod_reference(pod), event_type, reason, message);
    }
}

impl NodeEvents for Events {
    fn record(&self, uid: Option<&str>, event: NodeEvent) {
        self.recorder.event(&node_reference(&self.node_name, uid), event.event_type, event.reason, event.message);
    }
}

impl ProbeEvents for Events {
    fn warning(&self, pod: &Pod, kind: ContainerKind, container: &str, reason: &'static str, message: String) {
        self.recorder.event(&container_reference(pod, kind, container), EventType::Warning, reason, message);
    }
}

/// What volumes need of the API; nothing can be had without one.
pub(super) struct Objects(pub Option<ApiObjects>);

impl Objects {
    fn api(&self) -> Result<&ApiObjects, ObjectFailure> {
        self.0.as_ref().ok_or_else(|| failure(&ObjectError::NoApi))
    }
}

fn failure(error: &ObjectError) -> ObjectFailure {
    ObjectFailure { message: error.to_string(), not_found: error.is_not_found() }
}

impl VolumeObjects for Objects {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
        Box::pin(async move { self.api()?.objects.config_map(namespace, name).await.map_err(|error| failure(&error)) })
    }

    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        Box::pin(async move { self.api()?.objects.secret(namespace, name).await.map_err(|error| failure(&error)) })
    }

    fn service_account_token<'a>(
        &'a self,
        request: &'a TokenRequest,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, ObjectFailure>> {
        Box::pin(async move {
            let request = ServiceAccountTokenRequest {
                namespace: request.namespace.clone(),
                service_account: request.service_account.clone(),
                pod_name: request.pod_name.clone(),
                pod_uid: PodUid::from(request.pod_uid.as_str()),
                audiences: request.audience.iter().cloned().collect(),
                expiration_seconds: request.expiration_seconds,
            };
            let token = self.api()?.tokens.token(&request).await;
            let token = token.map_err(|error| ObjectFailure { message: error.to_string(), not_found: false })?;
            Ok(ServiceAccountToken {
                token: token.token.expose_secret().to_owned(),
                expires_at: token.expires_at,
                refresh_at: token.refresh_at,
            })
        })
    }

    fn forget_tokens(&self, pod: &PodUid) {
        if let Some(api) = &self.0 {
            api.tokens.forget_pod(pod);
        }
    }
}

/// Pull secrets by the cache of objects.
pub(super) struct Secrets(pub Option<ObjectCache>);

impl PullSecrets for Secrets {
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SecretError>> {
        Box::pin(async move {
            match &self.0 {
                Some(objects) => objects.secret(namespace, name).await.map_err(SecretError::from),
                None => Err(ObjectError::NoApi.into()),
            }
        })
    }
}

/// The runtime as the node sees it.
pub(super) struct Runtime(pub RuntimeClient);

impl NodeRuntime for Runtime {
    type Error = RuntimeError;

    async fn status(&self) -> Result<cri::StatusResponse, RuntimeError> {
        self.0.status(false).await
    }

    async fn version(&self) -> Result<cri::VersionResponse, RuntimeError> {
        self.0.version().await
    }

    async fn list_images(&self) -> Result<Vec<cri::Image>, RuntimeError> {
        self.0.list_images().await
    }

    async fn update_runtime_config(&self, config: cri::RuntimeConfig) -> Result<(), RuntimeError> {
        let cidr = config.network_config.map(|network| network.pod_cidr).unwrap_or_default();
        self.0.update_runtime_config(&cidr).await
    }
}

/// The pods as the HTTPS API shows them: those that the node has, and those that its runtime holds.
pub(super) struct Pods {
    pub list: PodList,
    pub observer: Observer,
}

impl PodLister for Pods {
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>> {
        Box::pin(async { self.list.all() })
    }

    fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        self.list.find(namespace, name, uid)
    }

    fn running_pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, String>> {
        Box::pin(async {
            let pods = self.observer.list_pods().await.map_err(|error| error.to_string())?;
            Ok(pods.iter().filter_map(running_pod).collect())
        })
    }
}
