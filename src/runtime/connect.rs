//! The connection to a runtime's unix socket: made when first needed, made again after the runtime was restarted, with a
//! back-off between attempts to dial so that callers of a runtime that is away fail fast.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use super::error::RuntimeError;

/// Wait after the first failed attempt to dial (cri-client of the peer).
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest wait between two attempts to dial.
const LAST_DELAY: Duration = Duration::from_secs(3);
/// An attempt to dial that takes longer has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The path of the socket that an endpoint names: `unix:///path`, or a bare path as the peer still takes it.
///
/// # Errors
/// [`RuntimeError::Endpoint`] for another protocol, or a path that is not absolute.
pub(super) fn socket_path(endpoint: &str) -> Result<PathBuf, RuntimeError> {
    let wrong = |problem: &str| RuntimeError::Endpoint { endpoint: endpoint.to_owned(), problem: problem.to_owned() };
    let path = match endpoint.split_once("://") {
        Some(("unix", path)) => path,
        Some((_, _)) => return Err(wrong("only unix sockets are supported (unix:///path/to/runtime.sock)")),
        None => endpoint.strip_prefix("unix:").unwrap_or(endpoint),
    };
    if path.is_empty() {
        return Err(wrong("it names no socket (expected unix:///path/to/runtime.sock)"));
    }
    if !path.starts_with('/') {
        return Err(wrong("the path of the socket must be absolute (unix:///path/to/runtime.sock)"));
    }
    Ok(PathBuf::from(path))
}

/// A channel that dials when the first call is made, and again whenever the connection is gone.
pub(super) fn lazy_channel(path: PathBuf) -> Channel {
    let dialer = Arc::new(Dialer { path, failure: Mutex::new(None) });
    // The URI only gives the `:authority` of requests: the connector below ignores it.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let dialer = dialer.clone();
        async move { dialer.dial().await.map(TokioIo::new) }
    }))
}

struct Dialer {
    path: PathBuf,
    failure: Mutex<Option<Failure>>,
}

#[derive(Clone)]
struct Failure {
    at: Instant,
    delay: Duration,
    socket: Option<SocketIdentity>,
    kind: io::ErrorKind,
    text: String,
}

/// Tells a socket from the one that a restarted runtime puts in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SocketIdentity {
    inode: u64,
    changed: (i64, i64),
}

impl Dialer {
    async fn dial(&self) -> io::Result<UnixStream> {
        let previous = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let socket = self.identity().await;
        if let Some(failure) = &previous
            && failure.holds_back(Instant::now(), socket)
        {
            return Err(io::Error::new(failure.kind, failure.text.clone()));
        }
        let dialled = match tokio::time::timeout(DIAL_TIMEOUT, UnixStream::connect(&self.path)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {DIAL_TIMEOUT:?}"))),
        };
        let failure = dialled.as_ref().err().map(|error| Failure {
            at: Instant::now(),
            delay: next_delay(previous.map(|f| f.delay)),
            socket,
            kind: error.kind(),
            text: error.to_string(),
        });
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        dialled
    }

    async fn identity(&self) -> Option<SocketIdentity> {
        let meta = tokio::fs::metadata(&self.path).await.ok()?;
        Some(SocketIdentity { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

impl Failure {
    /// Whether the next attempt must still wait. A socket that is another one than at the last failure is tried at once:
    /// a runtime that is back is not kept waiting.
    fn holds_back(&self, now: Instant, socket: Option<SocketIdentity>) -> bool {
        socket == self.socket && now.duration_since(self.at) < self.delay
    }
}

/// The wait after a failure, growing by gRPC's factor of 1.6.
fn next_delay(previous: Option<Duration>) -> Duration {
    previous.map_or(FIRST_DELAY, |delay| (delay * 8 / 5).min(LAST_DELAY))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock"))]
    #[case("/run/containerd/containerd.sock", Some("/run/containerd/containerd.sock"))]
    #[case("unix:/run/crio.sock", Some("/run/crio.sock"))]
    #[case("tcp://127.0.0.1:3735", None)]
    #[case("npipe:////./pipe/x", None)]
    #[case("", None)]
    #[case("unix://", None)]
    #[case("run/containerd.sock", None)]
    fn endpoints(#[case] endpoint: &str, #[case] path: Option<&str>) {
        match (socket_path(endpoint), path) {
            (Ok(found), Some(path)) => assert_eq!(found, PathBuf::from(path)),
            (Err(error), None) => assert!(error.to_string().starts_with(&format!("{endpoint:?}")), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn the_wait_grows_to_its_bound() {
        let mut delays = vec![next_delay(None)];
        for _ in 0..9 {
            delays.push(next_delay(delays.last().copied()));
        }
        assert_eq!(&delays[..3], [FIRST_DELAY, Duration::from_millis(160), Duration::from_millis(256)]);
        assert_eq!(delays[9], LAST_DELAY);
    }

    #[test]
    fn a_new_socket_ends_the_wait() {
        let old = SocketIdentity { inode: 7, changed: (1, 0) };
        let now = Instant::now();
        let failure = Failure {
            at: now,
            delay: LAST_DELAY,
            socket: Some(old),
            kind: io::ErrorKind::ConnectionRefused,
            text: "connection refused".to_owned(),
        };
        assert!(failure.holds_back(now, Some(old)));
        assert!(!failure.holds_back(now + LAST_DELAY, Some(old)));
        assert!(!failure.holds_back(now, Some(SocketIdentity { changed: (2, 0), ..old })));
        assert!(!failure.holds_back(now, None), "a socket that went away is a change too");
    }
}
