//! The patch that turns one node into another (peer: `component-helpers/node/util`, `PatchNodeStatus`).
//!
//! Of the metadata only labels and annotations, of the rest only the status; the spec is other people's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::kube::patch::{NODE_STATUS, merge_patch, strategic_patch};

/// The part of the metadata that the agent writes.
#[derive(Serialize)]
struct Written {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Written {
    fn of(node: &Node) -> Self {
        Written {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            annotations: node.metadata.annotations.clone().unwrap_or_default(),
        }
    }
}

/// The strategic merge patch for the `status` subresource; none if nothing differs.
pub fn node_patch(old: &Node, new: &Node) -> serde_json::Result<Option<Value>> {
    let status = |node: &Node| node.status.clone().unwrap_or_default();
    let parts = [
        ("metadata", merge_patch(&Written::of(old), &Written::of(new))?),
        ("status", strategic_patch(&status(old), &status(new), NODE_STATUS)?),
    ];
    let patch: Map<_, _> = parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?))).collect();
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::api::core::v1::NodeAddress;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    use super::super::status::tests::World;
    use super::*;

    fn type_of(entry: &Value) -> &Value {
        &entry["type"]
    }

    /// Applies a patch as the API server does, as far as nodes need it.
    pub fn apply(target: &mut Value, patch: &Value) {
        let (Some(target), Some(patch)) = (target.as_object_mut(), patch.as_object()) else { panic!("no objects") };
        for (name, value) in patch {
            if name.starts_with("$setElementOrder/") {
                continue;
            }
            match (name.as_str(), value) {
                (_, Value::Null) => {
                    target.remove(name);
                }
                ("conditions", Value::Array(entries)) => {
                    let list = target.entry("conditions").or_insert_with(|| json!([])).as_array_mut().unwrap();
                    for entry in entries {
                        let index = list.iter().position(|present| type_of(present) == type_of(entry));
                        match (index, entry.get("$patch")) {
                            (Some(index), Some(_)) => drop(list.remove(index)),
                            (Some(index), None) => apply(&mut list[index], entry),
                            (None, _) => list.push(entry.clone()),
                        }
                    }
                    let order = patch["$setElementOrder/conditions"].as_array().unwrap();
                    list.sort_by_key(|c| order.iter().position(|ordered| type_of(ordered) == type_of(c)));
                }
                ("addresses", Value::Array(entries)) => {
                    assert!(entries.iter().any(|entry| entry.get("$patch") == Some(&json!("replace"))));
                    let entries = entries.iter().filter(|entry| entry.get("$patch").is_none()).cloned();
                    target.insert(name.clone(), Value::Array(entries.collect()));
                }
                (_, Value::Object(_)) if target.get(name).is_some_and(Value::is_object) => {
                    apply(target.get_mut(name).unwrap(), value);
                }
                (_, value) => {
                    target.insert(name.clone(), without_directives(value));
                }
            }
        }
    }

    /// What is new is stored as it is, but for directives.
    fn without_directives(value: &Value) -> Value {
        match value {
            Value::Array(list) => {
                list.iter().filter(|entry| entry.get("$patch").is_none()).map(without_directives).collect()
            }
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), without_directives(value))).collect()
            }
            other => other.clone(),
        }
    }

    fn applied(old: &Node, patch: &Value) -> Node {
        let mut value = serde_json::to_value(old).unwrap();
        apply(&mut value, patch);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_report_without_a_change_is_heartbeats() {
        let world = World::healthy();
        let first = world.status_of(&Node::default(), 0).node;
        let second = world.status_of(&first, 300).node;
        let patch = node_patch(&first, &second).unwrap().unwrap();
        insta::assert_json_snapshot!(patch, @r#"
        {
          "status": {
            "$setElementOrder/conditions": [
              {
                "type": "MemoryPressure"
              },
              {
                "type": "DiskPressure"
              },
              {
                "type": "PIDPressure"
              },
              {
                "type": "Ready"
              }
            ],
            "conditions": [
              {
                "lastHeartbeatTime": "2027-01-15T08:05:00Z",
                "type": "MemoryPressure"
              },
              {
                "lastHeartbeatTime": "2027-01-15T08:05:00Z",
                "type": "DiskPressure"
              },
              {
                "lastHeartbeatTime": "2027-01-15T08:05:00Z",
                "type": "PIDPressure"
              },
              {
                "lastHeartbeatTime": "2027-01-15T08:05:00Z",
                "type": "Ready"
              }
            ]
          }
        }
        "#);
        assert_eq!(applied(&first, &patch), second);
        assert_eq!(node_patch(&second, &second).unwrap(), None);
    }

    #[test]
    fn changes_of_every_kind_arrive() {
        let world = World::healthy();
        let old = world.status_of(&Node::default(), 0).node;
        let mut new = world.status_of(&old, 10).node;
        new.metadata.labels.as_mut().unwrap().remove("kubernetes.io/arch");
        new.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        // Two of one type: what a merge by type would lose.
        let internal = |address: &str| NodeAddress { type_: "InternalIP".into(), address: address.into() };
        let status = new.status.as_mut().unwrap();
        status.addresses = Some(vec![internal("10.0.0.6"), internal("fd00::6")]);
        status.capacity.as_mut().unwrap().insert("hugepages-1Gi".into(), Quantity("1Gi".into()));
        status.capacity.as_mut().unwrap().remove("hugepages-2Mi");
        status.images = None;
        status.conditions.as_mut().unwrap().remove(1);
        let patch = node_patch(&old, &new).unwrap().unwrap();
        insta::assert_json_snapshot!(patch["status"]["addresses"], @r#"
        [
          {
            "address": "10.0.0.6",
            "type": "InternalIP"
          },
          {
            "address": "fd00::6",
            "type": "InternalIP"
          },
          {
            "$patch": "replace"
          }
        ]
        "#);
        assert_eq!(patch["status"]["capacity"], json!({"hugepages-1Gi": "1Gi", "hugepages-2Mi": null}));
        assert_eq!(patch["status"]["images"], Value::Null);
        assert_eq!(patch["metadata"], json!({"labels": {"kubernetes.io/arch": null}, "annotations": {"a": "b"}}));
        assert_eq!(applied(&old, &patch), new);
    }

    #[test]
    fn a_first_status_arrives() {
        let old = Node::default();
        let new = World::healthy().status_of(&old, 0).node;
        assert_eq!(applied(&old, &node_patch(&old, &new).unwrap().unwrap()), new);
    }

    #[test]
    fn the_spec_is_not_touched() {
        let mut new = Node::default();
        new.spec.get_or_insert_default().unschedulable = Some(true);
        new.metadata.resource_version = Some("7".into());
        assert_eq!(node_patch(&Node::default(), &new).unwrap(), None);
    }
}
