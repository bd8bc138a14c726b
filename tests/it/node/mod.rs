//! The agent on a real node: real control plane, real containerd, real pods. They need root and the place that
//! `hack/isolated --cluster` makes, run one after the other, and are ignored elsewhere: `hack/test` runs them.

mod admission;
mod adoption;
mod certificates;
mod ends_and_restarts;
mod faults;
mod harness;
mod images;
mod lifecycle;
mod node_object;
mod probes_and_hooks;
mod registry;
mod routes;
mod static_pods;
mod stats;
mod streams;
mod top;
mod volumes;
