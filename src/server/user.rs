//! Who calls, and what a client certificate says about that.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client_ca::CertificateError;

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";
/// Key of what tells credentials of one user apart (KEP 4193).
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The attribute of a certificate's subject that holds the user's UID (feature gate `AllowParsingUserUIDFromCertAuth`).
const UID_ATTRIBUTE: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// A caller, as SubjectAccessReview knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A caller that showed no credentials.
    pub(super) fn anonymous() -> Self {
        User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// The same user in the group of all that showed credentials.
    pub(super) fn authenticated(mut self) -> Self {
        let is_marked = self.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
        if self.name != ANONYMOUS && !is_marked {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// The subject of a certificate that was found valid: its common name is the user, its organizations are the groups.
    /// None if it has no common name.
    pub(super) fn of_certificate(der: &[u8]) -> Result<Option<Self>, CertificateError> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| CertificateError::Malformed { message: error.to_string() })?;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            let value = attribute.as_str().map(str::to_owned);
            value.map_err(|error| CertificateError::Malformed { message: format!("its subject: {error}") })
        };
        let subject = certificate.subject();
        let Some(name) = subject.iter_common_name().last().map(text).transpose()?.filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let groups = subject.iter_organization().map(text).collect::<Result<Vec<_>, _>>()?;
        let uids = subject.iter_by_oid(&UID_ATTRIBUTE).map(text).collect::<Result<Vec<_>, _>>()?;
        let uid = match uids.as_slice() {
            [] => String::new(),
            [uid] if !uid.is_empty() => uid.clone(),
            _ => {
                return Err(CertificateError::Malformed {
                    message: "its subject has more than one UID, or an empty one".to_owned(),
                });
            }
        };
        let mut id = "X509SHA256=".to_owned();
        for byte in Sha256::digest(der) {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        Ok(Some(User { name, uid, groups, extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![id])]) }))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_subject_names_the_user() {
        let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let der =
            certificate(&[(DnType::CommonName, "kube-apiserver"), (DnType::OrganizationName, "admins"), (uid, "u1")]);
        let user = User::of_certificate(&der).unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups.clone()),
            ("kube-apiserver", "u1", vec!["admins".to_owned()])
        );
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        assert_eq!(user.authenticated().groups, ["admins", AUTHENTICATED]);
    }

    #[test]
    fn a_subject_without_a_name_is_nobody() {
        assert_eq!(User::of_certificate(&certificate(&[(DnType::OrganizationName, "admins")])).unwrap(), None);
        assert!(User::of_certificate(b"no certificate").is_err());
    }

    #[test]
    fn anonymous_stays_unauthenticated() {
        assert_eq!(User::anonymous().authenticated().groups, [UNAUTHENTICATED]);
    }
}
