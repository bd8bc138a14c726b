//! The questions that the parts of a plan ask of their input.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::termination;
use super::{NodeFacts, PlanInput, PodMemory};
use crate::model::Timestamp;
use crate::model::observation::{ContainerObservation, PodObservation, SandboxObservation};
use crate::model::pod::{self, ContainerKind};
use crate::model::probe_results::ProbeResults;

/// A plan's input with the answers that several parts need.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub pod: &'a Pod,
    pub spec: &'a PodSpec,
    pub observed: Option<&'a PodObservation>,
    pub memory: &'a PodMemory,
    pub probes: &'a ProbeResults,
    pub node: &'a NodeFacts,
    pub now: Timestamp,
}

/// Why the pod needs a sandbox that it does not have: the message of its `PodReadyToStartContainers` condition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SandboxNeed {
    Missing,
    SeveralReady,
    NotReady,
    NetworkModeChanged,
    NoAddress,
}

impl SandboxNeed {
    pub fn message(self) -> &'static str {
        match self {
            SandboxNeed::Missing => "no pod sandbox exists",
            SandboxNeed::SeveralReady => "multiple pod sandboxes are ready and need to be reconciled",
            SandboxNeed::NotReady => "pod sandbox is not ready",
            SandboxNeed::NetworkModeChanged => "network namespace mode changed and sandbox needs to be recreated",
            SandboxNeed::NoAddress => "pod sandbox has no IP address",
        }
    }
}

/// The pod's sandbox if containers can run in it, else why not.
pub(super) fn usable_sandbox<'o>(
    spec: &PodSpec,
    observed: &'o PodObservation,
) -> Result<&'o SandboxObservation, SandboxNeed> {
    let newest = observed.sandbox().ok_or(SandboxNeed::Missing)?;
    if observed.sandboxes.iter().filter(|s| s.ready).count() > 1 {
        return Err(SandboxNeed::SeveralReady);
    }
    if !newest.ready {
        return Err(SandboxNeed::NotReady);
    }
    let host_network = pod::is_host_network(spec);
    if newest.host_network != host_network {
        return Err(SandboxNeed::NetworkModeChanged);
    }
    if !host_network && newest.ips.is_empty() {
        return Err(SandboxNeed::NoAddress);
    }
    Ok(newest)
}

impl<'a> View<'a> {
    pub fn new(input: &PlanInput<'a>) -> Self {
        View {
            pod: input.pod,
            spec: pod::spec(input.pod),
            observed: input.observed,
            memory: input.memory,
            probes: input.probes,
            node: input.node,
            now: input.now,
        }
    }

    pub fn init_containers(&self) -> &'a [Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    /// Whether the container is started again after an exit with that code.
    pub fn should_restart(&self, kind: ContainerKind, container: &Container, code: i32) -> bool {
        self.node.restart_rules.should_restart(self.spec, container, code, kind == ContainerKind::Init)
    }

    /// The place of a container among the init containers if it is a sidecar.
    pub fn sidecar_position(&self, name: &str) -> Option<usize> {
        termination::sidecar_position(self.pod, name)
    }
}

/// The newest instance of a container in a sandbox.
pub(super) fn instance_in<'o>(
    observed: &'o PodObservation,
    name: &str,
    sandbox_id: &str,
) -> Option<&'o ContainerObservation> {
    observed.containers.iter().find(|c| c.name == name && c.sandbox_id == sandbox_id)
}
