//! The cgroup that the agent itself runs in (`kubeletCgroups`; `ensureProcessInContainerWithOOMScore` of the peer's container
//! manager).

use std::io;
use std::path::PathBuf;

use super::error::CgroupError;
use super::hierarchy::{Hierarchy, Mount, Role};
use super::kernel::HostKernel;
use super::name::{CgroupName, Driver};
use super::tree::{PROCESSES, Tree};

/// Puts this process into the cgroup at that path, in every hierarchy. By the cgroupfs driver it is made where it is missing;
/// beside systemd it must be there, for others make no cgroups in its tree. Blocks.
///
/// To be called before the process has grown: memory stays charged to the cgroup in which it was first touched.
///
/// Fails if the path has `..` in it, if the cgroup cannot be made, or if the kernel refuses the process.
pub fn enter(hierarchy: Hierarchy, driver: Driver, path: &str) -> Result<(), CgroupError> {
    let tree = Tree { hierarchy, kernel: Box::new(HostKernel), units: Tree::host_units(driver) };
    tree.enter(path, std::process::id()).map(drop)
}

impl Tree {
    /// See [`enter()`]. Nothing is done if the process is there; whether it was not.
    pub(super) fn enter(&self, path: &str, pid: u32) -> Result<bool, CgroupError> {
        let invalid = || CgroupError::Create { path: PathBuf::from(path), source: io::ErrorKind::InvalidInput.into() };
        let name = CgroupName::from_cgroupfs(path).ok_or_else(invalid)?;
        let relative = name.relative(Driver::Cgroupfs);
        let entered = self.hierarchy.mounts().iter().filter(|mount| mount.role != Role::Cleaned);
        let is_there = |mount: &Mount| {
            let processes = self.kernel.read(&mount.point.join(&relative).join(PROCESSES)).unwrap_or_default();
            processes.lines().any(|line| line.trim().parse() == Ok(pid))
        };
        if entered.clone().all(|mount| mount.role == Role::Tried || is_there(mount)) {
            return Ok(false);
        }
        if self.driver() == Driver::Cgroupfs {
            self.make_all(&name)?;
        }
        for mount in entered {
            let file = mount.point.join(&relative).join(PROCESSES);
            match self.kernel.write(&file, &pid.to_string()) {
                Err(_) if mount.role == Role::Tried => {}
                Err(source) => return Err(CgroupError::Write { path: file, content: pid.to_string(), source }),
                Ok(()) => {}
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;

    use super::*;
    use crate::cgroup::fake::FakeKernel;

    #[rstest]
    #[case(FakeKernel::v1(), &["cpu,cpuacct", "memory", "cpuset", "pids"])]
    #[case(FakeKernel::v2(), &["."])]
    fn the_agent_runs_in_the_cgroup_that_it_is_told(#[case] kernel: Arc<FakeKernel>, #[case] mounts: &[&str]) {
        let tree = Tree { hierarchy: kernel.hierarchy(), kernel: Box::new(Arc::clone(&kernel)), units: None };
        assert!(tree.enter("/agents/kubelet.slice", 7).unwrap());
        for mount in mounts {
            assert_eq!(kernel.content(&format!("{mount}/agents/kubelet.slice/cgroup.procs")), "7", "{mount}");
        }
        kernel.take_writes();
        assert!(!tree.enter("agents/kubelet.slice/", 7).unwrap());
        assert!(kernel.take_writes().is_empty(), "it is there");
        // Moved away by somebody else, in one hierarchy.
        kernel.put(&format!("{}/agents/kubelet.slice", mounts[0]), &[8]);
        assert!(tree.enter("/agents/kubelet.slice", 7).unwrap());
        assert!(!tree.enter("/agents/kubelet.slice", 7).unwrap());
        tree.enter("/agents/../x", 7).unwrap_err();
    }
}
