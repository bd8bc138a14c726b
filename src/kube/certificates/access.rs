//! With what the agent speaks to the API server: the kubeconfig's own credentials, or a client certificate that it gets and
//! renews itself.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tracing::{info, warn};

use super::certificate::CertificateFacts;
use super::error::CertificatesError;
use super::manager::{CertificateManager, usable};
use super::plan::{Standing, Template};
use super::request::Role;
use super::store::{CertificateStore, failed};
use crate::kube::client::{ApiServer, ClientError, ClientOptions};
use crate::kube::credentials::{CredentialSource, Credentials, PemSource};
use crate::kube::error::chain;
use crate::kube::kubeconfig::{self, Access};
use crate::model::{Timestamp, clock};
use crate::sys::replace::replace_file;

/// The peer's name of the key that waits for the first certificate.
const PENDING_KEY: &str = "kubelet-client.key.tmp";

/// Where credentials are and what to do with them.
#[derive(Clone, Debug)]
pub struct AccessSettings<'a> {
    /// `--kubeconfig`.
    pub kubeconfig: &'a Path,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<&'a Path>,
    /// `--cert-dir`.
    pub certificate_folder: &'a Path,
    /// The node's name.
    pub node_name: &'a str,
    /// `rotateCertificates`.
    pub rotates: bool,
}

/// The API server, and what keeps the client certificate.
pub struct ApiAccess {
    /// The API server; without a client certificate its clients wait until there is one.
    pub server: ApiServer,
    /// Keeps the client certificate; none if the kubeconfig's credentials are used as they are.
    pub certificates: Option<CertificateManager>,
}

/// Chooses the credentials. The server is not spoken to, except by a credential plugin.
///
/// # Errors
/// When neither kubeconfig can be used.
pub async fn open(settings: &AccessSettings<'_>) -> Result<ApiAccess, CertificatesError> {
    let now = clock::now();
    let bootstrap = match settings.bootstrap_kubeconfig {
        Some(path) if standing(settings.kubeconfig)?.needs_bootstrap(now) => Some(path),
        Some(_) => {
            info!(kubeconfig = %settings.kubeconfig.display(), "the kubeconfig is still valid, no bootstrap is necessary");
            None
        }
        None => None,
    };
    if bootstrap.is_none() && !settings.rotates {
        return Ok(ApiAccess { server: ApiServer::load(settings.kubeconfig).await?, certificates: None });
    }
    let (from, access) = match bootstrap {
        Some(path) => (path, kubeconfig::load(path).map_err(CertificatesError::Bootstrap)?),
        None => (settings.kubeconfig, kubeconfig::load(settings.kubeconfig)?),
    };
    let (store, current, due_at_once) = stored(settings, bootstrap.is_none().then_some(&access.source), now)?;
    if bootstrap.is_some() {
        let text = kubeconfig::for_certificate(&access.cluster, &store.current_path());
        let path = settings.kubeconfig;
        replace_file(path, text.as_bytes(), 0o600).map_err(|source| failed("writing", path, source))?;
        info!(bootstrap = %from.display(), kubeconfig = %path.display(), "the bootstrap credentials are used to ask for a certificate");
    }
    // With a certificate at hand the credentials that came before it are not needed, and may be gone.
    let initial = match &current {
        Some(_) => None,
        None => Some(ApiServer::with(from, access.clone()).await?),
    };
    let credentials = Arc::new(Credentials::handed());
    let server = ApiServer::with_credentials(settings.kubeconfig, access.without_user(), credentials.clone());
    let client = server.client(&ClientOptions::default())?;
    let initial = match initial {
        Some(initial) => initial.client(&ClientOptions::default())?,
        None => client.clone(),
    };
    // What is asked for never changes: without a sender the receiver keeps its value.
    let (_, template) = watch::channel(Some(Template::client(settings.node_name)));
    let mut certificates =
        CertificateManager::new(Role::Client, store, template, (initial, client), current, due_at_once);
    certificates.rotates = settings.rotates;
    certificates.pending_key = bootstrap.map(|_| settings.certificate_folder.join(PENDING_KEY));
    certificates.hand_to(credentials);
    Ok(ApiAccess { server, certificates: Some(certificates) })
}

type Stored = (CertificateStore, Option<super::certificate::NodeCertificate>, bool);

/// The store and what it holds. A certificate that the kubeconfig itself holds, as on a node made by `kubeadm init`, is put into
/// the store and renewed at once.
fn stored(
    settings: &AccessSettings<'_>,
    source: Option<&CredentialSource>,
    now: Timestamp,
) -> Result<Stored, CertificatesError> {
    let identity = match source {
        Some(CredentialSource::Static { identity, .. } | CredentialSource::TokenFile { identity, .. }) => {
            identity.as_ref()
        }
        _ => None,
    };
    let given = match identity {
        Some((PemSource::File(certificate), PemSource::File(key))) => Some((certificate.clone(), key.clone())),
        _ => None,
    };
    let store = CertificateStore::new(settings.certificate_folder, Role::Client.prefix(), given);
    let current = usable(&store, now);
    match (current, identity) {
        (None, Some((PemSource::Data(certificate), PemSource::Data(key)))) => {
            let key = String::from_utf8_lossy(key);
            let embedded = store.update(certificate, &key, now)?;
            info!(file = %store.current_path().display(), "the kubeconfig's certificate is stored, and renewed at once");
            Ok((store, Some(embedded), true))
        }
        (current, _) => Ok((store, current, false)),
    }
}

/// What the kubeconfig's certificate is worth. A kubeconfig without one is of no use beside a bootstrap kubeconfig, as in the
/// peer.
fn standing(path: &Path) -> Result<Standing, CertificatesError> {
    match std::fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Standing::Missing),
        Err(source) => return Err(failed("reading", path, source)),
    }
    let standing = inspect(path).unwrap_or_else(|reason| Standing::Unusable { reason });
    match &standing {
        Standing::Unusable { reason } => warn!(reason, "the kubeconfig cannot be used"),
        Standing::Certified { until } => {
            tracing::debug!(%until, "the kubeconfig's client certificate");
        }
        Standing::Missing => {}
    }
    Ok(standing)
}

fn inspect(path: &Path) -> Result<Standing, String> {
    let access = kubeconfig::load(path).map_err(|error: ClientError| chain(&error))?;
    let (CredentialSource::Static { identity: Some((certificate, key)), .. }
    | CredentialSource::TokenFile { identity: Some((certificate, key)), .. }) = &access.source
    else {
        return Err(format!("kubeconfig {}: there is no client certificate", path.display()));
    };
    let text = certificate.read().map_err(|error| chain(&error))?;
    let key = key.read().map_err(|error| chain(&error))?;
    let chain_of_it: Vec<CertificateDer<'static>> = super::certificate::chain_from_pem(&text)?;
    let mut until: Option<Timestamp> = None;
    for certificate in &chain_of_it {
        let end = CertificateFacts::from_der(certificate)?.not_after;
        until = Some(until.map_or(end, |until| until.min(end)));
    }
    let until = until.ok_or("no client certificate in PEM form")?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| "no private key in PEM form")?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain_of_it, key, &provider).map_err(|error| error.to_string())?;
    Ok(Standing::Certified { until })
}

impl Access {
    /// The same server without the kubeconfig's user.
    fn without_user(mut self) -> Self {
        self.config.headers.clear();
        self
    }
}
