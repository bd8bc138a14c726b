//! Labels and annotations of sandboxes and containers, and the way back.
//!
//! They are all that is left of a pod once the API has forgotten it, and the only memory that outlives the agent: names
//! and values are the peer's, byte for byte, so that either agent can take over the other's containers.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, ContainerPort, LifecycleHandler, Pod};
use serde::de::DeserializeOwned;

use crate::model::pod::{PodKey, PodUid, spec};
use crate::runtime::labels::{
    CONTAINER_HASH, CONTAINER_NAME, CONTAINER_RESTART_COUNT, POD_NAME, POD_NAMESPACE, POD_UID,
    TERMINATION_MESSAGE_PATH, TERMINATION_MESSAGE_POLICY,
};

use super::go_json;
use super::hash::container_hash;

/// Annotation: `lifecycle.preStop` as JSON.
pub const CONTAINER_PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
/// Annotation: `ports` as JSON.
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Annotation: the pod's `deletionGracePeriodSeconds` when the container was made.
pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation: the pod's `terminationGracePeriodSeconds`.
pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// A sandbox's labels: those of the pod, and its identity.
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity_labels(pod));
    labels
}

/// A sandbox's annotations: those of the pod, as they are.
pub fn sandbox_annotations(pod: &Pod) -> HashMap<String, String> {
    pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect()
}

/// A container's labels: whose it is, and nothing else.
pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels = HashMap::from(identity_labels(pod));
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

fn identity_labels(pod: &Pod) -> [(String, String); 3] {
    let key = PodKey::of(pod);
    [
        (POD_NAME.to_owned(), key.name),
        (POD_NAMESPACE.to_owned(), key.namespace),
        (POD_UID.to_owned(), key.uid.to_string()),
    ]
}

/// A container's annotations: what a later agent must know to report and stop it. Those of device plugins give way.
pub fn container_annotations(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
    plugin_annotations: &[(String, String)],
) -> HashMap<String, String> {
    let mut annotations: HashMap<String, String> = plugin_annotations.iter().cloned().collect();
    let mut set = |name: &str, value: String| annotations.insert(name.to_owned(), value);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    set(CONTAINER_HASH, container_hash(container));
    set(CONTAINER_RESTART_COUNT, restart_count.to_string());
    set(TERMINATION_MESSAGE_PATH, text(&container.termination_message_path));
    set(TERMINATION_MESSAGE_POLICY, text(&container.termination_message_policy));
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        set(POD_DELETION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(seconds) = spec(pod).termination_grace_period_seconds {
        set(POD_TERMINATION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(handler) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        set(CONTAINER_PRE_STOP_HANDLER, go_json::lifecycle_handler(handler));
    }
    if let Some(ports) = container.ports.as_deref().filter(|ports| !ports.is_empty()) {
        set(CONTAINER_PORTS, go_json::container_ports(ports));
    }
    annotations
}

/// The pod that a sandbox or container belongs to, from its labels; none for one that no kubelet made.
pub fn pod_key<L: Lookup>(labels: &L) -> Option<PodKey> {
    let uid = labels.value(POD_UID).filter(|uid| !uid.is_empty())?;
    Some(PodKey {
        namespace: labels.value(POD_NAMESPACE).unwrap_or_default().to_owned(),
        name: labels.value(POD_NAME).unwrap_or_default().to_owned(),
        uid: PodUid::from(uid),
    })
}

/// A container's name in the pod spec, from its labels.
pub fn container_name<L: Lookup>(labels: &L) -> Option<&str> {
    labels.value(CONTAINER_NAME)
}

/// A map of texts, whichever way it is kept.
pub trait Lookup {
    /// The value under a name.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Lookup for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Lookup for HashMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// What a container's annotations tell. Whatever is absent or unreadable reads as not set, as in the peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerAnnotations {
    /// The restart hash; empty if there is none.
    pub hash: String,
    /// How many containers of that name came before.
    pub restart_count: Option<u32>,
    /// `deletionGracePeriodSeconds` of the pod when the container was made.
    pub deletion_grace_period: Option<i64>,
    /// `terminationGracePeriodSeconds`.
    pub termination_grace_period: Option<i64>,
    /// `terminationMessagePath`; empty for none.
    pub termination_message_path: String,
    /// `terminationMessagePolicy`.
    pub termination_message_policy: String,
    /// `lifecycle.preStop`.
    pub pre_stop_handler: Option<LifecycleHandler>,
    /// `ports`.
    pub ports: Vec<ContainerPort>,
    /// Names of annotations whose value cannot be read, for the log.
    pub malformed: Vec<&'static str>,
}

impl<L: Lookup> From<&L> for ContainerAnnotations {
    fn from(annotations: &L) -> Self {
        let mut malformed = Vec::new();
        let text = |name| annotations.value(name).unwrap_or_default().to_owned();
        ContainerAnnotations {
            hash: text(CONTAINER_HASH),
            restart_count: number(annotations, CONTAINER_RESTART_COUNT, &mut malformed)
                .and_then(|count| u32::try_from(count).ok()),
            deletion_grace_period: number(annotations, POD_DELETION_GRACE_PERIOD, &mut malformed),
            termination_grace_period: number(annotations, POD_TERMINATION_GRACE_PERIOD, &mut malformed),
            termination_message_path: text(TERMINATION_MESSAGE_PATH),
            termination_message_policy: text(TERMINATION_MESSAGE_POLICY),
            pre_stop_handler: json(annotations, CONTAINER_PRE_STOP_HANDLER, &mut malformed),
            ports: json(annotations, CONTAINER_PORTS, &mut malformed).unwrap_or_default(),
            malformed,
        }
    }
}

fn number<L: Lookup>(annotations: &L, name: &'static str, malformed: &mut Vec<&'static str>) -> Option<i64> {
    let number = annotations.value(name)?.parse().ok();
    if number.is_none() {
        malformed.push(name);
    }
    number
}

fn json<L: Lookup, T: DeserializeOwned>(
    annotations: &L,
    name: &'static str,
    malformed: &mut Vec<&'static str>,
) -> Option<T> {
    let value = serde_json::from_str(annotations.value(name)?).ok();
    if value.is_none() {
        malformed.push(name);
    }
    value
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ExecAction, Lifecycle, PodSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use rstest::rstest;

    use super::*;

    fn pod() -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("shop".into()),
                uid: Some("u-1".into()),
                labels: Some([("app".to_owned(), "web".to_owned()), (POD_NAME.to_owned(), "fake".into())].into()),
                annotations: Some([("kubernetes.io/config.seen".to_owned(), "t".to_owned())].into()),
                deletion_grace_period_seconds: Some(7),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { termination_grace_period_seconds: Some(30), ..PodSpec::default() }),
            ..Pod::default()
        }
    }

    fn container() -> Container {
        let command = Some(vec!["/bin/sh".into(), "-c".into(), "a && b".into()]);
        let pre_stop = LifecycleHandler { exec: Some(ExecAction { command }), ..LifecycleHandler::default() };
        Container {
            name: "app".into(),
            image: Some("busybox".into()),
            lifecycle: Some(Lifecycle { pre_stop: Some(pre_stop), ..Lifecycle::default() }),
            ports: Some(vec![ContainerPort { container_port: 80, protocol: Some("TCP".into()), ..Default::default() }]),
            termination_message_path: Some("/dev/termination-log".into()),
            termination_message_policy: Some("File".into()),
            ..Container::default()
        }
    }

    #[test]
    fn a_sandbox_carries_the_pods_labels_and_annotations() {
        let labels: BTreeMap<_, _> = sandbox_labels(&pod()).into_iter().collect();
        let expected = [
            ("app", "web"),
            ("io.kubernetes.pod.name", "web"),
            ("io.kubernetes.pod.namespace", "shop"),
            ("io.kubernetes.pod.uid", "u-1"),
        ];
        assert_eq!(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(sandbox_annotations(&pod()).value("kubernetes.io/config.seen"), Some("t"));
        assert_eq!(pod_key(&labels), Some(PodKey::of(&pod())));
    }

    #[test]
    fn a_container_carries_its_identity_alone() {
        let labels = container_labels(&pod(), &container());
        assert_eq!(labels.len(), 4);
        assert_eq!(container_name(&labels), Some("app"));
        assert_eq!(pod_key(&labels), Some(PodKey::of(&pod())));
    }

    #[test]
    fn annotations_there_and_back() {
        let plugins = [("vendor/x".to_owned(), "1".to_owned()), (CONTAINER_HASH.to_owned(), "overridden".to_owned())];
        let annotations = container_annotations(&pod(), &container(), 4, &plugins);
        let sorted: BTreeMap<_, _> = annotations.iter().collect();
        insta::assert_snapshot!(
            sorted.iter().map(|(k, v)| format!("{k}={v}\n")).collect::<String>(),
            @r#"
        io.kubernetes.container.hash=3ada567e
        io.kubernetes.container.ports=[{"containerPort":80,"protocol":"TCP"}]
        io.kubernetes.container.preStopHandler={"exec":{"command":["/bin/sh","-c","a \u0026\u0026 b"]}}
        io.kubernetes.container.restartCount=4
        io.kubernetes.container.terminationMessagePath=/dev/termination-log
        io.kubernetes.container.terminationMessagePolicy=File
        io.kubernetes.pod.deletionGracePeriod=7
        io.kubernetes.pod.terminationGracePeriod=30
        vendor/x=1
        "#
        );
        let expected = ContainerAnnotations {
            hash: container_hash(&container()),
            restart_count: Some(4),
            deletion_grace_period: Some(7),
            termination_grace_period: Some(30),
            termination_message_path: "/dev/termination-log".into(),
            termination_message_policy: "File".into(),
            pre_stop_handler: container().lifecycle.and_then(|l| l.pre_stop),
            ports: container().ports.unwrap_or_default(),
            malformed: Vec::new(),
        };
        assert_eq!(ContainerAnnotations::from(&annotations), expected);
        let ordered: BTreeMap<String, String> = annotations.into_iter().collect();
        assert_eq!(ContainerAnnotations::from(&ordered), expected);
    }

    #[test]
    fn what_a_pod_does_not_set_is_not_stored() {
        let bare = Container { name: "app".into(), ports: Some(Vec::new()), ..Container::default() };
        let annotations = container_annotations(&Pod::default(), &bare, 0, &[]);
        assert_eq!(annotations.len(), 4);
        assert_eq!(annotations.value(TERMINATION_MESSAGE_PATH), Some(""));
    }

    #[rstest]
    #[case(CONTAINER_RESTART_COUNT, "x")]
    #[case(POD_DELETION_GRACE_PERIOD, "1s")]
    #[case(POD_TERMINATION_GRACE_PERIOD, "")]
    #[case(CONTAINER_PRE_STOP_HANDLER, "{")]
    #[case(CONTAINER_PORTS, "{}")]
    fn unreadable_annotations_count_as_absent(#[case] name: &'static str, #[case] value: &str) {
        let annotations: HashMap<String, String> = [(name.to_owned(), value.to_owned())].into();
        let expected = ContainerAnnotations { malformed: vec![name], ..ContainerAnnotations::default() };
        assert_eq!(ContainerAnnotations::from(&annotations), expected);
    }

    #[test]
    fn foreign_containers_have_no_pod() {
        assert_eq!(pod_key(&HashMap::new()), None);
        assert_eq!(pod_key(&HashMap::from([(POD_UID.to_owned(), String::new())])), None);
    }
}
