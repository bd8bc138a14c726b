//! Clients of the API server from a kubeconfig file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::kube::client::ConfigExt;
use ::kube::client::retry::RetryPolicy;
use http::HeaderValue;
use http::header::USER_AGENT;
use tower::ServiceBuilder;
use tower::retry::RetryLayer;

use super::connections::Connections;
use super::credentials::Credentials;
use super::kubeconfig::{self, Access};
use super::limit::RequestLimit;
use crate::model::release;
use crate::sys::machine::go_architecture;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Requests a second (`kubeAPIQPS`, `eventRecordQPS`); 0 or less is no limit.
    pub qps: f64,
    /// Requests at once before the limit counts (`kubeAPIBurst`, `eventBurst`).
    pub burst: u32,
    /// Bounds each request with its credentials and its body; none for clients that watch. A request that runs into it gives
    /// up its connection and is not tried again.
    pub timeout: Option<Duration>,
    /// The `User-Agent` header; see [`user_agent`].
    pub user_agent: String,
}

impl Default for ClientOptions {
    /// The defaults of KubeletConfiguration: 50 requests a second, 100 at once.
    fn default() -> Self {
        ClientOptions { qps: 50.0, burst: 100, timeout: None, user_agent: user_agent() }
    }
}

impl ClientOptions {
    /// The client of leases and node status: no limit, so that a heartbeat never waits behind other requests, and a timeout
    /// (the peer: the smaller of `nodeStatusUpdateFrequency` and the lease's duration).
    pub fn heartbeat(timeout: Duration) -> Self {
        ClientOptions { qps: 0.0, burst: 0, timeout: Some(timeout), ..ClientOptions::default() }
    }
}

/// The peer's form of a user agent, by which audit logs and field managers know a kubelet: `kubelet/v1.37.2 (linux/amd64)
/// kubernetes/<build>`.
pub fn user_agent() -> String {
    format!("kubelet/{} ({}/{}) kubernetes/ferrolet", release::VERSION, std::env::consts::OS, go_architecture())
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig file cannot be read.
    #[error("kubeconfig {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The kubeconfig file is not YAML, or not of a kubeconfig's shape.
    #[error("kubeconfig {path}: {message}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and fault, without the file's content.
        message: String,
    },
    /// A field's value cannot be used.
    #[error("kubeconfig {path}: {field}: {reason}", path = path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's path in it.
        field: String,
        /// What is wrong with it.
        #[source]
        reason: FieldError,
    },
}

/// What is wrong with a field of a kubeconfig, or with what it points at.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// It has to be there.
    #[error("not set")]
    Missing,
    /// It names an entry that is not there.
    #[error("{list} has no entry named {name:?}")]
    NoSuchEntry {
        /// The list looked in.
        list: &'static str,
        /// The name looked for.
        name: String,
    },
    /// Not an address.
    #[error("{value:?}: {what}")]
    Url {
        /// The value.
        value: String,
        /// What is wrong.
        what: String,
    },
    /// The file it points at cannot be read.
    #[error("{file}: {source}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The token file holds nothing.
    #[error("{file}: the file is empty", file = file.display())]
    EmptyToken {
        /// The file.
        file: PathBuf,
    },
    /// Not base64.
    #[error("not base64: {0}")]
    Base64(#[source] base64::DecodeError),
    /// Broken PEM text.
    #[error("not PEM: {0}")]
    Pem(String),
    /// PEM text without a certificate.
    #[error("no certificate in PEM form")]
    NoCertificate,
    /// PEM text without a private key.
    #[error("no private key in PEM form")]
    NoKey,
    /// Certificate and key do not go together, or the key's kind is unknown.
    #[error("client certificate and key: {0}")]
    Identity(#[source] rustls::Error),
    /// Characters that no HTTP header may hold.
    #[error("not fit for an HTTP header")]
    Header,
    /// Something that is not supported.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A field of the exec plugin has to be there.
    #[error("{0} is not set")]
    ExecMissing(&'static str),
    /// The exec plugin protocol's version.
    #[error("apiVersion {found:?}: must be {allowed}")]
    ExecVersion {
        /// What was found.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// The exec plugin failed.
    #[error("exec plugin {command}: {what}")]
    Exec {
        /// The command.
        command: String,
        /// How it failed.
        what: String,
    },
    /// The TLS client cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[source] Box<::kube::Error>),
    /// `tls-server-name` is no host name.
    #[error("tls-server-name {0:?}: not a host name")]
    ServerName(String),
    /// A proxy that cannot be used.
    #[error("proxy {url}: {what}")]
    Proxy {
        /// Its address, without password.
        url: String,
        /// Why not.
        what: &'static str,
    },
}

/// An API server as a kubeconfig describes it. Clients made from one share the credentials: one exec plugin, one look at the
/// certificate's file.
pub struct ApiServer {
    path: PathBuf,
    access: Access,
    credentials: Arc<Credentials>,
}

impl ApiServer {
    /// Reads the kubeconfig and loads the credentials; an exec plugin is run. The server itself is not spoken to.
    pub async fn load(kubeconfig: &Path) -> Result<Self, ClientError> {
        ApiServer::with(kubeconfig, kubeconfig::load(kubeconfig)?).await
    }

    /// The server of a kubeconfig that was read, with the credentials that it names.
    pub(super) async fn with(path: &Path, access: Access) -> Result<Self, ClientError> {
        let credentials = Credentials::load(access.source.clone()).await.map_err(|reason| {
            let field = "the current user's credentials".into();
            ClientError::Field { path: path.to_owned(), field, reason }
        })?;
        Ok(ApiServer::with_credentials(path, access, Arc::new(credentials)))
    }

    /// The server of a kubeconfig that was read, with other credentials than it names.
    pub(super) fn with_credentials(path: &Path, access: Access, credentials: Arc<Credentials>) -> Self {
        ApiServer { path: path.to_owned(), access, credentials }
    }

    /// The server's address.
    pub fn url(&self) -> String {
        self.access.config.cluster_url.to_string()
    }

    /// A client with its own connections and its own limit. Has to be called within a tokio runtime.
    pub fn client(&self, options: &ClientOptions) -> Result<::kube::Client, ClientError> {
        let at = |field: &str, reason| ClientError::Field { path: self.path.clone(), field: field.into(), reason };
        let proxy = self.access.proxy.as_deref();
        let limit = RequestLimit::new(options.qps, options.burst);
        let credentials = Arc::clone(&self.credentials);
        let connections = Connections::new(&self.access.config, proxy, credentials, limit, options.timeout);
        let connections = connections.map_err(|reason| at("the current cluster", reason))?;

        let mut config = self.access.config.clone();
        let agent = HeaderValue::from_str(&options.user_agent).map_err(|_| at("user agent", FieldError::Header))?;
        config.headers.push((USER_AGENT, agent));
        let headers = config.extra_headers_layer().map_err(|e| at("the current user", FieldError::Tls(Box::new(e))))?;

        // Like client-go, "later" answers (429, 503, 504) are tried again a few times; not so heartbeats, whose next is near.
        let retry = match options.timeout {
            None => RetryPolicy::new(Duration::from_millis(200), Duration::from_secs(5), 5, true).ok(),
            Some(_) => None,
        };
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(retry.map(RetryLayer::new))
            .layer(headers)
            .service(connections);
        Ok(::kube::Client::new(service, config.default_namespace))
    }
}

/// Reads the kubeconfig and makes one client; for several clients load an [`ApiServer`] once.
pub async fn connect(kubeconfig: &Path, options: ClientOptions) -> Result<::kube::Client, ClientError> {
    ApiServer::load(kubeconfig).await?.client(&options)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use k8s_openapi::api::core::v1::Node;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    fn write(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("kubelet.conf");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn kubeconfig(server: &str, user: &str) -> String {
        format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: '{server}'}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    #[test]
    fn the_peers_user_agent() {
        let agent = user_agent();
        assert!(agent.starts_with("kubelet/v1.37.2 (linux/"), "{agent}");
        assert!(agent.ends_with(") kubernetes/ferrolet"), "{agent}");
    }

    #[tokio::test]
    async fn requests_carry_token_and_agent() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let record = Arc::clone(&seen);
        server.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let header = |name| request.headers()[name].to_str().unwrap().to_owned();
                record.lock().unwrap().push((
                    request.uri().path().to_owned(),
                    header("authorization"),
                    header("user-agent"),
                ));
                async {
                    Ok::<_, Infallible>(http::Response::new(Full::<bytes::Bytes>::from(
                        r#"{"metadata":{"name":"n1"}}"#,
                    )))
                }
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &kubeconfig(&format!("http://{address}"), "token: abc"));
        let client = connect(&path, ClientOptions::default()).await.unwrap();
        let node = ::kube::Api::<Node>::all(client).get("n1").await.unwrap();
        assert_eq!(node.metadata.name.as_deref(), Some("n1"));
        let expected = ("/api/v1/nodes/n1".to_owned(), "Bearer abc".to_owned(), user_agent());
        assert_eq!(*seen.lock().unwrap(), [expected]);
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &kubeconfig(&format!("http://{address}"), ""));
        let client = connect(&path, ClientOptions::heartbeat(Duration::from_millis(100))).await.unwrap();
        let started = tokio::time::Instant::now();
        let error = ::kube::Api::<Node>::all(client).get("n1").await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(super::super::error::is_transient(&error));
        assert_eq!(super::super::error::message(&error), "ServiceError: no answer within the timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_do_not_come_hold_up_no_heartbeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &kubeconfig("http://127.0.0.1:1", ""));
        let access = kubeconfig::load(&path).unwrap();
        let server = ApiServer::with_credentials(&path, access, Arc::new(Credentials::handed()));
        let client = server.client(&ClientOptions::heartbeat(Duration::from_secs(10))).unwrap();
        let started = tokio::time::Instant::now();
        let error = ::kube::Api::<Node>::all(client).get("n1").await.unwrap_err();
        assert_eq!(started.elapsed(), Duration::from_secs(10));
        assert!(super::super::error::is_transient(&error));
        assert_eq!(super::super::error::message(&error), "ServiceError: no credentials within the timeout");
    }

    #[tokio::test]
    async fn a_refused_connection_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let path = write(dir.path(), &kubeconfig(&format!("http://{address}"), ""));
        let client = connect(&path, ClientOptions::default()).await.unwrap();
        let error = ::kube::Api::<Node>::all(client).get("n1").await.unwrap_err();
        let shown = super::super::error::message(&error);
        assert!(shown.contains("Connection refused"), "{shown}");
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = connect(Path::new("/no/kubelet.conf"), ClientOptions::default()).await.err().unwrap();
        assert_eq!(error.to_string(), "kubeconfig /no/kubelet.conf: No such file or directory (os error 2)");
    }
}
