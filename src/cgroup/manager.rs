//! The handle on the node's cgroup tree.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tracing::{debug, warn};

use crate::metrics::kubelet as metrics;
use crate::model::container_resources::MemoryReservation;
use crate::model::linux_resources::MIN_CPU_SHARES;
use crate::model::pod::PodUid;
use crate::model::qos::QosClass;
use crate::model::resources::ResourceTotals;
use crate::sys::bulkhead::Bulkhead;
use crate::sys::systemd::Units;

use super::error::CgroupError;
use super::hierarchy::{Hierarchy, Version};
use super::kernel::{HostKernel, Kernel};
use super::name::{CgroupName, Driver, TreeNames};
use super::remove;
use super::tree::Tree;
use super::values::{
    CgroupValues, PodCgroupSettings, QosSums, QosValues, ReservedScope, allocatable, kubepods_values, pod_values,
    qos_values, reserved_values,
};

/// Calls at once. systemd, which makes the slices of its driver, takes them one by one.
pub const BLOCKING_PLACES: usize = 8;
/// How long a call waits for a place: as long as systemd may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the configuration says of cgroups.
#[derive(Clone, Debug, PartialEq)]
pub struct CgroupSettings {
    /// `cgroupDriver`, or what the runtime said instead.
    pub driver: Driver,
    /// `cgroupsPerQOS`: there is a tree at all. Without, pods go where the runtime puts them.
    pub cgroups_per_qos: bool,
    /// `cgroupRoot`, in cgroupfs form; empty is `/`.
    pub cgroup_root: String,
    /// `enforceNodeAllocatable`.
    pub enforce: Enforcement,
    /// `systemReservedCgroup`.
    pub system_reserved_cgroup: String,
    /// `kubeReservedCgroup`.
    pub kube_reserved_cgroup: String,
    /// `systemReserved`.
    pub system_reserved: ResourceTotals,
    /// `kubeReserved`.
    pub kube_reserved: ResourceTotals,
    /// How pods are limited.
    pub pods: PodCgroupSettings,
}

impl Default for CgroupSettings {
    /// The API's defaults.
    fn default() -> Self {
        CgroupSettings {
            driver: Driver::Cgroupfs,
            cgroups_per_qos: true,
            cgroup_root: String::new(),
            enforce: Enforcement { pods: true, ..Enforcement::default() },
            system_reserved_cgroup: String::new(),
            kube_reserved_cgroup: String::new(),
            system_reserved: ResourceTotals::default(),
            kube_reserved: ResourceTotals::default(),
            pods: PodCgroupSettings::default(),
        }
    }
}

/// What of the node's allocatable resources is enforced (`enforceNodeAllocatable`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// `pods`: all pods together get no more than allocatable; else no more than the capacity.
    pub pods: bool,
    /// `system-reserved`.
    pub system_reserved: bool,
    /// `kube-reserved`.
    pub kube_reserved: bool,
    /// `system-reserved-compressible`.
    pub system_reserved_compressible: bool,
    /// `kube-reserved-compressible`.
    pub kube_reserved_compressible: bool,
}

impl Enforcement {
    /// The configuration's list; what validation does not let through (`none` and unknown names) counts for nothing.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut enforce = Enforcement::default();
        for name in names {
            match name {
                "pods" => enforce.pods = true,
                "system-reserved" => enforce.system_reserved = true,
                "kube-reserved" => enforce.kube_reserved = true,
                "system-reserved-compressible" => enforce.system_reserved_compressible = true,
                "kube-reserved-compressible" => enforce.kube_reserved_compressible = true,
                _ => {}
            }
        }
        enforce
    }
}

/// Whose limits were put into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnforcedSubject {
    /// All pods.
    Pods,
    /// The system's daemons.
    SystemReserved(ReservedScope),
    /// The node's own daemons.
    KubeReserved(ReservedScope),
}

/// One outcome of [`CgroupManager::ensure_node`], for an event on the Node.
#[derive(Debug)]
pub struct Enforced {
    /// Whose limits.
    pub subject: EnforcedSubject,
    /// The cgroup, as messages show it.
    pub cgroup: String,
    /// Why it failed, if it did.
    pub error: Option<CgroupError>,
}

impl Enforced {
    /// The event's reason.
    pub fn reason(&self) -> &'static str {
        if self.error.is_none() { "NodeAllocatableEnforced" } else { "FailedNodeAllocatableEnforcement" }
    }

    /// The event's message.
    pub fn message(&self) -> String {
        let cgroup = &self.cgroup;
        let (what, done) = match self.subject {
            EnforcedSubject::Pods => {
                return match &self.error {
                    None => "Updated Node Allocatable limit across pods".to_owned(),
                    Some(error) => format!("Failed to update Node Allocatable Limits {cgroup}: {error}"),
                };
            }
            EnforcedSubject::SystemReserved(ReservedScope::All) => ("System Reserved", "system reserved"),
            EnforcedSubject::SystemReserved(ReservedScope::Compressible) => {
                ("System Reserved Compressible", "system reserved")
            }
            EnforcedSubject::KubeReserved(ReservedScope::All) => ("Kube Reserved", "kube reserved"),
            EnforcedSubject::KubeReserved(ReservedScope::Compressible) => {
                ("Kube Reserved Compressible", "kube reserved")
            }
        };
        match &self.error {
            None => format!("Updated limits on {done} cgroup {cgroup}"),
            Some(error) => format!("Failed to enforce {what} Cgroup Limits on {cgroup:?}: {error}"),
        }
    }

    /// Whether the peer gives up starting for it. A failure on the pods' limit is tried again a minute later instead:
    /// pods may use more than a lowered limit until they are evicted.
    pub fn is_fatal(&self) -> bool {
        self.error.is_some() && self.subject != EnforcedSubject::Pods
    }
}

/// A pod whose cgroup was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPod {
    /// Its UID.
    pub uid: PodUid,
    /// The class in whose branch it stands.
    pub class: QosClass,
    /// Its directories, by hierarchy.
    pub directories: Vec<PathBuf>,
}

/// The handle on the node's cgroup tree; cheap to clone. Every method that touches the kernel does so off the async
/// threads. Calls for one pod must not overlap (each pod has one worker); all others may.
#[derive(Clone)]
pub struct CgroupManager {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Arc<Tree>,
    settings: CgroupSettings,
    names: TreeNames,
    /// Limits of kubepods as last asked for, for when it has to be made again.
    kubepods: Mutex<CgroupValues>,
    /// What the QoS classes were last set to.
    qos: Mutex<Option<QosValues>>,
    /// Pods whose cgroup this process knows to have its values.
    finished: Mutex<HashSet<PodUid>>,
    /// Where the calls are made: a systemd that does not answer must hold up nothing else.
    calls: Bulkhead,
}

impl CgroupManager {
    /// The manager of a host's tree. Touches nothing yet. Fails for a `cgroupRoot` that is no path.
    pub fn new(settings: CgroupSettings, hierarchy: Hierarchy) -> Result<Self, CgroupError> {
        let units = Tree::host_units(settings.driver);
        Self::with_kernel(settings, hierarchy, Box::new(HostKernel), units)
    }

    fn with_kernel(
        mut settings: CgroupSettings,
        hierarchy: Hierarchy,
        kernel: Box<dyn Kernel>,
        units: Option<Box<dyn Units>>,
    ) -> Result<Self, CgroupError> {
        let root = CgroupName::from_cgroupfs(&settings.cgroup_root).ok_or_else(|| {
            let paths = vec![PathBuf::from(&settings.cgroup_root)];
            CgroupError::Root(Box::new(CgroupError::MissingPaths { name: CgroupName::default(), paths }))
        })?;
        if hierarchy.version() == Version::V1 {
            settings.pods.memory_qos = None;
        }
        let inner = Inner {
            tree: Arc::new(Tree { hierarchy, kernel, units }),
            names: TreeNames::below(root),
            settings,
            kubepods: Mutex::default(),
            qos: Mutex::default(),
            finished: Mutex::default(),
            calls: Bulkhead::new("the cgroups of pods", BLOCKING_PLACES, PATIENCE),
        };
        Ok(CgroupManager { inner: Arc::new(inner) })
    }

    /// The version of the host's cgroups.
    pub fn version(&self) -> Version {
        self.inner.tree.hierarchy.version()
    }

    /// What CRI gets as a pod's `cgroup_parent`: the pod's cgroup by the driver's naming, or nothing without a tree.
    pub fn pod_cgroup_parent(&self, pod: &Pod) -> String {
        let name = self.inner.pod_name(&uid_of(pod), QosClass::of(pod));
        name.map(|name| name.path(self.inner.settings.driver)).unwrap_or_default()
    }

    /// The hierarchies of the host.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.inner.tree.hierarchy
    }

    /// Where a pod's cgroup may be, one path for each QoS class, by the driver's naming; none without a tree.
    pub fn pod_cgroup_candidates(&self, uid: &PodUid) -> Vec<String> {
        self.inner.pod_names(uid).iter().map(|name| name.path(self.inner.settings.driver)).collect()
    }

    /// The cgroups of the QoS classes, by the driver's naming; none without a tree.
    pub fn class_cgroups(&self) -> Vec<String> {
        let names = &self.inner.names;
        let classes = [&names.burstable, &names.best_effort].map(|name| name.path(self.inner.settings.driver));
        if self.inner.settings.cgroups_per_qos { classes.into() } else { Vec::new() }
    }

    /// The cgroup that holds all pods, by the driver's naming.
    pub fn pods_cgroup(&self) -> String {
        let names = &self.inner.names;
        let name = if self.inner.settings.cgroups_per_qos { &names.kubepods } else { &names.root };
        name.path(self.inner.settings.driver)
    }

    /// Checks `cgroupRoot`, makes the tree and puts the node's limits into force, those of reserved cgroups included.
    /// `capacity` holds CPU, memory, process ids (`pid`) and huge pages. Safe to call again at any time.
    ///
    /// Fails if `cgroupRoot` is missing or the tree cannot be made; limits that are refused are in the outcomes.
    pub async fn ensure_node(&self, capacity: &ResourceTotals) -> Result<Vec<Enforced>, CgroupError> {
        let capacity = capacity.clone();
        self.blocking(move |inner| inner.ensure_node(&capacity)).await
    }

    /// Moves what runs in the root into the cgroup at that path (`systemCgroups`), which is made if it is missing. How many
    /// processes that were. Safe to call again at any time.
    ///
    /// Fails for the root itself, if the cgroup cannot be made, or if the kernel refuses to move a process.
    pub async fn gather_system(&self, path: &str) -> Result<usize, CgroupError> {
        let path = path.to_owned();
        self.blocking(move |inner| inner.tree.gather(&path, Path::new("/proc"))).await
    }

    /// Puts the agent into the cgroup at that path again (`kubeletCgroups`, [`super::enter()`]), where it is no longer in it.
    /// Whether that was anywhere.
    ///
    /// Fails as [`super::enter()`].
    pub async fn enter(&self, path: &str) -> Result<bool, CgroupError> {
        let path = path.to_owned();
        self.blocking(move |inner| inner.tree.enter(&path, std::process::id())).await
    }

    /// Makes a pod's cgroup with its limits if it is missing, or unfinished by an agent that was cut off. One that is
    /// there is left as it is. A limit that the kernel refuses is logged and left out, as the peer does: containers carry
    /// their own.
    pub async fn ensure_pod(&self, pod: &Pod) -> Result<(), CgroupError> {
        let Some((uid, name)) = self.inner.named(pod)? else { return Ok(()) };
        let values = pod_values(pod, &self.inner.settings.pods, false);
        self.blocking(move |inner| inner.ensure_pod(uid, &name, &values)).await
    }

    /// Whether a pod's cgroup is there in full; always so without a tree.
    pub async fn pod_exists(&self, pod: &Pod) -> Result<bool, CgroupError> {
        let Some((_, name)) = self.inner.named(pod)? else { return Ok(true) };
        self.blocking(move |inner| Ok(inner.tree.exists(&name))).await
    }

    /// Puts a pod's values into force again, after they changed. `exclusive_cpus` lifts its quota.
    pub async fn update_pod(&self, pod: &Pod, exclusive_cpus: bool) -> Result<(), CgroupError> {
        let Some((_, name)) = self.inner.named(pod)? else { return Ok(()) };
        let values = pod_values(pod, &self.inner.settings.pods, exclusive_cpus);
        self.blocking(move |inner| inner.tree.set(&name, &values)).await
    }

    /// Gives a pod the least CPU shares: one that should be gone but whose volumes cannot be unmounted yet.
    pub async fn reduce_cpu(&self, uid: &PodUid, class: QosClass) -> Result<(), CgroupError> {
        let Some(name) = self.inner.pod_name(uid, class) else { return Ok(()) };
        let values = CgroupValues { cpu_shares: Some(MIN_CPU_SHARES), ..CgroupValues::default() };
        self.blocking(move |inner| inner.tree.set(&name, &values)).await
    }

    /// Removes a pod's cgroup with all below it and kills what is left in it; without a class, wherever it stands. Fine
    /// if there is none. Takes up to about a second if processes are slow to die.
    pub async fn remove_pod(&self, uid: &PodUid, class: Option<QosClass>) -> Result<(), CgroupError> {
        if !self.inner.settings.cgroups_per_qos {
            return Ok(());
        }
        let all = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];
        let classes = class.as_ref().map_or(&all[..], std::slice::from_ref);
        let names: Option<Vec<CgroupName>> = classes.iter().map(|class| self.inner.names.pod(uid, *class)).collect();
        let names = names.ok_or_else(|| refused(uid))?;
        remove::remove(Arc::clone(&self.inner.tree), names, &self.inner.calls).await?;
        lock(&self.inner.finished).remove(uid);
        Ok(())
    }

    /// Kills what is left of one of a pod's containers: all that is in those cgroups below the pod's whose name holds the
    /// container's id, as runtimes name them.
    pub async fn kill_container(&self, uid: &PodUid, id: &str) -> Result<(), CgroupError> {
        let (names, id) = (self.inner.pod_names(uid), id.to_owned());
        self.blocking(move |inner| inner.tree.kill_below(&names, &id)).await
    }

    /// All pods whose cgroup is there in any hierarchy.
    pub async fn pods(&self) -> Result<Vec<FoundPod>, CgroupError> {
        self.blocking(|inner| inner.pods()).await
    }

    /// Makes the QoS classes' values follow the pods that are active. Costs nothing to speak of if they did not change.
    pub async fn update_qos(&self, pods: &[Arc<Pod>]) -> Result<(), CgroupError> {
        if !self.inner.settings.cgroups_per_qos {
            return Ok(());
        }
        let reservation = self.inner.reservation();
        let sums = QosSums::over(pods.iter().map(Arc::as_ref));
        let is_kept = reservation == MemoryReservation::Tiered;
        let kept = |bytes: i64| if is_kept { bytes_of(bytes) } else { 0.0 };
        metrics::MEMORY_MIN.set(&[], kept(sums.guaranteed_memory));
        metrics::MEMORY_LOW.set(&[], kept(sums.burstable_memory));
        let values = qos_values(&sums, reservation);
        if lock(&self.inner.qos).as_ref() == Some(&values) {
            return Ok(());
        }
        self.blocking(move |inner| inner.set_qos(values)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, CgroupError> + Send + 'static,
    ) -> Result<T, CgroupError> {
        let inner = Arc::clone(&self.inner);
        self.inner.calls.run(move || work(&inner)).await?
    }
}

impl Inner {
    /// Where a pod's cgroup may be; none without a tree.
    fn pod_names(&self, uid: &PodUid) -> Vec<CgroupName> {
        let classes = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort];
        classes.into_iter().filter_map(|class| self.pod_name(uid, class)).collect()
    }

    fn pod_name(&self, uid: &PodUid, class: QosClass) -> Option<CgroupName> {
        self.settings.cgroups_per_qos.then(|| self.names.pod(uid, class)).flatten()
    }

    /// A pod's UID and cgroup; none without a tree.
    fn named(&self, pod: &Pod) -> Result<Option<(PodUid, CgroupName)>, CgroupError> {
        if !self.settings.cgroups_per_qos {
            return Ok(None);
        }
        let uid = uid_of(pod);
        let name = self.names.pod(&uid, QosClass::of(pod)).ok_or_else(|| refused(&uid))?;
        Ok(Some((uid, name)))
    }

    fn reservation(&self) -> MemoryReservation {
        self.settings.pods.memory_qos.map(|qos| qos.reservation).unwrap_or_default()
    }

    fn ensure_node(&self, capacity: &ResourceTotals) -> Result<Vec<Enforced>, CgroupError> {
        let settings = &self.settings;
        let for_pods = if settings.cgroups_per_qos && settings.enforce.pods {
            allocatable(capacity, &[&settings.system_reserved, &settings.kube_reserved])
        } else {
            capacity.clone()
        };
        let values = kubepods_values(&for_pods);
        let mut outcomes = Vec::new();
        let mut report = |subject, cgroup: String, result: Result<(), CgroupError>| {
            outcomes.push(Enforced { subject, cgroup, error: result.err() });
        };
        let names = &self.names;
        if settings.cgroups_per_qos {
            self.tree.validate(&names.root).map_err(|error| CgroupError::Root(Box::new(error)))?;
            *lock(&self.kubepods) = values.clone();
            self.make_tree()?;
            report(EnforcedSubject::Pods, format!("{:?}", names.kubepods), self.tree.set(&names.kubepods, &values));
        } else if !names.root.is_root() {
            self.tree.make(&names.root)?;
            report(EnforcedSubject::Pods, format!("{:?}", names.root), self.tree.set(&names.root, &values));
        }
        let (system, kube) = (&settings.system_reserved, &settings.kube_reserved);
        let (system_cgroup, kube_cgroup) = (&settings.system_reserved_cgroup, &settings.kube_reserved_cgroup);
        let enforce = settings.enforce;
        for scope in [ReservedScope::All, ReservedScope::Compressible] {
            let (for_system, for_kube) = match scope {
                ReservedScope::All => (enforce.system_reserved, enforce.kube_reserved),
                ReservedScope::Compressible => {
                    (enforce.system_reserved_compressible, enforce.kube_reserved_compressible)
                }
            };
            if for_system {
                let result = self.set_existing(system_cgroup, system, scope);
                report(EnforcedSubject::SystemReserved(scope), system_cgroup.clone(), result);
            }
            if for_kube {
                let result = self.set_existing(kube_cgroup, kube, scope);
                report(EnforcedSubject::KubeReserved(scope), kube_cgroup.clone(), result);
            }
        }
        Ok(outcomes)
    }

    /// Limits a cgroup that someone else must have made.
    fn set_existing(&self, path: &str, reserved: &ResourceTotals, scope: ReservedScope) -> Result<(), CgroupError> {
        let name = CgroupName::of_path(path, self.settings.driver).filter(|name| !name.is_root()).ok_or_else(|| {
            CgroupError::MissingPaths { name: CgroupName::default(), paths: vec![PathBuf::from(path)] }
        })?;
        self.tree.validate(&name)?;
        let protect_memory = self.settings.pods.memory_qos.is_some();
        self.tree.set(&name, &reserved_values(reserved, scope, protect_memory))
    }

    /// Makes kubepods and the QoS classes. A class that is there keeps its CPU shares until [`Self::set_qos`] knows the
    /// pods: a restart of the agent must not starve pods that run.
    fn make_tree(&self) -> Result<(), CgroupError> {
        let names = &self.names;
        self.tree.fill_cpuset(&names.root)?;
        let new = !self.tree.exists(&names.kubepods);
        self.tree.make(&names.kubepods)?;
        if new {
            self.set_or_warn(&names.kubepods, &lock(&self.kubepods).clone());
        }
        let known = lock(&self.qos).clone();
        let mut values = known.clone().unwrap_or_else(|| qos_values(&QosSums::default(), self.reservation()));
        if known.is_none() && self.tree.exists(&names.burstable) {
            values.burstable.cpu_shares = None;
        }
        if known.is_none() && self.reservation() == MemoryReservation::Tiered {
            // The same for protection that depends on the pods.
            values.kubepods.unified.clear();
            values.burstable.unified.clear();
        }
        for (name, values) in [
            (&names.burstable, &values.burstable),
            (&names.best_effort, &values.best_effort),
            (&names.kubepods, &values.kubepods),
        ] {
            self.tree.make(name)?;
            self.set_or_warn(name, values);
        }
        Ok(())
    }

    fn set_or_warn(&self, name: &CgroupName, values: &CgroupValues) {
        if let Err(error) = self.tree.set(name, values) {
            warn!(cgroup = ?name, %error, "Could not set all values of a cgroup");
        }
    }

    fn ensure_pod(&self, uid: PodUid, name: &CgroupName, values: &CgroupValues) -> Result<(), CgroupError> {
        let known = lock(&self.finished).contains(&uid);
        if self.tree.exists(name) && (known || self.tree.is_finished(name)) {
            if !known {
                lock(&self.finished).insert(uid);
            }
            return Ok(());
        }
        match self.tree.make(name) {
            Err(
                error @ (CgroupError::NoParent { .. }
                | CgroupError::MissingControllers { .. }
                | CgroupError::NoControllers { .. }),
            ) => {
                warn!(%error, "The cgroup tree is incomplete: making it again");
                self.make_tree()?;
                self.tree.make(name)?;
            }
            made => made?,
        }
        self.set_or_warn(name, values);
        lock(&self.finished).insert(uid);
        Ok(())
    }

    fn pods(&self) -> Result<Vec<FoundPod>, CgroupError> {
        if !self.settings.cgroups_per_qos {
            return Ok(Vec::new());
        }
        let mut found: BTreeMap<(PodUid, QosClass), Vec<PathBuf>> = BTreeMap::new();
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            for (uid, directory) in self.tree.pods_below(self.names.of_class(class))? {
                found.entry((uid, class)).or_default().push(directory);
            }
        }
        let found = found.into_iter();
        Ok(found.map(|((uid, class), directories)| FoundPod { uid, class, directories }).collect())
    }

    fn set_qos(&self, values: QosValues) -> Result<(), CgroupError> {
        // Held over the writes, so that two updates do not mix.
        let mut applied = lock(&self.qos);
        let names = &self.names;
        let before = applied.take();
        let changes = [
            (&names.kubepods, &values.kubepods, before.as_ref().map(|b| &b.kubepods)),
            (&names.burstable, &values.burstable, before.as_ref().map(|b| &b.burstable)),
            (&names.best_effort, &values.best_effort, before.as_ref().map(|b| &b.best_effort)),
        ];
        for (name, wanted, before) in changes {
            if before == Some(wanted) {
                continue;
            }
            if let Err(error) = self.tree.set(name, wanted) {
                debug!(cgroup = ?name, %error, "Could not set a QoS class: making it again");
                self.tree.make(name)?;
                self.tree.set(name, wanted)?;
            }
        }
        *applied = Some(values);
        Ok(())
    }
}

/// Metrics hold floating point numbers: beyond 2^53 the last bytes are lost.
#[allow(clippy::cast_precision_loss, reason = "the format holds nothing else")]
fn bytes_of(bytes: i64) -> f64 {
    bytes as f64
}

fn uid_of(pod: &Pod) -> PodUid {
    PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())
}

fn refused(uid: &PodUid) -> CgroupError {
    CgroupError::PodUid { uid: uid.to_string() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "manager_systemd_tests.rs"]
mod systemd_tests;

#[cfg(test)]
#[path = "manager_host_tests.rs"]
mod host_tests;
