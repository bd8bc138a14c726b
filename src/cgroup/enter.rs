//! The cgroup that the agent itself runs in (`kubeletCgroups`; `ensureProcessInContainerWithOOMScore` of the peer's container
//! manager).

use std::io;
use std::path::PathBuf;

use super::error::CgroupError;
use super::hierarchy::Role;
use super::name::{CgroupName, Driver};
use super::tree::{PROCESSES, Tree};

impl Tree {
    /// Puts a process into the cgroup at that path, in every hierarchy. By the cgroupfs driver it is made where it is missing;
    /// beside systemd it must be there, for others make no cgroups in its tree.
    ///
    /// Fails if the path has `..` in it, if the cgroup cannot be made, or if the kernel refuses the process.
    pub(super) fn enter(&self, path: &str, pid: u32) -> Result<(), CgroupError> {
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
