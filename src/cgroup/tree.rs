//! Makes, checks and sets single cgroups in all hierarchies. Blocking; the manager calls it off the async threads.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tokio::time::Instant;
use tracing::debug;

use crate::metrics::kubelet as metrics;
use crate::model::pod::PodUid;
use crate::sys::systemd::{HostUnits, Units};

use super::control::{self, Setting};
use super::error::CgroupError;
use super::hierarchy::{Hierarchy, Mount, Role, Version};
use super::kernel::Kernel;
use super::name::{self, CgroupName, Driver};
use super::systemd;
use super::values::CgroupValues;

/// The file of a v2 cgroup that lists its controllers.
const CONTROLLERS: &str = "cgroup.controllers";
/// The processes of a cgroup; one that is written there is moved into it.
pub(super) const PROCESSES: &str = "cgroup.procs";

/// The hierarchies and the kernel that holds them.
pub(super) struct Tree {
    pub(super) hierarchy: Hierarchy,
    pub(super) kernel: Box<dyn Kernel>,
    /// Who makes slices, by the systemd driver.
    pub(super) units: Option<Box<dyn Units>>,
}

impl Tree {
    /// Who makes slices on this host, if the driver is systemd's.
    pub(super) fn host_units(driver: Driver) -> Option<Box<dyn Units>> {
        match driver {
            Driver::Cgroupfs => None,
            Driver::Systemd => Some(Box::new(HostUnits::default())),
        }
    }

    pub(super) fn driver(&self) -> Driver {
        if self.units.is_some() { Driver::Systemd } else { Driver::Cgroupfs }
    }

    /// A cgroup's path below each mount point, by the driver's naming.
    fn relative(&self, name: &CgroupName) -> PathBuf {
        name.relative(self.driver())
    }

    /// Where a cgroup is in each hierarchy.
    pub(super) fn directories(&self, name: &CgroupName) -> Vec<PathBuf> {
        let relative = self.relative(name);
        self.hierarchy.mounts().iter().map(|mount| mount.point.join(&relative)).collect()
    }

    /// Fails unless the cgroup is there with all that is required of it.
    pub(super) fn validate(&self, name: &CgroupName) -> Result<(), CgroupError> {
        let relative = self.relative(name);
        let required = || self.hierarchy.mounts().iter().filter(|mount| mount.role == Role::Required);
        match self.hierarchy.version() {
            Version::V1 => {
                let directories = required().map(|mount| mount.point.join(&relative));
                let paths: Vec<PathBuf> = directories.filter(|directory| !directory.is_dir()).collect();
                if paths.is_empty() { Ok(()) } else { Err(CgroupError::MissingPaths { name: name.clone(), paths }) }
            }
            Version::V2 => {
                let mut controllers = Vec::new();
                for mount in required() {
                    let path = mount.point.join(&relative).join(CONTROLLERS);
                    let there = self.kernel.read(&path).map_err(|error| {
                        let reason = reason(&error);
                        CgroupError::NoControllers { name: name.clone(), path, reason }
                    })?;
                    controllers.extend(missing(&there, &mount.controllers));
                }
                if controllers.is_empty() {
                    Ok(())
                } else {
                    Err(CgroupError::MissingControllers { name: name.clone(), controllers })
                }
            }
        }
    }

    pub(super) fn exists(&self, name: &CgroupName) -> bool {
        self.validate(name).is_ok()
    }

    /// Whether a cgroup's values were written after it was made: the CPU share is always written, and last.
    pub(super) fn is_finished(&self, name: &CgroupName) -> bool {
        let (file, untouched) = control::cpu_share_file(self.hierarchy.version());
        let Some(mount) = self.hierarchy.mount_of("cpu") else { return true };
        let content = self.kernel.read(&mount.point.join(self.relative(name)).join(file));
        content.is_ok_and(|content| content.trim() != untouched)
    }

    /// Makes a cgroup where it is missing, below a parent that is there, with the controllers at work in it.
    pub(super) fn make(&self, name: &CgroupName) -> Result<(), CgroupError> {
        timed("create", || self.make_everywhere(name))
    }

    fn make_everywhere(&self, name: &CgroupName) -> Result<(), CgroupError> {
        if let Some(units) = &self.units {
            let unit = systemd::unit(name);
            let started = units.start(&unit, &systemd::creation(name, self.hierarchy.version()));
            started.map_err(|source| CgroupError::Systemd { unit, source })?;
        }
        let relative = self.relative(name);
        for mount in self.hierarchy.mounts() {
            let directory = mount.point.join(&relative);
            let made = match mount.role {
                Role::Cleaned => continue,
                _ => self.make_directory(&directory, mount),
            };
            match made {
                Err(error) if mount.role == Role::Tried => debug!(%error, "Skipped a hierarchy without controllers"),
                made => made?,
            }
        }
        if self.hierarchy.version() == Version::V2 { self.validate(name) } else { Ok(()) }
    }

    /// Makes a cgroup and what is missing above it, as [`Tree::make`] does.
    pub(super) fn make_all(&self, name: &CgroupName) -> Result<(), CgroupError> {
        name.lineage().try_for_each(|name| self.make(&name))
    }

    fn make_directory(&self, directory: &Path, mount: &Mount) -> Result<(), CgroupError> {
        match self.kernel.mkdir(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CgroupError::NoParent { path: directory.to_owned() });
            }
            Err(source) => return Err(CgroupError::Create { path: directory.to_owned(), source }),
        }
        match self.hierarchy.version() {
            Version::V1 if mount.controllers.iter().any(|controller| controller == "cpuset") => {
                self.inherit_cpuset(directory)
            }
            Version::V2 if !self.missing_controllers(directory, &mount.controllers).is_empty() => {
                self.enable_controllers(directory);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Fills the CPU set of a cgroup that has none from its parent (v1): no process can be put into a cgroup without.
    pub(super) fn fill_cpuset(&self, name: &CgroupName) -> Result<(), CgroupError> {
        match self.hierarchy.mount_of("cpuset") {
            Some(mount) if self.hierarchy.version() == Version::V1 && !name.is_root() => {
                self.inherit_cpuset(&mount.point.join(self.relative(name)))
            }
            _ => Ok(()),
        }
    }

    fn inherit_cpuset(&self, directory: &Path) -> Result<(), CgroupError> {
        let Some(parent) = directory.parent() else { return Ok(()) };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = directory.join(file);
            if self.read(&own)?.trim().is_empty() {
                let inherited = self.read(&parent.join(file))?;
                self.write(&own, inherited.trim())?;
            }
        }
        Ok(())
    }

    fn missing_controllers(&self, directory: &Path, needed: &[String]) -> Vec<String> {
        missing(&self.kernel.read(&directory.join(CONTROLLERS)).unwrap_or_default(), needed)
    }

    // All that the parent has: runtimes need more than the node itself (io). What cannot be had shows when the new
    // cgroup is validated.
    fn enable_controllers(&self, directory: &Path) {
        let Some(parent) = directory.parent() else { return };
        let available = self.kernel.read(&parent.join(CONTROLLERS)).unwrap_or_default();
        let additions: Vec<String> = available.split_whitespace().map(|controller| format!("+{controller}")).collect();
        let file = parent.join("cgroup.subtree_control");
        if self.kernel.write(&file, &additions.join(" ")).is_ok() {
            return;
        }
        for addition in &additions {
            if let Err(error) = self.kernel.write(&file, addition) {
                debug!(file = %file.display(), addition, %error, "Could not enable a cgroup controller");
            }
        }
    }

    /// Puts values into force. Goes on after a value that the kernel refuses; the first refusal is the error.
    pub(super) fn set(&self, name: &CgroupName, values: &CgroupValues) -> Result<(), CgroupError> {
        timed("update", || self.set_all(name, values))
    }

    fn set_all(&self, name: &CgroupName, values: &CgroupValues) -> Result<(), CgroupError> {
        let Some(units) = &self.units else { return self.set_files(name, values) };
        let unit = systemd::unit(name);
        let told = units.version().and_then(|systemd| {
            let properties = systemd::properties(values, self.hierarchy.version(), systemd);
            if properties.is_empty() { Ok(()) } else { units.set(&unit, &properties) }
        });
        let told = told.map_err(|source| CgroupError::Systemd { unit, source });
        told.and(self.set_files(name, &systemd::as_kept(values)))
    }

    fn set_files(&self, name: &CgroupName, values: &CgroupValues) -> Result<(), CgroupError> {
        let settings = control::settings(values, self.hierarchy.version(), self.hierarchy.page_sizes());
        let relative = self.relative(name);
        let mut refused = Vec::new();
        let mut first = Ok(());
        for setting in &settings {
            match self.apply(&relative, setting) {
                Ok(()) => {}
                // Period and quota depend on each other and on the parent's: once the other is set, this one may fit.
                Err(CgroupError::Write { source, .. }) if is(&source, Errno::INVAL) => refused.push(setting),
                Err(error) => first = first.and(Err(error)),
            }
        }
        for setting in refused {
            first = first.and(self.apply(&relative, setting));
        }
        first
    }

    fn apply(&self, relative: &Path, setting: &Setting) -> Result<(), CgroupError> {
        let mount = match (self.hierarchy.version(), setting.controller) {
            (Version::V2, _) => self.hierarchy.mounts().first(),
            (Version::V1, controller) => self.hierarchy.mount_of(controller),
        };
        let Some(mount) = mount else {
            return Err(CgroupError::NotMounted { controllers: vec![setting.controller.to_owned()] });
        };
        let directory = mount.point.join(relative);
        let path = directory.join(&setting.file);
        match self.kernel.write(&path, &setting.content) {
            Ok(()) => Ok(()),
            Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if setting.file == "memory.limit_in_bytes" && is(&error, Errno::BUSY) => {
                let usage = self.read(&directory.join("memory.usage_in_bytes"))?.trim().to_owned();
                Err(CgroupError::MemoryInUse { path, limit: setting.content.clone(), usage })
            }
            Err(source) => Err(CgroupError::Write { path, content: setting.content.clone(), source }),
        }
    }

    /// The pods whose cgroups are directly below one, in any hierarchy, each with its directories.
    pub(super) fn pods_below(&self, name: &CgroupName) -> Result<Vec<(PodUid, PathBuf)>, CgroupError> {
        let mut found = Vec::new();
        for directory in self.directories(name) {
            let failed = |source| CgroupError::Read { path: directory.clone(), source };
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let uid = entry.file_name().to_str().and_then(|name| name::pod_of_directory(name, self.driver()));
                if let (Some(uid), true) = (uid, entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                    found.push((uid, entry.path()));
                }
            }
        }
        Ok(found)
    }

    fn read(&self, path: &Path) -> Result<String, CgroupError> {
        self.kernel.read(path).map_err(|source| CgroupError::Read { path: path.to_owned(), source })
    }

    fn write(&self, path: &Path, content: &str) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Write { path: path.to_owned(), content: content.to_owned(), source };
        self.kernel.write(path, content).map_err(failed)
    }
}

/// Measures an operation by the name that metrics give it.
fn timed<T>(operation: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    metrics::CGROUP_DURATION.observe(&[operation], began.elapsed().as_secs_f64());
    result
}

fn missing(there: &str, needed: &[String]) -> Vec<String> {
    let there: Vec<&str> = there.split_whitespace().collect();
    needed.iter().filter(|controller| !there.contains(&controller.as_str())).cloned().collect()
}

/// The kernel's reason in the words of C and Go.
fn reason(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound { "no such file or directory".to_owned() } else { error.to_string() }
}

/// Whether an error is that of the kernel.
pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
