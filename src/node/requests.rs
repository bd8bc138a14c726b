//! Requests to the API server with a time limit, and what can go wrong with the node.

use std::future::Future;
use std::time::Duration;

use crate::kube::error;

/// Why something about the node could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The API server refused, or could not be reached.
    #[error("cannot {action}")]
    Api {
        /// What was asked for, with the object's name.
        action: String,
        /// Its answer.
        source: Box<::kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("cannot {action}: no answer within {limit:?}")]
    Timeout {
        /// What was asked for, with the object's name.
        action: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The node has no UID, so nothing can be owned by it.
    #[error("node {node} has no UID yet")]
    NoUid {
        /// The node.
        node: String,
    },
    /// The CSINode belonged to an earlier Node of the same name and was deleted; the next try makes a new one.
    #[error("CSINode {node} belonged to another node {node}, uid {owner}; it was deleted")]
    ForeignCsiNode {
        /// The node.
        node: String,
        /// The UID that owned it.
        owner: String,
    },
    /// A patch could not be computed.
    #[error("cannot compute the patch of node {node}")]
    Patch {
        /// The node.
        node: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A task that must run as long as the agent ended by itself.
    #[error("the {task} task of the node ended unexpectedly")]
    TaskEnded {
        /// The task.
        task: &'static str,
    },
    /// A task panicked.
    #[error("a task of the node failed")]
    TaskFailed {
        /// How.
        source: tokio::task::JoinError,
    },
}

impl NodeError {
    fn source(&self) -> Option<&::kube::Error> {
        match self {
            NodeError::Api { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source().is_some_and(error::is_not_found)
    }

    /// An object of that name exists already.
    pub fn is_already_exists(&self) -> bool {
        self.source().is_some_and(error::is_already_exists)
    }

    /// The object was changed by someone else meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.source().is_some_and(error::is_conflict)
    }

    /// The agent is not allowed to.
    pub fn is_forbidden(&self) -> bool {
        self.source().is_some_and(error::is_forbidden)
    }

    /// The API server answered and will not answer otherwise by itself: the cause is more than an outage.
    pub fn is_refusal(&self) -> bool {
        self.source().is_some_and(|source| error::status(source).is_some() && !error::is_transient(source))
    }

    /// The error and what caused it, in one line.
    pub fn chain(&self) -> String {
        match self {
            NodeError::Api { source, .. } => format!("{self}: {}", error::message(source)),
            other => error::chain(other),
        }
    }
}

/// Awaits a request at most for `limit`. A request that is cut off frees its connection.
pub(super) async fn within<T>(
    limit: Duration,
    action: impl FnOnce() -> String,
    request: impl Future<Output = Result<T, ::kube::Error>>,
) -> Result<T, NodeError> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(NodeError::Api { action: action(), source: Box::new(source) }),
        Err(_) => Err(NodeError::Timeout { action: action(), limit }),
    }
}

/// Waits that double from a first one up to 7 s, the peer's longest.
#[derive(Debug)]
pub(super) struct Doubling {
    next: Duration,
}

impl Doubling {
    pub(super) const LONGEST: Duration = Duration::from_secs(7);

    pub(super) fn from(first: Duration) -> Self {
        Doubling { next: first }
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.next.min(Self::LONGEST);
        self.next = wait * 2;
        wait
    }
}

/// The span, longer by a random part of up to 4 %, so that a fleet does not beat in step.
pub(super) fn jittered(span: Duration) -> Duration {
    span.mul_f64(1.0 + 0.04 * rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_seven_seconds() {
        let mut waits = Doubling::from(Duration::from_millis(100));
        let millis: Vec<_> = std::iter::repeat_with(|| waits.next().as_millis()).take(9).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 6400, 7000, 7000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_request_ends() {
        let request = std::future::pending::<Result<(), ::kube::Error>>();
        let error = within(Duration::from_secs(10), || "get node n".into(), request).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot get node n: no answer within 10s");
        assert!(!error.is_refusal());
    }
}
