//! The cgroup of what runs on the machine beside pods and agents (`systemCgroups`): where no systemd is, nobody else takes it
//! out of the root (`ensureSystemCgroups` of the peer's container manager).

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::error::CgroupError;
use super::hierarchy::Role;
use super::name::CgroupName;
use super::tree::{PROCESSES, Tree, is};

/// Looks at the root until nothing is left there: processes that start meanwhile begin in their parents' cgroup.
const ROUNDS: usize = 10;

impl Tree {
    /// Makes the cgroup at that path and moves the processes of the root into it, but for the first one and the kernel's.
    /// How many that were in the hierarchy with the most of them.
    ///
    /// Fails for the root itself, and with the last move that the kernel refused.
    pub(super) fn gather(&self, path: &str, proc: &Path) -> Result<usize, CgroupError> {
        let name = CgroupName::from_cgroupfs(path).filter(|name| !name.is_root());
        let name = name.ok_or_else(|| CgroupError::SystemCgroup { path: path.to_owned() })?;
        self.make_all(&name)?;
        let mut most = 0;
        let mut refused = Ok(());
        for mount in self.hierarchy.mounts().iter().filter(|mount| mount.role != Role::Cleaned) {
            let directory = mount.point.join(name.relative(self.driver()));
            if !directory.is_dir() {
                continue;
            }
            let target = directory.join(PROCESSES);
            let mut moved = 0;
            for _ in 0..ROUNDS {
                let root = mount.point.join(PROCESSES);
                let listed = self.kernel.read(&root).map_err(|source| CgroupError::Read { path: root, source })?;
                let pids = movable(&listed, proc);
                if pids.is_empty() {
                    break;
                }
                let before = moved;
                for pid in pids {
                    match self.kernel.write(&target, &pid.to_string()) {
                        Ok(()) => moved += 1,
                        Err(error) if is(&error, Errno::SRCH) => {}
                        Err(source) => refused = Err(not_moved(&target, pid, source)),
                    }
                }
                if moved == before {
                    break;
                }
            }
            most = most.max(moved);
        }
        refused.map(|()| most)
    }
}

fn not_moved(target: &Path, pid: u32, source: io::Error) -> CgroupError {
    CgroupError::Write { path: target.to_owned(), content: pid.to_string(), source }
}

/// The processes of a list that may be moved. The kernel's have no program; 0 stands for one of another pid namespace.
fn movable(listed: &str, proc: &Path) -> Vec<u32> {
    let is_of_kernel = |pid: u32| {
        let program = std::fs::read_link(proc.join(pid.to_string()).join("exe"));
        program.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let pids = listed.lines().filter_map(|line| line.trim().parse().ok());
    pids.filter(|pid| *pid > 1 && !is_of_kernel(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_first_process_nor_the_kernels_are_moved() {
        let proc = tempfile::tempdir().unwrap();
        for pid in [1, 40, 41] {
            std::fs::create_dir(proc.path().join(pid.to_string())).unwrap();
            std::os::unix::fs::symlink("/bin/sh", proc.path().join(format!("{pid}/exe"))).unwrap();
        }
        std::fs::create_dir(proc.path().join("2")).unwrap();
        assert_eq!(movable("0\n1\n2\n40\n41\n", proc.path()), [40, 41]);
    }
}
