//! Whether a caller may do what it asks: everything, or what a SubjectAccessReview of the Node's subresources allows.

use std::time::Duration;

use ::kube::api::{Api, PostParams};
use axum::http::Method;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};

use super::review::{Kind, Question, ReviewError, Reviews};
use super::user::User;
use crate::config::types::KubeletAuthorization;
use crate::model::go_duration::GoDuration;

/// Why callers cannot be allowed or refused at all.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizationSetupError {
    /// `Webhook` needs an API server to ask.
    #[error("authorization.mode is Webhook, which needs an API server (--kubeconfig)")]
    NoApi,
    /// Not a mode.
    #[error("authorization.mode {mode:?}: must be Webhook or AlwaysAllow")]
    Mode {
        /// The setting.
        mode: String,
    },
}

/// Answers what a caller may do.
pub(super) enum Authorizer {
    /// Everything.
    AlwaysAllow,
    /// What the API server says.
    Webhook(Box<AccessReviews>),
}

pub(super) struct AccessReviews {
    client: ::kube::Client,
    node_name: String,
    answers: Reviews<bool>,
    keep_yes: Duration,
    keep_no: Duration,
}

/// The API's verb of a method; empty for one that has none, as in the peer, which only a rule for all verbs allows.
pub(super) fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

impl Authorizer {
    /// As configured.
    pub(super) fn new(
        configuration: &KubeletAuthorization,
        node_name: &str,
        client: Option<&::kube::Client>,
    ) -> Result<Self, AuthorizationSetupError> {
        match (configuration.mode.as_str(), client) {
            ("AlwaysAllow", _) => Ok(Authorizer::AlwaysAllow),
            ("Webhook", None) => Err(AuthorizationSetupError::NoApi),
            ("Webhook", Some(client)) => Ok(Authorizer::Webhook(Box::new(AccessReviews {
                client: client.clone(),
                node_name: node_name.to_owned(),
                answers: Reviews::new(Kind::SubjectAccessReview),
                keep_yes: duration(configuration.webhook.cache_authorized_ttl),
                keep_no: duration(configuration.webhook.cache_unauthorized_ttl),
            }))),
            (mode, _) => Err(AuthorizationSetupError::Mode { mode: mode.to_owned() }),
        }
    }

    /// Whether the user may do `verb` to `nodes/<subresource>` of this node.
    pub(super) async fn allows(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, ReviewError> {
        match self {
            Authorizer::AlwaysAllow => Ok(true),
            Authorizer::Webhook(reviews) => reviews.allows(user, verb, subresource).await,
        }
    }
}

impl AccessReviews {
    async fn allows(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, ReviewError> {
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes: Some(ResourceAttributes {
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some(subresource.to_owned()),
                name: Some(self.node_name.clone()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let unwritable = |error: serde_json::Error| ReviewError::Answer {
            kind: Kind::SubjectAccessReview,
            message: error.to_string(),
        };
        let question = Question::new(&serde_json::to_vec(&spec).map_err(unwritable)?);
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let ask = move || {
            let (api, spec) = (api.clone(), spec.clone());
            async move {
                let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
                let answer = api.create(&PostParams::default(), &review).await?;
                Ok(answered(&answer.status.unwrap_or_default()))
            }
        };
        self.answers.answer(question, ask, |allowed| if *allowed { self.keep_yes } else { self.keep_no }).await
    }
}

fn answered(status: &SubjectAccessReviewStatus) -> Result<bool, String> {
    match (status.allowed, status.denied == Some(true)) {
        (true, true) => Err("the answer is both yes and no".to_owned()),
        (allowed, _) => Ok(allowed),
    }
}

/// A configured duration; a negative one is none.
pub(super) fn duration(duration: GoDuration) -> Duration {
    Duration::from_nanos(u64::try_from(duration.as_nanos()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let mode = |mode: &str| KubeletAuthorization { mode: mode.to_owned(), ..KubeletAuthorization::default() };
        assert!(matches!(Authorizer::new(&mode("AlwaysAllow"), "n", None), Ok(Authorizer::AlwaysAllow)));
        assert!(matches!(Authorizer::new(&mode("Webhook"), "n", None), Err(AuthorizationSetupError::NoApi)));
        assert!(matches!(Authorizer::new(&mode(""), "n", None), Err(AuthorizationSetupError::Mode { .. })));
    }

    #[test]
    fn yes_and_no_at_once_is_neither() {
        let status =
            |allowed, denied| SubjectAccessReviewStatus { allowed, denied, ..SubjectAccessReviewStatus::default() };
        assert_eq!(answered(&status(true, None)), Ok(true));
        assert_eq!(answered(&status(false, Some(true))), Ok(false));
        assert_eq!(answered(&SubjectAccessReviewStatus::default()), Ok(false));
        assert!(answered(&status(true, Some(true))).is_err());
    }
}
