//! Credentials and certificates wired up: with what the agent speaks to the API server, and what its HTTPS server shows.
//!
//! | task | input | output |
//! |---|---|---|
//! | client certificate | the kubeconfigs, signed requests | the API clients' identity |
//! | serving addresses | the Node's addresses | what the serving certificate has to say |
//! | serving certificate | that, signed requests | the HTTPS server's certificate |

use std::path::PathBuf;

use k8s_openapi::api::core::v1::NodeAddress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::start::{Tasks, spawn};
use crate::config::{Gate, Settings};
use crate::kube::certificates::{
    self, AccessSettings, ApiAccess, CertificateHandle, CertificateManager, ServingSettings, Template,
};
use crate::kube::client::ApiServer;
use crate::node::NodeHandle;

/// The API server as flags and configuration say, none without `--kubeconfig`; and the client certificate, if it is renewed.
/// Starts what gets and renews it.
pub(super) async fn api_server(
    tasks: &mut Tasks,
    settings: &Settings,
    node_name: &str,
    cancel: &CancellationToken,
) -> anyhow::Result<(Option<ApiServer>, Option<CertificateHandle>)> {
    let Some(kubeconfig) = &settings.flags.kubeconfig else { return Ok((None, None)) };
    let access = AccessSettings {
        kubeconfig,
        bootstrap_kubeconfig: settings.flags.bootstrap_kubeconfig.as_deref(),
        certificate_folder: &settings.flags.cert_dir,
        node_name,
        rotates: settings.configuration.rotate_certificates,
    };
    let ApiAccess { server, certificates } = certificates::open(&access).await?;
    let handle = certificates.as_ref().map(CertificateManager::handle);
    if let Some(manager) = certificates {
        run(tasks, "client certificate", manager, cancel);
    }
    Ok((Some(server), handle))
}

/// Starts what keeps the serving certificate (`serverTLSBootstrap`); none if it is not the cluster that signs it, or if there is
/// no cluster to ask.
pub(super) fn serving_certificate(
    tasks: &mut Tasks,
    settings: &Settings,
    node: NodeHandle,
    client: Option<&::kube::Client>,
    cancel: &CancellationToken,
) -> Option<CertificateHandle> {
    let configuration = &settings.configuration;
    let client = client.filter(|_| configuration.server_tls_bootstrap)?;
    let (sender, template) = watch::channel(None);
    let file = |path: &String| Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
    let given = file(&configuration.tls_cert_file).zip(file(&configuration.tls_private_key_file));
    let serving = ServingSettings { directory: &settings.flags.cert_dir, given, template };
    let manager = CertificateManager::serving(client, serving);
    let handle = manager.handle();
    let dns_is_enough = settings.gates.enabled(Gate::AllowDNSOnlyNodeCSR);
    spawn(tasks, "serving addresses", follow_addresses(node, dns_is_enough, sender, cancel.child_token()));
    run(tasks, "serving certificate", manager, cancel);
    Some(handle)
}

fn run(tasks: &mut Tasks, name: &'static str, manager: CertificateManager, cancel: &CancellationToken) {
    let token = cancel.child_token();
    tasks.spawn(async move { (name, manager.run(token).await.map_err(Into::into)) });
}

/// Says what the serving certificate has to say, as the Node's addresses change.
async fn follow_addresses(
    mut node: NodeHandle,
    dns_is_enough: bool,
    sender: watch::Sender<Option<Template>>,
    cancel: CancellationToken,
) {
    loop {
        let status = node.current().and_then(|node| node.status.clone());
        let addresses: Vec<NodeAddress> = status.and_then(|status| status.addresses).unwrap_or_default();
        let template = Template::serving(node.name(), &addresses, dns_is_enough);
        sender.send_if_modified(|current| {
            let changed = *current != template;
            if changed {
                *current = template;
            }
            changed
        });
        // Cancel-safe: the handle only tells that something is new.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = node.changed() => {}
        }
    }
}
