//! klog's text form: `I1124 15:09:03.123456    4711 worker.rs:45] "Message" key="value" number=1`.

use std::fmt::{self, Write};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::model::field_ref::go_quote;
use crate::model::{SignedDuration, Timestamp, clock};
use crate::sys::local_time;

use super::line::{self, Content, Line};

/// Writes events.
pub(super) struct Text;
/// Spans' fields are in no line.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, _: Writer<'w>, _: R) -> fmt::Result {
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let now = clock::now();
        let offset = local_time::utc_offset(now.as_second());
        let head =
            Head { level: *metadata.level(), now, offset, pid: std::process::id(), place: line::place(metadata, 1) };
        writer.write_str(&render(&head, &Line::of(event)))
    }
}

/// What stands before the message.
struct Head<'a> {
    level: Level,
    now: Timestamp,
    /// Seconds that local time is ahead of UTC.
    offset: i32,
    pid: u32,
    place: (&'a str, u32),
}

fn render(head: &Head<'_>, line: &Line) -> String {
    let severity = match head.level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let shifted = head.now + SignedDuration::from_secs(i64::from(head.offset));
    // RFC 3339 in UTC: the parts stand at fixed places.
    let time = format!("{shifted:.6}");
    let part = |from: usize, to: usize| time.get(from..to).unwrap_or_default();
    let (file, number) = head.place;
    let mut out = String::with_capacity(160);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "{severity}{}{} {} {:7} {file}:{number}] {}",
        part(5, 7),
        part(8, 10),
        part(11, 26),
        head.pid,
        go_quote(&line.message)
    );
    for (name, content) in &line.fields {
        let _ = match content {
            Content::Bare(value) => write!(out, " {name}={value}"),
            Content::Text(value) if value.contains('\n') => {
                let _ = writeln!(out, " {name}=<");
                for part in value.trim_end_matches('\n').lines() {
                    let _ = writeln!(out, "\t{part}");
                }
                write!(out, " >")
            }
            Content::Text(value) => write!(out, " {name}={}", go_quote(value)),
        };
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(level: Level, offset: i32) -> Head<'static> {
        let now = "2026-11-24T15:09:03.123456789Z".parse().unwrap();
        Head { level, now, offset, pid: 4711, place: ("worker.rs", 45) }
    }

    #[test]
    fn a_line_is_klog_s() {
        let line = Line {
            message: "Started a \"pod\"".into(),
            fields: vec![
                ("err", Content::Text("no way\\out".into())),
                ("pod", Content::Text("default/web".into())),
                ("tries", Content::Bare("3".into())),
            ],
        };
        let expected = "E1124 15:09:03.123456    4711 worker.rs:45] \"Started a \\\"pod\\\"\" err=\"no way\\\\out\" \
                        pod=\"default/web\" tries=3\n";
        assert_eq!(render(&head(Level::ERROR, 0), &line), expected);
    }

    #[test]
    fn severities_and_local_time() {
        let line = Line::default();
        assert!(render(&head(Level::WARN, 0), &line).starts_with("W1124 15:09:03.123456 "));
        assert!(render(&head(Level::INFO, 3600 * 10), &line).starts_with("I1125 01:09:03.123456 "));
        assert!(render(&head(Level::TRACE, -3600), &line).starts_with("I1124 14:09:03.123456 "));
    }

    #[test]
    fn a_value_of_several_lines_is_set_apart() {
        let line =
            Line { message: "m\nn".into(), fields: vec![("configuration", Content::Text("a: 1\nb: 2\n".into()))] };
        let rendered = render(&head(Level::INFO, 0), &line);
        assert!(rendered.ends_with("] \"m\\nn\" configuration=<\n\ta: 1\n\tb: 2\n >\n"), "{rendered}");
    }
}
