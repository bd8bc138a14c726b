//! The container runtime over CRI v1: client, events and relists, observations of pods, and the pure translation of a pod
//! into CRI messages ([`translate`]).
//!
//! Must not know of the API client, volumes or pod workers.
//!
//! Long tasks:
//! - [`observer::Observer::run`]: reads the runtime's event stream and lists everything now and then; gives the UIDs of
//!   pods that changed to the hint channel it was handed. Ends when its token is cancelled or the channel is closed.
//! - [`log_rotation::LogRotator::run`]: looks at the logs of the containers that run and moves large ones aside. Ends when its
//!   token is cancelled.

mod cache;
pub mod client;
mod connect;
mod containerd;
pub mod error;
mod events;
mod image_client;
pub mod labels;
pub mod log_rotation;
pub mod observer;
mod operation;
pub mod relist;
mod snapshot;
mod termination;
pub mod translate;

pub use client::{ClientSettings, RuntimeClient};
pub use error::RuntimeError;
pub use observer::{Observer, ObserverSettings};
pub use relist::{ListedContainer, ListedSandbox, ListedState, RuntimePod};

/// The wire types of CRI v1, compiled from proto/.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}
