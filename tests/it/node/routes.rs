//! That both agents answer the same requests alike, path by path: `routes.txt` is asked of the kubelet, then of this agent in
//! its place with the same pods.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::harness::*;

const REQUESTS: &str = include_str!("routes.txt");
/// Headers that follow from how an answer is sent, the time, and what is said with all answers here.
const NOT_COMPARED: [&str; 5] = ["connection", "content-length", "date", "transfer-encoding", "x-content-type-options"];
/// What an answer is here for which the kubelet names no type.
const TEXT: &str = "content-type: text/plain; charset=utf-8";

/// How far two answers are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compared<'a> {
    Whole,
    /// Status and headers.
    Head,
    /// They are known to differ; this agent's answer has that status.
    Not(&'a str),
}

/// A line of the list.
struct Request<'a> {
    line: &'a str,
    compared: Compared<'a>,
    who: &'a str,
    method: &'a str,
    target: &'a str,
    headers: Vec<&'a str>,
    body: Option<&'a str>,
}

impl<'a> Request<'a> {
    fn read(line: &'a str) -> Self {
        let (compared, rest) = match line.split_at(1) {
            ("~", rest) => (Compared::Head, rest),
            ("!", rest) => {
                let (status, rest) = rest.split_once(' ').unwrap();
                (Compared::Not(status), rest)
            }
            _ => (Compared::Whole, line),
        };
        let (rest, body) = rest.split_once(" = ").map_or((rest, None), |(rest, body)| (rest, Some(body)));
        let mut parts = rest.split(" + ");
        let words: Vec<&str> = parts.next().unwrap().split(' ').collect();
        let [who, method, target] = words[..] else { panic!("not a request: {line}") };
        Request { line, compared, who, method, target, headers: parts.collect(), body }
    }
}

fn requests() -> impl Iterator<Item = Request<'static>> {
    REQUESTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(Request::read)
}

/// What came back, without what differs between any two answers.
#[derive(Debug, PartialEq)]
struct Answer {
    status: String,
    headers: Vec<String>,
    body: String,
}

impl Answer {
    fn shown(&self) -> String {
        let body: String = self.body.chars().take(500).collect();
        format!("{} {:?} {body:?}", self.status, self.headers)
    }
}

/// The families and series of an exposition, without what device plugins would add.
fn series(text: &str) -> String {
    let name = |line: &str| match line.rsplit_once(' ') {
        Some((series, _)) if !line.starts_with('#') => series.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(name).filter(|line| !line.contains("device-plugin")).collect::<Vec<_>>().join("\n")
}

/// JSON without what says nothing, times, and what is known to be left out of pods here: who set their fields in which
/// version. On cgroup v1 the kubelet takes the largest number for a limit, where there is none.
fn bare(value: Value) -> Value {
    let is_told = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => *value != json!("9007199254740988Ki"),
    };
    match value {
        Value::Object(fields) => {
            let fields =
                fields.into_iter().filter(|(name, _)| !["managedFields", "resourceVersion"].contains(&name.as_str()));
            fields.map(|(name, value)| (name, bare(value))).filter(|(_, value)| is_told(value)).collect()
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(bare).collect();
            items.sort_by_key(|item| item["metadata"]["name"].to_string());
            Value::Array(items)
        }
        Value::String(text) if text.parse::<ferrolet::model::Timestamp>().is_ok() => json!("<>"),
        other => other,
    }
}

/// Who asks, and about what.
struct World {
    namespace: String,
    /// Of the pod `web`.
    uid: String,
    admin: String,
    reader: String,
    poor: String,
    /// A certificate and its key that the agents' authority did not sign.
    stranger: (PathBuf, PathBuf),
}

impl World {
    async fn ask(&self, request: &Request<'_>) -> Answer {
        let address = std::env::var("FERROLET_NODE_IP").unwrap();
        let base = match request.who {
            "readonly" => format!("http://{address}:10255"),
            "health" => "http://127.0.0.1:10248".to_owned(),
            _ => format!("https://{address}:10250"),
        };
        let target = request.target.replace("{ns}", &self.namespace).replace("{uid}", &self.uid);
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sk", "-i", "--http1.1", "--path-as-is", "--globoff", "--max-time", "30"]);
        match request.method {
            "HEAD" => curl.arg("-I"),
            method => curl.args(["-X", method]),
        };
        let pki = cluster_folder().join("pki");
        let certificate = match request.who {
            "apiserver" => Some((pki.join("apiserver-kubelet-client.crt"), pki.join("apiserver-kubelet-client.key"))),
            "stranger" => Some(self.stranger.clone()),
            _ => None,
        };
        if let Some((certificate, key)) = certificate {
            curl.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        let token = match request.who {
            "admin" => Some(self.admin.as_str()),
            "reader" => Some(self.reader.as_str()),
            "poor" => Some(self.poor.as_str()),
            "wrong" => Some("wrong"),
            _ => None,
        };
        curl.args(token.iter().flat_map(|token| ["-H".to_owned(), format!("Authorization: Bearer {token}")]));
        curl.args(request.headers.iter().flat_map(|header| ["-H", header]));
        curl.args(request.body.iter().flat_map(|body| ["-H", "Content-Type: text/plain", "--data-binary", body]));
        let output = curl.arg(base + &target).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .map_or_else(|| format!("curl {}", output.status), str::to_owned);
        let mut headers: Vec<String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim()))
            .filter(|(name, _)| !NOT_COMPARED.contains(&name.as_str()))
            .map(|(name, value)| match name.as_str() {
                "process-start-time-unix" => format!("{name}: <>"),
                _ => format!("{name}: {value}"),
            })
            .collect();
        headers.sort_unstable();
        let body = if headers.iter().any(|header| header.starts_with("content-type: text/plain; version=")) {
            series(body)
        } else {
            serde_json::from_str(body).map_or_else(|_| self.plain(body), |value| bare(value).to_string())
        };
        Answer { status, headers, body }
    }

    /// Without times, ids of containers and the pod's UID.
    fn plain(&self, body: &str) -> String {
        let word = |word: &str| {
            let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_id = bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_time = bare.parse::<ferrolet::model::Timestamp>().is_ok();
            if is_id || is_time { word.replace(bare, "<>") } else { word.to_owned() }
        };
        body.split(' ').map(word).collect::<Vec<_>>().join(" ").replace(&self.uid, "<uid>")
    }
}

/// Files below /var/log, all of one age, and nothing of them afterwards.
struct Logs(PathBuf);

impl Logs {
    fn write() -> Self {
        let logs = Logs(PathBuf::from("/var/log/containers/routes"));
        std::fs::create_dir_all(&logs.0).unwrap();
        let files: [(&str, &[u8]); 7] = [
            ("a", b"0123456789\n"),
            ("b.txt", b"text\n"),
            ("c.bin", &[0, 1, 2]),
            ("d.log.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ("e", b"<html>no ending</html>"),
            ("empty", b""),
            ("sp ace", b"space\n"),
        ];
        for (name, content) in files {
            let path = logs.0.join(name);
            std::fs::write(&path, content).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
        }
        symlink(logs.0.join("a"), logs.0.join("inside")).unwrap();
        logs
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A service account's token.
async fn token(namespace: &TestNamespace, account: &str) -> String {
    let object = json!({"metadata": {"name": account}, "apiVersion": "v1", "kind": "ServiceAccount"});
    namespace.create_object::<ServiceAccount>(object).await;
    let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
    let accounts = namespace.api::<ServiceAccount>();
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token.unwrap()
}

/// Lets an account do what a role says.
async fn bind(namespace: &TestNamespace, account: &str, role: &str) {
    let (group, name) = ("rbac.authorization.k8s.io", format!("test:routes:{account}"));
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace.name}],
    }))
    .unwrap();
    let api: Api<ClusterRoleBinding> = Api::all(namespace.client.clone());
    api.patch(&name, &PatchParams::apply("test"), &Patch::Apply(binding)).await.unwrap();
}

/// A role that sees figures and health, as those do who scrape nodes.
async fn reader_role(namespace: &TestNamespace) -> &'static str {
    let name = "test:routes-reader";
    let role: ClusterRole = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"apiGroups": [""], "resources": ["nodes/metrics", "nodes/stats", "nodes/healthz"], "verbs": ["get"]}],
    }))
    .unwrap();
    let api: Api<ClusterRole> = Api::all(namespace.client.clone());
    api.patch(name, &PatchParams::apply("test"), &Patch::Apply(role)).await.unwrap();
    name
}

/// A self-signed client certificate that claims to be the cluster's master, and its key.
fn stranger(folder: &Path) -> (PathBuf, PathBuf) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let key = rcgen::KeyPair::generate().unwrap();
    let paths = (folder.join("stranger.crt"), folder.join("stranger.key"));
    std::fs::write(&paths.0, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

/// A pod that writes to both streams and has a container that ran before, one that cannot start, and one that has ended.
async fn pods(namespace: &TestNamespace) -> Vec<Pod> {
    let writes = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; sleep 0.2; echo four >&2; sleep 1000";
    let again = "if [ -e /data/x ]; then echo second; sleep 1000; fi; touch /data/x; echo first; exit 1";
    let web = json!({
        "containers": [
            {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", writes]},
            {"name": "again", "image": BUSYBOX, "command": ["sh", "-c", again],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        ],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    let waits =
        json!({"containers": [{"name": "main", "image": "example.invalid/none:1", "imagePullPolicy": "Never"}]});
    let all = vec![
        namespace.pod("web", web).await,
        namespace.pod("waits", waits).await,
        namespace.script("ended", "echo over; exit 3", "Never").await,
    ];
    settled(namespace).await;
    all
}

async fn settled(namespace: &TestNamespace) {
    let ran_before =
        |pod: &Pod| find_container(pod, "again").is_some_and(|again| again.ready && again.restart_count == 1);
    namespace.wait_pod("web", "its second container to run again", 90, ran_before).await;
    namespace.wait_ready("web").await;
    let refused = |pod: &Pod| waiting_reason(pod, "main").as_deref() == Some("ErrImageNeverPull");
    namespace.wait_pod("waits", "its image to be refused", 60, refused).await;
    namespace.wait_phase("ended", "Failed").await;
    // What it writes is there, also what comes late.
    let pods = namespace.api::<Pod>();
    let of_main = kube::api::LogParams { container: Some("main".to_owned()), ..Default::default() };
    wait("the lines of web", 30, async || {
        let log = pods.logs("web", &of_main).await.ok()?;
        log.contains("four").then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a node: hack/test"]
async fn every_route_answers_as_the_kubelets() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nreadOnlyPort: 10255\n\
        enableSystemLogQuery: true\n";
    std::fs::write(folder.path().join("10-routes.conf"), settings).unwrap();
    let flags = [format!("--config-dir={}", folder.path().display())];
    let _logs = Logs::write();
    let mut agent = Agent::start_with(Kind::Peer, &[&flags[0]]).await;
    let namespace = TestNamespace::create("routes").await;
    let pods = pods(&namespace).await;
    bind(&namespace, "reader", reader_role(&namespace).await).await;
    bind(&namespace, "admin", "cluster-admin").await;
    let world = World {
        namespace: namespace.name.clone(),
        uid: uid(&pods[0]),
        admin: token(&namespace, "admin").await,
        reader: token(&namespace, "reader").await,
        poor: token(&namespace, "poor").await,
        stranger: stranger(folder.path()),
    };
    let mut theirs = Vec::new();
    for request in requests() {
        theirs.push(world.ask(&request).await);
    }
    agent.kill().await;
    agent = Agent::start_with(Kind::Ferrolet, &[&flags[0]]).await;
    settled(&namespace).await;
    let mut faults = Vec::new();
    for (request, theirs) in requests().zip(theirs) {
        let mut ours = world.ask(&request).await;
        if !theirs.headers.iter().any(|header| header.starts_with("content-type:")) {
            ours.headers.retain(|header| header != TEXT);
        }
        if request.compared == Compared::Head {
            ours.body.clone_from(&theirs.body);
        }
        match (ours == theirs, request.compared) {
            (true, Compared::Not(_)) => faults.push(format!("{}: does not differ any more", request.line)),
            (false, Compared::Not(status)) if ours.status != status => {
                faults.push(format!("{}: {}", request.line, ours.shown()));
            }
            (false, Compared::Whole | Compared::Head) => {
                faults.push(format!(
                    "{}:\nthe kubelet: {}\nferrolet:    {}",
                    request.line,
                    theirs.shown(),
                    ours.shown()
                ));
            }
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    let uids: Vec<String> = pods.iter().map(uid).collect();
    namespace.clean_up(&uids).await;
    agent.kill().await;
}
