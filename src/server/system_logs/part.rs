//! Which part of a file a request wants: its conditions and ranges (RFC 9110, parts 13 and 14), decided as the peer's file server
//! does (`serveContent` of Go's net/http). Files have no tags, only the time of their last change.

use axum::http::HeaderMap;
use axum::http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;

use crate::model::Timestamp;

/// How many bytes from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u64,
    pub length: u64,
}

impl Span {
    /// As `Content-Range` tells it.
    pub(super) fn content_range(self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.start, (self.start + self.length).saturating_sub(1))
    }
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The client has it.
    NotModified,
    /// It is not what the client takes it for.
    PreconditionFailed,
    Whole,
    One(Span),
    /// More than one span, one after the other.
    Several(Vec<Span>),
    /// No byte of the file is in the ranges.
    Beyond,
    /// The header `Range` cannot be read.
    Invalid,
}

/// How times of files are written.
pub(super) fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

impl Part {
    /// Of a file with that time of change and that many bytes.
    pub(super) fn of(headers: &HeaderMap, modified: Timestamp, size: u64) -> Part {
        let modified = modified.as_second();
        let text =
            |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
        let is_unchanged_since = |since: &str| seconds(since).map(|since| modified <= since);
        let is_expected = match text(IF_MATCH) {
            "" => is_unchanged_since(text(IF_UNMODIFIED_SINCE)).unwrap_or(true),
            tag => tag == "*",
        };
        if !is_expected {
            return Part::PreconditionFailed;
        }
        let is_known = match text(IF_NONE_MATCH) {
            "" => is_unchanged_since(text(IF_MODIFIED_SINCE)).unwrap_or(false),
            tag => tag == "*",
        };
        if is_known {
            return Part::NotModified;
        }
        let is_same = match text(IF_RANGE) {
            "" => true,
            since => seconds(since) == Some(modified),
        };
        match text(RANGE) {
            range if is_same && !range.is_empty() => Self::of_range(range, size),
            _ => Part::Whole,
        }
    }

    fn of_range(range: &str, size: u64) -> Part {
        let Some(list) = range.strip_prefix("bytes=") else { return Part::Invalid };
        let mut spans = Vec::new();
        let mut is_any_beyond = false;
        for one in list.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            match span(one, size) {
                None => return Part::Invalid,
                Some(None) => is_any_beyond = true,
                Some(Some(span)) => spans.push(span),
            }
        }
        let sum = spans.iter().fold(0_u64, |sum, span| sum.saturating_add(span.length));
        match spans.as_slice() {
            [] if is_any_beyond && size > 0 => Part::Beyond,
            [] => Part::Whole,
            // More than the file has can only be asked for to cost the server something.
            _ if sum > size => Part::Whole,
            [one] => Part::One(*one),
            _ => Part::Several(spans),
        }
    }
}

fn seconds(date: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(date).ok().map(Timestamp::as_second)
}

/// One range; none if it cannot be read, an inner none if it is beyond the file.
fn span(range: &str, size: u64) -> Option<Option<Span>> {
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| match text.trim() {
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse::<u64>().ok(),
        _ => None,
    };
    if first.trim().is_empty() {
        let length = number(last)?.min(size);
        return Some(Some(Span { start: size - length, length }));
    }
    let start = number(first)?;
    if start >= size {
        return Some(None);
    }
    let end = match last.trim() {
        "" => size,
        last => number(last)?.saturating_add(1),
    };
    (end > start).then(|| Some(Span { start, length: end.min(size) - start }))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn part(headers: &[(HeaderName, &str)], size: u64) -> Part {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        Part::of(&headers.collect(), "1994-11-06T08:49:37.9Z".parse().unwrap(), size)
    }

    fn one(start: u64, length: u64) -> Part {
        Part::One(Span { start, length })
    }

    #[rstest]
    #[case("bytes=0-3", one(0, 4))]
    #[case("bytes=4-", one(4, 6))]
    #[case("bytes=-3", one(7, 3))]
    #[case("bytes=-30", one(0, 10))]
    #[case("bytes= 9 - 400 ", one(9, 1))]
    #[case("bytes=0-1,5-5", Part::Several(vec![Span { start: 0, length: 2 }, Span { start: 5, length: 1 }]))]
    #[case("bytes=0-1,50-", one(0, 2))]
    #[case("bytes=0-8,0-8", Part::Whole)]
    #[case("bytes=", Part::Whole)]
    #[case("bytes=10-", Part::Beyond)]
    #[case("bytes=10-,99-100", Part::Beyond)]
    #[case("bytes=3-2", Part::Invalid)]
    #[case("bytes=x-", Part::Invalid)]
    #[case("bytes=+1-2", Part::Invalid)]
    #[case("bytes=--3", Part::Invalid)]
    #[case("bytes=5", Part::Invalid)]
    #[case("lines=0-3", Part::Invalid)]
    fn ranges(#[case] range: &str, #[case] expected: Part) {
        assert_eq!(part(&[(RANGE, range)], 10), expected);
    }

    #[rstest]
    #[case(&[], Part::Whole)]
    #[case(&[(IF_MODIFIED_SINCE, CHANGED)], Part::NotModified)]
    #[case(&[(IF_MODIFIED_SINCE, BEFORE)], Part::Whole)]
    #[case(&[(IF_MODIFIED_SINCE, "lately")], Part::Whole)]
    #[case(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, CHANGED)], Part::Whole)]
    #[case(&[(IF_NONE_MATCH, "*")], Part::NotModified)]
    #[case(&[(IF_UNMODIFIED_SINCE, BEFORE)], Part::PreconditionFailed)]
    #[case(&[(IF_UNMODIFIED_SINCE, CHANGED)], Part::Whole)]
    #[case(&[(IF_MATCH, "\"x\"")], Part::PreconditionFailed)]
    #[case(&[(IF_MATCH, "*"), (IF_UNMODIFIED_SINCE, BEFORE)], Part::Whole)]
    #[case(&[(RANGE, "bytes=0-0"), (IF_RANGE, CHANGED)], one(0, 1))]
    #[case(&[(RANGE, "bytes=0-0"), (IF_RANGE, BEFORE)], Part::Whole)]
    #[case(&[(RANGE, "bytes=0-0"), (IF_RANGE, "\"x\"")], Part::Whole)]
    #[case(&[(RANGE, "bytes=0-0"), (IF_MODIFIED_SINCE, CHANGED)], Part::NotModified)]
    fn conditions(#[case] headers: &[(HeaderName, &str)], #[case] expected: Part) {
        assert_eq!(part(headers, 10), expected);
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        assert_eq!(part(&[(RANGE, "bytes=0-")], 0), Part::Whole);
        assert_eq!(part(&[(RANGE, "bytes=-1")], 0), one(0, 0));
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        assert_eq!(http_date("1994-11-06T08:49:37Z".parse().unwrap()), CHANGED);
        assert_eq!(seconds(CHANGED), Some(784_111_777));
    }

    proptest! {
        #[test]
        fn spans_are_within_the_file(range in "bytes=[-0-9, ]{0,30}", size in 0_u64..200) {
            let spans = match part(&[(RANGE, &range)], size) {
                Part::One(span) => vec![span],
                Part::Several(spans) => spans,
                _ => Vec::new(),
            };
            prop_assert!(spans.iter().all(|span| span.start + span.length <= size));
        }
    }
}
