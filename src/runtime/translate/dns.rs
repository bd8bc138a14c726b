//! The resolver configuration of a pod: DNS policy, the pod's own additions, and the limits of resolvers.

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::model::dns::SUBDOMAIN_MAX;
use crate::model::pod::{PodKey, is_host_network, spec};
use crate::runtime::cri::DnsConfig;

use super::settings::NodeSettings;
use super::warning::{Warning, WarningTarget};

/// The most nameservers that resolvers use.
const NAMESERVERS_MAX: usize = 3;
/// The most search paths.
const SEARCHES_MAX: usize = 32;
/// The longest search line, characters with the blanks between the paths.
const SEARCH_LINE_MAX: usize = 2048;

/// The node's resolver configuration, as it is at the time of the pod's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostResolver {
    /// `resolvConf` is empty: pods get no resolver but the node itself.
    #[default]
    Disabled,
    /// The parsed file.
    File(ResolvConf),
}

/// A resolv.conf file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines, in their order.
    pub nameservers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// `options` lines together, in the order in which each option first stood; its last value counts.
    pub options: Vec<String>,
}

/// What no resolver could make sense of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolvConfError {
    /// `nameserver` without an address.
    #[error("nameserver list is empty ")]
    EmptyNameserver,
}

/// Reads the text of a resolv.conf file. Lines that do not matter to pods are passed over.
///
/// # Errors
/// When a `nameserver` line names no server.
pub fn parse_resolv_conf(text: &str) -> Result<ResolvConf, ResolvConfError> {
    let mut parsed = ResolvConf::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => {
                let server = fields.next().ok_or(ResolvConfError::EmptyNameserver)?;
                parsed.nameservers.push(server.to_owned());
            }
            Some("search") => {
                // One domain with and without its trailing dot must not count twice against the limits.
                let domains = fields.filter(|domain| *domain != ".");
                parsed.searches = domains.map(|d| d.strip_suffix('.').unwrap_or(d).to_owned()).collect();
            }
            Some("options") => fields.for_each(|option| set_option(&mut parsed.options, option.to_owned())),
            _ => {}
        }
    }
    Ok(parsed)
}

/// What is wrong with the node's resolv.conf for pods with cluster DNS: the message of the node's event
/// `CheckLimitsForResolvConf`. `path` is the file's.
pub fn check_resolv_conf(path: &str, parsed: &ResolvConf, cluster_domain: &str) -> Option<String> {
    // Pods get the three search paths of the cluster on top.
    let most = if cluster_domain.is_empty() { SEARCHES_MAX } else { SEARCHES_MAX - 3 };
    if parsed.searches.len() > most {
        return Some(format!("Resolv.conf file '{path}' contains search line consisting of more than {most} domains!"));
    }
    if parsed.searches.iter().any(|search| search.len() > SUBDOMAIN_MAX) {
        return Some(format!(
            "Resolv.conf file \"{path}\" contains a search path which length is more than allowed {SUBDOMAIN_MAX} chars!"
        ));
    }
    if parsed.searches.join(" ").len() > SEARCH_LINE_MAX {
        return Some(format!(
            "Resolv.conf file '{path}' contains search line which length is more than allowed {SEARCH_LINE_MAX} chars!"
        ));
    }
    None
}

/// The resolver configuration of a pod, and what of the pod's wishes could not be met.
pub fn pod_dns(node: &NodeSettings, pod: &Pod, host: &HostResolver) -> (DnsConfig, Vec<Warning>) {
    let mut warnings = Vec::new();
    let base = match policy(pod) {
        Policy::None => DnsConfig::default(),
        Policy::Cluster if !node.cluster_dns.is_empty() => cluster_dns(node, pod, host),
        Policy::Cluster => {
            warnings.extend(missing_cluster_dns(pod));
            host_dns(node, host)
        }
        Policy::Host => host_dns(node, host),
    };
    let merged = match &spec(pod).dns_config {
        Some(own) => merge(base, own),
        None => base,
    };
    let servers = limit_servers(merged.servers, &mut warnings);
    let searches = limit_searches(merged.searches, &mut warnings);
    (DnsConfig { servers, searches, options: merged.options }, warnings)
}

enum Policy {
    None,
    Cluster,
    Host,
}

fn policy(pod: &Pod) -> Policy {
    let spec = spec(pod);
    match spec.dns_policy.as_deref() {
        Some("None") => Policy::None,
        Some("Default") => Policy::Host,
        Some("ClusterFirst") if is_host_network(spec) => Policy::Host,
        // The API refuses any other policy; the peer takes what it does not know for the default one.
        _ => Policy::Cluster,
    }
}

fn cluster_dns(node: &NodeSettings, pod: &Pod, host: &HostResolver) -> DnsConfig {
    let host_searches = match host {
        HostResolver::Disabled => &[],
        HostResolver::File(file) => file.searches.as_slice(),
    };
    let domain = &node.cluster_domain;
    let searches = if domain.is_empty() {
        host_searches.to_vec()
    } else {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let cluster = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        distinct(cluster.into_iter().chain(host_searches.iter().cloned()))
    };
    DnsConfig {
        servers: node.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn host_dns(node: &NodeSettings, host: &HostResolver) -> DnsConfig {
    match host {
        HostResolver::File(file) => DnsConfig {
            servers: file.nameservers.clone(),
            searches: file.searches.clone(),
            options: file.options.clone(),
        },
        // Without a nameserver a resolver asks the machine it is on; that, told explicitly, keeps the runtime from
        // handing out the node's own file.
        HostResolver::Disabled => {
            let loopback = |is_ipv6| if is_ipv6 { "::1" } else { "127.0.0.1" };
            let mut servers: Vec<String> = node.node_ips.iter().map(|ip| loopback(ip.is_ipv6()).to_owned()).collect();
            if servers.is_empty() {
                servers.push(loopback(false).to_owned());
            }
            DnsConfig { servers, searches: vec![".".to_owned()], options: Vec::new() }
        }
    }
}

fn missing_cluster_dns(pod: &Pod) -> [Warning; 2] {
    const REASON: &str = "MissingClusterDNS";
    const MESSAGE: &str = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" \
                           policy. Falling back to \"Default\" policy.";
    let for_pod = format!("pod: \"{}\". {MESSAGE}", PodKey::of(pod));
    [
        Warning { target: WarningTarget::Node, reason: REASON, message: MESSAGE.to_owned() },
        Warning { target: WarningTarget::Pod, reason: REASON, message: for_pod },
    ]
}

fn merge(base: DnsConfig, own: &PodDNSConfig) -> DnsConfig {
    let joined =
        |base: Vec<String>, own: &Option<Vec<String>>| distinct(base.into_iter().chain(own.iter().flatten().cloned()));
    let mut options = base.options;
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        set_option(&mut options, text);
    }
    DnsConfig {
        servers: joined(base.servers, &own.nameservers),
        searches: joined(base.searches, &own.searches),
        options,
    }
}

/// Adds `name[:value]`; the same option, if it is there, gives way in its place.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|existing| name(existing) == name(&option)) {
        Some(existing) => *existing = option,
        None => options.push(option),
    }
}

fn distinct(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut distinct = Vec::new();
    for text in texts {
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    distinct
}

fn limit_servers(mut servers: Vec<String>, warnings: &mut Vec<Warning>) -> Vec<String> {
    if servers.len() > NAMESERVERS_MAX {
        servers.truncate(NAMESERVERS_MAX);
        warnings.push(forming(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            servers.join(" ")
        )));
    }
    servers
}

fn limit_searches(mut searches: Vec<String>, warnings: &mut Vec<Warning>) -> Vec<String> {
    let wanted = searches.len();
    searches.truncate(SEARCHES_MAX);
    // Some resolvers abort the process on a longer path.
    searches.retain(|search| search.len() <= SUBDOMAIN_MAX);
    let line_length = |searches: &[String]| searches.iter().map(|s| s.len() + 1).sum::<usize>().saturating_sub(1);
    while line_length(&searches) > SEARCH_LINE_MAX {
        searches.pop();
    }
    if searches.len() < wanted {
        warnings.push(forming(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        )));
    }
    searches
}

fn forming(message: String) -> Warning {
    Warning { target: WarningTarget::Pod, reason: "DNSConfigForming", message }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
