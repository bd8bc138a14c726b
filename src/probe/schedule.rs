//! When a probe runs next, and how many answers in a row make a verdict. Pure: times are since the agent's start.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::types::ProbeKind;
use crate::model::probe_results::ProbeVerdict;

/// A probe's numbers, with the API's defaults where the object has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub failure_threshold: u32,
    pub success_threshold: u32,
}

impl Timing {
    pub(super) fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            let given = value.filter(|v| *v > 0).and_then(|v| u64::try_from(v).ok());
            Duration::from_secs(given.unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value.filter(|v| *v > 0).and_then(|v| u32::try_from(v).ok()).unwrap_or(default)
        };
        Timing {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            failure_threshold: count(probe.failure_threshold, 3),
            success_threshold: count(probe.success_threshold, 1),
        }
    }
}

/// How a run of a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Success,
    Failure,
    /// The probe could not be made: it says nothing of the container.
    Errored,
}

/// When a run was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// At this time since the agent's start.
    Due(Duration),
    /// It is under way; the time is when it was due.
    Running(Duration),
    /// Decided once and for all.
    OnHold,
}

/// One probe of one container instance.
///
/// Readiness is asked as soon as its initial delay is over. So is startup, but a failure then counts for nothing, since with
/// `failureThreshold x periodSeconds` the API grants a container that many whole periods; the early question only finds out
/// sooner that a container has started. Liveness without an initial delay is first asked after a period, which is when the
/// peer's ticker comes to ask a container that its pod has started with.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    kind: ProbeKind,
    timing: Timing,
    next: Next,
    /// The next failure is not counted.
    early: bool,
    last: Option<Answer>,
    in_a_row: u32,
    verdict: Option<ProbeVerdict>,
}

/// What is known when a probe begins to be held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begin {
    /// Since the agent's start.
    pub now: Duration,
    /// How long the container has been running.
    pub age: Duration,
    /// What an earlier agent knew.
    pub verdict: Option<ProbeVerdict>,
    /// From 0 to 1: spreads the probes of many containers that are taken over at once.
    pub jitter: f64,
}

impl Schedule {
    pub(super) fn new(kind: ProbeKind, timing: Timing, begin: Begin) -> Self {
        let Begin { now, age, verdict, jitter } = begin;
        let first = match kind {
            ProbeKind::Liveness if timing.initial_delay.is_zero() => timing.period,
            _ => timing.initial_delay,
        };
        let taken_over = age > now;
        let wait = if let Some(left) = first.checked_sub(age) {
            left
        } else if taken_over && now < timing.period {
            // All pods of the node are taken over in the same moment.
            timing.period.mul_f64(jitter.clamp(0.0, 1.0))
        } else if kind == ProbeKind::Liveness {
            timing.period - remainder(age - first, timing.period)
        } else {
            Duration::ZERO
        };
        Schedule {
            kind,
            timing,
            next: Next::Due(now + wait),
            early: kind == ProbeKind::Startup && !taken_over,
            last: None,
            in_a_row: 0,
            verdict,
        }
    }

    /// When it must run; none while it runs and when there is nothing left to find out.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.next {
            Next::Due(at) => Some(at),
            Next::Running(_) | Next::OnHold => None,
        }
    }

    /// The container's verdict so far.
    pub(super) fn verdict(&self) -> Option<ProbeVerdict> {
        self.verdict
    }

    /// The time that a run may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timing.timeout
    }

    /// Notes that the probe is being run.
    pub(super) fn begin(&mut self) {
        if let Next::Due(at) = self.next {
            self.next = Next::Running(at);
        }
    }

    /// Notes how the run ended. Returns whether it counts; one that does not is not told of either.
    pub(super) fn end(&mut self, now: Duration, answer: Answer) -> bool {
        let Next::Running(due) = self.next else { return false };
        self.next = Next::Due(following(due, self.timing.period, now));
        let early = std::mem::take(&mut self.early);
        if early && answer != Answer::Success {
            return false;
        }
        let (threshold, verdict) = match answer {
            Answer::Success => (self.timing.success_threshold, ProbeVerdict::Success),
            Answer::Failure => (self.timing.failure_threshold, ProbeVerdict::Failure),
            Answer::Errored => return true,
        };
        self.in_a_row = if self.last == Some(answer) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(answer);
        if self.in_a_row >= threshold {
            self.verdict = Some(verdict);
            // Asked again, a container that is about to be stopped would only be disturbed.
            let decided = match self.kind {
                ProbeKind::Startup => true,
                ProbeKind::Liveness => verdict == ProbeVerdict::Failure,
                ProbeKind::Readiness => false,
            };
            if decided {
                self.next = Next::OnHold;
            }
        }
        true
    }
}

/// Repeated runs begin together at multiples of this: of a node's many probes several share a waking of the processor. A
/// period is whole seconds, so that after the first of its ticks none is moved again.
const SLOT: Duration = Duration::from_millis(100);

/// The tick after `due`. Ticks that passed during a long run make one that is due at once, as with a ticker that holds one.
fn following(due: Duration, period: Duration, now: Duration) -> Duration {
    let passed = now.saturating_sub(due);
    if passed < period { next_slot(due + period) } else { now - remainder(passed, period) }
}

/// The first slot that is not before that time.
fn next_slot(at: Duration) -> Duration {
    match remainder(at, SLOT) {
        Duration::ZERO => at,
        begun => at + (SLOT - begun),
    }
}

fn remainder(of: Duration, period: Duration) -> Duration {
    let nanoseconds = of.as_nanos().checked_rem(period.as_nanos()).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn timing(initial_delay: u64, period: u64, failures: u32, successes: u32) -> Timing {
        Timing {
            initial_delay: Duration::from_secs(initial_delay),
            period: Duration::from_secs(period),
            timeout: Duration::from_secs(1),
            failure_threshold: failures,
            success_threshold: successes,
        }
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn begin(now: u64, age: u64) -> Begin {
        Begin { now: at(now), age: at(age), verdict: None, jitter: 0.25 }
    }

    #[test]
    fn absent_and_zero_fields_have_the_defaults_of_the_api() {
        let expected = Timing { failure_threshold: 3, ..timing(0, 10, 3, 1) };
        assert_eq!(Timing::of(&Probe::default()), expected);
        let zeroes = Probe {
            failure_threshold: Some(0),
            initial_delay_seconds: Some(0),
            period_seconds: Some(0),
            success_threshold: Some(0),
            timeout_seconds: Some(0),
            ..Probe::default()
        };
        assert_eq!(Timing::of(&zeroes), expected);
        let given = Probe {
            failure_threshold: Some(5),
            initial_delay_seconds: Some(7),
            period_seconds: Some(2),
            success_threshold: Some(4),
            timeout_seconds: Some(9),
            ..Probe::default()
        };
        assert_eq!(Timing::of(&given), Timing { timeout: at(9), ..timing(7, 2, 5, 4) });
    }

    #[rstest]
    // The agent has been up for 100 s, the container is new.
    #[case(ProbeKind::Readiness, 0, 100, 0, 100)]
    #[case(ProbeKind::Readiness, 5, 100, 2, 103)]
    #[case(ProbeKind::Startup, 0, 100, 0, 100)]
    #[case(ProbeKind::Startup, 5, 100, 0, 105)]
    #[case(ProbeKind::Liveness, 0, 100, 0, 110)]
    #[case(ProbeKind::Liveness, 5, 100, 0, 105)]
    // Startup passed after 34 s: readiness at once, liveness at its next tick (10, 20, 30, 40).
    #[case(ProbeKind::Readiness, 5, 100, 34, 100)]
    #[case(ProbeKind::Liveness, 0, 100, 34, 106)]
    // The agent started 2 s ago, the container long before: spread over the period.
    #[case(ProbeKind::Readiness, 0, 2, 1000, 4)]
    #[case(ProbeKind::Liveness, 0, 2, 1000, 4)]
    // The same agent, a container of its own.
    #[case(ProbeKind::Readiness, 0, 2, 1, 2)]
    // Taken over, but the initial delay is not yet over.
    #[case(ProbeKind::Readiness, 60, 2, 20, 42)]
    fn the_first_run(
        #[case] kind: ProbeKind,
        #[case] delay: u64,
        #[case] now: u64,
        #[case] age: u64,
        #[case] expected: u64,
    ) {
        let due = Schedule::new(kind, timing(delay, 10, 3, 1), begin(now, age)).due().unwrap();
        // A quarter of ten seconds.
        let expected = if (now, age) == (2, 1000) { Duration::from_millis(4500) } else { at(expected) };
        assert_eq!(due, expected);
    }

    fn run(schedule: &mut Schedule, answer: Answer) -> bool {
        let due = schedule.due().unwrap();
        schedule.begin();
        assert_eq!(schedule.due(), None);
        schedule.end(due, answer)
    }

    #[test]
    fn readiness_turns_only_at_its_thresholds() {
        let mut schedule = Schedule::new(ProbeKind::Readiness, timing(0, 1, 3, 2), begin(100, 0));
        let mut verdicts = Vec::new();
        for answer in [0, 0, 1, 1, 0, 1, 1, 1, 0, 2, 0] {
            let answer = [Answer::Success, Answer::Failure, Answer::Errored][answer];
            assert!(run(&mut schedule, answer));
            verdicts.push(schedule.verdict());
        }
        let (s, f) = (Some(ProbeVerdict::Success), Some(ProbeVerdict::Failure));
        assert_eq!(verdicts, [None, s, s, s, s, s, s, f, f, f, s]);
    }

    #[test]
    fn an_early_failure_of_startup_counts_for_nothing() {
        let mut schedule = Schedule::new(ProbeKind::Startup, timing(0, 10, 2, 1), begin(100, 0));
        assert!(!run(&mut schedule, Answer::Failure));
        assert_eq!(schedule.due(), Some(at(110)));
        assert!(run(&mut schedule, Answer::Failure));
        assert_eq!(schedule.verdict(), None);
        assert!(run(&mut schedule, Answer::Failure));
        assert_eq!(schedule.verdict(), Some(ProbeVerdict::Failure));
        assert_eq!(schedule.due(), None, "decided");
    }

    #[test]
    fn startup_ends_with_its_success() {
        let mut schedule = Schedule::new(ProbeKind::Startup, timing(0, 10, 2, 1), begin(100, 0));
        assert!(run(&mut schedule, Answer::Success));
        assert_eq!((schedule.verdict(), schedule.due()), (Some(ProbeVerdict::Success), None));
    }

    #[test]
    fn liveness_goes_on_until_it_fails() {
        let mut schedule = Schedule::new(ProbeKind::Liveness, timing(0, 10, 1, 1), begin(100, 0));
        assert!(run(&mut schedule, Answer::Success));
        assert_eq!(schedule.due(), Some(at(120)));
        assert!(run(&mut schedule, Answer::Failure));
        assert_eq!((schedule.verdict(), schedule.due()), (Some(ProbeVerdict::Failure), None));
    }

    #[test]
    fn a_run_that_outlasts_periods_is_followed_by_one_at_once_and_keeps_the_beat() {
        let mut schedule = Schedule::new(ProbeKind::Readiness, timing(0, 10, 3, 1), begin(100, 0));
        schedule.begin();
        schedule.end(at(125), Answer::Success);
        assert_eq!(schedule.due(), Some(at(120)));
        schedule.begin();
        schedule.end(at(126), Answer::Success);
        assert_eq!(schedule.due(), Some(at(130)));
    }

    #[test]
    fn repeated_runs_share_slots_and_keep_them() {
        let odd = Begin { now: Duration::from_millis(100_030), ..begin(0, 0) };
        let mut schedule = Schedule::new(ProbeKind::Readiness, timing(0, 1, 3, 1), odd);
        assert_eq!(schedule.due(), Some(Duration::from_millis(100_030)), "the first is not put off");
        for expected in [101_100, 102_100, 103_100] {
            run(&mut schedule, Answer::Success);
            assert_eq!(schedule.due(), Some(Duration::from_millis(expected)));
        }
    }

    #[test]
    fn what_was_ready_stays_ready_until_it_has_failed_often_enough() {
        let begin = Begin { verdict: Some(ProbeVerdict::Success), ..begin(2, 1000) };
        let mut schedule = Schedule::new(ProbeKind::Readiness, timing(0, 10, 2, 1), begin);
        run(&mut schedule, Answer::Failure);
        assert_eq!(schedule.verdict(), Some(ProbeVerdict::Success));
        run(&mut schedule, Answer::Failure);
        assert_eq!(schedule.verdict(), Some(ProbeVerdict::Failure));
    }

    prop_compose! {
        fn any_timing()(delay in 0u64..30, period in 1u64..20, failures in 1u32..5, successes in 1u32..5) -> Timing {
            timing(delay, period, failures, successes)
        }
    }

    proptest! {
        /// Verdicts follow from the last answers alone, runs never come before their time, and never more often than the period.
        #[test]
        fn verdicts_and_times_hold(
            kind in prop::sample::select(ProbeKind::ALL.to_vec()),
            timing in any_timing(),
            now in 0u64..1000,
            age in 0u64..2000,
            jitter in 0.0f64..1.0,
            runs in prop::collection::vec((0usize..3, 0u64..40), 1..40),
        ) {
            let began = Begin { now: at(now), age: at(age), verdict: None, jitter };
            let mut schedule = Schedule::new(kind, timing, began);
            let mut counted: Vec<Answer> = Vec::new();
            let mut ended = at(now);
            for (answer, took) in runs {
                let Some(due) = schedule.due() else {
                    prop_assert_ne!(kind, ProbeKind::Readiness);
                    break;
                };
                let start = due.max(ended);
                prop_assert!(at(age) + (start - at(now)) >= timing.initial_delay);
                let answer = [Answer::Success, Answer::Failure, Answer::Errored][answer];
                schedule.begin();
                ended = start + at(took);
                let before = schedule.verdict();
                let counts = schedule.end(ended, answer);
                if counts && answer != Answer::Errored {
                    counted.push(answer);
                }
                if schedule.verdict() != before {
                    let (last, threshold) = match schedule.verdict() {
                        Some(ProbeVerdict::Success) => (Answer::Success, timing.success_threshold),
                        _ => (Answer::Failure, timing.failure_threshold),
                    };
                    let tail = &counted[counted.len() - threshold as usize..];
                    prop_assert!(tail.iter().all(|a| *a == last));
                }
                if let Some(next) = schedule.due() {
                    prop_assert!(next > due, "the beat goes on");
                    prop_assert!(next >= due + timing.period);
                    prop_assert!(next <= ended + timing.period + SLOT);
                }
            }
        }
    }
}
