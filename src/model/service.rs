//! Services, as the environment variables of containers tell of them.

/// What of a Service is told to containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceInfo {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIP`; empty or `None` for a headless service, which gets no variables.
    pub cluster_ip: String,
    /// `spec.ports`, in their order: the first one is the service's port.
    pub ports: Vec<ServicePortInfo>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePortInfo {
    /// `name`; empty for none.
    pub name: String,
    /// `port`.
    pub port: i32,
    /// `protocol`; empty for TCP.
    pub protocol: String,
}
