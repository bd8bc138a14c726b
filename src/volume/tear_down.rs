//! Removes everything of a pod from the node's disk: mounts first, the innermost before the outer ones, then
//! directories. Safe to repeat after any earlier run, by this agent or the peer, that did not end.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use super::error::{FsError, IoContext};
use super::layout::{PLUGINS, PODS, SUB_PATHS, VOLUMES, VolumeKind};
use super::removal::{OnMount, remove_tree};
use crate::model::pod::PodUid;
use crate::sys::beneath::{Dir, FileType, is_wrong_kind};
use crate::sys::mount::{Mounts, unmount_all};

/// Removes the pod's directory and everything in it. A pod that is not there is no error.
///
/// Volumes of plugins that are not ours (CSI and so on, left by another agent) lose empty directories at most: their
/// content may be the only copy.
///
/// # Errors
/// With every part that resisted; the others are gone.
pub fn tear_down(root: &Path, uid: &PodUid, mounts: &dyn Mounts) -> Result<(), Vec<FsError>> {
    let mut failures = Vec::new();
    match pod_directory(root, uid) {
        Ok(Some((pods, pod))) => {
            let mut work = TearDown { mounts, failures: &mut failures };
            work.sub_paths(&pod);
            work.volumes(&pod);
            if work.failures.is_empty() {
                // All mounts that belong here are gone; one that is left is none of ours to take off.
                let removed = remove_tree(&pods, OsStr::new(uid.as_str()), mounts, OnMount::Refuse);
                failures.extend(removed.err());
            }
        }
        Ok(None) => {}
        Err(failure) => failures.push(failure),
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn pod_directory(root: &Path, uid: &PodUid) -> Result<Option<(Dir, Dir)>, FsError> {
    let path = root.join(PODS);
    let pods = match Dir::open(&path) {
        Ok(pods) => pods,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).doing("open", path),
    };
    match pods.child(uid.as_str()) {
        Ok(pod) => Ok(Some((pods, pod))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("open", pods.path_of(uid.as_str())),
    }
}

struct TearDown<'a> {
    mounts: &'a dyn Mounts,
    failures: &'a mut Vec<FsError>,
}

impl TearDown<'_> {
    fn note<T>(&mut self, result: Result<T, FsError>) -> Option<T> {
        result.map_err(|failure| self.failures.push(failure)).ok()
    }

    /// A directory in another; none, without a failure, if there is no such thing.
    fn child(&mut self, parent: &Dir, name: &OsStr) -> Option<Dir> {
        match parent.child(name) {
            Err(error) if is_wrong_kind(&error) => None,
            other => self.note(other.doing("open", parent.path_of(name))),
        }
    }

    fn names(&mut self, dir: &Dir) -> Vec<OsString> {
        let entries = self.note(dir.entries().doing("list", dir.path())).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }

    /// `volume-subpaths/<volume>/<container>/<index>`: each index is a file or directory with something bound to it.
    fn sub_paths(&mut self, pod: &Dir) {
        let Some(all) = self.child(pod, OsStr::new(SUB_PATHS)) else { return };
        for volume in self.names(&all) {
            if let Some(of_volume) = self.child(&all, &volume) {
                for container in self.names(&of_volume) {
                    self.sub_paths_of(&of_volume, &container);
                }
            }
            self.remove_empty(&all, &volume);
        }
        self.remove_empty(pod, OsStr::new(SUB_PATHS));
    }

    fn sub_paths_of(&mut self, of_volume: &Dir, container: &OsStr) {
        if let Some(of_container) = self.child(of_volume, container) {
            for index in self.names(&of_container) {
                self.sub_path(&of_container, &index);
            }
        }
        self.remove_empty(of_volume, container);
    }

    fn sub_path(&mut self, parent: &Dir, index: &OsStr) {
        let unmounted = unmount_all(self.mounts, parent, index).doing("unmount", parent.path_of(index));
        if self.note(unmounted).is_none() {
            return;
        }
        // Only ever a mount point: a directory that is not empty is kept and named.
        self.remove_empty(parent, index);
    }

    /// Removes an empty directory, or a file that served as mount point, or a link that should not be there.
    fn remove_empty(&mut self, parent: &Dir, name: &OsStr) {
        let path = parent.path_of(name);
        let removed = match parent.handle(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(error),
            Ok(handle) if handle.is_dir() => parent.remove_dir(name),
            Ok(_) => parent.remove_file(name),
        };
        if self.failures.iter().any(|failure| failure.path.starts_with(&path)) {
            // It cannot be empty, and why has been said.
            return;
        }
        self.note(removed.doing("remove", path));
    }

    fn volumes(&mut self, pod: &Dir) {
        let Some(volumes) = self.child(pod, OsStr::new(VOLUMES)) else { return };
        for plugin in self.names(&volumes) {
            if let Some(of_plugin) = self.child(&volumes, &plugin) {
                let is_own = plugin.to_str().is_some_and(VolumeKind::is_own_directory);
                for volume in self.names(&of_plugin) {
                    if is_own {
                        self.own_volume(pod, &of_plugin, &volume);
                    } else {
                        self.foreign(&of_plugin, &volume);
                    }
                }
            }
            self.remove_empty(&volumes, &plugin);
        }
        self.remove_empty(pod, OsStr::new(VOLUMES));
    }

    fn own_volume(&mut self, pod: &Dir, of_plugin: &Dir, volume: &OsStr) {
        // The marker goes first: what is half gone must not be taken for whole.
        if let Some(markers) = marker_directory(pod) {
            for marker in [volume.to_owned(), wrapped(volume)] {
                self.note(remove_tree(&markers, &marker, self.mounts, OnMount::Refuse));
            }
        }
        let unmounted = unmount_all(self.mounts, of_plugin, volume).doing("unmount", of_plugin.path_of(volume));
        if self.note(unmounted).is_none() {
            return;
        }
        // A container with bidirectional propagation may have left mounts inside; they are taken off, not emptied.
        self.note(remove_tree(of_plugin, volume, self.mounts, OnMount::Unmount));
    }

    /// Takes away directories that are empty and refuses everything else.
    fn foreign(&mut self, parent: &Dir, name: &OsStr) {
        let dir = match parent.child_on_same_mount(name) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.note(
                    Err::<(), _>(error).doing("remove, as it belongs to another volume plugin,", parent.path_of(name)),
                );
                return;
            }
        };
        let entries = self.note(dir.entries().doing("list", dir.path())).unwrap_or_default();
        for entry in entries.iter().filter(|entry| entry.kind == FileType::Directory) {
            let removed = dir.remove_dir(&entry.name);
            self.note(removed.doing("remove, as it belongs to another volume plugin,", dir.path_of(&entry.name)));
        }
        self.remove_empty(parent, name);
    }
}

fn marker_directory(pod: &Dir) -> Option<Dir> {
    pod.child(PLUGINS).ok()?.child(VolumeKind::EmptyDir.directory()?).ok()
}

fn wrapped(volume: &OsStr) -> OsString {
    let mut name = OsString::from("wrapped_");
    name.push(volume);
    name
}

/// The UIDs of the pods that have a directory.
///
/// # Errors
/// When the directory of pods is there and cannot be read.
pub fn pods_on_disk(root: &Path) -> Result<Vec<PodUid>, FsError> {
    let path = root.join(PODS);
    let pods = match Dir::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing("open", &path)?,
    };
    let entries = pods.entries().doing("list", &path)?;
    let is_dir = |kind| matches!(kind, FileType::Directory | FileType::Unknown);
    let names = entries.into_iter().filter(|e| is_dir(e.kind)).filter_map(|e| e.name.into_string().ok());
    let mut uids: Vec<PodUid> = names.map(PodUid::from).collect();
    uids.sort();
    Ok(uids)
}
