//! The records of which images were pulled, and with which credentials: the kubelet's files under `<root>/image_manager`
//! (kubelet.config.k8s.io/v1beta1), so that either agent goes on with the other's.
//!
//! `pulling/` holds an intent for each image that is being pulled, or was when an agent was cut off; `pulled/` a record for each
//! that was. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::credentials::sha256_hex;
use crate::model::Timestamp;
use crate::sys::replace::{remove_if_there, replace_file};

const INTENT: &str = "ImagePullIntent";
const RECORD: &str = "ImagePulledRecord";
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// What an older kubelet wrote; the fields are the same.
const OLD_API_VERSION: &str = "kubelet.config.k8s.io/v1alpha1";
const FILE_PREFIX: &str = "sha256-";
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// An image that is being pulled, by its name in a pod.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PullIntent {
    kind: String,
    api_version: String,
    image: String,
}

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PulledRecord {
    kind: String,
    api_version: String,
    /// To the second.
    pub last_updated_time: Option<Timestamp>,
    /// The runtime's reference.
    image_ref: String,
    /// By the image's names in pods, without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credential_mapping: BTreeMap<String, PullCredentials>,
}

/// What an image was pulled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PullCredentials {
    /// Secrets of pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<PullSecret>,
    /// Service accounts of pods: kept for the kubelet, whose credential plugins use them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_service_accounts: Vec<PullServiceAccount>,
    /// It took none, or the node's own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
}

/// A secret that an image was pulled with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PullSecret {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// Of the credential in it, [`super::credentials::Credential::hash`].
    pub credential_hash: String,
}

/// A service account whose token an image was pulled with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PullServiceAccount {
    uid: String,
    namespace: String,
    name: String,
}

impl PulledRecord {
    pub(super) fn new(image_ref: &str, mapping: BTreeMap<String, PullCredentials>, now: Timestamp) -> Self {
        let mut record = PulledRecord {
            kind: RECORD.to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: None,
            image_ref: image_ref.to_owned(),
            credential_mapping: mapping,
        };
        record.update(now);
        record
    }

    /// Notes the time of a change, and the version in which it is written.
    pub(super) fn update(&mut self, now: Timestamp) {
        self.last_updated_time = Timestamp::from_second(now.as_second()).ok();
        API_VERSION.clone_into(&mut self.api_version);
    }
}

impl PullSecret {
    /// Which secret it is.
    pub(super) fn place(&self) -> [&str; 3] {
        [&self.namespace, &self.name, &self.uid]
    }

    pub(super) fn sort_key(&self) -> [String; 3] {
        self.place().map(str::to_owned)
    }
}

/// A file that is no record of a kubelet.
fn broken(path: &Path, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}

/// The folders of the records.
#[derive(Debug)]
pub(super) struct PullRecords {
    pulling: PathBuf,
    pulled: PathBuf,
}

impl PullRecords {
    /// Makes the folders below the agent's root directory.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let folder = root.join("image_manager");
        let records = PullRecords { pulling: folder.join("pulling"), pulled: folder.join("pulled") };
        for folder in [&records.pulling, &records.pulled] {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        }
        Ok(records)
    }

    /// The images with an intent. Files that are none are logged.
    pub(super) fn intents(&self) -> io::Result<Vec<String>> {
        let mut images = Vec::new();
        for name in names(&self.pulling)? {
            let path = self.pulling.join(name);
            let intent = read::<PullIntent>(&path, INTENT, |intent| (&intent.kind, &intent.api_version));
            match intent {
                Ok(Some(intent)) => images.push(intent.image),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot read of an image whether it was being pulled"),
            }
        }
        Ok(images)
    }

    pub(super) fn write_intent(&self, image: &str) -> io::Result<()> {
        let intent =
            PullIntent { kind: INTENT.to_owned(), api_version: API_VERSION.to_owned(), image: image.to_owned() };
        write(&self.pulling.join(file_name(image)), &intent)
    }

    pub(super) fn remove_intent(&self, image: &str) -> io::Result<()> {
        remove_if_there(&self.pulling.join(file_name(image)))
    }

    /// The names of the records' files, by [`file_name`] of the runtime's references.
    pub(super) fn pulled(&self) -> io::Result<BTreeSet<String>> {
        names(&self.pulled)
    }

    /// The record of an image, if there is one.
    pub(super) fn read(&self, image_ref: &str) -> io::Result<Option<PulledRecord>> {
        let path = self.pulled.join(file_name(image_ref));
        let record = read::<PulledRecord>(&path, RECORD, |record| (&record.kind, &record.api_version))?;
        Ok(record.filter(|record| record.image_ref == image_ref))
    }

    pub(super) fn write(&self, record: &PulledRecord) -> io::Result<()> {
        write(&self.pulled.join(file_name(&record.image_ref)), record)
    }
}

/// What the file of an image, or of the runtime's reference to one, is called.
pub(super) fn file_name(key: &str) -> String {
    format!("{FILE_PREFIX}{}", sha256_hex(key))
}

/// The files that hold records, without those of writers that were cut off.
fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.starts_with(FILE_PREFIX) && !name.contains('.') {
            names.insert(name);
        }
    }
    Ok(names)
}

fn read<T: serde::de::DeserializeOwned>(
    path: &Path,
    kind: &str,
    of: impl FnOnce(&T) -> (&String, &String),
) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let read: T = serde_json::from_slice(&text).map_err(|error| broken(path, error))?;
    let (found, version) = of(&read);
    if found != kind || !matches!(version.as_str(), API_VERSION | OLD_API_VERSION) {
        return Err(broken(path, format_args!("{version}/{found} is not {API_VERSION}/{kind}")));
    }
    Ok(Some(read))
}

fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(content)?;
    text.push(b'\n');
    replace_file(path, &text, FILE_MODE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn records_are_written_as_the_kubelet_writes_them() {
        let root = tempfile::tempdir().unwrap();
        let records = PullRecords::open(root.path()).unwrap();
        let secret = PullSecret {
            uid: "testsecretuid".into(),
            namespace: "default".into(),
            name: "pull-secret".into(),
            credential_hash: "testsecrethash".into(),
        };
        let closed = PullCredentials { kubernetes_secrets: vec![secret], ..PullCredentials::default() };
        let open = PullCredentials { node_pods_accessible: true, ..PullCredentials::default() };
        let mapping = [("docker.io/testing/test".to_owned(), closed), ("test".to_owned(), open)].into();
        let now = "2024-10-21T12:26:40.5Z".parse().unwrap();
        let record = PulledRecord::new("testimageref", mapping, now);
        records.write(&record).unwrap();
        let path = root.path().join("image_manager/pulled").join(file_name("testimageref"));
        let expected = concat!(
            r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":"2024-10-21T12:26:40Z","#,
            r#""imageRef":"testimageref","credentialMapping":{"docker.io/testing/test":{"kubernetesSecrets":[{"uid":"testsecretuid","#,
            r#""namespace":"default","name":"pull-secret","credentialHash":"testsecrethash"}]},"test":{"nodePodsAccessible":true}}}"#,
            "\n"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(records.read("testimageref").unwrap(), Some(record));
        assert_eq!(records.read("other").unwrap(), None);
        assert_eq!(records.pulled().unwrap(), [file_name("testimageref")].into());
    }

    #[test]
    fn intents_are_named_by_the_image() {
        let root = tempfile::tempdir().unwrap();
        let records = PullRecords::open(root.path()).unwrap();
        records.write_intent("reg.io/a:1").unwrap();
        // echo -n reg.io/a:1 | sha256sum
        let name = "sha256-50af77fe53019133d8caa2a1b21bdd905ccfd1f3ff84cbec94a963d6a98ab813";
        let path = root.path().join("image_manager/pulling").join(name);
        let expected =
            r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"reg.io/a:1"}"#;
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), expected);
        fs::write(path.with_extension("tmp"), "half").unwrap();
        assert_eq!(records.intents().unwrap(), ["reg.io/a:1"]);
        records.remove_intent("reg.io/a:1").unwrap();
        records.remove_intent("reg.io/a:1").unwrap();
        assert!(records.intents().unwrap().is_empty());
    }

    #[test]
    fn older_records_are_read_and_broken_ones_are_told_of() {
        let root = tempfile::tempdir().unwrap();
        let records = PullRecords::open(root.path()).unwrap();
        let put = |key: &str, text: &str| fs::write(records.pulled.join(file_name(key)), text).unwrap();
        put(
            "old",
            r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1alpha1","lastUpdatedTime":null,"imageRef":"old",
            "credentialMapping":{"a":{"kubernetesServiceAccounts":[{"uid":"u","namespace":"n","name":"s"}]}}}"#,
        );
        let mut old = records.read("old").unwrap().unwrap();
        assert_eq!(old.last_updated_time, None);
        old.update("2024-10-21T12:26:40Z".parse().unwrap());
        records.write(&old).unwrap();
        let text = fs::read_to_string(records.pulled.join(file_name("old"))).unwrap();
        assert!(text.contains("v1beta1") && text.contains(r#"[{"uid":"u","namespace":"n","name":"s"}]"#), "{text}");
        for (key, text) in [
            ("half", r#"{"kind":"ImagePulledRecord""#),
            (
                "kind",
                r#"{"kind":"X","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":null,"imageRef":"kind"}"#,
            ),
            (
                "more",
                r#"{"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1","lastUpdatedTime":null,"imageRef":"more","x":1}"#,
            ),
        ] {
            put(key, text);
            assert_eq!(records.read(key).unwrap_err().kind(), io::ErrorKind::InvalidData, "{key}");
        }
    }
}
