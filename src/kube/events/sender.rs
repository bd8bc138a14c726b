//! The task that writes events: one after the other, so that they keep their order and a count is never lost to a race.

use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Patch, PatchParams, PostParams};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::QUEUE;
use super::correlator::{Correlator, Decision};
use crate::kube::error;
use crate::model::clock;

/// Tries of one event; client-go's number.
const TRIES: u32 = 12;
/// The pause between two tries; client-go's number. The first is shortened at random, so that the nodes of a cluster do not
/// come back in the same moment.
const PAUSE: Duration = Duration::from_secs(10);
/// What is queued at the end is written for that long.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// For how long events wait when the machine has become busy; they go on at their usual rate after that.
const DEFERENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether the machine is still busy.
const GLANCE: Duration = Duration::from_millis(100);

/// Tells since when the machine has more urgent things to do, if it has; must not block.
pub type BusySince = Arc<dyn Fn() -> Option<Instant> + Send + Sync>;

/// Writes recorded events to the API, to be run as a task.
pub struct EventSender {
    client: Client,
    busy_since: BusySince,
    queue: mpsc::Receiver<Event>,
    correlator: Correlator,
    lost: u64,
}

/// How a try ended.
enum Outcome {
    Done,
    TryAgain(::kube::Error),
}

impl EventSender {
    pub(super) fn new(client: Client, queue: mpsc::Receiver<Event>) -> Self {
        let busy_since: BusySince = Arc::new(|| None);
        EventSender { client, busy_since, queue, correlator: Correlator::new(), lost: 0 }
    }

    /// Lets events wait for a moment while the machine is busy: a burst of pods makes several events each, whose writing would
    /// take from the processors what the pods' start needs.
    #[must_use]
    pub fn behind(self, busy_since: BusySince) -> Self {
        EventSender { busy_since, ..self }
    }

    /// Waits while the machine is busy, for a while, and as long as there is room for the events that come.
    async fn defer(&self) {
        while (self.busy_since)().is_some_and(|since| since.elapsed() < DEFERENCE) && self.queue.len() < QUEUE / 2 {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Writes until cancelled or until no recorder is left. While the API server is away it holds on to the event at hand, and
    /// the recorders' queue fills.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut at_hand = None;
        loop {
            // Both arms are cancel-safe.
            let event = tokio::select! {
                () = cancel.cancelled() => break,
                event = self.queue.recv() => event,
            };
            let Some(event) = event else { return };
            let decision = self.correlator.correlate(event, clock::now());
            // Cancel-safe: a wait.
            tokio::select! {
                () = cancel.cancelled() => {
                    at_hand = Some(decision);
                    break;
                }
                () = self.defer() => {}
            }
            // A write that is cut off is at worst not counted; the process ends.
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.deliver(decision) => {}
            }
        }
        let _ = tokio::time::timeout(LAST_WORDS, async {
            if let Some(decision) = at_hand {
                self.attempt(&decision).await;
            }
            while let Ok(event) = self.queue.try_recv() {
                let decision = self.correlator.correlate(event, clock::now());
                self.attempt(&decision).await;
            }
        })
        .await;
    }

    async fn deliver(&mut self, decision: Decision) {
        for attempt in 1..=TRIES {
            let Outcome::TryAgain(cause) = self.attempt(&decision).await else { return };
            if attempt == TRIES {
                self.lost += 1;
                tracing::warn!(error = %error::message(&cause), lost = self.lost, "event given up after {TRIES} tries");
                return;
            }
            tracing::debug!(error = %error::message(&cause), attempt, "event not written, it is tried again");
            let pause = if attempt == 1 { PAUSE.mul_f64(rand::random()) } else { PAUSE };
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&mut self, decision: &Decision) -> Outcome {
        let (event, patch) = match decision {
            Decision::Drop => return Outcome::Done,
            Decision::Create(event) => (event, None),
            Decision::CountUp { event, patch } => (event, Some(patch)),
        };
        match self.write(event, patch).await {
            Ok(written) => {
                self.correlator.written(&written);
                Outcome::Done
            }
            Err(error) if error::is_transient(&error) => Outcome::TryAgain(error),
            Err(error) => {
                // Events of a namespace that is being deleted are refused by the hundred.
                let expected = error::is_already_exists(&error) || is_namespace_ending(&error);
                let (reason, text) = (event.reason.as_deref().unwrap_or_default(), error::message(&error));
                match expected {
                    true => tracing::debug!(reason, error = text, "event refused"),
                    false => tracing::warn!(reason, error = text, "event refused"),
                }
                Outcome::Done
            }
        }
    }

    async fn write(&self, event: &Event, patch: Option<&Value>) -> ::kube::Result<Event> {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        if let Some(patch) = patch {
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                // The API forgets events after an hour.
                Err(error) if error::is_not_found(&error) => {}
                other => return other,
            }
        }
        api.create(&PostParams::default(), event).await
    }
}

fn is_namespace_ending(error: &::kube::Error) -> bool {
    let causes = error::status(error).and_then(|s| s.details.as_ref()).map(|d| d.causes.as_slice()).unwrap_or_default();
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::super::{EventRecorder, node_reference};
    use super::*;
    use crate::kube::testing::{Exchange, FakeApi};
    use crate::model::EventType;

    struct Setup {
        fake: FakeApi,
        recorder: EventRecorder,
        cancel: CancellationToken,
        tasks: JoinSet<()>,
    }

    fn start() -> Setup {
        let fake = FakeApi::new();
        let (recorder, sender) = EventRecorder::new(fake.client(), "n1");
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(sender.run(cancel.clone()));
        Setup { fake, recorder, cancel, tasks }
    }

    fn record(recorder: &EventRecorder, message: &str) {
        recorder.event(&node_reference("n1", None), EventType::Normal, "Starting", message);
    }

    fn accept(exchange: Exchange) -> String {
        let event = exchange.body();
        let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        exchange.json(event);
        name
    }

    #[tokio::test(start_paused = true)]
    async fn written_then_counted_up() {
        let mut setup = start();
        record(&setup.recorder, "hello");
        let first = setup.fake.next().await;
        assert_eq!((first.method(), first.path().as_str()), ("POST", "/api/v1/namespaces/default/events?"));
        let name = accept(first);
        record(&setup.recorder, "hello");
        let second = setup.fake.next().await;
        assert_eq!(second.method(), "PATCH");
        assert_eq!(second.path(), format!("/api/v1/namespaces/default/events/{name}?"));
        assert_eq!(second.header("content-type"), "application/strategic-merge-patch+json");
        assert_eq!(second.body()["count"], 2);
        // Gone by now: written whole, with its count.
        second.status(404, "NotFound", "events not found");
        let third = setup.fake.next().await;
        assert_eq!(third.method(), "POST");
        assert_eq!(third.body()["count"], 2);
        accept(third);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_in_order() {
        let mut setup = start();
        record(&setup.recorder, "one");
        record(&setup.recorder, "two");
        let begin = Instant::now();
        for _ in 0..5 {
            setup.fake.next().await.refuse();
        }
        assert!(begin.elapsed() >= Duration::from_secs(30));
        let exchange = setup.fake.next().await;
        assert_eq!(exchange.body()["message"], "one");
        accept(exchange);
        let exchange = setup.fake.next().await;
        assert_eq!(exchange.body()["message"], "two");
        accept(exchange);
    }

    #[tokio::test(start_paused = true)]
    async fn given_up_after_twelve_tries() {
        let mut setup = start();
        record(&setup.recorder, "one");
        for _ in 0..TRIES {
            let exchange = setup.fake.next().await;
            assert_eq!(exchange.body()["message"], "one");
            exchange.status(503, "ServiceUnavailable", "later");
        }
        record(&setup.recorder, "two");
        assert_eq!(setup.fake.next().await.body()["message"], "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_event_is_not_tried_again() {
        let mut setup = start();
        record(&setup.recorder, "one");
        setup.fake.next().await.status(403, "Forbidden", "namespace is being terminated");
        record(&setup.recorder, "two");
        assert_eq!(setup.fake.next().await.body()["message"], "two");
    }

    #[tokio::test(start_paused = true)]
    async fn recording_never_blocks() {
        let setup = start();
        for n in 0..2 * QUEUE {
            record(&setup.recorder, &format!("m{n}"));
        }
        let super::super::Target::Queue { dropped, .. } = &setup.recorder.target else { panic!() };
        assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), QUEUE as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_within_its_last_words() {
        let mut setup = start();
        record(&setup.recorder, "one");
        let _held = setup.fake.next().await;
        record(&setup.recorder, "two");
        let begin = Instant::now();
        setup.cancel.cancel();
        let last = setup.fake.next().await;
        assert_eq!(last.body()["message"], "two");
        setup.tasks.join_all().await;
        assert!(begin.elapsed() <= LAST_WORDS);
    }

    #[tokio::test(start_paused = true)]
    async fn events_let_a_busy_machine_go_first_but_not_for_ever() {
        let (recorder, sender) = EventRecorder::new(FakeApi::new().client(), "n");
        let busy_since_now = |sender: EventSender| {
            let began = Instant::now();
            (sender.behind(Arc::new(move || Some(began))), began)
        };
        let (sender, began) = busy_since_now(sender);
        sender.defer().await;
        assert!(began.elapsed() >= DEFERENCE && began.elapsed() < DEFERENCE + GLANCE * 2);
        sender.defer().await;
        assert!(began.elapsed() < DEFERENCE + GLANCE * 2, "the next one does not wait again");

        let (sender, began) = busy_since_now(sender);
        (0..QUEUE / 2).for_each(|n| record(&recorder, &format!("m{n}")));
        sender.defer().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "none may be lost for it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_busy_machine_is_among_the_last_words() {
        let mut fake = FakeApi::new();
        let (recorder, sender) = EventRecorder::new(fake.client(), "n1");
        let (began, cancel) = (Instant::now(), CancellationToken::new());
        let sender = sender.behind(Arc::new(move || Some(began)));
        let mut tasks = JoinSet::new();
        tasks.spawn(sender.run(cancel.clone()));
        record(&recorder, "one");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(fake.waiting().is_none());
        cancel.cancel();
        let last = fake.next().await;
        assert_eq!(last.body()["message"], "one");
        accept(last);
        tasks.join_all().await;
    }
}
