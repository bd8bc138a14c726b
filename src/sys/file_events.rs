//! Hears of changes in directories: one inotify instance for all who ask.
//!
//! There is no task behind it. Whoever waits reads the kernel's events for all others too, and hands the reading on when
//! its own event came.

#![allow(unsafe_code, reason = "tokio has no safe way left to wait for a descriptor")]

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::beneath::Dir;

/// Bytes of events that are taken from the kernel at once.
const EVENTS: usize = 4096;

/// What is heard of a directory.
const HEARD: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);

/// A handle on the instance, which is made when the first directory is watched.
#[derive(Clone, Default)]
pub struct FileEvents {
    hub: Arc<Hub>,
}

#[derive(Default)]
struct Hub {
    state: Mutex<State>,
    /// Whoever holds it reads the events.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    instance: Option<Arc<AsyncFd<OwnedFd>>>,
    /// By the kernel's number of the directory.
    listeners: HashMap<i32, Vec<Arc<Listener>>>,
}

#[derive(Default)]
struct Listener {
    changed: AtomicBool,
    closed: AtomicBool,
    notify: Notify,
}

impl Listener {
    fn tell(&self, events: ReadFlags) {
        self.changed.store(true, Ordering::Release);
        if events.contains(ReadFlags::CLOSE_WRITE) {
            self.closed.store(true, Ordering::Release);
        }
        self.notify.notify_one();
    }
}

/// A directory that is watched until this is dropped.
pub struct DirectoryEvents {
    hub: Arc<Hub>,
    number: i32,
    listener: Arc<Listener>,
}

/// What happened in a directory since it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// A file that had been open for writing was closed.
    pub closed: bool,
}

impl FileEvents {
    /// Watches a directory from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As of `inotify_init1(2)` and `inotify_add_watch(2)`: the numbers of instances and of watches are limited.
    pub fn watch(&self, directory: &Dir) -> io::Result<DirectoryEvents> {
        let mut state = self.hub.lock();
        let instance = match &state.instance {
            Some(instance) => instance.clone(),
            None => {
                let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
                // SAFETY: the descriptor is owned by what is registered, and gives itself as the same one until that ends.
                let instance = Arc::new(unsafe { AsyncFd::register(instance) }?);
                state.instance = Some(instance.clone());
                instance
            }
        };
        // The directory that is held, whatever is at its path by now.
        let number = inotify::add_watch(instance.get_ref(), directory.proc_path(), HEARD)?;
        let listener = Arc::new(Listener::default());
        state.listeners.entry(number).or_default().push(listener.clone());
        Ok(DirectoryEvents { hub: self.hub.clone(), number, listener })
    }
}

impl Hub {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for events and tells them to all listeners. Cancel-safe: what was taken from the kernel was told.
    async fn read(&self) {
        let Some(instance) = self.lock().instance.clone() else { return std::future::pending().await };
        // An instance that cannot be waited for tells nothing any more: listeners have their own timers.
        let Ok(mut ready) = instance.readable().await else { return std::future::pending().await };
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(instance.get_ref(), &mut buffer);
        let state = self.lock();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    // Whatever it was, all must look.
                    state.listeners.values().flatten().for_each(|listener| listener.tell(ReadFlags::CLOSE_WRITE));
                }
                Ok(event) => {
                    let told = state.listeners.get(&event.wd()).into_iter().flatten();
                    told.for_each(|listener| listener.tell(event.events()));
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        ready.clear_ready();
    }
}

impl DirectoryEvents {
    /// Waits for a change since the last one that was told. Cancel-safe: no change is lost.
    pub async fn changed(&self) -> Change {
        loop {
            if self.listener.changed.swap(false, Ordering::AcqRel) {
                return Change { closed: self.listener.closed.swap(false, Ordering::AcqRel) };
            }
            // Cancel-safe: a notice is only a reason to look at the flag, and the lock is given back.
            tokio::select! {
                () = self.listener.notify.notified() => {}
                _reading = self.hub.reading.lock() => {
                    // Cancel-safe: see there. The own flag may have been set just before the lock was had.
                    if !self.listener.changed.load(Ordering::Acquire) {
                        self.hub.read().await;
                    }
                }
            }
        }
    }
}

impl Drop for DirectoryEvents {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let Some(listeners) = state.listeners.get_mut(&self.number) else { return };
        listeners.retain(|listener| !Arc::ptr_eq(listener, &self.listener));
        if listeners.is_empty() {
            state.listeners.remove(&self.number);
            if let Some(instance) = &state.instance {
                // A directory that is gone took its watch along.
                let _ = inotify::remove_watch(instance.get_ref(), self.number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(300), future).await.ok()
    }

    #[tokio::test]
    async fn several_hear_of_their_directories_by_one_instance() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let events = FileEvents::default();
        let first = events.watch(&Dir::open(a.path()).unwrap()).unwrap();
        let again = events.watch(&Dir::open(a.path()).unwrap()).unwrap();
        let other = events.watch(&Dir::open(b.path()).unwrap()).unwrap();
        let mut file = std::fs::File::create(a.path().join("f")).unwrap();
        file.write_all(b"x").unwrap();
        let (one, two) = tokio::join!(soon(first.changed()), soon(again.changed()));
        assert_eq!((one, two), (Some(Change { closed: false }), Some(Change { closed: false })));
        assert_eq!(soon(other.changed()).await, None);
        drop(file);
        // Heard by one that waits while another, who reads the events, gives up.
        let (none, closed) = tokio::join!(soon(other.changed()), soon(first.changed()));
        assert_eq!((none, closed), (None, Some(Change { closed: true })));
        drop(again);
        std::fs::rename(a.path().join("f"), b.path().join("g")).unwrap();
        assert!(soon(first.changed()).await.is_some());
        assert!(soon(other.changed()).await.is_some());
        drop((first, other));
        assert!(events.hub.lock().listeners.is_empty());
    }
}
