//! What the API server would add to a pod that is stored there (`SetObjectDefaults_Pod` of the v1 API). Pure.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, HTTPGetAction, ObjectFieldSelector, Pod, PodSpec, Probe, Volume, VolumeProjection,
};

use crate::image::PullPolicy;

/// Mode of files in volumes that the API fills.
const FILE_MODE: i32 = 0o644;
/// Lifetime of a projected token in seconds.
const TOKEN_LIFETIME: i64 = 3600;

/// Fills in the defaults of a pod.
pub(super) fn set(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    let host_network = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        set_container(container, host_network);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        set_volume(volume);
    }
    set_spec(spec);
}

fn set_spec(spec: &mut PodSpec) {
    if spec.service_account_name.as_deref().is_none_or(str::is_empty) {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account.clone_from(&spec.service_account_name);
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.enable_service_links.get_or_insert(true);
    // Accepted for history's sake, and taken for as short as can be.
    let grace = spec.termination_grace_period_seconds.get_or_insert(30);
    if *grace < 0 {
        *grace = 1;
    }
}

fn set_container(container: &mut Container, host_network: bool) {
    let image = container.image.clone().unwrap_or_default();
    text(&mut container.image_pull_policy, PullPolicy::of(None, &image).as_str());
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
        if host_network && port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
    if let Some(resources) = &mut container.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
    container.env.iter_mut().flatten().for_each(set_variable);
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(set_probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        hooks.into_iter().flatten().filter_map(|hook| hook.http_get.as_mut()).for_each(set_http_get);
    }
}

fn set_variable(variable: &mut EnvVar) {
    let Some(source) = &mut variable.value_from else { return };
    if let Some(field) = &mut source.field_ref {
        set_field(field);
    }
    if let Some(key) = &mut source.file_key_ref {
        key.optional.get_or_insert(false);
    }
}

fn set_field(field: &mut ObjectFieldSelector) {
    text(&mut field.api_version, "v1");
}

fn set_probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        set_http_get(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn set_http_get(action: &mut HTTPGetAction) {
    text(&mut action.path, "/");
    text(&mut action.scheme, "HTTP");
}

fn set_volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir.get_or_insert_default();
    }
    if let Some(image) = &mut volume.image {
        let reference = image.reference.clone().unwrap_or_default();
        text(&mut image.pull_policy, PullPolicy::of(None, &reference).as_str());
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        downward.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()).for_each(set_field);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        projected.sources.iter_mut().flatten().for_each(set_projection);
    }
}

fn set_projection(source: &mut VolumeProjection) {
    if let Some(downward) = &mut source.downward_api {
        downward.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()).for_each(set_field);
    }
    if let Some(token) = &mut source.service_account_token {
        token.expiration_seconds.get_or_insert(TOKEN_LIFETIME);
    }
}

/// Sets a text that is absent or empty.
fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(default.to_owned());
    }
}

/// Sets a number that is absent or zero.
fn number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(default);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        set(&mut pod);
        let once = serde_json::to_value(&pod.spec).unwrap();
        set(&mut pod);
        assert_eq!(serde_json::to_value(&pod.spec).unwrap(), once, "defaults are set once");
        once
    }

    #[test]
    fn a_bare_pod_gets_what_the_api_gives_it() {
        let spec = defaulted(json!({"containers": [{"name": "c", "image": "busybox"}]}));
        let expected = json!({
            "containers": [{
                "name": "c",
                "image": "busybox",
                "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": true,
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn what_is_set_stays() {
        let given = json!({
            "containers": [{
                "name": "c",
                "image": "busybox:1",
                "imagePullPolicy": "Never",
                "terminationMessagePath": "/x",
                "terminationMessagePolicy": "FallbackToLogsOnError",
            }],
            "dnsPolicy": "Default",
            "enableServiceLinks": false,
            "restartPolicy": "Never",
            "schedulerName": "own",
            "securityContext": {"runAsUser": 1},
            "terminationGracePeriodSeconds": 0,
        });
        assert_eq!(defaulted(given.clone()), given);
    }

    #[test]
    fn probes_ports_and_variables() {
        let spec = defaulted(json!({
            "hostNetwork": true,
            "terminationGracePeriodSeconds": -5,
            "initContainers": [{"name": "i", "image": "x:1", "ports": [{"containerPort": 7}]}],
            "containers": [{
                "name": "c",
                "image": "x:1",
                "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 82, "protocol": "UDP"}],
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                "readinessProbe": {"grpc": {"port": 80}},
                "startupProbe": {"exec": {"command": ["x"]}, "failureThreshold": 24},
                "lifecycle": {"preStop": {"httpGet": {"port": 1, "scheme": "HTTPS"}}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "250m"}},
            }],
        }));
        let container = &spec["containers"][0];
        assert_eq!(spec["terminationGracePeriodSeconds"], 1);
        assert_eq!(spec["initContainers"][0]["ports"], json!([{"containerPort": 7, "hostPort": 7, "protocol": "TCP"}]));
        let ports = json!([
            {"containerPort": 80, "hostPort": 80, "protocol": "TCP"},
            {"containerPort": 81, "hostPort": 82, "protocol": "UDP"},
        ]);
        assert_eq!(container["ports"], ports);
        let numbers = |period: i32, failures: i32| json!({"timeoutSeconds": 1, "periodSeconds": period, "successThreshold": 1, "failureThreshold": failures});
        for (probe, handler, value, mut expected) in [
            ("livenessProbe", "httpGet", json!({"port": 80, "path": "/", "scheme": "HTTP"}), numbers(5, 3)),
            ("readinessProbe", "grpc", json!({"port": 80, "service": ""}), numbers(10, 3)),
            ("startupProbe", "exec", json!({"command": ["x"]}), numbers(10, 24)),
        ] {
            expected[handler] = value;
            assert_eq!(container[probe], expected, "{probe}");
        }
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"], json!({"port": 1, "path": "/", "scheme": "HTTPS"}));
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(container["resources"]["requests"], json!({"cpu": "250m", "memory": "1Gi"}));
    }

    #[test]
    fn volumes() {
        let spec = defaulted(json!({
            "containers": [],
            "volumes": [
                {"name": "a"},
                {"name": "b", "hostPath": {"path": "/x"}},
                {"name": "c", "configMap": {"name": "m"}},
                {"name": "d", "secret": {"secretName": "s", "defaultMode": 256}},
                {"name": "e", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"name": "f", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
                {"name": "g", "image": {"reference": "x:2"}},
            ],
        }));
        let expected = json!([
            {"name": "a", "emptyDir": {}},
            {"name": "b", "hostPath": {"path": "/x", "type": ""}},
            {"name": "c", "configMap": {"name": "m", "defaultMode": 420}},
            {"name": "d", "secret": {"secretName": "s", "defaultMode": 256}},
            {"name": "e", "downwardAPI": {
                "defaultMode": 420,
                "items": [{"path": "p", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}],
            }},
            {"name": "f", "projected": {
                "defaultMode": 420,
                "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}],
            }},
            {"name": "g", "image": {"reference": "x:2", "pullPolicy": "IfNotPresent"}},
        ]);
        assert_eq!(spec["volumes"], expected);
    }

    #[test]
    fn an_old_name_of_the_service_account_counts() {
        let spec = defaulted(json!({"containers": [], "serviceAccount": "sa"}));
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("sa"), &json!("sa")));
    }
}
