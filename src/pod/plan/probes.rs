//! What is probed, and what the results mean: which containers count as started and ready, and which must be stopped.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Probe};

use super::PlanInput;
use super::memory::Step;
use super::view::View;
use crate::model::SignedDuration;
use crate::model::observation::{ContainerObservation, ContainerState};
use crate::model::pod::{self, ContainerKind};
use crate::model::probe_results::{ContainerProbeResults, ProbeVerdict};
use crate::probe::{ProbedContainer, WhichProbes};

/// Why a container must be stopped.
pub(super) struct ProbeFailure {
    /// The kind of probe, as in the message of the `Killing` event.
    pub probe: &'static str,
    /// The probe's own grace period.
    pub grace: Option<SignedDuration>,
}

fn is_probed_kind(kind: ContainerKind, container: &Container) -> bool {
    kind == ContainerKind::Regular || (kind == ContainerKind::Init && pod::is_sidecar(container))
}

fn results<'a>(view: &View<'a>, id: &str) -> Option<&'a ContainerProbeResults> {
    view.probes.containers.get(id)
}

/// What was last published of that very instance, by whichever agent.
fn published<'a>(view: &View<'a>, instance: &ContainerObservation) -> Option<&'a ContainerStatus> {
    if view.node.forgets_probes {
        return None;
    }
    let status = &view.memory.status;
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let of_name = lists.into_iter().flatten().flatten().find(|s| s.name == instance.name)?;
    let id = of_name.container_id.as_deref()?;
    (id.rsplit_once("://").map_or(id, |(_, id)| id) == instance.id).then_some(of_name)
}

/// Whether the instance runs and what must follow its start has been done: its postStart hook and its startup probe.
pub(super) fn is_started(view: &View<'_>, container: &Container, instance: &ContainerObservation) -> bool {
    let runs = matches!(instance.state, ContainerState::Running { .. });
    if !runs || view.memory.post_start(&container.name, &instance.id).is_some_and(|hook| !hook.step.is_done()) {
        return false;
    }
    if container.startup_probe.is_none() {
        return true;
    }
    match results(view, &instance.id).and_then(|r| r.startup) {
        Some(verdict) => verdict == ProbeVerdict::Success,
        // Once started it stays so, also for another agent.
        None => published(view, instance).is_some_and(|s| s.started == Some(true)),
    }
}

/// Whether the instance has started and can serve. Until it is probed again, what an earlier agent knew holds.
pub(super) fn is_ready(view: &View<'_>, container: &Container, instance: &ContainerObservation) -> bool {
    if !is_started(view, container, instance) {
        return false;
    }
    if container.readiness_probe.is_none() {
        return true;
    }
    match results(view, &instance.id).and_then(|r| r.readiness) {
        Some(verdict) => verdict == ProbeVerdict::Success,
        None => published(view, instance).is_some_and(|s| s.ready),
    }
}

/// Whether a probe asks for the instance's end.
pub(super) fn failure(view: &View<'_>, container: &Container, instance: &ContainerObservation) -> Option<ProbeFailure> {
    let results = results(view, &instance.id)?;
    let failed = |probe: &'static str, verdict: Option<ProbeVerdict>, spec: Option<&Probe>| {
        let spec = spec.filter(|_| verdict == Some(ProbeVerdict::Failure))?;
        let grace = spec.termination_grace_period_seconds.map(|s| SignedDuration::from_secs(s.max(0)));
        Some(ProbeFailure { probe, grace })
    };
    failed("liveness", results.liveness, container.liveness_probe.as_ref())
        .or_else(|| failed("startup", results.startup, container.startup_probe.as_ref()))
}

/// Which containers are to be probed now, and how. None while what the runtime holds is not known: all goes on as before.
///
/// Regular and sidecar containers alone are probed (`prober.Manager.AddPod`): first for their startup, then for the rest.
/// What is about to end is only asked whether it still serves.
pub fn probed(input: &PlanInput<'_>) -> Option<Vec<ProbedContainer>> {
    let view = View::new(input);
    let observed = view.observed?;
    let mut probed = Vec::new();
    for (kind, container) in pod::init_and_regular_containers(view.spec) {
        let has_probes = container.startup_probe.is_some()
            || container.readiness_probe.is_some()
            || container.liveness_probe.is_some();
        if !has_probes || !is_probed_kind(kind, container) {
            continue;
        }
        let Some(instance) = observed.container(&container.name) else { continue };
        let ContainerState::Running { started_at } = instance.state else { continue };
        let hook = view.memory.post_start(&container.name, &instance.id);
        if hook.is_some_and(|hook| matches!(hook.step, Step::Idle | Step::Running { .. })) {
            continue;
        }
        let ending = view.memory.termination.is_some() || view.memory.kills.contains_key(&instance.id);
        let started = is_started(&view, container, instance);
        let probes = WhichProbes {
            startup: !ending && !started && container.startup_probe.is_some(),
            readiness: started && container.readiness_probe.is_some(),
            liveness: !ending && started && container.liveness_probe.is_some(),
        };
        if probes == WhichProbes::default() {
            continue;
        }
        probed.push(ProbedContainer {
            id: instance.id.clone(),
            name: container.name.clone(),
            kind,
            started_at,
            pod_ip: pod_ip(&view, instance),
            started,
            probes,
            initial_ready: published(&view, instance).map(|s| s.ready),
        });
    }
    Some(probed)
}

/// The address to probe: the pod's own as the API shows it, or the node's with the host's network.
fn pod_ip(view: &View<'_>, instance: &ContainerObservation) -> String {
    let node = view.node.host_ips.first();
    let sandbox = view.observed.and_then(|o| o.sandboxes.iter().find(|s| s.id == instance.sandbox_id));
    let own = match sandbox {
        Some(sandbox) if !pod::is_host_network(view.spec) => {
            super::status::sort_by_family(&sandbox.ips, node).into_iter().next()
        }
        _ => None,
    };
    own.or_else(|| node.cloned()).unwrap_or_default()
}
