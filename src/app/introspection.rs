//! What the server shows of the agent itself, and what it lets be changed.

use std::sync::Arc;

use super::logging::Verbosity;
use crate::config::gates::Stage;
use crate::config::{Gate, Settings};
use crate::kube::certificates::CertificateHandle;
use crate::metrics::kubelet as metrics;
use crate::model::{Timestamp, clock};
use crate::probe::{self, ProbeManager};
use crate::server::Introspection;
use crate::volume::VolumeManager;

/// The agent's own flags, verbosity, probes, volumes and certificates (the client's, then the server's).
pub(super) fn of_agent(
    settings: &Settings,
    verbosity: Option<Verbosity>,
    probes: ProbeManager,
    volumes: VolumeManager,
    [client, serving]: [Option<CertificateHandle>; 2],
) -> Introspection {
    for gate in Gate::all() {
        let is_on = settings.gates.enabled(gate);
        metrics::FEATURE_ENABLED.set(&[gate.name(), stage(gate.stage())], if is_on { 1.0 } else { 0.0 });
    }
    Introspection {
        flags: Arc::new(settings.flag_values.clone()),
        set_verbosity: verbosity
            .map(|verbosity| -> Arc<dyn Fn(u32) + Send + Sync> { Arc::new(move |level| verbosity.set(level)) }),
        probes: Some(Arc::new(move |text| probe::expose(probes.samples(), text))),
        refresh: Some(Arc::new(move || {
            volumes.update_metrics();
            if let Some(client) = &client {
                metrics::CLIENT_TTL.set(time_to_live(client.expires(), clock::now()));
            }
            if let Some(serving) = &serving {
                metrics::SERVER_TTL.set(time_to_live(serving.expires(), clock::now()));
            }
        })),
    }
}

/// The label `stage`.
fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Alpha => "ALPHA",
        Stage::Beta => "BETA",
        Stage::Stable => "",
        Stage::Deprecated => "DEPRECATED",
    }
}

/// Whole seconds, negative once it is over, without end if there is nothing that could expire.
fn time_to_live(expires: Option<Timestamp>, now: Timestamp) -> f64 {
    expires.map_or(f64::INFINITY, |at| at.duration_since(now).as_secs_f64().trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_whole_seconds() {
        let at = |millisecond| Timestamp::from_millisecond(millisecond).unwrap();
        let left = |millisecond| time_to_live(Some(at(millisecond)), at(10_000));
        assert_eq!([left(12_900), left(7_100)], [2.0, -2.0]);
        assert_eq!(time_to_live(None, at(0)), f64::INFINITY);
    }
}
