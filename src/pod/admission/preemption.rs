//! Which pods give way to a critical pod that the node has no room for (peer: `kubelet/preemption`): as few as possible, of
//! the lowest class of service first, and of equal ones those that ask for least.

use k8s_openapi::api::core::v1::Pod;

use super::Admitted;
use super::fit::Shortage;
use crate::model::pod::{self, PodKey, PodUid};
use crate::model::qos::QosClass;
use crate::model::resources::{CPU, MEMORY};

/// An amount of a resource that must become free.
#[derive(Clone, Debug, PartialEq)]
struct Need {
    resource: String,
    amount: i64,
}

/// The pods to end. The error says what cannot be freed.
pub(super) fn victims(preemptor: &Pod, others: &[&Admitted], shortages: &[Shortage]) -> Result<Vec<PodUid>, String> {
    let needs: Vec<Need> =
        shortages.iter().map(|s| Need { resource: s.resource.clone(), amount: s.missing() }).collect();
    let of_class = |class| {
        let of_class = |other: &&&Admitted| gives_way(&other.pod, preemptor) && QosClass::of(&other.pod) == class;
        others.iter().filter(of_class).copied().collect::<Vec<&Admitted>>()
    };
    let best_effort = of_class(QosClass::BestEffort);
    let burstable = of_class(QosClass::Burstable);
    let guaranteed = of_class(QosClass::Guaranteed);
    let unmet = without(&needs, best_effort.iter().chain(&burstable).chain(&guaranteed));
    if !unmet.is_empty() {
        return Err(impossible(&unmet));
    }
    // The better classes only for what the lower ones together cannot free.
    let guaranteed = fewest(guaranteed, without(&needs, best_effort.iter().chain(&burstable)))?;
    let burstable = fewest(burstable, without(&needs, best_effort.iter().chain(&guaranteed)))?;
    let best_effort = fewest(best_effort, without(&needs, burstable.iter().chain(&guaranteed)))?;
    let chosen = best_effort.iter().chain(&burstable).chain(&guaranteed);
    Ok(chosen.map(|other| PodKey::of(&other.pod).uid).collect())
}

/// Whether a pod may be ended for the other: it is not critical, or both have a priority and its own is lower.
fn gives_way(pod: &Pod, preemptor: &Pod) -> bool {
    if pod::is_critical(preemptor) && !pod::is_critical(pod) {
        return true;
    }
    matches!((pod::spec(preemptor).priority, pod::spec(pod).priority), (Some(high), Some(low)) if high > low)
}

/// What is still needed once these pods are gone.
fn without<'a>(needs: &[Need], pods: impl Iterator<Item = &'a &'a Admitted>) -> Vec<Need> {
    let pods: Vec<&&Admitted> = pods.collect();
    let left = |need: &Need| {
        let freed = pods.iter().fold(0i64, |sum, pod| sum.saturating_add(pod.claim.amount(&need.resource)));
        Need { resource: need.resource.clone(), amount: need.amount.saturating_sub(freed) }
    };
    needs.iter().map(left).filter(|need| need.amount > 0).collect()
}

/// Takes the pod that comes closest to what is needed, again and again, until nothing is needed any more.
fn fewest(mut pods: Vec<&Admitted>, mut needs: Vec<Need>) -> Result<Vec<&Admitted>, String> {
    let mut chosen = Vec::new();
    while !needs.is_empty() {
        let nearer = |a: &&&Admitted, b: &&&Admitted| {
            distance(&needs, a).total_cmp(&distance(&needs, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let Some(best) = pods.iter().min_by(nearer).copied() else { return Err(impossible(&needs)) };
        pods.retain(|pod| !std::ptr::eq(*pod, best));
        needs = without(&needs, std::iter::once(&best));
        chosen.push(best);
    }
    Ok(chosen)
}

/// The square of the part of each need that the pod leaves unmet, added up: every resource weighs the same.
#[allow(clippy::cast_precision_loss, reason = "a measure for comparing, as the peer computes it")]
fn distance(needs: &[Need], pod: &Admitted) -> f64 {
    let unmet = |need: &Need| {
        let rest = need.amount.saturating_sub(pod.claim.amount(&need.resource)).max(0);
        (rest as f64 / need.amount as f64).powi(2)
    };
    needs.iter().map(unmet).sum()
}

fn size(pod: &Admitted) -> (i64, i64) {
    (pod.claim.amount(MEMORY), pod.claim.amount(CPU))
}

fn impossible(needs: &[Need]) -> String {
    let needs: String = needs.iter().map(|need| format!("(res: {}, q: {}), ", need.resource, need.amount)).collect();
    format!(
        "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{needs}]"
    )
}
