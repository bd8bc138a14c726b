//! ferrolet: a drop-in replacement for the Kubernetes kubelet that drives a container runtime over CRI.
//!
//! ARCHITECTURE.md in the repository's root is the map. In short: pure functions decide ([`pod::plan`],
//! [`runtime::translate`]), thin executors act, sources observe. A module may use the modules below it in this list and
//! none above; `tests/it/layers.rs` holds the modules to it.

pub mod app;
pub mod server;

pub mod node;
pub mod pod;
pub mod stats;

pub mod cgroup;
pub mod image;
pub mod probe;
pub mod runtime;
pub mod volume;

pub mod kube;

pub mod config;

pub mod metrics;
pub mod model;
pub mod sys;
