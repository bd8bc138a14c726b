//! `/logs/`: the files of the node's log directory, and with `enableSystemLogQuery` what services wrote into the journal.
//!
//! Nothing outside of the directory is shown: paths are walked beneath it, and of links that lead on with an absolute path
//! only those into the directory itself are followed.

mod files;
mod query;
mod services;

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use percent_encoding::percent_decode_str;

use self::files::{Found, Listing};
use self::query::{LogQuery, Wanted};
use super::query::Query;
use super::text;

/// What is served of the node's logs.
#[derive(Clone, Debug, Default)]
pub(super) struct SystemLogs {
    /// The directory, `/var/log`.
    pub folder: PathBuf,
    /// `enableSystemLogHandler`.
    pub enabled: bool,
    /// `enableSystemLogQuery`.
    pub query: bool,
}

impl SystemLogs {
    /// `/logs/` and what is below it.
    pub(super) async fn serve(&self, request: Request) -> Response {
        if !self.enabled {
            return text::text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n");
        }
        if request.uri().path() == "/logs" {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            return redirect(StatusCode::TEMPORARY_REDIRECT, &format!("/logs/{query}"));
        }
        let path = request.uri().path().strip_prefix("/logs").unwrap_or_default();
        let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned();
        if !self.query {
            return self.file(&path).await;
        }
        let query = match LogQuery::of(&Query::of(request.uri())) {
            Ok(None) => return self.file(&path).await,
            Ok(Some(query)) => query,
            Err(faults) => return refused(StatusCode::BAD_REQUEST, &faults.to_string()),
        };
        if !path.is_empty() {
            return refused(StatusCode::NOT_ACCEPTABLE, "path not allowed in query mode");
        }
        match query.wanted(|file| self.has(file)) {
            Ok(Wanted::File(file)) => self.file(&file.replace('\\', "/")).await,
            Ok(Wanted::Services(names)) => {
                let body = services::logs(self.folder.clone(), names, query);
                let mut response = Response::new(Body::from_stream(body));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
                response
            }
            Err(faults) => refused(StatusCode::NOT_ACCEPTABLE, &faults.to_string()),
        }
    }

    /// Why a file cannot be shown; none if it can.
    fn has(&self, file: &str) -> Result<(), String> {
        match files::find(&self.folder, Path::new(file.trim_start_matches('/'))) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn file(&self, path: &str) -> Response {
        let (folder, wanted) = (self.folder.clone(), PathBuf::from(path.trim_start_matches('/')));
        let found = tokio::task::spawn_blocking(move || files::find(&folder, &wanted)).await;
        let is_directory = path.is_empty() || path.ends_with('/');
        match found {
            Ok(Ok(Found::Directory(_))) if !is_directory => {
                let last = path.rsplit('/').next().unwrap_or_default();
                redirect(StatusCode::MOVED_PERMANENTLY, &format!("{}/", files::encoded(last)))
            }
            Ok(Ok(Found::Directory(listing))) => directory(&listing),
            Ok(Ok(Found::File(_))) if is_directory => text::not_found(),
            Ok(Ok(Found::File(file))) => {
                let kind = if path.ends_with(".gz") { "application/gzip" } else { "text/plain; charset=utf-8" };
                let mut response = text::text(StatusCode::OK, Body::from_stream(files::pieces(file)));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                text::text(StatusCode::FORBIDDEN, "403 Forbidden\n")
            }
            Ok(Err(_)) => text::not_found(),
            Err(_) => text::text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
        }
    }
}

fn refused(status: StatusCode, words: &str) -> Response {
    text::text(status, format!("{words}\n"))
}

/// To the same path with a slash at its end.
fn redirect(status: StatusCode, to: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if let Ok(to) = HeaderValue::try_from(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

fn directory(listing: &Listing) -> Response {
    let mut response = text::text(StatusCode::OK, listing.html());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}
