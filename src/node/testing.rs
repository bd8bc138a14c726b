//! An API server in memory, as far as the node's tasks need one: the Node with its watch, the Lease and the CSINode, with
//! faults on demand.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use ::kube::Client;
use ::kube::client::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::CSINode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::patch;

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server; clones share its state.
#[derive(Clone, Default)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Objects by collection; there is one of each, `node-a`.
    objects: BTreeMap<&'static str, Value>,
    version: u64,
    /// Watch events of the Node with the version at which they happened.
    history: Vec<(u64, Bytes)>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    log: Vec<String>,
    failures: VecDeque<(&'static str, u16)>,
    is_out: bool,
    is_hanging: bool,
}

impl ApiServer {
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// A client that cannot keep a watch, since each of its requests has to end soon.
    pub fn heartbeat_client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                    return Err(io::Error::from(io::ErrorKind::TimedOut));
                }
                server.answer(request).await
            }
        });
        Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Requests so far but lists and watches, `METHOD path`.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// The next request with that method is refused.
    pub fn fail(&self, method: &'static str, code: u16) {
        self.state().failures.push_back((method, code));
    }

    /// Connections break and are refused.
    pub fn set_outage(&self, is_out: bool) {
        let mut state = self.state();
        state.is_out = is_out;
        state.watchers.clear();
    }

    /// Requests are taken and not answered.
    pub fn set_hanging(&self, is_hanging: bool) {
        self.state().is_hanging = is_hanging;
    }

    pub fn node(&self) -> Option<Node> {
        self.get(NODES)
    }

    pub fn store_node(&self, node: Node) {
        self.put(NODES, &node);
    }

    pub fn change_node(&self, change: impl FnOnce(&mut Node)) {
        let mut node = self.node().unwrap();
        change(&mut node);
        self.put(NODES, &node);
    }

    pub fn delete_node(&self) {
        self.state().delete(NODES);
    }

    pub fn lease(&self) -> Option<Lease> {
        self.get(LEASES)
    }

    pub fn store_lease(&self, lease: Lease) {
        self.put(LEASES, &lease);
    }

    pub fn delete_lease(&self) {
        self.state().delete(LEASES);
    }

    pub fn csi_node(&self) -> Option<CSINode> {
        self.get(CSI_NODES)
    }

    pub fn store_csi_node(&self, csi_node: CSINode) {
        self.put(CSI_NODES, &csi_node);
    }

    fn get<K: DeserializeOwned>(&self, collection: &str) -> Option<K> {
        let object = self.state().objects.get(collection).cloned()?;
        Some(serde_json::from_value(object).unwrap())
    }

    fn put(&self, collection: &'static str, object: &impl Serialize) {
        self.state().store(collection, serde_json::to_value(object).unwrap());
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, io::Error> {
        let (parts, body) = request.into_parts();
        let (method, path) = (parts.method.as_str(), parts.uri.path().to_owned());
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        let is_list = method == "GET" && path == NODES;
        {
            let mut state = self.state();
            if !is_list {
                state.log.push(format!("{method} {path}"));
            }
            if state.is_out {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            if state.failures.front().is_some_and(|(failing, _)| *failing == method) {
                let (_, code) = state.failures.pop_front().unwrap();
                return Ok(refusal(code, "told to fail"));
            }
        }
        if self.state().is_hanging {
            std::future::pending::<()>().await;
        }
        if is_list {
            return Ok(if query.contains("watch=") { self.state().watch(&query) } else { self.state().list() });
        }
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        Ok(self.state().act(method, &path, body))
    }
}

impl State {
    fn store(&mut self, collection: &'static str, mut object: Value) -> Value {
        self.version += 1;
        let is_new = !self.objects.contains_key(collection);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"].get("uid").is_none() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        self.objects.insert(collection, object.clone());
        if collection == NODES {
            self.tell(if is_new { "ADDED" } else { "MODIFIED" }, &object);
        }
        object
    }

    fn delete(&mut self, collection: &'static str) {
        self.version += 1;
        if let Some(mut object) = self.objects.remove(collection)
            && collection == NODES
        {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell("DELETED", &object);
        }
    }

    fn tell(&mut self, type_: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": type_, "object": object})));
        self.history.push((self.version, line.clone()));
        self.watchers.retain(|watcher| watcher.send(line.clone()).is_ok());
    }

    fn list(&self) -> Answer {
        let items: Vec<_> = self.objects.get(NODES).into_iter().collect();
        let metadata = json!({"resourceVersion": self.version.to_string()});
        answer(200, &json!({"apiVersion": "v1", "kind": "NodeList", "metadata": metadata, "items": items}))
    }

    fn watch(&mut self, query: &str) -> Answer {
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap_or("0");
        let from: u64 = from.parse().unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        for (_, line) in self.history.iter().filter(|(version, _)| *version > from) {
            sender.send(line.clone()).unwrap();
        }
        self.watchers.push(sender);
        let frames = UnboundedReceiverStream::new(receiver).map(|line| Ok(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn act(&mut self, method: &str, path: &str, body: Value) -> Answer {
        let Some(collection) = [NODES, LEASES, CSI_NODES].into_iter().find(|prefix| path.starts_with(prefix)) else {
            return refusal(404, "no such path");
        };
        let present = self.objects.get(collection).cloned();
        match (method, present) {
            ("POST", Some(_)) => refusal(409, "AlreadyExists"),
            ("POST", None) => answer(201, &self.store(collection, body)),
            (_, None) => refusal(404, "NotFound"),
            ("GET", Some(object)) => answer(200, &object),
            ("PUT", Some(object)) => {
                if body["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"] {
                    answer(200, &self.store(collection, body))
                } else {
                    refusal(409, "Conflict")
                }
            }
            ("PATCH", Some(mut object)) => {
                assert!(path.ends_with("/status"));
                patch::tests::apply(&mut object, &body);
                answer(200, &self.store(collection, object))
            }
            ("DELETE", Some(object)) => {
                self.delete(collection);
                answer(200, &object)
            }
            _ => refusal(405, "MethodNotAllowed"),
        }
    }
}

fn answer(code: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn refusal(code: u16, text: &str) -> Answer {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => text,
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": text, "reason": reason, "code": code
    });
    answer(code, &status)
}
