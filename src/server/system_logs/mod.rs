//! `/logs/`: the files of the node's log directory, and with `enableSystemLogQuery` what services wrote into the journal.
//!
//! Nothing outside of the directory is shown: paths are walked beneath it, and of links that lead on with an absolute path
//! only those into the directory itself are followed.

mod files;
mod part;
mod query;
mod services;

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LAST_MODIFIED, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use rustix::io::Errno;

use self::files::{Found, Listing, Segment};
use self::part::{Part, Span};
use self::query::{LogQuery, Wanted};
use super::query::Query;
use super::{compression, text};
use crate::sys::beneath::is_errno;

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
        // The body, which nothing is in, cannot be shared between threads.
        let (request, _) = request.into_parts();
        if !self.enabled {
            return text::text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n");
        }
        if request.uri.path() == "/logs" {
            let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            let to = format!("/logs/{query}");
            let mut response = redirect(StatusCode::TEMPORARY_REDIRECT, &to);
            set(&mut response, CONTENT_TYPE, "text/html; charset=utf-8");
            let link = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", files::escaped(&to));
            *response.body_mut() = Body::from(link);
            return response;
        }
        let path = request.uri.path().strip_prefix("/logs").unwrap_or_default();
        let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned();
        if !self.query {
            return self.file(&path, &request).await;
        }
        let query = match LogQuery::of(&Query::of(&request.uri)) {
            Ok(None) => return self.file(&path, &request).await,
            Ok(Some(query)) => query,
            Err(faults) => return refused(StatusCode::BAD_REQUEST, &faults.to_string()),
        };
        if !path.is_empty() {
            return refused(StatusCode::NOT_ACCEPTABLE, "path not allowed in query mode");
        }
        match query.wanted(|file| self.has(file)) {
            Ok(Wanted::File(file)) => self.file(&file.replace('\\', "/"), &request).await,
            Ok(Wanted::Services(names)) => {
                let pieces = services::logs(self.folder.clone(), names, query);
                let mut response = if compression::is_gzip_alone(&request.headers) {
                    let body = Body::from_stream(compression::gzip_pieces(pieces));
                    compression::is_in_gzip(Response::new(body))
                } else {
                    Response::new(Body::from_stream(pieces))
                };
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
            Err(error) => Err(format!("statat {file}: {}", reason(file, &error))),
        }
    }

    async fn file(&self, path: &str, request: &Parts) -> Response {
        let (folder, wanted) = (self.folder.clone(), PathBuf::from(path.trim_matches('/')));
        let found = tokio::task::spawn_blocking(move || files::find(&folder, &wanted)).await;
        let is_directory = path.is_empty() || path.ends_with('/');
        let moved = |up: &str, slash: &str| {
            let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            redirect(StatusCode::MOVED_PERMANENTLY, &format!("{up}{}{slash}{query}", files::encoded(last)))
        };
        match found {
            Ok(Ok(Found::Directory(_))) if !is_directory => moved("", "/"),
            Ok(Ok(Found::Directory(listing))) => directory(&listing),
            Ok(Ok(Found::File(_))) if is_directory => moved("../", ""),
            Ok(Ok(Found::File(file))) => {
                let kind = if path.ends_with(".gz") { "application/gzip" } else { "text/plain; charset=utf-8" };
                content(file, kind, &request.headers)
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                text::text(StatusCode::FORBIDDEN, "403 Forbidden\n")
            }
            Ok(Err(_)) => text::not_found(),
            Err(_) => text::text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
        }
    }
}

/// Why a file cannot be shown, in the peer's words where those are known.
fn reason(file: &str, error: &std::io::Error) -> String {
    let leads_out = is_errno(error, Errno::XDEV) || file.split('/').any(|part| part == "..");
    match error.kind() {
        _ if leads_out => "path escapes from parent".to_owned(),
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

/// A file, or what of it is asked for.
fn content(file: std::fs::File, kind: &'static str, headers: &HeaderMap) -> Response {
    let Ok((size, modified)) = files::facts(&file) else {
        return text::text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n");
    };
    let part = Part::of(headers, modified, size);
    let unsatisfiable = |words| text::text(StatusCode::RANGE_NOT_SATISFIABLE, words);
    let (status, kind, range, segments) = match part {
        Part::NotModified | Part::PreconditionFailed => {
            let is_known = part == Part::NotModified;
            let mut response = Response::new(Body::empty());
            *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::PRECONDITION_FAILED };
            set(&mut response, LAST_MODIFIED, &part::http_date(modified));
            return response;
        }
        Part::Beyond => {
            let mut response = unsatisfiable("invalid range: failed to overlap\n");
            set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
            return response;
        }
        Part::Invalid => return unsatisfiable("invalid range\n"),
        Part::Whole => (StatusCode::OK, kind.to_owned(), None, vec![Segment::Of(Span { start: 0, length: size })]),
        Part::One(span) => {
            let range = Some(span.content_range(size));
            (StatusCode::PARTIAL_CONTENT, kind.to_owned(), range, vec![Segment::Of(span)])
        }
        Part::Several(spans) => {
            let boundary = format!("{:032x}", rand::random::<u128>());
            let kind_of_all = format!("multipart/byteranges; boundary={boundary}");
            (StatusCode::PARTIAL_CONTENT, kind_of_all, None, multipart(&boundary, kind, &spans, size))
        }
    };
    let length = segments.iter().map(Segment::length).sum::<u64>();
    let mut response = text::text(status, Body::from_stream(files::segments(file, segments)));
    set(&mut response, CONTENT_TYPE, &kind);
    set(&mut response, CONTENT_LENGTH, &length.to_string());
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, LAST_MODIFIED, &part::http_date(modified));
    if let Some(range) = range {
        set(&mut response, CONTENT_RANGE, &range);
    }
    response
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Spans as a message of several parts (RFC 2046, 5.1).
fn multipart(boundary: &str, kind: &str, spans: &[Span], size: u64) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut before = "";
    for span in spans {
        let range = span.content_range(size);
        let head = format!("{before}--{boundary}\r\nContent-Range: {range}\r\nContent-Type: {kind}\r\n\r\n");
        segments.extend([Segment::Words(head.into()), Segment::Of(*span)]);
        before = "\r\n";
    }
    segments.push(Segment::Words(format!("\r\n--{boundary}--\r\n").into()));
    segments
}

fn refused(status: StatusCode, words: &str) -> Response {
    text::text(status, format!("{words}\n"))
}

/// To the same path with a slash at its end.
fn redirect(status: StatusCode, to: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    set(&mut response, LOCATION, to);
    response
}

fn directory(listing: &Listing) -> Response {
    let mut response = text::text(StatusCode::OK, listing.html());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[test]
    fn what_cannot_be_shown_is_told_in_the_peers_words() {
        let folder = tempfile::tempdir().unwrap();
        let logs = SystemLogs { folder: folder.path().to_owned(), enabled: true, query: true };
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../passwd", folder.path().join("up")).unwrap();
        for (file, words) in [
            ("a/none.log", "statat a/none.log: no such file or directory"),
            ("../etc/passwd", "statat ../etc/passwd: path escapes from parent"),
            ("./out", "statat ./out: path escapes from parent"),
            ("./up", "statat ./up: path escapes from parent"),
        ] {
            assert_eq!(logs.has(file), Err(words.to_owned()), "{file}");
        }
    }

    struct Logs(tempfile::TempDir);

    impl Logs {
        fn new() -> Self {
            let logs = Logs(tempfile::tempdir().unwrap());
            std::fs::create_dir(logs.0.path().join("pods")).unwrap();
            std::fs::write(logs.0.path().join("file.log"), "0123456789").unwrap();
            logs
        }

        /// The status, the headers and the body of an answer.
        async fn get(&self, path: &str, headers: &[(HeaderName, &str)]) -> (u16, HeaderMap, String) {
            let logs = SystemLogs { folder: self.0.path().to_owned(), enabled: true, query: false };
            let mut request = Request::builder().uri(path);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let (head, body) = logs.serve(request.body(Body::empty()).unwrap()).await.into_parts();
            let body = to_bytes(body, 1 << 20).await.unwrap();
            if let Some(told) = head.headers.get(CONTENT_LENGTH) {
                assert_eq!(told.to_str().unwrap(), body.len().to_string());
            }
            (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
        }
    }

    #[tokio::test]
    async fn a_file_is_sent_whole_in_parts_or_not_again() {
        use axum::http::header::{IF_MODIFIED_SINCE, RANGE};
        let logs = Logs::new();
        let (status, headers, body) = logs.get("/logs/file.log", &[]).await;
        assert_eq!((status, body.as_str()), (200, "0123456789"));
        assert_eq!(headers[ACCEPT_RANGES], "bytes");
        assert_eq!(headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        let modified = headers[LAST_MODIFIED].to_str().unwrap().to_owned();

        let (status, headers, body) = logs.get("/logs/file.log", &[(IF_MODIFIED_SINCE, &modified)]).await;
        assert_eq!((status, body.as_str()), (304, ""));
        assert_eq!(headers[LAST_MODIFIED], modified);
        let (status, headers, body) = logs.get("/logs/file.log", &[(RANGE, "bytes=-4")]).await;
        assert_eq!((status, body.as_str()), (206, "6789"));
        assert_eq!(headers[CONTENT_RANGE], "bytes 6-9/10");
        let (status, headers, body) = logs.get("/logs/file.log", &[(RANGE, "bytes=10-")]).await;
        assert_eq!((status, body.as_str()), (416, "invalid range: failed to overlap\n"));
        assert_eq!(headers[CONTENT_RANGE], "bytes */10");

        let (status, headers, body) = logs.get("/logs/file.log", &[(RANGE, "bytes=0-1,8-")]).await;
        let kind = headers[CONTENT_TYPE].to_str().unwrap();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range: &str| {
            format!(
                "--{boundary}\r\nContent-Range: bytes {range}/10\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
            )
        };
        assert_eq!(status, 206);
        assert_eq!(body, format!("{}01\r\n{}89\r\n--{boundary}--\r\n", part("0-1"), part("8-9")));
    }

    #[tokio::test]
    async fn paths_lead_to_what_they_name() {
        let logs = Logs::new();
        for (path, leads_to) in [
            ("/logs", "/logs/"),
            ("/logs/pods", "pods/"),
            ("/logs/pods?a=b", "pods/?a=b"),
            ("/logs/file.log/", "../file.log"),
        ] {
            let (status, headers, _) = logs.get(path, &[]).await;
            assert!(status == 301 || status == 307, "{path}: {status}");
            assert_eq!(headers[LOCATION], leads_to, "{path}");
        }
        let (status, headers, body) = logs.get("/logs/", &[]).await;
        assert_eq!((status, &headers[CONTENT_TYPE]), (200, &HeaderValue::from_static("text/html; charset=utf-8")));
        assert!(body.contains("<a href=\"file.log\">file.log</a>\n<a href=\"pods/\">pods/</a>\n"), "{body}");
    }
}
