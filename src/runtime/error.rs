//! What can go wrong between the agent and the container runtime.

use std::sync::Arc;
use std::time::Duration;

pub use tonic::Code;

/// A call to the container runtime that failed. `Display` is the text for events and status messages: for an answer of the
/// runtime it is the runtime's message alone, without the gRPC code, as the peer shows it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime answered with an error.
    #[error("{message}")]
    Refused {
        /// The call.
        rpc: &'static str,
        /// The gRPC status code.
        code: Code,
        /// The runtime's words.
        message: String,
    },
    /// No connection could be made: the socket is away or nobody listens on it.
    #[error("the container runtime at {endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// The call.
        rpc: &'static str,
        /// The endpoint as configured.
        endpoint: Arc<str>,
        /// The first cause, as the system words it.
        cause: String,
        /// The whole chain.
        #[source]
        source: Arc<tonic::Status>,
    },
    /// The connection broke while the call was under way; whether the runtime acted on it is not known.
    #[error("the connection to the container runtime at {endpoint} broke during {rpc}: {cause}")]
    Interrupted {
        /// The call.
        rpc: &'static str,
        /// The endpoint as configured.
        endpoint: Arc<str>,
        /// The first cause, as the system words it.
        cause: String,
        /// The whole chain.
        #[source]
        source: Arc<tonic::Status>,
    },
    /// The runtime did not answer in time; whether it acted on the call is not known.
    #[error("the container runtime at {endpoint} did not answer {rpc} within {after:?}")]
    Timeout {
        /// The call.
        rpc: &'static str,
        /// The endpoint as configured.
        endpoint: Arc<str>,
        /// How long it was waited for.
        after: Duration,
    },
    /// The runtime answered with something that CRI does not allow.
    #[error("the container runtime's answer to {rpc} cannot be used: {problem}")]
    Malformed {
        /// The call.
        rpc: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A configured endpoint is none that this client can use.
    #[error("{endpoint:?} is no endpoint of a container runtime: {problem}")]
    Endpoint {
        /// The endpoint as configured.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl RuntimeError {
    /// The gRPC code, given also to what went wrong on this side of the socket.
    pub fn code(&self) -> Code {
        match self {
            RuntimeError::Refused { code, .. } => *code,
            RuntimeError::Unreachable { .. } | RuntimeError::Interrupted { .. } => Code::Unavailable,
            RuntimeError::Timeout { .. } => Code::DeadlineExceeded,
            RuntimeError::Malformed { .. } => Code::Internal,
            RuntimeError::Endpoint { .. } => Code::InvalidArgument,
        }
    }

    /// Whether the object of the call does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// Whether the runtime is away or not ready to serve, so that the same call is worth trying again soon.
    pub fn is_unavailable(&self) -> bool {
        self.code() == Code::Unavailable
    }

    /// Whether time ran out, on either side of the socket.
    pub fn is_timeout(&self) -> bool {
        self.code() == Code::DeadlineExceeded
    }

    /// Whether something else must happen first, such as the end of a process.
    pub fn is_failed_precondition(&self) -> bool {
        self.code() == Code::FailedPrecondition
    }

    /// Whether the runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Code::Unimplemented
    }

    /// Classifies a failed call. A status without a source came over the wire; one with a source was made on this side.
    pub(super) fn from_status(
        rpc: &'static str,
        endpoint: &Arc<str>,
        timeout: Option<Duration>,
        status: tonic::Status,
    ) -> Self {
        let Some(source) = std::error::Error::source(&status) else {
            return RuntimeError::Refused { rpc, code: status.code(), message: status.message().to_owned() };
        };
        let endpoint = endpoint.clone();
        if let Some(after) = timeout
            && chain(source).any(|e| e.is::<tonic::TimeoutExpired>())
        {
            return RuntimeError::Timeout { rpc, endpoint, after };
        }
        let cause = chain(source).last().unwrap_or(source).to_string();
        let never_sent = chain(source).any(|e| e.is::<tonic::ConnectError>());
        let source = Arc::new(status);
        if never_sent {
            RuntimeError::Unreachable { rpc, endpoint, cause, source }
        } else {
            RuntimeError::Interrupted { rpc, endpoint, cause, source }
        }
    }
}

fn chain<'a>(
    first: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(first), |e| e.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<str> {
        "unix:///run/test.sock".into()
    }

    #[test]
    fn an_answer_shows_the_runtimes_words_alone() {
        let status = tonic::Status::not_found("an error occurred when try to find sandbox: not found");
        let error = RuntimeError::from_status("PodSandboxStatus", &endpoint(), None, status);
        assert_eq!(error.to_string(), "an error occurred when try to find sandbox: not found");
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.is_not_found() && !error.is_unavailable());
    }

    #[test]
    fn a_connection_error_names_the_endpoint_and_the_first_cause() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = tonic::Status::from_error(Box::new(tonic::ConnectError(Box::new(io))));
        let error = RuntimeError::from_status("Status", &endpoint(), None, status);
        assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error:?}");
        assert!(error.is_unavailable());
        assert_eq!(
            error.to_string(),
            "the container runtime at unix:///run/test.sock cannot be reached: connection refused"
        );
    }

    #[test]
    fn a_broken_call_is_told_from_one_that_was_never_sent() {
        let io = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error =
            RuntimeError::from_status("RunPodSandbox", &endpoint(), None, tonic::Status::from_error(Box::new(io)));
        assert!(matches!(error, RuntimeError::Interrupted { .. }), "{error:?}");
        assert!(error.is_unavailable());
        assert!(error.to_string().contains("broke during RunPodSandbox: broken pipe"), "{error}");
    }
}
