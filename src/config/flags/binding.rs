//! Where a flag's value goes and how its text is read, kind by kind, as the `pflag` values of the peer do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::go_values;
use super::{Flags, Target};
use crate::config::types::VModuleItem;
use crate::model::go_duration::GoDuration;
use crate::model::quantity;

/// The place of a value.
type Field<T> = fn(&mut Target) -> &mut T;

/// How a flag's value is read and where it goes.
pub(in crate::config) enum Binding {
    /// `true`, `false` and Go's other spellings; without a value true.
    Bool(Field<bool>),
    /// Integer in any of Go's bases.
    Int32(Field<i32>),
    /// Integer in any of Go's bases.
    Int64(Field<i64>),
    /// Any text.
    Text(Field<String>),
    /// Any text, none if empty.
    OptionalText(Field<Option<String>>),
    /// A path.
    Path(Field<PathBuf>),
    /// A path, none if empty.
    OptionalPath(Field<Option<PathBuf>>),
    /// A Go duration.
    Duration(Field<GoDuration>),
    /// Comma-separated list; repeated flags append.
    Texts(Field<Vec<String>>),
    /// An IP address; empty leaves what is there.
    Ip(Field<String>),
    /// Pairs with that separator; repeated flags add.
    Pairs(Field<BTreeMap<String, String>>, char, Split),
    /// A size in bytes.
    Size(Field<Quantity>),
    /// Log verbosity.
    Level(Field<u32>),
    /// Log verbosity by source file; repeated flags append.
    VModule(Field<Vec<VModuleItem>>),
    /// `--node-labels`: pairs, a missing value is the empty one; repeated flags add.
    Labels(Field<BTreeMap<String, String>>),
    /// `--node-ip`.
    NodeIps,
    /// `--feature-gates`.
    Gates,
    /// `--manifest-url-header`.
    Headers,
    /// `--register-with-taints`.
    Taints,
    /// `--reserved-memory`.
    ReservedMemory,
}

/// Whether one value may hold several pairs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Split {
    /// Separated by commas.
    Commas,
    /// One pair a flag.
    No,
}

impl Binding {
    /// The value of a flag that is given without one; none if one must follow.
    pub(super) fn implied_value(&self) -> Option<&'static str> {
        matches!(self, Binding::Bool(_)).then_some("true")
    }

    /// Whether the value may hold credentials.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Binding::Headers)
    }

    /// The kind of value, for the help.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Binding::Bool(_) => "",
            Binding::Int32(_) | Binding::Int64(_) => "int",
            Binding::Text(_) | Binding::OptionalText(_) => "string",
            Binding::Path(_) | Binding::OptionalPath(_) => "path",
            Binding::Duration(_) => "duration",
            Binding::Texts(_) => "a,b...",
            Binding::Ip(_) => "ip",
            Binding::Pairs(_, '<', _) => "signal<quantity,...",
            Binding::Pairs(_, _, Split::No) => "key=value",
            Binding::Pairs(..) | Binding::Labels(_) => "key=value,...",
            Binding::Size(_) => "quantity",
            Binding::Level(_) => "level",
            Binding::VModule(_) => "pattern=N,...",
            Binding::NodeIps => "ip[,ip]",
            Binding::Gates => "Name=bool,...",
            Binding::Headers => "name:value,...",
            Binding::Taints => "key=value:effect,...",
            Binding::ReservedMemory => "node:type=quantity,...",
        }
    }

    /// Reads a value into its place. `is_first` is false for the repetition of a flag, which adds to lists and maps.
    ///
    /// The error tells what is wrong with the value, without the value.
    pub(super) fn set(&self, target: &mut Target, value: &str, is_first: bool) -> Result<(), String> {
        match self {
            Binding::Bool(field) => *field(target) = go_values::boolean(value)?,
            Binding::Int32(field) => {
                let number = go_values::integer(value)?;
                *field(target) = i32::try_from(number).map_err(|_| "must fit in 32 bits".to_owned())?;
            }
            Binding::Int64(field) => *field(target) = go_values::integer(value)?,
            Binding::Text(field) => *field(target) = value.to_owned(),
            Binding::OptionalText(field) => *field(target) = (!value.is_empty()).then(|| value.to_owned()),
            Binding::Path(field) => *field(target) = PathBuf::from(value),
            Binding::OptionalPath(field) => *field(target) = (!value.is_empty()).then(|| PathBuf::from(value)),
            Binding::Duration(field) => *field(target) = value.parse().map_err(problem_of_duration)?,
            Binding::Texts(field) => {
                let list = go_values::comma_separated(value)?;
                restart(field(target), is_first).extend(list);
            }
            Binding::Ip(field) => {
                if !value.is_empty() {
                    go_values::ip(value).ok_or("must be an IP address")?;
                    *field(target) = value.to_owned();
                }
            }
            Binding::Pairs(field, separator, split) => {
                let pairs = go_values::pairs(value, *separator, *split)?;
                restart(field(target), is_first).extend(pairs);
            }
            Binding::Size(field) => {
                let (amount, format) = quantity::parse_with_format(value).map_err(|error| error.to_string())?;
                *field(target) = amount.quantity(format);
            }
            Binding::Level(field) => *field(target) = go_values::level(value)?,
            Binding::VModule(field) => {
                let items = go_values::vmodule(value)?;
                restart(field(target), is_first).extend(items);
            }
            Binding::Labels(field) => {
                let labels = field(target);
                for pair in value.split(',').filter(|pair| !pair.is_empty()) {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    labels.insert(key.trim().to_owned(), value.trim().to_owned());
                }
            }
            Binding::NodeIps => set_node_ips(target, value)?,
            Binding::Gates => {
                let mut gates = BTreeMap::new();
                for (name, value) in go_values::pairs(value, '=', Split::Commas)? {
                    let value = go_values::boolean(&value).map_err(|problem| format!("{name}: {problem}"))?;
                    gates.insert(name, value);
                }
                restart(&mut target.configuration.feature_gates, is_first).extend(gates);
            }
            Binding::Headers => {
                let headers = &mut target.configuration.static_pod_url_header;
                if is_first {
                    headers.clear();
                }
                for pair in value.split(',').filter(|pair| !pair.is_empty()) {
                    let (name, value) = pair.split_once(':').ok_or("must be name:value pairs")?;
                    headers.add(name.trim(), value.trim());
                }
            }
            Binding::Taints => target.configuration.register_with_taints = go_values::taints(value)?,
            Binding::ReservedMemory => {
                if !value.is_empty() {
                    let reservations = go_values::reserved_memory(value)?;
                    restart(&mut target.configuration.reserved_memory, is_first).extend(reservations);
                }
            }
        }
        Ok(())
    }

    /// The value in place as text, to compare it and to show defaults.
    pub(in crate::config) fn show(&self, target: &mut Target) -> String {
        fn pairs(map: &BTreeMap<String, String>, separator: char) -> String {
            map.iter().map(|(key, value)| format!("{key}{separator}{value}")).collect::<Vec<_>>().join(",")
        }
        match self {
            Binding::Bool(field) => field(target).to_string(),
            Binding::Int32(field) => field(target).to_string(),
            Binding::Int64(field) => field(target).to_string(),
            Binding::Text(field) | Binding::Ip(field) => field(target).clone(),
            Binding::OptionalText(field) => field(target).clone().unwrap_or_default(),
            Binding::Path(field) => field(target).display().to_string(),
            Binding::OptionalPath(field) => {
                field(target).as_deref().map(|path| path.display().to_string()).unwrap_or_default()
            }
            Binding::Duration(field) => field(target).to_string(),
            Binding::Texts(field) => field(target).join(","),
            Binding::Pairs(field, separator, _) => pairs(field(target), *separator),
            Binding::Labels(field) => pairs(field(target), '='),
            Binding::Size(field) => field(target).0.clone(),
            Binding::Level(field) => field(target).to_string(),
            Binding::VModule(field) => {
                let items = field(target).iter().map(|item| format!("{}={}", item.file_pattern, item.verbosity));
                items.collect::<Vec<_>>().join(",")
            }
            Binding::NodeIps => target.flags.node_ip.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","),
            Binding::Gates => format!("{:?}", target.configuration.feature_gates),
            Binding::Headers => format!("{:?}", target.configuration.static_pod_url_header),
            Binding::Taints => format!("{:?}", target.configuration.register_with_taints),
            Binding::ReservedMemory => format!("{:?}", target.configuration.reserved_memory),
        }
    }

    /// The value in place as `pflag` shows it. What may hold credentials is masked.
    pub(in crate::config) fn value(&self, target: &mut Target) -> String {
        fn joined<T>(parts: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
            parts.into_iter().map(text).collect::<Vec<_>>().join(",")
        }
        let configuration = &target.configuration;
        match self {
            Binding::Texts(_) => format!("[{}]", self.show(target)),
            Binding::Gates => joined(&configuration.feature_gates, |(name, on)| format!("{name}={on}")),
            Binding::Headers => {
                joined(configuration.static_pod_url_header.expose().keys(), |n| format!("{n}:<masked>"))
            }
            Binding::Taints => joined(&configuration.register_with_taints, |taint| {
                format!("{}={}:{}", taint.key, taint.value.as_deref().unwrap_or_default(), taint.effect)
            }),
            Binding::ReservedMemory => joined(&configuration.reserved_memory, |memory| {
                let limits = joined(&memory.limits, |(kind, amount)| format!("{kind}={}", amount.0));
                format!("{}:{limits}", memory.numa_node)
            }),
            _ => self.show(target),
        }
    }
}

/// What is there on the first occurrence of a flag is a default, or a file's, and gives way.
fn restart<T: Default>(value: &mut T, is_first: bool) -> &mut T {
    if is_first {
        *value = T::default();
    }
    value
}

fn problem_of_duration(error: crate::model::go_duration::DurationError) -> String {
    format!("must be a duration like 1h30m, 10s or 300ms: {}", error.problem)
}

/// One address or one of each family. What is no address is left out with a warning, as the peer does.
fn set_node_ips(target: &mut Target, value: &str) -> Result<(), String> {
    let Target { flags: Flags { node_ip, .. }, warnings, .. } = target;
    node_ip.clear();
    for text in value.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match go_values::ip(text) {
            Some(ip) => node_ip.push(ip),
            None => warnings.push(format!("--node-ip: {text:?} is not an IP address and is ignored")),
        }
    }
    match node_ip.as_slice() {
        [] | [_] => Ok(()),
        [a, b] if a.is_unspecified() || b.is_unspecified() => {
            Err("must not hold 0.0.0.0 or :: beside another address".to_owned())
        }
        [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(()),
        _ => Err("must be one IP address, or one IPv4 and one IPv6 address".to_owned()),
    }
}
