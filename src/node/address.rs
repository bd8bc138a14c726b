//! The node's addresses (peer: `nodestatus.NodeAddress`).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeAddress};

use crate::sys::network::{Family, NetworkSnapshot, NoHostAddress, is_link_local_unicast};

use super::settings::NodeSettings;

/// Annotation by which an external cloud provider learns `--node-ip`.
pub const PROVIDED_NODE_IP_ANNOTATION: &str = "alpha.kubernetes.io/provided-node-ip";

/// Why the addresses stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `--node-ip` is no address that others could reach this host at.
    #[error("--node-ip {address} is {problem}")]
    Unusable {
        /// The address.
        address: IpAddr,
        /// What it is.
        problem: UnusableAddress,
    },
    /// Neither the name nor the routes lead to an address.
    #[error("no address of node {node} found: its name does not resolve to one of this host, and {source}")]
    NoneFound {
        /// The node's name.
        node: String,
        /// Why routes did not help.
        source: NoHostAddress,
    },
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableAddress {
    /// 127.0.0.0/8 or ::1.
    #[error("a loopback address")]
    Loopback,
    /// 224.0.0.0/4 or ff00::/8.
    #[error("a multicast address")]
    Multicast,
    /// 169.254.0.0/16 or fe80::/10.
    #[error("valid on its link only")]
    LinkLocal,
    /// 0.0.0.0 or ::.
    #[error("the unspecified address")]
    Unspecified,
    /// An address of some other host.
    #[error("on none of this host's network interfaces")]
    NotHere,
}

/// `--node-ip` addresses that name an address, rather than a family only.
fn specified(settings: &NodeSettings, index: usize) -> Option<IpAddr> {
    settings.node_ips.get(index).copied().filter(|address| !address.is_unspecified())
}

/// The family that is preferred: that of the first `--node-ip`, else IPv4.
fn preferred_family(settings: &NodeSettings) -> Family {
    settings.node_ips.first().map_or(Family::V4, |address| Family::of(*address))
}

/// Whether the status needs the node's name resolved: nothing else tells an address for certain.
pub fn needs_resolution(settings: &NodeSettings) -> bool {
    specified(settings, 0).is_none()
        && settings.hostname.parse::<IpAddr>().is_err()
        && !(settings.external_cloud_provider && settings.node_ips.is_empty())
}

/// Sets the addresses, and the annotation for an external cloud provider. `resolved` are the addresses that the node's
/// name resolves to. On an error the addresses stay as they were.
pub fn apply(
    node: &mut Node,
    settings: &NodeSettings,
    network: &NetworkSnapshot,
    resolved: &[IpAddr],
) -> Result<(), AddressError> {
    let (first, second) = (specified(settings, 0), specified(settings, 1));
    for address in [first, second].into_iter().flatten() {
        validate(address, network).map_err(|problem| AddressError::Unusable { address, problem })?;
    }

    let annotations = node.metadata.annotations.get_or_insert_default();
    match first.filter(|_| settings.external_cloud_provider) {
        Some(first) => {
            let value = [Some(first), second].into_iter().flatten().map(|address| address.to_string());
            annotations.insert(PROVIDED_NODE_IP_ANNOTATION.to_owned(), value.collect::<Vec<_>>().join(","));
        }
        None => {
            annotations.remove(PROVIDED_NODE_IP_ANNOTATION);
        }
    }
    if annotations.is_empty() {
        node.metadata.annotations = None;
    }

    let present = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let ips = if settings.external_cloud_provider && present.is_some_and(|addresses| !addresses.is_empty()) {
        // The provider's addresses stand.
        return Ok(());
    } else if settings.external_cloud_provider && settings.node_ips.is_empty() {
        Vec::new()
    } else {
        match (first, second) {
            (Some(first), Some(second)) => vec![first, second],
            (Some(first), None) => vec![first],
            (None, _) => vec![choose(settings, network, resolved)?],
        }
    };
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut addresses: Vec<_> = ips.into_iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", settings.hostname.clone()));
    node.status.get_or_insert_default().addresses = Some(addresses);
    Ok(())
}

/// The address of a node for which none was given: the host name if it is one, what the name resolves to, the address
/// that faces the default route.
fn choose(settings: &NodeSettings, network: &NetworkSnapshot, resolved: &[IpAddr]) -> Result<IpAddr, AddressError> {
    if let Ok(address) = settings.hostname.parse() {
        return Ok(address);
    }
    let preferred = preferred_family(settings);
    let here = || resolved.iter().copied().filter(|address| validate(*address, network).is_ok());
    let by_name = here().find(|address| Family::of(*address) == preferred).or_else(|| here().next());
    match by_name {
        Some(address) => Ok(address),
        None => network
            .default_address(preferred)
            .map_err(|source| AddressError::NoneFound { node: settings.node_name.clone(), source }),
    }
}

fn validate(address: IpAddr, network: &NetworkSnapshot) -> Result<(), UnusableAddress> {
    if address.is_loopback() {
        Err(UnusableAddress::Loopback)
    } else if address.is_multicast() {
        Err(UnusableAddress::Multicast)
    } else if is_link_local_unicast(address) {
        Err(UnusableAddress::LinkLocal)
    } else if address.is_unspecified() {
        Err(UnusableAddress::Unspecified)
    } else if !network.has_address(address) {
        Err(UnusableAddress::NotHere)
    } else {
        Ok(())
    }
}

/// The host's addresses as pods are told them (`status.hostIPs`; the addresses of host-network pods): internal before
/// external, the first one and the first of the other family. Empty if the node has none yet.
pub fn host_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = || node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of_type = |type_: &'static str| {
        addresses().filter(move |address| address.type_ == type_).filter_map(|address| address.address.parse().ok())
    };
    let all: Vec<IpAddr> = of_type("InternalIP").chain(of_type("ExternalIP")).collect();
    let Some(first) = all.first() else { return Vec::new() };
    let other = all.iter().find(|address| address.is_ipv4() != first.is_ipv4());
    std::iter::once(first).chain(other).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::NodeStatus;
    use rstest::rstest;

    use super::*;
    use crate::sys::network::{DefaultRoute, Interface};

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn network() -> NetworkSnapshot {
        let interface = Interface {
            name: "eth0".into(),
            up: true,
            addresses: ips(&["10.0.0.5", "fd00::5"]),
            ..Interface::default()
        };
        let route = |family| DefaultRoute { interface: "eth0".into(), family };
        NetworkSnapshot {
            interfaces: vec![
                Interface {
                    name: "lo".into(),
                    loopback: true,
                    up: true,
                    addresses: ips(&["127.0.0.1"]),
                    ..Default::default()
                },
                interface,
                Interface { name: "eth1".into(), up: true, addresses: ips(&["172.20.0.9"]), ..Interface::default() },
            ],
            default_routes: Some(vec![route(Family::V4), route(Family::V6)]),
        }
    }

    fn node_with(addresses: &[(&str, &str)]) -> Node {
        let address =
            |(type_, address): &(&str, &str)| NodeAddress { type_: (*type_).into(), address: (*address).into() };
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        let addresses = (!addresses.is_empty()).then_some(addresses);
        Node { status: Some(NodeStatus { addresses, ..NodeStatus::default() }), ..Node::default() }
    }

    fn shown(node: &Node) -> Vec<String> {
        let addresses = node.status.as_ref().unwrap().addresses.iter().flatten();
        addresses.map(|a| format!("{}={}", a.type_, a.address)).collect()
    }

    #[rstest]
    #[case::default_route("node-a", &[], &[], &["InternalIP=10.0.0.5", "Hostname=node-a"])]
    #[case::by_name("node-a", &[], &["172.20.0.9"], &["InternalIP=172.20.0.9", "Hostname=node-a"])]
    #[case::name_of_loopback_is_no_answer("node-a", &[], &["127.0.0.1", "8.8.8.8"], &["InternalIP=10.0.0.5", "Hostname=node-a"])]
    #[case::preferred_family_first("node-a", &[], &["fd00::5", "172.20.0.9"], &["InternalIP=172.20.0.9", "Hostname=node-a"])]
    #[case::other_family_if_it_must("node-a", &[], &["fd00::5"], &["InternalIP=fd00::5", "Hostname=node-a"])]
    #[case::family_only("node-a", &["::"], &[], &["InternalIP=fd00::5", "Hostname=node-a"])]
    #[case::given("node-a", &["172.20.0.9"], &["10.0.0.5"], &["InternalIP=172.20.0.9", "Hostname=node-a"])]
    #[case::dual_stack("node-a", &["fd00::5", "172.20.0.9"], &[], &["InternalIP=fd00::5", "InternalIP=172.20.0.9", "Hostname=node-a"])]
    #[case::hostname_is_an_address("192.0.2.1", &[], &["172.20.0.9"], &["InternalIP=192.0.2.1", "Hostname=192.0.2.1"])]
    fn chooses_addresses(
        #[case] hostname: &str,
        #[case] node_ips: &[&str],
        #[case] resolved: &[&str],
        #[case] expected: &[&str],
    ) {
        let settings = NodeSettings { node_ips: ips(node_ips), ..NodeSettings::named(hostname) };
        let mut node = node_with(&[("InternalIP", "203.0.113.1")]);
        apply(&mut node, &settings, &network(), &ips(resolved)).unwrap();
        assert_eq!(shown(&node), expected);
        assert_eq!(node.metadata.annotations, None);
    }

    #[rstest]
    #[case("127.0.0.1", "--node-ip 127.0.0.1 is a loopback address")]
    #[case("224.0.0.1", "--node-ip 224.0.0.1 is a multicast address")]
    #[case("fe80::1", "--node-ip fe80::1 is valid on its link only")]
    #[case("10.0.0.6", "--node-ip 10.0.0.6 is on none of this host's network interfaces")]
    fn refuses_addresses_that_others_cannot_reach(#[case] node_ip: &str, #[case] expected: &str) {
        let settings = NodeSettings { node_ips: ips(&[node_ip]), ..NodeSettings::named("n") };
        let mut node = node_with(&[("InternalIP", "10.0.0.5")]);
        let before = node.clone();
        assert_eq!(apply(&mut node, &settings, &network(), &[]).unwrap_err().to_string(), expected);
        assert_eq!(node, before);
    }

    #[test]
    fn says_so_when_no_address_is_found() {
        let network = NetworkSnapshot { default_routes: Some(Vec::new()), ..NetworkSnapshot::default() };
        let error = apply(&mut Node::default(), &NodeSettings::named("n"), &network, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no address of node n found: its name does not resolve to one of this host, and no default routes found"
        );
    }

    #[rstest]
    #[case::waits_for_the_provider(&[], &[], &["Hostname=n"], None)]
    #[case::given_address_until_the_provider_answers(&["10.0.0.5"], &[], &["InternalIP=10.0.0.5", "Hostname=n"], Some("10.0.0.5"))]
    #[case::dual_stack(&["10.0.0.5", "fd00::5"], &[], &["InternalIP=10.0.0.5", "InternalIP=fd00::5", "Hostname=n"], Some("10.0.0.5,fd00::5"))]
    #[case::provider_stands(&["10.0.0.5"], &[("ExternalIP", "8.8.4.4")], &["ExternalIP=8.8.4.4"], Some("10.0.0.5"))]
    #[case::family_only(&["::"], &[], &["InternalIP=fd00::5", "Hostname=n"], None)]
    fn leaves_addresses_to_an_external_provider(
        #[case] node_ips: &[&str],
        #[case] present: &[(&str, &str)],
        #[case] expected: &[&str],
        #[case] annotation: Option<&str>,
    ) {
        let settings =
            NodeSettings { node_ips: ips(node_ips), external_cloud_provider: true, ..NodeSettings::named("n") };
        let mut node = node_with(present);
        apply(&mut node, &settings, &network(), &[]).unwrap();
        assert_eq!(shown(&node), expected);
        let annotations = node.metadata.annotations.unwrap_or_default();
        assert_eq!(annotations.get(PROVIDED_NODE_IP_ANNOTATION).map(String::as_str), annotation);
    }

    #[test]
    fn takes_back_a_stale_annotation_and_keeps_others() {
        let mut node = Node::default();
        let annotations = [(PROVIDED_NODE_IP_ANNOTATION, "10.0.0.5"), ("kept", "yes")];
        node.metadata.annotations = Some(annotations.map(|(name, value)| (name.into(), value.into())).into());
        apply(&mut node, &NodeSettings::named("n"), &network(), &[]).unwrap();
        assert_eq!(node.metadata.annotations, Some(BTreeMap::from([("kept".to_owned(), "yes".to_owned())])));
    }

    #[rstest]
    #[case(&[], &[])]
    #[case(&[("Hostname", "n"), ("ExternalIP", "8.8.8.8"), ("InternalIP", "10.0.0.5")], &["10.0.0.5"])]
    #[case(&[("ExternalIP", "2001:db8::1"), ("InternalIP", "10.0.0.5"), ("InternalIP", "fd00::5")], &["10.0.0.5", "fd00::5"])]
    #[case(&[("ExternalIP", "2001:db8::1"), ("InternalIP", "10.0.0.5")], &["10.0.0.5", "2001:db8::1"])]
    fn host_ips_are_one_of_each_family(#[case] addresses: &[(&str, &str)], #[case] expected: &[&str]) {
        assert_eq!(host_ips(&node_with(addresses)), ips(expected));
    }

    #[rstest]
    #[case("n", &[], false, true)]
    #[case("n", &["0.0.0.0"], false, true)]
    #[case("n", &["10.0.0.5"], false, false)]
    #[case("10.0.0.5", &[], false, false)]
    #[case("n", &[], true, false)]
    fn resolves_only_when_nothing_else_tells(
        #[case] hostname: &str,
        #[case] node_ips: &[&str],
        #[case] external_cloud_provider: bool,
        #[case] expected: bool,
    ) {
        let settings =
            NodeSettings { node_ips: ips(node_ips), external_cloud_provider, ..NodeSettings::named(hostname) };
        assert_eq!(needs_resolution(&settings), expected);
    }
}
