//! The HTTPS API on a fake runtime.

mod fixture;
mod streaming;
