//! The files that a volume is to show, and the rules for their paths.

use std::collections::BTreeMap;
use std::fmt;

/// A file's content and attributes. `Debug` shows no content, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct FileProjection {
    /// The content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// The owner; root if absent.
    pub user: Option<u32>,
}

impl fmt::Debug for FileProjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, mode {:04o}, user {:?}", self.data.len(), self.mode, self.user)
    }
}

/// Files by their relative, cleaned path; every path is safe to write and no file stands where another needs a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    files: BTreeMap<String, FileProjection>,
}

/// Why a path cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing, or nothing but dots and slashes.
    #[error("invalid path: must name a file: {path:?}")]
    Empty {
        /// The path.
        path: String,
    },
    /// Begins with a slash.
    #[error("invalid path: must be relative: {path}")]
    Absolute {
        /// The path.
        path: String,
    },
    /// Longer than the kernel takes.
    #[error("invalid path: at most 4096 bytes are allowed, not {length}")]
    TooLong {
        /// Bytes of the path.
        length: usize,
    },
    /// A component longer than the kernel takes.
    #[error("invalid path: at most 255 bytes are allowed in a file name, not {length}")]
    NameTooLong {
        /// Bytes of the component.
        length: usize,
    },
    /// Leads upwards.
    #[error("invalid path: must not contain '..': {path}")]
    Backstep {
        /// The path.
        path: String,
    },
    /// Names with two leading dots are those of the mechanism itself.
    #[error("invalid path: must not start with '..': {path}")]
    Reserved {
        /// The path.
        path: String,
    },
    /// A zero byte, which no file name can hold.
    #[error("invalid path: must not contain a zero byte: {path:?}")]
    ZeroByte {
        /// The path.
        path: String,
    },
    /// One file stands where another needs a directory.
    #[error("invalid paths: {file} is a file and cannot hold {beneath}")]
    Clash {
        /// The file.
        file: String,
        /// The file that would be below it.
        beneath: String,
    },
}

impl Payload {
    /// Checks every path. Of two files with the same path the later one wins.
    ///
    /// # Errors
    /// For the first path that cannot be shown.
    pub fn new(files: impl IntoIterator<Item = (String, FileProjection)>) -> Result<Self, PathError> {
        let mut checked = BTreeMap::new();
        for (path, file) in files {
            checked.insert(valid_path(&path)?, file);
        }
        for path in checked.keys() {
            let clash = path.match_indices('/').map(|(at, _)| &path[..at]).find(|parent| checked.contains_key(*parent));
            if let Some(file) = clash {
                return Err(PathError::Clash { file: file.to_owned(), beneath: path.clone() });
            }
        }
        Ok(Payload { files: checked })
    }

    /// The files in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &FileProjection)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// One file.
    pub fn file(&self, path: &str) -> Option<&FileProjection> {
        self.files.get(path)
    }

    /// The names that are seen in the volume itself: the first component of every path, each once, with the owner of the
    /// first file below.
    pub fn top_level(&self) -> BTreeMap<&str, Option<u32>> {
        let mut names = BTreeMap::new();
        for (path, file) in &self.files {
            let name = path.split_once('/').map_or(path.as_str(), |(first, _)| first);
            names.entry(name).or_insert(file.user);
        }
        names
    }
}

/// The cleaned path of a file that may be shown (`util.validatePath` of the peer, and `filepath.Clean`).
///
/// # Errors
/// When it is absolute, leads upwards, begins with `..`, is too long or names no file.
pub fn valid_path(path: &str) -> Result<String, PathError> {
    let named = || path.to_owned();
    if path.starts_with('/') {
        return Err(PathError::Absolute { path: named() });
    }
    if path.contains('\0') {
        return Err(PathError::ZeroByte { path: named() });
    }
    if path.len() > 4096 {
        return Err(PathError::TooLong { length: path.len() });
    }
    let components: Vec<&str> = path.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
    if components.contains(&"..") {
        return Err(PathError::Backstep { path: named() });
    }
    if let Some(long) = components.iter().find(|c| c.len() > 255) {
        return Err(PathError::NameTooLong { length: long.len() });
    }
    match components.first() {
        None => Err(PathError::Empty { path: named() }),
        Some(first) if first.starts_with("..") => Err(PathError::Reserved { path: named() }),
        Some(_) => Ok(components.join("/")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn file(text: &str) -> FileProjection {
        FileProjection { data: text.as_bytes().to_vec(), mode: 0o644, user: None }
    }

    #[rstest]
    #[case("a", "a")]
    #[case("a/b", "a/b")]
    #[case("./a//b/", "a/b")]
    #[case(".hidden", ".hidden")]
    #[case("a/..b", "a/..b")]
    #[case("a..", "a..")]
    fn good_paths(#[case] path: &str, #[case] cleaned: &str) {
        assert_eq!(valid_path(path).as_deref(), Ok(cleaned));
    }

    #[rstest]
    #[case("", "must name a file")]
    #[case(".", "must name a file")]
    #[case("./", "must name a file")]
    #[case("/a", "must be relative")]
    #[case("..", "must not contain '..'")]
    #[case("a/../b", "must not contain '..'")]
    #[case("..data", "must not start with '..'")]
    #[case("...", "must not start with '..'")]
    #[case("./..a", "must not start with '..'")]
    #[case("a\0", "zero byte")]
    fn bad_paths(#[case] path: &str, #[case] message: &str) {
        let error = valid_path(path).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(valid_path(&"a".repeat(255)).is_ok());
        assert_eq!(valid_path(&"a".repeat(256)), Err(PathError::NameTooLong { length: 256 }));
        let long = "ab/".repeat(1366);
        assert_eq!(valid_path(&long), Err(PathError::TooLong { length: 4098 }));
    }

    #[test]
    fn a_file_cannot_hold_another() {
        let clash = Payload::new([("a/b/c".to_owned(), file("1")), ("a/b".to_owned(), file("2"))]);
        assert_eq!(clash, Err(PathError::Clash { file: "a/b".into(), beneath: "a/b/c".into() }));
        assert!(Payload::new([("a/b".to_owned(), file("1")), ("a/bc".to_owned(), file("2"))]).is_ok());
    }

    #[test]
    fn the_later_of_two_wins() {
        let payload = Payload::new([("a".to_owned(), file("1")), ("./a".to_owned(), file("2"))]).unwrap();
        assert_eq!(payload.len(), 1);
        assert_eq!(payload.file("a"), Some(&file("2")));
    }

    #[test]
    fn content_is_not_printed() {
        let payload = Payload::new([("a".to_owned(), file("hunter2"))]).unwrap();
        assert!(!format!("{payload:?}").contains("hunter2"));
        assert!(!format!("{payload:?}").contains("104"));
    }

    proptest! {
        /// Whatever passes is relative, goes nowhere but down, and is stable.
        #[test]
        fn what_passes_is_safe(path in "[./a\\\\\u{0}é-]{0,12}") {
            if let Ok(cleaned) = valid_path(&path) {
                let mut components = Path::new(&cleaned).components();
                prop_assert!(components.clone().count() > 0);
                prop_assert!(components.all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(!cleaned.starts_with(".."));
                prop_assert_eq!(valid_path(&cleaned).ok(), Some(cleaned.clone()));
            }
        }

        /// Every path of a payload has its first component among the visible names.
        #[test]
        fn top_level_covers_all(paths in proptest::collection::vec("[a-c](/[a-c]){0,3}", 0..8)) {
            if let Ok(payload) = Payload::new(paths.into_iter().map(|p| (p, file("x")))) {
                let names = payload.top_level();
                for (path, _) in payload.files() {
                    prop_assert!(names.contains_key(path.split('/').next().unwrap_or_default()));
                }
            }
        }
    }
}
