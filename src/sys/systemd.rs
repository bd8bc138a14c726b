//! systemd's manager over the system bus: slices made, changed and stopped as transient units
//! (org.freedesktop.systemd1(5)).

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tracing::debug;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{Connection, Proxy};

/// How long systemd may take for one job, as libcontainer waits.
const LIMIT: Duration = Duration::from_secs(30);
const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// Jobs take the place of those that they contradict.
const MODE: &str = "replace";

/// A property of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Its name in systemd's D-Bus interface.
    pub name: &'static str,
    /// Its value.
    pub value: PropertyValue,
}

impl Property {
    /// A property of that value.
    pub fn new(name: &'static str, value: impl Into<PropertyValue>) -> Self {
        Property { name, value: value.into() }
    }
}

/// The kinds of values that slices need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyValue {
    /// D-Bus type `b`.
    Flag(bool),
    /// D-Bus type `t`; `u64::MAX` is infinity.
    Number(u64),
    /// D-Bus type `s`.
    Text(String),
    /// D-Bus type `as`.
    Texts(Vec<String>),
}

impl From<bool> for PropertyValue {
    fn from(flag: bool) -> Self {
        PropertyValue::Flag(flag)
    }
}

impl From<u64> for PropertyValue {
    fn from(number: u64) -> Self {
        PropertyValue::Number(number)
    }
}

impl From<String> for PropertyValue {
    fn from(text: String) -> Self {
        PropertyValue::Text(text)
    }
}

impl From<Vec<String>> for PropertyValue {
    fn from(texts: Vec<String>) -> Self {
        PropertyValue::Texts(texts)
    }
}

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The host was not booted with systemd.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NotRunning,
    /// The bus or the call on it failed.
    #[error("asking systemd over D-Bus: {0}")]
    Bus(Box<zbus::Error>),
    /// There is no runtime to make the call on.
    #[error("asking systemd over D-Bus: {0}")]
    NoRuntime(#[from] tokio::runtime::TryCurrentError),
    /// A job ended otherwise than done.
    #[error("systemd unit {unit}: the job ended as {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// systemd's word for the end.
        result: String,
    },
    /// A job or an answer did not come.
    #[error("systemd unit {unit}: no answer within {} s", LIMIT.as_secs())]
    TimedOut {
        /// The unit.
        unit: String,
    },
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        SystemdError::Bus(Box::new(error))
    }
}

/// What is asked of systemd. Every call blocks until systemd has done it.
pub trait Units: Send + Sync {
    /// systemd's version, like 252.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    fn version(&self) -> Result<u32, SystemdError>;
    /// Starts a transient unit; fine if one of that name is there.
    ///
    /// # Errors
    /// When it was refused or did not start.
    fn start(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError>;
    /// Changes properties of a unit until the next boot.
    ///
    /// # Errors
    /// When there is no such unit or a value is refused.
    fn set(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError>;
    /// Stops a unit with all that is in it and makes systemd forget it; fine if there is none.
    ///
    /// # Errors
    /// When it did not stop.
    fn stop(&self, unit: &str) -> Result<(), SystemdError>;
}

/// The host's systemd. Connects when it is first asked, and again after the bus was away. To be used on the blocking
/// threads of a tokio runtime.
pub struct HostUnits {
    booted: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    version: Option<u32>,
}

impl Default for HostUnits {
    fn default() -> Self {
        HostUnits { booted: "/run/systemd/system".into(), state: Mutex::default() }
    }
}

impl HostUnits {
    /// Asks systemd, a second time on a new connection if the first one turns out to be broken.
    fn ask<T>(
        &self,
        unit: &str,
        question: impl AsyncFn(&Proxy<'_>) -> Result<T, SystemdError>,
    ) -> Result<T, SystemdError> {
        // sd_booted(3) looks at the same place.
        if !self.booted.is_dir() {
            return Err(SystemdError::NotRunning);
        }
        Handle::try_current()?.block_on(async {
            let attempt = async {
                match question(&self.manager().await?).await {
                    Err(SystemdError::Bus(error)) if is_broken(&error) => {
                        debug!(%error, "connecting to the system bus again");
                        self.state.lock().await.connection = None;
                        question(&self.manager().await?).await
                    }
                    answer => answer,
                }
            };
            let late = |_| SystemdError::TimedOut { unit: unit.to_owned() };
            tokio::time::timeout(LIMIT, attempt).await.map_err(late)?
        })
    }

    async fn manager(&self) -> Result<Proxy<'static>, SystemdError> {
        let mut state = self.state.lock().await;
        let known = state.connection.clone();
        let connection = match known {
            Some(connection) => connection,
            None => {
                let connection = Connection::system().await?;
                // Without a subscriber systemd tells nobody of the end of jobs.
                proxy(&connection).await?.call_method("Subscribe", &()).await?;
                state.connection.insert(connection).clone()
            }
        };
        Ok(proxy(&connection).await?)
    }
}

async fn proxy(connection: &Connection) -> zbus::Result<Proxy<'static>> {
    zbus::proxy::Builder::new(connection)
        .destination(SERVICE)?
        .path(OBJECT)?
        .interface(MANAGER)?
        .cache_properties(CacheProperties::No)
        .build()
        .await
}

/// Whether the connection is to blame and not the question.
fn is_broken(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_))
}

/// Whether systemd answered with that error of its own.
fn answered(error: &SystemdError, name: &str) -> bool {
    let SystemdError::Bus(error) = error else { return false };
    matches!(&**error, zbus::Error::MethodError(told, ..)
        if told.as_str().strip_prefix(SERVICE).and_then(|rest| rest.strip_prefix('.')) == Some(name))
}

/// Calls a method that begins a job, and waits for the job's end. Returns systemd's word for it.
async fn job<B>(manager: &Proxy<'_>, method: &str, body: &B) -> Result<String, SystemdError>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    // Listening begins before the job does.
    let mut removed = manager.receive_signal("JobRemoved").await?;
    let started: OwnedObjectPath = manager.call(method, body).await?;
    while let Some(signal) = removed.next().await {
        let (_, job, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize()?;
        if job == started {
            return Ok(result);
        }
    }
    Err(zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::ConnectionReset.into())).into())
}

fn on_the_bus(properties: &[Property]) -> Vec<(&'static str, Value<'_>)> {
    let of = |value| match value {
        &PropertyValue::Flag(flag) => Value::from(flag),
        &PropertyValue::Number(number) => Value::from(number),
        PropertyValue::Text(text) => Value::from(text.as_str()),
        PropertyValue::Texts(texts) => Value::from(texts.clone()),
    };
    properties.iter().map(|property| (property.name, of(&property.value))).collect()
}

impl Units for HostUnits {
    fn version(&self) -> Result<u32, SystemdError> {
        self.ask("", async |manager: &Proxy<'_>| {
            if let Some(version) = self.state.lock().await.version {
                return Ok(version);
            }
            let text: String = manager.get_property("Version").await?;
            let version = parse_version(&text);
            self.state.lock().await.version = Some(version);
            Ok(version)
        })
    }

    fn start(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        self.ask(unit, async |manager: &Proxy<'_>| {
            let others: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
            match job(manager, "StartTransientUnit", &(unit, MODE, on_the_bus(properties), others)).await {
                Ok(result) if result == "done" => Ok(()),
                Ok(result) => {
                    reset_failed(manager, unit).await;
                    Err(SystemdError::Job { unit: unit.to_owned(), result })
                }
                Err(error) if answered(&error, "UnitExists") => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn set(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        self.ask(unit, async |manager: &Proxy<'_>| {
            let until_boot = true;
            Ok(manager.call("SetUnitProperties", &(unit, until_boot, on_the_bus(properties))).await?)
        })
    }

    fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        self.ask(unit, async |manager: &Proxy<'_>| {
            let stopped = match job(manager, "StopUnit", &(unit, MODE)).await {
                Ok(result) if result == "done" => Ok(()),
                Ok(result) => Err(SystemdError::Job { unit: unit.to_owned(), result }),
                Err(error) if answered(&error, "NoSuchUnit") => return Ok(()),
                Err(error) => Err(error),
            };
            reset_failed(manager, unit).await;
            stopped
        })
    }
}

/// A unit that failed stays until it is told that this was seen.
async fn reset_failed(manager: &Proxy<'_>, unit: &str) {
    if let Err(error) = manager.call::<_, _, ()>("ResetFailedUnit", &(unit,)).await {
        debug!(unit, %error, "systemd has no failed unit to forget");
    }
}

/// The number in what systemd calls its version (`252.39-1~deb12u1`, `v245`); 0 if there is none.
fn parse_version(text: &str) -> u32 {
    let digits = text.trim_start_matches(['"', 'v']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_spell_them() {
        for (text, version) in
            [("252.39-1~deb12u1", 252), ("v245", 245), ("239", 239), ("\"v245.4-1.fc32\"", 245), ("", 0)]
        {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }

    #[tokio::test]
    async fn without_systemd_nothing_is_asked_and_the_reason_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let units = HostUnits { booted: directory.path().join("none"), ..HostUnits::default() };
        let error = tokio::task::spawn_blocking(move || units.stop("a.slice")).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "systemd not running on this host, cannot use systemd cgroups manager");
    }
}
