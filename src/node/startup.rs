//! How long a machine takes to become a Ready node, for `/metrics` (`util/node_startup_latency_tracker.go` of the peer). Told
//! once, and only of a machine that was no node before.

use crate::metrics::family::Gauge;
use crate::metrics::kubelet as metrics;
use crate::model::Timestamp;

/// Figures to set.
type Told = Vec<(&'static Gauge, f64)>;

/// Sets figures.
pub(super) fn tell(told: Told) {
    for (gauge, seconds) in told {
        gauge.set(&[], seconds);
    }
}

/// The steps so far.
#[derive(Debug)]
pub(super) struct Startup {
    booted_at: Option<Timestamp>,
    started_at: Timestamp,
    attempted_at: Option<Timestamp>,
    registered_at: Option<Timestamp>,
}

impl Startup {
    /// Of an agent that was started now.
    pub(super) fn new(booted_at: Option<Timestamp>, started_at: Timestamp) -> Self {
        Startup { booted_at, started_at, attempted_at: None, registered_at: None }
    }

    /// An attempt to register begins.
    pub(super) fn attempts(&mut self, now: Timestamp) {
        self.attempted_at.get_or_insert(now);
    }

    /// The Node was created.
    pub(super) fn registered(&mut self, now: Timestamp) -> Told {
        let Some(attempted_at) = self.attempted_at else { return Vec::new() };
        self.registered_at = Some(now);
        let mut told = vec![
            (&metrics::NODE_STARTUP_PRE_REGISTRATION, seconds(self.started_at, attempted_at)),
            (&metrics::NODE_STARTUP_REGISTRATION, seconds(attempted_at, now)),
        ];
        told.extend(self.booted_at.map(|at| (&metrics::NODE_STARTUP_PRE_AGENT, seconds(at, self.started_at))));
        told
    }

    /// The API has the node as Ready.
    pub(super) fn ready(&mut self, now: Timestamp) -> Told {
        // Taken, so that it is told once.
        let Some(registered_at) = self.registered_at.take() else { return Vec::new() };
        let mut told = vec![(&metrics::NODE_STARTUP_POST_REGISTRATION, seconds(registered_at, now))];
        told.extend(self.booted_at.map(|at| (&metrics::NODE_STARTUP, seconds(at, now))));
        told
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::family::Family;

    #[test]
    fn steps_are_told_of_a_new_node_alone_and_once() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let shown = |told: Told| {
            let name = |gauge: &Gauge| gauge.description().name.replace("kubelet_node_startup_", "");
            told.into_iter().map(|(gauge, seconds)| format!("{} {seconds}", name(gauge))).collect::<Vec<_>>()
        };
        let mut startup = Startup::new(Some(at(100)), at(200));
        startup.attempts(at(201));
        assert!(startup.ready(at(250)).is_empty(), "found, not created");
        startup.attempts(at(202));
        let expected = [
            "pre_registration_duration_seconds 1",
            "registration_duration_seconds 4",
            "pre_kubelet_duration_seconds 100",
        ];
        assert_eq!(shown(startup.registered(at(205))), expected);
        assert_eq!(shown(startup.ready(at(210))), ["post_registration_duration_seconds 5", "duration_seconds 110"]);
        assert!(startup.ready(at(999)).is_empty());
    }
}
