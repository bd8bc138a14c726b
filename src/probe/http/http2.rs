//! HTTP/2 on a connection of its own. What the client spawns for it runs inside the connection's future and ends with it.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use http_body_util::Empty;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Hands over what is to be run to the connection's future. A connection spawns a few tasks for each of its requests, and it
/// makes one request.
#[derive(Clone)]
struct Inside(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl<F> hyper::rt::Executor<F> for Inside
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Nobody takes it any more once the connection is given up.
        let _ = self.0.send(Box::pin(task));
    }
}

/// Begins to speak HTTP/2. The future must be driven for requests to be answered.
pub(super) async fn handshake<S>(stream: S) -> hyper::Result<(SendRequest<Empty<Bytes>>, BoxFuture<'static, ()>)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (inside, spawned) = mpsc::unbounded_channel();
    let (sender, connection) = Builder::new(Inside(inside)).handshake(TokioIo::new(stream)).await?;
    Ok((sender, Box::pin(drive(Box::pin(connection.map(drop)), spawned))))
}

async fn drive(connection: BoxFuture<'static, ()>, mut spawned: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    let mut running = FuturesUnordered::from_iter([connection]);
    loop {
        // Cancel-safe: a stream and a channel lose nothing when the other arm wins.
        tokio::select! {
            Some(()) = running.next() => {}
            Some(task) = spawned.recv() => running.push(task),
            else => return,
        }
    }
}
