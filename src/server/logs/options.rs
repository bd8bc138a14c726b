//! What a client asks of a log: the query as `PodLogOptions` of v1, with the peer's checks.

use k8s_openapi::jiff::SignedDuration;

use super::lines::Selection;
use super::moment::Moment;
use crate::model::Timestamp;
use crate::server::query::Query;

/// Which streams are asked for, by the API's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stream {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Why a query cannot be served; the peer's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("{{\"message\": \"Unable to decode query.\"}}")]
    Undecodable,
    #[error("{{\"message\": \"Invalid request.\"}}")]
    Invalid,
}

/// `PodLogOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since_seconds: Option<i64>,
    pub since_time: Option<Timestamp>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// None if it was not named.
    pub stream: Option<Stream>,
}

impl LogOptions {
    pub(super) fn of(query: &Query) -> Result<Self, OptionsError> {
        let is_set = |name| query.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"));
        let number = |name| {
            let value: Option<&str> = query.get(name);
            value.map(str::parse::<i64>).transpose().map_err(|_| OptionsError::Undecodable)
        };
        let since_seconds = number("sinceSeconds")?;
        let (is_since_time, since_time) = match query.get("sinceTime") {
            // Written so by old clients that have none, which still counts as one.
            Some("" | "null") => (true, None),
            Some(text) => (true, Some(text.parse::<Timestamp>().map_err(|_| OptionsError::Undecodable)?)),
            None => (false, None),
        };
        // The old name goes before the new one.
        let tail_lines = match query.get("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(tail.parse::<i64>().map_err(|_| OptionsError::Undecodable)?),
            None => number("tailLines")?,
        };
        let limit_bytes = number("limitBytes")?;
        let stream = match query.get("stream") {
            None => None,
            Some("All") => Some(Stream::All),
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(_) => return Err(OptionsError::Invalid),
        };
        let unsigned = |value: i64| u64::try_from(value).map_err(|_| OptionsError::Invalid);
        let options = LogOptions {
            follow: is_set("follow"),
            previous: is_set("previous"),
            timestamps: is_set("timestamps"),
            since_seconds,
            since_time,
            tail_lines: tail_lines.map(unsigned).transpose()?,
            limit_bytes: limit_bytes.map(unsigned).transpose()?,
            stream,
        };
        let is_one_stream = matches!(options.stream, Some(Stream::Stdout | Stream::Stderr));
        let is_invalid = options.limit_bytes == Some(0)
            || since_seconds.is_some_and(|seconds| seconds < 1 || is_since_time)
            || (is_one_stream && options.tail_lines.is_some());
        if is_invalid { Err(OptionsError::Invalid) } else { Ok(options) }
    }

    /// Which lines that are. How many is only bounded when nothing more is waited for.
    pub(super) fn selection(&self, now: Timestamp) -> Selection {
        let seconds = self
            .since_seconds
            .map(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN));
        let stream = self.stream.clone().unwrap_or_default();
        Selection {
            since: seconds.max(self.since_time).map(Moment::of),
            timestamps: self.timestamps,
            stdout: stream != Stream::Stderr,
            stderr: stream != Stream::Stdout,
            limit_bytes: self.limit_bytes,
            lines: self.tail_lines.filter(|_| !self.follow),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn options(query: &str) -> Result<LogOptions, OptionsError> {
        LogOptions::of(&Query::parse(query))
    }

    #[test]
    fn queries_are_decoded() {
        let got = options(
            "follow=true&previous=1&timestamps=x&sinceTime=2026-01-02T03:04:05%2B02:00&tailLines=3&limitBytes=9&stream=All",
        )
        .unwrap();
        let expected = LogOptions {
            follow: true,
            previous: true,
            timestamps: true,
            since_seconds: None,
            since_time: Some("2026-01-02T01:04:05Z".parse().unwrap()),
            tail_lines: Some(3),
            limit_bytes: Some(9),
            stream: Some(Stream::All),
        };
        assert_eq!(got, expected);
        assert_eq!(options("follow=0&previous=False&container=x&unknown=1").unwrap(), LogOptions::default());
        assert_eq!(options("tail=7&tailLines=3").unwrap().tail_lines, Some(7));
        assert_eq!(options("tail=all&tailLines=3").unwrap().tail_lines, None);
        assert_eq!(options("sinceTime=").unwrap(), LogOptions::default());
    }

    #[rstest]
    #[case("tailLines=x", OptionsError::Undecodable)]
    #[case("tailLines=", OptionsError::Undecodable)]
    #[case("limitBytes=1e3", OptionsError::Undecodable)]
    #[case("sinceSeconds=99999999999999999999", OptionsError::Undecodable)]
    #[case("sinceTime=yesterday", OptionsError::Undecodable)]
    #[case("tailLines=-1", OptionsError::Invalid)]
    #[case("limitBytes=0", OptionsError::Invalid)]
    #[case("limitBytes=-1", OptionsError::Invalid)]
    #[case("sinceSeconds=0", OptionsError::Invalid)]
    #[case("sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z", OptionsError::Invalid)]
    #[case("stream=stdout", OptionsError::Invalid)]
    #[case("stream=Stdout&tailLines=1", OptionsError::Invalid)]
    fn bad_queries_are_refused(#[case] query: &str, #[case] expected: OptionsError) {
        assert_eq!(options(query), Err(expected));
    }

    #[test]
    fn the_later_since_counts_and_a_bound_of_lines_ends_with_following() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let selection = options("sinceSeconds=5&tailLines=2").unwrap().selection(now);
        assert_eq!(selection.since, Moment::parse(b"2026-01-02T03:04:00Z"));
        assert_eq!(selection.lines, Some(2));
        assert_eq!(options("tailLines=2&follow=true").unwrap().selection(now).lines, None);
        let far = options(&format!("sinceSeconds={}", i64::MAX)).unwrap().selection(now);
        assert!(far.since.is_some_and(|since| since < Moment::of(now)));
    }

    proptest! {
        #[test]
        fn any_query_is_taken(query in ".{0,80}", value in "(tailLines|sinceTime|limitBytes|stream)=.{0,30}") {
            let _ = options(&query);
            let _ = options(&value).map(|options| options.selection(Timestamp::UNIX_EPOCH));
        }
    }
}
