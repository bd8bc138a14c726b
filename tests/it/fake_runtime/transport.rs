//! The server and its connections, which break at once when it stops.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ferrolet::runtime::cri::image_service_server::ImageServiceServer;
use ferrolet::runtime::cri::runtime_service_server::RuntimeServiceServer;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::Shared;
use super::images::Images;
use super::runtime_service::Pods;

/// A server on the socket.
pub(super) struct Server {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    pub(super) fn start(socket: &Path, shared: &Arc<Shared>) -> Self {
        let listener = UnixListener::bind(socket).expect("the socket");
        let server = Server { stop: shared.stop.child_token(), tasks: TaskTracker::new() };
        let shared = shared.clone();
        let connections = UnixListenerStream::new(listener);
        serve_all(&server.stop, &server.tasks, connections, move |stream| serve(stream, shared.clone()));
        server
    }

    /// Ends the server and its connections; answers that are under way are lost.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serves connections, each in a task of its own, until the token or the listener ends.
pub(super) fn serve_all<C, F>(
    stop: &CancellationToken,
    tasks: &TaskTracker,
    mut connections: impl Stream<Item = io::Result<C>> + Send + Unpin + 'static,
    serve: impl Fn(C) -> F + Send + 'static,
) where
    C: Send,
    F: Future<Output = ()> + Send + 'static,
{
    let (stop, connection_tasks) = (stop.clone(), tasks.clone());
    tasks.spawn(async move {
        // Cancel-safe: a connection is taken as a whole or stays with the listener.
        while let Some(Some(Ok(connection))) = stop.run_until_cancelled(connections.next()).await {
            let (stop, serving) = (stop.clone(), serve(connection));
            connection_tasks.spawn(async move { stop.run_until_cancelled(serving).await });
        }
    });
}

async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let pods = RuntimeServiceServer::new(Pods(shared.clone()));
    let images = ImageServiceServer::new(Images(shared));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (mut pods, mut images) = (pods.clone(), images.clone());
        async move {
            if request.uri().path().starts_with("/runtime.v1.ImageService/") {
                images.call(request).await
            } else {
                pods.call(request).await
            }
        }
    });
    // A connection that the client ended is all that can fail here.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
