//! That every path of the peer's server is served, or that README.md says why it is not.

use super::routes::ROUTES;

/// The paths that kubelet v1.37.2 serves on its HTTPS port (`pkg/kubelet/server/server.go`), each part that varies as `{}`.
const PEER: &[&str] = &[
    "/allocatedPods",
    "/allocatedPods/{}/{}",
    "/allocatedPods/{}/{}/{}",
    "/attach/{}/{}/{}",
    "/attach/{}/{}/{}/{}",
    "/checkpoint/{}/{}/{}",
    "/configz",
    "/containerLogs/{}/{}/{}",
    "/debug/flags/v",
    "/debug/pprof/{*}",
    "/exec/{}/{}/{}",
    "/exec/{}/{}/{}/{}",
    "/flagz",
    "/healthz",
    "/healthz/log",
    "/healthz/ping",
    "/healthz/syncloop",
    "/logs/",
    "/logs/{*}",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/probes",
    "/metrics/resource",
    "/metrics/slis",
    "/pods",
    "/portForward/{}/{}",
    "/portForward/{}/{}/{}",
    "/run/{}/{}/{}",
    "/run/{}/{}/{}/{}",
    "/runningpods/",
    "/stats/summary",
    "/statusz",
];

/// A path of the table with its parts' names left out.
fn anonymous(path: &str) -> String {
    let part = |part: &str| match part.strip_prefix('{') {
        Some(name) if name.starts_with('*') => "{*}".to_owned(),
        Some(_) => "{}".to_owned(),
        None => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[test]
fn every_path_of_the_peer_is_served_or_its_absence_explained() {
    let readme = include_str!("../../README.md");
    let (_, differences) = readme.split_once("## What differs from the kubelet").unwrap();
    let (differences, _) = differences.split_once("\n## ").unwrap();
    let served: Vec<String> = ROUTES.iter().flat_map(|route| route.paths).map(|path| anonymous(path)).collect();
    for path in PEER {
        let first = path.split('/').nth(1).unwrap_or_default();
        let is_explained = differences.contains(&format!("`/{first}`"));
        let is_served = served.iter().any(|served| served == path);
        assert!(is_served != is_explained, "{path}: served {is_served}, told as absent {is_explained}");
    }
}

#[test]
fn what_the_peer_does_not_have_is_a_spelling_of_what_it_has() {
    for path in ROUTES.iter().flat_map(|route| route.paths).map(|path| anonymous(path)) {
        let first = path.split('/').nth(1).unwrap_or_default();
        let is_known = PEER.iter().any(|known| known.split('/').nth(1) == Some(first));
        assert!(is_known, "{path}");
    }
}
