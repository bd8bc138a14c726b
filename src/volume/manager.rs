//! The handle through which pods get their volumes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::counts::{self, Counts};
use super::error::{FsError, IoContext, SetUpError, VolumeError, VolumeFailure};
use super::layout::{OWN_MODE, PODS, VolumeKind, is_plain_name, pod_directory};
use super::objects::VolumeObjects;
use super::plan::{Backing, HostPathType, NodeAmounts, VolumePlan, plan_volume, used_volumes};
use super::projection::ResolvedObjects;
use super::references::references;
use super::set_up::SetUp;
use super::sub_path::{self, SubPathRequest};
use super::tear_down;
use crate::metrics::kubelet as metrics;
use crate::model::pod::{PodKey, PodUid};
use crate::model::{Timestamp, clock};
use crate::sys::beneath::Dir;
use crate::sys::bulkhead::Bulkhead;
use crate::sys::mount::Mounts;

/// Pods whose volumes are worked on at once.
const OWN_PLACES: usize = 8;
/// The same for pods with volumes that are on the node outside of the agent's root directory, which may be on disks that do not
/// answer. More, since each that hangs takes one of them.
const HOST_PLACES: usize = 16;
/// All blocking threads that volumes can take.
pub const BLOCKING_PLACES: usize = OWN_PLACES + HOST_PLACES;
/// How long a pod waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// The volumes of a pod, ready for containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountedVolumes {
    volumes: BTreeMap<String, MountedVolume>,
    refresh_at: Option<Timestamp>,
}

impl MountedVolumes {
    /// The volume of that name; none if no container uses it.
    pub fn get(&self, name: &str) -> Option<&MountedVolume> {
        self.volumes.get(name)
    }

    /// All volumes by name.
    pub fn iter(&self) -> impl Iterator<Item = &MountedVolume> {
        self.volumes.values()
    }

    /// When [`VolumeManager::mount`] must be called again: a token is to be replaced then.
    pub fn refresh_at(&self) -> Option<Timestamp> {
        self.refresh_at
    }
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// `spec.volumes[].name`.
    pub name: String,
    /// Where it is on the node; empty for images.
    pub host_path: PathBuf,
    /// Whether containers may never write to it, whatever their volume mount says.
    pub read_only: bool,
    /// What it is.
    pub kind: VolumeKind,
}

impl MountedVolume {
    /// Whether the runtime is to give its files the pod's SELinux label.
    pub fn is_relabelled(&self) -> bool {
        self.kind.is_relabelled()
    }
}

/// Sets volumes up and removes them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct VolumeManager {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    objects: Arc<dyn VolumeObjects>,
    mounts: Arc<dyn Mounts>,
    node: RwLock<Arc<NodeAmounts>>,
    /// One lock for each pod that is worked on, so that work given up by its caller and its successor do not meet.
    busy: Mutex<HashMap<PodUid, Weak<tokio::sync::Mutex<()>>>>,
    counts: Counts,
    own_places: Bulkhead,
    host_places: Bulkhead,
}

impl fmt::Debug for VolumeManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeManager").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

/// Tells work on a blocking thread that nobody waits for it any more.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl VolumeManager {
    /// A manager for the root directory (`/var/lib/kubelet` by default). Touches nothing yet.
    pub fn new(root: PathBuf, objects: Arc<dyn VolumeObjects>, mounts: Arc<dyn Mounts>) -> Self {
        let inner = Inner {
            root,
            objects,
            mounts,
            node: RwLock::default(),
            busy: Mutex::default(),
            counts: Counts::default(),
            own_places: Bulkhead::new("volumes of pods", OWN_PLACES, PATIENCE),
            host_places: Bulkhead::new("volumes of pods that use the node's paths", HOST_PLACES, PATIENCE),
        };
        VolumeManager { inner: Arc::new(inner) }
    }

    /// Tells what the node can give to pods (`status.allocatable`); emptyDirs in memory and the downward API depend on it.
    pub fn set_allocatable(&self, allocatable: BTreeMap<String, Quantity>) {
        *self.inner.node.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(NodeAmounts { allocatable });
    }

    /// Makes the root directory and the ones that other programs look for in it, and shares its mount, so that mounts of
    /// volumes and of drivers are seen on both sides. To be called once, at start.
    ///
    /// # Errors
    /// With the path that resisted.
    pub async fn prepare_root(&self) -> Result<(), VolumeError> {
        let inner = self.inner.clone();
        let places = self.inner.own_places.clone();
        places.run(move || prepare_root(&inner.root, inner.mounts.as_ref()).map_err(VolumeError::from)).await?
    }

    /// A pod's own directory.
    pub fn pod_directory(&self, uid: &PodUid) -> PathBuf {
        pod_directory(&self.inner.root, uid)
    }

    /// Whether all that the pod's volumes refer to is there; changes nothing and asks for no token.
    ///
    /// # Errors
    /// [`VolumeError::SetUp`] with every volume that could not be set up now, and why.
    pub async fn resolve(&self, pod: &Pod) -> Result<(), VolumeError> {
        let objects = self.fetch(pod, false).await;
        let (_, failures) = self.plan(pod, &objects);
        if failures.is_empty() { Ok(()) } else { Err(VolumeError::SetUp(failures)) }
    }

    /// Sets the pod's volumes up, or brings them up to date: files are written only where they changed.
    ///
    /// Volumes that no container uses are left out, as in the peer.
    ///
    /// # Errors
    /// [`VolumeError::SetUp`] with every volume that failed; those are as they were before, the others are set up.
    pub async fn mount(&self, pod: &Pod) -> Result<MountedVolumes, VolumeError> {
        let uid = PodKey::of(pod).uid;
        checked_name(uid.as_str())?;
        let objects = self.fetch(pod, true).await;
        let (plans, failures) = self.plan(pod, &objects);
        drop(objects);
        self.inner.counts.want(&uid, used_volumes(pod).into_iter().filter_map(VolumeKind::of).collect());
        let now = clock::now();
        // One without a type is not looked at.
        let is_looked_at =
            |plan: &VolumePlan| matches!(plan.backing, Backing::HostPath { kind, .. } if kind != HostPathType::Unset);
        let places = self.places(plans.iter().any(is_looked_at));
        let work = move |inner: &Inner, uid: &PodUid, given_up: &_| set_up(inner, uid, plans, failures, now, given_up);
        self.exclusively(&uid, places, work).await
    }

    /// Removes everything of the pod: mounts, files and directories. A pod that is not there is no error.
    ///
    /// No container of the pod may run any more. No mount is emptied and no link is followed.
    ///
    /// # Errors
    /// [`VolumeError::TearDown`] with every path that resisted; to be called again.
    pub async fn unmount(&self, uid: &PodUid) -> Result<(), VolumeError> {
        checked_name(uid.as_str())?;
        self.inner.objects.forget_tokens(uid);
        let held = self.inner.counts.held(uid);
        // Of what an earlier agent set up nothing is known.
        let places = self.places(held.is_empty() || held.contains(&VolumeKind::HostPath));
        self.exclusively(uid, places, |inner, uid, _| {
            let began = Instant::now();
            let removed = tear_down::tear_down(&inner.root, uid, inner.mounts.as_ref());
            for kind in inner.counts.held(uid) {
                counts::observe("volume_unmount", kind, removed.is_ok(), began);
            }
            if removed.is_ok() {
                inner.counts.forget(uid);
            }
            removed.map_err(VolumeError::TearDown)
        })
        .await
    }

    /// Makes a `subPath` of a mounted volume available to a container; gives the path for the runtime.
    ///
    /// `index` is the volume mount's place in the container, `sub_path` what the mount says, with variables filled in.
    ///
    /// # Errors
    /// In words that tell the user nothing of the node's files; the source has them, for the node's log.
    pub async fn prepare_sub_path(
        &self,
        uid: &PodUid,
        volume: &MountedVolume,
        container: &str,
        index: usize,
        sub_path: &str,
    ) -> Result<PathBuf, VolumeError> {
        for name in [uid.as_str(), &volume.name, container] {
            checked_name(name)?;
        }
        let request = SubPathRequest {
            uid: uid.clone(),
            volume: volume.name.clone(),
            volume_path: volume.host_path.clone(),
            container: container.to_owned(),
            index,
            sub_path: sub_path.to_owned(),
        };
        let places = self.places(volume.kind == VolumeKind::HostPath);
        self.exclusively(uid, places, move |inner, uid, given_up| {
            if given_up.load(Ordering::Acquire) {
                return Err(VolumeError::Interrupted { uid: uid.to_string() });
            }
            sub_path::prepare(&inner.root, &request, inner.mounts.as_ref())
        })
        .await
    }

    /// Brings up to date what `/metrics` tells of how many volumes there are.
    pub fn update_metrics(&self) {
        let totals = self.inner.counts.totals();
        metrics::VOLUMES.replace(totals.into_iter().map(|(labels, count)| (labels, f64::from(count))));
    }

    /// The pods that have a directory, running or not. A directory of pods that cannot be read is logged.
    pub async fn pods_on_disk(&self) -> Vec<PodUid> {
        let inner = self.inner.clone();
        let found = self.inner.own_places.run(move || Ok(tear_down::pods_on_disk(&inner.root)?)).await;
        found.map_err(VolumeError::from).flatten().unwrap_or_else(|error| {
            tracing::error!(%error, "left-over pods on disk cannot be looked for");
            Vec::new()
        })
    }

    async fn fetch(&self, pod: &Pod, with_tokens: bool) -> ResolvedObjects {
        let references = references(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let source = self.inner.objects.as_ref();
        let tokens = if with_tokens { references.tokens } else { Vec::new() };
        let config_maps = join_all(references.config_maps.into_iter().map(async |name| {
            let found = source.config_map(namespace, &name).await;
            (name, found)
        }));
        let secrets = join_all(references.secrets.into_iter().map(async |name| {
            let found = source.secret(namespace, &name).await;
            (name, found)
        }));
        let tokens = join_all(tokens.into_iter().map(async |request| {
            let found = source.service_account_token(&request).await;
            (request, found)
        }));
        let (config_maps, secrets, tokens) = futures::join!(config_maps, secrets, tokens);
        ResolvedObjects {
            config_maps: config_maps.into_iter().collect(),
            secrets: secrets.into_iter().collect(),
            tokens: tokens.into_iter().collect(),
        }
    }

    fn plan(&self, pod: &Pod, objects: &ResolvedObjects) -> (Vec<VolumePlan>, Vec<VolumeFailure>) {
        let node = self.inner.node.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut plans, mut failures) = (Vec::new(), Vec::new());
        for volume in used_volumes(pod) {
            match plan_volume(pod, volume, objects, &node) {
                Ok(plan) => plans.push(plan),
                Err(error) => failures.push(failure(&volume.name, error.into())),
            }
        }
        (plans, failures)
    }

    /// Where work is done that touches the node's own paths, or the agent's directories alone.
    fn places(&self, touches_host: bool) -> &Bulkhead {
        if touches_host { &self.inner.host_places } else { &self.inner.own_places }
    }

    /// Runs work on a pod on a blocking thread, never two at once for the same pod.
    async fn exclusively<T: Send + 'static>(
        &self,
        uid: &PodUid,
        places: &Bulkhead,
        work: impl FnOnce(&Inner, &PodUid, &AtomicBool) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let given_up = GivenUp(Arc::default());
        let turn = self.inner.turn(uid).await;
        let (inner, owned, flag) = (self.inner.clone(), uid.clone(), given_up.0.clone());
        places
            .run(move || {
                let _turn = turn;
                work(&inner, &owned, &flag)
            })
            .await?
    }
}

impl Inner {
    /// Waits until nothing else works on the pod. Without a thread: one that hangs is enough.
    async fn turn(&self, uid: &PodUid) -> OwnedMutexGuard<()> {
        let lock = {
            let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, lock| lock.strong_count() > 0);
            let lock = busy.get(uid).and_then(Weak::upgrade).unwrap_or_default();
            busy.insert(uid.clone(), Arc::downgrade(&lock));
            lock
        };
        lock.lock_owned().await
    }
}

fn failure(volume: &str, cause: SetUpError) -> VolumeFailure {
    VolumeFailure { volume: volume.to_owned(), cause }
}

fn checked_name(name: &str) -> Result<(), VolumeError> {
    if is_plain_name(name) { Ok(()) } else { Err(VolumeError::Name { name: name.to_owned() }) }
}

/// One thread for all volumes of a pod: each takes some ten to hundred microseconds, less than to hand it over.
fn set_up(
    inner: &Inner,
    uid: &PodUid,
    plans: Vec<VolumePlan>,
    mut failures: Vec<VolumeFailure>,
    now: Timestamp,
    given_up: &AtomicBool,
) -> Result<MountedVolumes, VolumeError> {
    // Checked under the lock: when the pod's removal has run since, nothing may come back.
    let interrupted = || VolumeError::Interrupted { uid: uid.to_string() };
    if given_up.load(Ordering::Acquire) {
        return Err(interrupted());
    }
    let set_up = SetUp::begin(&inner.root, uid, inner.mounts.as_ref(), now)?;
    let mut mounted = MountedVolumes::default();
    for plan in plans {
        if given_up.load(Ordering::Acquire) {
            return Err(interrupted());
        }
        let kind = kind_of(&plan.backing);
        let work = || checked_volume_name(&plan).and_then(|()| set_up.volume(&plan));
        match counts::timed("volume_mount", kind, work) {
            Ok(host_path) => {
                mounted.refresh_at = earliest(mounted.refresh_at, plan.refresh_at);
                let read_only = kind.is_read_only();
                let volume = MountedVolume { name: plan.name.clone(), host_path, read_only, kind };
                mounted.volumes.insert(plan.name, volume);
            }
            Err(cause) => failures.push(failure(&plan.name, cause)),
        }
    }
    inner.counts.hold(uid, mounted.iter().map(|volume| volume.kind).collect());
    if failures.is_empty() { Ok(mounted) } else { Err(VolumeError::SetUp(failures)) }
}

fn checked_volume_name(plan: &VolumePlan) -> Result<(), SetUpError> {
    if is_plain_name(&plan.name) {
        return Ok(());
    }
    let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
    Err(FsError { action: "use as a directory's name", path: PathBuf::from(&plan.name), source }.into())
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn kind_of(backing: &Backing) -> VolumeKind {
    match backing {
        Backing::EmptyDir(_) => VolumeKind::EmptyDir,
        Backing::HostPath { .. } => VolumeKind::HostPath,
        Backing::Files { kind, .. } => *kind,
        Backing::Image => VolumeKind::Image,
    }
}

fn prepare_root(root: &Path, mounts: &dyn Mounts) -> Result<(), FsError> {
    let dir = Dir::open_or_make(root, OWN_MODE).doing("make directory", root)?;
    mounts.share(root).doing("share the mount of", root)?;
    drop(dir);
    // Opened again: sharing may have put a mount on top.
    let dir = Dir::open(root).doing("open", root)?;
    let directories = [
        (PODS, OWN_MODE),
        ("plugins", OWN_MODE),
        ("plugins_registry", OWN_MODE),
        ("pod-resources", OWN_MODE),
        ("checkpoints", 0o700),
    ];
    for (name, mode) in directories {
        // These may be links to another disk, as the root may be: they are the administrator's.
        let path = dir.path_of(name);
        Dir::open_or_make(&path, mode).doing("make directory", path)?;
    }
    Ok(())
}
