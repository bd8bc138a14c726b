//! Decisions about certificates: what one has to say, when it is renewed, how long to wait, when to give up. Pure; the
//! numbers are those of client-go's certificate manager.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::NodeAddress;

use super::certificate::CertificateFacts;
use crate::model::{SignedDuration, Timestamp};

/// How long a client may be without a valid certificate while the server answers.
pub const LONGEST_WITHOUT: SignedDuration = SignedDuration::from_mins(5);
/// How long a node's first certificate is waited for.
pub const FIRST_WAIT: Duration = Duration::from_secs(3600);
/// How long a later one is waited for before another is asked for.
pub const RENEWAL_WAIT: Duration = Duration::from_secs(15 * 60);
/// The pause after the first failure, doubled after each further one, and its maximum.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// What a certificate has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The subject's common name, `system:node:<name>`.
    pub common_name: String,
    /// The subject's organization, `system:nodes`.
    pub organization: String,
    /// DNS names.
    pub dns_names: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl Template {
    /// A node's client certificate.
    pub fn client(node_name: &str) -> Self {
        Template {
            common_name: format!("system:node:{node_name}"),
            organization: "system:nodes".to_owned(),
            dns_names: BTreeSet::new(),
            addresses: BTreeSet::new(),
        }
    }

    /// A node's serving certificate for its addresses. None while there are none to ask for: at least one IP address is
    /// needed, or with `dns_is_enough` (feature gate `AllowDNSOnlyNodeCSR`) a name.
    pub fn serving(node_name: &str, addresses: &[NodeAddress], dns_is_enough: bool) -> Option<Self> {
        let mut template = Template::client(node_name);
        for NodeAddress { address, type_ } in addresses.iter().filter(|address| !address.address.is_empty()) {
            match (type_.as_str(), address.parse::<IpAddr>()) {
                ("Hostname" | "ExternalIP" | "InternalIP", Ok(ip)) => {
                    template.addresses.insert(ip.to_canonical());
                }
                ("Hostname", Err(_)) | ("ExternalDNS" | "InternalDNS", _) => {
                    template.dns_names.insert(address.clone());
                }
                _ => {}
            }
        }
        let is_enough = !template.addresses.is_empty() || (dns_is_enough && !template.dns_names.is_empty());
        is_enough.then_some(template)
    }

    /// Whether a certificate says all of it. What it says beyond does not matter.
    pub fn is_met_by(&self, certificate: &CertificateFacts) -> bool {
        certificate.common_name == self.common_name
            && certificate.organizations.contains(&self.organization)
            && self.dns_names.is_subset(&certificate.dns_names)
            && self.addresses.is_subset(&certificate.addresses)
    }
}

/// What to do about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is known to ask for: wait until it is.
    Idle,
    /// It is good until it has to be renewed.
    Keep {
        /// When that is.
        until: Timestamp,
    },
    /// Ask for another.
    Ask,
}

/// What to do about a certificate that has to be renewed at `due`.
pub fn next(current: Option<&CertificateFacts>, template: Option<&Template>, due: Timestamp, now: Timestamp) -> Step {
    let is_good = current.is_some_and(|current| template.is_none_or(|template| template.is_met_by(current)));
    match template {
        _ if is_good && now < due => Step::Keep { until: due },
        Some(_) => Step::Ask,
        None => Step::Idle,
    }
}

/// When a certificate is renewed: after 70 to 90 % of its life, by `random` (0 to 1), so that nodes that were made together do
/// not all ask at once.
pub fn rotation_deadline(not_before: Timestamp, not_after: Timestamp, random: f64) -> Timestamp {
    let life = not_after.duration_since(not_before);
    let used = life.as_secs_f64() * (0.7 + 0.2 * random.clamp(0.0, 1.0));
    let used = SignedDuration::try_from_secs_f64(used.max(0.0)).unwrap_or(SignedDuration::ZERO);
    not_before.checked_add(used).unwrap_or(not_after)
}

/// The pause after so many failures in a row: 2 s, doubled up to 32 s, and by `random` (0 to 1) up to a tenth longer.
pub fn pause(failures: u32, random: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    doubled.mul_f64(1.0 + 0.1 * random.clamp(0.0, 1.0))
}

/// How long an answer is waited for: never past the end of the certificate that asks.
pub fn wait_limit(is_first: bool, current: Option<&CertificateFacts>, now: Timestamp) -> Duration {
    let usual = if is_first { FIRST_WAIT } else { RENEWAL_WAIT };
    let left = current.map(|current| current.not_after.duration_since(now)).filter(SignedDuration::is_positive);
    match left {
        Some(left) => Duration::try_from(left).unwrap_or(usual).min(usual),
        None => usual,
    }
}

/// Why a node's agent cannot go on with its client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has had none for long.
    NoneForLong,
    /// It has one that has expired.
    Expired,
}

/// Whether to give up, so that another start can find other credentials. A server that does not answer is waited for: no start
/// would change that.
pub fn end(
    current: Option<&CertificateFacts>,
    last_available: Timestamp,
    is_server_healthy: bool,
    now: Timestamp,
) -> Option<End> {
    let end = match current {
        None if now.duration_since(last_available) > LONGEST_WITHOUT => End::NoneForLong,
        Some(current) if now > current.not_after => End::Expired,
        _ => return None,
    };
    is_server_healthy.then_some(end)
}

/// What is known of the kubeconfig that the agent was given beside a bootstrap kubeconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no such file.
    Missing,
    /// It leads to no client certificate.
    Unusable {
        /// Why not.
        reason: String,
    },
    /// The last certificate of its chain that expires does so then.
    Certified {
        /// The first expiry in the chain.
        until: Timestamp,
    },
}

impl Standing {
    /// Whether the bootstrap credentials have to be used.
    pub fn needs_bootstrap(&self, now: Timestamp) -> bool {
        match self {
            Standing::Missing | Standing::Unusable { .. } => true,
            Standing::Certified { until } => now > *until,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn facts(from: i64, to: i64, dns: &[&str], ips: &[&str]) -> CertificateFacts {
        CertificateFacts {
            not_before: at(from),
            not_after: at(to),
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        }
    }

    fn addresses(list: &[(&str, &str)]) -> Vec<NodeAddress> {
        list.iter().map(|(type_, a)| NodeAddress { address: (*a).to_owned(), type_: (*type_).to_owned() }).collect()
    }

    #[rstest]
    #[case::none(&[], false, None)]
    #[case::name_alone(&[("Hostname", "n1")], false, None)]
    #[case::name_allowed(&[("Hostname", "n1")], true, Some((vec!["n1"], vec![])))]
    #[case::usual(&[("InternalIP", "192.0.2.2"), ("Hostname", "n1")], false, Some((vec!["n1"], vec!["192.0.2.2"])))]
    #[case::host_is_ip(&[("Hostname", "192.0.2.2"), ("InternalIP", "192.0.2.2")], false, Some((vec![], vec!["192.0.2.2"])))]
    #[case::all(
        &[("InternalIP", "2001:db8::1"), ("ExternalIP", "192.0.2.3"), ("InternalDNS", "a.b"), ("ExternalDNS", "c.d"), ("Other", "e")],
        false, Some((vec!["a.b", "c.d"], vec!["192.0.2.3", "2001:db8::1"]))
    )]
    #[case::no_ip(&[("InternalIP", "nonsense"), ("InternalIP", "")], true, None)]
    fn what_a_serving_certificate_says(
        #[case] given: &[(&str, &str)],
        #[case] dns_is_enough: bool,
        #[case] expected: Option<(Vec<&str>, Vec<&str>)>,
    ) {
        let template = Template::serving("n1", &addresses(given), dns_is_enough);
        let found = template.as_ref().map(|t| {
            let ips: Vec<String> = t.addresses.iter().map(IpAddr::to_string).collect();
            (t.dns_names.iter().map(String::as_str).collect::<Vec<_>>(), ips)
        });
        assert_eq!(found, expected.map(|(dns, ips)| (dns, ips.into_iter().map(str::to_owned).collect())));
    }

    #[rstest]
    #[case::none_and_nothing_known(None, false, 0, Step::Idle)]
    #[case::none(None, true, 0, Step::Ask)]
    #[case::good(Some(&["n1", "old"][..]), true, 0, Step::Keep { until: at(80) })]
    #[case::due(Some(&["n1"][..]), true, 80, Step::Ask)]
    #[case::due_and_nothing_known(Some(&["n1"][..]), false, 80, Step::Idle)]
    #[case::good_and_nothing_known(Some(&["n1"][..]), false, 79, Step::Keep { until: at(80) })]
    #[case::name_missing(Some(&["n2"][..]), true, 0, Step::Ask)]
    fn steps(#[case] names: Option<&[&str]>, #[case] known: bool, #[case] now: i64, #[case] expected: Step) {
        let current = names.map(|names| facts(0, 100, names, &["192.0.2.2"]));
        let given = addresses(&[("Hostname", "n1"), ("InternalIP", "192.0.2.2")]);
        let template = Template::serving("n1", &given, false).filter(|_| known);
        assert_eq!(next(current.as_ref(), template.as_ref(), at(80), at(now)), expected);
    }

    #[test]
    fn another_subject_is_not_met() {
        let template = Template::client("n2");
        assert!(!template.is_met_by(&facts(0, 1, &[], &[])));
        assert!(Template::client("n1").is_met_by(&facts(0, 1, &["x"], &[])));
        let mut other = facts(0, 1, &[], &[]);
        other.organizations = vec!["system:masters".to_owned()];
        assert!(!Template::client("n1").is_met_by(&other));
    }

    #[rstest]
    #[case(1, 2.0)]
    #[case(2, 4.0)]
    #[case(5, 32.0)]
    #[case(6, 32.0)]
    #[case(u32::MAX, 32.0)]
    fn pauses(#[case] failures: u32, #[case] seconds: f64) {
        assert_eq!(pause(failures, 0.0).as_secs_f64(), seconds);
        assert!((pause(failures, 1.0).as_secs_f64() - seconds * 1.1).abs() < 0.001);
    }

    #[rstest]
    #[case::never_had_one(None, 300, true, None)]
    #[case::for_long(None, 301, true, Some(End::NoneForLong))]
    #[case::server_away(None, 3000, false, None)]
    #[case::good(Some(1000), 1000, true, None)]
    #[case::expired(Some(1000), 1001, true, Some(End::Expired))]
    #[case::expired_and_away(Some(1000), 1001, false, None)]
    fn ends(#[case] until: Option<i64>, #[case] now: i64, #[case] healthy: bool, #[case] expected: Option<End>) {
        let current = until.map(|until| facts(0, until, &[], &[]));
        assert_eq!(end(current.as_ref(), at(0), healthy, at(now)), expected);
    }

    #[test]
    fn waits_end_with_the_certificate_that_asks() {
        let current = facts(0, 100, &[], &[]);
        assert_eq!(wait_limit(false, Some(&current), at(40)), Duration::from_secs(60));
        assert_eq!(wait_limit(false, Some(&current), at(100)), RENEWAL_WAIT);
        assert_eq!(wait_limit(true, None, at(40)), FIRST_WAIT);
    }

    #[test]
    fn a_valid_kubeconfig_wins_over_the_bootstrap_one() {
        assert!(Standing::Missing.needs_bootstrap(at(0)));
        assert!(Standing::Unusable { reason: String::new() }.needs_bootstrap(at(0)));
        assert!(!Standing::Certified { until: at(0) }.needs_bootstrap(at(0)));
        assert!(Standing::Certified { until: at(0) }.needs_bootstrap(at(1)));
    }

    proptest! {
        #[test]
        fn renewal_lies_between_70_and_90_percent(from in 0_i64..1_000_000, life in 1_i64..400_000_000, random in 0.0..1.0_f64) {
            let deadline = rotation_deadline(at(from), at(from + life), random);
            let used = deadline.duration_since(at(from)).as_secs_f64() / life as f64;
            prop_assert!((0.7 - 1e-6..=0.9 + 1e-6).contains(&used), "{used}");
        }
    }
}
