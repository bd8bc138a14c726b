//! The Prometheus text format 0.0.4: one family after the other, each with its help, its type and its samples.

use std::fmt::Write;

/// The format's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A text under way. Families are to be written in the order of their names, a family's samples in the order of their label
/// values, and labels in the order of their names, which is how the peer writes them.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// An empty text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a family.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        self.text.push_str("# HELP ");
        self.text.push_str(name);
        self.text.push(' ');
        for character in help.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
        self.text.push_str("\n# TYPE ");
        self.text.push_str(name);
        self.text.push(' ');
        self.text.push_str(kind.as_str());
        self.text.push('\n');
    }

    /// A sample of the family; `milliseconds` since the epoch if it was taken at a time of its own.
    pub fn sample<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: f64,
        milliseconds: Option<i64>,
    ) {
        self.text.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            self.text.push(separator);
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape_value(&mut self.text, value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        self.text.push(' ');
        write_float(&mut self.text, value);
        if let Some(milliseconds) = milliseconds {
            // Writing to a String cannot fail.
            let _ = write!(self.text, " {milliseconds}");
        }
        self.text.push('\n');
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

fn escape_value(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' => text.push_str("\\\""),
            other => text.push(other),
        }
    }
}

/// A number in Go's shortest form (`strconv.AppendFloat(f, 'g', -1, 64)`): with an exponent of at least two digits if it is
/// smaller than 1e-4 or at least 1e6. Zero has no sign, as in the peer's client library.
pub(super) fn write_float(text: &mut String, value: f64) {
    if value.is_nan() {
        return text.push_str("NaN");
    }
    if value.is_infinite() {
        return text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    if value == 0.0 {
        return text.push('0');
    }
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let _ = write!(text, "{value}");
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(text, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
}

/// A whole number as metrics hold it: in floating point, where one beyond 2^53 loses its last digits.
#[allow(clippy::cast_precision_loss, reason = "the format holds nothing else")]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// The same of a number of things.
pub fn count(number: usize) -> f64 {
    float(u64::try_from(number).unwrap_or(u64::MAX))
}

/// A number of the format as a text of its own, for the bounds of buckets.
pub fn float_text(value: f64) -> String {
    let mut text = String::new();
    write_float(&mut text, value);
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0.0, "0")]
    #[case(-0.0, "0")]
    #[case(1.0, "1")]
    #[case(-1.0, "-1")]
    #[case(12.5, "12.5")]
    #[case(123_456.0, "123456")]
    #[case(100_000.0, "100000")]
    #[case(1_000_000.0, "1e+06")]
    #[case(1_234_567.0, "1.234567e+06")]
    #[case(123_456.789, "123456.789")]
    #[case(25_276_043_264.0, "2.5276043264e+10")]
    #[case(18.346_429_488, "18.346429488")]
    #[case(0.0001, "0.0001")]
    #[case(0.000_01, "1e-05")]
    #[case(1.5e-7, "1.5e-07")]
    #[case(1e21, "1e+21")]
    #[case(f64::NAN, "NaN")]
    #[case(f64::INFINITY, "+Inf")]
    #[case(f64::NEG_INFINITY, "-Inf")]
    fn numbers_are_written_as_go_does(#[case] value: f64, #[case] expected: &str) {
        let mut text = String::new();
        write_float(&mut text, value);
        assert_eq!(text, expected);
    }

    #[test]
    fn help_labels_and_times_are_those_of_the_format() {
        let mut text = Exposition::new();
        text.family("a_total", "back\\slash\nand \"quote\"", Kind::Counter);
        text.sample("a_total", [], 3.0, None);
        text.sample("a_total", [("x", "a\\b\"c\nd"), ("y", "")], 1.5, Some(1_795_537_186_966));
        let expected = "# HELP a_total back\\\\slash\\nand \"quote\"\n# TYPE a_total counter\na_total 3\n\
            a_total{x=\"a\\\\b\\\"c\\nd\",y=\"\"} 1.5 1795537186966\n";
        assert_eq!(text.finish(), expected);
    }
}
