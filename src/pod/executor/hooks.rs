//! Running lifecycle hooks.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::{Executor, PodContext};
use crate::metrics::kubelet as metrics;
use crate::model::EventType;
use crate::model::pod::{self, ContainerKind};
use crate::model::release::minor_release;
use crate::pod::plan::{Failure, Hook, HookCall, HookKind, HttpCall};
use crate::probe::HttpGet;

/// The peer's user agent for hooks.
const AGENT: &str = concat!("kube-lifecycle/", minor_release!());

/// Waiting reason of a container whose postStart hook failed.
const POST_START_ERROR: &str = "PostStartHookError";

impl Executor {
    pub(super) async fn run_hook(&self, context: &PodContext, hook: &Hook) -> Result<(), Failure> {
        let pod = &context.pod;
        if hook.kind == HookKind::PreStop {
            let message = hook.message.clone();
            let kind = container_kind(pod, &hook.container);
            self.container_event(pod, kind, &hook.container, EventType::Normal, "Killing", message);
        }
        let Err(message) = self.call(context, hook).await else { return Ok(()) };
        tracing::warn!(pod = %context.key, container = hook.container, hook = ?hook.kind, message, "a hook failed");
        self.tell_failed_hook(pod, &hook.container, hook.kind);
        Err(Failure::new(POST_START_ERROR, message))
    }

    /// Tells that a hook failed, and not why: what a server or command said may be a secret (the peer's rule).
    pub(super) fn tell_failed_hook(&self, pod: &Pod, container: &str, hook: HookKind) {
        let (reason, message) = match hook {
            HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
            HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
        };
        let kind = container_kind(pod, container);
        self.container_event(pod, kind, container, EventType::Warning, reason, message.to_owned());
    }

    async fn call(&self, context: &PodContext, hook: &Hook) -> Result<(), String> {
        let place = || format!("for Container \"{}\" in Pod \"{}\" failed", hook.container, context.key);
        match &hook.call {
            HookCall::Exec(command) => self.exec(&hook.id, command).await.map_err(|(error, output)| {
                format!(
                    "Exec lifecycle hook ([{}]) {} - error: {error}, message: {output:?}",
                    command.join(" "),
                    place()
                )
            }),
            HookCall::Http(call) => self.request(context, call).await.map_err(|error| {
                let path = call.path.as_str();
                format!("HTTP lifecycle hook ({path}) {} - error: {error}", place())
            }),
            HookCall::Sleep(time) => {
                let cut_short = CutShort(true);
                tokio::time::sleep(Duration::try_from(*time).unwrap_or_default()).await;
                cut_short.slept_through();
                Ok(())
            }
            HookCall::Invalid(error) => Err(format!("Cannot run handler: {error}")),
        }
    }

    /// The error, and what the command printed.
    async fn exec(&self, id: &str, command: &[String]) -> Result<(), (String, String)> {
        let output = self.parts.runtime.exec_sync(id, command.to_vec(), Duration::ZERO).await;
        let output = output.map_err(|error| (error.to_string(), String::new()))?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let error = format!("command '{}' exited with {}: {errors}", command.join(" "), output.exit_code);
        Err((error, format!("{}{errors}", String::from_utf8_lossy(&output.stdout))))
    }

    /// Sends a hook's request. A server that speaks plain HTTP where TLS is asked for is asked again without, as by the peer's
    /// `handlerRunner`, and then hears no credentials.
    async fn request(&self, context: &PodContext, call: &HttpCall) -> Result<(), String> {
        let HttpCall { is_https, host, port, path, headers } = call;
        let get = HttpGet { https: *is_https, host, port: *port, path, headers, agent: AGENT };
        let Err(error) = get.send().await else { return Ok(()) };
        if !error.is_plain_text {
            return Err(error.to_string());
        }
        let is_open = |(name, _): &&(String, String)| !name.eq_ignore_ascii_case("authorization");
        let headers: Vec<_> = headers.iter().filter(is_open).cloned().collect();
        HttpGet { https: false, headers: &headers, ..get }.send().await.map_err(|_| error.to_string())?;
        metrics::HOOK_FALLBACKS.increment(&[]);
        let host = get.authority();
        let message = format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
        self.pod_event(&context.pod, EventType::Warning, "LifecycleHTTPFallback", message);
        Ok(())
    }
}

/// Counts a sleep that is dropped before its end.
struct CutShort(bool);

impl CutShort {
    fn slept_through(mut self) {
        self.0 = false;
    }
}

impl Drop for CutShort {
    fn drop(&mut self) {
        if self.0 {
            metrics::SLEEPS_CUT_SHORT.increment(&[]);
        }
    }
}

pub(super) fn container_kind(pod: &Pod, container: &str) -> ContainerKind {
    pod::container_by_name(pod::spec(pod), container).map_or(ContainerKind::Regular, |(kind, _)| kind)
}
