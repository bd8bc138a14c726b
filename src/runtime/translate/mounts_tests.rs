use rstest::rstest;
use serde_json::{Value, json};

use super::super::testing::container;
use super::*;

const RULES: MountRules = MountRules { is_selinux_enabled: false, supports_recursive_read_only: true };

fn path(host_path: &str) -> Option<MountSource> {
    Some(MountSource::Path { host_path: host_path.into(), read_only: false, selinux_relabel: false })
}

fn mounting(mounts: Value) -> Container {
    container(json!({"volumeMounts": mounts}))
}

fn environment() -> Environment {
    let mut environment = Environment::default();
    environment.set("POD", b"web".to_vec());
    environment.set("UP", b"..".to_vec());
    environment
}

fn mounts_of(container: &Container, sources: &[Option<MountSource>]) -> Result<Vec<Mount>, TranslateError> {
    let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    volume_mounts(container, &environment(), sources, &annotations, RULES)
}

#[test]
fn requests_carry_expanded_sub_paths_in_order() {
    let container = mounting(json!([
        {"name": "a", "mountPath": "/a"},
        {"name": "a", "mountPath": "/b", "subPath": "x/$(POD)"},
        {"name": "c", "mountPath": "/c", "subPathExpr": "logs/$(POD)"},
        {"name": "d", "mountPath": "/d", "subPath": "..data"},
    ]));
    let requests = mount_requests(&container, &environment()).unwrap();
    let found: Vec<_> = requests.iter().map(|r| (r.index, r.mount.name.as_str(), r.sub_path.as_deref())).collect();
    assert_eq!(
        found,
        [(0, "a", None), (1, "a", Some("x/$(POD)")), (2, "c", Some("logs/web")), (3, "d", Some("..data"))]
    );
}

#[rstest]
#[case(json!({"subPath": "/etc"}), "error SubPath `/etc` must not be an absolute path")]
#[case(json!({"subPath": "a/../b"}), "unable to provision SubPath `a/../b`: must not contain '..'")]
#[case(json!({"subPathExpr": "$(UP)/x"}), "unable to provision SubPath `../x`: must not contain '..'")]
#[case(json!({"subPathExpr": "$(NONE)"}), "missing value for NONE")]
#[case(json!({"mountPropagation": "Sideways"}), "invalid MountPropagation mode: \"Sideways\"")]
#[case(
    json!({"recursiveReadOnly": "Enabled"}),
    "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not read-only"
)]
fn mounts_that_cannot_be(#[case] mut fields: Value, #[case] message: &str) {
    fields["name"] = "v".into();
    fields["mountPath"] = "/v".into();
    let error = mounts_of(&mounting(json!([fields])), &[path("/host")]).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[rstest]
#[case(&[])]
#[case(&[None])]
fn a_mount_needs_its_volume(#[case] sources: &[Option<MountSource>]) {
    let error = mounts_of(&mounting(json!([{"name": "v", "mountPath": "/v"}])), sources).unwrap_err();
    assert_eq!(error.to_string(), "cannot find volume \"v\" to mount into container \"app\"");
}

#[test]
fn mounts_of_paths() {
    let container = mounting(json!([
        {"name": "a", "mountPath": "/a", "mountPropagation": "HostToContainer"},
        {"name": "b", "mountPath": "b", "readOnly": true, "recursiveReadOnly": "IfPossible"},
        {"name": "c", "mountPath": "/c", "mountPropagation": "Bidirectional"},
    ]));
    let read_only = MountSource::Path { host_path: "/h/c".into(), read_only: true, selinux_relabel: true };
    let sources = [path("/h/a"), path("/h/b"), Some(read_only)];
    let mount = |container_path: &str, host_path: &str| Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..Mount::default()
    };
    let mut expected = [mount("/a", "/h/a"), mount("/b", "/h/b"), mount("/c", "/h/c")];
    expected[0].propagation = MountPropagation::PropagationHostToContainer as i32;
    expected[1].readonly = true;
    expected[1].recursive_read_only = true;
    expected[2].propagation = MountPropagation::PropagationBidirectional as i32;
    expected[2].readonly = true;
    assert_eq!(mounts_of(&container, &sources).unwrap(), expected);

    let rules = MountRules { is_selinux_enabled: true, ..RULES };
    let labelled = volume_mounts(&container, &environment(), &sources, &BTreeMap::new(), rules).unwrap();
    assert_eq!(labelled.iter().map(|m| m.selinux_relabel).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn mounts_of_images() {
    let container = mounting(json!([{"name": "i", "mountPath": "/i", "subPath": "bin"}]));
    let source = MountSource::Image {
        image_ref: "sha256:1".into(),
        reference: "tools:1".into(),
        runtime_handler: String::new(),
    };
    let mounts = mounts_of(&container, &[Some(source)]).unwrap();
    let image = ImageSpec {
        image: "sha256:1".into(),
        user_specified_image: "tools:1".into(),
        annotations: [("k".to_owned(), "v".to_owned())].into(),
        ..ImageSpec::default()
    };
    let expected = Mount {
        container_path: "/i".into(),
        readonly: true,
        image: Some(image),
        image_sub_path: "bin".into(),
        ..Mount::default()
    };
    assert_eq!(mounts, [expected]);
}

#[rstest]
#[case(json!({}), true, Ok(false))]
#[case(json!({"recursiveReadOnly": "Disabled"}), true, Ok(false))]
#[case(json!({"recursiveReadOnly": "IfPossible", "readOnly": true}), true, Ok(true))]
#[case(json!({"recursiveReadOnly": "IfPossible", "readOnly": true}), false, Ok(false))]
#[case(json!({"recursiveReadOnly": "Enabled", "readOnly": true, "mountPropagation": "None"}), true, Ok(true))]
#[case(json!({"recursiveReadOnly": "Enabled", "readOnly": true}), false, Err("volume \"v\" requested recursive read-only mode, but it is not supported by the runtime"))]
#[case(json!({"recursiveReadOnly": "IfPossible"}), true, Err("volume \"v\" requested recursive read-only mode, but it is not read-only"))]
#[case(json!({"recursiveReadOnly": "Enabled", "readOnly": true, "mountPropagation": "HostToContainer"}), true, Err("volume \"v\" requested recursive read-only mode, but it is not compatible with propagation \"HostToContainer\""))]
#[case(json!({"recursiveReadOnly": "Maybe", "readOnly": true}), true, Err("unknown recursive read-only mode \"Maybe\""))]
fn read_only_all_the_way_down(
    #[case] mut fields: Value,
    #[case] is_supported: bool,
    #[case] expected: Result<bool, &str>,
) {
    fields["name"] = "v".into();
    fields["mountPath"] = "/v".into();
    let mount: VolumeMount = serde_json::from_value(fields).unwrap();
    let found = recursive_read_only(&mount, is_supported).map_err(|e| e.to_string());
    assert_eq!(found.as_ref().map(|v| *v).map_err(String::as_str), expected);
}

#[test]
fn block_devices_of_volumes() {
    let container = container(json!({"volumeDevices": [
        {"name": "a", "devicePath": "/dev/xa"}, {"name": "b", "devicePath": "/dev/xb"},
    ]}));
    let link = |host_path: &str, read_only| Some(BlockDevice { host_path: host_path.into(), read_only });
    let devices = block_devices(&container, &[link("/h/a", false), link("/h/b", true)]).unwrap();
    let device = |container_path: &str, host_path: &str, permissions: &str| Device {
        container_path: container_path.into(),
        host_path: host_path.into(),
        permissions: permissions.into(),
    };
    assert_eq!(devices, [device("/dev/xa", "/h/a", "mrw"), device("/dev/xb", "/h/b", "r")]);
    assert_eq!(
        block_devices(&container, &[link("/h/a", false), None]).unwrap_err().to_string(),
        "cannot find volume \"b\" to pass into container \"app\""
    );
}

#[test]
fn a_device_path_is_absolute() {
    let container = container(json!({"volumeDevices": [{"name": "a", "devicePath": "xa"}]}));
    assert_eq!(
        block_devices(&container, &[]).unwrap_err().to_string(),
        "error DevicePath `xa` must be an absolute path"
    );
}
