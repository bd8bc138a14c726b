//! The configuration and the machine, in the words of each module.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tracing::warn;

use super::kernel_settings::Otherwise;
use crate::cgroup::values::PodCgroupSettings;
use crate::cgroup::{CgroupSettings, Driver, Enforcement, Version};
use crate::config::{FeatureGates, Gate, KubeletConfiguration, Settings};
use crate::image::{ImageAccess, ImageSettings, NodeConfigFiles, VerificationPolicy};
use crate::kube::objects::ChangeDetection;
use crate::model::SignedDuration;
use crate::model::container_resources::{LinuxResourceSettings, MemoryQos, MemoryReservation};
use crate::model::go_duration::GoDuration;
use crate::model::quantity::{self, Amount};
use crate::model::resources::{CPU, ResourceTotals};
use crate::node::resources::{DeviceResources, EvictionReservation, Reservations};
use crate::node::{self, NodeFacts};
use crate::pod::plan::{BackoffPolicy, RestartRules};
use crate::runtime::log_rotation::RotationSettings;
use crate::runtime::translate;
use crate::sys::cpu_list;
use crate::sys::machine::MachineReader;

pub(super) fn duration(duration: GoDuration) -> Duration {
    duration.to_std()
}

fn amounts(field: &str, list: &BTreeMap<String, String>) -> anyhow::Result<BTreeMap<String, Amount>> {
    list.iter()
        .map(|(name, text)| {
            let amount = quantity::parse(text).with_context(|| format!("{field}.{name}: {text:?}"))?;
            Ok((name.clone(), amount))
        })
        .collect()
}

fn totals(amounts: &BTreeMap<String, Amount>) -> ResourceTotals {
    let list: BTreeMap<String, Quantity> =
        amounts.iter().map(|(name, amount)| (name.clone(), quantity::milli_decimal(amount.milli_value()))).collect();
    ResourceTotals::of_list(&list)
}

/// What the node offers to pods, as its status will say.
pub(super) fn allocatable(settings: &node::NodeSettings, facts: &NodeFacts) -> BTreeMap<String, Quantity> {
    let (mut capacity, mut allocatable) = (BTreeMap::new(), BTreeMap::new());
    node::resources::apply(&mut capacity, &mut allocatable, settings, facts, &DeviceResources::default());
    allocatable
}

/// What pods cannot have. A set of reserved CPUs takes the place of every other reservation of CPU.
pub(super) fn reservations(
    configuration: &KubeletConfiguration,
    machine: &MachineReader,
) -> anyhow::Result<Reservations> {
    let mut reservations = Reservations {
        system: amounts("systemReserved", &configuration.system_reserved)?,
        kube: amounts("kubeReserved", &configuration.kube_reserved)?,
        eviction: EvictionReservation::of(&configuration.eviction_hard)?,
    };
    if !configuration.reserved_system_cpus.is_empty() {
        let online = machine.online_cpus().context("reservedSystemCPUs: reading which processors are online")?;
        let size = reserved_cpus(&configuration.reserved_system_cpus, &online)?;
        reservations.kube.remove(CPU);
        reservations.system.insert(CPU.to_owned(), Amount::from_units(size));
    }
    Ok(reservations)
}

/// How many CPUs a set reserves.
fn reserved_cpus(reserved: &str, online: &str) -> anyhow::Result<i64> {
    let set = |text| cpu_list::parse(text).with_context(|| format!("{text:?} is no list of CPUs"));
    let (wanted, present) = (set(reserved)?, set(online)?);
    anyhow::ensure!(wanted.is_subset(&present), "reserved-cpus: {reserved} is not a subset of online-cpus: {online}");
    Ok(i64::try_from(wanted.len())?)
}

/// Refuses reservations of more than the machine has, before anything is enforced.
pub(super) fn check_reservations(reservations: &Reservations, facts: &NodeFacts) -> anyhow::Result<()> {
    let excess = node::resources::excessive_reservations(reservations, facts);
    anyhow::ensure!(excess.is_empty(), "invalid Node Allocatable configuration. {}", excess.join(" "));
    Ok(())
}

/// What the node declares to be able to do (`status.declaredFeatures`).
fn declared_features(gates: &FeatureGates) -> Vec<String> {
    let declared = [Gate::RestartAllContainersOnContainerExits];
    declared.into_iter().filter(|gate| gates.enabled(*gate)).map(|gate| gate.name().to_owned()).collect()
}

/// The Node object's side.
pub(super) fn node(settings: &Settings, reservations: &Reservations) -> anyhow::Result<node::NodeSettings> {
    let configuration = &settings.configuration;
    let name = node::node_name(settings.flags.hostname_override.as_deref()).context("the node's name")?;
    Ok(node::NodeSettings {
        node_ips: settings.flags.node_ip.clone(),
        node_labels: settings.flags.node_labels.clone(),
        register_with_taints: configuration.register_with_taints.clone(),
        register_node: configuration.register_node,
        external_cloud_provider: settings.flags.cloud_provider == "external",
        controller_attach_detach: configuration.enable_controller_attach_detach,
        provider_id: configuration.provider_id.clone(),
        max_pods: configuration.max_pods,
        pods_per_core: configuration.pods_per_core,
        reservations: reservations.clone(),
        local_storage_isolation: configuration.local_storage_capacity_isolation,
        status_max_images: configuration.node_status_max_images,
        port: configuration.port,
        declared_features: declared_features(&settings.gates),
        report_user_namespace: settings.gates.enabled(Gate::KubeletInUserNamespace),
        status_update_frequency: duration(configuration.node_status_update_frequency),
        status_report_frequency: duration(configuration.node_status_report_frequency),
        lease_duration_seconds: configuration.node_lease_duration_seconds,
        ..node::NodeSettings::named(name)
    })
}

fn memory_qos(settings: &Settings, version: Version) -> Option<MemoryQos> {
    if version != Version::V2 || !settings.gates.enabled(Gate::MemoryQoS) {
        return None;
    }
    Some(MemoryQos {
        reservation: match settings.configuration.memory_reservation_policy.as_str() {
            "TieredReservation" => MemoryReservation::Tiered,
            _ => MemoryReservation::None,
        },
        throttling_factor: settings.configuration.memory_throttling_factor,
        allocatable_memory: 0,
    })
}

/// The cgroup tree's side.
pub(super) fn cgroups(
    settings: &Settings,
    driver: Driver,
    version: Version,
    reservations: &Reservations,
) -> CgroupSettings {
    let configuration = &settings.configuration;
    CgroupSettings {
        driver,
        cgroups_per_qos: configuration.cgroups_per_qos,
        cgroup_root: configuration.cgroup_root.clone(),
        enforce: Enforcement::from_names(configuration.enforce_node_allocatable.iter().map(String::as_str)),
        system_reserved_cgroup: configuration.system_reserved_cgroup.clone(),
        kube_reserved_cgroup: configuration.kube_reserved_cgroup.clone(),
        system_reserved: totals(&reservations.system),
        kube_reserved: totals(&reservations.kube),
        pods: PodCgroupSettings {
            cpu_cfs_quota: configuration.cpu_cfs_quota,
            cpu_period_us: microseconds(configuration.cpu_cfs_quota_period),
            pids_limit: configuration.pod_pids_limit,
            memory_qos: memory_qos(settings, version),
            page_size: page_size(),
        },
    }
}

fn microseconds(duration: GoDuration) -> i64 {
    duration.as_nanos() / 1000
}

fn page_size() -> i64 {
    i64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// The translation's side.
pub(super) fn translation(
    settings: &Settings,
    facts: &NodeFacts,
    version: Version,
    allocatable: BTreeMap<String, Quantity>,
) -> translate::NodeSettings {
    let configuration = &settings.configuration;
    let machine = &facts.machine;
    let huge_page = |bytes: i64| match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}GB", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    };
    translate::NodeSettings {
        root_dir: settings.flags.root_dir.display().to_string(),
        pod_logs_dir: configuration.pod_logs_dir.clone(),
        cluster_domain: configuration.cluster_domain.clone(),
        cluster_dns: cluster_dns(&configuration.cluster_dns),
        node_ips: settings.flags.node_ip.clone(),
        seccomp_default: configuration.seccomp_default || settings.flags.seccomp_default,
        resources: LinuxResourceSettings {
            cgroup_v2: version == Version::V2,
            cpu_cfs_quota: configuration.cpu_cfs_quota,
            cpu_period_us: microseconds(configuration.cpu_cfs_quota_period),
            memory_capacity: machine.memory_bytes,
            swap_capacity: machine.swap_bytes,
            swap_controller: is_swap_controlled(version),
            limited_swap: configuration.memory_swap.swap_behavior == "LimitedSwap",
            single_process_oom_kill: configuration.single_process_oom_kill.unwrap_or(version == Version::V1),
            huge_page_sizes: machine.huge_pages.iter().map(|pool| huge_page(pool.page_bytes)).collect(),
            memory_qos: memory_qos(settings, version),
            page_size: page_size(),
        },
        allocatable,
        thermal_throttle_paths: thermal_throttle_paths(),
        is_selinux_enabled: Path::new("/sys/fs/selinux/enforce").exists(),
        container_stop_signals: settings.gates.enabled(Gate::ContainerStopSignals),
        env_files: settings.gates.enabled(Gate::EnvFiles),
        default_pod_sysctls: configuration.default_pod_sysctls.clone(),
    }
}

/// What to do about settings of the kernel that are not a node's.
pub(super) fn kernel_settings(settings: &Settings, facts: &NodeFacts) -> Otherwise {
    let is_tolerant = facts.machine.in_user_namespace && settings.gates.enabled(Gate::KubeletInUserNamespace);
    match (settings.configuration.protect_kernel_defaults, is_tolerant) {
        (true, _) => Otherwise::Refuse,
        (false, true) => Otherwise::TryToSet,
        (false, false) => Otherwise::Set,
    }
}

/// The addresses of `clusterDNS`. As with the kubelet one that is no address is told of and left out.
fn cluster_dns(entries: &[String]) -> Vec<IpAddr> {
    let address = |entry: &String| match entry.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            warn!(entry, "clusterDNS holds what is no IP address; it is left out");
            None
        }
    };
    entries.iter().filter_map(address).collect()
}

fn is_swap_controlled(version: Version) -> bool {
    match version {
        Version::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        Version::V2 => {
            // The root has no such file; the agent's own cgroup has, if swap is accounted for.
            let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
            Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).join("memory.swap.max").exists()
        }
    }
}

fn thermal_throttle_paths() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut paths: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("cpu"))
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

/// How long containers that crash wait. What the configuration says of the longest delay comes before the gate that shortens
/// both.
pub(super) fn crash_loop_backoff(gates: &FeatureGates, configured: Option<GoDuration>) -> BackoffPolicy {
    let reduced = gates.enabled(Gate::ReduceDefaultCrashLoopBackOffDecay);
    let policy = if reduced { BackoffPolicy::reduced() } else { BackoffPolicy::default() };
    match configured.filter(|max| !max.is_zero()) {
        Some(max) => policy.with_max(SignedDuration::from_nanos(max.as_nanos())),
        None => policy,
    }
}

/// What containers' own restart policies and rules may bring about.
pub(super) fn restart_rules(gates: &FeatureGates) -> RestartRules {
    match (gates.enabled(Gate::ContainerRestartRules), gates.enabled(Gate::RestartAllContainersOnContainerExits)) {
        (false, _) => RestartRules::Ignored,
        (true, false) => RestartRules::OwnContainer,
        (true, true) => RestartRules::AllContainers,
    }
}

/// The image manager's side.
pub(super) fn images(settings: &Settings) -> ImageSettings {
    let configuration = &settings.configuration;
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let working_dir = std::env::current_dir().ok();
    ImageSettings {
        serialize: configuration.serialize_image_pulls,
        max_parallel: configuration.max_parallel_image_pulls.and_then(|max| u32::try_from(max).ok()),
        pull_qps: f64::from(configuration.registry_pull_qps),
        pull_burst: u32::try_from(configuration.registry_burst).unwrap_or(0),
        node_config: NodeConfigFiles::new(&settings.flags.root_dir, working_dir.as_deref(), home.as_deref()),
    }
}

/// The records of pulled images; none where every pod may use every image on the node.
pub(super) fn image_access(settings: &Settings) -> anyhow::Result<Option<ImageAccess>> {
    if !settings.gates.enabled(Gate::KubeletEnsureSecretPulledImages) {
        return Ok(None);
    }
    let configuration = &settings.configuration;
    let policy = configuration.image_pull_credentials_verification_policy.as_str();
    let policy = VerificationPolicy::parse(policy, &configuration.preloaded_images_verification_allowlist)
        .with_context(|| format!("imagePullCredentialsVerificationPolicy: {policy:?}"))?;
    let access = ImageAccess::open(&settings.flags.root_dir, policy).context("the records of pulled images")?;
    Ok(Some(access))
}

/// How logs are rotated; none where they are not.
pub(super) fn log_rotation(configuration: &KubeletConfiguration) -> anyhow::Result<Option<RotationSettings>> {
    let size = &configuration.container_log_max_size;
    let size = quantity::parse(size).with_context(|| format!("containerLogMaxSize: {size:?}"))?.value();
    let count = |number: i32| usize::try_from(number).unwrap_or(0);
    // A negative size turns rotation off.
    Ok(u64::try_from(size).ok().map(|max_size| RotationSettings {
        root: configuration.pod_logs_dir.clone().into(),
        max_size,
        max_files: count(configuration.container_log_max_files),
        workers: count(configuration.container_log_max_workers),
        interval: duration(configuration.container_log_monitor_interval),
    }))
}

/// How many user ids a pod with a user namespace of its own gets.
pub(super) fn ids_per_pod(configuration: &KubeletConfiguration) -> u32 {
    let configured = configuration.user_namespaces.as_ref().and_then(|users| users.ids_per_pod);
    configured.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(65_536)
}

/// How changes of ConfigMaps and Secrets are noticed.
pub(super) fn change_detection(configuration: &KubeletConfiguration) -> ChangeDetection {
    match configuration.config_map_and_secret_change_detection_strategy.as_str() {
        "Get" => ChangeDetection::Get,
        "Cache" => ChangeDetection::Cache { ttl: Duration::from_secs(60) },
        _ => ChangeDetection::Watch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_no_dns_server() {
        let entries = ["10.96.0.10", "kube-dns", "", "fd00::a"].map(str::to_owned);
        assert_eq!(cluster_dns(&entries), [IpAddr::from([10, 96, 0, 10]), "fd00::a".parse().unwrap()]);
    }

    #[test]
    fn reserved_cpus_are_counted_and_must_be_there() {
        assert_eq!(reserved_cpus("0,2-3", "0-3").unwrap(), 3);
        let error = reserved_cpus("0-4", "0-3").unwrap_err().to_string();
        assert_eq!(error, "reserved-cpus: 0-4 is not a subset of online-cpus: 0-3");
    }

    #[test]
    fn a_set_of_cpus_takes_the_place_of_other_reservations_of_cpu() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/devices/system/cpu");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("online"), "0-7\n").unwrap();
        let list = |cpu: &str| [("cpu".to_owned(), cpu.to_owned()), ("memory".to_owned(), "1Gi".to_owned())].into();
        let mut configuration = KubeletConfiguration {
            reserved_system_cpus: "0-1".to_owned(),
            system_reserved: list("5"),
            kube_reserved: list("1"),
            ..KubeletConfiguration::default()
        };
        let machine = MachineReader::below(root.path());
        let reservations = self::reservations(&configuration, &machine).unwrap();
        assert_eq!(reservations.system["cpu"], Amount::from_units(2));
        assert!(!reservations.kube.contains_key("cpu") && reservations.kube.contains_key("memory"));
        configuration.reserved_system_cpus = String::new();
        let reservations = self::reservations(&configuration, &machine).unwrap();
        assert_eq!(reservations.system["cpu"], Amount::from_units(5));
    }

    #[test]
    fn more_cannot_be_reserved_than_there_is() {
        let mut facts = NodeFacts::default();
        facts.machine.cpus = 2;
        facts.machine.memory_bytes = 1 << 30;
        let mut reservations = Reservations::default();
        reservations.system.insert("cpu".to_owned(), Amount::from_units(2));
        check_reservations(&reservations, &facts).unwrap();
        reservations.kube.insert("cpu".to_owned(), Amount::from_milli(100));
        assert_eq!(
            check_reservations(&reservations, &facts).unwrap_err().to_string(),
            "invalid Node Allocatable configuration. Resource \"cpu\" has a reservation of 2100m but capacity of 2. Expected \
             capacity >= reservation."
        );
    }

    #[test]
    fn gates_say_what_restarts_a_container_and_when() {
        let gates = |set: &[(&str, bool)]| {
            FeatureGates::from_map(&set.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()).unwrap()
        };
        let all = ("RestartAllContainersOnContainerExits", false);
        let rules = |set: &[(&str, bool)]| restart_rules(&gates(set));
        assert_eq!(rules(&[]), RestartRules::AllContainers);
        assert_eq!(rules(&[all]), RestartRules::OwnContainer);
        assert_eq!(rules(&[all, ("ContainerRestartRules", false)]), RestartRules::Ignored);

        let seconds = |set: &[(&str, bool)], configured| {
            let policy = crash_loop_backoff(&gates(set), configured);
            (policy.initial.as_secs(), policy.max.as_secs())
        };
        let (reduced, configured) = ([("ReduceDefaultCrashLoopBackOffDecay", true)], Some(GoDuration::from_mins(5)));
        assert_eq!(seconds(&[], configured), (10, 300));
        assert_eq!(seconds(&reduced, configured), (1, 300), "what the configuration says of the longest delay stands");
        assert_eq!(seconds(&reduced, None), (1, 60));
    }
}
