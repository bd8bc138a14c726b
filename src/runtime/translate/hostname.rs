//! A pod's host name, and the hosts file that its containers get.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, HostAlias, Pod};

use crate::model::dns::{SUBDOMAIN_MAX, is_label, is_subdomain};
use crate::model::pod::{is_host_network, spec};

use super::error::TranslateError;

/// Where the hosts file is mounted in a container.
pub const ETC_HOSTS: &str = "/etc/hosts";
/// The longest host name, bytes.
const HOSTNAME_MAX: usize = 63;
/// The longest name that the kernel's `nodename` holds, bytes.
const NODENAME_MAX: usize = 64;

/// A pod's name in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    /// The short name.
    pub name: String,
    /// The domain; empty for none.
    pub domain: String,
}

/// A pod's host name and domain: `hostnameOverride` as it is and without a domain, else `hostname` or the pod's name,
/// in the domain `<subdomain>.<namespace>.svc.<cluster domain>` where the pod has a subdomain.
///
/// # Errors
/// When a name of the spec is no DNS name.
pub fn pod_hostname(pod: &Pod, cluster_domain: &str) -> Result<Hostname, TranslateError> {
    let spec = spec(pod);
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(name) = &spec.hostname_override {
        check("HostnameOverride", name, "subdomain", subdomain_fault(name))?;
        return Ok(Hostname { name: truncated(pod_name, name)?, domain: String::new() });
    }
    let mut name = pod_name;
    if let Some(hostname) = spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        check("Hostname", hostname, "label", label_fault(hostname))?;
        name = hostname;
    }
    let name = truncated(pod_name, name)?;
    let mut domain = String::new();
    if let Some(subdomain) = spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        check("Subdomain", subdomain, "label", label_fault(subdomain))?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        domain = format!("{subdomain}.{namespace}.svc.{cluster_domain}");
    }
    Ok(Hostname { name, domain })
}

/// The name that the sandbox's kernel shows: the full one where the pod asks for it (`setHostnameAsFQDN`).
///
/// # Errors
/// When the full name is longer than the kernel can hold.
pub fn kernel_hostname(pod: &Pod, hostname: &Hostname) -> Result<String, TranslateError> {
    if hostname.domain.is_empty() || spec(pod).set_hostname_as_fqdn != Some(true) {
        return Ok(hostname.name.clone());
    }
    let fqdn = format!("{}.{}", hostname.name, hostname.domain);
    if fqdn.len() > NODENAME_MAX {
        return Err(TranslateError::FqdnTooLong { fqdn, max: NODENAME_MAX });
    }
    Ok(fqdn)
}

/// Whether a container gets the hosts file: its pod has an address or is in the node's network, and the container mounts
/// nothing else there.
pub fn has_hosts_file(pod: &Pod, container: &Container, pod_ips: &[String]) -> bool {
    let is_known = !pod_ips.is_empty() || is_host_network(spec(pod));
    is_known && !container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == ETC_HOSTS)
}

/// The content of the pod's hosts file. `node_hosts` is the node's own /etc/hosts, which pods in the node's network get.
///
/// # Errors
/// When the pod's host name is none.
pub fn hosts_file(
    pod: &Pod,
    cluster_domain: &str,
    pod_ips: &[String],
    node_hosts: &[u8],
) -> Result<Vec<u8>, TranslateError> {
    let aliases = alias_lines(spec(pod).host_aliases.as_deref().unwrap_or_default());
    if is_host_network(spec(pod)) {
        return Ok([b"# Kubernetes-managed hosts file (host network).\n", node_hosts, aliases.as_bytes()].concat());
    }
    let Hostname { name, domain } = pod_hostname(pod, cluster_domain)?;
    let names = if domain.is_empty() { name } else { format!("{name}.{domain}\t{name}") };
    let mut content = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        // Writing to a string cannot fail.
        let _ = writeln!(content, "{ip}\t{names}");
    }
    content.push_str(&aliases);
    Ok(content.into_bytes())
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut lines = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{}\t{names}", alias.ip);
    }
    lines
}

fn truncated(pod_name: &str, hostname: &str) -> Result<String, TranslateError> {
    if hostname.len() <= HOSTNAME_MAX {
        return Ok(hostname.to_owned());
    }
    let cut = hostname[..hostname.floor_char_boundary(HOSTNAME_MAX)].trim_end_matches(['-', '.']);
    if cut.is_empty() {
        return Err(TranslateError::EmptyHostname { pod: pod_name.to_owned(), hostname: hostname.to_owned() });
    }
    Ok(cut.to_owned())
}

fn check(
    field: &'static str,
    value: &str,
    kind: &'static str,
    fault: Option<&'static str>,
) -> Result<(), TranslateError> {
    let invalid = |reason| TranslateError::InvalidHostname { field, value: value.to_owned(), kind, reason };
    fault.map_or(Ok(()), |reason| Err(invalid(reason)))
}

/// Why a text is no DNS label (RFC 1123).
fn label_fault(text: &str) -> Option<&'static str> {
    if text.len() > HOSTNAME_MAX {
        return Some("must be no more than 63 characters");
    }
    if text.contains('.') {
        return Some("must not contain dots");
    }
    (!is_label(text)).then_some("only a-z, 0-9 and '-' are allowed, and the first and last must not be '-'")
}

/// Why a text is no DNS subdomain (RFC 1123).
fn subdomain_fault(text: &str) -> Option<&'static str> {
    if text.len() > SUBDOMAIN_MAX {
        return Some("must be no more than 253 characters");
    }
    (!is_subdomain(text)).then_some("only labels of a-z, 0-9 and '-', joined by '.', are allowed")
}

#[cfg(test)]
#[path = "hostname_tests.rs"]
mod tests;
