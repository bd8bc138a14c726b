//! The cgroup that the agent itself runs in (`kubeletCgroups`; `ensureProcessInContainerWithOOMScore` of the peer's container
//! manager).

use std::io;
use std::path::PathBuf;

use super::error::CgroupError;
use super::hierarchy::{Hierarchy, Role};
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
    tree.enter(path, std::process::id())
}

impl Tree {
    fn enter(&self, path: &str, pid: u32) -> Result<(), CgroupError> {
        let invalid = || CgroupError::Create { path: PathBuf::from(path), source: io::ErrorKind::InvalidInput.into() };
        let name = CgroupName::from_cgroupfs(path).ok_or_else(invalid)?;
        if self.driver() == Driver::Cgroupfs {
            self.make_all(&name)?;
        }
        let relative = name.relative(Driver::Cgroupfs);
        for mount in self.hierarchy.mounts().iter().filter(|mount| mount.role != Role::Cleaned) {
            let file = mount.point.join(&relative).join(PROCESSES);
            match self.kernel.write(&file, &pid.to_string()) {
                Err(_) if mount.role == Role::Tried => {}
                Err(source) => return Err(CgroupError::Write { path: file, content: pid.to_string(), source }),
                Ok(()) => {}
            }
        }
        Ok(())
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
        tree.enter("/agents/kubelet.slice", 7).unwrap();
        for mount in mounts {
            assert_eq!(kernel.content(&format!("{mount}/agents/kubelet.slice/cgroup.procs")), "7", "{mount}");
        }
        tree.enter("agents/kubelet.slice/", 7).unwrap();
        tree.enter("/agents/../x", 7).unwrap_err();
    }
}
