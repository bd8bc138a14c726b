//! The grammar of names that configuration holds: qualified names, label values, taint effects, sysctls, resources.

use std::ops::RangeInclusive;

use crate::model::{dns, sysctl};

/// Whether a text has the length, and only the characters: alphanumeric at both ends, also `-_.` between.
fn is_name(text: &str, length: RangeInclusive<usize>) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    length.contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label or taint key: `[prefix/]name` (`validation.IsQualifiedName`).
pub(super) fn check_qualified_name(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| !dns::is_subdomain(prefix)) {
        return Err(format!("the part of {key:?} before the / must be a DNS subdomain in lower case"));
    }
    if !is_name(name, 1..=63) {
        return Err(format!(
            "the name in {key:?} must be 1 to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
        ));
    }
    Ok(())
}

/// A label or taint value (`validation.IsValidLabelValue`).
pub(super) fn check_label_value(value: &str) -> Result<(), String> {
    if is_name(value, 0..=63) {
        return Ok(());
    }
    Err(format!(
        "{value:?} must be empty or up to 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
    ))
}

/// A taint's effect.
pub(super) fn check_taint_effect(effect: &str) -> Result<(), String> {
    match effect {
        "NoSchedule" | "PreferNoSchedule" | "NoExecute" => Ok(()),
        _ => Err(format!("has the effect {effect:?}, which must be NoSchedule, PreferNoSchedule or NoExecute")),
    }
}

/// Whether memory of that type can be reserved by NUMA node.
pub(super) fn is_reservable_memory(kind: &str) -> bool {
    kind == "memory" || kind.starts_with("hugepages-")
}

/// The labels that a node may set on itself though they belong to Kubernetes (`kubeletapis.KubeletLabels`).
pub(super) const NODE_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// The namespaces of labels that a node may set on itself.
pub(super) const NODE_LABEL_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

fn is_in_domain(namespace: &str, domain: &str) -> bool {
    namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a label belongs to Kubernetes and a node may not set it on itself.
pub(super) fn is_forbidden_node_label(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else { return false };
    let is_of_kubernetes = ["kubernetes.io", "k8s.io"].iter().any(|domain| is_in_domain(namespace, domain));
    is_of_kubernetes
        && !NODE_LABELS.contains(&key)
        && !NODE_LABEL_NAMESPACES.iter().any(|domain| is_in_domain(namespace, domain))
}

/// Whether a text is a sysctl's name, in dots or slashes.
pub(super) fn is_sysctl_name(name: &str) -> bool {
    let is_segment = |segment: &str| {
        let bytes = segment.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(is_segment)
}

/// Whether a text is a sysctl's name, or a prefix of names followed by `*`.
pub(super) fn is_sysctl_pattern(pattern: &str) -> bool {
    let Some(prefix) = pattern.strip_suffix('*') else { return is_sysctl_name(pattern) };
    // Anything may follow, so a prefix is good if something makes it a name.
    pattern.len() <= 253 && !prefix.ends_with("..") && (prefix.is_empty() || is_sysctl_name(&format!("{prefix}x")))
}

/// Whether a sysctl, or a pattern of some, is known to be of a namespace that pods have for themselves.
pub(super) fn is_namespaced_sysctl(name: &str) -> bool {
    let name = sysctl::normal_name(name);
    sysctl::namespace_of(name.split('*').next().unwrap_or_default()).is_some()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("a", true)]
    #[case("a/b", true)]
    #[case("example.com/A_b.c-1", true)]
    #[case("", false)]
    #[case("/a", false)]
    #[case("a/", false)]
    #[case("a/b/c", false)]
    #[case("Example.com/a", false)]
    #[case("-a", false)]
    #[case("a_", false)]
    fn qualified_names(#[case] key: &str, #[case] is_good: bool) {
        assert_eq!(check_qualified_name(key).is_ok(), is_good);
        assert!(check_qualified_name(&"a".repeat(64)).is_err());
    }

    #[rstest]
    #[case("node-role.kubernetes.io/worker", true)]
    #[case("kubernetes.io/whatever", true)]
    #[case("foo.k8s.io/x", true)]
    #[case("k8s.io/x", true)]
    #[case("node.kubernetes.io/x", false)]
    #[case("sub.node.kubernetes.io/x", false)]
    #[case("kubelet.kubernetes.io/x", false)]
    #[case("topology.kubernetes.io/zone", false)]
    #[case("mykubernetes.io/x", false)]
    #[case("example.com/x", false)]
    #[case("plain", false)]
    fn node_labels(#[case] key: &str, #[case] is_forbidden: bool) {
        assert_eq!(is_forbidden_node_label(key), is_forbidden);
    }

    #[rstest]
    #[case("net.core.somaxconn", true, true)]
    #[case("net/core/somaxconn", true, true)]
    #[case("kernel.shm_rmid_forced", true, true)]
    #[case("kernel.pid_max", true, false)]
    #[case("kernel.shmx", true, false)]
    #[case("fs.mqueue.msg_max", true, true)]
    #[case("user.max_user_namespaces", true, true)]
    #[case("net..x", false, true)]
    #[case("Net.x", false, false)]
    fn sysctls(#[case] name: &str, #[case] is_name: bool, #[case] is_namespaced: bool) {
        assert_eq!((is_sysctl_name(name), is_namespaced_sysctl(name)), (is_name, is_namespaced));
    }

    #[rstest]
    #[case("kernel.shm*", true)]
    #[case("net.*", true)]
    #[case("net.ipv4.tcp_*", true)]
    #[case("*", true)]
    #[case("net.core.somaxconn", true)]
    #[case("net.*.x", false)]
    #[case("net..*", false)]
    #[case("", false)]
    fn sysctl_patterns(#[case] pattern: &str, #[case] is_pattern: bool) {
        assert_eq!(is_sysctl_pattern(pattern), is_pattern);
    }
}
