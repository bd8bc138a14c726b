//! From a manifest's text to the pods that run here. Pure.

use std::fmt::Write as _;
use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{defaults, go_dump, references, validation};
use crate::model::document::{self, DocumentError};
use crate::model::hash::fnv128a_hex;
use crate::model::pod::{CONFIG_HASH_ANNOTATION, CONFIG_SOURCE_ANNOTATION, annotation, spec};

/// Priority of `system-node-critical`.
const NODE_CRITICAL: i32 = 2_000_001_000;

/// Where a manifest was found: part of its pods' UIDs, so that the same text in two files or on two nodes makes two pods.
#[derive(Clone, Copy, Debug)]
pub enum Location<'a> {
    /// A file of this node.
    File(&'a Path),
    /// The static pod URL.
    Url(&'a str),
}

/// Why a manifest makes no pod.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// It is not text.
    #[error("couldn't parse as pod: not UTF-8")]
    Encoding,
    /// Neither YAML nor JSON, or empty.
    #[error("couldn't parse as pod: {0}")]
    Syntax(#[from] DocumentError),
    /// Something else than a pod.
    #[error("couldn't parse as pod: apiVersion {api_version:?} and kind {kind:?} must be \"v1\" and {expected}")]
    Kind {
        /// What it is.
        kind: String,
        /// And of which group.
        api_version: String,
        /// The kinds that are taken.
        expected: &'static str,
    },
    /// A field has the wrong type.
    #[error("couldn't parse as pod: {field}: {problem}")]
    Field {
        /// The field, with dots.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// It has no name.
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    /// The API server would refuse it.
    #[error("invalid pod: [{0}]")]
    Invalid(String),
    /// It needs an object of the API.
    #[error("static pods may not reference {0}")]
    Reference(&'static str),
}

/// The one pod of a manifest, as it runs on the node of that name.
///
/// # Errors
/// What is wrong with the text, in the peer's words where users know them.
pub fn pod(text: &[u8], location: Location<'_>, node_name: &str) -> Result<Pod, ManifestError> {
    let value = value(text)?;
    match kind(&value) {
        ("v1", "Pod") => finish(typed(value)?, location, node_name),
        (api_version, kind) => Err(other_kind(api_version, kind, "\"Pod\"")),
    }
}

/// The pods of a manifest that may hold several: a `Pod` or a `PodList`. One that is wrong makes all worthless.
///
/// # Errors
/// As [`pod`].
pub fn pods(text: &[u8], location: Location<'_>, node_name: &str) -> Result<Vec<Pod>, ManifestError> {
    let mut value = value(text)?;
    match kind(&value) {
        ("v1", "Pod") => Ok(vec![finish(typed(value)?, location, node_name)?]),
        ("v1", "PodList") => {
            let items = value.get_mut("items").map(Value::take).unwrap_or_default();
            let pods: Option<Vec<Pod>> = typed(items)?;
            pods.unwrap_or_default().into_iter().map(|pod| finish(pod, location, node_name)).collect()
        }
        (api_version, kind) => Err(other_kind(api_version, kind, "\"Pod\" or \"PodList\"")),
    }
}

/// What its author should know of a pod that is taken all the same: how its priority fares with its mirror.
pub fn priority_warning(pod: &Pod) -> Option<String> {
    let spec = spec(pod);
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    match spec.priority {
        None if class.is_empty() => None,
        None => Some(
            "Static pod has priorityClassName and nil priority. Kubelet will not use priorityClassName, and mirror pod \
             creation may fail."
                .to_owned(),
        ),
        Some(_) if class.is_empty() => Some(
            "Static pod has priority without priorityClassName. Mirror pod creation may fail if the default priority class \
             doesn't match the given priority."
                .to_owned(),
        ),
        Some(priority) if priority != NODE_CRITICAL || class != "system-node-critical" => Some(format!(
            "Static pod has a priority other than {NODE_CRITICAL} or a priorityClassName other than system-node-critical. \
             Mirror pod may be attempted to be evicted from the node ineffectively."
        )),
        Some(_) => None,
    }
}

fn value(text: &[u8]) -> Result<Value, ManifestError> {
    let text = std::str::from_utf8(text).map_err(|_| ManifestError::Encoding)?;
    let mut value = document::parse(text)?.value;
    write_quantities(&mut value);
    Ok(value)
}

/// Quantities may be written as numbers; the API's type knows them as text alone.
fn write_quantities(value: &mut Value) {
    let as_text = |quantity: &mut Value| {
        if let Value::Number(number) = quantity {
            *quantity = Value::String(number.to_string());
        }
    };
    match value {
        Value::Array(items) => items.iter_mut().for_each(write_quantities),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("limits" | "requests" | "overhead", Value::Object(quantities)) => {
                        quantities.values_mut().for_each(as_text);
                    }
                    ("sizeLimit" | "divisor", quantity) => as_text(quantity),
                    (_, field) => write_quantities(field),
                }
            }
        }
        _ => {}
    }
}

fn kind(value: &Value) -> (&str, &str) {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion"), text("kind"))
}

fn other_kind(api_version: &str, kind: &str, expected: &'static str) -> ManifestError {
    ManifestError::Kind { kind: kind.to_owned(), api_version: api_version.to_owned(), expected }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, ManifestError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let (field, problem) = (error.path().to_string(), error.into_inner().to_string());
        ManifestError::Field { field, problem }
    })
}

/// Makes of a manifest's pod one that runs here: defaults, identity, and what marks a static pod.
fn finish(mut pod: Pod, location: Location<'_>, node_name: &str) -> Result<Pod, ManifestError> {
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or(ManifestError::NoName)?;
    pod.status = None;
    defaults::set(&mut pod);
    let uid = pod.metadata.uid.clone().filter(|uid| !uid.is_empty());
    let uid = uid.unwrap_or_else(|| uid_of(&pod, location, node_name));
    let metadata = &mut pod.metadata;
    metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    if metadata.namespace.as_deref().is_none_or(str::is_empty) {
        metadata.namespace = Some("default".to_owned());
    }
    let annotations = metadata.annotations.get_or_insert_default();
    let source = match location {
        Location::File(_) => "file",
        Location::Url(_) => "http",
    };
    annotations.insert(CONFIG_HASH_ANNOTATION.to_owned(), uid.clone());
    annotations.insert(CONFIG_SOURCE_ANNOTATION.to_owned(), source.to_owned());
    metadata.uid = Some(uid);
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node_name.to_owned());
    if matches!(location, Location::File(_)) {
        tolerate_everything(spec.tolerations.get_or_insert_default());
    }
    let faults = validation::faults(&pod);
    if !faults.is_empty() {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(ManifestError::Invalid(faults.join(" ")));
    }
    match references::first(&pod) {
        Some(kind) => Err(ManifestError::Reference(kind)),
        None => Ok(pod),
    }
}

/// A pod that runs from a file is not evicted when the node has a problem.
fn tolerate_everything(tolerations: &mut Vec<Toleration>) {
    let effect = Some("NoExecute".to_owned());
    let all = Toleration { operator: Some("Exists".to_owned()), effect, ..Toleration::default() };
    let is_same = |t: &&mut Toleration| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        t.effect == all.effect && t.operator == all.operator && text(&t.key).is_empty() && text(&t.value).is_empty()
    };
    match tolerations.iter_mut().find(is_same) {
        Some(same) => *same = all,
        None => tolerations.push(all),
    }
}

/// The UID that the kubelet makes from all that the manifest says and from where it was found: an edited manifest is another
/// pod.
fn uid_of(pod: &Pod, location: Location<'_>, node_name: &str) -> String {
    let mut text = go_dump::pod(&serde_json::to_value(pod).unwrap_or_default());
    let _ = match location {
        Location::File(path) => write!(text, "host:{node_name}file:{}", path.display()),
        Location::Url(url) => write!(text, "url:{url}"),
    };
    fnv128a_hex(text.as_bytes())
}

/// The hash by which a static pod and its mirror are known to belong together.
pub fn hash(pod: &Pod) -> &str {
    annotation(pod, CONFIG_HASH_ANNOTATION).unwrap_or_default()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
