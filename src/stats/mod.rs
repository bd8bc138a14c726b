//! What the node, its pods, containers and volumes use: read when someone asks, and only then.
//!
//! ```text
//! cgroup files ─ reader ┐                                ┌ summary ── /stats/summary
//! disks ───────── disk ─┼─ collector ── Sample ──────────┼ resource ─ /metrics/resource
//! CRI ──────────────────┘   (shared for a short time)    └ cadvisor ─ /metrics/cadvisor
//! ```
//!
//! - [`figures`], [`pressure`], [`network`], `rates`, `summary`, `resource`, `cadvisor` are pure: text of files to figures,
//!   figures to answers.
//! - `reader` and `disk` read, blocking; [`StatsCollector`] runs them in one blocking task per answer.
//!
//! Must not know of the server, of pod workers or the API client: the pods are asked for through [`KnownPods`].
//!
//! One long task reads writable layers beside the answers, and only after somebody asked, and lets go of readings that are no
//! longer shared. Processor use per second takes two readings: each answer is the baseline of later ones, and the first one
//! reads twice.

mod agent;
pub mod api;
mod cadvisor;
mod collector;
mod disk;
pub mod figures;
mod layers;
pub mod network;
pub mod pressure;
mod rates;
mod reader;
mod recent;
mod resource;
pub mod sample;
mod summary;

pub use agent::booted_at;
pub use collector::{BLOCKING_PLACES, KnownPods, StatsCollector, StatsError, StatsSettings};
pub use summary::NodeConstants;
