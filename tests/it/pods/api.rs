//! A small API server in memory: pods with their status subresource, deletion as the API does it, lists and watches with
//! versions, the RuntimeClass `known`; every other resource is empty. Faults on request, and a log of what was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ferrolet::model::{SignedDuration, clock};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tower::BoxError;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
type Chunk = Result<Bytes, BoxError>;

/// The server. Clones are one.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub code: u16,
}

/// Holds lists of pods for as long as it lives.
#[must_use = "lists are held only as long as the gate lives"]
pub struct ListGate {
    _open: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By name: all pods of these tests are in one namespace.
    pods: BTreeMap<String, Value>,
    /// Changes so far, for watches from an earlier version.
    history: Vec<(u64, Value)>,
    /// Watches from before this version have expired.
    oldest: u64,
    watches: Vec<mpsc::UnboundedSender<Chunk>>,
    /// Watches of what never changes.
    silent: Vec<mpsc::UnboundedSender<Chunk>>,
    statuses: BTreeMap<String, Vec<PodStatus>>,
    asked: Vec<Asked>,
    failing: BTreeSet<&'static str>,
    slow: BTreeMap<&'static str, Duration>,
    away: bool,
    list_gates: BTreeMap<&'static str, watch::Receiver<()>>,
}

enum Reply {
    Json(u16, Value),
    /// A watch from that version.
    Watch(u64),
    /// A watch in which nothing ever happens.
    Silence,
}

impl FakeApi {
    /// A new client of this server.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { api.serve(request).await }
        });
        kube::Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a pod.
    pub fn create(&self, mut pod: Value) {
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        pod["metadata"]["generation"] = json!(1);
        let mut state = self.state();
        state.pods.insert(name.clone(), pod);
        state.changed("ADDED", &name);
    }

    /// Asks for a pod's deletion, as a user does.
    pub fn delete(&self, name: &str, grace_seconds: i64) {
        let (code, answer) = self.state().delete(name, None, grace_seconds);
        assert_eq!(code, 200, "{answer}");
    }

    /// A pod as it is now.
    pub fn pod(&self, name: &str) -> Option<Pod> {
        let state = self.state();
        let pod = state.pods.get(name)?.clone();
        Some(serde_json::from_value(pod).expect("a pod"))
    }

    /// Names of all pods.
    pub fn names(&self) -> Vec<String> {
        self.state().pods.keys().cloned().collect()
    }

    /// The statuses that a pod has had, oldest first; also of one that is gone.
    pub fn statuses(&self, name: &str) -> Vec<PodStatus> {
        self.state().statuses.get(name).cloned().unwrap_or_default()
    }

    /// What was asked that would change something, oldest first.
    pub fn writes(&self) -> Vec<Asked> {
        self.state().asked.iter().filter(|asked| asked.method != "GET").cloned().collect()
    }

    /// The method and code of each write for a pod.
    pub fn writes_of(&self, name: &str) -> Vec<(String, u16)> {
        let of_pod = |asked: &Asked| asked.path.split('/').any(|part| part == name);
        self.writes().into_iter().filter(of_pod).map(|asked| (asked.method, asked.code)).collect()
    }

    /// Answers requests with that method with 500 until [`FakeApi::heal`].
    pub fn fail(&self, method: &'static str) {
        self.state().failing.insert(method);
    }

    /// Answers requests with that method again.
    pub fn heal(&self, method: &str) {
        self.state().failing.remove(method);
    }

    /// Takes so long, once it is done, to answer requests with that method.
    pub fn slow_down(&self, method: &'static str, by: Duration) {
        self.state().slow.insert(method, by);
    }

    /// Breaks all connections and takes no more until [`FakeApi::come_back`].
    pub fn go_away(&self) {
        let mut state = self.state();
        state.away = true;
        let silent = std::mem::take(&mut state.silent);
        for watch in state.watches.drain(..).chain(silent) {
            let _ = watch.send(Err("connection reset by peer".into()));
        }
    }

    /// Takes connections again.
    pub fn come_back(&self) {
        self.state().away = false;
    }

    /// Forgets past changes: watches from an earlier version are refused as expired.
    pub fn compact(&self) {
        let mut state = self.state();
        state.version += 1;
        state.oldest = state.version;
        state.history.clear();
    }

    /// Lets lists of `pods`, or `services`, wait until the gate is dropped.
    pub fn hold_lists(&self, of: &'static str) -> ListGate {
        let (open, held) = watch::channel(());
        self.state().list_gates.insert(of, held);
        ListGate { _open: open }
    }

    async fn serve(&self, request: Request<kube::client::Body>) -> Result<Answer, BoxError> {
        let delay = self.state().slow.get(request.method().as_str()).copied();
        let answer = self.answer(request).await;
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        answer
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Result<Answer, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| BoxError::from(error.to_string()))?.to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        if let Some(listed) = parts.uri.path().strip_prefix("/api/v1/").filter(|_| !query.contains("watch=true")) {
            let gate = self.state().list_gates.get(listed).cloned();
            if let Some(mut gate) = gate {
                // Never sent to: an error is the gate's end.
                while gate.changed().await.is_ok() {}
            }
        }
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut state = self.state();
        if state.away {
            return Err("connection refused".into());
        }
        let method = parts.method.as_str();
        let reply = if state.failing.contains(method) {
            Reply::Json(500, failure(500, "InternalError", "etcdserver: request timed out"))
        } else {
            state.reply(method, parts.uri.path(), query, &body)
        };
        let code = if let Reply::Json(code, _) = &reply { *code } else { 200 };
        let (method, path) = (method.to_owned(), parts.uri.path().to_owned());
        state.asked.push(Asked { method, path, code });
        Ok(match reply {
            Reply::Json(code, value) => {
                let body = Full::from(value.to_string()).map_err(|never| match never {}).boxed_unsync();
                Response::builder().status(code).body(body)?
            }
            Reply::Watch(since) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                for (_, event) in state.history.iter().filter(|(version, _)| *version > since) {
                    let _ = sender.send(Ok(line(event)));
                }
                state.watches.push(sender);
                streamed(receiver)
            }
            Reply::Silence => {
                let (sender, receiver) = mpsc::unbounded_channel();
                state.silent.push(sender);
                streamed(receiver)
            }
        })
    }
}

/// A stream of watch events.
fn streamed(mut receiver: mpsc::UnboundedReceiver<Chunk>) -> Answer {
    let stream = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    Response::new(StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}

fn line(event: &Value) -> Bytes {
    format!("{event}\n").into()
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

impl State {
    fn reply(&mut self, method: &str, path: &str, query: &str, body: &Value) -> Reply {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let is_watch = query.contains("watch=true");
        match (method, parts.as_slice()) {
            ("GET", ["api", "v1", "pods"]) if is_watch => {
                let version = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
                let since: u64 = version.and_then(|text| text.parse().ok()).unwrap_or_default();
                if since < self.oldest {
                    return Reply::Json(410, failure(410, "Expired", "too old resource version"));
                }
                Reply::Watch(since)
            }
            ("GET", ["api", "v1", "pods"]) => self.list("PodList", self.pods.values().cloned().collect()),
            ("POST", ["api", "v1", "namespaces", _, "pods"]) => {
                let (code, answer) = self.create(body.clone());
                Reply::Json(code, answer)
            }
            ("GET", _) if is_watch => Reply::Silence,
            ("GET", ["api", "v1", "services"]) => self.list("ServiceList", Vec::new()),
            ("GET", ["apis", "node.k8s.io", "v1", "runtimeclasses", "known"]) => {
                let (version, kind) = ("node.k8s.io/v1", "RuntimeClass");
                let class =
                    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "known"}, "handler": "other"});
                Reply::Json(200, class)
            }
            ("PATCH", ["api", "v1", "namespaces", _, "pods", name, "status"]) => {
                let (code, answer) = self.patch_status(name, body);
                Reply::Json(code, answer)
            }
            ("DELETE", ["api", "v1", "namespaces", _, "pods", name]) => {
                let uid = body["preconditions"]["uid"].as_str();
                let grace = body["gracePeriodSeconds"].as_i64().unwrap_or(30);
                let (code, answer) = self.delete(name, uid, grace);
                Reply::Json(code, answer)
            }
            _ => Reply::Json(404, failure(404, "NotFound", &format!("{method} {path}"))),
        }
    }

    fn list(&self, kind: &str, items: Vec<Value>) -> Reply {
        let metadata = json!({"resourceVersion": self.version.to_string()});
        Reply::Json(200, json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "items": items}))
    }

    /// Stores a new pod, with an identity of its own.
    fn create(&mut self, mut pod: Value) -> (u16, Value) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.pods.contains_key(&name) {
            return (409, failure(409, "AlreadyExists", &format!("pods \"{name}\" already exists")));
        }
        pod["metadata"]["uid"] = format!("api-{}", self.version).into();
        pod["metadata"]["generation"] = json!(1);
        pod["status"] = json!({"phase": "Pending"});
        self.pods.insert(name.clone(), pod);
        self.changed("ADDED", &name);
        (201, self.pods.get(&name).cloned().unwrap_or_default())
    }

    /// Gives the pod a new version and tells the watches.
    fn changed(&mut self, kind: &str, name: &str) {
        self.version += 1;
        let version = self.version;
        let Some(pod) = self.pods.get_mut(name) else { return };
        pod["metadata"]["resourceVersion"] = version.to_string().into();
        let event = json!({"type": kind, "object": pod});
        if kind == "DELETED" {
            self.pods.remove(name);
        }
        self.watches.retain(|watch| watch.send(Ok(line(&event))).is_ok());
        self.history.push((version, event));
    }

    fn found(&self, name: &str, uid: Option<&str>) -> Result<Value, (u16, Value)> {
        let Some(pod) = self.pods.get(name) else {
            return Err((404, failure(404, "NotFound", &format!("pods \"{name}\" not found"))));
        };
        match uid {
            Some(uid) if pod["metadata"]["uid"] != uid => {
                Err((409, failure(409, "Conflict", &format!("the UID in the precondition ({uid}) does not match"))))
            }
            _ => Ok(pod.clone()),
        }
    }

    fn patch_status(&mut self, name: &str, patch: &Value) -> (u16, Value) {
        let mut pod = match self.found(name, patch["metadata"]["uid"].as_str()) {
            Ok(pod) => pod,
            Err(refused) => return refused,
        };
        if pod["status"].is_null() {
            pod["status"] = json!({});
        }
        if let (Value::Object(status), Value::Object(patch)) = (&mut pod["status"], &patch["status"]) {
            merge(status, patch);
        }
        let status: PodStatus = serde_json::from_value(pod["status"].clone()).expect("a status");
        self.statuses.entry(name.to_owned()).or_default().push(status);
        self.pods.insert(name.to_owned(), pod);
        self.changed("MODIFIED", name);
        (200, self.pods.get(name).cloned().unwrap_or_default())
    }

    fn delete(&mut self, name: &str, uid: Option<&str>, grace_seconds: i64) -> (u16, Value) {
        let pod = match self.found(name, uid) {
            Ok(pod) => pod,
            Err(refused) => return refused,
        };
        // The API waits for no node once nothing runs any more.
        let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let grace_seconds = if has_ended { 0 } else { grace_seconds };
        let at = clock::now().checked_add(SignedDuration::from_secs(grace_seconds)).expect("a near time");
        if let Some(pod) = self.pods.get_mut(name) {
            let metadata = &mut pod["metadata"];
            let sooner = metadata["deletionGracePeriodSeconds"].as_i64().is_none_or(|before| grace_seconds < before);
            if sooner {
                metadata["deletionTimestamp"] = json!(clock::api_time(at));
                metadata["deletionGracePeriodSeconds"] = grace_seconds.into();
                metadata["generation"] = json!(metadata["generation"].as_i64().unwrap_or(1) + 1);
            }
        }
        // Also a pod that goes at once is marked first.
        self.changed("MODIFIED", name);
        if grace_seconds == 0 {
            self.changed("DELETED", name);
            return (200, pod);
        }
        (200, self.pods.get(name).cloned().unwrap_or_default())
    }
}

/// The key by which a list of a pod status is merged.
fn merge_key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" => Some("type"),
        "podIPs" | "hostIPs" => Some("ip"),
        _ => None,
    }
}

/// A strategic merge patch.
fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (field, value) in patch.iter().filter(|(field, _)| !field.starts_with('$')) {
        match (target.get_mut(field), value, merge_key(field)) {
            (_, Value::Null, _) => {
                target.remove(field);
            }
            (Some(Value::Object(before)), Value::Object(patch), _) => merge(before, patch),
            (Some(Value::Array(list)), Value::Array(elements), Some(key)) => merge_list(list, elements, key),
            (_, value, _) => {
                target.insert(field.clone(), value.clone());
            }
        }
    }
    for (field, order) in patch {
        let Some(field) = field.strip_prefix("$setElementOrder/") else { continue };
        if let (Some(Value::Array(list)), Some(key), Value::Array(order)) =
            (target.get_mut(field), merge_key(field), order)
        {
            list.sort_by_key(|element| order.iter().position(|wanted| wanted[key] == element[key]));
        }
    }
}

fn merge_list(list: &mut Vec<Value>, elements: &[Value], key: &str) {
    for element in elements {
        let place = list.iter().position(|before| before[key] == element[key]);
        match place {
            Some(place) if element["$patch"] == "delete" => {
                list.remove(place);
            }
            Some(place) => {
                if let (Value::Object(before), Value::Object(element)) = (&mut list[place], element) {
                    merge(before, element);
                }
            }
            None => list.push(element.clone()),
        }
    }
}
