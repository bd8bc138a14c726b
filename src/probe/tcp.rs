//! TCP connections to containers, and failures to connect in the peer's words.
//!
//! Sockets linger as the kernel does by default: SO_LINGER does not shorten TIME-WAIT, and with it closing a connection to
//! a pod that is gone blocks a thread.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::net::TcpStream;

use super::attempt::Attempt;
use crate::sys::bulkhead::Bulkhead;

/// Names that are looked up at once. A resolver without an answer holds its thread longer than a probe waits.
pub const BLOCKING_PLACES: usize = 4;
static LOOKUPS: LazyLock<Bulkhead> =
    LazyLock::new(|| Bulkhead::new("lookups of host names", BLOCKING_PLACES, Duration::from_secs(30)));

/// Connects and hangs up.
pub(super) async fn probe(host: &str, port: u16, timeout: Duration) -> Attempt {
    match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(Ok(_)) => Attempt::Success,
        Ok(Err(message)) => Attempt::Failure(message),
        Err(_) => Attempt::Failure(format!("dial tcp {}: i/o timeout", authority(host, port))),
    }
}

/// Connects; the error is worded as clients of the peer know it.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            let name = host.to_owned();
            let found = LOOKUPS.run(move || (name, port).to_socket_addrs()).await;
            found.map_err(|error| error.to_string())?.map(Iterator::collect).unwrap_or_default()
        }
    };
    let mut first = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                first.get_or_insert_with(|| format!("dial tcp {address}: connect: {}", system_error(&error)));
            }
        }
    }
    Err(first.unwrap_or_else(|| format!("dial tcp: lookup {host}: no such host")))
}

/// Host and port as in a URL.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A system's error as Go words it: in small letters, without the number.
pub(super) fn system_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_port_that_listens_is_a_success() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(probe("127.0.0.1", port, TIMEOUT).await, Attempt::Success);
        assert_eq!(probe("localhost", port, TIMEOUT).await, Attempt::Success);
    }

    #[tokio::test]
    async fn a_port_on_which_nobody_listens_is_a_failure() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(probe("127.0.0.1", port, TIMEOUT).await, Attempt::Failure(expected));
        let unknown = probe("no-such-host.invalid", 80, TIMEOUT).await;
        assert_eq!(unknown, Attempt::Failure("dial tcp: lookup no-such-host.invalid: no such host".into()));
    }

    #[test]
    fn an_address_of_the_sixth_version_is_bracketed() {
        assert_eq!(authority("fd00::1", 80), "[fd00::1]:80");
        assert_eq!(authority("10.0.0.1", 80), "10.0.0.1:80");
    }
}
