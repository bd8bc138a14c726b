//! Named numbers and how samples become one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use procfs::CurrentSI as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What the name of a time ends in where it is that of the machine's processors.
const MACHINE: &str = "_machine_cpu_seconds";

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

    /// What a burst took, as `name` and `name_machine_cpu_seconds`.
    pub(crate) fn set_burst(&mut self, name: &str, taken: &Taken) {
        self.set(name, taken.seconds);
        self.set(format!("{name}{MACHINE}"), taken.machine_cpu_seconds);
    }

    /// Makes the fastest of several bursts, of which each was set as `name_by_N`, the one that counts.
    pub(crate) fn choose_burst(&mut self, name: &str) {
        let by = format!("{name}_by_");
        let is_time = |figure: &str| figure.strip_prefix(&by).is_some_and(|n| n.parse::<usize>().is_ok());
        let times = self.0.iter().filter(|(figure, _)| is_time(figure));
        let Some((best, seconds)) =
            times.min_by(|a, b| a.1.total_cmp(b.1)).map(|(figure, time)| (figure.clone(), *time))
        else {
            return;
        };
        self.set(name, seconds);
        if let Some(machine) = self.0.get(&format!("{best}{MACHINE}")).copied() {
            self.set(format!("{name}{MACHINE}"), machine);
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

/// The beginning of a burst.
pub(crate) struct Stopwatch {
    began: Instant,
    machine_cpu_seconds: f64,
}

/// What a burst took.
pub(crate) struct Taken {
    seconds: f64,
    /// How long the machine's processors worked meanwhile, for whomever: less at the mercy of a busy host than the time.
    machine_cpu_seconds: f64,
}

impl Stopwatch {
    pub(crate) fn start() -> Result<Self> {
        Ok(Stopwatch { began: Instant::now(), machine_cpu_seconds: machine_cpu_seconds()? })
    }

    /// Of a burst that was over at that moment; it may be noticed a little later.
    pub(crate) fn stop(&self, over: Instant) -> Result<Taken> {
        let seconds = over.duration_since(self.began).as_secs_f64();
        Ok(Taken { seconds, machine_cpu_seconds: machine_cpu_seconds()? - self.machine_cpu_seconds })
    }
}

fn machine_cpu_seconds() -> Result<f64> {
    let all = procfs::KernelStats::current()?.total;
    let busy = all.user + all.nice + all.system + all.irq.unwrap_or_default() + all.softirq.unwrap_or_default();
    Ok(busy as f64 / procfs::ticks_per_second() as f64)
}

/// The sample below which the given share of the samples lies (nearest rank; of two middle ones the upper).
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).copied()
}
