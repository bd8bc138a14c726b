//! What can go wrong with volumes, in the words that users see.

use std::io;
use std::path::{Path, PathBuf};

use super::plan::PlanError;
use crate::sys::bulkhead::BlockingError;

/// A file system operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FsError {
    /// What was to be done, as a verb with what it takes.
    pub action: &'static str,
    /// To what.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Why a volume could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// It cannot be at all, or not yet.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// The node's file system.
    #[error("{0}")]
    Fs(#[from] FsError),
    /// What a `hostPath` names is not what it says.
    #[error("hostPath type check failed: {} is not a {expected}, it's a {found}", path.display())]
    HostPathType {
        /// The path.
        path: PathBuf,
        /// What the volume says.
        expected: &'static str,
        /// What is there, as a value of `hostPath.type`.
        found: &'static str,
    },
    /// What a `hostPath` names cannot be examined, or is of a kind that `hostPath.type` has no word for.
    #[error("hostPath type check failed, {} is not a {expected}, unable to determine its type: {reason}", path.display())]
    HostPathUnknown {
        /// The path.
        path: PathBuf,
        /// What the volume says.
        expected: &'static str,
        /// Why it is not known.
        reason: String,
    },
    /// Something else is mounted where the volume should be.
    #[error("{} is a mount of another kind than the volume needs", path.display())]
    ForeignMount {
        /// The mount point.
        path: PathBuf,
    },
}

/// A volume that could not be set up; the text of one `FailedMount` event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {cause}")]
pub struct VolumeFailure {
    /// `spec.volumes[].name`.
    pub volume: String,
    /// Why.
    pub cause: SetUpError,
}

/// What a call of the volume manager can fail with.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Volumes that could not be set up. Each is an event of its own.
    #[error("{}", join(.0, "; "))]
    SetUp(Vec<VolumeFailure>),
    /// Parts of a pod that could not be removed.
    #[error("{}", join(.0, "; "))]
    TearDown(Vec<FsError>),
    /// The agent's own directories.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A pod's UID or another name that cannot be a directory's name.
    #[error("{name:?} cannot be used as a directory's name")]
    Name {
        /// The name.
        name: String,
    },
    /// A sub path from the root.
    #[error("error SubPath `{sub_path}` must not be an absolute path")]
    AbsoluteSubPath {
        /// The sub path.
        sub_path: String,
    },
    /// A sub path that leads upwards.
    #[error("unable to provision SubPath `{sub_path}`: must not contain '..'")]
    SubPathBackstep {
        /// The sub path.
        sub_path: String,
    },
    /// The directory of a sub path could not be made. The text tells no more: the reason may show the node's files to who
    /// should not see them.
    #[error("failed to create subPath directory for volumeMount {volume:?} of container {container:?}")]
    MakeSubPath {
        /// The volume mount's name.
        volume: String,
        /// The container.
        container: String,
        /// The reason, for the node's log.
        source: FsError,
    },
    /// A sub path could not be made available. The text tells no more, for the same reason.
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    PrepareSubPath {
        /// The volume mount's name.
        volume: String,
        /// The container.
        container: String,
        /// The reason, for the node's log.
        source: FsError,
    },
    /// The work was not begun, since too much of it hangs, or was cut off.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// The call was given up.
    #[error("the work on the volumes of pod {uid} was interrupted")]
    Interrupted {
        /// The pod.
        uid: String,
    },
}

impl VolumeError {
    /// The texts for events, one for each volume or part that failed.
    pub fn messages(&self) -> Vec<String> {
        match self {
            VolumeError::SetUp(failures) => failures.iter().map(ToString::to_string).collect(),
            VolumeError::TearDown(failures) => failures.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        }
    }
}

/// Adds what was being done to an I/O error.
pub trait IoContext<T> {
    /// The error with its action and path.
    ///
    /// # Errors
    /// The error itself, with context.
    fn doing(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, FsError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, FsError> {
        self.map_err(|source| FsError { action, path: path.as_ref().to_owned(), source })
    }
}

fn join<T: ToString>(items: &[T], separator: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
