//! Which container's log a client means: what the pod's status says of the container of that name.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

/// Why there is no log; the peer's words (`validateContainerLogStatus`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoLog(String);

fn status_of<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == container)
}

/// The container's id as the API has it, `<runtime>://<id>`.
pub(super) fn container_id<'a>(
    status: Option<&'a PodStatus>,
    pod: &str,
    container: &str,
    previous: bool,
) -> Result<&'a str, NoLog> {
    let no_log = |what: String| NoLog(format!("container {container:?} in pod {pod:?} {what}"));
    let known = status.and_then(|status| status_of(status, container));
    let known = known.ok_or_else(|| no_log("is not available".to_owned()))?;
    let last = known.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = last.and_then(|last| last.container_id.as_deref()).filter(|id| !id.is_empty());
    if previous {
        return last_id
            .ok_or_else(|| NoLog(format!("previous terminated container {container:?} in pod {pod:?} not found")));
    }
    let state = known.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return Ok(known.container_id.as_deref().unwrap_or_default());
    }
    let terminated = known.state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(terminated) = terminated {
        // One that could not be made has no id: the one before it is shown.
        let own = terminated.container_id.as_deref().filter(|id| !id.is_empty());
        return own.or(last_id).ok_or_else(|| no_log("is terminated".to_owned()));
    }
    if last.is_some() {
        return last_id.ok_or_else(|| no_log("is terminated".to_owned()));
    }
    Err(match state.waiting {
        Some(waiting) => no_log(match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => "is waiting to start: image can't be pulled".to_owned(),
            "ImagePullBackOff" => "is waiting to start: trying and failing to pull image".to_owned(),
            reason => format!("is waiting to start: {reason}"),
        }),
        None => no_log("is waiting to start - no logs yet".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn chosen(status: &Value, previous: bool) -> Result<String, String> {
        let mut status = status.clone();
        status["name"] = json!("c");
        for (field, default) in
            [("image", json!("")), ("imageID", json!("")), ("ready", json!(true)), ("restartCount", json!(0))]
        {
            status[field] = default;
        }
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [status]})).unwrap();
        let id = container_id(Some(&status), "p", "c", previous);
        id.map(str::to_owned).map_err(|error| error.to_string())
    }

    #[rstest]
    #[case(json!({"state": {"running": {}}, "containerID": "containerd://a"}), false, Ok("containerd://a"))]
    #[case(json!({"state": {"terminated": {"exitCode": 0, "containerID": "containerd://a"}}}), false, Ok("containerd://a"))]
    #[case(
        json!({"state": {"terminated": {"exitCode": 0}}, "lastState": {"terminated": {"exitCode": 1, "containerID": "x://b"}}}),
        false, Ok("x://b")
    )]
    #[case(
        json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}},
               "lastState": {"terminated": {"exitCode": 1, "containerID": "x://b"}}}),
        false, Ok("x://b")
    )]
    #[case(
        json!({"state": {"running": {}}, "containerID": "x://a",
               "lastState": {"terminated": {"exitCode": 1, "containerID": "x://b"}}}),
        true, Ok("x://b")
    )]
    #[case(json!({"state": {"running": {}}, "containerID": "x://a"}), true,
           Err("previous terminated container \"c\" in pod \"p\" not found"))]
    #[case(json!({"state": {"terminated": {"exitCode": 0}}}), false, Err("container \"c\" in pod \"p\" is terminated"))]
    #[case(json!({"state": {"waiting": {"reason": "ErrImagePull"}}}), false,
           Err("container \"c\" in pod \"p\" is waiting to start: image can't be pulled"))]
    #[case(json!({"state": {"waiting": {"reason": "ImagePullBackOff"}}}), false,
           Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"))]
    #[case(json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), false,
           Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"))]
    #[case(json!({}), false, Err("container \"c\" in pod \"p\" is waiting to start - no logs yet"))]
    fn the_status_says_which(#[case] status: Value, #[case] previous: bool, #[case] expected: Result<&str, &str>) {
        assert_eq!(chosen(&status, previous), expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn a_container_without_a_status_is_not_available() {
        let error = container_id(None, "p", "c", false).unwrap_err();
        assert_eq!(error.to_string(), "container \"c\" in pod \"p\" is not available");
    }
}
