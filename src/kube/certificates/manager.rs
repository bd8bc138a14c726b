//! Keeps one certificate: asks for it when there is none, and for the next before it expires.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::kube::Client;
use rand::RngExt;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::certificate::{CertificateFacts, NodeCertificate};
use super::error::CertificatesError;
use super::plan::{self, End, Step, Template};
use super::request::{PrivateKey, Role, signing_request};
use super::signing::{is_server_healthy, issued, submit};
use super::store::{CertificateStore, failed};
use crate::kube::credentials::Credentials;
use crate::kube::error::chain;
use crate::metrics::kubelet as metrics;
use crate::model::{Timestamp, clock};
use crate::sys::replace::{remove_if_there, replace_file};

/// A long sleep is cut into pieces, since the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The certificate in force, for those that use or show it.
#[derive(Clone)]
pub struct CertificateHandle {
    current: watch::Receiver<Option<Arc<NodeCertificate>>>,
    failures: Arc<AtomicU64>,
}

impl CertificateHandle {
    /// Certificate chain and key; none while there is no certificate.
    pub fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.current.borrow().as_ref().map(|certificate| certificate.key.clone())
    }

    /// When it expires; none while there is none.
    pub fn expires(&self) -> Option<Timestamp> {
        self.current.borrow().as_ref().map(|certificate| certificate.facts.not_after)
    }

    /// How often no certificate could be got when one was due.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for CertificateHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateHandle(expires {:?})", self.expires())
    }
}

/// What a serving certificate is kept by.
pub struct ServingSettings<'a> {
    /// `--cert-dir`.
    pub directory: &'a Path,
    /// `tlsCertFile` and `tlsPrivateKeyFile`: served until the cluster has signed another.
    pub given: Option<(PathBuf, PathBuf)>,
    /// What the certificate has to say, as it changes; none while no address is known.
    pub template: watch::Receiver<Option<Template>>,
}

/// Keeps one certificate. Its long task is [`Self::run`].
pub struct CertificateManager {
    pub(super) role: Role,
    pub(super) store: CertificateStore,
    pub(super) template: watch::Receiver<Option<Template>>,
    /// To ask with while there is no certificate.
    pub(super) initial: Client,
    /// To ask with, with the certificate in force.
    pub(super) client: Client,
    /// Where the identity of the API clients is; none for a certificate that they do not use.
    pub(super) credentials: Option<Arc<Credentials>>,
    /// Where the key of the first request waits for its answer, over restarts; none if the request does not go on after them.
    pub(super) pending_key: Option<PathBuf>,
    /// Whether the certificate is renewed; else the first one is all, and a refusal ends the task.
    pub(super) rotates: bool,
    current: watch::Sender<Option<Arc<NodeCertificate>>>,
    failures: Arc<AtomicU64>,
    /// When the certificate in force has to be renewed.
    due: Timestamp,
    /// When there was a certificate last, or when the manager was made.
    last_available: Timestamp,
    healthy: bool,
}

impl CertificateManager {
    /// A manager of what the store holds. `due_at_once`: the certificate is only there to get another one with.
    pub(super) fn new(
        role: Role,
        store: CertificateStore,
        template: watch::Receiver<Option<Template>>,
        (initial, client): (Client, Client),
        current: Option<NodeCertificate>,
        due_at_once: bool,
    ) -> Self {
        let now = clock::now();
        let mut manager = CertificateManager {
            role,
            store,
            template,
            initial,
            client,
            credentials: None,
            pending_key: None,
            rotates: true,
            current: watch::Sender::new(None),
            failures: Arc::default(),
            due: now,
            last_available: now,
            healthy: false,
        };
        if let Some(certificate) = current {
            manager.take(certificate);
        }
        if due_at_once {
            manager.due = now;
        }
        manager
    }

    /// A manager of the HTTPS server's certificate (`serverTLSBootstrap`), which asks with `client`.
    pub fn serving(client: &Client, settings: ServingSettings<'_>) -> Self {
        let store = CertificateStore::new(settings.directory, Role::Serving.prefix(), settings.given);
        let current = usable(&store, clock::now());
        let clients = (client.clone(), client.clone());
        CertificateManager::new(Role::Serving, store, settings.template, clients, current, false)
    }

    /// Whether another certificate is asked for as soon as the manager runs.
    #[cfg(test)]
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        now >= self.due
    }

    /// The certificate in force.
    pub fn handle(&self) -> CertificateHandle {
        CertificateHandle { current: self.current.subscribe(), failures: self.failures.clone() }
    }

    /// Runs until cancelled.
    ///
    /// # Errors
    /// When a client certificate cannot be had and only another start could help.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), CertificatesError> {
        // Cancel-safe: files change in whole steps, and a request that is waited for is found again or expires.
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            ended = self.keep() => ended,
        }
    }

    async fn keep(&mut self) -> Result<(), CertificatesError> {
        // Certificates in a row that had to be replaced as soon as they were there: their signer leaves out what is asked for, or
        // this node's clock is far ahead.
        let mut useless = 0;
        loop {
            let template = self.template.borrow_and_update().clone();
            let facts = self.facts();
            match plan::next(facts.as_ref(), template.as_ref(), self.due, clock::now()) {
                Step::Idle => self.template_changed().await,
                Step::Keep { .. } if !self.rotates => std::future::pending().await,
                Step::Keep { until } => {
                    useless = 0;
                    let left = Duration::try_from(until.duration_since(clock::now())).unwrap_or_default();
                    // Cancel-safe: a wait, and news that stay there until they are looked at.
                    tokio::select! {
                        () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                        () = self.template_changed() => {}
                    }
                }
                Step::Ask => {
                    // Idle is the answer to no template.
                    let Some(template) = template else { continue };
                    if useless > 0 {
                        let signer = self.role.signer();
                        warn!(
                            signer,
                            in_a_row = useless,
                            "the new certificate has to be replaced at once; asking again later"
                        );
                        // Cancel-safe: a wait, and news that stay there until they are looked at.
                        tokio::select! {
                            () = tokio::time::sleep(plan::pause(useless, rand::rng().random())) => {}
                            () = self.template_changed() => {
                                useless = 0;
                                continue;
                            }
                        }
                    }
                    if self.obtain(&template).await? {
                        useless += 1;
                    }
                }
            }
        }
    }

    fn facts(&self) -> Option<CertificateFacts> {
        self.current.borrow().as_ref().map(|certificate| certificate.facts.clone())
    }

    /// Waits until something else is to be asked for.
    async fn template_changed(&mut self) {
        if self.template.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tries until there is a certificate, or something else has to be asked for. Returns whether there is one.
    async fn obtain(&mut self, template: &Template) -> Result<bool, CertificatesError> {
        let mut failures = 0;
        loop {
            let mut changes = self.template.clone();
            let changed = async {
                while changes.borrow_and_update().as_ref() == Some(template) {
                    if changes.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            // Cancel-safe: what was asked for and is not wanted any more is left to expire.
            let outcome = tokio::select! {
                outcome = self.attempt(template) => outcome,
                () = changed => return Ok(false),
            };
            let failure = match outcome {
                Ok(certificate) => {
                    self.healthy = true;
                    self.take(certificate);
                    return Ok(true);
                }
                Err(failure) => failure,
            };
            failures += 1;
            self.failed(&failure);
            let is_passing = failure.api().is_some_and(crate::kube::error::is_transient);
            if !self.rotates && !is_passing {
                return Err(failure);
            }
            self.go_on()?;
            let pause = plan::pause(failures, rand::rng().random());
            // Cancel-safe: a wait, and news that stay there until they are looked at.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.template_changed() => return Ok(false),
            }
        }
    }

    fn failed(&mut self, failure: &CertificatesError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        match self.role {
            Role::Client => metrics::CLIENT_RENEW_ERRORS.increment(&[]),
            Role::Serving => metrics::SERVER_RENEW_ERRORS.increment(&[]),
        }
        if let Some(source) = failure.api() {
            self.healthy = is_server_healthy(source);
        }
        let signer = self.role.signer();
        match self.facts() {
            Some(facts) => {
                warn!(signer, expires = %facts.not_after, error = %chain(failure), "no new certificate yet; trying on");
            }
            None => warn!(signer, error = %chain(failure), "no certificate yet; trying on"),
        }
    }

    /// Whether to go on without a certificate that the server takes.
    fn go_on(&mut self) -> Result<(), CertificatesError> {
        if self.role != Role::Client {
            return Ok(());
        }
        let (facts, now) = (self.facts(), clock::now());
        if facts.as_ref().is_some_and(|facts| now <= facts.not_after) {
            self.last_available = now;
        }
        match (plan::end(facts.as_ref(), self.last_available, self.healthy, now), facts) {
            (None, _) => Ok(()),
            (Some(End::Expired), Some(facts)) => {
                error!("the currently active client certificate has expired and the server is responsive, exiting");
                Err(CertificatesError::Expired { at: facts.not_after })
            }
            (Some(_), _) => {
                error!("no valid client certificate is found and the server is responsive, exiting");
                Err(CertificatesError::NoneForLong { since: self.last_available })
            }
        }
    }

    /// Asks once and waits for the answer.
    async fn attempt(&self, template: &Template) -> Result<NodeCertificate, CertificatesError> {
        let facts = self.facts();
        let (client, pending) = match &facts {
            Some(_) => (&self.client, None),
            None => (&self.initial, self.pending_key.clone()),
        };
        let key = match &pending {
            Some(path) => pending_key(path.clone()).await?,
            None => PrivateKey::generate()?,
        };
        let limit = plan::wait_limit(pending.is_some(), facts.as_ref(), clock::now());
        let request = signing_request(self.role, template, &key, pending.is_some())?;
        let outcome = async {
            let submitted = submit(client, &request).await?;
            let chain = issued(client, &submitted, limit).await?;
            let store = self.store.clone();
            tokio::task::spawn_blocking(move || store.update(&chain, key.text(), clock::now())).await?
        };
        let outcome = outcome.await;
        let is_over = outcome.as_ref().map_or_else(CertificatesError::is_the_requests_end, |_| true);
        if let Some(path) = pending.filter(|_| is_over) {
            // The next request, if there has to be one, is another.
            let removed = path.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || remove_if_there(&removed)).await? {
                warn!(path = %path.display(), %error, "the key of the first certificate's request cannot be removed");
            }
        }
        outcome
    }

    /// Puts a certificate in force.
    fn take(&mut self, certificate: NodeCertificate) {
        let facts = &certificate.facts;
        self.due = plan::rotation_deadline(facts.not_before, facts.not_after, rand::rng().random());
        info!(
            file = %self.store.current_path().display(), expires = %facts.not_after, renewal = %self.due,
            "a certificate is in force"
        );
        self.last_available = clock::now();
        if let (Role::Serving, Some(before)) = (self.role, self.facts()) {
            let age = self.last_available.duration_since(before.not_before);
            metrics::SERVER_ROTATION_AGE.observe(&[], age.as_secs_f64());
        }
        if let Some(credentials) = &self.credentials {
            credentials.hand_over(certificate.key.clone());
        }
        self.current.send_replace(Some(Arc::new(certificate)));
    }

    /// Lets the API clients have the certificate in force, now and later.
    pub(super) fn hand_to(&mut self, credentials: Arc<Credentials>) {
        if let Some(key) = self.handle().key() {
            credentials.hand_over(key);
        }
        self.credentials = Some(credentials);
    }
}

/// What a store holds, if it can be used: what cannot is told and asked for anew.
pub(super) fn usable(store: &CertificateStore, now: Timestamp) -> Option<NodeCertificate> {
    match store.current() {
        Ok(Some(certificate)) if now < certificate.facts.not_after => Some(certificate),
        Ok(Some(certificate)) => {
            let file = store.current_path();
            warn!(file = %file.display(), expired = %certificate.facts.not_after, "the stored certificate has expired");
            None
        }
        Ok(None) => None,
        Err(error) => {
            warn!(error = %chain(&error), "the stored certificate cannot be used");
            None
        }
    }
}

/// The key that waits for its first certificate, made if there is none.
async fn pending_key(path: PathBuf) -> Result<PrivateKey, CertificatesError> {
    let work = move || {
        if let Some(key) = std::fs::read_to_string(&path).ok().and_then(|text| PrivateKey::parse(&text)) {
            return Ok(key);
        }
        let key = PrivateKey::generate()?;
        replace_file(&path, key.text().as_bytes(), 0o600).map_err(|source| failed("writing", &path, source))?;
        Ok(key)
    };
    tokio::task::spawn_blocking(work).await?
}
