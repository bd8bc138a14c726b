//! Resource quantities (`resource.Quantity` of the API) as exact decimal numbers, and their canonical text.
//!
//! The API allows nine decimal places and no more: what is finer is rounded away from zero when it is read, so that a
//! request of next to nothing stays a request. Sums are exact; beyond ±1.7e29 they saturate.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Billionths in one unit.
const NANOS: i128 = 1_000_000_000;

/// An exact amount of a resource, in billionths of its unit.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// How a quantity is written (`resource.Format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12M`: powers of 1000.
    DecimalSi,
    /// `12Mi`: powers of 1024.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a quantity: expected a number with an optional suffix \
     (n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei or e<exponent>)"
)]
pub struct QuantityError {
    /// The text.
    pub text: String,
}

/// Reads a quantity's text as `resource.ParseQuantity` does.
pub fn parse(text: &str) -> Result<Amount, QuantityError> {
    parse_with_format(text).map(|(amount, _)| amount)
}

/// Reads a quantity's text and tells in which form it was written.
pub fn parse_with_format(text: &str) -> Result<(Amount, Format), QuantityError> {
    read(text).ok_or_else(|| QuantityError { text: text.to_owned() })
}

/// A whole number of units in binary form: `1Gi`, `1536Mi`, `1000`.
pub fn binary(units: i64) -> Quantity {
    Amount::from_units(units).quantity(Format::BinarySi)
}

/// A whole number of units in decimal form: `2`, `110`, `5k`.
pub fn decimal(units: i64) -> Quantity {
    Amount::from_units(units).quantity(Format::DecimalSi)
}

/// Thousandths in decimal form: `250m`, `2`.
pub fn milli_decimal(thousandths: i64) -> Quantity {
    Amount::from_milli(thousandths).quantity(Format::DecimalSi)
}

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);

    /// Whole units.
    pub const fn from_units(units: i64) -> Self {
        Amount(units as i128 * NANOS)
    }

    /// Thousandths of a unit.
    pub const fn from_milli(thousandths: i64) -> Self {
        Amount(thousandths as i128 * (NANOS / 1000))
    }

    /// The amount of an API object's quantity.
    pub fn from_quantity(quantity: &Quantity) -> Result<Self, QuantityError> {
        parse(&quantity.0)
    }

    /// Whole units, rounded away from zero; saturates at the ends of i64.
    pub fn value(self) -> i64 {
        saturate(divide_away_from_zero(self.0, NANOS))
    }

    /// Thousandths, rounded away from zero; saturates at the ends of i64.
    pub fn milli_value(self) -> i64 {
        saturate(divide_away_from_zero(self.0, NANOS / 1000))
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is below nothing.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The canonical text in that form: no fraction, the largest suffix that loses nothing.
    ///
    /// Binary form gives way to decimal form below 1024 and for fractions, as in the peer.
    pub fn quantity(self, format: Format) -> Quantity {
        Quantity(self.canonical(format))
    }

    fn canonical(self, format: Format) -> String {
        if self.0 == 0 {
            return "0".to_owned();
        }
        let is_binary = format == Format::BinarySi && self.0.abs() >= 1024 * NANOS && self.0 % NANOS == 0;
        if is_binary {
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (number, power) = reduce(self.0 / NANOS, 1024, SUFFIXES.len() - 1);
            return format!("{number}{}", SUFFIXES[power]);
        }
        if format == Format::DecimalExponent {
            let (number, power) = reduce(self.0, 1000, usize::MAX);
            let exponent = 3 * i64::try_from(power).unwrap_or(i64::MAX) - 9;
            return if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") };
        }
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let (number, power) = reduce(self.0, 1000, SUFFIXES.len() - 1);
        format!("{number}{}", SUFFIXES[power])
    }
}

/// The number with all factors of `base` taken out, at most `limit`, and how many there were.
fn reduce(mut number: i128, base: i128, limit: usize) -> (i128, usize) {
    let mut power = 0;
    while power < limit && number % base == 0 {
        number /= base;
        power += 1;
    }
    (number, power)
}

fn divide_away_from_zero(number: i128, by: i128) -> i128 {
    number / by + if number % by == 0 { 0 } else { number.signum() }
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// The parser proper. A missing number reads as 0 (`"k"`, `"."`, `"+"`), as it does in the peer; the empty text does not.
fn read(text: &str) -> Option<(Amount, Format)> {
    if text.is_empty() {
        return None;
    }
    let (is_negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, rest) = split_digits(rest);
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    let (power, format) = read_suffix(suffix)?;

    let magnitude = match power {
        Power::OfTen(exponent) => scale_decimal(whole, fraction, exponent),
        // The peer caps binary amounts alone.
        Power::OfTwo(exponent) => scale_binary(whole, fraction, 1 << exponent).min(i128::from(i64::MAX) * NANOS),
    };
    // Below one, binary form cannot say it.
    let format = if format == Format::BinarySi && magnitude < NANOS { Format::DecimalSi } else { format };
    Some((Amount(if is_negative { -magnitude } else { magnitude }), format))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// What a suffix multiplies by.
enum Power {
    OfTen(i32),
    OfTwo(u32),
}

fn read_suffix(suffix: &str) -> Option<(Power, Format)> {
    let decimal = |exponent| Some((Power::OfTen(exponent), Format::DecimalSi));
    let binary = |exponent| Some((Power::OfTwo(exponent), Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            // Far outside of what an amount can hold already; keeps later sums from overflowing.
            let exponent = exponent.clamp(-100_000, 100_000);
            Some((Power::OfTen(i32::try_from(exponent).ok()?), Format::DecimalExponent))
        }
    }
}

/// `whole.fraction * 10^exponent` in billionths, what is finer rounded up, what is larger saturated.
fn scale_decimal(whole: &str, fraction: &str, exponent: i32) -> i128 {
    let count = signed(whole.len() + fraction.len());
    // The power of ten, in billionths, that the first digit stands for.
    let first = i64::from(exponent) + 9 + signed(whole.len()) - 1;
    let taken = (first + 1).clamp(0, count);
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let mut sum: i128 = 0;
    for digit in digits.by_ref().take(usize::try_from(taken).unwrap_or(0)) {
        sum = sum.saturating_mul(10).saturating_add(digit);
    }
    let is_inexact = digits.any(|digit| digit != 0);
    sum.saturating_mul(ten_to(first + 1 - taken)).saturating_add(i128::from(is_inexact))
}

/// `whole.fraction * multiplier` in billionths, the same way.
fn scale_binary(whole: &str, fraction: &str, multiplier: i128) -> i128 {
    let units = scale_decimal(whole, "", -9).saturating_mul(multiplier).saturating_mul(NANOS);
    // 19 places times the largest multiplier, 2^60, still fit; nobody writes more.
    let (fraction, finer) = fraction.split_at(fraction.len().min(19));
    let product = scale_decimal(fraction, "", -9).saturating_mul(multiplier);
    let places = signed(fraction.len());
    let (part, is_inexact) = if places <= 9 {
        (product * ten_to(9 - places), false)
    } else {
        (product / ten_to(places - 9), product % ten_to(places - 9) != 0)
    };
    let is_inexact = is_inexact || finer.bytes().any(|b| b != b'0');
    units.saturating_add(part).saturating_add(i128::from(is_inexact))
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn ten_to(power: i64) -> i128 {
    u32::try_from(power).ok().and_then(|p| 10_i128.checked_pow(p)).unwrap_or(i128::MAX)
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }
}

impl Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Amount) {
        *self = *self - other;
    }
}

impl Neg for Amount {
    type Output = Amount;
    fn neg(self) -> Amount {
        Amount(self.0.saturating_neg())
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(amounts: I) -> Amount {
        amounts.fold(Amount::ZERO, Add::add)
    }
}

impl fmt::Display for Amount {
    /// Canonical decimal form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical(Format::DecimalSi))
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", 0, 0)]
    #[case("1", 1, 1000)]
    #[case("+1", 1, 1000)]
    #[case("-1", -1, -1000)]
    #[case("100m", 1, 100)]
    #[case("1500m", 2, 1500)]
    #[case("-1500m", -2, -1500)]
    #[case("0.5", 1, 500)]
    #[case(".5", 1, 500)]
    #[case("1.", 1, 1000)]
    #[case("1n", 1, 1)]
    #[case("1u", 1, 1)]
    #[case("0.1n", 1, 1)]
    #[case("1k", 1_000, 1_000_000)]
    #[case("1Ki", 1_024, 1_024_000)]
    #[case("1.5Gi", 1_610_612_736, 1_610_612_736_000)]
    #[case("0.5Ki", 512, 512_000)]
    #[case("0.3Ki", 308, 307_200)]
    #[case("1.0000000000000000000000000000Ei", 1 << 60, i64::MAX)]
    #[case("0.00000000000000000001Ki", 1, 1)]
    #[case("99999999999.0000000000000000000000000000001", 100_000_000_000, 99_999_999_999_001)]
    #[case("123456789.123456789", 123_456_790, 123_456_789_124)]
    #[case("12e6", 12_000_000, 12_000_000_000)]
    #[case("12E6", 12_000_000, 12_000_000_000)]
    #[case("1E", 1_000_000_000_000_000_000, i64::MAX)]
    #[case("1e-3", 1, 1)]
    #[case("1e+3", 1_000, 1_000_000)]
    #[case("5Ei", 5_764_607_523_034_234_880, i64::MAX)]
    #[case("8Ei", i64::MAX, i64::MAX)]
    #[case("9223372036854775807", i64::MAX, i64::MAX)]
    #[case("1e100", i64::MAX, i64::MAX)]
    #[case("-1e100", i64::MIN, i64::MIN)]
    #[case("1e-100", 1, 1)]
    #[case("0e100", 0, 0)]
    #[case("0.0000000000000000000000000000000000001", 1, 1)]
    #[case("000000000000000000000000000000000000000000001", 1, 1000)]
    #[case("0001.10", 2, 1100)]
    #[case("k", 0, 0)]
    #[case(".", 0, 0)]
    #[case("-", 0, 0)]
    fn reads_and_rounds_away_from_zero(#[case] text: &str, #[case] value: i64, #[case] milli: i64) {
        let amount = parse(text).unwrap();
        assert_eq!((amount.value(), amount.milli_value()), (value, milli), "{text}");
    }

    #[rstest]
    #[case("")]
    #[case(" ")]
    #[case(" 1")]
    #[case("1 ")]
    #[case("1.1.M")]
    #[case("1+1.0M")]
    #[case("0.1mi")]
    #[case("0.1am")]
    #[case("aoeu")]
    #[case(".5i")]
    #[case("1i")]
    #[case("-3.01i")]
    #[case("-3.01e-")]
    #[case("1e")]
    #[case("1K")]
    #[case("1ki")]
    #[case("1KB")]
    #[case("1GiB")]
    #[case("1e1.5")]
    #[case("--1")]
    #[case("1e99999999999999999999")]
    #[case("100%")]
    #[case("½")]
    fn refuses(#[case] text: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")));
    }

    #[rstest]
    #[case("0", Format::BinarySi, "0")]
    #[case("1Gi", Format::BinarySi, "1Gi")]
    #[case("1.5Gi", Format::BinarySi, "1536Mi")]
    #[case("1023", Format::BinarySi, "1023")]
    #[case("1000", Format::BinarySi, "1k")]
    #[case("1024", Format::BinarySi, "1Ki")]
    #[case("1025", Format::BinarySi, "1025")]
    #[case("100000", Format::BinarySi, "100000")]
    #[case("-2048", Format::BinarySi, "-2Ki")]
    #[case("4Ei", Format::BinarySi, "4Ei")]
    #[case("2048.5", Format::BinarySi, "2048500m")]
    #[case("2", Format::DecimalSi, "2")]
    #[case("0.25", Format::DecimalSi, "250m")]
    #[case("1500", Format::DecimalSi, "1500")]
    #[case("5000", Format::DecimalSi, "5k")]
    #[case("1e18", Format::DecimalSi, "1E")]
    #[case("1e21", Format::DecimalSi, "1000E")]
    #[case("1u", Format::DecimalSi, "1u")]
    #[case("0.1n", Format::DecimalSi, "1n")]
    #[case("12e6", Format::DecimalExponent, "12e6")]
    #[case("12e7", Format::DecimalExponent, "120e6")]
    #[case("1e-3", Format::DecimalExponent, "1e-3")]
    #[case("7", Format::DecimalExponent, "7")]
    fn writes_canonical_text(#[case] text: &str, #[case] format: Format, #[case] canonical: &str) {
        assert_eq!(parse(text).unwrap().quantity(format).0, canonical);
    }

    #[rstest]
    #[case("1", Format::DecimalSi)]
    #[case("1Ki", Format::BinarySi)]
    #[case("1e3", Format::DecimalExponent)]
    #[case("0.0001Ki", Format::DecimalSi)]
    fn keeps_the_form(#[case] text: &str, #[case] format: Format) {
        assert_eq!(parse_with_format(text).unwrap().1, format);
    }

    #[test]
    fn shorthands_write_what_go_prints() {
        assert_eq!(binary(8_346_972_160).0, "8151340Ki");
        assert_eq!(decimal(110).0, "110");
        assert_eq!(milli_decimal(1930).0, "1930m");
        assert_eq!(milli_decimal(2000).0, "2");
        assert_eq!(binary(i64::MIN).0, "-8Ei");
    }

    #[test]
    fn sums_and_differences_are_exact() {
        let a = parse("100m").unwrap() + parse("0.9").unwrap();
        assert_eq!(a, Amount::from_units(1));
        assert_eq!(a - parse("1n").unwrap(), parse("999999999n").unwrap());
        assert!((Amount::ZERO - a).is_negative());
        assert_eq!([a, a, a].into_iter().sum::<Amount>(), Amount::from_units(3));
        let huge = parse("1e100").unwrap();
        assert_eq!(huge + huge, huge);
    }

    #[test]
    fn a_binary_suffix_caps_and_a_decimal_one_does_not() {
        let amount = Amount(8_458_095_835_245_793_536 * 10_i128.pow(11));
        let (binary, decimal) = (amount.quantity(Format::BinarySi).0, amount.quantity(Format::DecimalSi).0);
        assert!(binary.ends_with('i'), "{binary}");
        assert_eq!(parse(&binary).unwrap(), Amount::from_units(i64::MAX));
        assert_eq!(parse(&decimal).unwrap(), amount);
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(nanos in any::<i64>(), exponent in 0u32..12) {
            let amount = Amount(i128::from(nanos) * 10_i128.pow(exponent));
            for format in [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent] {
                let text = amount.quantity(format).0;
                // As in the peer, a binary suffix caps what is read at the largest i64, and it alone does.
                let cap = i128::from(i64::MAX) * NANOS;
                let expected = if text.ends_with('i') { Amount(amount.0.clamp(-cap, cap)) } else { amount };
                prop_assert_eq!(parse(&text).unwrap(), expected, "{}", text);
                prop_assert!(!text.contains('.'));
            }
        }

        #[test]
        fn order_is_that_of_the_numbers(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(Amount::from_milli(a).cmp(&Amount::from_milli(b)), a.cmp(&b));
            prop_assert_eq!(parse(&a.to_string()).unwrap().cmp(&parse(&b.to_string()).unwrap()), a.cmp(&b));
        }

        #[test]
        fn rounding_goes_away_from_zero(whole in 0i64..1_000_000, fraction in 1u32..1_000_000_000) {
            let amount = parse(&format!("{whole}.{fraction:09}")).unwrap();
            prop_assert_eq!(amount.value(), whole + 1);
            prop_assert_eq!((-amount).value(), -whole - 1);
        }

        #[test]
        fn never_panics(text in "[-+]{0,2}[0-9.]{0,60}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,8}") {
            let _ = parse(&text);
        }
    }
}
