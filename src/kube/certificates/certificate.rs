//! A certificate with its key, and what it says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::Timestamp;

/// What a certificate says, as far as its renewal depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The beginning of its life.
    pub not_before: Timestamp,
    /// The end of it.
    pub not_after: Timestamp,
    /// The subject's common name; empty if there is none.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// A certificate chain with its key, and what the node's own certificate says.
pub(super) struct NodeCertificate {
    pub key: Arc<CertifiedKey>,
    pub facts: CertificateFacts,
}

impl NodeCertificate {
    /// Reads chain and key from PEM text; the same text may hold both. The error says what is wrong, without content.
    pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = chain_from_pem(chain)?;
        let facts = chain.first().map(|first| CertificateFacts::from_der(first)).transpose()?;
        let facts = facts.ok_or("no certificate in PEM form")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "no private key in PEM form")?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| error.to_string())?;
        Ok(NodeCertificate { key: Arc::new(key), facts })
    }
}

/// The certificates of a PEM text.
pub(super) fn chain_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|error| format!("not PEM: {error}"))
}

impl CertificateFacts {
    /// Of a certificate in DER.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let date = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|error| format!("its dates: {error}"))
        };
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).unwrap_or_default()
        };
        let subject = certificate.subject();
        let (mut dns_names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let alternatives = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => {
                    dns_names.insert((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    addresses.extend(ip(bytes));
                }
                _ => {}
            }
        }
        Ok(CertificateFacts {
            not_before: date(certificate.validity().not_before)?,
            not_after: date(certificate.validity().not_after)?,
            common_name: subject.iter_common_name().last().map(text).unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            dns_names,
            addresses,
        })
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
