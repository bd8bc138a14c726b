//! The kernel: mounts, openat2, procfs, statfs, network interfaces, signals. The one place for raw system calls, each
//! behind a small trait with a recording fake and with its roots injectable.
//!
//! Must not know of pods, the API or the runtime.

pub mod beneath;
pub mod filesystem;
pub mod machine;
pub mod memory;
pub mod mount;
pub mod network;
pub mod replace;
