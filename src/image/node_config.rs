//! The node's own registry credentials: docker configuration files.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::credentials::{CredentialSource, Keyring};

/// A larger file is none that anybody wrote by hand.
const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;

/// The places where the node's credentials may be, in order; the first file that can be read counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfigFiles {
    /// In the format of `config.json`.
    pub config_json: Vec<PathBuf>,
    /// In the format of `.dockercfg`, if there is none of the first kind.
    pub dockercfg: Vec<PathBuf>,
}

impl NodeConfigFiles {
    /// The peer's places: the root directory, the working directory, the home directory, and `/`.
    pub fn new(root_dir: &Path, working_dir: Option<&Path>, home: Option<&Path>) -> Self {
        let bases = |home: Option<PathBuf>, root: &str| -> Vec<PathBuf> {
            let own = [Some(root_dir.to_owned()), working_dir.map(Path::to_owned), home, Some(PathBuf::from(root))];
            own.into_iter().flatten().collect()
        };
        let config_json = bases(home.map(|home| home.join(".docker")), "/.docker");
        let dockercfg = bases(home.map(Path::to_owned), "/");
        NodeConfigFiles {
            config_json: config_json.into_iter().map(|dir| dir.join("config.json")).collect(),
            dockercfg: dockercfg.into_iter().map(|dir| dir.join(".dockercfg")).collect(),
        }
    }

    /// The credentials of the first usable file; read anew each time, so that a change counts at once. Blocks.
    pub(super) fn read(&self) -> Keyring {
        let json = self.config_json.iter().map(|path| (path, true));
        for (path, is_config_json) in json.chain(self.dockercfg.iter().map(|path| (path, false))) {
            let content = match read_bounded(path) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot read registry credentials");
                    continue;
                }
            };
            let mut keyring = Keyring::default();
            let added = if is_config_json {
                keyring.add_config_json(&content, &CredentialSource::Node)
            } else {
                keyring.add_dockercfg(&content, &CredentialSource::Node)
            };
            match added {
                Ok(()) => return keyring,
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot use registry credentials"),
            }
        }
        Keyring::default()
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn user(files: &NodeConfigFiles) -> Option<String> {
        Some(files.read().lookup("reg.io/a").first()?.to_auth_config().username)
    }

    fn entry(user: &str) -> String {
        format!(r#"{{"reg.io": {{"username": "{user}", "password": "p"}}}}"#)
    }

    #[test]
    fn the_first_usable_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (root, home) = (dir.path().join("root"), dir.path().join("home"));
        fs::create_dir_all(home.join(".docker")).unwrap();
        fs::create_dir_all(&root).unwrap();
        let mut files = NodeConfigFiles::new(&root, None, Some(&home));
        assert_eq!(files.config_json.pop(), Some(PathBuf::from("/.docker/config.json")));
        assert_eq!(files.dockercfg.pop(), Some(PathBuf::from("/.dockercfg")));
        assert_eq!(user(&files), None);
        fs::write(home.join(".dockercfg"), entry("old")).unwrap();
        assert_eq!(user(&files).as_deref(), Some("old"));
        fs::write(home.join(".docker/config.json"), format!(r#"{{"auths": {}}}"#, entry("home"))).unwrap();
        assert_eq!(user(&files).as_deref(), Some("home"));
        fs::write(root.join("config.json"), "{ broken").unwrap();
        assert_eq!(user(&files).as_deref(), Some("home"), "a broken file is passed over");
        fs::write(root.join("config.json"), format!(r#"{{"auths": {}}}"#, entry("root"))).unwrap();
        assert_eq!(user(&files).as_deref(), Some("root"));
    }
}
