//! Answers in plain text, with the texts that clients of the peer know.

use axum::body::Body;
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use bytes::Bytes;

/// Text with its status.
pub(super) fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// JSON, found.
pub(super) fn json(body: Bytes) -> Response {
    answer(StatusCode::OK, "application/json", Body::from(body))
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Found, with nothing to say.
pub(super) fn empty() -> Response {
    Response::new(Body::empty())
}

/// The same answer, after which the connection ends.
pub(super) fn last(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// No valid credentials. The connection ends: a caller without any holds none open.
pub(super) fn unauthorized() -> Response {
    last(text(StatusCode::UNAUTHORIZED, "Unauthorized"))
}

/// No such path.
pub(super) fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// No such path below one that has several: the peer says it in other words there.
pub(super) fn no_route() -> Response {
    text(StatusCode::NOT_FOUND, "404: Page Not Found")
}

/// The path does not take the method.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The body is larger than any request needs. The connection ends, since the rest of the body is not read.
pub(super) fn too_large() -> Response {
    last(text(StatusCode::PAYLOAD_TOO_LARGE, "http: request body too large\n"))
}
