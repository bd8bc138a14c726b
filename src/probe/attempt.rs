//! One run of a probe: what to ask of whom, and what the answer says. Tried again only when the asking itself fails.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::types::ProbeFeatures;
use super::{exec, grpc, http, tcp};
use crate::runtime::client::RuntimeClient;

/// Tries of a run whose asking fails (`prober.maxProbeRetries`).
const TRIES: usize = 3;
/// Most that is kept of what a command or server says, bytes.
pub(super) const MAX_OUTPUT: usize = 10 * 1024;

/// What a run of a probe says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attempt {
    /// The container does what is asked.
    Success,
    /// It does, but in a way that its user should know of.
    Warning(String),
    /// It does not.
    Failure(String),
    /// It could not be asked.
    Errored {
        /// The result's name in the event.
        state: &'static str,
        /// Why.
        message: String,
    },
}

impl Attempt {
    /// It could not be asked, and nothing is known of it.
    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Attempt::Errored { state: "unknown", message: message.into() }
    }
}

/// Whom a probe asks.
pub(super) struct Target<'a> {
    /// For commands.
    pub runtime: &'a RuntimeClient,
    /// `name_namespace(uid)` of the pod.
    pub pod: String,
    /// The container in the pod spec.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a str,
    /// Where it is reached.
    pub ip: &'a str,
    /// What of its probes counts.
    pub features: ProbeFeatures,
}

/// Runs a probe once.
pub(super) async fn run(target: &Target<'_>, probe: &Probe, timeout: Duration) -> Attempt {
    let mut tries = 1;
    loop {
        let attempt = ask(target, probe, timeout).await;
        if tries == TRIES || !matches!(attempt, Attempt::Errored { .. }) {
            return attempt;
        }
        tries += 1;
    }
}

/// Whether the probe runs a command, which is the dearest of all.
pub(super) fn is_exec(probe: &Probe) -> bool {
    probe.exec.is_some()
}

async fn ask(target: &Target<'_>, probe: &Probe, timeout: Duration) -> Attempt {
    let Target { container, ip, .. } = target;
    if let Some(action) = &probe.exec {
        let command = exec::command(action, container);
        return exec::probe(target.runtime, target.id, command, timeout).await;
    }
    if let Some(action) = &probe.http_get {
        return match http::Request::of(action, container, ip) {
            Ok(mut request) => {
                request.plain_http2 = target.features.http2 && action.protocol.as_deref() == Some("HTTP2");
                http::probe(request, timeout).await
            }
            Err(message) => Attempt::unknown(message),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
        return match port(&action.port, container) {
            Ok(port) => tcp::probe(host, port, timeout).await,
            Err(message) => Attempt::unknown(message),
        };
    }
    if let Some(action) = &probe.grpc {
        let tls = target.features.grpc_tls && action.mode.as_deref() == Some("TLS");
        let service =
            grpc::Service { host: ip, port: action.port, name: action.service.as_deref().unwrap_or_default(), tls };
        return grpc::probe(&service, timeout).await;
    }
    Attempt::unknown(format!("missing probe handler for {}:{}", target.pod, container.name))
}

/// A port by number, or by the name that the container gives it.
pub(super) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = |p: &&ContainerPort| p.name.as_deref() == Some(name);
            let found = container.ports.iter().flatten().find(named);
            found.ok_or_else(|| format!("port {name:?} not found"))?.container_port
        }
    };
    let valid = u16::try_from(number).ok().filter(|number| *number > 0);
    valid.ok_or_else(|| format!("invalid port number: {number}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(IntOrString::Int(80), Ok(80))]
    #[case(IntOrString::Int(0), Err("invalid port number: 0"))]
    #[case(IntOrString::Int(65536), Err("invalid port number: 65536"))]
    #[case(IntOrString::Int(-1), Err("invalid port number: -1"))]
    #[case(IntOrString::String("web".into()), Ok(8080))]
    #[case(IntOrString::String("no".into()), Err("port \"no\" not found"))]
    #[case(IntOrString::String("80".into()), Err("port \"80\" not found"))]
    fn ports_go_by_number_or_name(#[case] given: IntOrString, #[case] expected: Result<u16, &str>) {
        let named = ContainerPort { name: Some("web".into()), container_port: 8080, ..ContainerPort::default() };
        let container = Container { ports: Some(vec![named]), ..Container::default() };
        assert_eq!(port(&given, &container), expected.map_err(str::to_owned));
    }
}
