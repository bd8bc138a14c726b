//! The handle that answers: reads what is needed, shares it for a short time, and makes the answers from it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent;
use super::disk::VolumeCache;
use super::figures::Depth;
use super::layers::{Layers, WritableLayers};
use super::rates::Rates;
use super::reader::Reader;
use super::recent::{Recent, SHARED};
use super::sample::{Cgroup, Container, Pod, RuntimeFilesystem, Sample, WritableLayer};
use super::summary::{self, NodeConstants};
use super::{api, cadvisor, resource};
use crate::cgroup::{CgroupManager, Version};
use crate::model::pod::{PodKey, PodUid};
use crate::model::{Timestamp, clock};
use crate::runtime::translate as paths;
use crate::runtime::{ListedState, Observer, RuntimeClient, RuntimeError, RuntimePod, cri};
use crate::sys::bulkhead::{BlockingError, Bulkhead};
use crate::sys::disk_usage;
use crate::sys::filesystem::{self, FilesystemUsage};
use crate::sys::machine::{MachineFacts, MachineReader};

/// Readings at once: one of each depth. Those that a caller gave up are counted until they end.
pub const BLOCKING_PLACES: usize = 3;
/// How long a reading waits for a place: less than scrapers wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who knows the pods that the node has.
pub trait KnownPods: Send + Sync {
    /// All of them; none while they are not known.
    fn known_pods(&self) -> Option<Vec<Arc<PodObject>>>;
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The runtime does not tell.
    #[error("failed to list pod stats: {0}")]
    Runtime(#[from] RuntimeError),
    /// The root of the cgroup tree cannot be read.
    #[error("failed to get root cgroup stats: the cgroup of the whole machine is not there")]
    Root,
    /// The reading was not begun, since those before it hang, or was cut off.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// What the collector is made from.
pub struct StatsSettings {
    /// What of the node does not change.
    pub node: NodeConstants,
    /// The machine.
    pub machine: MachineFacts,
    /// `--root-dir`.
    pub root_dir: PathBuf,
    /// `podLogsDir`.
    pub pod_logs_dir: String,
    /// `volumeStatsAggPeriod`; zero or less measures no volumes.
    pub volume_period: Duration,
    /// The agent's cgroup (`kubeletCgroups`); empty for the one that it is found in.
    pub agent_cgroup: String,
    /// Cgroups of other parts of the system by the names that the summary gives them; empty ones are left out.
    pub system_cgroups: Vec<(&'static str, String)>,
}

/// Answers what the node uses; a cheap handle.
#[derive(Clone)]
pub struct StatsCollector {
    shared: Arc<Shared>,
}

struct Shared {
    settings: StatsSettings,
    runtime: RuntimeClient,
    observer: Observer,
    cgroups: CgroupManager,
    pods: Arc<dyn KnownPods>,
    rates: Mutex<Rates>,
    volumes: Mutex<VolumeCache>,
    layers: WritableLayers,
    /// The last reading of each depth.
    last: [Recent<Sample>; 3],
    /// Told of each new reading.
    is_read: Notify,
    /// Where readings are made: disks that do not answer and volumes of many files must hold up nothing else.
    readings: Bulkhead,
}

impl StatsCollector {
    /// A collector; reads nothing yet.
    pub fn new(
        settings: StatsSettings,
        runtime: RuntimeClient,
        observer: Observer,
        cgroups: CgroupManager,
        pods: Arc<dyn KnownPods>,
    ) -> Self {
        let architecture = &settings.machine.architecture;
        agent::set_constants(&settings.node.name, cgroups.version().number(), architecture);
        let shared = Shared {
            settings,
            layers: WritableLayers::new(runtime.clone()),
            runtime,
            observer,
            cgroups,
            pods,
            rates: Mutex::default(),
            volumes: Mutex::default(),
            last: Default::default(),
            is_read: Notify::new(),
            readings: Bulkhead::new("reading the node's figures", BLOCKING_PLACES, PATIENCE),
        };
        StatsCollector { shared: Arc::new(shared) }
    }

    /// Keeps what takes long to read at hand, as far as somebody asks for it, and lets go of readings that are not shared any
    /// more.
    pub async fn run(&self, cancel: CancellationToken) {
        let forget = async {
            loop {
                self.shared.is_read.notified().await;
                tokio::time::sleep(SHARED).await;
                self.shared.last.iter().for_each(Recent::forget_old);
            }
        };
        tokio::join!(self.shared.layers.run(cancel.clone()), cancel.run_until_cancelled(forget));
    }

    /// `/stats/summary`; with `only_cpu_and_memory` no more than that.
    ///
    /// # Errors
    /// When the runtime or the root of the cgroup tree does not tell.
    pub async fn summary(&self, only_cpu_and_memory: bool) -> Result<api::Summary, StatsError> {
        let node = &self.shared.settings.node;
        if only_cpu_and_memory {
            return Ok(summary::brief(&*self.sample(Depth::Brief).await?, node));
        }
        Ok(summary::full(&*self.sample(Depth::Full).await?, node))
    }

    /// `/metrics/resource`.
    pub async fn resource_metrics(&self) -> String {
        match self.sample(Depth::Brief).await {
            Ok(sample) => resource::text(Some(&sample)),
            Err(error) => {
                tracing::warn!(error = %error, "the figures for /metrics/resource cannot be read");
                resource::text(None)
            }
        }
    }

    /// `/metrics/cadvisor`.
    ///
    /// # Errors
    /// As [`StatsCollector::summary`].
    pub async fn cadvisor_metrics(&self) -> Result<String, StatsError> {
        Ok(cadvisor::text(&*self.sample(Depth::Everything).await?, &self.shared.settings.machine))
    }

    /// Brings up to date what `/metrics` shows that is only known when it is asked for.
    pub async fn update_agent_metrics(&self) {
        let shared = &self.shared;
        agent::set_process(Path::new("/proc"), shared.settings.node.booted_at);
        if let Some(age) = shared.observer.since_last_relist() {
            agent::set_last_relist(clock::now() - age);
        }
        match shared.observer.list_pods().await {
            Ok(pods) => agent::set_pods(&pods, &shared.pods.known_pods().unwrap_or_default()),
            // The numbers of the last time stay, as the peer's do.
            Err(error) => tracing::warn!(%error, "the runtime's pods cannot be counted for /metrics"),
        }
    }

    async fn sample(&self, depth: Depth) -> Result<Arc<Sample>, StatsError> {
        let sample = self.shared.last[depth as usize].get(self.read(depth)).await?;
        self.shared.is_read.notify_one();
        Ok(sample)
    }

    async fn read(&self, depth: Depth) -> Result<Sample, StatsError> {
        let shared = &self.shared;
        if depth == Depth::Full && !shared.lock_rates().is_ready(Instant::now()) {
            // Nobody asked lately: a first reading, for the second one to compare with.
            let told = Told { pods: shared.observer.list_pods().await?, ..Told::default() };
            shared.clone().blocking(told, Depth::Brief).await?;
            tokio::time::sleep(Rates::FIRST_WINDOW).await;
        }
        let told = match depth {
            Depth::Brief => Told { pods: shared.observer.list_pods().await?, ..Told::default() },
            Depth::Full | Depth::Everything => {
                let (pods, layers, filesystems) = tokio::try_join!(
                    shared.observer.list_pods(),
                    shared.layers.latest(),
                    shared.runtime.image_fs_info(),
                )?;
                Told { pods, layers, filesystems: Some(filesystems) }
            }
        };
        shared.clone().blocking(told, depth).await
    }
}

/// What the runtime told.
#[derive(Default)]
struct Told {
    pods: Vec<RuntimePod>,
    layers: Layers,
    filesystems: Option<cri::ImageFsInfoResponse>,
}

impl Shared {
    fn lock_rates(&self) -> std::sync::MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of a reading in one blocking task, whatever the number of pods.
    async fn blocking(self: Arc<Self>, told: Told, depth: Depth) -> Result<Sample, StatsError> {
        let readings = self.readings.clone();
        readings.run(move || self.read(&told, depth)).await?
    }

    fn read(&self, told: &Told, depth: Depth) -> Result<Sample, StatsError> {
        let settings = &self.settings;
        let reader =
            Reader { hierarchy: self.cgroups.hierarchy(), proc: Path::new("/proc"), machine: &settings.machine };
        let root = reader.cgroup("/", depth).ok_or(StatsError::Root)?;
        let pods_cgroup = self.cgroups.pods_cgroup();
        let own = match settings.agent_cgroup.as_str() {
            "" => reader.own_cgroup().unwrap_or_default(),
            configured => configured.to_owned(),
        };
        let others = settings.system_cgroups.iter().map(|(name, path)| (*name, path.as_str()));
        let system = std::iter::once(("kubelet", own.as_str())).chain(others);
        let system = system.chain([("pods", pods_cgroup.as_str())]).filter(|(_, path)| !path.is_empty());
        let system = system.filter_map(|(name, path)| Some((name, reader.cgroup(path, depth)?))).collect();
        let mut sample = Sample {
            at: clock::now(),
            root,
            system,
            inner: Vec::new(),
            pods: Vec::new(),
            interfaces: Vec::new(),
            root_fs: None,
            root_device: String::new(),
            image_fs: None,
            container_fs: None,
            process_limits: None,
            devices: BTreeMap::new(),
            has_pressure: self.cgroups.version() == Version::V2,
        };
        let known = if depth == Depth::Brief { Vec::new() } else { self.pods.known_pods().unwrap_or_default() };
        let known: HashMap<PodUid, Arc<PodObject>> = known.into_iter().map(|pod| (PodKey::of(&pod).uid, pod)).collect();
        let mut filesystems = Filesystems::default();
        sample.pods = told
            .pods
            .iter()
            .filter_map(|pod| self.pod(&reader, pod, known.get(&pod.key.uid), told, depth, &mut filesystems))
            .collect();
        if depth >= Depth::Full {
            self.complete(&reader, &mut sample, &known, told, &mut filesystems);
        }
        if depth == Depth::Everything {
            self.name_devices(&reader, &mut sample, told);
            sample.inner = self.cgroups.class_cgroups().iter().filter_map(|p| reader.cgroup(p, depth)).collect();
        }
        self.rate(&mut sample);
        Ok(sample)
    }

    fn pod(
        &self,
        reader: &Reader<'_>,
        pod: &RuntimePod,
        object: Option<&Arc<PodObject>>,
        told: &Told,
        depth: Depth,
        filesystems: &mut Filesystems,
    ) -> Option<Pod> {
        let running: Vec<_> = pod.containers.iter().filter(|c| c.state == ListedState::Running).collect();
        if running.is_empty() {
            return None;
        }
        let path = self.cgroups.pod_cgroup_candidates(&pod.key.uid).into_iter().find_map(|p| {
            let cgroup = reader.cgroup(&p, depth)?;
            Some((p, cgroup))
        });
        let (path, cgroup) = path.unzip();
        let below = |id: &str| reader.container_path(path.as_deref()?, id);
        let containers = running.into_iter().map(|c| Container {
            id: c.id.clone(),
            name: c.name.clone(),
            image: object.map(|pod| image_of(pod, &c.name)).unwrap_or_default(),
            created_at: c.created_at,
            cgroup: below(&c.id).and_then(|path| reader.cgroup(&path, depth)),
            writable_layer: told.layers.get(&c.id).map(|layer| writable_layer(layer, filesystems)),
            logs: self.logs(depth, || paths::container_log_directory(&self.settings.pod_logs_dir, &pod.key, &c.name)),
        });
        let containers = containers.collect();
        let newest = pod.sandboxes.iter().find(|s| s.ready).or(pod.sandboxes.first());
        let sandbox_path = newest.and_then(|s| below(&s.id));
        let mut interfaces = Vec::new();
        let mut sandbox = None;
        if depth >= Depth::Full
            && let Some(path) = &sandbox_path
        {
            interfaces = reader.first_process(path).map(|pid| reader.interfaces(&pid)).unwrap_or_default();
        }
        if depth == Depth::Everything
            && let (Some(newest), Some(path)) = (newest, &sandbox_path)
        {
            sandbox = reader.cgroup(path, depth).map(|cgroup| (newest.id.clone(), cgroup));
        }
        Some(Pod {
            key: pod.key.clone(),
            created_at: newest.map(|s| s.created_at).unwrap_or_default(),
            cgroup,
            sandbox,
            containers,
            interfaces,
            volumes: Vec::new(),
            logs: self.logs(depth, || paths::pod_log_directory(&self.settings.pod_logs_dir, &pod.key)),
            hosts_file: self.hosts_file(depth, &pod.key.uid),
        })
    }

    fn logs(&self, depth: Depth, directory: impl FnOnce() -> String) -> Option<disk_usage::DiskUsage> {
        (depth == Depth::Full).then(|| disk_usage::files_in(Path::new(&directory())).ok()).flatten()
    }

    fn hosts_file(&self, depth: Depth, uid: &PodUid) -> Option<disk_usage::DiskUsage> {
        if depth != Depth::Full {
            return None;
        }
        let path = paths::hosts_file_path(&self.settings.root_dir.to_string_lossy(), uid);
        disk_usage::tree(Path::new(&path), &mut 1).ok().flatten()
    }

    /// Disks, the node's network and its processes.
    fn complete(
        &self,
        reader: &Reader<'_>,
        sample: &mut Sample,
        known: &HashMap<PodUid, Arc<PodObject>>,
        told: &Told,
        filesystems: &mut Filesystems,
    ) {
        let settings = &self.settings;
        sample.interfaces = reader.interfaces("self");
        sample.root_fs = filesystem::usage(&settings.root_dir).ok();
        sample.process_limits = MachineReader::below("/").process_limits().ok();
        if let Some(told) = &told.filesystems {
            sample.image_fs = told.image_filesystems.first().map(|fs| runtime_filesystem(fs, filesystems));
            sample.container_fs = told.container_filesystems.first().map(|fs| runtime_filesystem(fs, filesystems));
            if sample.container_fs.is_none() {
                sample.container_fs.clone_from(&sample.image_fs);
            }
        }
        if settings.volume_period.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        volumes.begin(now, settings.volume_period);
        for pod in &mut sample.pods {
            if let Some(object) = known.get(&pod.key.uid) {
                pod.volumes = volumes.of_pod(&settings.root_dir, &pod.key.uid, object, now, settings.volume_period);
            }
        }
    }

    /// Finds the names of the devices that something was read from or written to, or is on.
    fn name_devices(&self, reader: &Reader<'_>, sample: &mut Sample, told: &Told) {
        let transfers: Vec<_> =
            cgroups_of(sample).flat_map(|c| &c.figures.transfers).map(|t| (t.major, t.minor)).collect();
        for number in transfers {
            sample.devices.entry(number).or_insert_with(|| reader.device(number).unwrap_or_default());
        }
        let device_of = |path: &Path| reader.device_of_path(path).unwrap_or_default();
        sample.root_device = device_of(&self.settings.root_dir);
        let mut known: HashMap<&str, String> = HashMap::new();
        for container in sample.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
            let point = told.layers.get(&container.id).and_then(|layer| layer.fs_id.as_ref());
            if let (Some(layer), Some(id)) = (&mut container.writable_layer, point) {
                let device = known.entry(&id.mountpoint).or_insert_with(|| device_of(Path::new(&id.mountpoint)));
                layer.device.clone_from(device);
            }
        }
    }

    /// Fills in how fast processor time is used, and keeps the reading for the next ones.
    fn rate(&self, sample: &mut Sample) {
        let now = Instant::now();
        let mut rates = self.lock_rates();
        let usage: Vec<(String, u64)> = cgroups_of(sample)
            .filter_map(|cgroup| Some((cgroup.path.clone(), cgroup.figures.cpu.as_ref()?.usage)))
            .collect();
        for cgroup in cgroups_of(sample) {
            let Some(cpu) = &cgroup.figures.cpu else { continue };
            let age = Duration::try_from(cgroup.at.duration_since(cgroup.created_at)).ok();
            cgroup.nano_cores = rates.nano_cores(now, &cgroup.path, cpu.usage, age);
        }
        rates.add(now, usage.iter().map(|(path, usage)| (path.as_str(), *usage)));
    }
}

fn cgroups_of(sample: &mut Sample) -> impl Iterator<Item = &mut Cgroup> {
    let Sample { root, system, inner, pods, .. } = sample;
    let pods = pods.iter_mut().flat_map(|pod| {
        let containers = pod.containers.iter_mut().filter_map(|c| c.cgroup.as_mut());
        containers.chain(pod.cgroup.as_mut())
    });
    std::iter::once(root).chain(system.iter_mut().map(|(_, cgroup)| cgroup)).chain(inner).chain(pods)
}

/// File systems measured for one reading, by mount point: many containers are on the same.
#[derive(Default)]
struct Filesystems(HashMap<String, Option<FilesystemUsage>>);

impl Filesystems {
    fn of(&mut self, id: Option<&cri::FilesystemIdentifier>) -> Option<FilesystemUsage> {
        let point = &id?.mountpoint;
        if let Some(known) = self.0.get(point) {
            return *known;
        }
        let usage = filesystem::usage(Path::new(point)).ok();
        self.0.insert(point.clone(), usage);
        usage
    }
}

fn value(wrapped: Option<&cri::UInt64Value>) -> Option<u64> {
    wrapped.map(|wrapped| wrapped.value)
}

fn at(nanoseconds: i64) -> Timestamp {
    clock::from_nanoseconds(nanoseconds).unwrap_or_default()
}

fn writable_layer(layer: &cri::FilesystemUsage, filesystems: &mut Filesystems) -> WritableLayer {
    WritableLayer {
        at: at(layer.timestamp),
        used_bytes: value(layer.used_bytes.as_ref()),
        inodes_used: value(layer.inodes_used.as_ref()),
        filesystem: filesystems.of(layer.fs_id.as_ref()),
        device: String::new(),
    }
}

fn runtime_filesystem(fs: &cri::FilesystemUsage, filesystems: &mut Filesystems) -> RuntimeFilesystem {
    RuntimeFilesystem {
        at: at(fs.timestamp),
        used_bytes: value(fs.used_bytes.as_ref()).unwrap_or(0),
        inodes_used: value(fs.inodes_used.as_ref()),
        filesystem: filesystems.of(fs.fs_id.as_ref()),
    }
}

/// The image of a container by the pod spec.
fn image_of(pod: &PodObject, name: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let own = containers.map(|c| (&c.name, &c.image));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.name, &c.image));
    let image = own.chain(ephemeral).find(|(known, _)| *known == name);
    image.and_then(|(_, image)| image.clone()).unwrap_or_default()
}
