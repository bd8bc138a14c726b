//! A pod as the kubelet prints it to hash it: the text of a Go value with the names of its types. Pure.
//!
//! The UID of a static pod is a hash over this text, so an agent that makes the same text takes the other's static pods over as
//! they are. What the types are is told by a table that `hack/pod-types` writes.

use std::fmt::Write as _;

use serde_json::Value;

/// A line for each type: `name Field:json:type ...`, or `name=type` of one that is no struct.
const TYPES: &str = include_str!("go_types.txt");

/// The longest chain of types within types; what would be deeper is cut off.
const MAX_DEPTH: u32 = 64;

/// The pod in JSON, with its defaults, as the text that is hashed.
pub(super) fn pod(pod: &Value) -> String {
    let mut dump = Dump { text: String::new(), depth: 0 };
    dump.write("*core.Pod", pod, true);
    dump.text
}

enum Definition {
    Named(&'static str),
    Struct(&'static str),
}

fn definition(name: &str) -> Option<Definition> {
    TYPES.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix('=').map(Definition::Named).or_else(|| rest.strip_prefix(' ').map(Definition::Struct))
    })
}

struct Dump {
    text: String,
    depth: u32,
}

impl Dump {
    /// Prints a value of a Go type; elements of lists and maps without its name.
    fn write(&mut self, type_: &str, value: &Value, named: bool) {
        if named {
            let _ = write!(self.text, "({type_})");
        }
        if self.depth >= MAX_DEPTH {
            return;
        }
        self.depth += 1;
        self.write_value(type_, value, named);
        self.depth -= 1;
    }

    fn write_value(&mut self, type_: &str, value: &Value, named: bool) {
        if let Some(inner) = type_.strip_prefix('*') {
            match value {
                Value::Null => self.text.push_str("<nil>"),
                value => {
                    if !named {
                        self.text.push_str("<*>");
                    }
                    self.write(inner, value, false);
                }
            }
        } else if let Some(element) = type_.strip_prefix("[]") {
            match value.as_array() {
                None => self.text.push_str("<nil>"),
                Some(elements) => self.write_list('[', ']', elements, |dump, value| dump.write(element, value, false)),
            }
        } else if let Some((_, element)) = type_.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            match value.as_object() {
                None => self.text.push_str("<nil>"),
                Some(fields) => {
                    let mut fields: Vec<_> = fields.iter().collect();
                    fields.sort_unstable_by_key(|(name, _)| *name);
                    self.text.push_str("map");
                    self.write_list('[', ']', fields, |dump, (name, value)| {
                        let _ = write!(dump.text, "{name}:");
                        dump.write(element, value, false);
                    });
                }
            }
        } else {
            self.write_plain(type_, value);
        }
    }

    fn write_list<T>(
        &mut self,
        open: char,
        close: char,
        items: impl IntoIterator<Item = T>,
        write: impl Fn(&mut Self, T),
    ) {
        self.text.push(open);
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.text.push(' ');
            }
            write(self, item);
        }
        self.text.push(close);
    }

    fn write_plain(&mut self, type_: &str, value: &Value) {
        match type_ {
            "string" => self.text.push_str(value.as_str().unwrap_or_default()),
            "bool" => self.text.push_str(if value.as_bool() == Some(true) { "true" } else { "false" }),
            "int" | "int32" | "int64" => {
                let _ = write!(self.text, "{}", value.as_i64().unwrap_or_default());
            }
            "resource.Quantity" => self.text.push_str(&quantity(value.as_str().unwrap_or_default())),
            "intstr.IntOrString" => {
                let (kind, number, text) = match value {
                    Value::String(text) => (1, 0, text.as_str()),
                    value => (0, value.as_i64().unwrap_or_default(), ""),
                };
                let _ = write!(self.text, "{{Type:(intstr.Type){kind} IntVal:(int32){number} StrVal:(string){text}}}");
            }
            // Manifests have no times.
            "v1.Time" => {
                self.text.push_str("{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}")
            }
            // Decoding has used it up.
            "v1.TypeMeta" => self.text.push_str("{Kind:(string) APIVersion:(string)}"),
            name => match definition(name) {
                Some(Definition::Named(inner)) => self.write(inner, value, false),
                Some(Definition::Struct(fields)) => self.write_list('{', '}', fields.split(' '), |dump, field| {
                    let mut parts = field.splitn(3, ':');
                    let (name, json, type_) = (parts.next(), parts.next(), parts.next());
                    let (Some(name), Some(json), Some(type_)) = (name, json, type_) else { return };
                    let inner = if json == "." { value } else { value.get(json).unwrap_or(&Value::Null) };
                    let _ = write!(dump.text, "{name}:");
                    dump.write(type_, inner, true);
                }),
                None => {}
            },
        }
    }
}

/// A quantity as Go holds it once it is read and rounded up to thousandths. Of those beyond 18 digits, and of binary ones with
/// a fraction, the inner form is not told.
fn quantity(text: &str) -> String {
    let read = read_quantity(text).unwrap_or_default();
    let Read { value, scale, format, kept } = read;
    format!(
        "{{i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}} \
         d:(resource.infDecAmount){{Dec:(*inf.Dec)<nil>}} s:(string){kept} Format:(resource.Format){format}}}"
    )
}

#[derive(Default)]
struct Read<'a> {
    value: i64,
    scale: i32,
    format: &'static str,
    /// The text, which Go keeps only if it is canonical already.
    kept: &'a str,
}

fn read_quantity(text: &str) -> Option<Read<'_>> {
    if text == "0" {
        return Some(Read { format: "DecimalSI", kept: text, ..Read::default() });
    }
    let (is_negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let rest = rest.trim_start_matches('0');
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at(digits(rest));
    // A number of zeros alone is told as one.
    let whole = if whole.is_empty() { "0" } else { whole };
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let (exponent, format) = suffix_of(suffix)?;
    let shifted = format!("{whole}{fraction}");
    let number: i64 = shifted.parse().ok()?;
    let signed = |value: i64| if is_negative { -value } else { value };
    if format == "BinarySI" {
        // What Go cannot be sure to hold exactly in 64 bits it holds in another form.
        if !fraction.is_empty() || i32::try_from(whole.len()).ok()? + exponent * 3 / 10 > 14 {
            return None;
        }
        let value = number.checked_mul(1i64.checked_shl(u32::try_from(exponent).ok()?)?)?;
        let kept = if number & 7 != 0 { text } else { "" };
        return Some(Read { value: signed(value), scale: 0, format, kept });
    }
    let scale = exponent - i32::try_from(fraction.len()).ok()?;
    if shifted.len() > 18 || scale < -9 {
        return None;
    }
    let is_canonical = scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0');
    if scale >= -3 {
        return Some(Read { value: signed(number), scale, format, kept: if is_canonical { text } else { "" } });
    }
    // Rounded away from zero.
    let by = 10i64.checked_pow(u32::try_from(-3 - scale).ok()?)?;
    Some(Read { value: signed(number.div_euclid(by) + i64::from(number % by != 0)), scale: -3, format, kept: "" })
}

/// The exponent of a suffix, of 10 or 2, and its form.
fn suffix_of(suffix: &str) -> Option<(i32, &'static str)> {
    let known = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    if let Some((_, exponent)) = known.into_iter().find(|(name, _)| *name == suffix) {
        return Some((exponent, "BinarySI"));
    }
    let known =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some((_, exponent)) = known.into_iter().find(|(name, _)| *name == suffix) {
        return Some((exponent, "DecimalSI"));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((exponent.parse().ok()?, "DecimalExponent"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", 0, 0, "0", "DecimalSI")]
    #[case("250m", 250, -3, "250m", "DecimalSI")]
    #[case("1", 1, 0, "1", "DecimalSI")]
    #[case("1000", 1000, 0, "", "DecimalSI")]
    #[case("0.1", 1, -1, "", "DecimalSI")]
    #[case("0.0001", 1, -3, "", "DecimalSI")]
    #[case("100Mi", 104_857_600, 0, "100Mi", "BinarySI")]
    #[case("512Mi", 536_870_912, 0, "", "BinarySI")]
    #[case("1e3", 1, 3, "1e3", "DecimalExponent")]
    #[case("5k", 5, 3, "5k", "DecimalSI")]
    fn quantities(
        #[case] text: &str,
        #[case] value: i64,
        #[case] scale: i32,
        #[case] kept: &str,
        #[case] format: &str,
    ) {
        let read = read_quantity(text).unwrap();
        assert_eq!((read.value, read.scale, read.kept, read.format), (value, scale, kept, format));
    }

    #[test]
    fn all_types_are_known() {
        let known = [
            "string",
            "bool",
            "int",
            "int32",
            "int64",
            "resource.Quantity",
            "intstr.IntOrString",
            "v1.Time",
            "v1.TypeMeta",
        ];
        let is_known = |name: &str| known.contains(&name) || definition(name).is_some();
        for field in TYPES.lines().filter_map(|line| line.split_once(' ')).flat_map(|(_, fields)| fields.split(' ')) {
            let type_ = field.splitn(3, ':').nth(2).unwrap();
            let name = type_.rsplit([']', '*']).next().unwrap();
            // Of these a manifest holds none.
            let unread = name == "v1.ManagedFieldsEntry" || name.ends_with("Status") || name.starts_with("core.Pod");
            assert!(is_known(name) || unread || ["core.HostIP"].contains(&name), "{field}");
        }
    }
}
