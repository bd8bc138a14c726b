use rstest::rstest;
use serde_json::{Value, json};

use super::super::namespaces::UserMapping;
use super::super::testing::{container, node, pod, pod_with, shown};
use super::*;
use crate::model::pod::{container_by_name, spec};

/// What the tests below have in common; each changes what it is about.
struct Case {
    node: NodeSettings,
    pod: Pod,
    container: Container,
    image_user: ImageUser,
    environment: Environment,
    pod_ips: Vec<String>,
    mounts: Vec<Option<MountSource>>,
    block_devices: Vec<Option<BlockDevice>>,
    termination_log: Option<String>,
    target_id: Option<String>,
    user_mapping: Option<UserMapping>,
    allotted: AllottedResources,
}

impl Case {
    fn of(pod: Pod, name: &str) -> Self {
        let (_, container) = container_by_name(spec(&pod), name).unwrap();
        Case {
            node: node(),
            pod,
            container,
            image_user: ImageUser::Uid(0),
            environment: Environment::default(),
            pod_ips: vec!["10.0.0.2".into()],
            mounts: Vec::new(),
            block_devices: Vec::new(),
            termination_log: None,
            target_id: None,
            user_mapping: None,
            allotted: AllottedResources::default(),
        }
    }

    fn plain(fields: Value) -> Self {
        let app = serde_json::to_value(container(fields)).unwrap();
        Case::of(pod(json!({"containers": [app]})), "app")
    }

    fn config(&self) -> Result<ContainerConfig, TranslateError> {
        let input = ContainerInput {
            pod: &self.pod,
            container: &self.container,
            restart_count: 2,
            image_ref: "sha256:abc",
            image_user: &self.image_user,
            environment: &self.environment,
            pod_ips: &self.pod_ips,
            mounts: &self.mounts,
            block_devices: &self.block_devices,
            termination_log: self.termination_log.as_deref(),
            target_id: self.target_id.as_deref(),
            runtime_handler: "",
            supports_recursive_read_only: true,
            user_mapping: self.user_mapping,
            extra_groups: &[99],
            allotted: &self.allotted,
        };
        container_config(&self.node, &input)
    }

    fn shown(&self) -> String {
        shown(&self.config().unwrap())
    }
}

#[test]
fn a_minimal_container() {
    insta::assert_snapshot!(Case::plain(json!({})).shown(), @r#"
    ContainerConfig {
        metadata: Some(ContainerMetadata {name: "app", attempt: 2}),
        image: Some(ImageSpec {image: "sha256:abc", user_specified_image: "busybox"}),
        mounts: [
            Mount {
                container_path: "/etc/hosts",
                host_path: "/var/lib/kubelet/pods/6f1c2a52-0000-4000-8000-000000000001/etc-hosts",
                propagation: PropagationPrivate,
            },
        ],
        labels: {
            "io.kubernetes.container.name": "app",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        annotations: {
            "io.kubernetes.container.hash": "3ada567e",
            "io.kubernetes.container.restartCount": "2",
            "io.kubernetes.container.terminationMessagePath": "",
            "io.kubernetes.container.terminationMessagePolicy": "",
        },
        log_path: "app/2.log",
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_shares: 2,
                oom_score_adj: 1000,
                hugepage_limits: [HugepageLimit {page_size: "2MB"}],
                unified: {"memory.low": "0", "memory.min": "0"},
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: Pod,
                    pid: Container,
                    ipc: Pod,
                    userns_options: Some(UserNamespace {mode: Node}),
                }),
                run_as_user: Some(Int64Value {}),
                supplemental_groups: [99],
                supplemental_groups_policy: Merge,
                masked_paths: [
                    "/proc/asound",
                    "/proc/acpi",
                    "/proc/interrupts",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                ],
                readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                seccomp: Some(SecurityProfile {profile_type: Unconfined}),
            }),
        }),
        stop_signal: RuntimeDefault,
    }
    "#);
}

#[test]
fn a_container_with_everything() {
    let metadata = json!({"deletionGracePeriodSeconds": 10, "annotations": {"note": "x"}});
    let spec = json!({
        "hostUsers": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsUser": 1000, "fsGroup": 3000, "supplementalGroups": [4000], "supplementalGroupsPolicy": "Strict",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "app", "image": "registry.example/app:1",
            "command": ["/app", "--name=$(NAME)", "$$(NAME)"], "args": ["$(NAME)$(MISSING)"],
            "workingDir": "/work", "stdin": true, "stdinOnce": true, "tty": true,
            "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "a && b"]}}, "stopSignal": "SIGRTMIN+3"},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi", "hugepages-2Mi": "4Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true, "recursiveReadOnly": "Enabled"}],
            "volumeDevices": [{"name": "disk", "devicePath": "/dev/xvda"}],
            "securityContext": {
                "runAsGroup": 2000, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
                "seccompProfile": {"type": "Localhost", "localhostProfile": "app.json"},
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "app"},
                "seLinuxOptions": {"level": "s0:c1,c2"},
            },
        }],
    });
    let mut case = Case::of(pod_with(metadata, spec), "app");
    case.node.is_selinux_enabled = true;
    case.node.container_stop_signals = true;
    case.environment.set("NAME", b"web".to_vec());
    case.environment.set("EMPTY", Vec::new());
    case.mounts =
        vec![Some(MountSource::Path { host_path: "/v/data".into(), read_only: false, selinux_relabel: true })];
    case.block_devices = vec![Some(BlockDevice { host_path: "/v/disk".into(), read_only: false })];
    case.termination_log = Some("/var/lib/kubelet/pods/u/containers/app/0000abcd".into());
    case.user_mapping = Some(UserMapping { host_id: 65_536, length: 65_536 });
    case.allotted = AllottedResources {
        annotations: vec![("vendor/a".into(), "1".into())],
        devices: vec![Device {
            host_path: "/dev/gpu0".into(),
            container_path: "/dev/gpu0".into(),
            permissions: "rw".into(),
        }],
        cdi_devices: vec!["vendor.com/gpu=0".into()],
        mounts: vec![Mount { host_path: "/opt/gpu".into(), container_path: "/opt/gpu".into(), ..Mount::default() }],
        cpuset_cpus: "2-3".into(),
        cpuset_mems: "0".into(),
        exclusive_cpus: true,
    };
    insta::assert_snapshot!(case.shown(), @r#"
    ContainerConfig {
        metadata: Some(ContainerMetadata {name: "app", attempt: 2}),
        image: Some(ImageSpec {image: "sha256:abc", user_specified_image: "registry.example/app:1"}),
        command: ["/app", "--name=web", "$(NAME)"],
        args: ["web$(MISSING)"],
        working_dir: "/work",
        envs: [KeyValue {key: "NAME", value: "web"}, KeyValue {key: "EMPTY"}],
        mounts: [
            Mount {
                container_path: "/opt/gpu",
                host_path: "/opt/gpu",
                propagation: PropagationPrivate,
                uid_mappings: [IdMapping {host_id: 65536, length: 65536}],
                gid_mappings: [IdMapping {host_id: 65536, length: 65536}],
            },
            Mount {
                container_path: "/data",
                host_path: "/v/data",
                readonly: true,
                selinux_relabel: true,
                propagation: PropagationPrivate,
                uid_mappings: [IdMapping {host_id: 65536, length: 65536}],
                gid_mappings: [IdMapping {host_id: 65536, length: 65536}],
                recursive_read_only: true,
            },
            Mount {
                container_path: "/etc/hosts",
                host_path: "/var/lib/kubelet/pods/6f1c2a52-0000-4000-8000-000000000001/etc-hosts",
                selinux_relabel: true,
                propagation: PropagationPrivate,
                uid_mappings: [IdMapping {host_id: 65536, length: 65536}],
                gid_mappings: [IdMapping {host_id: 65536, length: 65536}],
            },
            Mount {
                container_path: "/dev/termination-log",
                host_path: "/var/lib/kubelet/pods/u/containers/app/0000abcd",
                selinux_relabel: true,
                propagation: PropagationPrivate,
                uid_mappings: [IdMapping {host_id: 65536, length: 65536}],
                gid_mappings: [IdMapping {host_id: 65536, length: 65536}],
            },
        ],
        devices: [
            Device {container_path: "/dev/gpu0", host_path: "/dev/gpu0", permissions: "rw"},
            Device {container_path: "/dev/xvda", host_path: "/v/disk", permissions: "mrw"},
        ],
        labels: {
            "io.kubernetes.container.name": "app",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        annotations: {
            "io.kubernetes.container.hash": "7eb8c5f0",
            "io.kubernetes.container.ports": "[{\"name\":\"http\",\"containerPort\":80,\"protocol\":\"TCP\"}]",
            "io.kubernetes.container.preStopHandler": "{\"exec\":{\"command\":[\"sh\",\"-c\",\"a \\u0026\\u0026 b\"]}}",
            "io.kubernetes.container.restartCount": "2",
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "FallbackToLogsOnError",
            "io.kubernetes.pod.deletionGracePeriod": "10",
            "io.kubernetes.pod.terminationGracePeriod": "30",
            "vendor/a": "1",
        },
        log_path: "app/2.log",
        stdin: true,
        stdin_once: true,
        tty: true,
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_quota: -1,
                cpu_shares: 256,
                memory_limit_in_bytes: 134217728,
                oom_score_adj: 993,
                cpuset_cpus: "2-3",
                cpuset_mems: "0",
                hugepage_limits: [HugepageLimit {page_size: "2MB", limit: 4194304}],
                unified: {"memory.low": "0", "memory.min": "0"},
            }),
            security_context: Some(LinuxContainerSecurityContext {
                capabilities: Some(Capability {add_capabilities: ["NET_BIND_SERVICE"], drop_capabilities: ["ALL"]}),
                namespace_options: Some(NamespaceOption {
                    network: Pod,
                    pid: Container,
                    ipc: Pod,
                    userns_options: Some(UserNamespace {
                        mode: Pod,
                        uids: [IdMapping {host_id: 65536, length: 65536}],
                        gids: [IdMapping {host_id: 65536, length: 65536}],
                    }),
                }),
                selinux_options: Some(SeLinuxOption {level: "s0:c1,c2"}),
                run_as_user: Some(Int64Value {value: 1000}),
                run_as_group: Some(Int64Value {value: 2000}),
                readonly_rootfs: true,
                supplemental_groups: [3000, 4000, 99],
                supplemental_groups_policy: Strict,
                no_new_privs: true,
                masked_paths: [
                    "/proc/asound",
                    "/proc/acpi",
                    "/proc/interrupts",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                ],
                readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                seccomp: Some(SecurityProfile {profile_type: Localhost, localhost_ref: "/var/lib/kubelet/seccomp/app.json"}),
                apparmor: Some(SecurityProfile {profile_type: Localhost, localhost_ref: "app"}),
                apparmor_profile: "localhost/app",
            }),
        }),
        cdi_devices: [CdiDevice {name: "vendor.com/gpu=0"}],
        stop_signal: Sigrtminplus3,
    }
    "#);
}

#[test]
fn a_container_in_the_nodes_network() {
    let spec = json!({"hostNetwork": true, "hostPID": true, "securityContext": {}, "containers": [
        {"name": "app", "image": "busybox", "securityContext": {"privileged": true, "procMount": "Unmasked"}},
    ]});
    let mut case = Case::of(pod(spec), "app");
    case.pod_ips = vec!["192.0.2.1".into()];
    insta::assert_snapshot!(case.shown(), @r#"
    ContainerConfig {
        metadata: Some(ContainerMetadata {name: "app", attempt: 2}),
        image: Some(ImageSpec {image: "sha256:abc", user_specified_image: "busybox"}),
        mounts: [
            Mount {
                container_path: "/etc/hosts",
                host_path: "/var/lib/kubelet/pods/6f1c2a52-0000-4000-8000-000000000001/etc-hosts",
                propagation: PropagationPrivate,
            },
        ],
        labels: {
            "io.kubernetes.container.name": "app",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        annotations: {
            "io.kubernetes.container.hash": "3ada567e",
            "io.kubernetes.container.restartCount": "2",
            "io.kubernetes.container.terminationMessagePath": "",
            "io.kubernetes.container.terminationMessagePolicy": "",
        },
        log_path: "app/2.log",
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_shares: 2,
                oom_score_adj: 1000,
                hugepage_limits: [HugepageLimit {page_size: "2MB"}],
                unified: {"memory.low": "0", "memory.min": "0"},
            }),
            security_context: Some(LinuxContainerSecurityContext {
                privileged: true,
                namespace_options: Some(NamespaceOption {
                    network: Node,
                    pid: Node,
                    ipc: Pod,
                    userns_options: Some(UserNamespace {mode: Node}),
                }),
                run_as_user: Some(Int64Value {}),
                supplemental_groups: [99],
                supplemental_groups_policy: Merge,
                seccomp: Some(SecurityProfile {profile_type: Unconfined}),
            }),
        }),
        stop_signal: RuntimeDefault,
    }
    "#);
}

fn pod_of_all_kinds() -> Pod {
    pod(json!({
        "securityContext": {},
        "initContainers": [
            {"name": "init", "image": "busybox", "resources": {"requests": {"memory": "2Gi"}}},
            {"name": "sidecar", "image": "busybox", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "app", "image": "busybox", "resources": {"requests": {"memory": "1Gi"}}}],
        "ephemeralContainers": [{"name": "debug", "image": "tools", "stdin": true, "tty": true, "targetContainerName": "app"}],
    }))
}

#[test]
fn an_init_container() {
    insta::assert_snapshot!(Case::of(pod_of_all_kinds(), "init").shown(), @r#"
    ContainerConfig {
        metadata: Some(ContainerMetadata {name: "init", attempt: 2}),
        image: Some(ImageSpec {image: "sha256:abc", user_specified_image: "busybox"}),
        mounts: [
            Mount {
                container_path: "/etc/hosts",
                host_path: "/var/lib/kubelet/pods/6f1c2a52-0000-4000-8000-000000000001/etc-hosts",
                propagation: PropagationPrivate,
            },
        ],
        labels: {
            "io.kubernetes.container.name": "init",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        annotations: {
            "io.kubernetes.container.hash": "a1eb49ac",
            "io.kubernetes.container.restartCount": "2",
            "io.kubernetes.container.terminationMessagePath": "",
            "io.kubernetes.container.terminationMessagePolicy": "",
        },
        log_path: "init/2.log",
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_shares: 2,
                oom_score_adj: 750,
                hugepage_limits: [HugepageLimit {page_size: "2MB"}],
                unified: {"memory.low": "0", "memory.min": "0"},
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: Pod,
                    pid: Container,
                    ipc: Pod,
                    userns_options: Some(UserNamespace {mode: Node}),
                }),
                run_as_user: Some(Int64Value {}),
                supplemental_groups: [99],
                supplemental_groups_policy: Merge,
                masked_paths: [
                    "/proc/asound",
                    "/proc/acpi",
                    "/proc/interrupts",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                ],
                readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                seccomp: Some(SecurityProfile {profile_type: Unconfined}),
            }),
        }),
        stop_signal: RuntimeDefault,
    }
    "#);
}

#[test]
fn a_sidecar_is_no_likelier_to_be_killed_than_what_it_serves() {
    let score = |name: &str| {
        let config = Case::of(pod_of_all_kinds(), name).config().unwrap();
        config.linux.unwrap().resources.unwrap().oom_score_adj
    };
    assert_eq!((score("init"), score("sidecar"), score("app")), (750, 875, 875));
}

#[test]
fn an_ephemeral_container() {
    let mut case = Case::of(pod_of_all_kinds(), "debug");
    case.target_id = Some("app-id".into());
    insta::assert_snapshot!(case.shown(), @r#"
    ContainerConfig {
        metadata: Some(ContainerMetadata {name: "debug", attempt: 2}),
        image: Some(ImageSpec {image: "sha256:abc", user_specified_image: "tools"}),
        mounts: [
            Mount {
                container_path: "/etc/hosts",
                host_path: "/var/lib/kubelet/pods/6f1c2a52-0000-4000-8000-000000000001/etc-hosts",
                propagation: PropagationPrivate,
            },
        ],
        labels: {
            "io.kubernetes.container.name": "debug",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        annotations: {
            "io.kubernetes.container.hash": "61bb6f33",
            "io.kubernetes.container.restartCount": "2",
            "io.kubernetes.container.terminationMessagePath": "",
            "io.kubernetes.container.terminationMessagePolicy": "",
        },
        log_path: "debug/2.log",
        stdin: true,
        tty: true,
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_shares: 2,
                oom_score_adj: 999,
                hugepage_limits: [HugepageLimit {page_size: "2MB"}],
                unified: {"memory.low": "0", "memory.min": "0"},
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: Pod,
                    pid: Target,
                    ipc: Pod,
                    target_id: "app-id",
                    userns_options: Some(UserNamespace {mode: Node}),
                }),
                run_as_user: Some(Int64Value {}),
                supplemental_groups: [99],
                supplemental_groups_policy: Merge,
                masked_paths: [
                    "/proc/asound",
                    "/proc/acpi",
                    "/proc/interrupts",
                    "/proc/kcore",
                    "/proc/keys",
                    "/proc/latency_stats",
                    "/proc/timer_list",
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/proc/scsi",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                ],
                readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                seccomp: Some(SecurityProfile {profile_type: Unconfined}),
            }),
        }),
        stop_signal: RuntimeDefault,
    }
    "#);
}

#[test]
fn a_mount_at_etc_hosts_stands_in_for_the_hosts_file() {
    let fields = json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]});
    let mut case = Case::plain(fields);
    case.mounts = vec![Some(MountSource::Path { host_path: "/v".into(), read_only: false, selinux_relabel: false })];
    let mounts = case.config().unwrap().mounts;
    assert_eq!(mounts.iter().map(|m| m.host_path.as_str()).collect::<Vec<_>>(), ["/v"]);
}

#[test]
fn no_hosts_file_before_there_is_an_address() {
    let mut case = Case::plain(json!({}));
    case.pod_ips.clear();
    assert_eq!(case.config().unwrap().mounts, []);
}

#[rstest]
#[case(json!({"terminationMessagePath": "/dev/termination-log"}), Some("/t/1"), Some("/dev/termination-log"))]
#[case(json!({"terminationMessagePath": "log"}), Some("/t/1"), Some("/log"))]
#[case(json!({"terminationMessagePath": ""}), Some("/t/1"), None)]
#[case(json!({"terminationMessagePath": "/dev/termination-log"}), None, None)]
fn termination_messages(#[case] fields: Value, #[case] file: Option<&str>, #[case] mounted: Option<&str>) {
    let mut case = Case::plain(fields);
    case.pod_ips.clear();
    case.termination_log = file.map(Into::into);
    let mounts = case.config().unwrap().mounts;
    assert_eq!(mounts.first().map(|m| m.container_path.as_str()), mounted);
    assert!(mounts.len() <= 1 && mounts.iter().all(|m| m.host_path == "/t/1" && !m.readonly));
}

#[rstest]
#[case("SIGTERM", true, "SIGNAL_SIGTERM")]
#[case("SIGRTMIN+15", true, "SIGNAL_SIGRTMINPLUS15")]
#[case("SIGRTMAX-1", true, "SIGNAL_SIGRTMAXMINUS1")]
#[case("SIGNONSENSE", true, "SIGNAL_RUNTIME_DEFAULT")]
#[case("SIGTERM", false, "SIGNAL_RUNTIME_DEFAULT")]
fn stop_signals(#[case] signal: &str, #[case] gate: bool, #[case] expected: &str) {
    let mut case = Case::plain(json!({"lifecycle": {"stopSignal": signal}}));
    case.node.container_stop_signals = gate;
    assert_eq!(case.config().unwrap().stop_signal().as_str_name(), expected);
}

#[test]
fn commands_can_only_hold_text() {
    for (place, fields) in [("command", json!({"command": ["$(RAW)"]})), ("args", json!({"args": ["x$(RAW)"]}))] {
        let mut case = Case::plain(fields);
        case.environment.set("RAW", vec![0xff]);
        let message = format!("{place} of container \"app\" refers to a variable whose value is not UTF-8");
        assert_eq!(case.config().unwrap_err().to_string(), message);
        assert_eq!(case.environment.get("RAW"), Some([0xff].as_slice()));
    }
}

#[test]
fn values_that_are_no_text_reach_the_container() {
    let mut case = Case::plain(json!({}));
    case.environment.set("RAW", vec![0xff]);
    assert_eq!(case.config().unwrap().envs, [KeyValue { key: "RAW".into(), value: vec![0xff] }]);
}

#[rstest]
#[case(json!({"securityContext": {"runAsNonRoot": true}}), "container has runAsNonRoot and image will run as root")]
#[case(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}), "cannot find volume \"v\" to mount into container \"app\"")]
#[case(json!({"volumeDevices": [{"name": "d", "devicePath": "/d"}]}), "cannot find volume \"d\" to pass into container \"app\"")]
#[case(json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}), "localhostProfile must be set")]
fn containers_that_cannot_be(#[case] fields: Value, #[case] message: &str) {
    let error = Case::plain(fields).config().unwrap_err();
    assert!(error.to_string().starts_with(message), "{error}");
    assert_eq!(error.waiting_reason(), "CreateContainerConfigError");
}
