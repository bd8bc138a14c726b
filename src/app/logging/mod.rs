//! Where log lines go: standard error, in klog's text form or as JSON, as much as `-v` and `--vmodule` ask for.
//!
//! [`mod@line`] holds what both forms are made of, [`text`] and [`json`] write them, [`levels`] decides what is written.

mod json;
mod levels;
mod line;
mod text;

use std::io::{self, Stderr, Stdout};

use tracing::{Level, Metadata, warn};
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LoggingConfiguration, Settings};

use levels::Levels;

/// What decides which lines are written.
type Chosen = FilterFn<Box<dyn Fn(&Metadata<'_>) -> bool + Send + Sync>>;

/// Changes how much is written while the agent runs.
pub(super) struct Verbosity {
    filter: reload::Handle<Chosen, Registry>,
    logging: LoggingConfiguration,
}

impl Verbosity {
    /// As `-v` would have it; `--vmodule` stays as it is.
    pub(super) fn set(&self, verbosity: u32) {
        let logging = LoggingConfiguration { verbosity, ..self.logging.clone() };
        if let Err(error) = self.filter.reload(chosen(&logging)) {
            warn!(%error, verbosity, "the verbosity of the log cannot be changed");
        }
    }
}

fn chosen(logging: &LoggingConfiguration) -> Chosen {
    let levels = Levels::new(logging);
    let deepest = levels.deepest();
    let is_on: Box<dyn Fn(&Metadata<'_>) -> bool + Send + Sync> = Box::new(move |metadata| levels.is_on(metadata));
    filter_fn(is_on).with_max_level_hint(deepest)
}

/// Starts logging. Variable `FERROLET_LOG` holds a filter of its own (`ferrolet::pod=trace,...`) and wins over `-v`, for good:
/// there is no verbosity to change then.
pub(super) fn init(settings: &Settings) -> Option<Verbosity> {
    let logging = &settings.configuration.logging;
    let is_json = logging.format == "json";
    let split = if is_json { logging.options.json.split_stream } else { logging.options.text.split_stream };
    let format = fmt::layer().with_writer(Streams { split });
    let lines: Box<dyn Layer<Registry> + Send + Sync> = if is_json {
        format.with_ansi(false).fmt_fields(json::Fields).event_format(json::Json).boxed()
    } else {
        format.with_ansi(false).fmt_fields(text::Fields).event_format(text::Text).boxed()
    };
    let environment = std::env::var("FERROLET_LOG").ok().and_then(|text| text.parse::<EnvFilter>().ok());
    let (lines, verbosity) = match environment {
        Some(filter) => (lines.with_filter(filter).boxed(), None),
        None => {
            let (filter, handle) = reload::Layer::new(chosen(logging));
            let verbosity = Verbosity { filter: handle, logging: logging.clone() };
            (lines.with_filter(filter).boxed(), Some(verbosity))
        }
    };
    // A second start within one process keeps the first one's logging.
    drop(tracing_subscriber::registry().with(lines).try_init());
    verbosity
}

/// Standard error; by `splitStream` standard output for what is no error. Nothing is held back, so there is nothing to flush.
struct Streams {
    split: bool,
}

enum Stream {
    Out(Stdout),
    Error(Stderr),
}

impl<'a> MakeWriter<'a> for Streams {
    type Writer = Stream;

    fn make_writer(&'a self) -> Stream {
        Stream::Error(io::stderr())
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Stream {
        if self.split && *metadata.level() > Level::ERROR { Stream::Out(io::stdout()) } else { self.make_writer() }
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Out(stream) => stream.write(bytes),
            Stream::Error(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Out(stream) => stream.flush(),
            Stream::Error(stream) => stream.flush(),
        }
    }
}
