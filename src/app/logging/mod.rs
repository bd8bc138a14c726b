//! Where log lines go: standard error, in klog's text form or as JSON, as much as `-v` and `--vmodule` ask for.
//!
//! [`line`] holds what both forms are made of, [`text`] and [`json`] write them, [`levels`] decides what is written.

mod json;
mod levels;
mod line;
mod text;

use std::io::{self, Stderr, Stdout};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::Settings;

use levels::Levels;

/// Starts logging. Variable `FERROLET_LOG` holds a filter of its own (`ferrolet::pod=trace,...`) and wins over `-v`.
pub(super) fn init(settings: &Settings) {
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
    let lines = match environment {
        Some(filter) => lines.with_filter(filter).boxed(),
        None => {
            let levels = Levels::new(logging);
            let deepest = levels.deepest();
            let chosen = filter_fn(move |metadata| levels.is_on(metadata)).with_max_level_hint(deepest);
            lines.with_filter(chosen).boxed()
        }
    };
    // A second start within one process keeps the first one's logging.
    drop(tracing_subscriber::registry().with(lines).try_init());
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
