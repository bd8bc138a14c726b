use k8s_openapi::api::core::v1::{PodSpec, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rstest::rstest;

use super::*;

fn pod(name: &str, change: impl FnOnce(&mut PodSpec)) -> Pod {
    let mut spec = PodSpec::default();
    change(&mut spec);
    let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("ns".into()), ..ObjectMeta::default() };
    Pod { metadata, spec: Some(spec), ..Pod::default() }
}

fn named(hostname: &str, subdomain: &str) -> Pod {
    pod("web-0", |spec| {
        spec.hostname = Some(hostname.into());
        spec.subdomain = Some(subdomain.into());
    })
}

#[rstest]
#[case(pod("web-0", |_| {}), "web-0", "")]
#[case(named("", ""), "web-0", "")]
#[case(named("db", ""), "db", "")]
#[case(named("", "sub"), "web-0", "sub.ns.svc.cluster.local")]
#[case(named("db", "sub"), "db", "sub.ns.svc.cluster.local")]
#[case(pod("web-0", |s| s.hostname_override = Some("a.b.example".into())), "a.b.example", "")]
#[case(
    pod("web-0", |s| {
        s.hostname_override = Some("only".into());
        s.hostname = Some("db".into());
        s.subdomain = Some("sub".into());
    }),
    "only",
    ""
)]
fn names(#[case] pod: Pod, #[case] name: &str, #[case] domain: &str) {
    let expected = Hostname { name: name.into(), domain: domain.into() };
    assert_eq!(pod_hostname(&pod, "cluster.local"), Ok(expected));
}

#[rstest]
#[case("a".repeat(63), "a".repeat(63))]
#[case("a".repeat(64), "a".repeat(63))]
#[case(format!("{}.-bcd", "a".repeat(61)), "a".repeat(61))]
#[case(format!("{}-b", "a".repeat(62)), "a".repeat(62))]
fn long_names_are_cut(#[case] pod_name: String, #[case] expected: String) {
    assert_eq!(pod_hostname(&pod(&pod_name, |_| {}), "").map(|h| h.name), Ok(expected));
}

#[rstest]
#[case(
    named("Db", ""),
    "pod Hostname \"Db\" is not a valid DNS label: only a-z, 0-9 and '-' are allowed, and the first and last must not be '-'"
)]
#[case(named("a.b", ""), "pod Hostname \"a.b\" is not a valid DNS label: must not contain dots")]
#[case(
    named("db", "-s"),
    "pod Subdomain \"-s\" is not a valid DNS label: only a-z, 0-9 and '-' are allowed, and the first and last must not be '-'"
)]
#[case(
    pod("p", |s| s.hostname_override = Some("a..b".into())),
    "pod HostnameOverride \"a..b\" is not a valid DNS subdomain: only labels of a-z, 0-9 and '-', joined by '.', are allowed"
)]
#[case(pod("p", |s| s.hostname_override = Some(String::new())), "pod HostnameOverride \"\" is not a valid DNS subdomain: only labels of a-z, 0-9 and '-', joined by '.', are allowed")]
fn what_is_no_name(#[case] pod: Pod, #[case] message: &str) {
    let error = pod_hostname(&pod, "cluster.local").unwrap_err();
    assert_eq!(error.to_string(), message);
    assert_eq!(error.waiting_reason(), "CreateContainerConfigError");
}

#[test]
fn a_name_of_nothing_but_dashes_is_refused() {
    let dashes = "-".repeat(64);
    let error = pod_hostname(&pod(&dashes, |_| {}), "").unwrap_err().to_string();
    assert_eq!(error, format!("hostname for pod \"{dashes}\" was invalid: \"{dashes}\""));
}

#[test]
fn the_kernel_shows_the_full_name_on_demand() {
    let with = |asked: Option<bool>, subdomain: &str| {
        let mut pod = named("db", subdomain);
        pod.spec.as_mut().unwrap().set_hostname_as_fqdn = asked;
        let hostname = pod_hostname(&pod, "cluster.local").unwrap();
        kernel_hostname(&pod, &hostname).map_err(|e| e.to_string())
    };
    assert_eq!(with(None, "sub"), Ok("db".into()));
    assert_eq!(with(Some(true), ""), Ok("db".into()));
    assert_eq!(with(Some(true), "sub"), Ok("db.sub.ns.svc.cluster.local".into()));
    // 3 + s + 21 characters: 40 fill the 64 up.
    assert!(with(Some(true), &"s".repeat(40)).is_ok());
    let fqdn = format!("db.{}.ns.svc.cluster.local", "s".repeat(41));
    assert_eq!(
        with(Some(true), &"s".repeat(41)),
        Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, 65 characters requested)"
        ))
    );
}

fn text(pod: &Pod, ips: &[&str], node_hosts: &str) -> String {
    let ips: Vec<String> = ips.iter().map(|ip| (*ip).to_owned()).collect();
    String::from_utf8(hosts_file(pod, "cluster.local", &ips, node_hosts.as_bytes()).unwrap()).unwrap()
}

const LOCAL: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

#[test]
fn hosts_files() {
    let plain = pod("web-0", |_| {});
    assert_eq!(text(&plain, &["10.0.0.2"], "ignored"), format!("{LOCAL}10.0.0.2\tweb-0\n"));
    assert_eq!(
        text(&named("db", "sub"), &["10.0.0.2", "fd00::2"], ""),
        format!("{LOCAL}10.0.0.2\tdb.sub.ns.svc.cluster.local\tdb\nfd00::2\tdb.sub.ns.svc.cluster.local\tdb\n")
    );
}

#[test]
fn hosts_files_with_aliases() {
    let aliases = vec![
        HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) },
        HostAlias { ip: "5.6.7.8".into(), hostnames: None },
    ];
    let added = "\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n5.6.7.8\t\n";
    let own = pod("web-0", |s| s.host_aliases = Some(aliases.clone()));
    assert_eq!(text(&own, &["10.0.0.2"], ""), format!("{LOCAL}10.0.0.2\tweb-0\n{added}"));
    let shared = pod("web-0", |s| {
        s.host_aliases = Some(aliases.clone());
        s.host_network = Some(true);
    });
    assert_eq!(
        text(&shared, &["192.0.2.1"], "127.0.0.1 localhost\n"),
        format!("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n{added}")
    );
}

#[test]
fn who_gets_a_hosts_file() {
    let ips = ["10.0.0.2".to_owned()];
    let plain = pod("p", |_| {});
    let shared = pod("p", |s| s.host_network = Some(true));
    let mounting = |path: &str| {
        let mount = VolumeMount { mount_path: path.into(), ..VolumeMount::default() };
        Container { volume_mounts: Some(vec![mount]), ..Container::default() }
    };
    assert!(has_hosts_file(&plain, &Container::default(), &ips));
    assert!(!has_hosts_file(&plain, &Container::default(), &[]));
    assert!(has_hosts_file(&shared, &Container::default(), &[]));
    assert!(!has_hosts_file(&shared, &mounting("/etc/hosts"), &ips));
    assert!(has_hosts_file(&shared, &mounting("/etc/hosts.d"), &ips));
}
