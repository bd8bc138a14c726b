//! `subPath`: one file or directory of a volume, bound to a place that no container can move.
//!
//! The runtime mounts by path. Were it given the path inside the volume, a container could put a link there in between
//! (CVE-2017-1002101, CVE-2021-25741). So the thing itself is opened inside the volume, and bound from its descriptor.

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::error::{FsError, IoContext, VolumeError};
use super::layout::{OWN_MODE, PODS, SUB_PATHS};
use crate::model::pod::PodUid;
use crate::sys::beneath::{Dir, Handle};
use crate::sys::mount::{Mounts, is_dead, unmount_all};

/// What is to be made available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPathRequest {
    /// The pod.
    pub uid: PodUid,
    /// The volume's name.
    pub volume: String,
    /// The volume's path on the node.
    pub volume_path: PathBuf,
    /// The container.
    pub container: String,
    /// Which of the container's volume mounts it is, counted from 0.
    pub index: usize,
    /// `subPath`, or `subPathExpr` with its variables filled in.
    pub sub_path: String,
}

/// Refuses sub paths from the root and upwards.
///
/// # Errors
/// With the text that users see.
pub fn check(sub_path: &str) -> Result<(), VolumeError> {
    if sub_path.starts_with('/') {
        return Err(VolumeError::AbsoluteSubPath { sub_path: sub_path.to_owned() });
    }
    if sub_path.split('/').any(|component| component == "..") {
        return Err(VolumeError::SubPathBackstep { sub_path: sub_path.to_owned() });
    }
    Ok(())
}

/// Makes missing directories and binds the sub path; gives the path for the runtime. May be repeated.
///
/// # Errors
/// In words that tell the user nothing of the node's files.
pub fn prepare(root: &Path, request: &SubPathRequest, mounts: &dyn Mounts) -> Result<PathBuf, VolumeError> {
    check(&request.sub_path)?;
    let (volume, container) = (request.volume.clone(), request.container.clone());
    let source = match open_or_make(&request.volume_path, Path::new(&request.sub_path)) {
        Ok(source) => source,
        Err(Failed::Making(source)) => return Err(VolumeError::MakeSubPath { volume, container, source }),
        Err(Failed::Opening(source)) => return Err(VolumeError::PrepareSubPath { volume, container, source }),
    };
    bind(root, request, &source, mounts).map_err(|source| VolumeError::PrepareSubPath { volume, container, source })
}

enum Failed {
    Opening(FsError),
    Making(FsError),
}

/// What the sub path leads to. Directories that are missing get the mode of the volume, so that who may work in the one
/// may work in the other.
fn open_or_make(volume: &Path, sub_path: &Path) -> Result<Handle, Failed> {
    let root = Dir::open(volume).doing("open", volume).map_err(Failed::Opening)?;
    let full = || volume.join(sub_path);
    match root.resolve(sub_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.doing("open", full()).map_err(Failed::Opening),
    }
    let making = |result: io::Result<Dir>| result.doing("make directory", full()).map_err(Failed::Making);
    let mode = root.as_handle().doing("examine", volume).map_err(Failed::Opening)?.mode();
    let mut known = PathBuf::new();
    // None as long as directories are found; from the first one that is made on, links cannot be in the way any more.
    let mut made: Option<Dir> = None;
    for component in sub_path.components() {
        let Component::Normal(name) = component else { continue };
        made = match made {
            Some(dir) => Some(making(dir.make_child(name, mode).map(|(dir, _)| dir))?),
            None => {
                let next = known.join(name);
                match root.resolve_dir(&next) {
                    Ok(_) => None,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let parent = making(root.resolve_dir(&known))?;
                        Some(making(parent.make_child(name, mode).map(|(dir, _)| dir))?)
                    }
                    Err(error) => return making(Err(error)).and_then(|dir| as_handle(&dir)),
                }
            }
        };
        known.push(name);
    }
    match made {
        Some(dir) => as_handle(&dir),
        // Made by someone else meanwhile.
        None => root.resolve(sub_path).doing("open", full()).map_err(Failed::Opening),
    }
}

fn as_handle(dir: &Dir) -> Result<Handle, Failed> {
    dir.as_handle().doing("examine", dir.path()).map_err(Failed::Opening)
}

fn bind(root: &Path, request: &SubPathRequest, source: &Handle, mounts: &dyn Mounts) -> Result<PathBuf, FsError> {
    let pods = root.join(PODS);
    let mut parent = Dir::open(&pods).doing("open", &pods)?;
    for name in [request.uid.as_str(), SUB_PATHS, &request.volume, &request.container] {
        parent = parent.make_child(name, OWN_MODE).doing("make directory", parent.path_of(name))?.0;
    }
    let name = request.index.to_string();
    let name = OsStr::new(&name);
    let path = parent.path_of(name);
    match mounts.is_mount_point(&parent, name) {
        Ok(true) => {
            let found = parent.handle(name).doing("examine", &path)?;
            if found.identity() == source.identity() {
                return Ok(path);
            }
            // The volume's file was replaced since, or an earlier run had another: bind anew.
            unmount_all(mounts, &parent, name).doing("unmount", &path)?;
        }
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if is_dead(&error) => unmount_all(mounts, &parent, name).doing("unmount", &path)?,
        Err(error) => return Err(error).doing("examine", path),
    }
    make_target(&parent, name, source.is_dir()).doing("make mount point", &path)?;
    if let Err(error) = mounts.bind(source, &parent, name) {
        let _ = if source.is_dir() { parent.remove_dir(name) } else { parent.remove_file(name) };
        return Err(error).doing("bind to", path);
    }
    Ok(path)
}

/// An empty directory or file of that name, in place of the other kind.
fn make_target(parent: &Dir, name: &OsStr, is_dir: bool) -> io::Result<()> {
    match parent.handle(name) {
        Ok(found) if found.is_dir() == is_dir => return Ok(()),
        Ok(found) if found.is_dir() => parent.remove_dir(name)?,
        Ok(_) => parent.remove_file(name)?,
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    if is_dir { parent.make_child(name, OWN_MODE).map(drop) } else { parent.write_new_file(name, b"", 0o640, None) }
}
