//! The families of `/metrics/probes`.

use super::counters::{DURATION_BUCKETS, ProbeCounts, ProbeSample};
use crate::metrics::text::{Kind, float_text};
use crate::metrics::{Exposition, float};

const DURATION: &str = "prober_probe_duration_seconds";
const TOTAL: &str = "prober_probe_total";

/// Writes the samples, in whatever order they come.
pub fn expose(mut samples: Vec<ProbeSample>, text: &mut Exposition) {
    samples.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    let successful = || samples.iter().filter(|sample| sample.counts.successful > 0);
    if successful().next().is_some() {
        text.family(DURATION, "[ALPHA] Duration in seconds for a probe response.", Kind::Histogram);
    }
    let bounds = DURATION_BUCKETS.map(float_text);
    // One name and UID after the other may have been used by two pods, whose labels are the same here.
    let mut rest = successful().peekable();
    while let Some(sample) = rest.next() {
        let mut counts = sample.counts.clone();
        while let Some(same) = rest.next_if(|next| duration_labels(next) == duration_labels(sample)) {
            add(&mut counts, &same.counts);
        }
        write_duration(text, sample, &counts, &bounds);
    }
    if !samples.is_empty() {
        let help = "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
        text.family(TOTAL, help, Kind::Counter);
    }
    for sample in &samples {
        for (result, count) in [("failed", sample.counts.failed), ("successful", sample.counts.successful)] {
            if count > 0 {
                let [container, namespace, pod, kind] = duration_labels(sample);
                let labels =
                    [container, namespace, pod, ("pod_uid", sample.pod_uid.as_str()), kind, ("result", result)];
                text.sample(TOTAL, labels, float(count), None);
            }
        }
    }
}

fn key(sample: &ProbeSample) -> ([(&'static str, &str); 4], &str) {
    (duration_labels(sample), &sample.pod_uid)
}

fn duration_labels(sample: &ProbeSample) -> [(&'static str, &str); 4] {
    [
        ("container", &sample.container),
        ("namespace", &sample.namespace),
        ("pod", &sample.pod),
        ("probe_type", sample.kind.name()),
    ]
}

fn add(counts: &mut ProbeCounts, more: &ProbeCounts) {
    counts.successful += more.successful;
    counts.seconds += more.seconds;
    for (bucket, more) in counts.buckets.iter_mut().zip(more.buckets) {
        *bucket += more;
    }
}

fn write_duration(text: &mut Exposition, sample: &ProbeSample, counts: &ProbeCounts, bounds: &[String]) {
    let labels = duration_labels(sample);
    let mut seen = 0;
    for (bound, here) in bounds.iter().zip(counts.buckets) {
        seen += here;
        let labels = labels.into_iter().chain([("le", bound.as_str())]);
        text.sample("prober_probe_duration_seconds_bucket", labels, float(seen), None);
    }
    let all = labels.into_iter().chain([("le", "+Inf")]);
    text.sample("prober_probe_duration_seconds_bucket", all, float(counts.successful), None);
    text.sample("prober_probe_duration_seconds_sum", labels, counts.seconds, None);
    text.sample("prober_probe_duration_seconds_count", labels, float(counts.successful), None);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::types::ProbeKind;

    fn sample(uid: &str, kind: ProbeKind, successes: &[u64], failures: u32) -> ProbeSample {
        let mut counts = ProbeCounts::default();
        successes.iter().for_each(|milliseconds| counts.success(Duration::from_millis(*milliseconds)));
        (0..failures).for_each(|_| counts.failure());
        ProbeSample {
            namespace: "default".to_owned(),
            pod: "web-0".to_owned(),
            pod_uid: uid.to_owned(),
            container: "c".to_owned(),
            kind,
            counts,
        }
    }

    #[test]
    fn families_have_the_peers_names_and_labels() {
        let mut text = Exposition::new();
        let samples = vec![
            sample("u2", ProbeKind::Readiness, &[500], 0),
            sample("u1", ProbeKind::Readiness, &[1, 20_000], 3),
            sample("u1", ProbeKind::Liveness, &[], 1),
            sample("u1", ProbeKind::Startup, &[], 0),
        ];
        expose(samples, &mut text);
        let text = text.finish();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let labels = "container=\"c\",namespace=\"default\",pod=\"web-0\"";
        let bucket = |le: &str, count: u32| {
            format!("prober_probe_duration_seconds_bucket{{{labels},probe_type=\"Readiness\",le=\"{le}\"}} {count}")
        };
        // Both pods of the name in one series, as a series cannot be there twice.
        assert_eq!(lines.iter().filter(|line| line.contains("_bucket")).count(), 12, "{text}");
        for (le, count) in [("0.005", 1), ("0.25", 1), ("0.5", 2), ("10", 2), ("+Inf", 3)] {
            assert!(lines.contains(&bucket(le, count).as_str()), "{le}: {text}");
        }
        let count = format!("prober_probe_duration_seconds_count{{{labels},probe_type=\"Readiness\"}} 3");
        assert!(lines.contains(&count.as_str()), "{text}");
        let total = |uid: &str, kind: &str, result: &str, count: u32| {
            format!(
                "prober_probe_total{{{labels},pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\"}} {count}"
            )
        };
        let expected = [
            total("u1", "Liveness", "failed", 1),
            total("u1", "Readiness", "failed", 3),
            total("u1", "Readiness", "successful", 2),
            total("u2", "Readiness", "successful", 1),
        ];
        assert_eq!(lines[lines.len() - 4..], expected);
    }

    #[test]
    fn without_probes_there_is_nothing() {
        let mut text = Exposition::new();
        expose(Vec::new(), &mut text);
        assert_eq!(text.finish(), "");
    }
}
