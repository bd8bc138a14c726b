//! Which ConfigMaps and Secrets a pod refers to: exactly those that the node authorizer lets this node read for it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, LocalObjectReference, Pod, Volume};

use crate::model::pod;

/// Names of the objects that a pod refers to, in the pod's own namespace. What is behind a claim or a volume is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps by env, envFrom and volumes.
    pub config_maps: BTreeSet<String>,
    /// Secrets by env, envFrom, volumes and imagePullSecrets.
    pub secrets: BTreeSet<String>,
}

/// Collects a pod's references (the peer: `pkg/api/v1/pod`, VisitPodSecretNames and VisitPodConfigmapNames).
pub fn referenced_objects(pod: &Pod) -> References {
    let spec = pod::spec(pod);
    let mut found = References::default();
    for reference in spec.image_pull_secrets.iter().flatten() {
        found.secret(&reference.name);
    }
    for (_, container) in pod::init_and_regular_containers(spec) {
        found.environment(container.env.as_deref(), container.env_from.as_deref());
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        found.environment(container.env.as_deref(), container.env_from.as_deref());
    }
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
    }
    found
}

impl References {
    fn secret(&mut self, name: &str) {
        if !name.is_empty() {
            self.secrets.insert(name.into());
        }
    }

    fn config_map(&mut self, name: &str) {
        if !name.is_empty() {
            self.config_maps.insert(name.into());
        }
    }

    fn environment(&mut self, env: Option<&[EnvVar]>, env_from: Option<&[EnvFromSource]>) {
        for source in env_from.unwrap_or_default() {
            if let Some(reference) = &source.config_map_ref {
                self.config_map(&reference.name);
            }
            if let Some(reference) = &source.secret_ref {
                self.secret(&reference.name);
            }
        }
        for source in env.unwrap_or_default().iter().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(key) = &source.config_map_key_ref {
                self.config_map(&key.name);
            }
            if let Some(key) = &source.secret_key_ref {
                self.secret(&key.name);
            }
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(source) = &volume.config_map {
            self.config_map(&source.name);
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()) {
            self.secret(name);
        }
        if let Some(source) = &volume.azure_file {
            self.secret(&source.secret_name);
        }
        if let Some(source) = &volume.scale_io {
            self.secret(&source.secret_ref.name);
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(projection) = &source.config_map {
                self.config_map(&projection.name);
            }
            if let Some(projection) = &source.secret {
                self.secret(&projection.name);
            }
        }
        let references: [Option<&LocalObjectReference>; 7] = [
            volume.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()),
            volume.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()),
        ];
        for reference in references.into_iter().flatten() {
            self.secret(&reference.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_reference_is_found() {
        let env = |n: &str| {
            json!({"name": n, "image": "i",
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": format!("cm-env-{n}"), "key": "k"}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": format!("s-env-{n}"), "key": "k"}}},
            ],
            "envFrom": [
                {"configMapRef": {"name": format!("cm-from-{n}")}},
                {"secretRef": {"name": format!("s-from-{n}")}},
            ]})
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}, {"name": ""}],
            "initContainers": [env("i")], "containers": [env("c")], "ephemeralContainers": [env("e")],
            "volumes": [
                {"name": "1", "configMap": {"name": "cm-vol"}},
                {"name": "2", "secret": {"secretName": "s-vol"}},
                {"name": "3", "projected": {"sources": [
                    {"configMap": {"name": "cm-proj"}}, {"secret": {"name": "s-proj"}}, {"serviceAccountToken": {"path": "t"}}]}},
                {"name": "4", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s-csi"}}},
                {"name": "5", "azureFile": {"secretName": "s-azure", "shareName": "s"}},
                {"name": "6", "cephfs": {"monitors": ["m"], "secretRef": {"name": "s-ceph"}}},
                {"name": "7", "rbd": {"image": "i", "monitors": ["m"], "secretRef": {"name": "s-rbd"}}},
                {"name": "8", "iscsi": {"targetPortal": "t", "iqn": "q", "lun": 0, "secretRef": {"name": "s-iscsi"}}},
                {"name": "9", "flexVolume": {"driver": "d", "secretRef": {"name": "s-flex"}}},
                {"name": "10", "cinder": {"volumeID": "v", "secretRef": {"name": "s-cinder"}}},
                {"name": "11", "scaleIO": {"gateway": "g", "system": "s", "secretRef": {"name": "s-scale"}}},
                {"name": "12", "storageos": {"secretRef": {"name": "s-storageos"}}},
                {"name": "13", "emptyDir": {}},
            ]}}))
        .unwrap();
        let found = referenced_objects(&pod);
        let expected = ["cm-env-c", "cm-env-e", "cm-env-i", "cm-from-c", "cm-from-e", "cm-from-i", "cm-proj", "cm-vol"];
        assert_eq!(found.config_maps, expected.map(String::from).into());
        let expected = [
            "pull",
            "s-azure",
            "s-ceph",
            "s-cinder",
            "s-csi",
            "s-env-c",
            "s-env-e",
            "s-env-i",
            "s-flex",
            "s-from-c",
            "s-from-e",
            "s-from-i",
            "s-iscsi",
            "s-proj",
            "s-rbd",
            "s-scale",
            "s-storageos",
            "s-vol",
        ];
        assert_eq!(found.secrets, expected.map(String::from).into());
    }

    #[test]
    fn a_pod_without_references_has_none() {
        assert_eq!(referenced_objects(&Pod::default()), References::default());
    }
}
