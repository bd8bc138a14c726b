//! Pods: whether the node takes them (pure, [`admission`]), the pure plan of their life ([`plan`]), the worker that carries a
//! plan out ([`worker`]), the executor of its actions ([`executor`]), the writer of their statuses ([`status_writer`]), the
//! manager of all workers ([`manager`]), the list of all pods ([`list`]), where pods come from ([`source`]) and what the API
//! shows of static ones ([`mirror`]).
//!
//! Must not know of the Node object or the HTTPS API.
//!
//! | task | input | output | stops |
//! |---|---|---|---|
//! | [`manager::PodManager::run`] | pod events, runtime hints, object changes | workers' inputs | at its token |
//! | [`source::file::FileSource::run`], [`source::http::UrlSource::run`] | manifests | static pods | at its token |
//! | worker, one a pod | its input, hints, ended actions | actions, statuses | when nothing of the pod is left, or at its token |
//! | [`mirror::MirrorKeeper::run`] | static pods, the API's mirrors, the Node | mirrors created and deleted | at its token |
//! | [`status_writer::StatusWriter::run`] | statuses | API requests | at its token |

pub mod admission;
mod census;
pub mod executor;
pub mod list;
pub mod manager;
mod measures;
pub mod mirror;
pub mod plan;
pub mod source;
pub mod status_writer;
mod worker;

/// Sleeps until that time; for ever if there is none.
async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
