//! The HTTPS API on a fake runtime.

mod fixture;
mod logs;
mod streaming;
