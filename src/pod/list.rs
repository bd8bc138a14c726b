//! The pods that this node has, as their sources gave them and as their workers see them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::source::Source;
use super::status_writer::onto;
use crate::kube::pods::PodEvent;
use crate::model::clock;
use crate::model::pod::{self, PodKey, PodUid};

/// A cheap handle to the node's pods, each with the newest status that its worker computed, whether the API has it or not.
///
/// Mirror pods are not among them; their UIDs stand for those of the static pods that they show.
#[derive(Clone, Default)]
pub struct PodList {
    state: Arc<RwLock<State>>,
}

#[derive(Default)]
struct State {
    pods: HashMap<PodUid, Listed>,
    mirrors: HashMap<PodUid, Arc<Pod>>,
    /// A source has told all that it knows.
    known: bool,
}

struct Listed {
    source: Source,
    pod: Arc<Pod>,
    status: Option<Arc<PodStatus>>,
}

impl Listed {
    fn current(&self) -> Arc<Pod> {
        let Some(own) = &self.status else { return self.pod.clone() };
        let before = self.pod.status.clone().unwrap_or_default();
        let status = onto(&before, PodStatus::clone(own), clock::now());
        if self.pod.status.as_ref() == Some(&status) {
            return self.pod.clone();
        }
        Arc::new(Pod { metadata: self.pod.metadata.clone(), spec: self.pod.spec.clone(), status: Some(status) })
    }
}

impl State {
    fn insert(&mut self, source: Source, pod: &Arc<Pod>) {
        let uid = PodKey::of(pod).uid;
        if pod::is_mirror(pod) {
            self.mirrors.insert(uid, pod.clone());
            return;
        }
        let status = self.pods.remove(&uid).and_then(|listed| listed.status);
        self.pods.insert(uid, Listed { source, pod: pod.clone(), status });
    }
}

impl PodList {
    /// All pods; none before a source has told all that it knows.
    pub fn all(&self) -> Option<Vec<Arc<Pod>>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.known.then(|| state.pods.values().map(Listed::current).collect())
    }

    /// The pod of that name. With a UID, only if it is the pod's or that of its mirror in the API.
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let is_named = |pod: &Pod| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
        };
        let uid = uid.map(PodUid::from);
        let uid = uid.filter(|uid| !state.mirrors.get(uid).is_some_and(|mirror| is_named(mirror)));
        match uid {
            Some(uid) => state.pods.get(&uid).filter(|listed| is_named(&listed.pod)).map(Listed::current),
            None => state.pods.values().find(|listed| is_named(&listed.pod)).map(Listed::current),
        }
    }

    /// Takes in what a source told.
    pub(super) fn note(&self, source: Source, event: &PodEvent) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            PodEvent::Applied(pod) => state.insert(source, pod),
            PodEvent::Deleted(pod) => {
                let uid = PodKey::of(pod).uid;
                state.pods.remove(&uid);
                state.mirrors.remove(&uid);
            }
            PodEvent::Synced(all) => {
                let told: HashSet<PodUid> = all.iter().map(|pod| PodKey::of(pod).uid).collect();
                state.pods.retain(|uid, listed| listed.source != source || told.contains(uid));
                state.mirrors.retain(|uid, _| source != Source::Api || told.contains(uid));
                all.iter().for_each(|pod| state.insert(source, pod));
                state.known = true;
            }
        }
    }

    /// Takes the status that a pod's worker computed. Of a pod that is not listed, nothing is kept.
    pub(super) fn set_status(&self, uid: &PodUid, status: &Arc<PodStatus>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = state.pods.get_mut(uid) {
            listed.status = Some(status.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, uid: &str, annotations: Value) -> Arc<Pod> {
        let metadata = json!({"namespace": "ns", "name": name, "uid": uid, "annotations": annotations});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "status": {"phase": "Pending"}})).unwrap())
    }

    fn phase_of(list: &PodList, name: &str, uid: Option<&str>) -> Option<String> {
        list.find("ns", name, uid)?.status.as_ref()?.phase.clone()
    }

    #[test]
    fn the_workers_status_is_shown_as_soon_as_there_is_one() {
        let list = PodList::default();
        assert!(list.all().is_none(), "nothing is known yet");
        list.note(Source::Api, &PodEvent::Synced(vec![pod("a", "u1", json!({}))]));
        assert_eq!(phase_of(&list, "a", None).as_deref(), Some("Pending"));
        let running = Arc::new(PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() });
        list.set_status(&PodUid::from("u1"), &running);
        list.set_status(&PodUid::from("other"), &running);
        assert_eq!(phase_of(&list, "a", Some("u1")).as_deref(), Some("Running"));
        // A later state of the object leaves the worker's view.
        list.note(Source::Api, &PodEvent::Applied(pod("a", "u1", json!({}))));
        assert_eq!(phase_of(&list, "a", None).as_deref(), Some("Running"));
        assert_eq!(list.all().unwrap().len(), 1);
        list.note(Source::Api, &PodEvent::Deleted(pod("a", "u1", json!({}))));
        assert_eq!(list.all().unwrap(), Vec::<Arc<Pod>>::new());
    }

    #[test]
    fn a_mirror_stands_for_its_static_pod() {
        let list = PodList::default();
        let mirror = pod("s-node", "api-uid", json!({"kubernetes.io/config.mirror": "h"}));
        list.note(Source::File, &PodEvent::Synced(vec![pod("s-node", "static-uid", json!({}))]));
        list.note(Source::Api, &PodEvent::Synced(vec![mirror.clone(), pod("b", "u2", json!({}))]));
        assert_eq!(list.all().unwrap().len(), 2, "the mirror is no pod of its own");
        for uid in [None, Some("api-uid"), Some("static-uid")] {
            let found = list.find("ns", "s-node", uid).unwrap();
            assert_eq!(found.metadata.uid.as_deref(), Some("static-uid"));
        }
        assert!(list.find("ns", "b", Some("api-uid")).is_none(), "another pod's mirror");
        assert!(list.find("ns", "s-node", Some("u2")).is_none());
        assert!(list.find("other", "b", None).is_none());
        list.note(Source::Api, &PodEvent::Deleted(mirror));
        assert!(list.find("ns", "s-node", Some("api-uid")).is_none());
    }
}
