//! The node's status, decided from values, and when it is sent (peer: `kubelet_node_status.go`, `nodestatus/setters.go`).

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSwapStatus,
};

use crate::model::{Timestamp, release};
use crate::sys::network::NetworkSnapshot;

use super::address;
use super::conditions::{self, NotReadyCause, Pressures};
use super::events::NodeEvent;
use super::inventory::Inventory;
use super::resources::{self, DeviceResources};
use super::runtime_state::RuntimeSnapshot;
use super::settings::{NodeFacts, NodeSettings};

const OS_LABEL: &str = "kubernetes.io/os";
const ARCHITECTURE_LABEL: &str = "kubernetes.io/arch";

/// What other parts of the agent contribute to the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contributions {
    /// What eviction says.
    pub pressures: Pressures,
    /// What keeps storage from being ready, such as a CSINode that is not published yet.
    pub storage: Option<NotReadyCause>,
    /// `node is shutting down`, while it is.
    pub shutdown: Option<String>,
    /// What device plugins provide.
    pub devices: DeviceResources,
}

/// All that a status is made of.
#[derive(Clone, Copy, Debug)]
pub struct StatusInputs<'a> {
    /// The configuration.
    pub settings: &'a NodeSettings,
    /// The machine.
    pub facts: &'a NodeFacts,
    /// Interfaces and routes.
    pub network: &'a NetworkSnapshot,
    /// What the node's name resolves to.
    pub resolved: &'a [IpAddr],
    /// The runtime's readiness.
    pub runtime: &'a RuntimeSnapshot,
    /// How long ago the runtime was last fully listed.
    pub relist_age: Option<Duration>,
    /// The runtime's version and images; none if it was not asked yet.
    pub inventory: Option<&'a Inventory>,
    /// What other parts say.
    pub contributions: &'a Contributions,
    /// The agent has just started: what is not known yet does not make a Ready node unready.
    pub is_starting: bool,
}

/// A node as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusOutcome {
    /// The existing node with its new status, labels and annotations.
    pub node: Node,
    /// What changed, for clients that follow events; to be sent once the node is stored.
    pub events: Vec<NodeEvent>,
    /// What could not be told and stays as it was.
    pub problem: Option<address::AddressError>,
}

/// The existing node as it should be now.
pub fn node_status(existing: &Node, inputs: &StatusInputs<'_>, now: Timestamp) -> StatusOutcome {
    let settings = inputs.settings;
    let mut node = existing.clone();
    let mut events = Vec::new();
    assert_platform_labels(&mut node, inputs.facts);
    let problem = address::apply(&mut node, settings, inputs.network, inputs.resolved).err();

    let status = node.status.get_or_insert_default();
    let mut capacity = status.capacity.take().unwrap_or_default();
    let mut allocatable = status.allocatable.take().unwrap_or_default();
    resources::apply(&mut capacity, &mut allocatable, settings, inputs.facts, &inputs.contributions.devices);

    let is_rebooted = apply_node_info(status, inputs);
    if is_rebooted {
        events.push(NodeEvent::rebooted(&settings.node_name, &inputs.facts.machine.boot_id));
    }
    status.daemon_endpoints =
        Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: settings.port }) });
    if let Some(inventory) = inputs.inventory {
        status.images = non_empty(inventory.images.clone());
    }
    if let Some(handlers) = &inputs.runtime.handlers {
        status.runtime_handlers = non_empty(handlers.clone());
        if let Some(features) = &inputs.runtime.features {
            status.features = Some(features.clone());
        }
    }

    let conditions = status.conditions.get_or_insert_default();
    let pressures = inputs.contributions.pressures;
    events.extend(conditions::apply_pressures(conditions, &settings.node_name, pressures, now));
    let mut causes = inputs.runtime.causes(inputs.relist_age);
    causes.extend(inputs.contributions.storage.clone());
    causes.extend(inputs.contributions.shutdown.clone().map(NotReadyCause::known));
    causes.extend(missing_capacity(&capacity, settings));
    // After a reboot nothing runs: Ready of the last boot is no reason to stay so.
    let is_starting = inputs.is_starting && !is_rebooted;
    events.extend(conditions::apply_ready(conditions, &settings.node_name, &causes, is_starting, now));

    status.capacity = Some(capacity);
    status.allocatable = Some(allocatable);
    status.declared_features = non_empty(settings.declared_features.clone());
    StatusOutcome { node, events, problem }
}

/// The operating system and architecture labels are what schedulers choose by: put back when someone changed them.
fn assert_platform_labels(node: &mut Node, facts: &NodeFacts) {
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert(OS_LABEL.to_owned(), facts.machine.operating_system.clone());
    labels.insert(ARCHITECTURE_LABEL.to_owned(), facts.machine.architecture.clone());
}

/// Writes `nodeInfo`; tells whether the machine was booted since it was last written.
fn apply_node_info(status: &mut NodeStatus, inputs: &StatusInputs<'_>) -> bool {
    let machine = &inputs.facts.machine;
    let info = status.node_info.get_or_insert_default();
    let is_rebooted = !info.boot_id.is_empty() && info.boot_id != machine.boot_id;
    info.machine_id.clone_from(&machine.machine_id);
    info.system_uuid.clone_from(&machine.system_uuid);
    info.boot_id.clone_from(&machine.boot_id);
    info.kernel_version.clone_from(&machine.kernel_version);
    info.os_image.clone_from(&machine.os_image);
    if let Some(inventory) = inputs.inventory {
        info.container_runtime_version.clone_from(&inventory.runtime_version);
    }
    release::VERSION.clone_into(&mut info.kubelet_version);
    info.kube_proxy_version.clear();
    info.operating_system.clone_from(&machine.operating_system);
    info.architecture.clone_from(&machine.architecture);
    if machine.swap_bytes > 0 {
        info.swap = Some(NodeSwapStatus { capacity: Some(machine.swap_bytes) });
    }
    if inputs.settings.report_user_namespace {
        info.running_in_user_namespace = Some(machine.in_user_namespace);
    }
    is_rebooted
}

/// A node that does not say how much it has of what every pod needs cannot be scheduled to.
fn missing_capacity(capacity: &resources::ResourceList, settings: &NodeSettings) -> Option<NotReadyCause> {
    let storage = settings.local_storage_isolation.then_some("ephemeral-storage");
    let required = ["cpu", "memory", "pods"].into_iter().chain(storage);
    let missing: Vec<_> = required.filter(|name| !capacity.contains_key(*name)).collect();
    let message = || format!("missing node capacity for resources: {}", missing.join(", "));
    (!missing.is_empty()).then(|| NotReadyCause::known(message()))
}

fn non_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Whether anything but heartbeats differs.
pub fn has_changed(old: &Node, new: &Node) -> bool {
    let status = |node: &Node| {
        let status = node.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default();
        conditions.iter_mut().for_each(|condition| condition.last_heartbeat_time = None);
        conditions.sort_by(|one: &NodeCondition, other| one.type_.cmp(&other.type_));
        NodeStatus {
            conditions: Some(conditions),
            addresses: status.addresses.and_then(non_empty),
            images: status.images.and_then(non_empty),
            runtime_handlers: status.runtime_handlers.and_then(non_empty),
            declared_features: status.declared_features.and_then(non_empty),
            volumes_attached: status.volumes_attached.and_then(non_empty),
            volumes_in_use: status.volumes_in_use.and_then(non_empty),
            ..status
        }
    };
    let map = |map: &Option<std::collections::BTreeMap<String, String>>| map.clone().unwrap_or_default();
    map(&old.metadata.labels) != map(&new.metadata.labels)
        || map(&old.metadata.annotations) != map(&new.metadata.annotations)
        || status(old) != status(new)
}

/// Whether to send a status: at once when it changed, else when the report interval has passed. `since_report` is none
/// before the first report.
pub fn should_report(is_changed: bool, since_report: Option<Duration>, interval: Duration) -> bool {
    is_changed || since_report.is_none_or(|since| since >= interval)
}

/// How long after this report the next one is due if nothing changes. After a change or the first report it is half to
/// one and a half of the frequency, by `random` of 0 to 1, so that a fleet that changed together does not report together
/// for ever; from then on it is the frequency itself.
pub fn report_interval(is_changed: bool, is_first: bool, frequency: Duration, random: f64) -> Duration {
    if is_changed || is_first { frequency.mul_f64(0.5 + random.clamp(0.0, 1.0)) } else { frequency }
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use rstest::rstest;

    use super::super::runtime_state::NetworkState;
    use super::*;
    use crate::runtime::cri;
    use crate::sys::machine::{HugePages, MachineFacts};
    use crate::sys::network::{DefaultRoute, Family, Interface};

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// Owned inputs that a test can bend.
    pub struct World {
        pub settings: NodeSettings,
        pub facts: NodeFacts,
        pub network: NetworkSnapshot,
        pub runtime: RuntimeSnapshot,
        pub relist_age: Option<Duration>,
        pub inventory: Option<Inventory>,
        pub contributions: Contributions,
        pub is_starting: bool,
    }

    impl World {
        pub fn healthy() -> Self {
            let machine = MachineFacts {
                cpus: 2,
                memory_bytes: 8_127_544 * 1024,
                swap_bytes: 1 << 30,
                huge_pages: vec![HugePages { page_bytes: 2 << 20, pages: 0 }],
                machine_id: "mid".into(),
                system_uuid: "suid".into(),
                boot_id: "boot-1".into(),
                kernel_version: "6.1.0".into(),
                os_image: "Debian GNU/Linux 12 (bookworm)".into(),
                operating_system: "linux".into(),
                architecture: "amd64".into(),
                in_user_namespace: false,
            };
            let interface = Interface {
                name: "eth0".into(),
                up: true,
                addresses: vec!["10.0.0.5".parse().unwrap()],
                ..Interface::default()
            };
            let version = cri::VersionResponse {
                runtime_name: "containerd".into(),
                runtime_version: "2.1.4".into(),
                ..Default::default()
            };
            let image = cri::Image { size: 5, repo_tags: vec!["pause:3.10".into()], ..Default::default() };
            World {
                settings: NodeSettings::named("node-a"),
                facts: NodeFacts { machine, ephemeral_storage_bytes: Some(100_000_000_000) },
                network: NetworkSnapshot {
                    interfaces: vec![interface],
                    default_routes: Some(vec![DefaultRoute { interface: "eth0".into(), family: Family::V4 }]),
                },
                runtime: RuntimeSnapshot {
                    since_ready: Some(Duration::ZERO),
                    network: NetworkState::Ready,
                    handlers: Some(Vec::new()),
                    ..RuntimeSnapshot::default()
                },
                relist_age: Some(Duration::ZERO),
                inventory: Some(Inventory::of(&version, vec![image], 50)),
                contributions: Contributions::default(),
                is_starting: false,
            }
        }

        pub fn inputs(&self) -> StatusInputs<'_> {
            StatusInputs {
                settings: &self.settings,
                facts: &self.facts,
                network: &self.network,
                resolved: &[],
                runtime: &self.runtime,
                relist_age: self.relist_age,
                inventory: self.inventory.as_ref(),
                contributions: &self.contributions,
                is_starting: self.is_starting,
            }
        }

        pub fn status_of(&self, existing: &Node, seconds: i64) -> StatusOutcome {
            node_status(existing, &self.inputs(), at(seconds))
        }
    }

    fn ready_message(node: &Node) -> (String, String) {
        let conditions = node.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let ready = conditions.last().unwrap();
        assert_eq!(ready.type_, "Ready");
        (ready.status.clone(), ready.message.clone().unwrap())
    }

    fn reasons(outcome: &StatusOutcome) -> Vec<&'static str> {
        outcome.events.iter().map(|event| event.reason).collect()
    }

    #[test]
    fn a_healthy_nodes_status() {
        let mut world = World::healthy();
        world.runtime.handlers =
            Some(vec![k8s_openapi::api::core::v1::NodeRuntimeHandler { name: Some(String::new()), features: None }]);
        let outcome = world.status_of(&Node::default(), 0);
        assert_eq!(outcome.problem, None);
        assert_eq!(reasons(&outcome), ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
        insta::assert_json_snapshot!(outcome.node.status, @r#"
        {
          "addresses": [
            {
              "address": "10.0.0.5",
              "type": "InternalIP"
            },
            {
              "address": "node-a",
              "type": "Hostname"
            }
          ],
          "allocatable": {
            "cpu": "2",
            "ephemeral-storage": "100G",
            "hugepages-2Mi": "0",
            "memory": "8127544Ki",
            "pods": "110"
          },
          "capacity": {
            "cpu": "2",
            "ephemeral-storage": "100G",
            "hugepages-2Mi": "0",
            "memory": "8127544Ki",
            "pods": "110"
          },
          "conditions": [
            {
              "lastHeartbeatTime": "2027-01-15T08:00:00Z",
              "lastTransitionTime": "2027-01-15T08:00:00Z",
              "message": "kubelet has sufficient memory available",
              "reason": "KubeletHasSufficientMemory",
              "status": "False",
              "type": "MemoryPressure"
            },
            {
              "lastHeartbeatTime": "2027-01-15T08:00:00Z",
              "lastTransitionTime": "2027-01-15T08:00:00Z",
              "message": "kubelet has no disk pressure",
              "reason": "KubeletHasNoDiskPressure",
              "status": "False",
              "type": "DiskPressure"
            },
            {
              "lastHeartbeatTime": "2027-01-15T08:00:00Z",
              "lastTransitionTime": "2027-01-15T08:00:00Z",
              "message": "kubelet has sufficient PID available",
              "reason": "KubeletHasSufficientPID",
              "status": "False",
              "type": "PIDPressure"
            },
            {
              "lastHeartbeatTime": "2027-01-15T08:00:00Z",
              "lastTransitionTime": "2027-01-15T08:00:00Z",
              "message": "kubelet is posting ready status",
              "reason": "KubeletReady",
              "status": "True",
              "type": "Ready"
            }
          ],
          "daemonEndpoints": {
            "kubeletEndpoint": {
              "Port": 10250
            }
          },
          "images": [
            {
              "names": [
                "pause:3.10"
              ],
              "sizeBytes": 5
            }
          ],
          "nodeInfo": {
            "architecture": "amd64",
            "bootID": "boot-1",
            "containerRuntimeVersion": "containerd://2.1.4",
            "kernelVersion": "6.1.0",
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.37.2",
            "machineID": "mid",
            "operatingSystem": "linux",
            "osImage": "Debian GNU/Linux 12 (bookworm)",
            "runningInUserNamespace": false,
            "swap": {
              "capacity": 1073741824
            },
            "systemUUID": "suid"
          },
          "runtimeHandlers": [
            {
              "name": ""
            }
          ]
        }
        "#);
    }

    #[test]
    fn the_same_world_later_changes_only_heartbeats() {
        let world = World::healthy();
        let first = world.status_of(&Node::default(), 0).node;
        let second = world.status_of(&first, 300);
        assert!(!has_changed(&first, &second.node));
        assert_ne!(first, second.node);
        assert_eq!(second.events, []);
        let heartbeat = |node: &Node| node.status.clone().unwrap().conditions.unwrap()[3].last_heartbeat_time.clone();
        assert_eq!(heartbeat(&second.node), Some(crate::model::clock::api_time(at(300))));
    }

    #[test]
    fn ready_tells_every_cause() {
        let mut world = World::healthy();
        world.runtime = RuntimeSnapshot {
            since_ready: Some(Duration::from_secs(31)),
            runtime_error: Some("container runtime not ready: RuntimeReady=false reason:R message:M".into()),
            network: NetworkState::NotReady("container runtime network not ready: X".into()),
            ..RuntimeSnapshot::default()
        };
        world.contributions.storage = Some(NotReadyCause::pending("CSINode is not yet initialized"));
        world.contributions.shutdown = Some("node is shutting down".into());
        world.facts.ephemeral_storage_bytes = None;
        let (status, message) = ready_message(&world.status_of(&Node::default(), 0).node);
        assert_eq!(status, "False");
        assert_eq!(
            message,
            "[container runtime is down, \
             container runtime not ready: RuntimeReady=false reason:R message:M, \
             container runtime network not ready: X, CSINode is not yet initialized, node is shutting down, \
             missing node capacity for resources: ephemeral-storage]"
        );
    }

    #[test]
    fn a_restart_keeps_ready_and_what_the_runtime_has() {
        let mut world = World::healthy();
        let before = world.status_of(&Node::default(), 0).node;
        world.runtime = RuntimeSnapshot::default();
        world.relist_age = None;
        world.inventory = None;
        world.contributions.storage = Some(NotReadyCause::pending("CSINode is not yet initialized"));
        world.is_starting = true;
        let after = world.status_of(&before, 60);
        assert!(!has_changed(&before, &after.node), "{:#?}", after.node.status);
        assert_eq!(after.events, []);

        world.facts.machine.boot_id = "boot-2".into();
        let after = world.status_of(&before, 60);
        assert_eq!(reasons(&after), ["Rebooted", "NodeNotReady"]);
        assert_eq!(after.events[0].message, "Node node-a has been rebooted, boot id: boot-2");

        world.facts.machine.boot_id = "boot-1".into();
        world.is_starting = false;
        let (status, _) = ready_message(&world.status_of(&before, 60).node);
        assert_eq!(status, "False");
    }

    #[test]
    fn leaves_what_others_wrote() {
        let world = World::healthy();
        let mut existing = world.status_of(&Node::default(), 0).node;
        existing.metadata.labels.as_mut().unwrap().insert("kubernetes.io/os".into(), "plan9".into());
        existing.metadata.labels.as_mut().unwrap().insert("mine".into(), "yes".into());
        let status = existing.status.as_mut().unwrap();
        status.volumes_in_use = Some(vec!["v".into()]);
        status.capacity.as_mut().unwrap().insert("example.com/dongle".into(), Quantity("4".into()));
        // The API server gives memory back in another spelling.
        status.capacity.as_mut().unwrap().insert("memory".into(), Quantity("8322605056".into()));
        let outcome = world.status_of(&existing, 5);
        let labels = outcome.node.metadata.labels.clone().unwrap();
        assert_eq!((labels["kubernetes.io/os"].as_str(), labels["mine"].as_str()), ("linux", "yes"));
        assert!(has_changed(&existing, &outcome.node));
        let status = outcome.node.status.unwrap();
        assert_eq!(status.volumes_in_use, Some(vec!["v".to_owned()]));
        assert_eq!(status.capacity.as_ref().unwrap()["memory"].0, "8322605056");
        assert_eq!(status.allocatable.unwrap()["example.com/dongle"].0, "4");
    }

    #[test]
    fn an_address_that_cannot_be_told_stays_and_is_reported() {
        let mut world = World::healthy();
        let before = world.status_of(&Node::default(), 0).node;
        world.network = NetworkSnapshot { default_routes: Some(Vec::new()), ..NetworkSnapshot::default() };
        let outcome = world.status_of(&before, 1);
        assert!(outcome.problem.is_some());
        assert!(!has_changed(&before, &outcome.node));
    }

    #[rstest]
    #[case::changed(true, Some(0), true)]
    #[case::first(false, None, true)]
    #[case::too_early(false, Some(299), false)]
    #[case::due(false, Some(300), true)]
    fn reports_changes_at_once_and_the_rest_by_interval(
        #[case] is_changed: bool,
        #[case] since_report: Option<u64>,
        #[case] expected: bool,
    ) {
        let since_report = since_report.map(Duration::from_secs);
        assert_eq!(should_report(is_changed, since_report, Duration::from_secs(300)), expected);
    }

    #[rstest]
    #[case(true, false, 0.0, 150)]
    #[case(true, false, 1.0, 450)]
    #[case(false, true, 0.5, 300)]
    #[case(false, false, 0.9, 300)]
    fn spreads_reports(#[case] is_changed: bool, #[case] is_first: bool, #[case] random: f64, #[case] expected: u64) {
        let interval = report_interval(is_changed, is_first, Duration::from_secs(300), random);
        assert_eq!(interval, Duration::from_secs(expected));
    }

    proptest::proptest! {
        #[test]
        fn status_is_idempotent(
            memory in proptest::bool::ANY, disk in proptest::bool::ANY, pid in proptest::bool::ANY,
            network_ready in proptest::bool::ANY, is_starting in proptest::bool::ANY, swap in 0i64..2,
        ) {
            let mut world = World::healthy();
            world.contributions.pressures = Pressures { memory, disk, pid };
            world.is_starting = is_starting;
            world.facts.machine.swap_bytes = swap;
            if !network_ready {
                world.runtime.network = NetworkState::NotReady("no network".into());
            }
            let once = world.status_of(&Node::default(), 0).node;
            let twice = world.status_of(&once, 7);
            proptest::prop_assert!(!has_changed(&once, &twice.node));
            proptest::prop_assert!(twice.events.is_empty());
        }
    }
}
