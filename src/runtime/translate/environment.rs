//! The environment of a container: from `envFrom`, `env`, the services around it and what device plugins add.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, FileKeySelector, Pod, PodSpec, ResourceFieldSelector, Secret,
};

use crate::model::field_ref::{PodAddresses, environment_defaults, field_value, resource_field_value};
use crate::model::pod::{is_static, spec};
use crate::model::service::ServiceInfo;

use super::addresses::order_pod_ips;
use super::env_file::value_in_file;
use super::error::TranslateError;
use super::expansion::expand_bytes;
use super::services::service_variables;
use super::settings::NodeSettings;

/// Variables in the order in which they were first set. Values are bytes, since those of a Secret need not be text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: Vec<(String, Vec<u8>)>,
    index: HashMap<String, usize>,
}

impl Environment {
    /// Sets a variable; a value that it had before gives way.
    pub fn set(&mut self, name: impl Into<String>, value: Vec<u8>) {
        let name = name.into();
        if let Some((_, slot)) = self.index.get(&name).and_then(|at| self.variables.get_mut(*at)) {
            *slot = value;
            return;
        }
        self.index.insert(name.clone(), self.variables.len());
        self.variables.push((name, value));
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.index.get(name).and_then(|at| self.variables.get(*at)).map(|(_, value)| value.as_slice())
    }

    /// All variables in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    fn set_missing(&mut self, name: String, value: Vec<u8>) {
        if !self.index.contains_key(&name) {
            self.set(name, value);
        }
    }
}

impl fmt::Debug for Environment {
    /// Names alone: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.iter().map(|(name, _)| name)).finish()
    }
}

/// Which kind of object a variable's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EnvReferenceKind {
    /// A ConfigMap of the pod's namespace.
    ConfigMap,
    /// A Secret of the pod's namespace.
    Secret,
}

/// An object that a container's environment needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvReference {
    /// The object's kind.
    pub kind: EnvReferenceKind,
    /// The object's name.
    pub name: String,
    /// The one key that is needed; none for all of them (`envFrom`).
    pub key: Option<String>,
    /// Whether the container can start without.
    pub optional: bool,
}

/// The objects that a container's environment needs, in the order of their use, repetitions included.
pub fn env_references(container: &Container) -> Vec<EnvReference> {
    let reference = |kind, name: &str, key: Option<&str>, optional: Option<bool>| EnvReference {
        kind,
        name: name.to_owned(),
        key: key.map(str::to_owned),
        optional: optional == Some(true),
    };
    let mut references = Vec::new();
    for source in container.env_from.iter().flatten() {
        if let Some(r) = &source.config_map_ref {
            references.push(reference(EnvReferenceKind::ConfigMap, &r.name, None, r.optional));
        } else if let Some(r) = &source.secret_ref {
            references.push(reference(EnvReferenceKind::Secret, &r.name, None, r.optional));
        }
    }
    for source in value_sources(container) {
        if let Some(r) = &source.config_map_key_ref {
            references.push(reference(EnvReferenceKind::ConfigMap, &r.name, Some(&r.key), r.optional));
        } else if let Some(r) = &source.secret_key_ref {
            references.push(reference(EnvReferenceKind::Secret, &r.name, Some(&r.key), r.optional));
        }
    }
    references
}

/// The environment files that a container's variables come from. Paths are relative to the volume, and must not be
/// followed out of it.
pub fn env_file_references(container: &Container) -> Vec<EnvFileKey> {
    value_sources(container).filter_map(|s| s.file_key_ref.as_ref()).map(EnvFileKey::of).collect()
}

fn value_sources(container: &Container) -> impl Iterator<Item = &EnvVarSource> {
    let is_set = |value: &Option<String>| value.as_deref().is_some_and(|v| !v.is_empty());
    container.env.iter().flatten().filter(move |v| !is_set(&v.value)).filter_map(|v| v.value_from.as_ref())
}

/// An object as the API, or a cache of it, gave it.
#[derive(Clone, PartialEq)]
pub enum Fetched<T> {
    /// It is there.
    Found(Arc<T>),
    /// The API does not have it.
    NotFound,
    /// It could not be read; why, for the user.
    Failed(String),
}

impl<T> fmt::Debug for Fetched<T> {
    /// Without the object: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fetched::Found(_) => f.write_str("Found"),
            Fetched::NotFound => f.write_str("NotFound"),
            Fetched::Failed(message) => f.debug_tuple("Failed").field(message).finish(),
        }
    }
}

/// A file within a volume of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvFileKey {
    /// The volume's name.
    pub volume: String,
    /// The file's path in the volume.
    pub path: String,
}

impl EnvFileKey {
    fn of(selector: &FileKeySelector) -> Self {
        EnvFileKey { volume: selector.volume_name.clone(), path: selector.path.clone() }
    }
}

/// An environment file on the node.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// Its path on the node.
    pub host_path: String,
    /// What stands in it, or why it cannot be read.
    pub text: Result<String, String>,
}

impl fmt::Debug for EnvFile {
    /// Without the text: it may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.as_ref().map(|_| ());
        f.debug_struct("EnvFile").field("host_path", &self.host_path).field("text", &text).finish()
    }
}

/// The objects and files that [`env_references`] and [`env_file_references`] name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvSources {
    /// ConfigMaps of the pod's namespace by name.
    pub config_maps: BTreeMap<String, Fetched<ConfigMap>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: BTreeMap<String, Fetched<Secret>>,
    /// Environment files; one whose volume is not mounted is left out.
    pub files: BTreeMap<EnvFileKey, EnvFile>,
}

/// What a container's environment is made of.
#[derive(Clone, Copy, Debug)]
pub struct EnvironmentInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container, an ephemeral one as a container.
    pub container: &'a Container,
    /// The sandbox's addresses as the runtime gives them, or the node's for a pod in the node's network; and the node's.
    pub addresses: &'a PodAddresses,
    /// Objects and files.
    pub sources: &'a EnvSources,
    /// The services of the pod's namespace and of `default`; none before the first listing.
    pub services: Option<&'a [ServiceInfo]>,
    /// What device plugins add. The pod's own variables win.
    pub plugin_variables: &'a [(String, String)],
}

/// Builds a container's environment: `envFrom`, then `env` in its order with expansion against what stands before and
/// the service variables, then the services (`kubelet.makeEnvironmentVariables`).
///
/// # Errors
/// When something that is not optional is missing, or a reference has no value.
pub fn environment(node: &NodeSettings, input: &EnvironmentInput<'_>) -> Result<Environment, TranslateError> {
    let scope = Scope { node, input, namespace: input.pod.metadata.namespace.as_deref().unwrap_or_default() };
    // The API defaults the field; a manifest on the node's disk may lack it.
    let service_links = spec(input.pod).enable_service_links.unwrap_or(true);
    let service_variables = match input.services {
        Some(services) => service_variables(services, scope.namespace, service_links),
        // A static pod must be able to start before there is any API server.
        None if is_static(input.pod) => Vec::new(),
        None => return Err(TranslateError::ServicesNotSynced),
    };
    let services: HashMap<&str, &str> = service_variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();

    let mut environment = Environment::default();
    scope.add_env_from(&mut environment)?;
    for variable in input.container.env.iter().flatten() {
        let value = match (variable.value.as_deref().unwrap_or_default(), &variable.value_from) {
            ("", Some(source)) => match scope.value_of(source)? {
                Some(value) => value,
                None => continue,
            },
            (text, _) => expand_bytes(text, |name| {
                environment.get(name).or_else(|| services.get(name).map(|value| value.as_bytes()))
            }),
        };
        environment.set(&variable.name, value);
    }
    for (name, value) in service_variables.into_iter().chain(input.plugin_variables.iter().cloned()) {
        environment.set_missing(name, value.into_bytes());
    }
    Ok(environment)
}

struct Scope<'a> {
    node: &'a NodeSettings,
    input: &'a EnvironmentInput<'a>,
    namespace: &'a str,
}

impl Scope<'_> {
    fn add_env_from(&self, environment: &mut Environment) -> Result<(), TranslateError> {
        for source in self.input.container.env_from.iter().flatten() {
            let prefix = source.prefix.as_deref().unwrap_or_default();
            if let Some(reference) = &source.config_map_ref {
                let Some(object) = self.config_map(&reference.name, reference.optional)? else { continue };
                for (key, value) in object.data.iter().flatten() {
                    environment.set(format!("{prefix}{key}"), value.clone().into_bytes());
                }
            } else if let Some(reference) = &source.secret_ref {
                let Some(object) = self.secret(&reference.name, reference.optional)? else { continue };
                for (key, value) in object.data.iter().flatten() {
                    environment.set(format!("{prefix}{key}"), value.0.clone());
                }
            }
        }
        Ok(())
    }

    /// None where an optional source is absent: then the variable is not touched.
    fn value_of(&self, source: &EnvVarSource) -> Result<Option<Vec<u8>>, TranslateError> {
        if let Some(reference) = &source.field_ref {
            let given = self.input.addresses;
            let ordered = order_pod_ips(&given.pod_ips, &self.node.node_ips);
            let pod_ips = if ordered.is_empty() { given.pod_ips.clone() } else { ordered };
            let addresses = PodAddresses { pod_ips, host_ips: given.host_ips.clone() };
            let value = field_value(self.input.pod, &reference.field_path, &addresses)?;
            return Ok(Some(value.into_bytes()));
        }
        if let Some(reference) = &source.resource_field_ref {
            return self.resource_value(reference).map(|value| Some(value.into_bytes()));
        }
        if let Some(reference) = &source.config_map_key_ref {
            let Some(object) = self.config_map(&reference.name, reference.optional)? else { return Ok(None) };
            let value = object.data.as_ref().and_then(|data| data.get(&reference.key));
            let found = value.map(|value| value.clone().into_bytes());
            return self.required("ConfigMap", &reference.name, &reference.key, reference.optional, found);
        }
        if let Some(reference) = &source.secret_key_ref {
            let Some(object) = self.secret(&reference.name, reference.optional)? else { return Ok(None) };
            let found = object.data.as_ref().and_then(|data| data.get(&reference.key)).map(|value| value.0.clone());
            return self.required("Secret", &reference.name, &reference.key, reference.optional, found);
        }
        if let Some(reference) = source.file_key_ref.as_ref().filter(|_| self.node.env_files) {
            return self.file_value(reference);
        }
        Ok(Some(Vec::new()))
    }

    fn resource_value(&self, selector: &ResourceFieldSelector) -> Result<String, TranslateError> {
        let (pod, container) = (self.input.pod, self.input.container);
        let defaults = environment_defaults(pod, &self.node.allocatable);
        let names_itself = selector.container_name.as_deref().unwrap_or_default().is_empty();
        let is_ephemeral = spec(pod).ephemeral_containers.iter().flatten().any(|c| c.name == container.name);
        if names_itself && is_ephemeral {
            // Containers are looked up among the init and regular ones only.
            let containers = vec![container.clone()];
            let alone = Pod { spec: Some(PodSpec { containers, ..PodSpec::default() }), ..Pod::default() };
            return Ok(resource_field_value(&alone, &container.name, selector, &defaults)?);
        }
        Ok(resource_field_value(pod, &container.name, selector, &defaults)?)
    }

    fn file_value(&self, selector: &FileKeySelector) -> Result<Option<Vec<u8>>, TranslateError> {
        let file = self.input.sources.files.get(&EnvFileKey::of(selector));
        let file =
            file.ok_or_else(|| TranslateError::EnvFileVolumeNotFound { volume: selector.volume_name.clone() })?;
        let unreadable = |cause| TranslateError::EnvFileUnreadable { cause };
        let text = file.text.as_ref().map_err(|cause| unreadable(format!("{}: {cause}", file.host_path)))?;
        let value =
            value_in_file(text, &selector.key).map_err(|error| unreadable(format!("{}: {error}", file.host_path)))?;
        match (value.is_empty(), selector.optional == Some(true)) {
            (false, _) => Ok(Some(value.into_bytes())),
            (true, true) => Ok(None),
            (true, false) => {
                Err(TranslateError::EnvFileKeyNotFound { key: selector.key.clone(), path: file.host_path.clone() })
            }
        }
    }

    fn config_map(&self, name: &str, optional: Option<bool>) -> Result<Option<&ConfigMap>, TranslateError> {
        self.object("configmap", self.input.sources.config_maps.get(name), name, optional)
    }

    fn secret(&self, name: &str, optional: Option<bool>) -> Result<Option<&Secret>, TranslateError> {
        self.object("secret", self.input.sources.secrets.get(name), name, optional)
    }

    fn object<'o, T>(
        &self,
        kind: &'static str,
        fetched: Option<&'o Fetched<T>>,
        name: &str,
        optional: Option<bool>,
    ) -> Result<Option<&'o T>, TranslateError> {
        match fetched {
            Some(Fetched::Found(object)) => Ok(Some(object.as_ref())),
            Some(Fetched::NotFound) if optional == Some(true) => Ok(None),
            Some(Fetched::NotFound) => Err(TranslateError::ObjectNotFound { kind, name: name.to_owned() }),
            Some(Fetched::Failed(message)) => Err(TranslateError::ObjectFailed { message: message.clone() }),
            None => {
                Err(TranslateError::ObjectNotRead { kind, namespace: self.namespace.to_owned(), name: name.to_owned() })
            }
        }
    }

    fn required(
        &self,
        kind: &'static str,
        name: &str,
        key: &str,
        optional: Option<bool>,
        found: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, TranslateError> {
        if found.is_some() || optional == Some(true) {
            return Ok(found);
        }
        Err(TranslateError::KeyNotFound {
            key: key.to_owned(),
            kind,
            namespace: self.namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
