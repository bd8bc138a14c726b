//! The crash-loop back-off of a container: pure, with the times given in.
//!
//! The first restart comes at once; each further one waits for the current delay, counted from the container's end, and
//! doubles it. A container that ran long enough starts over. Behaviour: client-go's flowcontrol.Backoff as the kubelet
//! uses it for containers; but an agent that starts goes on with what the pod's status tells of the one before it, where the
//! kubelet restarts all crash-looping containers at once.

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::model::go_duration::GoDuration;
use crate::model::pod::PodKey;
use crate::model::{SignedDuration, Timestamp};

/// `state.waiting.reason` of a container that waits.
pub(super) const REASON: &str = "CrashLoopBackOff";

/// A container that did not need a restart for this long starts over with the initial delay.
pub const RESET_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// The node's crash-loop settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    /// The first delay.
    pub initial: SignedDuration,
    /// The longest delay (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub max: SignedDuration,
}

impl Default for BackoffPolicy {
    /// 10 s doubling to 5 min.
    fn default() -> Self {
        BackoffPolicy { initial: SignedDuration::from_secs(10), max: SignedDuration::from_mins(5) }
    }
}

impl BackoffPolicy {
    /// 1 s doubling to 1 min (gate ReduceDefaultCrashLoopBackOffDecay).
    pub fn reduced() -> Self {
        BackoffPolicy { initial: SignedDuration::from_secs(1), max: SignedDuration::from_mins(1) }
    }

    /// The policy with another longest delay, which also caps the first one.
    pub fn with_max(self, max: SignedDuration) -> Self {
        BackoffPolicy { initial: self.initial.min(max), max }
    }
}

/// What is remembered of one container's restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backoff {
    current: Option<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    delay: SignedDuration,
    updated_at: Timestamp,
}

impl Entry {
    fn has_expired(&self, finished_at: Timestamp) -> bool {
        finished_at.duration_since(self.updated_at) > RESET_AFTER
    }
}

impl Backoff {
    /// Until when a container that ended at `finished_at` must wait, with the delay in force; none when it may start.
    pub fn wait(&self, finished_at: Timestamp, now: Timestamp) -> Option<(Timestamp, SignedDuration)> {
        let entry = self.current.filter(|entry| !entry.has_expired(finished_at))?;
        let until = finished_at.checked_add(entry.delay).ok()?;
        (now < until).then_some((until, entry.delay))
    }

    /// Notes a restart, at `now`, of a container that ended at `finished_at`.
    pub fn note_restart(&mut self, finished_at: Timestamp, now: Timestamp, policy: &BackoffPolicy) {
        let delay = match self.current {
            Some(entry) if !entry.has_expired(finished_at) => {
                entry.delay.checked_mul(2).unwrap_or(policy.max).min(policy.max)
            }
            _ => policy.initial,
        };
        self.current = Some(Entry { delay, updated_at: now });
    }

    /// What an earlier agent, this one or the kubelet, has told of a container that waits; none if it does not.
    pub fn told_by(status: &ContainerStatus) -> Option<Self> {
        let waiting = status.state.as_ref()?.waiting.as_ref().filter(|w| w.reason.as_deref() == Some(REASON))?;
        let (delay, _) = waiting.message.as_deref()?.strip_prefix(MESSAGE_BEGIN)?.split_once(' ')?;
        let delay = SignedDuration::from_secs(delay.parse::<GoDuration>().ok()?.as_secs());
        let ended = status.last_state.as_ref()?.terminated.as_ref()?;
        let updated_at = ended.started_at.as_ref().or(ended.finished_at.as_ref())?.0;
        // Others can write there as well.
        let bounds = SignedDuration::ZERO..=BackoffPolicy::default().max;
        bounds.contains(&delay).then_some(Self { current: Some(Entry { delay, updated_at }) })
    }
}

const MESSAGE_BEGIN: &str = "back-off ";

/// `state.waiting.message` of a container that waits; [`Backoff::told_by`] reads the delay in it.
pub(super) fn message(delay: SignedDuration, container: &str, pod: &PodKey) -> String {
    let delay = GoDuration::from_secs(delay.as_secs());
    format!("{MESSAGE_BEGIN}{delay} restarting failed container={container} pod={pod}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_delays_double_to_the_longest() {
        let policy = BackoffPolicy::default();
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let finished = at(now);
            let start = match backoff.wait(finished, finished) {
                None => finished,
                Some((until, delay)) => {
                    delays.push(delay.as_secs());
                    until
                }
            };
            assert_eq!(backoff.wait(finished, start), None, "at the end of the delay it may start");
            backoff.note_restart(finished, start, &policy);
            now = start.as_second() - at(0).as_second();
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_without_a_restart_start_over() {
        let policy = BackoffPolicy::default();
        let mut backoff = Backoff::default();
        backoff.note_restart(at(0), at(0), &policy);
        backoff.note_restart(at(10), at(20), &policy);
        assert_eq!(backoff.wait(at(21), at(21)).map(|(_, delay)| delay.as_secs()), Some(20));
        assert_eq!(backoff.wait(at(20 + 601), at(20 + 601)), None);
        backoff.note_restart(at(621), at(621), &policy);
        assert_eq!(backoff.wait(at(622), at(622)).map(|(_, delay)| delay.as_secs()), Some(10));
    }

    #[test]
    fn a_short_longest_delay_caps_the_first() {
        assert_eq!(BackoffPolicy::default().with_max(SignedDuration::from_secs(2)).initial.as_secs(), 2);
        assert_eq!(BackoffPolicy::default().with_max(SignedDuration::from_mins(1)).initial.as_secs(), 10);
        let reduced = BackoffPolicy::reduced().with_max(SignedDuration::from_mins(5));
        assert_eq!((reduced.initial.as_secs(), reduced.max.as_secs()), (1, 300));
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(runs in prop::collection::vec(0i64..900, 1..40), max in 1i64..300) {
            let policy = BackoffPolicy::default().with_max(SignedDuration::from_secs(max));
            let mut backoff = Backoff::default();
            let mut now = at(0);
            for run in runs {
                let finished = now.checked_add(SignedDuration::from_secs(run)).unwrap();
                let start = match backoff.wait(finished, finished) {
                    None => finished,
                    Some((until, delay)) => {
                        prop_assert!(delay <= policy.max && delay >= policy.initial);
                        until
                    }
                };
                backoff.note_restart(finished, start, &policy);
                now = start;
            }
        }
    }
}
