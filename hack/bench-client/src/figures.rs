//! Named numbers and how samples become one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What one run measured, by name; seconds, MiB, or as the name says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Figures(pub(crate) BTreeMap<String, f64>);

impl Figures {
    pub(crate) fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.insert(name.into(), (value * 10_000.0).round() / 10_000.0);
    }

    /// The median and the maximum of samples, as `name` and `name_max`.
    pub(crate) fn set_samples(&mut self, name: &str, samples: &[Duration]) {
        let seconds: Vec<f64> = samples.iter().map(Duration::as_secs_f64).collect();
        if let Some(median) = quantile(&seconds, 0.5) {
            self.set(name, median);
        }
        if let Some(maximum) = quantile(&seconds, 1.0) {
            self.set(format!("{name}_max"), maximum);
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?).with_context(|| format!("write {}", path.display()))
    }
}

/// The sample below which the given share of the samples lies (nearest rank; of two middle ones the upper).
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).copied()
}
