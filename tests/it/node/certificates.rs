//! Certificates from a real control plane: TLS bootstrap, rotation, and the serving certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrolet::model::{Timestamp, clock};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::harness::*;

fn cluster(rest: &str) -> PathBuf {
    PathBuf::from(std::env::var("FERROLET_CLUSTER").unwrap()).join(rest)
}

fn address() -> String {
    std::env::var("FERROLET_NODE_IP").unwrap()
}

/// A kubeconfig for the cluster with such a user.
pub(super) fn kubeconfig(path: &Path, user: &Value) {
    let value = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": cluster("pki/ca.crt")}}],
        "users": [{"name": "u", "user": user}],
    });
    std::fs::write(path, value.to_string()).unwrap();
}

/// Lets a group have a role; there already is as good.
async fn bind(role: &str, group: &str) {
    let name = format!("test:{role}:{group}");
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
    }))
    .unwrap();
    let api: Api<ClusterRoleBinding> = Api::all(client().await);
    api.patch(&name, &PatchParams::apply("test"), &Patch::Apply(binding)).await.unwrap();
}

fn requests(client: &kube::Client) -> Api<CertificateSigningRequest> {
    Api::all(client.clone())
}

async fn pending(client: &kube::Client, signer: &str) -> Vec<CertificateSigningRequest> {
    let all = requests(client).list(&ListParams::default()).await.unwrap().items;
    let is_open = |request: &CertificateSigningRequest| {
        request.spec.signer_name == signer
            && request.status.as_ref().is_none_or(|status| status.conditions.as_ref().is_none_or(Vec::is_empty))
    };
    all.into_iter().filter(is_open).collect()
}

/// What `kubectl certificate approve` does.
async fn approve(client: &kube::Client, name: &str) {
    let patch = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Test", "message": "approved by the test"}]}});
    requests(client).patch_approval(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn renewed(client: &kube::Client) -> Option<Timestamp> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    leases.get_opt(&node_name()).await.unwrap()?.spec?.renew_time.map(|time| time.0)
}

/// Waits until the node is Ready by the word of an agent that was started at that time.
async fn ready_since(client: &kube::Client, began: Timestamp) -> Node {
    let nodes: Api<Node> = Api::all(client.clone());
    wait("a renewed lease", 60, async || renewed(client).await.filter(|at| *at > began)).await;
    wait("the node to be Ready", 60, async || {
        let node = nodes.get_opt(&node_name()).await.unwrap()?;
        (condition(&node, "Ready").as_deref() == Some("True")).then_some(node)
    })
    .await
}

fn ready_transition(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")?.last_transition_time.as_ref().map(|time| time.0)
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn tls_bootstrap_makes_a_node() {
    let client = client().await;
    let folder = tempfile::tempdir().unwrap();
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:test"},
        "apiVersion": "v1", "kind": "Secret",
    }))
    .unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    secrets.patch("bootstrap-token-abcdef", &PatchParams::apply("test"), &Patch::Apply(secret)).await.unwrap();
    bind("system:node-bootstrapper", "system:bootstrappers:test").await;

    let (bootstrap, normal) = (folder.path().join("bootstrap-kubelet.conf"), folder.path().join("kubelet.conf"));
    kubeconfig(&bootstrap, &json!({"token": "abcdef.0123456789abcdef"}));
    let pki = folder.path().join("pki");
    let flags = [
        format!("--bootstrap-kubeconfig={}", bootstrap.display()),
        format!("--kubeconfig={}", normal.display()),
        format!("--cert-dir={}", pki.display()),
        "--rotate-certificates".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let agent = Agent::launch(Kind::Ferrolet, &flags).await;
    let first = wait("the request", 30, async || pending(&client, signer).await.pop()).await;
    assert!(first.name_any().starts_with("node-csr-"), "{}", first.name_any());
    assert!(pki.join("kubelet-client.key.tmp").exists());
    agent.kill().await;

    // A restart goes on with the same request; meanwhile the agent is healthy, which kubeadm waits for.
    let began = clock::now();
    let agent = Agent::launch(Kind::Ferrolet, &flags).await;
    wait("the health check", 30, async || TcpStream::connect("127.0.0.1:10248").await.ok()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let open: Vec<String> = pending(&client, signer).await.iter().map(ResourceExt::name_any).collect();
    assert_eq!(open, [first.name_any()]);
    approve(&client, &first.name_any()).await;
    ready_since(&client, began).await;

    let current = pki.join("kubelet-client-current.pem");
    assert!(current.is_symlink());
    assert!(!pki.join("kubelet-client.key.tmp").exists());
    let written = kube::config::Kubeconfig::read_from(&normal).unwrap();
    let config = kube::Config::from_custom_kubeconfig(written, &kube::config::KubeConfigOptions::default()).await;
    let as_node = kube::Client::try_from(config.unwrap()).unwrap();
    Api::<Node>::all(as_node).get(&node_name()).await.unwrap();
    agent.kill().await;

    // With a kubeconfig that is valid, the bootstrap one is not needed any more.
    std::fs::remove_file(&bootstrap).unwrap();
    let began = clock::now();
    let agent = Agent::launch(Kind::Ferrolet, &flags).await;
    ready_since(&client, began).await;
    agent.kill().await;
}

/// A client certificate of this node by the cluster's authority, whose life ends so many seconds from now.
fn short_lived(seconds: i64) -> (String, String) {
    let authority = std::fs::read(cluster("pki/ca.key")).unwrap();
    let authority = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(&authority).unwrap()).unwrap();
    let mut name = CertificateParams::default();
    name.distinguished_name = DistinguishedName::new();
    // As the authority's certificate has it: issuers are compared byte by byte.
    name.distinguished_name.push(DnType::CommonName, DnValue::PrintableString("kubernetes".try_into().unwrap()));
    let issuer = Issuer::new(name, authority);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", node_name()));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let date = |second: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(second).unwrap());
    let now = clock::now().as_second();
    (params.not_before, params.not_after) = (date(now - 60), date(now + seconds));
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn a_client_certificate_is_renewed_before_anyone_notices() {
    let client = client().await;
    bind("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes").await;
    let folder = tempfile::tempdir().unwrap();
    let (normal, pki) = (folder.path().join("kubelet.conf"), folder.path().join("pki"));
    let (chain, key) = short_lived(25);
    let base64 = |text: &str| json!(k8s_openapi::ByteString(text.as_bytes().to_vec()));
    kubeconfig(&normal, &json!({"client-certificate-data": base64(&chain), "client-key-data": base64(&key)}));
    let flags = [
        format!("--kubeconfig={}", normal.display()),
        format!("--cert-dir={}", pki.display()),
        "--rotate-certificates".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let began = clock::now();
    let agent = Agent::launch(Kind::Ferrolet, &flags).await;
    let current = pki.join("kubelet-client-current.pem");
    // What the kubeconfig embeds is there at once, for kubeadm to find; then the cluster signs another.
    wait("the stored certificate", 20, async || current.is_symlink().then_some(())).await;
    wait("the renewed certificate", 60, async || {
        let text = std::fs::read_to_string(&current).ok()?;
        (!text.contains(chain.trim())).then_some(())
    })
    .await;
    let node = ready_since(&client, began).await;
    let since = ready_transition(&node);

    // After the old one's end: the pods' watch, leases and statuses go on.
    let expired = clock::now() + ferrolet::model::SignedDuration::from_secs(27);
    wait("the end of the first certificate", 60, async || (clock::now() > expired).then_some(())).await;
    let namespace = TestNamespace::create("certificates").await;
    let pod = namespace.pod("p", json!({"containers": [{"name": "c", "image": PAUSE}]})).await;
    namespace.wait_ready("p").await;
    wait("a renewed lease", 30, async || renewed(&client).await.filter(|at| *at > expired)).await;
    let node: Node = Api::all(client.clone()).get(&node_name()).await.unwrap();
    assert_eq!(ready_transition(&node), since, "Ready flipped");
    namespace.clean_up(&[uid(&pod)]).await;
    agent.kill().await;
}

/// The certificate chain that the HTTPS server shows to a client that trusts the cluster's authority.
async fn shown() -> Result<Vec<CertificateDer<'static>>, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(cluster("pki/ca.crt")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(address()).unwrap();
    let stream = TcpStream::connect((address(), 10250)).await.map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    Ok(chain.iter().cloned().map(CertificateDer::into_owned).collect())
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn the_cluster_signs_the_serving_certificate() {
    let client = client().await;
    let folder = tempfile::tempdir().unwrap();
    let flags = [format!("--cert-dir={}", folder.path().display()), "--rotate-server-certificates".to_owned()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let began = clock::now();
    let agent = Agent::launch(Kind::Ferrolet, &flags).await;
    ready_since(&client, began).await;
    let signer = "kubernetes.io/kubelet-serving";
    let request = wait("the request", 30, async || pending(&client, signer).await.pop()).await;
    // Until it is signed, nobody is served.
    let refused =
        wait("a refused handshake", 20, async || shown().await.err().filter(|e| !e.contains("refused"))).await;
    assert!(refused.contains("alert"), "{refused}");
    approve(&client, &request.name_any()).await;
    let chain = wait("the signed certificate", 30, async || shown().await.ok()).await;
    let current = folder.path().join("kubelet-server-current.pem");
    let stored = CertificateDer::from_pem_file(&current).unwrap();
    assert_eq!(chain.first(), Some(&stored));
    agent.kill().await;

    // It is there at the next start.
    let agent = Agent::launch(Kind::Ferrolet, &flags).await;
    let again = wait("the stored certificate", 30, async || shown().await.ok()).await;
    assert_eq!(again.first(), Some(&stored));
    assert!(pending(&client, signer).await.is_empty());
    agent.kill().await;
}
