//! Making and ending sandboxes.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ::kube::api::Api;
use k8s_openapi::api::node::v1::RuntimeClass;

use super::limits::{START_PATIENCE, STOP_PATIENCE, Turn};
use super::{Executor, PodContext};
use crate::kube::error::chain;
use crate::kube::events::node_reference;
use crate::metrics::kubelet as metrics;
use crate::model::EventType;
use crate::model::pod;
use crate::model::{SignedDuration, clock};
use crate::pod::plan::Failure;
use crate::runtime::cri::PodSandboxConfig;
use crate::runtime::translate::{self, SandboxInput, WarningTarget};

impl Executor {
    pub(super) async fn create_sandbox(&self, context: &PodContext, attempt: u32) -> Result<(), Failure> {
        let pod = &context.pod;
        if let Some(problem) = self.network_problem(context) {
            let message = format!("network is not ready: {problem}");
            self.pod_event(pod, EventType::Warning, "NetworkNotReady", message.clone());
            let retry_at = clock::now().checked_add(SignedDuration::from_secs(1)).ok();
            return Err(Failure { reason: "NetworkNotReady".into(), message, retry_at });
        }
        let has_own_users = pod::spec(pod).host_users == Some(false);
        metrics::STARTED_PODS.increment(&[]);
        if has_own_users {
            metrics::STARTED_USER_NAMESPACED_PODS.increment(&[]);
        }
        let result = self.try_create_sandbox(context, attempt).await;
        if result.is_err() {
            metrics::STARTED_PODS_ERRORS.increment(&[]);
            if has_own_users {
                metrics::STARTED_USER_NAMESPACED_PODS_ERRORS.increment(&[]);
            }
        }
        if let Err(message) = &result
            && !context.ending.is_cancelled()
        {
            let message = format!("Failed to create pod sandbox: {message}");
            self.pod_event(pod, EventType::Warning, "FailedCreatePodSandBox", message);
        }
        result.map_err(|message| Failure::new("CreatePodSandboxError", message))
    }

    fn network_problem(&self, context: &PodContext) -> Option<String> {
        if pod::is_host_network(pod::spec(&context.pod)) {
            return None;
        }
        self.parts.network_problem.borrow().clone()
    }

    async fn try_create_sandbox(&self, context: &PodContext, attempt: u32) -> Result<(), String> {
        let handler = self.runtime_handler(context).await?;
        let config = self.sandbox_config(context, attempt, &handler, true).await?;
        let log_directory = config.log_directory.clone();
        self.files.run(&context.key.uid, move || make_directory(Path::new(&log_directory), 0o755)).await?;
        let run = async {
            if context.ending.is_cancelled() {
                return Err("the pod is ending".to_owned());
            }
            self.parts.runtime.run_pod_sandbox(config, &handler).await.map(|_| ()).map_err(|error| error.to_string())
        };
        self.limits.patient(Turn::Begins, START_PATIENCE, run).await
    }

    /// The sandbox's configuration: also an input of the containers made in it. What could not be done as the pod asks is
    /// told once, with the sandbox.
    pub(super) async fn sandbox_config(
        &self,
        context: &PodContext,
        attempt: u32,
        handler: &str,
        tell_warnings: bool,
    ) -> Result<PodSandboxConfig, String> {
        let host_resolver = self.resolver.get()?;
        let cgroup_parent = self.parts.cgroups.pod_cgroup_parent(&context.pod);
        let input = SandboxInput {
            pod: &context.pod,
            attempt,
            cgroup_parent: &cgroup_parent,
            host_resolver: &host_resolver,
            runtime_handler: handler,
            user_mapping: self.user_mapping(context, handler).await?,
            extra_groups: &[],
            exclusive_cpus: false,
        };
        let translated = translate::sandbox_config(&self.parts.node, &input).map_err(|error| error.to_string())?;
        for warning in translated.warnings.into_iter().filter(|_| tell_warnings) {
            match warning.target {
                WarningTarget::Pod => {
                    self.pod_event(&context.pod, EventType::Warning, warning.reason, warning.message);
                }
                WarningTarget::Node => {
                    let node = node_reference(pod::spec(&context.pod).node_name.as_deref().unwrap_or_default(), None);
                    self.parts.events.event(&node, EventType::Warning, warning.reason, warning.message);
                }
            }
        }
        Ok(translated.config)
    }

    /// The ids of a pod with a user namespace of its own; none also where its handler has none to give, which is the
    /// translation's to refuse.
    pub(super) async fn user_mapping(
        &self,
        context: &PodContext,
        handler: &str,
    ) -> Result<Option<translate::UserMapping>, String> {
        let wanted = pod::spec(&context.pod).host_users == Some(false);
        if !wanted || !self.parts.facts.borrow().user_namespace_handlers.contains(handler) {
            return Ok(None);
        }
        let (namespaces, uid) = (self.user_namespaces.clone(), context.key.uid.clone());
        let ensure = move || namespaces.ensure(&uid).map_err(|error| chain(&error));
        self.files.run(&context.key.uid, ensure).await.map(Some)
    }

    /// The runtime handler of the pod's RuntimeClass; empty for the default one.
    async fn runtime_handler(&self, context: &PodContext) -> Result<String, String> {
        let class = pod::spec(&context.pod).runtime_class_name.clone().filter(|name| !name.is_empty());
        let Some(name) = class else { return Ok(String::new()) };
        let Some(client) = &self.parts.client else {
            return Err(format!("runtimeclass.node.k8s.io \"{name}\" cannot be looked up without an API server"));
        };
        let api: Api<RuntimeClass> = Api::all(client.clone());
        match api.get(&name).await {
            Ok(class) => Ok(class.handler),
            Err(::kube::Error::Api(status)) if status.code == 404 => {
                Err(format!("runtimeclass.node.k8s.io \"{name}\" not found"))
            }
            Err(error) => Err(format!("getting RuntimeClass \"{name}\": {}", chain(&error))),
        }
    }

    pub(super) async fn stop_sandbox(&self, context: &PodContext, id: &str) -> Result<(), Failure> {
        match self.limits.patient(Turn::GoesOn, STOP_PATIENCE, self.parts.runtime.stop_pod_sandbox(id)).await {
            Err(error) if !error.is_not_found() => {
                let message = error.to_string();
                let told =
                    format!("error killing pod: failed to \"KillPodSandbox\" for \"{}\": {message}", context.key);
                self.pod_event(&context.pod, EventType::Warning, "FailedKillPod", told);
                Err(Failure::new("KillPodSandboxError", message))
            }
            _ => Ok(()),
        }
    }

    /// Removes a sandbox with its containers. The runtime stops what should still run of it.
    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), Failure> {
        match self.limits.background(self.parts.runtime.remove_pod_sandbox(id)).await {
            Err(error) if !error.is_not_found() => Err(Failure::new("RemovePodSandboxError", error.to_string())),
            _ => Ok(()),
        }
    }
}

/// Makes a directory and its parents with that mode, as far as the umask lets it.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), String> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| format!("making {}: {error}", path.display()))
}
