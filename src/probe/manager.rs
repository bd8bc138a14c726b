//! The one task that runs the probes of all pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::types::{ProbeEvents, ProbedContainer};
use crate::model::pod::PodKey;
use crate::model::probe_results::ProbeResults;
use crate::runtime::client::RuntimeClient;

/// What probing works with.
pub struct ProbeManagerParts {
    /// Runs commands in containers.
    pub runtime: RuntimeClient,
    /// Where warnings go.
    pub events: Arc<dyn ProbeEvents>,
}

/// A cheap handle on the probes of all pods.
#[derive(Clone)]
pub struct ProbeManager {
    _parts: Arc<ProbeManagerParts>,
}

impl ProbeManager {
    /// Nothing is probed before [`ProbeManager::run`] does.
    pub fn new(parts: ProbeManagerParts) -> Self {
        ProbeManager { _parts: Arc::new(parts) }
    }

    /// Begins to hold probes for a pod.
    pub fn pod(&self, _pod: &PodKey) -> PodProbes {
        PodProbes { results: watch::channel(Arc::default()).1 }
    }

    /// Probes until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        cancel.cancelled().await;
    }
}

/// One pod's probes; dropping it ends them.
pub struct PodProbes {
    results: watch::Receiver<Arc<ProbeResults>>,
}

impl PodProbes {
    /// What should be probed from now on. What is no longer in it is forgotten, what is unchanged goes on.
    pub fn set(&self, _pod: &Arc<Pod>, _probed: Vec<ProbedContainer>) {}

    /// What is known now.
    pub fn results(&self) -> Arc<ProbeResults> {
        self.results.borrow().clone()
    }

    /// Waits until [`PodProbes::results`] may tell something new. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.results.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
