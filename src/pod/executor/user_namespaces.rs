//! The user and group ids of pods with a user namespace of their own (`hostUsers: false`).
//!
//! Each gets a range of ids of the node, kept in `<root>/pods/<uid>/userns` in the peer's format, so that it holds for the
//! pod's whole life under either agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::pod::PodUid;
use crate::runtime::translate::UserMapping;
use crate::sys::replace::replace_file;

/// The ids below are the node's own.
const FIRST: u64 = 65_536;
/// One more than the highest id (the peer's bound).
const END: u64 = 1 << 32;

/// Why a pod has no ids.
#[derive(Debug, thiserror::Error)]
pub(super) enum UserNamespaceError {
    /// All are given away.
    #[error("no user namespace ids are left: {count} pods have {length} each")]
    Exhausted {
        /// Pods with ids.
        count: usize,
        /// Ids of each.
        length: u32,
    },
    /// What was stored cannot be used.
    #[error("{path} does not tell the pod's user namespace: {cause}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The file system refuses.
    #[error("the pod's user namespace in {path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

/// The ranges of all pods of the node.
pub(super) struct UserNamespaces {
    pods: PathBuf,
    length: u32,
    /// The ids of each pod; none before the files have been read.
    given: Mutex<Option<BTreeMap<PodUid, UserMapping>>>,
}

impl UserNamespaces {
    /// `pods` is `<root>/pods`; `length` is `userNamespaces.idsPerPod`.
    pub fn new(pods: PathBuf, length: u32) -> Self {
        UserNamespaces { pods, length: length.max(1), given: Mutex::default() }
    }

    fn given(&self) -> MutexGuard<'_, Option<BTreeMap<PodUid, UserMapping>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod's ids, which are given to it now if it has none. Reads and writes files.
    ///
    /// While the file of some pod cannot be read, new ids are given to none, since they might be that pod's; those that were
    /// given before stay good. (The peer does not start at all then.)
    pub fn ensure(&self, pod: &PodUid) -> Result<UserMapping, UserNamespaceError> {
        let mut given = self.given();
        if let Some(mapping) = self.read(pod)? {
            if let Some(given) = given.as_mut() {
                given.insert(pod.clone(), mapping);
            }
            return Ok(mapping);
        }
        let given = match given.as_mut() {
            Some(given) => given,
            None => given.insert(self.read_all()?),
        };
        let length = u64::from(self.length);
        // An agent with other settings may have given ranges of another length.
        let overlaps = |first: u64, mapping: &UserMapping| {
            let start = u64::from(mapping.host_id);
            start < first + length && first < start + u64::from(mapping.length)
        };
        let is_free = |first: u64| !given.values().any(|mapping| overlaps(first, mapping));
        let first = (FIRST.div_ceil(length)..END / length).map(|slot| slot * length).find(|first| is_free(*first));
        let first = first.and_then(|first| u32::try_from(first).ok());
        let host_id = first.ok_or(UserNamespaceError::Exhausted { count: given.len(), length: self.length })?;
        self.write(pod, host_id)?;
        let mapping = UserMapping { host_id, length: self.length };
        given.insert(pod.clone(), mapping);
        Ok(mapping)
    }

    /// The pod's directory is gone, and with it what it was given.
    pub fn release(&self, pod: &PodUid) {
        if let Some(given) = self.given().as_mut() {
            given.remove(pod);
        }
    }

    fn file(&self, pod: &PodUid) -> PathBuf {
        self.pods.join(pod.as_str()).join("userns")
    }

    fn read_all(&self) -> Result<BTreeMap<PodUid, UserMapping>, UserNamespaceError> {
        let entries = match std::fs::read_dir(&self.pods) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(UserNamespaceError::File { path: self.pods.clone(), source }),
        };
        let mut given = BTreeMap::new();
        for entry in entries.flatten() {
            let pod = PodUid::from(entry.file_name().to_string_lossy().into_owned());
            if let Some(mapping) = self.read(&pod)? {
                given.insert(pod, mapping);
            }
        }
        Ok(given)
    }

    fn read(&self, pod: &PodUid) -> Result<Option<UserMapping>, UserNamespaceError> {
        let path = self.file(pod);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(UserNamespaceError::File { path, source }),
        };
        if text.is_empty() {
            // The peer takes it for none as well.
            return Ok(None);
        }
        let stored: Result<Stored, _> = serde_json::from_slice(&text);
        if stored.as_ref().is_ok_and(|s| s.uid_mappings != s.gid_mappings) {
            let cause = "its users and its groups are mapped differently".to_owned();
            return Err(UserNamespaceError::Malformed { path, cause });
        }
        let cause = match stored.as_ref().map(|s| s.uid_mappings.as_slice()) {
            Ok([mapping]) if mapping.container_id == 0 && mapping.length > 0 && u64::from(mapping.host_id) >= FIRST => {
                return Ok(Some(UserMapping { host_id: mapping.host_id, length: mapping.length }));
            }
            Ok(_) => "one mapping from id 0 of the pod to ids above those of the node is expected".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(UserNamespaceError::Malformed { path, cause })
    }

    fn write(&self, pod: &PodUid, host_id: u32) -> Result<(), UserNamespaceError> {
        let mapping = || vec![Mapping { host_id, container_id: 0, length: self.length }];
        let stored = Stored { uid_mappings: mapping(), gid_mappings: mapping() };
        let path = self.file(pod);
        let failed = |source| UserNamespaceError::File { path: path.clone(), source };
        let text = serde_json::to_vec(&stored).map_err(|error| failed(error.into()))?;
        if let Some(directory) = path.parent() {
            super::sandbox::make_directory(directory, 0o750).map_err(|error| failed(std::io::Error::other(error)))?;
        }
        replace_file(&path, &text, 0o600).map_err(failed)
    }
}

/// The directory of the pods' files.
pub(super) fn pods_directory(root: &str) -> PathBuf {
    Path::new(root).join("pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> PodUid {
        PodUid::from(name)
    }

    #[test]
    fn ranges_are_apart_and_outlive_the_agent() {
        let root = tempfile::tempdir().unwrap();
        let new = || UserNamespaces::new(root.path().to_owned(), 65_536);
        let first = new();
        assert_eq!(first.ensure(&uid("a")).unwrap(), UserMapping { host_id: 65_536, length: 65_536 });
        assert_eq!(first.ensure(&uid("b")).unwrap().host_id, 131_072);
        assert_eq!(first.ensure(&uid("a")).unwrap().host_id, 65_536);
        let text = std::fs::read_to_string(root.path().join("b/userns")).unwrap();
        assert_eq!(
            text,
            r#"{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[{"hostId":131072,"containerId":0,"length":65536}]}"#
        );
        let second = new();
        assert_eq!(second.ensure(&uid("c")).unwrap().host_id, 196_608);
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        second.release(&uid("a"));
        assert_eq!(second.ensure(&uid("d")).unwrap().host_id, 65_536);
    }

    fn stored(root: &Path, pod: &str, text: &str) {
        std::fs::create_dir_all(root.join(pod)).unwrap();
        std::fs::write(root.join(pod).join("userns"), text).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_not_given_away_twice() {
        let root = tempfile::tempdir().unwrap();
        UserNamespaces::new(root.path().to_owned(), 65_536).ensure(&uid("old")).unwrap();
        stored(root.path(), "a", "{}");
        let namespaces = UserNamespaces::new(root.path().to_owned(), 65_536);
        let error = namespaces.ensure(&uid("b")).unwrap_err();
        assert!(error.to_string().contains("a/userns does not tell"), "{error}");
        assert!(namespaces.ensure(&uid("a")).is_err());
        assert_eq!(namespaces.ensure(&uid("old")).unwrap().host_id, 65_536, "what was given stays good");
        // With the pod goes its file, and with that the doubt.
        std::fs::remove_dir_all(root.path().join("a")).unwrap();
        assert_eq!(namespaces.ensure(&uid("b")).unwrap().host_id, 131_072);
    }

    #[test]
    fn an_empty_file_gives_nothing_and_mappings_that_differ_are_refused() {
        let root = tempfile::tempdir().unwrap();
        stored(root.path(), "empty", "");
        let differing = r#"{"uidMappings":[{"hostId":131072,"containerId":0,"length":65536}],"gidMappings":[]}"#;
        let namespaces = UserNamespaces::new(root.path().to_owned(), 65_536);
        assert_eq!(namespaces.ensure(&uid("empty")).unwrap().host_id, 65_536);
        stored(root.path(), "differing", differing);
        let error = namespaces.ensure(&uid("differing")).unwrap_err();
        assert!(error.to_string().contains("mapped differently"), "{error}");
    }

    #[test]
    fn ranges_of_other_lengths_do_not_overlap() {
        let root = tempfile::tempdir().unwrap();
        UserNamespaces::new(root.path().to_owned(), 65_536).ensure(&uid("a")).unwrap();
        let wide = UserNamespaces::new(root.path().to_owned(), 131_072).ensure(&uid("b")).unwrap();
        assert_eq!(wide, UserMapping { host_id: 131_072, length: 131_072 });
        let narrow = UserNamespaces::new(root.path().to_owned(), 65_536).ensure(&uid("c")).unwrap();
        assert_eq!(narrow.host_id, 262_144);
    }
}
