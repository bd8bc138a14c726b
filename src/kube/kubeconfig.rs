//! Reads a kubeconfig file: where the API server is, how to trust it, and where this node's credentials come from. Every
//! failure names the file and the field.

use std::path::{Path, PathBuf};

use ::kube::config::{AuthInfo, Cluster, ExecConfig, ExecInteractiveMode, Kubeconfig, KubeconfigError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Uri};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use super::client::{ClientError, FieldError};
use super::credentials::{CredentialSource, ExecPlugin, PemSource};

/// What a kubeconfig's current context says.
#[derive(Clone)]
pub(super) struct Access {
    /// The cluster as it is written.
    pub(super) cluster: Cluster,
    /// Server address, roots and server name, without credentials.
    pub(super) config: ::kube::Config,
    /// Where the credentials come from.
    pub(super) source: CredentialSource,
    /// `clusters[].cluster.proxy-url`.
    pub(super) proxy: Option<String>,
}

/// Reads the file and resolves its current context. Blocks on the file system, as it runs once at start.
pub(super) fn load(path: &Path) -> Result<Access, ClientError> {
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unreadable(path, error))?;
    resolve(path, &kubeconfig)
}

/// A parser's error may quote the lines around the fault, and those may be a private key: only place and kind are kept.
fn unreadable(path: &Path, error: KubeconfigError) -> ClientError {
    let path = path.to_owned();
    match error {
        KubeconfigError::ReadConfig(source, _) => ClientError::Read { path, source },
        KubeconfigError::Parse(error) => {
            let place =
                error.location().map(|l| format!("line {}, column {}: ", l.line(), l.column())).unwrap_or_default();
            let text = error.without_snippet().to_string();
            ClientError::Parse { path, message: format!("{place}{}", text.lines().next().unwrap_or_default()) }
        }
        other => ClientError::Parse { path, message: other.to_string() },
    }
}

fn resolve(path: &Path, kubeconfig: &Kubeconfig) -> Result<Access, ClientError> {
    let at = |field: String, reason: FieldError| ClientError::Field { path: path.to_owned(), field, reason };

    let context_name = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    let context_name = context_name.ok_or_else(|| at("current-context".into(), FieldError::Missing))?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == context_name).and_then(|c| c.context.as_ref());
    let context = context.ok_or_else(|| {
        at("current-context".into(), FieldError::NoSuchEntry { list: "contexts", name: context_name.into() })
    })?;

    let cluster = kubeconfig.clusters.iter().find(|c| c.name == context.cluster).and_then(|c| c.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| {
        let reason = FieldError::NoSuchEntry { list: "clusters", name: context.cluster.clone() };
        at(format!("contexts[{context_name}].context.cluster"), reason)
    })?;
    let cluster_field = |name: &str| format!("clusters[{}].cluster.{name}", context.cluster);

    let no_user = AuthInfo::default();
    let user_name = context.user.as_deref().unwrap_or_default();
    let user = match kubeconfig.auth_infos.iter().find(|u| u.name == user_name) {
        Some(named) => named.auth_info.as_ref().unwrap_or(&no_user),
        // The peer goes on without credentials; a name that leads nowhere is a mistake worth a word.
        None if user_name.is_empty() => &no_user,
        None => {
            let reason = FieldError::NoSuchEntry { list: "users", name: user_name.into() };
            return Err(at(format!("contexts[{context_name}].context.user"), reason));
        }
    };
    let user_field = |name: &str| format!("users[{user_name}].user.{name}");

    let server = cluster.server.as_deref().map(str::trim).filter(|s| !s.is_empty());
    let server = server.ok_or_else(|| at(cluster_field("server"), FieldError::Missing))?;
    let url = server_url(server, is_secure(cluster)).map_err(|reason| at(cluster_field("server"), reason))?;

    let mut config = ::kube::Config::new(url);
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.tls_server_name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
    config.default_namespace =
        context.namespace.clone().filter(|ns| !ns.is_empty()).unwrap_or_else(|| "default".into());
    if let Some(data) = non_empty(&cluster.certificate_authority_data) {
        let roots = decode(data).and_then(|pem| certificates(&pem));
        config.root_cert = Some(roots.map_err(|reason| at(cluster_field("certificate-authority-data"), reason))?);
    } else if let Some(file) = non_empty(&cluster.certificate_authority) {
        let roots = read(Path::new(file)).and_then(|pem| certificates(&pem));
        config.root_cert = Some(roots.map_err(|reason| at(cluster_field("certificate-authority"), reason))?);
        config.root_cert_file = Some(PathBuf::from(file));
    }
    config.headers = impersonation(user).map_err(|reason| at(user_field("as"), reason))?;

    let source = credential_source(user, cluster).map_err(|(field, reason)| at(user_field(field), reason))?;
    Ok(Access {
        cluster: cluster.clone(),
        config,
        source,
        proxy: cluster.proxy_url.clone().filter(|url| !url.is_empty()),
    })
}

/// A kubeconfig for the same cluster whose user has its certificate and its key in one file: the peer's, with its names, after
/// TLS bootstrap. How the server is reached (`proxy-url`, `tls-server-name`) is kept, which the peer forgets.
pub(super) fn for_certificate(cluster: &Cluster, file: &Path) -> String {
    // Read as JSON, which YAML readers take too, if it cannot be written as YAML: nothing in it cannot.
    let kept = |value: &Option<String>| non_empty(value).map(str::to_owned);
    let cluster = Cluster {
        server: cluster.server.clone(),
        insecure_skip_tls_verify: cluster.insecure_skip_tls_verify.filter(|insecure| *insecure),
        certificate_authority: kept(&cluster.certificate_authority),
        certificate_authority_data: kept(&cluster.certificate_authority_data),
        proxy_url: kept(&cluster.proxy_url),
        tls_server_name: kept(&cluster.tls_server_name),
        ..Cluster::default()
    };
    let value = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "contexts": [{
            "name": "default-context",
            "context": {"cluster": "default-cluster", "user": "default-auth", "namespace": "default"},
        }],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": file, "client-key": file}}],
    });
    serde_saphyr::to_string(&value).unwrap_or_else(|_| value.to_string())
}

/// client-go takes `host:port` too and chooses the scheme by whether TLS is configured.
fn server_url(server: &str, secure: bool) -> Result<Uri, FieldError> {
    let full = match server.contains("://") {
        true => server.to_owned(),
        false => format!("{}://{server}", if secure { "https" } else { "http" }),
    };
    let bad = |what: String| FieldError::Url { value: server.to_owned(), what };
    let url: Uri = full.parse().map_err(|e: http::uri::InvalidUri| bad(e.to_string()))?;
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some_and(|h| !h.is_empty()) => Ok(url),
        Some("http" | "https") => Err(bad("no host".into())),
        _ => Err(bad("the scheme must be https or http".into())),
    }
}

fn is_secure(cluster: &Cluster) -> bool {
    cluster.certificate_authority.is_some()
        || cluster.certificate_authority_data.is_some()
        || cluster.insecure_skip_tls_verify == Some(true)
}

fn credential_source(user: &AuthInfo, cluster: &Cluster) -> Result<CredentialSource, (&'static str, FieldError)> {
    if user.auth_provider.is_some() {
        let what = "auth-provider is gone from Kubernetes; use exec instead";
        return Err(("auth-provider", FieldError::Unsupported(what)));
    }
    let identity = identity_source(user)?;
    if let Some(exec) = &user.exec {
        if identity.is_some() {
            return Err(("exec", FieldError::Unsupported("exec cannot be combined with a client certificate")));
        }
        return Ok(CredentialSource::Exec(exec_plugin(exec, cluster).map_err(|reason| ("exec", reason))?));
    }
    if let Some(token) = user.token.as_ref().filter(|t| !t.expose_secret().is_empty()) {
        return Ok(CredentialSource::Static { identity, authorization: Some(("token", SecretString::clone(token))) });
    }
    if let Some(file) = non_empty(&user.token_file) {
        return Ok(CredentialSource::TokenFile { identity, file: PathBuf::from(file) });
    }
    if let (Some(name), Some(password)) = (&user.username, &user.password) {
        let pair = SecretString::from(format!("{name}:{}", password.expose_secret()));
        return Ok(CredentialSource::Static { identity, authorization: Some(("password", pair)) });
    }
    Ok(CredentialSource::Static { identity, authorization: None })
}

/// The certificate's and the key's source; data wins over a file, as in client-go.
fn identity_source(user: &AuthInfo) -> Result<Option<(PemSource, PemSource)>, (&'static str, FieldError)> {
    let certificate = match (non_empty(&user.client_certificate_data), non_empty(&user.client_certificate)) {
        (Some(data), _) => Some(PemSource::Data(decode(data).map_err(|e| ("client-certificate-data", e))?.into())),
        (None, Some(file)) => Some(PemSource::File(PathBuf::from(file))),
        (None, None) => None,
    };
    let key_data = user.client_key_data.as_ref().map(|s| s.expose_secret()).filter(|s| !s.is_empty());
    let key = match (key_data, non_empty(&user.client_key)) {
        (Some(data), _) => Some(PemSource::Data(decode(data).map_err(|e| ("client-key-data", e))?.into())),
        (None, Some(file)) => Some(PemSource::File(PathBuf::from(file))),
        (None, None) => None,
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(("client-key", FieldError::Missing)),
        (None, Some(_)) => Err(("client-certificate", FieldError::Missing)),
    }
}

/// API versions of the exec plugin protocol that are spoken.
const EXEC_VERSIONS: [&str; 2] = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

fn exec_plugin(exec: &ExecConfig, cluster: &Cluster) -> Result<ExecPlugin, FieldError> {
    let command = non_empty(&exec.command).ok_or(FieldError::ExecMissing("command"))?.to_owned();
    let api_version = non_empty(&exec.api_version).ok_or(FieldError::ExecMissing("apiVersion"))?.to_owned();
    if !EXEC_VERSIONS.contains(&api_version.as_str()) {
        return Err(FieldError::ExecVersion { found: api_version, allowed: EXEC_VERSIONS.join(" or ") });
    }
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(FieldError::Unsupported("interactiveMode Always needs a terminal, which a node agent has not"));
    }
    let pair = |entry: &std::collections::HashMap<String, String>| {
        Some((entry.get("name")?.clone(), entry.get("value").cloned().unwrap_or_default()))
    };
    let environment = exec.env.iter().flatten().filter_map(pair).collect();
    let cluster_info = match exec.provide_cluster_info {
        true => Some(cluster_info(cluster)?),
        false => None,
    };
    Ok(ExecPlugin {
        command,
        arguments: exec.args.clone().unwrap_or_default(),
        environment,
        api_version,
        cluster_info,
        install_hint: exec.install_hint.clone().unwrap_or_default(),
    })
}

/// The `spec.cluster` that a plugin gets with `provideClusterInfo`.
fn cluster_info(cluster: &Cluster) -> Result<serde_json::Value, FieldError> {
    let mut info = serde_json::Map::new();
    let mut put = |name: &str, value: Option<serde_json::Value>| {
        if let Some(value) = value {
            info.insert(name.into(), value);
        }
    };
    put("server", cluster.server.clone().map(Into::into));
    put("tls-server-name", cluster.tls_server_name.clone().map(Into::into));
    put("insecure-skip-tls-verify", cluster.insecure_skip_tls_verify.map(Into::into));
    put("proxy-url", cluster.proxy_url.clone().map(Into::into));
    let authority = match (non_empty(&cluster.certificate_authority_data), non_empty(&cluster.certificate_authority)) {
        (Some(data), _) => Some(data.to_owned()),
        (None, Some(file)) => Some(STANDARD.encode(read(Path::new(file))?)),
        (None, None) => None,
    };
    put("certificate-authority-data", authority.map(Into::into));
    let extensions = cluster.extensions.iter().flatten();
    let own = extensions.filter(|e| e.name == "client.authentication.k8s.io/exec").map(|e| e.extension.clone()).next();
    put("config", own);
    Ok(serde_json::Value::Object(info))
}

fn impersonation(user: &AuthInfo) -> Result<Vec<(HeaderName, HeaderValue)>, FieldError> {
    let mut headers = Vec::new();
    let mut add = |name: &'static str, value: &str| {
        let value = HeaderValue::from_str(value).map_err(|_| FieldError::Header)?;
        headers.push((HeaderName::from_static(name), value));
        Ok::<_, FieldError>(())
    };
    if let Some(name) = non_empty(&user.impersonate) {
        add("impersonate-user", name)?;
    }
    if let Some(uid) = non_empty(&user.impersonate_uid) {
        add("impersonate-uid", uid)?;
    }
    for group in user.impersonate_groups.iter().flatten() {
        add("impersonate-group", group)?;
    }
    Ok(headers)
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| !t.is_empty())
}

fn decode(data: &str) -> Result<Vec<u8>, FieldError> {
    // YAML folds long values: blanks and line ends inside are harmless.
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(compact).map_err(FieldError::Base64)
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, FieldError> {
    std::fs::read(file).map_err(|source| FieldError::File { file: file.to_owned(), source })
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, FieldError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let parsed = parsed.map_err(|e| FieldError::Pem(e.to_string()))?;
    if parsed.is_empty() {
        return Err(FieldError::NoCertificate);
    }
    Ok(parsed.into_iter().map(|c| c.as_ref().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    fn load_text(text: &str) -> Result<Access, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.conf");
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|e| super::super::error::chain(&e).replace(dir.path().to_str().unwrap(), "/d"))
    }

    #[test]
    fn server_and_token() {
        let access =
            load_text(&config("server: 'https://10.0.0.1:6443', insecure-skip-tls-verify: true", "token: t")).unwrap();
        assert_eq!(access.config.cluster_url.to_string(), "https://10.0.0.1:6443/");
        assert!(access.config.accept_invalid_certs);
        assert!(matches!(
            access.source,
            CredentialSource::Static { identity: None, authorization: Some(("token", _)) }
        ));
    }

    #[rstest]
    #[case("api:6443", true, "https://api:6443/")]
    #[case("localhost:8080", false, "http://localhost:8080/")]
    #[case("https://[::1]:6443/base", true, "https://[::1]:6443/base")]
    fn urls(#[case] server: &str, #[case] secure: bool, #[case] expected: &str) {
        assert_eq!(server_url(server, secure).unwrap().to_string(), expected);
    }

    #[rstest]
    #[case::no_server("", "", "kubeconfig /d/kubelet.conf: clusters[k].cluster.server: not set")]
    #[case::scheme(
        "server: 'ftp://x'",
        "",
        "kubeconfig /d/kubelet.conf: clusters[k].cluster.server: \"ftp://x\": the scheme must be https or http"
    )]
    #[case::ca_file(
        "server: 'https://x', certificate-authority: ca.crt",
        "",
        "kubeconfig /d/kubelet.conf: clusters[k].cluster.certificate-authority: /d/ca.crt: No such file or directory (os error 2)"
    )]
    #[case::ca_data(
        "server: 'https://x', certificate-authority-data: aGFsbG8=",
        "",
        "kubeconfig /d/kubelet.conf: clusters[k].cluster.certificate-authority-data: no certificate in PEM form"
    )]
    #[case::key_only(
        "server: 'https://x'",
        "client-key: k.pem",
        "kubeconfig /d/kubelet.conf: users[u].user.client-certificate: not set"
    )]
    #[case::base64(
        "server: 'https://x'",
        "client-certificate-data: '***', client-key-data: aa",
        "kubeconfig /d/kubelet.conf: users[u].user.client-certificate-data: not base64: Invalid symbol 42, offset 0."
    )]
    #[case::exec_version(
        "server: 'https://x'",
        "exec: {command: aws, apiVersion: client.authentication.k8s.io/v1alpha1}",
        "kubeconfig /d/kubelet.conf: users[u].user.exec: apiVersion \"client.authentication.k8s.io/v1alpha1\": must be \
         client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1"
    )]
    #[case::exec_command(
        "server: 'https://x'",
        "exec: {apiVersion: client.authentication.k8s.io/v1}",
        "kubeconfig /d/kubelet.conf: users[u].user.exec: command is not set"
    )]
    fn faults_name_file_and_field(#[case] cluster: &str, #[case] user: &str, #[case] expected: &str) {
        assert_eq!(load_text(&config(cluster, user)).err().unwrap(), expected);
    }

    #[test]
    fn missing_entries() {
        let text = config("server: 'https://x'", "").replace("current-context: c", "current-context: other");
        let expected = "kubeconfig /d/kubelet.conf: current-context: contexts has no entry named \"other\"";
        assert_eq!(load_text(&text).err().unwrap(), expected);
        let text = config("server: 'https://x'", "").replace("cluster: k", "cluster: z");
        let expected = "kubeconfig /d/kubelet.conf: contexts[c].context.cluster: clusters has no entry named \"z\"";
        assert_eq!(load_text(&text).err().unwrap(), expected);
    }

    #[test]
    fn a_syntax_error_does_not_quote_the_file() {
        let text = "users:\n- name: u\n  user:\n    client-key-data: SECRETKEY\n   bad: [\n";
        let shown = load_text(text).err().unwrap();
        assert!(shown.starts_with("kubeconfig /d/kubelet.conf: "), "{shown}");
        assert!(!shown.contains("SECRETKEY"), "{shown}");
    }

    #[test]
    fn what_bootstrap_writes_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let given = dir.path().join("bootstrap.conf");
        std::fs::write(
            &given,
            config("server: 'https://x:6443', insecure-skip-tls-verify: true, tls-server-name: y", "token: t"),
        )
        .unwrap();
        let written = dir.path().join("kubelet.conf");
        let text = for_certificate(&load(&given).unwrap().cluster, Path::new("/pki/kubelet-client-current.pem"));
        assert!(!text.contains("token"), "{text}");
        std::fs::write(&written, text).unwrap();
        let access = load(&written).unwrap();
        assert_eq!(access.config.cluster_url.to_string(), "https://x:6443/");
        assert_eq!(access.config.tls_server_name.as_deref(), Some("y"));
        assert!(access.config.accept_invalid_certs);
        let CredentialSource::Static { identity: Some((PemSource::File(certificate), PemSource::File(key))), .. } =
            access.source
        else {
            panic!("no file identity")
        };
        assert_eq!((certificate.as_path(), key), (Path::new("/pki/kubelet-client-current.pem"), certificate.clone()));
    }

    #[test]
    fn relative_paths_are_the_files_own() {
        let text = config("server: 'https://x'", "client-certificate: pki/c.pem, client-key: pki/c.pem");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.conf");
        std::fs::write(&path, text).unwrap();
        let Ok(Access { source: CredentialSource::Static { identity: Some((PemSource::File(file), _)), .. }, .. }) =
            load(&path)
        else {
            panic!("no file identity")
        };
        assert_eq!(file, dir.path().join("pki/c.pem"));
    }
}
