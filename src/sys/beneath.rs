//! Directories worked on by descriptor, never by a path that someone else could change under way.
//!
//! A [`Dir`] reaches its entries by single names and follows no link. Only [`Dir::resolve`] follows links, and the kernel
//! (`openat2`, Linux 5.6) stops it at the directory's edge. The classes of faults that this closes: a link planted in a
//! volume that leads to the host (CVE-2017-1002101, CVE-2021-25741), and deletion that leaves its tree (CVE-2017-1002102).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

pub use rustix::fs::FileType;

/// An open directory and the path it was reached by; the path serves messages alone.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Something in a directory, held without being opened for reading (`O_PATH`).
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    stat: Stat,
}

/// A directory's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Its type; some file systems do not tell.
    pub kind: FileType,
}

/// What decides whether two handles are the same file: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

impl Dir {
    /// Opens a directory that is trusted as it is: links on the way are followed.
    ///
    /// # Errors
    /// As of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    /// Opens a directory and makes it and its parents where they are missing.
    ///
    /// # Errors
    /// As of `mkdir(2)` and `open(2)`.
    pub fn open_or_make(path: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        match Dir::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
                Dir::open(path)
            }
            other => other,
        }
    }

    /// The path it was reached by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry, for messages.
    pub fn path_of(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// Opens a directory in it. A link is refused (`ENOTDIR` or `ELOOP`).
    ///
    /// # Errors
    /// As of `openat2(2)`; `EINVAL` if the name is not a single one.
    pub fn child(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        self.open_child(name.as_ref(), BENEATH | ResolveFlags::NO_SYMLINKS)
    }

    /// Opens a directory in it that is no mount point: one that is, even of the same file system, is refused (`EXDEV`).
    ///
    /// # Errors
    /// As of [`Dir::child`], and `EXDEV`.
    pub fn child_on_same_mount(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        self.open_child(name.as_ref(), BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV)
    }

    fn open_child(&self, name: &OsStr, resolve: ResolveFlags) -> io::Result<Self> {
        single(name)?;
        let fd = openat2(&self.fd, Path::new(name), DIRECTORY | OFlags::NOFOLLOW, resolve)?;
        Ok(Dir { fd, path: self.path.join(name) })
    }

    /// Opens a directory in it, made with exactly that mode (whatever the umask) if it is missing; and whether it was.
    ///
    /// # Errors
    /// As of `mkdir(2)` and [`Dir::child`].
    pub fn make_child(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<(Self, bool)> {
        let name = name.as_ref();
        match self.child(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map(|dir| (dir, false)),
        }
        let is_new = match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode & 0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let dir = self.child(name)?;
        if is_new {
            dir.set_mode(mode)?;
        }
        Ok((dir, is_new))
    }

    /// Opens the directory at a relative path of plain names; what is missing is made with that mode. No link is followed.
    ///
    /// # Errors
    /// As of [`Dir::make_child`]; `EINVAL` for a path that is not plain.
    pub fn make_path(&self, path: &Path, mode: u32) -> io::Result<Self> {
        let mut dir = self.child_self()?;
        for component in path.components() {
            match component {
                Component::Normal(name) => dir = dir.make_child(name, mode)?.0,
                Component::CurDir => {}
                _ => return Err(Errno::INVAL.into()),
            }
        }
        Ok(dir)
    }

    /// What a relative path leads to, links followed as long as they stay in this directory; a way out is `EXDEV`.
    ///
    /// # Errors
    /// As of `openat2(2)` with `RESOLVE_BENEATH`.
    pub fn resolve(&self, path: &Path) -> io::Result<Handle> {
        Handle::of(openat2(&self.fd, path, OFlags::PATH | OFlags::CLOEXEC, BENEATH)?)
    }

    /// As [`Dir::resolve`], for a directory in which entries are to be made.
    ///
    /// # Errors
    /// As of [`Dir::resolve`]; `ENOTDIR`.
    pub fn resolve_dir(&self, path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Ok(Dir { fd: openat2(&self.fd, path, DIRECTORY, BENEATH)?, path: self.path.join(path) })
    }

    /// The directory at a relative path; no link is followed.
    ///
    /// # Errors
    /// As of `openat2(2)` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`.
    pub fn descend(&self, path: &Path) -> io::Result<Self> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fd = openat2(&self.fd, path, DIRECTORY, BENEATH | ResolveFlags::NO_SYMLINKS)?;
        Ok(Dir { fd, path: self.path.join(path) })
    }

    /// An entry itself, a link as the link.
    ///
    /// # Errors
    /// As of `openat2(2)`.
    pub fn handle(&self, name: impl AsRef<OsStr>) -> io::Result<Handle> {
        single(name.as_ref())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Handle::of(openat2(&self.fd, Path::new(name.as_ref()), flags, BENEATH)?)
    }

    /// Opens a regular file for reading; links are followed as long as they stay in this directory. Never waits for a writer.
    ///
    /// # Errors
    /// As of [`Dir::resolve`]; `EINVAL` if it is no regular file.
    pub fn read_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat2(&self.fd, path, flags, BENEATH)?);
        if !file.metadata()?.is_file() {
            return Err(Errno::INVAL.into());
        }
        Ok(file)
    }

    /// A path that leads to this very directory for as long as it is open, for calls that take paths alone.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// This directory as a handle.
    ///
    /// # Errors
    /// As of `fcntl(2)` and `fstat(2)`.
    pub fn as_handle(&self) -> io::Result<Handle> {
        Handle::of(self.fd.try_clone()?)
    }

    fn child_self(&self) -> io::Result<Self> {
        Ok(Dir { fd: self.fd.try_clone()?, path: self.path.clone() })
    }

    /// All entries but `.` and `..`, in no order.
    ///
    /// # Errors
    /// As of `getdents(2)`.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        self.first_entries(usize::MAX)
    }

    /// Up to `limit` entries from the start.
    ///
    /// # Errors
    /// As of `getdents(2)`.
    pub fn first_entries(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            entries.push(Entry { name: OsString::from_vec(name.to_vec()), kind: entry.file_type() });
            if entries.len() >= limit {
                break;
            }
        }
        Ok(entries)
    }

    /// Makes a file that must not be there yet, with exactly that mode, to be written.
    ///
    /// # Errors
    /// As of `open(2)` and `fchmod(2)`.
    pub fn new_file(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        single(name.as_ref())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Readable by root alone until the mode is set, so that no mask can widen it.
        let file = File::from(rustix::fs::openat(&self.fd, name.as_ref(), flags, Mode::from_raw_mode(0o600))?);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(file)
    }

    /// Makes a file that must not be there yet, with exactly that mode and, if given, that owner.
    ///
    /// # Errors
    /// As of `open(2)`, `write(2)`, `fchmod(2)`, `fchown(2)`.
    pub fn write_new_file(&self, name: impl AsRef<OsStr>, data: &[u8], mode: u32, user: Option<u32>) -> io::Result<()> {
        let mut file = self.new_file(name, mode)?;
        file.write_all(data)?;
        if let Some(user) = user {
            rustix::fs::fchown(&file, Some(Uid::from_raw(user)), None)?;
        }
        Ok(())
    }

    /// Whether a regular file of that name holds exactly that. A link or a special file does not.
    ///
    /// # Errors
    /// As of `open(2)` and `read(2)`, but for a missing or wrong file.
    pub fn file_equals(&self, name: impl AsRef<OsStr>, data: &[u8]) -> io::Result<bool> {
        single(name.as_ref())?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat2(&self.fd, Path::new(name.as_ref()), flags, BENEATH | ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => fd,
            Err(error) if is_wrong_kind(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&fd)?;
        let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || length != data.len() as u64 {
            return Ok(false);
        }
        let mut content = Vec::with_capacity(data.len());
        File::from(fd).take(length + 1).read_to_end(&mut content)?;
        Ok(content == data)
    }

    /// Where a link points to.
    ///
    /// # Errors
    /// As of `readlink(2)`: `EINVAL` if it is no link.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<OsString> {
        single(name.as_ref())?;
        let target = rustix::fs::readlinkat(&self.fd, name.as_ref(), Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Makes a link.
    ///
    /// # Errors
    /// As of `symlink(2)`.
    pub fn symlink(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> io::Result<()> {
        single(name.as_ref())?;
        Ok(rustix::fs::symlinkat(target.as_ref(), &self.fd, name.as_ref())?)
    }

    /// Renames an entry, in place of what had the new name.
    ///
    /// # Errors
    /// As of `rename(2)`.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        self.move_to(from, self, to)
    }

    /// Moves an entry to another directory.
    ///
    /// # Errors
    /// As of `rename(2)`.
    pub fn move_to(&self, from: impl AsRef<OsStr>, target: &Dir, to: impl AsRef<OsStr>) -> io::Result<()> {
        single(from.as_ref())?;
        single(to.as_ref())?;
        Ok(rustix::fs::renameat(&self.fd, from.as_ref(), &target.fd, to.as_ref())?)
    }

    /// Removes what is no directory, a link as the link.
    ///
    /// # Errors
    /// As of `unlink(2)`.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        single(name.as_ref())?;
        Ok(rustix::fs::unlinkat(&self.fd, name.as_ref(), AtFlags::empty())?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As of `rmdir(2)`.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        single(name.as_ref())?;
        Ok(rustix::fs::unlinkat(&self.fd, name.as_ref(), AtFlags::REMOVEDIR)?)
    }

    /// Sets the directory's mode, all twelve bits.
    ///
    /// # Errors
    /// As of `fchmod(2)`.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// A path to an entry through this descriptor, for system calls that take paths alone.
    pub(super) fn proc_path_of(&self, name: &OsStr) -> io::Result<PathBuf> {
        single(name)?;
        Ok(proc_path(&self.fd).join(name))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Handle {
    fn of(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Handle { fd, stat })
    }

    /// What it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Permission bits with set-id and sticky bits, as they were when it was opened.
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Its group, as it was when it was opened.
    pub fn group(&self) -> u32 {
        self.stat.st_gid
    }

    /// Its device and inode.
    pub fn identity(&self) -> Identity {
        Identity { device: self.stat.st_dev, inode: self.stat.st_ino }
    }

    /// Gives it, a link as the link, to a group.
    ///
    /// # Errors
    /// As of `fchownat(2)`.
    pub fn set_group(&self, group: u32) -> io::Result<()> {
        Ok(rustix::fs::chownat(&self.fd, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?)
    }

    /// Gives it, a link as the link, to a user.
    ///
    /// # Errors
    /// As of `fchownat(2)`.
    pub fn set_owner(&self, user: u32) -> io::Result<()> {
        Ok(rustix::fs::chownat(&self.fd, "", Some(Uid::from_raw(user)), None, AtFlags::EMPTY_PATH)?)
    }

    /// Sets its mode, all twelve bits. Not for links, which have none.
    ///
    /// # Errors
    /// As of `chmod(2)`.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        if self.kind() == FileType::Symlink {
            return Err(Errno::INVAL.into());
        }
        // A descriptor opened as a path cannot be changed itself; its entry in /proc leads to exactly the same file.
        Ok(rustix::fs::chmodat(CWD, proc_path(&self.fd), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether opening failed since nothing, or something else than what was asked for, has that name.
pub fn is_wrong_kind(error: &io::Error) -> bool {
    let codes = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::ISDIR, Errno::NXIO];
    error.raw_os_error().is_some_and(|code| codes.iter().any(|c| c.raw_os_error() == code))
}

/// Whether the error is that code.
pub fn is_errno(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Refuses what is not one plain name.
fn single(name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(())
}

fn openat2(dir: &OwnedFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    // The kernel answers EAGAIN when something was renamed meanwhile and it cannot be sure to be still inside.
    const ATTEMPTS: u32 = 64;
    let mut attempt = 1;
    loop {
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => attempt += 1,
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rstest::rstest;

    use super::*;

    struct Place {
        temp: tempfile::TempDir,
        dir: Dir,
    }

    /// `inside/` is the directory under test, `outside/secret` what must stay out of reach.
    fn place() -> Place {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("inside")).unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        std::fs::write(temp.path().join("outside/secret"), "s").unwrap();
        let dir = Dir::open(&temp.path().join("inside")).unwrap();
        Place { temp, dir }
    }

    #[rstest]
    #[case("../outside")]
    #[case("/")]
    #[case("/proc/self/root")]
    #[case("deep/../../outside")]
    fn links_do_not_lead_out(#[case] target: &str) {
        let place = place();
        std::fs::create_dir(place.dir.path().join("deep")).unwrap();
        symlink(target, place.dir.path().join("link")).unwrap();
        for path in ["link", "link/secret", "deep/../link"] {
            let error = place.dir.resolve(Path::new(path)).unwrap_err();
            assert!(is_errno(&error, Errno::XDEV), "{path}: {error}");
        }
        assert!(place.dir.resolve_dir(Path::new("link")).is_err());
        assert!(place.dir.child("link").is_err());
        assert!(place.dir.make_child("link", 0o755).is_err());
        assert!(place.dir.make_path(Path::new("link/new"), 0o755).is_err());
        assert!(!place.temp.path().join("outside/new").exists());
    }

    #[test]
    fn links_that_stay_inside_are_followed() {
        let place = place();
        std::fs::create_dir(place.dir.path().join("v1")).unwrap();
        std::fs::write(place.dir.path().join("v1/key"), "value").unwrap();
        symlink("v1", place.dir.path().join("..data")).unwrap();
        symlink("..data/key", place.dir.path().join("key")).unwrap();
        let handle = place.dir.resolve(Path::new("key")).unwrap();
        assert_eq!(handle.kind(), FileType::RegularFile);
        let direct = place.dir.child("v1").unwrap().handle("key").unwrap();
        assert_eq!(handle.identity(), direct.identity());
    }

    #[rstest]
    #[case("")]
    #[case(".")]
    #[case("..")]
    #[case("a/b")]
    #[case("/etc")]
    fn names_are_single(#[case] name: &str) {
        let place = place();
        assert!(place.dir.child(name).is_err());
        assert!(place.dir.make_child(name, 0o755).is_err());
        assert!(place.dir.remove_file(name).is_err());
        assert!(place.dir.remove_dir(name).is_err());
        assert!(place.dir.write_new_file(name, b"", 0o644, None).is_err());
        assert!(place.dir.symlink("x", name).is_err());
    }

    #[test]
    fn made_directories_have_exactly_their_mode() {
        let place = place();
        let (dir, is_new) = place.dir.make_child("d", 0o2777).unwrap();
        assert!(is_new);
        assert_eq!(dir.as_handle().unwrap().mode(), 0o2777);
        dir.set_mode(0o700).unwrap();
        let (dir, is_new) = place.dir.make_child("d", 0o2777).unwrap();
        assert!(!is_new);
        assert_eq!(dir.as_handle().unwrap().mode(), 0o700);
    }

    #[test]
    fn a_dangling_link_is_not_taken_for_missing() {
        let place = place();
        symlink("../outside/made", place.dir.path().join("link")).unwrap();
        assert!(place.dir.make_child("link", 0o755).is_err());
        assert!(place.dir.write_new_file("link", b"x", 0o644, None).is_err());
        assert!(!place.temp.path().join("outside/made").exists());
    }

    #[test]
    fn files_are_compared_without_following_links() {
        let place = place();
        place.dir.write_new_file("f", b"s", 0o640, None).unwrap();
        assert!(place.dir.file_equals("f", b"s").unwrap());
        assert!(!place.dir.file_equals("f", b"t").unwrap());
        assert!(!place.dir.file_equals("f", b"ss").unwrap());
        assert!(!place.dir.file_equals("absent", b"s").unwrap());
        symlink("../outside/secret", place.dir.path().join("l")).unwrap();
        assert!(!place.dir.file_equals("l", b"s").unwrap());
        let mode = std::fs::metadata(place.dir.path().join("f")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }

    #[test]
    fn the_mode_of_a_link_is_left_alone() {
        let place = place();
        symlink("../outside/secret", place.dir.path().join("l")).unwrap();
        let before = std::fs::metadata(place.temp.path().join("outside/secret")).unwrap().permissions().mode();
        assert!(place.dir.handle("l").unwrap().set_mode(0o777).is_err());
        let after = std::fs::metadata(place.temp.path().join("outside/secret")).unwrap().permissions().mode();
        assert_eq!(before, after);
    }
}
