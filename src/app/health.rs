//! Whether the agent is well, and the port that tells.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::KubeletConfiguration;
use crate::kube::error::chain;
use crate::runtime::observer::Observer;
use crate::server::{HealthCheck, Server};

/// A relist that is older than this means that the agent no longer sees its pods.
const UNHEALTHY_RELIST: Duration = Duration::from_secs(180);
/// Until a port that could not be had is tried again, as in the peer.
const RETRY: Duration = Duration::from_secs(5);

/// Whether the agent still sees its pods; fine while it starts.
pub(super) fn sync_loop_check(observer: Observer) -> HealthCheck {
    std::sync::Arc::new(move || match observer.since_last_relist() {
        Some(age) if age > UNHEALTHY_RELIST => {
            Err(format!("the runtime's pods were last listed {} s ago", age.as_secs()))
        }
        _ => Ok(()),
    })
}

/// `healthzBindAddress` with `healthzPort`; none if the port is 0.
///
/// # Errors
/// When the address is none.
pub(super) fn address(configuration: &KubeletConfiguration) -> anyhow::Result<Option<SocketAddr>> {
    let Some(port) = u16::try_from(configuration.healthz_port).ok().filter(|port| *port > 0) else { return Ok(None) };
    let host = &configuration.healthz_bind_address;
    let ip: IpAddr = host.parse().with_context(|| format!("healthzBindAddress: {host:?} is no IP address"))?;
    Ok(Some(SocketAddr::new(ip, port)))
}

/// Serves the health check until cancelled. Pods do not wait for a port that someone else holds: it is tried again until it is
/// free.
pub(super) async fn serve(address: SocketAddr, check: HealthCheck, cancel: CancellationToken) {
    loop {
        match Server::health(address, check.clone()).await {
            Ok(server) => {
                info!(address = %server.address(), "serving health");
                return server.run(cancel).await;
            }
            Err(error) => {
                warn!(error = chain(&error), retry = ?RETRY, "the health check cannot be served; it is tried again");
            }
        }
        // Cancel-safe: a wait.
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_served_once_it_is_free() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(serve(address, Arc::new(|| Ok(())), cancel.clone()));
        let ended = tokio::time::timeout(Duration::from_millis(300), tasks.join_next()).await;
        assert!(ended.is_err(), "it goes on");
        drop(holder);
        let answers = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(RETRY * 4, answers).await.expect("an answer");
        cancel.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }

    #[test]
    fn an_address_is_one_or_the_field_is_named() {
        let mut configuration = KubeletConfiguration::default();
        assert_eq!(address(&configuration).unwrap(), Some("127.0.0.1:10248".parse().unwrap()));
        configuration.healthz_bind_address = "here".to_owned();
        assert!(address(&configuration).unwrap_err().to_string().contains("healthzBindAddress"));
        configuration.healthz_port = 0;
        assert_eq!(address(&configuration).unwrap(), None);
    }
}
