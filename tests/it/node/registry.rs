//! A registry on this machine with one image, which only who knows the password gets. The image has no files.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

struct Content {
    authorization: String,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
    /// How often its manifest was asked for.
    pulls: AtomicUsize,
}

/// The registry, as long as it is held.
pub struct Registry {
    host: String,
    /// A Docker configuration with which it is open.
    login: String,
    content: Arc<Content>,
    _server: JoinSet<()>,
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn described(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

impl Registry {
    /// A registry for that user. Each has an image of its own.
    pub async fn start(user: &str, password: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        // The end of an archive without files.
        let layer = vec![0; 1024];
        let config = json!({"architecture": "amd64", "os": "linux", "author": host, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
        let config = config.to_string().into_bytes();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": described(CONFIG, &config),
            "layers": [described(LAYER, &layer)]});
        let content = Arc::new(Content {
            authorization: format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))),
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
            pulls: AtomicUsize::new(0),
        });
        let mut server = JoinSet::new();
        server.spawn(serve(listener, content.clone()));
        let login = json!({"auths": {&host: {"username": user, "password": password}}}).to_string();
        Registry { host, login, content, _server: server }
    }

    /// A pull secret of that name for who may have the image.
    pub fn pull_secret(&self, name: &str) -> Value {
        json!({"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": self.login}})
    }

    /// The image's name.
    pub fn image(&self) -> String {
        format!("{}/closed:1", self.host)
    }

    /// How often the image was asked for by who may have it.
    pub fn pulls(&self) -> usize {
        self.content.pulls.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, content: Arc<Content>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let content = content.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&content, &request);
                async { Ok::<_, Infallible>(response) }
            });
            // A client that goes away is no fault of the registry's.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(content: &Content, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let response = Response::builder();
    if request.headers().get(AUTHORIZATION).is_none_or(|given| *given != content.authorization) {
        let response = response.status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, "Basic realm=\"closed\"");
        return response.body(Full::default()).unwrap();
    }
    let (kind, body) = match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "" => (CONFIG, &Vec::new()),
        name if name == digest(&content.config) => (CONFIG, &content.config),
        name if name == digest(&content.layer) => (LAYER, &content.layer),
        name if name == "1" || name == digest(&content.manifest) => {
            content.pulls.fetch_add(1, Ordering::Relaxed);
            (MANIFEST, &content.manifest)
        }
        _ => return response.status(StatusCode::NOT_FOUND).body(Full::default()).unwrap(),
    };
    let response = response.header(CONTENT_TYPE, kind).header("Docker-Content-Digest", digest(body));
    response.body(Full::from(body.clone())).unwrap()
}
