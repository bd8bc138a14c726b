//! `/statusz` and `/flagz`: what runs here and how it was started (`k8s.io/apiserver/pkg/server/statusz` and `flagz` of the
//! peer). For people as text; for programs as an object of a version that they name in `Accept`.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::header::{ACCEPT, CONTENT_TYPE, WARNING};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;

use super::text;
use crate::model::{Timestamp, release};

const GROUP: &str = "config.k8s.io";
/// What is listed as served: the peer's list knows of these alone.
const LISTED: [&str; 5] = ["configz", "debug", "flagz", "healthz", "metrics"];

/// How a page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json(&'static str),
    Yaml(&'static str),
}

/// The first form that `Accept` takes, by its weights; none if it takes no known one.
fn form(accept: &str, kind: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut ranges: Vec<(f32, Option<Form>)> = accept.split(',').map(|range| weighted(range, kind)).collect();
    ranges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    ranges.into_iter().filter(|(weight, _)| *weight > 0.0).find_map(|(_, form)| form)
}

/// A media range with its weight: the form it stands for, if there is one.
fn weighted(range: &str, kind: &str) -> (f32, Option<Form>) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
    let weight = parameters.get("q").and_then(|weight| weight.parse().ok()).unwrap_or(1.0);
    let version = match (parameters.get("as"), parameters.get("g"), parameters.get("v")) {
        (None, None, None) => None,
        (Some(&named), Some(&GROUP), Some(&"v1beta1")) if named == kind => Some("v1beta1"),
        (Some(&named), Some(&GROUP), Some(&"v1alpha1")) if named == kind => Some("v1alpha1"),
        _ => return (weight, None),
    };
    let form = match (media, version) {
        ("text/plain" | "text/*" | "*/*", None) => Some(Form::Text),
        ("application/json" | "application/*" | "*/*", Some(version)) => Some(Form::Json(version)),
        ("application/yaml", Some(version)) => Some(Form::Yaml(version)),
        _ => None,
    };
    (weight, form)
}

#[derive(Serialize)]
struct Metadata {
    name: &'static str,
}

#[derive(Serialize)]
struct Object<'a, T> {
    kind: &'a str,
    #[serde(rename = "apiVersion")]
    version: String,
    metadata: Metadata,
    #[serde(flatten)]
    content: &'a T,
}

/// The page in the form that is asked for.
fn page(headers: &HeaderMap, kind: &str, words: impl FnOnce() -> String, content: &impl Serialize) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(form) = form(accept, kind) else { return not_acceptable() };
    let (name, version) = match form {
        Form::Text => return text::text(StatusCode::OK, words()),
        Form::Json(version) => ("json", version),
        Form::Yaml(version) => ("yaml", version),
    };
    let object =
        Object { kind, version: format!("{GROUP}/{version}"), metadata: Metadata { name: "kubelet" }, content };
    let written = match form {
        Form::Yaml(_) => serde_saphyr::to_string(&object).map_err(|error| error.to_string()),
        _ => serde_json::to_string_pretty(&object).map_err(|error| error.to_string()),
    };
    let mut response = match written {
        Ok(body) => text::text(StatusCode::OK, body),
        Err(problem) => return text::text(StatusCode::INTERNAL_SERVER_ERROR, problem),
    };
    if let Ok(kind) = HeaderValue::try_from(format!("application/{name};g={GROUP};v={version};as={kind}")) {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    if version == "v1alpha1" {
        let endpoint = kind.to_lowercase();
        let warning =
            format!("299 - \"This version of the {endpoint} endpoint is deprecated. Please use a newer version.\"");
        if let Ok(warning) = HeaderValue::try_from(warning) {
            response.headers_mut().insert(WARNING, warning);
        }
    }
    response
}

fn not_acceptable() -> Response {
    const STATUS: &str = r#"{
  "kind": "Status",
  "apiVersion": "v1",
  "metadata": {},
  "status": "Failure",
  "message": "only the following media types are accepted: application/json, application/yaml, text/plain",
  "reason": "NotAcceptable",
  "code": 406
}"#;
    let mut response = text::json(STATUS.into());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

fn heading(name: &str) -> String {
    format!(
        "\nkubelet {name}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
         guarantees and is for debugging purposes only.\n"
    )
}

/// What `/statusz` tells.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    start_time: String,
    uptime_seconds: i64,
    go_version: &'static str,
    binary_version: &'static str,
    emulation_version: &'static str,
    paths: Vec<String>,
}

/// `/statusz` at `now` of an agent that was started at `started_at` and serves those paths.
pub(super) fn statusz<'a>(
    headers: &HeaderMap,
    now: Timestamp,
    started_at: Timestamp,
    paths: impl IntoIterator<Item = &'a str>,
) -> Response {
    let firsts: BTreeSet<&str> = paths.into_iter().filter_map(|path| path.split('/').nth(1)).collect();
    let status = Status {
        start_time: started_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        uptime_seconds: now.duration_since(started_at).as_secs().max(0),
        go_version: "none",
        binary_version: release::NUMBER,
        emulation_version: release::minor_release!(),
        paths: firsts.into_iter().filter(|first| LISTED.contains(first)).map(|first| format!("/{first}")).collect(),
    };
    page(headers, "Statusz", || status_text(&status, started_at, separator()), &status)
}

/// The peer picks the separator by chance, so that nobody reads the text by machine.
fn status_text(status: &Status, started_at: Timestamp, separator: &str) -> String {
    let up = status.uptime_seconds;
    let lines = [
        ("Started", started_at.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
        ("Up", format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60)),
        ("Go version", status.go_version.to_owned()),
        ("Binary version", status.binary_version.to_owned()),
        ("Emulation version", status.emulation_version.to_owned()),
        ("Paths", status.paths.join(" ")),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name}{separator} {value}\n")).collect();
    heading("statusz") + "\n" + &lines
}

/// What `/flagz` tells.
#[derive(Serialize)]
struct Flags<'a> {
    flags: &'a BTreeMap<&'static str, String>,
}

/// `/flagz`: the flags by name.
pub(super) fn flagz(headers: &HeaderMap, flags: &BTreeMap<&'static str, String>) -> Response {
    page(headers, "Flagz", || flags_text(flags, separator()), &Flags { flags })
}

fn flags_text(flags: &BTreeMap<&'static str, String>, separator: &str) -> String {
    let lines: String = flags.iter().map(|(name, value)| format!("{name}{separator}{value}\n")).collect();
    heading("flagz") + &lines
}

/// One of the separators.
fn separator() -> &'static str {
    const SEPARATORS: [&str; 4] = [":", ": ", "=", " "];
    SEPARATORS[usize::from(rand::random::<u8>()) % SEPARATORS.len()]
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    async fn answer(accept: &str) -> (u16, String, String) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
        let paths = ["/metrics/cadvisor", "/metrics", "/healthz", "/pods", "/"];
        let response = statusz(&headers, at(90_061), at(3600), paths);
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_page_tells_when_it_was_started_and_what_is_served() {
        let (status, kind, text) = answer("text/plain").await;
        assert_eq!((status, kind.as_str()), (200, "text/plain; charset=utf-8"));
        assert!(text.starts_with("\nkubelet statusz\nWarning: "), "{text}");
        for part in ["Thu Jan  1 01:00:00 UTC 1970\n", "24 hr 01 min 01 sec\n", " 1.37.2\n", " /healthz /metrics\n"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let (status, kind, json) = answer("application/json;as=Statusz;g=config.k8s.io;v=v1beta1").await;
        assert_eq!((status, kind.as_str()), (200, "application/json;g=config.k8s.io;v=v1beta1;as=Statusz"));
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!({
            "kind": "Statusz", "apiVersion": "config.k8s.io/v1beta1", "metadata": {"name": "kubelet"},
            "startTime": "1970-01-01T01:00:00Z", "uptimeSeconds": 86_461, "goVersion": "none", "binaryVersion": "1.37.2",
            "emulationVersion": "1.37", "paths": ["/healthz", "/metrics"],
        });
        assert_eq!(value, expected);
        let (_, _, yaml) = answer("application/yaml;as=Statusz;g=config.k8s.io;v=v1alpha1").await;
        assert!(
            yaml.contains("apiVersion: config.k8s.io/v1alpha1\n") && yaml.contains("uptimeSeconds: 86461"),
            "{yaml}"
        );
        let (status, kind, body) = answer("application/json").await;
        assert_eq!((status, kind.as_str()), (406, "application/json"));
        assert!(body.contains("NotAcceptable"), "{body}");
    }

    #[rstest]
    #[case("", Some(Form::Text))]
    #[case("*/*", Some(Form::Text))]
    #[case("text/html, */*;q=0.5", Some(Form::Text))]
    #[case("application/json", None)]
    #[case("application/xml", None)]
    #[case("text/plain;q=0", None)]
    #[case("application/json;as=Flagz;g=config.k8s.io;v=v1beta1", Some(Form::Json("v1beta1")))]
    #[case("application/json; v=v1alpha1; g=config.k8s.io; as=Flagz", Some(Form::Json("v1alpha1")))]
    #[case("application/json;as=Statusz;g=config.k8s.io;v=v1beta1", None)]
    #[case("application/json;as=Flagz;g=config.k8s.io;v=v2", None)]
    #[case("text/plain;q=0.1,application/yaml;as=Flagz;g=config.k8s.io;v=v1beta1", Some(Form::Yaml("v1beta1")))]
    #[case("application/json;as=Flagz;g=config.k8s.io;v=v2, text/plain", Some(Form::Text))]
    #[case(";;,,=;q=x", None)]
    fn forms(#[case] accept: &str, #[case] expected: Option<Form>) {
        assert_eq!(form(accept, "Flagz"), expected);
    }

    proptest! {
        #[test]
        fn any_accept_is_borne(accept in "[a-z/*;=,.q01 ]{0,60}") {
            // None of these letters makes an object's version.
            prop_assert!(matches!(form(&accept, "Flagz"), None | Some(Form::Text)));
        }
    }

    #[test]
    fn flags_are_listed() {
        let flags = BTreeMap::from([("v", "2".to_owned()), ("config", String::new())]);
        assert!(flags_text(&flags, "=").ends_with("only.\nconfig=\nv=2\n"));
    }
}
