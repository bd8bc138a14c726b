//! Rotation of containers' logs (`containerLogMaxSize`, `containerLogMaxFiles`): the runtime writes, and is told to begin a new
//! file when the old one was moved aside.
//!
//! What becomes of the files beside a log is decided in [`plan`]; this module looks, removes, compresses and renames, beneath the
//! node's directory of logs alone and following no link in it.

mod plan;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::client::RuntimeClient;
use super::cri;
use crate::model::clock;
use crate::sys::beneath::Dir;
use crate::sys::local_time;

/// How logs are rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationSettings {
    /// `podLogsDir`.
    pub root: PathBuf,
    /// `containerLogMaxSize`, bytes: a log that has grown so large is rotated.
    pub max_size: u64,
    /// `containerLogMaxFiles`: files that a log may have, itself included; at least 2.
    pub max_files: usize,
    /// `containerLogMaxWorkers`: logs that are rotated at the same time.
    pub workers: usize,
    /// `containerLogMonitorInterval`: the time between two looks.
    pub interval: Duration,
}

/// Rotates the logs of the containers that run.
pub struct LogRotator {
    runtime: RuntimeClient,
    settings: RotationSettings,
    /// Where the log of each container is, which does not change.
    paths: HashMap<String, PathBuf>,
}

/// The log of a container that runs.
#[derive(Clone, Debug)]
struct Log {
    container_id: String,
    path: PathBuf,
}

/// What a log needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It is too large.
    Rotation,
    /// It is not there: the runtime must make it.
    File,
}

impl LogRotator {
    /// A rotator of that runtime's logs.
    pub fn new(runtime: RuntimeClient, settings: RotationSettings) -> Self {
        LogRotator { runtime, settings, paths: HashMap::new() }
    }

    /// Looks until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            // Cancel-safe: a rotation that is cut off is finished, or undone, by the next one.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.round() => {}
            }
            // Cancel-safe: a wait.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.settings.interval) => {}
            }
        }
    }

    /// Looks at every log once, and rotates those that are too large.
    pub async fn round(&mut self) {
        let logs = self.logs().await;
        let (root, max_size) = (self.settings.root.clone(), self.settings.max_size);
        let looked = tokio::task::spawn_blocking(move || needs(&root, logs, max_size)).await;
        let this = &*self;
        futures::stream::iter(looked.unwrap_or_default())
            .for_each_concurrent(self.settings.workers.max(1), async |(log, need)| this.meet(log, need).await)
            .await;
    }

    /// The logs of the containers that run. What cannot be asked for is looked at in the next round.
    async fn logs(&mut self) -> Vec<Log> {
        let state = cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() };
        let filter = cri::ContainerFilter { state: Some(state), ..Default::default() };
        let listed = match self.runtime.list_containers(Some(filter)).await {
            Ok(listed) => listed,
            Err(error) => {
                debug!(%error, "logs are not looked at: the runtime does not list its containers");
                return Vec::new();
            }
        };
        let mut paths = HashMap::new();
        for container in listed {
            let path = match self.paths.remove(&container.id) {
                Some(path) => path,
                None => match self.runtime.container_status(&container.id).await {
                    Ok(status) => PathBuf::from(status.log_path),
                    Err(_) => continue,
                },
            };
            paths.insert(container.id, path);
        }
        self.paths = paths;
        let log = |(id, path): (&String, &PathBuf)| Log { container_id: id.clone(), path: path.clone() };
        self.paths.iter().map(log).collect()
    }

    async fn meet(&self, log: Log, need: Need) {
        let Log { container_id, path } = log;
        let met = match need {
            Need::File => self.runtime.reopen_container_log(&container_id).await.map_err(|error| error.to_string()),
            Need::Rotation => self.rotate(&container_id, &path).await,
        };
        if let Err(error) = met {
            warn!(container = container_id, log = %path.display(), error, "a log could not be rotated; it is tried again");
        }
    }

    async fn rotate(&self, container_id: &str, path: &Path) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let place = Place::find(&self.settings.root, path).map_err(|error| text(&error))?;
        let max_files = self.settings.max_files;
        let moved = tokio::task::spawn_blocking(move || {
            place.make_room(max_files)?;
            let now = clock::now();
            let rotated = plan::rotated_name(&place.name, now, local_time::utc_offset(now.as_second()));
            place.directory.rename(&place.name, &rotated)?;
            Ok::<_, io::Error>((place, rotated))
        });
        let (place, rotated) = moved.await.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
        let Err(error) = self.runtime.reopen_container_log(container_id).await else { return Ok(()) };
        // So that the next round finds it as it was, and the runtime, which still writes to it, is not left without a log.
        match place.directory.rename(&rotated, &place.name) {
            Ok(()) => Err(error.to_string()),
            Err(rename) => Err(format!("{error}; the log stays at {rotated}: {rename}")),
        }
    }
}

/// What each log needs; those that need nothing or cannot be looked at are left out. Blocks.
fn needs(root: &Path, logs: Vec<Log>, max_size: u64) -> Vec<(Log, Need)> {
    let need = |log: &Log| match Place::find(root, &log.path).and_then(|place| place.open()) {
        Ok(file) => file.metadata().is_ok_and(|metadata| metadata.len() >= max_size).then_some(Need::Rotation),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Need::File),
        Err(error) => {
            debug!(log = %log.path.display(), %error, "a log cannot be looked at");
            None
        }
    };
    logs.into_iter().filter_map(|log| need(&log).map(|need| (log, need))).collect()
}

/// A log in its directory.
struct Place {
    directory: Dir,
    name: String,
}

impl Place {
    fn find(root: &Path, path: &Path) -> io::Result<Self> {
        let outside = || io::Error::from(Errno::XDEV);
        let below = path.strip_prefix(root).map_err(|_| outside())?;
        let name = below.file_name().and_then(|name| name.to_str()).ok_or_else(outside)?;
        let directory = Dir::open(root)?.descend(below.parent().unwrap_or(Path::new("")))?;
        Ok(Place { directory, name: name.to_owned() })
    }

    fn open(&self) -> io::Result<File> {
        self.directory.read_file(Path::new(&self.name))
    }

    /// Removes and compresses what earlier rotations left.
    fn make_room(&self, max_files: usize) -> io::Result<()> {
        let entries = self.directory.entries()?;
        let names: Vec<String> = entries.into_iter().filter_map(|entry| entry.name.into_string().ok()).collect();
        let planned = plan::plan(&self.name, &names, max_files);
        planned.remove.iter().try_for_each(|name| self.directory.remove_file(name))?;
        planned.compress.iter().try_for_each(|name| self.compress(name))
    }

    fn compress(&self, name: &str) -> io::Result<()> {
        let mut log = self.directory.read_file(Path::new(name))?;
        let unfinished = format!("{name}{}", plan::UNFINISHED);
        let file = self.directory.new_file(&unfinished, log.metadata()?.mode())?;
        let mut encoder = GzEncoder::new(file, Compression::default());
        io::copy(&mut log, &mut encoder)?;
        encoder.finish()?;
        self.directory.rename(&unfinished, format!("{name}{}", plan::COMPRESSED))?;
        self.directory.remove_file(name)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn room_is_made_and_nothing_of_a_log_is_lost_that_may_stay() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("ns_p_uid/c");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in [("0.log", "now"), ("0.log.2", "two"), ("0.log.1", "one"), ("0.log.3.tmp", "half")] {
            std::fs::write(folder.join(name), content).unwrap();
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o640)).unwrap();
        }
        let place = Place::find(root.path(), &folder.join("0.log")).unwrap();
        place.make_room(3).unwrap();
        assert_eq!(names(&folder), ["0.log", "0.log.2.gz"]);
        let compressed = File::open(folder.join("0.log.2.gz")).unwrap();
        assert_eq!(compressed.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let mut text = String::new();
        flate2::read::GzDecoder::new(compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "two");
    }

    #[test]
    fn logs_are_looked_at_beneath_the_directory_of_logs_alone() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("pods");
        std::fs::create_dir_all(root.join("p/c")).unwrap();
        std::fs::write(root.join("p/c/0.log"), "0123456789").unwrap();
        std::fs::write(top.path().join("large"), "0123456789").unwrap();
        symlink("../../../large", root.join("p/c/link.log")).unwrap();
        symlink(top.path(), root.join("p/up")).unwrap();
        let needed = |path: PathBuf, max_size| {
            let log = Log { container_id: "id".into(), path };
            needs(&root, vec![log], max_size).first().map(|(_, need)| *need)
        };
        assert_eq!(needed(root.join("p/c/0.log"), 10), Some(Need::Rotation));
        assert_eq!(needed(root.join("p/c/0.log"), 11), None);
        assert_eq!(needed(root.join("p/c/1.log"), 10), Some(Need::File));
        for path in ["p/c/link.log", "p/up/large", "p/../../large"] {
            assert_eq!(needed(root.join(path), 10), None, "{path}");
        }
        assert_eq!(needed(top.path().join("large"), 10), None);
    }
}
