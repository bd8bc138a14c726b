//! The API server: client and credentials, watches, single-object caches, service account tokens, event recorder, patches.
//!
//! Must not know of pods' lifecycle, volumes or the runtime: it moves API objects and says when they changed; what that means
//! is decided above.
//!
//! Long tasks, each ended by its [`CancellationToken`](tokio_util::sync::CancellationToken):
//!
//! | task | input | output | also stops when |
//! |---|---|---|---|
//! | [`pods::PodSource::run`] | watch of the node's pods | [`pods::PodEvents`] | the receiver is gone |
//! | [`services::ServiceCache::run`] | watch of all services | the cache's contents | - |
//! | [`objects::ObjectCache::run`] | pods registered and unregistered | ends the watches of unreferenced objects | - |
//! | [`events::EventSender::run`] | the recorder's queue | Event objects in the API | every recorder is gone |
//! | [`certificates::CertificateManager::run`] | a certificate's dates, what it should say | signing requests, files, the identity in force | no client certificate can be had |

pub mod certificates;
pub mod client;
mod connections;
mod credentials;
pub mod error;
pub mod events;
mod kubeconfig;
mod limit;
pub(crate) mod measure;
pub mod objects;
pub mod patch;
pub mod pods;
pub mod references;
pub mod services;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod watch;
