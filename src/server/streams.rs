//! The requests of an HTTP/2 connection: how many there are, and whether their client takes what it is sent.
//!
//! Over HTTP/1.1 a connection carries one request, and what is idle or stalls shows in its bytes. Over HTTP/2 a client may
//! hold a request's answer back and go on with others, so each answer is watched by itself: it is handed over in small pieces,
//! and the next one is asked for when the client made room.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::connection::{Patience, millis};

/// Bytes of an answer that are handed over at once: of one that its client does not take, two of these are held.
const PIECE: usize = 32 * 1024;
/// How often answers are looked at, at least, while there are any.
const LOOK: Duration = Duration::from_secs(15);

/// How long a connection may be of no use.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamLimits {
    /// Without a request.
    pub idle: Duration,
    /// Without a request, once no more are taken.
    pub leaving: Duration,
    /// For which a client may leave an answer untaken.
    pub write_stall: Duration,
}

/// Why a connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Useless {
    /// Nothing is asked.
    Idle,
    /// An answer is not taken.
    Stalled,
}

/// The requests of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    limits: StreamLimits,
    start: Instant,
    /// How many there are, and whether no more are taken.
    state: watch::Sender<(usize, bool)>,
    answers: Mutex<Vec<Weak<Answer>>>,
}

/// An answer that is not yet taken whole.
#[derive(Debug)]
struct Answer {
    patience: Patience,
    /// When the client was last given something it has not taken, milliseconds from the connection's start; `TAKEN` if it
    /// has taken all.
    given: AtomicU64,
}

const TAKEN: u64 = u64::MAX;

/// One request; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Stream {
    streams: Arc<Streams>,
    answer: Arc<Answer>,
}

impl Streams {
    pub(super) fn new(limits: StreamLimits) -> Arc<Self> {
        let (state, _) = watch::channel((0, false));
        Arc::new(Streams { limits, start: Instant::now(), state, answers: Mutex::default() })
    }

    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Stream {
        let patience = Patience::new(self.limits.write_stall);
        let answer = Arc::new(Answer { patience, given: AtomicU64::new(TAKEN) });
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() == answers.capacity() {
            answers.retain(|answer| answer.strong_count() > 0);
        }
        answers.push(Arc::downgrade(&answer));
        self.state.send_modify(|(count, _)| *count += 1);
        Stream { streams: self.clone(), answer }
    }

    /// No more requests are to be taken; those that there are go on.
    pub(super) fn leave(&self) {
        self.state.send_if_modified(|(_, leaving)| !std::mem::replace(leaving, true));
    }

    /// Waits until no more are to be taken.
    pub(super) async fn leaving(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this.
        let _ = state.wait_for(|(_, leaving)| *leaving).await;
    }

    /// Waits until the connection is of no use any more.
    pub(super) async fn useless(&self) -> Useless {
        let mut state = self.state.subscribe();
        loop {
            let (count, leaving) = *state.borrow_and_update();
            if count == 0 {
                let limit = if leaving { self.limits.leaving } else { self.limits.idle };
                if timeout(limit, state.changed()).await.is_err() {
                    return Useless::Idle;
                }
            } else if timeout(self.limits.write_stall.min(LOOK), state.wait_for(|(count, _)| *count == 0))
                .await
                .is_err()
                && self.is_stalled()
            {
                return Useless::Stalled;
            }
        }
    }

    fn is_stalled(&self) -> bool {
        let now = self.now();
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter_map(Weak::upgrade).any(|answer| {
            let given = answer.given.load(Ordering::Relaxed);
            given != TAKEN && now.saturating_sub(given) >= millis(answer.patience.limit())
        })
    }

    fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }
}

impl Stream {
    /// How long its client may leave the answer untaken.
    pub(super) fn patience(&self) -> Patience {
        self.answer.patience.clone()
    }

    /// The answer as it is handed over; the request ends with it.
    pub(super) fn carry(self, body: Body) -> Body {
        Body::new(Carried { body, rest: Bytes::new(), stream: self })
    }

    fn give(&self) {
        self.answer.given.store(self.streams.now(), Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.state.send_modify(|(count, _)| *count -= 1);
    }
}

struct Carried {
    body: Body,
    /// What has not been handed over yet of the body's last piece.
    rest: Bytes,
    stream: Stream,
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            self.stream.answer.given.store(TAKEN, Ordering::Relaxed);
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let count = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(count);
        self.stream.give();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), u64::try_from(self.rest.len()).unwrap_or(u64::MAX));
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole
    }
}

/// The tasks of a connection's requests; they end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Begins such tasks. They hold it themselves, and it does not hold them.
#[derive(Clone, Debug)]
pub(super) struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are let go: there are never more than the connection may have requests, and a few.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::rt::Executor;

    use super::*;

    const LIMITS: StreamLimits = StreamLimits {
        idle: Duration::from_secs(90),
        leaving: Duration::from_secs(10),
        write_stall: Duration::from_secs(300),
    };

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_is_asked_and_sooner_when_it_leaves() {
        let streams = Streams::new(LIMITS);
        let start = Instant::now();
        let asked = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let stream = streams.begin();
            tokio::time::sleep(Duration::from_secs(500)).await;
            drop(stream);
        };
        let (end, ()) = tokio::join!(streams.useless(), asked);
        assert_eq!((end, start.elapsed().as_secs()), (Useless::Idle, 650));
        let stream = streams.begin();
        let start = Instant::now();
        let left = async {
            streams.leave();
            streams.leaving().await;
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(stream);
        };
        let (end, ()) = tokio::join!(streams.useless(), left);
        assert_eq!((end, start.elapsed().as_secs()), (Useless::Idle, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_ends_the_connection_and_one_that_waits_for_its_source_does_not() {
        let streams = Streams::new(LIMITS);
        let source = futures::stream::pending::<Result<Bytes, axum::Error>>();
        let mut waiting = streams.begin().carry(Body::from_stream(source));
        let start = Instant::now();
        let patient = streams.begin();
        patient.patience().set(Duration::from_secs(3000));
        let mut patient = patient.carry(Body::from("x"));
        patient.frame().await.unwrap().unwrap();
        let held_back = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            let mut held = streams.begin().carry(Body::from(vec![7; 100_000]));
            for _ in 0..3 {
                assert_eq!(held.frame().await.unwrap().unwrap().into_data().unwrap().len(), PIECE);
            }
            held
        };
        let end = async {
            let (end, held) = tokio::join!(streams.useless(), held_back);
            assert_eq!(held.size_hint().exact(), Some(100_000 - 3 * PIECE as u64));
            end
        };
        // Cancel-safe: the other one never ends.
        let end = tokio::select! {
            end = end => end,
            _ = waiting.frame() => panic!("nothing comes"),
        };
        assert_eq!(end, Useless::Stalled);
        assert!((1300..=1315).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_what_is_remembered_of_answers_is_bounded() {
        let streams = Streams::new(LIMITS);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let body = streams.begin().carry(Body::from(sent.clone()));
        assert_eq!(body.size_hint().exact(), Some(200_000));
        assert!(body.collect().await.unwrap().to_bytes() == sent);
        for _ in 0..10_000 {
            drop(streams.begin());
        }
        assert!(streams.answers.lock().unwrap().len() <= 8);
        assert_eq!(*streams.state.borrow(), (0, false));
    }

    #[tokio::test]
    async fn tasks_end_with_their_connection_although_they_could_begin_others() {
        let (tasks, held) = (Tasks::default(), Arc::new(()));
        for _ in 0..3 {
            let (spawner, mine) = (tasks.spawner(), held.clone());
            tasks.spawner().execute(async move {
                std::future::pending::<()>().await;
                drop((spawner, mine));
            });
        }
        for _ in 0..100 {
            tasks.spawner().execute(async {});
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&held), 4);
        assert!(tasks.0.lock().unwrap().len() <= 5);
        let spawner = tasks.spawner();
        drop(tasks);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
        spawner.execute(async { panic!("its connection is gone") });
    }
}
