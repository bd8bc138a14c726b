//! The command lines and files with which others start a node agent: kubeadm, kind, EKS, GCE's scripts. What they pass has to
//! start a node, with nothing worse than a note.

use super::*;

/// What the drop-in 10-kubeadm.conf of kubeadm's packages and of kind begins with; the configuration is a test's own.
const KUBEADM: [&str; 2] =
    ["--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", "--kubeconfig=/etc/kubernetes/kubelet.conf"];

fn started_with(configuration: &str, more: &[&str]) -> Settings {
    let config = format!("--config={TESTDATA}/{configuration}");
    let line: Vec<&str> = KUBEADM.into_iter().chain([config.as_str()]).chain(more.iter().copied()).collect();
    settings(&line)
}

#[test]
fn the_line_of_a_kind_node() {
    let settings = started_with(
        "kind.yaml",
        &[
            // kubeadm-flags.env, and what kind's own CI adds.
            "--node-ip=172.18.0.2,fc00:f853:ccd:e793::2",
            "--node-labels=",
            "--provider-id=kind://docker/kind/kind-control-plane",
            "--container-log-max-files=10",
            "--container-log-max-size=100Mi",
            "--v=4",
            // /etc/default/kubelet
            "--runtime-cgroups=/system.slice/containerd.service",
        ],
    );
    assert_eq!(settings.warnings, [] as [&str; 0]);
    let c = &settings.configuration;
    assert_eq!((c.cgroup_driver.as_str(), c.cgroup_root.as_str()), ("systemd", "/kubelet"));
    assert_eq!(c.provider_id, "kind://docker/kind/kind-control-plane");
    assert_eq!((c.container_log_max_files, c.container_log_max_size.as_str()), (10, "100Mi"));
    assert!(!c.fail_swap_on && c.eviction_hard.values().all(|threshold| threshold == "0%"));
    assert_eq!(settings.flags.node_ip.len(), 2);
    assert!(settings.flags.node_labels.is_empty() && !settings.is_standalone());
    assert_eq!(settings.flags.runtime_cgroups.as_deref(), Some("/system.slice/containerd.service"));
}

#[test]
fn the_line_of_a_kubeadm_node() {
    // Zeros in the file stand for the defaults.
    let settings = started_with("kubeadm.yaml", &["--node-ip=10.0.0.5", "--register-with-taints=a=b:NoSchedule"]);
    assert_eq!(settings.warnings, [] as [&str; 0]);
    let c = &settings.configuration;
    assert_eq!(c.static_pod_path, "/etc/kubernetes/manifests");
    assert_eq!(c.sync_frequency, crate::model::go_duration::GoDuration::from_secs(60));
    assert_eq!((c.healthz_bind_address.as_str(), c.healthz_port), ("127.0.0.1", 10248));
    assert!(c.rotate_certificates && !c.authentication.anonymous.enabled);
    assert_eq!(
        settings.flags.bootstrap_kubeconfig.as_deref().unwrap().to_str(),
        Some("/etc/kubernetes/bootstrap-kubelet.conf")
    );
}

#[test]
fn flags_of_older_releases_are_taken_with_a_note_each() {
    let dead =
        ["--container-runtime=remote", "--pod-infra-container-image=registry.k8s.io/pause:3.9", "--network-plugin=cni"];
    let settings = started_with(
        "kubeadm.yaml",
        &[dead[0], dead[1], dead[2], "--container-runtime-endpoint=unix:///run/containerd/containerd.sock"],
    );
    assert_eq!(settings.warnings.len(), dead.len(), "{:?}", settings.warnings);
    for flag in dead {
        let name = flag.split('=').next().unwrap();
        assert!(settings.warnings.iter().any(|warning| warning.contains(name)), "{name}: {:?}", settings.warnings);
    }
    let error = start(&["--no-flag-of-any-release=1"]).unwrap_err().to_string();
    assert_eq!(error, "unknown flag: --no-flag-of-any-release");
}

#[test]
fn the_line_of_an_eks_node() {
    let config = format!("--config={TESTDATA}/eks.json");
    let config_dir = format!("--config-dir={TESTDATA}/eks.json.d");
    let settings = settings(&[
        &config,
        &config_dir,
        "--kubeconfig=/var/lib/kubelet/kubeconfig",
        "--node-ip=10.0.0.5",
        "--hostname-override=i-0123",
        "--cloud-provider=external",
        "--runtime-cgroups=/runtime.slice/containerd.service",
        "--image-credential-provider-bin-dir=/etc/eks/image-credential-provider",
        "--image-credential-provider-config=/etc/eks/image-credential-provider/config.json",
        "--node-labels=node.kubernetes.io/lifecycle=spot",
    ]);
    assert_eq!(settings.warnings, [] as [&str; 0]);
    assert_eq!(settings.flags.hostname_override.as_deref(), Some("i-0123"));
}

#[test]
fn the_line_of_a_gce_node() {
    let settings = settings(&[
        "--v=2",
        "--cloud-provider=external",
        "--experimental-mounter-path=/home/kubernetes/containerized_mounter/mounter",
        "--cert-dir=/var/lib/kubelet/pki/",
        "--kubeconfig=/var/lib/kubelet/kubeconfig",
        "--bootstrap-kubeconfig=/var/lib/kubelet/bootstrap-kubeconfig",
        "--max-pods=110",
        "--volume-plugin-dir=/home/kubernetes/flexvolume",
        "--node-labels=cloud.google.com/gke-netd-ready=true",
        "--register-with-taints=node.kubernetes.io/x=true:NoSchedule",
        "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
        "--runtime-cgroups=/system.slice/containerd.service",
    ]);
    assert_eq!(settings.configuration.max_pods, 110);
    assert_eq!(settings.flags.node_labels.len(), 1);
}
