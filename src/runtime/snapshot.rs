//! From the runtime's messages to observations. Pure.

use std::cmp::Reverse;

use crate::model::observation::{
    ContainerObservation, ContainerState, Exit, ObservedResources, ObservedUser, PodObservation, SandboxObservation,
};
use crate::model::{Timestamp, clock};

use super::cri;
use super::labels;

/// What only `PodSandboxStatus` tells of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SandboxNetwork {
    /// Addresses, primary first.
    pub ips: Vec<String>,
    /// Whether the sandbox is in the node's network namespace.
    pub host_network: bool,
}

impl SandboxNetwork {
    /// Reads it out of a status. Addresses that are none make the runtime's list worthless as a whole, as for the peer.
    pub(super) fn of(status: &cri::PodSandboxStatus) -> Self {
        let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
        let host_network = options.is_some_and(|o| o.network() == cri::NamespaceMode::Node);
        let network = status.network.as_ref();
        let primary = network.map(|n| n.ip.as_str()).filter(|ip| !ip.is_empty());
        let more = network.map(|n| n.additional_ips.as_slice()).unwrap_or_default();
        let ips: Vec<String> =
            primary.into_iter().chain(more.iter().map(|p| p.ip.as_str())).map(str::to_owned).collect();
        let valid = ips.iter().all(|ip| ip.parse::<std::net::IpAddr>().is_ok());
        SandboxNetwork { ips: if valid { ips } else { Vec::new() }, host_network }
    }

    /// Whether it will not change while the sandbox is ready.
    pub(super) fn is_final(&self) -> bool {
        self.host_network || !self.ips.is_empty()
    }
}

/// A listed sandbox as observation.
pub(super) fn sandbox(listed: cri::PodSandbox, network: SandboxNetwork) -> SandboxObservation {
    let ready = listed.state() == cri::PodSandboxState::SandboxReady;
    SandboxObservation {
        attempt: listed.metadata.as_ref().map_or(0, |m| m.attempt),
        created_at: at_or_epoch(listed.created_at),
        ready,
        // A sandbox that is not ready has given its addresses back.
        ips: if ready { network.ips } else { Vec::new() },
        host_network: network.host_network,
        runtime_handler: listed.runtime_handler,
        id: listed.id,
    }
}

/// Newest first: the order in which a pod's sandbox is chosen.
pub(super) fn sort_listed_sandboxes(sandboxes: &mut [cri::PodSandbox]) {
    sandboxes.sort_by_cached_key(|s| {
        let attempt = s.metadata.as_ref().map_or(0, |m| m.attempt);
        (Reverse(attempt), Reverse(s.created_at), s.id.clone())
    });
}

/// A container's status as observation. `termination_message` is what the container left, for one that exited.
pub(super) fn container(
    sandbox_id: String,
    status: cri::ContainerStatus,
    termination_message: &str,
) -> ContainerObservation {
    let created_at = at_or_epoch(status.created_at);
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => {
            ContainerState::Running { started_at: clock::from_nanoseconds(status.started_at).unwrap_or(created_at) }
        }
        cri::ContainerState::ContainerExited => {
            let started_at = clock::from_nanoseconds(status.started_at);
            ContainerState::Exited(Exit {
                started_at,
                finished_at: clock::from_nanoseconds(status.finished_at).or(started_at).unwrap_or(created_at),
                code: status.exit_code,
                reason: status.reason.clone(),
                message: joined(&status.message, termination_message),
            })
        }
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let metadata = status.metadata.as_ref();
    let name = labels::value(&status.labels, labels::CONTAINER_NAME);
    let name = name.map(str::to_owned).or_else(|| metadata.map(|m| m.name.clone())).unwrap_or_default();
    let restart_count = labels::value(&status.annotations, labels::CONTAINER_RESTART_COUNT);
    let restart_count = restart_count.and_then(|count| count.parse().ok());
    let stop_signal = stop_signal(status.stop_signal());
    ContainerObservation {
        sandbox_id,
        name,
        restart_count: restart_count.unwrap_or_else(|| metadata.map_or(0, |m| m.attempt)),
        hash: labels::value(&status.annotations, labels::CONTAINER_HASH).unwrap_or_default().to_owned(),
        created_at,
        state,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_ref: status.image_ref,
        resources: status.resources.and_then(|r| r.linux).map(|linux| ObservedResources {
            cpu_period: linux.cpu_period,
            cpu_quota: linux.cpu_quota,
            cpu_shares: linux.cpu_shares,
            memory_limit_bytes: linux.memory_limit_in_bytes,
        }),
        user: status.user.and_then(|u| u.linux).map(|linux| ObservedUser {
            uid: linux.uid,
            gid: linux.gid,
            supplemental_groups: linux.supplemental_groups,
        }),
        stop_signal,
        annotations: labels::sorted(status.annotations),
        log_path: status.log_path,
        id: status.id,
    }
}

/// A signal in the API's spelling; none where the runtime does not tell it.
fn stop_signal(signal: cri::Signal) -> Option<String> {
    let name = signal.as_str_name();
    let name = name.trim_start_matches("SIGNAL_").replace("MINPLUS", "MIN+").replace("MAXMINUS", "MAX-");
    (signal != cri::Signal::RuntimeDefault).then_some(name)
}

/// Puts the containers of an observation in order, newest first.
pub(super) fn sort_containers(observation: &mut PodObservation) {
    observation.containers.sort_by(|a, b| {
        let newest = b.created_at.cmp(&a.created_at).then(b.restart_count.cmp(&a.restart_count));
        newest.then_with(|| a.id.cmp(&b.id))
    });
}

fn joined(runtime: &str, left: &str) -> String {
    match (runtime.is_empty(), left.is_empty()) {
        (_, true) => runtime.to_owned(),
        (true, false) => left.to_owned(),
        (false, false) => format!("{runtime}: {left}"),
    }
}

fn at_or_epoch(nanoseconds: i64) -> Timestamp {
    clock::from_nanoseconds(nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rstest::rstest;

    use super::*;

    fn status(state: cri::ContainerState) -> cri::ContainerStatus {
        let annotations = [
            (labels::CONTAINER_HASH, "a1b2c3d4"),
            (labels::CONTAINER_RESTART_COUNT, "3"),
            ("io.kubernetes.container.ports", "[]"),
        ];
        cri::ContainerStatus {
            id: "c1".to_owned(),
            metadata: Some(cri::ContainerMetadata { name: "meta".to_owned(), attempt: 1 }),
            state: state.into(),
            created_at: 1_000_000_000,
            started_at: 2_000_000_000,
            finished_at: 3_000_000_000,
            exit_code: 137,
            reason: "OOMKilled".to_owned(),
            message: "killed".to_owned(),
            image: Some(cri::ImageSpec { image: "busybox:1".to_owned(), ..Default::default() }),
            image_ref: "docker.io/library/busybox@sha256:1".to_owned(),
            labels: HashMap::from([(labels::CONTAINER_NAME.to_owned(), "app".to_owned())]),
            annotations: annotations.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            log_path: "/var/log/pods/x/app/3.log".to_owned(),
            ..Default::default()
        }
    }

    #[rstest]
    #[case(cri::Signal::RuntimeDefault, None)]
    #[case(cri::Signal::Sigusr1, Some("SIGUSR1"))]
    #[case(cri::Signal::Sigrtminplus3, Some("SIGRTMIN+3"))]
    #[case(cri::Signal::Sigrtmaxminus14, Some("SIGRTMAX-14"))]
    fn stop_signals_have_the_names_of_the_api(#[case] signal: cri::Signal, #[case] expected: Option<&str>) {
        let told = cri::ContainerStatus { stop_signal: signal.into(), ..status(cri::ContainerState::ContainerRunning) };
        assert_eq!(container("s1".to_owned(), told, "").stop_signal.as_deref(), expected);
    }

    #[test]
    fn an_exited_container_keeps_how_it_ended() {
        let seen = container("s1".to_owned(), status(cri::ContainerState::ContainerExited), "out of luck");
        assert_eq!((seen.name.as_str(), seen.restart_count, seen.hash.as_str()), ("app", 3, "a1b2c3d4"));
        assert_eq!(seen.annotations.len(), 3);
        let ContainerState::Exited(exit) = seen.state else { panic!("{:?}", seen.state) };
        assert_eq!(exit.message, "killed: out of luck");
        assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
        assert_eq!(exit.finished_at.as_second(), 3);
        assert_eq!(exit.started_at.map(Timestamp::as_second), Some(2));
    }

    #[test]
    fn a_container_that_never_ran_ends_without_a_start() {
        let mut raw = status(cri::ContainerState::ContainerExited);
        (raw.started_at, raw.finished_at) = (0, 0);
        let ContainerState::Exited(exit) = container("s1".to_owned(), raw, "").state else { panic!("not exited") };
        assert_eq!((exit.started_at, exit.finished_at.as_second()), (None, 1));
    }

    #[test]
    fn without_our_labels_the_metadata_counts() {
        let mut raw = status(cri::ContainerState::ContainerRunning);
        raw.labels.clear();
        raw.annotations.clear();
        let seen = container("s1".to_owned(), raw, "");
        assert_eq!((seen.name.as_str(), seen.restart_count, seen.hash.as_str()), ("meta", 1, ""));
        assert!(matches!(seen.state, ContainerState::Running { started_at } if started_at.as_second() == 2));
    }

    #[rstest]
    #[case("", &[], false, &[])]
    #[case("10.0.0.1", &[], false, &["10.0.0.1"])]
    #[case("10.0.0.1", &["fd00::1"], false, &["10.0.0.1", "fd00::1"])]
    #[case("10.0.0.1", &["nonsense"], false, &[])]
    #[case("", &[], true, &[])]
    fn addresses(#[case] ip: &str, #[case] more: &[&str], #[case] host: bool, #[case] expected: &[&str]) {
        let mode = if host { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
        let raw = cri::PodSandboxStatus {
            network: Some(cri::PodSandboxNetworkStatus {
                ip: ip.to_owned(),
                additional_ips: more.iter().map(|ip| cri::PodIp { ip: (*ip).to_owned() }).collect(),
            }),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace {
                    options: Some(cri::NamespaceOption { network: mode.into(), ..Default::default() }),
                }),
            }),
            ..Default::default()
        };
        let network = SandboxNetwork::of(&raw);
        assert_eq!(network.ips, expected);
        assert_eq!(network.host_network, host);
        assert_eq!(network.is_final(), host || !expected.is_empty());
    }

    #[test]
    fn the_newest_sandbox_is_the_one_of_the_last_attempt() {
        let listed = |id: &str, attempt, created_at| cri::PodSandbox {
            id: id.to_owned(),
            metadata: Some(cri::PodSandboxMetadata { attempt, ..Default::default() }),
            created_at,
            ..Default::default()
        };
        let mut all = [listed("b", 0, 9), listed("d", 1, 5), listed("c", 1, 5), listed("a", 1, 4)];
        sort_listed_sandboxes(&mut all);
        assert_eq!(all.map(|s| s.id), ["c", "d", "a", "b"]);
    }

    #[test]
    fn a_sandbox_that_is_not_ready_has_no_addresses() {
        let network = SandboxNetwork { ips: vec!["10.0.0.1".to_owned()], host_network: false };
        let mut listed = cri::PodSandbox { id: "s".to_owned(), created_at: 1, ..Default::default() };
        assert_eq!(sandbox(listed.clone(), network.clone()).ips, ["10.0.0.1"]);
        listed.state = cri::PodSandboxState::SandboxNotready.into();
        assert!(sandbox(listed, network).ips.is_empty());
    }
}
