//! This node's credentials as they are now: client certificate, token, token file or exec plugin, each renewed without a
//! background task: a request that finds its credentials due for a look has them looked at.
//!
//! Files are compared by identity, size and time at most every 10 s, since the kubelet's certificate is rotated from outside
//! (`kubelet-client-current.pem` is a symlink that moves on). A new certificate gets a new generation, by which the connections
//! made with the old one are given up.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::FieldError;
use super::kubeconfig::read;
use crate::model::{SignedDuration, Timestamp, clock};
use crate::sys::file_stamp::FileStamp;

/// How often files are looked at.
const FILE_CHECK: Duration = Duration::from_secs(10);
/// How long a plugin may take.
const EXEC_TIMEOUT: Duration = Duration::from_secs(60);
/// How soon a refused credential is fetched anew; bounds the plugin's runs when the server refuses everything.
const REJECTED_PAUSE: Duration = Duration::from_secs(10);
/// A plugin's credential is renewed that long before it ends.
const EXEC_LEEWAY: SignedDuration = SignedDuration::from_secs(10);

/// PEM text from the kubeconfig itself or from a file.
#[derive(Clone)]
pub(super) enum PemSource {
    /// Embedded.
    Data(Arc<[u8]>),
    /// Read, and read again when it changed.
    File(PathBuf),
}

/// Where credentials come from.
#[derive(Clone)]
pub(super) enum CredentialSource {
    /// Certificate and key, and an authorization by kind (`token`, or `password` for `user:password`).
    Static { identity: Option<(PemSource, PemSource)>, authorization: Option<(&'static str, SecretString)> },
    /// A bearer token in a file.
    TokenFile { identity: Option<(PemSource, PemSource)>, file: PathBuf },
    /// A credential plugin.
    Exec(ExecPlugin),
    /// A client certificate that this process gets and renews itself ([`Credentials::hand_over`]).
    Handed,
}

/// An exec credential plugin (`client.authentication.k8s.io`).
#[derive(Clone)]
pub(super) struct ExecPlugin {
    pub(super) command: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) api_version: String,
    pub(super) cluster_info: Option<serde_json::Value>,
    pub(super) install_hint: String,
}

/// What a request is sent with.
#[derive(Clone)]
pub(super) struct Current {
    /// The `Authorization` header.
    pub(super) authorization: Option<HeaderValue>,
    /// Counts the client certificates: connections of an older one are not used again.
    pub(super) generation: u64,
}

/// The credentials in force and how they are renewed.
pub(super) struct Credentials {
    source: CredentialSource,
    resolver: Arc<IdentityResolver>,
    snapshot: RwLock<Snapshot>,
    /// Held while renewing, so that one plugin runs at a time and the others wait for its answer.
    renewal: tokio::sync::Mutex<Renewal>,
    /// Whether there are credentials yet: false only before the first certificate was handed over.
    available: watch::Sender<bool>,
}

#[derive(Clone)]
struct Snapshot {
    current: Current,
    /// When to look again; none for never.
    check_at: Option<Instant>,
    /// When a plugin's credential ends.
    expires_at: Option<Timestamp>,
    loaded_at: Instant,
    rejected: bool,
}

/// What renewing knows from the last time.
#[derive(Default)]
struct Renewal {
    stamps: Stamps,
    /// A plugin that is at work. A request that is given up leaves it to the next one: a plugin that takes longer than requests
    /// wait would never come to its end.
    run: Option<BoxFuture<'static, Result<ExecAnswer, FieldError>>>,
}

/// The files as they were when last read.
type Stamps = HashMap<PathBuf, FileStamp>;

impl Credentials {
    /// Loads the credentials for the first time.
    pub(super) async fn load(source: CredentialSource) -> Result<Self, FieldError> {
        let credentials = Credentials::empty(source, true);
        let mut renewal = credentials.renewal.lock().await;
        credentials.renew(&mut renewal, true).await?;
        drop(renewal);
        Ok(credentials)
    }

    /// Credentials that are yet to be handed over: requests wait until they are.
    pub(super) fn handed() -> Self {
        Credentials::empty(CredentialSource::Handed, false)
    }

    fn empty(source: CredentialSource, available: bool) -> Self {
        let snapshot = Snapshot {
            current: Current { authorization: None, generation: 0 },
            check_at: None,
            expires_at: None,
            loaded_at: Instant::now(),
            rejected: false,
        };
        Credentials {
            source,
            resolver: Arc::new(IdentityResolver::default()),
            snapshot: RwLock::new(snapshot),
            renewal: tokio::sync::Mutex::default(),
            available: watch::Sender::new(available),
        }
    }

    /// Lets new connections use this certificate. Those of the one before it end with the requests that are on them: all
    /// watches at once would be a load on the server for nothing.
    pub(super) fn hand_over(&self, identity: Arc<CertifiedKey>) {
        self.resolver.set(Some(identity));
        self.update(|s| s.current.generation += 1);
        self.available.send_replace(true);
    }

    /// The TLS client's source of certificates.
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::clone(&self.resolver) as Arc<dyn ResolvesClientCert>
    }

    /// What to send the next request with, once there is something. An error only if a plugin's credential has ended and cannot
    /// be renewed.
    pub(super) async fn current(&self) -> Result<Current, FieldError> {
        // The sender is this object's own.
        let _ = self.available.subscribe().wait_for(|available| *available).await;
        if let Some(current) = self.fresh() {
            return Ok(current);
        }
        let mut renewal = self.renewal.lock().await;
        if let Some(current) = self.fresh() {
            return Ok(current);
        }
        let before = self.read_snapshot();
        if let Err(error) = self.renew(&mut renewal, false).await {
            let usable = before.expires_at.is_none_or(|end| clock::now() < end);
            if !usable {
                return Err(error);
            }
            tracing::warn!(error = %super::error::chain(&error), "credentials could not be renewed, the old ones stay in use");
            self.update(|s| {
                s.check_at = Some(Instant::now() + FILE_CHECK);
                s.rejected = false;
            });
        }
        Ok(self.read_snapshot().current)
    }

    /// The server refused what this generation was sent with: look again before the next request.
    pub(super) fn rejected(&self, generation: u64) {
        self.update(|s| {
            let renewable = s.check_at.is_some() || matches!(self.source, CredentialSource::Exec(_));
            if renewable && s.current.generation == generation && s.loaded_at.elapsed() >= REJECTED_PAUSE {
                s.rejected = true;
            }
        });
    }

    fn fresh(&self) -> Option<Current> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        let due = snapshot.rejected || snapshot.check_at.is_some_and(|at| Instant::now() >= at);
        (!due).then(|| snapshot.current.clone())
    }

    fn read_snapshot(&self) -> Snapshot {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot.write().unwrap_or_else(PoisonError::into_inner));
    }

    async fn renew(&self, renewal: &mut Renewal, first: bool) -> Result<(), FieldError> {
        let stamps = &mut renewal.stamps;
        match &self.source {
            CredentialSource::Static { identity, authorization } => {
                self.renew_identity(identity.as_ref(), stamps, first)?;
                if first {
                    let header = authorization.as_ref().map(|(kind, secret)| header(kind, secret)).transpose()?;
                    self.update(|s| s.current.authorization = header);
                }
                let watched = matches!(identity, Some((PemSource::File(_), _) | (_, PemSource::File(_))));
                self.checked(watched);
            }
            CredentialSource::TokenFile { identity, file } => {
                self.renew_identity(identity.as_ref(), stamps, first)?;
                if let Some(now) = changed([file.as_path()], stamps)? {
                    let header = header("token", &token_from(file)?)?;
                    stamps.extend(now);
                    self.update(|s| s.current.authorization = Some(header));
                }
                self.checked(true);
            }
            CredentialSource::Handed => self.checked(false),
            CredentialSource::Exec(plugin) => {
                let run = renewal.run.get_or_insert_with(|| plugin.clone().run().boxed());
                let answer = run.await;
                renewal.run = None;
                let answer = answer?;
                let header = answer.token.as_ref().map(|t| header("token", t)).transpose()?;
                let has_identity = answer.identity.is_some();
                if has_identity {
                    self.resolver.set(answer.identity);
                }
                let due = answer.expires_at.map(|end| {
                    let left = end.duration_since(clock::now()) - EXEC_LEEWAY;
                    Instant::now()
                        + Duration::try_from(left).unwrap_or(Duration::from_secs(1)).max(Duration::from_secs(1))
                });
                self.update(|s| {
                    s.current.authorization = header;
                    s.current.generation += u64::from(has_identity);
                    s.expires_at = answer.expires_at;
                    s.check_at = due;
                    s.loaded_at = Instant::now();
                    s.rejected = false;
                });
            }
        }
        Ok(())
    }

    fn checked(&self, again: bool) {
        self.update(|s| {
            s.check_at = again.then(|| Instant::now() + FILE_CHECK);
            s.loaded_at = Instant::now();
            s.rejected = false;
        });
    }

    fn renew_identity(
        &self,
        identity: Option<&(PemSource, PemSource)>,
        stamps: &mut Stamps,
        first: bool,
    ) -> Result<(), FieldError> {
        let Some((certificate, key)) = identity else { return Ok(()) };
        let now = changed([certificate, key].into_iter().filter_map(PemSource::file), stamps)?;
        if now.is_none() && !first {
            return Ok(());
        }
        let loaded = certified_key(&certificate.read()?, &key.read()?)?;
        // Kept only now: a half-written pair is tried again at the next look. What was changed meanwhile is, too.
        stamps.extend(now.unwrap_or_default());
        self.resolver.set(Some(Arc::new(loaded)));
        self.update(|s| s.current.generation += 1);
        if !first {
            tracing::info!("client certificate changed on disk, new connections use it");
        }
        Ok(())
    }
}

impl PemSource {
    fn file(&self) -> Option<&Path> {
        match self {
            PemSource::File(file) => Some(file),
            PemSource::Data(_) => None,
        }
    }

    /// The text as it is now.
    pub(super) fn read(&self) -> Result<Arc<[u8]>, FieldError> {
        match self {
            PemSource::Data(data) => Ok(Arc::clone(data)),
            PemSource::File(file) => read(file).map(Into::into),
        }
    }
}

/// The files as they are now; none if they are as when they were last read.
fn changed<'f>(files: impl IntoIterator<Item = &'f Path>, read: &Stamps) -> Result<Option<Stamps>, FieldError> {
    let mut now = Stamps::new();
    for file in files {
        let stamp = FileStamp::at(file).map_err(|source| FieldError::File { file: file.to_owned(), source })?;
        now.insert(file.to_owned(), stamp);
    }
    let is_new = now.iter().any(|(file, stamp)| read.get(file) != Some(stamp));
    Ok(is_new.then_some(now))
}

fn token_from(file: &Path) -> Result<SecretString, FieldError> {
    let text = String::from_utf8(read(file)?).map_err(|_| FieldError::Header)?;
    match text.trim() {
        "" => Err(FieldError::EmptyToken { file: file.to_owned() }),
        token => Ok(SecretString::from(token)),
    }
}

fn header(kind: &str, secret: &SecretString) -> Result<HeaderValue, FieldError> {
    let text = match kind {
        "password" => {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(secret.expose_secret()))
        }
        _ => format!("Bearer {}", secret.expose_secret().trim()),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| FieldError::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The certificate chain with its key, checked to belong together.
fn certified_key(certificate_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, FieldError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate_pem).collect();
    let chain = chain.map_err(|e| FieldError::Pem(e.to_string()))?;
    if chain.is_empty() {
        return Err(FieldError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| FieldError::NoKey)?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).map_err(FieldError::Identity)
}

/// Gives rustls the certificate in force at each handshake.
#[derive(Default)]
struct IdentityResolver {
    identity: RwLock<Option<Arc<CertifiedKey>>>,
}

impl IdentityResolver {
    fn set(&self, identity: Option<Arc<CertifiedKey>>) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }
}

impl std::fmt::Debug for IdentityResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityResolver")
    }
}

impl ResolvesClientCert for IdentityResolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_certs(&self) -> bool {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// A plugin's answer.
struct ExecAnswer {
    token: Option<SecretString>,
    identity: Option<Arc<CertifiedKey>>,
    expires_at: Option<Timestamp>,
}

/// `ExecCredential` as far as it is read. No Debug: it carries secrets.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    status: Option<ExecStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    expiration_timestamp: Option<Timestamp>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl ExecPlugin {
    async fn run(self) -> Result<ExecAnswer, FieldError> {
        let failed = |what: String| FieldError::Exec { command: self.command.clone(), what };
        let mut spec = serde_json::json!({"interactive": false});
        if let Some(cluster) = &self.cluster_info {
            spec["cluster"] = cluster.clone();
        }
        let info = serde_json::json!({"kind": "ExecCredential", "apiVersion": self.api_version, "spec": spec});
        let mut command = tokio::process::Command::new(&self.command);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match tokio::time::timeout(EXEC_TIMEOUT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound && !self.install_hint.is_empty() => {
                return Err(failed(format!("{error}; {}", self.install_hint)));
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {} s", EXEC_TIMEOUT.as_secs()))),
        };
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let last: String = words.trim().lines().last().unwrap_or_default().chars().take(300).collect();
            return Err(failed(format!("{}: {last}", output.status)));
        }
        self.answer(&output.stdout).map_err(|e| match e {
            FieldError::Unsupported(what) => failed(what.into()),
            other => other,
        })
    }

    fn answer(&self, stdout: &[u8]) -> Result<ExecAnswer, FieldError> {
        let failed = |what: String| FieldError::Exec { command: self.command.clone(), what };
        // Plugins may answer in YAML, of which JSON is a part. The parser's words may quote the answer: not shown.
        let parsed: ExecCredential = serde_json::from_slice(stdout)
            .ok()
            .or_else(|| serde_saphyr::from_slice(stdout).ok())
            .ok_or_else(|| failed("its answer is not an ExecCredential".into()))?;
        if parsed.kind != "ExecCredential" || parsed.api_version != self.api_version {
            let what = format!(
                "its answer is {}/{}, wanted ExecCredential of {}",
                parsed.api_version, parsed.kind, self.api_version
            );
            return Err(failed(what));
        }
        let status = parsed.status.ok_or_else(|| failed("its answer has no status".into()))?;
        let identity = match (&status.client_certificate_data, &status.client_key_data) {
            (Some(certificate), Some(key)) => Some(Arc::new(certified_key(certificate.as_bytes(), key.as_bytes())?)),
            (None, None) => None,
            _ => {
                return Err(failed("its answer has a certificate without a key or a key without a certificate".into()));
            }
        };
        let token = status.token.filter(|t| !t.is_empty()).map(SecretString::from);
        if token.is_none() && identity.is_none() {
            return Err(failed("its answer has neither a token nor a certificate".into()));
        }
        Ok(ExecAnswer { token, identity, expires_at: status.expiration_timestamp })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn script(dir: &Path, body: &str) -> ExecPlugin {
        ExecPlugin {
            command: "/bin/sh".into(),
            arguments: vec!["-c".into(), body.into()],
            environment: vec![("RUNS".into(), dir.join("runs").to_str().unwrap().into())],
            api_version: "client.authentication.k8s.io/v1".into(),
            cluster_info: None,
            install_hint: String::new(),
        }
    }

    fn shown(header: &Option<HeaderValue>) -> &str {
        header.as_ref().map(|h| h.to_str().unwrap()).unwrap_or_default()
    }

    #[tokio::test]
    async fn token_file_is_read_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let credentials =
            Credentials::load(CredentialSource::TokenFile { identity: None, file: file.clone() }).await.unwrap();
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer one");

        std::fs::write(&file, "second\n").unwrap();
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer one", "not before it is due");
        credentials.update(|s| s.check_at = Some(Instant::now()));
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer second");

        std::fs::remove_file(&file).unwrap();
        credentials.update(|s| s.check_at = Some(Instant::now()));
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer second", "the last one is kept");
    }

    #[tokio::test]
    async fn exec_token_is_kept_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let far = clock::now() + SignedDuration::from_hours(1);
        let body = format!(
            r#"echo x >> "$RUNS"; echo '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{{"token":"t'$(wc -l < "$RUNS" | tr -d ' ')'","expirationTimestamp":"{far}"}}}}'"#
        );
        let credentials = Credentials::load(CredentialSource::Exec(script(dir.path(), &body))).await.unwrap();
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer t1");
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer t1");

        // A refusal right after loading changes nothing; a later one makes the plugin run again.
        credentials.rejected(0);
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer t1");
        credentials.update(|s| s.loaded_at -= REJECTED_PAUSE);
        credentials.rejected(0);
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer t2");

        credentials.update(|s| s.check_at = Some(Instant::now()));
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer t3");
    }

    #[tokio::test]
    async fn a_plugin_goes_on_when_the_request_that_it_runs_for_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let go = dir.path().join("go");
        let body = format!(
            r#"echo x >> "$RUNS"; while [ ! -e {} ]; do sleep 0.02; done
            echo '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{{"token":"t"}}}}'"#,
            go.display()
        );
        let credentials = Credentials::empty(CredentialSource::Exec(script(dir.path(), &body)), true);
        credentials.update(|s| s.check_at = Some(Instant::now()));
        let began = async {
            while !dir.path().join("runs").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let given_up = tokio::select! {
            _ = credentials.current() => false,
            () = began => true,
        };
        assert!(given_up);
        std::fs::write(go, "").unwrap();
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer t");
        assert_eq!(std::fs::read_to_string(dir.path().join("runs")).unwrap(), "x\n");
    }

    #[rstest]
    #[case::fails("echo no such role >&2; exit 3", "exec plugin /bin/sh: exit status: 3: no such role")]
    #[case::garbage("echo hello", "exec plugin /bin/sh: its answer is not an ExecCredential")]
    #[case::version(r#"echo '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1beta1","status":{"token":"t"}}'"#,
        "exec plugin /bin/sh: its answer is client.authentication.k8s.io/v1beta1/ExecCredential, wanted ExecCredential of client.authentication.k8s.io/v1")]
    #[case::empty(
        r#"echo '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{}}'"#,
        "exec plugin /bin/sh: its answer has neither a token nor a certificate"
    )]
    #[tokio::test]
    async fn exec_faults(#[case] body: &str, #[case] expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let error = Credentials::load(CredentialSource::Exec(script(dir.path(), body))).await.err().unwrap();
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn exec_without_the_command_shows_the_hint() {
        let dir = tempfile::tempdir().unwrap();
        let plugin =
            ExecPlugin { command: "/no/such".into(), install_hint: "install it".into(), ..script(dir.path(), "") };
        let error = Credentials::load(CredentialSource::Exec(plugin)).await.err().unwrap();
        assert_eq!(error.to_string(), "exec plugin /no/such: No such file or directory (os error 2); install it");
    }

    #[tokio::test]
    async fn yaml_answers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let body =
            "printf 'kind: ExecCredential\\napiVersion: client.authentication.k8s.io/v1\\nstatus:\\n  token: abc\\n'";
        let credentials = Credentials::load(CredentialSource::Exec(script(dir.path(), body))).await.unwrap();
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Bearer abc");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_certificate_that_is_handed_over() {
        let credentials = Credentials::handed();
        let early = tokio::time::timeout(Duration::from_secs(3600), credentials.current()).await;
        assert!(early.is_err());
        let made = rcgen::generate_simple_self_signed(["n".to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        let identity = || Arc::new(certified_key(made.cert.pem().as_bytes(), key.as_bytes()).unwrap());
        let waiting = credentials.current();
        credentials.hand_over(identity());
        assert_eq!(waiting.await.unwrap().generation, 1);
        credentials.hand_over(identity());
        assert_eq!(credentials.current().await.unwrap().generation, 2);
        assert!(credentials.resolver.has_certs());
    }

    #[tokio::test]
    async fn password_is_basic() {
        let source =
            CredentialSource::Static { identity: None, authorization: Some(("password", "u:p".to_owned().into())) };
        let credentials = Credentials::load(source).await.unwrap();
        assert_eq!(shown(&credentials.current().await.unwrap().authorization), "Basic dTpw");
    }
}
