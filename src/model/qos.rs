//! The QoS class of a pod (`status.qosClass`): which branch of the cgroup tree it stands in and who is killed first when
//! memory runs out.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod;
use super::quantity::Amount;
use super::resources;

/// A pod's quality of service, from the best protected to the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    /// Requests equal limits, for CPU and memory, in every container.
    Guaranteed,
    /// Anything between the two others.
    Burstable,
    /// No CPU or memory request or limit at all.
    BestEffort,
}

impl QosClass {
    /// The class of a pod: the one that the API recorded, else the computed one, since a recorded class never changes
    /// over the pod's life.
    pub fn of(pod: &Pod) -> Self {
        let recorded = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
        recorded.and_then(Self::parse).unwrap_or_else(|| Self::compute(pod))
    }

    /// The class that the spec alone gives. Pod-level resources, where set, stand for all containers (KEP 2837);
    /// otherwise init and regular containers count, ephemeral ones do not.
    pub fn compute(pod: &Pod) -> Self {
        let spec = pod::spec(pod);
        if resources::has_pod_level_resources(spec) {
            return spec.resources.as_ref().map_or(QosClass::BestEffort, class_of_requirements);
        }
        let mut class = None;
        for (_, container) in pod::init_and_regular_containers(spec) {
            let own = container.resources.as_ref().map_or(QosClass::BestEffort, class_of_requirements);
            match class {
                None => class = Some(own),
                Some(seen) if seen == own => {}
                Some(_) => return QosClass::Burstable,
            }
        }
        class.unwrap_or(QosClass::BestEffort)
    }

    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    /// The class of that spelling; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort]
            .into_iter()
            .find(|class| class.as_str() == text)
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn class_of_requirements(requirements: &ResourceRequirements) -> QosClass {
    let cpu = class_of_resource(requirements, resources::CPU);
    let memory = class_of_resource(requirements, resources::MEMORY);
    if cpu == memory { cpu } else { QosClass::Burstable }
}

fn class_of_resource(requirements: &ResourceRequirements, resource: &str) -> QosClass {
    let amount =
        |list: &Option<BTreeMap<String, Quantity>>| resources::amount(list.as_ref(), resource).unwrap_or(Amount::ZERO);
    let request = amount(&requirements.requests);
    if request != amount(&requirements.limits) {
        QosClass::Burstable
    } else if request.is_zero() {
        QosClass::BestEffort
    } else {
        QosClass::Guaranteed
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;
    use rstest::rstest;

    use super::super::resources::testing::{container, init, pod_level, pod_of, sidecar};
    use super::QosClass::{BestEffort, Burstable, Guaranteed};
    use super::*;

    const FULL: (&str, &str) = ("cpu=100m,memory=1Gi", "cpu=0.1,memory=1024Mi");

    #[rstest]
    #[case::nothing("", "", BestEffort)]
    #[case::zeros("cpu=0", "memory=0", BestEffort)]
    #[case::other_resources_do_not_count("ephemeral-storage=1Gi", "ephemeral-storage=1Gi", BestEffort)]
    #[case::equal_in_value(FULL.0, FULL.1, Guaranteed)]
    #[case::only_cpu("cpu=1", "cpu=1", Burstable)]
    #[case::only_memory("memory=1", "memory=1", Burstable)]
    #[case::request_alone("cpu=1,memory=1", "", Burstable)]
    #[case::limit_alone("", "cpu=1,memory=1", Burstable)]
    #[case::limit_above_request("cpu=1,memory=1", "cpu=1,memory=2", Burstable)]
    fn one_container(#[case] requests: &str, #[case] limits: &str, #[case] class: QosClass) {
        assert_eq!(QosClass::of(&pod_of(vec![container("a", requests, limits)])), class);
    }

    #[rstest]
    #[case::all_full(FULL, FULL, Guaranteed)]
    #[case::one_without(FULL, ("", ""), Burstable)]
    #[case::the_other_without(("", ""), FULL, Burstable)]
    #[case::both_without(("", ""), ("", ""), BestEffort)]
    fn init_containers_and_sidecars_count(#[case] a: (&str, &str), #[case] b: (&str, &str), #[case] class: QosClass) {
        assert_eq!(QosClass::of(&pod_of(vec![init("i", a.0, a.1), container("c", b.0, b.1)])), class);
        assert_eq!(QosClass::of(&pod_of(vec![sidecar("i", a.0, a.1), container("c", b.0, b.1)])), class);
    }

    #[test]
    fn pod_level_resources_stand_for_all_containers() {
        let pod = pod_level(pod_of(vec![container("c", "cpu=1", "")]), FULL.0, FULL.1);
        assert_eq!(QosClass::of(&pod), Guaranteed);
        let pod = pod_level(pod_of(vec![container("c", FULL.0, FULL.1)]), "cpu=1", "cpu=2");
        assert_eq!(QosClass::of(&pod), Burstable);
        // An empty or unsupported pod-level list is as good as none.
        let pod = pod_level(pod_of(vec![container("c", FULL.0, FULL.1)]), "", "");
        assert_eq!(QosClass::of(&pod), Guaranteed);
        let pod = pod_level(pod_of(vec![container("c", FULL.0, FULL.1)]), "example.com/gpu=1", "");
        assert_eq!(QosClass::of(&pod), Guaranteed);
    }

    #[test]
    fn the_recorded_class_wins_over_the_computed_one() {
        let mut pod = pod_of(vec![container("c", "", "")]);
        pod.status = Some(PodStatus { qos_class: Some("Burstable".into()), ..PodStatus::default() });
        assert_eq!(QosClass::of(&pod), Burstable);
        assert_eq!(QosClass::compute(&pod), BestEffort);
        pod.status = Some(PodStatus { qos_class: Some(String::new()), ..PodStatus::default() });
        assert_eq!(QosClass::of(&pod), BestEffort);
    }

    #[test]
    fn spelling_round_trips() {
        for class in [Guaranteed, Burstable, BestEffort] {
            assert_eq!(QosClass::parse(class.as_str()), Some(class));
            assert_eq!(class.to_string(), class.as_str());
        }
        assert_eq!(QosClass::parse("burstable"), None);
    }

    #[test]
    fn a_pod_without_containers_is_best_effort() {
        assert_eq!(QosClass::of(&Pod::default()), BestEffort);
    }
}
