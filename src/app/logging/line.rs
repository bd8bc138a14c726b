//! What a log line is made of: its message, its fields, where in the source it is from.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Text, which is quoted.
    Text(String),
    /// What stands as it is: a number, true, false.
    Bare(String),
}

/// A line before it is written.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) message: String,
    /// The fields in their order, the error first, under the name `err`.
    pub(super) fields: Vec<(&'static str, Content)>,
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut line = Line::default();
        event.record(&mut line);
        line
    }

    fn add(&mut self, field: &Field, content: Content) {
        match (field.name(), content) {
            ("message", Content::Text(text) | Content::Bare(text)) => self.message = text,
            ("error", content) => self.fields.insert(0, ("err", content)),
            (name, content) => self.fields.push((name, content)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Content::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Content::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Content::Text(value.to_string()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Content::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Content::Bare(value.to_string()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, Content::Bare(value.to_string()));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, Content::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let content = value.to_string();
        self.add(field, if value.is_finite() { Content::Bare(content) } else { Content::Text(content) });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Content::Bare(value.to_string()));
    }
}

/// The source file's last components, and the line.
pub(super) fn place<'a>(metadata: &Metadata<'a>, components: usize) -> (&'a str, u32) {
    (last_components(metadata.file().unwrap_or("???"), components), metadata.line().unwrap_or(1))
}

fn last_components(path: &str, components: usize) -> &str {
    let start = path.rmatch_indices('/').nth(components.saturating_sub(1)).map_or(0, |(at, _)| at + 1);
    &path[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_by_their_last_components() {
        assert_eq!(last_components("src/pod/worker.rs", 1), "worker.rs");
        assert_eq!(last_components("src/pod/worker.rs", 2), "pod/worker.rs");
        assert_eq!(last_components("worker.rs", 2), "worker.rs");
    }
}
