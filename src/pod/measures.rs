//! What `/metrics` tells of a pod's start and of its worker's work.
//!
//! The peer measures calls of one function; a worker here acts on many things at once. What is measured instead is what those
//! figures are read for: from the first action of a stretch of work until none is under way any more.

use std::sync::Once;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

use super::plan::{Action, PodPhases};
use crate::metrics::{count, kubelet as metrics};
use crate::model::Timestamp;
use crate::model::pod;

static FIRST_NETWORK_POD: Once = Once::new();

/// What is remembered of a pod to measure it.
#[derive(Debug)]
pub(super) struct Measures {
    seen_at: Timestamp,
    /// The pod was not started by an earlier agent, and is no mirror's: its start is measured.
    is_new: bool,
    has_worked: bool,
    /// The beginning of the work under way, and what it is for.
    working: Option<(Timestamp, &'static str)>,
    /// The pod has changed since the last work began.
    is_changed: bool,
    pulling: usize,
    pulling_since: Timestamp,
    /// Seconds in which at least one image was pulled.
    pulled: f64,
    start_is_told: bool,
    start_is_seen: bool,
}

impl Measures {
    /// Of a pod that is seen for the first time.
    pub(super) fn new(pod: &Pod, now: Timestamp) -> Self {
        let is_new = pod.status.as_ref().is_none_or(|status| status.start_time.is_none());
        Measures {
            seen_at: now,
            is_new,
            has_worked: false,
            working: None,
            is_changed: false,
            pulling: 0,
            pulling_since: now,
            pulled: 0.0,
            start_is_told: false,
            start_is_seen: false,
        }
    }

    /// An action begins.
    pub(super) fn begins(&mut self, action: &Action, pod: &Pod, is_ending: bool, now: Timestamp) {
        if !self.has_worked && self.is_new {
            metrics::POD_WORKER_START_DURATION.observe(&[], seconds(self.seen_at, now));
            metrics::CONTAINERS_PER_POD.observe(&[], count(spec_containers(pod)));
        }
        let operation = match (is_ending, self.has_worked, self.is_changed) {
            (true, _, _) => "terminated",
            (false, false, _) => "create",
            (false, true, true) => "update",
            (false, true, false) => "sync",
        };
        self.has_worked = true;
        self.working.get_or_insert((now, operation));
        self.is_changed = false;
        if action.is_pull() {
            if self.pulling == 0 {
                self.pulling_since = now;
            }
            self.pulling += 1;
        }
    }

    /// An action has ended.
    pub(super) fn ended(&mut self, action: &Action, now: Timestamp) {
        if action.is_pull() && self.pulling > 0 {
            self.pulling -= 1;
            if self.pulling == 0 {
                self.pulled += seconds(self.pulling_since, now);
            }
        }
    }

    /// Nothing is under way and nothing is to be done.
    pub(super) fn settled(&mut self, now: Timestamp) {
        if let Some((since, operation)) = self.working.take() {
            metrics::POD_WORKER_DURATION.observe(&[operation], seconds(since, now));
        }
    }

    /// The pod is Ready for the first time: its start tells where it took its time.
    pub(super) fn ready(phases: &PodPhases) {
        for (stage, time) in phases.stages() {
            metrics::POD_START_STAGE.observe(&[stage], time.as_secs_f64().abs());
        }
    }

    /// A status is published after another one.
    pub(super) fn published(&mut self, before: &PodStatus, status: &PodStatus, now: Timestamp) {
        count_ends("init_container", &before.init_container_statuses, &status.init_container_statuses);
        count_ends("container", &before.container_statuses, &status.container_statuses);
        count_ends("ephemeral_container", &before.ephemeral_container_statuses, &status.ephemeral_container_statuses);
        if self.is_new && !self.start_is_told && status.phase.as_deref() == Some("Running") {
            self.start_is_told = true;
            metrics::POD_START_DURATION.observe(&[], seconds(self.seen_at, now));
        }
    }

    /// The source tells of the pod again; the API's word on its status is what others see of the start.
    pub(super) fn seen(&mut self, pod: &Pod, now: Timestamp) {
        self.is_changed = true;
        if !self.is_new || self.start_is_seen || pod::is_static(pod) || !self.start_is_told || !has_started(pod) {
            return;
        }
        self.start_is_seen = true;
        let Some(created) = pod.metadata.creation_timestamp.as_ref().map(|time| time.0) else { return };
        let total = seconds(created, now);
        metrics::POD_START_TOTAL_DURATION.observe(&[], total);
        if is_stateful(pod) {
            return;
        }
        let own = (total - self.pulled - init_seconds(pod)).max(0.0);
        metrics::POD_START_SLI_DURATION.observe(&[], own);
        let is_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if !is_host {
            FIRST_NETWORK_POD.call_once(|| metrics::FIRST_NETWORK_POD_START.set(&[], own));
        }
    }
}

/// Counts the containers that have ended since.
fn count_ends(kind: &str, before: &Option<Vec<ContainerStatus>>, after: &Option<Vec<ContainerStatus>>) {
    for status in after.iter().flatten() {
        let Some(ended) = end(status) else { continue };
        let known = before.iter().flatten().find(|known| known.name == status.name);
        if known.and_then(end).is_none() {
            let reason = ended.reason.as_deref().unwrap_or_default();
            metrics::TERMINATED_CONTAINERS.increment(&[kind, &ended.exit_code.to_string(), reason]);
        }
    }
}

/// How the container ended, if it has.
fn end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

fn spec_containers(pod: &Pod) -> usize {
    pod.spec.as_ref().map_or(0, |spec| spec.containers.len())
}

/// Whether every container runs, by what the API has.
fn has_started(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut running =
        statuses.map(|s| s.state.as_ref().and_then(|s| s.running.as_ref()?.started_at.as_ref()).is_some());
    let first = running.next();
    first == Some(true) && running.all(|is_running| is_running)
}

/// Whether a volume of it is more than a place to write to or something from the API: such pods wait for storage.
fn is_stateful(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|v| {
        let is_light = v.secret.is_some()
            || v.config_map.is_some()
            || v.downward_api.is_some()
            || v.empty_dir.is_some()
            || v.projected.is_some();
        !is_light
    })
}

/// How long init containers ran that have ended.
fn init_seconds(pod: &Pod) -> f64 {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let ended = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref());
    ended.filter_map(|end| Some(seconds(end.started_at.as_ref()?.0, end.finished_at.as_ref()?.0))).sum()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::json;

    use super::*;
    use crate::model::pod::ContainerKind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000 + second).unwrap()
    }

    fn pod(state: &serde_json::Value, volume: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "creationTimestamp": at(-2)},
            "spec": {"containers": [{"name": "c"}], "volumes": [volume]},
            "status": {
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}],
                "initContainerStatuses": [{
                    "name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0, "startedAt": at(1), "finishedAt": at(3)}},
                }],
            },
        }))
        .unwrap()
    }

    fn pull() -> Action {
        Action::PullImage { container: "c".to_owned(), kind: ContainerKind::Regular, image: "i".to_owned() }
    }

    #[test]
    fn overlapping_pulls_count_once() {
        let mut measures = Measures::new(&Pod::default(), at(0));
        let pod = Pod::default();
        measures.begins(&pull(), &pod, false, at(0));
        measures.begins(&pull(), &pod, false, at(2));
        measures.ended(&pull(), at(3));
        measures.ended(&pull(), at(5));
        measures.begins(&pull(), &pod, false, at(10));
        measures.ended(&pull(), at(11));
        assert!((measures.pulled - 6.0).abs() < 1e-9, "{}", measures.pulled);
    }

    #[test]
    fn the_stages_of_a_start_are_observed() {
        let phases = PodPhases {
            scheduled: Some(at(-2)),
            seen: Some(at(0)),
            volumes: Some(at(1)),
            images: Some(at(5)),
            sandbox: Some(at(3)),
            started: Some(at(6)),
            ready: Some(at(16)),
        };
        let told = |stage: &str| {
            let mut text = crate::metrics::Exposition::default();
            metrics::write_all(&mut text);
            let text = text.finish();
            ["sum", "count"].map(|what| {
                let name = format!("ferrolet_pod_start_stage_seconds_{what}{{stage=\"{stage}\"}} ");
                let value = text.lines().find_map(|line| line.strip_prefix(&name));
                value.map_or(0.0, |value| value.parse::<f64>().unwrap())
            })
        };
        let stages = ["scheduled", "volumes", "images", "sandbox", "started", "ready"];
        let before = stages.map(told);
        Measures::ready(&phases);
        let observed: Vec<_> = stages
            .iter()
            .zip(before)
            .map(|(stage, [sum, count])| (told(stage)[0] - sum, told(stage)[1] - count))
            .collect();
        assert_eq!(observed, [2.0, 1.0, 5.0, 3.0, 6.0, 16.0].map(|seconds| (seconds, 1.0)));
    }

    #[test]
    fn work_is_named_by_what_it_is_for() {
        let pod = Pod::default();
        let mut measures = Measures::new(&pod, at(0));
        let mut name = |change: bool, is_ending: bool| {
            if change {
                measures.seen(&pod, at(1));
            }
            measures.begins(&Action::CreateCgroup, &pod, is_ending, at(1));
            measures.begins(&Action::MountVolumes, &pod, is_ending, at(2));
            let (since, operation) = measures.working.unwrap();
            measures.settled(at(3));
            assert_eq!((since, measures.working), (at(1), None));
            operation
        };
        assert_eq!(name(true, false), "create");
        assert_eq!([name(false, false), name(true, false), name(false, false)], ["sync", "update", "sync"]);
        assert_eq!(name(true, true), "terminated");
    }

    #[test]
    fn a_start_is_seen_once_when_all_run_and_not_of_pods_of_an_earlier_agent() {
        let (light, waiting) = (json!({"name": "v", "emptyDir": {}}), json!({"waiting": {}}));
        let running = pod(&json!({"running": {"startedAt": at(4)}}), &light);
        let mut measures = Measures::new(&Pod::default(), at(0));
        let status = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
        measures.seen(&running, at(4));
        assert!(!measures.start_is_seen, "an earlier run's");
        measures.published(&PodStatus::default(), &status, at(4));
        measures.seen(&pod(&waiting, &light), at(4));
        assert!(!measures.start_is_seen);
        measures.seen(&running, at(5));
        assert!(measures.start_is_seen);
        assert!((init_seconds(&running) - 2.0).abs() < 1e-9);
        let mut old = Pod::default();
        old.status.get_or_insert_default().start_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0) - SignedDuration::from_hours(1)));
        let mut measures = Measures::new(&old, at(0));
        measures.published(&PodStatus::default(), &status, at(1));
        measures.seen(&running, at(2));
        assert!(!measures.start_is_told && !measures.start_is_seen);
    }

    #[test]
    fn pods_that_wait_for_storage_are_told_apart() {
        let running = json!({"running": {"startedAt": at(4)}});
        assert!(!is_stateful(&pod(&running, &json!({"name": "v", "secret": {"secretName": "s"}}))));
        assert!(is_stateful(&pod(&running, &json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}))));
        assert!(is_stateful(&pod(&running, &json!({"name": "v", "hostPath": {"path": "/"}}))));
    }
    #[test]
    fn the_end_of_a_container_counts_once() {
        let ended = json!({"terminated": {"exitCode": 3, "reason": "OnlyInThisTest"}});
        let status = |state: serde_json::Value| pod(&state, &json!({"name": "v"})).status.unwrap();
        let mut measures = Measures::new(&Pod::default(), at(0));
        let running = status(json!({"running": {}}));
        measures.published(&PodStatus::default(), &running, at(1));
        measures.published(&running, &status(ended.clone()), at(2));
        measures.published(&status(ended.clone()), &status(ended.clone()), at(3));
        // Again, by the next instance.
        measures.published(&status(json!({"waiting": {}})), &status(ended), at(4));
        let mut text = crate::metrics::Exposition::default();
        metrics::write_all(&mut text);
        let told = "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"3\",reason=\"OnlyInThisTest\"} 2";
        assert!(text.finish().contains(told));
    }
}
