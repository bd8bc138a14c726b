//! `/containerLogs`: a container's log out of the files that the runtime writes.
//!
//! What is asked for ([`options`]), whose log it is ([`source`]) and what of the file's bytes is sent ([`lines`],
//! [`moment`]) is decided purely; [`mod@file`] and [`follow`] read.

mod file;
mod follow;
mod lines;
mod moment;
mod options;
mod source;

use std::path::Path;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use self::file::{LogReader, Place};
use self::follow::{Followed, Sending};
use self::options::{LogOptions, OptionsError, Stream};
use super::connection::Connection;
use super::query::Query;
use super::streaming::{Containers, Named};
use super::text;
use crate::model::pod::{self, PodKey};
use crate::model::{Timestamp, clock};
use crate::runtime::translate::pod_log_directory;

/// A refusal: its status and words.
struct Refusal(StatusCode, String);

fn bad_request(words: impl ToString) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, words.to_string())
}

impl From<OptionsError> for Refusal {
    fn from(error: OptionsError) -> Self {
        let status = match error {
            OptionsError::Undecodable => StatusCode::BAD_REQUEST,
            OptionsError::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Refusal(status, error.to_string())
    }
}

impl Containers {
    /// `/containerLogs`.
    pub(super) async fn logs(&self, request: Request) -> Response {
        let connection = request.extensions().get::<Connection>().cloned();
        match self.open_log(request.uri(), clock::now()).await {
            Ok(sending) => {
                // A person may stop reading for as long as they like.
                if let Some(connection) = connection {
                    connection.be_patient(self.idle);
                }
                text::text(StatusCode::OK, Body::from_stream(sending.pieces()))
            }
            Err(Refusal(status, words)) => text::text(status, words),
        }
    }

    async fn open_log(&self, uri: &Uri, now: Timestamp) -> Result<Sending, Refusal> {
        let options = LogOptions::of(&Query::of(uri))?;
        let not_found = |words| Refusal(StatusCode::NOT_FOUND, words);
        let Some(Named { namespace, pod: name, container, .. }) = Named::container(uri.path()) else {
            return Err(not_found("404 page not found\n".to_owned()));
        };
        let pod = self.pods.find(&namespace, &name, None);
        let pod = pod.ok_or_else(|| not_found(format!("pod {name:?} does not exist")))?;
        if pod::container_by_name(pod::spec(&pod), &container).is_none() {
            return Err(not_found(format!("container {container:?} not found in pod {name:?}")));
        }
        if !self.logs.split_streams
            && let Some(stream @ (Stream::Stdout | Stream::Stderr)) = &options.stream
        {
            let words = format!("unable to return the given log stream: \"{stream:?}\"");
            return Err(bad_request(format!(
                "{words}. Please enable PodLogsQuerySplitStreams feature gate in kubelet"
            )));
        }
        let full_id = source::container_id(pod.status.as_ref(), &name, &container, options.previous);
        let full_id = full_id.map_err(bad_request)?;
        let id = full_id.split_once("://").map_or(full_id, |(_, id)| id).to_owned();
        let unknown = |_| bad_request(format!("unable to retrieve container logs for {full_id}"));
        let status = self.runtime.container_status(&id).await.map_err(unknown)?;
        let root = pod_log_directory(&self.logs.root, &PodKey::of(&pod));
        let followed = options.follow.then(|| Followed {
            runtime: self.runtime.clone(),
            container_id: id,
            events: self.logs.events.clone(),
        });
        let opened = tokio::task::spawn_blocking(move || {
            let place = Place::new(Path::new(&root), Path::new(&status.log_path))?;
            LogReader::open(place, options.tail_lines, options.selection(now))
        });
        let reader = opened.await.map_err(bad_request)?.map_err(bad_request)?;
        Ok(Sending::new(reader, followed))
    }
}
