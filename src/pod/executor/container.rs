//! Creating, starting and stopping containers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::timeout;

use super::hooks::container_kind;
use super::limits::{STOP_PATIENCE, Turn};
use super::sandbox::make_directory;
use super::{Executed, Executor, PodContext};
use crate::kube::error::chain;
use crate::metrics::kubelet as metrics;
use crate::model::EventType;
use crate::model::field_ref::PodAddresses;
use crate::model::pod::{self, ContainerKind};
use crate::model::service::ServiceInfo;
use crate::pod::plan::{Failure, KillContainer, Outcome, StartContainer};
use crate::runtime::cri::{ContainerConfig, PodSandboxConfig};
use crate::runtime::translate::{
    self, AllottedResources, ContainerInput, EnvFile, EnvReferenceKind, EnvSources, Environment, EnvironmentInput,
    Fetched, ImageUser, MountSource,
};
use crate::sys::beneath::Dir;
use crate::volume::MountedVolumes;

/// Waiting reasons of a container that could not be made.
const CONFIG_ERROR: &str = "CreateContainerConfigError";
const CREATE_ERROR: &str = "CreateContainerError";
const RUN_ERROR: &str = "RunContainerError";

/// How long the first container waits for the list of services, which comes while the agent starts, until it says so.
const SERVICES_WAIT: Duration = Duration::from_secs(5);

/// An environment file is small; a larger one is not read.
const LARGEST_ENV_FILE: u64 = 64 << 10;

/// Files of one start, made before the container.
struct StartFiles {
    hosts_file: Option<(PathBuf, Vec<u8>)>,
    termination_log: PathBuf,
    log_directory: PathBuf,
}

/// How a runtime begins its words when it could not mount an image volume (cri-api, pkg/errors).
const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";

/// Counts the image volumes of a container that was begun, by whether the runtime could mount them.
fn count_image_volumes(pod: &Pod, start: &StartContainer, failure: Option<&Failure>) {
    for _ in &start.image_volumes {
        metrics::IMAGE_VOLUMES_REQUESTED.increment(&[]);
    }
    let Some((_, container)) = pod::container_by_name(pod::spec(pod), &start.container) else { return };
    let failed = failure.is_some_and(|f| f.reason == CREATE_ERROR && f.message.starts_with(IMAGE_VOLUME_FAILED));
    let outcome = if failed { &metrics::IMAGE_VOLUME_ERRORS } else { &metrics::IMAGE_VOLUMES_MOUNTED };
    // A volume may be mounted more than once.
    for _ in container.volume_mounts.iter().flatten().filter(|m| start.image_volumes.contains_key(&m.name)) {
        outcome.increment(&[]);
    }
}

impl Executor {
    pub(super) async fn start_container(&self, context: &PodContext, start: &StartContainer) -> Executed {
        let kind = match start.kind {
            ContainerKind::Init => "init_container",
            ContainerKind::Regular => "container",
            ContainerKind::Ephemeral => "ephemeral_container",
        };
        metrics::STARTED_CONTAINERS.increment(&[kind]);
        let result = self.try_start_container(context, start).await;
        if let Err(failure) = &result {
            metrics::STARTED_CONTAINERS_ERRORS.increment(&[&failure.reason, kind]);
        }
        count_image_volumes(&context.pod, start, result.as_ref().err());
        if let Err(failure) = &result
            && !context.ending.is_cancelled()
        {
            let message = format!("Error: {}", failure.message);
            self.container_event(&context.pod, start.kind, &start.container, EventType::Warning, "Failed", message);
        }
        match result {
            Ok(id) => Outcome { container_id: Some(id), ..Outcome::from(Ok(())) }.into(),
            Err(failure) => Err(failure).into(),
        }
    }

    /// Returns the container by the runtime's id.
    async fn try_start_container(&self, context: &PodContext, start: &StartContainer) -> Result<String, Failure> {
        // Cancel-safe: preparing leaves nothing behind but files of the pod, and what still makes some is waited for before
        // they are removed.
        let (config, sandbox_config) = tokio::select! {
            () = context.ending.cancelled() => return Err(Failure::new(CREATE_ERROR, "the pod is ending")),
            prepared = self.prepare_container(context, start) => prepared?,
        };
        let pod = &context.pod;
        let _permit = self.limits.foreground(Turn::GoesOn).await;
        if context.ending.is_cancelled() {
            return Err(Failure::new(CREATE_ERROR, "the pod is ending"));
        }
        let runtime = &self.parts.runtime;
        let id = runtime
            .create_container(&start.sandbox_id, config, sandbox_config)
            .await
            .map_err(|error| Failure::new(CREATE_ERROR, error.to_string()))?;
        let tell = |reason: &str, message: &str| {
            self.container_event(pod, start.kind, &start.container, EventType::Normal, reason, message.to_owned());
        };
        tell("Created", "Container created");
        if context.ending.is_cancelled() {
            // What was made is removed with the rest of the pod.
            return Err(Failure::new(RUN_ERROR, "the pod is ending"));
        }
        runtime.start_container(&id).await.map_err(|error| Failure::new(RUN_ERROR, error.to_string()))?;
        tell("Started", "Container started");
        self.link_log(context, start, &id).await;
        Ok(id)
    }

    /// Makes all that the container needs on the node and puts its configuration together.
    async fn prepare_container(
        &self,
        context: &PodContext,
        start: &StartContainer,
    ) -> Result<(ContainerConfig, PodSandboxConfig), Failure> {
        let config_error = |message: String| Failure::new(CONFIG_ERROR, message);
        let pod = &context.pod;
        let Some((_, container)) = pod::container_by_name(pod::spec(pod), &start.container) else {
            return Err(config_error(format!("container {} is not in the pod", start.container)));
        };
        let host_ips = self.host_ips();
        let host_network = pod::is_host_network(pod::spec(pod));
        let pod_ips = if host_network { host_ips.clone() } else { start.pod_ips.clone() };
        let addresses = PodAddresses { pod_ips: pod_ips.clone(), host_ips };

        let environment = self.environment(context, &container, &addresses).await?;
        let mounts = self.mount_sources(context, start, &container, &environment).await?;
        let files = self.start_files(context, &container, &pod_ips)?;
        let termination_log = files.termination_log.to_string_lossy().into_owned();
        self.files.run(&context.key.uid, move || files.make()).await.map_err(config_error)?;

        let image_user = match (start.image.uid, start.image.username.as_str()) {
            (Some(uid), _) => ImageUser::Uid(uid),
            (None, "") => ImageUser::Uid(0),
            (None, name) => ImageUser::Name(name.to_owned()),
        };
        let allotted = AllottedResources::default();
        let input = ContainerInput {
            pod,
            container: &container,
            restart_count: start.restart_count,
            image_ref: &start.image.image_ref,
            image_user: &image_user,
            environment: &environment,
            pod_ips: &pod_ips,
            mounts: &mounts,
            block_devices: &[],
            termination_log: Some(&termination_log),
            target_id: start.target_id.as_deref(),
            runtime_handler: &start.runtime_handler,
            supports_recursive_read_only: self.supports_recursive_read_only(&start.runtime_handler),
            user_mapping: self.user_mapping(context, &start.runtime_handler).await.map_err(config_error)?,
            extra_groups: &[],
            allotted: &allotted,
        };
        let config = translate::container_config(&self.parts.node, &input)
            .map_err(|error| Failure::new(error.waiting_reason(), error.to_string()))?;
        let sandbox_config =
            self.sandbox_config(context, 0, &start.runtime_handler, false).await.map_err(config_error)?;
        Ok((config, sandbox_config))
    }

    fn supports_recursive_read_only(&self, handler: &str) -> bool {
        self.parts.facts.borrow().recursive_read_only_handlers.contains(handler)
    }

    /// The services that the pod's containers are told of; none if they are not known yet.
    async fn services(&self, context: &PodContext) -> Option<Vec<ServiceInfo>> {
        let Some(services) = &self.parts.services else { return Some(Vec::new()) };
        // A static pod may be what the API server needs to come up.
        if !pod::is_static(&context.pod) {
            timeout(SERVICES_WAIT, services.wait_synced()).await.ok()?;
        }
        let mut known = services.in_namespace(&context.key.namespace);
        if context.key.namespace != "default" {
            known.extend(services.in_namespace("default"));
        }
        Some(known)
    }

    /// The container's environment, with what it needs of ConfigMaps, Secrets and services.
    async fn environment(
        &self,
        context: &PodContext,
        container: &Container,
        addresses: &PodAddresses,
    ) -> Result<Environment, Failure> {
        let config_error = |message: String| Failure::new(CONFIG_ERROR, message);
        let sources = self.env_sources(context, container).await;
        let services = self.services(context).await;
        let input = EnvironmentInput {
            pod: &context.pod,
            container,
            addresses,
            sources: &sources,
            services: services.as_deref(),
            plugin_variables: &[],
        };
        translate::environment(&self.parts.node, &input).map_err(|error| config_error(error.to_string()))
    }

    async fn env_sources(&self, context: &PodContext, container: &Container) -> EnvSources {
        let mut sources = EnvSources { config_maps: BTreeMap::new(), secrets: BTreeMap::new(), files: BTreeMap::new() };
        for file in translate::env_file_references(container) {
            let volume = context.volumes.as_ref().and_then(|volumes| volumes.get(&file.volume));
            if let Some(volume) = volume {
                let read = read_env_file(volume.host_path.clone(), file.path.clone()).await;
                sources.files.insert(file, read);
            }
        }
        let namespace = &context.key.namespace;
        let Some(objects) = &self.parts.objects else { return sources };
        for reference in translate::env_references(container) {
            match reference.kind {
                EnvReferenceKind::ConfigMap => {
                    if let Entry::Vacant(vacant) = sources.config_maps.entry(reference.name) {
                        let fetched = objects.config_map(namespace, vacant.key()).await;
                        vacant.insert(fetched_object(fetched));
                    }
                }
                EnvReferenceKind::Secret => {
                    if let Entry::Vacant(vacant) = sources.secrets.entry(reference.name) {
                        let fetched = objects.secret(namespace, vacant.key()).await;
                        vacant.insert(fetched_object(fetched));
                    }
                }
            }
        }
        sources
    }

    /// Where each mount of the container is found on the node, sub-paths prepared.
    async fn mount_sources(
        &self,
        context: &PodContext,
        start: &StartContainer,
        container: &Container,
        environment: &Environment,
    ) -> Result<Vec<Option<MountSource>>, Failure> {
        let config_error = |message: String| Failure::new(CONFIG_ERROR, message);
        let requests = translate::mount_requests(container, environment)
            .map_err(|error| Failure::new(error.waiting_reason(), error.to_string()))?;
        let empty = MountedVolumes::default();
        let volumes = context.volumes.as_deref().unwrap_or(&empty);
        let mut sources = Vec::with_capacity(requests.len());
        for request in requests {
            if let Some(image_ref) = start.image_volumes.get(&request.mount.name) {
                let images = &mut pod::image_volumes(pod::spec(&context.pod));
                let image = images.find(|(name, _)| *name == request.mount.name).map(|(_, image)| image);
                sources.push(Some(MountSource::Image {
                    image_ref: image_ref.clone(),
                    reference: image.and_then(|image| image.reference.clone()).unwrap_or_default(),
                    runtime_handler: start.runtime_handler.clone(),
                }));
                continue;
            }
            let Some(volume) = volumes.get(&request.mount.name) else {
                sources.push(None);
                continue;
            };
            let host_path = match &request.sub_path {
                None => volume.host_path.clone(),
                Some(sub_path) => self
                    .parts
                    .volumes
                    .prepare_sub_path(&context.key.uid, volume, &container.name, request.index, sub_path)
                    .await
                    .map_err(|error| {
                        // Its causes name paths of the node, which are not the user's business.
                        tracing::warn!(pod = %context.key, error = chain(&error), "a sub-path cannot be prepared");
                        config_error(error.to_string())
                    })?,
            };
            sources.push(Some(MountSource::Path {
                host_path: host_path.to_string_lossy().into_owned(),
                read_only: volume.read_only,
                selinux_relabel: volume.is_relabelled(),
            }));
        }
        Ok(sources)
    }

    fn start_files(
        &self,
        context: &PodContext,
        container: &Container,
        pod_ips: &[String],
    ) -> Result<StartFiles, Failure> {
        let node = &self.parts.node;
        let uid = &context.key.uid;
        let hosts_file = if translate::has_hosts_file(&context.pod, container, pod_ips) {
            // The node's own file is what pods in its network get.
            let node_hosts = if pod::is_host_network(pod::spec(&context.pod)) {
                std::fs::read("/etc/hosts").unwrap_or_default()
            } else {
                Vec::new()
            };
            let content = translate::hosts_file(&context.pod, &node.cluster_domain, pod_ips, &node_hosts)
                .map_err(|error| Failure::new(error.waiting_reason(), error.to_string()))?;
            Some((PathBuf::from(translate::hosts_file_path(&node.root_dir, uid)), content))
        } else {
            None
        };
        let unique: u32 = rand::random();
        Ok(StartFiles {
            hosts_file,
            termination_log: translate::termination_log_path(&node.root_dir, uid, &container.name, unique).into(),
            log_directory: translate::container_log_directory(&node.pod_logs_dir, &context.key, &container.name).into(),
        })
    }

    /// The link by which log collectors find the container's log.
    async fn link_log(&self, context: &PodContext, start: &StartContainer, id: &str) {
        let log = PathBuf::from(translate::pod_log_directory(&self.parts.node.pod_logs_dir, &context.key))
            .join(translate::container_log_path(&start.container, start.restart_count));
        let link = PathBuf::from(translate::legacy_log_link(&context.key, &start.container, id));
        let link = move || {
            make_directory(Path::new(translate::LEGACY_LOG_DIRECTORY), 0o755)?;
            match std::os::unix::fs::symlink(&log, &link) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    Err(format!("linking {}: {error}", link.display()))
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = self.files.run(&context.key.uid, link).await {
            tracing::warn!(pod = %context.key, container = start.container, error, "the container's log is not linked");
        }
    }

    pub(super) async fn kill_container(&self, context: &PodContext, kill: &KillContainer) -> Result<(), Failure> {
        let kind = container_kind(&context.pod, &kill.container);
        if !kill.repeated {
            let message = kill.message.clone();
            self.container_event(&context.pod, kind, &kill.container, EventType::Normal, "Killing", message);
        }
        // The runtime counts whole seconds: rather a little more than what was asked for.
        let seconds = kill.grace.as_secs() + i64::from(kill.grace.subsec_nanos() > 0);
        match self
            .limits
            .patient(Turn::GoesOn, STOP_PATIENCE, self.parts.runtime.stop_container(&kill.id, seconds))
            .await
        {
            Err(error) if !error.is_not_found() => {
                let message = error.to_string();
                let told =
                    format!("error killing pod: failed to \"KillContainer\" for \"{}\": {message}", kill.container);
                self.pod_event(&context.pod, EventType::Warning, "FailedKillPod", told);
                Err(Failure::new("KillContainerError", message))
            }
            _ => Ok(()),
        }
    }
}

/// Reads an environment file of a volume. The pod may have put anything there.
async fn read_env_file(volume: PathBuf, path: String) -> EnvFile {
    let host_path = volume.join(&path).to_string_lossy().into_owned();
    let read = move || -> std::io::Result<String> {
        let file = Dir::open(&volume)?.read_file(Path::new(&path))?;
        let mut text = String::new();
        let length = file.take(LARGEST_ENV_FILE + 1).read_to_string(&mut text)?;
        let too_large = u64::try_from(length).is_ok_and(|length| length > LARGEST_ENV_FILE);
        if too_large { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
    };
    let text = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    EnvFile { host_path, text }
}

impl StartFiles {
    fn make(self) -> Result<(), String> {
        if let Some((path, content)) = self.hosts_file {
            write_file(&path, &content, 0o644)?;
        }
        if let Some(directory) = self.termination_log.parent() {
            make_directory(directory, 0o750)?;
        }
        // Any user of the container may write its message.
        write_file(&self.termination_log, &[], 0o666)?;
        make_directory(&self.log_directory, 0o755)
    }
}

/// Writes a file whose mode does not depend on the umask. It is written in place: containers have the old one mounted.
fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("writing {}: {error}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.write_all(content).map_err(failed)
}

fn fetched_object<T>(result: Result<std::sync::Arc<T>, crate::kube::objects::ObjectError>) -> Fetched<T> {
    match result {
        Ok(object) => Fetched::Found(object),
        Err(error) if error.is_not_found() => Fetched::NotFound,
        Err(error) => Fetched::Failed(error.to_string()),
    }
}
