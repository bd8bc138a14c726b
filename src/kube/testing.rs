//! A fake API server for unit tests: a client whose requests the test answers one by one.

use ::kube::client::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::BoxError;

type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;
type Answer = Result<Response<AnswerBody>, BoxError>;
type Chunk = Result<Bytes, BoxError>;

/// The server's end.
pub(crate) struct FakeApi {
    client: ::kube::Client,
    requests: mpsc::UnboundedReceiver<Exchange>,
}

impl FakeApi {
    /// A server that waits for [`Self::next`].
    pub(crate) fn new() -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let sender = sender.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(|e| BoxError::from(e.to_string()))?.to_bytes();
                let (answer, answered) = oneshot::channel();
                let exchange = Exchange { parts, body, answer };
                sender.send(exchange).map_err(|_| BoxError::from("the fake server is gone"))?;
                answered.await.unwrap_or_else(|_| Err(BoxError::from("connection refused")))
            }
        });
        FakeApi { client: ::kube::Client::new(service, "default"), requests }
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> ::kube::Client {
        self.client.clone()
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Exchange {
        self.requests.recv().await.unwrap()
    }

    /// A request that is waiting already.
    pub(crate) fn waiting(&mut self) -> Option<Exchange> {
        self.requests.try_recv().ok()
    }
}

/// One request, to be answered.
pub(crate) struct Exchange {
    parts: http::request::Parts,
    body: Bytes,
    answer: oneshot::Sender<Answer>,
}

impl Exchange {
    pub(crate) fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    /// Path and query.
    pub(crate) fn path(&self) -> String {
        self.parts.uri.to_string()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The request's body.
    pub(crate) fn body(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn json(self, value: Value) {
        self.reply(200, value.to_string());
    }

    /// An error of the API.
    pub(crate) fn status(self, code: u16, reason: &str, message: &str) {
        self.reply(code, status(code, reason, message).to_string());
    }

    /// There is no such object, as the API server says it.
    pub(crate) fn missing(self, kind: &str, name: &str) {
        let mut status = status(404, "NotFound", &format!("{kind} {name:?} not found"));
        status["details"] = json!({"kind": kind, "name": name});
        self.reply(404, status.to_string());
    }

    /// No server there.
    pub(crate) fn refuse(self) {
        let _ = self.answer.send(Err(BoxError::from("connection refused")));
    }

    /// Accepts a watch.
    pub(crate) fn watch(self) -> Feed {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Chunk>();
        let stream = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let body = StreamBody::new(stream.map(|chunk| chunk.map(Frame::data)));
        let _ = self.answer.send(Ok(Response::new(body.boxed_unsync())));
        Feed { sender }
    }

    fn reply(self, code: u16, text: String) {
        let body = Full::from(text).map_err(|never| match never {}).boxed_unsync();
        let _ = self.answer.send(Ok(Response::builder().status(code).body(body).unwrap()));
    }
}

/// An open watch; dropped, it ends as a server ends one.
pub(crate) struct Feed {
    sender: mpsc::UnboundedSender<Chunk>,
}

impl Feed {
    pub(crate) fn send(&self, kind: &str, object: Value) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        let _ = self.sender.send(Ok(line.into()));
    }

    pub(crate) fn bookmark(&self, kind: &str, version: u32) {
        let bookmark = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}});
        self.send("BOOKMARK", bookmark);
    }

    pub(crate) fn error(&self, code: u16, reason: &str, message: &str) {
        self.send("ERROR", status(code, reason, message));
    }

    /// The connection breaks.
    pub(crate) fn disconnect(self) {
        let _ = self.sender.send(Err("connection reset by peer".into()));
    }

    /// Whether the client still reads.
    pub(crate) fn is_read(&self) -> bool {
        !self.sender.is_closed()
    }
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// An object with its metadata; `rest` holds the other fields.
pub(crate) fn object(version: &str, kind: &str, namespace: &str, name: &str, revision: u32, rest: Value) -> Value {
    let mut object = rest;
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object["metadata"]["namespace"] = namespace.into();
    object["metadata"]["name"] = name.into();
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    object["metadata"]["managedFields"] = json!([{"manager": "test", "operation": "Update"}]);
    object
}

/// A list of objects at a revision.
pub(crate) fn list(kind: &str, revision: u32, more: Option<&str>, items: &[Value]) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some(token) = more {
        metadata["continue"] = token.into();
    }
    json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "items": items})
}
