//! What `/metrics` counts of the pods that have a worker.

use crate::metrics::kubelet as metrics;

/// A pod's place among those that have a worker, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// No source knows the pod.
    is_orphan: bool,
    is_static: bool,
    labels: Option<[&'static str; 3]>,
}

impl Place {
    pub(super) fn new(is_orphan: bool, is_static: bool) -> Self {
        Place { is_orphan, is_static, labels: None }
    }

    /// Counts the pod where it belongs now.
    pub(super) fn update(&mut self, is_removed: bool, is_ending: bool, has_stopped: bool) {
        let labels = self.labels(is_removed, is_ending, has_stopped);
        if self.labels != Some(labels) {
            self.leave();
            metrics::WORKING_PODS.add(&labels, 1.0);
            self.labels = Some(labels);
        }
    }

    /// Configuration, lifecycle, whether it is static.
    fn labels(&self, is_removed: bool, is_ending: bool, has_stopped: bool) -> [&'static str; 3] {
        let lifecycle = match (is_ending, has_stopped) {
            (false, _) => "sync",
            (true, false) => "terminating",
            (true, true) => "terminated",
        };
        let is_static = if self.is_static { "true" } else { "" };
        match (self.is_orphan, is_removed) {
            (true, _) => ["runtime_only", lifecycle, "unknown"],
            (false, true) => ["orphan", lifecycle, is_static],
            (false, false) => ["desired", lifecycle, is_static],
        }
    }

    fn leave(&mut self) {
        if let Some(labels) = self.labels.take() {
            metrics::WORKING_PODS.add(&labels, -1.0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_counted_in_one_place() {
        let place = Place::new(false, true);
        assert_eq!(place.labels(false, false, false), ["desired", "sync", "true"]);
        assert_eq!(place.labels(true, true, false), ["orphan", "terminating", "true"]);
        assert_eq!(Place::new(false, false).labels(false, true, true), ["desired", "terminated", ""]);
        assert_eq!(Place::new(true, false).labels(true, true, false), ["runtime_only", "terminating", "unknown"]);
    }
}
