use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// Serves an answer that may be changed; keeps the last request.
async fn serve(listener: TcpListener, answer: Arc<Mutex<String>>, asked: Arc<Mutex<String>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        *asked.lock().unwrap() = String::from_utf8(request).unwrap();
        let answer = answer.lock().unwrap().clone();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn list(images: &[&str]) -> String {
    let items = images.iter().enumerate().map(|(index, image)| {
        serde_json::json!({"metadata": {"name": format!("p{index}")}, "spec": {"containers": [{"name": "c", "image": image}]}})
    });
    serde_json::json!({"apiVersion": "v1", "kind": "PodList", "items": items.collect::<Vec<_>>()}).to_string()
}

#[tokio::test]
async fn a_url_is_asked_now_and_then() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/pods?a=b", listener.local_addr().unwrap());
    let (answer, asked) =
        (Arc::new(Mutex::new("HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n".to_owned())), Arc::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, answer.clone(), Arc::clone(&asked)));
    let headers = vec![("X-Token".to_owned(), "secret".to_owned())];
    let (source, mut pods) =
        UrlSource::new(&url, headers, "node", Duration::from_millis(20), EventRecorder::recording()).unwrap();
    tasks.spawn(source.run(CancellationToken::new()));
    let mut until = async |images: &[&str]| {
        let images: Vec<String> = images.iter().map(|image| (*image).to_owned()).collect();
        let shown = |told: &StaticPods| -> Vec<String> {
            told.pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
        };
        let wanted = pods.wait_for(|told| told.as_ref().is_some_and(|told| shown(told) == images));
        tokio::time::timeout(Duration::from_secs(20), wanted).await.expect("the pods").unwrap();
    };
    let set = |text: String| *answer.lock().unwrap() = text;
    set(ok(&list(&["x:1", "y:1"])));
    until(&["x:1", "y:1"]).await;
    let request = asked.lock().unwrap().clone();
    assert!(request.starts_with("GET /pods?a=b HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("x-token: secret\r\n"), "{request}");
    // Neither a failure nor nonsense changes anything.
    set(ok("nonsense"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    set(ok(&list(&["x:2"])));
    until(&["x:2"]).await;
    set(ok(""));
    until(&[]).await;
    // The same pods as before the empty answer.
    set(ok(&list(&["x:2"])));
    until(&["x:2"]).await;
    tasks.abort_all();
}

#[tokio::test]
async fn of_several_with_one_name_the_first_counts_and_events_tell_of_the_others() {
    let pod = |uid: &str| serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid}});
    let pods = ["1", "2"].map(|uid| serde_json::from_value(pod(uid)).unwrap());
    let events = EventRecorder::recording();
    let (mut source, told) =
        UrlSource::new("http://localhost", Vec::new(), "node", Duration::ZERO, events.clone()).unwrap();
    source.publish(pods.into());
    let told = told.borrow().clone().unwrap();
    let uids: Vec<_> = told.pods.iter().map(|pod| pod.metadata.uid.as_deref().unwrap()).collect();
    assert_eq!(uids, ["1"]);
    let events = events.recorded();
    let event = (&events[0].reason[..], &events[0].message[..], events[0].object.uid.as_deref());
    let message = "Error validating pod p_ns(2) from http due to duplicate pod name \"p\", ignoring";
    assert_eq!((events.len(), event), (1, ("FailedValidation", message, Some("2"))));
}

#[tokio::test]
async fn a_url_must_be_one() {
    let refused = |url: &str, header: &str| {
        let headers = vec![(header.to_owned(), "v".to_owned())];
        UrlSource::new(url, headers, "node", Duration::ZERO, EventRecorder::recording())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    for (url, header) in [("", "a"), ("no url", "a"), ("/path", "a"), ("ftp://a/", "a"), ("http://a/", "no header")] {
        assert!(refused(url, header).starts_with("staticPodURL"), "{url:?}");
    }
}
