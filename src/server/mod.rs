//! What the agent serves: the kubelet's HTTPS API, the read-only port and the health check.
//!
//! Must not decide anything about pods or the node: answers are read through handles ([`Endpoints`]).
//!
//! Every path of every port is one row of the table in [`routes`]: the row says which ports have it, which methods it takes
//! and what its caller must be allowed to do. What is in no row is answered with 404, on the HTTPS port only to callers that
//! may do anything there (`nodes/proxy`): nothing is open that the table does not open.
//!
//! | task | input | output | stops |
//! |---|---|---|---|
//! | [`Server::run`] | connections | answers | at its token; requests under way have [`Limits::drain`](listener::Limits) |
//!
//! Connections are tasks of [`Server::run`] and end with it. Certificates and authorities that changed on disk are noticed when
//! a connection comes, so that an idle server does nothing.

#[cfg(test)]
mod abuse_tests;
mod authentication;
mod authorization;
mod client_ca;
mod compression;
mod connection;
mod figures;
mod guard;
mod health;
mod https;
mod introspection;
mod listener;
mod logs;
#[cfg(test)]
mod peer_routes;
mod pods;
mod query;
mod relay;
mod review;
mod routes;
mod seats;
mod serving_certificate;
mod stall;
mod streaming;
mod system_logs;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod upgrade;
mod user;
mod websocket_token;
mod zpages;

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;

pub use authentication::AuthenticationSetupError;
pub use authorization::AuthorizationSetupError;
pub use client_ca::{AuthoritiesError, CertificateError};
pub use health::HealthCheck;
pub use https::{ContainerInputs, ServerInputs, configz};
pub use introspection::{Introspection, WriteFamilies};
pub use listener::Server;
pub use pods::{PodLister, running_pod};
pub use serving_certificate::ServingCertificateError;
pub use tls::TlsSettingsError;

/// What the endpoints read.
#[derive(Clone)]
pub struct Endpoints {
    /// Whether the agent does its work.
    pub health: HealthCheck,
    /// The node's pods; none if nothing can list them.
    pub pods: Option<std::sync::Arc<dyn PodLister>>,
    /// What the node uses; none if nothing reads it.
    pub stats: Option<crate::stats::StatsCollector>,
    /// The pods' containers; none if nothing can reach them.
    containers: Option<streaming::Containers>,
    /// The node's own logs.
    system_logs: system_logs::SystemLogs,
    /// The body of `/configz`.
    pub configz: Bytes,
    /// `enableDebuggingHandlers`.
    pub debugging: bool,
    /// `enableProfilingHandler`.
    pub profiling: bool,
    /// `enableDebugFlagsHandler`.
    pub debug_flags: bool,
    /// What the agent shows of itself.
    pub introspection: Introspection,
    /// When the server was made.
    pub started_at: crate::model::Timestamp,
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is none.
    #[error("address {address:?} with port {port}: not an IP address and a port")]
    Address {
        /// The field `address`.
        address: String,
        /// The field `port`.
        port: i32,
    },
    /// The address is taken or not one of this machine.
    #[error("listening on {address}")]
    Listen {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The serving certificate cannot be used.
    #[error(transparent)]
    ServingCertificate(#[from] ServingCertificateError),
    /// The authorities of client certificates cannot be used.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    /// The TLS settings cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsSettingsError),
    /// Callers cannot be identified.
    #[error(transparent)]
    Authentication(#[from] AuthenticationSetupError),
    /// Callers cannot be allowed or refused.
    #[error(transparent)]
    Authorization(#[from] AuthorizationSetupError),
    /// The configuration cannot be shown.
    #[error("writing the configuration for /configz")]
    Configz(#[from] serde_json::Error),
    /// Only one of a pair of files is set.
    #[error("tlsCertFile {certificate:?} and tlsPrivateKeyFile {key:?}: set both or none")]
    HalfAPair {
        /// `tlsCertFile`.
        certificate: PathBuf,
        /// `tlsPrivateKeyFile`.
        key: PathBuf,
    },
}
