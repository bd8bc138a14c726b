//! Which objects of the API a pod's volumes refer to, so that they can be had all at once. Pure.

use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection, VolumeProjection};

use super::objects::TokenRequest;
use super::plan::used_volumes;
use crate::model::pod::{PodKey, spec};

/// The objects that volumes refer to, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Names of config maps.
    pub config_maps: Vec<String>,
    /// Names of secrets.
    pub secrets: Vec<String>,
    /// Tokens.
    pub tokens: Vec<TokenRequest>,
}

/// The objects that the pod's used volumes refer to.
pub fn references(pod: &Pod) -> References {
    let mut references = References::default();
    for volume in used_volumes(pod) {
        if let Some(config_map) = &volume.config_map {
            add_once(&mut references.config_maps, config_map.name.clone());
        } else if let Some(secret) = &volume.secret {
            add_once(&mut references.secrets, secret.secret_name.clone().unwrap_or_default());
        } else if let Some(projected) = &volume.projected {
            collect(pod, projected.sources.as_deref().unwrap_or_default(), &mut references);
        }
    }
    references
}

/// Notes what the sources of a projected volume refer to.
fn collect(pod: &Pod, sources: &[VolumeProjection], references: &mut References) {
    for source in sources {
        if let Some(config_map) = &source.config_map {
            add_once(&mut references.config_maps, config_map.name.clone());
        }
        if let Some(secret) = &source.secret {
            add_once(&mut references.secrets, secret.name.clone());
        }
        if let Some(token) = &source.service_account_token {
            add_once(&mut references.tokens, token_request(pod, token));
        }
    }
}

/// Adds what is not there yet.
pub fn add_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// What to ask the API server for, for a token of this pod.
pub fn token_request(pod: &Pod, projection: &ServiceAccountTokenProjection) -> TokenRequest {
    let key = PodKey::of(pod);
    TokenRequest {
        namespace: key.namespace,
        service_account: spec(pod).service_account_name.clone().unwrap_or_default(),
        audience: projection.audience.clone().filter(|audience| !audience.is_empty()),
        expiration_seconds: projection.expiration_seconds,
        pod_name: key.name,
        pod_uid: key.uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_object_counts_once_and_only_where_it_is_used() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "u-1" },
            "spec": {
                "serviceAccountName": "robot",
                "volumes": [
                    { "name": "unused", "secret": { "secretName": "a" } },
                    { "name": "s", "secret": { "secretName": "b" } },
                    { "name": "cm", "configMap": { "name": "c" } },
                    { "name": "p", "projected": { "sources": [
                        { "configMap": { "name": "e" } }, { "configMap": { "name": "c" } }, { "secret": { "name": "b" } },
                        { "serviceAccountToken": { "path": "x", "audience": "vault", "expirationSeconds": 600 } },
                        { "serviceAccountToken": { "path": "y", "audience": "" } },
                        { "serviceAccountToken": { "path": "z" } },
                    ] } },
                ],
                "containers": [{ "name": "c", "volumeMounts": [
                    { "name": "s", "mountPath": "/s" }, { "name": "cm", "mountPath": "/c" }, { "name": "p", "mountPath": "/p" }] }],
            },
        }))
        .unwrap();
        let token = |audience: Option<&str>, expiration_seconds| TokenRequest {
            namespace: "shop".into(),
            service_account: "robot".into(),
            audience: audience.map(str::to_owned),
            expiration_seconds,
            pod_name: "web".into(),
            pod_uid: "u-1".into(),
        };
        let expected = References {
            config_maps: vec!["c".into(), "e".into()],
            secrets: vec!["b".into()],
            tokens: vec![token(Some("vault"), Some(600)), token(None, None)],
        };
        assert_eq!(references(&pod), expected);
    }
}
