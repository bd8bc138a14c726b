//! Who calls: by client certificate, by bearer token, or nobody if that is allowed.

use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Api, PostParams};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use secrecy::{ExposeSecret, SecretString};

use super::client_ca::{CertificateError, ClientAuthorities};
use super::listener::Peer;
use super::review::{Kind, Question, ReviewError, Reviews};
use super::user::User;
use super::websocket_token::{self, ProtocolTokenError};
use crate::config::types::KubeletAuthentication;
use crate::model::Timestamp;

/// Why callers cannot be identified at all.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationSetupError {
    /// Tokens need an API server to ask.
    #[error("authentication.webhook.enabled is true, which needs an API server (--kubeconfig)")]
    NoApi,
    /// Nothing is turned on.
    #[error(
        "no authentication method is configured: set authentication.x509.clientCAFile, or authentication.webhook.enabled or \
         authentication.anonymous.enabled to true"
    )]
    NoMethod,
}

/// Why a caller is not taken. For the log: the caller is told no more than 401.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unauthenticated {
    #[error("no credentials")]
    NoCredentials,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error(transparent)]
    ProtocolToken(#[from] ProtocolTokenError),
    #[error("the token is not valid")]
    Token,
}

/// Finds out who calls.
pub(super) struct Authenticator {
    authorities: Option<Arc<ClientAuthorities>>,
    tokens: Option<Tokens>,
    anonymous: bool,
}

struct Tokens {
    client: ::kube::Client,
    answers: Reviews<Option<User>>,
    keep: Duration,
}

impl Authenticator {
    /// As configured; `authorities` are those of `x509.clientCAFile`.
    pub(super) fn new(
        configuration: &KubeletAuthentication,
        authorities: Option<Arc<ClientAuthorities>>,
        client: Option<&::kube::Client>,
    ) -> Result<Self, AuthenticationSetupError> {
        let webhook = &configuration.webhook;
        let tokens = match client {
            _ if !webhook.enabled => None,
            None => return Err(AuthenticationSetupError::NoApi),
            Some(client) => Some(Tokens {
                client: client.clone(),
                answers: Reviews::new(Kind::TokenReview),
                keep: super::authorization::duration(webhook.cache_ttl),
            }),
        };
        let anonymous = configuration.anonymous.enabled;
        if authorities.is_none() && tokens.is_none() && !anonymous {
            return Err(AuthenticationSetupError::NoMethod);
        }
        Ok(Authenticator { authorities, tokens, anonymous })
    }

    /// The caller. A certificate comes before a token; one that is not valid does not keep a valid token out, but never
    /// makes its caller anonymous.
    pub(super) async fn authenticate(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<User, Unauthenticated> {
        let mut refused = None;
        if let Some(authorities) = self.authorities.as_ref().filter(|_| !peer.certificates.is_empty()) {
            match by_certificate(authorities, peer, now) {
                Ok(Some(user)) => return Ok(user.authenticated()),
                Ok(None) => {}
                Err(error) => refused = Some(error.into()),
            }
        }
        if let Some(tokens) = &self.tokens {
            let shown = [Ok(bearer_token(headers)), websocket_token::token(headers)];
            for token in shown {
                let reviewed = match token {
                    Ok(None) => continue,
                    Ok(Some(token)) => tokens.review(token).await,
                    Err(error) => Err(error.into()),
                };
                match reviewed {
                    Ok(user) => return Ok(user.authenticated()),
                    Err(error) => refused = Some(error),
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if self.anonymous => Ok(User::anonymous()),
            None => Err(Unauthenticated::NoCredentials),
        }
    }
}

fn by_certificate(
    authorities: &ClientAuthorities,
    peer: &Peer,
    now: Timestamp,
) -> Result<Option<User>, CertificateError> {
    authorities.verify(&peer.certificates, now)?;
    let Some(own) = peer.certificates.first() else { return Ok(None) };
    User::of_certificate(own)
}

/// The token of an `Authorization: Bearer` header, in any case and spacing that the peer takes.
fn bearer_token(headers: &HeaderMap) -> Option<SecretString> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, rest) = value.split_once(' ')?;
    let token = rest.split(' ').next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| SecretString::from(token))
}

impl Tokens {
    async fn review(&self, token: SecretString) -> Result<User, Unauthenticated> {
        let question = Question::new(token.expose_secret().as_bytes());
        let api = Api::<TokenReview>::all(self.client.clone());
        let ask = move || {
            let (api, token) = (api.clone(), token.clone());
            async move {
                let spec = TokenReviewSpec { token: token.expose_secret().to_owned(), audiences: None };
                let review = TokenReview { spec, ..TokenReview::default() };
                let answer = api.create(&PostParams::default(), &review).await?;
                Ok(answered(answer.status.unwrap_or_default()))
            }
        };
        let keep = self.keep;
        self.answers.answer(question, ask, |_| keep).await?.ok_or(Unauthenticated::Token)
    }
}

/// What the API server says of a token. A reason is a failure, which is not kept, as in the peer.
fn answered(status: TokenReviewStatus) -> Result<Option<User>, String> {
    if status.authenticated != Some(true) {
        return match status.error.filter(|error| !error.is_empty()) {
            Some(error) => Err(error),
            None => Ok(None),
        };
    }
    let user = status.user.unwrap_or_default();
    Ok(Some(User {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Bearer abc", Some("abc"))]
    #[case("  bearer abc ", Some("abc"))]
    #[case("BEARER abc def", Some("abc"))]
    #[case("Bearer  abc", None)]
    #[case("Bearer", None)]
    #[case("Bearer ", None)]
    #[case("Basic abc", None)]
    #[case("", None)]
    fn bearer_tokens(#[case] header: &str, #[case] expected: Option<&str>) {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, header.parse().unwrap())]);
        assert_eq!(bearer_token(&headers).as_ref().map(|token| token.expose_secret()), expected);
    }

    #[test]
    fn no_way_to_identify_anyone_ends_the_start() {
        let mut configuration = KubeletAuthentication::default();
        let error = Authenticator::new(&configuration, None, None).err().unwrap();
        assert!(matches!(error, AuthenticationSetupError::NoApi));
        configuration.webhook.enabled = false;
        let error = Authenticator::new(&configuration, None, None).err().unwrap();
        assert!(matches!(error, AuthenticationSetupError::NoMethod));
        configuration.anonymous.enabled = true;
        assert!(Authenticator::new(&configuration, None, None).is_ok());
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        assert_eq!(answered(TokenReviewStatus::default()), Ok(None));
        let with_reason = TokenReviewStatus { error: Some("expired".to_owned()), ..TokenReviewStatus::default() };
        assert_eq!(answered(with_reason), Err("expired".to_owned()));
    }
}
