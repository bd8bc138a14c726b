//! When a pod reached each stage on its way to Ready: what tells where a slow start lost its time.

use std::fmt;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::action::Action;
use crate::model::{SignedDuration, Timestamp};

/// The times of one pod's start. A stage that is reached again, as by a second container, keeps the last time before Ready.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodPhases {
    /// Bound to the node, by the scheduler or, without one, as it was created: the API's time, in whole seconds.
    pub scheduled: Option<Timestamp>,
    /// Seen by the agent.
    pub seen: Option<Timestamp>,
    /// The volumes were mounted.
    pub volumes: Option<Timestamp>,
    /// The images were there.
    pub images: Option<Timestamp>,
    /// The sandbox was made.
    pub sandbox: Option<Timestamp>,
    /// The containers were started.
    pub started: Option<Timestamp>,
    /// The pod was Ready.
    pub ready: Option<Timestamp>,
}

impl PodPhases {
    /// Those of a pod that was just seen.
    pub(super) fn new(pod: &Pod, now: Timestamp) -> Self {
        let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let scheduled = conditions.find(|c| c.type_ == "PodScheduled" && c.status == "True");
        let scheduled = scheduled.and_then(|c| c.last_transition_time.as_ref());
        PodPhases {
            scheduled: scheduled.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0),
            seen: Some(now),
            ..PodPhases::default()
        }
    }

    /// An action has succeeded.
    pub(super) fn note(&mut self, action: &Action, now: Timestamp) {
        if self.ready.is_some() {
            return;
        }
        let stage = match action {
            Action::MountVolumes => &mut self.volumes,
            Action::PullImage { .. } | Action::PullVolumeImage { .. } => &mut self.images,
            Action::CreateSandbox { .. } => &mut self.sandbox,
            Action::StartContainer(_) => &mut self.started,
            _ => return,
        };
        *stage = Some(now);
    }

    /// A status is about to be published. Returns whether the pod is Ready for the first time since it was started here.
    pub(super) fn note_status(&mut self, status: &PodStatus, now: Timestamp) -> bool {
        let is_ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        if !is_ready || self.ready.is_some() {
            return false;
        }
        self.ready = Some(now);
        // What an earlier agent started tells nothing of the time that it took.
        self.started.is_some()
    }

    /// The stages that were reached, each with the time from the pod's first sight. Scheduled lies before it.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, SignedDuration)> {
        let seen = self.seen;
        let stages = [
            ("scheduled", self.scheduled),
            ("volumes", self.volumes),
            ("images", self.images),
            ("sandbox", self.sandbox),
            ("started", self.started),
            ("ready", self.ready),
        ];
        stages.into_iter().filter_map(move |(name, stage)| Some((name, stage?.duration_since(seen?))))
    }
}

impl fmt::Display for PodPhases {
    /// `sandbox +0.123s, ...`: seconds from the pod's first sight.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, time) in self.stages() {
            write!(f, "{separator}{name} {:+.3}s", time.as_secs_f64())?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(millisecond: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millisecond).unwrap()
    }

    fn ready() -> PodStatus {
        serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})).unwrap()
    }

    #[test]
    fn the_stages_of_a_start_are_told_once() {
        let scheduled = crate::model::clock::api_time(at(-1000)).0.to_string();
        let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled});
        let metadata = json!({"creationTimestamp": at(-3000)});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": metadata, "status": {"conditions": [condition]}})).unwrap();
        let mut phases = PodPhases::new(&pod, at(0));
        phases.note(&Action::CreateSandbox { attempt: 0 }, at(123));
        phases.note(&Action::MountVolumes, at(20));
        assert!(!phases.note_status(&PodStatus::default(), at(150)));
        phases.started = Some(at(200));
        assert!(phases.note_status(&ready(), at(250)));
        assert!(!phases.note_status(&ready(), at(300)));
        phases.note(&Action::MountVolumes, at(400));
        assert_eq!(
            phases.to_string(),
            "scheduled -1.000s, volumes +0.020s, sandbox +0.123s, started +0.200s, ready +0.250s"
        );
    }

    #[test]
    fn without_a_scheduler_a_pod_was_bound_as_it_was_created() {
        let metadata = json!({"creationTimestamp": at(-3000)});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        assert_eq!(PodPhases::new(&pod, at(0)).to_string(), "scheduled -3.000s");
        assert_eq!(PodPhases::new(&Pod::default(), at(0)).to_string(), "", "a static pod");
    }

    #[test]
    fn what_another_agent_started_is_not_timed() {
        let mut phases = PodPhases::new(&Pod::default(), at(0));
        assert!(!phases.note_status(&ready(), at(1)));
    }
}
