use rstest::rstest;
use serde_json::{Value, json};

use super::super::dns::parse_resolv_conf;
use super::super::testing::{node, pod, pod_with, shown};
use super::*;

fn translated(node: &NodeSettings, pod: &Pod) -> Result<SandboxTranslation, TranslateError> {
    let host_resolver = HostResolver::File(parse_resolv_conf("nameserver 192.0.2.53\nsearch corp.example\n").unwrap());
    let input = SandboxInput {
        pod,
        attempt: 1,
        cgroup_parent: "/kubepods/burstable/pod6f1c2a52-0000-4000-8000-000000000001",
        host_resolver: &host_resolver,
        runtime_handler: "vm",
        user_mapping: Some(UserMapping { host_id: 65_536, length: 65_536 }),
        extra_groups: &[99],
        exclusive_cpus: false,
    };
    sandbox_config(node, &input)
}

fn config(spec: Value) -> PodSandboxConfig {
    translated(&node(), &pod(spec)).unwrap().config
}

#[test]
fn a_minimal_pod() {
    let spec = json!({
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "containers": [{"name": "app", "image": "busybox"}],
    });
    insta::assert_snapshot!(shown(&config(spec)), @r#"
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web",
            uid: "6f1c2a52-0000-4000-8000-000000000001",
            namespace: "shop",
            attempt: 1,
        }),
        hostname: "web",
        log_directory: "/var/log/pods/shop_web_6f1c2a52-0000-4000-8000-000000000001",
        dns_config: Some(DnsConfig {
            servers: ["10.96.0.10"],
            searches: ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"],
            options: ["ndots:5"],
        }),
        labels: {
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod6f1c2a52-0000-4000-8000-000000000001",
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: Pod,
                    pid: Container,
                    ipc: Pod,
                    userns_options: Some(UserNamespace {mode: Node}),
                }),
                supplemental_groups: [99],
                supplemental_groups_policy: Merge,
                seccomp: Some(SecurityProfile {profile_type: RuntimeDefault}),
            }),
            overhead: Some(LinuxContainerResources {}),
            resources: Some(LinuxContainerResources {cpu_period: 100000, cpu_shares: 2}),
        }),
    }
    "#);
}

#[test]
fn a_pod_with_everything() {
    let metadata = json!({"labels": {"app": "web"}, "annotations": {"note": "x", "kubernetes.io/config.seen": "t"}});
    let spec = json!({
        "dnsPolicy": "ClusterFirst",
        "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]},
        "hostname": "db", "subdomain": "sub", "setHostnameAsFQDN": true,
        "shareProcessNamespace": true, "hostIPC": true, "hostUsers": false,
        "overhead": {"cpu": "100m", "memory": "64Mi"},
        "securityContext": {
            "runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000],
            "supplementalGroupsPolicy": "Strict",
            "seLinuxOptions": {"user": "u", "role": "r", "type": "t", "level": "s0"},
            "sysctls": [{"name": "net/ipv4/ip_local_port_range", "value": "1024 65535"}, {"name": "kernel.shm_rmid_forced", "value": "1"}],
        },
        "initContainers": [{"name": "init", "image": "busybox", "ports": [{"containerPort": 1}]}],
        "containers": [
            {
                "name": "app", "image": "busybox",
                "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
                "securityContext": {"privileged": true},
                "ports": [
                    {"name": "http", "containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1", "protocol": "TCP"},
                    {"containerPort": 53, "protocol": "UDP"},
                ],
            },
            {"name": "other", "image": "busybox", "ports": [{"containerPort": 9, "protocol": "SCTP"}]},
        ],
    });
    let translation = translated(&node(), &pod_with(metadata, spec)).unwrap();
    assert_eq!(translation.warnings, []);
    insta::assert_snapshot!(shown(&translation.config), @r#"
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web",
            uid: "6f1c2a52-0000-4000-8000-000000000001",
            namespace: "shop",
            attempt: 1,
        }),
        hostname: "db.sub.shop.svc.cluster.local",
        log_directory: "/var/log/pods/shop_web_6f1c2a52-0000-4000-8000-000000000001",
        dns_config: Some(DnsConfig {
            servers: ["10.96.0.10", "1.1.1.1"],
            searches: ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"],
            options: ["ndots:2"],
        }),
        port_mappings: [
            PortMapping {protocol: Tcp, container_port: 80, host_port: 8080, host_ip: "10.0.0.1"},
            PortMapping {protocol: Udp, container_port: 53},
            PortMapping {protocol: Sctp, container_port: 9},
        ],
        labels: {
            "app": "web",
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        annotations: {"kubernetes.io/config.seen": "t", "note": "x"},
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod6f1c2a52-0000-4000-8000-000000000001",
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: Pod,
                    pid: Pod,
                    ipc: Node,
                    userns_options: Some(UserNamespace {
                        mode: Pod,
                        uids: [IdMapping {host_id: 65536, length: 65536}],
                        gids: [IdMapping {host_id: 65536, length: 65536}],
                    }),
                }),
                selinux_options: Some(SeLinuxOption {user: "u", role: "r", r#type: "t", level: "s0"}),
                run_as_user: Some(Int64Value {value: 1000}),
                run_as_group: Some(Int64Value {value: 2000}),
                supplemental_groups: [3000, 99, 4000],
                supplemental_groups_policy: Strict,
                privileged: true,
                seccomp: Some(SecurityProfile {profile_type: RuntimeDefault}),
            }),
            sysctls: {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "1024 65535"},
            overhead: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_quota: 10000,
                cpu_shares: 102,
                memory_limit_in_bytes: 67108864,
            }),
            resources: Some(LinuxContainerResources {
                cpu_period: 100000,
                cpu_quota: 50000,
                cpu_shares: 256,
                memory_limit_in_bytes: 134217728,
            }),
        }),
    }
    "#);
}

#[test]
fn a_pod_in_the_nodes_namespaces() {
    let spec = json!({
        "dnsPolicy": "ClusterFirst", "hostNetwork": true, "hostPID": true, "hostIPC": true,
        "hostname": "ignored", "securityContext": {},
        "containers": [{"name": "app", "image": "busybox", "ports": [{"containerPort": 80, "hostPort": 80}]}],
    });
    insta::assert_snapshot!(shown(&config(spec)), @r#"
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web",
            uid: "6f1c2a52-0000-4000-8000-000000000001",
            namespace: "shop",
            attempt: 1,
        }),
        log_directory: "/var/log/pods/shop_web_6f1c2a52-0000-4000-8000-000000000001",
        dns_config: Some(DnsConfig {servers: ["192.0.2.53"], searches: ["corp.example"]}),
        port_mappings: [PortMapping {protocol: Tcp, container_port: 80, host_port: 80}],
        labels: {
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "6f1c2a52-0000-4000-8000-000000000001",
        },
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod6f1c2a52-0000-4000-8000-000000000001",
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: Node,
                    pid: Node,
                    ipc: Node,
                    userns_options: Some(UserNamespace {mode: Node}),
                }),
                supplemental_groups: [99],
                supplemental_groups_policy: Merge,
                seccomp: Some(SecurityProfile {profile_type: RuntimeDefault}),
            }),
            overhead: Some(LinuxContainerResources {}),
            resources: Some(LinuxContainerResources {cpu_period: 100000, cpu_shares: 2}),
        }),
    }
    "#);
}

#[test]
fn without_a_security_context_the_runtime_chooses_the_namespaces() {
    let config = config(json!({"containers": []}));
    let context = config.linux.unwrap().security_context.unwrap();
    assert_eq!(context.namespace_options, None);
    assert_eq!(context.seccomp.unwrap().profile_type(), ProfileType::RuntimeDefault);
}

#[rstest]
#[case(json!({"containers": [{"name": "a", "securityContext": {"privileged": false}}]}), false)]
#[case(json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": {"privileged": true}}]}), true)]
#[case(json!({"containers": [], "initContainers": [{"name": "a", "securityContext": {"privileged": true}}]}), true)]
#[case(json!({"containers": [], "ephemeralContainers": [{"name": "a", "securityContext": {"privileged": true}}]}), true)]
fn privileged(#[case] spec: Value, #[case] expected: bool) {
    assert_eq!(has_privileged_container(&pod(spec)), expected);
}

#[test]
fn ports_count_once() {
    let spec = json!({"containers": [{"name": "a", "ports": [
        {"name": "x", "containerPort": 1},
        {"name": "x", "containerPort": 2},
        {"containerPort": 3, "protocol": "TCP"},
        {"containerPort": 3, "protocol": "TCP"},
        {"containerPort": 3, "protocol": "UDP"},
        {"containerPort": 3, "protocol": "TCP", "hostIP": "::1"},
        {"containerPort": 4, "protocol": "QUIC"},
    ]}]});
    let ports = config(spec).port_mappings;
    let found: Vec<_> = ports.iter().map(|p| (p.container_port, p.protocol(), p.host_ip.as_str())).collect();
    assert_eq!(
        found,
        [
            (1, Protocol::Tcp, ""),
            (3, Protocol::Tcp, ""),
            (3, Protocol::Udp, ""),
            (3, Protocol::Tcp, "::1"),
            (4, Protocol::Tcp, "")
        ]
    );
}

#[rstest]
#[case(json!({"containers": []}), &["fs.mqueue.x", "kernel.domainname", "kernel.sem", "net.a"])]
#[case(json!({"containers": [], "hostNetwork": true}), &["fs.mqueue.x", "kernel.sem"])]
#[case(json!({"containers": [], "hostIPC": true}), &["kernel.domainname", "net.a"])]
#[case(json!({"containers": [], "hostUsers": false, "hostIPC": true}), &["kernel.domainname", "net.a", "user.b"])]
fn the_nodes_sysctls_hold_where_the_pod_has_the_namespace(#[case] spec: Value, #[case] expected: &[&str]) {
    let names = ["net/a", "kernel.sem", "fs.mqueue.x", "user.b", "kernel.domainname", "vm.swappiness"];
    let defaults = names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect();
    let node = NodeSettings { default_pod_sysctls: defaults, ..node() };
    let mut found: Vec<_> = sysctls(&node, &pod(spec)).into_keys().collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_pods_sysctl_wins_over_the_nodes() {
    let node = NodeSettings { default_pod_sysctls: [("net.a".to_owned(), "1".to_owned())].into(), ..node() };
    let spec = json!({"containers": [], "securityContext": {"sysctls": [{"name": "net/a", "value": "2"}]}});
    assert_eq!(sysctls(&node, &pod(spec)), [("net.a".to_owned(), "2".to_owned())].into());
}

#[test]
fn warnings_come_along() {
    let node = NodeSettings { cluster_dns: Vec::new(), ..node() };
    let translation = translated(&node, &pod(json!({"containers": [], "dnsPolicy": "ClusterFirst"}))).unwrap();
    assert_eq!(translation.warnings.len(), 2);
    assert_eq!(translation.config.dns_config.unwrap().servers, ["192.0.2.53"]);
}

#[rstest]
#[case(json!({"containers": [], "hostname": "A"}), "pod Hostname \"A\" is not a valid DNS label: ")]
#[case(json!({"containers": [], "securityContext": {"supplementalGroupsPolicy": "X"}}), "unsupported supplementalGroupsPolicy: X")]
fn pods_without_a_sandbox(#[case] spec: Value, #[case] message: &str) {
    let error = translated(&node(), &pod(spec)).unwrap_err().to_string();
    assert!(error.starts_with(message), "{error}");
}

#[test]
fn a_name_in_the_nodes_network_is_not_looked_at() {
    assert_eq!(config(json!({"containers": [], "hostNetwork": true, "hostname": "A"})).hostname, "");
}
