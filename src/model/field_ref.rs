//! The downward API: values of `fieldRef` and `resourceFieldRef`, for files and for the environment alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::dns;
use super::pod::spec;
use super::quantity::{Amount, QuantityError};

/// Addresses that the API object may not know yet, each list with the primary address first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAddresses {
    /// `status.podIP` and `status.podIPs`.
    pub pod_ips: Vec<String>,
    /// `status.hostIP` and `status.hostIPs`.
    pub host_ips: Vec<String>,
}

/// Why a downward API reference has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// No such field, or none that may be read this way.
    #[error("unsupported fieldPath: {path}")]
    UnsupportedPath {
        /// The path as written.
        path: String,
    },
    /// `['key']` behind a field that has no keys.
    #[error("fieldPath {} does not support subscript", go_quote(.path))]
    UnsupportedSubscript {
        /// The path as written.
        path: String,
    },
    /// `['key']` with what cannot be the key of a label or annotation.
    #[error(
        "invalid key subscript in {path}: {key:?} is not a label key, which is [<DNS subdomain>/]<name of 1 to 63 characters>"
    )]
    InvalidKey {
        /// The path as written.
        path: String,
        /// The key.
        key: String,
    },
    /// `containerName` names no container of the pod.
    #[error("container {name} not found")]
    ContainerNotFound {
        /// The name.
        name: String,
    },
    /// `resource` is none that the downward API can tell.
    #[error("unsupported container resource : {resource}")]
    UnsupportedResource {
        /// The resource as written, `limits.` or `requests.` included.
        resource: String,
    },
    /// The amount or the divisor cannot be read.
    #[error("{resource}: {source}")]
    Quantity {
        /// The resource as written.
        resource: String,
        /// What is wrong.
        source: QuantityError,
    },
}

/// Value of a `fieldRef` in an environment variable (`kubelet.podFieldSelectorRuntimeValue`).
///
/// An address that is not known is the empty text, as in the peer.
///
/// # Errors
/// When the path names nothing that the environment can show.
pub fn field_value(pod: &Pod, path: &str, addresses: &PodAddresses) -> Result<String, FieldError> {
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(match path {
        "spec.nodeName" | "spec.host" => text(&spec(pod).node_name),
        "spec.serviceAccountName" => text(&spec(pod).service_account_name),
        "status.hostIP" => first(&addresses.host_ips),
        "status.hostIPs" => addresses.host_ips.join(","),
        "status.podIP" => first(&addresses.pod_ips),
        "status.podIPs" => addresses.pod_ips.join(","),
        _ => return metadata_value(pod, path),
    })
}

/// Value of a `fieldRef` in a downward API file, where only metadata can be shown (`fieldpath.ExtractFieldPathAsString`).
///
/// # Errors
/// When the path is not one of the pod's metadata.
pub fn metadata_value(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    if let Some((field, key)) = split_subscript(path) {
        let (values, is_key) = match field {
            // Annotation keys may be in capitals; label keys too, except for the domain.
            "metadata.annotations" => (&metadata.annotations, is_label_key(&key.to_lowercase())),
            "metadata.labels" => (&metadata.labels, is_label_key(key)),
            _ => return Err(FieldError::UnsupportedSubscript { path: path.to_owned() }),
        };
        if !is_key {
            return Err(FieldError::InvalidKey { path: path.to_owned(), key: key.to_owned() });
        }
        return Ok(values.as_ref().and_then(|v| v.get(key)).cloned().unwrap_or_default());
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    match path {
        "metadata.annotations" => Ok(format_map(metadata.annotations.as_ref())),
        "metadata.labels" => Ok(format_map(metadata.labels.as_ref())),
        "metadata.name" => Ok(text(&metadata.name)),
        "metadata.namespace" => Ok(text(&metadata.namespace)),
        "metadata.uid" => Ok(text(&metadata.uid)),
        _ => Err(FieldError::UnsupportedPath { path: path.to_owned() }),
    }
}

/// Value of a `resourceFieldRef`: the amount divided by the divisor, rounded up.
///
/// The container is the selector's, or `container_name` where the selector names none. A limit of CPU, memory or
/// ephemeral storage that is not set is what the node can give (`resource.ExtractResourceValueByContainerNameAndNodeAllocatable`).
///
/// # Errors
/// When the container or the resource is unknown, or a quantity is malformed.
pub fn resource_field_value(
    pod: &Pod,
    container_name: &str,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, FieldError> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(container_name);
    let container = find_container(pod, name).ok_or_else(|| FieldError::ContainerNotFound { name: name.to_owned() })?;
    let unsupported = || FieldError::UnsupportedResource { resource: selector.resource.clone() };
    let malformed = |source| FieldError::Quantity { resource: selector.resource.clone(), source };
    let amount_of = |quantity: &Quantity| Amount::from_quantity(quantity).map_err(malformed);

    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let is_defaulted = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if !(is_defaulted || resource.starts_with("hugepages-")) {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let set = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let mut amount =
        set.and_then(|list| list.get(resource)).map(amount_of).transpose()?.unwrap_or(Amount::from_units(0));
    if list == "limits" && is_defaulted && amount == Amount::from_units(0) {
        amount = allocatable.get(resource).map(amount_of).transpose()?.unwrap_or(amount);
    }
    let divisor = selector.divisor.as_ref().map(amount_of).transpose()?.filter(|d| *d != Amount::from_units(0));
    let divisor = divisor.unwrap_or(Amount::from_units(1));

    // Only CPU is told in thousandths; elsewhere a divisor below one counts as one.
    let (number, by) = if resource == "cpu" {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    Ok(divide_up(number, by).to_string())
}

/// What stands in for limits that a container does not set, in its environment: the pod's own limits, else what the
/// node can give (`kubelet.defaultPodLimitsForDownwardAPI`). Files take the node's amounts as they are.
pub fn environment_defaults(pod: &Pod, allocatable: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let mut defaults = allocatable.clone();
    let limits = spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    for (name, limit) in limits.into_iter().flatten().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        let is_set = Amount::from_quantity(limit).is_ok_and(|amount| amount != Amount::from_units(0));
        if let Some(default) = defaults.get_mut(name).filter(|_| is_set) {
            *default = limit.clone();
        }
    }
    defaults
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = spec(pod);
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

fn divide_up(number: i64, by: i64) -> i64 {
    // A negative divisor cannot pass the API; it must not end the agent either.
    let by = if by == 0 { 1 } else { by };
    let (quotient, remainder) = (number.saturating_div(by), number.checked_rem(by).unwrap_or(0));
    let rounds_up = remainder != 0 && (remainder < 0) == (by < 0);
    quotient.saturating_add(i64::from(rounds_up))
}

/// `metadata.labels['key']` as field and key. The key may hold anything, quotes and brackets included.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(field, _)| !field.is_empty())
}

/// `[<DNS subdomain>/]<name>` (`content.IsLabelKey`).
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let is_name = bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
    is_name && prefix.is_none_or(dns::is_subdomain)
}

/// Labels or annotations as lines of `key="value"` in the order of their keys (`fieldpath.FormatMap`).
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    lines.join("\n")
}

/// Text in double quotes as Go's `strconv.Quote` writes it.
pub fn go_quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{07}' => quoted.push_str("\\a"),
            '\u{08}' => quoted.push_str("\\b"),
            '\u{0c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{0b}' => quoted.push_str("\\v"),
            _ if is_printable(c) => quoted.push(c),
            _ => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _ = match code {
                    0..0x20 | 0x7f => write!(quoted, "\\x{code:02x}"),
                    0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Whether Go prints the character as it is: letters, marks, numbers, punctuation, symbols and the plain space.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Text that is escaped for debugging follows the same categories, but for combining marks at its very start.
    let mut pair = String::from("a");
    pair.push(c);
    pair.escape_debug().eq(pair.chars())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use rstest::rstest;

    use super::*;

    fn quantities(list: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
        list.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect()
    }

    fn texts(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn pod() -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("shop".into()),
                uid: Some("u-1".into()),
                labels: Some(texts(&[("b", "2"), ("a.io/x", "say \"hi\"")])),
                annotations: Some(texts(&[("Note", "two\nlines"), ("a", "ü\t\u{200b}")])),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some("n1".into()),
                service_account_name: Some("robot".into()),
                containers: vec![Container {
                    name: "main".into(),
                    resources: Some(ResourceRequirements {
                        limits: Some(quantities(&[("cpu", "1500m"), ("hugepages-2Mi", "4Mi")])),
                        requests: Some(quantities(&[("cpu", "250m"), ("memory", "64Mi")])),
                        ..ResourceRequirements::default()
                    }),
                    ..Container::default()
                }],
                init_containers: Some(vec![Container { name: "init".into(), ..Container::default() }]),
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    #[rstest]
    #[case("metadata.name", "web")]
    #[case("metadata.namespace", "shop")]
    #[case("metadata.uid", "u-1")]
    #[case("metadata.labels", "a.io/x=\"say \\\"hi\\\"\"\nb=\"2\"")]
    #[case("metadata.annotations", "Note=\"two\\nlines\"\na=\"ü\\t\\u200b\"")]
    #[case("metadata.labels['b']", "2")]
    #[case("metadata.labels['absent']", "")]
    #[case("metadata.annotations['Note']", "two\nlines")]
    #[case("spec.nodeName", "n1")]
    #[case("spec.host", "n1")]
    #[case("spec.serviceAccountName", "robot")]
    #[case("status.podIP", "10.0.0.2")]
    #[case("status.podIPs", "10.0.0.2,fd00::2")]
    #[case("status.hostIP", "192.0.2.1")]
    #[case("status.hostIPs", "192.0.2.1")]
    fn fields_for_the_environment(#[case] path: &str, #[case] expected: &str) {
        let addresses =
            PodAddresses { pod_ips: vec!["10.0.0.2".into(), "fd00::2".into()], host_ips: vec!["192.0.2.1".into()] };
        assert_eq!(field_value(&pod(), path, &addresses), Ok(expected.to_owned()));
    }

    #[rstest]
    #[case("spec.nodeName", "unsupported fieldPath: spec.nodeName")]
    #[case("status.podIP", "unsupported fieldPath: status.podIP")]
    #[case("metadata.name['x']", "fieldPath \"metadata.name['x']\" does not support subscript")]
    #[case("metadata.labels['']", "invalid key subscript in metadata.labels['']: ")]
    #[case("metadata.labels['a/b/c']", "invalid key subscript in metadata.labels['a/b/c']: ")]
    #[case("metadata.labels['A.io/b']", "invalid key subscript in metadata.labels['A.io/b']: ")]
    #[case("['x']", "unsupported fieldPath: ['x']")]
    fn fields_that_a_file_cannot_show(#[case] path: &str, #[case] message: &str) {
        let error = metadata_value(&pod(), path).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn annotation_keys_may_be_capital() {
        assert_eq!(metadata_value(&pod(), "metadata.annotations['A.io/b']"), Ok(String::new()));
    }

    #[test]
    fn absent_addresses_are_empty() {
        assert_eq!(field_value(&pod(), "status.podIP", &PodAddresses::default()), Ok(String::new()));
        assert_eq!(field_value(&pod(), "status.hostIPs", &PodAddresses::default()), Ok(String::new()));
    }

    #[rstest]
    #[case("main", "limits.cpu", None, "2")]
    #[case("main", "limits.cpu", Some("1m"), "1500")]
    #[case("main", "limits.cpu", Some("0"), "2")]
    #[case("main", "requests.cpu", None, "1")]
    #[case("main", "requests.memory", Some("1Mi"), "64")]
    #[case("main", "requests.memory", Some("10Mi"), "7")]
    #[case("main", "requests.memory", Some("1m"), "67108864")]
    #[case("main", "limits.memory", None, "1000")]
    #[case("main", "limits.ephemeral-storage", None, "0")]
    #[case("main", "limits.hugepages-2Mi", Some("1Mi"), "4")]
    #[case("main", "limits.hugepages-1Gi", None, "0")]
    #[case("init", "limits.cpu", None, "4")]
    #[case("init", "requests.cpu", None, "0")]
    fn resources(
        #[case] container: &str,
        #[case] resource: &str,
        #[case] divisor: Option<&str>,
        #[case] expected: &str,
    ) {
        let selector = ResourceFieldSelector {
            container_name: Some(container.to_owned()),
            divisor: divisor.map(|d| Quantity(d.to_owned())),
            resource: resource.to_owned(),
        };
        let allocatable = quantities(&[("cpu", "4"), ("memory", "1000"), ("hugepages-1Gi", "1Gi")]);
        assert_eq!(resource_field_value(&pod(), "", &selector, &allocatable), Ok(expected.to_owned()));
    }

    #[rstest]
    #[case("ghost", "limits.cpu", "1", "container ghost not found")]
    #[case("main", "limits.gpu", "1", "unsupported container resource : limits.gpu")]
    #[case("main", "cpu", "1", "unsupported container resource : cpu")]
    #[case("main", "used.cpu", "1", "unsupported container resource : used.cpu")]
    #[case("main", "limits.cpu", "x", "limits.cpu: ")]
    fn resources_that_have_no_value(
        #[case] container: &str,
        #[case] resource: &str,
        #[case] divisor: &str,
        #[case] message: &str,
    ) {
        let selector = ResourceFieldSelector {
            container_name: None,
            divisor: Some(Quantity(divisor.to_owned())),
            resource: resource.to_owned(),
        };
        let error = resource_field_value(&pod(), container, &selector, &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn pod_limits_stand_in_before_the_node() {
        let mut pod = pod();
        if let Some(spec) = pod.spec.as_mut() {
            spec.resources = Some(ResourceRequirements {
                limits: Some(quantities(&[("memory", "300"), ("cpu", "0"), ("ephemeral-storage", "1")])),
                ..ResourceRequirements::default()
            });
        }
        let node = quantities(&[("cpu", "4"), ("memory", "1000"), ("ephemeral-storage", "9")]);
        let expected = quantities(&[("cpu", "4"), ("memory", "300"), ("ephemeral-storage", "9")]);
        assert_eq!(environment_defaults(&pod, &node), expected);
    }

    #[rstest]
    #[case("", r#""""#)]
    #[case("a'b", r#""a'b""#)]
    #[case("\u{7}\u{8}\u{c}\n\r\t\u{b}\\\"", r#""\a\b\f\n\r\t\v\\\"""#)]
    #[case("\u{0}\u{1b}\u{7f}", r#""\x00\x1b\x7f""#)]
    #[case("日本é\u{301}", "\"日本é\u{301}\"")]
    #[case("\u{301}", "\"\u{301}\"")]
    #[case("\u{a0}\u{feff}\u{2028}", r#""\u00a0\ufeff\u2028""#)]
    #[case("\u{1f600}\u{e0001}", "\"\u{1f600}\\U000e0001\"")]
    fn quoting_is_as_in_go(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(go_quote(text), expected);
    }

    #[rstest]
    #[case(7, 2, 4)]
    #[case(-7, 2, -3)]
    #[case(6, 2, 3)]
    #[case(0, 5, 0)]
    #[case(i64::MIN, -1, i64::MAX)]
    fn division_rounds_up(#[case] number: i64, #[case] by: i64, #[case] expected: i64) {
        assert_eq!(divide_up(number, by), expected);
    }
}
