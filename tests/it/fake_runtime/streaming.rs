//! The runtime's streaming server: takes upgrades, or does not, and gives back what it is sent.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;

use super::Shared;
use super::transport::serve_all;

/// What the streaming server does with a request.
#[derive(Clone, Debug, Default)]
pub enum StreamAnswer {
    /// Takes the upgrade and sends back what comes, and `bye` after the client's end.
    #[default]
    Echo,
    /// Takes the upgrade and ends at once, after these bytes.
    Say(Vec<u8>),
    /// Answers this, whatever it is.
    Raw(String),
}

/// Serves on a loopback port until the runtime ends; where.
pub(super) async fn serve(shared: &Arc<Shared>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    let served = shared.clone();
    // A client that went away is all that can fail here.
    let answer = move |stream| {
        let shared = served.clone();
        async move { drop(answer(stream, &shared).await) }
    };
    serve_all(&shared.stop, &shared.tasks, TcpListenerStream::new(listener), answer);
    address
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let protocol = head.lines().find_map(|line| line.strip_prefix("upgrade: ")).unwrap_or("none").to_owned();
    let answer = {
        let mut model = shared.model();
        model.stream_requests.push(head);
        model.stream_answer.clone()
    };
    let upgraded = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\nSet-Cookie: a=b\r\n\r\n"
    );
    match answer {
        StreamAnswer::Raw(text) => stream.write_all(text.as_bytes()).await?,
        StreamAnswer::Say(bytes) => {
            // In one piece: what follows the head at once must not get lost.
            stream.write_all(&[upgraded.into_bytes(), bytes].concat()).await?;
        }
        StreamAnswer::Echo => {
            stream.write_all(upgraded.as_bytes()).await?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    break;
                }
                stream.write_all(&buffer[..count]).await?;
            }
            stream.write_all(b"bye").await?;
        }
    }
    stream.shutdown().await
}
