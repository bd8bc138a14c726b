//! What volumes need from the API: config maps, secrets and service account tokens.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::model::Timestamp;
use crate::model::pod::PodUid;

/// Why an object could not be had. The message is shown to users as it is (`configmap "x" not found`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ObjectFailure {
    /// The text for the event.
    pub message: String,
    /// Whether the object is known not to exist; only that can be forgiven by `optional`.
    pub not_found: bool,
}

/// A token to ask for (`authentication.k8s.io/v1` TokenRequest), bound to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    /// The service account's and pod's namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The token's one audience; the API server's own if absent.
    pub audience: Option<String>,
    /// Seconds that the token is to live; the API server's default if absent.
    pub expiration_seconds: Option<i64>,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's UID.
    pub pod_uid: String,
}

/// A token, and when it must be replaced. No `Debug`: it is a credential.
#[derive(Clone)]
pub struct ServiceAccountToken {
    /// The token itself.
    pub token: String,
    /// When it stops to be valid.
    pub expires_at: Timestamp,
    /// When a new one is to be asked for.
    pub refresh_at: Timestamp,
}

/// Source of the objects, cached and quick in the ordinary case.
pub trait VolumeObjects: Send + Sync {
    /// A config map by namespace and name.
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>>;

    /// A secret by namespace and name.
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>>;

    /// A service account token.
    fn service_account_token<'a>(
        &'a self,
        request: &'a TokenRequest,
    ) -> BoxFuture<'a, Result<ServiceAccountToken, ObjectFailure>>;

    /// The pod's tokens are of no use any more.
    fn forget_tokens(&self, pod: &PodUid) {
        let _ = pod;
    }
}

#[cfg(test)]
pub(crate) mod fake {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, PoisonError};

    use futures::FutureExt;

    use super::*;

    /// Objects in memory.
    #[derive(Default)]
    pub(crate) struct FakeObjects {
        state: Mutex<State>,
    }

    #[derive(Default)]
    struct State {
        config_maps: BTreeMap<String, Arc<ConfigMap>>,
        secrets: BTreeMap<String, Arc<Secret>>,
        token: Option<ServiceAccountToken>,
        requests: Vec<TokenRequest>,
        forgotten: Vec<PodUid>,
    }

    impl FakeObjects {
        fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
            act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
        }

        pub(crate) fn put_config_map(&self, name: &str, data: &[(&str, &str)]) {
            let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let object = ConfigMap { data: Some(data), ..ConfigMap::default() };
            self.with(|s| s.config_maps.insert(name.to_owned(), Arc::new(object)));
        }

        pub(crate) fn put_secret(&self, name: &str, data: &[(&str, &str)]) {
            let bytes = |v: &str| k8s_openapi::ByteString(v.as_bytes().to_vec());
            let data = data.iter().map(|(k, v)| ((*k).to_owned(), bytes(v))).collect();
            let object = Secret { data: Some(data), ..Secret::default() };
            self.with(|s| s.secrets.insert(name.to_owned(), Arc::new(object)));
        }

        pub(crate) fn remove_config_map(&self, name: &str) {
            self.with(|s| s.config_maps.remove(name));
        }

        pub(crate) fn set_token(&self, token: &str, refresh_at: i64) {
            let at = |seconds| Timestamp::from_second(seconds).unwrap();
            let token = ServiceAccountToken {
                token: token.to_owned(),
                expires_at: at(refresh_at + 600),
                refresh_at: at(refresh_at),
            };
            self.with(|s| s.token = Some(token));
        }

        pub(crate) fn token_requests(&self) -> Vec<TokenRequest> {
            self.with(|s| s.requests.clone())
        }

        pub(crate) fn forgotten(&self) -> Vec<PodUid> {
            self.with(|s| s.forgotten.clone())
        }
    }

    fn missing(kind: &str, name: &str) -> ObjectFailure {
        ObjectFailure { message: format!("{kind} \"{name}\" not found"), not_found: true }
    }

    impl VolumeObjects for FakeObjects {
        fn config_map<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
            let found = self.with(|s| s.config_maps.get(name).cloned()).ok_or_else(|| missing("configmap", name));
            async move { found }.boxed()
        }

        fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
            let found = self.with(|s| s.secrets.get(name).cloned()).ok_or_else(|| missing("secret", name));
            async move { found }.boxed()
        }

        fn service_account_token<'a>(
            &'a self,
            request: &'a TokenRequest,
        ) -> BoxFuture<'a, Result<ServiceAccountToken, ObjectFailure>> {
            let token = self.with(|s| {
                s.requests.push(request.clone());
                s.token.clone()
            });
            let token = token.ok_or_else(|| missing("serviceaccounts", &request.service_account));
            async move { token }.boxed()
        }

        fn forget_tokens(&self, pod: &PodUid) {
            self.with(|s| s.forgotten.push(pod.clone()));
        }
    }
}
