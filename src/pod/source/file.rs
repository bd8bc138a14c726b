//! Static pods from manifests of this node (`staticPodPath`): a file, or the files of a folder whose names begin with no dot.
//!
//! The folder is watched. What is still being written is left until its writer has closed it; what cannot be read, or is no
//! pod, is told of once, and the pod that the file held before goes on. A file that was removed and put back is another one: its
//! pod ends and starts anew. A slow look (`fileCheckFrequency`) finds what the watch cannot see, such as a changed target of a
//! link, and is all there is where nothing can be watched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::manifest::{self, Location};
use super::{Known, MAX_MANIFEST, StaticPods, StaticPodsReceiver};
use crate::model::clock;
use crate::model::pod::PodKey;
use crate::sys::file_stamp::FileStamp;

/// How long a file that was written to must be left alone, unless its writer closes it before.
const SETTLE: Duration = Duration::from_millis(500);
/// The longest that a file is waited for which is written to all the time.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// How long a file that was removed is known as gone, whatever takes its place: its pod's end is seen before what follows.
const GONE_FOR: Duration = Duration::from_millis(100);
/// How soon a path that is not there, or that cannot be watched, is looked for again.
const WATCH_RETRY: Duration = Duration::from_secs(1);

const WATCHED: WatchMask = WatchMask::CREATE
    .union(WatchMask::MODIFY)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF);

/// What was found of one file.
#[derive(Debug)]
enum Found {
    /// As before.
    Unchanged,
    /// Its text.
    Text(FileStamp, Vec<u8>),
    /// It is of no use.
    Failed(Option<FileStamp>, String),
}

/// What was found of the path.
#[derive(Debug)]
enum Scan {
    Missing,
    Files(BTreeMap<PathBuf, Found>),
}

/// What is known of one file.
#[derive(Default)]
struct KnownFile {
    stamp: Option<FileStamp>,
    /// The last pod that it held.
    pod: Option<Pod>,
    /// What was last told to be wrong with it.
    fault: Option<String>,
}

/// The source, to be run as a task.
pub struct FileSource {
    path: PathBuf,
    node_name: String,
    period: Duration,
    sender: watch::Sender<Option<StaticPods>>,
    files: BTreeMap<PathBuf, KnownFile>,
    known: Known,
    warned: HashSet<String>,
    /// What was last told to be wrong with the path itself.
    fault: Option<String>,
}

/// Files that are being written to or were removed, by name.
type Settling = HashMap<OsString, Unsettled>;

/// A file that is not to be read yet.
struct Unsettled {
    since: Instant,
    /// It is read then, also if nobody closes it.
    until: Instant,
    /// It is not read before, also if it is closed.
    earliest: Instant,
}

impl FileSource {
    /// A source that reads `path` (`staticPodPath`) for the node of that name, and again every `period`
    /// (`fileCheckFrequency`), and where its pods are to be had.
    pub fn new(path: &Path, node_name: &str, period: Duration) -> (Self, StaticPodsReceiver) {
        let (sender, receiver) = watch::channel(None);
        let source = FileSource {
            path: path.components().collect(),
            node_name: node_name.to_owned(),
            period: if period.is_zero() { Duration::from_secs(20) } else { period },
            sender,
            files: BTreeMap::new(),
            known: Known::default(),
            warned: HashSet::new(),
            fault: None,
        };
        (source, receiver)
    }

    /// Reads and watches until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        info!(path = %self.path.display(), "reading static pods");
        let mut watcher: Option<Watcher> = None;
        let (mut settling, mut dirty) = (Settling::new(), HashSet::new());
        let mut look_at = Instant::now();
        loop {
            if look_at <= Instant::now() {
                if watcher.is_none() {
                    watcher = self.watch();
                }
                settling.retain(|_, file| file.until > Instant::now());
                let (waiting, changed): (HashSet<_>, _) = dirty.drain().partition(|name| settling.contains_key(name));
                dirty = waiting;
                let is_there = self.look(&settling, changed).await;
                look_at = Instant::now()
                    + if is_there && watcher.is_some() { self.period } else { WATCH_RETRY.min(self.period) };
            }
            let settled = settling.values().map(|file| file.until).min();
            let next = settled.map_or(look_at, |settled| settled.min(look_at));
            // Cancel-safe: the stream keeps what it has not given.
            let change = tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(next) => {
                    look_at = next;
                    continue;
                }
                change = Watcher::next(&mut watcher) => change,
            };
            match change {
                Change::Writing(name) => {
                    let now = Instant::now();
                    let unsettled = Unsettled { since: now, until: now, earliest: now };
                    let file = settling.entry(name.clone()).or_insert(unsettled);
                    file.until = (now + SETTLE).min(file.since + SETTLE_MAX);
                    dirty.insert(name);
                }
                Change::Done(name) => {
                    let now = Instant::now();
                    match settling.get_mut(&name).filter(|file| file.earliest > now) {
                        Some(file) => file.until = file.earliest,
                        None => {
                            settling.remove(&name);
                            look_at = now;
                        }
                    }
                    dirty.insert(name);
                }
                Change::Gone(name) => {
                    let now = Instant::now();
                    let until = now + GONE_FOR;
                    self.forget(&name);
                    settling.insert(name.clone(), Unsettled { since: now, until, earliest: until });
                    dirty.insert(name);
                }
                Change::Lost => {
                    watcher = None;
                    look_at = Instant::now();
                }
                Change::Other => {}
            }
        }
    }

    fn watch(&mut self) -> Option<Watcher> {
        match Watcher::of(&self.path) {
            Ok(watcher) => Some(watcher),
            // That it is not there is told by the look that follows.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.tell(Some(format!("it cannot be watched: {error}")));
                None
            }
        }
    }

    /// Reads what is new and tells of it. Returns whether the path is there.
    async fn look(&mut self, settling: &Settling, dirty: HashSet<OsString>) -> bool {
        let path = self.path.clone();
        let known: HashMap<PathBuf, Option<FileStamp>> =
            self.files.iter().map(|(path, file)| (path.clone(), file.stamp)).collect();
        let left: HashSet<OsString> = settling.keys().cloned().collect();
        let scan = tokio::task::spawn_blocking(move || scan(&path, &known, &left, &dirty)).await;
        let scan = scan.unwrap_or_else(|failed| Err(io::Error::other(failed)));
        match scan {
            Ok(scan) => {
                let is_there = !matches!(scan, Scan::Missing);
                self.tell((!is_there).then(|| "path does not exist, ignoring".to_owned()));
                self.take(scan);
                is_there
            }
            Err(error) => {
                self.tell(Some(error.to_string()));
                false
            }
        }
    }

    /// Logs what is wrong with the path when it changes.
    fn tell(&mut self, fault: Option<String>) {
        if self.fault != fault {
            if let Some(fault) = &fault {
                warn!(path = %self.path.display(), error = fault, "Unable to read config path");
            }
            self.fault = fault;
        }
    }

    fn take(&mut self, scan: Scan) {
        let found = match scan {
            Scan::Missing => BTreeMap::new(),
            Scan::Files(found) => found,
        };
        self.files.retain(|path, _| found.contains_key(path));
        for (path, found) in found {
            let file = self.files.entry(path.clone()).or_default();
            let (stamp, read) = match found {
                Found::Unchanged => continue,
                Found::Text(stamp, text) => {
                    let pod = manifest::pod(&text, Location::File(&path), &self.node_name);
                    (Some(stamp), pod.map_err(|error| error.to_string()))
                }
                Found::Failed(stamp, error) => (stamp, Err(error)),
            };
            file.stamp = stamp;
            match read {
                Ok(pod) => {
                    if let Some(warning) =
                        manifest::priority_warning(&pod).filter(|text| self.warned.insert(text.clone()))
                    {
                        warn!(path = %path.display(), "{warning}");
                    }
                    (file.pod, file.fault) = (Some(pod), None);
                }
                Err(fault) if file.fault.as_ref() == Some(&fault) => {}
                Err(fault) => {
                    let goes_on = if file.pod.is_some() { "; the pod that it held before goes on" } else { "" };
                    error!(path = %path.display(), error = fault, "Could not process manifest file{goes_on}");
                    file.fault = Some(fault);
                }
            }
        }
        self.publish();
    }

    /// A file is gone, whatever may have taken its place meanwhile.
    fn forget(&mut self, name: &OsStr) {
        let before = self.files.len();
        self.files.retain(|path, _| path.file_name() != Some(name));
        if self.files.len() != before {
            self.publish();
        }
    }

    /// Tells of the pods as they are known now, if that is new.
    fn publish(&mut self) {
        let complete = self.files.values().all(|file| file.pod.is_some() || file.fault.is_none());
        // The last file's pod counts: the kubelet keeps a folder's pods by their names.
        let pods = self.files.values().rev().filter_map(|file| file.pod.clone());
        let mut told = self.known.take(pods, clock::now());
        for double in told.doubles {
            warn!(pod = %PodKey::of(&double.pod), "several manifests hold a pod of this name or UID; the one of the last file counts");
        }
        told.pods.reverse();
        let new = StaticPods { pods: told.pods, complete };
        self.sender.send_if_modified(|known| {
            let is_new = known.as_ref().is_none_or(|known| {
                known.complete != new.complete
                    || known.pods.len() != new.pods.len()
                    || known.pods.iter().zip(&new.pods).any(|(a, b)| !std::sync::Arc::ptr_eq(a, b))
            });
            if is_new {
                *known = Some(new);
            }
            is_new
        });
    }
}

/// Something that happened to the path.
#[derive(Debug, PartialEq)]
enum Change {
    /// A file is being written.
    Writing(OsString),
    /// A file is complete.
    Done(OsString),
    /// A file was removed.
    Gone(OsString),
    /// The watch has ended, or has missed something.
    Lost,
    /// Nothing of interest.
    Other,
}

struct Watcher {
    stream: EventStream<Vec<u8>>,
    /// The one file that counts, if the path is no folder.
    only: Option<OsString>,
}

impl Watcher {
    /// Watches a folder, or the folder of a file, since a file may be replaced by another of its name.
    fn of(path: &Path) -> io::Result<Self> {
        let (folder, only) = match std::fs::metadata(path)?.is_dir() {
            true => (path, None),
            false => (path.parent().unwrap_or(Path::new("/")), path.file_name().map(OsStr::to_owned)),
        };
        let inotify = Inotify::init()?;
        inotify.watches().add(folder, WATCHED)?;
        Ok(Watcher { stream: inotify.into_event_stream(vec![0; 4096])?, only })
    }

    async fn next(watcher: &mut Option<Self>) -> Change {
        let Some(Watcher { stream, only }) = watcher else { return std::future::pending().await };
        let Some(Ok(event)) = stream.next().await else { return Change::Lost };
        change(event.mask, event.name, only.as_deref())
    }
}

fn change(mask: EventMask, name: Option<OsString>, only: Option<&OsStr>) -> Change {
    let lost =
        EventMask::IGNORED | EventMask::Q_OVERFLOW | EventMask::UNMOUNT | EventMask::DELETE_SELF | EventMask::MOVE_SELF;
    if mask.intersects(lost) {
        return Change::Lost;
    }
    let Some(name) = name else { return Change::Other };
    let counts = only.map_or_else(|| !is_hidden(&name), |only| only == name);
    match () {
        () if !counts => Change::Other,
        () if mask.intersects(EventMask::CREATE | EventMask::MODIFY) && !mask.contains(EventMask::ISDIR) => {
            Change::Writing(name)
        }
        () if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) => Change::Gone(name),
        () => Change::Done(name),
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

/// Reads the files that are not as known.
fn scan(
    path: &Path,
    known: &HashMap<PathBuf, Option<FileStamp>>,
    settling: &HashSet<OsString>,
    dirty: &HashSet<OsString>,
) -> io::Result<Scan> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Scan::Missing),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            let name = entry?.file_name();
            if !is_hidden(&name) {
                files.push(path.join(name));
            }
        }
    } else if metadata.is_file() {
        files.push(path.to_owned());
    } else {
        return Err(io::Error::other("path is not a directory or file"));
    }
    let mut found = BTreeMap::new();
    for file in files {
        let name = file.file_name().unwrap_or_default();
        let before = known.get(&file);
        if settling.contains(name) {
            // Not there yet, or as it was.
            if before.is_some() {
                found.insert(file, Found::Unchanged);
            }
            continue;
        }
        let known = before.copied().flatten().filter(|_| !dirty.contains(name));
        if let Some(state) = read_file(&file, known) {
            found.insert(file, state);
        }
    }
    Ok(Scan::Files(found))
}

/// Reads one file; none if it has gone meanwhile or is a folder.
fn read_file(path: &Path, known: Option<FileStamp>) -> Option<Found> {
    let failed = |stamp, error: &dyn std::fmt::Display| Some(Found::Failed(stamp, error.to_string()));
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // A link to nowhere is as good as none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return failed(None, &error),
    };
    if metadata.is_dir() {
        return None;
    }
    let stamp = FileStamp::of(&metadata);
    if known == Some(stamp) {
        return Some(Found::Unchanged);
    }
    if !metadata.is_file() {
        return failed(Some(stamp), &"Manifest path is not a directory or file");
    }
    if metadata.len() > MAX_MANIFEST {
        return failed(Some(stamp), &"the read limit is reached");
    }
    let mut text = Vec::new();
    // What has become a pipe meanwhile must not hold up the others.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(i32::try_from(flags).unwrap_or(0)).open(path);
    let read = opened.and_then(|file| file.take(MAX_MANIFEST + 1).read_to_end(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_MANIFEST => failed(Some(stamp), &"the read limit is reached"),
        Ok(_) => Some(Found::Text(stamp, text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => failed(None, &error),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
