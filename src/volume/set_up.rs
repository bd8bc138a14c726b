//! Carries out the plans of one pod's volumes. Every step may be repeated; a half-done earlier run is carried on.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::atomic_writer::AtomicWriter;
use super::error::{FsError, IoContext, SetUpError};
use super::host_path;
use super::layout::{OWN_MODE, PLUGINS, PODS, VOLUMES, VolumeKind, marker_name, volume_directory};
use super::ownership::{ChangePolicy, give_to_group};
use super::payload::Payload;
use super::plan::{Backing, Medium, VolumePlan};
use crate::model::Timestamp;
use crate::model::pod::PodUid;
use crate::sys::beneath::Dir;
use crate::sys::mount::{Filesystem, Mounts, Tmpfs};

/// Mode of a volume's own directory: any user of the pod may work in it.
const VOLUME_MODE: u32 = 0o777;
/// The marker of a volume that was set up whole.
const READY: &str = "ready";

/// One pod's volumes being set up.
pub struct SetUp<'a> {
    root: &'a Path,
    uid: &'a PodUid,
    mounts: &'a dyn Mounts,
    now: Timestamp,
    volumes: Dir,
    plugins: Dir,
}

impl<'a> SetUp<'a> {
    /// Makes the pod's directories.
    ///
    /// # Errors
    /// With the path that resisted.
    pub fn begin(root: &'a Path, uid: &'a PodUid, mounts: &'a dyn Mounts, now: Timestamp) -> Result<Self, FsError> {
        let pods = root.join(PODS);
        let pods = Dir::open_or_make(&pods, OWN_MODE).doing("open", &pods)?;
        let pod = make(&pods, uid.as_str(), OWN_MODE)?;
        let (volumes, plugins) = (make(&pod, VOLUMES, OWN_MODE)?, make(&pod, PLUGINS, OWN_MODE)?);
        Ok(SetUp { root, uid, mounts, now, volumes, plugins })
    }

    /// Sets one volume up, or brings it up to date; gives its path on the node, which is empty for images.
    ///
    /// # Errors
    /// With the path that resisted.
    pub fn volume(&self, plan: &VolumePlan) -> Result<PathBuf, SetUpError> {
        match &plan.backing {
            Backing::Image => Ok(PathBuf::new()),
            Backing::HostPath { path, kind } => {
                host_path::check(path, *kind)?;
                Ok(path.clone())
            }
            Backing::EmptyDir(medium) => {
                self.empty_dir(plan, *medium)?;
                Ok(self.path(VolumeKind::EmptyDir, plan))
            }
            Backing::Files { kind, medium, payload, nested_mount_points } => {
                self.files(plan, *kind, *medium, payload, nested_mount_points)?;
                Ok(self.path(*kind, plan))
            }
        }
    }

    fn path(&self, kind: VolumeKind, plan: &VolumePlan) -> PathBuf {
        volume_directory(self.root, self.uid, kind, &plan.name).unwrap_or_default()
    }

    fn empty_dir(&self, plan: &VolumePlan, medium: Medium) -> Result<(), SetUpError> {
        let kind = VolumeKind::EmptyDir;
        let (parent, is_new) = self.place(kind, &plan.name, medium)?;
        // What a container has done to its directory since is its own business.
        if !is_new && self.is_ready(kind, &plan.name) {
            return Ok(());
        }
        if let Some(group) = plan.fs_group {
            let dir = parent.child(&plan.name).doing("open", parent.path_of(&plan.name))?;
            give_to_group(&dir, group, false, ChangePolicy::Always)?;
        }
        Ok(self.set_ready(kind, &plan.name)?)
    }

    fn files(
        &self,
        plan: &VolumePlan,
        kind: VolumeKind,
        medium: Medium,
        payload: &Payload,
        nested_mount_points: &[PathBuf],
    ) -> Result<(), SetUpError> {
        let (parent, _) = self.place(kind, &plan.name, medium)?;
        let dir = parent.child(&plan.name).doing("open", parent.path_of(&plan.name))?;
        for path in nested_mount_points {
            dir.make_path(path, 0o755).doing("make mount point", dir.path_of(path))?;
        }
        AtomicWriter { dir: &dir, fs_group: plan.fs_group, now: self.now, mounts: self.mounts }.write(payload)?;
        if !self.is_ready(kind, &plan.name) {
            self.set_ready(kind, &plan.name)?;
        }
        Ok(())
    }

    /// The volume's directory on its medium: gives its parent, and whether there was none before.
    fn place(&self, kind: VolumeKind, name: &str, medium: Medium) -> Result<(Dir, bool), SetUpError> {
        let parent = make(&self.volumes, kind.directory().unwrap_or_default(), OWN_MODE)?;
        let (dir, mut is_new) = parent.make_child(name, VOLUME_MODE).doing("make directory", parent.path_of(name))?;
        if !is_new && !self.is_ready(kind, name) {
            let mode = dir.as_handle().doing("examine", dir.path())?.mode();
            if mode & 0o777 != VOLUME_MODE {
                dir.set_mode(mode | VOLUME_MODE).doing("change the mode of", dir.path())?;
            }
        }
        let os_name = OsStr::new(name);
        let wanted = match medium {
            Medium::Disk => return Ok((parent, is_new)),
            Medium::Memory { .. } => Filesystem::Tmpfs,
            Medium::HugePages { .. } => Filesystem::Hugetlbfs,
        };
        if self.mounts.is_mount_point(&parent, os_name).doing("examine", parent.path_of(name))? {
            let found = self.mounts.filesystem(&parent, os_name).doing("examine", parent.path_of(name))?;
            if found != wanted {
                return Err(SetUpError::ForeignMount { path: parent.path_of(name) });
            }
        } else {
            is_new = true;
            let mounted = match medium {
                Medium::HugePages { page_size } => self.mounts.mount_hugetlbfs(&parent, os_name, page_size),
                Medium::Memory { size } => self.mounts.mount_tmpfs(&parent, os_name, &Tmpfs { size }),
                Medium::Disk => Ok(()),
            };
            mounted.doing("mount on", parent.path_of(name))?;
        }
        Ok((parent, is_new))
    }

    fn is_ready(&self, kind: VolumeKind, name: &str) -> bool {
        let directory = VolumeKind::EmptyDir.directory().unwrap_or_default();
        let markers = self.plugins.child(directory).and_then(|plugin| plugin.child(marker_name(kind, name)));
        markers.and_then(|markers| markers.handle(READY)).is_ok()
    }

    fn set_ready(&self, kind: VolumeKind, name: &str) -> Result<(), FsError> {
        let plugin = make(&self.plugins, VolumeKind::EmptyDir.directory().unwrap_or_default(), OWN_MODE)?;
        let markers = make(&plugin, &marker_name(kind, name), OWN_MODE)?;
        match markers.write_new_file(READY, b"", 0o644, None) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.doing("write", markers.path_of(READY)),
        }
    }
}

fn make(parent: &Dir, name: &str, mode: u32) -> Result<Dir, FsError> {
    Ok(parent.make_child(name, mode).doing("make directory", parent.path_of(name))?.0)
}
