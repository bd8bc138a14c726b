//! Certificates got from a fake API server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};
use rstest::rstest;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::certificate::NodeCertificate;
use super::manager::{CertificateHandle, CertificateManager};
use super::plan::Template;
use super::request::Role;
use super::signing::{Submitted, Verdict, judge};
use super::store::CertificateStore;
use super::{AccessSettings, CertificatesError, open};
use crate::kube::credentials::Credentials;
use crate::kube::testing::{FakeApi, list};
use crate::model::{SignedDuration, Timestamp, clock};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A certificate authority.
struct Authority(Issuer<'static, KeyPair>);

/// The public key of a request.
struct Requested(Vec<u8>);

impl PublicKeyData for Requested {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(Issuer::new(params, KeyPair::generate().unwrap()))
    }

    /// A certificate for a key, whose life began and ends so many seconds from now.
    fn certify(&self, key: &impl PublicKeyData, (from, to): (i64, i64)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        let date = |seconds: i64| {
            let second = u64::try_from(clock::now().as_second() + seconds).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second)
        };
        (params.not_before, params.not_after) = (date(from), date(to));
        params.signed_by(key, &self.0).unwrap().pem()
    }

    fn sign(&self, request: &Value) -> String {
        self.sign_for(request, (-60, 3600))
    }

    fn sign_for(&self, request: &Value, life: (i64, i64)) -> String {
        let pem = STANDARD.decode(request["spec"]["request"].as_str().unwrap()).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(&pem).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
        let key = parsed.certification_request_info.subject_pki.subject_public_key.data.to_vec();
        self.certify(&Requested(key), life)
    }

    fn pair(&self, life: (i64, i64)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (self.certify(&key, life), key.serialize_pem())
    }
}

/// A manager that runs against a fake server.
struct Fixture {
    folder: tempfile::TempDir,
    authority: Authority,
    api: FakeApi,
    handle: Option<CertificateHandle>,
    tasks: JoinSet<Result<(), CertificatesError>>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, api) = (Authority::new(), FakeApi::new());
        Fixture { folder, authority, api, handle: None, tasks: JoinSet::new() }
    }

    fn store(&self, role: Role) -> CertificateStore {
        CertificateStore::new(&self.folder.path().join("pki"), role.prefix(), None)
    }

    fn pending_key(&self) -> std::path::PathBuf {
        self.folder.path().join("pki/kubelet-client.key.tmp")
    }

    /// Starts a manager of the client certificate.
    fn client(&mut self, current: Option<NodeCertificate>, change: impl FnOnce(&mut CertificateManager)) {
        let (_, template) = watch::channel(Some(Template::client("n1")));
        let clients = (self.api.client(), self.api.client());
        let mut manager =
            CertificateManager::new(Role::Client, self.store(Role::Client), template, clients, current, false);
        manager.pending_key = Some(self.pending_key());
        change(&mut manager);
        self.run(manager);
    }

    fn run(&mut self, manager: CertificateManager) {
        self.handle = Some(manager.handle());
        self.tasks.spawn(manager.run(CancellationToken::new()));
    }

    /// The next request to create something, answered with a UID. Returns what was asked for.
    async fn created(&mut self) -> Value {
        let exchange = self.api.next().await;
        assert_eq!((exchange.method(), exchange.path().split('?').next().unwrap()), ("POST", REQUESTS));
        let stored = stored(&exchange.body());
        exchange.json(stored.clone());
        stored
    }

    /// The list before the watch, answered.
    async fn listed(&mut self, request: &Value, status: Value) {
        let exchange = self.api.next().await;
        let name = request["metadata"]["name"].as_str().unwrap();
        assert!(exchange.path().contains(&format!("fieldSelector=metadata.name%3D{name}")), "{}", exchange.path());
        let mut request = request.clone();
        request["status"] = status;
        exchange.json(list("CertificateSigningRequestList", 5, None, &[request]));
    }

    async fn installed(&mut self) -> Timestamp {
        let handle = self.handle.clone().unwrap();
        tokio::time::timeout(Duration::from_secs(30), async {
            while handle.key().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        handle.expires().unwrap()
    }

    async fn ended(&mut self) -> CertificatesError {
        self.tasks.join_next().await.unwrap().unwrap().unwrap_err()
    }
}

/// The object that the server made of a request.
fn stored(request: &Value) -> Value {
    let mut stored = request.clone();
    stored["metadata"]["uid"] = json!("u1");
    stored["metadata"]["resourceVersion"] = json!("1");
    if stored["metadata"]["name"].is_null() {
        stored["metadata"]["name"] = json!("csr-x");
    }
    stored
}

fn condition(type_: &str) -> Value {
    json!({"conditions": [{"type": type_, "status": "True", "reason": "Why", "message": "because"}]})
}

fn signed(pem: &str) -> Value {
    let mut status = condition("Approved");
    status["certificate"] = STANDARD.encode(pem).into();
    status
}

#[tokio::test]
async fn the_first_certificate_is_asked_for_waited_for_and_stored() {
    let mut fixture = Fixture::new();
    let credentials = std::sync::Arc::new(Credentials::handed());
    let given = credentials.clone();
    fixture.client(None, |manager| manager.hand_to(given));
    let request = fixture.created().await;
    assert!(request["metadata"]["name"].as_str().unwrap().starts_with("node-csr-"));
    assert_eq!(request["spec"]["signerName"], "kubernetes.io/kube-apiserver-client-kubelet");
    assert_eq!(request["spec"]["usages"], json!(["digital signature", "client auth"]));
    assert!(fixture.pending_key().exists());
    fixture.listed(&request, json!({})).await;
    let feed = fixture.api.next().await.watch();
    for status in [condition("Approved"), signed(&fixture.authority.sign(&request))] {
        let mut object = request.clone();
        object["status"] = status;
        feed.send("MODIFIED", object);
    }
    let expires = fixture.installed().await;
    assert!(expires.duration_since(clock::now()) > SignedDuration::from_mins(59));
    assert_eq!(credentials.current().await.unwrap().generation, 1);

    let current = fixture.store(Role::Client).current_path();
    let target = std::fs::read_link(&current).unwrap();
    let name = target.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("kubelet-client-20") && name.ends_with(".pem"), "{name}");
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read(&current).unwrap();
    assert!(NodeCertificate::from_pem(&text, &text).is_ok());
    assert!(!fixture.pending_key().exists());
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_request() {
    let mut fixture = Fixture::new();
    fixture.client(None, |_| {});
    let request = fixture.created().await;
    fixture.tasks.shutdown().await;
    while fixture.api.waiting().is_some() {}

    fixture.client(None, |_| {});
    let exchange = fixture.api.next().await;
    assert_eq!(exchange.body()["metadata"]["name"], request["metadata"]["name"]);
    exchange.status(409, "AlreadyExists", "it exists");
    let exchange = fixture.api.next().await;
    assert_eq!(
        (exchange.method(), exchange.path().ends_with(request["metadata"]["name"].as_str().unwrap())),
        ("GET", true)
    );
    exchange.json(request.clone());
    let certificate = fixture.authority.sign(&request);
    fixture.listed(&request, signed(&certificate)).await;
    fixture.installed().await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_due_at_once_is_replaced_after_a_pause() {
    let mut fixture = Fixture::new();
    fixture.client(None, |_| {});
    let mut request = fixture.created().await;
    for least in [2, 4, 8] {
        let before = tokio::time::Instant::now();
        // Most of its life is over, as it is by a clock that is ahead.
        let certificate = fixture.authority.sign_for(&request, (-3600, 60));
        fixture.listed(&request, signed(&certificate)).await;
        request = fixture.created().await;
        assert!(before.elapsed() >= Duration::from_secs(least), "asked again after {:?}", before.elapsed());
    }
}

#[rstest]
#[case::denied("Denied", "certificate signing request is denied, reason: Why, message: because")]
#[case::failed("Failed", "certificate signing request failed, reason: Why, message: because")]
#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_next_request_is_another(#[case] type_: &str, #[case] expected: &str) {
    let mut fixture = Fixture::new();
    fixture.client(None, |_| {});
    let first = fixture.created().await;
    fixture.listed(&first, condition(type_)).await;
    let second = fixture.created().await;
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    assert_eq!(fixture.handle.as_ref().unwrap().failures(), 1);
    fixture.tasks.shutdown().await;
    while fixture.api.waiting().is_some() {}

    // An agent that does not renew its certificate ends, so that it is noticed.
    fixture.client(None, |manager| manager.rotates = false);
    let third = fixture.created().await;
    assert_eq!(third["metadata"]["name"], second["metadata"]["name"]);
    fixture.listed(&third, condition(type_)).await;
    assert_eq!(fixture.ended().await.to_string(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_approves_is_waited_for_an_hour() {
    let mut fixture = Fixture::new();
    fixture.client(None, |manager| manager.rotates = false);
    let began = tokio::time::Instant::now();
    let request = fixture.created().await;
    let mut feeds = Vec::new();
    let error = loop {
        tokio::select! {
            exchange = fixture.api.next() => {
                if exchange.path().contains("watch=") {
                    feeds.push(exchange.watch());
                } else {
                    exchange.json(list("CertificateSigningRequestList", 5, None, std::slice::from_ref(&request)));
                }
            }
            ended = fixture.tasks.join_next() => break ended.unwrap().unwrap().unwrap_err(),
        }
    };
    assert!(matches!(error, CertificatesError::Late { .. }), "{error}");
    assert_eq!(began.elapsed().as_secs(), 3600);
    // The request is still good: the next start goes on with it.
    assert!(fixture.pending_key().exists());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_request_is_made_again() {
    let mut fixture = Fixture::new();
    fixture.client(None, |_| {});
    let first = fixture.created().await;
    fixture.listed(&first, json!({})).await;
    let feed = fixture.api.next().await.watch();
    feed.send("DELETED", first.clone());
    assert_eq!(fixture.created().await["metadata"]["name"], first["metadata"]["name"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_waited_for() {
    let mut fixture = Fixture::new();
    fixture.client(None, |manager| manager.rotates = false);
    for _ in 0..20 {
        fixture.api.next().await.refuse();
    }
    fixture.created().await;
}

#[tokio::test]
async fn the_next_certificate_takes_the_place_of_the_one_before() {
    let mut fixture = Fixture::new();
    let store = fixture.store(Role::Client);
    let (chain, key) = fixture.authority.pair((-1000, 20));
    let old = store.update(chain.as_bytes(), &key, clock::now() - SignedDuration::from_secs(5)).unwrap();
    let before = std::fs::read_link(store.current_path()).unwrap();
    let old_key = old.key.clone();
    let credentials = std::sync::Arc::new(Credentials::handed());
    let given = credentials.clone();
    fixture.client(Some(old), |manager| manager.hand_to(given));
    let request = fixture.created().await;
    assert_eq!(request["metadata"]["generateName"], "csr-");
    let certificate = fixture.authority.sign(&request);
    fixture.listed(&request, signed(&certificate)).await;
    let handle = fixture.handle.clone().unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while std::sync::Arc::ptr_eq(&handle.key().unwrap(), &old_key) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_ne!(std::fs::read_link(store.current_path()).unwrap(), before);
    assert!(before.exists(), "what was in use stays");
    assert_eq!(credentials.current().await.unwrap().generation, 2);
    assert!(fixture.api.waiting().is_none(), "the new one is not due");
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_ends_the_process_once_the_server_refuses_it() {
    let mut fixture = Fixture::new();
    let (chain, key) = fixture.authority.pair((-1000, -1));
    let old = NodeCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    fixture.client(Some(old), |_| {});
    fixture.api.next().await.refuse();
    fixture.api.next().await.status(422, "Invalid", "later");
    fixture.api.next().await.status(401, "Unauthorized", "Unauthorized");
    assert!(matches!(fixture.ended().await, CertificatesError::Expired { .. }));
}

#[tokio::test]
async fn other_addresses_are_asked_for_at_once() {
    let mut fixture = Fixture::new();
    let template = |address: &str| {
        let mut template = Template::client("n1");
        template.addresses.insert(address.parse().unwrap());
        Some(template)
    };
    let (sender, receiver) = watch::channel(None);
    let client = fixture.api.client();
    let clients = (client.clone(), client);
    let manager = CertificateManager::new(Role::Serving, fixture.store(Role::Serving), receiver, clients, None, false);
    fixture.run(manager);
    sender.send_replace(template("192.0.2.2"));
    let first = fixture.created().await;
    assert_eq!(first["spec"]["signerName"], "kubernetes.io/kubelet-serving");
    fixture.listed(&first, json!({})).await;
    let _feed = fixture.api.next().await.watch();
    sender.send_replace(template("192.0.2.3"));
    let second = fixture.created().await;
    assert_ne!(first["spec"]["request"], second["spec"]["request"]);
}

#[test]
fn verdicts() {
    let request = |status: Value| -> CertificateSigningRequest {
        let spec = json!({"request": "", "signerName": "s"});
        serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u1"}, "spec": spec, "status": status})).unwrap()
    };
    let submitted: Submitted = {
        let spec = json!({"request": "", "signerName": "s"});
        let object: CertificateSigningRequest =
            serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u1"}, "spec": spec})).unwrap();
        Submitted::of(&object)
    };
    let judged = |status: Value| judge(&submitted, &request(status));
    assert_eq!(judged(json!({})).unwrap(), Verdict::Pending);
    assert_eq!(judged(condition("Approved")).unwrap(), Verdict::Pending);
    assert_eq!(judged(json!({"certificate": "YWJj"})).unwrap(), Verdict::Pending, "signed, but never approved");
    assert_eq!(judged(signed("abc")).unwrap(), Verdict::Issued(b"abc".to_vec()));
    assert!(matches!(judged(condition("Denied")), Err(CertificatesError::Denied { .. })));
    assert!(matches!(judged(condition("Failed")), Err(CertificatesError::Failed { .. })));
    let mut other = request(json!({}));
    other.metadata.uid = Some("u2".to_owned());
    assert_eq!(judge(&submitted, &other).unwrap_err().to_string(), "csr \"a\" changed UIDs");
}

#[test]
fn the_store_takes_over_what_the_kubelet_left() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (chain, key) = authority.pair((-60, 3600));
    let given = (folder.path().join("given.crt"), folder.path().join("given.key"));
    let store = CertificateStore::new(folder.path(), "kubelet-server", Some(given.clone()));
    assert!(store.current().unwrap().is_none());
    // Files that the configuration names.
    std::fs::write(&given.0, &chain).unwrap();
    std::fs::write(&given.1, &key).unwrap();
    assert!(store.current().unwrap().is_some());
    // A change that was cut off after the old link was removed.
    let file = folder.path().join("kubelet-server-2026-01-01-00-00-00.pem");
    std::fs::write(&file, format!("{chain}{key}")).unwrap();
    std::os::unix::fs::symlink(&file, folder.path().join("kubelet-server-updated.pem")).unwrap();
    assert!(store.current().unwrap().is_some());
    assert_eq!(std::fs::read_link(store.current_path()).unwrap(), file);
    // What is broken is told, with the file's name and nothing of its content.
    std::fs::write(&file, &key).unwrap();
    let error = store.current().err().unwrap().to_string();
    assert!(error.contains("kubelet-server-current.pem: no certificate in PEM form"), "{error}");
    // A file in the link's place is not ours to replace.
    std::fs::remove_file(store.current_path()).unwrap();
    std::fs::write(store.current_path(), "").unwrap();
    let error = store.update(chain.as_bytes(), &key, clock::now()).err().unwrap();
    assert!(matches!(error, CertificatesError::NoLink { .. }), "{error}");
    // A certificate of another key is not stored.
    std::fs::remove_file(store.current_path()).unwrap();
    let (other, _) = authority.pair((-60, 3600));
    assert!(store.update(other.as_bytes(), &key, clock::now()).is_err());
    assert!(!store.current_path().exists());
}

fn kubeconfig(path: &Path, user: &Value) {
    let value = json!({
        "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1"}}], "users": [{"name": "u", "user": user}],
    });
    std::fs::write(path, value.to_string()).unwrap();
}

fn embedded((chain, key): &(String, String)) -> Value {
    json!({"client-certificate-data": STANDARD.encode(chain), "client-key-data": STANDARD.encode(key)})
}

#[rstest]
#[case::none(None, true, true)]
#[case::not_yaml(Some(json!("nonsense")), true, true)]
#[case::token_alone(Some(json!({"token": "abc"})), true, true)]
#[case::expired(Some(json!("expired")), true, true)]
#[case::valid(Some(json!("valid")), false, false)]
#[tokio::test]
async fn which_kubeconfig_is_used(#[case] user: Option<Value>, #[case] rewritten: bool, #[case] bootstraps: bool) {
    let folder = tempfile::tempdir().unwrap();
    let (normal, bootstrap) = (folder.path().join("kubelet.conf"), folder.path().join("bootstrap.conf"));
    let authority = Authority::new();
    match user {
        None => {}
        Some(Value::String(kind)) if kind == "nonsense" => std::fs::write(&normal, "a: [").unwrap(),
        Some(Value::String(kind)) if kind == "expired" => {
            kubeconfig(&normal, &embedded(&authority.pair((-100, -10))));
        }
        Some(Value::String(_)) => kubeconfig(&normal, &embedded(&authority.pair((-100, 100)))),
        Some(user) => kubeconfig(&normal, &user),
    }
    kubeconfig(&bootstrap, &json!({"token": "b.t"}));
    let before = std::fs::read_to_string(&normal).unwrap_or_default();
    let settings = AccessSettings {
        kubeconfig: &normal,
        bootstrap_kubeconfig: Some(&bootstrap),
        certificate_folder: &folder.path().join("pki"),
        node_name: "n1",
        rotates: false,
    };
    let access = open(&settings).await.unwrap();
    let after = std::fs::read_to_string(&normal).unwrap();
    assert_eq!(after != before, rewritten);
    assert_eq!(access.certificates.is_some(), bootstraps);
    if rewritten {
        let current = folder.path().join("pki/kubelet-client-current.pem");
        assert!(after.contains(current.to_str().unwrap()) && after.contains("default-auth"), "{after}");
        assert_eq!(std::fs::metadata(&normal).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_certificate_in_the_kubeconfig_is_stored_and_due() {
    let folder = tempfile::tempdir().unwrap();
    let normal = folder.path().join("kubelet.conf");
    let pair = Authority::new().pair((-100, 100_000));
    kubeconfig(&normal, &embedded(&pair));
    let pki = folder.path().join("pki");
    let settings = AccessSettings {
        kubeconfig: &normal,
        bootstrap_kubeconfig: None,
        certificate_folder: &pki,
        node_name: "n1",
        rotates: true,
    };
    let access = open(&settings).await.unwrap();
    let current = pki.join("kubelet-client-current.pem");
    assert_eq!(std::fs::read_to_string(&current).unwrap(), format!("{}\n{}", pair.0.trim_end(), pair.1));
    let manager = access.certificates.unwrap();
    assert!(manager.handle().key().is_some());
    assert!(manager.is_due(clock::now()));

    // After kubeadm made the kubeconfig point there, nothing is due.
    kubeconfig(&normal, &json!({"client-certificate": current, "client-key": current}));
    let access = open(&settings).await.unwrap();
    assert!(!access.certificates.unwrap().is_due(clock::now()));
}

#[tokio::test]
async fn without_any_credentials_the_start_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (normal, bootstrap) = (folder.path().join("kubelet.conf"), folder.path().join("none.conf"));
    let settings = AccessSettings {
        kubeconfig: &normal,
        bootstrap_kubeconfig: Some(&bootstrap),
        certificate_folder: folder.path(),
        node_name: "n1",
        rotates: true,
    };
    let error = open(&settings).await.err().unwrap().to_string();
    assert!(error.starts_with("unable to load bootstrap kubeconfig: ") && error.contains("none.conf"), "{error}");
    assert!(!normal.exists());
}
