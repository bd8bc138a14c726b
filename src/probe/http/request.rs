//! What a probe's HTTP request asks for. Pure.

use std::fmt::{self, Write as _};

use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING, USER_AGENT as USER_AGENT_HEADER,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};

use super::HttpGet;
use crate::model::release::minor_release;
use crate::probe::attempt::port;
use crate::probe::tcp::authority;

/// How probes call themselves: the peer's name and version.
pub(in crate::probe) const USER_AGENT: &str = concat!("kube-probe/", minor_release!());

/// Characters of a path that Go leaves as they are, letters and digits apart.
const PATH_CHARACTERS: &str = "-_.~$&+,/:;=@!'()*";

/// A request of a probe.
#[derive(Clone, Debug)]
pub(in crate::probe) struct Request {
    /// What is asked for.
    pub url: Url,
    /// All headers but Host.
    pub headers: HeaderMap,
    /// The Host header that the probe gives.
    pub host: Option<HeaderValue>,
    /// In plain text HTTP/2 is spoken, without asking whether the server knows it.
    pub plain_http2: bool,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::probe) struct Url {
    /// Whether by TLS.
    pub https: bool,
    /// A name or an address, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path and what follows it, as sent.
    pub target: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", authority(&self.host, self.port), self.target)
    }
}

impl Request {
    /// The request of an action; `ip` is asked where the action names no host.
    ///
    /// # Errors
    /// The reason in the peer's words, if the port or a header cannot be used.
    pub(in crate::probe) fn of(action: &HTTPGetAction, container: &Container, ip: &str) -> Result<Self, String> {
        let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip).to_owned();
        let port = port(&action.port, container)?;
        let url = Url { https, host, port, target: target(action.path.as_deref().unwrap_or_default()) };
        let headers = action.http_headers.iter().flatten();
        Request::new(url, headers.map(|header| (header.name.as_str(), header.value.as_str())), USER_AGENT)
    }

    /// The request of a lifecycle hook.
    ///
    /// # Errors
    /// The reason in the peer's words, if a header cannot be used.
    pub(super) fn of_get(get: &HttpGet<'_>) -> Result<Self, String> {
        let url = Url { https: get.https, host: get.host.to_owned(), port: get.port, target: target(get.path) };
        let headers = get.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Request::new(url, headers, get.agent)
    }

    fn new<'h>(url: Url, given: impl Iterator<Item = (&'h str, &'h str)>, agent: &'static str) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let unusable = || format!("net/http: invalid header field name {name:?}");
            let header = HeaderName::try_from(name).map_err(|_| unusable())?;
            let value = HeaderValue::from_str(value.trim_matches([' ', '\t']));
            headers.append(header, value.map_err(|_| format!("net/http: invalid header field value for {name:?}"))?);
        }
        let host = headers.remove(HOST).filter(|value| !value.is_empty());
        // The framing is not the user's.
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER] {
            headers.remove(name);
        }
        default_unless_empty(&mut headers, USER_AGENT_HEADER, agent);
        default_unless_empty(&mut headers, ACCEPT, "*/*");
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(Request { url, headers, host, plain_http2: false })
    }
}

/// An absent header gets the default, an empty one is not sent at all.
fn default_unless_empty(headers: &mut HeaderMap, name: HeaderName, default: &'static str) {
    match headers.get(&name) {
        None => {
            headers.insert(name, HeaderValue::from_static(default));
        }
        Some(value) if value.is_empty() => {
            headers.remove(name);
        }
        Some(_) => {}
    }
}

impl Url {
    /// The URL that a Location header means, seen from this one; none for a scheme that is not HTTP and for nonsense.
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        let lower = location.to_ascii_lowercase();
        let (https, rest) = if let Some(rest) = lower.strip_prefix("http://") {
            (false, &location[location.len() - rest.len()..])
        } else if let Some(rest) = lower.strip_prefix("https://") {
            (true, &location[location.len() - rest.len()..])
        } else if let Some(rest) = location.strip_prefix("//") {
            (self.https, rest)
        } else {
            return self.join_path(location);
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let (host, port) = split_authority(authority, if https { 443 } else { 80 })?;
        Some(Url { https, host, port, target: target(path) })
    }

    fn join_path(&self, location: &str) -> Option<Url> {
        let before_path = location.find([':', '/', '?', '#']).filter(|at| location[*at..].starts_with(':'));
        if before_path.is_some_and(|at| at > 0) {
            // Another scheme.
            return None;
        }
        let own_path = self.target.split('?').next().unwrap_or_default();
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{own_path}{location}")
        } else {
            let folder = own_path.rfind('/').map_or("", |at| &own_path[..at]);
            format!("{folder}/{location}")
        };
        let (path, query) = path.split_once('?').map_or((path.as_str(), None), |(path, query)| (path, Some(query)));
        let mut joined = without_dots(path);
        if let Some(query) = query {
            joined.push('?');
            joined.push_str(query);
        }
        Some(Url { target: target(&joined), ..self.clone() })
    }
}

fn split_authority(authority: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, rest)| (host, rest.strip_prefix(':').unwrap_or_default()))?,
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = if port.is_empty() { default_port } else { port.parse().ok()? };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// A path with its `.` and `..` parts resolved (RFC 3986, 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        match *part {
            ".." => {
                kept.pop();
            }
            "." => {}
            part => kept.push(part),
        }
        if is_last && matches!(*part, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

/// What is sent for a probe's path: with a leading slash, its query kept, no fragment, and every character escaped that
/// must be. Where escapes in it are broken, the whole text is a path, as with the peer.
fn target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(scheme, rest)| {
        // A whole URL: its host does not count, its path does.
        let is_scheme = !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric());
        if is_scheme { rest.find(['/', '?']).map_or("", |at| &rest[at..]) } else { path }
    });
    let (plain, query) = match path.split_once('?') {
        Some((plain, query)) if has_valid_escapes(plain) => (plain, Some(query)),
        _ => (path, None),
    };
    let mut sent = String::with_capacity(path.len() + 1);
    if !plain.starts_with('/') {
        sent.push('/');
    }
    let keep_escapes = has_valid_escapes(plain);
    for byte in plain.bytes() {
        let kept = byte.is_ascii_alphanumeric()
            || PATH_CHARACTERS.as_bytes().contains(&byte)
            || (keep_escapes && matches!(byte, b'%' | b'[' | b']'));
        push(&mut sent, byte, kept);
    }
    if let Some(query) = query {
        sent.push('?');
        query.bytes().for_each(|byte| push(&mut sent, byte, byte.is_ascii_graphic()));
    }
    sent
}

fn push(text: &mut String, byte: u8, kept: bool) {
    if kept {
        text.push(char::from(byte));
    } else {
        // Writing to a String cannot fail.
        let _ = write!(text, "%{byte:02X}");
    }
}

fn has_valid_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut digits = after.bytes().take(2);
        digits.len() == 2 && digits.all(|digit| digit.is_ascii_hexdigit())
    })
}
