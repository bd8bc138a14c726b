//! The whole pod machinery (manager, workers, executor, status writer, pod source, observer) on the fake runtime and on an
//! API server in memory.
//!
//! Time is real, since sockets are: a test waits for a condition with a deadline, and only sleeps to show that something does
//! not happen.

mod admission;
mod api;
mod deletion;
mod faults;
mod hooks;
mod images;
mod lifecycle;
mod outages;
mod probes;
mod restarts;
mod start_failures;
mod static_pods;
mod world;
