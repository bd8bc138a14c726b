//! A log file: opened within its pod's directory alone, searched from its end, read on from where it was left.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use memchr::{memchr_iter, memrchr};

use super::lines::{Lines, Selection, UnknownFormat};
use crate::sys::beneath::Dir;

/// Bytes that are searched at once for the end of lines.
const BLOCK: u64 = 64 * 1024;
/// Bytes that are read at once: few as long as little comes.
const LEAST: usize = 16 * 1024;
const MOST: usize = 256 * 1024;
/// Bytes that are made before they are given away.
const CHUNK: usize = 128 * 1024;
/// Bytes that are read before it is looked whether anyone still wants them.
const STEP: usize = 8 << 20;

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogFileError {
    /// It is not where logs of this pod are.
    #[error("failed to open log file {path:?}: it is outside of {root:?}")]
    Outside { path: PathBuf, root: PathBuf },
    #[error("failed to open log file {path:?}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read log file {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Format(#[from] UnknownFormat),
}

/// Where a log file is: in the directory of its pod, by a path of plain names.
pub(super) struct Place {
    /// The pod's directory.
    root: Dir,
    /// The file below it.
    below: PathBuf,
    path: PathBuf,
}

impl Place {
    /// Of a path that the runtime told; `root` is the pod's own directory of logs.
    pub(super) fn new(root: &Path, path: &Path) -> Result<Self, LogFileError> {
        let outside = || LogFileError::Outside { path: path.to_owned(), root: root.to_owned() };
        let below = path.strip_prefix(root).map_err(|_| outside())?;
        let is_plain = below.components().all(|component| matches!(component, Component::Normal(_)));
        if !is_plain || below.as_os_str().is_empty() {
            return Err(outside());
        }
        let failed = |source| LogFileError::Open { path: path.to_owned(), source };
        let (parent, name) = (root.parent().ok_or_else(outside)?, root.file_name().ok_or_else(outside)?);
        // The node's directory of logs is the administrator's, the pod's own must not be a link.
        let root = Dir::open(parent).and_then(|parent| parent.child(name)).map_err(failed)?;
        Ok(Place { root, below: below.to_owned(), path: path.to_owned() })
    }

    /// Opens the file. A link out of the pod's directory is refused.
    pub(super) fn open(&self) -> Result<File, LogFileError> {
        let opened = self.root.read_file(&self.below);
        opened.map_err(|source| LogFileError::Open { path: self.path.clone(), source })
    }

    /// The directory that the file is in.
    pub(super) fn directory(&self) -> io::Result<Dir> {
        self.root.resolve_dir(self.below.parent().unwrap_or(Path::new("")))
    }
}

/// Where the last `count` lines begin. An unfinished line at the end is none of them.
fn start_of_last(file: &File, count: u64) -> io::Result<u64> {
    let mut right = file.metadata()?.len();
    let mut buffer = vec![0; usize::try_from(BLOCK.min(right)).unwrap_or(0)];
    // The line feed before the wanted lines, and those that end them.
    let mut to_find = count.saturating_add(1);
    while right > 0 {
        let left = right.saturating_sub(BLOCK);
        let block = buffer.get_mut(..usize::try_from(right - left).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(block, left)?;
        let found = u64::try_from(memchr_iter(b'\n', block).count()).unwrap_or(u64::MAX);
        if found >= to_find {
            let mut end = block.len();
            while let Some(at) = memrchr(b'\n', block.get(..end).unwrap_or_default()) {
                to_find -= 1;
                if to_find == 0 {
                    return Ok(left + u64::try_from(at).unwrap_or(0) + 1);
                }
                end = at;
            }
        }
        to_find -= found;
        right = left;
    }
    Ok(0)
}

/// What a step of reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more to read.
    More,
    /// The file has no more for now.
    AtEnd,
    /// Nothing more is wanted.
    Done,
}

/// A file that is read line by line.
pub(super) struct LogReader {
    place: Place,
    file: File,
    offset: u64,
    lines: Lines,
    buffer: Vec<u8>,
    held: usize,
}

impl LogReader {
    /// Opens it and finds where to begin. Blocks.
    pub(super) fn open(place: Place, tail: Option<u64>, selection: Selection) -> Result<Self, LogFileError> {
        let mut file = place.open()?;
        let failed = |source| LogFileError::Read { path: place.path.clone(), source };
        let offset = match tail {
            Some(count) => start_of_last(&file, count).map_err(failed)?,
            None => 0,
        };
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        Ok(LogReader { place, file, offset, lines: Lines::new(selection), buffer: Vec::new(), held: 0 })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Reads on until there is enough to give away, or nothing more. Blocks, but not for long.
    pub(super) fn step(&mut self, out: &mut Vec<u8>) -> Result<Step, LogFileError> {
        let mut read = 0;
        loop {
            if self.lines.is_done() {
                return Ok(Step::Done);
            }
            if out.len() >= CHUNK || read >= STEP {
                return Ok(Step::More);
            }
            if self.held == self.buffer.len() {
                if self.buffer.len() >= MOST {
                    self.lines.feed_long(&self.buffer, out)?;
                    self.held = 0;
                } else {
                    self.buffer.resize((self.buffer.len() * 2).clamp(LEAST, MOST), 0);
                }
            }
            let free = self.buffer.get_mut(self.held..).unwrap_or_default();
            let room = free.len();
            let count = match self.file.read(free) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(LogFileError::Read { path: self.place.path.clone(), source }),
            };
            if count == 0 {
                return Ok(Step::AtEnd);
            }
            (self.held, self.offset, read) = (self.held + count, self.offset + count as u64, read + count);
            let used = self.lines.feed(self.buffer.get(..self.held).unwrap_or_default(), out)?;
            self.buffer.copy_within(used..self.held, 0);
            self.held -= used;
            if count == room && self.buffer.len() < MOST {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
    }

    /// Gives the line away that was not written to its end.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), LogFileError> {
        self.lines.finish(self.buffer.get(..self.held).unwrap_or_default(), out)?;
        self.held = 0;
        Ok(())
    }

    /// Frees what is not needed while nothing comes.
    pub(super) fn rest(&mut self) {
        self.buffer.truncate(self.held);
        self.buffer.shrink_to_fit();
    }

    /// The file that has taken this one's place, if one has: it was rotated.
    pub(super) fn successor(&self) -> Option<File> {
        // It may be away for a moment between being renamed and made again.
        let next = self.place.open().ok()?;
        let (old, new) = (self.file.metadata().ok()?, next.metadata().ok()?);
        ((old.dev(), old.ino()) != (new.dev(), new.ino())).then_some(next)
    }

    /// Goes on with another file from its beginning.
    pub(super) fn switch(&mut self, file: File) {
        (self.file, self.offset, self.held) = (file, 0, 0);
    }

    /// Goes back to the beginning if the file was cut off before where it is read. Blocks for the time of a system call.
    pub(super) fn follow_cut(&mut self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() < self.offset)
            && self.file.seek(SeekFrom::Start(0)).is_ok()
        {
            (self.offset, self.held) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    const ALL: Selection =
        Selection { since: None, timestamps: false, stdout: true, stderr: true, limit_bytes: None, lines: None };

    fn read(reader: &mut LogReader) -> String {
        let mut all = Vec::new();
        loop {
            let mut out = Vec::new();
            let step = reader.step(&mut out).unwrap();
            assert!(out.len() <= CHUNK + MOST + 64, "{}", out.len());
            all.extend(out);
            if step != Step::More {
                break;
            }
        }
        reader.finish(&mut all).unwrap();
        String::from_utf8(all).unwrap()
    }

    fn reader(folder: &Path, tail: Option<u64>, lines: Option<u64>) -> LogReader {
        let place = Place::new(folder, &folder.join("c/0.log")).unwrap();
        LogReader::open(place, tail, Selection { lines, ..ALL }).unwrap()
    }

    fn line(text: &str) -> String {
        format!("2016-10-06T00:17:09.5Z stdout F {text}\n")
    }

    #[test]
    fn large_files_and_long_lines_are_read_in_little_memory() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("c")).unwrap();
        let (mut log, mut expected) = (String::new(), String::new());
        for number in 0..60_000 {
            log += &line(&number.to_string());
            expected += &format!("{number}\n");
        }
        for text in ["x".repeat(3 * MOST), "after".to_owned()] {
            log += &line(&text);
            expected += &format!("{text}\n");
        }
        std::fs::write(folder.path().join("c/0.log"), &log).unwrap();
        let mut all = reader(folder.path(), None, None);
        assert!(read(&mut all) == expected);
        assert!(all.buffer.len() <= MOST);
        all.rest();
        assert_eq!(all.buffer.capacity(), 0);
    }

    #[test]
    fn links_out_of_the_pods_directory_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pod = folder.path().join("pod");
        std::fs::create_dir_all(pod.join("c")).unwrap();
        std::fs::create_dir(folder.path().join("other")).unwrap();
        std::fs::write(folder.path().join("other/secret"), line("secret")).unwrap();
        std::fs::write(pod.join("c/1.log"), line("inside")).unwrap();
        let open = |name: &str| {
            let place = Place::new(&pod, &pod.join("c").join(name))?;
            Ok::<_, LogFileError>(read(&mut LogReader::open(place, None, ALL)?))
        };
        for target in ["../../other/secret", "/etc/passwd"] {
            symlink(target, pod.join("c/0.log")).unwrap();
            assert!(matches!(open("0.log"), Err(LogFileError::Open { .. })));
            std::fs::remove_file(pod.join("c/0.log")).unwrap();
        }
        symlink("1.log", pod.join("c/0.log")).unwrap();
        assert_eq!(open("0.log").unwrap(), "inside\n");
        rustix::fs::mknodat(rustix::fs::CWD, pod.join("c/fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open("fifo").is_err() && open("").is_err() && open("absent").is_err());
        for path in ["/etc/passwd", "pod/c/1.log"] {
            assert!(matches!(Place::new(&pod, Path::new(path)), Err(LogFileError::Outside { .. })), "{path}");
        }
        assert!(matches!(Place::new(&pod, &pod.join("../other/secret")), Err(LogFileError::Outside { .. })));
        symlink("other", folder.path().join("linked")).unwrap();
        let linked = folder.path().join("linked");
        assert!(Place::new(&linked, &linked.join("secret")).is_err());
    }

    #[test]
    fn a_file_that_was_rotated_or_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (c, log) = (folder.path().join("c"), folder.path().join("c/0.log"));
        std::fs::create_dir(&c).unwrap();
        std::fs::write(&log, line("one")).unwrap();
        let mut reader = reader(folder.path(), None, None);
        assert_eq!(read(&mut reader), "one\n");
        assert!(reader.successor().is_none());
        let mut writer = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        std::fs::rename(&log, c.join("0.log.1")).unwrap();
        assert!(reader.successor().is_none());
        writer.write_all(line("two").as_bytes()).unwrap();
        std::fs::write(&log, line("three")).unwrap();
        let next = reader.successor().unwrap();
        assert_eq!(read(&mut reader), "two\n");
        reader.switch(next);
        assert_eq!(read(&mut reader), "three\n");
        std::fs::write(&log, line("4")).unwrap();
        reader.follow_cut();
        assert_eq!(read(&mut reader), "4\n");
    }

    proptest! {
        #[test]
        fn the_last_lines_are_found(lengths in prop::collection::vec(0_usize..9000, 0..60), count in 0_u64..70, cut in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("c")).unwrap();
            let texts: Vec<String> = lengths.iter().map(|length| "y".repeat(*length)).collect();
            let mut log: String = texts.iter().map(|text| line(text)).collect();
            if cut {
                log += "2016-10-06T00:17:09.5Z stdout F unfinished";
            }
            std::fs::write(folder.path().join("c/0.log"), log).unwrap();
            let skip = texts.len().saturating_sub(usize::try_from(count).unwrap());
            let mut expected: String = texts.iter().skip(skip).map(|text| format!("{text}\n")).collect();
            prop_assert!(read(&mut reader(folder.path(), Some(count), Some(count))) == expected || texts.len() < usize::try_from(count).unwrap());
            if cut {
                expected += "unfinished";
            }
            prop_assert!(read(&mut reader(folder.path(), Some(count), None)) == expected);
        }
    }
}
