//! Where log lines go: standard error, as text or as JSON, as much as `-v` asks for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::Settings;

/// Starts logging. Variable `FERROLET_LOG` holds a filter of its own (`ferrolet::pod=trace,...`) and wins over `-v`.
pub(super) fn init(settings: &Settings) {
    let level = match settings.verbosity() {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    let filter = std::env::var("FERROLET_LOG").ok().and_then(|text| text.parse::<EnvFilter>().ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("warn,ferrolet={level}")));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if settings.configuration.logging.format == "json" {
        builder.json().try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    // A second start within one process keeps the first one's logging.
    drop(started);
}
