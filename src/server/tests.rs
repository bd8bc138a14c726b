//! The HTTPS server over a loopback connection, with a fake API server behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rstest::rstest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::listener::Limits;
use super::routes::{PROXY, Port, ROUTES, served};
use super::{Introspection, PodLister, Server, ServerInputs, configz};
use crate::config::KubeletConfiguration;
use crate::kube::certificates::{CertificateManager, ServingSettings};
use crate::kube::testing::{Exchange, FakeApi};

const NODE: &str = "node-1";

struct OnePod;

impl PodLister for OnePod {
    fn pods(&self) -> BoxFuture<'_, Option<Vec<Arc<Pod>>>> {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".to_owned());
        Box::pin(async move { Some(vec![Arc::new(pod)]) })
    }

    fn find(&self, _: &str, _: &str, _: Option<&str>) -> Option<Arc<Pod>> {
        None
    }

    fn running_pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, String>> {
        Box::pin(async { Err("the runtime is away".to_owned()) })
    }
}

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn client(&self, user: &str, group: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap())
    }
}

/// A running server.
pub(super) struct Fixture {
    pub(super) address: SocketAddr,
    folder: tempfile::TempDir,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    reviews: Arc<AtomicUsize>,
}

/// A server of one pod and nothing else.
fn inputs<'a>(
    configuration: &'a KubeletConfiguration,
    certificate_folder: &'a std::path::Path,
    client: Option<&'a ::kube::Client>,
) -> ServerInputs<'a> {
    ServerInputs {
        configuration,
        certificate_folder,
        signed_certificate: None,
        node_name: NODE,
        client,
        health: Arc::new(|| Ok(())),
        pods: Some(Arc::new(OnePod)),
        stats: None,
        introspection: Introspection::default(),
        containers: None,
    }
}

impl Fixture {
    pub(super) async fn start(
        change: impl FnOnce(&mut KubeletConfiguration, &std::path::Path),
        limits: Limits,
    ) -> Self {
        Fixture::showing(Introspection::default(), change, limits).await
    }

    async fn showing(
        introspection: Introspection,
        change: impl FnOnce(&mut KubeletConfiguration, &std::path::Path),
        limits: Limits,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut configuration =
            KubeletConfiguration { address: "127.0.0.1".to_owned(), port: 0, ..KubeletConfiguration::default() };
        change(&mut configuration, folder.path());
        let api = FakeApi::new();
        let client = api.client();
        let inputs = ServerInputs { introspection, ..inputs(&configuration, folder.path(), Some(&client)) };
        let server = Server::https_within(inputs, limits).await.unwrap();
        let (address, cancel, reviews) = (server.address(), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(cancel.clone()));
        tasks.spawn(answer_reviews(api, reviews.clone()));
        Fixture { address, folder, cancel, tasks, reviews }
    }

    pub(super) async fn usual() -> Self {
        Fixture::start(|_, _| {}, Limits::default()).await
    }

    pub(super) async fn connect_as(&self, identity: Option<Identity>) -> TlsStream<TcpStream> {
        let pem = std::fs::read(self.folder.path().join("kubelet.crt")).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem).skip(1) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from(NODE).unwrap(), stream).await.unwrap()
    }

    pub(super) async fn send(&self, identity: Option<Identity>, request: &str) -> String {
        let mut stream = self.connect_as(identity).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn request(&self, method: &str, path: &str, token: Option<&str>) -> String {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        self.send(None, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n")).await
    }

    pub(super) async fn get(&self, path: &str, token: Option<&str>) -> String {
        self.request("GET", path, token).await
    }

    /// GET with a client certificate alone.
    async fn get_as(&self, identity: Identity, path: &str) -> String {
        self.send(Some(identity), &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
    }

    pub(super) async fn stop(mut self) {
        self.cancel.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

/// What is sent until the connection ends, in whatever way.
pub(super) async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// An API server that knows the tokens `admin` (may do anything), `pods` (nodes/pods), `proxy` (nodes/proxy) and `nothing`, and
/// fails at `broken`; of certificates, members of `system:masters` may do anything.
async fn answer_reviews(mut api: FakeApi, reviews: Arc<AtomicUsize>) {
    loop {
        let exchange: Exchange = api.next().await;
        reviews.fetch_add(1, Ordering::SeqCst);
        let (path, body) = (exchange.path(), exchange.body());
        let spec = &body["spec"];
        if path.starts_with("/apis/authentication.k8s.io/v1/tokenreviews") {
            let token = spec["token"].as_str().unwrap();
            let status = match token {
                "admin" | "pods" | "proxy" | "nothing" | "broken" => {
                    json!({"authenticated": true, "user": {"username": token, "groups": ["g"]}})
                }
                _ => json!({"authenticated": false, "error": "invalid bearer token"}),
            };
            exchange.json(review("authentication.k8s.io/v1", "TokenReview", &status));
            continue;
        }
        assert!(path.starts_with("/apis/authorization.k8s.io/v1/subjectaccessreviews"), "{path}");
        let attributes = &spec["resourceAttributes"];
        assert_eq!((&attributes["resource"], &attributes["name"]), (&json!("nodes"), &json!(NODE)));
        let groups = spec["groups"].as_array().unwrap();
        let (user, subresource) = (spec["user"].as_str().unwrap(), attributes["subresource"].as_str().unwrap());
        let is_authenticated = groups.contains(&json!("system:authenticated"));
        assert_eq!(is_authenticated, user != "system:anonymous");
        if user == "broken" {
            exchange.status(403, "Forbidden", "the node may not ask");
            continue;
        }
        let allowed = user == "admin" || groups.contains(&json!("system:masters")) || user == subresource;
        exchange.json(review("authorization.k8s.io/v1", "SubjectAccessReview", &json!({"allowed": allowed})));
    }
}

fn review(version: &str, kind: &str, status: &Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {}, "spec": {}, "status": status})
}

pub(super) fn status(answer: &str) -> u16 {
    answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_configuration_is_served_to_whom_may_see_it() {
    let server = Fixture::start(
        |configuration, _| {
            let headers = json!({"staticPodURLHeader": {"Authorization": ["secret"]}});
            let decoded: KubeletConfiguration = serde_json::from_value(headers).unwrap();
            configuration.static_pod_url_header = decoded.static_pod_url_header;
        },
        Limits::default(),
    )
    .await;
    let answer = server.get("/configz", Some("admin")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains("content-type: application/json"), "{answer}");
    assert!(!answer.contains("secret"), "{answer}");
    let value: Value = serde_json::from_str(body(&answer)).unwrap();
    let shown = &value["kubeletconfig"];
    assert_eq!(
        (&shown["kind"], &shown["apiVersion"]),
        (&json!("KubeletConfiguration"), &json!("kubelet.config.k8s.io/v1beta1"))
    );
    assert_eq!(shown["tlsCertFile"], json!(server.folder.path().join("kubelet.crt")));
    assert_eq!(shown["syncFrequency"], "1m0s");
    assert_eq!(status(&server.get("/configz", Some("proxy")).await), 200);
    let refused = server.get("/configz", Some("pods")).await;
    let text = "Forbidden (user=pods, verb=get, resource=nodes, subresource(s)=[configz proxy])\n";
    assert_eq!((status(&refused), body(&refused)), (403, text));
    server.stop().await;
}

#[tokio::test]
async fn pods_are_listed() {
    let server = Fixture::usual().await;
    for path in ["/pods", "/pods/"] {
        let answer = server.get(path, Some("pods")).await;
        let list: Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!((status(&answer), &list["items"][0]["metadata"]["name"]), (200, &json!("web")), "{answer}");
    }
    let answer = server.get("/runningpods/", Some("admin")).await;
    assert_eq!((status(&answer), body(&answer)), (500, "the runtime is away"));
    let answer = server.request("POST", "/pods", Some("admin")).await;
    assert_eq!((status(&answer), body(&answer)), (405, "405: Method Not Allowed"));
    assert!(answer.contains("allow: GET"), "{answer}");
    server.stop().await;
}

#[rstest]
#[case("GET", "/healthz", 200, "ok")]
#[case("GET", "/healthz?verbose", 200, "[+]syncloop ok\nhealthz check passed\n")]
#[case("GET", "/healthz/ping", 200, "ok")]
#[case("GET", "/healthz/log", 200, "ok")]
#[case("GET", "/healthz/syncloop", 200, "ok")]
#[case("GET", "/metrics", 200, "# TYPE kubelet_http_requests_total counter")]
#[case("GET", "/metrics/probes", 200, "# TYPE process_start_time_seconds gauge")]
#[case("GET", "/metrics/slis", 200, "# TYPE process_start_time_seconds gauge")]
#[case("GET", "/metrics/cadvisor", 503, "the node's figures are not known")]
#[case("GET", "/metrics/resource", 503, "the node's figures are not known")]
#[case("GET", "/stats/summary", 503, "the node's figures are not known")]
#[case("GET", "/flagz", 200, "flagz")]
#[case("GET", "/statusz", 200, "statusz")]
#[case("GET", "/debug/pprof/cmdline", 200, "ferrolet")]
#[case("GET", "/debug/pprof/heap", 404, "no Go profiles")]
#[case("GET", "/debug/flags/v", 406, "unsupported http method")]
#[case("PUT", "/debug/flags/v", 400, "strconv.ParseUint: parsing \"\": invalid syntax")]
#[tokio::test]
async fn what_the_agent_tells_of_itself(
    #[case] method: &str,
    #[case] path: &str,
    #[case] code: u16,
    #[case] words: &str,
) {
    let server = Fixture::usual().await;
    let answer = server.request(method, path, Some("admin")).await;
    assert_eq!(status(&answer), code, "{answer}");
    assert!(body(&answer).contains(words), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_in_gzip_for_who_asks_for_it() {
    let server = Fixture::usual().await;
    for path in ["/metrics", "/metrics/probes", "/metrics/slis"] {
        let mut stream = server.connect_as(None).await;
        let head = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer admin\r\nAccept-Encoding: gzip\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let at = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        let (head, body) = (std::str::from_utf8(&answer[..at]).unwrap(), &answer[at + 4..]);
        assert!(head.contains("content-encoding: gzip") && head.contains("text/plain; version=0.0.4"), "{head}");
        let text = std::io::read_to_string(flate2::read::GzDecoder::new(body)).unwrap();
        assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn every_route_is_closed_without_credentials() {
    for debugging in [true, false] {
        let change = |c: &mut KubeletConfiguration, _: &std::path::Path| c.enable_debugging_handlers = debugging;
        let server = Fixture::start(change, Limits::default()).await;
        let routes: Vec<_> = served(Port::Secure, debugging).collect();
        assert!(routes.len() > 5);
        let paths = routes.iter().flat_map(|route| route.paths.iter().map(|path| path.replace("{*rest}", "a/b")));
        for path in paths.chain(["/".to_owned(), "/nothing".to_owned()]) {
            for (method, token) in [("GET", None), ("OPTIONS", None), ("POST", Some("wrong"))] {
                let answer = server.request(method, &path, token).await;
                assert_eq!((status(&answer), body(&answer)), (401, "Unauthorized"), "{method} {path}");
            }
            let answer = server.get(&path, Some("nothing")).await;
            assert_eq!(status(&answer), 403, "{path}");
        }
        server.stop().await;
    }
}

#[test]
fn the_tables_subresources_are_the_peers() {
    for path in ROUTES.iter().flat_map(|route| route.paths.iter().map(move |path| (route, *path))) {
        let (route, path) = path;
        let below = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
        let mut expected = Vec::new();
        let fine = [("/pods", "pods"), ("/healthz", "healthz"), ("/configz", "configz"), ("/runningpods", "pods")];
        expected.extend(fine.iter().find(|(prefix, _)| below(prefix)).map(|(_, subresource)| *subresource));
        let own = [
            ("/stats", "stats"),
            ("/metrics", "metrics"),
            ("/logs", "log"),
            ("/checkpoint", "checkpoint"),
            ("/statusz", "statusz"),
            // By the whole of its right alone.
            ("/flagz", "configz"),
        ];
        expected.push(own.iter().find(|(prefix, _)| below(prefix)).map_or(PROXY[0], |(_, subresource)| *subresource));
        assert_eq!(route.subresources, expected, "{path}");
        assert!(route.ports.contains(&Port::Secure), "{path}");
    }
}

#[tokio::test]
async fn health_checks_are_told_in_slis_and_reset_there() {
    let server = Fixture::usual().await;
    let series = "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n";
    let total = "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} ";
    server.get("/healthz", Some("admin")).await;
    let answer = server.get("/metrics/slis", Some("admin")).await;
    assert!(body(&answer).contains(series) && body(&answer).contains(total), "{answer}");
    assert!(answer.contains("process-start-time-unix: "), "{answer}");
    let answer = server.request("DELETE", "/metrics/slis", Some("admin")).await;
    assert_eq!((status(&answer), body(&answer)), (200, "metrics reset\n"));
    server.stop().await;
}

#[tokio::test]
async fn what_is_in_no_row_is_not_there() {
    let server = Fixture::usual().await;
    for path in [
        "/",
        "/nothing",
        "/pods/../configz",
        "/healthz/..",
        "//pods",
        "/%70ods",
        "/pods%2f",
        "/configz/",
        "/PODS",
        "/./pods",
        "/pods/x",
        "/stats/container",
        "/run/a/b",
        "/exec",
        "/debug/flags",
    ] {
        let answer = server.get(path, Some("proxy")).await;
        // As in the peer, in other words below a path that has more below it.
        let is_below = ["/pods/", "/stats/", "/run/", "/exec"].iter().any(|parted| path.starts_with(parted));
        let words = if is_below { "404: Page Not Found" } else { "404 page not found\n" };
        assert_eq!((status(&answer), body(&answer)), (404, words), "{path}");
        // Not by way of what the path looks like.
        assert_eq!(status(&server.get(path, Some("pods")).await), 403, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn without_debugging_handlers_they_are_said_to_be_disabled() {
    let server = Fixture::start(|c, _| c.enable_debugging_handlers = false, Limits::default()).await;
    for path in ["/exec/a/b/c", "/runningpods/", "/logs/", "/run/"] {
        let answer = server.get(path, Some("admin")).await;
        assert_eq!((status(&answer), body(&answer)), (405, "Debug endpoints are disabled.\n"), "{path}");
    }
    assert_eq!(status(&server.get("/configz", Some("admin")).await), 404);
    assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    server.stop().await;
}

#[tokio::test]
async fn the_read_only_port_shows_pods_and_figures_and_does_nothing() {
    let (configuration, folder) = (KubeletConfiguration::default(), tempfile::tempdir().unwrap());
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::read_only_at(anywhere, inputs(&configuration, folder.path(), None)).await.unwrap();
    let (address, cancel, mut tasks) = (server.address(), CancellationToken::new(), JoinSet::new());
    tasks.spawn(server.run(cancel.clone()));
    let ask = async |method: &str, path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    };
    for path in ["/pods", "/healthz", "/healthz/syncloop", "/metrics", "/metrics/probes", "/metrics/slis"] {
        let answer = ask("GET", path).await;
        assert_eq!(status(&answer), 200, "{path}: {answer}");
    }
    for method in ["GET", "POST", "PUT"] {
        for path in [
            "/exec/a/b/c",
            "/attach/a/b/c",
            "/portForward/a/b",
            "/run/a/b/c",
            "/containerLogs/a/b/c",
            "/runningpods/",
            "/logs/",
            "/debug/pprof/cmdline",
        ] {
            let answer = ask(method, path).await;
            assert_eq!((status(&answer), body(&answer)), (405, "Debug endpoints are disabled.\n"), "{method} {path}");
        }
        for path in ["/configz", "/flagz", "/statusz", "/debug/flags/v", "/checkpoint/a/b/c", "/allocatedPods"] {
            let answer = ask(method, path).await;
            assert_eq!((status(&answer), body(&answer)), (404, "404 page not found\n"), "{method} {path}");
        }
    }
    cancel.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn what_the_agent_shows_of_itself_and_lets_be_changed() {
    let (level, asked) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let introspection = {
        let (level, asked) = (level.clone(), asked.clone());
        Introspection {
            flags: Arc::new([("node-ip", "192.0.2.1".to_owned())].into()),
            set_verbosity: Some(Arc::new(move |to| level.store(to, Ordering::SeqCst))),
            probes: Some(Arc::new(move |_| asked.store(true, Ordering::SeqCst))),
            refresh: None,
        }
    };
    let server = Fixture::showing(introspection.clone(), |_, _| {}, Limits::default()).await;
    let get = async |path: &str| {
        let answer = server.get(path, Some("admin")).await;
        (status(&answer), body(&answer).to_owned())
    };
    let (code, flags) = get("/flagz").await;
    assert!(code == 200 && flags.contains("kubelet flagz") && flags.contains("192.0.2.1"), "{code} {flags}");
    let (code, page) = get("/statusz").await;
    assert!(code == 200 && page.contains("kubelet statusz") && page.contains("/configz"), "{code} {page}");
    let (code, command) = get("/debug/pprof/cmdline").await;
    assert!(code == 200 && command.split('\0').next() == std::env::args().next().as_deref(), "{code} {command}");
    assert_eq!(get("/debug/pprof/heap").await.0, 404);
    assert_eq!(get("/metrics/slis").await.0, 200);
    assert!(!asked.load(Ordering::SeqCst));
    assert_eq!(get("/metrics/probes").await.0, 200);
    assert!(asked.load(Ordering::SeqCst));

    let head = "PUT /debug/flags/v HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nConnection: close\r\n";
    let put = async |rest: &str| {
        let answer = server.send(None, &format!("{head}{rest}")).await;
        (status(&answer), body(&answer).to_owned())
    };
    let done = (200, "successfully set klog.logging.verbosity to 5\n".to_owned());
    assert_eq!(put("Content-Length: 1\r\n\r\n5").await, done);
    assert_eq!(level.load(Ordering::SeqCst), 5);
    assert_eq!(put("Content-Length: 1\r\n\r\nx").await.0, 400);
    // A body that does not say how long it is, and is longer than any may be.
    let (size, long) = ((1 << 20) + 1, "4".repeat((1 << 20) + 1));
    let too_large = (413, "http: request body too large\n".to_owned());
    assert_eq!(put(&format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{long}")).await, too_large);
    assert_eq!(level.load(Ordering::SeqCst), 5);
    assert_eq!(get("/debug/flags/v").await, (406, "unsupported http method\n".to_owned()));
    server.stop().await;

    let turned_off = |c: &mut KubeletConfiguration, _: &std::path::Path| {
        (c.enable_profiling_handler, c.enable_debug_flags_handler) = (false, false);
    };
    let server = Fixture::showing(introspection, turned_off, Limits::default()).await;
    let answer = server.send(None, &format!("{head}Content-Length: 1\r\n\r\n7")).await;
    assert_eq!((status(&answer), body(&answer)), (405, "flags endpoint is disabled.\n"));
    assert_eq!(level.load(Ordering::SeqCst), 5);
    for (path, words) in [
        ("/debug/pprof/cmdline", "profiling endpoint is disabled.\n"),
        ("/debug/flags/v", "flags endpoint is disabled.\n"),
    ] {
        let answer = server.get(path, Some("admin")).await;
        assert_eq!((status(&answer), body(&answer)), (405, words));
    }
    server.stop().await;
}

#[tokio::test]
async fn answers_about_tokens_are_kept_but_not_refusals() {
    let server = Fixture::usual().await;
    for _ in 0..3 {
        assert_eq!(status(&server.get("/pods", Some("admin")).await), 200);
    }
    assert_eq!(server.reviews.swap(0, Ordering::SeqCst), 2);
    for _ in 0..3 {
        assert_eq!(status(&server.get("/pods", Some("wrong")).await), 401);
    }
    assert_eq!(server.reviews.load(Ordering::SeqCst), 3);
    server.stop().await;
}

#[tokio::test]
async fn answers_about_rights_are_kept_for_their_times() {
    // Of each the time of a yes, the time of a no, and the questions that three requests make.
    for (keep_yes, keep_no, of_yes, of_no) in [("5m", "30s", 1, 2), ("0s", "30s", 3, 2), ("5m", "0s", 1, 6)] {
        let change = |c: &mut KubeletConfiguration, _: &std::path::Path| {
            c.authorization.webhook.cache_authorized_ttl = keep_yes.parse().unwrap();
            c.authorization.webhook.cache_unauthorized_ttl = keep_no.parse().unwrap();
        };
        let server = Fixture::start(change, Limits::default()).await;
        for (token, code, expected) in [("pods", 200, of_yes), ("nothing", 403, of_no)] {
            for _ in 0..3 {
                assert_eq!(status(&server.get("/pods", Some(token)).await), code);
            }
            // And one about the token.
            assert_eq!(server.reviews.swap(0, Ordering::SeqCst), 1 + expected, "{token} {keep_yes} {keep_no}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn rights_that_cannot_be_found_out_are_an_error() {
    let server = Fixture::usual().await;
    let answer = server.get("/pods", Some("broken")).await;
    let text = "Authorization error (user=broken, verb=get, resource=nodes, subresource=pods)";
    assert_eq!((status(&answer), body(&answer)), (500, text));
    server.stop().await;
}

#[rstest]
#[case::off(false, "Webhook", 401)]
#[case::on(true, "Webhook", 403)]
#[case::on_and_allowed(true, "AlwaysAllow", 200)]
#[tokio::test]
async fn anonymous_callers(#[case] anonymous: bool, #[case] mode: &str, #[case] expected: u16) {
    let change = |c: &mut KubeletConfiguration, _: &std::path::Path| {
        c.authentication.anonymous.enabled = anonymous;
        mode.clone_into(&mut c.authorization.mode);
    };
    let server = Fixture::start(change, Limits::default()).await;
    assert_eq!(status(&server.get("/healthz", None).await), expected);
    // Credentials that are wrong do not make a caller anonymous.
    assert_eq!(status(&server.get("/healthz", Some("wrong")).await), 401);
    server.stop().await;
}

/// A server that takes client certificates of an authority.
async fn with_authority(authority: &Authority, anonymous: bool) -> Fixture {
    let change = |c: &mut KubeletConfiguration, folder: &std::path::Path| {
        let file: PathBuf = folder.join("ca.crt");
        std::fs::write(&file, &authority.pem).unwrap();
        c.authentication.x509.client_ca_file = file.display().to_string();
        c.authentication.anonymous.enabled = anonymous;
    };
    Fixture::start(change, Limits::default()).await
}

#[tokio::test]
async fn client_certificates() {
    let (authority, other) = (Authority::new(), Authority::new());
    for anonymous in [false, true] {
        let server = with_authority(&authority, anonymous).await;
        let admin = |authority: &Authority| authority.client("kube-apiserver", "system:masters", |_| {});
        assert_eq!(status(&server.get_as(admin(&authority), "/pods").await), 200);
        assert_eq!(status(&server.get_as(authority.client("someone", "users", |_| {}), "/pods").await), 403);
        for refused in [
            admin(&other),
            authority.client("a", "system:masters", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            authority.client("a", "system:masters", |params| params.not_before = rcgen::date_time_ymd(4000, 1, 1)),
            authority.client("a", "system:masters", |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ] {
            assert_eq!(status(&server.get_as(refused, "/pods").await), 401);
        }
        // A token is as good beside a certificate that is not.
        let request = "GET /pods HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nConnection: close\r\n\r\n";
        assert_eq!(status(&server.send(Some(admin(&other)), request).await), 200);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_is_checked_again_at_each_request() {
    let authority = Authority::new();
    let server = with_authority(&authority, false).await;
    let soon = std::time::Duration::from_secs(2);
    let end = rcgen::date_time_ymd(1970, 1, 1)
        + Duration::from_millis(u64::try_from(crate::model::clock::now().as_millisecond()).unwrap())
        + soon;
    let mut stream =
        server.connect_as(Some(authority.client("a", "system:masters", |params| params.not_after = end))).await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(status(std::str::from_utf8(&answer).unwrap()), 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    stream.write_all(request).await.unwrap();
    assert!(read_all(&mut stream).await.contains("HTTP/1.1 401"));
    server.stop().await;
}

#[tokio::test]
async fn until_the_cluster_has_signed_a_certificate_nobody_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::new();
    let client = api.client();
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed([NODE.to_owned(), name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let certificates = |name: &str| {
        let (certificate, key) = made(name);
        std::fs::write(folder.path().join("kubelet-server.crt"), &certificate).unwrap();
        std::fs::write(folder.path().join("kubelet-server.key"), &key).unwrap();
        certificate
    };
    let handle = || {
        let (_, template) = tokio::sync::watch::channel(None);
        let settings = ServingSettings { directory: folder.path(), given: None, template };
        CertificateManager::serving(&client, settings).handle()
    };
    let shown = async |address: SocketAddr, root: &str| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(ServerName::try_from(NODE).unwrap(), stream).await.map(|_| ()).map_err(|e| e.to_string())
    };
    let missing = handle();
    let root = certificates("later");
    for (certificate, served) in [(missing, false), (handle(), true)] {
        let configuration =
            KubeletConfiguration { address: "127.0.0.1".to_owned(), port: 0, ..KubeletConfiguration::default() };
        let inputs = ServerInputs {
            signed_certificate: Some(certificate),
            ..inputs(&configuration, folder.path(), Some(&client))
        };
        let server = Server::https(inputs).await.unwrap();
        let (address, cancel) = (server.address(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(cancel.clone()));
        let outcome = shown(address, &root).await;
        assert_eq!(outcome.is_ok(), served, "{outcome:?}");
        cancel.cancel();
        tasks.join_next().await.unwrap().unwrap();
        assert!(!folder.path().join("kubelet.crt").exists(), "none of its own making");
    }
}

#[tokio::test]
async fn a_caller_without_credentials_holds_no_connection() {
    let server = Fixture::usual().await;
    // No `Connection: close` of its own.
    let answer =
        tokio::time::timeout(Duration::from_secs(5), server.send(None, "GET /pods HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(status(&answer.await.unwrap()), 401);
    server.stop().await;
}

#[tokio::test]
async fn the_end_of_the_server_ends_its_connections() {
    let server = Fixture::usual().await;
    let mut stream = server.connect_as(None).await;
    let started = tokio::time::Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn files_that_changed_are_served() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, &authority.pem).unwrap();
    let authorities = Arc::new(super::client_ca::ClientAuthorities::load(&ca).await.unwrap());
    let (chain, _) = other.client("a", "b", |_| {});
    let now = crate::model::clock::now();
    assert!(authorities.verify(&chain, now).is_err());
    assert!(!authorities.refresh().await);
    std::fs::write(&ca, "half").unwrap();
    assert!(!authorities.refresh().await);
    assert!(authorities.verify(&authority.client("a", "b", |_| {}).0, now).is_ok());
    std::fs::write(&ca, format!("{}{}", authority.pem, other.pem)).unwrap();
    assert!(authorities.refresh().await);
    assert!(authorities.verify(&chain, now).is_ok());
    assert_eq!(authorities.subjects().len(), 2);
    std::fs::remove_file(&ca).unwrap();
    assert!(!authorities.refresh().await);
    assert!(authorities.verify(&chain, now).is_ok());
}

#[tokio::test]
async fn a_look_at_the_files_that_is_given_up_loses_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, &authority.pem).unwrap();
    let authorities = Arc::new(super::client_ca::ClientAuthorities::load(&ca).await.unwrap());
    let source = super::serving_certificate::CertificateSource {
        certificate: folder.path().join("kubelet.crt"),
        key: folder.path().join("kubelet.key"),
        self_signed_for: Some("n1".to_owned()),
    };
    let protocol = super::tls::Protocol::new(&KubeletConfiguration::default()).unwrap();
    let now = crate::model::clock::now();
    let files = super::tls::TlsFiles::load(protocol, source, Some(authorities.clone()), now).await.unwrap();
    // A look that came to its end before it could be given up is made again with the other file.
    let both = format!("{}{}", authority.pem, other.pem);
    let mut given_up = None;
    for (text, subjects) in [(both.as_str(), 2), (authority.pem.as_str(), 1)].into_iter().cycle().take(100) {
        let before = files.config().await;
        std::fs::write(&ca, text).unwrap();
        let mut look = Box::pin(files.refresh(now));
        let has_ended = loop {
            if futures::poll!(&mut look).is_ready() {
                break true;
            }
            if authorities.subjects().len() == subjects {
                break false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        drop(look);
        if !has_ended {
            given_up = Some(before);
            break;
        }
    }
    let before = given_up.expect("no look could be given up halfway");
    assert!(Arc::ptr_eq(&before, &files.config().await), "given up before its end");
    files.refresh(now).await;
    assert!(!Arc::ptr_eq(&before, &files.config().await));
}

#[tokio::test]
async fn settings_that_cannot_be_served_name_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let api = FakeApi::new();
    let client = api.client();
    let start = async |change: fn(&mut KubeletConfiguration)| {
        let mut configuration =
            KubeletConfiguration { address: "127.0.0.1".to_owned(), port: 0, ..KubeletConfiguration::default() };
        change(&mut configuration);
        let inputs = inputs(&configuration, folder.path(), Some(&client));
        Server::https(inputs).await.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(start(|_| {}).await, "");
    assert!(start(|c| c.address = "here".to_owned()).await.contains("\"here\""));
    assert!(start(|c| c.tls_cert_file = "/a".to_owned()).await.contains("tlsPrivateKeyFile"));
    assert!(
        start(|c| (c.tls_cert_file, c.tls_private_key_file) = ("/no/crt".to_owned(), "/no/key".to_owned()))
            .await
            .contains("/no/crt")
    );
    assert!(
        start(|c| c.authentication.x509.client_ca_file = "/no/ca".to_owned()).await.contains("clientCAFile /no/ca")
    );
    assert!(start(|c| c.authentication.webhook.enabled = false).await.contains("no authentication method"));
}

#[test]
fn the_configuration_shown_is_one_that_can_be_read_again() {
    let configuration = KubeletConfiguration::default();
    let value: Value = serde_json::from_slice(&configz(&configuration).unwrap()).unwrap();
    let read: KubeletConfiguration = serde_json::from_value(value["kubeletconfig"].clone()).unwrap();
    assert_eq!(read, configuration);
}
