//! The host's network interfaces, their addresses and the default routes; and the choice of the address that a daemon is
//! reached at (peer: `apimachinery/pkg/util/net`, `ResolveBindAddress`).

#![allow(unsafe_code, reason = "getifaddrs hands out a linked list of raw socket addresses")]

use std::ffi::CStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// What keeps the host's network from being read.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel did not list its interfaces.
    #[error("cannot list network interfaces")]
    Interfaces {
        /// Why.
        source: io::Error,
    },
    /// A route table cannot be read.
    #[error("cannot read {path}")]
    Routes {
        /// The table.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why no address of the host could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHostAddress {
    /// There is no default route, so nothing tells which interface faces the cluster.
    #[error("no default routes found")]
    NoDefaultRoute,
    /// Default routes lead out of interfaces without an address that is valid beyond the link.
    #[error("unable to select an IP from default routes")]
    NoAddressOnRoute,
    /// A route names an interface that does not exist.
    #[error("the default route leaves by {0}, which is no network interface")]
    UnknownInterface(String),
    /// No interface has an address that is valid beyond the link.
    #[error("no network interface has a global address")]
    NoGlobalAddress,
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// This family, then the other.
    fn preference(self) -> [Family; 2] {
        match self {
            Family::V4 => [Family::V4, Family::V6],
            Family::V6 => [Family::V6, Family::V4],
        }
    }
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is a loopback.
    pub loopback: bool,
    /// Whether it is a point-to-point link.
    pub point_to_point: bool,
    /// Its addresses in the kernel's order.
    pub addresses: Vec<IpAddr>,
}

/// One default route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The interface it leaves by.
    pub interface: String,
    /// Its family.
    pub family: Family,
}

/// The network as it was at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSnapshot {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// Default routes, IPv4 first; none if the kernel shows no route table.
    pub default_routes: Option<Vec<DefaultRoute>>,
}

/// Where the state of the network comes from.
pub trait Network: Send + Sync {
    /// The network now.
    fn snapshot(&self) -> Result<NetworkSnapshot, NetworkError>;
}

/// This host's network; route tables are read below `root`.
#[derive(Clone, Debug)]
pub struct HostNetwork {
    root: PathBuf,
}

impl Default for HostNetwork {
    fn default() -> Self {
        HostNetwork { root: PathBuf::from("/") }
    }
}

impl HostNetwork {
    /// Route tables below `root`; interfaces are always those of the calling thread's network namespace.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        HostNetwork { root: root.into() }
    }

    fn default_routes(&self) -> Result<Option<Vec<DefaultRoute>>, NetworkError> {
        let path = self.root.join("proc/net/route");
        let mut routes = match fs::read_to_string(&path) {
            Ok(text) => parse_ipv4_routes(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(NetworkError::Routes { path, source }),
        };
        // A kernel without IPv6 has no such table.
        if let Ok(text) = fs::read_to_string(self.root.join("proc/net/ipv6_route")) {
            routes.extend(parse_ipv6_routes(&text));
        }
        Ok(Some(routes))
    }
}

impl Network for HostNetwork {
    fn snapshot(&self) -> Result<NetworkSnapshot, NetworkError> {
        Ok(NetworkSnapshot { interfaces: interfaces()?, default_routes: self.default_routes()? })
    }
}

impl NetworkSnapshot {
    /// Whether an interface has the address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.interfaces.iter().any(|interface| interface.addresses.contains(&address))
    }

    /// The host's own address: the first global one on the interface of a default route, of the preferred family if
    /// there is one; with no route table at all, that of the first interface that has one.
    pub fn default_address(&self, preferred: Family) -> Result<IpAddr, NoHostAddress> {
        let Some(routes) = &self.default_routes else { return self.any_global_address(preferred) };
        if routes.is_empty() {
            return Err(NoHostAddress::NoDefaultRoute);
        }
        for family in preferred.preference() {
            for route in routes.iter().filter(|route| route.family == family) {
                let interface = self
                    .interfaces
                    .iter()
                    .find(|interface| interface.name == route.interface)
                    .ok_or_else(|| NoHostAddress::UnknownInterface(route.interface.clone()))?;
                // Routers that speak link-local next hops (RFC 5549) keep the host's address on a loopback.
                let loopbacks = self.interfaces.iter().filter(|interface| interface.loopback);
                if let Some(address) =
                    std::iter::once(interface).chain(loopbacks).find_map(|interface| interface.global_address(family))
                {
                    return Ok(address);
                }
            }
        }
        Err(NoHostAddress::NoAddressOnRoute)
    }

    fn any_global_address(&self, preferred: Family) -> Result<IpAddr, NoHostAddress> {
        let usable = |interface: &&Interface| !interface.loopback && !interface.point_to_point;
        let of_family = |family: Family| {
            self.interfaces.iter().filter(usable).find_map(|interface| interface.global_address(family))
        };
        preferred.preference().into_iter().find_map(of_family).ok_or(NoHostAddress::NoGlobalAddress)
    }
}

impl Interface {
    /// The first address of the family that is valid beyond the link, if the interface is up.
    fn global_address(&self, family: Family) -> Option<IpAddr> {
        let matches = |address: &&IpAddr| Family::of(**address) == family && is_global_unicast(**address);
        if self.up { self.addresses.iter().find(matches).copied() } else { None }
    }
}

/// Go's `IsGlobalUnicast`: private ranges count, link-local, loopback, multicast, broadcast and the zero address do not.
pub fn is_global_unicast(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !is_broadcast
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !is_link_local_unicast(address)
}

/// 169.254.0.0/16 and fe80::/10.
pub fn is_link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// `/proc/net/route`: a heading, then interface, destination, gateway and more; addresses in hexadecimal.
fn parse_ipv4_routes(text: &str) -> Vec<DefaultRoute> {
    let route = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?;
        let destination = u32::from_str_radix(fields.next()?, 16).ok()?;
        (destination == 0).then(|| DefaultRoute { interface: interface.to_owned(), family: Family::V4 })
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// `/proc/net/ipv6_route`: destination and its length, source and its length, gateway, four numbers, interface.
fn parse_ipv6_routes(text: &str) -> Vec<DefaultRoute> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let destination = u128::from_str_radix(fields.first()?, 16).ok()?;
        let gateway = u128::from_str_radix(fields.get(4)?, 16).ok()?;
        // The kernel's own entries for "no route" have a zero gateway.
        let is_default = destination == 0 && gateway != 0;
        is_default.then_some(DefaultRoute { interface: (*fields.get(9)?).to_owned(), family: Family::V6 })
    };
    text.lines().filter_map(route).collect()
}

/// All interfaces of this network namespace.
fn interfaces() -> Result<Vec<Interface>, NetworkError> {
    let mut head: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `head` is a valid place for the list's head.
    if unsafe { libc::getifaddrs(&mut head) } != 0 {
        return Err(NetworkError::Interfaces { source: io::Error::last_os_error() });
    }
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut next = head;
    // SAFETY: getifaddrs returned a well-formed list, which lives until freeifaddrs below.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: ifa_name of a list entry is a NUL-terminated string.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy();
        let flag = |flag: libc::c_int| entry.ifa_flags & u32::try_from(flag).unwrap_or(0) != 0;
        let known = interfaces.iter().position(|interface| interface.name == name);
        let index = known.unwrap_or_else(|| {
            interfaces.push(Interface {
                name: name.into_owned(),
                up: flag(libc::IFF_UP),
                loopback: flag(libc::IFF_LOOPBACK),
                point_to_point: flag(libc::IFF_POINTOPOINT),
                addresses: Vec::new(),
            });
            interfaces.len() - 1
        });
        // SAFETY: ifa_addr is null or points to a socket address of the family that it tells.
        if let Some(address) = unsafe { ip_address(entry.ifa_addr) } {
            interfaces[index].addresses.push(address);
        }
    }
    // SAFETY: `head` came from getifaddrs and nothing above keeps a reference into it.
    unsafe { libc::freeifaddrs(head) };
    Ok(interfaces)
}

/// The IP address in a raw socket address, if it is of an IP family.
///
/// # Safety
/// `raw` is null or points to a socket address as long as its family's type.
unsafe fn ip_address(raw: *const libc::sockaddr) -> Option<IpAddr> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: by the contract; reads need no alignment.
    match libc::c_int::from(unsafe { raw.read_unaligned() }.sa_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is a sockaddr_in.
            let address = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is a sockaddr_in6.
            let address = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            up: true,
            loopback: name == "lo",
            point_to_point: name.starts_with("tun"),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn routes(routes: &[(&str, Family)]) -> Option<Vec<DefaultRoute>> {
        let route =
            |(interface, family): &(&str, Family)| DefaultRoute { interface: (*interface).into(), family: *family };
        Some(routes.iter().map(route).collect())
    }

    #[rstest]
    #[case::route_interface(routes(&[("eth1", Family::V4)]), Family::V4, Ok("10.0.0.2"))]
    #[case::other_family_if_it_must(routes(&[("eth1", Family::V4)]), Family::V6, Ok("10.0.0.2"))]
    #[case::preferred_family(routes(&[("eth1", Family::V4), ("eth1", Family::V6)]), Family::V6, Ok("2001:db8::2"))]
    #[case::link_local_interface_uses_loopback(routes(&[("bgp0", Family::V4)]), Family::V4, Ok("192.0.2.7"))]
    #[case::down(routes(&[("down0", Family::V6)]), Family::V6, Err(NoHostAddress::NoAddressOnRoute))]
    #[case::unknown(routes(&[("gone", Family::V4)]), Family::V4, Err(NoHostAddress::UnknownInterface("gone".into())))]
    #[case::no_default_route(routes(&[]), Family::V4, Err(NoHostAddress::NoDefaultRoute))]
    #[case::no_table(None, Family::V4, Ok("172.16.0.9"))]
    #[case::no_table_v6(None, Family::V6, Ok("2001:db8::2"))]
    fn chooses_the_hosts_address(
        #[case] default_routes: Option<Vec<DefaultRoute>>,
        #[case] preferred: Family,
        #[case] expected: Result<&str, NoHostAddress>,
    ) {
        let mut down = interface("down0", &["2001:db8::d"]);
        down.up = false;
        let network = NetworkSnapshot {
            interfaces: vec![
                interface("lo", &["127.0.0.1", "192.0.2.7", "::1"]),
                interface("tun0", &["10.99.0.1"]),
                down,
                interface("bgp0", &["169.254.3.4", "fe80::5"]),
                interface("eth0", &["169.254.1.1", "172.16.0.9"]),
                interface("eth1", &["fe80::1", "10.0.0.2", "2001:db8::2"]),
            ],
            default_routes,
        };
        assert_eq!(network.default_address(preferred), expected.map(|address| address.parse().unwrap()));
    }

    #[test]
    fn reads_route_tables() {
        let directory = tempfile::tempdir().unwrap();
        let proc_net = directory.path().join("proc/net");
        fs::create_dir_all(&proc_net).unwrap();
        let network = HostNetwork::below(directory.path());
        assert_eq!(network.default_routes().unwrap(), None);

        let v4 = "Iface\tDestination\tGateway \tFlags\n\
                  eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        fs::write(proc_net.join("route"), v4).unwrap();
        assert_eq!(network.default_routes().unwrap(), routes(&[("eth0", Family::V4)]));

        let zero = "0".repeat(32);
        let gateway = format!("fe80{}1", "0".repeat(27));
        let v6 = format!(
            "{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth1\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             {gateway} 80 {zero} 00 {zero} 00000000 00000002 00000000 80200001     eth1\n"
        );
        fs::write(proc_net.join("ipv6_route"), v6).unwrap();
        assert_eq!(network.default_routes().unwrap(), routes(&[("eth0", Family::V4), ("eth1", Family::V6)]));
    }

    #[test]
    fn lists_this_hosts_interfaces() {
        let network = HostNetwork::default().snapshot().unwrap();
        let loopback = network.interfaces.iter().find(|interface| interface.loopback).unwrap();
        assert_eq!(loopback.name, "lo");
        if loopback.up {
            assert!(network.has_address(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
    }

    #[rstest]
    #[case("10.0.0.1", true)]
    #[case("8.8.8.8", true)]
    #[case("255.255.255.255", false)]
    #[case("0.0.0.0", false)]
    #[case("127.0.0.1", false)]
    #[case("169.254.0.1", false)]
    #[case("224.0.0.1", false)]
    #[case("fd00::1", true)]
    #[case("fe80::1", false)]
    #[case("::1", false)]
    #[case("ff02::1", false)]
    fn tells_global_addresses(#[case] address: &str, #[case] expected: bool) {
        assert_eq!(is_global_unicast(address.parse().unwrap()), expected);
    }
}
