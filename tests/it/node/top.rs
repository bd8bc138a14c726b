//! `kubectl top`: a real metrics-server scrapes the node with the token of a service account, as in a cluster.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::certificates::kubeconfig;
use super::harness::*;

/// What metrics-server is given in its own deployment, and its API. Nothing here leads to a Service's address, so the API
/// server goes to its own machine.
const OBJECTS: &str = r#"
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "metrics-server", "namespace": "kube-system"}},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:metrics-server"},
   "rules": [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
             {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "system:metrics-server"},
   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:metrics-server"},
   "subjects": [{"kind": "ServiceAccount", "name": "metrics-server", "namespace": "kube-system"}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
   "metadata": {"name": "metrics-server:system:auth-delegator"},
   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
   "subjects": [{"kind": "ServiceAccount", "name": "metrics-server", "namespace": "kube-system"}]},
  {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
   "metadata": {"name": "metrics-server-auth-reader", "namespace": "kube-system"},
   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "extension-apiserver-authentication-reader"},
   "subjects": [{"kind": "ServiceAccount", "name": "metrics-server", "namespace": "kube-system"}]},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "metrics-server", "namespace": "kube-system"},
   "spec": {"type": "ExternalName", "externalName": "localhost"}},
  {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"},
   "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"name": "metrics-server", "namespace": "kube-system", "port": 4443}}}
]}"#;

/// A running metrics-server and its API.
struct MetricsServer {
    _child: Child,
}

impl MetricsServer {
    async fn start(folder: &Path) -> Self {
        let mut apply = kubectl(&["apply", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        apply.stdin.take().unwrap().write_all(OBJECTS.as_bytes()).await.unwrap();
        assert!(apply.wait().await.unwrap().success());
        let token = shown(&["create", "token", "metrics-server", "-n", "kube-system"]).await;
        let path = folder.join("metrics-server.conf");
        kubeconfig(&path, &json!({"token": token.trim()}));
        let log = std::fs::File::create(cluster_folder().join("log/metrics-server.log")).unwrap();
        let config = |name: &str| format!("--{name}={}", path.display());
        let child = Command::new(program("metrics-server"))
            .args(["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"].map(config))
            .arg(format!("--cert-dir={}", folder.display()))
            .args(["--secure-port=4443", "--kubelet-insecure-tls"])
            .args(["--metric-resolution=10s", "--kubelet-request-timeout=5s"])
            .args(["--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        MetricsServer { _child: child }
    }
}

/// An API that nobody serves any more would keep namespaces from ending.
impl Drop for MetricsServer {
    fn drop(&mut self) {
        let mut delete = std::process::Command::new(program("kubectl"));
        let _ = delete.args(["delete", "apiservice", "v1beta1.metrics.k8s.io"]).status();
    }
}

async fn shown(arguments: &[&str]) -> String {
    let output = kubectl(arguments).output().await.unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of the only line that `kubectl top` prints, once there is one.
async fn top(arguments: &[&str]) -> Vec<String> {
    wait(&format!("kubectl top {arguments:?}"), 120, async || {
        let output = kubectl(&[&["top"], arguments, &["--no-headers"]].concat()).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let is_shown = output.status.success() && text.lines().count() == 1;
        if !is_shown {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        is_shown.then(|| text.split_whitespace().map(str::to_owned).collect())
    })
    .await
}

fn number(word: &str, unit: &str) -> u64 {
    let digits = word.strip_suffix(unit).unwrap_or_else(|| panic!("{word} is not in {unit}"));
    digits.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn kubectl_top_shows_what_nodes_and_pods_use() {
    let agent = Agent::start(Kind::Ferrolet).await;
    let namespace = TestNamespace::create("top").await;
    let script = "dd if=/dev/zero of=/memory/file bs=1M count=20 2>/dev/null; while true; do :; done";
    let spec = json!({
        "containers": [{
            "name": "main", "image": BUSYBOX, "command": ["sh", "-c", script],
            "resources": {"limits": {"memory": "80M", "cpu": "500m"}},
            "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
        }],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
    });
    let uid = uid(&namespace.pod("busy", spec).await);
    namespace.wait_ready("busy").await;
    let folder = tempfile::tempdir().unwrap();
    let server = MetricsServer::start(folder.path()).await;
    // The first figures may be of the pod's start.
    let pod = wait("the pod to be seen as busy", 120, async || {
        let words = top(&["pod", "-n", &namespace.name]).await;
        (number(&words[1], "m") > 300).then_some(words)
    })
    .await;
    assert_eq!(pod[0], "busy");
    assert!(number(&pod[1], "m") < 700, "half a processor: {pod:?}");
    assert!((20..80).contains(&number(&pod[2], "Mi")), "{pod:?}");
    let container = top(&["pod", "-n", &namespace.name, "--containers"]).await;
    assert_eq!(container[..2], ["busy", "main"]);
    assert!(number(&container[2], "m") > 0 && number(&container[3], "Mi") >= 20, "{container:?}");
    let node = top(&["node"]).await;
    assert_eq!(node[0], node_name());
    assert!(number(&node[1], "m") > 300 && number(&node[3], "Mi") > 100, "{node:?}");
    assert!((1..=100).contains(&number(&node[4], "%")), "{node:?}");
    drop(server);
    namespace.clean_up(&[uid]).await;
    agent.kill().await;
}
