//! The cgroup tree of the node (kubepods, QoS classes, pods) by the cgroupfs and the systemd driver on cgroup v1 and v2, and
//! the arithmetic from resources to cgroup values.
//!
//! ```text
//! <cgroupRoot>/kubepods                        limited to the node's allocatable resources
//! <cgroupRoot>/kubepods/pod<uid>               Guaranteed pods
//! <cgroupRoot>/kubepods/burstable/pod<uid>     CPU shares follow the requests of all Burstable pods
//! <cgroupRoot>/kubepods/besteffort/pod<uid>    the least CPU shares
//! ```
//!
//! By the systemd driver each is a slice: `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice`, with `_`
//! for the dashes of the UID.
//!
//! Containers' own cgroups are the runtime's business, below the pod's.
//!
//! - [`name`], [`values`], [`control`], [`systemd`] are pure: names by driver, values of each cgroup, control files and
//!   contents, units and properties.
//! - [`hierarchy`] finds once what is mounted; `tree` makes, sets and removes single cgroups through `kernel` and
//!   [`crate::sys::systemd::Units`], the seams where tests put fakes; [`CgroupManager`] is the handle for everyone else.
//!
//! Must not know of the API client or the runtime. Never creates, changes or removes anything outside `cgroupRoot`, but
//! for the values of the reserved cgroups that the configuration names, which it never creates, and for the cgroup of
//! `systemCgroups` with the processes in it.
//!
//! The cgroup of `kubeletCgroups` is made too, where there is no systemd to do it ([`enter`]).
//!
//! No long tasks: every call ends by itself. Whoever owns the node's loop calls [`CgroupManager::update_qos`] when pods
//! come and go and once a minute, and [`CgroupManager::ensure_node`] again a minute after it reported a failure.

pub mod control;
mod enter;
mod error;
#[cfg(test)]
mod fake;
pub mod hierarchy;
mod kernel;
mod manager;
pub mod name;
pub mod oom;
mod remove;
mod system;
pub mod systemd;
mod tree;
pub mod values;

pub use enter::enter;
pub use error::CgroupError;
pub use hierarchy::{Hierarchy, HostPaths, Version};
pub use manager::{BLOCKING_PLACES, CgroupManager, CgroupSettings, Enforced, EnforcedSubject, Enforcement, FoundPod};
pub use name::{CgroupName, Driver};
