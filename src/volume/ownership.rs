//! `fsGroup`: giving a volume's files to the pod's group (`pkg/volume/volume_linux.go` of the peer).

use std::io;
use std::path::PathBuf;

use super::error::{FsError, IoContext};
use crate::sys::beneath::{Dir, FileType, Handle};

/// `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangePolicy {
    /// Every time.
    Always,
    /// Not when the volume's root has the group and the mode already: it is changed last, so then all else was.
    OnRootMismatch,
}

const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const SEARCH: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// Gives the directory and all below it to the group, with the right to read and, unless `read_only`, to write. New
/// files will belong to the group too. Links themselves are given, what they point to is not touched.
///
/// # Errors
/// With the first path that resists. Paths longer than the kernel takes (4096 bytes below the volume) are an error too.
pub fn give_to_group(dir: &Dir, group: u32, read_only: bool, policy: ChangePolicy) -> Result<(), FsError> {
    let root = dir.as_handle().doing("examine", dir.path())?;
    let wanted = (if read_only { READ_ONLY } else { READ_WRITE }) | SEARCH | SET_GID;
    if policy == ChangePolicy::OnRootMismatch && root.group() == group && root.mode() & wanted == wanted {
        return Ok(());
    }
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let current = match dir.descend(&path) {
            Ok(current) => current,
            // Gone, or replaced by a link, since it was listed: whoever did that has write access anyway.
            Err(error) if !path.as_os_str().is_empty() && crate::sys::beneath::is_wrong_kind(&error) => continue,
            Err(error) => return Err(error).doing("open", dir.path().join(&path)),
        };
        for entry in current.entries().doing("list", current.path())? {
            let handle = match current.handle(&entry.name) {
                Ok(handle) => handle,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).doing("examine", current.path_of(&entry.name)),
            };
            if handle.is_dir() {
                pending.push(path.join(&entry.name));
            }
            give(&handle, group, read_only).doing("change the group of", current.path_of(&entry.name))?;
        }
    }
    give(&root, group, read_only).doing("change the group of", dir.path())
}

fn give(handle: &Handle, group: u32, read_only: bool) -> io::Result<()> {
    // The mode was read before: giving a file away takes its set-id bits.
    let mut mode = handle.mode() | if read_only { READ_ONLY } else { READ_WRITE };
    if handle.is_dir() {
        mode |= SEARCH | SET_GID;
    }
    handle.set_group(group)?;
    if handle.kind() == FileType::Symlink {
        return Ok(());
    }
    handle.set_mode(mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use super::*;

    fn facts(path: &Path) -> (u32, u32) {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
    }

    #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
    fn may_give_away() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            eprintln!("skipped: only root may give files away");
        }
        is_root
    }

    #[test]
    fn all_but_what_links_point_to_is_given() {
        if !may_give_away() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let at = |path: &str| temp.path().join(path);
        std::fs::create_dir_all(at("v/d/e")).unwrap();
        std::fs::write(at("outside"), "x").unwrap();
        let dir = Dir::open(&at("v")).unwrap();
        dir.write_new_file("f", b"x", 0o600, None).unwrap();
        symlink("../outside", at("v/link")).unwrap();
        let before = facts(&at("outside"));
        give_to_group(&dir, 1234, false, ChangePolicy::Always).unwrap();
        assert_eq!(facts(&at("v/f")), (1234, 0o660));
        assert_eq!(facts(&at("v/d")), (1234, 0o2775));
        assert_eq!(facts(&at("v/d/e")), (1234, 0o2775));
        assert_eq!(facts(&at("v")), (1234, 0o2775));
        assert_eq!(facts(&at("v/link")).0, 1234);
        assert_eq!(facts(&at("outside")), before);
    }

    #[test]
    fn a_matching_root_ends_it_where_asked() {
        if !may_give_away() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        give_to_group(&dir, 1234, true, ChangePolicy::OnRootMismatch).unwrap();
        dir.write_new_file("f", b"x", 0o600, None).unwrap();
        give_to_group(&dir, 1234, true, ChangePolicy::OnRootMismatch).unwrap();
        assert_eq!(facts(&temp.path().join("f")).1, 0o600);
        give_to_group(&dir, 1234, true, ChangePolicy::Always).unwrap();
        assert_eq!(facts(&temp.path().join("f")), (1234, 0o640));
    }
}
