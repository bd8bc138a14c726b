//! Writing a volume's files so that readers see either all of the old ones or all of the new ones.
//!
//! The contract with consumers (`pkg/volume/util/atomic_writer.go` of the peer): the files are in a directory
//! `..<UTC time>.<number>`, the link `..data` leads to it, and each visible name is a link `..data/<name>`. An update
//! replaces `..data` by a rename, which inotify users watch for. A volume that was written by the peer is carried on.
//!
//! A crash at any point leaves a volume that shows one whole version, and the next write tidies up.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::{FsError, IoContext};
use super::ownership::{ChangePolicy, give_to_group};
use super::payload::Payload;
use super::removal::{OnMount, remove_tree};
use crate::model::Timestamp;
use crate::sys::beneath::{Dir, Entry, FileType, is_errno};
use crate::sys::mount::Mounts;

/// The link to the version in force.
const DATA: &str = "..data";
/// The same link before it is put in force.
const NEW_DATA: &str = "..data_tmp";

/// Writes one volume.
#[derive(Debug)]
pub struct AtomicWriter<'a> {
    /// The volume's directory.
    pub dir: &'a Dir,
    /// The group that may read the files.
    pub fs_group: Option<u32>,
    /// Names the version.
    pub now: Timestamp,
    /// Keeps removal of an old version from crossing a mount.
    pub mounts: &'a dyn Mounts,
}

impl AtomicWriter<'_> {
    /// Makes the volume show exactly the payload; tells whether a new version had to be written.
    ///
    /// # Errors
    /// With the path that resisted. The volume shows the old version or the new one, and may be written again.
    pub fn write(&self, payload: &Payload) -> Result<bool, FsError> {
        self.write_in_steps(payload, &mut |_| Ok(()))
    }

    /// `before` is called ahead of every change on disk; tests end the write there.
    fn write_in_steps(
        &self,
        payload: &Payload,
        before: &mut dyn FnMut(&'static str) -> Result<(), FsError>,
    ) -> Result<bool, FsError> {
        let entries = self.dir.entries().doing("list", self.dir.path())?;
        let current = self.current_version()?;
        self.remove_stale(&entries, current.as_deref(), before)?;

        let is_current = match &current {
            Some(version) => holds_exactly(self.dir, version, payload)?,
            None => false,
        };
        if !is_current {
            let version = self.write_version(payload, before)?;
            self.put_in_force(&version, before)?;
        }
        self.link_visible_names(payload, before)?;
        self.unlink_gone_names(&entries, payload, before)?;
        if let Some(old) = current.filter(|_| !is_current) {
            before("remove old version")?;
            remove_tree(self.dir, &old, self.mounts, OnMount::Refuse)?;
        }
        Ok(!is_current)
    }

    /// The version that `..data` leads to, if it is one of ours and there.
    fn current_version(&self) -> Result<Option<OsString>, FsError> {
        match self.dir.read_link(DATA) {
            Ok(target) if is_version(&target) => match self.dir.child(&target) {
                Ok(_) => Ok(Some(target)),
                Err(error) if crate::sys::beneath::is_wrong_kind(&error) => Ok(None),
                Err(error) => Err(error).doing("open", self.dir.path_of(&target)),
            },
            // Leads somewhere strange: the next version takes its place.
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).doing("read link", self.dir.path_of(DATA)),
        }
    }

    /// What writes that did not end have left, which would otherwise take up room for good.
    fn remove_stale(
        &self,
        entries: &[Entry],
        current: Option<&OsStr>,
        before: &mut dyn FnMut(&'static str) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        for entry in entries {
            if entry.name == NEW_DATA {
                before("remove stale link")?;
                self.dir.remove_file(NEW_DATA).doing("remove", self.dir.path_of(NEW_DATA))?;
            } else if is_version(&entry.name) && current != Some(entry.name.as_os_str()) {
                before("remove stale version")?;
                remove_tree(self.dir, &entry.name, self.mounts, OnMount::Refuse)?;
            }
        }
        Ok(())
    }

    fn write_version(
        &self,
        payload: &Payload,
        before: &mut dyn FnMut(&'static str) -> Result<(), FsError>,
    ) -> Result<OsString, FsError> {
        before("make version directory")?;
        let (name, version) = self.make_version_directory()?;
        for (path, file) in payload.files() {
            before("write file")?;
            let (holder, leaf) = split(path);
            let holder = version.make_path(holder, 0o755).doing("make directory", version.path_of(holder))?;
            let written = holder.write_new_file(leaf, &file.data, file.mode, file.user);
            written.doing("write", holder.path_of(leaf))?;
        }
        if let Some(group) = self.fs_group {
            before("give to group")?;
            // All of the volume: at the first time its own directory is to be given, too.
            give_to_group(self.dir, group, true, ChangePolicy::Always)?;
        }
        Ok(name)
    }

    fn make_version_directory(&self) -> Result<(OsString, Dir), FsError> {
        const ATTEMPTS: u32 = 100;
        for _ in 0..ATTEMPTS {
            let number: u32 = rand::random();
            let name = OsString::from(format!("{}.{number}", self.now.strftime("..%Y_%m_%d_%H_%M_%S")));
            let (version, is_new) =
                self.dir.make_child(&name, 0o755).doing("make directory", self.dir.path_of(&name))?;
            if is_new {
                return Ok((name, version));
            }
        }
        Err(Errno::EXIST.into()).doing("make a version directory in", self.dir.path())
    }

    fn put_in_force(
        &self,
        version: &OsStr,
        before: &mut dyn FnMut(&'static str) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        before("make new data link")?;
        self.dir.symlink(version, NEW_DATA).doing("make link", self.dir.path_of(NEW_DATA))?;
        before("put new version in force")?;
        self.dir.rename(NEW_DATA, DATA).doing("replace link", self.dir.path_of(DATA))
    }

    fn link_visible_names(
        &self,
        payload: &Payload,
        before: &mut dyn FnMut(&'static str) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        for (name, user) in payload.top_level() {
            let target = format!("{DATA}/{name}");
            match self.dir.read_link(name) {
                Ok(found) if found == *target => continue,
                Ok(_) => {
                    before("remove wrong link")?;
                    self.dir.remove_file(name).doing("remove", self.dir.path_of(name))?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Not a link: a mount point for another volume, which is what the container shall see there.
                Err(error) if is_errno(&error, Errno::INVAL) => continue,
                Err(error) => return Err(error).doing("read link", self.dir.path_of(name)),
            }
            before("link visible name")?;
            self.dir.symlink(&target, name).doing("make link", self.dir.path_of(name))?;
            if let Some(user) = user {
                let given = self.dir.handle(name).and_then(|handle| handle.set_owner(user));
                given.doing("change the owner of", self.dir.path_of(name))?;
            }
        }
        Ok(())
    }

    fn unlink_gone_names(
        &self,
        entries: &[Entry],
        payload: &Payload,
        before: &mut dyn FnMut(&'static str) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let wanted = payload.top_level();
        let is_gone = |entry: &&Entry| {
            let is_wanted = entry.name.to_str().is_some_and(|name| wanted.contains_key(name));
            let is_own = entry.name.as_bytes().starts_with(b"..");
            !is_wanted && !is_own && matches!(entry.kind, FileType::Symlink | FileType::Unknown)
        };
        for entry in entries.iter().filter(is_gone) {
            let target = self.dir.read_link(&entry.name);
            if target.is_ok_and(|target| target.as_bytes().starts_with(b"..data/")) {
                before("unlink gone name")?;
                self.dir.remove_file(&entry.name).doing("remove", self.dir.path_of(&entry.name))?;
            }
        }
        Ok(())
    }
}

/// Whether the name is that of a version: `..` and a year.
fn is_version(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.starts_with(b"..") && bytes.get(2).is_some_and(u8::is_ascii_digit) && !bytes.contains(&b'/')
}

fn split(path: &str) -> (&Path, &str) {
    let (holder, leaf) = path.rsplit_once('/').unwrap_or(("", path));
    (Path::new(holder), leaf)
}

/// Whether a version has all files of the payload, with their content, and no other.
fn holds_exactly(dir: &Dir, version: &OsStr, payload: &Payload) -> Result<bool, FsError> {
    let version = dir.child(version).doing("open", dir.path_of(version))?;
    let (mut pending, mut count) = (vec![PathBuf::new()], 0);
    while let Some(path) = pending.pop() {
        let current = version.descend(&path).doing("open", version.path_of(&path))?;
        for entry in current.entries().doing("list", current.path())? {
            let path = path.join(&entry.name);
            if entry.kind == FileType::Directory || is_directory(&current, &entry) {
                pending.push(path);
                continue;
            }
            let file = path.to_str().and_then(|path| payload.file(path));
            let Some(file) = file else { return Ok(false) };
            if !current.file_equals(&entry.name, &file.data).doing("read", current.path_of(&entry.name))? {
                return Ok(false);
            }
            count += 1;
        }
    }
    Ok(count == payload.len())
}

fn is_directory(dir: &Dir, entry: &Entry) -> bool {
    entry.kind == FileType::Unknown && dir.handle(&entry.name).is_ok_and(|handle| handle.is_dir())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt, symlink};

    use proptest::prelude::*;

    use super::super::payload::FileProjection;
    use super::*;
    use crate::sys::mount::RecordingMounts;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| FileProjection { data: text.as_bytes().to_vec(), mode: 0o644, user: None };
        Payload::new(files.iter().map(|(path, text)| ((*path).to_owned(), file(text)))).unwrap()
    }

    struct Volume {
        temp: tempfile::TempDir,
        mounts: RecordingMounts,
    }

    impl Volume {
        fn new() -> Self {
            Volume { temp: tempfile::tempdir().unwrap(), mounts: RecordingMounts::default() }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.temp.path().join(path)
        }

        fn write(&self, payload: &Payload) -> Result<bool, FsError> {
            self.write_until(payload, usize::MAX)
        }

        /// Ends the write, as a crash would, ahead of the change with that number.
        fn write_until(&self, payload: &Payload, mut steps: usize) -> Result<bool, FsError> {
            let dir = Dir::open(self.temp.path()).unwrap();
            let now = Timestamp::from_second(1_700_000_000).unwrap();
            let writer = AtomicWriter { dir: &dir, fs_group: None, now, mounts: &self.mounts };
            writer.write_in_steps(payload, &mut |step| {
                steps = steps.checked_sub(1).ok_or(()).map_err(|()| io::Error::other("crash")).doing(step, "here")?;
                Ok(())
            })
        }

        fn names(&self) -> Vec<String> {
            let names = std::fs::read_dir(self.temp.path()).unwrap();
            let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn version(&self) -> String {
            std::fs::read_link(self.path(DATA)).unwrap().to_str().unwrap().to_owned()
        }

        /// The files below `..data`, as a reader that goes through it sees them.
        fn data(&self) -> BTreeMap<String, String> {
            let mut files = BTreeMap::new();
            let root = self.path(DATA);
            let mut pending = vec![root.clone()];
            while let Some(dir) = pending.pop() {
                for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        pending.push(path);
                    } else {
                        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                        files.insert(name, std::fs::read_to_string(&path).unwrap());
                    }
                }
            }
            files
        }

        /// The volume holds exactly that and no left-overs.
        fn assert_shows(&self, expected: &Payload) {
            let texts = expected.files().map(|(path, f)| (path.to_owned(), String::from_utf8(f.data.clone()).unwrap()));
            let texts: BTreeMap<String, String> = texts.collect();
            assert_eq!(self.data(), texts);
            for (path, text) in &texts {
                assert_eq!(&std::fs::read_to_string(self.path(path)).unwrap(), text);
            }
            let mut names: Vec<String> = expected.top_level().keys().map(|name| (*name).to_owned()).collect();
            names.extend([DATA.to_owned(), self.version()]);
            names.sort();
            assert_eq!(self.names(), names);
        }
    }

    #[test]
    fn the_layout_is_the_one_consumers_know() {
        let volume = Volume::new();
        assert!(volume.write(&payload(&[("a", "1"), ("d/b", "2"), ("d/e/c", "3")])).unwrap());
        let version = volume.version();
        let number = version.strip_prefix("..2023_11_14_22_13_20.").unwrap();
        assert!(number.parse::<u32>().is_ok());
        assert_eq!(std::fs::metadata(volume.path(&version)).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::read_link(volume.path("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(std::fs::read_link(volume.path("d")).unwrap(), Path::new("..data/d"));
        assert_eq!(std::fs::read_to_string(volume.path("d/e/c")).unwrap(), "3");
        assert_eq!(volume.names(), ["..2023", "..data", "a", "d"].map(|n| if n == "..2023" { &version } else { n }));
    }

    #[test]
    fn nothing_is_written_without_a_change() {
        let volume = Volume::new();
        let files = payload(&[("a", "1"), ("d/b", "2")]);
        assert!(volume.write(&files).unwrap());
        let version = volume.version();
        assert!(!volume.write(&files).unwrap());
        assert_eq!(volume.version(), version);
        assert!(!volume.write_until(&files, 0).unwrap());
    }

    #[rstest::rstest]
    #[case::changed(&[("a", "1"), ("b", "1")], &[("a", "1"), ("b", "2")])]
    #[case::added(&[("a", "1")], &[("a", "1"), ("b", "2")])]
    #[case::removed(&[("a", "1"), ("b", "2")], &[("a", "1")])]
    #[case::removed_below(&[("d/a", "1"), ("d/b", "2")], &[("d/a", "1")])]
    #[case::file_to_directory(&[("a", "1")], &[("a/b", "1")])]
    #[case::directory_to_file(&[("a/b", "1")], &[("a", "1")])]
    #[case::emptied(&[("a", "1")], &[])]
    #[case::filled(&[], &[("a", "1")])]
    #[case::same_length(&[("a", "1")], &[("a", "2")])]
    fn updates(#[case] old: &[(&str, &str)], #[case] new: &[(&str, &str)]) {
        let volume = Volume::new();
        assert!(volume.write(&payload(old)).unwrap());
        volume.assert_shows(&payload(old));
        assert!(volume.write(&payload(new)).unwrap());
        volume.assert_shows(&payload(new));
    }

    #[test]
    fn a_crash_at_any_step_shows_one_version_and_heals() {
        let old = payload(&[("a", "old"), ("d/b", "old"), ("gone", "old")]);
        let new = payload(&[("a", "new"), ("d/b", "new"), ("fresh/x", "new")]);
        let texts = |p: &Payload| -> BTreeMap<String, String> {
            p.files().map(|(path, f)| (path.to_owned(), String::from_utf8(f.data.clone()).unwrap())).collect()
        };
        let mut steps = 0;
        loop {
            let volume = Volume::new();
            volume.write(&old).unwrap();
            let is_done = volume.write_until(&new, steps).is_ok();
            let seen = volume.data();
            assert!(seen == texts(&old) || seen == texts(&new), "after {steps} steps: {seen:?}");
            // Names that both versions have are readable at all times.
            let shared = [volume.path("a"), volume.path("d/b")].map(|path| std::fs::read_to_string(path).unwrap());
            assert!(shared[0] == shared[1], "after {steps} steps");
            // A second crash while healing, then a write that ends.
            let _ = volume.write_until(&new, 1);
            volume.write(&new).unwrap();
            volume.assert_shows(&new);
            // And back, from a half-done state as well.
            volume.write(&old).unwrap();
            volume.assert_shows(&old);
            if is_done {
                break;
            }
            steps += 1;
        }
        assert!(steps > 8, "only {steps} steps were tried");
    }

    #[test]
    fn a_crash_in_the_first_write_heals() {
        let files = payload(&[("a", "1"), ("d/b", "2")]);
        for steps in 0..20 {
            let volume = Volume::new();
            let is_done = volume.write_until(&files, steps).is_ok();
            volume.write(&files).unwrap();
            volume.assert_shows(&files);
            if is_done {
                return;
            }
        }
        panic!("the write never ended");
    }

    #[test]
    fn mount_points_for_other_volumes_are_left() {
        let volume = Volume::new();
        std::fs::create_dir(volume.path("b")).unwrap();
        volume.write(&payload(&[("a", "1"), ("b", "2")])).unwrap();
        assert!(volume.path("b").symlink_metadata().unwrap().is_dir());
        volume.write(&payload(&[("a", "1")])).unwrap();
        assert!(volume.path("b").is_dir());
    }

    #[test]
    fn strange_links_are_put_right() {
        let volume = Volume::new();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "x").unwrap();
        symlink(outside.path(), volume.path(DATA)).unwrap();
        symlink(outside.path().join("kept"), volume.path("a")).unwrap();
        symlink(outside.path(), volume.path("..2001_bad")).unwrap();
        volume.write(&payload(&[("a", "1")])).unwrap();
        volume.assert_shows(&payload(&[("a", "1")]));
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        let volume = Volume::new();
        let file = FileProjection { data: b"x".to_vec(), mode: 0o666, user: None };
        volume.write(&Payload::new([("d/a".to_owned(), file)]).unwrap()).unwrap();
        let mode = |path: &str| std::fs::metadata(volume.path(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("d/a"), mode("d")), (0o666, 0o755));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However a volume got to where it is, it ends as the last payload, and a repeated write changes nothing.
        #[test]
        fn any_sequence_ends_as_its_last(
            sequence in proptest::collection::vec(
                (proptest::collection::btree_map("[a-c](/[a-c]){0,2}", "[xy]{0,2}", 0..4), 0_usize..12), 1..4)
        ) {
            let volume = Volume::new();
            let payloads = sequence.iter().filter_map(|(files, steps)| {
                let files: Vec<_> = files.iter().map(|(path, text)| {
                    (path.clone(), FileProjection { data: text.clone().into_bytes(), mode: 0o644, user: None })
                }).collect();
                Some((Payload::new(files).ok()?, *steps))
            });
            let mut last = None;
            for (files, steps) in payloads {
                let _ = volume.write_until(&files, steps);
                last = Some(files);
            }
            if let Some(files) = last {
                volume.write(&files).unwrap();
                volume.assert_shows(&files);
                prop_assert!(!volume.write_until(&files, 0).unwrap());
            }
        }
    }
}
