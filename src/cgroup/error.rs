//! What can go wrong with cgroups.

use std::io;
use std::path::PathBuf;

use crate::sys::bulkhead::BlockingError;
use crate::sys::systemd::SystemdError;

use super::name::CgroupName;

/// An error of the cgroup module, with the path or cgroup it happened at.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// What is mounted could not be found out.
    #[error("cannot tell which cgroup hierarchies are mounted: {path}: {source}", path = path.display())]
    Detect {
        /// The file or file system that was asked.
        path: PathBuf,
        /// Why it did not answer.
        source: io::Error,
    },
    /// Controllers without which no node runs are not there.
    #[error("cgroup controllers not mounted: {}", controllers.join(", "))]
    NotMounted {
        /// The controllers.
        controllers: Vec<String>,
    },
    /// systemd did not make, change or stop a slice.
    #[error("cgroup slice {unit}: {source}")]
    Systemd {
        /// The slice's unit.
        unit: String,
        /// Why.
        source: SystemdError,
    },
    /// A cgroup that must be there is missing from hierarchies (v1).
    #[error("cgroup {name:?} has some missing paths: {}", join_paths(paths))]
    MissingPaths {
        /// The cgroup.
        name: CgroupName,
        /// Where it was looked for in vain.
        paths: Vec<PathBuf>,
    },
    /// A cgroup that must be there is missing or lacks controllers (v2).
    #[error("cgroup {name:?} has some missing controllers: {}", controllers.join(", "))]
    MissingControllers {
        /// The cgroup.
        name: CgroupName,
        /// The controllers it lacks.
        controllers: Vec<String>,
    },
    /// The controllers of a cgroup that must be there cannot be read: mostly, it is not there (v2).
    #[error("could not read controllers for cgroup {name:?}: open {path}: {reason}", path = path.display())]
    NoControllers {
        /// The cgroup.
        name: CgroupName,
        /// The file that lists them.
        path: PathBuf,
        /// The kernel's answer.
        reason: String,
    },
    /// The configured `cgroupRoot` is not usable.
    #[error("invalid configuration: {0}")]
    Root(#[source] Box<CgroupError>),
    /// `systemCgroups` is no path, or that of the root, which processes are to be taken out of.
    #[error("systemCgroups: {path:?}: system container cannot be root (\"/\")")]
    SystemCgroup {
        /// The setting.
        path: String,
    },
    /// A pod UID that is no part of a path.
    #[error("pod UID {uid:?} cannot name a cgroup")]
    PodUid {
        /// The UID.
        uid: String,
    },
    /// The cgroup above is not there.
    #[error("cannot create cgroup {path}: its parent does not exist", path = path.display())]
    NoParent {
        /// The cgroup that was to be made.
        path: PathBuf,
    },
    /// A cgroup could not be made.
    #[error("cannot create cgroup {path}: {source}", path = path.display())]
    Create {
        /// Its directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("cannot write {content:?} to {path}: {source}", path = path.display())]
    Write {
        /// The control file.
        path: PathBuf,
        /// What was written.
        content: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More memory is in use than the new limit allows (v1).
    #[error("cannot set memory limit {path} to {limit}: {usage} bytes are in use", path = path.display())]
    MemoryInUse {
        /// The control file.
        path: PathBuf,
        /// The limit, bytes.
        limit: String,
        /// The usage, bytes, as the kernel shows it.
        usage: String,
    },
    /// A control file or directory could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A cgroup could not be removed.
    #[error("cannot remove cgroup {path}: {source}", path = path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Processes of a cgroup outlive SIGKILL, or hide in another PID namespace.
    #[error("cannot remove cgroup {path}: still in use{}", processes(pids), path = path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
        /// The processes in it that can be seen.
        pids: Vec<i32>,
    },
    /// The work was not begun, since too much of it hangs, or was cut off.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

fn join_paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

fn processes(pids: &[i32]) -> String {
    if pids.is_empty() { String::new() } else { format!(" by processes {pids:?}") }
}
