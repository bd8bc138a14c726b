//! The effective configuration as text, for the start-up log.

use serde_json::Value;

use super::Settings;
use super::types::{API_VERSION, KIND, KubeletConfiguration};

/// The configuration as the node runs it, as YAML with its `apiVersion` and `kind`, headers masked.
///
/// On a failure to write it, which nothing in the types allows, the text says so: a log must not end the start.
pub fn effective_yaml(settings: &Settings) -> String {
    let value = effective_value(&settings.configuration).map_err(|error| error.to_string());
    let text = value.and_then(|value| serde_saphyr::to_string(&value).map_err(|error| error.to_string()));
    text.unwrap_or_else(|problem| format!("the configuration cannot be shown: {problem}"))
}

/// The same of a configuration as a value, for `/configz`.
///
/// # Errors
/// When it cannot be written as JSON, which nothing in the types allows.
pub fn effective_value(configuration: &KubeletConfiguration) -> Result<Value, serde_json::Error> {
    let headers = configuration.static_pod_url_header.masked();
    let masked = KubeletConfiguration { static_pod_url_header: headers, ..configuration.clone() };
    let mut value = serde_json::to_value(masked)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), API_VERSION.into());
        fields.insert("kind".to_owned(), KIND.into());
    }
    Ok(value)
}
