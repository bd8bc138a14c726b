//! Service account tokens for pods, by the TokenRequest API: kept until they are due for renewal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use secrecy::SecretString;
use tokio::time::Instant;

use super::error;
use crate::model::pod::PodUid;
use crate::model::{SignedDuration, Timestamp, clock};

/// For how long a refusal is asked again.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// The first of the pauses between, which double.
const FIRST_RETRY: Duration = Duration::from_millis(25);
/// A token is renewed at the latest when it is that old.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Renewal comes up to that much earlier, so that a node's tokens do not all end in one moment.
const MAX_JITTER_SECONDS: f64 = 10.0;

/// Which token: the cache's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccountTokenRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// The pod that the token is bound to.
    pub pod_name: String,
    /// That pod's UID: the token ends with it.
    pub pod_uid: PodUid,
    /// Whom the token is for; none for the API server itself.
    pub audiences: Vec<String>,
    /// Wanted lifetime, seconds; the server may choose another.
    pub expiration_seconds: Option<i64>,
}

/// A token in force.
#[derive(Clone, Debug)]
pub struct ServiceAccountToken {
    /// The token itself; its Debug shows nothing.
    pub token: SecretString,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When asking again gives a new one (80 % of its life or 24 h, less jitter): a good time for a volume's refresh.
    pub refresh_at: Timestamp,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The first token could not be had.
    #[error("failed to fetch token: {}", error::message(.source))]
    Fetch {
        /// `namespace/name` of the service account.
        account: String,
        /// The API's answer.
        #[source]
        source: ::kube::Error,
    },
    /// The token ended while it could not be renewed.
    #[error("token of service account {account} expired and refresh failed: {}", error::message(.source))]
    Expired {
        /// `namespace/name` of the service account.
        account: String,
        /// The API's answer.
        #[source]
        source: ::kube::Error,
    },
    /// The server's answer holds no token or no end.
    #[error("failed to fetch token: the API's answer for service account {account} is incomplete")]
    Incomplete {
        /// `namespace/name` of the service account.
        account: String,
    },
}

/// Gives out tokens and keeps them. A cheap handle.
#[derive(Clone)]
pub struct TokenManager {
    client: Client,
    now: fn() -> Timestamp,
    tokens: Arc<Mutex<HashMap<ServiceAccountTokenRequest, Slot>>>,
}

/// One key's token; locked while it is fetched, so that two volumes of a pod ask the server once.
type Slot = Arc<tokio::sync::Mutex<Option<ServiceAccountToken>>>;

impl TokenManager {
    /// A manager without tokens.
    pub fn new(client: Client) -> Self {
        TokenManager { client, now: clock::now, tokens: Arc::default() }
    }

    #[cfg(test)]
    fn with_clock(client: Client, now: fn() -> Timestamp) -> Self {
        TokenManager { now, ..TokenManager::new(client) }
    }

    /// The token for this request: the kept one, or a new one if there is none or it is due. A due one that still holds is
    /// given out when the server cannot renew it.
    pub async fn token(&self, request: &ServiceAccountTokenRequest) -> Result<ServiceAccountToken, TokenError> {
        let slot = {
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tokens.entry(request.clone()).or_default())
        };
        let mut kept = slot.lock().await;
        if let Some(token) = kept.as_ref().filter(|t| (self.now)() <= t.refresh_at) {
            return Ok(token.clone());
        }
        match self.fetch(request).await {
            Ok(token) => {
                self.drop_expired();
                Ok(kept.insert(token).clone())
            }
            Err(error) => match (kept.as_ref(), error) {
                (Some(token), error) if (self.now)() <= token.expires_at => {
                    tracing::warn!(account = request.account(), %error, "token not renewed, the old one stays in use");
                    Ok(token.clone())
                }
                (Some(_), TokenError::Fetch { account, source }) => Err(TokenError::Expired { account, source }),
                (_, error) => Err(error),
            },
        }
    }

    /// Forgets a pod's tokens, which ended with it.
    pub fn forget_pod(&self, uid: &PodUid) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).retain(|request, _| request.pod_uid != *uid);
    }

    async fn fetch(&self, request: &ServiceAccountTokenRequest) -> Result<ServiceAccountToken, TokenError> {
        let account = request.account();
        let body = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(request.audiences.clone()),
                expiration_seconds: request.expiration_seconds,
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(request.pod_name.clone()),
                    uid: Some(request.pod_uid.to_string()),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &request.namespace);
        // The API server's node authorizer and its NodeRestriction plugin learn of a fresh pod some ten milliseconds after its
        // watchers may: a refusal is asked again for a while.
        let deadline = Instant::now() + REFUSED_FOR;
        let mut pause = FIRST_RETRY;
        let answer = loop {
            match api.create_token_request(&request.service_account, &PostParams::default(), &body).await {
                Ok(answer) => break answer,
                Err(source) if may_be_too_early(&source, request) && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(source) => return Err(TokenError::Fetch { account, source }),
            }
        };
        let lifetime = answer.spec.and_then(|s| s.expiration_seconds);
        let status = answer.status.unwrap_or_default();
        match (status.token, status.expiration_timestamp) {
            (Some(token), Some(end)) => {
                let refresh_at = refresh_at(end.0, lifetime, (self.now)(), rand::random());
                Ok(ServiceAccountToken { token: token.into(), expires_at: end.0, refresh_at })
            }
            _ => Err(TokenError::Incomplete { account }),
        }
    }

    /// Drops what has ended; at each new token, so that the cache is bounded by the tokens in force.
    fn drop_expired(&self) {
        let now = (self.now)();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, slot| match slot.try_lock() {
            Ok(token) => token.as_ref().is_some_and(|t| t.expires_at >= now),
            // Being fetched.
            Err(_) => true,
        });
    }
}

/// Whether this may only say that a part of the API server has not heard of the pod yet.
fn may_be_too_early(error: &::kube::Error, request: &ServiceAccountTokenRequest) -> bool {
    let is_of_pod = |error| {
        let details = error::status(error).and_then(|status| status.details.as_ref());
        // So a cache names it. The storage, which knows, speaks of `pods`.
        details.is_some_and(|d| d.kind == "pod" && d.name == request.pod_name)
    };
    error::is_forbidden(error) || (error::is_not_found(error) && is_of_pod(error))
}

impl ServiceAccountTokenRequest {
    fn account(&self) -> String {
        format!("{}/{}", self.namespace, self.service_account)
    }
}

/// When a token is due: at 80 % of its life or at 24 h, whichever is first, less up to 10 s by `random` (0 to 1). The life's
/// begin is counted back from its end, since the server's clock, not ours, set it.
fn refresh_at(expires_at: Timestamp, lifetime_seconds: Option<i64>, now: Timestamp, random: f64) -> Timestamp {
    let lifetime = match lifetime_seconds {
        Some(seconds) if seconds > 0 => SignedDuration::from_secs(seconds),
        _ => expires_at.duration_since(now),
    };
    let last_fifth = SignedDuration::from_secs(lifetime.as_secs() * 20 / 100);
    let begin = expires_at.saturating_sub(lifetime).unwrap_or(now);
    let by_age = begin.saturating_add(MAX_AGE).unwrap_or(expires_at);
    let by_end = expires_at.saturating_sub(last_fifth).unwrap_or(now);
    let jitter = SignedDuration::from_secs_f64(MAX_JITTER_SECONDS * random.clamp(0.0, 1.0));
    by_age.min(by_end).saturating_sub(jitter).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use proptest::prelude::*;
    use rstest::rstest;
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::super::testing::{Exchange, FakeApi};
    use super::*;

    const BASE: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(BASE + second).unwrap()
    }

    fn request(pod: &str) -> ServiceAccountTokenRequest {
        ServiceAccountTokenRequest {
            namespace: "ns".into(),
            service_account: "sa".into(),
            pod_name: pod.into(),
            pod_uid: format!("uid-{pod}").into(),
            audiences: vec!["api".into()],
            expiration_seconds: Some(3607),
        }
    }

    fn grant(exchange: Exchange, token: &str, end: i64) {
        let mut answer = exchange.body();
        answer["status"] = json!({"token": token, "expirationTimestamp": at(end).to_string()});
        exchange.json(answer);
    }

    async fn ask(manager: &TokenManager, request: &ServiceAccountTokenRequest) -> Result<String, String> {
        manager.token(request).await.map(|t| t.token.expose_secret().to_owned()).map_err(|e| e.to_string())
    }

    #[rstest]
    #[case::hour(3600, 2880)]
    #[case::week(7 * 86_400, 86_400)]
    #[case::short(600, 480)]
    fn due_at_four_fifths_or_a_day(#[case] lifetime: i64, #[case] due: i64) {
        assert_eq!(refresh_at(at(lifetime), Some(lifetime), at(0), 0.0), at(due));
        assert_eq!(refresh_at(at(lifetime), Some(lifetime), at(0), 1.0), at(due - 10));
    }

    #[test]
    fn without_a_lifetime_the_rest_counts() {
        assert_eq!(refresh_at(at(1000), None, at(0), 0.0), at(800));
    }

    proptest! {
        #[test]
        fn due_before_the_end(lifetime in 60i64..10_000_000, random in 0.0f64..=1.0) {
            let due = refresh_at(at(lifetime), Some(lifetime), at(0), random);
            prop_assert!(due < at(lifetime));
            prop_assert!(due <= at(86_400));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn kept_renewed_and_kept_over_an_outage() {
        static NOW: AtomicI64 = AtomicI64::new(0);
        let mut fake = FakeApi::new();
        let manager = TokenManager::with_clock(fake.client(), || at(NOW.load(Ordering::SeqCst)));
        let wanted = request("p");
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async {
            let exchange = fake.next().await;
            assert_eq!(exchange.path(), "/api/v1/namespaces/ns/serviceaccounts/sa/token?");
            let spec = exchange.body()["spec"].clone();
            let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "uid-p"});
            assert_eq!(spec, json!({"audiences": ["api"], "expirationSeconds": 3607, "boundObjectRef": bound}));
            grant(exchange, "one", 3607);
        });
        assert_eq!(token.unwrap(), "one");
        NOW.store(2800, Ordering::SeqCst);
        assert_eq!(ask(&manager, &wanted).await.unwrap(), "one");

        NOW.store(2900, Ordering::SeqCst);
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async { fake.next().await.refuse() });
        assert_eq!(token.unwrap(), "one", "the old one while it holds");

        NOW.store(3700, Ordering::SeqCst);
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async { fake.next().await.refuse() });
        assert_eq!(
            token.unwrap_err(),
            "token of service account ns/sa expired and refresh failed: ServiceError: connection refused"
        );
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async { grant(fake.next().await, "two", 7400) });
        assert_eq!(token.unwrap(), "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_a_fresh_pod_is_asked_again() {
        let mut fake = FakeApi::new();
        let manager = TokenManager::with_clock(fake.client(), || at(0));
        let wanted = request("p");
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async {
            for _ in 0..2 {
                fake.next().await.status(403, "Forbidden", "no relationship found");
                fake.next().await.missing("pod", "p");
            }
            grant(fake.next().await, "one", 3607);
        });
        assert_eq!(token.unwrap(), "one");

        let other = request("other");
        let begin = Instant::now();
        let refuse = async {
            loop {
                fake.next().await.status(403, "Forbidden", "no relationship found");
            }
        };
        let token = tokio::select! {
            token = ask(&manager, &other) => token,
            () = refuse => unreachable!(),
        };
        assert_eq!(token.unwrap_err(), "failed to fetch token: no relationship found");
        assert!(begin.elapsed() <= REFUSED_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn two_askers_one_request() {
        let mut fake = FakeApi::new();
        let manager = TokenManager::with_clock(fake.client(), || at(0));
        let wanted = request("p");
        let (one, two, ()) = tokio::join!(ask(&manager, &wanted), ask(&manager, &wanted), async {
            grant(fake.next().await, "one", 3607);
        });
        assert_eq!((one.unwrap(), two.unwrap()), ("one".into(), "one".into()));
        assert!(fake.waiting().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_bounded() {
        static NOW: AtomicI64 = AtomicI64::new(0);
        let mut fake = FakeApi::new();
        let manager = TokenManager::with_clock(fake.client(), || at(NOW.load(Ordering::SeqCst)));
        for (pod, end) in [("a", 600), ("b", 3607)] {
            let wanted = request(pod);
            let (token, ()) = tokio::join!(ask(&manager, &wanted), async { grant(fake.next().await, pod, end) });
            token.unwrap();
        }
        NOW.store(700, Ordering::SeqCst);
        let wanted = request("c");
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async { grant(fake.next().await, "c", 5000) });
        token.unwrap();
        assert_eq!(manager.tokens.lock().unwrap().len(), 2, "the ended one is gone");
        manager.forget_pod(&"uid-c".into());
        assert_eq!(manager.tokens.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_account_is_said_in_the_apis_words() {
        let mut fake = FakeApi::new();
        let manager = TokenManager::new(fake.client());
        let wanted = request("p");
        let (token, ()) = tokio::join!(ask(&manager, &wanted), async {
            fake.next().await.missing("serviceaccounts", "sa");
        });
        assert_eq!(token.unwrap_err(), "failed to fetch token: serviceaccounts \"sa\" not found");
    }
}
