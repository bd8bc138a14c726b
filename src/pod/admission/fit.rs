//! Whether a pod fits: its requests beside those of the pods that the node has, their number, and ports of the host (peer:
//! the scheduler's NodeResourcesFit and NodePorts, as the kubelet runs them).

use std::fmt;

use k8s_openapi::api::core::v1::{ContainerPort, Pod};

use super::Admitted;
use crate::model::pod::{self, ContainerKind};
use crate::model::resources::{self, CPU, EPHEMERAL_STORAGE, MEMORY, ResourceTotals};

/// The resource name under which pods are counted.
const PODS: &str = "pods";

/// The address that stands for all of the host's.
const ALL_ADDRESSES: &str = "0.0.0.0";

/// What a pod holds of the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claim {
    /// What it asks for, overhead included.
    pub requests: ResourceTotals,
    /// Ports of the host.
    ports: Vec<HostPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    address: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    fn of(port: &ContainerPort) -> Option<Self> {
        let text = |value: &Option<String>, default: &str| {
            value.as_deref().filter(|value| !value.is_empty()).unwrap_or(default).to_owned()
        };
        let number = port.host_port.filter(|port| *port > 0)?;
        Some(HostPort {
            address: text(&port.host_ip, ALL_ADDRESSES),
            protocol: text(&port.protocol, "TCP"),
            port: number,
        })
    }

    fn collides_with(&self, other: &HostPort) -> bool {
        let is_for_all = |port: &HostPort| port.address == ALL_ADDRESSES;
        self.port == other.port
            && self.protocol == other.protocol
            && (is_for_all(self) || is_for_all(other) || self.address == other.address)
    }
}

impl Claim {
    /// What a pod holds by its spec: ports count for the containers that run together with others, sidecars and regular ones.
    pub fn of(pod: &Pod) -> Self {
        let lasting = pod::init_and_regular_containers(pod::spec(pod))
            .filter(|(kind, container)| *kind == ContainerKind::Regular || pod::is_sidecar(container));
        let ports = lasting.flat_map(|(_, container)| container.ports.iter().flatten()).filter_map(HostPort::of);
        Claim { requests: resources::pod_requests(pod), ports: ports.collect() }
    }

    /// The amount of a resource in its unit; a pod counts as one of `pods`.
    pub(super) fn amount(&self, resource: &str) -> i64 {
        if resource == PODS { 1 } else { self.requests.get(resource).unwrap_or(0) }
    }
}

/// A resource that the node has too little of. CPU in thousandths, the rest in whole units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub resource: String,
    pub requested: i64,
    pub used: i64,
    pub capacity: i64,
}

impl Shortage {
    /// How much must become free.
    pub fn missing(&self) -> i64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { resource, requested, used, capacity } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

/// What the node has too little of: the number of pods first, then CPU, memory and ephemeral storage, then the others by name.
pub(super) fn shortages(claim: &Claim, others: &[&Admitted], allocatable: &ResourceTotals) -> Vec<Shortage> {
    let mut shortages = Vec::new();
    let pods = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let room = allocatable.get(PODS).unwrap_or(0);
    if pods.saturating_add(1) > room {
        shortages.push(Shortage { resource: PODS.to_owned(), requested: 1, used: pods, capacity: room });
    }
    let scalars = claim.requests.other.keys().map(String::as_str).filter(|name| {
        // An extended resource that the node knows nothing of is the cluster's to count.
        is_scalar(name) && (!resources::is_extended(name) || allocatable.get(name).is_some())
    });
    for resource in [CPU, MEMORY, EPHEMERAL_STORAGE].into_iter().chain(scalars) {
        let requested = claim.amount(resource);
        let used = others.iter().fold(0i64, |sum, other| sum.saturating_add(other.claim.amount(resource)));
        let capacity = allocatable.get(resource).unwrap_or(0);
        if requested > 0 && requested > capacity.saturating_sub(used) {
            shortages.push(Shortage { resource: resource.to_owned(), requested, used, capacity });
        }
    }
    shortages
}

/// Whether a resource is counted beside the common ones.
fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with(resources::HUGE_PAGES_PREFIX) || name.starts_with("attachable-volumes-")
}

/// Whether no other pod holds a port of the host that the pod wants.
pub(super) fn are_ports_free(claim: &Claim, others: &[&Admitted]) -> bool {
    let taken = || others.iter().flat_map(|other| &other.claim.ports);
    !claim.ports.iter().any(|wanted| taken().any(|port| port.collides_with(wanted)))
}
