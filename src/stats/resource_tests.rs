//! The text, byte for byte.

use super::*;
use crate::stats::summary::tests::sample;

#[test]
fn rows_have_their_own_times_and_order() {
    let mut sample = sample();
    let mut other = sample.pods[0].clone();
    other.key.name = "api".to_owned();
    other.containers[0].cgroup = None;
    sample.pods.push(other);
    let text = text(Some(&sample));
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        samples,
        [
            "container_cpu_usage_seconds_total{container=\"main\",namespace=\"ns\",pod=\"web\"} 5e-07 1000000",
            "container_memory_working_set_bytes{container=\"main\",namespace=\"ns\",pod=\"web\"} 80 1000000",
            "container_start_time_seconds{container=\"main\",namespace=\"ns\",pod=\"web\"} 960",
            "container_swap_limit_bytes{container=\"main\",namespace=\"ns\",pod=\"web\"} 11 1000000",
            "container_swap_usage_bytes{container=\"main\",namespace=\"ns\",pod=\"web\"} 1 1000000",
            "node_cpu_usage_seconds_total 1e-06 1000000",
            "node_memory_working_set_bytes 80 1000000",
            "node_swap_usage_bytes 1 1000000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"api\"} 6e-07 1000000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\"} 6e-07 1000000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"api\"} 80 1000000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"web\"} 80 1000000",
            "pod_swap_usage_bytes{namespace=\"ns\",pod=\"api\"} 1 1000000",
            "pod_swap_usage_bytes{namespace=\"ns\",pod=\"web\"} 1 1000000",
            "resource_scrape_error 0",
        ]
    );
    let help = "# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in \
        core-seconds\n# TYPE container_cpu_usage_seconds_total counter\n";
    assert!(text.starts_with(help), "{text}");
}

#[test]
fn an_error_is_told_of() {
    let text = text(None);
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), ["resource_scrape_error 1"]);
}
