//! What the machine is: processors, memory, huge pages, identities, kernel and distribution, process limits.
//!
//! Counted and chosen as the peer's cAdvisor does (`google/cadvisor/lib/machine`, `utils/sysinfo`), so that a Node object
//! shows the same numbers whichever agent writes it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cpu_list;

/// What keeps the machine from being described.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file that every kernel has could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no usable {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The value looked for.
        what: &'static str,
    },
    /// The machine has no name.
    #[error("the host name is empty: set one, or give --hostname-override")]
    EmptyHostname,
}

/// One size of huge pages and how many of them are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// Size of a page, bytes.
    pub page_bytes: i64,
    /// Pages in the pool (`nr_hugepages`).
    pub pages: i64,
}

/// What does not change while the machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// Online logical processors.
    pub cpus: u32,
    /// `MemTotal`, bytes.
    pub memory_bytes: i64,
    /// `SwapTotal`, bytes.
    pub swap_bytes: i64,
    /// Huge page pools, smallest page first.
    pub huge_pages: Vec<HugePages>,
    /// `/etc/machine-id`; empty where there is none.
    pub machine_id: String,
    /// The firmware's UUID; empty where there is none.
    pub system_uuid: String,
    /// Differs after each boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// The operating system by Go's name.
    pub operating_system: String,
    /// The processor architecture by Go's name, such as `amd64`.
    pub architecture: String,
    /// Whether the agent runs in a user namespace of its own.
    pub in_user_namespace: bool,
}

/// How many processes the machine may hold and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessLimits {
    /// The lower of `kernel.pid_max` and `kernel.threads-max`.
    pub maximum: i64,
    /// Tasks that exist now.
    pub running: i64,
}

/// Reads the machine below a root, `/` for the real one.
#[derive(Clone, Debug)]
pub struct MachineReader {
    root: PathBuf,
}

/// Files that may hold the machine's id, first existing one wins.
const MACHINE_ID_FILES: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];
/// Files that may hold the firmware's UUID: DMI, POWER in two forms, s390.
const SYSTEM_UUID_FILES: [&str; 4] =
    ["sys/class/dmi/id/product_uuid", "proc/device-tree/system-id", "proc/device-tree/vm,uuid", "etc/machine-id"];
/// The inode that the kernel gives the initial user namespace (`PROC_USER_INIT_INO`).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

impl Default for MachineReader {
    fn default() -> Self {
        MachineReader::below("/")
    }
}

impl MachineReader {
    /// A reader of the tree below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        MachineReader { root: root.into() }
    }

    /// Everything that does not change while the machine runs. Only memory and processors are required; identities
    /// that cannot be read are empty, as in the peer.
    pub fn facts(&self) -> Result<MachineFacts, MachineError> {
        let memory = self.memory_information()?;
        let total = memory.get("MemTotal").copied();
        let name = rustix::system::uname();
        Ok(MachineFacts {
            cpus: self.online_processors()?,
            memory_bytes: total
                .ok_or_else(|| MachineError::Malformed { path: self.path("proc/meminfo"), what: "MemTotal" })?,
            swap_bytes: memory.get("SwapTotal").copied().unwrap_or(0),
            huge_pages: self.huge_pages()?,
            machine_id: self.first_of(&MACHINE_ID_FILES),
            system_uuid: self.first_of(&SYSTEM_UUID_FILES).to_lowercase(),
            boot_id: self.first_of(&["proc/sys/kernel/random/boot_id"]),
            kernel_version: name.release().to_string_lossy().into_owned(),
            os_image: self.os_image(),
            operating_system: "linux".to_owned(),
            architecture: go_architecture().to_owned(),
            in_user_namespace: self.in_user_namespace(),
        })
    }

    /// The process limits and the number of tasks now.
    pub fn process_limits(&self) -> Result<ProcessLimits, MachineError> {
        let pid_max = self.number("proc/sys/kernel/pid_max", "number")?;
        let maximum = match self.number("proc/sys/kernel/threads-max", "number") {
            Ok(threads) => pid_max.min(threads),
            Err(_) => pid_max,
        };
        let load = self.read("proc/loadavg")?;
        let running = load
            .split_ascii_whitespace()
            .nth(3)
            .and_then(|tasks| tasks.split_once('/'))
            .and_then(|(_, total)| total.parse().ok())
            .ok_or_else(|| MachineError::Malformed { path: self.path("proc/loadavg"), what: "number of tasks" })?;
        Ok(ProcessLimits { maximum, running })
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    fn read(&self, relative: &str) -> Result<String, MachineError> {
        let path = self.path(relative);
        match fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(source) => Err(MachineError::Read { path, source }),
        }
    }

    fn number(&self, relative: &str, what: &'static str) -> Result<i64, MachineError> {
        let text = self.read(relative)?;
        text.trim().parse().map_err(|_| MachineError::Malformed { path: self.path(relative), what })
    }

    /// The first of the files that can be read, without surrounding blanks and NULs.
    fn first_of(&self, files: &[&str]) -> String {
        let text = files.iter().find_map(|file| self.read(file).ok()).unwrap_or_default();
        text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
    }

    /// `/proc/meminfo` in bytes.
    fn memory_information(&self) -> Result<BTreeMap<String, i64>, MachineError> {
        let text = self.read("proc/meminfo")?;
        let entries = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let kibibytes: i64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some((name.to_owned(), kibibytes.checked_mul(1024)?))
        });
        Ok(entries.collect())
    }

    /// The processors that are online, as the kernel lists them (`0-3,8`).
    pub fn online_cpus(&self) -> Result<String, MachineError> {
        Ok(self.read("sys/devices/system/cpu/online")?.trim().to_owned())
    }

    /// Processors that belong to a NUMA node and are online; without NUMA nodes all that are present, without /sys those
    /// of /proc/cpuinfo.
    fn online_processors(&self) -> Result<u32, MachineError> {
        let online = self.online_cpus().ok().and_then(|text| cpu_list::parse(&text));
        let is_online = |cpu: &u32| online.as_ref().is_none_or(|online| online.contains(cpu));
        let nodes = numbered_entries(&self.path("sys/devices/system/node"), "node");
        let mut count = if nodes.is_empty() {
            numbered_entries(&self.path("sys/devices/system/cpu"), "cpu").len()
        } else {
            let in_node =
                |node: &u32| numbered_entries(&self.path(&format!("sys/devices/system/node/node{node}")), "cpu");
            nodes.iter().flat_map(in_node).filter(is_online).count()
        };
        if count == 0 {
            let text = self.read("proc/cpuinfo")?;
            count = text.lines().filter(|line| line.split(':').next().map(str::trim) == Some("processor")).count();
        }
        match u32::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => {
                Err(MachineError::Malformed { path: self.path("sys/devices/system/cpu"), what: "number of processors" })
            }
        }
    }

    /// A kernel without huge pages has no such directory, which is no error.
    fn huge_pages(&self) -> Result<Vec<HugePages>, MachineError> {
        const DIRECTORY: &str = "sys/kernel/mm/hugepages";
        let mut pools = Vec::new();
        let Ok(entries) = fs::read_dir(self.path(DIRECTORY)) else { return Ok(pools) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
            let Some(kibibytes) = size.and_then(|size| size.parse::<i64>().ok()) else { continue };
            let pages = self.number(&format!("{DIRECTORY}/{name}/nr_hugepages"), "number of huge pages")?;
            pools.push(HugePages { page_bytes: kibibytes.saturating_mul(1024), pages });
        }
        pools.sort_by_key(|pool| pool.page_bytes);
        Ok(pools)
    }

    fn os_image(&self) -> String {
        // /usr/lib holds the file on systems without state in /etc.
        let Some(text) = ["etc/os-release", "usr/lib/os-release"].iter().find_map(|file| self.read(file).ok()) else {
            return "Unknown".to_owned();
        };
        let name = text.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="));
        name.map_or_else(|| "Linux".to_owned(), |name| name.trim().trim_matches(['"', '\'']).to_owned())
    }

    fn in_user_namespace(&self) -> bool {
        match fs::read_link(self.path("proc/self/ns/user")) {
            Ok(namespace) => namespace.as_os_str() != INITIAL_USER_NAMESPACE,
            Err(_) => match self.read("proc/self/uid_map") {
                // An empty map is that of a namespace just made.
                Ok(map) => map.split_ascii_whitespace().take(3).collect::<Vec<_>>() != ["0", "0", "4294967295"],
                Err(_) => false,
            },
        }
    }
}

/// The kernel's name of the machine (`uname -n`).
pub fn hostname() -> Result<String, MachineError> {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let name = name.trim();
    if name.is_empty() { Err(MachineError::EmptyHostname) } else { Ok(name.to_owned()) }
}

/// The processor architecture by Go's name, such as `amd64`.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Entries of a directory named by a prefix and a number, such as `cpu0`: their numbers.
fn numbered_entries(directory: &Path, prefix: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok();
    entries.flatten().filter_map(number).collect()
}

/// When the machine was booted, in seconds since the epoch (`btime` of `/proc/stat`), if the kernel tells.
pub fn boot_second(proc: &Path) -> Option<i64> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, MachineReader) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let reader = MachineReader::below(directory.path());
        (directory, reader)
    }

    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal:        8127544 kB\nMemFree: 1 kB\nSwapTotal:   1024 kB\n");

    #[test]
    fn reads_a_whole_machine() {
        let (_directory, reader) = machine(&[
            MEMORY,
            ("sys/devices/system/cpu/online", "0-1,3\n"),
            ("sys/devices/system/node/node0/cpu0/x", ""),
            ("sys/devices/system/node/node0/cpu1/x", ""),
            ("sys/devices/system/node/node1/cpu2/x", ""),
            ("sys/devices/system/node/node1/cpu3/x", ""),
            ("sys/devices/system/node/node1/cpumap", ""),
            ("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "64\n"),
            ("etc/machine-id", "0123abc\n"),
            ("sys/class/dmi/id/product_uuid", "8C1F-AA\n"),
            ("proc/sys/kernel/random/boot_id", "b00t\n"),
            ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            ("proc/self/uid_map", "         0          0 4294967295\n"),
        ]);
        let facts = reader.facts().unwrap();
        assert_eq!(facts.cpus, 3, "cpu2 is offline");
        assert_eq!(facts.memory_bytes, 8_127_544 * 1024);
        assert_eq!(facts.swap_bytes, 1024 * 1024);
        assert_eq!(
            facts.huge_pages,
            [HugePages { page_bytes: 2 << 20, pages: 64 }, HugePages { page_bytes: 1 << 30, pages: 0 }]
        );
        assert_eq!((facts.machine_id.as_str(), facts.system_uuid.as_str()), ("0123abc", "8c1f-aa"));
        assert_eq!((facts.boot_id.as_str(), facts.os_image.as_str()), ("b00t", "Debian GNU/Linux 12 (bookworm)"));
        assert!(!facts.in_user_namespace);
        assert!(!facts.kernel_version.is_empty());
    }

    #[test]
    fn falls_back_where_files_are_missing() {
        let (_directory, reader) = machine(&[
            MEMORY,
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: x\nprocessor\t: 1\n"),
            ("var/lib/dbus/machine-id", "dbus\n"),
            ("proc/device-tree/vm,uuid", "AB-1\0"),
            ("proc/self/uid_map", "0 1000 1\n"),
        ]);
        let facts = reader.facts().unwrap();
        assert_eq!(facts.cpus, 2);
        assert_eq!((facts.machine_id.as_str(), facts.system_uuid.as_str()), ("dbus", "ab-1"));
        assert_eq!(facts.os_image, "Unknown");
        assert_eq!(facts.huge_pages, []);
        assert!(facts.in_user_namespace);
    }

    #[test]
    fn a_machine_without_memory_or_processors_is_an_error_that_names_the_file() {
        let (_directory, reader) = machine(&[("proc/meminfo", "MemFree: 1 kB\n"), ("proc/cpuinfo", "processor : 0\n")]);
        assert!(reader.facts().unwrap_err().to_string().ends_with("proc/meminfo holds no usable MemTotal"));
        let (_directory, reader) = machine(&[MEMORY]);
        assert!(reader.facts().unwrap_err().to_string().ends_with("proc/cpuinfo"));
        let (_directory, reader) = machine(&[
            MEMORY,
            ("proc/cpuinfo", "processor : 0\n"),
            ("sys/kernel/mm/hugepages/hugepages-4kB/nr_hugepages", "x"),
        ]);
        assert!(reader.facts().unwrap_err().to_string().ends_with("holds no usable number of huge pages"));
    }

    #[test]
    fn reads_this_machine() {
        let reader = MachineReader::default();
        let facts = reader.facts().unwrap();
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && !facts.boot_id.is_empty());
        let limits = reader.process_limits().unwrap();
        assert!(limits.maximum > limits.running && limits.running > 0);
        assert!(!hostname().unwrap().is_empty());
    }

    #[rstest]
    #[case("PRETTY_NAME='Alpine Linux v3.20'\n", "Alpine Linux v3.20")]
    #[case("PRETTY_NAME=Bare\n", "Bare")]
    #[case("NAME=x\n", "Linux")]
    fn reads_the_distribution(#[case] text: &str, #[case] expected: &str) {
        let (_directory, reader) = machine(&[("usr/lib/os-release", text)]);
        assert_eq!(reader.os_image(), expected);
    }

    #[test]
    fn the_lower_process_limit_counts() {
        let (_directory, reader) = machine(&[
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/kernel/threads-max", "63000\n"),
            ("proc/loadavg", "0.1 0.2 0.3 2/417 1234\n"),
        ]);
        assert_eq!(reader.process_limits().unwrap(), ProcessLimits { maximum: 63_000, running: 417 });
    }
}
