//! Files that are written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces a file, making the folders above it: readers see the old content or the new, also after a power failure. The mode
/// is set before the content is there. Blocks.
///
/// # Errors
/// The system's, and the file stays as it was.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    make_parent(path)?;
    let new = beside(path, ".tmp");
    remove_if_there(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Makes a symbolic link at `link`, or lets one that is there point to `target` from one moment to the next. Blocks.
///
/// # Errors
/// The system's, and the link stays as it was.
pub fn replace_link(link: &Path, target: &Path, by_way_of: &Path) -> io::Result<()> {
    make_parent(link)?;
    remove_if_there(by_way_of)?;
    std::os::unix::fs::symlink(target, by_way_of)?;
    fs::rename(by_way_of, link)
}

/// Removes a file or link, if there is one. Blocks.
///
/// # Errors
/// The system's.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => DirBuilder::new().recursive(true).mode(0o755).create(parent),
        None => Ok(()),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        // Left by a writer that was cut off.
        replace_file(&path, b"one", 0o644).unwrap();
        fs::write(beside(&path, ".tmp"), "half").unwrap();
        replace_file(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_moves_on() {
        let folder = tempfile::tempdir().unwrap();
        let (link, way) = (folder.path().join("current"), folder.path().join("updated"));
        for target in ["/one", "/two"] {
            replace_link(&link, Path::new(target), &way).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        assert!(!way.exists());
    }
}
