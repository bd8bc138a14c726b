//! The certificates that the node gets from the cluster: its client certificate (TLS bootstrap, rotation) and, with
//! `serverTLSBootstrap`, the one that its HTTPS server shows.
//!
//! Decided purely: [`plan`] (when to renew, how long to wait, when to give up), [`request`] (what is asked for and under which
//! name) and [`signing::judge`] (what an answer means). Acting on it are [`store`] (files), [`signing`] (the API) and the one
//! long task, [`CertificateManager::run`], once for each certificate:
//!
//! | input | output | stops |
//! |---|---|---|
//! | the certificate's dates, what it should say, answers of the API | CertificateSigningRequests; `<prefix>-current.pem`; [`CertificateHandle`]; the API clients' identity | at its token; with an error when the node cannot speak to the API any more and another start may help |
//!
//! Must not know who serves with a certificate, nor what the node's addresses mean.

mod access;
mod certificate;
mod error;
mod manager;
pub mod plan;
mod request;
mod signing;
mod store;
#[cfg(test)]
mod tests;

pub use access::{AccessSettings, ApiAccess, open};
pub use certificate::CertificateFacts;
pub use error::CertificatesError;
pub use manager::{CertificateHandle, CertificateManager, ServingSettings};
pub use plan::Template;
