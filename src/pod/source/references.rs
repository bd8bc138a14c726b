//! What a static pod may not have: references to objects of the API, which may be away when it starts. Pure.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, Volume, VolumeProjection};

use crate::model::pod;

/// The first kind of object that the pod refers to, in the peer's words; none if it needs no object.
pub(super) fn first(pod: &Pod) -> Option<&'static str> {
    let spec = pod::spec(pod);
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    let volumes = || spec.volumes.iter().flatten();
    let pull_secret = spec.image_pull_secrets.iter().flatten().any(|secret| !secret.name.is_empty());
    let in_containers = |refers: fn(&Container) -> bool| {
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        pod::init_and_regular_containers(spec).any(|(_, container)| refers(container))
            || ephemeral.map(as_container).any(|container| refers(&container))
    };
    if pull_secret || in_containers(refers_to_secret) || volumes().any(has_secret) {
        return Some("secrets");
    }
    if in_containers(refers_to_config_map) || volumes().any(has_config_map) {
        return Some("configmaps");
    }
    if spec.resource_claims.iter().flatten().next().is_some() {
        return Some("resourceclaims");
    }
    volumes().find_map(of_volume)
}

fn as_container(container: &EphemeralContainer) -> Container {
    pod::ephemeral_as_container(container)
}

fn refers_to_secret(container: &Container) -> bool {
    let sets = container.env_from.iter().flatten();
    let mut variables = container.env.iter().flatten();
    sets.filter_map(|set| set.secret_ref.as_ref()).any(|set| !set.name.is_empty())
        || variables.any(|variable| {
            let key = variable.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref());
            key.is_some_and(|key| !key.name.is_empty())
        })
}

fn refers_to_config_map(container: &Container) -> bool {
    let sets = container.env_from.iter().flatten();
    let mut variables = container.env.iter().flatten();
    sets.filter_map(|set| set.config_map_ref.as_ref()).any(|set| !set.name.is_empty())
        || variables.any(|variable| {
            let key = variable.value_from.as_ref().and_then(|source| source.config_map_key_ref.as_ref());
            key.is_some_and(|key| !key.name.is_empty())
        })
}

fn projections(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten())
}

/// A secret with a name. Those of volume plugins that only a CSI driver serves today are left to the API.
fn has_secret(volume: &Volume) -> bool {
    let named = |name: Option<&str>| name.is_some_and(|name| !name.is_empty());
    let by_driver = [
        volume.flex_volume.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|v| v.node_publish_secret_ref.as_ref()),
    ];
    named(volume.secret.as_ref().and_then(|v| v.secret_name.as_deref()))
        || named(volume.azure_file.as_ref().map(|v| v.secret_name.as_str()))
        || projections(volume).filter_map(|source| source.secret.as_ref()).any(|secret| named(Some(&secret.name)))
        || by_driver.into_iter().flatten().any(|secret| named(Some(&secret.name)))
}

fn has_config_map(volume: &Volume) -> bool {
    let named = |name: &str| !name.is_empty();
    volume.config_map.as_ref().is_some_and(|map| named(&map.name))
        || projections(volume).filter_map(|source| source.config_map.as_ref()).any(|map| named(&map.name))
}

fn of_volume(volume: &Volume) -> Option<&'static str> {
    [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ]
    .into_iter()
    .find_map(|(is_set, kind)| is_set.then_some(kind))
    .or_else(|| projections(volume).find_map(of_projection))
}

fn of_projection(source: &VolumeProjection) -> Option<&'static str> {
    [
        (source.config_map.is_some(), "configmaps (via projected volumes)"),
        (source.secret.is_some(), "secrets (via projected volumes)"),
        (source.service_account_token.is_some(), "serviceaccounts (via projected volumes)"),
        (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
        (source.pod_certificate.is_some(), "podcertificates"),
    ]
    .into_iter()
    .find_map(|(is_set, kind)| is_set.then_some(kind))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case(json!({}), None)]
    #[case(json!({"serviceAccountName": "sa"}), Some("serviceaccounts"))]
    #[case(json!({"imagePullSecrets": [{"name": "s"}]}), Some("secrets"))]
    #[case(json!({"imagePullSecrets": [{"name": ""}]}), None)]
    #[case(json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]}), Some("secrets"))]
    #[case(
        json!({"initContainers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
        Some("secrets")
    )]
    #[case(json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "s"}}]}]}), Some("configmaps"))]
    #[case(
        json!({"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}}]}]}),
        Some("configmaps")
    )]
    #[case(json!({"resourceClaims": [{"name": "r"}]}), Some("resourceclaims"))]
    #[case(json!({"volumes": [{"name": "v", "configMap": {"name": "m"}}]}), Some("configmaps"))]
    #[case(json!({"volumes": [{"name": "v", "secret": {"secretName": "m"}}]}), Some("secrets"))]
    #[case(json!({"volumes": [{"name": "v", "secret": {}}]}), Some("secrets (via secret volumes)"))]
    #[case(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "m"}}]}), Some("persistentvolumeclaims"))]
    #[case(json!({"volumes": [{"name": "v", "csi": {"driver": "m"}}]}), Some("csidrivers (via CSI volumes)"))]
    #[case(
        json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        Some("serviceaccounts (via projected volumes)")
    )]
    #[case(json!({"volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}]}), Some("clustertrustbundles"))]
    #[case(json!({"volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": []}}]}}, {"name": "w", "hostPath": {"path": "/"}}]}), None)]
    fn references(#[case] spec: Value, #[case] expected: Option<&str>) {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        assert_eq!(first(&pod), expected);
    }
}
