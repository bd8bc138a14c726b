//! Files and directories beneath the node's log directory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::io::Errno;

use super::part::Span;
use crate::model::Timestamp;
use crate::sys::beneath::{Dir, FileType, is_errno};

/// Bytes read at once.
const PIECE: usize = 128 * 1024;
/// Names of a directory that are shown.
const NAMES: usize = 10_000;
/// Absolute links that are followed one after the other.
const LINKS: usize = 8;
/// What a name keeps in a link to it.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/')
    .remove(b'$')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b'=')
    .remove(b'@');

/// What is at a path.
#[derive(Debug)]
pub(super) enum Found {
    File(File),
    Directory(Listing),
}

/// The names in a directory, those of directories with a slash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing(Vec<String>);

/// A name as an address relative to its directory.
pub(super) fn encoded(name: &str) -> String {
    let encoded = utf8_percent_encode(name, KEPT);
    // What stands before a colon would be taken for a scheme.
    if name.contains(':') { format!("./{encoded}") } else { encoded.to_string() }
}

/// Text in HTML.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    text.replace('\'', "&#39;")
}

impl Listing {
    /// As the peer's file server writes one.
    pub(super) fn html(&self) -> String {
        let mut html = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
        for name in &self.0 {
            html += &format!("<a href=\"{}\">{}</a>\n", encoded(name), escaped(name));
        }
        html + "</pre>\n"
    }
}

/// What is at a path beneath the folder.
///
/// # Errors
/// As of `openat2(2)`; `EXDEV` for what leads out of the folder.
pub(super) fn find(folder: &Path, path: &Path) -> io::Result<Found> {
    let root = Dir::open(folder)?;
    let mut path = plain(path)?;
    for _ in 0..LINKS {
        match open(&root, &path) {
            Err(error) if is_errno(&error, Errno::XDEV) => path = inside(folder, &root, &path).ok_or(error)?,
            other => return other,
        }
    }
    Err(Errno::LOOP.into())
}

/// Names alone: no way up is taken, also none that comes back.
fn plain(path: &Path) -> io::Result<PathBuf> {
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_plain { Ok(path.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn open(root: &Dir, path: &Path) -> io::Result<Found> {
    match root.resolve_dir(path) {
        Ok(directory) => listing(&directory).map(Found::Directory),
        Err(error) if is_errno(&error, Errno::NOTDIR) => root.read_file(path).map(Found::File),
        Err(error) => Err(error),
    }
}

/// Where an absolute link leads that leads into the folder, as `/var/log/containers/*.log` do.
fn inside(folder: &Path, root: &Dir, path: &Path) -> Option<PathBuf> {
    let parent = root.resolve_dir(path.parent()?).ok()?;
    let target = PathBuf::from(parent.read_link(path.file_name()?).ok()?);
    plain(target.strip_prefix(folder).ok()?).ok()
}

fn listing(directory: &Dir) -> io::Result<Listing> {
    let mut entries = directory.first_entries(NAMES)?;
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let names = entries.iter().map(|entry| {
        let slash = if entry.kind == FileType::Directory { "/" } else { "" };
        format!("{}{slash}", entry.name.to_string_lossy())
    });
    Ok(Listing(names.collect()))
}

/// A file's size and when it was last changed.
pub(super) fn facts(file: &File) -> io::Result<(u64, Timestamp)> {
    let metadata = file.metadata()?;
    let modified = Timestamp::from_second(metadata.mtime()).unwrap_or(Timestamp::UNIX_EPOCH);
    Ok((metadata.len(), modified))
}

/// A file's bytes; an error ends them.
pub(super) fn pieces(file: File) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    futures::stream::unfold(file, |mut file| async move {
        let read = move || {
            let mut piece = vec![0; PIECE];
            let count = file.read(&mut piece).unwrap_or(0);
            piece.truncate(count);
            (piece, file)
        };
        // Given up, it ends unheard after one read.
        let (piece, file) = tokio::task::spawn_blocking(read).await.ok()?;
        (!piece.is_empty()).then(|| (Ok(piece.into()), file))
    })
}

/// What an answer consists of.
pub(super) enum Segment {
    Words(Bytes),
    Of(Span),
}

impl Segment {
    /// Bytes in it.
    pub(super) fn length(&self) -> u64 {
        match self {
            Segment::Words(words) => words.len() as u64,
            Segment::Of(span) => span.length,
        }
    }
}

/// Segments one after the other; an error ends them.
pub(super) fn segments(
    file: File,
    segments: impl IntoIterator<Item = Segment>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let segments: VecDeque<Segment> = segments.into_iter().collect();
    futures::stream::unfold((file, segments), |(file, mut segments)| async move {
        let span = match segments.pop_front()? {
            Segment::Words(words) => return Some((Ok(words), (file, segments))),
            Segment::Of(span) => span,
        };
        let read = move || {
            let mut piece = vec![0; usize::try_from(span.length).unwrap_or(PIECE).min(PIECE)];
            let count = file.read_at(&mut piece, span.start).unwrap_or(0);
            piece.truncate(count);
            (piece, file)
        };
        // Given up, it ends unheard after one read.
        let (piece, file) = tokio::task::spawn_blocking(read).await.ok()?;
        let count = piece.len() as u64;
        if count == 0 && span.length > 0 {
            return None;
        }
        if count < span.length {
            segments.push_front(Segment::Of(Span { start: span.start + count, length: span.length - count }));
        }
        Some((Ok(piece.into()), (file, segments)))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_is_found() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("log");
        std::fs::create_dir_all(folder.join("pods/a")).unwrap();
        std::fs::create_dir(folder.join("containers")).unwrap();
        std::fs::write(folder.join("pods-old"), "").unwrap();
        std::fs::write(folder.join("pods/a/0.log"), "inside").unwrap();
        std::fs::write(top.path().join("secret"), "secret").unwrap();
        symlink(folder.join("pods/a/0.log"), folder.join("containers/a.log")).unwrap();
        symlink("../secret", folder.join("out")).unwrap();
        symlink(top.path().join("secret"), folder.join("far")).unwrap();
        symlink(top.path(), folder.join("up")).unwrap();
        symlink(folder.join("round"), folder.join("round")).unwrap();
        let text = |path: &str| match find(&folder, Path::new(path)) {
            Ok(Found::File(file)) => std::io::read_to_string(file).unwrap(),
            Ok(Found::Directory(listing)) => format!("{:?}", listing.0),
            Err(error) => error.kind().to_string(),
        };
        assert_eq!(text("pods/a/0.log"), "inside");
        assert_eq!(text("containers/a.log"), "inside");
        assert_eq!(text(""), "[\"containers/\", \"far\", \"out\", \"pods/\", \"pods-old\", \"round\", \"up\"]");
        for path in ["out", "far", "up", "up/secret", "round", "../secret", "pods/../../secret", "/etc/passwd", "none"]
        {
            assert!(!text(path).contains("secret") && find(&folder, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn names_are_written_safely() {
        let listing = Listing(vec!["a b".to_owned(), "<x>&\"'/".to_owned(), "10:00".to_owned()]);
        assert_eq!(
            listing.html(),
            "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n\
             <a href=\"a%20b\">a b</a>\n<a href=\"%3Cx%3E%26%22%27/\">&lt;x&gt;&amp;&#34;&#39;/</a>\n\
             <a href=\"./10:00\">10:00</a>\n</pre>\n"
        );
    }
}
