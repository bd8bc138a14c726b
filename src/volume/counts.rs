//! What metrics tell of volumes: how long they take to be set up and removed, and how many pods should have and do have.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::layout::VolumeKind;
use crate::metrics::kubelet as metrics;
use crate::model::pod::PodUid;

/// The peer's names of what should be and what is.
const WANTED: &str = "desired_state_of_world";
const HELD: &str = "actual_state_of_world";

/// The kinds of the volumes of each pod.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<PodUid, OfPod>>);

#[derive(Debug, Default)]
struct OfPod {
    wanted: Vec<VolumeKind>,
    held: Vec<VolumeKind>,
}

impl Counts {
    /// These are to be set up.
    pub fn want(&self, uid: &PodUid, kinds: Vec<VolumeKind>) {
        self.lock().entry(uid.clone()).or_default().wanted = kinds;
    }

    /// These are set up.
    pub fn hold(&self, uid: &PodUid, kinds: Vec<VolumeKind>) {
        self.lock().entry(uid.clone()).or_default().held = kinds;
    }

    /// Those that are set up.
    pub fn held(&self, uid: &PodUid) -> Vec<VolumeKind> {
        self.lock().get(uid).map(|pod| pod.held.clone()).unwrap_or_default()
    }

    /// Nothing is left of the pod.
    pub fn forget(&self, uid: &PodUid) {
        self.lock().remove(uid);
    }

    /// How many there are, by plugin and state.
    pub fn totals(&self) -> BTreeMap<[&'static str; 2], u32> {
        let mut totals = BTreeMap::new();
        for pod in self.lock().values() {
            for (kinds, state) in [(&pod.wanted, WANTED), (&pod.held, HELD)] {
                for kind in kinds {
                    *totals.entry([kind.plugin(), state]).or_default() += 1;
                }
            }
        }
        totals
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, OfPod>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures a piece of work on a volume.
pub fn timed<T, E>(operation: &str, kind: VolumeKind, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let began = Instant::now();
    let result = work();
    observe(operation, kind, result.is_ok(), began);
    result
}

/// Notes a piece of work on a volume that has ended.
pub fn observe(operation: &str, kind: VolumeKind, succeeded: bool, began: Instant) {
    let status = if succeeded { "success" } else { "fail-unknown" };
    let labels = ["false", operation, status, kind.plugin()];
    metrics::STORAGE_DURATION.observe(&labels, began.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_counted_until_their_pod_is_gone() {
        let counts = Counts::default();
        let (one, other) = (PodUid::from("1"), PodUid::from("2"));
        counts.want(&one, vec![VolumeKind::Secret, VolumeKind::Secret]);
        counts.want(&other, vec![VolumeKind::Secret, VolumeKind::EmptyDir]);
        counts.hold(&one, vec![VolumeKind::Secret]);
        let shown = |counts: &Counts| {
            let totals = counts.totals();
            totals.into_iter().map(|([plugin, state], count)| format!("{plugin} {state} {count}")).collect::<Vec<_>>()
        };
        let all = [
            "kubernetes.io/empty-dir desired_state_of_world 1",
            "kubernetes.io/secret actual_state_of_world 1",
            "kubernetes.io/secret desired_state_of_world 3",
        ];
        assert_eq!(shown(&counts), all);
        assert_eq!(counts.held(&one), [VolumeKind::Secret]);
        counts.forget(&one);
        counts.hold(&other, vec![]);
        assert_eq!(shown(&counts), [all[0], "kubernetes.io/secret desired_state_of_world 1"]);
    }
}
