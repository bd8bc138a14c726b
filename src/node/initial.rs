//! The Node as it is created, and what is put right on one that exists already (peer: `Kubelet.initialNode`,
//! `tryRegisterWithAPIServer`).

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::model::Timestamp;

use super::resources::{self, ResourceList};
use super::status::{StatusInputs, StatusOutcome, node_status};

/// Annotation that hands attaching and detaching volumes to the controller.
pub const CONTROLLER_ATTACH_DETACH_ANNOTATION: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Taint that an external cloud provider takes away once it has filled in the Node.
const UNINITIALIZED_TAINT: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// Labels whose value on an existing Node is put right. Others (`--node-labels`) are set at creation only, since users
/// change them afterwards.
const RECONCILED_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// The Node to create, with its first status.
pub fn initial_node(inputs: &StatusInputs<'_>, now: Timestamp) -> StatusOutcome {
    let settings = inputs.settings;
    let machine = &inputs.facts.machine;
    let mut node = Node::default();
    node.metadata.name = Some(settings.node_name.clone());

    let labels = node.metadata.labels.get_or_insert_default();
    for (name, value) in [
        ("kubernetes.io/hostname", &settings.hostname),
        ("kubernetes.io/os", &machine.operating_system),
        ("kubernetes.io/arch", &machine.architecture),
        ("beta.kubernetes.io/os", &machine.operating_system),
        ("beta.kubernetes.io/arch", &machine.architecture),
    ] {
        labels.insert(name.to_owned(), value.clone());
    }
    labels.extend(settings.node_labels.clone());
    if settings.controller_attach_detach {
        let annotations = node.metadata.annotations.get_or_insert_default();
        annotations.insert(CONTROLLER_ATTACH_DETACH_ANNOTATION.to_owned(), "true".to_owned());
    }

    let uninitialized = settings.external_cloud_provider.then(|| Taint {
        key: UNINITIALIZED_TAINT.to_owned(),
        value: Some("true".to_owned()),
        effect: "NoSchedule".to_owned(),
        time_added: None,
    });
    let taints: Vec<_> = settings.register_with_taints.iter().cloned().chain(uninitialized).collect();
    let spec = node.spec.get_or_insert_default();
    spec.taints = (!taints.is_empty()).then_some(taints);
    spec.provider_id = Some(settings.provider_id.clone()).filter(|id| !id.is_empty());

    node_status(&node, inputs, now)
}

/// An existing Node put right after `initial`: default labels, the attach-detach annotation, huge pages, and extended
/// resources set to 0 if `reset_extended` (device plugins have to register again). None if it is right already.
pub fn reconcile_existing(existing: &Node, initial: &Node, reset_extended: bool) -> Option<Node> {
    let mut node = existing.clone();
    reconcile_labels(&mut node, initial);
    reconcile_annotation(&mut node, initial);

    let (status, wanted) = (node.status.get_or_insert_default(), initial.status.clone().unwrap_or_default());
    let capacity = status.capacity.take().or_else(|| wanted.capacity.clone()).unwrap_or_default();
    let allocatable = status.allocatable.take().or_else(|| wanted.allocatable.clone()).unwrap_or_default();
    let (mut capacity, mut allocatable) = (capacity, allocatable);
    if reset_extended {
        let extended: Vec<_> = capacity.keys().filter(|name| resources::is_extended(name)).cloned().collect();
        for name in extended {
            for list in [&mut capacity, &mut allocatable] {
                resources::set(list, &name, crate::model::quantity::decimal(0));
            }
        }
    }
    let (wanted_capacity, wanted_allocatable) =
        (wanted.capacity.unwrap_or_default(), wanted.allocatable.unwrap_or_default());
    let unsupported: Vec<_> = capacity
        .keys()
        .filter(|name| resources::is_huge_page(name) && !wanted_capacity.contains_key(*name))
        .cloned()
        .collect();
    for name in unsupported {
        capacity.remove(&name);
        allocatable.remove(&name);
    }
    take_huge_pages(&mut capacity, &wanted_capacity);
    take_huge_pages(&mut allocatable, &wanted_allocatable);

    let before = existing.status.clone().unwrap_or_default();
    let is_same = before.capacity.unwrap_or_default() == capacity
        && before.allocatable.unwrap_or_default() == allocatable
        && existing.metadata.labels.clone().unwrap_or_default() == node.metadata.labels.clone().unwrap_or_default()
        && existing.metadata.annotations.clone().unwrap_or_default()
            == node.metadata.annotations.clone().unwrap_or_default();
    let status = node.status.get_or_insert_default();
    status.capacity = Some(capacity);
    status.allocatable = Some(allocatable);
    (!is_same).then_some(node)
}

fn take_huge_pages(list: &mut ResourceList, wanted: &ResourceList) {
    for (name, amount) in wanted.iter().filter(|(name, _)| resources::is_huge_page(name)) {
        resources::set(list, name, amount.clone());
    }
}

fn reconcile_labels(node: &mut Node, initial: &Node) {
    let wanted = initial.metadata.labels.clone().unwrap_or_default();
    let labels = node.metadata.labels.get_or_insert_default();
    for (name, value) in wanted.into_iter().filter(|(name, _)| RECONCILED_LABELS.contains(&name.as_str())) {
        if value.is_empty() {
            labels.remove(&name);
        } else {
            labels.insert(name, value);
        }
    }
}

fn reconcile_annotation(node: &mut Node, initial: &Node) {
    let wanted = initial.metadata.annotations.as_ref().and_then(|a| a.get(CONTROLLER_ATTACH_DETACH_ANNOTATION));
    let annotations = node.metadata.annotations.get_or_insert_default();
    match wanted {
        Some(value) => annotations.insert(CONTROLLER_ATTACH_DETACH_ANNOTATION.to_owned(), value.clone()),
        None => annotations.remove(CONTROLLER_ATTACH_DETACH_ANNOTATION),
    };
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::super::patch::node_patch;
    use super::super::status::tests::{World, at};
    use super::*;

    fn initial(world: &World) -> Node {
        initial_node(&world.inputs(), at(0)).node
    }

    fn status(node: &mut Node) -> (&mut ResourceList, &mut ResourceList) {
        let status = node.status.as_mut().unwrap();
        (status.capacity.as_mut().unwrap(), status.allocatable.as_mut().unwrap())
    }

    #[test]
    fn a_node_as_it_is_created() {
        let mut world = World::healthy();
        world.settings.node_labels =
            [("tier".to_owned(), "gold".to_owned()), ("kubernetes.io/hostname".to_owned(), "other".to_owned())].into();
        world.settings.provider_id = "kind://docker/c/n".into();
        world.settings.external_cloud_provider = true;
        let taint = Taint { key: "dedicated".into(), effect: "NoExecute".into(), ..Taint::default() };
        world.settings.register_with_taints = vec![taint];
        let mut node = initial(&world);
        let status = node.status.take().unwrap();
        assert_eq!(status.conditions.unwrap().len(), 4);
        insta::assert_json_snapshot!(node, @r#"
        {
          "apiVersion": "v1",
          "kind": "Node",
          "metadata": {
            "annotations": {
              "volumes.kubernetes.io/controller-managed-attach-detach": "true"
            },
            "labels": {
              "beta.kubernetes.io/arch": "amd64",
              "beta.kubernetes.io/os": "linux",
              "kubernetes.io/arch": "amd64",
              "kubernetes.io/hostname": "other",
              "kubernetes.io/os": "linux",
              "tier": "gold"
            },
            "name": "node-a"
          },
          "spec": {
            "providerID": "kind://docker/c/n",
            "taints": [
              {
                "effect": "NoExecute",
                "key": "dedicated"
              },
              {
                "effect": "NoSchedule",
                "key": "node.cloudprovider.kubernetes.io/uninitialized",
                "value": "true"
              }
            ]
          }
        }
        "#);
    }

    #[test]
    fn a_plain_node_has_no_taints() {
        let mut world = World::healthy();
        world.settings.controller_attach_detach = false;
        let node = initial(&world);
        assert_eq!(node.spec, Some(k8s_openapi::api::core::v1::NodeSpec::default()));
        assert_eq!(node.metadata.annotations, None);
    }

    #[test]
    fn a_node_that_is_right_is_left_alone() {
        let world = World::healthy();
        let initial = initial(&world);
        let mut existing = initial.clone();
        existing.metadata.labels.as_mut().unwrap().insert("mine".into(), "yes".into());
        status(&mut existing).0.insert("example.com/gpu".into(), Quantity("4".into()));
        assert_eq!(reconcile_existing(&existing, &initial, false), None);
    }

    #[test]
    fn puts_an_existing_node_right() {
        let mut world = World::healthy();
        world.settings.node_labels.insert("tier".into(), "gold".into());
        world.settings.node_labels.insert("topology.kubernetes.io/zone".into(), "z1".into());
        let mut existing = initial(&World::healthy());
        existing.metadata.labels = Some(
            [("kubernetes.io/hostname", "old"), ("tier", "iron")].map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
        );
        existing.metadata.annotations = None;
        let (capacity, allocatable) = status(&mut existing);
        for (name, amount) in [("hugepages-1Gi", "2Gi"), ("hugepages-2Mi", "4Mi"), ("example.com/gpu", "4")] {
            capacity.insert(name.into(), Quantity(amount.into()));
            allocatable.insert(name.into(), Quantity(amount.into()));
        }
        let initial = initial(&world);
        let node = reconcile_existing(&existing, &initial, true).unwrap();
        insta::assert_json_snapshot!(node_patch(&existing, &node).unwrap(), @r#"
        {
          "metadata": {
            "annotations": {
              "volumes.kubernetes.io/controller-managed-attach-detach": "true"
            },
            "labels": {
              "beta.kubernetes.io/arch": "amd64",
              "beta.kubernetes.io/os": "linux",
              "kubernetes.io/arch": "amd64",
              "kubernetes.io/hostname": "node-a",
              "kubernetes.io/os": "linux",
              "topology.kubernetes.io/zone": "z1"
            }
          },
          "status": {
            "allocatable": {
              "example.com/gpu": "0",
              "hugepages-1Gi": null,
              "hugepages-2Mi": "0"
            },
            "capacity": {
              "example.com/gpu": "0",
              "hugepages-1Gi": null,
              "hugepages-2Mi": "0"
            }
          }
        }
        "#);
        assert_eq!(reconcile_existing(&node, &initial, true), None);
    }

    #[test]
    fn takes_back_the_annotation_and_fills_an_empty_status() {
        let mut world = World::healthy();
        let existing = Node { status: None, ..initial(&world) };
        world.settings.controller_attach_detach = false;
        let node = reconcile_existing(&existing, &initial(&world), false).unwrap();
        assert_eq!(node.metadata.annotations, Some(Default::default()));
        assert_eq!(node.status.unwrap().capacity.unwrap()["cpu"].0, "2");
    }
}
