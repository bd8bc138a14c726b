use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::kube::testing::{FakeApi, object};

const POD_PATH: &str = "/api/v1/namespaces/ns/pods/p";

fn status(value: Value) -> PodStatus {
    serde_json::from_value(value).unwrap()
}

fn ready(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": status}]})
}

fn pending(message: &str) -> Value {
    json!({"phase": "Pending", "message": message, "conditions": []})
}

/// A pod of that name as the watch shows it; its UID is its name.
fn pod(name: &str, version: u32, api: Value) -> Value {
    object("v1", "Pod", "ns", name, version, json!({"metadata": {"uid": name}, "status": api}))
}

/// An update of a pod whose status in the API is `api`.
fn update(name: &str, version: u32, api: Value, own: Value) -> StatusUpdate {
    let pod: Pod = serde_json::from_value(pod(name, version, api)).unwrap();
    StatusUpdate { pod: Arc::new(pod), status: status(own), delete: false }
}

/// A running writer and its API server.
struct Bench {
    fake: FakeApi,
    writer: StatusWriter,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    began: Instant,
}

impl Bench {
    fn new() -> Self {
        let fake = FakeApi::new();
        let writer = StatusWriter::new(fake.client(), Arc::new(|| false));
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.clone().run(cancel.clone()));
        Bench { fake, writer, cancel, tasks, began: Instant::now() }
    }

    fn publish(&self, name: &str, own: Value) {
        self.writer.publish(update(name, 1, json!({}), own));
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets a minute pass, in which nothing must be sent.
    async fn quiet(&mut self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let request = self.fake.waiting();
        assert!(request.is_none(), "{:?}", request.map(|r| (r.method().to_owned(), r.path())));
    }

    /// What is kept of the pod: whether there is a status to send, one under way, an answer of the API.
    fn kept(&self, name: &str) -> Option<(bool, bool, bool)> {
        let state = self.writer.state();
        let entry = state.entries.get(&PodUid::from(name))?;
        Some((entry.latest.is_some(), entry.sending.is_some(), entry.acknowledged.is_some()))
    }
}

#[tokio::test(start_paused = true)]
async fn the_latest_status_wins_and_the_hold_counts_from_the_first() {
    let mut bench = Bench::new();
    for message in ["a", "b", "c"] {
        bench.publish("p", pending(message));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let request = bench.fake.next().await;
    assert_eq!(bench.elapsed(), HOLD);
    assert_eq!((request.method(), request.path()), ("PATCH", format!("{POD_PATH}/status?")));
    assert_eq!(request.body()["status"]["message"], "c");
    request.json(pod("p", 2, pending("c")));
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_and_each_from_what_the_last_one_left() {
    let mut bench = Bench::new();
    bench.publish("p", ready(true));
    let first = bench.fake.next().await;
    assert_eq!(bench.elapsed(), Duration::ZERO, "someone waits for it");
    bench.publish("p", ready(false));
    bench.quiet().await;
    first.json(pod("p", 2, ready(true)));
    let second = bench.fake.next().await;
    let body = second.body();
    assert_eq!(body["status"]["conditions"], json!([{"type": "Ready", "status": "False"}]));
    assert_eq!(body["status"]["phase"], Value::Null, "the API has it already");
    assert_eq!(body["metadata"]["uid"], "p");
    second.json(pod("p", 3, ready(false)));
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_someone_waits_for_goes_first() {
    let mut bench = Bench::new();
    for i in 0..CONCURRENCY {
        bench.publish(&format!("busy{i}"), pending("m"));
    }
    let mut open = Vec::new();
    for _ in 0..CONCURRENCY {
        open.push(bench.fake.next().await);
    }
    bench.publish("ordinary", pending("m"));
    bench.publish("turns-urgent", pending("m"));
    bench.quiet().await;
    bench.publish("urgent", ready(true));
    bench.publish("turns-urgent", ready(true));
    for expected in ["urgent", "turns-urgent", "ordinary"] {
        open.remove(0).json(pod("busy", 2, json!({})));
        let request = bench.fake.next().await;
        assert_eq!(request.body()["metadata"]["uid"], expected);
        open.push(request);
        bench.quiet().await;
    }
}

#[rstest]
#[case::server_error(Some((500, "InternalError", "etcd is away")))]
#[case::lost_race(Some((409, "Conflict", "the object has been modified")))]
#[case::refused_content(Some((422, "Invalid", "status.phase: Invalid value")))]
#[case::no_server(None)]
#[tokio::test(start_paused = true)]
async fn a_failed_request_is_repeated_ever_more_slowly(#[case] answer: Option<(u16, &str, &str)>) {
    let mut bench = Bench::new();
    bench.publish("p", ready(true));
    let mut times = Vec::new();
    for attempt in 0..9 {
        let request = bench.fake.next().await;
        times.push(bench.elapsed().as_millis());
        if attempt == 3 {
            bench.publish("p", pending("newer"));
        }
        if attempt > 3 {
            assert_eq!(
                request.body()["status"]["message"],
                "newer",
                "the newest, though published while one was under way"
            );
        }
        match answer {
            Some((code, reason, message)) => request.status(code, reason, message),
            None => request.refuse(),
        }
    }
    // Rounded up to the timer's next millisecond, never early.
    let delays: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    bench.fake.next().await.json(pod("p", 2, pending("newer")));
    bench.quiet().await;
    bench.writer.publish(update("p", 2, pending("newer"), ready(true)));
    bench.fake.next().await.refuse();
    let failed = bench.elapsed();
    bench.fake.next().await.json(pod("p", 3, ready(true)));
    assert_eq!(bench.elapsed() - failed, RETRY_FIRST, "after a success it starts over");
}

#[rstest]
#[case::no_such_pod(404, "NotFound", "pods \"p\" not found")]
#[case::another_pod(409, "Conflict", "Precondition failed: UID in precondition: a, UID in object meta: b")]
#[tokio::test(start_paused = true)]
async fn nothing_is_told_of_a_pod_that_is_gone(#[case] code: u16, #[case] reason: &str, #[case] message: &str) {
    let mut bench = Bench::new();
    bench.publish("p", ready(true));
    let request = bench.fake.next().await;
    bench.publish("p", ready(false));
    request.status(code, reason, message);
    let newer = bench.fake.next().await;
    assert_eq!(
        newer.body()["status"]["conditions"],
        json!([{"type": "Ready", "status": "False"}]),
        "not thrown away unsent"
    );
    newer.status(code, reason, message);
    bench.quiet().await;
    assert_eq!(bench.kept("p"), Some((false, false, false)));
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_deleted_after_its_last_status() {
    let mut bench = Bench::new();
    let end = json!({"phase": "Succeeded", "conditions": []});
    bench.writer.publish(StatusUpdate { delete: true, ..update("p", 1, json!({}), end.clone()) });
    let patch = bench.fake.next().await;
    assert_eq!(patch.method(), "PATCH");
    patch.json(pod("p", 2, end.clone()));
    for code in [500, 200] {
        let delete = bench.fake.next().await;
        assert_eq!((delete.method(), delete.path()), ("DELETE", format!("{POD_PATH}?")), "the status is there already");
        let body = delete.body();
        assert_eq!((&body["gracePeriodSeconds"], &body["preconditions"]), (&json!(0), &json!({"uid": "p"})));
        match code {
            200 => delete.json(pod("p", 3, end.clone())),
            _ => delete.status(500, "InternalError", "m"),
        }
    }
    bench.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_or_kept_of_what_the_api_has() {
    let mut bench = Bench::new();
    bench.writer.publish(update("same", 1, ready(true), ready(true)));
    bench.quiet().await;
    assert_eq!(bench.kept("same"), Some((false, false, false)));

    bench.publish("p", ready(true));
    bench.fake.next().await.json(pod("p", 2, ready(true)));
    bench.quiet().await;
    assert_eq!(bench.kept("p"), Some((false, false, true)), "the watch has not shown it yet");
    bench.publish("p", ready(true));
    bench.quiet().await;
    bench.writer.publish(update("p", 2, ready(true), ready(true)));
    bench.quiet().await;
    assert_eq!(bench.kept("p"), Some((false, false, false)));

    // The watch may be faster than the answer.
    bench.writer.publish(update("p", 2, ready(true), ready(false)));
    let request = bench.fake.next().await;
    bench.writer.publish(update("p", 3, ready(false), ready(false)));
    request.json(pod("p", 3, ready(false)));
    bench.quiet().await;
    assert_eq!(bench.kept("p"), Some((false, false, false)));
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_leaves_nothing() {
    let mut bench = Bench::new();
    bench.publish("waiting", pending("m"));
    bench.writer.forget(&PodUid::from("waiting"));
    bench.quiet().await;
    assert_eq!(bench.kept("waiting"), None);

    bench.publish("p", ready(true));
    let request = bench.fake.next().await;
    bench.publish("p", ready(false));
    bench.writer.forget(&PodUid::from("p"));
    request.status(500, "InternalError", "m");
    bench.quiet().await;
    assert_eq!(bench.kept("p"), None);

    bench.publish("p", ready(true));
    let request = bench.fake.next().await;
    bench.writer.forget(&PodUid::from("p"));
    bench.publish("p", ready(false));
    request.json(pod("p", 2, ready(true)));
    let request = bench.fake.next().await;
    assert_eq!(request.body()["status"]["conditions"], json!([{"type": "Ready", "status": "False"}]), "known again");
    assert!(bench.writer.state().urgent.is_empty() && bench.writer.state().later.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_is_repeated() {
    let bench = Bench::new();
    let writer = StatusWriter::new(bench.fake.client(), Arc::new(|| false));
    writer.publish(update("p", 1, json!({}), ready(true)));
    let now = Instant::now();
    let work = writer.next(now).unwrap();
    let mut requests: JoinSet<Sent> = JoinSet::new();
    let task = requests.spawn(async { panic!("a request that panics") });
    let (id, sent) = outcome(requests.join_next_with_id().await.unwrap());
    assert_eq!(id, task.id());
    writer.note(&work.uid, sent, now);
    assert!(writer.next(now).is_none());
    assert_eq!(writer.next(now + RETRY_FIRST).unwrap().update.status, status(ready(true)));
}

#[tokio::test(start_paused = true)]
async fn it_stops_at_its_token() {
    let mut bench = Bench::new();
    bench.publish("p", ready(true));
    let _open = bench.fake.next().await;
    bench.cancel.cancel();
    assert!(bench.tasks.join_next().await.unwrap().is_ok());
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

#[test]
fn what_others_write_is_neither_taken_back_nor_overwritten() {
    let api = status(json!({"nominatedNodeName": "n", "phase": "Pending",
        "nodeAllocatableResourceClaimStatuses": [{"resourceClaimName": "r"}],
        "conditions": [{"type": "x/y", "status": "True"}, {"type": "Ready", "status": "False"},
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]}));
    let own = status(json!({"phase": "Running",
        "conditions": [{"type": "x/y", "status": "False"}, {"type": "Ready", "status": "True"}]}));
    let merged = onto(&api, own, now());
    assert_eq!(
        merged,
        status(json!({"nominatedNodeName": "n", "phase": "Running",
            "nodeAllocatableResourceClaimStatuses": [{"resourceClaimName": "r"}],
            "conditions": [{"type": "x/y", "status": "True"},
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
                {"type": "Ready", "status": "True"}]}))
    );
}

/// Of the API's and the own DisruptionTarget, by reason, which one is shown, and since when.
#[rstest]
#[case::of_others("Running", Some("x"), "Failed", Some("x"), Some(("x", "2026-01-01T00:00:00Z")))]
#[case::gone("Running", None, "Failed", Some("x"), None)]
#[case::own_too_early("Running", Some("x"), "Running", Some("TerminationByKubelet"), Some(("x", "2026-01-01T00:00:00Z")))]
#[case::own("Running", None, "Failed", Some("TerminationByKubelet"), Some(("TerminationByKubelet", "2027-01-15T08:00:00Z")))]
#[case::own_over("Running", Some("x"), "Failed", Some("TerminationByKubelet"), Some(("TerminationByKubelet", "2026-01-01T00:00:00Z")))]
#[case::terminal_before("Failed", Some("x"), "Failed", Some("TerminationByKubelet"), Some(("x", "2026-01-01T00:00:00Z")))]
fn disruption(
    #[case] phase: &str,
    #[case] api: Option<&str>,
    #[case] own_phase: &str,
    #[case] own: Option<&str>,
    #[case] expected: Option<(&str, &str)>,
) {
    let with = |phase: &str, reason: Option<&str>| {
        let condition = reason.map(|reason| {
            json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        });
        status(json!({"phase": phase, "conditions": condition.into_iter().collect::<Vec<_>>()}))
    };
    let merged = serde_json::to_value(onto(&with(phase, api), with(own_phase, own), now())).unwrap();
    let expected = expected.map(|(reason, since)| {
        json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": since})
    });
    assert_eq!(merged["conditions"], json!(expected.into_iter().collect::<Vec<_>>()));
}

#[test]
fn empty_states_mean_nothing() {
    let with = status(json!({"containerStatuses": [
        {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "lastState": {}}]}));
    let without = status(json!({"containerStatuses": [
        {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]}));
    assert_ne!(with, without);
    assert_eq!(tidy(with), without);
}

#[test]
fn changes_that_someone_waits_for_are_urgent() {
    let update = |value, delete| StatusUpdate { pod: Arc::default(), status: status(value), delete };
    assert!(is_urgent(&update(ready(true), false), None));
    assert!(!is_urgent(&update(ready(true), false), Some(&status(ready(true)))));
    assert!(is_urgent(&update(json!({}), false), Some(&status(ready(true)))), "no longer Ready");
    assert!(is_urgent(&update(json!({"phase": "Failed"}), false), None));
    assert!(!is_urgent(&update(json!({"phase": "Failed"}), false), Some(&status(json!({"phase": "Failed"})))));
    assert!(is_urgent(&update(json!({}), true), None));
    assert!(!is_urgent(&update(json!({"phase": "Pending"}), false), None));
}
