//! The HTTPS server put together from the configuration, and the read-only port beside it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tracing::warn;

use super::authentication::Authenticator;
use super::authorization::Authorizer;
use super::authorization::duration;
use super::client_ca::ClientAuthorities;
use super::guard::Guard;
use super::listener::{Limits, Server};
use super::routes::{Access, Port, router};
use super::serving_certificate::CertificateSource;
use super::streaming::{Containers, LogSettings};
use super::system_logs::SystemLogs;
use super::tls::{Protocol, TlsFiles};
use super::{Endpoints, HealthCheck, Introspection, PodLister, ServerError};
use crate::config::{FeatureGates, Gate, KubeletConfiguration, effective_value};
use crate::kube::certificates::CertificateHandle;
use crate::model::clock;
use crate::runtime::RuntimeClient;
use crate::stats::StatsCollector;
use crate::sys::file_events::FileEvents;

/// What the servers are made from.
pub struct ServerInputs<'a> {
    /// The configuration.
    pub configuration: &'a KubeletConfiguration,
    /// `--cert-dir`.
    pub certificate_folder: &'a Path,
    /// The certificate that the cluster signs (`serverTLSBootstrap`); none to serve with files.
    pub signed_certificate: Option<CertificateHandle>,
    /// The node's name.
    pub node_name: &'a str,
    /// To ask of tokens and rights with. It has a rate of its own: whoever calls must not slow the node's own requests.
    pub client: Option<&'a ::kube::Client>,
    /// Whether the agent does its work.
    pub health: HealthCheck,
    /// The node's pods; none if nothing can list them.
    pub pods: Option<Arc<dyn PodLister>>,
    /// What the node uses; none if nothing reads it.
    pub stats: Option<StatsCollector>,
    /// What the agent shows of itself.
    pub introspection: Introspection,
    /// How their containers are reached; none if nothing can. Of no use without `pods`.
    pub containers: Option<ContainerInputs<'a>>,
}

/// What the endpoints on containers need.
#[derive(Clone, Copy)]
pub struct ContainerInputs<'a> {
    /// The container runtime.
    pub runtime: &'a RuntimeClient,
    /// `--root-dir`.
    pub root_dir: &'a Path,
    /// The feature gates.
    pub gates: &'a FeatureGates,
}

impl ServerInputs<'_> {
    fn containers(&self) -> Option<Containers> {
        let (pods, inputs) = (self.pods.clone()?, self.containers?);
        let checkpoints = inputs.gates.enabled(Gate::ContainerCheckpoint);
        Some(Containers {
            runtime: inputs.runtime.clone(),
            pods,
            idle: idle_limit(duration(self.configuration.streaming_connection_idle_timeout)),
            logs: LogSettings {
                root: self.configuration.pod_logs_dir.clone(),
                split_streams: inputs.gates.enabled(Gate::PodLogsQuerySplitStreams),
                events: FileEvents::default(),
            },
            checkpoints: checkpoints.then(|| inputs.root_dir.join("checkpoints")),
        })
    }
}

impl Server {
    /// The HTTPS server on `address:port`.
    ///
    /// # Errors
    /// When the address cannot be bound, a file cannot be used, or the settings leave no way to know or allow a caller.
    pub async fn https(inputs: ServerInputs<'_>) -> Result<Self, ServerError> {
        Server::https_within(inputs, Limits::default()).await
    }

    pub(super) async fn https_within(inputs: ServerInputs<'_>, limits: Limits) -> Result<Self, ServerError> {
        let configuration = inputs.configuration;
        let address = address(&configuration.address, configuration.port)?;
        let containers = inputs.containers();
        let source = certificate_source(&inputs)?;
        let ca_file = Path::new(&configuration.authentication.x509.client_ca_file);
        let authorities =
            if ca_file.as_os_str().is_empty() { None } else { Some(Arc::new(ClientAuthorities::load(ca_file).await?)) };
        let guard = Guard {
            authenticator: Authenticator::new(&configuration.authentication, authorities.clone(), inputs.client)?,
            authorizer: Authorizer::new(&configuration.authorization, inputs.node_name, inputs.client)?,
        };
        let mut shown = configuration.clone();
        let protocol = Protocol::new(configuration)?;
        let files = match inputs.signed_certificate {
            Some(certificate) => TlsFiles::signed(protocol, certificate, authorities)?,
            None => {
                // As in the peer: the files are shown that are served.
                shown.tls_cert_file = source.certificate.display().to_string();
                shown.tls_private_key_file = source.key.display().to_string();
                TlsFiles::load(protocol, source, authorities, clock::now()).await?
            }
        };
        let configz = configz(&shown)?;
        let debugging = configuration.enable_debugging_handlers;
        let endpoints = Arc::new(Endpoints {
            health: inputs.health,
            pods: inputs.pods,
            stats: inputs.stats,
            containers,
            system_logs: SystemLogs {
                folder: PathBuf::from("/var/log"),
                enabled: configuration.enable_system_log_handler,
                query: configuration.enable_system_log_query,
            },
            configz,
            debugging,
            profiling: configuration.enable_profiling_handler,
            debug_flags: configuration.enable_debug_flags_handler,
            introspection: inputs.introspection,
            started_at: clock::now(),
        });
        let router = router(Port::Secure, &Access::Guarded(Arc::new(guard)), &endpoints);
        Server::bind(address, Some(files), router, limits).await
    }

    /// The server without TLS and without questions on `address:readOnlyPort`; none if the port is 0.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn read_only(inputs: ServerInputs<'_>) -> Result<Option<Self>, ServerError> {
        let configuration = inputs.configuration;
        if configuration.read_only_port == 0 {
            return Ok(None);
        }
        let address = address(&configuration.address, configuration.read_only_port)?;
        warn!(%address, "the read-only port is on: everyone who reaches it reads the specs of this node's pods");
        Server::read_only_at(address, inputs).await.map(Some)
    }

    pub(super) async fn read_only_at(address: SocketAddr, inputs: ServerInputs<'_>) -> Result<Self, ServerError> {
        // The peer's read-only port is made without a configuration, which counts as no debugging.
        let endpoints = Endpoints {
            health: inputs.health,
            pods: inputs.pods,
            stats: inputs.stats,
            containers: None,
            system_logs: SystemLogs::default(),
            configz: Bytes::new(),
            debugging: false,
            profiling: false,
            debug_flags: false,
            introspection: inputs.introspection,
            started_at: clock::now(),
        };
        let router = router(Port::ReadOnly, &Access::Open, &Arc::new(endpoints));
        Server::bind(address, None, router, Limits::default()).await
    }
}

/// How long a stream may be silent. 0 is no limit; only the flag can say so, in a file it stands for the default.
fn idle_limit(timeout: Duration) -> Duration {
    // Longer than any stream lasts, and such that the time of its end can be reckoned.
    const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
    if timeout.is_zero() { FOR_EVER } else { timeout }
}

fn address(host: &str, port: i32) -> Result<SocketAddr, ServerError> {
    match (host.parse::<IpAddr>(), u16::try_from(port)) {
        (Ok(ip), Ok(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(ServerError::Address { address: host.to_owned(), port }),
    }
}

fn certificate_source(inputs: &ServerInputs<'_>) -> Result<CertificateSource, ServerError> {
    let configuration = inputs.configuration;
    let certificate = PathBuf::from(&configuration.tls_cert_file);
    let key = PathBuf::from(&configuration.tls_private_key_file);
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (false, false) => Ok(CertificateSource { certificate, key, self_signed_for: None }),
        (true, true) => Ok(CertificateSource {
            certificate: inputs.certificate_folder.join("kubelet.crt"),
            key: inputs.certificate_folder.join("kubelet.key"),
            self_signed_for: Some(inputs.node_name.to_owned()),
        }),
        _ => Err(ServerError::HalfAPair { certificate, key }),
    }
}

/// The body of `/configz`: the configuration as v1beta1, secrets masked, under the name that the peer gives it.
///
/// # Errors
/// When it cannot be written as JSON, which nothing in the types allows.
pub fn configz(configuration: &KubeletConfiguration) -> Result<Bytes, serde_json::Error> {
    let value = json!({"kubeletconfig": effective_value(configuration)?});
    Ok(serde_json::to_vec(&value)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_idle_timeout_is_no_limit() {
        assert_eq!(idle_limit(Duration::from_secs(300)), Duration::from_secs(300));
        assert!(idle_limit(Duration::ZERO) > Duration::from_secs(365 * 86_400));
    }
}
