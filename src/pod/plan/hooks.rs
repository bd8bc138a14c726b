//! Lifecycle hooks: what a hook does, its addresses and ports resolved, and when postStart hooks are run.

use k8s_openapi::api::core::v1::{Container, ContainerPort, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Draft;
use super::action::{Action, Hook, HookCall, HookKind, HttpCall};
use super::memory::Step;
use super::view::View;
use crate::model::SignedDuration;
use crate::model::observation::ContainerObservation;
use crate::model::pod;
use crate::runtime::translate::ContainerAnnotations;

/// Runs postStart hooks that are due and gives up those whose container has ended.
pub(super) fn post_start(view: &View<'_>, draft: &mut Draft) {
    for (name, memory) in &view.memory.containers {
        let Some(hook) = &memory.post_start else { continue };
        match hook.step {
            Step::Idle => {
                let Some((_, container)) = pod::container_by_name(view.spec, name) else { continue };
                let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { continue };
                let ip = hook.pod_ip.as_ref().or(view.node.host_ips.first());
                draft.act(Action::RunHook(Hook {
                    kind: HookKind::PostStart,
                    id: hook.container_id.clone(),
                    container: name.clone(),
                    call: call(handler, container.ports.as_deref().unwrap_or_default(), ip.map(String::as_str)),
                    deadline: view.now,
                    message: String::new(),
                    restart: false,
                }));
            }
            Step::Running { .. } if has_ended(view, &hook.container_id) => {
                draft.act(Action::CancelHook {
                    id: hook.container_id.clone(),
                    container: name.clone(),
                    failed: Some(HookKind::PostStart),
                });
            }
            _ => {}
        }
    }
}

/// Gives up all postStart hooks: the pod ends.
pub(super) fn cancel_post_start(view: &View<'_>, draft: &mut Draft) {
    for (name, memory) in &view.memory.containers {
        if let Some(hook) = memory.post_start.as_ref().filter(|hook| hook.step.is_running()) {
            draft.act(Action::CancelHook { id: hook.container_id.clone(), container: name.clone(), failed: None });
        }
    }
}

/// Gives up preStop hooks of containers that have ended meanwhile. One that was still under way when its time was over has
/// failed by that.
pub(super) fn cancel_pre_stop(view: &View<'_>, draft: &mut Draft) {
    for (id, kill) in view.memory.kills.iter().filter(|(_, kill)| kill.pre_stop.is_running()) {
        if has_ended(view, id) {
            let overran = !matches!(kill.step, Step::Idle);
            let instance = view.observed.and_then(|o| o.containers.iter().find(|c| c.id == *id));
            let container = instance.map(|c| c.name.clone()).unwrap_or_default();
            let failed = (overran && instance.is_some()).then_some(HookKind::PreStop);
            draft.act(Action::CancelHook { id: id.clone(), container, failed });
        }
    }
}

fn has_ended(view: &View<'_>, id: &str) -> bool {
    let Some(observed) = view.observed else { return false };
    !observed.containers.iter().any(|c| c.id == id && c.state.may_run())
}

/// What a container's preStop hook does: as its pod's spec says, else as the container was made with.
pub(super) fn pre_stop(view: &View<'_>, instance: &ContainerObservation) -> Option<HookCall> {
    let sandbox = view.observed?.sandboxes.iter().find(|s| s.id == instance.sandbox_id);
    let ip = sandbox.and_then(|s| s.ips.first()).or(view.node.host_ips.first()).map(String::as_str);
    if let Some((_, container)) = pod::container_by_name(view.spec, &instance.name) {
        let handler = pre_stop_handler(&container)?;
        return Some(call(handler, container.ports.as_deref().unwrap_or_default(), ip));
    }
    let stored = ContainerAnnotations::from(&instance.annotations);
    Some(call(&stored.pre_stop_handler?, &stored.ports, ip))
}

fn pre_stop_handler(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

fn call(handler: &LifecycleHandler, ports: &[ContainerPort], pod_ip: Option<&str>) -> HookCall {
    if let Some(exec) = &handler.exec {
        HookCall::Exec(exec.command.clone().unwrap_or_default())
    } else if let Some(get) = &handler.http_get {
        http_call(get, ports, pod_ip).map_or_else(HookCall::Invalid, HookCall::Http)
    } else if let Some(sleep) = &handler.sleep {
        HookCall::Sleep(SignedDuration::from_secs(sleep.seconds.max(0)))
    } else {
        // TCP sockets have never been run as hooks; the API keeps the field for old objects alone.
        HookCall::Invalid("invalid handler".to_owned())
    }
}

fn http_call(get: &HTTPGetAction, ports: &[ContainerPort], pod_ip: Option<&str>) -> Result<HttpCall, String> {
    let host = get.host.as_deref().filter(|host| !host.is_empty()).or(pod_ip);
    let host = host.ok_or("the pod has no address")?;
    let path = get.path.as_deref().unwrap_or_default();
    Ok(HttpCall {
        is_https: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port(&get.port, ports)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

fn port(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match ports.iter().find(|p| p.name.as_ref() == Some(name)) {
            Some(port) => port.container_port,
            None => name.parse().map_err(|_| format!("couldn't find port: \"{name}\""))?,
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!({"exec": {"command": ["a", "b"]}}), HookCall::Exec(vec!["a".into(), "b".into()]))]
    #[case(json!({"sleep": {"seconds": 3}}), HookCall::Sleep(SignedDuration::from_secs(3)))]
    #[case(json!({"tcpSocket": {"port": 1}}), HookCall::Invalid("invalid handler".into()))]
    #[case(json!({"httpGet": {"port": "nothing"}}), HookCall::Invalid("couldn't find port: \"nothing\"".into()))]
    #[case(json!({"httpGet": {"port": 70000}}), HookCall::Invalid("invalid port number: 70000".into()))]
    fn handlers(#[case] handler: serde_json::Value, #[case] expected: HookCall) {
        let handler: LifecycleHandler = serde_json::from_value(handler).unwrap();
        assert_eq!(call(&handler, &[], Some("10.0.0.1")), expected);
    }

    #[rstest]
    #[case(json!({"port": 80}), "http://10.0.0.1:80/")]
    #[case(json!({"port": "web", "path": "/x?y=1"}), "http://10.0.0.1:8080/x?y=1")]
    #[case(json!({"port": "81", "path": "x", "scheme": "HTTPS"}), "https://10.0.0.1:81/x")]
    #[case(json!({"port": 80, "host": "[fd00::1]"}), "http://fd00::1:80/")]
    fn requests(#[case] get: serde_json::Value, #[case] expected: &str) {
        let get: HTTPGetAction = serde_json::from_value(get).unwrap();
        let ports: Vec<ContainerPort> =
            serde_json::from_value(json!([{"name": "web", "containerPort": 8080}])).unwrap();
        let call = http_call(&get, &ports, Some("10.0.0.1")).unwrap();
        let scheme = if call.is_https { "https" } else { "http" };
        assert_eq!(format!("{scheme}://{}:{}{}", call.host, call.port, call.path), expected);
    }
}
