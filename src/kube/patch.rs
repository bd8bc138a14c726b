//! Patches of pods and nodes that say only what changed, and never more than this agent may say.
//!
//! Strategic merge patches, as the peer's: a list with a merge key (conditions by `type`, addresses by `ip`) is patched element
//! by element, so that what another writer put there stays.

use ::kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::{Node, NodeStatus, Pod, PodStatus};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use super::error::{ApiError, is_conflict, is_not_found, is_transient};
use crate::model::pod::PodKey;

/// How the lists of an object are merged; all others are replaced as a whole.
#[derive(Clone, Copy, Debug)]
pub struct MergeRules {
    /// Lists of a field, by name, that are merged by a key.
    pub keyed: &'static [(&'static str, &'static str)],
    /// Lists that the API would merge by a key, but that are replaced all the same, since the key is not unique.
    pub replaced: &'static [&'static str],
}

/// The rules of `PodStatus` (its Go type's patchMergeKey tags).
pub const POD_STATUS: MergeRules = MergeRules {
    keyed: &[
        ("conditions", "type"),
        ("hostIPs", "ip"),
        ("podIPs", "ip"),
        ("resourceClaimStatuses", "name"),
        ("nodeAllocatableResourceClaimStatuses", "resourceClaimName"),
    ],
    replaced: &[],
};

/// The rules of `NodeStatus`. Addresses have the type as their key, of which a node with two IP families has two.
pub const NODE_STATUS: MergeRules = MergeRules { keyed: &[("conditions", "type")], replaced: &["addresses"] };

/// What a patch did.
#[derive(Clone, Debug, PartialEq)]
pub enum Patched<K> {
    /// Nothing differed; no request was made.
    Unchanged,
    /// The object as the server has it now.
    Changed(Box<K>),
}

/// The strategic merge patch that makes `new` of `old`; none if they are the same. For one struct, such as a status.
pub fn strategic_patch<T: Serialize>(old: &T, new: &T, rules: MergeRules) -> serde_json::Result<Option<Value>> {
    let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Ok(None) };
    let patch = object_patch(&old, &new, rules);
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

/// The RFC 7386 merge patch that makes `new` of `old`; none if they are the same.
pub fn merge_patch<T: Serialize>(old: &T, new: &T) -> serde_json::Result<Option<Value>> {
    strategic_patch(old, new, MergeRules { keyed: &[], replaced: &[] })
}

fn object_patch(old: &Map<String, Value>, new: &Map<String, Value>, rules: MergeRules) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in new {
        let before = old.get(name);
        if before == Some(value) {
            continue;
        }
        let key = rules.keyed.iter().find(|(field, _)| field == name).map(|(_, key)| *key);
        match (before, value) {
            (Some(Value::Object(before)), Value::Object(after)) => {
                // Rules are those of the outermost struct: none of ours has a merged list further down.
                let inner = object_patch(before, after, MergeRules { keyed: &[], replaced: &[] });
                patch.insert(name.clone(), Value::Object(inner));
            }
            (before, Value::Array(after)) if key.is_some() || rules.replaced.contains(&name.as_str()) => {
                let before = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                list_patch(&mut patch, name, before, after, key);
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

/// Patches a list that the API merges by a key: changed elements by their changed fields, gone ones by a directive, and the
/// order in full. Without a key, or where it is not unique, the list is replaced.
fn list_patch(patch: &mut Map<String, Value>, name: &str, old: &[Value], new: &[Value], key: Option<&str>) {
    let keyed = key.and_then(|key| Some((key, keys(old, key)?, keys(new, key)?)));
    let Some((key, old_keys, new_keys)) = keyed else {
        let mut all = new.to_vec();
        all.push(json!({"$patch": "replace"}));
        patch.insert(name.into(), Value::Array(all));
        return;
    };
    let mut elements = Vec::new();
    for (element, id) in new.iter().zip(&new_keys) {
        let before = old_keys.iter().position(|k| k == id).and_then(|i| old.get(i));
        match (before, element) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                let mut changed = object_patch(before, after, MergeRules { keyed: &[], replaced: &[] });
                changed.insert(key.into(), Value::clone(id));
                elements.push(Value::Object(changed));
            }
            (_, added) => elements.push(added.clone()),
        }
    }
    for id in old_keys.iter().filter(|id| !new_keys.contains(id)) {
        elements.push(json!({"$patch": "delete", key: id}));
    }
    if !elements.is_empty() {
        patch.insert(name.into(), Value::Array(elements));
    }
    let order = new_keys.iter().map(|id| json!({key: id})).collect();
    patch.insert(format!("$setElementOrder/{name}"), Value::Array(order));
}

/// The elements' keys, if each has one and no two the same.
fn keys<'a>(list: &'a [Value], key: &str) -> Option<Vec<&'a Value>> {
    let found: Option<Vec<&Value>> = list.iter().map(|element| element.get(key)).collect();
    let found = found?;
    let unique = found.iter().enumerate().all(|(i, id)| !found[..i].contains(id));
    unique.then_some(found)
}

/// The patch of a pod's status subresource. It carries the UID, by which the server refuses it (409) for another pod of the
/// same name.
pub fn pod_status_patch(pod: &PodKey, old: &PodStatus, new: &PodStatus) -> serde_json::Result<Option<Value>> {
    let status = strategic_patch(old, new, POD_STATUS)?;
    Ok(status.map(|status| json!({"metadata": {"uid": pod.uid.as_str()}, "status": status})))
}

/// The patch of a node's status subresource.
pub fn node_status_patch(old: &NodeStatus, new: &NodeStatus) -> serde_json::Result<Option<Value>> {
    let status = strategic_patch(old, new, NODE_STATUS)?;
    Ok(status.map(|status| json!({"status": status})))
}

/// Patches a pod's status from `old`, what the server has, to `new`. No request if they are the same.
pub async fn patch_pod_status(
    client: &Client,
    pod: &PodKey,
    old: &PodStatus,
    new: &PodStatus,
) -> Result<Patched<Pod>, ApiError> {
    let operation = "patch the status of";
    let object = || format!("pod {}/{}", pod.namespace, pod.name);
    let failed = |source| ApiError::new(operation, object(), source);
    let patch = pod_status_patch(pod, old, new).map_err(|e| failed(::kube::Error::SerdeError(e)))?;
    let Some(patch) = patch else { return Ok(Patched::Unchanged) };
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
    let patched = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.map(|pod| Patched::Changed(Box::new(pod))).map_err(failed)
}

/// Patches a node's status from `old`, what the server has, to `new`. No request if they are the same.
pub async fn patch_node_status(
    client: &Client,
    name: &str,
    old: &NodeStatus,
    new: &NodeStatus,
) -> Result<Patched<Node>, ApiError> {
    let failed = |source| ApiError::new("patch the status of", format!("node {name}"), source);
    let patch = node_status_patch(old, new).map_err(|e| failed(::kube::Error::SerdeError(e)))?;
    let Some(patch) = patch else { return Ok(Patched::Unchanged) };
    let api = Api::<Node>::all(client.clone());
    let patched = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.map(|node| Patched::Changed(Box::new(node))).map_err(failed)
}

/// Applies a strategic merge patch to a node itself: labels, annotations, taints.
pub async fn patch_node(client: &Client, name: &str, patch: &Value) -> Result<Node, ApiError> {
    let api = Api::<Node>::all(client.clone());
    let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.map_err(|source| ApiError::new("patch", format!("node {name}"), source))
}

/// Creates a pod in the API.
pub async fn create_pod(client: &Client, pod: &Pod) -> Result<Pod, ApiError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
    let created = Api::<Pod>::namespaced(client.clone(), &namespace).create(&PostParams::default(), pod).await;
    created.map_err(|source| ApiError::new("create", format!("pod {namespace}/{name}"), source))
}

/// Deletes a pod from the API, with its UID as the precondition. A pod that is gone already, or of which only the name is there
/// again, is no error: true if this call deleted it.
pub async fn delete_pod(client: &Client, pod: &PodKey, grace_seconds: u32) -> Result<bool, ApiError> {
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
    let uid = Some(pod.uid.to_string());
    let preconditions = Preconditions { uid, ..Preconditions::default() };
    let params = DeleteParams::default().grace_period(grace_seconds).preconditions(preconditions);
    match api.delete(&pod.name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        Err(source) => Err(ApiError::new("delete", format!("pod {}/{}", pod.namespace, pod.name), source)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::testing::FakeApi;
    use super::*;

    fn key() -> PodKey {
        PodKey { namespace: "ns".into(), name: "p".into(), uid: "u1".into() }
    }

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[rstest]
    #[case::same(json!({"phase": "Running"}), json!({"phase": "Running"}), json!(null))]
    #[case::field(json!({"phase": "Pending", "message": "m"}), json!({"phase": "Running"}), json!({"phase": "Running", "message": null}))]
    #[case::condition(
        json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Initialized", "status": "True"}, {"type": "Gone", "status": "True"}]}),
        json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}, {"type": "New", "status": "True"}]}),
        json!({
            "conditions": [{"type": "Ready", "status": "True", "reason": null}, {"type": "New", "status": "True"}, {"$patch": "delete", "type": "Gone"}],
            "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "Initialized"}, {"type": "New"}],
        }))]
    #[case::first_addresses(json!({}), json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
        json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "$setElementOrder/podIPs": [{"ip": "10.0.0.1"}]}))]
    #[case::order(
        json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}),
        json!({"conditions": [{"type": "B", "status": "True"}, {"type": "A", "status": "True"}]}),
        json!({"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}]}))]
    #[case::containers_are_replaced_whole(
        json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0}]}),
        json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]}),
        json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]}))]
    fn pod_statuses(#[case] old: Value, #[case] new: Value, #[case] expected: Value) {
        let patch = strategic_patch(&status(old), &status(new), POD_STATUS).unwrap();
        assert_eq!(patch.unwrap_or_default(), expected);
    }

    #[test]
    fn dual_stack_addresses_are_replaced() {
        let node = |addresses: &[&str]| NodeStatus {
            addresses: Some(
                addresses
                    .iter()
                    .map(|a| serde_json::from_value(json!({"type": "InternalIP", "address": a})).unwrap())
                    .collect(),
            ),
            ..NodeStatus::default()
        };
        let patch = node_status_patch(&node(&["10.0.0.1"]), &node(&["10.0.0.1", "fd00::1"])).unwrap().unwrap();
        let expected = json!({"status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"}, {"$patch": "replace"}]}});
        assert_eq!(patch, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_uid_is_the_precondition() {
        let mut fake = FakeApi::new();
        let client = fake.client();
        let (old, new) = (status(json!({})), status(json!({"phase": "Running"})));
        let key = key();
        let (result, ()) = tokio::join!(patch_pod_status(&client, &key, &old, &new), async {
            let request = fake.next().await;
            assert_eq!((request.method(), request.path().as_str()), ("PATCH", "/api/v1/namespaces/ns/pods/p/status?"));
            assert_eq!(request.header("content-type"), "application/strategic-merge-patch+json");
            assert_eq!(request.body(), json!({"metadata": {"uid": "u1"}, "status": {"phase": "Running"}}));
            request.status(409, "Conflict", "Precondition failed");
        });
        let error = result.unwrap_err();
        assert!(error.is_conflict() && !error.is_transient());
        assert_eq!(error.to_string(), "patch the status of pod ns/p: Precondition failed");
        assert_eq!(patch_pod_status(&client, &key, &new, &new).await.unwrap(), Patched::Unchanged);
        assert!(fake.waiting().is_none());
    }

    #[rstest]
    #[case(404, "NotFound", Some(false))]
    #[case(409, "Conflict", Some(false))]
    #[case(500, "InternalError", None)]
    #[tokio::test(start_paused = true)]
    async fn deletion(#[case] code: u16, #[case] reason: &str, #[case] expected: Option<bool>) {
        let mut fake = FakeApi::new();
        let (client, key) = (fake.client(), key());
        let (result, ()) = tokio::join!(delete_pod(&client, &key, 0), async {
            let request = fake.next().await;
            assert_eq!((request.method(), request.path().as_str()), ("DELETE", "/api/v1/namespaces/ns/pods/p?"));
            let body = request.body();
            assert_eq!((&body["gracePeriodSeconds"], &body["preconditions"]), (&json!(0), &json!({"uid": "u1"})));
            request.status(code, reason, "text");
        });
        assert_eq!(result.ok(), expected);
    }

    /// What an API server does with a strategic merge patch, as far as these patches go.
    fn apply(target: &mut Map<String, Value>, patch: &Map<String, Value>, rules: MergeRules) {
        for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
            let key = rules.keyed.iter().find(|(field, _)| field == name).map(|(_, key)| *key);
            match (target.get_mut(name), value) {
                (_, Value::Null) => {
                    target.remove(name);
                }
                (Some(Value::Object(inner)), Value::Object(patch)) => {
                    apply(inner, patch, MergeRules { keyed: &[], replaced: &[] });
                }
                (Some(Value::Array(list)), Value::Array(elements)) if key.is_some() => {
                    apply_list(list, elements, key.unwrap());
                }
                _ => {
                    target.insert(name.clone(), value.clone());
                }
            }
        }
        for (name, order) in patch {
            let Some(field) = name.strip_prefix("$setElementOrder/") else { continue };
            let key = rules.keyed.iter().find(|(f, _)| *f == field).unwrap().1;
            let Some(Value::Array(list)) = target.get_mut(field) else { continue };
            let position = |e: &Value| order.as_array().unwrap().iter().position(|o| o[key] == e[key]);
            list.sort_by_key(position);
        }
    }

    fn apply_list(list: &mut Vec<Value>, elements: &[Value], key: &str) {
        for element in elements {
            let found = list.iter().position(|e| e[key] == element[key]);
            match (found, element.get("$patch")) {
                (Some(i), Some(_)) => {
                    list.remove(i);
                }
                (Some(i), None) => {
                    let (Value::Object(target), Value::Object(patch)) = (&mut list[i], element) else { panic!() };
                    apply(target, patch, MergeRules { keyed: &[], replaced: &[] });
                }
                (None, _) => list.push(element.clone()),
            }
        }
    }

    fn condition() -> impl Strategy<Value = Value> {
        ("[A-E]", "True|False", proptest::option::of("[a-b]")).prop_map(|(kind, state, reason)| {
            let mut condition = json!({"type": kind, "status": state});
            if let Some(reason) = reason {
                condition["reason"] = reason.into();
            }
            condition
        })
    }

    fn any_status() -> impl Strategy<Value = PodStatus> {
        let conditions = proptest::collection::vec(condition(), 0..5);
        let ips = proptest::collection::btree_set("10\\.0\\.0\\.[1-4]", 0..3);
        (conditions, ips, proptest::option::of("[a-c]"), proptest::option::of("[a-c]")).prop_map(
            |(all, ips, phase, quota)| {
                let mut conditions: Vec<Value> = Vec::new();
                for one in all {
                    if conditions.iter().all(|c| c["type"] != one["type"]) {
                        conditions.push(one);
                    }
                }
                let ips: Vec<Value> = ips.into_iter().map(|ip| json!({"ip": ip})).collect();
                let mut value = json!({"conditions": conditions, "podIPs": ips, "phase": phase});
                if let Some(quota) = quota {
                    value["resources"] = json!({"limits": {quota: "1"}});
                }
                serde_json::from_value(value).unwrap()
            },
        )
    }

    proptest! {
        /// Applied to the old status, the patch gives the new one, and equal ones give none.
        #[test]
        fn a_patch_leads_to_the_new_status(old in any_status(), new in any_status()) {
            let patch = strategic_patch(&old, &new, POD_STATUS).unwrap();
            prop_assert_eq!(patch.is_none(), old == new);
            let Value::Object(mut target) = serde_json::to_value(&old).unwrap() else { panic!() };
            if let Some(Value::Object(patch)) = patch {
                apply(&mut target, &patch, POD_STATUS);
            }
            prop_assert_eq!(Value::Object(target), serde_json::to_value(&new).unwrap());
        }

        /// What another writer added in the meantime stays.
        #[test]
        fn others_conditions_stay(old in any_status(), new in any_status()) {
            let Value::Object(mut target) = serde_json::to_value(&old).unwrap() else { panic!() };
            let foreign = json!({"type": "Foreign", "status": "True"});
            let Some(Value::Array(list)) = target.get_mut("conditions") else { return Ok(()) };
            list.push(foreign.clone());
            if let Some(Value::Object(patch)) = strategic_patch(&old, &new, POD_STATUS).unwrap() {
                apply(&mut target, &patch, POD_STATUS);
            }
            let conditions = target.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
            prop_assert!(conditions.contains(&foreign));
        }
    }
}
