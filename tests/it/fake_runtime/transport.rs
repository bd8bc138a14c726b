//! The server and its connections, which break at once when it stops.

use std::path::Path;
use std::sync::Arc;

use ferrolet::runtime::cri::image_service_server::ImageServiceServer;
use ferrolet::runtime::cri::runtime_service_server::RuntimeServiceServer;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
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
        let (stop, tasks, shared) = (server.stop.clone(), server.tasks.clone(), shared.clone());
        server.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        let (stop, shared) = (stop.clone(), shared.clone());
                        tasks.spawn(async move {
                            tokio::select! {
                                () = stop.cancelled() => {}
                                () = serve(stream, shared) => {}
                            }
                        });
                    }
                }
            }
        });
        server
    }

    /// Ends the server and its connections; answers that are under way are lost.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
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
