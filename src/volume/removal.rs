//! Removal of directory trees that leaves everything outside alone: no link is followed, no mount is crossed.

use std::ffi::{OsStr, OsString};
use std::io;

use rustix::io::Errno;

use super::error::{FsError, IoContext};
use crate::sys::beneath::{Dir, Entry, FileType, is_errno};
use crate::sys::mount::{Mounts, unmount_all};

/// What to do with a mount that is found in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMount {
    /// Unmount it, which loses nothing, and remove the mount point.
    Unmount,
    /// Give up and name it.
    Refuse,
}

/// Removes an entry and, if it is a directory, all below it. What is not there is no error.
///
/// Memory and descriptors are bounded however large and deep the tree is: names are read in portions, and what lies too
/// deep is moved up to the top first.
///
/// # Errors
/// With the first path that resists; what was removed until then stays removed.
pub fn remove_tree(parent: &Dir, name: &OsStr, mounts: &dyn Mounts, on_mount: OnMount) -> Result<(), FsError> {
    Removal { mounts, on_mount, moved: 0, refusals: 0 }.remove(parent, name)
}

/// Directories held open at once; deeper ones are moved up.
const DEEPEST: usize = 32;
/// Names read at once.
const PORTION: usize = 1024;
/// How often directories may turn out not to be empty after all before it is given up: someone goes on writing there.
const MOST_REFUSALS: u32 = 1000;

struct Removal<'a> {
    mounts: &'a dyn Mounts,
    on_mount: OnMount,
    moved: u64,
    refusals: u32,
}

struct Level {
    dir: Dir,
    name: OsString,
    pending: Vec<Entry>,
}

enum Opened {
    Dir(Dir),
    Removed,
}

impl Removal<'_> {
    fn remove(&mut self, parent: &Dir, name: &OsStr) -> Result<(), FsError> {
        let Opened::Dir(top) = self.open_or_remove(parent, name, FileType::Unknown)? else {
            return Ok(());
        };
        let mut levels = vec![Level { dir: top, name: name.to_owned(), pending: Vec::new() }];
        while let Some(level) = levels.last_mut() {
            if let Some(entry) = level.pending.pop() {
                self.step(&mut levels, entry)?;
                continue;
            }
            level.pending = level.dir.first_entries(PORTION).doing("list", level.dir.path())?;
            if !level.pending.is_empty() {
                continue;
            }
            let Some(emptied) = levels.pop() else { break };
            let holder = levels.last().map_or(parent, |level| &level.dir);
            match holder.remove_dir(&emptied.name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Written to between the listing and the removal: once more.
                Err(error) if is_errno(&error, Errno::NOTEMPTY) && self.refusals < MOST_REFUSALS => {
                    self.refusals += 1;
                    levels.push(emptied);
                }
                other => other.doing("remove directory", holder.path_of(&emptied.name))?,
            }
        }
        Ok(())
    }

    /// Removes one entry of the deepest level, or goes down into it.
    fn step(&mut self, levels: &mut Vec<Level>, entry: Entry) -> Result<(), FsError> {
        let depth = levels.len();
        let Some(level) = levels.last() else { return Ok(()) };
        let Opened::Dir(dir) = self.open_or_remove(&level.dir, &entry.name, entry.kind)? else {
            return Ok(());
        };
        if depth < DEEPEST {
            levels.push(Level { dir, name: entry.name, pending: Vec::new() });
            return Ok(());
        }
        // The top's next listing finds it. A name that is taken is passed over.
        let Some(top) = levels.first() else { return Ok(()) };
        loop {
            self.moved += 1;
            let name = format!("..removed-{}", self.moved);
            if top.dir.handle(&name).is_ok() {
                continue;
            }
            return level.dir.move_to(&entry.name, &top.dir, &name).doing("move", level.dir.path_of(&entry.name));
        }
    }

    fn open_or_remove(&self, parent: &Dir, name: &OsStr, kind: FileType) -> Result<Opened, FsError> {
        const ATTEMPTS: u32 = 8;
        let path = || parent.path_of(name);
        for _ in 0..ATTEMPTS {
            let attempt = if matches!(kind, FileType::Directory | FileType::Unknown) {
                parent.child_on_same_mount(name).map(Opened::Dir)
            } else {
                parent.remove_file(name).map(|()| Opened::Removed)
            };
            let error = match attempt {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(Opened::Removed);
            }
            if is_errno(&error, Errno::XDEV) || is_errno(&error, Errno::BUSY) {
                self.handle_mount(parent, name)?;
                continue;
            }
            if is_errno(&error, Errno::NOTDIR) || is_errno(&error, Errno::LOOP) {
                match parent.remove_file(name) {
                    Err(error) if is_errno(&error, Errno::BUSY) => {
                        self.handle_mount(parent, name)?;
                        continue;
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).doing("remove", path()),
                    _ => return Ok(Opened::Removed),
                }
            }
            return Err(error).doing("remove", path());
        }
        Err(Errno::BUSY.into()).doing("remove", path())
    }

    fn handle_mount(&self, parent: &Dir, name: &OsStr) -> Result<(), FsError> {
        match self.on_mount {
            OnMount::Unmount => unmount_all(self.mounts, parent, name).doing("unmount", parent.path_of(name)),
            OnMount::Refuse => Err(Errno::BUSY.into()).doing("remove mount point", parent.path_of(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::sys::mount::private::in_mount_namespace;
    use crate::sys::mount::{KernelMounts, RecordingMounts, Tmpfs};

    fn remove(place: &Path, name: &str) -> Result<(), FsError> {
        let parent = Dir::open(place).unwrap();
        remove_tree(&parent, OsStr::new(name), &RecordingMounts::default(), OnMount::Refuse)
    }

    #[test]
    fn trees_files_and_links_go_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let at = |path: &str| temp.path().join(path);
        std::fs::create_dir_all(at("tree/a/b")).unwrap();
        std::fs::create_dir_all(at("outside")).unwrap();
        std::fs::write(at("outside/kept"), "x").unwrap();
        std::fs::write(at("tree/a/f"), "x").unwrap();
        symlink("../outside", at("tree/link")).unwrap();
        symlink(at("outside"), at("tree/a/b/link")).unwrap();
        symlink("outside", at("top-link")).unwrap();
        remove(temp.path(), "tree").unwrap();
        remove(temp.path(), "top-link").unwrap();
        remove(temp.path(), "absent").unwrap();
        assert!(!at("tree").exists());
        assert!(at("top-link").symlink_metadata().is_err());
        assert!(at("outside/kept").exists());
    }

    #[test]
    fn deep_and_wide_trees_go() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = Dir::open(temp.path()).unwrap().make_child("tree", 0o755).unwrap().0;
        for file in 0..PORTION + 10 {
            dir.write_new_file(format!("f{file}"), b"", 0o644, None).unwrap();
        }
        // Deeper than any path can name.
        for level in 0..600 {
            if level % 70 == 0 {
                dir.write_new_file("f", b"", 0o644, None).unwrap();
                dir.make_child("..removed-1", 0o755).unwrap();
            }
            dir = dir.make_child("directory", 0o755).unwrap().0;
        }
        remove(temp.path(), "tree").unwrap();
        assert!(!temp.path().join("tree").exists());
    }

    #[test]
    fn a_mount_is_never_emptied() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let at = |path: &str| temp.path().join(path);
            std::fs::create_dir_all(at("tree/bound")).unwrap();
            std::fs::create_dir_all(at("data")).unwrap();
            std::fs::write(at("data/precious"), "x").unwrap();
            let (mounts, parent) = (KernelMounts::default(), Dir::open(temp.path()).unwrap());
            let tree = parent.child("tree").unwrap();
            mounts.bind(&parent.handle("data").unwrap(), &tree, OsStr::new("bound")).unwrap();

            let refused = remove_tree(&parent, OsStr::new("tree"), &mounts, OnMount::Refuse).unwrap_err();
            assert_eq!(refused.path, at("tree/bound"));
            assert!(at("tree/bound/precious").exists());

            remove_tree(&parent, OsStr::new("tree"), &mounts, OnMount::Unmount).unwrap();
            assert!(!at("tree").exists());
            assert!(at("data/precious").exists());
        });
    }

    #[test]
    fn nested_and_file_mounts_are_taken_off() {
        in_mount_namespace(|| {
            let temp = tempfile::tempdir().unwrap();
            let at = |path: &str| temp.path().join(path);
            std::fs::create_dir_all(at("tree/v")).unwrap();
            std::fs::write(at("tree/file"), "").unwrap();
            std::fs::write(at("precious"), "x").unwrap();
            let (mounts, parent) = (KernelMounts::default(), Dir::open(temp.path()).unwrap());
            let tree = parent.child("tree").unwrap();
            mounts.bind(&parent.handle("precious").unwrap(), &tree, OsStr::new("file")).unwrap();
            mounts.mount_tmpfs(&tree, OsStr::new("v"), &Tmpfs::default()).unwrap();
            let v = tree.child("v").unwrap();
            v.make_child("inner", 0o755).unwrap();
            mounts.mount_tmpfs(&v, OsStr::new("inner"), &Tmpfs::default()).unwrap();
            remove_tree(&parent, OsStr::new("tree"), &mounts, OnMount::Unmount).unwrap();
            assert!(!at("tree").exists());
            assert_eq!(std::fs::read(at("precious")).unwrap(), b"x");
        });
    }
}
