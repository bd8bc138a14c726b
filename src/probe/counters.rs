//! What `/metrics/probes` shows: how probes ended and how long successful ones took.

use std::time::Duration;

use super::types::ProbeKind;

/// Upper bounds of the duration's buckets, seconds: the defaults of Prometheus clients, as the peer has them.
pub const DURATION_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Runs of one probe of a container, over all instances of it. A probe whose time ran out is a failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeCounts {
    /// `prober_probe_total{result="successful"}`.
    pub successful: u64,
    /// `prober_probe_total{result="failed"}`.
    pub failed: u64,
    /// `prober_probe_duration_seconds`: successful runs by bucket, not cumulative.
    pub buckets: [u64; DURATION_BUCKETS.len()],
    /// The sum of the durations, seconds.
    pub seconds: f64,
}

/// The counts of one probe, with what the labels need.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSample {
    /// Label `namespace`.
    pub namespace: String,
    /// Label `pod`.
    pub pod: String,
    /// Label `pod_uid` of `prober_probe_total`.
    pub pod_uid: String,
    /// Label `container`.
    pub container: String,
    /// Label `probe_type`, by [`ProbeKind::name`].
    pub kind: ProbeKind,
    /// The counts.
    pub counts: ProbeCounts,
}

impl ProbeCounts {
    pub(super) fn success(&mut self, took: Duration) {
        self.successful += 1;
        let seconds = took.as_secs_f64();
        self.seconds += seconds;
        if let Some(bucket) = DURATION_BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += 1;
        }
    }

    pub(super) fn failure(&mut self) {
        self.failed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let mut counts = ProbeCounts::default();
        for milliseconds in [1, 5, 6, 20_000] {
            counts.success(Duration::from_millis(milliseconds));
        }
        counts.failure();
        assert_eq!((counts.successful, counts.failed), (4, 1));
        assert_eq!(counts.buckets[..3], [2, 1, 0]);
        assert_eq!(counts.buckets.iter().sum::<u64>(), 3, "what is longer is in no bucket but the sum");
        assert!((counts.seconds - 20.012).abs() < 1e-9);
    }
}
