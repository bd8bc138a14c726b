//! A running server with a pod on a fake runtime, and a client that speaks bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrolet::config::{FeatureGates, KubeletConfiguration};
use ferrolet::server::{ContainerInputs, PodLister, Server, ServerInputs};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::fake_runtime::{FakeRuntime, sample};

/// The UID of the pod `pod-u1` in the namespace `default`, whose container is `app`.
pub const UID: &str = "u1";

struct Pods(Vec<Arc<Pod>>);

impl PodLister for Pods {
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>> {
        Box::pin(async { Some(self.0.clone()) })
    }

    fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let named = |pod: &&Arc<Pod>| {
            let meta = &pod.metadata;
            (meta.namespace.as_deref(), meta.name.as_deref()) == (Some(namespace), Some(name))
                && uid.is_none_or(|uid| meta.uid.as_deref() == Some(uid))
        };
        self.0.iter().find(named).cloned()
    }

    fn running_pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// A server that lets everyone in.
pub struct Fixture {
    pub runtime: FakeRuntime,
    pub container_id: String,
    pub folder: tempfile::TempDir,
    address: SocketAddr,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl Fixture {
    pub async fn start() -> Self {
        Fixture::start_with(|_, _| {}).await
    }

    /// With a changed configuration and pod.
    pub async fn start_with(change: impl FnOnce(&mut KubeletConfiguration, &mut Pod)) -> Self {
        let runtime = FakeRuntime::start().await;
        runtime.add_image("busybox:1");
        runtime.serve_streams().await;
        let client = runtime.client();
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join(format!("logs/default_pod-{UID}_{UID}"));
        std::fs::create_dir_all(logs.join("app")).unwrap();
        let sandbox = ferrolet::runtime::cri::PodSandboxConfig {
            log_directory: logs.display().to_string(),
            ..sample::sandbox(UID, 0)
        };
        let sandbox_id = client.run_pod_sandbox(sandbox.clone(), "").await.unwrap();
        let container = sample::container(UID, "app", 0);
        let container_id = client.create_container(&sandbox_id, container, sandbox).await.unwrap();
        client.start_container(&container_id).await.unwrap();
        let mut configuration =
            KubeletConfiguration { address: "127.0.0.1".to_owned(), port: 0, ..KubeletConfiguration::default() };
        configuration.pod_logs_dir = folder.path().join("logs").display().to_string();
        configuration.authentication.anonymous.enabled = true;
        configuration.authentication.webhook.enabled = false;
        configuration.authorization.mode = "AlwaysAllow".to_owned();
        let mut pod = serde_json::from_value(json!({
            "metadata": {"name": format!("pod-{UID}"), "namespace": "default", "uid": UID},
            "spec": {"containers": [{"name": "app", "image": "busybox:1"}, {"name": "ended", "image": "busybox:1"}]},
            "status": {"containerStatuses": [{
                "name": "app", "image": "busybox:1", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": format!("fake://{container_id}"), "state": {"running": {}},
            }]},
        }))
        .unwrap();
        change(&mut configuration, &mut pod);
        let gates = FeatureGates::default();
        let inputs = ServerInputs {
            configuration: &configuration,
            certificate_folder: folder.path(),
            node_name: "node-1",
            client: None,
            health: Arc::new(|| Ok(())),
            pods: Some(Arc::new(Pods(vec![Arc::new(pod)]))),
            signed_certificate: None,
            stats: None,
            introspection: ferrolet::server::Introspection::default(),
            containers: Some(ContainerInputs { runtime: &client, root_dir: folder.path(), gates: &gates }),
        };
        let server = Server::https(inputs).await.unwrap();
        let (address, cancel) = (server.address(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(cancel.clone()));
        Fixture { runtime, container_id, folder, address, cancel, tasks }
    }

    /// The log file of the container `app`.
    pub fn log(&self) -> std::path::PathBuf {
        self.folder.path().join(format!("logs/default_pod-{UID}_{UID}/app/0.log"))
    }

    pub async fn connect(&self) -> TlsStream<TcpStream> {
        connect(self.address, self.folder.path()).await
    }

    /// Sends a request's head; the connection after it.
    pub async fn send(&self, head: &str) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        stream.write_all(head.replace('\n', "\r\n").as_bytes()).await.unwrap();
        stream
    }

    /// The whole answer to a request without a body.
    pub async fn request(&self, method: &str, path: &str) -> String {
        let mut stream = self.send(&format!("{method} {path} HTTP/1.1\nHost: x\nConnection: close\n\n")).await;
        text(&read_all(&mut stream).await)
    }

    /// Asks for an upgrade; the answer's head, and the connection after it.
    pub async fn upgrade(&self, method: &str, path: &str, headers: &str) -> (String, TlsStream<TcpStream>) {
        let mut stream =
            self.send(&format!("{method} {path} HTTP/1.1\nHost: x\nConnection: Upgrade\n{headers}\n")).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap().unwrap());
        }
        (text(&head), stream)
    }

    pub async fn stop(mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

async fn connect(address: SocketAddr, folder: &Path) -> TlsStream<TcpStream> {
    let pem = std::fs::read(folder.join("kubelet.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem).skip(1) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("node-1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// What is sent until the connection ends, in whatever way.
pub async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("an end");
    answer
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or_default()
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}
