//! Whether a container that ended is started again.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::model::observation::Exit;

/// Whether an exit of a regular or init container counts as a success.
pub(super) fn is_success(exit: &Exit) -> bool {
    // An init container that the kernel killed for memory has failed even if its shell went on to exit with 0.
    exit.code == 0 && exit.reason != "OOMKilled"
}

/// Whether a container never came to run because the agent ended while the runtime was starting it: the runtime gives such a
/// start up with its caller. It is as good as one that was only created.
pub(super) fn was_cut_off(exit: &Exit) -> bool {
    exit.started_at.is_none() && exit.reason == "StartError" && exit.message.contains("context canceled")
}

/// Whether the container is started again after an exit with that code, by its own restart policy or else the pod's.
pub(super) fn should_restart(spec: &PodSpec, container: &Container, code: i32, is_init: bool) -> bool {
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref()).unwrap_or("Always");
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        // An init container of a pod that restarts always is done once it succeeded; a sidecar never is.
        _ => !is_init || container.restart_policy.as_deref() == Some("Always") || code != 0,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Always", None, 0, false, true)]
    #[case("Always", None, 1, false, true)]
    #[case("OnFailure", None, 0, false, false)]
    #[case("OnFailure", None, 1, false, true)]
    #[case("Never", None, 1, false, false)]
    #[case("Always", None, 0, true, false)]
    #[case("Always", None, 1, true, true)]
    #[case("Never", None, 1, true, false)]
    #[case("Never", Some("Always"), 0, true, true)]
    #[case("Never", Some("OnFailure"), 1, false, true)]
    #[case("Always", Some("Never"), 1, false, false)]
    fn policies(
        #[case] pod: &str,
        #[case] own: Option<&str>,
        #[case] code: i32,
        #[case] is_init: bool,
        #[case] expected: bool,
    ) {
        let spec = PodSpec { restart_policy: Some(pod.into()), ..PodSpec::default() };
        let container = Container { restart_policy: own.map(Into::into), ..Container::default() };
        assert_eq!(should_restart(&spec, &container, code, is_init), expected);
    }
}
