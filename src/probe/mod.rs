//! Probes of containers: startup, readiness and liveness, by exec, HTTP, TCP and gRPC.
//!
//! Knows how to ask a container and how many answers in a row make a verdict. What is probed when, and what a verdict means
//! for the pod, is the plan's: it hands over the containers to be probed ([`PodProbes::set`]) and reads what is known of
//! them ([`PodProbes::results`]). No API client here; events go out by [`ProbeEvents`].
//!
//! | file | holds |
//! |---|---|
//! | `schedule` | pure: when a probe runs next, thresholds, verdicts |
//! | `attempt` | one run of a probe, by `exec`, `http`, `tcp` or `grpc` |
//! | `manager` | the one task that runs all probes of the node |
//! | `counters` | what `/metrics/probes` shows |
//!
//! Task `probes`: sleeps until a probe is due or a pod's probes change, runs what is due with bounded concurrency, and ends
//! with its token, cutting off what still runs. It never wakes for nothing.

mod attempt;
mod counters;
mod exec;
mod exposition;
mod grpc;
mod http;
mod manager;
mod schedule;
mod tcp;
mod tls;
mod types;

pub use counters::{DURATION_BUCKETS, ProbeCounts, ProbeSample};
pub use exposition::expose;
pub use http::HttpGet;
pub use manager::{PodProbes, ProbeManager, ProbeManagerParts};
pub use tcp::BLOCKING_PLACES;
pub use types::{ProbeEvents, ProbeFeatures, ProbeKind, ProbedContainer, WhichProbes};
