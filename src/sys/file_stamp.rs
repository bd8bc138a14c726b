//! Whether a file is still the one that was read.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes when a file is replaced or written. Taken before the file is read, it makes a change during the read be noticed
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Of a file that was looked at.
    pub fn of(metadata: &Metadata) -> Self {
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of the file at a path as it is now, symbolic links followed. Blocks for the time of a system call.
    ///
    /// # Errors
    /// As of `stat(2)`.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| FileStamp::of(&metadata))
    }

    /// As [`FileStamp::at`], for a path that may be slow.
    ///
    /// # Errors
    /// As of `stat(2)`.
    pub async fn look(path: &Path) -> io::Result<Self> {
        tokio::fs::metadata(path).await.map(|metadata| FileStamp::of(&metadata))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_written_or_replaced_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        std::fs::write(&path, "1").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let first = FileStamp::at(&path).unwrap();
        assert_eq!(FileStamp::at(&link).unwrap(), first);
        std::fs::write(&path, "12").unwrap();
        let longer = FileStamp::at(&link).unwrap();
        assert_ne!(longer, first);
        std::fs::write(folder.path().join("b"), "12").unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert_ne!(FileStamp::at(&link).unwrap(), longer);
    }
}
