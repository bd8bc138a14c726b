//! What pods are judged by, from the configuration, the Node and what is said about it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{Gate, Settings};
use crate::node::conditions::Pressures;
use crate::node::{ContributionsHandle, NodeFacts, NodeHandle};
use crate::pod::admission::{AdmissionFacts, AdmissionSettings, NodeView, Pressure, SysctlAllowlist};
use crate::pod::manager::NodeReader;

/// What stays as it is while the agent runs. `declared_features`: what the node's status declares.
pub(super) fn settings(settings: &Settings, facts: &NodeFacts, declared_features: &[String]) -> AdmissionSettings {
    let kernel = &facts.machine.kernel_version;
    AdmissionSettings {
        sysctls: SysctlAllowlist::new(kernel, &settings.configuration.allowed_unsafe_sysctls),
        app_armor: is_app_armor_enabled(),
        declared_features: declared_features.iter().cloned().collect(),
        pod_level_resources: settings.gates.enabled(Gate::PodLevelResources),
        compares_taints: settings.gates.enabled(Gate::TaintTolerationComparisonOperators),
    }
}

fn is_app_armor_enabled() -> bool {
    std::fs::exists("/sys/kernel/security/apparmor").unwrap_or(false)
        && std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// The facts before anything is known of the node.
pub(super) fn initial(settings: AdmissionSettings) -> AdmissionFacts {
    AdmissionFacts { settings: Arc::new(settings), ..AdmissionFacts::default() }
}

/// Passes on what is known of the node.
pub(super) async fn follow(
    mut node: NodeHandle,
    mut contributions: ContributionsHandle,
    facts: watch::Sender<AdmissionFacts>,
    cancel: CancellationToken,
) {
    loop {
        let view = node.current_or_initial().map(|node| NodeView::from(node.as_ref()));
        let said = contributions.current();
        facts.send_if_modified(|facts| {
            let before = facts.clone();
            if facts.node.as_deref() != view.as_ref() {
                facts.node = view.map(Arc::new);
            }
            facts.is_node_settled = node.is_settled();
            facts.pressures = pressures(&said.pressures);
            facts.shutting_down = said.shutdown.is_some();
            *facts != before
        });
        // Cancel-safe: both handles only tell that something is new.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = node.known() => {}
            () = contributions.changed() => {}
        }
    }
}

fn pressures(pressures: &Pressures) -> Vec<Pressure> {
    let all = [(pressures.memory, Pressure::Memory), (pressures.disk, Pressure::Disk), (pressures.pid, Pressure::Pid)];
    all.into_iter().filter_map(|(is_so, pressure)| is_so.then_some(pressure)).collect()
}

/// Reads the Node as the API server has it now.
pub(super) fn node_reader(client: ::kube::Client, name: String) -> NodeReader {
    let nodes: ::kube::Api<Node> = ::kube::Api::all(client);
    Arc::new(move || {
        let (nodes, name) = (nodes.clone(), name.clone());
        Box::pin(async move {
            match nodes.get(&name).await {
                Ok(node) => Some(NodeView::from(&node)),
                Err(error) => {
                    warn!(node = name, %error, "reading the Node failed; pods are judged by what is known of it");
                    None
                }
            }
        })
    })
}
