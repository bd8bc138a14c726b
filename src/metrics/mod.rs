//! What the agent counts of its own work, and the Prometheus text format.
//!
//! - [`kubelet`] holds every family as a `static`: who does the work counts it there, without any plumbing.
//! - [`family`] holds the kinds of families: counters, gauges, histograms, each with labels.
//! - [`text`] writes the text format 0.0.4, byte for byte as the peer does.
//!
//! Must not know of anything else in the crate: every layer counts here. Nothing runs by itself; a count is a short lock and
//! no allocation once its series exists. A family holds at most [`family::MAX_SERIES`] series.

pub mod family;
pub mod kubelet;
pub mod text;

pub use text::{Exposition, count, float};
