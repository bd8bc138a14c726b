//! Questions to the API server about callers, with answers kept for a while.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::kube::error;
use crate::kube::measure::code_text;
use crate::metrics::kubelet as metrics;

/// Answers kept at once.
const CAPACITY: usize = 2048;
/// Questions under way at once: callers without valid credentials must not take the API client's whole rate.
const PARALLEL: usize = 32;
/// Time in which a question must be answered, retries included.
const LIMIT: Duration = Duration::from_secs(10);
/// Waits between tries, each up to a fifth longer (the peer's `DefaultAuthWebhookRetryBackoff`).
const RETRIES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_millis(750), Duration::from_millis(1125), Duration::from_millis(1688)];

/// The API object that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    TokenReview,
    SubjectAccessReview,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, formatter)
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("{kind}: {}", error::message(.source))]
    Request { kind: Kind, source: Arc<::kube::Error> },
    #[error("{kind}: no answer within {} s", LIMIT.as_secs())]
    Late { kind: Kind },
    #[error("{kind}: {message}")]
    Answer { kind: Kind, message: String },
}

/// What is asked, as a digest: no token is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question([u8; 32]);

impl Question {
    pub(super) fn new(content: &[u8]) -> Self {
        Question(Sha256::digest(content).into())
    }
}

type Asking<A> = BoxFuture<'static, Result<A, ReviewError>>;

/// Answers by question. The same question asked by several at once is sent once.
pub(super) struct Reviews<A> {
    kind: Kind,
    slots: Arc<Semaphore>,
    state: Mutex<State<A>>,
}

struct State<A> {
    known: HashMap<Question, Known<A>>,
    /// Held weakly: what nobody waits for any more is not asked any further.
    asked: HashMap<Question, WeakShared<Asking<A>>>,
}

struct Known<A> {
    answer: A,
    until: Instant,
}

impl<A: Clone + Send + Sync + 'static> Reviews<A> {
    /// `kind` is the API object that asks.
    pub(super) fn new(kind: Kind) -> Self {
        let state = State { known: HashMap::new(), asked: HashMap::new() };
        Reviews { kind, slots: Arc::new(Semaphore::new(PARALLEL)), state: Mutex::new(state) }
    }

    /// The answer: a kept one, or that of `ask`, which is kept as long as `keep` says. Failures are not kept.
    pub(super) async fn answer<Asked>(
        &self,
        question: Question,
        ask: impl Fn() -> Asked + Send + 'static,
        keep: impl Fn(&A) -> Duration,
    ) -> Result<A, ReviewError>
    where
        Asked: Future<Output = Result<Result<A, String>, ::kube::Error>> + Send + 'static,
    {
        let asking = match self.known_or_asked(question) {
            Ok(answer) => return Ok(answer),
            Err(Some(asking)) => asking,
            Err(None) => {
                let asking = self.ask(ask).shared();
                let mut state = self.lock();
                if state.asked.len() >= CAPACITY {
                    state.asked.retain(|_, asking| asking.upgrade().is_some());
                }
                if let Some(weak) = asking.downgrade() {
                    state.asked.insert(question, weak);
                }
                asking
            }
        };
        let result = asking.await;
        let mut state = self.lock();
        if state.asked.remove(&question).is_some()
            && let Ok(answer) = &result
        {
            state.keep(question, answer.clone(), keep(answer));
        }
        result
    }

    fn known_or_asked(&self, question: Question) -> Result<A, Option<Shared<Asking<A>>>> {
        let state = self.lock();
        match state.known.get(&question) {
            Some(known) if known.until > Instant::now() => Ok(known.answer.clone()),
            _ => Err(state.asked.get(&question).and_then(WeakShared::upgrade)),
        }
    }

    /// Asks, with the peer's retries.
    fn ask<Asked>(&self, ask: impl Fn() -> Asked + Send + 'static) -> Asking<A>
    where
        Asked: Future<Output = Result<Result<A, String>, ::kube::Error>> + Send + 'static,
    {
        let (kind, slots) = (self.kind, self.slots.clone());
        let asking = async move {
            let _slot = slots.acquire().await;
            for delay in RETRIES {
                match measured(kind, ask()).await {
                    Err(failure) if error::is_transient(&failure) => {
                        tokio::time::sleep(delay.mul_f64(rand::random_range(1.0..1.2))).await;
                    }
                    result => return result,
                }
            }
            measured(kind, ask()).await
        };
        async move {
            match tokio::time::timeout(LIMIT, asking).await {
                Ok(Ok(Ok(answer))) => Ok(answer),
                Ok(Ok(Err(message))) => Err(ReviewError::Answer { kind, message }),
                Ok(Err(source)) => Err(ReviewError::Request { kind, source: Arc::new(source) }),
                Err(_) => Err(ReviewError::Late { kind }),
            }
        }
        .boxed()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks once, which is counted by what the API server answers.
async fn measured<A>(
    kind: Kind,
    asked: impl Future<Output = Result<Result<A, String>, ::kube::Error>>,
) -> Result<Result<A, String>, ::kube::Error> {
    let began = Instant::now();
    let result = asked.await;
    let code = match &result {
        Ok(_) => "201",
        Err(::kube::Error::Api(status)) => code_text(status.code),
        Err(_) => "<error>",
    };
    let (count, duration) = match kind {
        Kind::TokenReview => (&metrics::TOKEN_REVIEWS, &metrics::TOKEN_REVIEW_DURATION),
        Kind::SubjectAccessReview => (&metrics::ACCESS_REVIEWS, &metrics::ACCESS_REVIEW_DURATION),
    };
    count.increment(&[code]);
    duration.observe(&[code], began.elapsed().as_secs_f64());
    result
}

impl<A> State<A> {
    fn keep(&mut self, question: Question, answer: A, time: Duration) {
        let now = Instant::now();
        if time.is_zero() {
            return;
        }
        if self.known.len() >= CAPACITY {
            self.known.retain(|_, known| known.until > now);
        }
        if self.known.len() >= CAPACITY {
            let soonest = self.known.iter().min_by_key(|(_, known)| known.until).map(|(question, _)| *question);
            soonest.and_then(|question| self.known.remove(&question));
        }
        self.known.insert(question, Known { answer, until: now + time });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_and_asked_for_once() {
        let reviews = Reviews::new(Kind::TokenReview);
        let asked = Arc::new(AtomicUsize::new(0));
        let get = || {
            let asked = asked.clone();
            let ask = move || {
                let asked = asked.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(Ok(asked.fetch_add(1, Ordering::SeqCst)))
                }
            };
            reviews.answer(Question::new(b"a"), ask, |_| MINUTE)
        };
        let (first, second) = tokio::join!(get(), get());
        assert_eq!((first.unwrap(), second.unwrap(), get().await.unwrap()), (0, 0, 0));
        tokio::time::advance(MINUTE).await;
        assert_eq!(get().await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_not_kept_and_the_waiting_ends() {
        let reviews = Reviews::<bool>::new(Kind::TokenReview);
        let refused = || async { Ok(Err("no".to_owned())) };
        let error = reviews.answer(Question::new(b"a"), refused, |_| MINUTE).await.unwrap_err();
        assert_eq!(error.to_string(), "TokenReview: no");
        let answer = reviews.answer(Question::new(b"a"), || async { Ok(Ok(true)) }, |_| MINUTE).await;
        assert!(answer.unwrap());
        let never = || std::future::pending();
        let error = reviews.answer(Question::new(b"b"), never, |_| MINUTE).await.unwrap_err();
        assert_eq!(error.to_string(), "TokenReview: no answer within 10 s");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_asked_at_once_than_may_be() {
        let reviews = Reviews::new(Kind::TokenReview);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all = (0..5 * PARALLEL).map(|number| {
            let (now, most) = (now.clone(), most.clone());
            let ask = move || {
                let (now, most) = (now.clone(), most.clone());
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(Ok(number))
                }
            };
            reviews.answer(Question::new(&number.to_le_bytes()), ask, |_| MINUTE)
        });
        let answers = futures::future::join_all(all).await;
        assert!(answers.into_iter().enumerate().all(|(number, answer)| answer.unwrap() == number));
        assert_eq!(most.load(Ordering::SeqCst), PARALLEL);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_also_by_callers_that_go_away() {
        let reviews = Reviews::<usize>::new(Kind::TokenReview);
        for number in 0..3 * CAPACITY {
            let question = Question::new(format!("{number}").as_bytes());
            reviews.answer(question, move || async move { Ok(Ok(number)) }, |_| MINUTE).await.unwrap();
            let question = Question::new(format!("gone {number}").as_bytes());
            let asked = reviews.answer(question, std::future::pending, |_| MINUTE);
            let _ = asked.now_or_never();
        }
        let state = reviews.lock();
        assert_eq!(state.known.len(), CAPACITY);
        assert!(state.asked.len() <= CAPACITY + 1, "{}", state.asked.len());
    }
}
