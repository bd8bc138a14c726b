//! Ready-made requests, for tests that drive the runtime without an agent.

use std::collections::HashMap;

use ferrolet::runtime::{RuntimeClient, RuntimeError, cri, labels};

fn pod_labels(uid: &str) -> HashMap<String, String> {
    let labels = [
        (labels::POD_NAME, format!("pod-{uid}")),
        (labels::POD_NAMESPACE, "default".to_owned()),
        (labels::POD_UID, uid.to_owned()),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The sandbox of a pod `pod-<uid>` in the namespace `default`.
pub fn sandbox(uid: &str, attempt: u32) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: format!("pod-{uid}"),
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            attempt,
        }),
        log_directory: format!("/var/log/pods/default_pod-{uid}_{uid}"),
        labels: pod_labels(uid),
        ..Default::default()
    }
}

/// The same in the network of the node.
pub fn host_network_sandbox(uid: &str) -> cri::PodSandboxConfig {
    let options = cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..Default::default() };
    let context = cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
    let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    cri::PodSandboxConfig { linux: Some(linux), ..sandbox(uid, 0) }
}

/// A container of that pod with the image `busybox:1`.
pub fn container(uid: &str, name: &str, attempt: u32) -> cri::ContainerConfig {
    let mut labels = pod_labels(uid);
    labels.insert(labels::CONTAINER_NAME.to_owned(), name.to_owned());
    let annotations = [(labels::CONTAINER_HASH, "c0ffee"), (labels::CONTAINER_RESTART_COUNT, &attempt.to_string())];
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt }),
        image: Some(cri::ImageSpec { image: "busybox:1".to_owned(), ..Default::default() }),
        log_path: format!("{name}/{attempt}.log"),
        annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        labels,
        ..Default::default()
    }
}

/// Runs a pod with one container; the ids of its sandbox and container.
///
/// # Errors
/// The first call that failed.
pub async fn run_pod(client: &RuntimeClient, uid: &str, name: &str) -> Result<(String, String), RuntimeError> {
    let sandbox_id = client.run_pod_sandbox(sandbox(uid, 0), "").await?;
    let container_id = run_container(client, uid, &sandbox_id, name, 0).await?;
    Ok((sandbox_id, container_id))
}

/// Makes and starts a container in a sandbox; its id.
///
/// # Errors
/// The first call that failed.
pub async fn run_container(
    client: &RuntimeClient,
    uid: &str,
    sandbox_id: &str,
    name: &str,
    attempt: u32,
) -> Result<String, RuntimeError> {
    let id = client.create_container(sandbox_id, container(uid, name, attempt), sandbox(uid, 0)).await?;
    client.start_container(&id).await?;
    Ok(id)
}
