//! The one integration binary: the layer test, component tests on a fake runtime, node tests on the real thing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod fake_runtime;
mod image;
mod layers;
mod node;
mod pods;
mod runtime;
mod server;
