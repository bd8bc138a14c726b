//! The authorities whose client certificates are taken (`authentication.x509.clientCAFile`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DistinguishedName, RootCertStore};
use tracing::{info, warn};

use crate::kube::error::chain;
use crate::model::Timestamp;
use crate::sys::file_stamp::FileStamp;

/// Why the file of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It cannot be read.
    #[error("authentication.x509.clientCAFile {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not PEM, or not of certificates.
    #[error("authentication.x509.clientCAFile {path}: {message}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Why a client certificate is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// None of the authorities stands for it, or not now, or not for clients.
    #[error("the client's certificate is not valid: {source}")]
    NotValid {
        /// The verifier's answer.
        #[from]
        source: rustls::Error,
    },
    /// It cannot be read.
    #[error("the client's certificate cannot be read: {message}")]
    Malformed {
        /// What is wrong.
        message: String,
    },
}

/// The authorities, kept as the file is.
#[derive(Debug)]
pub(super) struct ClientAuthorities {
    path: PathBuf,
    current: RwLock<Loaded>,
}

#[derive(Clone, Debug)]
struct Loaded {
    verifier: Arc<dyn ClientCertVerifier>,
    stamp: FileStamp,
}

impl ClientAuthorities {
    /// Reads the file.
    pub(super) async fn load(path: &Path) -> Result<Self, AuthoritiesError> {
        let current = RwLock::new(read(path).await?);
        Ok(ClientAuthorities { path: path.to_owned(), current })
    }

    /// Reads the file again if it changed; says whether the authorities are others now. A file that is gone or broken leaves
    /// the authorities as they are: a half-written file must not lock everyone out.
    pub(super) async fn refresh(&self) -> bool {
        let path = self.path.display();
        match FileStamp::look(&self.path).await {
            Ok(stamp) if stamp == self.loaded().stamp => return false,
            Ok(_) => {}
            Err(error) => {
                warn!(%path, %error, "the authorities of client certificates cannot be read; those read before hold");
                return false;
            }
        }
        match read(&self.path).await {
            Ok(loaded) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                info!(%path, "the authorities of client certificates changed");
                true
            }
            Err(error) => {
                let error = chain(&error);
                warn!(error, "the authorities of client certificates cannot be read; those read before hold");
                false
            }
        }
    }

    fn loaded(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The authorities' names, by which a client chooses its certificate.
    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        self.loaded().verifier.root_hint_subjects().to_vec()
    }

    /// Whether the first certificate is a client's that the authorities stand for, the others being intermediates.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), CertificateError> {
        let Some((client, intermediates)) = chain.split_first() else {
            return Err(CertificateError::Malformed { message: "there is none".to_owned() });
        };
        let since_epoch = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0));
        self.loaded().verifier.verify_client_cert(client, intermediates, UnixTime::since_unix_epoch(since_epoch))?;
        Ok(())
    }
}

async fn read(path: &Path) -> Result<Loaded, AuthoritiesError> {
    let unreadable = |source| AuthoritiesError::Read { path: path.to_owned(), source };
    let content = |message: String| AuthoritiesError::Content { path: path.to_owned(), message };
    let stamp = FileStamp::look(path).await.map_err(unreadable)?;
    let text = tokio::fs::read(path).await.map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| content(error.to_string()))?;
        // One that this library cannot read must not keep the others' clients out.
        if let Err(error) = roots.add(certificate) {
            warn!(path = %path.display(), %error, "an authority in the file cannot be used");
        }
    }
    if roots.is_empty() {
        return Err(content("holds no certificate in PEM".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(Loaded { verifier: verifier.map_err(|error| content(error.to_string()))?, stamp })
}
