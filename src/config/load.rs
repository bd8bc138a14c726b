//! Reads the `--config` file and the `--config-dir` drop-ins, and lays flags over them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::decode::{self, DecodeError, Decoded};
use super::flags::{self, CommandLine, Target};
use super::gates::FeatureGates;
use super::types::{KubeletConfiguration, default_eviction_hard};
use super::{ConfigError, Invocation, Settings, acted_on, validation};
use crate::model::document;

/// Reads the command line, given without the program's name, and the files that it names.
///
/// The order is the peer's: flags, their gates and labels, the file over new defaults, the drop-ins over it, the flags over all
/// of it, then validation of the whole. Files of the host's state are not looked at; [`super::validate_for_cgroup`] is for
/// the caller.
pub fn load(arguments: impl Iterator<Item = OsString>) -> Result<Invocation, ConfigError> {
    let line = flags::parse(arguments)?;
    if let Some(argument) = line.positional.first() {
        return Err(ConfigError::UnknownCommand { argument: argument.clone() });
    }
    if line.is_help {
        return Ok(Invocation::Help(flags::help(legacy_defaults())));
    }
    if line.is_version {
        return Ok(Invocation::Version);
    }
    settings(&line).map(|settings| Invocation::Run(Box::new(settings)))
}

/// The defaults when neither a file nor drop-ins are named: those of the days before there were files.
pub(super) fn legacy_defaults() -> KubeletConfiguration {
    let mut configuration = KubeletConfiguration::default();
    configuration.authentication.anonymous.enabled = true;
    configuration.authentication.webhook.enabled = false;
    configuration.authorization.mode = "AlwaysAllow".to_owned();
    configuration.read_only_port = 10255;
    configuration
}

/// The command line and all files laid over each other, not yet validated.
struct Merged {
    target: Target,
    /// The defaults that hold for this command line.
    baseline: KubeletConfiguration,
}

fn merge(line: &CommandLine) -> Result<Merged, ConfigError> {
    let mut target = Target::over(legacy_defaults());
    line.apply(&mut target)?;
    let flag_gates = target.configuration.feature_gates.clone();
    FeatureGates::from_map(&flag_gates).map_err(|errors| ConfigError::Gates { errors })?;
    validation::check_node_labels(&target.flags.node_labels)?;

    let mut warnings = line.warnings.clone();
    let mut baseline = legacy_defaults();
    let config = target.flags.config.clone();
    let config_dir = target.flags.config_dir.clone();
    if config.is_some() || config_dir.is_some() {
        let mut configuration = legacy_defaults();
        if let Some(path) = &config {
            configuration = load_file(path, &flag_gates, &mut warnings)?;
            baseline = KubeletConfiguration { eviction_hard: default_eviction_hard(), ..Default::default() };
        }
        if let Some(folder) = &config_dir {
            configuration = merge_drop_ins(&configuration, folder, &flag_gates, &mut warnings)?;
        }
        let file_gates = configuration.feature_gates.clone();
        target = Target::over(configuration);
        line.apply(&mut target)?;
        for (name, value) in file_gates {
            target.configuration.feature_gates.entry(name).or_insert(value);
        }
    }
    warnings.append(&mut target.warnings);
    target.warnings = warnings;
    target.configuration.seccomp_default |= target.flags.seccomp_default;
    Ok(Merged { target, baseline })
}

fn settings(line: &CommandLine) -> Result<Settings, ConfigError> {
    let Merged { target: Target { flags, configuration, mut warnings }, baseline } = merge(line)?;
    let gates = FeatureGates::from_map(&configuration.feature_gates).map_err(|errors| ConfigError::Gates { errors })?;
    warnings.extend(FeatureGates::warnings(&configuration.feature_gates));
    validation::check(&configuration, &flags, &gates)?;
    let not_acted_on = acted_on::not_acted_on(&flags, &configuration, &gates, &baseline);
    let flag_values = flags::values(line, legacy_defaults())?;
    Ok(Settings { flags, configuration, gates, not_acted_on, warnings, flag_values })
}

fn load_file(
    path: &Path,
    gates: &BTreeMap<String, bool>,
    warnings: &mut Vec<String>,
) -> Result<KubeletConfiguration, ConfigError> {
    let absolute = std::path::absolute(path).map_err(|source| unreadable(path, source))?;
    let fault = |source| ConfigError::File { path: absolute.clone(), source };
    let document = document::parse(&read(&absolute)?).map_err(DecodeError::from).map_err(fault)?;
    decode::check_kind(&document.value).map_err(fault)?;
    let decoded = decode::configuration(document.value, gates).map_err(fault)?;
    let Decoded { mut configuration, unknown, has_eviction_hard } = decoded;
    warn_of_strays(&absolute, &unknown, &document.repeated, warnings);
    if let Some(folder) = absolute.parent() {
        resolve_paths(&mut configuration, folder);
    }
    if !has_eviction_hard {
        configuration.eviction_hard = default_eviction_hard();
    } else if configuration.merge_default_eviction_settings {
        for (signal, threshold) in default_eviction_hard() {
            configuration.eviction_hard.entry(signal).or_insert(threshold);
        }
    }
    Ok(configuration)
}

/// Lays the `*.conf` files of a folder over a configuration, as JSON merge patches (RFC 7386) in the order of their names.
fn merge_drop_ins(
    base: &KubeletConfiguration,
    folder: &Path,
    gates: &BTreeMap<String, bool>,
    warnings: &mut Vec<String>,
) -> Result<KubeletConfiguration, ConfigError> {
    let as_field = |error: &dyn std::fmt::Display| DecodeError::Field {
        field: "configuration".to_owned(),
        problem: error.to_string(),
    };
    let mut merged = serde_json::to_value(base)
        .map_err(|error| ConfigError::File { path: folder.to_owned(), source: as_field(&error) })?;
    for path in drop_ins(folder)? {
        let fault = |source| ConfigError::File { path: path.clone(), source };
        let document = document::parse(&read(&path)?).map_err(DecodeError::from).map_err(fault)?;
        decode::check_kind(&document.value).map_err(fault)?;
        // Each file is given types for itself first, so that a fault is found where it was made; only gates may need
        // what another file says.
        let decoded = decode::configuration(without_gates(document.value.clone()), gates).map_err(fault)?;
        warn_of_strays(&path, &decoded.unknown, &document.repeated, warnings);
        json_patch::merge(&mut merged, &document.value);
    }
    let decoded =
        decode::configuration(merged, gates).map_err(|source| ConfigError::File { path: folder.to_owned(), source })?;
    Ok(decoded.configuration)
}

fn without_gates(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.remove("featureGates");
    }
    value
}

/// The `*.conf` files in a folder and the folders in it, names in order, a folder's files in its name's place.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let entry = entry.map_err(|source| unreadable(folder, source))?;
        let kind = entry.file_type().map_err(|source| unreadable(&entry.path(), source))?;
        entries.push((entry.file_name(), kind.is_dir()));
    }
    entries.sort();
    for (name, is_folder) in entries {
        let path = folder.join(&name);
        if is_folder {
            files.extend(drop_ins(&path)?);
        } else if name.as_encoded_bytes().ends_with(b".conf") {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Unreadable { path: path.to_owned(), source }
}

fn warn_of_strays(path: &Path, unknown: &[String], repeated: &[String], warnings: &mut Vec<String>) {
    let path = path.display();
    warnings.extend(unknown.iter().map(|field| format!("{path}: unknown field {field:?} is ignored")));
    warnings.extend(repeated.iter().map(|field| format!("{path}: field {field:?} is given twice, the last one holds")));
}

/// Relative paths in the file are relative to the file (`KubeletConfigurationPathRefs`).
fn resolve_paths(configuration: &mut KubeletConfiguration, folder: &Path) {
    let paths = [
        &mut configuration.static_pod_path,
        &mut configuration.authentication.x509.client_ca_file,
        &mut configuration.tls_cert_file,
        &mut configuration.tls_private_key_file,
        &mut configuration.resolv_conf,
        &mut configuration.volume_plugin_dir,
        &mut configuration.pod_logs_dir,
    ];
    for path in paths {
        if !path.is_empty() && !path.starts_with('/') {
            *path = clean(&folder.join(&*path)).display().to_string();
        }
    }
}

/// A path without `.`, `..` and doubled slashes, by its text alone (Go's `filepath.Clean`).
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match cleaned.components().next_back() {
                Some(Component::Normal(_)) => {
                    cleaned.pop();
                }
                Some(Component::RootDir) => {}
                _ => cleaned.push(".."),
            },
            other => cleaned.push(other),
        }
    }
    if cleaned.as_os_str().is_empty() { PathBuf::from(".") } else { cleaned }
}

#[cfg(test)]
mod tests;
