//! What pods take of disks: volumes and logs. Blocking: for a thread that may block.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod as PodObject, Volume as VolumeSpec};
use tokio::time::Instant;

use super::api::ClaimReference;
use super::sample::Volume;
use crate::metrics::kubelet as metrics;
use crate::model::clock;
use crate::model::pod::PodUid;
use crate::sys::{disk_usage, filesystem};
use crate::volume::layout::{self, VolumeKind};

/// Entries looked at in all volumes for one answer. What would need more keeps its last figures.
const ENTRIES: usize = 500_000;

/// What volumes held when they were last measured, by directory.
#[derive(Debug, Default)]
pub(super) struct VolumeCache {
    known: HashMap<PathBuf, (Instant, Volume)>,
    budget: usize,
}

impl VolumeCache {
    /// Begins an answer: forgets what is older than twice `period`, which is what nobody asked for again.
    pub(super) fn begin(&mut self, now: Instant, period: Duration) {
        self.known.retain(|_, (at, _)| now.saturating_duration_since(*at) <= period * 2);
        self.budget = ENTRIES;
    }

    /// The volumes of a pod that can be measured, each not older than `period` if it can be helped.
    pub(super) fn of_pod(
        &mut self,
        root: &Path,
        uid: &PodUid,
        pod: &PodObject,
        now: Instant,
        period: Duration,
    ) -> Vec<Volume> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let measured = volumes.iter().filter_map(|volume| self.volume(root, uid, namespace, volume, now, period));
        measured.collect()
    }

    fn volume(
        &mut self,
        root: &Path,
        uid: &PodUid,
        namespace: &str,
        spec: &VolumeSpec,
        now: Instant,
        period: Duration,
    ) -> Option<Volume> {
        let path = place(root, uid, spec)?;
        let known = self.known.get(&path);
        if let Some((_, volume)) = known.filter(|(at, _)| now.saturating_duration_since(*at) < period) {
            return Some(volume.clone());
        }
        let last = known.map(|(_, volume)| volume.clone());
        let Some(volume) = self.measure(&path, namespace, spec) else { return last };
        self.known.insert(path, (now, volume.clone()));
        Some(volume)
    }

    fn measure(&mut self, path: &Path, namespace: &str, spec: &VolumeSpec) -> Option<Volume> {
        let filesystem = filesystem::usage(path).ok()?;
        let began = Instant::now();
        let usage = disk_usage::tree(path, &mut self.budget).ok()??;
        // By the name of the program that does the same.
        metrics::VOLUME_FIGURES_DURATION.observe(&["du"], began.elapsed().as_secs_f64());
        let claim = spec
            .persistent_volume_claim
            .as_ref()
            .map(|claim| ClaimReference { name: claim.claim_name.clone(), namespace: namespace.to_owned() });
        Some(Volume { name: spec.name.clone(), at: clock::now(), usage, filesystem, is_local: claim.is_none(), claim })
    }
}

/// Where a volume is; none for kinds that are not measured.
fn place(root: &Path, uid: &PodUid, spec: &VolumeSpec) -> Option<PathBuf> {
    if !layout::is_plain_name(uid.as_str()) || !layout::is_plain_name(&spec.name) {
        return None;
    }
    layout::volume_directory(root, uid, VolumeKind::of(spec)?, &spec.name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn pod() -> PodObject {
        let empty_dir = VolumeSpec {
            name: "data".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..VolumeSpec::default()
        };
        let host_path = VolumeSpec {
            name: "host".to_owned(),
            host_path: Some(HostPathVolumeSource { path: "/".to_owned(), type_: None }),
            ..VolumeSpec::default()
        };
        let spec = PodSpec { volumes: Some(vec![empty_dir, host_path]), ..PodSpec::default() };
        PodObject { metadata: ObjectMeta::default(), spec: Some(spec), status: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_is_measured_once_a_period() {
        let root = tempfile::tempdir().unwrap();
        let uid = PodUid::from("u-1");
        let place = layout::volume_directory(root.path(), &uid, VolumeKind::EmptyDir, "data").unwrap();
        std::fs::create_dir_all(&place).unwrap();
        let mut cache = VolumeCache::default();
        let start = Instant::now();
        let mut inodes = |at: Instant| {
            cache.begin(at, PERIOD);
            let volumes = cache.of_pod(root.path(), &uid, &pod(), at, PERIOD);
            assert_eq!(volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["data"]);
            volumes[0].usage.inodes
        };
        assert_eq!(inodes(start), 1);
        std::fs::write(place.join("f"), b"x").unwrap();
        assert_eq!(inodes(start + PERIOD / 2), 1);
        assert_eq!(inodes(start + PERIOD), 2);
        // What is gone keeps its last figures for a while, and is forgotten.
        std::fs::remove_dir_all(&place).unwrap();
        cache.begin(start + 10 * PERIOD, PERIOD);
        assert!(cache.of_pod(root.path(), &uid, &pod(), start + 10 * PERIOD, PERIOD).is_empty());
    }
}
