//! The hash that tells whether a container must be made anew, and the key of its crash-loop back-off.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::model::hash::{fnv32a, fnv64a};
use crate::model::pod::PodKey;

use super::go_json;

/// A container's restart hash, as the annotation `io.kubernetes.container.hash` holds it: only name and image count, so
/// that no other change of a running container restarts it. Equal to the peer's, so that either agent can take over the
/// other's containers.
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let json = format!("{{\"image\":{},\"name\":{}}}", go_json::text(image), go_json::text(&container.name));
    // The peer does not hash the JSON but the way in which its debug printer shows the JSON's bytes.
    let mut printed = String::from("([]uint8)[");
    for (index, byte) in json.bytes().enumerate() {
        let separator = if index == 0 { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(printed, "{separator}{byte}");
    }
    printed.push(']');
    format!("{:x}", fnv32a(printed.as_bytes()))
}

/// The key under which the crash-loop back-off of a container is remembered. A change of its image or resources makes a
/// new key, and so a fresh start.
///
/// The peer's key hashes the same parts in its own notation; as the key never leaves the process, it need not be equal.
pub fn backoff_key(pod: &Pod, container: &Container) -> String {
    let key = PodKey::of(pod);
    let image = container.image.as_deref().unwrap_or_default();
    let resources = container.resources.as_ref().map(resources_text).unwrap_or_default();
    let parts = [&key.name, &key.namespace, key.uid.as_str(), &container.name, image, &resources].join("/");
    format!("{:x}", fnv64a(parts.as_bytes()))
}

fn resources_text(resources: &ResourceRequirements) -> String {
    let mut text = String::new();
    for (kind, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, quantity) in list.iter().flatten() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{kind}.{name}={},", quantity.0);
        }
    }
    for claim in resources.claims.iter().flatten() {
        let _ = write!(text, "claim={}:{},", claim.name, claim.request.as_deref().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use rstest::rstest;

    use super::*;

    fn container(name: &str, image: &str) -> Container {
        Container { name: name.into(), image: Some(image.into()), ..Container::default() }
    }

    // Values of the peer's HashContainer (json.Marshal, dump.ForHash and fnv.New32a, run with Go 1.26); the first one
    // is also in its own tests.
    #[rstest]
    #[case("test_container", "foo/image:v1", "8e45cbd0")]
    #[case("test_container", "foo/image", "581e45d6")]
    #[case("foo", "busybox", "fbac95ff")]
    #[case("app", "registry.k8s.io/pause:3.10", "ed432b69")]
    #[case("", "", "edd67cc4")]
    #[case("c", "nginx:1.27@sha256:abc", "bf4b5532")]
    #[case("web", "docker.io/library/nginx", "a1e74746")]
    #[case("<a>&b", "x\u{2028}y\u{2029}z\"\\\u{8}\u{c}\n\r\t\u{1}\u{7f}/é", "1455a42e")]
    fn hash_is_the_peers(#[case] name: &str, #[case] image: &str, #[case] expected: &str) {
        assert_eq!(container_hash(&container(name, image)), expected);
    }

    #[test]
    fn nothing_but_name_and_image_counts() {
        let plain = container("app", "image");
        let other = Container {
            command: Some(vec!["x".into()]),
            tty: Some(true),
            resources: Some(ResourceRequirements::default()),
            ..plain.clone()
        };
        assert_eq!(container_hash(&plain), container_hash(&other));
    }

    #[test]
    fn back_off_starts_anew_with_another_image_or_other_resources() {
        let pod = Pod::default();
        let plain = container("app", "image");
        let with_limit = |amount: &str| Container {
            resources: Some(ResourceRequirements {
                limits: Some([("cpu".to_owned(), Quantity(amount.to_owned()))].into()),
                ..ResourceRequirements::default()
            }),
            ..plain.clone()
        };
        let keys = [
            backoff_key(&pod, &plain),
            backoff_key(&pod, &container("app", "image:2")),
            backoff_key(&pod, &container("other", "image")),
            backoff_key(&pod, &with_limit("1")),
            backoff_key(&pod, &with_limit("2")),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(backoff_key(&pod, &plain), backoff_key(&pod, &Container { tty: Some(true), ..plain.clone() }));
    }
}
