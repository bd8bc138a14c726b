//! The certificate that the HTTPS server shows: the configured one, or one that the node makes for itself.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::kube::error::chain;
use crate::model::Timestamp;
use crate::sys::file_stamp::FileStamp;
use crate::sys::replace::replace_file;

/// How long a certificate of the node's own making is valid, from an hour before it is made, since clocks differ.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// A certificate of the node's own making is made again this long before it expires.
const RENEWAL_SECONDS: i64 = 30 * 24 * 3600;

/// Why there is no certificate to serve with. Names files, never their content.
#[derive(Debug, thiserror::Error)]
pub enum ServingCertificateError {
    /// A file cannot be read.
    #[error("serving certificate: reading {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("serving certificate: writing {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not PEM of what it should be.
    #[error("serving certificate: {path}: {message}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The certificate and the key do not belong together, or the key is of no supported kind.
    #[error("serving certificate {certificate} with key {key}", certificate = certificate.display(), key = key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// No certificate can be made for the name.
    #[error("serving certificate: making one for {host:?}")]
    Make {
        /// The node's name.
        host: String,
        /// What is wrong.
        source: rcgen::Error,
    },
}

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateSource {
    /// Certificate, then its intermediates (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The name to make a certificate for when there is none; none if the files are the administrator's.
    pub self_signed_for: Option<String>,
}

/// A certificate with its key, and which files it was read from.
#[derive(Clone, Debug)]
pub(super) struct ServingCertificate {
    pub key: Arc<CertifiedKey>,
    stamps: (FileStamp, FileStamp),
    /// When a certificate of the node's own making expires.
    expires: Option<i64>,
}

impl CertificateSource {
    /// Reads the certificate, after making it if it is the node's to make and is missing, broken or about to expire.
    pub(super) async fn load(
        &self,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Result<ServingCertificate, ServingCertificateError> {
        let Some(host) = &self.self_signed_for else { return self.read(provider).await };
        match self.read(provider).await {
            Ok(found) if !found.is_due(now) => return Ok(found),
            Ok(_) => info!(certificate = %self.certificate.display(), "the serving certificate is about to expire"),
            Err(ServingCertificateError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(error = chain(&error), "making another serving certificate"),
        }
        self.make(host, now).await?;
        info!(certificate = %self.certificate.display(), host, "made a serving certificate");
        self.read(provider).await
    }

    /// Whether the files are others than those read, or the certificate has to be made again.
    pub(super) async fn is_changed(&self, current: &ServingCertificate, now: Timestamp) -> bool {
        let (certificate, key) = (FileStamp::look(&self.certificate).await, FileStamp::look(&self.key).await);
        let same = certificate.is_ok_and(|stamp| stamp == current.stamps.0)
            && key.is_ok_and(|stamp| stamp == current.stamps.1);
        !same || current.is_due(now)
    }

    async fn read(&self, provider: &CryptoProvider) -> Result<ServingCertificate, ServingCertificateError> {
        let (certificate_stamp, certificate) = read_file(&self.certificate).await?;
        let (key_stamp, key) = read_file(&self.key).await?;
        let content =
            |path: &Path, message: String| ServingCertificateError::Content { path: path.to_owned(), message };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| content(&self.certificate, error.to_string()))?;
        let Some(first) = chain.first() else {
            return Err(content(&self.certificate, "holds no certificate in PEM".to_owned()));
        };
        let expires = match &self.self_signed_for {
            Some(host) => own_expiry(first, host),
            None => None,
        };
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| content(&self.key, "holds no private key in PEM that is not encrypted".to_owned()))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| ServingCertificateError::Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })?;
        Ok(ServingCertificate { key: Arc::new(key), stamps: (certificate_stamp, key_stamp), expires })
    }

    async fn make(&self, host: &str, now: Timestamp) -> Result<(), ServingCertificateError> {
        let made = make(host, now).map_err(|source| ServingCertificateError::Make { host: host.to_owned(), source })?;
        // The key first: a certificate without its key is found broken and made again.
        write_file(&self.key, made.key, 0o600).await?;
        write_file(&self.certificate, made.chain, 0o644).await
    }
}

impl ServingCertificate {
    fn is_due(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|at| at - now.as_second() < RENEWAL_SECONDS)
    }
}

/// When the certificate expires, if this agent or the peer made it. Another one, which an administrator put there, is left
/// alone whatever its age.
fn own_expiry(certificate: &[u8], host: &str) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let issuer = parsed.issuer().iter_common_name().next()?.as_str().ok()?;
    let serial = issuer.strip_prefix(host)?.strip_prefix("-ca@")?;
    serial.bytes().all(|byte| byte.is_ascii_digit()).then(|| parsed.validity().not_after.timestamp())
}

struct Made {
    chain: String,
    key: String,
}

/// A certificate for a host by an authority of its own, whose key is forgotten: who trusts the file trusts this server alone.
/// Names and validity are the peer's (`cert.GenerateSelfSignedCertKey`).
fn make(host: &str, now: Timestamp) -> Result<Made, rcgen::Error> {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let from = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds).saturating_sub(CLOCK_SKEW);
    let named = |name: String, names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        params.not_before = from;
        params.not_after = from + VALIDITY;
        params
    };
    let mut authority = named(format!("{host}-ca@{seconds}"), Vec::new());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let name = match host.parse::<IpAddr>() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) => SanType::DnsName(host.try_into()?),
    };
    let mut leaf = named(format!("{host}@{seconds}"), vec![name]);
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok(Made { chain: certificate.pem() + &authority_certificate.pem(), key: key.serialize_pem() })
}

async fn read_file(path: &Path) -> Result<(FileStamp, Vec<u8>), ServingCertificateError> {
    let unreadable = |source| ServingCertificateError::Read { path: path.to_owned(), source };
    let stamp = FileStamp::look(path).await.map_err(unreadable)?;
    Ok((stamp, tokio::fs::read(path).await.map_err(unreadable)?))
}

async fn write_file(path: &Path, content: String, mode: u32) -> Result<(), ServingCertificateError> {
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || replace_file(&target, content.as_bytes(), mode)).await;
    let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
    written.map_err(|source| ServingCertificateError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn source(folder: &Path) -> CertificateSource {
        CertificateSource {
            certificate: folder.join("pki/kubelet.crt"),
            key: folder.join("pki/kubelet.key"),
            self_signed_for: Some("node-1".to_owned()),
        }
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 24 * 3600).unwrap()
    }

    fn leaf(certificate: &ServingCertificate) -> Vec<u8> {
        certificate.key.cert[0].to_vec()
    }

    #[tokio::test]
    async fn one_is_made_kept_and_made_again_before_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path());
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let first = source.load(&provider, day(0)).await.unwrap();
        let mode = std::fs::metadata(&source.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let der = leaf(&first);
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp(), 365 * 24 * 3600);
        let names = parsed.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(format!("{names:?}"), "[DNSName(\"node-1\")]");

        assert_eq!(leaf(&source.load(&provider, day(300)).await.unwrap()), der);
        assert!(!source.is_changed(&first, day(300)).await);
        assert!(source.is_changed(&first, day(340)).await);
        assert_ne!(leaf(&source.load(&provider, day(340)).await.unwrap()), der);
    }

    #[tokio::test]
    async fn a_broken_one_is_made_again_but_not_the_administrators() {
        let folder = tempfile::tempdir().unwrap();
        let own = source(folder.path());
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        own.load(&provider, day(0)).await.unwrap();
        std::fs::write(&own.key, "").unwrap();
        own.load(&provider, day(0)).await.unwrap();

        // Of another authority, and expired: it stays.
        let given = make("elsewhere", day(-1000)).unwrap();
        std::fs::write(&own.key, &given.key).unwrap();
        std::fs::write(&own.certificate, &given.chain).unwrap();
        own.load(&provider, day(0)).await.unwrap();
        assert_eq!(std::fs::read_to_string(&own.certificate).unwrap(), given.chain);

        let configured = CertificateSource { self_signed_for: None, ..own };
        std::fs::remove_file(&configured.key).unwrap();
        let error = configured.load(&provider, day(0)).await.unwrap_err();
        assert!(error.to_string().contains("kubelet.key"), "{error}");
    }

    #[tokio::test]
    async fn a_key_of_another_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = CertificateSource { self_signed_for: None, ..source(folder.path()) };
        std::fs::create_dir(folder.path().join("pki")).unwrap();
        std::fs::write(&files.certificate, make("a", day(0)).unwrap().chain).unwrap();
        std::fs::write(&files.key, make("b", day(0)).unwrap().key).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let error = files.load(&provider, day(0)).await.unwrap_err();
        assert!(matches!(error, ServingCertificateError::Pair { .. }), "{error}");
    }

    #[test]
    fn an_address_is_an_address_in_the_certificate() {
        let made = make("192.0.2.1", day(0)).unwrap();
        let der = CertificateDer::from_pem_slice(made.chain.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(
            matches!(names.as_slice(), [x509_parser::extensions::GeneralName::IPAddress([192, 0, 2, 1])]),
            "{names:?}"
        );
    }
}
