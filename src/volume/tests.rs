//! The manager as a whole: with recorded mounts where anyone may run it, with real ones where root may.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use rustix::io::Errno;
use serde_json::{Value, json};

use super::objects::fake::FakeObjects;
use super::*;
use crate::model::Timestamp;
use crate::model::pod::PodUid;
use crate::sys::mount::private::in_mount_namespace;
use crate::sys::mount::{KernelMounts, Mounts, RecordingMounts};

const UID: &str = "0a1b2c";

struct World {
    temp: tempfile::TempDir,
    objects: Arc<FakeObjects>,
    mounts: Arc<RecordingMounts>,
    manager: VolumeManager,
}

fn world() -> World {
    let mounts = Arc::new(RecordingMounts::default());
    let (temp, objects, manager) = parts(mounts.clone());
    World { temp, objects, mounts, manager }
}

fn parts(mounts: Arc<dyn Mounts>) -> (tempfile::TempDir, Arc<FakeObjects>, VolumeManager) {
    let temp = tempfile::tempdir().unwrap();
    let objects = Arc::new(FakeObjects::default());
    objects.set_token("token-1", 5000);
    objects.put_config_map("kube-root-ca.crt", &[("ca.crt", "CERT")]);
    let manager = VolumeManager::new(temp.path().to_owned(), objects.clone(), mounts);
    (temp, objects, manager)
}

impl World {
    fn pod_path(&self, path: &str) -> PathBuf {
        self.temp.path().join("pods").join(UID).join(path)
    }
}

fn pod(volumes: Value) -> Pod {
    let names = volumes.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap().to_owned());
    let mounts: Vec<Value> = names.map(|n| json!({ "name": n, "mountPath": format!("/{n}") })).collect();
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": UID },
        "spec": { "serviceAccountName": "default", "volumes": volumes, "containers": [{ "name": "c", "volumeMounts": mounts }] },
    }))
    .unwrap()
}

fn api_access() -> Value {
    json!({ "name": "api", "projected": { "defaultMode": 0o644, "sources": [
        { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
    ] } })
}

fn uid() -> PodUid {
    PodUid::from(UID)
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

/// Runs a test body with real mounts, in a mount namespace of its own.
fn with_kernel(body: impl AsyncFnOnce(tempfile::TempDir, Arc<FakeObjects>, VolumeManager) + Send + 'static) {
    in_mount_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (temp, objects, manager) = parts(Arc::new(KernelMounts::default()));
        runtime.block_on(body(temp, objects, manager));
    });
}

#[tokio::test]
async fn the_common_pod() {
    let world = world();
    let pod = pod(json!([api_access()]));
    world.manager.resolve(&pod).await.unwrap();
    assert!(world.objects.token_requests().is_empty(), "resolving asks for no token");
    assert!(!world.temp.path().join("pods").exists(), "resolving changes nothing");

    let mounted = world.manager.mount(&pod).await.unwrap();
    assert_eq!(mounted.refresh_at(), Some(Timestamp::from_second(5000).unwrap()));
    let api = mounted.get("api").unwrap();
    assert_eq!(api.host_path, world.pod_path("volumes/kubernetes.io~projected/api"));
    assert!(api.read_only && api.is_relabelled() && api.kind == VolumeKind::Projected);
    let content = ["token", "ca.crt", "namespace"].map(|name| text(api.host_path.join(name)));
    assert_eq!(content, ["token-1", "CERT", "shop"]);
    assert_eq!(world.mounts.calls(), [format!("tmpfs {}", api.host_path.display())]);
    assert!(world.pod_path("plugins/kubernetes.io~empty-dir/wrapped_api/ready").is_file());
    for path in ["", "volumes", "plugins", "volumes/kubernetes.io~projected"] {
        assert_eq!(mode(world.pod_path(path)), 0o750, "{path}");
    }
    assert_eq!(world.manager.pods_on_disk().await, [uid()]);

    world.manager.unmount(&uid()).await.unwrap();
    assert!(world.mounts.mounted().is_empty());
    assert!(!world.pod_path("").exists());
    assert_eq!(world.objects.forgotten(), [uid()]);
    assert!(world.manager.pods_on_disk().await.is_empty());
    world.manager.unmount(&uid()).await.unwrap();
}

#[tokio::test]
async fn mounting_again_refreshes_what_changed() {
    let world = world();
    world.objects.put_config_map("cm", &[("a", "1"), ("b", "1")]);
    let pod = pod(json!([{ "name": "cm", "configMap": { "name": "cm" } }, api_access()]));
    let mounted = world.manager.mount(&pod).await.unwrap();
    let cm = mounted.get("cm").unwrap().host_path.clone();
    let version = |name: &str| std::fs::read_link(mounted.get(name).unwrap().host_path.join("..data")).unwrap();
    let (cm_version, api_version) = (version("cm"), version("api"));

    assert_eq!(world.manager.mount(&pod).await.unwrap(), mounted);
    assert_eq!((version("cm"), version("api")), (cm_version.clone(), api_version.clone()));
    assert_eq!(world.mounts.calls().len(), 1, "{:?}", world.mounts.calls());

    world.objects.put_config_map("cm", &[("a", "2")]);
    world.objects.set_token("token-2", 9000);
    let again = world.manager.mount(&pod).await.unwrap();
    assert_eq!(again.refresh_at(), Some(Timestamp::from_second(9000).unwrap()));
    assert!(version("cm") != cm_version && version("api") != api_version);
    assert_eq!(text(cm.join("a")), "2");
    assert!(cm.join("b").symlink_metadata().is_err());

    // An object that goes away leaves the files of running containers as they are.
    world.objects.remove_config_map("cm");
    let error = world.manager.mount(&pod).await.unwrap_err();
    assert_eq!(error.messages(), ["MountVolume.SetUp failed for volume \"cm\" : configmap \"cm\" not found"]);
    assert_eq!(text(cm.join("a")), "2");
}

#[tokio::test]
async fn every_failure_is_told_and_nothing_else_suffers() {
    let world = world();
    let volumes = json!([
        { "name": "gone", "secret": { "secretName": "x" } },
        { "name": "fine", "emptyDir": {} },
        { "name": "claim", "persistentVolumeClaim": { "claimName": "x" } },
        { "name": "host", "hostPath": { "path": world.temp.path().join("no"), "type": "Directory" } },
    ]);
    let pod = pod(volumes);
    let resolved = world.manager.resolve(&pod).await.unwrap_err().messages();
    assert_eq!(
        resolved,
        [
            "MountVolume.SetUp failed for volume \"gone\" : secret \"x\" not found",
            "MountVolume.SetUp failed for volume \"claim\" : volume \"claim\" is of type persistentVolumeClaim, which is not supported yet",
        ]
    );
    let messages = world.manager.mount(&pod).await.unwrap_err().messages();
    assert_eq!(messages.len(), 3);
    assert!(messages[2].starts_with("MountVolume.SetUp failed for volume \"host\" : hostPath type check failed, "));
    assert!(world.pod_path("volumes/kubernetes.io~empty-dir/fine").is_dir());
}

#[tokio::test]
async fn empty_dirs_keep_their_content() {
    let world = world();
    let pod = pod(
        json!([{ "name": "tmp", "emptyDir": {} }, { "name": "mem", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }]),
    );
    let mounted = world.manager.mount(&pod).await.unwrap();
    let tmp = mounted.get("tmp").unwrap();
    assert_eq!((mode(&tmp.host_path), tmp.read_only), (0o777, false));
    let mem = mounted.get("mem").unwrap().host_path.display().to_string();
    assert_eq!(world.mounts.calls(), [format!("tmpfs size=1048576 {mem}")]);

    std::fs::write(tmp.host_path.join("work"), "x").unwrap();
    std::fs::set_permissions(&tmp.host_path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    world.manager.mount(&pod).await.unwrap();
    assert_eq!((text(tmp.host_path.join("work")).as_str(), mode(&tmp.host_path)), ("x", 0o700));
    world.manager.unmount(&uid()).await.unwrap();
    assert!(!world.pod_path("").exists());
}

#[tokio::test]
async fn a_half_done_removal_is_carried_on() {
    let world = world();
    let pod = pod(json!([api_access(), { "name": "tmp", "emptyDir": {} }]));
    let mounted = world.manager.mount(&pod).await.unwrap();
    std::fs::create_dir_all(world.pod_path("containers/c")).unwrap();
    std::fs::write(world.pod_path("containers/c/1234abcd"), "bye").unwrap();
    std::fs::write(world.pod_path("etc-hosts"), "").unwrap();
    let api = &mounted.get("api").unwrap().host_path;

    world.mounts.fail(api, Errno::PERM);
    let error = world.manager.unmount(&uid()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot unmount {}: ", api.display())), "{error}");
    assert_eq!(error.messages().len(), 1);
    assert!(!world.pod_path("volumes/kubernetes.io~empty-dir").exists(), "the others are gone");
    assert_eq!(text(api.join("token")), "token-1", "what is mounted is not touched");

    world.mounts.heal(api);
    world.manager.unmount(&uid()).await.unwrap();
    assert!(!world.pod_path("").exists());
}

#[tokio::test]
async fn left_overs_of_other_plugins_are_kept() {
    let world = world();
    let precious = world.pod_path("volumes/kubernetes.io~csi/pv-1");
    std::fs::create_dir_all(precious.join("mount")).unwrap();
    std::fs::write(precious.join("vol_data.json"), "{}").unwrap();
    std::fs::create_dir_all(world.pod_path("volumes/kubernetes.io~nfs/empty")).unwrap();
    let error = world.manager.unmount(&uid()).await.unwrap_err();
    assert!(error.to_string().contains("kubernetes.io~csi/pv-1"), "{error}");
    assert!(precious.join("vol_data.json").exists());
    assert!(!world.pod_path("volumes/kubernetes.io~nfs").exists());
}

#[tokio::test]
async fn removal_follows_no_link() {
    let world = world();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("kept"), "x").unwrap();
    std::fs::create_dir_all(world.pod_path("volumes/kubernetes.io~empty-dir")).unwrap();
    std::fs::create_dir_all(world.pod_path("volume-subpaths/v")).unwrap();
    symlink(outside.path(), world.pod_path("volumes/kubernetes.io~empty-dir/v")).unwrap();
    symlink(outside.path(), world.pod_path("volumes/kubernetes.io~secret")).unwrap();
    symlink(outside.path(), world.pod_path("volume-subpaths/v/c")).unwrap();
    world.manager.unmount(&uid()).await.unwrap();
    assert!(outside.path().join("kept").exists());
    assert!(!world.pod_path("").exists());
}

#[rstest]
#[case("..")]
#[case("a/b")]
#[case("")]
#[tokio::test]
async fn a_uid_that_leads_elsewhere_is_refused(#[case] bad: &str) {
    let world = world();
    assert!(matches!(world.manager.unmount(&PodUid::from(bad)).await, Err(VolumeError::Name { .. })));
    let mut pod = pod(json!([]));
    pod.metadata.uid = Some(bad.to_owned());
    assert!(matches!(world.manager.mount(&pod).await, Err(VolumeError::Name { .. })));
}

#[tokio::test]
async fn a_call_that_was_given_up_brings_nothing_back() {
    let world = world();
    let pod = pod(json!([{ "name": "tmp", "emptyDir": {} }]));
    // Polled once: the work is handed to a thread, then nobody waits for it.
    let _ = world.manager.mount(&pod).now_or_never();
    world.manager.unmount(&uid()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!world.pod_path("").exists());
}

#[tokio::test]
async fn the_root_is_laid_out() {
    let world = world();
    world.manager.prepare_root().await.unwrap();
    world.manager.prepare_root().await.unwrap();
    for (name, expected) in [
        ("pods", 0o750),
        ("plugins", 0o750),
        ("plugins_registry", 0o750),
        ("pod-resources", 0o750),
        ("checkpoints", 0o700),
    ] {
        assert_eq!(mode(world.temp.path().join(name)), expected, "{name}");
    }
    assert_eq!(world.mounts.calls()[0], format!("share {}", world.temp.path().display()));
}

async fn sub_path(
    manager: &VolumeManager,
    mounted: &MountedVolumes,
    volume: &str,
    path: &str,
) -> Result<PathBuf, VolumeError> {
    manager.prepare_sub_path(&uid(), mounted.get(volume).unwrap(), "c", 0, path).await
}

#[rstest]
#[case("/etc", "error SubPath `/etc` must not be an absolute path")]
#[case("a/../b", "unable to provision SubPath `a/../b`: must not contain '..'")]
#[case("out", "failed to prepare subPath for volumeMount \"tmp\" of container \"c\"")]
#[case("out/new", "failed to create subPath directory for volumeMount \"tmp\" of container \"c\"")]
#[case("dangling", "failed to create subPath directory for volumeMount \"tmp\" of container \"c\"")]
#[case("file/x", "failed to prepare subPath for volumeMount \"tmp\" of container \"c\"")]
#[tokio::test]
async fn sub_paths_do_not_leave_the_volume(#[case] path: &str, #[case] message: &str) {
    let world = world();
    let mounted = world.manager.mount(&pod(json!([{ "name": "tmp", "emptyDir": {} }]))).await.unwrap();
    let outside = tempfile::tempdir().unwrap();
    let volume = &mounted.get("tmp").unwrap().host_path;
    symlink(outside.path(), volume.join("out")).unwrap();
    symlink("missing/new", volume.join("dangling")).unwrap();
    std::fs::write(volume.join("file"), "").unwrap();
    let error = sub_path(&world.manager, &mounted, "tmp", path).await.unwrap_err();
    // A link out fails at opening when the way is there, at making when it is not.
    let (made, opened) = ("failed to create subPath directory", "failed to prepare subPath");
    let normal = |text: &str| text.replace(made, opened);
    assert_eq!(normal(&error.to_string()), normal(message));
    assert!(std::fs::read_dir(outside.path()).unwrap().next().is_none());
    assert!(!world.mounts.calls().iter().any(|call| call.starts_with("bind")));
}

#[test]
fn sub_paths_are_bound_and_removed() {
    with_kernel(async |temp, objects, manager| {
        objects.put_config_map("cm", &[("conf", "one")]);
        let pod = pod(json!([{ "name": "tmp", "emptyDir": {} }, { "name": "cm", "configMap": { "name": "cm" } }]));
        let mounted = manager.mount(&pod).await.unwrap();
        let volume = mounted.get("tmp").unwrap().host_path.clone();

        let dir = sub_path(&manager, &mounted, "tmp", "a/b").await.unwrap();
        assert_eq!(dir, temp.path().join("pods").join(UID).join("volume-subpaths/tmp/c/0"));
        assert_eq!((mode(volume.join("a")), mode(volume.join("a/b"))), (0o777, 0o777));
        std::fs::write(dir.join("seen"), "x").unwrap();
        assert_eq!(text(volume.join("a/b/seen")), "x");
        assert_eq!(sub_path(&manager, &mounted, "tmp", "a/b").await.unwrap(), dir);

        // Another directory of that name is bound anew.
        std::fs::rename(volume.join("a/b"), volume.join("a/old")).unwrap();
        assert_eq!(sub_path(&manager, &mounted, "tmp", "a/b").await.unwrap(), dir);
        assert!(!dir.join("seen").exists());

        // A file, through the volume's own links; and it stays what it was when the volume moves on.
        let file = sub_path(&manager, &mounted, "cm", "conf").await.unwrap();
        assert_eq!(text(&file), "one");
        objects.put_config_map("cm", &[("conf", "two")]);
        manager.mount(&pod).await.unwrap();
        assert_eq!(
            (text(&file), text(mounted.get("cm").unwrap().host_path.join("conf"))),
            ("one".into(), "two".into())
        );
        assert_eq!(sub_path(&manager, &mounted, "cm", "conf").await.unwrap(), file);
        assert_eq!(text(&file), "two");

        manager.unmount(&uid()).await.unwrap();
        assert!(!temp.path().join("pods").join(UID).exists());
    });
}

#[test]
fn real_mounts_come_and_go() {
    with_kernel(async |temp, objects, manager| {
        objects.put_secret("s", &[("k", "v")]);
        let pod = pod(json!([
            api_access(),
            { "name": "s", "secret": { "secretName": "s", "defaultMode": 0o400 } },
            { "name": "mem", "emptyDir": { "medium": "Memory" } },
            { "name": "tmp", "emptyDir": {} },
        ]));
        manager.prepare_root().await.unwrap();
        for _ in 0..3 {
            let mounted = manager.mount(&pod).await.unwrap();
            assert_eq!(text(mounted.get("api").unwrap().host_path.join("token")), "token-1");
            assert_eq!(mode(mounted.get("s").unwrap().host_path.join("k")), 0o400);
            assert_eq!(mode(&mounted.get("mem").unwrap().host_path), 0o1777);
        }
        // A container left a mount of its own behind in its emptyDir, with precious data.
        let parent = crate::sys::beneath::Dir::open(temp.path()).unwrap();
        let (precious, _) = parent.make_child("precious", 0o755).unwrap();
        precious.write_new_file("data", b"x", 0o644, None).unwrap();
        let tmp = manager.mount(&pod).await.unwrap().get("tmp").unwrap().host_path.clone();
        let volume = crate::sys::beneath::Dir::open(&tmp).unwrap();
        volume.make_child("left", 0o755).unwrap();
        KernelMounts::default().bind(&parent.handle("precious").unwrap(), &volume, "left".as_ref()).unwrap();
        drop(volume);

        manager.unmount(&uid()).await.unwrap();
        assert!(!temp.path().join("pods").join(UID).exists());
        assert_eq!(text(temp.path().join("precious/data")), "x");
        let mountinfo = text("/proc/thread-self/mountinfo");
        assert!(!mountinfo.contains(UID), "{mountinfo}");
        rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    });
}

#[test]
fn the_group_gets_its_files() {
    with_kernel(async |_temp, objects, manager| {
        objects.put_config_map("cm", &[("conf", "one")]);
        let mut pod = pod(
            json!([api_access(), { "name": "tmp", "emptyDir": {} }, { "name": "cm", "configMap": { "name": "cm" } }]),
        );
        let context = json!({ "fsGroup": 1234, "runAsUser": 77 });
        pod.spec.as_mut().unwrap().security_context = Some(serde_json::from_value(context).unwrap());
        let mounted = manager.mount(&pod).await.unwrap();
        let facts = |path: PathBuf| {
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
        };
        let path = |name: &str| mounted.get(name).unwrap().host_path.clone();
        assert_eq!(facts(path("api").join("token")), (77, 1234, 0o640));
        assert_eq!(facts(path("api").join("namespace")), (0, 1234, 0o644));
        assert_eq!(facts(path("api")), (0, 1234, 0o3777));
        assert_eq!(facts(path("api").join("..data/")), (0, 1234, 0o2755));
        assert_eq!(facts(path("cm").join("conf")), (0, 1234, 0o644));
        assert_eq!(facts(path("tmp")), (0, 1234, 0o2777));
        objects.put_config_map("cm", &[("conf", "two"), ("new", "x")]);
        manager.mount(&pod).await.unwrap();
        assert_eq!(facts(path("cm").join("new")), (0, 1234, 0o644));
        manager.unmount(&uid()).await.unwrap();
    });
}

#[test]
fn the_common_pod_is_quick() {
    with_kernel(async |_temp, _objects, manager| {
        let pod = pod(json!([api_access()]));
        let mut mount_times = Vec::new();
        for _ in 0..20 {
            let start = tokio::time::Instant::now();
            manager.mount(&pod).await.unwrap();
            mount_times.push(start.elapsed());
            manager.unmount(&uid()).await.unwrap();
        }
        mount_times.sort();
        // A millisecond or less on an idle machine; the bound is for one that is busy.
        let median = mount_times[mount_times.len() / 2];
        println_for_humans(&format!("mount of the common pod: median {median:?}"));
        assert!(median < std::time::Duration::from_millis(50), "{median:?}");
    });
}

#[allow(clippy::print_stderr, reason = "a measurement worth seeing with --nocapture")]
fn println_for_humans(line: &str) {
    eprintln!("{line}");
}

/// Thirty pods with paths of a disk that does not answer, on as many threads as the agent gives to volumes.
#[test]
fn pods_whose_disks_hang_hold_up_no_others() {
    let threads = BLOCKING_PLACES;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(threads).build().unwrap();
    runtime.block_on(async {
        let world = world();
        let host_path = json!({ "name": "disk", "hostPath": { "path": "/", "type": "Directory" } });
        let mut hanging = tokio::task::JoinSet::new();
        for number in 0..threads + 6 {
            let mut pod = pod(json!([host_path, api_access()]));
            pod.metadata.uid = Some(format!("dead-{number}"));
            world.mounts.hang(&world.temp.path().join("pods").join(format!("dead-{number}")));
            let manager = world.manager.clone();
            hanging.spawn(async move { manager.mount(&pod).await });
        }
        // All have begun, or wait for a place.
        tokio::task::yield_now().await;
        let well = pod(json!([api_access(), { "name": "host", "hostPath": { "path": "/" } }]));
        let limit = std::time::Duration::from_secs(20);
        let mounted = tokio::time::timeout(limit, world.manager.mount(&well)).await;
        world.mounts.release();
        mounted.expect("held up").unwrap();
        let ended = hanging.join_all().await;
        assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    });
}
