//! Registry credentials in docker's configuration formats, and which of them go with an image. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::runtime::cri;

/// Key under which Docker Hub's credentials stand, from `https://index.docker.io/v1/`.
const DOCKER_HUB_KEY: &str = "index.docker.io";

/// Where a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A configuration file of the node: all its pods may use it.
    Node,
    /// A pull secret of the pod.
    Secret {
        /// Namespace of the secret.
        namespace: String,
        /// Name of the secret.
        name: String,
        /// UID of the secret.
        uid: String,
    },
}

/// A user name and password for a registry. `Debug` shows neither.
#[derive(Clone)]
pub struct Credential {
    username: SecretString,
    password: SecretString,
    email: String,
    /// Where it comes from.
    pub source: CredentialSource,
}

/// A configuration that cannot be read. The text never holds a part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not the JSON that it should be.
    #[error("not a docker configuration: invalid JSON at line {line} column {column}")]
    Json {
        /// Line of the error.
        line: usize,
        /// Column of the error.
        column: usize,
    },
    /// An `auth` field that is not base64 of `username:password`.
    #[error("the auth field of {registry:?} is not base64(username:password)")]
    Auth {
        /// The registry.
        registry: String,
    },
}

/// Credentials by registry, with docker's rules for which go with an image.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    by_key: BTreeMap<String, Vec<Arc<Credential>>>,
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    auth: Option<String>,
}

impl Credential {
    /// A credential.
    pub fn new(username: &str, password: &str, source: CredentialSource) -> Self {
        Credential { username: username.into(), password: password.into(), email: String::new(), source }
    }

    /// As the runtime takes it. Must not be logged.
    pub fn to_auth_config(&self) -> cri::AuthConfig {
        cri::AuthConfig {
            username: self.username.expose_secret().to_owned(),
            password: self.password.expose_secret().to_owned(),
            ..Default::default()
        }
    }

    /// Tells credentials apart without telling them: SHA-256 over their JSON as the peer forms it, in hexadecimal, so that
    /// its records of pulled images can be compared with.
    pub fn hash(&self) -> String {
        let fields = [
            ("username", self.username.expose_secret()),
            ("password", self.password.expose_secret()),
            ("email", &self.email),
        ];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        let fields: Vec<String> = fields.map(|(key, value)| format!("\"{key}\":{}", go_json(value))).collect();
        sha256_hex(&format!("{{{}}}", fields.join(",")))
    }
}

/// SHA-256 of a text, in hexadecimal.
pub(super) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A string as Go writes it in JSON.
fn go_json(value: &str) -> String {
    let text = serde_json::Value::from(value).to_string();
    let text = text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Adds a configuration in the format of `config.json` and `.dockerconfigjson` (`{"auths": {...}}`).
    ///
    /// # Errors
    /// What makes it unusable; nothing is added then.
    pub fn add_config_json(&mut self, json: &[u8], source: &CredentialSource) -> Result<(), CredentialError> {
        let config: ConfigJson = serde_json::from_slice(json).map_err(|e| json_error(&e))?;
        self.add(config.auths.unwrap_or_default(), source)
    }

    /// Adds a configuration in the old format of `.dockercfg` (registries at the top).
    ///
    /// # Errors
    /// What makes it unusable; nothing is added then.
    pub fn add_dockercfg(&mut self, json: &[u8], source: &CredentialSource) -> Result<(), CredentialError> {
        let config: Option<BTreeMap<String, Entry>> = serde_json::from_slice(json).map_err(|e| json_error(&e))?;
        self.add(config.unwrap_or_default(), source)
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>, source: &CredentialSource) -> Result<(), CredentialError> {
        let mut read = Vec::new();
        for (registry, entry) in entries {
            let credential = entry.credential(&registry, source)?;
            match key_of(&registry) {
                Some(key) => read.push((key, Arc::new(credential))),
                None => tracing::warn!(registry, "ignoring credentials for what is no registry"),
            }
        }
        for (key, credential) in read {
            self.by_key.entry(key).or_default().push(credential);
        }
        Ok(())
    }

    /// The credentials for a repository (`docker.io/library/busybox`), the most specific first.
    pub fn lookup(&self, repository: &str) -> Vec<Arc<Credential>> {
        // In reverse order the longer of two keys that match comes first.
        let matching = self.by_key.iter().rev().filter(|(key, _)| matches(key, repository));
        let found: Vec<_> = matching.flat_map(|(_, credentials)| credentials.iter().cloned()).collect();
        if found.is_empty() && is_on_docker_hub(repository) {
            return self.by_key.get(DOCKER_HUB_KEY).cloned().unwrap_or_default();
        }
        found
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

impl Entry {
    fn credential(self, registry: &str, source: &CredentialSource) -> Result<Credential, CredentialError> {
        let mut credential = Credential::new(
            self.username.as_deref().unwrap_or_default(),
            self.password.as_deref().unwrap_or_default(),
            source.clone(),
        );
        credential.email = self.email.unwrap_or_default();
        if let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) {
            let wrong = || CredentialError::Auth { registry: registry.to_owned() };
            let auth = auth.replace(['\r', '\n'], "");
            let padded = auth.trim().ends_with('=');
            let decoded = if padded { STANDARD.decode(&auth) } else { STANDARD_NO_PAD.decode(&auth) };
            let decoded = String::from_utf8(decoded.map_err(|_| wrong())?).map_err(|_| wrong())?;
            let (username, password) = decoded.split_once(':').ok_or_else(wrong)?;
            (credential.username, credential.password) = (username.into(), password.into());
        }
        Ok(credential)
    }
}

/// Line and column only: serde's own text may hold the value that was wrong.
fn json_error(error: &serde_json::Error) -> CredentialError {
    CredentialError::Json { line: error.line(), column: error.column() }
}

/// Host, port and path of a registry's entry, without scheme and API version.
fn key_of(registry: &str) -> Option<String> {
    let bare = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let bare = bare.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = match bare.find('/') {
        Some(slash) => bare.split_at(slash),
        None => (bare, ""),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '\\' | '^' | '"' | '<' | '>' | '%')) {
        return None;
    }
    let path = match path.get(..4) {
        Some("/v1/" | "/v2/") => &path[3..],
        _ => path,
    };
    Some(if path == "/" { host.to_owned() } else { format!("{host}{path}") })
}

/// Whether a key, which may have `*` in parts of its host, goes with a repository: same port, same number of host parts, each
/// matching, and its path the start of the repository's.
fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| -> (String, String, String) {
        let (authority, path) = text.find('/').map_or((text, ""), |slash| text.split_at(slash));
        let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if is_port(port) => (host, port),
            _ => (authority, ""),
        };
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let (key, repository) = (split(key), split(repository));
    if key.1 != repository.1 || !repository.2.starts_with(&key.2) {
        return false;
    }
    let (globs, parts): (Vec<_>, Vec<_>) = (key.0.split('.').collect(), repository.0.split('.').collect());
    globs.len() == parts.len() && globs.iter().zip(parts).all(|(glob, part)| glob_matches(glob, part))
}

/// `*` stands for any run of characters.
fn glob_matches(glob: &str, text: &str) -> bool {
    let Some((start, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

fn is_on_docker_hub(repository: &str) -> bool {
    match repository.split_once('/') {
        Some((first, _)) => {
            !first.is_empty() && (matches!(first, "docker.io" | "index.docker.io") || !first.contains(['.', ':']))
        }
        None => !repository.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn keyring(registries: &[&str]) -> Keyring {
        let auths: BTreeMap<_, _> = registries
            .iter()
            .map(|registry| (*registry, serde_json::json!({"username": registry, "password": "p"})))
            .collect();
        let mut keyring = Keyring::default();
        let json = serde_json::to_vec(&serde_json::json!({ "auths": auths })).unwrap();
        keyring.add_config_json(&json, &CredentialSource::Node).unwrap();
        keyring
    }

    fn users(keyring: &Keyring, repository: &str) -> Vec<String> {
        keyring.lookup(repository).iter().map(|c| c.to_auth_config().username).collect()
    }

    #[rstest]
    #[case::host("gcr.io", "gcr.io/project/image", true)]
    #[case::other_host("gcr.io", "quay.io/project/image", false)]
    #[case::scheme("https://gcr.io", "gcr.io/project/image", true)]
    #[case::plain_scheme("http://gcr.io", "gcr.io/project/image", true)]
    #[case::api_v1("https://gcr.io/v1/", "gcr.io/project/image", true)]
    #[case::api_v2("https://gcr.io/v2/", "gcr.io/project/image", true)]
    #[case::path("gcr.io/project", "gcr.io/project/image", true)]
    #[case::api_path("gcr.io/v2/project", "gcr.io/project/image", true)]
    #[case::other_path("gcr.io/other", "gcr.io/project/image", false)]
    #[case::path_is_text("gcr.io/pro", "gcr.io/project/image", true)]
    #[case::port("gcr.io:5000", "gcr.io:5000/image", true)]
    #[case::no_port("gcr.io", "gcr.io:5000/image", false)]
    #[case::other_port("gcr.io:5001", "gcr.io:5000/image", false)]
    #[case::glob("*.gcr.io", "eu.gcr.io/image", true)]
    #[case::glob_is_one_part("*.gcr.io", "a.eu.gcr.io/image", false)]
    #[case::glob_needs_a_part("*.gcr.io", "gcr.io/image", false)]
    #[case::glob_inside("pre*fix.gcr.io", "pre-and-fix.gcr.io/image", true)]
    #[case::globs("*.*.io", "eu.gcr.io/image", true)]
    #[case::glob_path("*.gcr.io/team", "eu.gcr.io/team/x", true)]
    #[case::hub("https://index.docker.io/v1/", "docker.io/library/busybox", true)]
    #[case::hub_by_name("docker.io", "docker.io/library/busybox", true)]
    #[case::hub_is_not_all("https://index.docker.io/v1/", "quay.io/a/b", false)]
    fn matching(#[case] registry: &str, #[case] repository: &str, #[case] matched: bool) {
        assert_eq!(!keyring(&[registry]).lookup(repository).is_empty(), matched);
    }

    #[test]
    fn the_most_specific_comes_first() {
        let keyring = keyring(&["gcr.io", "gcr.io/team/app", "gcr.io/team", "*.io", "quay.io"]);
        assert_eq!(users(&keyring, "gcr.io/team/app"), ["gcr.io/team/app", "gcr.io/team", "gcr.io", "*.io"]);
        assert_eq!(users(&keyring, "gcr.io/other"), ["gcr.io", "*.io"]);
    }

    #[test]
    fn hub_credentials_are_the_last_resort() {
        let keyring = keyring(&["docker.io/team", "https://index.docker.io/v1/"]);
        assert_eq!(users(&keyring, "docker.io/team/app"), ["docker.io/team"]);
        assert_eq!(users(&keyring, "docker.io/library/a"), ["https://index.docker.io/v1/"]);
    }

    #[rstest]
    #[case::padded("dXNlcjpwYXNzd29yZA==", Some(("user", "password")))]
    #[case::unpadded("dXNlcjpwYXNzd29yZA", Some(("user", "password")))]
    #[case::colons("dXNlcjpwOmE6cw==", Some(("user", "p:a:s")))]
    #[case::no_colon("dXNlcg==", None)]
    #[case::not_base64("!!!", None)]
    fn auth_fields(#[case] auth: &str, #[case] expected: Option<(&str, &str)>) {
        let json = format!(r#"{{"reg.io": {{"username": "x", "password": "y", "auth": "{auth}"}}}}"#);
        let mut keyring = Keyring::default();
        let added = keyring.add_dockercfg(json.as_bytes(), &CredentialSource::Node);
        match expected {
            Some((username, password)) => {
                added.unwrap();
                let auth = keyring.lookup("reg.io/a")[0].to_auth_config();
                assert_eq!((auth.username.as_str(), auth.password.as_str()), (username, password));
            }
            None => {
                assert_eq!(added, Err(CredentialError::Auth { registry: "reg.io".to_owned() }));
                assert!(keyring.is_empty());
            }
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let mut keyring = Keyring::default();
        let json = br#"{"auths": {"reg.io": "hunter2"}}"#;
        let error = keyring.add_config_json(json, &CredentialSource::Node).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let credential = Credential::new("joe", "hunter2", CredentialSource::Node);
        assert_eq!(format!("{credential:?}"), "Credential { source: Node, .. }");
    }

    #[test]
    fn empty_configurations() {
        let mut keyring = Keyring::default();
        for json in ["{}", r#"{"auths": null}"#, r#"{"auths": {}, "credsStore": "x"}"#] {
            keyring.add_config_json(json.as_bytes(), &CredentialSource::Node).unwrap();
        }
        keyring.add_dockercfg(b"null", &CredentialSource::Node).unwrap();
        assert!(keyring.is_empty() && keyring.lookup("reg.io/a").is_empty());
    }

    #[test]
    fn the_hash_is_the_peers() {
        // echo -n '{"username":"user","password":"p\u0026ss"}' | sha256sum
        let credential = Credential::new("user", "p&ss", CredentialSource::Node);
        assert_eq!(credential.hash(), "238e9d20e4fb084568d4531dfa5950b8796754c94127cb6d658bd2732bfb92a9");
    }
}
