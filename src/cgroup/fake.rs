//! A kernel for tests: cgroups on a temporary folder, with the control files that new cgroups get, refusals of removal
//! while in use, processes, faults on demand, and a record of all writes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::sys::systemd::{Property, SystemdError, Units};

use super::hierarchy::{Hierarchy, Version};
use super::kernel::Kernel;
use super::name::{CgroupName, Driver};

const V1_MOUNTS: [&str; 8] = ["cpu,cpuacct", "cpuset", "memory", "pids", "hugetlb", "freezer", "devices", "systemd"];

pub(super) struct FakeKernel {
    folder: tempfile::TempDir,
    version: Version,
    writes: Mutex<Vec<String>>,
    killed: Mutex<Vec<i32>>,
    immortal: Mutex<BTreeSet<i32>>,
    faults: Mutex<Vec<Fault>>,
}

struct Fault {
    path_end: String,
    errno: Errno,
    times: u32,
}

impl FakeKernel {
    /// A hybrid host: v1 hierarchies and an empty v2 one beside them.
    pub(super) fn v1() -> Arc<Self> {
        let kernel = Self::new(Version::V1);
        for mount in V1_MOUNTS.into_iter().chain(["unified"]) {
            kernel.mkdir(&kernel.path(mount)).unwrap();
        }
        std::fs::write(kernel.path("cpuset/cpuset.cpus"), "0-3\n").unwrap();
        std::fs::write(kernel.path("cpuset/cpuset.mems"), "0\n").unwrap();
        kernel
    }

    /// A v2 host.
    pub(super) fn v2() -> Arc<Self> {
        let kernel = Self::new(Version::V2);
        kernel.populate(kernel.folder.path());
        std::fs::write(kernel.path("cgroup.controllers"), "cpuset cpu io memory hugetlb pids\n").unwrap();
        kernel
    }

    fn new(version: Version) -> Arc<Self> {
        Arc::new(FakeKernel {
            folder: tempfile::tempdir().unwrap(),
            version,
            writes: Mutex::default(),
            killed: Mutex::default(),
            immortal: Mutex::default(),
            faults: Mutex::default(),
        })
    }

    pub(super) fn hierarchy(&self) -> Hierarchy {
        let sizes = vec!["2MB".to_owned()];
        let point = self.folder.path();
        if self.version == Version::V2 {
            return Hierarchy::v2(point.to_owned(), &self.content("cgroup.controllers"), sizes);
        }
        let mut mountinfo = format!("9 1 0:9 / {}/unified rw - cgroup2 cgroup2 rw\n", point.display());
        let mut own = "0::/\n".to_owned();
        for (id, mount) in V1_MOUNTS.iter().enumerate() {
            let controllers = if *mount == "systemd" { "name=systemd" } else { mount };
            mountinfo += &format!("1{id} 1 0:1 / {}/{mount} rw - cgroup cgroup rw,{controllers}\n", point.display());
            own += &format!("{id}:{controllers}:/\n");
        }
        Hierarchy::v1(&mountinfo, &own, point, sizes)
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// A control file's content, without the newline; `-` if there is none.
    pub(super) fn content(&self, relative: &str) -> String {
        std::fs::read_to_string(self.path(relative)).map_or("-".into(), |content| content.trim().to_owned())
    }

    pub(super) fn is_there(&self, relative: &str) -> bool {
        self.path(relative).is_dir()
    }

    /// The writes since the last call, as `path=content`.
    pub(super) fn take_writes(&self) -> Vec<String> {
        std::mem::take(&mut self.writes.lock().unwrap())
    }

    pub(super) fn killed(&self) -> Vec<i32> {
        self.killed.lock().unwrap().clone()
    }

    /// Puts processes into a cgroup.
    pub(super) fn put(&self, relative: &str, pids: &[i32]) {
        let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        std::fs::write(self.path(relative).join("cgroup.procs"), lines).unwrap();
    }

    /// Makes a process survive SIGKILL.
    pub(super) fn make_immortal(&self, pid: i32) {
        self.immortal.lock().unwrap().insert(pid);
    }

    /// Makes the next operations on paths with that end fail.
    pub(super) fn fail(&self, path_end: &str, errno: Errno, times: u32) {
        self.faults.lock().unwrap().push(Fault { path_end: path_end.into(), errno, times });
    }

    fn fault(&self, path: &Path) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        match faults.iter_mut().find(|fault| fault.times > 0 && path.ends_with(&fault.path_end)) {
            Some(fault) => {
                fault.times -= 1;
                Err(fault.errno.into())
            }
            None => Ok(()),
        }
    }

    fn populate(&self, directory: &Path) {
        let put = |file: &str, content: &str| std::fs::write(directory.join(file), content).unwrap();
        put("cgroup.procs", "");
        let relative = directory.strip_prefix(self.folder.path()).unwrap();
        let mount = relative.components().next().map(|c| c.as_os_str().to_str().unwrap().to_owned());
        match mount.as_deref() {
            _ if self.version == Version::V2 => self.populate_v2(directory),
            Some("cpu,cpuacct") => {
                put("cpu.shares", "1024\n");
                put("cpu.cfs_period_us", "100000\n");
                put("cpu.cfs_quota_us", "-1\n");
            }
            Some("cpuset") => {
                put("cpuset.cpus", "\n");
                put("cpuset.mems", "\n");
            }
            Some("memory") => {
                put("memory.limit_in_bytes", "9223372036854771712\n");
                put("memory.usage_in_bytes", "4096\n");
            }
            Some("pids") => put("pids.max", "max\n"),
            Some("hugetlb") => put("hugetlb.2MB.limit_in_bytes", "9223372036854771712\n"),
            Some("freezer") => put("freezer.state", "THAWED\n"),
            _ => {}
        }
    }

    fn populate_v2(&self, directory: &Path) {
        let put = |file: &str, content: &str| {
            if !directory.join(file).exists() {
                std::fs::write(directory.join(file), content).unwrap();
            }
        };
        put("cgroup.subtree_control", "\n");
        put("cgroup.kill", "");
        let enabled = std::fs::read_to_string(directory.parent().unwrap().join("cgroup.subtree_control"));
        let enabled = enabled.unwrap_or_default();
        std::fs::write(directory.join("cgroup.controllers"), &enabled).unwrap();
        for controller in enabled.split_whitespace() {
            match controller {
                "cpu" => {
                    put("cpu.weight", "100\n");
                    put("cpu.max", "max 100000\n");
                }
                "memory" => {
                    for file in ["memory.max", "memory.high"] {
                        put(file, "max\n");
                    }
                    for file in ["memory.min", "memory.low"] {
                        put(file, "0\n");
                    }
                }
                "pids" => put("pids.max", "max\n"),
                "hugetlb" => {
                    put("hugetlb.2MB.max", "max\n");
                    put("hugetlb.2MB.rsvd.max", "max\n");
                }
                _ => {}
            }
        }
    }

    fn enable(&self, directory: &Path, content: &str) -> io::Result<()> {
        let available = std::fs::read_to_string(directory.join("cgroup.controllers"))?;
        let mut enabled: BTreeSet<String> = std::fs::read_to_string(directory.join("cgroup.subtree_control"))?
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        for addition in content.split_whitespace() {
            let controller = addition.strip_prefix('+').ok_or(Errno::INVAL)?;
            if !available.split_whitespace().any(|there| there == controller) {
                return Err(Errno::NOENT.into());
            }
            enabled.insert(controller.to_owned());
        }
        let enabled: Vec<String> = enabled.into_iter().collect();
        std::fs::write(directory.join("cgroup.subtree_control"), enabled.join(" "))?;
        for child in subdirectories(directory) {
            self.populate_v2(&child);
        }
        Ok(())
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect()
}

fn each_directory(directory: &Path, act: &mut dyn FnMut(&Path)) {
    act(directory);
    for child in subdirectories(directory) {
        each_directory(&child, act);
    }
}

impl Kernel for Arc<FakeKernel> {
    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.as_ref().mkdir(path)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.fault(path)?;
        let processes = std::fs::read_to_string(path.join("cgroup.procs"))?;
        if !processes.trim().is_empty() || !subdirectories(path).is_empty() {
            return Err(Errno::BUSY.into());
        }
        std::fs::remove_dir_all(path)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.fault(path)?;
        std::fs::read_to_string(path)
    }

    fn write(&self, path: &Path, content: &str) -> io::Result<()> {
        self.fault(path)?;
        if !path.exists() {
            return Err(Errno::NOENT.into());
        }
        let relative = path.strip_prefix(self.folder.path()).unwrap();
        self.writes.lock().unwrap().push(format!("{}={content}", relative.display()));
        match path.file_name().unwrap().to_str().unwrap() {
            "cgroup.subtree_control" => self.enable(path.parent().unwrap(), content),
            "cgroup.kill" => {
                each_directory(path.parent().unwrap(), &mut |directory| {
                    std::fs::write(directory.join("cgroup.procs"), "").unwrap();
                });
                Ok(())
            }
            _ => std::fs::write(path, content),
        }
    }

    fn kill(&self, pid: i32) -> io::Result<()> {
        self.killed.lock().unwrap().push(pid);
        if self.immortal.lock().unwrap().contains(&pid) {
            return Ok(());
        }
        each_directory(self.folder.path(), &mut |directory| {
            let frozen = std::fs::read_to_string(directory.join("freezer.state")).is_ok_and(|s| s.trim() == "FROZEN");
            let file = directory.join("cgroup.procs");
            let Ok(content) = std::fs::read_to_string(&file) else { return };
            let left = content.lines().filter(|line| frozen || line.trim() != pid.to_string());
            let left: String = left.map(|line| format!("{line}\n")).collect();
            std::fs::write(file, left).unwrap();
        });
        Ok(())
    }
}

/// A systemd for tests: keeps which slices are there and makes their cgroups in a fake kernel, as the real one does.
pub(super) struct FakeUnits {
    kernel: Arc<FakeKernel>,
    calls: Mutex<Vec<String>>,
    refusing: Mutex<Option<String>>,
}

impl FakeUnits {
    pub(super) fn over(kernel: &Arc<FakeKernel>) -> Arc<Self> {
        Arc::new(FakeUnits { kernel: Arc::clone(kernel), calls: Mutex::default(), refusing: Mutex::default() })
    }

    /// What was asked since the last call: `start UNIT`, `set UNIT NAME...`, `stop UNIT`.
    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// Fails all that begins with that, until told otherwise.
    pub(super) fn refuse(&self, start: Option<&str>) {
        *self.refusing.lock().unwrap() = start.map(str::to_owned);
    }

    fn note(&self, call: String) -> Result<(), SystemdError> {
        let refused = self.refusing.lock().unwrap().as_ref().is_some_and(|start| call.starts_with(start));
        self.calls.lock().unwrap().push(call);
        if refused { Err(SystemdError::NotRunning) } else { Ok(()) }
    }
}

impl Units for Arc<FakeUnits> {
    fn version(&self) -> Result<u32, SystemdError> {
        Ok(252)
    }

    fn start(&self, unit: &str, _: &[Property]) -> Result<(), SystemdError> {
        self.note(format!("start {unit}"))?;
        // In the hierarchies that systemd knows, parents first.
        let relative = CgroupName::from_systemd(unit).relative(Driver::Systemd);
        let known = ["cpu,cpuacct", "memory", "pids", "systemd", "unified"];
        for mount in self.kernel.hierarchy().mounts() {
            let name = mount.point.file_name().and_then(|name| name.to_str()).unwrap();
            if self.kernel.version == Version::V1 && !known.contains(&name) {
                continue;
            }
            let mut directory = mount.point.clone();
            for component in &relative {
                if self.kernel.version == Version::V2 {
                    self.kernel.enable(&directory, "+cpu +memory +pids").unwrap();
                }
                directory.push(component);
                if !directory.is_dir() {
                    self.kernel.mkdir(&directory).unwrap();
                }
            }
        }
        Ok(())
    }

    fn set(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        let names: Vec<&str> = properties.iter().map(|property| property.name).collect();
        self.note(format!("set {unit} {}", names.join(" ")))
    }

    fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        self.note(format!("stop {unit}"))
    }
}

impl FakeKernel {
    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.fault(path)?;
        std::fs::create_dir(path)?;
        self.populate(path);
        Ok(())
    }
}
