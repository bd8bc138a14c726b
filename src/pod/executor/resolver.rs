//! The host's resolver configuration, which every sandbox and container is told of.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::runtime::translate::{HostResolver, parse_resolv_conf};
use crate::sys::file_stamp::FileStamp;

/// The file that `resolvConf` names. It is read again only when it has changed: many containers start at once, and it hardly
/// ever does.
pub(super) struct ResolverFile {
    path: PathBuf,
    read: Mutex<Option<(FileStamp, Arc<HostResolver>)>>,
}

impl ResolverFile {
    /// An empty path is none.
    pub fn new(path: PathBuf) -> Self {
        ResolverFile { path, read: Mutex::default() }
    }

    /// The configuration as it is now. Blocks for a look at a local file, which is sooner done than handed to another thread.
    pub fn get(&self) -> Result<Arc<HostResolver>, String> {
        let path = &self.path;
        if path.as_os_str().is_empty() {
            return Ok(Arc::new(HostResolver::Disabled));
        }
        let unreadable = |error: std::io::Error| format!("reading {}: {error}", path.display());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = FileStamp::at(path).map_err(unreadable)?;
        if let Some((_, known)) = read.as_ref().filter(|(at, _)| *at == stamp) {
            return Ok(known.clone());
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let parsed = parse_resolv_conf(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let resolver = Arc::new(HostResolver::File(parsed));
        *read = Some((stamp, resolver.clone()));
        Ok(resolver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let file = ResolverFile::new(path.clone());
        assert!(file.get().unwrap_err().starts_with("reading "));
        let servers = |resolver: &HostResolver| match resolver {
            HostResolver::File(file) => file.nameservers.clone(),
            HostResolver::Disabled => Vec::new(),
        };
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let first = file.get().unwrap();
        assert_eq!(servers(&first), ["192.0.2.1"]);
        assert!(Arc::ptr_eq(&first, &file.get().unwrap()), "what has not changed is not read again");
        std::fs::write(folder.path().join("new"), "nameserver 192.0.2.2\n").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(servers(&file.get().unwrap()), ["192.0.2.2"]);
        std::fs::write(&path, "nameserver\n").unwrap();
        assert!(file.get().unwrap_err().contains("nameserver list is empty"), "what is broken is told");
        assert_eq!(*ResolverFile::new(PathBuf::new()).get().unwrap(), HostResolver::Disabled);
    }
}
