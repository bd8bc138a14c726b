//! What a service tells the systemd that started it (sd_notify(3)): that it is up, that it ends, that it lives.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Up: units that wait for this one may start.
pub const READY: &str = "READY=1";
/// Ending.
pub const STOPPING: &str = "STOPPING=1";
/// Alive.
pub const WATCHDOG: &str = "WATCHDOG=1";

/// Where systemd listens, if it does.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    socket: Option<OsString>,
}

impl Notifier {
    /// By `NOTIFY_SOCKET` of the environment, which is what `variable` looks up.
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        Notifier { socket: variable("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) }
    }

    /// Tells a state. Does nothing if nobody listens.
    ///
    /// # Errors
    /// When the socket does not take it.
    pub fn tell(&self, state: &str) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(socket)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
    }
}

/// The interval within which systemd wants to hear of this process (`WATCHDOG_USEC`, `WATCHDOG_PID`); none if it does not.
///
/// # Errors
/// The text of the fault when the interval is no positive number.
pub fn watchdog(variable: impl Fn(&str) -> Option<OsString>, own_pid: u32) -> Result<Option<Duration>, String> {
    let text = |name| variable(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    let Some(interval) = text("WATCHDOG_USEC") else { return Ok(None) };
    let micros: u64 = interval.parse().map_err(|_| format!("error converting WATCHDOG_USEC: {interval:?}"))?;
    if micros == 0 {
        return Err("error WATCHDOG_USEC must be a positive number".to_owned());
    }
    let other = match text("WATCHDOG_PID") {
        Some(pid) => pid.parse::<u32>().map_err(|_| format!("error converting WATCHDOG_PID: {pid:?}"))? != own_pid,
        None => false,
    };
    Ok((!other).then(|| Duration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, None, Ok(None))]
    #[case(Some("30000000"), None, Ok(Some(30)))]
    #[case(Some("30000000"), Some("7"), Ok(Some(30)))]
    #[case(Some("30000000"), Some("8"), Ok(None))]
    #[case(Some("0"), None, Err("error WATCHDOG_USEC must be a positive number"))]
    #[case(Some("soon"), None, Err("error converting WATCHDOG_USEC: \"soon\""))]
    #[case(Some("1"), Some("x"), Err("error converting WATCHDOG_PID: \"x\""))]
    fn watchdogs(#[case] usec: Option<&str>, #[case] pid: Option<&str>, #[case] expected: Result<Option<u64>, &str>) {
        let variable = |name: &str| if name == "WATCHDOG_USEC" { usec } else { pid }.map(OsString::from);
        let expected = expected.map(|seconds| seconds.map(Duration::from_secs)).map_err(str::to_owned);
        assert_eq!(watchdog(variable, 7), expected);
    }

    #[test]
    fn states_reach_the_socket_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("ferrolet-notify-{}", std::process::id());
        let listeners = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                OsString::from(format!("@{name}")),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ];
        for (variable, listener) in listeners {
            let notifier = Notifier::from_environment(|name| (name == "NOTIFY_SOCKET").then(|| variable.clone()));
            notifier.tell(READY).unwrap();
            let mut buffer = [0; 64];
            let length = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(Notifier::default().tell(READY).is_ok());
        let gone = Notifier { socket: Some(directory.path().join("gone").into_os_string()) };
        assert!(gone.tell(READY).is_err());
    }
}
