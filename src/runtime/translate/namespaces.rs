//! Which namespaces a pod shares, and with whom.

use k8s_openapi::api::core::v1::Pod;

use crate::model::pod::{is_host_network, spec};
use crate::runtime::cri::{IdMapping, NamespaceMode, NamespaceOption, UserNamespace};

use super::error::TranslateError;

/// The users and groups that a pod's user namespace maps: 0 and up in the pod are `host_id` and up on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserMapping {
    /// The first id on the node.
    pub host_id: u32,
    /// How many.
    pub length: u32,
}

/// A pod's namespaces. `mapping` is that of a pod with `hostUsers: false`, none where the pod's handler has no user
/// namespaces.
///
/// # Errors
/// When the pod wants a user namespace and cannot have one.
pub fn namespace_options(
    pod: &Pod,
    mapping: Option<UserMapping>,
    runtime_handler: &str,
) -> Result<NamespaceOption, TranslateError> {
    let spec = spec(pod);
    let own_or_node = |is_shared: bool| if is_shared { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if spec.host_pid == Some(true) {
        NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    Ok(NamespaceOption {
        network: own_or_node(is_host_network(spec)) as i32,
        pid: pid as i32,
        ipc: own_or_node(spec.host_ipc == Some(true)) as i32,
        target_id: String::new(),
        userns_options: Some(user_namespace(pod, mapping, runtime_handler)?),
    })
}

fn user_namespace(
    pod: &Pod,
    mapping: Option<UserMapping>,
    runtime_handler: &str,
) -> Result<UserNamespace, TranslateError> {
    if spec(pod).host_users != Some(false) {
        return Ok(UserNamespace { mode: NamespaceMode::Node as i32, ..UserNamespace::default() });
    }
    let UserMapping { host_id, length } = mapping
        .ok_or_else(|| TranslateError::UserNamespaceUnsupported { runtime_handler: runtime_handler.to_owned() })?;
    let ids = vec![IdMapping { host_id, container_id: 0, length }];
    Ok(UserNamespace { mode: NamespaceMode::Pod as i32, uids: ids.clone(), gids: ids })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use rstest::rstest;

    use super::*;

    fn pod(change: impl FnOnce(&mut PodSpec)) -> Pod {
        let mut spec = PodSpec::default();
        change(&mut spec);
        Pod { spec: Some(spec), ..Pod::default() }
    }

    const NODE: NamespaceMode = NamespaceMode::Node;
    const POD: NamespaceMode = NamespaceMode::Pod;
    const CONTAINER: NamespaceMode = NamespaceMode::Container;

    #[rstest]
    #[case(pod(|_| {}), POD, CONTAINER, POD)]
    #[case(pod(|s| s.host_network = Some(true)), NODE, CONTAINER, POD)]
    #[case(pod(|s| s.host_ipc = Some(true)), POD, CONTAINER, NODE)]
    #[case(pod(|s| s.host_pid = Some(true)), POD, NODE, POD)]
    #[case(pod(|s| s.share_process_namespace = Some(true)), POD, POD, POD)]
    #[case(pod(|s| { s.share_process_namespace = Some(true); s.host_pid = Some(true) }), POD, NODE, POD)]
    fn modes(#[case] pod: Pod, #[case] network: NamespaceMode, #[case] pid: NamespaceMode, #[case] ipc: NamespaceMode) {
        let options = namespace_options(&pod, None, "").unwrap();
        assert_eq!((options.network(), options.pid(), options.ipc()), (network, pid, ipc));
        assert_eq!(options.userns_options.unwrap().mode(), NODE);
    }

    #[test]
    fn user_namespaces() {
        let own = pod(|s| s.host_users = Some(false));
        let mapping = UserMapping { host_id: 131_072, length: 65_536 };
        let users = namespace_options(&own, Some(mapping), "").unwrap().userns_options.unwrap();
        assert_eq!(users.mode(), POD);
        assert_eq!(users.uids, [IdMapping { host_id: 131_072, container_id: 0, length: 65_536 }]);
        assert_eq!(users.gids, users.uids);
        // A pod that shares the node's users has no use for a mapping.
        let shared = pod(|s| s.host_users = Some(true));
        assert!(namespace_options(&shared, Some(mapping), "").unwrap().userns_options.unwrap().uids.is_empty());
    }

    #[rstest]
    #[case("", "can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    #[case("vm", "can't set `spec.hostUsers: false`, RuntimeClass handler \"vm\" does not support user namespaces")]
    fn no_user_namespaces(#[case] handler: &str, #[case] message: &str) {
        let error = namespace_options(&pod(|s| s.host_users = Some(false)), None, handler).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
