//! Counts calls to the runtime by the names that the peer's metrics give them (`kuberuntime/instrumented_services.go`).

use tokio::time::Instant;

use crate::metrics::kubelet as metrics;

/// A call under way; counted when it ends, as failed if it did not succeed or nobody waited for it.
pub(super) struct Operation {
    name: String,
    began: Instant,
    succeeded: bool,
}

impl Operation {
    /// Begins a call of that RPC.
    pub(super) fn begin(rpc: &str) -> Self {
        Operation { name: name(rpc), began: Instant::now(), succeeded: false }
    }

    /// Notes that the runtime did what it was asked for.
    pub(super) fn succeed(&mut self) {
        self.succeeded = true;
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let labels = [self.name.as_str()];
        metrics::RUNTIME_OPERATIONS.increment(&labels);
        metrics::RUNTIME_DURATION.observe(&labels, self.began.elapsed().as_secs_f64());
        if !self.succeeded {
            metrics::RUNTIME_ERRORS.increment(&labels);
        }
    }
}

/// `ListPodSandbox` as `list_podsandbox`.
fn name(rpc: &str) -> String {
    match rpc {
        "UpdateContainerResources" => return "update_container".to_owned(),
        "ReopenContainerLog" => return "reopen_container_log".to_owned(),
        _ => {}
    }
    let mut name = String::with_capacity(rpc.len() + 4);
    for character in rpc.replace("PodSandbox", "Podsandbox").chars() {
        if character.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Version", "version")]
    #[case("RunPodSandbox", "run_podsandbox")]
    #[case("PodSandboxStatus", "podsandbox_status")]
    #[case("UpdatePodSandboxResources", "update_podsandbox_resources")]
    #[case("UpdateContainerResources", "update_container")]
    #[case("ExecSync", "exec_sync")]
    #[case("ImageFsInfo", "image_fs_info")]
    #[case("ListContainerStats", "list_container_stats")]
    #[case("PortForward", "port_forward")]
    fn operations_have_the_names_of_the_peer(#[case] rpc: &str, #[case] expected: &str) {
        assert_eq!(name(rpc), expected);
    }
}
