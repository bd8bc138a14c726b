//! Reads values as the Go standard library and `pflag` do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Taint;

use super::binding::Split;
use crate::config::names;
use crate::config::types::{MemoryReservation, VModuleItem};
use crate::model::quantity;

/// `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// `strconv.ParseInt` with base 0: 0x, 0o, 0b and a leading 0 choose the base, `_` may stand between digits.
pub(super) fn integer(text: &str) -> Result<i64, String> {
    read_integer(text).ok_or_else(|| "must be a whole number".to_owned())
}

fn read_integer(text: &str) -> Option<i64> {
    let (sign, magnitude) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = magnitude.to_ascii_lowercase();
    let (base, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let is_prefixed = base != 10;
    let digits = digits.strip_prefix('_').filter(|_| is_prefixed).unwrap_or(digits);
    if digits.is_empty() || digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), base).ok()
}

/// A log level: a decimal number of 31 bits.
pub(super) fn level(text: &str) -> Result<u32, String> {
    let level = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    level.filter(|level| *level <= i32::MAX.unsigned_abs()).ok_or_else(|| "must be a whole number from 0".to_owned())
}

/// One record of comma-separated values, quotes allowed (`encoding/csv`).
pub(super) fn comma_separated(text: &str) -> Result<Vec<String>, String> {
    const BAD_QUOTE: &str = "has a quote (\") out of place";
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut quoted = quoted;
                loop {
                    let (part, after) = quoted.split_once('"').ok_or(BAD_QUOTE)?;
                    value.push_str(part);
                    let Some(more) = after.strip_prefix('"') else { break (value, after) };
                    value.push('"');
                    quoted = more;
                }
            }
            None => {
                let (value, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if value.contains('"') {
                    return Err(BAD_QUOTE.to_owned());
                }
                (value.to_owned(), after)
            }
        };
        values.push(value);
        if after.is_empty() {
            return Ok(values);
        }
        rest = after.strip_prefix(',').ok_or(BAD_QUOTE)?;
    }
}

/// Key and value pairs, blanks around them dropped.
pub(super) fn pairs(text: &str, separator: char, split: Split) -> Result<BTreeMap<String, String>, String> {
    let parts: Vec<&str> = match split {
        Split::Commas => text.split(',').filter(|part| !part.is_empty()).collect(),
        Split::No => vec![text],
    };
    let pairs = parts.into_iter().map(|part| {
        let (key, value) =
            part.split_once(separator).ok_or_else(|| format!("must be pairs like key{separator}value"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    });
    pairs.collect()
}

/// An IP address; IPv4 may have leading zeros (`ParseIPSloppy`).
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let octets: Option<Vec<String>> = text
        .split('.')
        .map(|octet| {
            let is_number = !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| octet.trim_start_matches('0')).map(|n| if n.is_empty() { "0" } else { n }.to_owned())
        })
        .collect();
    octets?.join(".").parse().ok().map(IpAddr::V4)
}

/// `pattern=N` items.
pub(super) fn vmodule(text: &str) -> Result<Vec<VModuleItem>, String> {
    let items = text.split(',').filter(|item| !item.is_empty()).map(|item| match item.split_once('=') {
        Some((pattern, verbosity)) if !pattern.is_empty() && !verbosity.is_empty() => {
            let verbosity = level(verbosity).map_err(|problem| format!("{item}: the level {problem}"))?;
            Ok(VModuleItem { file_pattern: pattern.to_owned(), verbosity })
        }
        _ => Err(format!("{item:?} must have the form pattern=N")),
    });
    items.collect()
}

/// `key=value:effect` or `key:effect` items, no key and effect twice.
pub(super) fn taints(text: &str) -> Result<Vec<Taint>, String> {
    let mut taints: Vec<Taint> = Vec::new();
    if text.is_empty() {
        return Ok(taints);
    }
    for item in text.split(',') {
        // `kubectl taint` removes with a trailing dash; at registration there is nothing to remove.
        if item.ends_with('-') {
            continue;
        }
        let taint = taint(item).map_err(|problem| format!("taint {item:?} {problem}"))?;
        if taints.iter().any(|other| other.key == taint.key && other.effect == taint.effect) {
            return Err(format!("taint {item:?} has the key and effect of another"));
        }
        taints.push(taint);
    }
    Ok(taints)
}

fn taint(item: &str) -> Result<Taint, String> {
    let (key_value, effect) = item.split_once(':').ok_or("must have the form key=value:effect")?;
    names::check_taint_effect(effect)?;
    let (key, value) = match key_value.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (key_value, None),
    };
    names::check_qualified_name(key).map_err(|problem| format!("has a bad key: {problem}"))?;
    if let Some(value) = value {
        names::check_label_value(value).map_err(|problem| format!("has a bad value: {problem}"))?;
    }
    let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

/// `node:type=quantity[,type=quantity...]` items, separated by semicolons.
pub(super) fn reserved_memory(text: &str) -> Result<Vec<MemoryReservation>, String> {
    const FORM: &str = "must have the form node:type=quantity[,type=quantity...][;node:...]";
    let reservations = text.split(';').map(|item| {
        let (node, limits) = item.split_once(':').filter(|(_, rest)| !rest.contains(':')).ok_or(FORM)?;
        let numa_node = node.parse::<i32>().map_err(|_| format!("NUMA node {node:?} must be a whole number"))?;
        let mut reservation = MemoryReservation { numa_node, limits: BTreeMap::new() };
        for limit in limits.split(',') {
            let (kind, amount) = limit.split_once('=').ok_or(FORM)?;
            if !names::is_reservable_memory(kind) {
                return Err(format!("memory type {kind:?} must be memory or hugepages-<size>"));
            }
            let (amount, format) = quantity::parse_with_format(amount).map_err(|error| error.to_string())?;
            reservation.limits.insert(kind.to_owned(), amount.quantity(format));
        }
        Ok(reservation)
    });
    reservations.collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case("-5", Some(-5))]
    #[case("+5", Some(5))]
    #[case("0x1F", Some(31))]
    #[case("0b11", Some(3))]
    #[case("0o17", Some(15))]
    #[case("017", Some(15))]
    #[case("1_000", Some(1000))]
    #[case("0x_1F", Some(31))]
    #[case("-9223372036854775808", Some(i64::MIN))]
    #[case("9223372036854775808", None)]
    #[case("", None)]
    #[case("-", None)]
    #[case("--1", None)]
    #[case("1.5", None)]
    #[case("08", None)]
    #[case("_1", None)]
    #[case("1_", None)]
    #[case("1__0", None)]
    #[case("0x-1", None)]
    #[case(" 1", None)]
    #[case("ten", None)]
    fn integers(#[case] text: &str, #[case] expected: Option<i64>) {
        assert_eq!(read_integer(text), expected);
    }

    #[rstest]
    #[case("", &[])]
    #[case("a", &["a"])]
    #[case("a,b", &["a", "b"])]
    #[case("a,", &["a", ""])]
    #[case("a, b", &["a", " b"])]
    #[case("\"a,b\",c", &["a,b", "c"])]
    #[case("\"a\"\"b\"", &["a\"b"])]
    fn lists(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(comma_separated(text).unwrap(), expected);
    }

    #[rstest]
    #[case("\"a")]
    #[case("a\"b")]
    #[case("\"a\"b")]
    fn bad_lists(#[case] text: &str) {
        assert!(comma_separated(text).is_err());
    }

    #[rstest]
    #[case("10.0.0.1", Some("10.0.0.1"))]
    #[case("010.000.0.01", Some("10.0.0.1"))]
    #[case("::1", Some("::1"))]
    #[case("::", Some("::"))]
    #[case("10.0.0", None)]
    #[case("10.0.0.256", None)]
    #[case("10.0..1", None)]
    #[case("host", None)]
    #[case("", None)]
    fn addresses(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(ip(text).map(|ip| ip.to_string()).as_deref(), expected);
    }

    #[test]
    fn taints_are_read_and_held_to_their_form() {
        let read =
            taints("node-role.kubernetes.io/control-plane=:NoSchedule,a=b:NoExecute,c:PreferNoSchedule,d-").unwrap();
        let shown: Vec<_> = read.iter().map(|t| (t.key.as_str(), t.value.as_deref(), t.effect.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("node-role.kubernetes.io/control-plane", None, "NoSchedule"),
                ("a", Some("b"), "NoExecute"),
                ("c", None, "PreferNoSchedule"),
            ]
        );
        for bad in ["a", "a=b", "a:Never", "a=b=c:NoSchedule", "a:b:NoSchedule", "-a:NoSchedule", "a=$:NoSchedule", ","]
        {
            assert!(taints(bad).is_err(), "{bad}");
        }
        assert!(taints("a=1:NoSchedule,a=2:NoSchedule").unwrap_err().contains("another"));
        assert!(taints("").unwrap().is_empty());
    }

    #[test]
    fn reserved_memory_is_read() {
        let read = reserved_memory("0:memory=1Gi,hugepages-2Mi=100Mi;1:memory=2Gi").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].limits["hugepages-2Mi"].0, "100Mi");
        assert_eq!((read[1].numa_node, read[1].limits["memory"].0.as_str()), (1, "2Gi"));
        for bad in ["0", "0:memory", "x:memory=1", "0:cpu=1", "0:memory=lots", "0:memory=1:2"] {
            assert!(reserved_memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn levels_and_vmodule() {
        assert_eq!(level("4"), Ok(4));
        for bad in ["", "-1", "+1", "4.5", "2147483648"] {
            assert!(level(bad).is_err(), "{bad}");
        }
        assert_eq!(vmodule("kubelet=4,,pod*=9").unwrap().len(), 2);
        for bad in ["kubelet", "=4", "kubelet=", "kubelet=x"] {
            assert!(vmodule(bad).is_err(), "{bad}");
        }
    }
}
