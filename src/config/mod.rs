//! What the node was told: flags in the spelling of Go programs, KubeletConfiguration v1beta1 with its defaults, drop-ins
//! and validation, feature gates.
//!
//! Must not know of anything that acts on it, nor look at the host beyond the files that the command line names. It has no
//! tasks: [`load()`] reads everything once, at the start. What other parts act on they enter in `acted_on.rs`.

mod acted_on;
mod decode;
mod effective;
pub mod flags;
pub mod gates;
mod load;
mod names;
pub mod types;
mod validation;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use acted_on::{ACTED_ON, ACTED_ON_GATES};
pub use decode::DecodeError;
pub use effective::{effective_value, effective_yaml};
pub use flags::{FlagError, Flags};
pub use gates::{FeatureGates, Gate, GateError};
pub use load::load;
pub use types::{KubeletConfiguration, LoggingConfiguration, VModuleItem};
pub use validation::{Violation, validate_for_cgroup};

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Print this text and end.
    Help(String),
    /// Print the version and end.
    Version,
    /// Run with these settings.
    Run(Box<Settings>),
}

/// All that the node was told, checked and with defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What only flags say.
    pub flags: Flags,
    /// The configuration: file, drop-ins and flags over them.
    pub configuration: KubeletConfiguration,
    /// The feature gates.
    pub gates: FeatureGates,
    /// Settings that differ from their default and that nothing acts on yet: fields of the file, or flags with their dashes.
    pub not_acted_on: Vec<String>,
    /// Notes for the start-up log: unknown fields, flags of earlier releases and the like.
    pub warnings: Vec<String>,
    /// Every flag by name with the value that the command line gives it, or its default, as the peer writes it.
    pub flag_values: std::collections::BTreeMap<&'static str, String>,
}

impl Settings {
    /// The log verbosity, `-v`.
    pub fn verbosity(&self) -> u32 {
        self.configuration.logging.verbosity
    }

    /// Whether the node stands alone, without an API server.
    pub fn is_standalone(&self) -> bool {
        self.flags.kubeconfig.is_none()
    }
}

/// Why the settings cannot be used. The text is one line and names the setting, its value and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// An argument that is no flag; a value after a boolean flag often ends up as one.
    #[error("unknown command {argument:?}: only flags are allowed (a boolean flag takes its value as --flag=false)")]
    UnknownCommand {
        /// The argument.
        argument: String,
    },
    /// A file or folder that cannot be read.
    #[error("cannot read configuration {path}: {source}", path = path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with a fault in it.
    #[error("configuration {path}: {source}", path = path.display())]
    File {
        /// The file, or the folder of drop-ins if the fault is in their sum.
        path: PathBuf,
        /// The fault.
        source: DecodeError,
    },
    /// Feature gates that cannot be set so.
    #[error("{}", joined(errors))]
    Gates {
        /// All that is wrong.
        errors: Vec<GateError>,
    },
    /// Values that are not allowed.
    #[error("invalid configuration: {}", joined(violations))]
    Invalid {
        /// All of them.
        violations: Vec<Violation>,
    },
}

/// Several messages in one line.
fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
