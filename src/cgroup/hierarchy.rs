//! Which cgroup hierarchies are mounted, and where. Found out once at start; nothing on a pod's path reads mountinfo again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::model::linux_resources::huge_page_unit_of_sysfs_name;

use super::error::CgroupError;

/// `f_type` of a cgroup v2 file system (linux/magic.h).
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
/// Controllers that the node limits pods by on v2.
const USED_ON_V2: [&str; 5] = ["cpu", "cpuset", "memory", "hugetlb", "pids"];
/// Controllers without whose hierarchies a v1 cgroup does not count as there.
const USED_ON_V1: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "name=systemd", "pids", "hugetlb"];
/// Further v1 hierarchies in which runtimes put containers, and so pods get their cgroup. Not `devices`: the runtime
/// alone says what may be opened there.
const JOINED_ON_V1: [&str; 7] = ["blkio", "net_cls", "net_prio", "perf_event", "freezer", "rdma", "misc"];

/// The interface of the kernel's cgroups. A hybrid host (v1 controllers, a v2 hierarchy beside them) counts as v1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller, or a few together.
    V1,
    /// One hierarchy for all.
    V2,
}

impl Version {
    /// 1 or 2, as the metric `kubelet_cgroup_version` has it.
    pub fn number(self) -> u8 {
        match self {
            Version::V1 => 1,
            Version::V2 => 2,
        }
    }
}

/// Where the host shows its cgroups.
#[derive(Clone, Debug)]
pub struct HostPaths {
    /// The cgroup mount or the directory of the cgroup mounts.
    pub cgroup: PathBuf,
    /// The process file system.
    pub proc: PathBuf,
    /// One entry per huge page size.
    pub huge_pages: PathBuf,
}

impl Default for HostPaths {
    fn default() -> Self {
        HostPaths {
            cgroup: "/sys/fs/cgroup".into(),
            proc: "/proc".into(),
            huge_pages: "/sys/kernel/mm/hugepages".into(),
        }
    }
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its controllers (v1; `name=...` for one without) or the ones that the node uses (v2); empty for the v2 hierarchy
    /// of a hybrid host.
    pub controllers: Vec<String>,
    /// What pods' cgroups are to this hierarchy.
    pub role: Role,
}

/// What a hierarchy is to the node's cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A cgroup exists only if it exists here.
    Required,
    /// Cgroups are made here, too.
    Joined,
    /// Cgroups are made here if that works.
    Tried,
    /// Only what others made is found and removed.
    Cleaned,
}

/// The hierarchies of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    version: Version,
    mounts: Vec<Mount>,
    page_sizes: Vec<String>,
}

impl Hierarchy {
    /// Looks at the host. Fails if a controller that every node needs (cpu, memory; cpuacct and cpuset on v1) is not there.
    pub fn detect(paths: &HostPaths) -> Result<Self, CgroupError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| CgroupError::Detect { path, source }
        };
        let page_sizes = page_sizes(&paths.huge_pages);
        let magic = rustix::fs::statfs(&paths.cgroup).map_err(|e| failed(&paths.cgroup)(e.into()))?.f_type;
        let hierarchy = if magic == CGROUP2_SUPER_MAGIC {
            let file = paths.cgroup.join("cgroup.controllers");
            let controllers = std::fs::read_to_string(&file).map_err(failed(&file))?;
            Self::v2(paths.cgroup.clone(), &controllers, page_sizes)
        } else {
            let (mountinfo, own) = (paths.proc.join("self/mountinfo"), paths.proc.join("self/cgroup"));
            let mountinfo = std::fs::read_to_string(&mountinfo).map_err(failed(&mountinfo))?;
            let own = std::fs::read_to_string(&own).map_err(failed(&own))?;
            Self::v1(&mountinfo, &own, &paths.cgroup, page_sizes)
        };
        hierarchy.require_controllers()?;
        Ok(hierarchy)
    }

    /// A v2 host by its mount point and the root's `cgroup.controllers`.
    pub fn v2(point: PathBuf, controllers: &str, page_sizes: Vec<String>) -> Self {
        let there: BTreeSet<&str> = controllers.split_whitespace().collect();
        let controllers: Vec<String> =
            USED_ON_V2.into_iter().filter(|used| there.contains(used)).map(str::to_owned).collect();
        let mounts = vec![Mount { point, controllers, role: Role::Required }];
        Self::new(Version::V2, mounts, page_sizes)
    }

    /// A v1 host by `/proc/self/mountinfo` and `/proc/self/cgroup` (which tells controllers from mount options). Of
    /// several mounts of a hierarchy the one below `prefix`, then the one with the shortest path is taken.
    pub fn v1(mountinfo: &str, own_cgroups: &str, prefix: &Path, page_sizes: Vec<String>) -> Self {
        let controllers: BTreeSet<&str> =
            own_cgroups.lines().filter_map(|line| line.split(':').nth(1)).flat_map(|list| list.split(',')).collect();
        let mut best: BTreeMap<&str, PathBuf> = BTreeMap::new();
        let mut unified = None;
        for mount in mountinfo.lines().filter_map(MountInfo::parse) {
            if mount.fs_type == "cgroup2" && mount.point == prefix.join("unified") {
                unified = Some(mount.point);
                continue;
            }
            if mount.fs_type != "cgroup" {
                continue;
            }
            let rank = |point: &Path| (!point.starts_with(prefix), point.as_os_str().len());
            for option in mount.options.split(',').filter(|option| !option.is_empty() && controllers.contains(option)) {
                let known = best.entry(option).or_insert_with(|| mount.point.clone());
                if rank(&mount.point) < rank(known) {
                    *known = mount.point.clone();
                }
            }
        }
        let mut by_point: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for (controller, point) in best {
            by_point.entry(point).or_default().push(controller.to_owned());
        }
        let mut mounts: Vec<Mount> = by_point
            .into_iter()
            .map(|(point, controllers)| Mount { role: role_on_v1(&controllers), point, controllers })
            .collect();
        mounts.extend(unified.map(|point| Mount { point, controllers: Vec::new(), role: Role::Tried }));
        Self::new(Version::V1, mounts, page_sizes)
    }

    fn new(version: Version, mut mounts: Vec<Mount>, page_sizes: Vec<String>) -> Self {
        mounts.sort_by_key(|mount| mount.role);
        let has_huge_pages = mounts.iter().any(|mount| mount.controllers.iter().any(|c| c == "hugetlb"));
        Hierarchy { version, mounts, page_sizes: if has_huge_pages { page_sizes } else { Vec::new() } }
    }

    fn require_controllers(&self) -> Result<(), CgroupError> {
        let required: &[&str] = match self.version {
            Version::V1 => &["cpu", "cpuacct", "cpuset", "memory"],
            Version::V2 => &["cpu", "memory"],
        };
        let missing = required.iter().filter(|controller| self.mount_of(controller).is_none());
        let missing: Vec<String> = missing.map(|controller| (*controller).to_owned()).collect();
        if missing.is_empty() { Ok(()) } else { Err(CgroupError::NotMounted { controllers: missing }) }
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// All mounts, the required ones first.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount that holds a controller's files.
    pub fn mount_of(&self, controller: &str) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.controllers.iter().any(|c| c == controller))
    }

    /// Huge page sizes that can be limited, in the kernel's spelling; none without the hugetlb controller.
    pub fn page_sizes(&self) -> &[String] {
        &self.page_sizes
    }
}

fn role_on_v1(controllers: &[String]) -> Role {
    let any_of = |list: &[&str]| controllers.iter().any(|controller| list.contains(&controller.as_str()));
    if any_of(&USED_ON_V1) {
        Role::Required
    } else if any_of(&JOINED_ON_V1) {
        Role::Joined
    } else {
        Role::Cleaned
    }
}

/// The node's huge page sizes in the kernel's spelling, whether or not they can be limited; none if the kernel has none.
pub fn page_sizes(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sizes: Vec<String> =
        names.filter_map(|entry| huge_page_unit_of_sysfs_name(entry.file_name().to_str()?)).collect();
    sizes.sort();
    sizes
}

struct MountInfo<'a> {
    point: PathBuf,
    fs_type: &'a str,
    options: &'a str,
}

impl<'a> MountInfo<'a> {
    // 36 35 98:0 /root /point rw,noatime shared:1 - type source rw,superoptions
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let fs_type = file_system.next()?;
        Some(MountInfo { point: unescape(mount.split(' ').nth(4)?), fs_type, options: file_system.nth(1)? })
    }
}

// Blank, tab, newline and backslash come as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMD_V1: &str = "\
25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 25 0:28 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:16 - cgroup cgroup rw,net_cls,net_prio
38 31 0:35 / /sys/fs/cgroup/memory rw,nosuid shared:17 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/devices rw,nosuid shared:18 - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/cpuset rw,nosuid shared:19 - cgroup cgroup rw,cpuset,clone_children
41 31 0:38 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
42 31 0:39 / /sys/fs/cgroup/hugetlb rw,nosuid shared:21 - cgroup cgroup rw,hugetlb
43 31 0:40 / /sys/fs/cgroup/elogind rw shared:22 - cgroup cgroup rw,name=elogind
60 31 0:35 /sub /a/much/longer/path rw shared:17 - cgroup cgroup rw,memory
61 31 0:35 /sub /m rw shared:17 - cgroup cgroup rw,memory
";
    const OWN: &str = "12:hugetlb:/\n11:pids:/x\n10:cpuset:/\n9:devices:/\n8:memory:/\n7:net_cls,net_prio:/\n\
        6:cpu,cpuacct:/\n5:name=elogind:/\n1:name=systemd:/init.scope\n0::/init.scope\n";

    fn of(mountinfo: &str) -> Hierarchy {
        Hierarchy::v1(mountinfo, OWN, Path::new("/sys/fs/cgroup"), vec!["2MB".into()])
    }

    fn roles(hierarchy: &Hierarchy) -> Vec<(String, Role)> {
        let mounts = hierarchy.mounts().iter();
        mounts.map(|m| (m.point.file_name().unwrap().to_str().unwrap().to_owned(), m.role)).collect()
    }

    #[test]
    fn a_hybrid_host_counts_as_v1_and_every_hierarchy_has_its_role() {
        let hierarchy = of(SYSTEMD_V1);
        assert_eq!(hierarchy.version(), Version::V1);
        let expected = [
            ("cpu,cpuacct", Role::Required),
            ("cpuset", Role::Required),
            ("hugetlb", Role::Required),
            ("memory", Role::Required),
            ("pids", Role::Required),
            ("systemd", Role::Required),
            ("net_cls,net_prio", Role::Joined),
            ("unified", Role::Tried),
            ("devices", Role::Cleaned),
            ("elogind", Role::Cleaned),
        ];
        assert_eq!(roles(&hierarchy), expected.map(|(name, role)| (name.to_owned(), role)));
        assert!(hierarchy.require_controllers().is_ok());
        assert_eq!(hierarchy.page_sizes(), ["2MB"]);
    }

    #[test]
    fn controllers_mounted_together_share_their_mount() {
        let hierarchy = of(SYSTEMD_V1);
        assert_eq!(hierarchy.mount_of("cpu"), hierarchy.mount_of("cpuacct"));
        assert_eq!(hierarchy.mount_of("cpu").unwrap().controllers, ["cpu", "cpuacct"]);
        assert_eq!(hierarchy.mount_of("rw"), None);
        assert_eq!(hierarchy.mount_of("clone_children"), None);
    }

    #[test]
    fn the_usual_place_wins_then_the_shortest_path() {
        assert_eq!(of(SYSTEMD_V1).mount_of("memory").unwrap().point, Path::new("/sys/fs/cgroup/memory"));
        let elsewhere: String =
            SYSTEMD_V1.lines().filter(|l| !l.contains("/cgroup/memory")).map(|l| format!("{l}\n")).collect();
        assert_eq!(of(&elsewhere).mount_of("memory").unwrap().point, Path::new("/m"));
    }

    #[test]
    fn a_host_without_memory_cgroups_is_refused_by_name() {
        let without: String = SYSTEMD_V1.lines().filter(|l| !l.contains("memory")).map(|l| format!("{l}\n")).collect();
        let error = of(&without).require_controllers().unwrap_err();
        assert_eq!(error.to_string(), "cgroup controllers not mounted: memory");
        assert!(of("").require_controllers().is_err());
    }

    #[test]
    fn huge_pages_count_only_with_their_controller() {
        let without: String = SYSTEMD_V1.lines().filter(|l| !l.contains("hugetlb")).map(|l| format!("{l}\n")).collect();
        assert!(of(&without).page_sizes().is_empty());
        let v2 = Hierarchy::v2("/c".into(), "cpuset cpu io memory pids\n", vec!["2MB".into()]);
        assert!(v2.page_sizes().is_empty());
    }

    #[test]
    fn v2_uses_what_the_root_has() {
        let v2 = Hierarchy::v2("/c".into(), "cpuset cpu io memory hugetlb pids rdma misc\n", vec!["2MB".into()]);
        assert_eq!(v2.mounts()[0].controllers, ["cpu", "cpuset", "memory", "hugetlb", "pids"]);
        assert_eq!(v2.page_sizes(), ["2MB"]);
        assert!(v2.require_controllers().is_ok());
        let poor = Hierarchy::v2("/c".into(), "cpu pids\n", Vec::new());
        let error = poor.require_controllers().unwrap_err();
        assert_eq!(error.to_string(), "cgroup controllers not mounted: memory");
    }

    #[test]
    fn mount_points_come_unescaped() {
        let line = r"1 2 0:1 / /a\040b\134c\11 rw - cgroup cgroup rw,cpu";
        assert_eq!(MountInfo::parse(line).unwrap().point, Path::new(r"/a b\c\11"));
        assert!(MountInfo::parse("broken").is_none());
    }

    #[test]
    fn page_sizes_come_from_the_kernel_s_directory() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["hugepages-2048kB", "hugepages-1048576kB", "other"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert_eq!(page_sizes(directory.path()), ["1GB", "2MB"]);
        assert!(page_sizes(Path::new("/does/not/exist")).is_empty());
    }

    #[test]
    fn a_directory_that_is_no_cgroup_mount_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let paths = HostPaths {
            cgroup: directory.path().join("cgroup"),
            proc: directory.path().join("proc"),
            huge_pages: directory.path().join("huge"),
        };
        assert!(matches!(Hierarchy::detect(&paths), Err(CgroupError::Detect { .. })));
        std::fs::create_dir_all(paths.proc.join("self")).unwrap();
        std::fs::create_dir(&paths.cgroup).unwrap();
        std::fs::write(paths.proc.join("self/mountinfo"), "").unwrap();
        std::fs::write(paths.proc.join("self/cgroup"), "0::/\n").unwrap();
        assert!(matches!(Hierarchy::detect(&paths), Err(CgroupError::NotMounted { .. })));
    }
}
