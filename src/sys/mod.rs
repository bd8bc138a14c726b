//! The kernel and systemd: mounts, openat2, procfs, statfs, network interfaces, transient units, notices of readiness. The one
//! place for raw system calls, each behind a small trait with a recording fake and with its roots injectable; and the bounded
//! places for those that may hang ([`bulkhead`]).
//!
//! Must not know of pods, the API or the runtime.

pub mod beneath;
pub mod bulkhead;
pub mod cpu_list;
pub mod disk_usage;
pub mod file_events;
pub mod file_stamp;
pub mod filesystem;
pub mod local_time;
pub mod machine;
pub mod memory;
pub mod mount;
pub mod network;
pub mod notify;
pub mod replace;
pub mod systemd;
