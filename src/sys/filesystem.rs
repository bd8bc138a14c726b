//! How large and how full the file system of a path is.

use std::io;
use std::path::{Path, PathBuf};

/// A path whose file system cannot be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot measure the file system of {path}")]
pub struct FilesystemError {
    /// The path asked about.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Sizes of one file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// All of it, bytes.
    pub capacity_bytes: u64,
    /// What an unprivileged user can still write, bytes.
    pub available_bytes: u64,
    /// What is free, bytes; more than is available where some is kept for root.
    pub free_bytes: u64,
    /// Files that it can hold; 0 where it sets no limit.
    pub inodes: u64,
    /// Files that can still be made.
    pub inodes_free: u64,
}

impl FilesystemUsage {
    /// Bytes that something holds.
    pub fn used_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.free_bytes)
    }
}

/// The sizes of the file system that holds `path`, by statfs: works where the disk's device is not visible.
pub fn usage(path: &Path) -> Result<FilesystemUsage, FilesystemError> {
    let sizes =
        rustix::fs::statvfs(path).map_err(|error| FilesystemError { path: path.to_owned(), source: error.into() })?;
    Ok(FilesystemUsage {
        capacity_bytes: sizes.f_frsize.saturating_mul(sizes.f_blocks),
        available_bytes: sizes.f_frsize.saturating_mul(sizes.f_bavail),
        free_bytes: sizes.f_frsize.saturating_mul(sizes.f_bfree),
        inodes: sizes.f_files,
        inodes_free: sizes.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_a_file_system() {
        let sizes = usage(Path::new("/")).unwrap();
        assert!(sizes.capacity_bytes >= sizes.available_bytes && sizes.capacity_bytes > 0);
        assert!(sizes.free_bytes >= sizes.available_bytes);
        assert_eq!(sizes.used_bytes(), sizes.capacity_bytes - sizes.free_bytes);
    }

    #[test]
    fn names_the_path_that_is_missing() {
        let error = usage(Path::new("/no/such/path")).unwrap_err();
        assert_eq!(error.to_string(), "cannot measure the file system of /no/such/path");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }
}
