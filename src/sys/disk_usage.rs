//! What a tree of files takes on its disk. Walked by directory descriptors, never following a link: pods write in such trees.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

/// How deep a walk goes; what is deeper is not counted. It also bounds the open descriptors.
const DEPTH: usize = 64;
/// Files of several links that are remembered, so that each counts once.
const LINKED: usize = 100_000;
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes on the disk, which is not the length of the files.
    pub bytes: u64,
    /// Files and directories, the top counted.
    pub inodes: u64,
}

/// Measures the tree at `path`, what is mounted in it apart, and takes what it looks at from `budget`. None if the budget
/// ran out.
///
/// # Errors
/// When the top cannot be looked at; what cannot be read below is left out, since it may have been removed under way.
pub fn tree(path: &Path, budget: &mut usize) -> io::Result<Option<DiskUsage>> {
    let top = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut walk = Walk { usage: DiskUsage::default(), linked: HashSet::new(), device: top.st_dev };
    walk.count(&top);
    if FileType::from_raw_mode(top.st_mode) != FileType::Directory {
        return Ok(Some(walk.usage));
    }
    let mut open = vec![Dir::new(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?)?];
    while let Some(directory) = open.last_mut() {
        let Some(entry) = directory.read() else {
            open.pop();
            continue;
        };
        // An entry that cannot be read ends its directory.
        let Ok(entry) = entry else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if *budget == 0 {
            return Ok(None);
        }
        *budget -= 1;
        let name: CString = name.to_owned();
        let below = directory.fd().ok().and_then(|fd| walk.enter(fd, &name));
        if let Some(below) = below.filter(|_| open.len() < DEPTH) {
            open.push(below);
        }
    }
    Ok(Some(walk.usage))
}

/// Measures the files directly in a directory, directories in it apart.
///
/// # Errors
/// When the directory cannot be read.
pub fn files_in(path: &Path) -> io::Result<DiskUsage> {
    let mut directory = Dir::new(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?)?;
    let mut usage = DiskUsage::default();
    while let Some(entry) = directory.read() {
        let name: CString = entry?.file_name().to_owned();
        let Ok(stat) = rustix::fs::statat(directory.fd()?, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            usage.bytes += bytes_of(&stat);
            usage.inodes += 1;
        }
    }
    Ok(usage)
}

struct Walk {
    usage: DiskUsage,
    linked: HashSet<u64>,
    device: u64,
}

impl Walk {
    /// Counts an entry; the directory that it is, to be walked next.
    fn enter(&mut self, parent: rustix::fd::BorrowedFd<'_>, name: &CString) -> Option<Dir> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if stat.st_dev != self.device {
            return None;
        }
        self.count(&stat);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return None;
        }
        let fd: OwnedFd = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()).ok()?;
        Dir::new(fd).ok()
    }

    fn count(&mut self, stat: &Stat) {
        let is_linked = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if is_linked && (self.linked.len() >= LINKED || !self.linked.insert(stat.st_ino)) {
            return;
        }
        self.usage.bytes += bytes_of(stat);
        self.usage.inodes += 1;
    }
}

fn bytes_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, bytes: usize) {
        std::fs::write(path, vec![1; bytes]).unwrap();
        // Blocks are given out when the data is written back.
        std::fs::File::open(path).unwrap().sync_all().unwrap();
    }

    #[test]
    fn a_tree_counts_each_file_once_and_follows_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("big"), 1 << 20);
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        write(&folder.path().join("a/b/f"), 100_000);
        std::fs::hard_link(folder.path().join("a/b/f"), folder.path().join("a/again")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        let mut budget = 100;
        let usage = tree(folder.path(), &mut budget).unwrap().unwrap();
        // The top, a, b, f, link.
        assert_eq!(usage.inodes, 5);
        assert!((100_000..500_000).contains(&usage.bytes), "{usage:?}");
        // a, again, b, f, link.
        assert_eq!(budget, 95);
    }

    #[test]
    fn a_walk_ends_when_its_budget_does() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..5 {
            write(&folder.path().join(n.to_string()), 1);
        }
        assert_eq!(tree(folder.path(), &mut 4).unwrap(), None);
        assert!(tree(&folder.path().join("none"), &mut 4).is_err());
    }

    #[test]
    fn files_of_a_folder_leave_folders_out() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("0.log"), 5000);
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let usage = files_in(folder.path()).unwrap();
        assert_eq!(usage.inodes, 1);
        assert!(usage.bytes >= 5000, "{usage:?}");
    }
}
