//! Whether a file is still the one that was read.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes when a file is replaced or written, symbolic links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// Of the file as it is now. Taken before the file is read, it makes a change during the read be noticed later.
    pub(super) async fn of(path: &Path) -> io::Result<Self> {
        let metadata = tokio::fs::metadata(path).await?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        })
    }
}
