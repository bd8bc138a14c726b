//! What a failed API request means: gone, conflicting, forbidden, or worth another try.

use std::error::Error as StdError;

use ::kube::core::Status;

/// An API request that failed, with what was asked of which object.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {}", message(.source))]
pub struct ApiError {
    /// What was asked for, such as `patch status of`.
    pub operation: &'static str,
    /// The object, such as `pod default/web`.
    pub object: String,
    /// The client's error.
    #[source]
    pub source: ::kube::Error,
}

impl ApiError {
    /// Wraps the client's error.
    pub fn new(operation: &'static str, object: impl Into<String>, source: ::kube::Error) -> Self {
        ApiError { operation, object: object.into(), source }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        is_not_found(&self.source)
    }

    /// A precondition (UID, resource version) does not hold.
    pub fn is_conflict(&self) -> bool {
        is_conflict(&self.source)
    }

    /// The object of that name is not the one that was meant: another has taken its place.
    pub fn is_other_uid(&self) -> bool {
        is_other_uid(&self.source)
    }

    /// The same request may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        is_transient(&self.source)
    }
}

/// The server's answer, if the error is one.
pub fn status(error: &::kube::Error) -> Option<&Status> {
    match error {
        ::kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The object, its namespace or its resource does not exist.
pub fn is_not_found(error: &::kube::Error) -> bool {
    status(error).is_some_and(|s| s.code == 404 || s.is_not_found())
}

/// A precondition (UID, resource version) does not hold. An object that exists already is not meant, although it is a 409 too.
pub fn is_conflict(error: &::kube::Error) -> bool {
    status(error).is_some_and(|s| s.is_conflict() || (s.code == 409 && !s.is_already_exists()) || names_other_uid(s))
}

/// The request carried the UID of an object that was replaced by another of the same name. Unlike other conflicts this one is
/// for good.
pub fn is_other_uid(error: &::kube::Error) -> bool {
    status(error).is_some_and(names_other_uid)
}

/// A patch with another UID is refused by a 422, as an attempt to change an immutable field; a precondition by a 409 that only
/// its text tells from a lost race.
fn names_other_uid(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    let immutable = status.code == 422 && causes.map(|c| c.field.as_str()).any(|field| field == "metadata.uid");
    immutable || (status.code == 409 && status.message.contains("UID in precondition"))
}

/// The object exists already.
pub fn is_already_exists(error: &::kube::Error) -> bool {
    status(error).is_some_and(Status::is_already_exists)
}

/// The authorizer said no. Of a node's credentials this may be a matter of milliseconds: the node authorizer learns of a pod's
/// references from its own watch.
pub fn is_forbidden(error: &::kube::Error) -> bool {
    status(error).is_some_and(|s| s.code == 403 || s.is_forbidden())
}

/// The resource version asked for is no longer, or not yet, known to the server: only a list helps.
pub fn is_expired(status: &Status) -> bool {
    status.code == 410 || status.reason == "Expired" || status.reason == "Gone" || is_future_version(status)
}

/// The server knows only older versions than the one asked for, as after a restore of etcd.
fn is_future_version(status: &Status) -> bool {
    let caused = status.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "ResourceVersionTooLarge");
    status.code == 504 && (caused || status.message.contains("Too large resource version"))
}

/// The same request may succeed later, unchanged: the server is away, overloaded or starting.
pub fn is_transient(error: &::kube::Error) -> bool {
    match error {
        ::kube::Error::Api(status) => matches!(status.code, 408 | 429 | 500 | 502 | 503 | 504),
        ::kube::Error::HyperError(_) | ::kube::Error::Service(_) | ::kube::Error::ReadEvents(_) => true,
        // A body that was cut off by a proxy or a dying server.
        ::kube::Error::FromUtf8(_) | ::kube::Error::SerdeError(_) => true,
        _ => false,
    }
}

/// The server's own words if it answered, else the whole chain of causes in one line.
pub fn message(error: &::kube::Error) -> String {
    match error {
        ::kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

/// An error and its causes in one line; a cause that the text before already holds is left out.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> ::kube::Error {
        ::kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    #[rstest]
    #[case::gone(404, "NotFound", [true, false, false, false])]
    #[case::conflict(409, "Conflict", [false, true, false, false])]
    #[case::exists(409, "AlreadyExists", [false, false, false, false])]
    #[case::forbidden(403, "Forbidden", [false, false, true, false])]
    #[case::busy(429, "TooManyRequests", [false, false, false, true])]
    #[case::broken(500, "InternalError", [false, false, false, true])]
    #[case::starting(503, "ServiceUnavailable", [false, false, false, true])]
    #[case::invalid(422, "Invalid", [false, false, false, false])]
    fn classes(#[case] code: u16, #[case] reason: &str, #[case] expected: [bool; 4]) {
        let error = api(code, reason, "text");
        assert_eq!([is_not_found(&error), is_conflict(&error), is_forbidden(&error), is_transient(&error)], expected);
    }

    #[test]
    fn another_uid_is_a_conflict() {
        let refusal = |field: &str| -> ::kube::Error {
            let causes =
                serde_json::json!([{"reason": "FieldValueInvalid", "message": "field is immutable", "field": field}]);
            let status =
                serde_json::json!({"code": 422, "reason": "Invalid", "message": "m", "details": {"causes": causes}});
            ::kube::Error::Api(serde_json::from_value(status).unwrap())
        };
        for (error, expected) in [(refusal("metadata.uid"), true), (refusal("status.phase"), false)] {
            assert_eq!((is_conflict(&error), is_other_uid(&error)), (expected, expected));
        }
        let precondition = "Precondition failed: UID in precondition: a, UID in object meta: b";
        assert!(is_other_uid(&api(409, "Conflict", precondition)));
        let lost_race =
            api(409, "Conflict", "the object has been modified; please apply your changes to the latest version");
        assert!(is_conflict(&lost_race) && !is_other_uid(&lost_race));
    }

    #[rstest]
    #[case(410, "Expired", "", true)]
    #[case(410, "Gone", "", true)]
    #[case(504, "Timeout", "Too large resource version: 9, current: 5", true)]
    #[case(504, "Timeout", "etcd is slow", false)]
    #[case(500, "InternalError", "", false)]
    fn expiry(#[case] code: u16, #[case] reason: &str, #[case] message: &str, #[case] expected: bool) {
        assert_eq!(is_expired(&Status::failure(message, reason).with_code(code)), expected);
    }

    #[test]
    fn transport_errors_are_transient_and_say_their_cause() {
        let cause = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let error = ::kube::Error::Service(Box::new(cause));
        assert!(is_transient(&error));
        let shown = ApiError::new("patch status of", "node n1", error).to_string();
        assert_eq!(shown, "patch status of node n1: ServiceError: connection refused");
    }
}
