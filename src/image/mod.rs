//! Images: sees to it that a container's image is on the node before the container is made.
//!
//! Must not know of pod workers. Talks to the runtime's image service, to pull secrets and to events through three small
//! traits ([`ImageService`], [`PullSecrets`], [`ImageEvents`]), which the app wires.
//!
//! `verification` decides whether a pod may use an image that is on the node (pure), `pull_records` are the files that say with
//! what it was pulled, [`ImageAccess`] keeps them.
//!
//! No long tasks: a pull runs in the future of those who wait for it, and ends when the last of them is dropped.

mod access;
mod backoff;
pub mod credentials;
mod events;
mod manager;
mod node_config;
mod pull_records;
mod puller;
pub mod reference;
mod secrets;
mod verification;

pub use access::{BLOCKING_PLACES, ImageAccess};
pub use events::ImageEvents;
pub use manager::{EnsuredImage, ImageError, ImageManager, ImageRequest, ImageSettings, ImageUser, PullPolicy};
pub use node_config::NodeConfigFiles;
pub use puller::ImageService;
pub use secrets::{PullSecrets, SecretError};
pub use verification::VerificationPolicy;

#[cfg(test)]
mod tests;
