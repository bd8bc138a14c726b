//! The sources of static pods, as configured.

use std::path::Path;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::node_settings;
use super::start::{Tasks, spawn};
use crate::config::KubeletConfiguration;
use crate::kube::events::EventRecorder;
use crate::pod::source::file::FileSource;
use crate::pod::source::http::UrlSource;
use crate::pod::source::{Source, Sources};

/// Adds the sources that are configured and starts their tasks.
pub(super) fn add(
    mut sources: Sources,
    configuration: &KubeletConfiguration,
    node_name: &str,
    events: &EventRecorder,
    tasks: &mut Tasks,
    cancel: &CancellationToken,
) -> anyhow::Result<Sources> {
    if !configuration.static_pod_path.is_empty() {
        let period = node_settings::duration(configuration.file_check_frequency);
        let (source, pods) = FileSource::new(Path::new(&configuration.static_pod_path), node_name, period);
        spawn(tasks, "static pods", source.run(cancel.child_token()));
        sources = sources.with(Source::File, pods);
    }
    if !configuration.static_pod_url.is_empty() {
        let headers = configuration.static_pod_url_header.expose().iter();
        let headers = headers.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
        let period = node_settings::duration(configuration.http_check_frequency);
        let url = &configuration.static_pod_url;
        let (source, pods) = UrlSource::new(url, headers.collect(), node_name, period, events.clone())
            .context("the static pods' URL")?;
        spawn(tasks, "static pods by URL", source.run(cancel.child_token()));
        sources = sources.with(Source::Http, pods);
    }
    Ok(sources)
}
