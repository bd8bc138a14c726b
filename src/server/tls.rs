//! The TLS side of the HTTPS server: versions, ciphers and curves as configured, the certificate as it is on disk or as the
//! cluster signed it last, client certificates asked for and looked at later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use tokio::time::Instant;
use tracing::{info, warn};

use super::client_ca::ClientAuthorities;
use super::serving_certificate::{CertificateSource, ServingCertificate, ServingCertificateError};
use crate::config::KubeletConfiguration;
use crate::kube::certificates::CertificateHandle;
use crate::kube::error::chain;
use crate::model::{Timestamp, clock};

/// How often the files are looked at, at most, and only when connections come.
const FILES_CHECK: Duration = Duration::from_secs(10);

/// The peer's words for a handshake that comes too early.
const NO_CERTIFICATE: &str = "no serving certificate available for the kubelet";

/// Why the TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// None of the ciphers is supported, and TLS 1.3, which has its own, is not enough.
    #[error("tlsCipherSuites {given:?}: none of them is supported; supported are {supported:?}")]
    Ciphers {
        /// The setting.
        given: Vec<String>,
        /// What could be set.
        supported: Vec<String>,
    },
    /// None of the key exchanges is supported.
    #[error("tlsCurvePreferences {given:?}: none of them is supported; supported are {supported:?}")]
    Curves {
        /// The setting.
        given: Vec<i32>,
        /// What could be set.
        supported: Vec<u16>,
    },
    /// The library refuses the combination.
    #[error("TLS settings")]
    Refused(#[from] rustls::Error),
}

/// Versions and algorithms.
#[derive(Debug)]
pub(super) struct Protocol {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Protocol {
    /// From `tlsMinVersion`, `tlsCipherSuites` and `tlsCurvePreferences`. TLS older than 1.2 is never spoken.
    pub(super) fn new(configuration: &KubeletConfiguration) -> Result<Self, TlsSettingsError> {
        let mut provider = aws_lc_rs::default_provider();
        let only_newest = configuration.tls_min_version == "VersionTLS13";
        let mut versions = vec![&rustls::version::TLS13];
        if matches!(configuration.tls_min_version.as_str(), "VersionTLS10" | "VersionTLS11") {
            warn!(tlsMinVersion = configuration.tls_min_version, "TLS 1.2 is the oldest version that is served");
        }
        if !only_newest {
            let names = &configuration.tls_cipher_suites;
            if names.is_empty() || choose_ciphers(&mut provider, names)? {
                versions.push(&rustls::version::TLS12);
            }
        }
        if !configuration.tls_curve_preferences.is_empty() {
            choose_curves(&mut provider, &configuration.tls_curve_preferences)?;
        }
        Ok(Protocol { provider: Arc::new(provider), versions })
    }
}

/// Keeps the named ciphers of TLS 1.2, and says whether there are any; those of TLS 1.3 cannot be chosen, in the peer neither,
/// but who names them alone wants no other version.
fn choose_ciphers(provider: &mut CryptoProvider, names: &[String]) -> Result<bool, TlsSettingsError> {
    let name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
    let is_old = |suite: &rustls::SupportedCipherSuite| matches!(suite, rustls::SupportedCipherSuite::Tls12(_));
    let supported: Vec<String> = provider.cipher_suites.iter().filter(|suite| is_old(suite)).map(name).collect();
    // Names from before RFC 7905, which Go takes too.
    let wanted: Vec<String> = names
        .iter()
        .map(|wanted| match wanted.as_str() {
            short if short.ends_with("_CHACHA20_POLY1305") => format!("{short}_SHA256"),
            other => other.to_owned(),
        })
        .collect();
    let is_new = |name: &String| name.starts_with("TLS_AES_") || name == "TLS_CHACHA20_POLY1305_SHA256";
    let unsupported: Vec<&String> =
        wanted.iter().filter(|wanted| !supported.contains(wanted) && !is_new(wanted)).collect();
    provider.cipher_suites.retain(|suite| !is_old(suite) || wanted.contains(&name(suite)));
    let any_old = provider.cipher_suites.iter().any(is_old);
    if !any_old && !wanted.iter().any(is_new) {
        return Err(TlsSettingsError::Ciphers { given: names.to_vec(), supported });
    }
    if !unsupported.is_empty() {
        warn!(?unsupported, "these of tlsCipherSuites are weak and not supported; the others are served");
    }
    Ok(any_old)
}

fn choose_curves(provider: &mut CryptoProvider, numbers: &[i32]) -> Result<(), TlsSettingsError> {
    let supported: Vec<u16> = provider.kx_groups.iter().map(|group| u16::from(group.name())).collect();
    provider.kx_groups.retain(|group| numbers.contains(&i32::from(u16::from(group.name()))));
    if provider.kx_groups.is_empty() {
        return Err(TlsSettingsError::Curves { given: numbers.to_vec(), supported });
    }
    let unsupported: Vec<&i32> =
        numbers.iter().filter(|number| !supported.iter().any(|known| i32::from(*known) == **number)).collect();
    if !unsupported.is_empty() {
        warn!(?unsupported, "these of tlsCurvePreferences are not supported; the others are served");
    }
    Ok(())
}

/// Where the certificate comes from that clients are shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// Files, and what was read from them last.
    Files { source: CertificateSource, read: Mutex<ServingCertificate> },
    /// The cluster signs it (`serverTLSBootstrap`); until it has, no handshake succeeds.
    Signed(CertificateHandle),
}

/// What a connection is accepted with, kept as files and certificates are.
#[derive(Debug)]
pub(super) struct TlsFiles {
    protocol: Protocol,
    shown: Shown,
    authorities: Option<Arc<ClientAuthorities>>,
    current: RwLock<Arc<ServerConfig>>,
    /// Something was read that `current` does not have: kept apart, since a look that is given up must not lose it.
    is_outdated: AtomicBool,
    checked: Mutex<Instant>,
}

impl TlsFiles {
    /// Reads the certificate, and makes it if need be.
    pub(super) async fn load(
        protocol: Protocol,
        source: CertificateSource,
        authorities: Option<Arc<ClientAuthorities>>,
        now: Timestamp,
    ) -> Result<Self, ServingCertificateErrorOrTls> {
        let certificate = source.load(&protocol.provider, now).await?;
        let shown = Shown::Files { source, read: Mutex::new(certificate) };
        Ok(TlsFiles::new(protocol, shown, authorities)?)
    }

    /// Shows the certificate that the cluster signs.
    pub(super) fn signed(
        protocol: Protocol,
        certificate: CertificateHandle,
        authorities: Option<Arc<ClientAuthorities>>,
    ) -> Result<Self, TlsSettingsError> {
        TlsFiles::new(protocol, Shown::Signed(certificate), authorities)
    }

    fn new(
        protocol: Protocol,
        shown: Shown,
        authorities: Option<Arc<ClientAuthorities>>,
    ) -> Result<Self, TlsSettingsError> {
        let config = server_config(&protocol, &shown, authorities.as_deref())?;
        let current = RwLock::new(Arc::new(config));
        let (is_outdated, checked) = (AtomicBool::new(false), Mutex::new(Instant::now()));
        Ok(TlsFiles { protocol, shown, authorities, current, is_outdated, checked })
    }

    /// What to accept a connection with. Looks at the files if that was not done lately.
    pub(super) async fn config(&self) -> Arc<ServerConfig> {
        if self.is_check_due() {
            self.refresh(clock::now()).await;
        }
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why no client can be served now, if that is so.
    pub(super) fn missing(&self) -> Option<&'static str> {
        match &self.shown {
            Shown::Signed(certificate) if certificate.key().is_none() => Some(NO_CERTIFICATE),
            _ => None,
        }
    }

    fn is_check_due(&self) -> bool {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = checked.elapsed() >= FILES_CHECK;
        if due {
            *checked = Instant::now();
        }
        due
    }

    /// Reads what changed. What cannot be read stays as it was.
    pub(super) async fn refresh(&self, now: Timestamp) {
        if let Some(authorities) = &self.authorities {
            self.is_outdated.fetch_or(authorities.refresh().await, Ordering::Relaxed);
        }
        if let Shown::Files { source, read } = &self.shown {
            self.is_outdated.fetch_or(self.refresh_certificate(source, read, now).await, Ordering::Relaxed);
        }
        if !self.is_outdated.swap(false, Ordering::Relaxed) {
            return;
        }
        match server_config(&self.protocol, &self.shown, self.authorities.as_deref()) {
            Ok(config) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(error) => warn!(error = chain(&error), "the changed TLS files cannot be used; those read before are"),
        }
    }

    async fn refresh_certificate(
        &self,
        source: &CertificateSource,
        read: &Mutex<ServingCertificate>,
        now: Timestamp,
    ) -> bool {
        let certificate = read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !source.is_changed(&certificate, now).await {
            return false;
        }
        match source.load(&self.protocol.provider, now).await {
            Ok(loaded) => {
                info!(certificate = %source.certificate.display(), "the serving certificate changed");
                *read.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
                true
            }
            Err(error) => {
                let error = chain(&error);
                warn!(error, "the serving certificate cannot be read; the one read before is served");
                false
            }
        }
    }
}

/// Gives each handshake the certificate that is in force then.
#[derive(Debug)]
struct SignedCertificate(CertificateHandle);

impl ResolvesServerCert for SignedCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.key()
    }
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServingCertificateErrorOrTls {
    #[error(transparent)]
    Certificate(#[from] ServingCertificateError),
    #[error(transparent)]
    Tls(#[from] TlsSettingsError),
}

impl From<ServingCertificateErrorOrTls> for super::ServerError {
    fn from(error: ServingCertificateErrorOrTls) -> Self {
        match error {
            ServingCertificateErrorOrTls::Certificate(error) => error.into(),
            ServingCertificateErrorOrTls::Tls(error) => error.into(),
        }
    }
}

fn server_config(
    protocol: &Protocol,
    shown: &Shown,
    authorities: Option<&ClientAuthorities>,
) -> Result<ServerConfig, TlsSettingsError> {
    let verifier: Arc<dyn ClientCertVerifier> = match authorities {
        Some(authorities) => Arc::new(AskForCertificate {
            subjects: authorities.subjects(),
            algorithms: protocol.provider.signature_verification_algorithms,
        }),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let resolver: Arc<dyn ResolvesServerCert> = match shown {
        Shown::Files { read, .. } => {
            let certificate = read.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::new(SingleCertAndKey::from(certificate.key.clone()))
        }
        Shown::Signed(certificate) => Arc::new(SignedCertificate(certificate.clone())),
    };
    let mut config = ServerConfig::builder_with_provider(protocol.provider.clone())
        .with_protocol_versions(&protocol.versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    // What upgrades a connection (exec, port forwarding) needs HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Callers keep their connections; memory of sessions would only be held for those that do not.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Asks for a client certificate and takes any whose key the client has. Whether an authority stands for it is found when a
/// request is authenticated, as in the peer: a certificate of another authority must not keep a client with a token out.
#[derive(Debug)]
struct AskForCertificate {
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn protocol(change: impl FnOnce(&mut KubeletConfiguration)) -> Result<Protocol, TlsSettingsError> {
        let mut configuration = KubeletConfiguration::default();
        change(&mut configuration);
        Protocol::new(&configuration)
    }

    #[rstest]
    #[case::default("", 2)]
    #[case::ancient("VersionTLS10", 2)]
    #[case::usual("VersionTLS12", 2)]
    #[case::newest("VersionTLS13", 1)]
    fn versions(#[case] setting: &str, #[case] count: usize) {
        assert_eq!(protocol(|c| c.tls_min_version = setting.to_owned()).unwrap().versions.len(), count);
    }

    #[test]
    fn ciphers_are_narrowed_and_must_not_be_none() {
        let names = [
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "TLS_RSA_WITH_AES_128_CBC_SHA",
        ];
        let chosen = protocol(|c| c.tls_cipher_suites = names.map(str::to_owned).to_vec()).unwrap();
        let old = |suite: &&rustls::SupportedCipherSuite| matches!(suite, rustls::SupportedCipherSuite::Tls12(_));
        assert_eq!(chosen.provider.cipher_suites.iter().filter(old).count(), 2);
        assert!(chosen.provider.cipher_suites.len() > 2);
        let newest = protocol(|c| c.tls_cipher_suites = vec!["TLS_AES_128_GCM_SHA256".to_owned()]).unwrap();
        assert_eq!(newest.versions, [&rustls::version::TLS13]);
        let error = protocol(|c| c.tls_cipher_suites = vec![names[2].to_owned()]).unwrap_err();
        assert!(error.to_string().contains("TLS_RSA_WITH_AES_128_CBC_SHA"), "{error}");
    }

    #[test]
    fn curves_are_narrowed_and_must_not_be_none() {
        let chosen = protocol(|c| c.tls_curve_preferences = vec![29, 25]).unwrap();
        assert_eq!(chosen.provider.kx_groups.len(), 1);
        assert!(protocol(|c| c.tls_curve_preferences = vec![25]).is_err());
    }
}
