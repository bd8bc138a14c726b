//! A pod in the runtime's words: the pure translation of a pod into CRI messages, and of what CRI tells back.
//!
//! Everything here is a function of plain values: the pod, the node's settings, and what others fetched, mounted and
//! pulled before. It knows no API client, no file system, no tasks, and decides nothing about when a container runs.
//!
//! The order for a container is: fetch what [`env_references`] and [`env_file_references`] name, build the
//! [`environment()`], resolve the [`mount_requests`] (sub-paths need the environment), write the [`hosts_file`] and the
//! termination message file, then [`container_config`].
//!
//! Names, labels, annotations, hashes and paths are the peer's, since either agent must be able to take over the other's
//! containers.

mod addresses;
mod container;
mod dns;
mod env_file;
mod environment;
mod error;
mod expansion;
mod go_json;
mod hash;
mod hostname;
mod metadata;
mod mounts;
mod namespaces;
mod paths;
mod resources;
mod sandbox;
mod security;
mod services;
mod settings;
mod warning;

#[cfg(test)]
mod testing;

pub use addresses::order_pod_ips;
pub use container::{AllottedResources, ContainerInput, container_config, resources_of};
pub use dns::{HostResolver, ResolvConf, ResolvConfError, check_resolv_conf, parse_resolv_conf, pod_dns};
pub use env_file::{EnvFileError, value_in_file};
pub use environment::{
    EnvFile, EnvFileKey, EnvReference, EnvReferenceKind, EnvSources, Environment, EnvironmentInput, Fetched,
    env_file_references, env_references, environment,
};
pub use error::{RecursiveReadOnlyError, TranslateError};
pub use expansion::{expand, expand_bytes, expand_sub_path};
pub use hash::{backoff_key, container_hash};
pub use hostname::{ETC_HOSTS, Hostname, has_hosts_file, hosts_file, kernel_hostname, pod_hostname};
pub use metadata::{
    CONTAINER_PORTS, CONTAINER_PRE_STOP_HANDLER, ContainerAnnotations, Lookup, POD_DELETION_GRACE_PERIOD,
    POD_TERMINATION_GRACE_PERIOD, container_annotations, container_labels, container_name, pod_key,
    sandbox_annotations, sandbox_labels,
};
pub use mounts::{BlockDevice, MountRequest, MountSource, mount_requests, recursive_read_only};
pub use namespaces::{UserMapping, namespace_options};
pub use paths::{
    LEGACY_LOG_DIRECTORY, container_directory, container_log_directory, container_log_path, hosts_file_path,
    legacy_log_link, pod_directory, pod_log_directory, pod_uid_from_log_directory, restart_count_from_log_files,
    seccomp_directory, termination_log_path,
};
pub use resources::linux_resources;
pub use sandbox::{SandboxInput, SandboxTranslation, has_privileged_container, sandbox_config};
pub use security::{ImageUser, MASKED_PATHS, READONLY_PATHS, verify_run_as_non_root};
pub use services::service_variables;
pub use settings::NodeSettings;
pub use warning::{Warning, WarningTarget};
