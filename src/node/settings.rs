//! What the configuration says about the node, and what the machine says: the inputs that stay as they are while the agent
//! runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use crate::sys::filesystem;
use crate::sys::machine::{self, MachineError, MachineFacts, MachineReader};

use super::resources::Reservations;

/// The node's part of flags and KubeletConfiguration, as plain values.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The Node object's name ([`node_name`]).
    pub node_name: String,
    /// The `kubernetes.io/hostname` label and the Hostname address; the same as the name unless a cloud says otherwise.
    pub hostname: String,
    /// `--node-ip`: none, one, or one of each family; `0.0.0.0` and `::` only choose a family.
    pub node_ips: Vec<IpAddr>,
    /// `--node-labels`, set when the Node is created.
    pub node_labels: BTreeMap<String, String>,
    /// `registerWithTaints`, set when the Node is created.
    pub register_with_taints: Vec<Taint>,
    /// `registerNode`: whether to create the Node.
    pub register_node: bool,
    /// `--cloud-provider=external`: a controller fills in addresses and provider id.
    pub external_cloud_provider: bool,
    /// `enableControllerAttachDetach`.
    pub controller_attach_detach: bool,
    /// `providerID`; empty for none.
    pub provider_id: String,
    /// `maxPods`.
    pub max_pods: i32,
    /// `podsPerCore`; 0 for no such limit.
    pub pods_per_core: i32,
    /// What pods cannot have.
    pub reservations: Reservations,
    /// `localStorageCapacityIsolation`: whether ephemeral storage is a resource.
    pub local_storage_isolation: bool,
    /// `nodeStatusMaxImages`; negative for no limit.
    pub status_max_images: i32,
    /// The port of the HTTPS API, `port`.
    pub port: i32,
    /// Gate KubeletInUserNamespace: whether `nodeInfo.runningInUserNamespace` is told.
    pub report_user_namespace: bool,
    /// Features that the scheduler may rely on: only what exists.
    pub declared_features: Vec<String>,
    /// `nodeStatusUpdateFrequency`: how often the status is computed.
    pub status_update_frequency: Duration,
    /// `nodeStatusReportFrequency`: how often a status that did not change is sent.
    pub status_report_frequency: Duration,
    /// `nodeLeaseDurationSeconds`.
    pub lease_duration_seconds: i32,
}

impl NodeSettings {
    /// A node of that name with the defaults of KubeletConfiguration v1beta1.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        NodeSettings {
            hostname: name.clone(),
            node_name: name,
            node_ips: Vec::new(),
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            register_node: true,
            external_cloud_provider: false,
            controller_attach_detach: true,
            provider_id: String::new(),
            max_pods: 110,
            pods_per_core: 0,
            reservations: Reservations::default(),
            local_storage_isolation: true,
            status_max_images: 50,
            port: 10250,
            report_user_namespace: true,
            declared_features: Vec::new(),
            status_update_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_secs(300),
            lease_duration_seconds: 40,
        }
    }

    /// How long one heartbeat request may take: the peer's heartbeat client gives up after the shorter of the update
    /// frequency and the lease.
    pub fn heartbeat_timeout(&self) -> Duration {
        let lease = Duration::from_secs(u64::try_from(self.lease_duration_seconds).unwrap_or(0).max(1));
        self.status_update_frequency.min(lease)
    }

    /// Time between two renewals of the lease: a quarter of its duration.
    pub fn lease_renew_interval(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.lease_duration_seconds).unwrap_or(0).max(1)) / 4
    }
}

/// What the machine is, read once at the start.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Processors, memory, identities.
    pub machine: MachineFacts,
    /// Capacity of the file system of the root directory; none if it could not be measured. Taken once: on file systems
    /// that share a pool it would change with every write.
    pub ephemeral_storage_bytes: Option<i64>,
}

impl NodeFacts {
    /// Reads the machine and the file system of the agent's root directory.
    pub fn read(machine: &MachineReader, root_directory: &Path) -> Result<Self, MachineError> {
        let ephemeral_storage_bytes = match filesystem::usage(root_directory) {
            Ok(usage) => Some(i64::try_from(usage.capacity_bytes).unwrap_or(i64::MAX)),
            Err(error) => {
                let cause = error.source.to_string();
                tracing::warn!(%error, cause, "the node will have no ephemeral-storage");
                None
            }
        };
        Ok(NodeFacts { machine: machine.facts()?, ephemeral_storage_bytes })
    }
}

/// The name of the Node: `--hostname-override` or the kernel's host name, trimmed, in lower case.
pub fn node_name(hostname_override: Option<&str>) -> Result<String, MachineError> {
    let name = match hostname_override {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => machine::hostname()?,
    };
    match name.trim() {
        "" => Err(MachineError::EmptyHostname),
        name => Ok(name.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_node() {
        assert_eq!(node_name(Some(" Node-A ")).unwrap(), "node-a");
        assert!(matches!(node_name(Some("  ")), Err(MachineError::EmptyHostname)));
        assert_eq!(node_name(None).unwrap(), machine::hostname().unwrap().to_lowercase());
        assert_eq!(node_name(Some("")).unwrap(), machine::hostname().unwrap().to_lowercase());
    }

    #[test]
    fn heartbeats_follow_the_lease() {
        let mut settings = NodeSettings::named("n");
        assert_eq!(settings.lease_renew_interval(), Duration::from_secs(10));
        assert_eq!(settings.heartbeat_timeout(), Duration::from_secs(10));
        settings.lease_duration_seconds = 6;
        assert_eq!(settings.lease_renew_interval(), Duration::from_millis(1500));
        assert_eq!(settings.heartbeat_timeout(), Duration::from_secs(6));
    }

    #[test]
    fn reads_facts_and_goes_on_without_a_root_directory() {
        let facts = NodeFacts::read(&MachineReader::default(), Path::new("/")).unwrap();
        assert!(facts.ephemeral_storage_bytes.unwrap() > 0);
        let facts = NodeFacts::read(&MachineReader::default(), Path::new("/no/such/directory")).unwrap();
        assert_eq!(facts.ephemeral_storage_bytes, None);
    }
}
