//! `/pods` and `/runningpods/`: lists of pods.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use crate::runtime::{ListedState, RuntimePod};

/// Who knows the node's pods.
pub trait PodLister: Send + Sync {
    /// The pods that the node should run, static ones too, each with its newest status; none while they are not known.
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>>;

    /// The pod of that name, with its newest status. With a UID, only if it is the pod's or, of a static pod, that of its
    /// mirror in the API.
    fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>>;

    /// The pods that the runtime holds; see [`running_pod`].
    ///
    /// # Errors
    /// What the runtime said, as text for the caller.
    fn running_pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, String>>;
}

/// A pod of the runtime as `/runningpods/` shows it: its key, and the names of its running containers. None if nothing of it
/// runs.
pub fn running_pod(pod: &RuntimePod) -> Option<Pod> {
    let running = pod.containers.iter().filter(|container| container.state == ListedState::Running);
    let containers = running.map(|container| Container { name: container.name.clone(), ..Container::default() });
    let containers: Vec<Container> = containers.collect();
    if containers.is_empty() && !pod.sandboxes.iter().any(|sandbox| sandbox.ready) {
        return None;
    }
    let metadata = ObjectMeta {
        namespace: Some(pod.key.namespace.clone()),
        name: Some(pod.key.name.clone()),
        uid: Some(pod.key.uid.to_string()),
        ..ObjectMeta::default()
    };
    Some(Pod { metadata, spec: Some(PodSpec { containers, ..PodSpec::default() }), status: None })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodList<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Empty {}

/// A pod of a list, which has no `kind` of its own.
#[derive(Serialize)]
struct Item<'a> {
    metadata: &'a ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<&'a PodSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a PodStatus>,
}

/// The pods as a `PodList` of v1 in JSON.
pub(super) fn encode<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Result<Bytes, serde_json::Error> {
    let items = pods.into_iter();
    let items = items.map(|pod| Item { metadata: &pod.metadata, spec: pod.spec.as_ref(), status: pod.status.as_ref() });
    let list = PodList { kind: "PodList", api_version: "v1", metadata: Empty {}, items: items.collect() };
    let mut text = serde_json::to_vec(&list)?;
    text.push(b'\n');
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_of_the_api() {
        let metadata = ObjectMeta { name: Some("a".to_owned()), ..ObjectMeta::default() };
        let pod = Pod { metadata, ..Pod::default() };
        let text = encode([&pod]).unwrap();
        assert_eq!(
            text,
            "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[{\"metadata\":{\"name\":\"a\"}}]}\n"
        );
        let list: k8s_openapi::List<Pod> = serde_json::from_slice(&text).unwrap();
        assert_eq!(list.items, [pod]);
    }
}
