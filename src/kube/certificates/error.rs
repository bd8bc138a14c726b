//! What can go wrong on the way to a certificate. Names files and objects, never the content of a key.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::kube::client::ClientError;
use crate::kube::error;
use crate::model::Timestamp;

/// Why there is no certificate, or no way to get one.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] ClientError),
    /// The bootstrap kubeconfig cannot be used, and the other one neither.
    #[error("unable to load bootstrap kubeconfig: {0}")]
    Bootstrap(#[source] ClientError),
    /// A file or link cannot be read or written.
    #[error("{what} {path}: {source}", path = path.display())]
    File {
        /// What was tried, such as `writing`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is where a symbolic link has to be.
    #[error("expected {path} to be a symlink but it is a file", path = path.display())]
    NoLink {
        /// The path.
        path: PathBuf,
    },
    /// A certificate with its key cannot be used.
    #[error("{from}: {message}")]
    Pair {
        /// Where they are from: a file, or the signed certificate.
        from: String,
        /// What is wrong.
        message: String,
    },
    /// No request can be made.
    #[error("making a certificate signing request: {0}")]
    Make(#[from] rcgen::Error),
    /// The API refused, or is away.
    #[error("{what}: {}", error::message(.source))]
    Api {
        /// What was asked for.
        what: &'static str,
        /// The client's error.
        source: ::kube::Error,
    },
    /// The request of this name that is there already is not the one that would be made.
    #[error("retrieved csr {name} is not compatible: {message}")]
    Incompatible {
        /// Its name.
        name: String,
        /// The difference.
        message: String,
    },
    /// An approver said no.
    #[error("certificate signing request is denied, reason: {reason}, message: {message}")]
    Denied {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// The signer could not sign.
    #[error("certificate signing request failed, reason: {reason}, message: {message}")]
    Failed {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// The request is gone.
    #[error("csr {name:?} was deleted")]
    Deleted {
        /// Its name.
        name: String,
    },
    /// Another request has its name.
    #[error("csr {name:?} changed UIDs")]
    Replaced {
        /// Its name.
        name: String,
    },
    /// Nobody approved or signed it.
    #[error("csr {name:?} was not signed within {} s", limit.as_secs())]
    Late {
        /// Its name.
        name: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// There is no client certificate and the server says no.
    #[error(
        "no valid client certificate since {since}, although the API server answers: another start may find new credentials"
    )]
    NoneForLong {
        /// When there was one.
        since: Timestamp,
    },
    /// The client certificate has expired and the server says no.
    #[error(
        "the client certificate expired at {at}, although the API server answers: another start may find new credentials"
    )]
    Expired {
        /// When it expired.
        at: Timestamp,
    },
    /// A part of the program ended abnormally.
    #[error("a file task ended abnormally: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl CertificatesError {
    /// The API server's answer to what was asked; none if the failure is another.
    pub(super) fn api(&self) -> Option<&::kube::Error> {
        match self {
            CertificatesError::Api { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether a request of the same name would meet the same end.
    pub(super) fn is_the_requests_end(&self) -> bool {
        matches!(
            self,
            CertificatesError::Denied { .. }
                | CertificatesError::Failed { .. }
                | CertificatesError::Incompatible { .. }
                | CertificatesError::Pair { .. }
        )
    }
}
