//! Content of the volumes that show API objects: config maps, secrets, downward API, tokens. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::objects::{ObjectFailure, ServiceAccountToken, TokenRequest};
use super::payload::{FileProjection, PathError, Payload};
use super::references::{add_once, token_request};
use crate::model::Timestamp;
use crate::model::field_ref::{self, FieldError};
use crate::model::pod::{ephemeral_as_container, init_and_regular_containers, spec};

/// Mode of files where the volume says none (the API's default).
const DEFAULT_MODE: i32 = 0o644;
/// Mode of credentials that only their owner, or the pod's group, may read.
const PRIVATE_MODE: u32 = 0o600;

/// Why a volume's content cannot be put together. The texts are what users see in the FailedMount event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The object could not be had.
    #[error("{0}")]
    Object(ObjectFailure),
    /// An item names a key that the secret has not.
    #[error("references non-existent secret key: {key}")]
    SecretKey {
        /// The key.
        key: String,
    },
    /// An item names a key that the config map has not.
    #[error("configmap references non-existent config key: {key}")]
    ConfigMapKey {
        /// The key.
        key: String,
    },
    /// A downward API reference has no value.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// A path that may not be shown.
    #[error("{0}")]
    Path(#[from] PathError),
    /// A kind of projection that this agent cannot do.
    #[error("{projection} projection is not supported yet")]
    Unsupported {
        /// The field in the projection's source.
        projection: &'static str,
    },
    /// Several of the above; each text once.
    #[error("{}", aggregate(.0))]
    Several(Vec<ContentError>),
}

/// Objects by name, as they were had for one pod's volumes; missing ones with the reason.
#[derive(Default)]
pub struct ResolvedObjects {
    /// Config maps by name.
    pub config_maps: BTreeMap<String, Result<Arc<ConfigMap>, ObjectFailure>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Result<Arc<Secret>, ObjectFailure>>,
    /// Tokens by what was asked for. One that is absent was not asked for: its file is left out.
    pub tokens: BTreeMap<TokenRequest, Result<ServiceAccountToken, ObjectFailure>>,
}

/// A volume's files, and when tokens among them must be replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The files.
    pub payload: Payload,
    /// The earliest time at which a token is to be replaced.
    pub refresh_at: Option<Timestamp>,
}

type Files = Vec<(String, FileProjection)>;

/// Everything that content is made from.
pub struct ContentInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The objects.
    pub objects: &'a ResolvedObjects,
    /// What the node can give to pods, for limits that are not set.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// `true` only if set to it.
fn is_set(flag: Option<bool>) -> bool {
    flag == Some(true)
}

fn permission_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

fn mode_or_default(mode: Option<i32>) -> u32 {
    permission_bits(mode.unwrap_or(DEFAULT_MODE))
}

impl ContentInput<'_> {
    /// Content of a `secret` volume.
    ///
    /// # Errors
    /// When the secret or a key is missing and not optional, or a path is bad.
    pub fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Content, ContentError> {
        Ok(Content {
            payload: Payload::new(self.secret_files(name, items, default_mode, optional)?)?,
            refresh_at: None,
        })
    }

    /// Content of a `configMap` volume.
    ///
    /// # Errors
    /// When the config map or a key is missing and not optional, or a path is bad.
    pub fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Content, ContentError> {
        let files = self.config_map_files(name, items, default_mode, optional)?;
        Ok(Content { payload: Payload::new(files)?, refresh_at: None })
    }

    /// Content of a `downwardAPI` volume.
    ///
    /// # Errors
    /// When a reference has no value, or a path is bad.
    pub fn downward_api(
        &self,
        items: &[DownwardAPIVolumeFile],
        default_mode: Option<i32>,
    ) -> Result<Content, ContentError> {
        Ok(Content { payload: Payload::new(self.downward_api_files(items, default_mode)?)?, refresh_at: None })
    }

    /// Content of a `projected` volume. Of two sources with the same path the later one wins.
    ///
    /// # Errors
    /// All that is wrong with any source.
    pub fn projected(&self, volume: &ProjectedVolumeSource) -> Result<Content, ContentError> {
        let (mut files, mut errors, mut refresh_at) = (Files::new(), Vec::new(), None);
        for source in volume.sources.iter().flatten() {
            match self.source_files(source, volume.default_mode, &mut refresh_at) {
                Ok(more) => files.extend(more),
                Err(error) => errors.push(error),
            }
        }
        if let Some(error) = one_of(errors) {
            return Err(error);
        }
        Ok(Content { payload: Payload::new(files)?, refresh_at })
    }

    fn source_files(
        &self,
        source: &VolumeProjection,
        default_mode: Option<i32>,
        refresh_at: &mut Option<Timestamp>,
    ) -> Result<Files, ContentError> {
        if let Some(secret) = &source.secret {
            return self.secret_files(&secret.name, secret.items.as_deref(), default_mode, secret.optional);
        }
        if let Some(config_map) = &source.config_map {
            let items = config_map.items.as_deref();
            return self.config_map_files(&config_map.name, items, default_mode, config_map.optional);
        }
        if let Some(downward) = &source.downward_api {
            return self.downward_api_files(downward.items.as_deref().unwrap_or_default(), default_mode);
        }
        if let Some(projection) = &source.service_account_token {
            let Some(token) = self.objects.tokens.get(&token_request(self.pod, projection)) else {
                return Ok(Files::new());
            };
            let token = token.as_ref().map_err(|failure| ContentError::Object(failure.clone()))?;
            *refresh_at = Some(refresh_at.map_or(token.refresh_at, |at| at.min(token.refresh_at)));
            let file = self.credential(token.token.clone().into_bytes(), default_mode);
            return Ok(vec![(projection.path.clone(), file)]);
        }
        let unsupported = |projection| Err(ContentError::Unsupported { projection });
        if source.cluster_trust_bundle.is_some() {
            return unsupported("clusterTrustBundle");
        }
        if source.pod_certificate.is_some() {
            return unsupported("podCertificate");
        }
        Ok(Files::new())
    }

    fn secret_files(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Files, ContentError> {
        let secret = object(&self.objects.secrets, name, optional, "secret")?;
        let data = secret.iter().flat_map(|s| s.data.iter().flatten());
        let data: BTreeMap<&str, &[u8]> = data.map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
        files_of(&data, items, default_mode, optional, |key| ContentError::SecretKey { key })
    }

    fn config_map_files(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        default_mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Files, ContentError> {
        let config_map = object(&self.objects.config_maps, name, optional, "configmap")?;
        let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
        if let Some(config_map) = &config_map {
            data.extend(config_map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())));
            data.extend(config_map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes())));
        }
        files_of(&data, items, default_mode, optional, |key| ContentError::ConfigMapKey { key })
    }

    fn downward_api_files(
        &self,
        items: &[DownwardAPIVolumeFile],
        default_mode: Option<i32>,
    ) -> Result<Files, ContentError> {
        let (mut files, mut errors) = (Files::new(), Vec::new());
        for item in items {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => field_ref::metadata_value(self.pod, &field.field_path),
                (None, Some(selector)) => field_ref::resource_field_value(self.pod, "", selector, self.allocatable),
                (None, None) => Ok(String::new()),
            };
            match value {
                Ok(value) => {
                    let mode = item.mode.map_or_else(|| mode_or_default(default_mode), permission_bits);
                    let file = FileProjection { data: value.into_bytes(), mode, user: None };
                    files.push((item.path.clone(), file));
                }
                Err(error) => errors.push(ContentError::Field(error)),
            }
        }
        one_of(errors).map_or(Ok(files), Err)
    }

    /// A credential's file: where the pod has one user or a group of its own, nobody else may read it. The group's right
    /// to read comes with the ownership change.
    fn credential(&self, data: Vec<u8>, default_mode: Option<i32>) -> FileProjection {
        let user = fs_user(self.pod);
        let is_private = user.is_some() || fs_group(self.pod).is_some();
        let mode = if is_private { PRIVATE_MODE } else { mode_or_default(default_mode) };
        FileProjection { data, mode, user }
    }
}

/// The object of that name; none if it does not exist and need not.
fn object<T>(
    objects: &BTreeMap<String, Result<Arc<T>, ObjectFailure>>,
    name: &str,
    optional: Option<bool>,
    kind: &str,
) -> Result<Option<Arc<T>>, ContentError> {
    match objects.get(name) {
        Some(Ok(object)) => Ok(Some(object.clone())),
        Some(Err(failure)) if failure.not_found && is_set(optional) => Ok(None),
        Some(Err(failure)) => Err(ContentError::Object(failure.clone())),
        None => {
            let message = format!("{kind} {name:?} was not looked up");
            Err(ContentError::Object(ObjectFailure { message, not_found: false }))
        }
    }
}

fn files_of(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: Option<bool>,
    missing: impl Fn(String) -> ContentError,
) -> Result<Files, ContentError> {
    let default_mode = mode_or_default(default_mode);
    let file = |value: &[u8], mode| FileProjection { data: value.to_vec(), mode, user: None };
    let items = items.unwrap_or_default();
    if items.is_empty() {
        return Ok(data.iter().map(|(key, value)| ((*key).to_owned(), file(value, default_mode))).collect());
    }
    let mut files = Files::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => {
                files.push((item.path.clone(), file(value, item.mode.map_or(default_mode, permission_bits))));
            }
            None if is_set(optional) => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(files)
}

/// `spec.securityContext.fsGroup`.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    u32::try_from(spec(pod).security_context.as_ref()?.fs_group?).ok()
}

/// The one user that all containers of the pod run as, if there is one (`util.FsUserFrom`).
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let spec = spec(pod);
    let pod_user = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let ephemeral: Vec<_> = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container).collect();
    let containers = init_and_regular_containers(spec).map(|(_, container)| container).chain(&ephemeral);
    let mut users = containers.map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod_user));
    let first = users.next()??;
    let is_same = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| is_same)
}

/// None, the one, or all of them as one.
fn one_of(mut errors: Vec<ContentError>) -> Option<ContentError> {
    match errors.len() {
        0 | 1 => errors.pop(),
        _ => Some(ContentError::Several(errors)),
    }
}

/// `[a, b]`, each text once; the only one without brackets.
fn aggregate(errors: &[ContentError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    flatten(errors, &mut texts);
    match texts.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", texts.join(", ")),
    }
}

fn flatten(errors: &[ContentError], texts: &mut Vec<String>) {
    for error in errors {
        match error {
            ContentError::Several(inner) => flatten(inner, texts),
            other => add_once(texts, other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let metadata = json!({ "name": "web", "namespace": "shop", "uid": "u-1", "labels": { "app": "web" } });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    fn plain_pod() -> Pod {
        pod(json!({ "serviceAccountName": "robot", "containers": [{ "name": "c" }] }))
    }

    fn objects() -> ResolvedObjects {
        let config_map = ConfigMap {
            data: Some([("k1".to_owned(), "text".to_owned()), ("both".to_owned(), "data wins".to_owned())].into()),
            binary_data: Some(
                [("bin".to_owned(), ByteString(vec![0, 255])), ("both".to_owned(), ByteString(vec![1]))].into(),
            ),
            ..ConfigMap::default()
        };
        let secret = Secret {
            data: Some(
                [("user".to_owned(), ByteString(b"me".to_vec())), ("pass".to_owned(), ByteString(b"pw".to_vec()))]
                    .into(),
            ),
            ..Secret::default()
        };
        let gone = |kind: &str| ObjectFailure { message: format!("{kind} \"gone\" not found"), not_found: true };
        let down = ObjectFailure { message: "failed to sync secret cache: timed out".to_owned(), not_found: false };
        ResolvedObjects {
            config_maps: [("cm".to_owned(), Ok(Arc::new(config_map))), ("gone".to_owned(), Err(gone("configmap")))]
                .into(),
            secrets: [
                ("s".to_owned(), Ok(Arc::new(secret))),
                ("gone".to_owned(), Err(gone("secret"))),
                ("down".to_owned(), Err(down)),
            ]
            .into(),
            tokens: BTreeMap::new(),
        }
    }

    fn items(list: &[(&str, &str, Option<i32>)]) -> Vec<KeyToPath> {
        let item = |(key, path, mode): &(&str, &str, Option<i32>)| KeyToPath {
            key: (*key).to_owned(),
            path: (*path).to_owned(),
            mode: *mode,
            user: None,
        };
        list.iter().map(item).collect()
    }

    fn shown(content: Result<Content, ContentError>) -> Result<Vec<(String, String, u32)>, String> {
        let content = content.map_err(|error| error.to_string())?;
        let text = |file: &FileProjection| String::from_utf8_lossy(&file.data).into_owned();
        Ok(content.payload.files().map(|(path, file)| (path.to_owned(), text(file), file.mode)).collect())
    }

    fn file(path: &str, text: &str, mode: u32) -> (String, String, u32) {
        (path.to_owned(), text.to_owned(), mode)
    }

    /// Runs with the ordinary pod, its objects and a node with 4 CPUs.
    fn with_input<T>(act: impl FnOnce(&ContentInput<'_>) -> T) -> T {
        let (pod, objects) = (plain_pod(), objects());
        let allocatable = [("cpu".to_owned(), Quantity("4".to_owned()))].into();
        act(&ContentInput { pod: &pod, objects: &objects, allocatable: &allocatable })
    }

    #[test]
    fn a_whole_secret() {
        let expected = vec![file("pass", "pw", 0o400), file("user", "me", 0o400)];
        assert_eq!(with_input(|i| shown(i.secret("s", None, Some(0o400), None))), Ok(expected));
    }

    #[test]
    fn a_whole_config_map_with_bytes() {
        let content = with_input(|i| i.config_map("cm", Some(&[]), None, None)).unwrap().payload;
        assert_eq!(content.len(), 3);
        assert_eq!(content.file("bin").unwrap().data, [0, 255]);
        assert_eq!(content.file("both").unwrap().data, b"data wins");
        assert_eq!(content.file("k1").unwrap().mode, 0o644);
    }

    #[rstest]
    #[case::item(&[("user", "a/b", Some(0o600))], None, Ok(vec![file("a/b", "me", 0o600)]))]
    #[case::default_mode(&[("user", "u", None)], None, Ok(vec![file("u", "me", 0o440)]))]
    #[case::missing(&[("nope", "n", None)], None, Err("references non-existent secret key: nope".to_owned()))]
    #[case::forgiven(&[("nope", "n", None), ("user", "u", None)], Some(true), Ok(vec![file("u", "me", 0o440)]))]
    #[case::bad_path(&[("user", "../u", None)], None, Err("invalid path: must not contain '..': ../u".to_owned()))]
    fn secret_items(
        #[case] list: &[(&str, &str, Option<i32>)],
        #[case] optional: Option<bool>,
        #[case] expected: Result<Vec<(String, String, u32)>, String>,
    ) {
        assert_eq!(with_input(|i| shown(i.secret("s", Some(&items(list)), Some(0o440), optional))), expected);
    }

    #[rstest]
    #[case("gone", None, Err("secret \"gone\" not found"))]
    #[case("gone", Some(false), Err("secret \"gone\" not found"))]
    #[case("gone", Some(true), Ok(()))]
    #[case("down", Some(true), Err("failed to sync secret cache: timed out"))]
    #[case("other", Some(true), Err("secret \"other\" was not looked up"))]
    fn absent_secrets(#[case] name: &str, #[case] optional: Option<bool>, #[case] expected: Result<(), &str>) {
        let content = with_input(|i| shown(i.secret(name, None, None, optional)));
        assert_eq!(content, expected.map(|()| Vec::new()).map_err(str::to_owned));
    }

    #[test]
    fn missing_config_keys_and_maps() {
        let wanted = items(&[("nope", "n", None)]);
        let error = with_input(|i| shown(i.config_map("cm", Some(&wanted), None, None)));
        assert_eq!(error, Err("configmap references non-existent config key: nope".to_owned()));
        assert_eq!(
            with_input(|i| shown(i.config_map("gone", None, None, None))),
            Err("configmap \"gone\" not found".to_owned())
        );
    }

    #[test]
    fn downward_files() {
        let wanted: Vec<DownwardAPIVolumeFile> = serde_json::from_value(json!([
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
            { "path": "deep/cpu", "mode": 0o400, "resourceFieldRef":
                { "containerName": "c", "resource": "limits.cpu", "divisor": "1m" } },
        ]))
        .unwrap();
        let expected = vec![file("deep/cpu", "4000", 0o400), file("labels", "app=\"web\"", 0o644)];
        assert_eq!(with_input(|i| shown(i.downward_api(&wanted, None))), Ok(expected));
    }

    #[test]
    fn all_that_is_wrong_is_told_once() {
        let volume: ProjectedVolumeSource = serde_json::from_value(json!({ "sources": [
            { "secret": { "name": "gone" } },
            { "configMap": { "name": "gone" } },
            { "secret": { "name": "gone", "items": [{ "key": "x", "path": "x" }] } },
            { "downwardAPI": { "items": [{ "path": "a", "fieldRef": { "fieldPath": "spec.nodeName" } },
                                         { "path": "b", "fieldRef": { "fieldPath": "spec.x" } }] } },
            { "podCertificate": { "keyType": "ED25519", "signerName": "s" } },
            { "clusterTrustBundle": { "path": "p", "name": "n" } },
        ]}))
        .unwrap();
        let expected = "[secret \"gone\" not found, configmap \"gone\" not found, unsupported fieldPath: spec.nodeName, \
                        unsupported fieldPath: spec.x, podCertificate projection is not supported yet, \
                        clusterTrustBundle projection is not supported yet]";
        assert_eq!(with_input(|i| shown(i.projected(&volume))), Err(expected.to_owned()));
    }

    #[test]
    fn later_sources_win() {
        let volume: ProjectedVolumeSource = serde_json::from_value(json!({ "defaultMode": 0o600, "sources": [
            { "secret": { "name": "s", "items": [{ "key": "user", "path": "x" }] } },
            { "configMap": { "name": "cm", "items": [{ "key": "k1", "path": "./x" }] } },
        ]}))
        .unwrap();
        assert_eq!(with_input(|i| shown(i.projected(&volume))), Ok(vec![file("x", "text", 0o600)]));
    }

    #[rstest]
    #[case::plain(json!({}), 0o644, None)]
    #[case::group(json!({ "securityContext": { "fsGroup": 7 } }), 0o600, None)]
    #[case::user(json!({ "securityContext": { "runAsUser": 9 } }), 0o600, Some(9))]
    #[case::root(json!({ "securityContext": { "runAsUser": 0 } }), 0o600, Some(0))]
    fn a_token_is_private_where_it_can_be(
        #[case] mut spec: serde_json::Value,
        #[case] mode: u32,
        #[case] user: Option<u32>,
    ) {
        spec["containers"] = json!([{ "name": "c" }]);
        spec["serviceAccountName"] = json!("robot");
        let pod = pod(spec);
        let volume: ProjectedVolumeSource = serde_json::from_value(json!({ "sources": [
            { "serviceAccountToken": { "path": "token", "audience": "vault", "expirationSeconds": 600 } },
            { "serviceAccountToken": { "path": "soon", "audience": "" } },
        ]}))
        .unwrap();
        let sources = volume.sources.iter().flatten().filter_map(|source| source.service_account_token.as_ref());
        let requests: Vec<TokenRequest> = sources.map(|projection| token_request(&pod, projection)).collect();

        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let token = |text: &str, refresh| ServiceAccountToken {
            token: text.to_owned(),
            expires_at: at(9999),
            refresh_at: at(refresh),
        };
        let tokens = [(requests[0].clone(), Ok(token("long", 900))), (requests[1].clone(), Ok(token("short", 300)))];
        let objects = ResolvedObjects { tokens: tokens.into(), ..ResolvedObjects::default() };
        let input = ContentInput { pod: &pod, objects: &objects, allocatable: &BTreeMap::new() };
        let content = input.projected(&volume).unwrap();
        assert_eq!(content.refresh_at, Some(at(300)));
        let token = content.payload.file("token").unwrap();
        assert_eq!((token.data.as_slice(), token.mode, token.user), (b"long".as_slice(), mode, user));
    }

    #[rstest]
    #[case::nobody(json!([{ "name": "a" }]), None, None)]
    #[case::pod_wide(json!([{ "name": "a" }, { "name": "b" }]), Some(5), Some(5))]
    #[case::one_of_two(json!([{ "name": "a", "securityContext": { "runAsUser": 5 } }, { "name": "b" }]), None, None)]
    #[case::second_only(json!([{ "name": "a" }, { "name": "b", "securityContext": { "runAsUser": 5 } }]), None, None)]
    #[case::same(json!([{ "name": "a", "securityContext": { "runAsUser": 5 } }, { "name": "b" }]), Some(5), Some(5))]
    #[case::different(json!([{ "name": "a", "securityContext": { "runAsUser": 6 } }, { "name": "b" }]), Some(5), None)]
    fn the_one_user(
        #[case] containers: serde_json::Value,
        #[case] pod_user: Option<i64>,
        #[case] expected: Option<u32>,
    ) {
        let pod = pod(json!({ "containers": containers, "securityContext": { "runAsUser": pod_user } }));
        assert_eq!(fs_user(&pod), expected);
    }
}
