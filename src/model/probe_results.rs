//! What probes say of a pod's containers: the input that probing gives to every decision about the pod.

use std::collections::BTreeMap;

/// What probes say of a pod's containers, by the runtime's container id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeResults {
    /// By the runtime's container id.
    pub containers: BTreeMap<String, ContainerProbeResults>,
}

/// What the probes of one container say. None: no such probe, or no result yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerProbeResults {
    /// Whether it has started up.
    pub startup: Option<ProbeVerdict>,
    /// Whether it can serve.
    pub readiness: Option<ProbeVerdict>,
    /// Whether it is alive.
    pub liveness: Option<ProbeVerdict>,
}

/// A probe's verdict once its thresholds have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// It is so.
    Success,
    /// It is not.
    Failure,
}
