//! What the plan hands over to be probed, and where events go.

use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use crate::model::Timestamp;
use crate::model::pod::ContainerKind;

/// What a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether the container has started up; until then it is asked nothing else.
    Startup,
    /// Whether it can serve.
    Readiness,
    /// Whether it is alive.
    Liveness,
}

impl ProbeKind {
    /// All kinds, in the order in which they come into play.
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

    /// The name in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    pub fn spec(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// Which of a container's probes should run now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WhichProbes {
    /// The startup probe.
    pub startup: bool,
    /// The readiness probe.
    pub readiness: bool,
    /// The liveness probe.
    pub liveness: bool,
}

impl WhichProbes {
    /// Whether the probe of that kind should run.
    pub fn has(self, kind: ProbeKind) -> bool {
        match kind {
            ProbeKind::Startup => self.startup,
            ProbeKind::Readiness => self.readiness,
            ProbeKind::Liveness => self.liveness,
        }
    }
}

/// Which of the probes' newer fields count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeFeatures {
    /// `httpGet.protocol`: HTTP/2 in plain text (gate H2CContainerProbe).
    pub http2: bool,
    /// `grpc.mode`: gRPC over TLS (gate GRPCContainerProbeTLS).
    pub grpc_tls: bool,
}

/// A running container that is to be probed.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbedContainer {
    /// The runtime's id: what is known of one instance says nothing of the next.
    pub id: String,
    /// Its name in the pod spec.
    pub name: String,
    /// The list that it stands in.
    pub kind: ContainerKind,
    /// When it was started; the initial delay counts from then.
    pub started_at: Timestamp,
    /// The address to probe where the probe names none: the pod's, or the node's with the host's network.
    pub pod_ip: String,
    /// Whether its startup probe has passed, now or under an earlier agent.
    pub started: bool,
    /// The probes that should run.
    pub probes: WhichProbes,
    /// Readiness that was already published of this instance. An agent's restart must not make a ready container unready.
    pub initial_ready: Option<bool>,
}

/// Where the warnings of probes go.
pub trait ProbeEvents: Send + Sync {
    /// Records a warning about a container.
    fn warning(&self, pod: &Pod, kind: ContainerKind, container: &str, reason: &'static str, message: String);
}
