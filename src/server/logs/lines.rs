//! From the bytes of a log file to those that a client gets: lines of CRI's form (`<time> <stream> <tag> <text>`) or of
//! Docker's JSON, the ones that were asked for. Pure; any bytes are taken.

use std::borrow::Cow;

use memchr::memchr;
use serde::Deserialize;

use super::moment::{self, Moment};

/// Which lines a client wants, and how.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// Not those from before.
    pub since: Option<Moment>,
    /// With the time before each line.
    pub timestamps: bool,
    /// Those of standard output.
    pub stdout: bool,
    /// Those of standard error.
    pub stderr: bool,
    /// Bytes to send at most.
    pub limit_bytes: Option<u64>,
    /// Lines of the file to look at, at most.
    pub lines: Option<u64>,
}

/// The first line is of no known form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to get parse function: unsupported log format: {0:?}")]
pub(super) struct UnknownFormat(String);

/// How much of a line of no known form is shown.
const SHOWN: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Cri,
    Docker,
}

/// A line that is too long to be held: its beginning was dealt with, its end is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Long {
    /// It goes to the client; whether its end is the end of what the container wrote as a line.
    Shown { partial: bool },
    /// It does not.
    Hidden { partial: bool },
    /// It is of no form, or of one that cannot be read in pieces.
    PassedOver,
}

/// Turns lines over. Keeps what one line tells of the next; holds no bytes.
#[derive(Debug)]
pub(super) struct Lines {
    selection: Selection,
    format: Option<Format>,
    /// What the container wrote last was the end of a line.
    is_new_line: bool,
    remaining: u64,
    lines_left: u64,
    long: Option<Long>,
}

impl Lines {
    pub(super) fn new(selection: Selection) -> Self {
        let remaining = selection.limit_bytes.unwrap_or(u64::MAX);
        let lines_left = selection.lines.unwrap_or(u64::MAX);
        Lines { selection, format: None, is_new_line: true, remaining, lines_left, long: None }
    }

    /// Whether nothing that comes can matter any more.
    pub(super) fn is_done(&self) -> bool {
        self.remaining == 0 || (self.lines_left == 0 && self.long.is_none())
    }

    /// Deals with all whole lines of `input`; how many bytes that were. Adds to `out` little more than it takes.
    ///
    /// # Errors
    /// When the first line is of no known form.
    pub(super) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, UnknownFormat> {
        let mut used = 0;
        while !self.is_done() {
            let rest = input.get(used..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else { break };
            let line = rest.get(..=end).unwrap_or_default();
            used += line.len();
            match self.long.take() {
                Some(long) => self.end_long(long, line, out),
                None => self.line(line, out)?,
            }
        }
        Ok(used)
    }

    /// Deals with bytes that are no whole line, as a line that is too long to wait for the rest of it.
    ///
    /// # Errors
    /// When the first line is of no known form.
    pub(super) fn feed_long(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), UnknownFormat> {
        if let Some(long) = self.long {
            if matches!(long, Long::Shown { .. }) {
                self.send(input, out);
            }
            return Ok(());
        }
        self.long = Some(match (self.format(input)?, Entry::cri(input)) {
            (Format::Cri, Some(entry)) => {
                let shown = self.show(&entry, out);
                let partial = entry.partial;
                if shown { Long::Shown { partial } } else { Long::Hidden { partial } }
            }
            _ => Long::PassedOver,
        });
        Ok(())
    }

    /// Deals with what is left at the end of the file: a line that was not written to its end.
    ///
    /// # Errors
    /// When the first line is of no known form.
    pub(super) fn finish(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<(), UnknownFormat> {
        if self.is_done() || rest.is_empty() {
            self.long = None;
            return Ok(());
        }
        match self.long.take() {
            Some(long) => {
                self.end_long(long, rest, out);
                Ok(())
            }
            None => self.line(rest, out),
        }
    }

    fn end_long(&mut self, long: Long, line: &[u8], out: &mut Vec<u8>) {
        self.lines_left = self.lines_left.saturating_sub(1);
        let (shown, partial) = match long {
            Long::Shown { partial } => (true, partial),
            Long::Hidden { partial } => (false, partial),
            Long::PassedOver => return,
        };
        let text = if partial { line.strip_suffix(b"\n").unwrap_or(line) } else { line };
        if shown {
            self.send(text, out);
        }
        self.is_new_line = text.ends_with(b"\n");
    }

    fn format(&mut self, line: &[u8]) -> Result<Format, UnknownFormat> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let format = if Entry::cri(line).is_some() {
            Format::Cri
        } else if Entry::docker(line).is_some() {
            Format::Docker
        } else {
            let shown = line.get(..SHOWN).unwrap_or(line);
            return Err(UnknownFormat(String::from_utf8_lossy(shown).into_owned()));
        };
        self.format = Some(format);
        Ok(format)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), UnknownFormat> {
        let entry = match self.format(line)? {
            Format::Cri => Entry::cri(line),
            Format::Docker => Entry::docker(line),
        };
        // A line of another form than the first is passed over, and does not count.
        let Some(entry) = entry else { return Ok(()) };
        self.show(&entry, out);
        self.lines_left = self.lines_left.saturating_sub(1);
        Ok(())
    }

    /// Sends a line if it is wanted; whether it is.
    fn show(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) -> bool {
        let selection = &self.selection;
        let wanted = selection.since.is_none_or(|since| entry.at >= since)
            && if entry.is_stdout { selection.stdout } else { selection.stderr };
        if wanted {
            if selection.timestamps && self.is_new_line {
                let start = out.len();
                moment::write_fixed(&entry.time, out);
                out.push(b' ');
                let written = u64::try_from(out.len() - start).unwrap_or(u64::MAX);
                if written > self.remaining {
                    out.truncate(start + usize::try_from(self.remaining).unwrap_or(usize::MAX));
                }
                self.remaining = self.remaining.saturating_sub(written);
            }
            self.send(&entry.text, out);
        }
        self.is_new_line = entry.text.is_empty() || entry.text.ends_with(b"\n");
        wanted
    }

    fn send(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let count = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(text.len());
        out.extend_from_slice(text.get(..count).unwrap_or_default());
        self.remaining = self.remaining.saturating_sub(u64::try_from(count).unwrap_or(0));
    }
}

/// A line in pieces.
#[derive(Debug)]
struct Entry<'a> {
    time: Cow<'a, [u8]>,
    at: Moment,
    is_stdout: bool,
    /// The line goes on in the next one.
    partial: bool,
    text: Cow<'a, [u8]>,
}

#[derive(Deserialize)]
struct DockerLine {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    time: Option<String>,
}

impl<'a> Entry<'a> {
    fn cri(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = split(line)?;
        let at = Moment::parse(time)?;
        let (stream, rest) = split(rest)?;
        let is_stdout = match stream {
            b"stdout" => true,
            b"stderr" => false,
            _ => return None,
        };
        let (tags, text) = split(rest)?;
        // More tags may follow the first, after colons.
        let partial = tags == b"P" || tags.starts_with(b"P:");
        let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
        Some(Entry { time: Cow::Borrowed(time), at, is_stdout, partial, text: Cow::Borrowed(text) })
    }

    fn docker(line: &[u8]) -> Option<Entry<'static>> {
        let text = String::from_utf8_lossy(line);
        let line: DockerLine = serde_json::from_str(&text).ok()?;
        let time = line.time.map_or(moment::ZERO.to_vec(), String::into_bytes);
        let is_stdout = match line.stream.as_str() {
            "stdout" => true,
            "stderr" => false,
            _ => return None,
        };
        let text = line.log.into_bytes();
        Some(Entry { at: Moment::parse(&time)?, time: time.into(), is_stdout, partial: false, text: text.into() })
    }
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (before, after) = text.split_at_checked(memchr(b' ', text)?)?;
    Some((before, after.get(1..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const ALL: Selection =
        Selection { since: None, timestamps: false, stdout: true, stderr: true, limit_bytes: None, lines: None };

    const LOG: &str = "\
        2016-10-06T00:17:09.1Z stdout F one\n\
        2016-10-06T00:17:10.2Z stderr P tw\n\
        2016-10-06T00:17:11.3Z stderr F o\n\
        not a line\n\
        2016-10-06T00:17:12.4Z stdout F:more three\n\
        2016-10-06T00:17:13.5Z stdout F \n";

    /// Reads as a reader does that gets `step` bytes at a time and holds up to `hold`.
    fn run(selection: Selection, input: &[u8], step: usize, hold: usize) -> Result<Vec<u8>, UnknownFormat> {
        let (mut lines, mut out, mut held) = (Lines::new(selection), Vec::new(), Vec::new());
        for piece in input.chunks(step) {
            held.extend_from_slice(piece);
            let used = lines.feed(&held, &mut out)?;
            held.drain(..used);
            if held.len() >= hold && !lines.is_done() {
                lines.feed_long(&held, &mut out)?;
                held.clear();
            }
        }
        lines.finish(&held, &mut out)?;
        Ok(out)
    }

    fn text(selection: Selection) -> String {
        String::from_utf8(run(selection, LOG.as_bytes(), 7, 1000).unwrap()).unwrap()
    }

    fn since(text: &str) -> Option<Moment> {
        Some(Moment::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn lines_are_selected() {
        assert_eq!(text(ALL), "one\ntwo\nthree\n\n");
        assert_eq!(text(Selection { stderr: false, ..ALL }), "one\nthree\n\n");
        assert_eq!(text(Selection { stdout: false, ..ALL }), "two\n");
        assert_eq!(text(Selection { since: since("2016-10-06T00:17:11.3Z"), ..ALL }), "o\nthree\n\n");
        assert_eq!(text(Selection { lines: Some(3), ..ALL }), "one\ntwo\n");
        assert_eq!(text(Selection { lines: Some(0), ..ALL }), "");
    }

    #[test]
    fn times_stand_before_lines_not_before_parts_of_them() {
        assert_eq!(
            text(Selection { timestamps: true, lines: Some(4), ..ALL }),
            "2016-10-06T00:17:09.100000000Z one\n2016-10-06T00:17:10.200000000Z two\n\
             2016-10-06T00:17:12.400000000Z three\n"
        );
    }

    #[rstest]
    #[case(1, "o")]
    #[case(4, "one\n")]
    #[case(6, "one\ntw")]
    #[case(1000, "one\ntwo\nthree\n\n")]
    fn bytes_are_limited(#[case] limit: u64, #[case] expected: &str) {
        assert_eq!(text(Selection { limit_bytes: Some(limit), ..ALL }), expected);
        let with_times = text(Selection { limit_bytes: Some(limit), timestamps: true, ..ALL });
        assert!(with_times.len() as u64 <= limit);
    }

    #[test]
    fn json_lines_are_read() {
        let log = "{\"log\":\"a \\\"b\\\"\\n\",\"stream\":\"stdout\",\"time\":\"2016-10-20T18:39:20.57606443Z\"}\n\
                   {\"log\":\"c\",\"stream\":\"stderr\",\"time\":\"2016-10-20T18:39:20.57606444Z\"}\n{broken\n";
        let got = run(Selection { timestamps: true, ..ALL }, log.as_bytes(), 11, 1000).unwrap();
        let expected = "2016-10-20T18:39:20.576064430Z a \"b\"\n2016-10-20T18:39:20.576064440Z c";
        assert_eq!(String::from_utf8(got).unwrap(), expected);
    }

    #[test]
    fn a_file_of_another_form_is_named() {
        let error = run(ALL, b"hello\n", 100, 100).unwrap_err();
        assert_eq!(error.to_string(), "failed to get parse function: unsupported log format: \"hello\\n\"");
    }

    #[test]
    fn an_unfinished_line_is_shown_at_the_end() {
        assert_eq!(
            run(ALL, b"2016-10-06T00:17:09Z stdout F a\n2016-10-06T00:17:09Z stdout F b", 9, 99).unwrap(),
            b"a\nb"
        );
    }

    proptest! {
        #[test]
        fn how_the_bytes_come_makes_no_difference(
            texts in prop::collection::vec(("[a-z ]{0,80}", any::<bool>(), any::<bool>()), 1..20),
            step in 1_usize..200,
            hold in 40_usize..200,
            timestamps in any::<bool>(),
            stderr in any::<bool>(),
            limit in prop::option::of(0_u64..400),
        ) {
            let mut log = String::new();
            for (text, out, partial) in &texts {
                let (stream, tag) = (if *out { "stdout" } else { "stderr" }, if *partial { "P" } else { "F" });
                log += &format!("2016-10-06T00:17:09.5Z {stream} {tag} {text}\n");
            }
            let selection = Selection { timestamps, stderr, limit_bytes: limit, ..ALL };
            let whole = run(selection.clone(), log.as_bytes(), log.len(), usize::MAX).unwrap();
            // Lines that are too long to be held come out the same.
            prop_assert_eq!(run(selection, log.as_bytes(), step, hold).unwrap(), whole);
        }

        #[test]
        fn any_bytes_are_taken(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b' ')], 0..600),
            first in any::<bool>(),
            step in 1_usize..100,
            hold in 1_usize..100,
            lines in prop::option::of(0_u64..4),
        ) {
            let mut input = if first { b"2016-10-06T00:17:09Z stdout F a\n".to_vec() } else { Vec::new() };
            input.extend(bytes);
            let selection = Selection { lines, timestamps: true, ..ALL };
            let _ = run(selection, &input, step, hold);
        }
    }
}
