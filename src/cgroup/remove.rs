//! Removal of a cgroup with all that is below it, and of the processes that are left in it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::error::CgroupError;
use super::name::CgroupName;
use super::systemd;
use super::tree::{PROCESSES, Tree, is};
use crate::metrics::kubelet as metrics;
use crate::sys::bulkhead::Bulkhead;

/// How often a cgroup in use is tried again; with the pauses doubling from [`FIRST_PAUSE`], about a second in all.
const TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Removes cgroups in all hierarchies, and their slices. Nothing is killed if they are empty; else every process in them
/// gets SIGKILL until they are gone. A cgroup that is not there is fine.
pub(super) async fn remove(tree: Arc<Tree>, names: Vec<CgroupName>, calls: &Bulkhead) -> Result<(), CgroupError> {
    let began = Instant::now();
    let result = remove_patiently(tree, names, calls).await;
    metrics::CGROUP_DURATION.observe(&["destroy"], began.elapsed().as_secs_f64());
    result
}

async fn remove_patiently(tree: Arc<Tree>, names: Vec<CgroupName>, calls: &Bulkhead) -> Result<(), CgroupError> {
    let names = Arc::new(names);
    if tree.units.is_some() {
        let (tree, names) = (Arc::clone(&tree), Arc::clone(&names));
        calls.run(move || tree.stop_slices(&names)).await?;
    }
    let mut pause = FIRST_PAUSE;
    let mut tries = 0;
    loop {
        let (tree, names) = (Arc::clone(&tree), Arc::clone(&names));
        let attempt = calls.run(move || tree.try_remove(&names, tries > 0)).await?;
        match attempt {
            Err(CgroupError::InUse { .. }) if tries == 0 => {}
            Err(CgroupError::InUse { .. }) if tries <= TRIES => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
        tries += 1;
    }
}

impl Tree {
    /// Stops the slices. A process that is left would be asked to end first and given its time, which it had: it is killed
    /// before. What systemd does not do shows when the directories are removed.
    fn stop_slices(&self, names: &[CgroupName]) {
        let Some(units) = &self.units else { return };
        for name in names {
            let directories = self.directories(name);
            if directories.iter().any(|directory| self.is_populated(directory)) {
                self.kill_all(std::slice::from_ref(name), &directories);
            }
            let unit = systemd::unit(name);
            if let Err(error) = units.stop(&unit) {
                warn!(unit, %error, "Could not stop the slice of a cgroup that is removed");
            }
        }
    }

    fn is_populated(&self, directory: &Path) -> bool {
        let below = || self.children(directory).unwrap_or_default().iter().any(|child| self.is_populated(child));
        !self.processes(directory).is_empty() || below()
    }

    /// One go over all hierarchies, on past errors. A cgroup in use is the error only if there is no other.
    fn try_remove(&self, names: &[CgroupName], kill: bool) -> Result<(), CgroupError> {
        let directories: Vec<PathBuf> = names.iter().flat_map(|name| self.directories(name)).collect();
        if kill {
            self.kill_all(names, &directories);
        }
        let mut outcome = Ok(());
        for directory in directories {
            match (self.remove_directory(&directory), &outcome) {
                (Err(error @ CgroupError::InUse { .. }), Ok(())) => outcome = Err(error),
                (Ok(()) | Err(CgroupError::InUse { .. }), _) => {}
                (Err(error), Ok(()) | Err(CgroupError::InUse { .. })) => outcome = Err(error),
                (Err(_), Err(_)) => {}
            }
        }
        outcome
    }

    fn remove_directory(&self, directory: &Path) -> Result<(), CgroupError> {
        match self.kernel.rmdir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            // In use, by processes or by cgroups below. Anything else may also hide that it does not exist (a read-only
            // mount), which reading it tells.
            Err(_) => {}
        }
        for child in self.children(directory)? {
            self.remove_directory(&child)?;
        }
        match self.kernel.rmdir(directory) {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) if is(&error, Errno::BUSY) || is(&error, Errno::NOTEMPTY) => {
                let pids = self.processes(directory).into_iter().collect();
                Err(CgroupError::InUse { path: directory.to_owned(), pids })
            }
            Err(source) => Err(CgroupError::Remove { path: directory.to_owned(), source }),
        }
    }

    fn children(&self, directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
        let failed = |source| CgroupError::Read { path: directory.to_owned(), source };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let mut children = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                children.push(entry.path());
            }
        }
        Ok(children)
    }

    /// Kills the processes in those children of the cgroups whose directory's name holds `part`, and below.
    pub(super) fn kill_below(&self, names: &[CgroupName], part: &str) -> Result<(), CgroupError> {
        let mut directories = Vec::new();
        for directory in names.iter().flat_map(|name| self.directories(name)) {
            let holds = |child: &PathBuf| child.file_name().is_some_and(|name| name.to_string_lossy().contains(part));
            directories.extend(self.children(&directory)?.into_iter().filter(holds));
        }
        self.kill_all(names, &directories);
        Ok(())
    }

    fn kill_all(&self, names: &[CgroupName], directories: &[PathBuf]) {
        let mut pids = BTreeSet::new();
        for directory in directories {
            // Whole subtrees at once, forks in flight too, where the kernel can (v2 since 5.14).
            if self.kernel.write(&directory.join("cgroup.kill"), "1").is_err() {
                self.collect(directory, &mut pids);
            }
        }
        pids.remove(&i32::try_from(std::process::id()).unwrap_or(0));
        if !pids.is_empty() {
            info!(cgroups = ?names, ?pids, "Killing processes left in cgroups");
        }
        for pid in pids {
            if let Err(error) = self.kernel.kill(pid) {
                debug!(pid, %error, "Could not kill a process left in a cgroup");
            }
        }
    }

    fn collect(&self, directory: &Path, pids: &mut BTreeSet<i32>) {
        pids.extend(self.processes(directory));
        // A frozen process (v1) dies only when it is thawed.
        let freezer = directory.join("freezer.state");
        if self.kernel.read(&freezer).is_ok_and(|state| state.trim() != "THAWED")
            && let Err(error) = self.kernel.write(&freezer, "THAWED")
        {
            debug!(file = %freezer.display(), %error, "Could not thaw a cgroup");
        }
        for child in self.children(directory).unwrap_or_default() {
            self.collect(&child, pids);
        }
    }

    /// The processes in one cgroup; those of other PID namespaces, which show as 0, are left out.
    fn processes(&self, directory: &Path) -> BTreeSet<i32> {
        let content = match self.kernel.read(&directory.join(PROCESSES)) {
            // A threaded cgroup lists threads alone.
            Err(error) if is(&error, Errno::OPNOTSUPP) => self.kernel.read(&directory.join("cgroup.threads")),
            content => content,
        };
        let content = content.unwrap_or_default();
        content.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 0).collect()
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || is(error, Errno::NODEV)
}
