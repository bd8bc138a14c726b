//! The few things that are asked of the kernel on cgroups, behind a trait so that tests can play it on a temporary folder.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use rustix::process::{Pid, Signal};

/// What the kernel does with cgroup directories and their control files.
pub(super) trait Kernel: Send + Sync {
    /// Makes a cgroup below an existing one.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Removes a cgroup that holds no process and no other cgroup.
    fn rmdir(&self, path: &Path) -> io::Result<()>;
    /// Reads a control file.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Writes a control file; never makes one.
    fn write(&self, path: &Path, content: &str) -> io::Result<()>;
    /// Sends SIGKILL; fine if the process is gone. Never 0 or below, which would reach whole groups.
    fn kill(&self, pid: i32) -> io::Result<()>;
}

/// The machine's own kernel.
pub(super) struct HostKernel;

impl Kernel for HostKernel {
    fn mkdir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn write(&self, path: &Path, content: &str) -> io::Result<()> {
        // One write call: the kernel takes each as a whole value.
        OpenOptions::new().write(true).open(path)?.write_all(content.as_bytes())
    }

    fn kill(&self, pid: i32) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        match rustix::process::kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
