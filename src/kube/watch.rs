//! A list and watch that goes on: through restarts of the API server, dropped connections and expired resource versions.
//!
//! Own rather than kube-runtime's `watcher` for what a node agent needs beside it: a complete replacement set after each list,
//! page by page pruned, so that a relist costs no more memory than what is kept; a server that closes watches at once is backed
//! off from instead of asked in a loop; a resource version from the future (etcd restored) leads to a list; recovery within
//! seconds, where the common default waits 30 s.
//!
//! Lists are paged and consistent (no resource version), which API servers since 1.34 answer from their cache. Streaming lists
//! are not used: with pruned pages they would save nothing here, and older servers refuse them.

use std::fmt::Debug;
use std::time::Duration;

use ::kube::api::{ListParams, WatchEvent as ApiEvent, WatchParams};
use ::kube::{Api, Resource, ResourceExt};
use futures::StreamExt;
use futures::stream::BoxStream;
use rand::RngExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::error;

/// A watch that ends sooner than this without an event is a failure, not the server's ordinary timeout.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// How long past the watch's own timeout the server may stay silent.
const SILENCE: Duration = Duration::from_secs(15);
/// Failing that long is worth a warning; what is over sooner, such as a server's restart behind a load balancer, is not.
const WARN_AFTER: Duration = Duration::from_secs(5);
/// And so many failures later another one.
const WARN_EVERY: u32 = 64;

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent<K> {
    /// The complete set as of now: after the first list and after each later one. What is not in it is gone.
    Replaced(Vec<K>),
    /// Added or changed.
    Applied(K),
    /// Gone; the object's last state.
    Deleted(K),
}

/// One failed attempt. The watch goes on by itself after `retry_in`; callers need not act.
#[derive(Debug, thiserror::Error)]
#[error("{stage} of {subject} failed, next attempt in {retry_in:?}: {}", error::message(.source))]
pub struct WatchFailure {
    /// `list` or `watch`.
    pub stage: &'static str,
    /// What is watched.
    pub subject: String,
    /// The pause that the next call of [`ObjectWatch::next`] begins with.
    pub retry_in: Duration,
    /// The cause.
    #[source]
    pub source: ::kube::Error,
}

impl WatchFailure {
    /// The authorizer refused; for a node's objects that may change within milliseconds.
    pub fn is_forbidden(&self) -> bool {
        error::is_forbidden(&self.source)
    }
}

/// What to watch and how.
pub struct WatchOptions<K> {
    /// What is watched, for logs.
    pub subject: String,
    /// Field selector.
    pub fields: Option<String>,
    /// Objects a page.
    pub page_size: u32,
    /// Seconds after which the server ends a watch, drawn anew for each from this range.
    pub timeout_seconds: std::ops::Range<u32>,
    /// The first pause after a failure; it doubles up to `max_retry`.
    pub first_retry: Duration,
    /// The first pause after a refusal by the authorizer.
    pub refused_retry: Duration,
    /// The longest pause, before jitter, which makes it up to a quarter longer.
    pub max_retry: Duration,
    /// Whether failures are left to debug output: for many watches of one server, of which one speaks for all.
    pub quiet: bool,
    /// Cuts away what is not needed, before an object is kept or handed on.
    pub prune: fn(&mut K),
}

impl<K> WatchOptions<K> {
    /// client-go's numbers (pages of 500, watches of 5 to 10 minutes) with a first retry after 100 ms.
    pub fn new(subject: impl Into<String>) -> Self {
        WatchOptions {
            subject: subject.into(),
            fields: None,
            page_size: 500,
            timeout_seconds: 300..600,
            first_retry: Duration::from_millis(100),
            refused_retry: Duration::from_millis(100),
            max_retry: Duration::from_secs(4),
            quiet: false,
            prune: |_| {},
        }
    }
}

enum Phase<K> {
    /// The complete set has to be read.
    List,
    /// A watch has to be opened from this version.
    Open { version: String },
    /// A watch is open; `version` is the newest seen.
    Follow {
        version: String,
        stream: BoxStream<'static, ::kube::Result<ApiEvent<K>>>,
        opened: Instant,
        silence: Duration,
    },
}

/// A watch of one resource.
pub struct ObjectWatch<K> {
    api: Api<K>,
    options: WatchOptions<K>,
    phase: Phase<K>,
    failures: u32,
    failing_since: Option<Instant>,
    warned: bool,
    wait_until: Option<Instant>,
    unpaged: bool,
}

impl<K> ObjectWatch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// A watch that begins with a list at the first [`Self::next`].
    pub fn new(api: Api<K>, options: WatchOptions<K>) -> Self {
        ObjectWatch {
            api,
            options,
            phase: Phase::List,
            failures: 0,
            failing_since: None,
            warned: false,
            wait_until: None,
            unpaged: false,
        }
    }

    /// The next event, or the failure of an attempt, after which to call again.
    ///
    /// Cancel-safe: a call that is dropped loses no event; a list under way is begun anew, and a pause keeps its end.
    pub async fn next(&mut self) -> Result<WatchEvent<K>, WatchFailure> {
        loop {
            if let Some(at) = self.wait_until {
                tokio::time::sleep_until(at).await;
                self.wait_until = None;
            }
            match &mut self.phase {
                Phase::List => {
                    let (objects, version) = match self.list().await {
                        Ok(listed) => listed,
                        Err(error) => return Err(self.failed("list", error)),
                    };
                    self.phase = Phase::Open { version };
                    return Ok(WatchEvent::Replaced(objects));
                }
                Phase::Open { version } => {
                    let version = version.clone();
                    let seconds = rand::rng().random_range(self.options.timeout_seconds.clone());
                    let mut params = WatchParams::default().timeout(seconds);
                    params.field_selector = self.options.fields.clone();
                    match self.api.watch(&params, &version).await {
                        Ok(stream) => {
                            self.note_open();
                            let silence = Duration::from_secs(seconds.into()) + SILENCE;
                            self.phase =
                                Phase::Follow { version, stream: stream.boxed(), opened: Instant::now(), silence };
                        }
                        Err(error) => {
                            if error::status(&error).is_some_and(error::is_expired) {
                                self.phase = Phase::List;
                            }
                            return Err(self.failed("watch", error));
                        }
                    }
                }
                Phase::Follow { stream, silence, .. } => {
                    let item = tokio::time::timeout(*silence, stream.next()).await;
                    if let Some(outcome) = self.followed(item.unwrap_or(None)) {
                        return outcome;
                    }
                }
            }
        }
    }

    /// What an item of the stream, or its end, means.
    fn followed(&mut self, item: Option<::kube::Result<ApiEvent<K>>>) -> Option<Result<WatchEvent<K>, WatchFailure>> {
        let Phase::Follow { version, opened, .. } = &mut self.phase else { return None };
        match item {
            Some(Ok(ApiEvent::Added(mut object) | ApiEvent::Modified(mut object))) => {
                note_version(version, &object);
                self.recovered();
                (self.options.prune)(&mut object);
                Some(Ok(WatchEvent::Applied(object)))
            }
            Some(Ok(ApiEvent::Deleted(mut object))) => {
                note_version(version, &object);
                self.recovered();
                (self.options.prune)(&mut object);
                Some(Ok(WatchEvent::Deleted(object)))
            }
            Some(Ok(ApiEvent::Bookmark(bookmark))) => {
                *version = bookmark.metadata.resource_version;
                self.recovered();
                None
            }
            Some(Ok(ApiEvent::Error(status))) => {
                let version = std::mem::take(version);
                self.phase = if error::is_expired(&status) { Phase::List } else { Phase::Open { version } };
                Some(Err(self.failed("watch", ::kube::Error::Api(status))))
            }
            Some(Err(error)) => {
                let (version, lasted) = (std::mem::take(version), opened.elapsed());
                self.phase = Phase::Open { version };
                if lasted >= SHORTEST_WATCH {
                    self.recovered();
                }
                Some(Err(self.failed("watch", error)))
            }
            None => {
                let (version, lasted) = (std::mem::take(version), opened.elapsed());
                self.phase = Phase::Open { version };
                if lasted >= SHORTEST_WATCH {
                    self.recovered();
                    return None;
                }
                let closed = std::io::Error::other("the server closed the watch at once");
                Some(Err(self.failed("watch", ::kube::Error::ReadEvents(closed))))
            }
        }
    }

    /// Reads the complete set, page by page, and the version that a watch goes on from.
    async fn list(&mut self) -> ::kube::Result<(Vec<K>, String)> {
        let mut objects = Vec::new();
        let mut params = ListParams { field_selector: self.options.fields.clone(), ..ListParams::default() };
        params.limit = (!self.unpaged).then_some(self.options.page_size);
        loop {
            let page = match self.api.list(&params).await {
                Ok(page) => page,
                Err(error) => {
                    // A set that changes faster than its pages are read is read in one, like client-go does.
                    let outrun =
                        params.continue_token.is_some() && error::status(&error).is_some_and(error::is_expired);
                    self.unpaged = outrun;
                    return Err(error);
                }
            };
            objects.extend(page.items.into_iter().map(|mut object| {
                (self.options.prune)(&mut object);
                object
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    self.unpaged = false;
                    objects.shrink_to_fit();
                    return Ok((objects, page.metadata.resource_version.unwrap_or_default()));
                }
            }
        }
    }

    fn failed(&mut self, stage: &'static str, source: ::kube::Error) -> WatchFailure {
        let refused = error::is_forbidden(&source);
        let first = if refused { self.options.refused_retry } else { self.options.first_retry };
        let retry_in = retry_delay(self.failures, first, self.options.max_retry, rand::rng().random());
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        self.wait_until = Some(now + retry_in);
        let failure = WatchFailure { stage, subject: self.options.subject.clone(), retry_in, source };
        let lasts = now.duration_since(since);
        let due = !self.warned || self.failures.is_multiple_of(WARN_EVERY);
        if due && lasts >= WARN_AFTER && !self.options.quiet {
            self.warned = true;
            tracing::warn!(failures = self.failures, failing_for = ?lasts, "{failure}");
        } else {
            tracing::debug!(failures = self.failures, "{failure}");
        }
        failure
    }

    /// The server took the watch. Whether it keeps it is to be seen: the count of failures stays until then.
    fn note_open(&mut self) {
        if std::mem::take(&mut self.warned) {
            tracing::info!(failures = self.failures, "watch of {} goes on", self.options.subject);
        }
        self.failing_since = None;
    }

    fn recovered(&mut self) {
        self.failures = 0;
    }
}

/// An object without a version (which the API never sends) must not make the watch restart from the beginning of time.
fn note_version<K: ResourceExt>(version: &mut String, object: &K) {
    if let Some(newer) = object.resource_version().filter(|v| !v.is_empty()) {
        *version = newer;
    }
}

/// The pause before the next attempt: `first` doubled for each earlier failure, at most `max`, then jittered by `random` (0 to
/// 1) to between half and one and a quarter of it, so that the nodes of a cluster do not all come back in the same moment.
fn retry_delay(failures: u32, first: Duration, max: Duration, random: f64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.min(16)).min(max);
    doubled.mul_f64(0.5 + 0.75 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::testing::{FakeApi, list, object};
    use super::*;

    fn watch(fake: &FakeApi) -> ObjectWatch<ConfigMap> {
        let mut options = WatchOptions::new("configmaps");
        options.prune = |object: &mut ConfigMap| object.metadata.managed_fields = None;
        ObjectWatch::new(Api::namespaced(fake.client(), "ns"), options)
    }

    fn map(name: &str, version: u32) -> Value {
        object("v1", "ConfigMap", "ns", name, version, json!({"data": {"v": version.to_string()}}))
    }

    fn names(event: WatchEvent<ConfigMap>) -> String {
        let name = |o: ConfigMap| format!("{}@{}", o.name_any(), o.resource_version().unwrap_or_default());
        match event {
            WatchEvent::Replaced(all) => format!("= {}", all.into_iter().map(name).collect::<Vec<_>>().join(" ")),
            WatchEvent::Applied(one) => format!("+ {}", name(one)),
            WatchEvent::Deleted(one) => format!("- {}", name(one)),
        }
    }

    /// Drives the watch and the fake server side by side.
    async fn step<T>(
        watch: &mut ObjectWatch<ConfigMap>,
        server: impl Future<Output = T>,
    ) -> (Result<String, String>, T) {
        let (event, answer) = tokio::join!(watch.next(), server);
        (event.map(names).map_err(|f| format!("{} {}", f.stage, error::message(&f.source))), answer)
    }

    #[tokio::test(start_paused = true)]
    async fn list_then_watch() {
        let mut fake = FakeApi::new();
        let mut watch = watch(&fake);
        let (event, ()) = step(&mut watch, async {
            let request = fake.next().await;
            assert_eq!(request.path(), "/api/v1/namespaces/ns/configmaps?&limit=500");
            request.json(list("ConfigMapList", 7, None, &[map("a", 3), map("b", 7)]));
        })
        .await;
        assert_eq!(event.unwrap(), "= a@3 b@7");
        let (event, mut feed) = step(&mut watch, async {
            let request = fake.next().await;
            assert!(
                request.path().contains("watch=true") && request.path().ends_with("&resourceVersion=7"),
                "{}",
                request.path()
            );
            let feed = request.watch();
            feed.send("ADDED", map("c", 8));
            feed
        })
        .await;
        assert_eq!(event.unwrap(), "+ c@8");
        feed.send("DELETED", map("a", 9));
        assert_eq!(names(watch.next().await.unwrap()), "- a@9");

        // A bookmark moves the version on; the server's ordinary end of a watch is no failure.
        feed.bookmark("ConfigMap", 20);
        tokio::time::advance(Duration::from_secs(400)).await;
        feed = {
            let (event, feed) = step(&mut watch, async {
                drop(feed);
                let request = fake.next().await;
                assert!(request.path().ends_with("&resourceVersion=20"), "{}", request.path());
                let feed = request.watch();
                feed.send("MODIFIED", map("b", 21));
                feed
            })
            .await;
            assert_eq!(event.unwrap(), "+ b@21");
            feed
        };
        drop(feed);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_joined() {
        let mut fake = FakeApi::new();
        let mut watch = watch(&fake);
        let (event, ()) = step(&mut watch, async {
            fake.next().await.json(list("ConfigMapList", 7, Some("more"), &[map("a", 3)]));
            let second = fake.next().await;
            assert!(second.path().contains("continue=more"), "{}", second.path());
            second.json(list("ConfigMapList", 7, None, &[map("b", 4)]));
        })
        .await;
        assert_eq!(event.unwrap(), "= a@3 b@4");
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_page_leads_to_one_unpaged_list() {
        let mut fake = FakeApi::new();
        let mut watch = watch(&fake);
        let (event, ()) = step(&mut watch, async {
            fake.next().await.json(list("ConfigMapList", 7, Some("more"), &[map("a", 3)]));
            fake.next().await.status(410, "Expired", "continue token is too old");
        })
        .await;
        assert_eq!(event.unwrap_err(), "list continue token is too old");
        let (event, ()) = step(&mut watch, async {
            let request = fake.next().await;
            assert!(!request.path().contains("limit") && !request.path().contains("continue"), "{}", request.path());
            request.json(list("ConfigMapList", 9, None, &[map("a", 3), map("b", 9)]));
        })
        .await;
        assert_eq!(event.unwrap(), "= a@3 b@9");
    }

    async fn following(fake: &mut FakeApi) -> (ObjectWatch<ConfigMap>, super::super::testing::Feed) {
        let mut watch = watch(fake);
        let (event, ()) =
            step(&mut watch, async { fake.next().await.json(list("ConfigMapList", 7, None, &[map("a", 3)])) }).await;
        assert_eq!(event.unwrap(), "= a@3");
        let (event, feed) = step(&mut watch, async {
            let feed = fake.next().await.watch();
            feed.send("MODIFIED", map("a", 8));
            feed
        })
        .await;
        assert_eq!(event.unwrap(), "+ a@8");
        (watch, feed)
    }

    #[rstest::rstest]
    #[case::gone(410, "Expired", "too old resource version")]
    #[case::future(504, "Timeout", "Too large resource version: 8, current: 2")]
    #[tokio::test(start_paused = true)]
    async fn an_expired_version_is_listed_anew(#[case] code: u16, #[case] reason: &str, #[case] message: &str) {
        let mut fake = FakeApi::new();
        let (mut watch, feed) = following(&mut fake).await;
        feed.error(code, reason, message);
        assert!(watch.next().await.is_err());
        let (event, ()) =
            step(&mut watch, async { fake.next().await.json(list("ConfigMapList", 50, None, &[map("z", 50)])) }).await;
        assert_eq!(event.unwrap(), "= z@50");
    }

    #[tokio::test(start_paused = true)]
    async fn gone_when_the_watch_is_opened() {
        let mut fake = FakeApi::new();
        let (mut watch, feed) = following(&mut fake).await;
        feed.disconnect();
        assert!(watch.next().await.is_err());
        let (event, ()) = step(&mut watch, async { fake.next().await.status(410, "Expired", "too old") }).await;
        assert_eq!(event.unwrap_err(), "watch too old");
        let (event, ()) =
            step(&mut watch, async { fake.next().await.json(list("ConfigMapList", 60, None, &[])) }).await;
        assert_eq!(event.unwrap(), "= ");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_out_and_the_watch_goes_on_where_it_was() {
        let mut fake = FakeApi::new();
        let (mut watch, feed) = following(&mut fake).await;
        feed.disconnect();
        let start = Instant::now();
        assert!(watch.next().await.is_err());
        let mut attempts = 0;
        while start.elapsed() < Duration::from_secs(120) {
            let (event, ()) = step(&mut watch, async { fake.next().await.refuse() }).await;
            assert!(event.is_err());
            attempts += 1;
        }
        assert!((24..80).contains(&attempts), "{attempts} attempts in two minutes");
        let back = Instant::now();
        let (event, feed) = step(&mut watch, async {
            let request = fake.next().await;
            assert!(request.path().ends_with("&resourceVersion=8"), "{}", request.path());
            let feed = request.watch();
            feed.send("MODIFIED", map("a", 9));
            feed
        })
        .await;
        assert_eq!(event.unwrap(), "+ a@9");
        assert!(back.elapsed() <= Duration::from_secs(5));
        // After success the pauses begin short again.
        feed.disconnect();
        assert!(watch.next().await.unwrap_err().retry_in <= Duration::from_millis(125));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_closes_at_once_is_not_asked_in_a_loop() {
        let mut fake = FakeApi::new();
        let (mut watch, feed) = following(&mut fake).await;
        drop(feed);
        assert_eq!(watch.next().await.unwrap_err().stage, "watch");
        let start = Instant::now();
        for _ in 0..10 {
            let (event, ()) = step(&mut watch, async { drop(fake.next().await.watch()) }).await;
            assert!(event.is_err());
        }
        assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_replaced() {
        let mut fake = FakeApi::new();
        let (mut watch, _feed) = following(&mut fake).await;
        let start = Instant::now();
        let (event, _feed) = step(&mut watch, async {
            let feed = fake.next().await.watch();
            feed.send("MODIFIED", map("a", 9));
            feed
        })
        .await;
        assert_eq!(event.unwrap(), "+ a@9");
        assert!(start.elapsed() <= Duration::from_secs(600 + 15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_loses_nothing() {
        let mut fake = FakeApi::new();
        let (mut watch, feed) = following(&mut fake).await;
        for _ in 0..3 {
            assert!(tokio::time::timeout(Duration::from_millis(5), watch.next()).await.is_err());
        }
        feed.send("MODIFIED", map("a", 9));
        assert_eq!(names(watch.next().await.unwrap()), "+ a@9");
    }

    proptest! {
        #[test]
        fn delays_stay_in_bounds(failures in 0u32..10_000, first in 1u64..1000, random in 0.0f64..=1.0) {
            let delay = retry_delay(failures, Duration::from_millis(first), Duration::from_secs(4), random);
            prop_assert!(delay <= Duration::from_secs(5));
            prop_assert!(delay >= Duration::from_millis(first) / 2);
        }
    }
}
