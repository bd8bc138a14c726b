//! Plain values and the rules on them that every layer shares: pod keys, quantities, Go durations, QoS classes, resource
//! sums, Linux resource values, hashes, sysctl names, services, observed container states, probe results, YAML documents, token
//! buckets, the release of Kubernetes, the clock.
//!
//! Knows nothing but the API types: no runtime, no API client, no file system, no tasks.

pub mod clock;
pub mod container_resources;
pub mod dns;
pub mod document;
mod event_type;
pub mod field_ref;
pub mod go_duration;
pub mod hash;
pub mod linux_resources;
pub mod observation;
pub mod pod;
pub mod probe_results;
pub mod qos;
pub mod quantity;
pub mod release;
pub mod resources;
pub mod service;
pub mod sysctl;
mod token_bucket;

pub use event_type::EventType;
pub use k8s_openapi::jiff::{SignedDuration, Timestamp};
pub use token_bucket::TokenBucket;
