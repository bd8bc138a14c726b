//! The command line, in the grammar of Go's `pflag`: `--a=b`, `--a b`, `--bool`, `--bool=false`, `-v=4`, `-v 4`, `-v4`, with
//! `_` for `-` in names.
//!
//! An own parser and not clap: `pflag` takes no separate value for a boolean (`--flag false` leaves `false` over), lets maps
//! and lists start afresh on the first occurrence and add on the next, knows a flag's underscored names, and the whole
//! command line is applied twice, before and after the configuration file. A table of names and places says all of that in one
//! line a flag.

mod binding;
mod go_values;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use super::types::KubeletConfiguration;
use crate::model::go_duration::GoDuration;
use table::DEAD_FLAGS;
pub(super) use table::{FLAGS, FlagSpec};

/// Settings that only flags have.
#[derive(Clone, Debug, PartialEq)]
pub struct Flags {
    /// `--config`: the configuration file.
    pub config: Option<PathBuf>,
    /// `--config-dir`: the folder of drop-ins.
    pub config_dir: Option<PathBuf>,
    /// `--kubeconfig`; without it the node stands alone.
    pub kubeconfig: Option<PathBuf>,
    /// `--bootstrap-kubeconfig`.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `--hostname-override`.
    pub hostname_override: Option<String>,
    /// `--node-ip`: none, one, or one of each family. An unspecified address stands for a choice of that family.
    pub node_ip: Vec<IpAddr>,
    /// `--cert-dir`. Default /var/lib/kubelet/pki, wherever the root directory is.
    pub cert_dir: PathBuf,
    /// `--cloud-provider`: empty or `external`.
    pub cloud_provider: String,
    /// `--root-dir`. Default /var/lib/kubelet.
    pub root_dir: PathBuf,
    /// `--node-labels`.
    pub node_labels: BTreeMap<String, String>,
    /// `--seccomp-default`; the configuration's `seccompDefault` is on if this is.
    pub seccomp_default: bool,
    /// `--runtime-cgroups`.
    pub runtime_cgroups: Option<String>,
    /// `--image-credential-provider-config`.
    pub image_credential_provider_config: Option<PathBuf>,
    /// `--image-credential-provider-bin-dir`.
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// `--lock-file`.
    pub lock_file: Option<PathBuf>,
    /// `--exit-on-lock-contention`.
    pub exit_on_lock_contention: bool,
    /// `--housekeeping-interval`. Default 10s.
    pub housekeeping_interval: GoDuration,
    /// `--minimum-container-ttl-duration`. Default 0s.
    pub minimum_container_ttl_duration: GoDuration,
    /// `--maximum-dead-containers-per-container`. Default 1.
    pub maximum_dead_containers_per_container: i32,
    /// `--maximum-dead-containers`. Default -1, no limit.
    pub maximum_dead_containers: i32,
    /// `--experimental-mounter-path`.
    pub experimental_mounter_path: Option<PathBuf>,
    /// `--experimental-allocatable-ignore-eviction`.
    pub experimental_allocatable_ignore_eviction: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Flags {
            config: None,
            config_dir: None,
            kubeconfig: None,
            bootstrap_kubeconfig: None,
            hostname_override: None,
            node_ip: Vec::new(),
            cert_dir: PathBuf::from("/var/lib/kubelet/pki"),
            cloud_provider: String::new(),
            root_dir: PathBuf::from("/var/lib/kubelet"),
            node_labels: BTreeMap::new(),
            seccomp_default: false,
            runtime_cgroups: None,
            image_credential_provider_config: None,
            image_credential_provider_bin_dir: None,
            lock_file: None,
            exit_on_lock_contention: false,
            housekeeping_interval: GoDuration::from_secs(10),
            minimum_container_ttl_duration: GoDuration::ZERO,
            maximum_dead_containers_per_container: 1,
            maximum_dead_containers: -1,
            experimental_mounter_path: None,
            experimental_allocatable_ignore_eviction: false,
        }
    }
}

/// What flags are applied to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) flags: Flags,
    pub(super) configuration: KubeletConfiguration,
    pub(super) warnings: Vec<String>,
}

impl Target {
    /// Flags over that configuration.
    pub(super) fn over(configuration: KubeletConfiguration) -> Self {
        Target { flags: Flags::default(), configuration, warnings: Vec::new() }
    }
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// An argument that is not UTF-8.
    #[error("argument {argument:?} is not UTF-8 text")]
    NotText {
        /// The argument, what cannot be shown replaced.
        argument: String,
    },
    /// An argument like `--=x`.
    #[error("bad flag syntax: {argument}")]
    Syntax {
        /// The argument.
        argument: String,
    },
    /// No such flag.
    #[error("unknown flag: {flag}")]
    Unknown {
        /// The flag as written, without its value.
        flag: String,
    },
    /// The command line ends where a value must be.
    #[error("flag needs an argument: {flag}")]
    MissingValue {
        /// The flag as written.
        flag: String,
    },
    /// A value that the flag does not take.
    #[error("invalid argument {value:?} for flag --{flag}: {problem}")]
    Value {
        /// The flag's name.
        flag: &'static str,
        /// The value, masked if it may hold a credential.
        value: String,
        /// What is allowed.
        problem: String,
    },
}

/// A command line that was read without fault.
#[derive(Default)]
pub(super) struct CommandLine {
    /// Flags and their values in the order given.
    settings: Vec<(&'static FlagSpec, String)>,
    /// What is no flag.
    pub(super) positional: Vec<String>,
    pub(super) is_help: bool,
    pub(super) is_version: bool,
    /// Notes on flags that are gone.
    pub(super) warnings: Vec<String>,
}

/// What an argument's name stands for.
enum Meaning {
    Known(&'static FlagSpec),
    Dead(&'static table::DeadFlag),
    Help,
    Version,
}

impl Meaning {
    fn of(name: &str) -> Option<Meaning> {
        let name = name.replace('_', "-");
        match name.as_str() {
            "help" => return Some(Meaning::Help),
            "version" => return Some(Meaning::Version),
            _ => {}
        }
        let known = FLAGS.iter().find(|spec| spec.name == name).map(Meaning::Known);
        known.or_else(|| DEAD_FLAGS.iter().find(|dead| dead.name == name).map(Meaning::Dead))
    }

    /// The value of the flag when it is given without one; none if one must follow.
    fn implied_value(&self) -> Option<&'static str> {
        match self {
            Meaning::Known(spec) => spec.binding.implied_value(),
            Meaning::Dead(dead) => (!dead.takes_value).then_some("true"),
            Meaning::Help | Meaning::Version => Some("true"),
        }
    }
}

/// Reads the arguments after the program's name. Each value is checked as it is read, so that the first fault is reported.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<CommandLine, FlagError> {
    let mut line = CommandLine::default();
    let mut scratch = Target::over(KubeletConfiguration::default());
    let mut arguments = arguments.map(|argument| {
        argument.into_string().map_err(|bad| FlagError::NotText { argument: bad.to_string_lossy().into_owned() })
    });
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        if argument == "--" {
            for rest in arguments.by_ref() {
                line.positional.push(rest?);
            }
            break;
        }
        let (written, name, given) = if let Some(long) = argument.strip_prefix("--") {
            if long.starts_with(['-', '=']) {
                return Err(FlagError::Syntax { argument });
            }
            match long.split_once('=') {
                Some((name, value)) => (format!("--{name}"), name, Some(value.to_owned())),
                None => (argument.clone(), long, None),
            }
        } else if let Some(short) = argument.strip_prefix('-').filter(|short| !short.is_empty()) {
            short_flag(&argument, short)?
        } else {
            line.positional.push(argument);
            continue;
        };
        let meaning = Meaning::of(name).ok_or_else(|| FlagError::Unknown { flag: written.clone() })?;
        let value = match given.or_else(|| meaning.implied_value().map(str::to_owned)) {
            Some(value) => value,
            None => arguments.next().ok_or(FlagError::MissingValue { flag: written })??,
        };
        line.take(&meaning, value, &mut scratch)?;
    }
    Ok(line)
}

/// `-v4`, `-v=4`, `-v` and `-h`: as written, the long name, the value if it is attached.
fn short_flag<'a>(argument: &'a str, short: &'a str) -> Result<(String, &'static str, Option<String>), FlagError> {
    let unknown = || FlagError::Unknown { flag: argument.to_owned() };
    if let Some(rest) = short.strip_prefix('v') {
        let value = rest.strip_prefix('=').unwrap_or(rest);
        // As in pflag, `-v=` has the empty value while `-v` has none.
        return Ok(("-v".to_owned(), "v", (!rest.is_empty()).then(|| value.to_owned())));
    }
    match short.strip_prefix('h').ok_or_else(unknown)? {
        "" => Ok(("-h".to_owned(), "help", None)),
        rest => {
            let value = rest.strip_prefix('=').ok_or_else(unknown)?;
            Ok(("-h".to_owned(), "help", Some(value.to_owned())))
        }
    }
}

impl fmt::Debug for CommandLine {
    /// Values may hold credentials: names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.settings.iter().map(|(spec, _)| spec.name)).finish()
    }
}

impl CommandLine {
    fn take(&mut self, meaning: &Meaning, value: String, scratch: &mut Target) -> Result<(), FlagError> {
        match meaning {
            Meaning::Help => {
                self.is_help =
                    go_values::boolean(&value).map_err(|problem| FlagError::Value { flag: "help", value, problem })?;
            }
            Meaning::Version => self.is_version = version(&value)?,
            Meaning::Dead(dead) => {
                if dead.name == "container-runtime" && !value.is_empty() && value != "remote" {
                    let problem = "must be remote: the node works through the CRI alone".to_owned();
                    return Err(FlagError::Value { flag: dead.name, value, problem });
                }
                let name = dead.name;
                self.warnings.push(format!("--{name} has no effect: Kubernetes 1.37 has no such flag any more"));
            }
            Meaning::Known(spec) => {
                let is_first = !self.settings.iter().any(|(other, _)| other.name == spec.name);
                if let Err(problem) = spec.binding.set(scratch, &value, is_first) {
                    let value = if spec.binding.is_secret() { "<masked>".to_owned() } else { value };
                    return Err(FlagError::Value { flag: spec.name, value, problem });
                }
                self.settings.push((spec, value));
            }
        }
        Ok(())
    }

    /// Applies the flags to a target, over what is there.
    pub(super) fn apply(&self, target: &mut Target) -> Result<(), FlagError> {
        let mut seen = BTreeSet::new();
        for (spec, value) in &self.settings {
            spec.binding.set(target, value, seen.insert(spec.name)).map_err(|problem| {
                let value = if spec.binding.is_secret() { "<masked>" } else { value };
                FlagError::Value { flag: spec.name, value: value.to_owned(), problem }
            })?;
        }
        Ok(())
    }
}

/// Whether `--version=<value>` asks for the version.
fn version(value: &str) -> Result<bool, FlagError> {
    if value == "raw" {
        return Ok(true);
    }
    go_values::boolean(value).map_err(|_| FlagError::Value {
        flag: "version",
        value: value.to_owned(),
        problem: "must be true, false or raw".to_owned(),
    })
}

/// The flag that sets a field of the configuration file.
pub(super) fn flag_of_field(field: &str) -> Option<&'static str> {
    FLAGS.iter().find(|spec| spec.field == Some(field)).map(|spec| spec.name)
}

/// Every flag with its value by the command line alone, whatever files say. What may hold credentials is masked.
pub(super) fn values(
    line: &CommandLine,
    legacy: KubeletConfiguration,
) -> Result<BTreeMap<&'static str, String>, FlagError> {
    let mut target = Target::over(legacy);
    line.apply(&mut target)?;
    let mut values: BTreeMap<_, _> = FLAGS.iter().map(|spec| (spec.name, spec.binding.value(&mut target))).collect();
    // Neither is on where something runs.
    values.extend([("help", "false".to_owned()), ("version", "false".to_owned())]);
    Ok(values)
}

/// The text of `--help`.
pub(super) fn help(legacy: KubeletConfiguration) -> String {
    let mut text =
        "The node agent: registers this machine as a node of a Kubernetes cluster and runs its pods through the\n\
                    container runtime. It takes the flags, configuration and place of the kubelet.\n\n\
                    Usage:\n  kubelet [flags]\n\nFlags:\n"
            .to_owned();
    let mut defaults = Target::over(legacy);
    for spec in FLAGS {
        let short = if spec.name == "v" { "  -v, " } else { "      " };
        let kind = spec.binding.kind();
        let separator = if kind.is_empty() { "" } else { " " };
        let default = match spec.binding.show(&mut defaults) {
            shown if shown.is_empty() || matches!(shown.as_str(), "false" | "0" | "0s" | "{}" | "[]") => String::new(),
            shown => format!(" (default {shown})"),
        };
        let help = match spec.field {
            Some(field) => format!("The same as {field} in the configuration file."),
            None => spec.help.to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{short}--{}{separator}{kind}\n            {help}{default}", spec.name);
    }
    text.push_str("  -h, --help\n            Print this text.\n");
    text.push_str("      --version\n            Print the version of Kubernetes that this stands in for.\n");
    text
}

#[cfg(test)]
mod tests;
