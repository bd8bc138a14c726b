//! A pod's pull secrets.

use std::error::Error;
use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Secret};

use crate::model::pod::spec;

use super::credentials::{CredentialError, CredentialSource, Keyring};

/// Why a secret could not be had.
pub type SecretError = Box<dyn Error + Send + Sync>;

/// Gets secrets from the API.
pub trait PullSecrets: Send + Sync {
    /// The secret of that name.
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SecretError>>;
}

/// The credentials in a pod's pull secrets.
#[derive(Debug, Default)]
pub(super) struct PodCredentials {
    pub keyring: Keyring,
    /// Names of secrets that are missing or unusable.
    pub missing: Vec<String>,
}

/// Reads the pull secrets of a pod, in their order.
pub(super) async fn read(pod: &Pod, secrets: &dyn PullSecrets) -> PodCredentials {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let references = spec(pod).image_pull_secrets.iter().flatten();
    // The API lets references without a name pass.
    let names: Vec<&str> = references.map(|r| r.name.as_str()).filter(|name| !name.is_empty()).collect();
    let mut credentials = PodCredentials::default();
    let found = futures::future::join_all(names.iter().map(|name| secrets.secret(namespace, name))).await;
    for (name, secret) in names.into_iter().zip(found) {
        let added = match secret {
            Ok(secret) => add(&mut credentials.keyring, &secret).map_err(SecretError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            tracing::info!(namespace, secret = name, error = %error, "cannot use a pull secret; the pull may fail");
            credentials.missing.push(name.to_owned());
        }
    }
    credentials
}

/// Adds a secret's credentials; a secret of another type has none.
fn add(keyring: &mut Keyring, secret: &Secret) -> Result<(), CredentialError> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let source = CredentialSource::Secret {
        namespace: text(&secret.metadata.namespace),
        name: text(&secret.metadata.name),
        uid: text(&secret.metadata.uid),
    };
    let value = |key: &str| secret.data.as_ref()?.get(key).map(|v| v.0.as_slice()).filter(|v| !v.is_empty());
    match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => match value(".dockerconfigjson") {
            Some(json) => keyring.add_config_json(json, &source),
            None => Ok(()),
        },
        Some("kubernetes.io/dockercfg") => match value(".dockercfg") {
            Some(json) => keyring.add_dockercfg(json, &source),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
