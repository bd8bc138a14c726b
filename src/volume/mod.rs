//! Volumes of pods: what each must hold ([`plan`], [`projection`]: pure), and the executor that mounts, writes and
//! unmounts ([`manager`]).
//!
//! Must not know of pod workers or the runtime: it is told of a pod and gives paths. It has no long tasks; work that may
//! block runs on a blocking thread for as long as a call lasts, in bounded places ([`crate::sys::bulkhead`]). What changes in
//! the API is found by whoever watches it, who calls [`VolumeManager::mount`] again; when tokens must be replaced is in its
//! answer.

pub mod atomic_writer;
pub mod counts;
mod error;
pub mod host_path;
pub mod layout;
pub mod manager;
pub mod objects;
pub mod ownership;
pub mod payload;
pub mod plan;
pub mod projection;
pub mod references;
pub mod removal;
pub mod set_up;
pub mod sub_path;
pub mod tear_down;

pub use error::{VolumeError, VolumeFailure};
pub use layout::VolumeKind;
pub use manager::{BLOCKING_PLACES, MountedVolume, MountedVolumes, VolumeManager};
pub use objects::{ObjectFailure, ServiceAccountToken, TokenRequest, VolumeObjects};

#[cfg(test)]
mod tests;
