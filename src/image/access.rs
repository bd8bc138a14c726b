//! Keeps the records of pulls, and tells by them whether a pod may use an image that is on the node (the peer's
//! pkg/kubelet/images/pullmanager).
//!
//! An image counts as pulled by an agent from the moment at which its pull is intended, so that one whose pull was cut off is
//! closed until somebody has shown that he could pull it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::{count, kubelet as metrics};
use crate::model::clock;
use crate::sys::bulkhead::{BlockingError, Bulkhead};

use super::pull_records::{PullCredentials, PullRecords, PullSecret, file_name};
use super::verification::{Comparison, Verdict, VerificationPolicy, Why, after_pull, compare, judge};

/// Threads for the records: one, by which those who change a record do so one after the other.
pub const BLOCKING_PLACES: usize = 1;
/// How long a pull waits for the records' disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// The records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The files.
    #[error(transparent)]
    Files(#[from] io::Error),
    /// The disk does not answer.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// The records of pulls; clones are one.
#[derive(Clone, Debug)]
pub struct ImageAccess {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    policy: VerificationPolicy,
    records: PullRecords,
    calls: Bulkhead,
    index: Mutex<Index>,
}

/// What files there are, so that images without records, which most are on many nodes, cost no look at the disk.
#[derive(Debug, Default)]
struct Index {
    /// Names of files.
    pulled: BTreeSet<String>,
    /// Images with an intent, and how many pulls are under way; none for those of an agent that was cut off.
    pulling: HashMap<String, usize>,
}

impl Index {
    fn show(&self) {
        metrics::PULLED_RECORDS.set(&[], count(self.pulled.len()));
        metrics::PULL_INTENTS.set(&[], count(self.pulling.len()));
    }

    fn end(&mut self, image: &str) -> usize {
        let Some(pulls) = self.pulling.get_mut(image) else { return 0 };
        *pulls = pulls.saturating_sub(1);
        *pulls
    }
}

impl ImageAccess {
    /// The records below the agent's root directory. Blocks for a moment.
    ///
    /// # Errors
    /// When the folders cannot be made or listed.
    pub fn open(root: &Path, policy: VerificationPolicy) -> io::Result<Self> {
        let records = PullRecords::open(root)?;
        let pulling = records.intents()?.into_iter().map(|image| (image, 0)).collect();
        let index = Index { pulled: records.pulled()?, pulling };
        index.show();
        let calls = Bulkhead::new("the records of pulled images", BLOCKING_PLACES, PATIENCE);
        Ok(ImageAccess { inner: Arc::new(Inner { policy, records, calls, index: Mutex::new(index) }) })
    }

    /// The images whose pull an earlier agent did not see to its end.
    pub(super) fn left_over(&self) -> Vec<String> {
        let index = self.inner.index();
        index.pulling.iter().filter(|(_, pulls)| **pulls == 0).map(|(image, _)| image.clone()).collect()
    }

    /// An earlier agent's pull came to its end after all: nobody knows with which credentials.
    pub(super) async fn settle(&self, image: String, name: String, image_ref: String) {
        if let Err(error) = self.inner.blocking(move |inner| inner.record(&image, &name, &image_ref, None)).await {
            tracing::warn!(%error, "cannot record a pull that an earlier agent began");
        }
    }

    /// Whether a pod may use an image that is on the node. `name` is the image's in the pod without tag and digest,
    /// `of_pod` gets the pod's secrets for it, if they are needed.
    pub(super) async fn may_use(
        &self,
        image: &str,
        name: &str,
        image_ref: &str,
        of_pod: impl Future<Output = Vec<PullSecret>>,
    ) -> bool {
        let (may_use, result) = match self.judge(image, name, image_ref, of_pod).await {
            Ok(Some(Why::Policy)) => (true, "credentialPolicyAllowed"),
            Ok(Some(Why::Record)) => (true, "credentialRecordFound"),
            Ok(None) => (false, "mustAuthenticate"),
            Err(error) => {
                tracing::warn!(image, %error, "cannot read with what an image was pulled: it is pulled again");
                (false, "error")
            }
        };
        metrics::MUST_PULL_CHECKS.increment(&[result]);
        may_use
    }

    async fn judge(
        &self,
        image: &str,
        name: &str,
        image_ref: &str,
        of_pod: impl Future<Output = Vec<PullSecret>>,
    ) -> Result<Option<Why>, RecordError> {
        let (has_record, is_intended) = {
            let index = self.inner.index();
            (index.pulled.contains(&file_name(image_ref)), index.pulling.contains_key(image))
        };
        let record = if has_record {
            let image_ref = image_ref.to_owned();
            self.inner.blocking(move |inner| inner.records.read(&image_ref)).await?
        } else {
            None
        };
        let is_pulled = record.is_some() || is_intended;
        match judge(&self.inner.policy, name, is_pulled, record.as_ref()) {
            Verdict::Allowed(why) => Ok(Some(why)),
            Verdict::MustPull => Ok(None),
            Verdict::IfAmong(known) => match compare(known, &of_pod.await) {
                Comparison::Unknown => Ok(None),
                Comparison::Known => Ok(Some(Why::Record)),
                Comparison::Changed(secret) => {
                    let used = PullCredentials { kubernetes_secrets: vec![secret], ..PullCredentials::default() };
                    self.remember(name, image_ref, used).await;
                    Ok(Some(Why::Record))
                }
            },
        }
    }

    /// Adds to a record what a pod has now. If it fails, the next pod is compared with what was there before.
    async fn remember(&self, name: &str, image_ref: &str, used: PullCredentials) {
        let (name, image_ref) = (name.to_owned(), image_ref.to_owned());
        if let Err(error) = self.inner.blocking(move |inner| inner.write(&name, &image_ref, Some(used))).await {
            tracing::warn!(%error, "cannot record a changed pull secret");
        }
    }

    /// Notes that an image is about to be pulled.
    ///
    /// # Errors
    /// When it cannot be written; the image must not be pulled then.
    pub(super) async fn intend(&self, image: &str) -> Result<PullIntent, RecordError> {
        let owned = image.to_owned();
        self.inner.blocking(move |inner| inner.intend(owned)).await?;
        Ok(PullIntent { inner: Some(self.inner.clone()), image: image.to_owned() })
    }
}

impl Inner {
    /// Reads or changes the records on their thread.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RecordError> {
        let inner = self.clone();
        Ok(self.calls.run(move || work(&inner)).await??)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intend(&self, image: String) -> io::Result<()> {
        if !self.index().pulling.contains_key(&image) {
            self.records.write_intent(&image)?;
        }
        let mut index = self.index();
        *index.pulling.entry(image).or_default() += 1;
        index.show();
        Ok(())
    }

    /// Writes what is new about an image and ends a pull of it. A record that cannot be written leaves the intent.
    fn record(&self, image: &str, name: &str, image_ref: &str, used: Option<PullCredentials>) -> io::Result<()> {
        self.write(name, image_ref, used)?;
        self.end(image)
    }

    fn write(&self, name: &str, image_ref: &str, used: Option<PullCredentials>) -> io::Result<()> {
        let before = self.records.read(image_ref).unwrap_or_else(|error| {
            tracing::info!(image_ref, %error, "the record of a pulled image cannot be read and is written anew");
            None
        });
        let Some(record) = after_pull(before, image_ref, name, used, clock::now()) else { return Ok(()) };
        self.records.write(&record)?;
        let mut index = self.index();
        index.pulled.insert(file_name(image_ref));
        index.show();
        Ok(())
    }

    /// One pull of an image is over; the last takes the intent along.
    fn end(&self, image: &str) -> io::Result<()> {
        if self.index().end(image) > 0 {
            return Ok(());
        }
        self.records.remove_intent(image)?;
        let mut index = self.index();
        index.pulling.remove(image);
        index.show();
        Ok(())
    }
}

/// A pull that was noted. One that is dropped without its end leaves the intent on the disk: nobody knows whether the runtime
/// still ended it.
#[derive(Debug)]
pub(super) struct PullIntent {
    /// None once the end is noted.
    inner: Option<Arc<Inner>>,
    image: String,
}

impl Drop for PullIntent {
    fn drop(&mut self) {
        if let Some(inner) = &self.inner {
            inner.index().end(&self.image);
        }
    }
}

impl PullIntent {
    /// The image was pulled.
    pub(super) async fn pulled(self, name: String, image_ref: String, used: PullCredentials) {
        self.end(move |inner, image| inner.record(image, &name, &image_ref, Some(used))).await;
    }

    /// It was not.
    pub(super) async fn failed(self) {
        self.end(Inner::end).await;
    }

    async fn end(mut self, note: impl FnOnce(&Inner, &str) -> io::Result<()> + Send + 'static) {
        let Some(inner) = self.inner.take() else { return };
        let image = std::mem::take(&mut self.image);
        if let Err(error) = inner.blocking(move |inner| note(inner, &image)).await {
            tracing::warn!(%error, "cannot record the end of a pull; it is tried again at the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct World {
        root: tempfile::TempDir,
        access: ImageAccess,
    }

    fn world() -> World {
        let root = tempfile::tempdir().unwrap();
        let access = ImageAccess::open(root.path(), VerificationPolicy::NeverPreloaded).unwrap();
        World { root, access }
    }

    impl World {
        /// The agent starts again.
        fn restart(self) -> World {
            let access = ImageAccess::open(self.root.path(), VerificationPolicy::NeverPreloaded).unwrap();
            World { access, ..self }
        }

        fn files(&self, folder: &str) -> usize {
            fs::read_dir(self.root.path().join("image_manager").join(folder)).unwrap().count()
        }

        async fn may_use(&self, secrets: &[PullSecret]) -> bool {
            self.access.may_use("a:1", "a", "id", async { secrets.to_vec() }).await
        }
    }

    fn secret(hash: &str) -> PullSecret {
        PullSecret { uid: "u".into(), namespace: "ns".into(), name: "s".into(), credential_hash: hash.into() }
    }

    fn with(secret: PullSecret) -> PullCredentials {
        PullCredentials { kubernetes_secrets: vec![secret], ..PullCredentials::default() }
    }

    #[tokio::test]
    async fn an_image_is_closed_from_its_pull_on_to_those_who_could_not_pull_it() {
        let world = world();
        assert!(world.may_use(&[]).await, "it was there before");
        let intent = world.access.intend("a:1").await.unwrap();
        assert_eq!((world.files("pulling"), world.may_use(&[]).await), (1, false));
        intent.pulled("a".into(), "id".into(), with(secret("1"))).await;
        assert_eq!((world.files("pulling"), world.files("pulled")), (0, 1));
        let world = world.restart();
        assert!(!world.may_use(&[]).await);
        assert!(world.may_use(&[secret("1")]).await);
        // Renewed, it counts from then on as it is now.
        assert!(world.may_use(&[secret("2")]).await);
        let copy = PullSecret { name: "copy".into(), uid: "v".into(), ..secret("2") };
        assert!(world.restart().may_use(&[copy]).await);
    }

    #[tokio::test]
    async fn the_last_pull_takes_the_intent_along_and_one_given_up_leaves_it() {
        let world = world();
        let first = world.access.intend("a:1").await.unwrap();
        let second = world.access.intend("a:1").await.unwrap();
        first.failed().await;
        assert_eq!(world.files("pulling"), 1);
        second.failed().await;
        assert_eq!((world.files("pulling"), world.files("pulled")), (0, 0));
        assert!(world.may_use(&[]).await);

        drop(world.access.intend("a:1").await.unwrap());
        let world = world.restart();
        assert!(!world.may_use(&[]).await, "the runtime may have ended it");
        assert_eq!(world.access.left_over(), ["a:1"]);
        world.access.settle("a:1".into(), "a".into(), "id".into()).await;
        assert_eq!((world.files("pulling"), world.files("pulled")), (0, 1));
        assert!(!world.may_use(&[secret("1")]).await, "nobody knows who could pull it");
        world.access.intend("a:1").await.unwrap().pulled("a".into(), "id".into(), with(secret("1"))).await;
        assert!(world.may_use(&[secret("1")]).await);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_read_opens_nothing() {
        let world = world();
        let open = PullCredentials { node_pods_accessible: true, ..PullCredentials::default() };
        world.access.intend("a:1").await.unwrap().pulled("a".into(), "id".into(), open.clone()).await;
        assert!(world.may_use(&[]).await);
        let path = world.root.path().join("image_manager/pulled").join(file_name("id"));
        fs::write(&path, "{").unwrap();
        assert!(!world.may_use(&[]).await);
        world.access.intend("a:1").await.unwrap().pulled("a".into(), "id".into(), open).await;
        assert!(world.may_use(&[]).await, "the next pull mends it");
    }
}
