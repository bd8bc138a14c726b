//! Times as they stand in log lines.

/// A moment: seconds since 1970, and what of the next has passed. Ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    seconds: i64,
    nanoseconds: u32,
}

/// Go's zero time, which JSON lines without a time have.
pub(super) const ZERO: &[u8] = b"0001-01-01T00:00:00Z";

/// Length of the date and the time of day down to the second.
const TO_THE_SECOND: usize = 19;

impl Moment {
    /// From the API's kind of time.
    pub(super) fn of(at: crate::model::Timestamp) -> Self {
        let nanoseconds = at.as_nanosecond().rem_euclid(1_000_000_000);
        let seconds = at.as_nanosecond().div_euclid(1_000_000_000);
        Moment {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
        }
    }

    /// From RFC 3339 with any fraction. Done by hand as it is done for each line of a log, of which there are millions.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let Parts { to_the_second: t, fraction, zone } = Parts::of(text)?;
        let (year, month, day) = (number(t, 0, 4)?, number(t, 5, 2)?, number(t, 8, 2)?);
        let (hour, minute, second) = (number(t, 11, 2)?, number(t, 14, 2)?, number(t, 17, 2)?);
        let separators = [t.get(4)?, t.get(7)?, t.get(10)?, t.get(13)?, t.get(16)?];
        if separators != [&b'-', &b'-', &b'T', &b':', &b':'] || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        if month == 0 || month > 12 || day == 0 || day > days_of(year, month) {
            return None;
        }
        let of_day = hour * 3600 + minute * 60 + second;
        let seconds = days_since_1970(year, month, day) * 86_400 + of_day - offset(zone)?;
        let mut nanoseconds = 0_u32;
        for position in 0..9 {
            let digit = fraction.get(position).map_or(0, |digit| u32::from(digit - b'0'));
            nanoseconds = nanoseconds * 10 + digit;
        }
        Some(Moment { seconds, nanoseconds })
    }
}

/// Writes a time that [`Moment::parse`] takes with nine digits after the second, in its own zone; another text as it is.
pub(super) fn write_fixed(text: &[u8], out: &mut Vec<u8>) {
    let Some(Parts { to_the_second, fraction, zone }) = Parts::of(text) else { return out.extend_from_slice(text) };
    out.extend_from_slice(to_the_second);
    out.push(b'.');
    let digits = fraction.get(..9).unwrap_or(fraction);
    out.extend_from_slice(digits);
    out.extend(std::iter::repeat_n(b'0', 9 - digits.len()));
    out.extend_from_slice(if offset(zone) == Some(0) { b"Z" } else { zone });
}

/// A time's text in pieces.
struct Parts<'a> {
    to_the_second: &'a [u8],
    /// Digits alone.
    fraction: &'a [u8],
    zone: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(text: &'a [u8]) -> Option<Self> {
        let (to_the_second, rest) = text.split_at_checked(TO_THE_SECOND)?;
        let (fraction, zone) = match rest.split_first() {
            Some((b'.' | b',', rest)) => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if digits == 0 {
                    return None;
                }
                rest.split_at(digits)
            }
            _ => rest.split_at(0),
        };
        Some(Parts { to_the_second, fraction, zone })
    }
}

fn number(text: &[u8], at: usize, digits: usize) -> Option<i64> {
    let mut number = 0;
    for byte in text.get(at..at + digits)? {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number * 10 + i64::from(byte - b'0');
    }
    Some(number)
}

/// Seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let sign = match zone {
        b"Z" => return Some(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let (hours, minutes) = (number(zone, 1, 2)?, number(zone, 4, 2)?);
    if zone.len() != 6 || zone.get(3) != Some(&b':') || hours > 24 || minutes > 59 {
        return None;
    }
    Some(sign * (hours * 3600 + minutes * 60))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Of the Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::model::Timestamp;

    #[rstest]
    #[case("2016-10-06T00:17:09.669794202Z", "2016-10-06T00:17:09.669794202Z")]
    #[case("2016-10-06T00:17:09.6697Z", "2016-10-06T00:17:09.669700000Z")]
    #[case("2016-10-06T00:17:09Z", "2016-10-06T00:17:09.000000000Z")]
    #[case("2016-10-06T02:17:09.5+02:00", "2016-10-06T02:17:09.500000000+02:00")]
    #[case("2016-10-06T02:17:09.1234567891+00:00", "2016-10-06T02:17:09.123456789Z")]
    #[case("1969-12-31T23:59:59.9-07:30", "1969-12-31T23:59:59.900000000-07:30")]
    #[case("2024-02-29T00:00:00Z", "2024-02-29T00:00:00.000000000Z")]
    fn times_are_read_and_written(#[case] text: &str, #[case] expected: &str) {
        let moment = Moment::parse(text.as_bytes()).unwrap();
        assert_eq!(moment, Moment::of(expected.parse::<Timestamp>().unwrap()));
        let mut out = Vec::new();
        write_fixed(text.as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[rstest]
    #[case("")]
    #[case("2016-10-06T00:17:09")]
    #[case("2016-10-06T00:17:09.Z")]
    #[case("2016-13-06T00:17:09Z")]
    #[case("2023-02-29T00:17:09Z")]
    #[case("2016-10-06 00:17:09Z")]
    #[case("2016-10-06T24:17:09Z")]
    #[case("2016-10-06T00:17:09+2:00")]
    #[case("2016-10-06T00:17:09ZZ")]
    #[case("+016-10-06T00:17:09Z")]
    fn other_texts_are_no_times(#[case] text: &str) {
        assert_eq!(Moment::parse(text.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn the_calendar_is_right(seconds in -62_000_000_000_i64..250_000_000_000, nanoseconds in 0_i32..1_000_000_000) {
            let at = Timestamp::new(seconds, nanoseconds).unwrap();
            prop_assert_eq!(Moment::parse(at.to_string().as_bytes()), Some(Moment::of(at)));
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            let _ = Moment::parse(&bytes);
            write_fixed(&bytes, &mut out);
        }
    }
}
