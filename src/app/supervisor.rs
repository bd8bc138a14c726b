//! The systemd unit that runs the agent: it hears when the agent is up, when it ends, and, if it has a watchdog, that the
//! agent is well (KEP 2403's health checks; the peer's `pkg/kubelet/watchdog`).

use std::ffi::OsString;
use std::time::Duration;

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::server::HealthCheck;
use crate::sys::notify::{self, Notifier};

/// A watchdog that bites sooner is refused.
const SHORTEST: Duration = Duration::from_secs(1);
/// A word that did not get through is told again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The supervisor, which may not be there at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Supervisor {
    notifier: Notifier,
    /// How often it wants to hear that the agent is well.
    interval: Option<Duration>,
}

impl Supervisor {
    /// By the environment, which is what `variable` looks up.
    ///
    /// # Errors
    /// When the watchdog's interval is no number or one second or less.
    pub(super) fn find(variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        let own = std::process::id();
        let watchdog =
            notify::watchdog(&variable, own).map_err(|fault| anyhow::anyhow!("configure watchdog: {fault}"))?;
        if let Some(interval) = watchdog.filter(|interval| *interval <= SHORTEST) {
            bail!("configure watchdog timeout too small: {interval:?}");
        }
        // Twice in the time that is given.
        let interval = watchdog.map(|interval| interval / 2);
        Ok(Supervisor { notifier: Notifier::from_environment(variable), interval })
    }

    /// Tells that the agent is up.
    pub(super) fn ready(&self) {
        self.tell(notify::READY);
    }

    /// Tells that the agent ends.
    pub(super) fn stopping(&self) {
        self.tell(notify::STOPPING);
    }

    fn tell(&self, state: &str) {
        if let Err(error) = self.notifier.tell(state) {
            warn!(state, %error, "the supervisor does not hear");
        }
    }

    /// Whether it has a watchdog.
    pub(super) fn is_watching(&self) -> bool {
        self.interval.is_some()
    }

    /// Tells that the agent is well, as long as it is. Ends at once without a watchdog.
    pub(super) async fn keep_alive(self, health: HealthCheck, cancel: CancellationToken) {
        let Some(interval) = self.interval else { return };
        info!(?interval, "the supervisor's watchdog is on");
        loop {
            let told = match health() {
                Ok(()) => self.notifier.tell(notify::WATCHDOG),
                Err(problem) => {
                    error!(problem, "the watchdog is not told: the agent is not well");
                    Ok(())
                }
            };
            let pause = match told {
                Ok(()) => interval,
                Err(error) => {
                    debug!(%error, "the watchdog does not hear");
                    RETRY.min(interval)
                }
            };
            // Cancel-safe: nothing is held across the wait.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn find(usec: Option<&str>) -> anyhow::Result<Supervisor> {
        Supervisor::find(|name| usec.filter(|_| name == "WATCHDOG_USEC").map(OsString::from))
    }

    #[test]
    fn intervals_are_halved_and_short_ones_refused() {
        assert_eq!(find(None).unwrap().interval, None);
        assert_eq!(find(Some("30000000")).unwrap().interval, Some(Duration::from_secs(15)));
        assert_eq!(find(Some("1000000")).unwrap_err().to_string(), "configure watchdog timeout too small: 1s");
        assert!(find(Some("x")).unwrap_err().to_string().starts_with("configure watchdog: "));
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_told_every_half_interval_while_all_is_well() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let heard = || {
            let mut count = 0;
            let mut buffer = [0; 64];
            while let Ok(length) = listener.recv(&mut buffer) {
                assert_eq!(&buffer[..length], b"WATCHDOG=1");
                count += 1;
            }
            count
        };
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into_os_string()),
            "WATCHDOG_USEC" => Some("30000000".into()),
            _ => None,
        };
        let supervisor = Supervisor::find(variable).unwrap();
        assert!(supervisor.is_watching());
        let well = Arc::new(AtomicBool::new(true));
        let health: HealthCheck = {
            let well = well.clone();
            Arc::new(move || if well.load(Ordering::SeqCst) { Ok(()) } else { Err("stuck".into()) })
        };
        let cancel = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(supervisor.keep_alive(health, cancel.clone()));
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(heard(), 5);
        well.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(heard(), 0);
        well.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(heard(), 1);
        cancel.cancel();
        tasks.join_next().await.unwrap().unwrap();
        assert!(std::fs::remove_file(&path).is_ok());
    }
}
