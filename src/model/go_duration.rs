//! Durations in the text form of Go programs: `1h0m0s`, `1.5s`, `300ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// The magnitude of the most negative duration.
const LIMIT: u64 = 1 << 63;

/// A signed duration in nanoseconds (`metav1.Duration`); text and JSON are Go's.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: {problem} (expected a form like 1h30m, 10s, 1.5s or 300ms)")]
pub struct DurationError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub problem: DurationProblem,
}

/// What is wrong with a duration's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationProblem {
    /// Not a number where one must be.
    #[error("a number is missing")]
    Number,
    /// A number without a unit.
    #[error("a unit is missing")]
    MissingUnit,
    /// A unit other than h, m, s, ms, us, µs and ns.
    #[error("unknown unit, known are h, m, s, ms, us and ns")]
    UnknownUnit,
    /// More than 292 years.
    #[error("too large")]
    TooLarge,
}

impl GoDuration {
    /// No time.
    pub const ZERO: GoDuration = GoDuration(0);

    /// From nanoseconds.
    pub const fn from_nanos(nanoseconds: i64) -> Self {
        GoDuration(nanoseconds)
    }

    /// From milliseconds; saturates.
    pub const fn from_millis(milliseconds: i64) -> Self {
        GoDuration(milliseconds.saturating_mul(1_000_000))
    }

    /// From seconds; saturates.
    pub const fn from_secs(seconds: i64) -> Self {
        GoDuration(seconds.saturating_mul(1_000_000_000))
    }

    /// From minutes; saturates.
    pub const fn from_mins(minutes: i64) -> Self {
        GoDuration::from_secs(minutes.saturating_mul(60))
    }

    /// Nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole seconds, cut toward zero.
    pub const fn as_secs(self) -> i64 {
        self.0 / 1_000_000_000
    }

    /// Seconds with their fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Whether it is no time at all, which many API fields read as "use the default".
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// As an unsigned duration; what is below zero becomes zero.
    pub const fn to_std(self) -> Duration {
        if self.0 < 0 { Duration::ZERO } else { Duration::from_nanos(self.0.unsigned_abs()) }
    }
}

impl From<Duration> for GoDuration {
    /// Saturates at 292 years.
    fn from(duration: Duration) -> Self {
        GoDuration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    /// Reads what Go's `time.ParseDuration` reads.
    fn from_str(text: &str) -> Result<Self, DurationError> {
        read(text).map(GoDuration).map_err(|problem| DurationError { text: text.to_owned(), problem })
    }
}

fn read(text: &str) -> Result<i64, DurationProblem> {
    let (is_negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(DurationProblem::Number);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationProblem::Number);
        }
        let end = after.bytes().position(|b| b == b'.' || b.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanoseconds = match unit {
            "" => return Err(DurationProblem::MissingUnit),
            "ns" => 1,
            // The micro sign and the Greek letter.
            "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
            "ms" => MILLISECOND,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            _ => return Err(DurationProblem::UnknownUnit),
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationProblem::TooLarge)? };
        let part = whole
            .checked_mul(nanoseconds)
            .and_then(|part| part.checked_add(fraction_of(fraction, nanoseconds)))
            .ok_or(DurationProblem::TooLarge)?;
        total = total.checked_add(part).filter(|total| *total <= LIMIT).ok_or(DurationProblem::TooLarge)?;
        rest = after;
    }
    match (is_negative, i64::try_from(total)) {
        (false, Ok(total)) => Ok(total),
        (true, Ok(total)) => Ok(-total),
        (true, Err(_)) => Ok(i64::MIN),
        (false, Err(_)) => Err(DurationProblem::TooLarge),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The fraction's share of a unit, finer digits cut off. 18 digits are more than an hour's nanoseconds have.
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let digits = &digits[..digits.len().min(18)];
    let Ok(number) = digits.parse::<u128>() else { return 0 };
    let divisor = 10_u128.pow(u32::try_from(digits.len()).unwrap_or(0));
    u64::try_from(number * u128::from(unit) / divisor).unwrap_or(0)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        // Below a second, the largest unit that leaves a whole number before the point.
        let (unit, name) = match magnitude {
            0 => return f.write_str("0s"),
            1..MICROSECOND => (1, "ns"),
            MICROSECOND..MILLISECOND => (MICROSECOND, "\u{b5}s"),
            MILLISECOND..SECOND => (MILLISECOND, "ms"),
            _ => (SECOND, "s"),
        };
        if magnitude >= HOUR {
            write!(f, "{}h", magnitude / HOUR)?;
        }
        if magnitude >= MINUTE {
            write!(f, "{}m", magnitude % HOUR / MINUTE)?;
        }
        let remainder = if unit == SECOND { magnitude % MINUTE } else { magnitude };
        write!(f, "{}", remainder / unit)?;
        let fraction = remainder % unit;
        if fraction != 0 {
            let digits = format!("{fraction:0width$}", width = usize::try_from(unit.ilog10()).unwrap_or(0));
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str(name)
    }
}

impl fmt::Debug for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = GoDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration as text, like \"10s\" or \"1h30m\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", 0)]
    #[case("-0", 0)]
    #[case("0s", 0)]
    #[case("5s", 5_000_000_000)]
    #[case("+5s", 5_000_000_000)]
    #[case("-5s", -5_000_000_000)]
    #[case("1478s", 1_478_000_000_000)]
    #[case("5.0s", 5_000_000_000)]
    #[case("5.s", 5_000_000_000)]
    #[case(".5s", 500_000_000)]
    #[case("1.004s", 1_004_000_000)]
    #[case("100.00100s", 100_001_000_000)]
    #[case("10ns", 10)]
    #[case("11us", 11_000)]
    #[case("12\u{b5}s", 12_000)]
    #[case("12\u{3bc}s", 12_000)]
    #[case("13ms", 13_000_000)]
    #[case("1.5h", 5_400_000_000_000)]
    #[case("3h30m", 12_600_000_000_000)]
    #[case("10.5s4m", 250_500_000_000)]
    #[case("0.3333333333333333333h", 1_199_999_999_999)]
    #[case("0.100000000000000000000h", 360_000_000_000)]
    #[case("0.9999999999ns", 0)]
    #[case("9223372036854775807ns", i64::MAX)]
    #[case("-9223372036854775808ns", i64::MIN)]
    #[case("-2562047h47m16.854775808s", i64::MIN)]
    fn reads(#[case] text: &str, #[case] nanoseconds: i64) {
        assert_eq!(text.parse::<GoDuration>().unwrap().as_nanos(), nanoseconds);
    }

    #[rstest]
    #[case("", DurationProblem::Number)]
    #[case("3", DurationProblem::MissingUnit)]
    #[case("-", DurationProblem::Number)]
    #[case("s", DurationProblem::Number)]
    #[case(".", DurationProblem::Number)]
    #[case("-.", DurationProblem::Number)]
    #[case(".s", DurationProblem::Number)]
    #[case("+.s", DurationProblem::Number)]
    #[case("1d", DurationProblem::UnknownUnit)]
    #[case("10 s", DurationProblem::UnknownUnit)]
    #[case(" 10s", DurationProblem::Number)]
    #[case("1h2", DurationProblem::MissingUnit)]
    #[case("--1s", DurationProblem::Number)]
    #[case("9223372036854775808ns", DurationProblem::TooLarge)]
    #[case("-9223372036854775809ns", DurationProblem::TooLarge)]
    #[case("3000000h", DurationProblem::TooLarge)]
    #[case("99999999999999999999s", DurationProblem::TooLarge)]
    fn refuses(#[case] text: &str, #[case] problem: DurationProblem) {
        let error = text.parse::<GoDuration>().unwrap_err();
        assert_eq!(error.problem, problem, "{error}");
    }

    #[rstest]
    #[case(0, "0s")]
    #[case(1, "1ns")]
    #[case(1_100, "1.1\u{b5}s")]
    #[case(2_200_000, "2.2ms")]
    #[case(300_000_000, "300ms")]
    #[case(3_300_000_000, "3.3s")]
    #[case(60_000_000_000, "1m0s")]
    #[case(245_000_000_000, "4m5s")]
    #[case(245_001_000_000, "4m5.001s")]
    #[case(3_600_000_000_000, "1h0m0s")]
    #[case(14_400_000_000_000, "4h0m0s")]
    #[case(18_367_001_000_000, "5h6m7.001s")]
    #[case(-90_000_000_000, "-1m30s")]
    #[case(i64::MAX, "2562047h47m16.854775807s")]
    #[case(i64::MIN, "-2562047h47m16.854775808s")]
    fn writes_as_go(#[case] nanoseconds: i64, #[case] text: &str) {
        assert_eq!(GoDuration::from_nanos(nanoseconds).to_string(), text);
    }

    #[test]
    fn json_is_text_and_nothing_else() {
        assert_eq!(serde_json::to_string(&GoDuration::from_mins(2)).unwrap(), "\"2m0s\"");
        assert_eq!(serde_json::from_str::<GoDuration>("\"2m\"").unwrap(), GoDuration::from_mins(2));
        let error = serde_json::from_str::<GoDuration>("10").unwrap_err().to_string();
        assert!(error.contains("duration as text"), "{error}");
    }

    #[test]
    fn below_zero_is_no_unsigned_time() {
        assert_eq!(GoDuration::from_secs(-3).to_std(), Duration::ZERO);
        assert_eq!(GoDuration::from_secs(3).to_std(), Duration::from_secs(3));
        assert_eq!(GoDuration::from(Duration::MAX).as_nanos(), i64::MAX);
    }

    proptest! {
        #[test]
        fn text_reads_back(nanoseconds in any::<i64>()) {
            let duration = GoDuration::from_nanos(nanoseconds);
            prop_assert_eq!(duration.to_string().parse::<GoDuration>().unwrap(), duration);
        }

        #[test]
        fn order_is_that_of_the_nanoseconds(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(GoDuration::from_nanos(a).cmp(&GoDuration::from_nanos(b)), a.cmp(&b));
        }

        #[test]
        fn never_panics(text in "[-+]{0,2}([0-9]{0,22}\\.?[0-9]{0,22}[hmsnu\u{b5}x]{0,3}){0,3}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
