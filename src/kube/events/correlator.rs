//! Decides what becomes of an event: written, counted up, combined with its likes, or dropped as spam. Pure: the time is an
//! argument. The numbers and keys are those of client-go's `tools/record`, since clients count on them.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, ObjectReference};
use serde_json::{Value, json};

use super::lru::{Digest, Digester, Lru};
use crate::model::dns::is_subdomain;
use crate::model::{SignedDuration, Timestamp, TokenBucket, clock};

/// Entries of each memory.
const MEMORY: usize = 4096;
/// Events that differ only by their message are combined from this number on.
const COMBINE_FROM: usize = 10;
/// Likes further apart than that begin a new count.
const COMBINE_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// Events about one object and of one type at once.
const SPAM_BURST: u32 = 25;
/// And then one in 5 minutes.
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;
/// What a combined event's message begins with.
const COMBINED_PREFIX: &str = "(combined from similar events): ";

/// What to do with an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decision {
    /// Nothing: the object has had its share.
    Drop,
    /// Write it.
    Create(Box<Event>),
    /// Count up the one that was written before: patch it, or write the event whole if it is gone by now.
    CountUp {
        /// The event with its count.
        event: Box<Event>,
        /// Strategic merge patch of the written one.
        patch: Value,
    },
}

/// The memory by which events are told apart.
#[derive(Debug)]
pub(super) struct Correlator {
    digester: Digester,
    /// By object and type.
    spam: Lru<TokenBucket>,
    likes: Lru<Likes>,
    written: Lru<Written>,
}

/// Events that differ only by their message.
#[derive(Debug)]
struct Likes {
    messages: HashSet<Digest>,
    last: Timestamp,
}

/// An event as it was last sent.
#[derive(Debug)]
struct Written {
    count: i32,
    first: Timestamp,
    name: Box<str>,
}

impl Correlator {
    /// One that has seen nothing.
    pub(super) fn new() -> Self {
        Correlator {
            digester: Digester::default(),
            spam: Lru::new(MEMORY),
            likes: Lru::new(MEMORY),
            written: Lru::new(MEMORY),
        }
    }

    /// Decides on a new event, which has count 1 and the same first and last time.
    pub(super) fn correlate(&mut self, event: Event, now: Timestamp) -> Decision {
        let (event, key) = self.combine(event, now);
        let decision = self.count(event, key);
        let (Decision::Create(event) | Decision::CountUp { event, .. }) = &decision else { return decision };
        match self.is_spam(event, now) {
            true => Decision::Drop,
            false => decision,
        }
    }

    /// The server took the event, perhaps under another name or count: the next of its kind counts on from there.
    pub(super) fn written(&mut self, event: &Event) {
        let key = self.event_key(event);
        self.remember(key, event);
    }

    /// From the tenth different message on, likes become one event under a key of their own.
    fn combine(&mut self, event: Event, now: Timestamp) -> (Event, Digest) {
        let own_key = self.event_key(&event);
        let likes_key = self.likes_key(&event);
        let message = self.digester.digest(&[text(&event.message)]);
        let likes = self.likes.get_or_insert_with(likes_key, || Likes { messages: HashSet::new(), last: now });
        if now.duration_since(likes.last) > COMBINE_WITHIN {
            likes.messages.clear();
        }
        likes.messages.insert(message);
        likes.last = now;
        if likes.messages.len() < COMBINE_FROM {
            return (event, own_key);
        }
        // Stays one short of the limit: the next different message reaches it again.
        if let Some(one) = likes.messages.iter().next().copied() {
            likes.messages.remove(&one);
        }
        let mut combined = event;
        combined.metadata.name = Some(event_name(&combined.involved_object, now));
        combined.metadata.annotations = None;
        combined.message = Some(format!("{COMBINED_PREFIX}{}", text(&combined.message)));
        combined.count = Some(1);
        combined.first_timestamp = Some(clock::api_time(now));
        combined.last_timestamp = Some(clock::api_time(now));
        (combined, likes_key)
    }

    /// A key seen before counts up the event that was written for it.
    fn count(&mut self, mut event: Event, key: Digest) -> Decision {
        let decision = match self.written.peek(key) {
            Some(before) => {
                event.metadata.name = Some(before.name.to_string());
                event.count = Some(before.count.saturating_add(1));
                event.first_timestamp = Some(clock::api_time(before.first));
                let last = event.last_timestamp.as_ref().map(|t| t.0.to_string());
                let patch = json!({"count": event.count, "lastTimestamp": last, "message": event.message});
                Decision::CountUp { event: Box::new(event.clone()), patch }
            }
            None => Decision::Create(Box::new(event.clone())),
        };
        self.remember(key, &event);
        decision
    }

    fn remember(&mut self, key: Digest, event: &Event) {
        let (Some(count), Some(first)) = (event.count, event.first_timestamp.as_ref()) else { return };
        let name = text(&event.metadata.name).into();
        self.written.put(key, Written { count, first: first.0, name });
    }

    fn is_spam(&mut self, event: &Event, now: Timestamp) -> bool {
        let key = self.spam_key(event);
        let now = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).unwrap_or_default();
        let budget = self.spam.get_or_insert_with(key, || TokenBucket::full(SPAM_PER_SECOND, SPAM_BURST, now));
        !budget.try_take(now)
    }

    /// Two events of one key are the same event at another time.
    fn event_key(&self, event: &Event) -> Digest {
        let [component, host] = source(event);
        let object = &event.involved_object;
        self.digester.digest(&[
            component,
            host,
            text(&object.kind),
            text(&object.namespace),
            text(&object.name),
            text(&object.field_path),
            text(&object.uid),
            text(&object.api_version),
            text(&event.type_),
            text(&event.reason),
            text(&event.message),
        ])
    }

    /// Two events of one key differ at most by message and container.
    fn likes_key(&self, event: &Event) -> Digest {
        let [component, host] = source(event);
        let object = &event.involved_object;
        self.digester.digest(&[
            component,
            host,
            text(&object.kind),
            text(&object.namespace),
            text(&object.name),
            text(&object.uid),
            text(&object.api_version),
            text(&event.type_),
            text(&event.reason),
            text(&event.reporting_component),
            text(&event.reporting_instance),
        ])
    }

    /// Events of one key share an object's budget.
    fn spam_key(&self, event: &Event) -> Digest {
        let [component, host] = source(event);
        let object = &event.involved_object;
        self.digester.digest(&[
            component,
            host,
            text(&object.kind),
            text(&object.namespace),
            text(&object.name),
            text(&object.uid),
            text(&object.api_version),
            text(&event.type_),
        ])
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

fn source(event: &Event) -> [&str; 2] {
    let source = event.source.as_ref();
    [source.and_then(|s| s.component.as_deref()), source.and_then(|s| s.host.as_deref())].map(Option::unwrap_or_default)
}

/// `<object>.<nanoseconds in hex>`. An object whose name is no DNS subdomain, or too long a one, gets its events named by the
/// time alone, since the API would refuse them.
pub(super) fn event_name(object: &ObjectReference, now: Timestamp) -> String {
    let base = text(&object.name);
    let name = format!("{base}.{:x}", now.as_nanosecond());
    if is_subdomain(&name) { name } else { format!("event.{:x}-{:08x}", now.as_nanosecond(), rand::random::<u32>()) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::EventSource;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const BASE: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(BASE + second).unwrap()
    }

    fn event(pod: &str, reason: &str, message: &str, now: Timestamp) -> Event {
        let object = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("ns".into()),
            name: Some(pod.into()),
            uid: Some(format!("uid-{pod}")),
            ..ObjectReference::default()
        };
        Event {
            metadata: ObjectMeta {
                name: Some(event_name(&object, now)),
                namespace: Some("ns".into()),
                ..ObjectMeta::default()
            },
            involved_object: object,
            reason: Some(reason.into()),
            message: Some(message.into()),
            type_: Some("Normal".into()),
            count: Some(1),
            first_timestamp: Some(clock::api_time(now)),
            last_timestamp: Some(clock::api_time(now)),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some("n1".into()) }),
            ..Event::default()
        }
    }

    fn shown(decision: &Decision) -> String {
        let line = |what: &str, e: &Event| format!("{what} {} x{}", text(&e.message), e.count.unwrap());
        match decision {
            Decision::Drop => "drop".into(),
            Decision::Create(event) => line("create", event),
            Decision::CountUp { event, .. } => line("count", event),
        }
    }

    #[test]
    fn the_same_event_is_counted() {
        let mut correlator = Correlator::new();
        let first = correlator.correlate(event("p", "Pulled", "image", at(0)), at(0));
        assert_eq!(shown(&first), "create image x1");
        let second = correlator.correlate(event("p", "Pulled", "image", at(5)), at(5));
        let Decision::CountUp { event: counted, patch } = &second else { panic!("{second:?}") };
        assert_eq!(counted.metadata.name, Some(event_name(&counted.involved_object, at(0))));
        assert_eq!(counted.first_timestamp.as_ref().unwrap().0, at(0));
        assert_eq!(*patch, json!({"count": 2, "lastTimestamp": "2027-01-15T08:00:05Z", "message": "image"}));
        assert_eq!(shown(&correlator.correlate(event("q", "Pulled", "image", at(6)), at(6))), "create image x1");
    }

    #[test]
    fn the_servers_word_counts() {
        let mut correlator = Correlator::new();
        let Decision::Create(mut sent) = correlator.correlate(event("p", "Pulled", "image", at(0)), at(0)) else {
            panic!()
        };
        sent.count = Some(41);
        sent.metadata.name = Some("other".into());
        correlator.written(&sent);
        let Decision::CountUp { event: next, .. } = correlator.correlate(event("p", "Pulled", "image", at(1)), at(1))
        else {
            panic!()
        };
        assert_eq!((next.count, next.metadata.name.as_deref()), (Some(42), Some("other")));
    }

    #[test]
    fn likes_are_combined_from_the_tenth_on() {
        let mut correlator = Correlator::new();
        let mut seen = Vec::new();
        for n in 0..12 {
            seen.push(shown(&correlator.correlate(event("p", "Failed", &format!("m{n}"), at(n)), at(n))));
        }
        assert_eq!(seen[8], "create m8 x1");
        assert_eq!(seen[9], "create (combined from similar events): m9 x1");
        assert_eq!(seen[10], "count (combined from similar events): m10 x2");
        assert_eq!(seen[11], "count (combined from similar events): m11 x3");
        // Another reason is another group.
        assert_eq!(shown(&correlator.correlate(event("p", "Killing", "x", at(20)), at(20))), "create x x1");
    }

    #[rstest]
    #[case::within(600, "count (combined from similar events): late x2")]
    #[case::after(601, "create late x1")]
    fn a_group_ends_after_ten_quiet_minutes(#[case] pause: i64, #[case] expected: &str) {
        let mut correlator = Correlator::new();
        for n in 0..10 {
            correlator.correlate(event("p", "Failed", &format!("m{n}"), at(0)), at(0));
        }
        assert_eq!(shown(&correlator.correlate(event("p", "Failed", "late", at(pause)), at(pause))), expected);
    }

    #[test]
    fn a_repeated_message_does_not_make_a_group() {
        let mut correlator = Correlator::new();
        for n in 0..20 {
            let decision = correlator.correlate(event("p", "BackOff", "same", at(n)), at(n));
            assert!(!shown(&decision).contains("combined"), "{decision:?}");
        }
    }

    #[test]
    fn spam_is_dropped_and_refills_slowly() {
        let mut correlator = Correlator::new();
        for n in 0..25 {
            assert_ne!(correlator.correlate(event("p", "BackOff", "same", at(n)), at(n)), Decision::Drop);
        }
        assert_eq!(correlator.correlate(event("p", "BackOff", "same", at(30)), at(30)), Decision::Drop);
        // The budget is the object's: a warning has its own, another pod too.
        let mut warning = event("p", "BackOff", "same", at(30));
        warning.type_ = Some("Warning".into());
        assert_ne!(correlator.correlate(warning, at(30)), Decision::Drop);
        assert_ne!(correlator.correlate(event("q", "BackOff", "same", at(30)), at(30)), Decision::Drop);
        let later = correlator.correlate(event("p", "BackOff", "same", at(330)), at(330));
        assert_eq!(shown(&later), "count same x27", "what was dropped is counted all the same");
        assert_eq!(correlator.correlate(event("p", "BackOff", "same", at(331)), at(331)), Decision::Drop);
    }

    #[rstest]
    #[case("web-0", true)]
    #[case("UPPER", false)]
    #[case("under_score", false)]
    fn names(#[case] base: &str, #[case] kept: bool) {
        let object = ObjectReference { name: Some(base.into()), ..ObjectReference::default() };
        let name = event_name(&object, at(0));
        assert_eq!(name == format!("{base}.18fae27693b40000"), kept, "{name}");
        assert!(is_subdomain(&name), "{name}");
    }

    #[test]
    fn a_long_name_is_cut_short() {
        let object = ObjectReference { name: Some("a".repeat(250)), ..ObjectReference::default() };
        assert!(is_subdomain(&event_name(&object, at(0))));
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::new();
        for n in 0..2 * MEMORY {
            correlator.correlate(event(&format!("p{n}"), "R", "m", at(0)), at(0));
        }
        assert_eq!([correlator.spam.len(), correlator.likes.len(), correlator.written.len()], [MEMORY; 3]);
    }

    proptest! {
        /// Whatever comes, an object gets no more than its burst and refill, and counts of one written event only go up.
        #[test]
        fn budget_and_counts(steps in proptest::collection::vec((0u8..3, 0u8..15, 1i64..120), 1..300)) {
            let mut correlator = Correlator::new();
            let mut now = 0;
            let mut passed = std::collections::HashMap::<u8, Vec<i64>>::new();
            let mut counts = std::collections::HashMap::<String, i32>::new();
            for (pod, message, pause) in steps {
                now += pause;
                let decision = correlator.correlate(event(&format!("p{pod}"), "R", &format!("m{message}"), at(now)), at(now));
                let (Decision::Create(event) | Decision::CountUp { event, .. }) = &decision else { continue };
                passed.entry(pod).or_default().push(now);
                let count = counts.entry(format!("{}/{}", pod, event.metadata.name.clone().unwrap())).or_default();
                if matches!(decision, Decision::CountUp { .. }) {
                    prop_assert!(event.count.unwrap() > *count);
                }
                *count = event.count.unwrap().max(*count);
            }
            for times in passed.values() {
                let span = (times[times.len() - 1] - times[0]) as f64;
                prop_assert!(times.len() as f64 <= f64::from(SPAM_BURST) + span * SPAM_PER_SECOND + 0.001);
            }
        }
    }
}
