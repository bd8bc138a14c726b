//! Mounts by the descriptor-based mount API (Linux 5.2; the mount point test needs 5.8), without helper programs.
//!
//! Every mount point is named by an open parent directory and a single name, so that no link can lead a mount elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::beneath::{Dir, Handle, is_errno};

/// Options of a tmpfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tmpfs {
    /// Most bytes it may hold; the kernel's default (half of the memory) if absent.
    pub size: Option<u64>,
}

/// What kind of file system is mounted somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// Memory.
    Tmpfs,
    /// Huge pages.
    Hugetlbfs,
    /// Anything else.
    Other,
}

/// Mounting and unmounting. Calls block; they are short unless the file system below hangs.
pub trait Mounts: fmt::Debug + Send + Sync {
    /// Mounts a tmpfs on a directory, without swap where the kernel can (Linux 6.4).
    ///
    /// # Errors
    /// As of the mount calls.
    fn mount_tmpfs(&self, parent: &Dir, name: &OsStr, options: &Tmpfs) -> io::Result<()>;

    /// Mounts a hugetlbfs with that page size, in bytes, on a directory.
    ///
    /// # Errors
    /// As of the mount calls; `EINVAL` for a page size that the kernel does not have.
    fn mount_hugetlbfs(&self, parent: &Dir, name: &OsStr, page_size: u64) -> io::Result<()>;

    /// Makes a file or directory appear at another of the same kind (a bind mount, without the mounts below it).
    ///
    /// # Errors
    /// As of the mount calls.
    fn bind(&self, source: &Handle, parent: &Dir, name: &OsStr) -> io::Result<()>;

    /// Whether the entry is where something is mounted.
    ///
    /// # Errors
    /// As of `statx(2)`.
    fn is_mount_point(&self, parent: &Dir, name: &OsStr) -> io::Result<bool>;

    /// What file system the entry is on.
    ///
    /// # Errors
    /// As of `open(2)` and `statfs(2)`.
    fn filesystem(&self, parent: &Dir, name: &OsStr) -> io::Result<Filesystem>;

    /// Takes the topmost mount off the entry. One that is in use, or has others below it, is taken out of sight at once
    /// and goes when its last user does. Nothing stored is lost by that.
    ///
    /// # Errors
    /// As of `umount2(2)`.
    fn unmount(&self, parent: &Dir, name: &OsStr) -> io::Result<()>;

    /// Makes sure that mounts below a directory are seen by containers and the other way round: binds it onto itself and
    /// shares that mount, unless it is on a shared one already. Tells whether it had to.
    ///
    /// # Errors
    /// As of the mount calls, and of reading `/proc`.
    fn share(&self, dir: &Path) -> io::Result<bool>;
}

/// The kernel's mounts.
#[derive(Debug, Default)]
pub struct KernelMounts {
    noswap: OnceLock<bool>,
}

impl KernelMounts {
    /// Whether tmpfs knows `noswap` here; found out by asking for it once, without mounting anything.
    fn supports_noswap(&self) -> bool {
        *self.noswap.get_or_init(|| {
            rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
                .and_then(|context| rustix::mount::fsconfig_set_flag(&context, "noswap"))
                .is_ok()
        })
    }

    fn mount_new(parent: &Dir, name: &OsStr, filesystem: &str, options: &[(&str, Option<&str>)]) -> io::Result<()> {
        let target = parent.handle(name)?;
        if !target.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        let context = rustix::mount::fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(&context, *key, *value)?,
                None => rustix::mount::fsconfig_set_flag(&context, *key)?,
            }
        }
        rustix::mount::fsconfig_create(&context)?;
        let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&mount, "", &target, "", flags)?)
    }
}

impl Mounts for KernelMounts {
    fn mount_tmpfs(&self, parent: &Dir, name: &OsStr, options: &Tmpfs) -> io::Result<()> {
        let size = options.size.map(|bytes| bytes.to_string());
        let mut list = vec![("source", Some("tmpfs"))];
        list.extend(size.as_deref().map(|size| ("size", Some(size))));
        if self.supports_noswap() {
            list.push(("noswap", None));
        }
        Self::mount_new(parent, name, "tmpfs", &list)
    }

    fn mount_hugetlbfs(&self, parent: &Dir, name: &OsStr, page_size: u64) -> io::Result<()> {
        let page_size = page_size.to_string();
        Self::mount_new(parent, name, "hugetlbfs", &[("source", Some("nodev")), ("pagesize", Some(&page_size))])
    }

    fn bind(&self, source: &Handle, parent: &Dir, name: &OsStr) -> io::Result<()> {
        let target = parent.handle(name)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = rustix::mount::open_tree(source, "", flags)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&mount, "", &target, "", flags)?)
    }

    fn is_mount_point(&self, parent: &Dir, name: &OsStr) -> io::Result<bool> {
        // Not asking the file system for fresh values keeps a dead network mount from hanging the caller.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let statx = rustix::fs::statx(parent, name, flags, StatxFlags::TYPE)?;
        if !statx.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel cannot tell mount points (statx without STATX_ATTR_MOUNT_ROOT, Linux 5.8 has it)",
            ));
        }
        Ok(statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    fn filesystem(&self, parent: &Dir, name: &OsStr) -> io::Result<Filesystem> {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
        let handle = parent.handle(name)?;
        let kind = rustix::fs::fstatfs(&handle)?.f_type;
        #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between architectures")]
        let kind = kind as i64 & 0xffff_ffff;
        Ok(match kind {
            TMPFS_MAGIC => Filesystem::Tmpfs,
            HUGETLBFS_MAGIC => Filesystem::Hugetlbfs,
            _ => Filesystem::Other,
        })
    }

    fn unmount(&self, parent: &Dir, name: &OsStr) -> io::Result<()> {
        let path = parent.proc_path_of(name)?;
        match rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => Ok(rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?),
            other => Ok(other?),
        }
    }

    fn share(&self, dir: &Path) -> io::Result<bool> {
        let statx = rustix::fs::statx(CWD, dir, AtFlags::empty(), StatxFlags::MNT_ID)?;
        let mountinfo = std::fs::read_to_string("/proc/thread-self/mountinfo")?;
        if is_shared(&mountinfo, statx.stx_mnt_id) {
            return Ok(false);
        }
        rustix::mount::mount_bind(dir, dir)?;
        rustix::mount::mount_change(dir, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
        Ok(true)
    }
}

/// Whether the mount with that id is in a peer group, by the text of a `mountinfo` (proc_pid_mountinfo(5)).
fn is_shared(mountinfo: &str, id: u64) -> bool {
    let id = id.to_string();
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(&id));
    // The optional fields stand between the sixth field and a lone dash.
    line.is_some_and(|line| line.split(' ').skip(6).take_while(|f| *f != "-").any(|f| f.starts_with("shared:")))
}

/// Takes everything off an entry that is mounted there, top to bottom.
///
/// # Errors
/// As of [`Mounts::unmount`]; `EBUSY` if there is no end of it.
pub fn unmount_all(mounts: &dyn Mounts, parent: &Dir, name: &OsStr) -> io::Result<()> {
    const MOST_STACKED: u32 = 64;
    for _ in 0..MOST_STACKED {
        match mounts.is_mount_point(parent, name) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The server behind it is gone: only something mounted can say so, and it must go.
            Err(error) if is_dead(&error) => {}
            Err(error) => return Err(error),
        }
        mounts.unmount(parent, name)?;
    }
    Err(Errno::BUSY.into())
}

/// Whether a file system is there but nothing answers behind it (a stale NFS export, an ended FUSE server).
pub fn is_dead(error: &io::Error) -> bool {
    let codes = [Errno::NOTCONN, Errno::STALE, Errno::IO, Errno::HOSTDOWN, Errno::ACCESS];
    codes.iter().any(|code| is_errno(error, *code))
}

/// Stands in for the kernel in tests: keeps what would be mounted and the calls made.
#[derive(Debug, Default)]
pub struct RecordingMounts {
    state: Mutex<Recorded>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Recorded {
    mounted: BTreeMap<PathBuf, Vec<Filesystem>>,
    calls: Vec<String>,
    failing: BTreeMap<PathBuf, Errno>,
    hanging: Vec<PathBuf>,
}

impl RecordingMounts {
    fn state(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, parent: &Dir, name: &OsStr, filesystem: Filesystem, call: &str) -> io::Result<()> {
        let path = parent.path_of(name);
        let mut state = self.state();
        while state.hanging.iter().any(|hanging| path.starts_with(hanging)) {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(errno) = state.failing.get(&path) {
            return Err((*errno).into());
        }
        state.calls.push(format!("{call} {}", path.display()));
        state.mounted.entry(path).or_default().push(filesystem);
        Ok(())
    }

    /// The calls so far, each as verb, arguments and path.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Where something is mounted now.
    pub fn mounted(&self) -> Vec<PathBuf> {
        self.state().mounted.keys().cloned().collect()
    }

    /// Lets every call on that path fail from now on.
    pub fn fail(&self, path: &Path, errno: Errno) {
        self.state().failing.insert(path.to_owned(), errno);
    }

    /// Lets every mount below that path hang until [`RecordingMounts::release`].
    pub fn hang(&self, below: &Path) {
        self.state().hanging.push(below.to_owned());
    }

    /// Lets all that hangs go on.
    pub fn release(&self) {
        self.state().hanging.clear();
        self.released.notify_all();
    }

    /// Lets calls on that path succeed again.
    pub fn heal(&self, path: &Path) {
        self.state().failing.remove(path);
    }
}

impl Mounts for RecordingMounts {
    fn mount_tmpfs(&self, parent: &Dir, name: &OsStr, options: &Tmpfs) -> io::Result<()> {
        let size = options.size.map_or_else(String::new, |size| format!(" size={size}"));
        self.add(parent, name, Filesystem::Tmpfs, &format!("tmpfs{size}"))
    }

    fn mount_hugetlbfs(&self, parent: &Dir, name: &OsStr, page_size: u64) -> io::Result<()> {
        self.add(parent, name, Filesystem::Hugetlbfs, &format!("hugetlbfs pagesize={page_size}"))
    }

    fn bind(&self, source: &Handle, parent: &Dir, name: &OsStr) -> io::Result<()> {
        let _ = source;
        self.add(parent, name, Filesystem::Other, "bind")
    }

    fn is_mount_point(&self, parent: &Dir, name: &OsStr) -> io::Result<bool> {
        let path = parent.path_of(name);
        std::fs::symlink_metadata(&path)?;
        Ok(self.state().mounted.contains_key(&path))
    }

    fn filesystem(&self, parent: &Dir, name: &OsStr) -> io::Result<Filesystem> {
        let state = self.state();
        let top = state.mounted.get(&parent.path_of(name)).and_then(|stack| stack.last());
        Ok(top.copied().unwrap_or(Filesystem::Other))
    }

    fn unmount(&self, parent: &Dir, name: &OsStr) -> io::Result<()> {
        let path = parent.path_of(name);
        let mut state = self.state();
        if let Some(errno) = state.failing.get(&path) {
            return Err((*errno).into());
        }
        state.calls.push(format!("unmount {}", path.display()));
        match state.mounted.get_mut(&path) {
            Some(stack) if stack.len() > 1 => {
                stack.pop();
                Ok(())
            }
            Some(_) => {
                state.mounted.remove(&path);
                Ok(())
            }
            None => Err(Errno::INVAL.into()),
        }
    }

    fn share(&self, dir: &Path) -> io::Result<bool> {
        self.state().calls.push(format!("share {}", dir.display()));
        Ok(true)
    }
}

#[cfg(test)]
pub(crate) mod private {
    //! Real mounts in tests: in a mount namespace of their own, so that nothing of them is seen outside.

    #![allow(unsafe_code, reason = "leaving the shared mount namespace of the process in one test thread")]

    use rustix::mount::MountPropagationFlags;
    use rustix::thread::UnshareFlags;

    /// Runs a test body in a fresh mount namespace. Without the right to do so the test is skipped with a message.
    pub(crate) fn in_mount_namespace(body: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            // SAFETY: only this thread's mount namespace and working directory are split off; no other thread's file
            // descriptors or memory change.
            let entered = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
            let isolated = entered.and_then(|()| {
                rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            });
            match isolated {
                Ok(()) => body(),
                Err(error) => skip(&format!("no mount namespace of its own: {error}")),
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
    fn skip(reason: &str) {
        eprintln!("skipped: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::private::in_mount_namespace;
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn sharing_is_read_from_the_optional_fields() {
        let mountinfo = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                         30 21 0:5 / /a rw,relatime - tmpfs tmpfs rw\n\
                         31 21 0:6 / /b rw,relatime master:2 - tmpfs shared:x rw\n\
                         32 21 0:7 / /c rw,relatime master:2 shared:9 - tmpfs tmpfs rw\n";
        assert_eq!([21, 30, 31, 32, 33].map(|id| is_shared(mountinfo, id)), [true, false, false, true, false]);
    }

    #[test]
    fn a_tmpfs_comes_and_goes() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let parent = Dir::open(temp.path()).unwrap();
            parent.make_child("v", 0o755).unwrap();
            let mounts = KernelMounts::default();
            assert!(!mounts.is_mount_point(&parent, name("v")).unwrap());

            mounts.mount_tmpfs(&parent, name("v"), &Tmpfs { size: Some(1 << 20) }).unwrap();
            assert!(mounts.is_mount_point(&parent, name("v")).unwrap());
            assert_eq!(mounts.filesystem(&parent, name("v")).unwrap(), Filesystem::Tmpfs);
            let statvfs = rustix::fs::statvfs(temp.path().join("v")).unwrap();
            assert_eq!(statvfs.f_blocks * statvfs.f_frsize, 1 << 20);
            let mode = std::fs::metadata(temp.path().join("v")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o1777);

            mounts.mount_tmpfs(&parent, name("v"), &Tmpfs::default()).unwrap();
            unmount_all(&mounts, &parent, name("v")).unwrap();
            assert!(!mounts.is_mount_point(&parent, name("v")).unwrap());
            parent.remove_dir("v").unwrap();
        });
    }

    #[test]
    fn a_busy_mount_is_detached() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let parent = Dir::open(temp.path()).unwrap();
            parent.make_child("v", 0o755).unwrap();
            let mounts = KernelMounts::default();
            mounts.mount_tmpfs(&parent, name("v"), &Tmpfs::default()).unwrap();
            std::fs::write(temp.path().join("v/file"), "x").unwrap();
            let _held = std::fs::File::open(temp.path().join("v/file")).unwrap();
            mounts.unmount(&parent, name("v")).unwrap();
            parent.remove_dir("v").unwrap();
        });
    }

    #[test]
    fn a_bind_shows_files_and_directories() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let parent = Dir::open(temp.path()).unwrap();
            let (source, _) = parent.make_child("source", 0o755).unwrap();
            source.write_new_file("f", b"hello", 0o644, None).unwrap();
            parent.make_child("dir", 0o755).unwrap();
            parent.write_new_file("file", b"", 0o640, None).unwrap();
            let mounts = KernelMounts::default();

            mounts.bind(&parent.handle("source").unwrap(), &parent, name("dir")).unwrap();
            mounts.bind(&source.handle("f").unwrap(), &parent, name("file")).unwrap();
            assert_eq!(std::fs::read(temp.path().join("dir/f")).unwrap(), b"hello");
            assert_eq!(std::fs::read(temp.path().join("file")).unwrap(), b"hello");
            // Same file system, and still seen as a mount: device numbers alone would not tell.
            assert!(mounts.is_mount_point(&parent, name("dir")).unwrap());
            assert!(mounts.is_mount_point(&parent, name("file")).unwrap());
            assert!(is_errno(&parent.child_on_same_mount("dir").unwrap_err(), Errno::XDEV));

            unmount_all(&mounts, &parent, name("dir")).unwrap();
            unmount_all(&mounts, &parent, name("file")).unwrap();
            parent.remove_dir("dir").unwrap();
            parent.remove_file("file").unwrap();
        });
    }

    #[test]
    fn unmounting_does_not_follow_links() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let parent = Dir::open(temp.path()).unwrap();
            parent.make_child("v", 0o755).unwrap();
            parent.symlink("v", "link").unwrap();
            let mounts = KernelMounts::default();
            mounts.mount_tmpfs(&parent, name("v"), &Tmpfs::default()).unwrap();
            assert!(!mounts.is_mount_point(&parent, name("link")).unwrap());
            assert!(mounts.unmount(&parent, name("link")).is_err());
            assert!(mounts.mount_tmpfs(&parent, name("link"), &Tmpfs::default()).is_err());
            assert!(mounts.is_mount_point(&parent, name("v")).unwrap());
            unmount_all(&mounts, &parent, name("v")).unwrap();
        });
    }

    #[test]
    fn a_directory_is_shared_once() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let mounts = KernelMounts::default();
            assert!(mounts.share(temp.path()).unwrap());
            assert!(!mounts.share(temp.path()).unwrap());
            rustix::mount::unmount(temp.path(), UnmountFlags::DETACH).unwrap();
        });
    }
}
