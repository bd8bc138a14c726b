//! The termination message of a container that exited: what it left in the file at its `terminationMessagePath`, or the end
//! of its log if its policy says so. Reads are bounded; the parsing is pure.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::cri;
use super::labels;

/// Most bytes taken from the end of the file.
const MAX_FILE_BYTES: u64 = 4096;
/// Most bytes of text taken from the end of the log.
const MAX_LOG_BYTES: usize = 2048;
/// Most lines taken from the end of the log.
const MAX_LOG_LINES: usize = 80;
/// Most bytes read of a log file: enough for [`MAX_LOG_BYTES`] of text in [`MAX_LOG_LINES`] lines with their heads, since
/// a line that is cut at its start is longer than what is wanted of it.
const LOG_WINDOW: u64 = 32 * 1024;

/// Where a container's termination message is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageSource {
    /// The file on the node.
    file: Option<PathBuf>,
    /// The log, to be read if the file gives nothing.
    log: Option<PathBuf>,
}

impl MessageSource {
    /// The source for a container that exited; none if there is nothing to read.
    pub(super) fn of(status: &cri::ContainerStatus) -> Option<Self> {
        let path = labels::value(&status.annotations, labels::TERMINATION_MESSAGE_PATH);
        let file = path.and_then(|path| {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            let mount = status.mounts.iter().find(|m| m.container_path == path)?;
            Some(PathBuf::from(&mount.host_path))
        });
        let policy = labels::value(&status.annotations, labels::TERMINATION_MESSAGE_POLICY);
        // A container that could not be started has no log.
        let falls_back =
            policy == Some("FallbackToLogsOnError") && status.exit_code != 0 && status.reason != "ContainerCannotRun";
        let log = (falls_back && !status.log_path.is_empty()).then(|| PathBuf::from(&status.log_path));
        (file.is_some() || log.is_some()).then_some(MessageSource { file, log })
    }

    /// Reads the message. Blocks. A failure to read becomes the message, as for the peer.
    pub(super) fn read(&self) -> String {
        match self.file.as_deref().map(|path| (path, read_end(path, MAX_FILE_BYTES))) {
            Some((_, Ok(end))) if !end.bytes.is_empty() => return text(&end.bytes),
            Some((path, Err(error))) if error.kind() != io::ErrorKind::NotFound => {
                return format!("Error on reading termination log {}: {error}", path.display());
            }
            _ => {}
        }
        let Some(log) = self.log.as_deref() else { return String::new() };
        match read_end(log, LOG_WINDOW) {
            Ok(end) => text(&log_tail(&end.bytes, end.cut)),
            Err(error) => {
                format!("Error on reading termination message from logs: {}: {error}", log.display())
            }
        }
    }
}

struct FileEnd {
    bytes: Vec<u8>,
    /// Whether the file holds more before it.
    cut: bool,
}

/// The end of a regular file. Anything else at the path is refused, without waiting for its other end.
fn read_end(path: &Path, max: u64) -> io::Result<FileEnd> {
    let mut file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let start = meta.len().saturating_sub(max);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(FileEnd { bytes, cut: start > 0 })
}

/// The text of the last lines of a CRI log. `cut` tells that the window starts somewhere in a line, or between two.
fn log_tail(window: &[u8], cut: bool) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = window.split_inclusive(|byte| *byte == b'\n').collect();
    // A line without an end is still one to print, but does not count as one of the last lines.
    let unfinished = lines.last().is_some_and(|line| !line.ends_with(b"\n"));
    let wanted = MAX_LOG_LINES + usize::from(unfinished);
    let first = lines.len().saturating_sub(wanted);
    let starts_in_a_line = cut && first == 0;
    lines.drain(..first);
    let mut tail = Vec::new();
    for (index, line) in lines.into_iter().enumerate() {
        match content(line) {
            Some(content) => tail.extend_from_slice(content),
            None if index == 0 && starts_in_a_line => tail.extend_from_slice(line),
            None => {}
        }
    }
    let surplus = tail.len().saturating_sub(MAX_LOG_BYTES);
    tail.drain(..surplus);
    tail
}

/// The text of a log line `<time> <stdout|stderr> <tags> <text>`, with its end of line unless it is a part of a longer one.
fn content(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let is_time = time.first().is_some_and(u8::is_ascii_digit) && time.contains(&b'T');
    if !is_time || !(stream == b"stdout" || stream == b"stderr") {
        return None;
    }
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text })
}

/// Bytes as text; a character that was cut at the start is left out.
fn text(bytes: &[u8]) -> String {
    let is_continuation = |byte: &u8| byte & 0b1100_0000 == 0b1000_0000;
    let cut = bytes.iter().take(3).take_while(|byte| is_continuation(byte)).count();
    String::from_utf8_lossy(&bytes[cut..]).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn line(tag: &str, text: &str) -> String {
        format!("2026-01-02T03:04:05.678901234Z stdout {tag} {text}\n")
    }

    fn status(host_path: &Path, log: &Path, policy: &str, exit_code: i32) -> cri::ContainerStatus {
        cri::ContainerStatus {
            exit_code,
            log_path: log.display().to_string(),
            mounts: vec![cri::Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: host_path.display().to_string(),
                ..Default::default()
            }],
            annotations: HashMap::from([
                (labels::TERMINATION_MESSAGE_PATH.to_owned(), "/dev/termination-log".to_owned()),
                (labels::TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
            ]),
            ..Default::default()
        }
    }

    #[rstest]
    #[case::file("File", 1, Some("done"), "done")]
    #[case::empty_file("File", 1, Some(""), "")]
    #[case::no_file("File", 1, None, "")]
    #[case::file_before_log("FallbackToLogsOnError", 1, Some("done"), "done")]
    #[case::log_when_empty("FallbackToLogsOnError", 1, Some(""), "last words\n")]
    #[case::log_when_gone("FallbackToLogsOnError", 1, None, "last words\n")]
    #[case::no_log_on_success("FallbackToLogsOnError", 0, Some(""), "")]
    fn policies(#[case] policy: &str, #[case] code: i32, #[case] file: Option<&str>, #[case] expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let (message, log) = (dir.path().join("message"), dir.path().join("0.log"));
        if let Some(text) = file {
            fs::write(&message, text).unwrap();
        }
        fs::write(&log, line("F", "last words")).unwrap();
        let source = MessageSource::of(&status(&message, &log, policy, code)).unwrap();
        assert_eq!(source.read(), expected);
    }

    #[test]
    fn the_end_of_a_long_file_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        fs::write(&path, format!("{}the end", "x".repeat(10_000))).unwrap();
        let message = MessageSource::of(&status(&path, Path::new(""), "File", 1)).unwrap().read();
        assert_eq!(message.len(), 4096);
        assert!(message.ends_with("xxthe end"));
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let source = MessageSource::of(&status(dir.path(), Path::new(""), "File", 1)).unwrap();
        let message = source.read();
        assert!(message.starts_with("Error on reading termination log "), "{message}");
        assert!(message.contains("not a regular file"), "{message}");
    }

    #[test]
    fn a_missing_log_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone.log");
        let source = MessageSource::of(&status(&gone, &gone, "FallbackToLogsOnError", 1)).unwrap();
        assert!(source.read().starts_with("Error on reading termination message from logs: "));
    }

    #[test]
    fn nothing_to_read_without_annotations() {
        assert_eq!(MessageSource::of(&cri::ContainerStatus { exit_code: 1, ..Default::default() }), None);
        let mut unstarted = status(Path::new("/f"), Path::new("/l"), "FallbackToLogsOnError", 1);
        unstarted.reason = "ContainerCannotRun".to_owned();
        assert_eq!(MessageSource::of(&unstarted).unwrap().log, None);
    }

    #[test]
    fn parts_of_a_line_are_put_together() {
        let log = [line("F", "one"), line("P", "tw"), line("P:x", "o "), line("F", "three"), "garbage\n".to_owned()];
        assert_eq!(log_tail(log.concat().as_bytes(), false), b"one\ntwo three\n");
    }

    #[test]
    fn the_last_eighty_lines_count() {
        let log: String = (0..100).map(|n| line("F", &n.to_string())).collect();
        let tail = text(&log_tail(log.as_bytes(), false));
        assert_eq!(tail.lines().count(), 80);
        assert!(tail.starts_with("20\n") && tail.ends_with("99\n"));
    }

    #[test]
    fn a_line_longer_than_the_window_still_gives_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        fs::write(&log, line("F", &format!("{}fin", "y".repeat(100_000)))).unwrap();
        let message = MessageSource::of(&status(Path::new("/none"), &log, "FallbackToLogsOnError", 2)).unwrap().read();
        assert_eq!(message.len(), MAX_LOG_BYTES);
        assert!(message.ends_with("yyfin\n"));
    }

    #[test]
    fn a_cut_character_is_left_out() {
        let bytes = "äöü".as_bytes();
        assert_eq!(text(&bytes[1..]), "öü");
        assert_eq!(text(&bytes[..5]), "äö\u{fffd}");
    }

    proptest! {
        #[test]
        fn the_window_is_enough(lengths in prop::collection::vec(0usize..3000, 0..120)) {
            let log: String = lengths.iter().map(|n| line("F", &"z".repeat(*n))).collect();
            let whole = log_tail(log.as_bytes(), false);
            let start = log.len().saturating_sub(LOG_WINDOW as usize);
            prop_assert_eq!(log_tail(&log.as_bytes()[start..], start > 0), whole);
        }
    }
}
