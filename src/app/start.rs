//! Brings the agent up: checks the machine, speaks to the runtime, makes every module, starts every long task.
//!
//! | task | input | output |
//! |---|---|---|
//! | client certificate, serving certificate, serving addresses | see [`super::certificates`] | certificates |
//! | events | recorded events | Event objects |
//! | objects | registered pods | single-object watches |
//! | services | watch of services | the service cache |
//! | node | runtime state, the Node | Node, lease, status |
//! | pod source | watch of this node's pods | pod events |
//! | observer | runtime events, relists | hints |
//! | facts | the Node, the runtime's network | what plans, sandboxes and mirrors need of them |
//! | probes | what plans want probed | results |
//! | log rotation | the logs of the containers that run | large ones moved aside |
//! | static pods, static pods by URL | manifests | static pods |
//! | mirrors | static pods, their mirrors in the API | mirrors created and deleted |
//! | admission | the Node, what is said about it | what pods are judged by |
//! | pods | what the sources tell, hints, object changes | workers |
//! | statuses | workers' statuses | status patches, deletions |
//! | qos | the running pods' requests | values of the QoS cgroups |
//! | node allocatable | the pods' limits, if they were refused | the same again |
//! | system cgroup | the root cgroup | its processes moved to `systemCgroups` |
//! | health | connections | `ok` |
//! | https, read-only | connections | the kubelet's API |
//! | figures | scrapes of what takes long to read | sizes of writable layers |
//! | watchdog | the health check | word to systemd that the agent is well |

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{NodeRuntimeHandler, NodeRuntimeHandlerFeatures};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::adapters::{Events, Objects, Pods, Runtime, Secrets};
use super::allocatable::Allocatable;
use super::logging::Verbosity;
use super::supervisor::Supervisor;
use super::{
    admission, certificates, health, introspection, kernel_settings, node_settings, process, static_pods, stats,
    system_cgroups, warnings,
};
use crate::cgroup::{self, CgroupManager, Driver, Hierarchy};
use crate::config::{Gate, Settings};
use crate::image::ImageManager;
use crate::kube::certificates::CertificateHandle;
use crate::kube::client::{ApiServer, ClientOptions};
use crate::kube::events::{self, EventRecorder};
use crate::kube::objects::{ApiObjects, ObjectCache};
use crate::kube::pods::PodSource;
use crate::kube::services::ServiceCache;
use crate::kube::tokens::TokenManager;
use crate::metrics::kubelet as metrics;
use crate::model::resources::ResourceTotals;
use crate::node::{NodeClients, NodeEvents, NodeFacts, NodeHandle, NodeManager, NodeParts, RuntimeStateHandle};
use crate::pod::executor::{Executor, ExecutorParts};
use crate::pod::manager::{PodManager, PodManagerInputs, PodManagerParts};
use crate::pod::mirror::{MirrorKeeper, NodeOwner};
use crate::pod::plan;
use crate::pod::source::Sources;
use crate::pod::status_writer::StatusWriter;
use crate::probe::{ProbeFeatures, ProbeManager, ProbeManagerParts};
use crate::runtime::client::{ClientSettings, RuntimeClient};
use crate::runtime::cri;
use crate::runtime::log_rotation::LogRotator;
use crate::runtime::observer::{Observer, ObserverSettings};
use crate::server::{ContainerInputs, Introspection, Server, ServerInputs};
use crate::stats::StatsCollector;
use crate::sys::machine::MachineReader;
use crate::sys::mount::KernelMounts;
use crate::volume::VolumeManager;

/// Starts and stops asked of the runtime at the same time, by processor: more only makes them wait inside the runtime.
const CALLS_PER_PROCESSOR: usize = 2;

/// The long tasks: each tells its name and how it ended.
pub(super) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Why a task ended that must not end.
pub(super) fn cause(ended: Result<(&'static str, anyhow::Result<()>), JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("the task {name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("the task {name}")),
        Err(error) => anyhow::Error::new(error).context("a task ended abnormally"),
    }
}

/// The API server's side of the agent.
struct Api {
    client: ::kube::Client,
    heartbeat: ::kube::Client,
    objects: ObjectCache,
    tokens: TokenManager,
    services: ServiceCache,
}

/// Starts the agent on a host with these cgroups. Waits for the runtime; everything else that is away is waited for by its own task.
pub(super) async fn start(
    settings: &Settings,
    hierarchy: Hierarchy,
    supervisor: &Supervisor,
    verbosity: Option<Verbosity>,
    cancel: &CancellationToken,
) -> anyhow::Result<Tasks> {
    let configuration = &settings.configuration;
    let mut tasks = Tasks::new();
    check_machine(settings)?;
    let version = hierarchy.version();
    let reservations = node_settings::reservations(configuration, &MachineReader::below("/"))?;
    let node_config = node_settings::node(settings, &reservations)?;
    let node_name = node_config.node_name.clone();

    let (server, client_certificate) = certificates::api_server(&mut tasks, settings, &node_name, cancel).await?;
    process::raise_open_files(configuration.max_open_files);
    cgroup::oom::protect_self(Path::new("/proc"), configuration.oom_score_adj);

    let mounts = Arc::new(KernelMounts::default());
    prepare_root(&settings.flags.root_dir)?;
    let facts = NodeFacts::read(&MachineReader::below("/"), &settings.flags.root_dir).context("reading the machine")?;
    node_settings::check_reservations(&reservations, &facts)?;
    kernel_settings::settle(Path::new("/proc/sys"), node_settings::kernel_settings(settings, &facts))?;

    let runtime = RuntimeClient::new(&ClientSettings {
        runtime_endpoint: configuration.container_runtime_endpoint.clone(),
        image_endpoint: Some(configuration.image_service_endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
        request_timeout: node_settings::duration(configuration.runtime_request_timeout),
    })?;
    let observer = Observer::new(runtime.clone(), ObserverSettings::default());
    if let Some(address) = health::address(&settings.configuration)? {
        let serving = health::serve(address, health::sync_loop_check(observer.clone()), cancel.child_token());
        spawn(&mut tasks, "health", serving);
    }
    let runtime_name = wait_for_runtime(&runtime).await;
    let driver = cgroup_driver(&runtime, &configuration.cgroup_driver).await?;

    let (mut recorder, mut event_task) = (EventRecorder::discarding(), None);
    let api = match &server {
        Some(server) => {
            let options = |qps: i32, burst: i32| ClientOptions {
                qps: f64::from(qps),
                burst: u32::try_from(burst).unwrap_or(0),
                ..ClientOptions::default()
            };
            let client = server.client(&options(configuration.kube_api_qps, configuration.kube_api_burst))?;
            let events = server.client(&options(configuration.event_record_qps, configuration.event_burst))?;
            // A limit of their own: during an outage the retries of many watches must not use up that of pod statuses.
            let watches = server.client(&options(configuration.kube_api_qps, configuration.kube_api_burst))?;
            let (sender, task) = EventRecorder::new(events, &node_name);
            (recorder, event_task) = (sender, Some(task));
            Some(Api {
                heartbeat: server.client(&ClientOptions::heartbeat(node_config.heartbeat_timeout()))?,
                objects: ObjectCache::new(watches, node_settings::change_detection(configuration)),
                tokens: TokenManager::new(client.clone()),
                services: ServiceCache::new(client.clone()),
                client,
            })
        }
        None => None,
    };
    let objects = api.as_ref().map(|api| api.objects.clone());

    let cgroups = CgroupManager::new(node_settings::cgroups(settings, driver, version, &reservations), hierarchy)
        .context("the cgroup tree")?;
    let allocatable_limits = Allocatable {
        cgroups: cgroups.clone(),
        capacity: capacity(&facts),
        recorder: recorder.clone(),
        node_name: node_name.clone(),
    };
    let in_force = allocatable_limits.enforce().await?;
    spawn(&mut tasks, "memory", process::give_memory_back(cancel.child_token()));
    spawn(&mut tasks, "node allocatable", allocatable_limits.keep_trying(in_force, cancel.child_token()));
    let kept = system_cgroups::keep(cgroups.clone(), system_cgroups::Kept::of(configuration), cancel.child_token());
    spawn(&mut tasks, "system cgroups", kept);

    let volume_objects =
        api.as_ref().map(|api| ApiObjects { objects: api.objects.clone(), tokens: api.tokens.clone() });
    let root_dir = settings.flags.root_dir.clone();
    let volumes = VolumeManager::new(root_dir, Arc::new(Objects(volume_objects)), mounts);
    volumes.prepare_root().await.context("preparing the root directory")?;
    let events = Events { recorder: recorder.clone(), node_name: node_name.clone() };
    for warning in warnings::at_start(version, configuration) {
        events.record(None, warning);
    }
    let images = ImageManager::new(
        node_settings::images(settings),
        node_settings::image_access(settings)?,
        Arc::new(runtime.clone()),
        Arc::new(Secrets(objects.clone())),
        Arc::new(events.clone()),
    );
    images.settle_pulls().await;
    let probes = ProbeManager::new(ProbeManagerParts {
        runtime: runtime.clone(),
        events: Arc::new(events.clone()),
        features: ProbeFeatures {
            http2: settings.gates.enabled(Gate::H2CContainerProbe),
            grpc_tls: settings.gates.enabled(Gate::GRPCContainerProbeTLS),
        },
    });
    let relist_age = {
        let observer = observer.clone();
        Arc::new(move || observer.since_last_relist())
    };
    let clients = api.as_ref().map(|api| NodeClients { main: api.client.clone(), heartbeat: api.heartbeat.clone() });
    let node_runtime = Arc::new(Runtime(runtime.clone()));
    let allocatable = node_settings::allocatable(&node_config, &facts);
    let admission_settings = admission::settings(settings, &facts, &node_config.declared_features);
    let (admission_sender, admission_facts) = watch::channel(admission::initial(admission_settings));
    let parts = NodeParts::new(node_config, facts.clone(), clients, node_runtime, relist_age, Arc::new(events));
    let node = NodeManager::new(parts);
    volumes.set_allocatable(allocatable.clone());

    let (facts_sender, node_facts) = watch::channel(plan::NodeFacts {
        host_ips: Vec::new(),
        runtime_name,
        backoff: node_settings::crash_loop_backoff(
            &settings.gates,
            configuration.crash_loop_back_off.max_container_restart_period,
        ),
        restart_rules: node_settings::restart_rules(&settings.gates),
        shows_stop_signals: settings.gates.enabled(Gate::ContainerStopSignals),
        forgets_probes: settings.gates.enabled(Gate::ChangeContainerStatusOnKubeletRestart),
        ..plan::NodeFacts::default()
    });
    let (network_sender, network_problem) = watch::channel(None);
    let (owner_sender, node_owner) = watch::channel(None);
    let senders = FactSenders { facts: facts_sender, network_problem: network_sender, node_owner: owner_sender };

    let counted_volumes = volumes.clone();
    let executor = Arc::new(Executor::new(ExecutorParts {
        runtime: runtime.clone(),
        observer: observer.clone(),
        images,
        volumes: volumes.clone(),
        cgroups: cgroups.clone(),
        events: recorder.clone(),
        objects: objects.clone(),
        services: api.as_ref().map(|api| api.services.clone()),
        client: api.as_ref().map(|api| api.client.clone()),
        node: Arc::new(node_settings::translation(settings, &facts, version, allocatable)),
        facts: node_facts.clone(),
        ids_per_pod: node_settings::ids_per_pod(configuration),
        network_problem,
        resolv_conf: PathBuf::from(&configuration.resolv_conf),
        parallel_calls: std::thread::available_parallelism().map_or(1, usize::from) * CALLS_PER_PROCESSOR,
    }));
    let busy: Arc<dyn Fn() -> bool + Send + Sync> = {
        let executor = executor.clone();
        Arc::new(move || executor.is_busy())
    };
    let in_burst: events::BusySince = {
        let executor = executor.clone();
        Arc::new(move || executor.in_burst_since())
    };
    let status_writer = api.as_ref().map(|api| StatusWriter::new(api.client.clone(), busy));
    let (mirror_keeper, mirrors) = api.as_ref().map(|api| MirrorKeeper::new(api.client.clone(), node_owner)).unzip();
    let manager = PodManager::new(PodManagerParts {
        executor,
        status_writer: status_writer.clone(),
        node: node_facts,
        probes: probes.clone(),
        observer: observer.clone(),
        volumes,
        cgroups: cgroups.clone(),
        objects: objects.clone(),
        mirrors,
        admission: admission_facts,
        read_node: api.as_ref().map(|api| admission::node_reader(api.heartbeat.clone(), node_name.clone())),
    });
    let figures =
        stats::collector(settings, &node_name, &facts, runtime.clone(), observer.clone(), cgroups, manager.pods());
    let (hint_sender, hints) = mpsc::channel(1024);

    let (source, pods) = api.as_ref().map(|api| PodSource::new(api.client.clone(), &node_name)).unzip();
    let sources = static_pods::add(Sources::new(pods), configuration, &node_name, &recorder, &mut tasks, cancel)?;
    let objects = objects.map(|objects| objects.changes());
    let inputs = PodManagerInputs { sources, hints, objects };

    let token = || cancel.child_token();
    if let Some(task) = event_task {
        spawn(&mut tasks, "events", task.behind(in_burst).run(token()));
    }
    let client = api.as_ref().map(|api| api.client.clone());
    match api {
        Some(api) => {
            spawn(&mut tasks, "objects", api.objects.run(token()));
            spawn(&mut tasks, "services", api.services.run(token()));
        }
        None => info!("no --kubeconfig is given: the node runs without an API server"),
    }
    spawn(&mut tasks, "facts", follow_facts(node.node(), node.runtime_state(), senders, token()));
    let followed = admission::follow(node.node(), node.contributions(), admission_sender, token());
    spawn(&mut tasks, "admission", followed);
    let (node_token, served_node) = (token(), node.node());
    tasks.spawn(async move { ("node", node.run(node_token).await.map_err(Into::into)) });
    if let Some(source) = source {
        spawn(&mut tasks, "pod source", source.run(token()));
    }
    if let Some(keeper) = mirror_keeper {
        spawn(&mut tasks, "mirrors", keeper.run(token()));
    }
    let observer_token = token();
    let pods_served = Pods { list: manager.pods(), observer: observer.clone() };
    let running_observer = observer.clone();
    spawn(&mut tasks, "observer", async move { running_observer.run(hint_sender, observer_token).await });
    if let Some(writer) = status_writer {
        spawn(&mut tasks, "statuses", writer.run(token()));
    }
    let probe_counts = probes.clone();
    spawn(&mut tasks, "probes", probes.run(token()));
    spawn(&mut tasks, "pods", manager.run(inputs, token()));
    if let Some(rotation) = node_settings::log_rotation(configuration)? {
        spawn(&mut tasks, "log rotation", LogRotator::new(runtime.clone(), rotation).run(token()));
    }
    let signed_certificate =
        certificates::serving_certificate(&mut tasks, settings, served_node, client.as_ref(), cancel);
    let (kept_figures, figures_token) = (figures.clone(), token());
    spawn(&mut tasks, "figures", async move { kept_figures.run(figures_token).await });
    let certificates = [client_certificate, signed_certificate.clone()];
    let introspection = introspection::of_agent(settings, verbosity, probe_counts, counted_volumes, certificates);
    let served = Served { pods: pods_served, figures, signed_certificate, introspection };
    serve_https(&mut tasks, settings, &node_name, server.as_ref(), served, &runtime, cancel).await?;
    if supervisor.is_watching() {
        let alive = supervisor.clone().keep_alive(health::sync_loop_check(observer), token());
        spawn(&mut tasks, "watchdog", alive);
    }
    info!(node = node_name, "started");
    Ok(tasks)
}

pub(super) fn spawn(tasks: &mut Tasks, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        (name, Ok(()))
    });
}

fn check_machine(settings: &Settings) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        warn!("not running as root: mounts, cgroups and the runtime's socket are likely to be refused");
    }
    if settings.configuration.fail_swap_on && process::is_swap_on(Path::new("/proc")) {
        bail!(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false; \
             /proc/swaps lists what is on"
        );
    }
    Ok(())
}

fn prepare_root(root: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o750).create(root);
    made.with_context(|| format!("making the root directory {}", root.display()))
}

/// Waits until the runtime answers. Returns its name.
async fn wait_for_runtime(runtime: &RuntimeClient) -> String {
    let mut told = false;
    loop {
        match runtime.version().await {
            Ok(version) => {
                info!(name = version.runtime_name, version = version.runtime_version, "the container runtime answers");
                return version.runtime_name;
            }
            Err(error) => {
                if !told {
                    warn!(endpoint = runtime.endpoint(), %error, "waiting for the container runtime");
                    told = true;
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    }
}

/// The driver that the runtime uses, else the configured one (KEP 4033).
async fn cgroup_driver(runtime: &RuntimeClient, configured: &str) -> anyhow::Result<Driver> {
    let configured = Driver::parse(configured).with_context(|| format!("cgroupDriver: {configured:?}"))?;
    match runtime.runtime_config().await {
        Ok(response) => {
            let told = response.linux.map(|linux| linux.cgroup_driver());
            Ok(match told {
                Some(cri::CgroupDriver::Systemd) => Driver::Systemd,
                Some(cri::CgroupDriver::Cgroupfs) => Driver::Cgroupfs,
                None => configured,
            })
        }
        Err(error) if error.is_unimplemented() => {
            // The peer of that version wants to be told.
            metrics::CRI_LOSING_SUPPORT.set(&["1.38.0"], 1.0);
            Ok(configured)
        }
        Err(error) => Err(error).context("asking the runtime for its cgroup driver"),
    }
}

/// What of the machine its pods share.
fn capacity(facts: &NodeFacts) -> ResourceTotals {
    let machine = &facts.machine;
    let mut capacity = ResourceTotals {
        cpu_milli: Some(i64::from(machine.cpus) * 1000),
        memory_bytes: Some(machine.memory_bytes),
        ..ResourceTotals::default()
    };
    if let Ok(limits) = MachineReader::below("/").process_limits() {
        capacity.other.insert("pid".to_owned(), limits.maximum);
    }
    capacity
}

/// What the HTTPS API shows and shows itself with.
struct Served {
    pods: Pods,
    figures: StatsCollector,
    signed_certificate: Option<CertificateHandle>,
    introspection: Introspection,
}

/// Serves the HTTPS API and, where it is turned on, the read-only port.
async fn serve_https(
    tasks: &mut Tasks,
    settings: &Settings,
    node_name: &str,
    api: Option<&ApiServer>,
    served: Served,
    runtime: &RuntimeClient,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    if !settings.configuration.enable_server {
        return Ok(());
    }
    let Served { pods, figures, signed_certificate, introspection } = served;
    // A rate of its own: callers whose tokens are to be reviewed must not hold up statuses.
    let client = api.map(|api| api.client(&ClientOptions::default())).transpose()?;
    let health = health::sync_loop_check(pods.observer.clone());
    let pods = Arc::new(pods);
    let inputs = || ServerInputs {
        configuration: &settings.configuration,
        certificate_folder: &settings.flags.cert_dir,
        signed_certificate: signed_certificate.clone(),
        node_name,
        client: client.as_ref(),
        health: health.clone(),
        pods: Some(pods.clone()),
        stats: Some(figures.clone()),
        introspection: introspection.clone(),
        containers: Some(ContainerInputs { runtime, root_dir: &settings.flags.root_dir, gates: &settings.gates }),
    };
    let https = Server::https(inputs()).await?;
    info!(address = %https.address(), "serving the HTTPS API");
    spawn(tasks, "https", https.run(cancel.child_token()));
    if let Some(read_only) = Server::read_only(inputs()).await? {
        spawn(tasks, "read-only", read_only.run(cancel.child_token()));
    }
    Ok(())
}

/// Where what is known of the node goes.
struct FactSenders {
    facts: watch::Sender<plan::NodeFacts>,
    network_problem: watch::Sender<Option<String>>,
    node_owner: watch::Sender<Option<NodeOwner>>,
}

/// Notes what the runtime's handlers can do. Returns whether that is new.
fn set_handlers(facts: &mut plan::NodeFacts, handlers: &[NodeRuntimeHandler]) -> bool {
    let having = |has: fn(&NodeRuntimeHandlerFeatures) -> Option<bool>| {
        let able = handlers.iter().filter(|h| h.features.as_ref().and_then(has) == Some(true));
        able.map(|h| h.name.clone().unwrap_or_default()).collect::<BTreeSet<_>>()
    };
    let read_only = having(|features| features.recursive_read_only_mounts);
    let users = having(|features| features.user_namespaces);
    let changed = facts.recursive_read_only_handlers != read_only || facts.user_namespace_handlers != users;
    facts.recursive_read_only_handlers = read_only;
    facts.user_namespace_handlers = users;
    changed
}

/// Passes on the Node's identity and addresses, the state of the runtime's network and what its handlers can do.
async fn follow_facts(
    mut node: NodeHandle,
    mut runtime: RuntimeStateHandle,
    senders: FactSenders,
    cancel: CancellationToken,
) {
    loop {
        let host_ips: Vec<String> = node.host_ips().iter().map(IpAddr::to_string).collect();
        senders.facts.send_if_modified(|facts| {
            let changed = facts.host_ips != host_ips;
            facts.host_ips = host_ips;
            changed
        });
        let owner = node.current().and_then(|node| {
            let (name, uid) = (node.metadata.name.clone()?, node.metadata.uid.clone()?);
            Some(NodeOwner { name, uid, deleting: node.metadata.deletion_timestamp.is_some() })
        });
        senders.node_owner.send_if_modified(|current| {
            let changed = *current != owner;
            *current = owner;
            changed
        });
        if let Some(handlers) = runtime.snapshot().handlers {
            senders.facts.send_if_modified(|facts| set_handlers(facts, &handlers));
        }
        let problem = runtime.network_error();
        senders.network_problem.send_if_modified(|current| {
            let changed = *current != problem;
            if changed {
                current.clone_from(&problem);
            }
            changed
        });
        // Cancel-safe: both handles only tell that something is new.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = node.changed() => {}
            () = runtime.changed() => {}
        }
    }
}
