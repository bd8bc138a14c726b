//! What the agent shows of itself and lets be changed: its flags, the verbosity of its log, its command line, and figures that
//! are only known when someone asks.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;

use super::query::unsigned;
use super::text;
use crate::metrics::Exposition;

/// What profiling is answered with: the peer's profiles are those of the Go runtime.
const NO_PROFILES: &str = "there are no Go profiles of this program; process_cpu_seconds_total and \
    process_resident_memory_bytes of /metrics tell what it uses\n";

/// Writes families.
pub type WriteFamilies = Arc<dyn Fn(&mut Exposition) + Send + Sync>;

/// What is shown and may be changed. The default shows nothing.
#[derive(Clone, Default)]
pub struct Introspection {
    /// The flags by name, with their values as text.
    pub flags: Arc<BTreeMap<&'static str, String>>,
    /// Sets how much is logged, as `-v` would; none if that is not for callers to say.
    pub set_verbosity: Option<Arc<dyn Fn(u32) + Send + Sync>>,
    /// Writes the families of `/metrics/probes`; none if nothing probes. Must not wait.
    pub probes: Option<WriteFamilies>,
    /// Brings those of the agent's families up to date that depend on the time of the question. Must not wait.
    pub refresh: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Introspection {
    /// `/debug/flags/v`: PUT of a number sets the verbosity of the log.
    pub(super) async fn verbosity(&self, request: Request) -> Response {
        if request.method() != Method::PUT {
            return plain(StatusCode::NOT_ACCEPTABLE, "unsupported http method\n");
        }
        let Ok(body) = request.into_body().collect().await else { return text::too_large() };
        let body = body.to_bytes();
        let value = String::from_utf8_lossy(&body);
        match (verbosity(&value), &self.set_verbosity) {
            (Ok(level), Some(set)) => {
                set(level);
                plain(StatusCode::OK, format!("successfully set klog.logging.verbosity to {level}\n"))
            }
            (Ok(_), None) => plain(StatusCode::CONFLICT, "the log has a filter of its own, which FERROLET_LOG holds\n"),
            (Err(problem), _) => plain(StatusCode::BAD_REQUEST, format!("{problem}\n")),
        }
    }
}

/// A verbosity.
fn verbosity(value: &str) -> Result<u32, String> {
    unsigned(value, i32::MAX.unsigned_abs())
}

/// What is below `/debug/pprof/`: the command line alone.
pub(super) fn profile(path: &str) -> Response {
    match path.strip_prefix("/debug/pprof/") {
        Some("cmdline") => {
            let arguments: Vec<Vec<u8>> = std::env::args_os().map(|part| part.as_bytes().to_vec()).collect();
            text::text(StatusCode::OK, arguments.join(&0))
        }
        _ => text::text(StatusCode::NOT_FOUND, NO_PROFILES),
    }
}

fn plain(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = text::text(status, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Ok(0))]
    #[case("10", Ok(10))]
    #[case("2147483647", Ok(2_147_483_647))]
    #[case("2147483648", Err("strconv.ParseUint: parsing \"2147483648\": value out of range"))]
    #[case("99999999999999999999", Err("strconv.ParseUint: parsing \"99999999999999999999\": value out of range"))]
    #[case("", Err("strconv.ParseUint: parsing \"\": invalid syntax"))]
    #[case("x", Err("strconv.ParseUint: parsing \"x\": invalid syntax"))]
    #[case("-1", Err("strconv.ParseUint: parsing \"-1\": invalid syntax"))]
    #[case("+1", Err("strconv.ParseUint: parsing \"+1\": invalid syntax"))]
    #[case("1\n", Err("strconv.ParseUint: parsing \"1\\n\": invalid syntax"))]
    fn a_verbosity_is_a_plain_number(#[case] value: &str, #[case] expected: Result<u32, &str>) {
        assert_eq!(verbosity(value), expected.map_err(str::to_owned));
    }
}
