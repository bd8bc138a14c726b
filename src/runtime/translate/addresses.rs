//! The order of a pod's addresses.

use std::net::IpAddr;

/// A pod's addresses as the API shows them: at most one of each family, that of the node's primary address first, in
/// canonical form. The runtime's order is the network plugin's and need not match.
pub fn order_pod_ips(pod_ips: &[String], node_ips: &[IpAddr]) -> Vec<String> {
    let parsed: Vec<IpAddr> = pod_ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let is_ipv6_first = node_ips.first().is_some_and(IpAddr::is_ipv6);
    let of_family = |is_ipv6: bool| parsed.iter().find(|ip| ip.is_ipv6() == is_ipv6);
    [is_ipv6_first, !is_ipv6_first].into_iter().filter_map(of_family).map(IpAddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], "", &[])]
    #[case(&["10.0.0.1", "fd00::1"], "", &["10.0.0.1", "fd00::1"])]
    #[case(&["fd00::1", "10.0.0.1"], "192.0.2.1", &["10.0.0.1", "fd00::1"])]
    #[case(&["10.0.0.1", "fd00:0::1"], "2001:db8::1", &["fd00::1", "10.0.0.1"])]
    #[case(&["10.0.0.1", "10.0.0.2", "nonsense"], "192.0.2.1", &["10.0.0.1"])]
    fn order(#[case] pod_ips: &[&str], #[case] node_ip: &str, #[case] expected: &[&str]) {
        let pod_ips: Vec<String> = pod_ips.iter().map(|ip| (*ip).to_owned()).collect();
        let node_ips: Vec<IpAddr> = node_ip.parse().into_iter().collect();
        assert_eq!(order_pod_ips(&pod_ips, &node_ips), expected);
    }
}
