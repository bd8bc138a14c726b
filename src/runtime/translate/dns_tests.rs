use k8s_openapi::api::core::v1::{PodDNSConfigOption, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn node() -> NodeSettings {
    NodeSettings {
        cluster_domain: "cluster.local".into(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        ..NodeSettings::default()
    }
}

fn pod(policy: &str, change: impl FnOnce(&mut PodSpec)) -> Pod {
    let mut spec = PodSpec { dns_policy: Some(policy.into()), ..PodSpec::default() };
    change(&mut spec);
    let metadata = ObjectMeta {
        name: Some("web".into()),
        namespace: Some("ns".into()),
        uid: Some("u".into()),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: Some(spec), ..Pod::default() }
}

fn host() -> HostResolver {
    let text = "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch corp.example svc.cluster.local\noptions edns0 timeout:1\n";
    HostResolver::File(parse_resolv_conf(text).unwrap())
}

fn own(servers: &[&str], searches: &[&str], options: &[(&str, Option<&str>)]) -> Option<PodDNSConfig> {
    let list = |texts: &[&str]| Some(texts.iter().map(|t| (*t).to_owned()).collect());
    let option = |(name, value): &(&str, Option<&str>)| PodDNSConfigOption {
        name: Some((*name).into()),
        value: value.map(Into::into),
    };
    Some(PodDNSConfig {
        nameservers: list(servers),
        searches: list(searches),
        options: Some(options.iter().map(option).collect()),
    })
}

fn line(config: &DnsConfig) -> String {
    format!("{} | {} | {}", config.servers.join(" "), config.searches.join(" "), config.options.join(" "))
}

const CLUSTER: &str = "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots:5";
const HOST: &str = "192.0.2.53 192.0.2.54 | corp.example svc.cluster.local | edns0 timeout:1";

#[rstest]
#[case(pod("ClusterFirst", |_| {}), CLUSTER)]
#[case(pod("ClusterFirst", |s| s.host_network = Some(true)), HOST)]
#[case(pod("ClusterFirstWithHostNet", |s| s.host_network = Some(true)), CLUSTER)]
#[case(pod("Default", |_| {}), HOST)]
#[case(pod("None", |_| {}), " |  | ")]
#[case(pod("Unheard-of", |_| {}), CLUSTER)]
#[case(
    pod("None", |s| s.dns_config = own(&["1.1.1.1"], &["a.example"], &[("ndots", Some("2")), ("use-vc", None)])),
    "1.1.1.1 | a.example | ndots:2 use-vc"
)]
#[case(
    pod("ClusterFirst", |s| s.dns_config = own(&["1.1.1.1", "10.96.0.10"], &["corp.example", "b.example"], &[("edns0", None), ("ndots", Some("1"))])),
    "10.96.0.10 1.1.1.1 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example b.example | ndots:1 edns0"
)]
#[case(pod("ClusterFirst", |s| s.dns_config = own(&[], &[], &[("ndots", None)])), "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots")]
fn policies(#[case] pod: Pod, #[case] expected: &str) {
    let (config, warnings) = pod_dns(&node(), &pod, &host());
    assert_eq!(line(&config), expected);
    assert_eq!(warnings, []);
}

#[test]
fn without_cluster_domain_the_host_searches_alone_count() {
    let node = NodeSettings { cluster_domain: String::new(), ..node() };
    let (config, _) = pod_dns(&node, &pod("ClusterFirst", |_| {}), &host());
    assert_eq!(line(&config), "10.96.0.10 | corp.example svc.cluster.local | ndots:5");
}

#[test]
fn missing_cluster_dns_falls_back_and_is_told() {
    let node = NodeSettings { cluster_dns: Vec::new(), ..node() };
    let (config, warnings) = pod_dns(&node, &pod("ClusterFirst", |_| {}), &host());
    assert_eq!(line(&config), HOST);
    let text = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
    assert_eq!(
        warnings,
        [
            Warning { target: WarningTarget::Node, reason: "MissingClusterDNS", message: text.into() },
            Warning {
                target: WarningTarget::Pod,
                reason: "MissingClusterDNS",
                message: format!("pod: \"web_ns(u)\". {text}")
            },
        ]
    );
    // A pod in the node's network never wanted the cluster's.
    let (_, warnings) = pod_dns(&node, &pod("ClusterFirst", |s| s.host_network = Some(true)), &host());
    assert_eq!(warnings, []);
}

#[rstest]
#[case(&[], "127.0.0.1 | . | ")]
#[case(&["192.0.2.1", "2001:db8::1"], "127.0.0.1 ::1 | . | ")]
fn a_disabled_resolver_leads_to_the_node_itself(#[case] node_ips: &[&str], #[case] expected: &str) {
    let node = NodeSettings { node_ips: node_ips.iter().map(|ip| ip.parse().unwrap()).collect(), ..node() };
    let (config, _) = pod_dns(&node, &pod("Default", |_| {}), &HostResolver::Disabled);
    assert_eq!(line(&config), expected);
}

#[test]
fn too_many_nameservers() {
    let pod = pod("ClusterFirst", |s| s.dns_config = own(&["1.1.1.1", "2.2.2.2", "3.3.3.3"], &[], &[]));
    let (config, warnings) = pod_dns(&node(), &pod, &host());
    assert_eq!(config.servers, ["10.96.0.10", "1.1.1.1", "2.2.2.2"]);
    assert_eq!(
        warnings,
        [forming(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.96.0.10 1.1.1.1 2.2.2.2"
                .into()
        )]
    );
}

#[test]
fn too_many_searches() {
    let wanted: Vec<String> = (0..40).map(|n| format!("s{n}.example")).collect();
    let mut warnings = Vec::new();
    let applied = limit_searches(wanted.clone(), &mut warnings);
    assert_eq!(applied, wanted[..32]);
    let message = format!(
        "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
        wanted[..32].join(" ")
    );
    assert_eq!(warnings, [forming(message)]);
}

#[test]
fn overlong_search_paths_are_left_out() {
    let wanted = vec!["a".repeat(254), "b".repeat(253), "c".into()];
    let mut warnings = Vec::new();
    assert_eq!(limit_searches(wanted.clone(), &mut warnings), wanted[1..]);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn an_overlong_search_line_loses_its_last_paths() {
    // 8 x 253 + 7 blanks = 2031; 16 more and a blank fill the line up to 2048.
    let mut wanted: Vec<String> = (0..8).map(|n| n.to_string().repeat(253)).collect();
    wanted.push("x".repeat(16));
    let mut warnings = Vec::new();
    assert_eq!(limit_searches(wanted.clone(), &mut warnings), wanted);
    assert_eq!(warnings, []);
    wanted[8].push('x');
    assert_eq!(limit_searches(wanted.clone(), &mut warnings), wanted[..8]);
    assert_eq!(warnings.len(), 1);
}

#[rstest]
#[case("", " |  | ")]
#[case("# nameserver 1.1.1.1\n ; x\nnameserver 1.1.1.1 # note\n\tnameserver\t2.2.2.2", "1.1.1.1 2.2.2.2 |  | ")]
#[case("search a b\nsearch c. . d.e.", " | c d.e | ")]
#[case("search a\nsearch", " |  | ")]
#[case("search .", " |  | ")]
#[case("options ndots:1 rotate\noptions timeout:2 ndots:3", " |  | ndots:3 rotate timeout:2")]
#[case("domain x\nsortlist 1.2.3.4\nnameservers 9.9.9.9", " |  | ")]
fn resolv_conf(#[case] text: &str, #[case] expected: &str) {
    let ResolvConf { nameservers, searches, options } = parse_resolv_conf(text).unwrap();
    assert_eq!(line(&DnsConfig { servers: nameservers, searches, options }), expected);
}

#[test]
fn a_nameserver_line_must_name_one() {
    let error = parse_resolv_conf("nameserver\n").unwrap_err();
    let error = super::super::error::TranslateError::from(error);
    assert_eq!(error.to_string(), "Encountered error while parsing resolv conf file. Error: nameserver list is empty ");
    assert_eq!(error.waiting_reason(), "ConfigPodSandboxError");
}

#[test]
fn limits_of_the_nodes_file() {
    let with = |searches: Vec<String>| ResolvConf { searches, ..ResolvConf::default() };
    let check = |parsed: &ResolvConf, domain: &str| check_resolv_conf("/etc/resolv.conf", parsed, domain);
    let many = with(vec!["a".into(); 30]);
    assert_eq!(check(&many, ""), None);
    assert_eq!(
        check(&many, "cluster.local").as_deref(),
        Some("Resolv.conf file '/etc/resolv.conf' contains search line consisting of more than 29 domains!")
    );
    assert_eq!(
        check(&with(vec!["a".repeat(254)]), "").as_deref(),
        Some(
            "Resolv.conf file \"/etc/resolv.conf\" contains a search path which length is more than allowed 253 chars!"
        )
    );
    assert_eq!(
        check(&with(vec!["a".repeat(250); 9]), "").as_deref(),
        Some("Resolv.conf file '/etc/resolv.conf' contains search line which length is more than allowed 2048 chars!")
    );
}

proptest! {
    #[test]
    fn limits_hold_and_keep_the_order(
        servers in prop::collection::vec("[a-f0-9.:]{1,12}", 0..8),
        searches in prop::collection::vec("[a-z]{1,300}", 0..50),
    ) {
        let config = PodDNSConfig {
            nameservers: Some(servers.clone()),
            searches: Some(searches.clone()),
            options: None,
        };
        let (applied, warnings) = pod_dns(&node(), &pod("None", |s| s.dns_config = Some(config)), &host());
        prop_assert!(applied.servers.len() <= 3);
        prop_assert!(applied.searches.len() <= 32);
        prop_assert!(applied.searches.iter().all(|s| s.len() <= 253));
        prop_assert!(applied.searches.join(" ").len() <= 2048);
        // What is left stands in the order in which it was asked for.
        let mut rest = searches.iter();
        prop_assert!(applied.searches.iter().all(|s| rest.any(|wanted| wanted == s)));
        let (wanted_servers, wanted_searches) = (distinct(servers.into_iter()), distinct(searches.into_iter()));
        prop_assert!(wanted_servers.starts_with(&applied.servers));
        let lost = applied.servers.len() < wanted_servers.len() || applied.searches.len() < wanted_searches.len();
        prop_assert_eq!(lost, !warnings.is_empty());
    }

    #[test]
    fn any_resolv_conf_is_read(text in "(?s).*") {
        let _ = parse_resolv_conf(&text);
    }
}
