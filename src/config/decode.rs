//! From a file's text to a [`KubeletConfiguration`]: YAML or JSON, unknown and repeated fields found but borne, the zeros that
//! the API reads as "not set" replaced by the defaults.

use serde_json::Value;

use super::gates::{FeatureGates, Gate, GateError};
use super::types::{API_VERSION, KIND, KubeletConfiguration};
use crate::model::document::{DocumentError, one_line};
use crate::model::go_duration::GoDuration;

/// What is wrong with a configuration's text.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Neither YAML nor JSON.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Something else than a configuration.
    #[error(
        "apiVersion {api_version:?} and kind {kind:?} must be \"kubelet.config.k8s.io/v1beta1\" and \"KubeletConfiguration\""
    )]
    NotAConfiguration {
        /// The `apiVersion` found.
        api_version: String,
        /// The `kind` found.
        kind: String,
    },
    /// A field's value has the wrong type or form.
    #[error("{field}: {problem}")]
    Field {
        /// The field, with dots.
        field: String,
        /// The value and what is allowed.
        problem: String,
    },
    /// Feature gates that cannot be set so.
    #[error("{}", super::joined(errors))]
    Gates {
        /// All that is wrong.
        errors: Vec<GateError>,
    },
}

/// Holds a document to the configuration's `apiVersion` and `kind`.
pub(super) fn check_kind(value: &Value) -> Result<(), DecodeError> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if api_version == API_VERSION && kind == KIND {
        return Ok(());
    }
    Err(DecodeError::NotAConfiguration { api_version, kind })
}

/// A configuration and what in its source it does not know.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) configuration: KubeletConfiguration,
    pub(super) unknown: Vec<String>,
    /// Whether `evictionHard` was given, be it empty.
    pub(super) has_eviction_hard: bool,
}

/// Gives a document types and defaults (`SetDefaults_KubeletConfiguration`). `gates` are those set outside of the document,
/// which its own go over, since two defaults hang on a gate.
pub(super) fn configuration(
    value: Value,
    gates: &std::collections::BTreeMap<String, bool>,
) -> Result<Decoded, DecodeError> {
    let mut value = without_nulls(value);
    if let Value::Object(fields) = &mut value {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(&value, &mut track);
    let read: Result<KubeletConfiguration, _> =
        serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()));
    let mut configuration = match read {
        Ok(configuration) => configuration,
        Err(error) => {
            let field = track.path().to_string();
            // The message may quote the value.
            let is_secret = field.starts_with("staticPodURLHeader");
            let problem = if is_secret { "must map names to lists of text".to_owned() } else { readable(&error) };
            return Err(DecodeError::Field { field, problem });
        }
    };
    let mut all_gates = gates.clone();
    all_gates.extend(configuration.feature_gates.clone());
    let gates = FeatureGates::from_map(&all_gates).map_err(|errors| DecodeError::Gates { errors })?;
    complete(&mut configuration, &value, &gates);
    Ok(Decoded { configuration, unknown, has_eviction_hard: value.get("evictionHard").is_some() })
}

/// Rust's names of types mean nothing to a node's operator.
fn readable(error: &serde_json::Error) -> String {
    let mut message = one_line(&error.to_string());
    for (rust, plain) in [
        ("expected i32", "expected a whole number of 32 bits"),
        ("expected i64", "expected a whole number"),
        ("expected u32", "expected a whole number from 0"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected text (in quotes if it looks like a number)"),
        ("expected a sequence", "expected a list"),
        ("expected struct", "expected fields of"),
    ] {
        message = message.replace(rust, plain);
    }
    message
}

/// What depends on whether a field was written, then all plain defaults.
fn complete(configuration: &mut KubeletConfiguration, written: &Value, gates: &FeatureGates) {
    let default = KubeletConfiguration::default();
    let has = |path: &[&str]| path.iter().try_fold(written, |value, field| value.get(field)).is_some();
    let is_set = |field: &str, value: GoDuration| has(&[field]) && !value.is_zero();

    let is_update_set = is_set("nodeStatusUpdateFrequency", configuration.node_status_update_frequency);
    if !is_set("nodeStatusReportFrequency", configuration.node_status_report_frequency) {
        configuration.node_status_report_frequency = if is_update_set {
            configuration.node_status_update_frequency
        } else {
            default.node_status_report_frequency
        };
    }
    if !is_update_set {
        configuration.node_status_update_frequency = default.node_status_update_frequency;
    }
    if !has(&["serializeImagePulls"]) {
        configuration.serialize_image_pulls = configuration.max_parallel_image_pulls.is_none_or(|pulls| pulls < 2);
    }
    let restart_period = &mut configuration.crash_loop_back_off.max_container_restart_period;
    if !has(&["crashLoopBackOff", "maxContainerRestartPeriod"]) {
        *restart_period = if gates.enabled(Gate::KubeletCrashLoopBackOffMax) {
            default.crash_loop_back_off.max_container_restart_period
        } else {
            None
        };
    }
    let policy = &mut configuration.image_pull_credentials_verification_policy;
    if policy.is_empty() || !has(&["imagePullCredentialsVerificationPolicy"]) {
        *policy = if gates.enabled(Gate::KubeletEnsureSecretPulledImages) {
            default.image_pull_credentials_verification_policy
        } else {
            String::new()
        };
    }
    configuration.replace_zeros_by_defaults();
}

/// Absent and null are the same to the API.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
