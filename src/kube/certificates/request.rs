//! What is sent to be signed: a new key's request, and the name under which a node asks for its first certificate.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, PublicKeyData, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha512_256};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::plan::Template;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To speak to the API server.
    Client,
    /// To be spoken to.
    Serving,
}

impl Role {
    pub(super) fn signer(self) -> &'static str {
        match self {
            Role::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Role::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// What the files of its certificates begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Role::Client => "kubelet-client",
            Role::Serving => "kubelet-server",
        }
    }

    /// The usages to ask for, in the order in which the peer asks: its bootstrap puts what only RSA keys can last, which counts
    /// for the name; the signers take any order.
    fn usages(self, key: &PrivateKey) -> Vec<String> {
        let purpose = match self {
            Role::Client => "client auth",
            Role::Serving => "server auth",
        };
        let encipherment = key.is_rsa().then_some("key encipherment");
        ["digital signature", purpose].into_iter().chain(encipherment).map(str::to_owned).collect()
    }
}

/// A key with the text that is written to files. No Debug: it is a secret.
pub(super) struct PrivateKey {
    pair: KeyPair,
    pub pem: SecretString,
}

impl PrivateKey {
    /// A new ECDSA key on P-256.
    pub(super) fn generate() -> Result<Self, rcgen::Error> {
        let pair = KeyPair::generate()?;
        let pem = SecretString::from(pair.serialize_pem());
        Ok(PrivateKey { pair, pem })
    }

    /// A key in any of PKCS #8, SEC 1 and PKCS #1, which either agent may have written. None if the text holds none.
    pub(super) fn parse(pem: &str) -> Option<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let pair = KeyPair::try_from(&key).ok()?;
        Some(PrivateKey { pair, pem: SecretString::from(pem) })
    }

    fn is_rsa(&self) -> bool {
        self.pair.algorithm() == &PKCS_RSA_SHA256
    }
}

/// The request for a certificate. With `is_named` its name follows from key and content, so that after a restart the same
/// request is found again; else the server chooses one.
pub(super) fn signing_request(
    role: Role,
    template: &Template,
    key: &PrivateKey,
    is_named: bool,
) -> Result<CertificateSigningRequest, rcgen::Error> {
    let usages = role.usages(key);
    let metadata = match is_named {
        true => ObjectMeta { name: Some(digested_name(key, template, &usages)), ..ObjectMeta::default() },
        false => ObjectMeta { generate_name: Some("csr-".to_owned()), ..ObjectMeta::default() },
    };
    let spec = CertificateSigningRequestSpec {
        request: ByteString(request_pem(template, key)?.into_bytes()),
        signer_name: role.signer().to_owned(),
        usages: Some(usages),
        ..CertificateSigningRequestSpec::default()
    };
    Ok(CertificateSigningRequest { metadata, spec, status: None })
}

fn request_pem(template: &Template, key: &PrivateKey) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // In the order in which Go writes them, which compares subjects with it.
    params.distinguished_name.push(DnType::OrganizationName, template.organization.as_str());
    params.distinguished_name.push(DnType::CommonName, template.common_name.as_str());
    for name in &template.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(template.addresses.iter().copied().map(SanType::IpAddress));
    params.serialize_request(&key.pair)?.pem()
}

/// The peer's name of a bootstrap request: each part in base64 with a bar behind it, so that no two contents read the same.
fn digested_name(key: &PrivateKey, template: &Template, usages: &[String]) -> String {
    let mut hash = Sha512_256::new();
    let public_key = key.pair.subject_public_key_info();
    let texts = [&template.common_name, &template.organization].into_iter().chain(usages);
    for part in std::iter::once(public_key.as_slice()).chain(texts.map(|text| text.as_bytes())) {
        hash.update(URL_SAFE_NO_PAD.encode(part));
        hash.update(b"|");
    }
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// Whether a request that has the wanted one's name is as good as it: for the same key and subject by the same signer. The error
/// says what differs.
pub(super) fn compatible(found: &CertificateSigningRequest, wanted: &CertificateSigningRequest) -> Result<(), String> {
    if found.spec.signer_name != wanted.spec.signer_name {
        return Err(format!("csr signerNames differ: {:?}, {:?}", found.spec.signer_name, wanted.spec.signer_name));
    }
    let der = |request: &CertificateSigningRequest| {
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(&request.spec.request.0)
            .map_err(|error| format!("unable to parse csr: {error}"))
    };
    let (found, wanted) = (der(found)?, der(wanted)?);
    let parse = |der| {
        let parsed = X509CertificationRequest::from_der(der).map_err(|error| format!("unable to parse csr: {error}"));
        parsed.map(|(_, request)| request.certification_request_info)
    };
    let (found, wanted) = (parse(&found)?, parse(&wanted)?);
    if found.subject.to_string() != wanted.subject.to_string() {
        return Err(format!("csr subjects differ: {}, {}", found.subject, wanted.subject));
    }
    if found.subject_pki.raw != wanted.subject_pki.raw {
        return Err("csr public keys differ".to_owned());
    }
    Ok(())
}

impl PrivateKey {
    /// The text for a file.
    pub(super) fn text(&self) -> &str {
        self.pem.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rstest::rstest;
    use x509_parser::prelude::ParsedExtension;

    use super::*;

    /// A key and the name that the peer gives to its request.
    const KEY: &str = include_str!("testdata/bootstrap.key");
    const NAME: &str = include_str!("testdata/bootstrap.name");

    #[test]
    fn the_peers_name() {
        let key = PrivateKey::parse(KEY).unwrap();
        let request = signing_request(Role::Client, &Template::client("node-1"), &key, true).unwrap();
        assert_eq!(request.metadata.name.as_deref(), Some(NAME.trim()));
        let other = signing_request(Role::Client, &Template::client("node-2"), &key, true).unwrap();
        assert_ne!(other.metadata.name.as_deref(), Some(NAME.trim()));
    }

    #[rstest]
    #[case(Role::Client, "kubernetes.io/kube-apiserver-client-kubelet", "client auth")]
    #[case(Role::Serving, "kubernetes.io/kubelet-serving", "server auth")]
    fn the_signer_and_the_usages_follow_the_role(#[case] role: Role, #[case] signer: &str, #[case] usage: &str) {
        let key = PrivateKey::generate().unwrap();
        let request = signing_request(role, &Template::client("n1"), &key, false).unwrap();
        assert_eq!((request.metadata.name, request.metadata.generate_name.as_deref()), (None, Some("csr-")));
        assert_eq!(request.spec.signer_name, signer);
        assert_eq!(request.spec.usages.unwrap(), ["digital signature", usage]);
    }

    #[test]
    fn names_and_addresses_are_asked_for() {
        let mut template = Template::client("n1");
        template.dns_names.insert("n1.example".to_owned());
        template.addresses.extend(["192.0.2.2".parse::<IpAddr>().unwrap(), "2001:db8::1".parse().unwrap()]);
        let request = signing_request(Role::Serving, &template, &PrivateKey::generate().unwrap(), false).unwrap();
        let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(&request.spec.request.0).unwrap();
        let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
        let subject = &parsed.certification_request_info.subject;
        assert_eq!(subject.to_string(), "O=system:nodes, CN=system:node:n1");
        let extensions: Vec<_> = parsed.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions.as_slice() else { panic!("{extensions:?}") };
        assert_eq!(names.general_names.len(), 3);
    }

    #[test]
    fn a_request_of_the_same_name_is_looked_at() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let make =
            |role, node: &str, key: &PrivateKey| signing_request(role, &Template::client(node), key, true).unwrap();
        let wanted = make(Role::Client, "n1", &key);
        assert_eq!(compatible(&make(Role::Client, "n1", &key), &wanted), Ok(()));
        let told = |found: &CertificateSigningRequest| compatible(found, &wanted).unwrap_err();
        assert!(told(&make(Role::Client, "n2", &key)).contains("subjects differ"));
        assert!(told(&make(Role::Serving, "n1", &key)).contains("signerNames differ"));
        assert_eq!(told(&make(Role::Client, "n1", &other)), "csr public keys differ");
        let mut broken = make(Role::Client, "n1", &key);
        broken.spec.request = ByteString(b"nothing".to_vec());
        assert!(told(&broken).contains("unable to parse csr"));
    }

    #[test]
    fn keys_of_either_agent_are_read() {
        assert!(PrivateKey::parse(KEY).is_some());
        let own = PrivateKey::generate().unwrap();
        let again = PrivateKey::parse(own.text()).unwrap();
        assert_eq!(again.pair.subject_public_key_info(), own.pair.subject_public_key_info());
        assert!(PrivateKey::parse("").is_none());
    }
}
