//! Reads cgroups and processes from the kernel. Blocking: for a thread that may block.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::figures::{self, Depth, Figures, Files, Memory};
use super::network::{self, Interface};
use super::pressure;
use super::sample::{Cgroup, Processes};
use crate::cgroup::{Hierarchy, Version};
use crate::model::{Timestamp, clock};
use crate::sys::machine::MachineFacts;

/// What a container's cgroup is called, around its id: by the cgroupfs driver, and by containerd's and CRI-O's naming of
/// systemd scopes.
const CONTAINER_NAMES: [(&str, &str); 3] = [("", ""), ("cri-containerd-", ".scope"), ("crio-", ".scope")];

/// Reads below one hierarchy.
pub(super) struct Reader<'a> {
    pub hierarchy: &'a Hierarchy,
    pub proc: &'a Path,
    pub machine: &'a MachineFacts,
}

struct Directory<'a> {
    hierarchy: &'a Hierarchy,
    relative: &'a Path,
}

impl Files for Directory<'_> {
    fn read(&mut self, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(directory(self.hierarchy, controller, self.relative)?.join(file)).ok()
    }
}

/// Where a cgroup is for a controller.
fn directory(hierarchy: &Hierarchy, controller: &str, relative: &Path) -> Option<PathBuf> {
    let mount = match hierarchy.version() {
        Version::V1 => hierarchy.mount_of(controller)?,
        Version::V2 => hierarchy.mounts().first()?,
    };
    Some(mount.point.join(relative))
}

impl Reader<'_> {
    /// The cgroup of that path from the root; none if there is none.
    pub(super) fn cgroup(&self, path: &str, depth: Depth) -> Option<Cgroup> {
        let relative = Path::new(path.trim_start_matches('/'));
        let whole = relative.as_os_str().is_empty();
        let created_at = self.created_at(relative)?;
        let mut files = Directory { hierarchy: self.hierarchy, relative };
        let mut figures = match self.hierarchy.version() {
            Version::V1 => figures::of_v1(&mut files, depth),
            Version::V2 => figures::of_v2(&mut files, depth),
        };
        if whole {
            self.complete_root(&mut figures, depth);
        }
        let processes = if depth >= Depth::Full { self.processes(relative, depth) } else { Processes::default() };
        Some(Cgroup { path: path.to_owned(), at: clock::now(), created_at, figures, nano_cores: None, processes })
    }

    /// The agent's own cgroup, if it has one that is not the root and is the same for processors and memory.
    pub(super) fn own_cgroup(&self) -> Option<String> {
        cgroup_of(&fs::read_to_string(self.proc.join("self/cgroup")).ok()?)
    }

    /// The path of a container's or sandbox's cgroup below its pod's.
    pub(super) fn container_path(&self, pod: &str, id: &str) -> Option<String> {
        let paths = CONTAINER_NAMES.iter().map(|(before, after)| format!("{pod}/{before}{id}{after}"));
        let is_there = |path: &String| {
            let relative = Path::new(path.trim_start_matches('/'));
            directory(self.hierarchy, "memory", relative).is_some_and(|directory| directory.is_dir())
        };
        paths.into_iter().find(is_there)
    }

    /// The device file of a block device.
    pub(super) fn device(&self, (major, minor): (u32, u32)) -> Option<String> {
        let facts = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
        let name = facts.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(format!("/dev/{name}"))
    }

    /// The device file of the file system that holds a path.
    pub(super) fn device_of_path(&self, path: &Path) -> Option<String> {
        let device = fs::metadata(path).ok()?.dev();
        self.device((rustix::fs::major(device), rustix::fs::minor(device)))
    }

    /// The interfaces that a process sees.
    pub(super) fn interfaces(&self, process: &str) -> Vec<Interface> {
        let text = fs::read_to_string(self.proc.join(process).join("net/dev"));
        text.map(|text| network::parse(&text)).unwrap_or_default()
    }

    /// The first process of a cgroup.
    pub(super) fn first_process(&self, path: &str) -> Option<String> {
        let relative = Path::new(path.trim_start_matches('/'));
        let text = self.process_list(relative)?;
        // Processes of another process namespace are shown as 0.
        text.lines().find(|pid| *pid != "0").map(str::to_owned)
    }

    fn process_list(&self, relative: &Path) -> Option<String> {
        fs::read_to_string(directory(self.hierarchy, "cpu", relative)?.join("cgroup.procs")).ok()
    }

    fn processes(&self, relative: &Path, depth: Depth) -> Processes {
        let text = self.process_list(relative).unwrap_or_default();
        let mut processes =
            Processes { count: u64::try_from(text.lines().count()).unwrap_or(0), ..Processes::default() };
        if depth < Depth::Everything {
            return processes;
        }
        for pid in text.lines() {
            let directory = self.proc.join(pid);
            for descriptor in fs::read_dir(directory.join("fd")).into_iter().flatten().flatten() {
                processes.descriptors += 1;
                let target = fs::read_link(descriptor.path());
                processes.sockets +=
                    u64::from(target.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket")));
            }
            if processes.open_files_limit.is_none() {
                processes.open_files_limit =
                    fs::read_to_string(directory.join("limits")).ok().and_then(|text| open_files_limit(&text));
            }
        }
        processes
    }

    /// When a cgroup was made: the kernel touches these files only then.
    fn created_at(&self, relative: &Path) -> Option<Timestamp> {
        let directory = directory(self.hierarchy, "memory", relative)?;
        let file = match self.hierarchy.version() {
            Version::V1 => "cgroup.clone_children",
            Version::V2 => "cgroup.events",
        };
        let times = [directory.as_path(), &directory.join(file)].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Timestamp::new(metadata.mtime(), i32::try_from(metadata.mtime_nsec()).unwrap_or(0)).ok()
        });
        times.into_iter().flatten().min()
    }

    /// What the kernel tells of the whole machine elsewhere than in the root's own files.
    fn complete_root(&self, figures: &mut Figures, depth: Depth) {
        let read = |file: &str| fs::read_to_string(self.proc.join(file)).ok();
        let memory = figures.memory.get_or_insert_with(Memory::default);
        memory.limit = u64::try_from(self.machine.memory_bytes).ok();
        memory.swap_limit = u64::try_from(self.machine.swap_bytes).ok();
        if self.hierarchy.version() == Version::V2 {
            // The root has no memory.current.
            let text = read("meminfo").unwrap_or_default();
            memory.usage = meminfo(&text, "MemTotal").saturating_sub(meminfo(&text, "MemFree"));
            memory.working_set = memory.usage.saturating_sub(memory.inactive_file);
            memory.swap = meminfo(&text, "SwapTotal").saturating_sub(meminfo(&text, "SwapFree"));
        }
        if depth < Depth::Full {
            return;
        }
        // The root of v1 has no pressure files, and older kernels have none in the root of v2.
        let pressure = |what: &str| read(&format!("pressure/{what}")).map(|text| pressure::parse(&text));
        if let Some(pressure) = pressure("memory") {
            memory.pressure = pressure;
        }
        if let (Some(cpu), Some(pressure)) = (figures.cpu.as_mut(), pressure("cpu")) {
            cpu.pressure = pressure;
        }
        if let Some(pressure) = pressure("io") {
            figures.io_pressure = Some(pressure);
        }
    }
}

/// The cgroup by the lines of `/proc/<pid>/cgroup`.
fn cgroup_of(text: &str) -> Option<String> {
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            controllers.split(',').any(|known| known == controller).then_some(path)
        })
    };
    let (cpu, memory) = (path_of("cpu").or(path_of("")), path_of("memory").or(path_of("")));
    cpu.filter(|cpu| Some(*cpu) == memory && *cpu != "/").map(str::to_owned)
}

/// A line of `/proc/meminfo`, bytes.
fn meminfo(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

/// The soft limit in `/proc/<pid>/limits`.
fn open_files_limit(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0::/system.slice/kubelet.service\n", Some("/system.slice/kubelet.service"))]
    #[case("0::/\n", None)]
    #[case("3:cpu,cpuacct:/a\n2:memory:/a\n0::/b\n", Some("/a"))]
    #[case("3:cpu,cpuacct:/a\n2:memory:/b\n", None)]
    #[case("", None)]
    fn an_own_cgroup_is_one_for_processors_and_memory(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(cgroup_of(text).as_deref(), expected);
    }

    #[test]
    fn lines_of_proc_files() {
        let text = "MemTotal:       24683656 kB\nMemFree:         1000 kB\nSwapTotal:  0 kB\n";
        assert_eq!((meminfo(text, "MemTotal"), meminfo(text, "MemFree")), (24_683_656 * 1024, 1_024_000));
        assert_eq!((meminfo(text, "Mem"), meminfo(text, "None")), (0, 0));
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1048576              1048576              files\n";
        assert_eq!(open_files_limit(limits), Some(1_048_576));
        assert_eq!(open_files_limit("Max open files  unlimited unlimited files"), Some(-1));
        assert_eq!(open_files_limit("Max processes  1 1 processes"), None);
    }
}
