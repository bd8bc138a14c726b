use rstest::rstest;
use serde_json::{Value, json};

use super::super::namespaces::namespace_options;
use super::super::testing::{container, node, pod, pod_with};
use super::*;

fn context_of(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    target: Option<&str>,
) -> Result<LinuxContainerSecurityContext, TranslateError> {
    let namespaces = namespace_options(pod, None, "").unwrap();
    container_security_context(&node(), pod, container, image_user, &[7], namespaces, target)
}

fn built(pod_context: Value, own: Value) -> Result<LinuxContainerSecurityContext, TranslateError> {
    let pod = pod(json!({"containers": [], "securityContext": pod_context}));
    context_of(&pod, &container(json!({"securityContext": own})), &ImageUser::Uid(0), None)
}

#[test]
fn the_container_overrides_the_pod() {
    let pod = json!({
        "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4, 5],
        "supplementalGroupsPolicy": "Strict", "seLinuxOptions": {"level": "s0:c1"},
    });
    let inherited = built(pod.clone(), json!(null)).unwrap();
    assert_eq!(inherited.run_as_user, Some(Int64Value { value: 1 }));
    assert_eq!(inherited.run_as_group, Some(Int64Value { value: 2 }));
    assert_eq!(inherited.supplemental_groups, [3, 4, 5, 7]);
    assert_eq!(inherited.supplemental_groups_policy(), SupplementalGroupsPolicy::Strict);
    assert_eq!(inherited.selinux_options.unwrap().level, "s0:c1");
    assert!(!inherited.privileged && !inherited.readonly_rootfs && !inherited.no_new_privs);
    assert_eq!(inherited.capabilities, None);

    let own = json!({
        "runAsUser": 10, "runAsGroup": 20, "privileged": true, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "seLinuxOptions": {"type": "spc_t"},
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
    });
    let overridden = built(pod, own).unwrap();
    assert_eq!(overridden.run_as_user, Some(Int64Value { value: 10 }));
    assert_eq!(overridden.run_as_group, Some(Int64Value { value: 20 }));
    // The options replace those of the pod as a whole.
    let selinux = overridden.selinux_options.clone().unwrap();
    assert_eq!((selinux.r#type.as_str(), selinux.level.as_str()), ("spc_t", ""));
    assert!(overridden.privileged && overridden.readonly_rootfs && overridden.no_new_privs);
    let capabilities = overridden.capabilities.unwrap();
    assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
    assert_eq!(capabilities.drop_capabilities, ["ALL"]);
}

#[rstest]
#[case(json!(null), ImageUser::Uid(1000), Some(1000), "")]
#[case(json!(null), ImageUser::Uid(0), Some(0), "")]
#[case(json!(null), ImageUser::Name("www".into()), None, "www")]
#[case(json!({"runAsUser": 5}), ImageUser::Name("www".into()), Some(5), "")]
#[case(json!({"runAsUser": 0}), ImageUser::Uid(1000), Some(0), "")]
fn the_image_tells_the_user_where_the_spec_is_silent(
    #[case] own: Value,
    #[case] image_user: ImageUser,
    #[case] uid: Option<i64>,
    #[case] name: &str,
) {
    let pod = pod(json!({"containers": []}));
    let context = context_of(&pod, &container(json!({"securityContext": own})), &image_user, None).unwrap();
    assert_eq!(context.run_as_user.map(|v| v.value), uid);
    assert_eq!(context.run_as_username, name);
}

#[rstest]
#[case(Some(5), "www", ImageUser::Uid(5))]
#[case(Some(0), "", ImageUser::Uid(0))]
#[case(None, "www", ImageUser::Name("www".into()))]
#[case(None, "", ImageUser::Uid(0))]
fn users_of_images(#[case] uid: Option<i64>, #[case] username: &str, #[case] expected: ImageUser) {
    assert_eq!(ImageUser::of_image(uid, username), expected);
}

#[rstest]
#[case(json!({}), false)]
#[case(json!({"allowPrivilegeEscalation": true}), false)]
#[case(json!({"allowPrivilegeEscalation": false}), true)]
fn privilege_escalation_is_barred_only_on_demand(#[case] own: Value, #[case] barred: bool) {
    assert_eq!(built(json!({}), own).unwrap().no_new_privs, barred);
}

#[test]
fn proc_mounts() {
    let masked = built(json!({}), json!({})).unwrap();
    assert_eq!(masked.masked_paths, MASKED_PATHS);
    assert_eq!(masked.readonly_paths, READONLY_PATHS);
    let unmasked = built(json!({}), json!({"procMount": "Unmasked"})).unwrap();
    assert!(unmasked.masked_paths.is_empty() && unmasked.readonly_paths.is_empty());

    let throttle = "/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned();
    let node = NodeSettings { thermal_throttle_paths: vec![throttle.clone()], ..node() };
    let pod = pod(json!({"containers": []}));
    let context = |own: Value| {
        let namespaces = namespace_options(&pod, None, "").unwrap();
        let container = container(json!({"securityContext": own}));
        container_security_context(&node, &pod, &container, &ImageUser::Uid(0), &[], namespaces, None).unwrap()
    };
    assert_eq!(context(json!({})).masked_paths.last(), Some(&throttle));
    assert!(context(json!({"procMount": "Unmasked"})).masked_paths.is_empty());
}

const LOCALHOST: i32 = ProfileType::Localhost as i32;
const UNCONFINED: i32 = ProfileType::Unconfined as i32;
const DEFAULT: i32 = ProfileType::RuntimeDefault as i32;

#[rstest]
#[case(json!({}), json!({}), false, UNCONFINED, "")]
#[case(json!({}), json!({}), true, DEFAULT, "")]
#[case(json!({"seccompProfile": {"type": "Unconfined"}}), json!({}), true, UNCONFINED, "")]
#[case(json!({"seccompProfile": {"type": "RuntimeDefault"}}), json!({}), false, DEFAULT, "")]
#[case(
    json!({"seccompProfile": {"type": "RuntimeDefault"}}),
    json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}),
    false, LOCALHOST, "/var/lib/kubelet/seccomp/a/b.json"
)]
fn seccomp_profiles(
    #[case] pod_context: Value,
    #[case] own: Value,
    #[case] by_default: bool,
    #[case] profile_type: i32,
    #[case] localhost_ref: &str,
) {
    let node = NodeSettings { seccomp_default: by_default, ..node() };
    let pod = pod(json!({"containers": [], "securityContext": pod_context}));
    let profile = seccomp(&node, &pod, &container(json!({"securityContext": own}))).unwrap();
    assert_eq!(profile, SecurityProfile { profile_type, localhost_ref: localhost_ref.into() });
}

#[rstest]
#[case(json!({"type": "Localhost"}), "localhostProfile must be set if seccompProfile type is Localhost.")]
#[case(json!({"type": "Localhost", "localhostProfile": ""}), "localhostProfile must be set if seccompProfile type is Localhost.")]
#[case(json!({"type": "Localhost", "localhostProfile": "a/../../x"}), "seccomp localhostProfile \"a/../../x\" must be a relative path without '..'")]
#[case(json!({"type": "Localhost", "localhostProfile": "/x"}), "seccomp localhostProfile \"/x\" must be a relative path without '..'")]
#[case(json!({"type": "Other"}), "unknown seccomp profile type: \"Other\"")]
fn incomplete_seccomp_profiles_fail_closed(#[case] profile: Value, #[case] message: &str) {
    for (pod, own) in [(json!({"seccompProfile": profile}), json!({})), (json!({}), json!({"seccompProfile": profile}))]
    {
        assert_eq!(built(pod, own).unwrap_err().to_string(), message);
    }
}

#[rstest]
#[case(json!({}), json!({}), None, None, "")]
#[case(json!({"type": "RuntimeDefault"}), json!({}), None, Some((DEFAULT, "")), "runtime/default")]
#[case(json!({"type": "RuntimeDefault"}), json!({"type": "Unconfined"}), Some("localhost/x"), Some((UNCONFINED, "")), "unconfined")]
#[case(json!({"type": "RuntimeDefault"}), json!({}), Some("localhost/x"), Some((LOCALHOST, "x")), "localhost/x")]
#[case(json!({"type": "RuntimeDefault"}), json!({}), Some("unconfined"), Some((UNCONFINED, "")), "unconfined")]
#[case(json!({"type": "Unconfined"}), json!({}), Some("runtime/default"), Some((DEFAULT, "")), "runtime/default")]
#[case(json!({"type": "Unconfined"}), json!({}), Some("nonsense"), Some((UNCONFINED, "")), "unconfined")]
#[case(json!({}), json!({"type": "Localhost", "localhostProfile": "p"}), None, Some((LOCALHOST, "p")), "localhost/p")]
fn app_armor_profiles(
    #[case] of_pod: Value,
    #[case] own: Value,
    #[case] annotated: Option<&str>,
    #[case] expected: Option<(i32, &str)>,
    #[case] deprecated: &str,
) {
    let context = |profile: Value| {
        if profile == json!({}) { json!({}) } else { json!({"appArmorProfile": profile}) }
    };
    let annotations = match annotated {
        Some(value) => json!({"container.apparmor.security.beta.kubernetes.io/app": value}),
        None => json!({}),
    };
    let pod =
        pod_with(json!({"annotations": annotations}), json!({"containers": [], "securityContext": context(of_pod)}));
    let (profile, text) = app_armor(&pod, &container(json!({"securityContext": context(own)}))).unwrap();
    assert_eq!(profile.as_ref().map(|p| (p.profile_type, p.localhost_ref.as_str())), expected);
    assert_eq!(text, deprecated);
}

#[rstest]
#[case(json!({"type": "Localhost"}), "missing localhost apparmor profile name")]
#[case(json!({"type": "Localhost", "localhostProfile": ""}), "missing localhost apparmor profile name")]
#[case(json!({"type": "Other"}), "unknown apparmor profile type: \"Other\"")]
fn incomplete_app_armor_profiles_fail_closed(#[case] profile: Value, #[case] message: &str) {
    let error = built(json!({}), json!({"appArmorProfile": profile})).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn unknown_group_policies_are_refused() {
    let error = built(json!({"supplementalGroupsPolicy": "Some"}), json!({})).unwrap_err();
    assert_eq!(error.to_string(), "unsupported supplementalGroupsPolicy: Some");
}

#[test]
fn an_ephemeral_container_joins_its_targets_processes() {
    let app = container(json!({}));
    let own = pod(json!({"containers": []}));
    let options = context_of(&own, &app, &ImageUser::Uid(0), Some("c1")).unwrap().namespace_options.unwrap();
    assert_eq!((options.pid(), options.target_id.as_str()), (NamespaceMode::Target, "c1"));
    // Where processes are shared anyway there is nothing to join.
    for shared in [json!({"containers": [], "shareProcessNamespace": true}), json!({"containers": [], "hostPID": true})]
    {
        let options = context_of(&pod(shared), &app, &ImageUser::Uid(0), Some("c1")).unwrap().namespace_options;
        assert_eq!(options.unwrap().target_id, "");
    }
}

const POD: &str = "(pod: \"web_shop(6f1c2a52-0000-4000-8000-000000000001)\", container: app)";

#[rstest]
#[case(json!({}), json!({}), ImageUser::Uid(0), None)]
#[case(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), ImageUser::Uid(0), None)]
#[case(json!({"runAsNonRoot": true}), json!({}), ImageUser::Uid(1000), None)]
#[case(json!({"runAsNonRoot": true}), json!({"runAsUser": 1}), ImageUser::Name("root".into()), None)]
#[case(json!({"runAsNonRoot": true, "runAsUser": 1}), json!({}), ImageUser::Uid(0), None)]
#[case(json!({"runAsNonRoot": true}), json!({}), ImageUser::Uid(0), Some("container has runAsNonRoot and image will run as root".into()))]
#[case(json!({}), json!({"runAsNonRoot": true}), ImageUser::Uid(0), Some("container has runAsNonRoot and image will run as root".into()))]
#[case(json!({"runAsNonRoot": true, "runAsUser": 1}), json!({"runAsUser": 0}), ImageUser::Uid(1), Some("container's runAsUser breaks non-root policy".into()))]
#[case(json!({"runAsNonRoot": true}), json!({}), ImageUser::Name("www".into()), Some("container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root".into()))]
#[case(json!({"runAsNonRoot": true}), json!({}), ImageUser::Uid(1 << 31), Some("container has runAsNonRoot and image has an invalid user id (2147483648). (Must be 1-(2147483647)): must be between 0 and 2147483647, inclusive".into()))]
fn non_root(
    #[case] pod_context: Value,
    #[case] own: Value,
    #[case] image_user: ImageUser,
    #[case] message: Option<String>,
) {
    let pod = pod(json!({"containers": [], "securityContext": pod_context}));
    let verdict = verify_run_as_non_root(&pod, &container(json!({"securityContext": own})), &image_user);
    assert_eq!(verdict.err().map(|e| e.to_string()), message.map(|m| format!("{m} {POD}")));
}
