//! The JSON form of component-base: one object a line, `{"ts":1580306777046.432,"caller":"pod/worker.rs:45","msg":"Message","v":0,...}`;
//! an error has no `v` and its cause as `err`.

use std::fmt;

use serde_json::Value;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::model::{Timestamp, clock};

use super::levels;
use super::line::{self, Content, Line};

/// Writes events.
pub(super) struct Json;
/// Spans' fields are in no line.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, _: Writer<'w>, _: R) -> fmt::Result {
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        writeln!(writer, "{}", render(*metadata.level(), clock::now(), line::place(metadata, 2), Line::of(event)))
    }
}

fn render(level: Level, now: Timestamp, (file, number): (&str, u32), line: Line) -> String {
    // Milliseconds since the epoch, with microseconds as their fraction.
    let (micros, text) = (now.as_microsecond(), |text: &str| Value::from(text).to_string());
    let fraction = format!(".{:03}", micros.rem_euclid(1000));
    let mut out = format!(
        "{{\"ts\":{}{},\"caller\":{},\"msg\":{}",
        micros.div_euclid(1000),
        fraction.trim_end_matches('0').trim_end_matches('.'),
        text(&format!("{file}:{number}")),
        text(&line.message)
    );
    if level > Level::ERROR {
        out += &format!(",\"v\":{}", levels::number(level));
    }
    let value = |content| match content {
        Content::Text(text) => Value::String(text),
        // What JSON has no number for stays text.
        Content::Bare(bare) => serde_json::from_str(&bare).unwrap_or(Value::String(bare)),
    };
    for (name, content) in line.fields {
        out += &format!(",{}:{}", text(name), value(content));
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let fields = vec![("err", Content::Text("no \"way\"".into())), ("tries", Content::Bare("3".into()))];
        Line { message: "Started\n".into(), fields }
    }

    #[test]
    fn a_line_is_component_base_s() {
        let now = "2020-01-29T14:06:17.046432Z".parse().unwrap();
        let place = ("json/json_test.go", 71);
        let expected = r#"{"ts":1580306777046.432,"caller":"json/json_test.go:71","msg":"Started\n","v":0,"err":"no \"way\"","tries":3}"#;
        assert_eq!(render(Level::INFO, now, place, line()), expected);
        let whole = "2020-01-29T14:06:17.046Z".parse().unwrap();
        let expected =
            r#"{"ts":1580306777046,"caller":"json/json_test.go:71","msg":"Started\n","err":"no \"way\"","tries":3}"#;
        assert_eq!(render(Level::ERROR, whole, place, line()), expected);
        assert!(render(Level::DEBUG, now, place, Line::default()).contains("\"v\":4"));
    }
}
