//! `hostPath`: what must be at a path of the node, and making it where the volume says so.

use std::fs::{DirBuilder, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::{FsError, IoContext, SetUpError};
use super::plan::HostPathType;

/// Checks the path, and makes it for the `OrCreate` types if nothing is there. Links are followed: the path is the node
/// administrator's.
///
/// # Errors
/// When something else is there, nothing can be made, or it cannot be examined.
pub fn check(path: &Path, kind: HostPathType) -> Result<(), SetUpError> {
    let (word, expected, makes) = match kind {
        HostPathType::Unset => return Ok(()),
        HostPathType::DirectoryOrCreate => ("Directory", "directory", true),
        HostPathType::Directory => ("Directory", "directory", false),
        HostPathType::FileOrCreate => ("File", "file", true),
        HostPathType::File => ("File", "file", false),
        HostPathType::Socket => ("Socket", "socket file", false),
        HostPathType::CharDevice => ("CharDevice", "character device", false),
        HostPathType::BlockDevice => ("BlockDevice", "block device", false),
    };
    let unknown = |reason: String| SetUpError::HostPathUnknown { path: path.to_owned(), expected, reason };
    let found = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && makes => return Ok(make(path, word)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unknown(format!("path {path:?} does not exist")));
        }
        Err(error) => return Err(unknown(error.to_string())),
    };
    match type_of(found) {
        Some(found) if found == word => Ok(()),
        Some(found) => Err(SetUpError::HostPathType { path: path.to_owned(), expected, found }),
        None => Err(unknown("neither a file, directory, socket, block device nor character device".to_owned())),
    }
}

fn type_of(found: FileType) -> Option<&'static str> {
    let types = [
        (found.is_dir(), "Directory"),
        (found.is_file(), "File"),
        (found.is_socket(), "Socket"),
        (found.is_char_device(), "CharDevice"),
        (found.is_block_device(), "BlockDevice"),
    ];
    types.iter().find(|(is_it, _)| *is_it).map(|(_, name)| *name)
}

/// A directory with its parents, or a file without: whoever wants a file must have its directory.
fn make(path: &Path, word: &str) -> Result<(), FsError> {
    if word == "Directory" {
        return DirBuilder::new().recursive(true).mode(0o755).create(path).doing("make directory", path);
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
    file.map(drop).doing("make file", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("absent", HostPathType::Unset, None)]
    #[case("dir", HostPathType::Directory, None)]
    #[case("dir", HostPathType::DirectoryOrCreate, None)]
    #[case("file", HostPathType::File, None)]
    #[case("file", HostPathType::FileOrCreate, None)]
    #[case("link", HostPathType::File, None)]
    #[case("socket", HostPathType::Socket, None)]
    #[case("new/deep", HostPathType::DirectoryOrCreate, None)]
    #[case("new-file", HostPathType::FileOrCreate, None)]
    #[case("file", HostPathType::Directory, Some("failed: {} is not a directory, it's a File"))]
    #[case("file", HostPathType::DirectoryOrCreate, Some("failed: {} is not a directory, it's a File"))]
    #[case("dir", HostPathType::FileOrCreate, Some("failed: {} is not a file, it's a Directory"))]
    #[case("dir", HostPathType::Socket, Some("failed: {} is not a socket file, it's a Directory"))]
    #[case("dir", HostPathType::CharDevice, Some("failed: {} is not a character device, it's a Directory"))]
    #[case("dir", HostPathType::BlockDevice, Some("failed: {} is not a block device, it's a Directory"))]
    #[case("absent", HostPathType::File, Some("failed, {} is not a file, unable to determine its type: path"))]
    fn types(#[case] name: &str, #[case] kind: HostPathType, #[case] message: Option<&str>) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(name);
        std::fs::create_dir(temp.path().join("dir")).unwrap();
        std::fs::write(temp.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
        let _listener = UnixListener::bind(temp.path().join("socket")).unwrap();
        match (check(&path, kind), message) {
            (Ok(()), None) => assert!(kind == HostPathType::Unset || path.exists()),
            (Err(error), Some(message)) => {
                let expected = message.replace("{}", &path.display().to_string());
                let error = error.to_string();
                assert!(error.starts_with(&format!("hostPath type check {expected}")), "{error}");
            }
            (result, _) => panic!("{result:?}"),
        }
    }

    #[test]
    fn devices_are_told_apart() {
        check(Path::new("/dev/null"), HostPathType::CharDevice).unwrap();
        let error = check(Path::new("/dev/null"), HostPathType::BlockDevice).unwrap_err().to_string();
        assert_eq!(error, "hostPath type check failed: /dev/null is not a block device, it's a CharDevice");
    }

    #[test]
    fn a_file_without_its_directory_is_not_made() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("no/file");
        let error = check(&path, HostPathType::FileOrCreate).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot make file {}", path.display())), "{error}");
    }
}
