//! The runtime's event stream, kept open. Events are hints: all that is taken from one is the pod to look at again.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use crate::model::pod::PodUid;

use super::client::RuntimeClient;
use super::cri;
use super::error::RuntimeError;
use super::labels;

/// A stream that is open for so long without an error works, though it may have given no event yet: runtimes answer the call
/// only with the first event, but refuse it at once.
const PROBATION: Duration = Duration::from_secs(1);
/// Wait before the stream is opened again after it broke.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before it is opened again.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Wait before a runtime that knows no events is asked again; it may have been replaced by one that does.
const UNSUPPORTED_RETRY: Duration = Duration::from_secs(300);

/// What the stream has to say.
#[derive(Debug)]
pub(super) enum Signal {
    /// Something happened to a container or sandbox.
    Event(Box<cri::ContainerEventResponse>),
    /// The stream was opened; events before this moment may be lost.
    Opened,
    /// The stream broke or could not be opened.
    Lost(RuntimeError),
}

/// The event stream, opened again and again.
pub(super) struct Events {
    client: RuntimeClient,
    state: State,
    retry: Duration,
}

enum State {
    Open { stream: BoxStream<'static, Result<cri::ContainerEventResponse, RuntimeError>>, since: Instant, proven: bool },
    Closed { until: Instant },
}

impl Events {
    /// A stream that is opened by the first [`Events::next`].
    pub(super) fn new(client: RuntimeClient) -> Self {
        Events { client, state: State::Closed { until: Instant::now() }, retry: FIRST_RETRY }
    }

    /// The next signal. Cancel-safe: the stream is held by `self`.
    pub(super) async fn next(&mut self) -> Signal {
        match &mut self.state {
            State::Closed { until } => {
                tokio::time::sleep_until(*until).await;
                let client = self.client.clone();
                let open = async move {
                    let events = client.container_events().await?;
                    Ok(events.map_err(move |status| client.event_error(status)))
                };
                let stream = futures::stream::once(open).try_flatten().boxed();
                self.state = State::Open { stream, since: Instant::now(), proven: false };
                Signal::Opened
            }
            State::Open { stream, since, proven } => match stream.next().await {
                Some(Ok(event)) => {
                    *proven = true;
                    Signal::Event(Box::new(event))
                }
                end => {
                    let error = match end {
                        Some(Err(error)) => error,
                        _ => super::client::malformed("GetContainerEvents", "the runtime ended the stream"),
                    };
                    // A stream that worked for a while starts the back-off anew.
                    let worked = *proven || since.elapsed() >= LAST_RETRY;
                    let retry = if worked { FIRST_RETRY } else { self.retry };
                    let wait = if error.is_unimplemented() { UNSUPPORTED_RETRY } else { retry };
                    self.retry = (retry * 2).min(LAST_RETRY);
                    self.state = State::Closed { until: Instant::now() + wait };
                    Signal::Lost(error)
                }
            },
        }
    }

    /// Whether events can be trusted to come.
    pub(super) fn is_working(&self) -> bool {
        match &self.state {
            State::Open { since, proven, .. } => *proven || since.elapsed() >= PROBATION,
            State::Closed { .. } => false,
        }
    }

    /// Opens a broken stream without waiting for the back-off, since the runtime is known to answer again.
    pub(super) fn runtime_answers(&mut self) {
        if let State::Closed { until } = &mut self.state {
            let soon = Instant::now() + FIRST_RETRY;
            // An unsupported stream stays at its long wait.
            if *until > soon && *until <= Instant::now() + LAST_RETRY {
                *until = soon;
            }
        }
    }
}

/// The pod that an event is about, if it says so.
pub(super) fn pod_of(event: &cri::ContainerEventResponse) -> Option<PodUid> {
    let of_sandbox = event.pod_sandbox_status.as_ref().and_then(|s| labels::value(&s.labels, labels::POD_UID));
    let of_container = || event.containers_statuses.iter().find_map(|c| labels::value(&c.labels, labels::POD_UID));
    of_sandbox.or_else(of_container).map(PodUid::from)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn labels_of(uid: &str) -> HashMap<String, String> {
        HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())])
    }

    #[test]
    fn the_pod_is_found_wherever_the_event_names_it() {
        let of_sandbox = cri::ContainerEventResponse {
            pod_sandbox_status: Some(cri::PodSandboxStatus { labels: labels_of("a"), ..Default::default() }),
            ..Default::default()
        };
        let of_container = cri::ContainerEventResponse {
            containers_statuses: vec![cri::ContainerStatus { labels: labels_of("b"), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(pod_of(&of_sandbox), Some(PodUid::from("a")));
        assert_eq!(pod_of(&of_container), Some(PodUid::from("b")));
        assert_eq!(pod_of(&cri::ContainerEventResponse::default()), None);
    }
}
