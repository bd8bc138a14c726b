//! Certificates on disk, where the kubelet has them: `<prefix>-<time>.pem` with certificate and key, and the symbolic link
//! `<prefix>-current.pem` to the one in force.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::certificate::NodeCertificate;
use super::error::CertificatesError;
use crate::model::Timestamp;
use crate::sys::replace::{replace_file, replace_link};

/// The files of one kind of certificate.
#[derive(Clone, Debug)]
pub(super) struct CertificateStore {
    directory: PathBuf,
    prefix: &'static str,
    /// Certificate and key that the configuration names; used until the store has its own.
    given: Option<(PathBuf, PathBuf)>,
}

impl CertificateStore {
    /// Below a directory, which need not be there yet.
    pub(super) fn new(directory: &Path, prefix: &'static str, given: Option<(PathBuf, PathBuf)>) -> Self {
        // The link's target and the kubeconfig must not depend on where the process was started.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        CertificateStore { directory, prefix, given }
    }

    /// The link to the certificate in force.
    pub(super) fn current_path(&self) -> PathBuf {
        self.path("current.pem")
    }

    fn path(&self, rest: &str) -> PathBuf {
        self.directory.join(format!("{}-{rest}", self.prefix))
    }

    /// The certificate in force; none if there is none yet. Blocks.
    pub(super) fn current(&self) -> Result<Option<NodeCertificate>, CertificatesError> {
        self.finish()?;
        let current = self.current_path();
        let own = [(current.clone(), current)].into_iter();
        let unlinked =
            (self.directory.join(format!("{}.crt", self.prefix)), self.directory.join(format!("{}.key", self.prefix)));
        for (certificate, key) in own.chain(self.given.clone()).chain([unlinked]) {
            if let (Some(chain), Some(key_text)) = (read(&certificate)?, read(&key)?) {
                let loaded = NodeCertificate::from_pem(&chain, &key_text);
                let from = certificate.display().to_string();
                return loaded.map(Some).map_err(|message| CertificatesError::Pair { from, message });
            }
        }
        Ok(None)
    }

    /// Ends a change that was cut off between its steps, as the kubelet's may be: it removes the old link first.
    fn finish(&self) -> Result<(), CertificatesError> {
        let (current, updated) = (self.current_path(), self.path("updated.pem"));
        if current.exists() || !updated.is_symlink() {
            return Ok(());
        }
        fs::rename(&updated, &current).map_err(|source| failed("renaming", &updated, source))
    }

    /// Writes a certificate that was just issued and makes it the one in force. Blocks.
    pub(super) fn update(&self, chain: &[u8], key: &str, now: Timestamp) -> Result<NodeCertificate, CertificatesError> {
        let loaded = NodeCertificate::from_pem(chain, key.as_bytes());
        let from = "the signed certificate".to_owned();
        let certificate = loaded.map_err(|message| CertificatesError::Pair { from, message })?;
        let current = self.current_path();
        if fs::symlink_metadata(&current).is_ok_and(|metadata| !metadata.is_symlink()) {
            return Err(CertificatesError::NoLink { path: current });
        }
        let file = self.path(&format!("{}.pem", now.strftime("%Y-%m-%d-%H-%M-%S")));
        let mut text = chain.trim_ascii_end().to_vec();
        text.push(b'\n');
        text.extend_from_slice(key.as_bytes());
        replace_file(&file, &text, 0o600).map_err(|source| failed("writing", &file, source))?;
        let updated = self.path("updated.pem");
        replace_link(&current, &file, &updated).map_err(|source| failed("linking", &current, source))?;
        Ok(certificate)
    }
}

/// A file's content; none if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, CertificatesError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("reading", path, source)),
    }
}

pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> CertificatesError {
    CertificatesError::File { what, path: path.to_owned(), source }
}
