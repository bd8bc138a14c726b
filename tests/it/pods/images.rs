//! The images of a pod, those of volumes among them.

use std::time::Duration;

use serde_json::{Value, json};

use super::world::{World, container, container_status, pod_with, uid, waiting};
use crate::fake_runtime::PullScript;

fn container_of(name: &str, image: &str, volumes: &[&str]) -> Value {
    let mut made = container(name);
    made["image"] = image.into();
    made["volumeMounts"] = volumes.iter().map(|v| json!({"name": v, "mountPath": format!("/{v}")})).collect();
    made
}

fn volume(name: &str, policy: &str) -> Value {
    json!({"name": name, "image": {"reference": format!("{name}:1"), "pullPolicy": policy}})
}

#[tokio::test]
async fn those_of_volumes_are_pulled_with_those_of_containers_from_the_start() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let pulls = || world.runtime.calls_of("PullImage");
    let gate = world.runtime.hold("PullImage");
    let sandboxes = world.runtime.hold("RunPodSandbox");
    let spec = json!({
        "initContainers": [container_of("init", "init:1", &[])],
        "containers": [container_of("app", "app:1", &["data"])],
        "volumes": [volume("data", "IfNotPresent"), volume("spare", "Always")],
    });
    world.runtime.on_start("init", crate::fake_runtime::Behaviour::Exit { after: Duration::ZERO, code: 0 });
    world.api.create(pod_with("a", spec));
    world.runtime.until("all are asked for", |_| pulls().len() == 4).await;
    let mut names: Vec<_> = pulls().into_iter().map(|call| call.object).collect();
    names.sort();
    assert_eq!(names, ["app:1", "data:1", "init:1", "spare:1"], "before there is a sandbox");
    drop((sandboxes, gate));
    world.until_ready("a").await;
    assert_eq!(pulls().len(), 4, "each once");
    let snapshot = world.runtime.snapshot();
    let app = snapshot.containers_of("uid-a").find(|c| c.name == "app").unwrap();
    let mount = app.config.mounts.iter().find(|mount| mount.container_path == "/data").unwrap();
    let (image, data) = (mount.image.as_ref().unwrap(), snapshot.images.iter().find(|i| i.name == "data:1").unwrap());
    assert_eq!((&image.image, &image.user_specified_image), (&data.id, &data.name));
    let of_pod = |message: &str| {
        let events = world.events.recorded().into_iter();
        let about = events.filter(|event| event.message.contains(message)).map(|event| event.object.field_path);
        about.collect::<Vec<_>>()
    };
    assert_eq!(of_pod("Successfully pulled image \"data:1\""), [None], "it is no container's");
    assert_eq!(of_pod("Successfully pulled image \"app:1\""), [Some("spec.containers{app}".to_owned())]);
    // A container that is started again asks for its own alone, and by their policies.
    world.runtime.clear_calls();
    let app = world.runtime.running_container(&uid("a"), "app").unwrap();
    world.runtime.kill_container(&app.id, 1);
    world.until_called("a", "StartContainer", 1).await;
    let asked: Vec<_> = world.runtime.calls_of("ImageStatus").into_iter().map(|call| call.object).collect();
    assert!(asked.contains(&"data:1".to_owned()) && !asked.contains(&"init:1".to_owned()), "{asked:?}");
    assert_eq!(pulls().len(), 0);
    world.assert_sound();
}

#[tokio::test]
async fn that_of_a_volume_which_cannot_be_had_holds_up_its_container_alone_and_is_told() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let errors = ["denied".to_owned(), "denied".to_owned()].into();
    world.runtime.on_pull("data:1", PullScript { errors, ..PullScript::default() });
    let spec = json!({
        "containers": [container_of("app", "busybox:1", &["data"]), container("other")],
        "volumes": [volume("data", "Always")],
    });
    world.api.create(pod_with("a", spec));
    let held = |status: &_| waiting(status, "app") == Some("ImagePullBackOff");
    let status = world.until_status("held back", "a", held).await;
    let message = container_status(&status, "app").unwrap().state.clone().unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "Back-off pulling image \"data:1\": ErrImagePull: denied");
    assert!(world.api.statuses("a").iter().any(|status| waiting(status, "app") == Some("ErrImagePull")));
    world.runtime.until("the other runs", |snapshot| snapshot.running("uid-a") == ["other"]).await;
    let told = ["Failed to pull image \"data:1\": denied", "Error: ErrImagePull", "Error: ImagePullBackOff"];
    assert_eq!(world.told("a", "Failed")[..3], told);
    assert_eq!(world.told("a", "BackOff")[0], "Back-off pulling image \"data:1\"");
    world.api.delete("a", 30);
    world.until_gone(&["a"]).await;
    world.assert_sound();
}
