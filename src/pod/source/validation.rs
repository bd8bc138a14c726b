//! What is wrong with a pod of a manifest. Pure.
//!
//! Not all that the API server checks: what would make the pod run in another way than its author meant, or not at all, with
//! the words of the API (`ValidatePodCreate`). What the runtime or the kernel refuses anyway is left to them.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Probe, ResourceRequirements, Volume};

use crate::model::quantity::Amount;
use crate::model::{dns, pod};

const SUBDOMAIN_FAULT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                               and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
                               validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_FAULT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                           start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                           validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// One fault: the field and what the API says of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    field: String,
    problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Fault { field: field.into(), problem: problem.into() });
    }

    fn required(&mut self, field: impl Into<String>) {
        self.add(field, "Required value");
    }

    fn invalid(&mut self, field: impl Into<String>, value: impl fmt::Debug, problem: &str) {
        self.add(field, format!("Invalid value: {value:?}: {problem}"));
    }

    fn duplicate(&mut self, field: impl Into<String>, value: impl fmt::Debug) {
        self.add(field, format!("Duplicate value: {value:?}"));
    }

    fn one_of(&mut self, field: impl Into<String>, value: Option<&str>, allowed: &[&str]) {
        let value = value.unwrap_or_default();
        if !allowed.contains(&value) {
            let mut sorted = allowed.to_vec();
            sorted.sort_unstable();
            let list = sorted.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            self.add(field, format!("Unsupported value: {value:?}: supported values: {list}"));
        }
    }

    fn label(&mut self, field: String, value: &str, taken: &mut BTreeSet<String>) {
        if value.is_empty() {
            self.required(field);
        } else if !dns::is_label(value) {
            self.invalid(field, value, LABEL_FAULT);
        } else if !taken.insert(value.to_owned()) {
            self.duplicate(field, value);
        }
    }

    fn in_range(&mut self, field: String, value: i32, range: std::ops::RangeInclusive<i32>) {
        if !range.contains(&value) {
            let problem = format!("must be between {} and {}, inclusive", range.start(), range.end());
            self.invalid(field, value, &problem);
        }
    }
}

/// All faults of a pod with its defaults; empty if it can run.
pub(super) fn faults(pod: &Pod) -> Vec<Fault> {
    let mut faults = Faults::default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if !dns::is_subdomain(name) {
        faults.invalid("metadata.name", name, SUBDOMAIN_FAULT);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if !dns::is_label(namespace) {
        faults.invalid("metadata.namespace", namespace, LABEL_FAULT);
    }
    let spec = pod::spec(pod);
    let volumes = check_volumes(spec, &mut faults);
    check_containers(spec, &volumes, &mut faults);
    check_spec(spec, &mut faults);
    faults.0
}

fn check_spec(spec: &PodSpec, faults: &mut Faults) {
    faults.one_of("spec.restartPolicy", spec.restart_policy.as_deref(), &["Always", "OnFailure", "Never"]);
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    faults.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), &policies);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|s| *s < 1 || *s > i64::from(i32::MAX)) {
        faults.invalid("spec.activeDeadlineSeconds", seconds, "must be between 1 and 2147483647, inclusive");
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let problem = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.invalid("spec.shareProcessNamespace", true, problem);
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        faults.add("spec.ephemeralContainers", "Forbidden: cannot be set on create");
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        faults.add("spec.nodeName", "Forbidden: cannot be set until all schedulingGates have been cleared");
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            let field = format!("spec.hostAliases[{index}].ip");
            faults.invalid(field, &alias.ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
}

fn check_volumes(spec: &PodSpec, faults: &mut Faults) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let field = format!("spec.volumes[{index}]");
        faults.label(format!("{field}.name"), &volume.name, &mut names);
        check_volume(&field, volume, faults);
    }
    names
}

fn check_volume(field: &str, volume: &Volume, faults: &mut Faults) {
    let sources = serde_json::to_value(volume).ok();
    let count = sources.as_ref().and_then(|value| value.as_object()).map_or(0, |fields| fields.len().saturating_sub(1));
    if count > 1 {
        faults.add(field, "Forbidden: may not specify more than 1 volume type");
    }
    let Some(host_path) = &volume.host_path else { return };
    let field = format!("{field}.hostPath");
    if host_path.path.is_empty() {
        faults.required(format!("{field}.path"));
    } else if host_path.path.split('/').any(|part| part == "..") {
        faults.invalid(format!("{field}.path"), &host_path.path, "must not contain '..'");
    }
    faults.one_of(format!("{field}.type"), host_path.type_.as_deref(), &HOST_PATH_TYPES);
}

fn check_containers(spec: &PodSpec, volumes: &BTreeSet<String>, faults: &mut Faults) {
    if spec.containers.is_empty() {
        faults.required("spec.containers");
    }
    let (mut names, mut host_ports) = (BTreeSet::new(), BTreeSet::new());
    let host_network = pod::is_host_network(spec);
    for (list, is_init, containers) in [
        ("spec.containers", false, spec.containers.as_slice()),
        ("spec.initContainers", true, spec.init_containers.as_deref().unwrap_or_default()),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let field = format!("{list}[{index}]");
            faults.label(format!("{field}.name"), &container.name, &mut names);
            check_container(&field, container, volumes, host_network, faults);
            if !is_init {
                check_host_ports(&field, container, &mut host_ports, faults);
            } else if !pod::is_sidecar(container) {
                forbid_probes(&field, container, faults);
            }
        }
    }
}

fn check_container(
    field: &str,
    container: &Container,
    volumes: &BTreeSet<String>,
    host_network: bool,
    faults: &mut Faults,
) {
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        faults.required(format!("{field}.image"));
    } else if image != image.trim() {
        faults.invalid(format!("{field}.image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    faults.one_of(format!("{field}.imagePullPolicy"), container.image_pull_policy.as_deref(), &policies);
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = container.termination_message_policy.as_deref();
    faults.one_of(format!("{field}.terminationMessagePolicy"), policy, &policies);
    if let Some(policy) = container.restart_policy.as_deref() {
        faults.one_of(format!("{field}.restartPolicy"), Some(policy), &["Always", "OnFailure", "Never"]);
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let field = format!("{field}.env[{index}]");
        if variable.name.is_empty() {
            faults.required(format!("{field}.name"));
        } else if variable.name.contains('=') {
            faults.invalid(
                format!("{field}.name"),
                &variable.name,
                "a valid environment variable name must not contain '='",
            );
        }
        if variable.value_from.is_some() && variable.value.as_deref().is_some_and(|value| !value.is_empty()) {
            faults.invalid(format!("{field}.valueFrom"), "", "may not be specified when `value` is not empty");
        }
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = format!("{field}.ports[{index}]");
        if port.container_port == 0 {
            faults.required(format!("{field}.containerPort"));
        } else {
            faults.in_range(format!("{field}.containerPort"), port.container_port, 1..=65535);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            faults.in_range(format!("{field}.hostPort"), host_port, 1..=65535);
            if host_network && host_port != port.container_port {
                faults.invalid(
                    format!("{field}.hostPort"),
                    host_port,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
        faults.one_of(format!("{field}.protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
    }
    check_mounts(field, container, volumes, faults);
    if let Some(resources) = &container.resources {
        check_resources(&format!("{field}.resources"), resources, faults);
    }
    for (name, probe) in probes(container) {
        check_probe(&format!("{field}.{name}"), probe, name != "readinessProbe", faults);
    }
}

fn probes(container: &Container) -> impl Iterator<Item = (&'static str, &Probe)> {
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    probes.into_iter().filter_map(|(name, probe)| Some((name, probe.as_ref()?)))
}

fn forbid_probes(field: &str, container: &Container, faults: &mut Faults) {
    for (name, _) in probes(container) {
        faults.add(
            format!("{field}.{name}"),
            "Forbidden: may not be set for init containers without restartPolicy=Always",
        );
    }
    if container.lifecycle.is_some() {
        let problem = "Forbidden: may not be set for init containers without restartPolicy=Always";
        faults.add(format!("{field}.lifecycle"), problem);
    }
}

fn check_host_ports(
    field: &str,
    container: &Container,
    taken: &mut BTreeSet<(String, String, i32)>,
    faults: &mut Faults,
) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let Some(host_port) = port.host_port.filter(|port| *port != 0) else { continue };
        let (protocol, ip) = (port.protocol.clone().unwrap_or_default(), port.host_ip.clone().unwrap_or_default());
        let text = format!("{protocol}/{ip}/{host_port}");
        if !taken.insert((protocol, ip, host_port)) {
            faults.duplicate(format!("{field}.ports[{index}].hostPort"), text);
        }
    }
}

fn check_mounts(field: &str, container: &Container, volumes: &BTreeSet<String>, faults: &mut Faults) {
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        if mount.name.is_empty() {
            faults.required(format!("{field}.name"));
        } else if !volumes.contains(&mount.name) {
            faults.add(format!("{field}.name"), format!("Not found: {:?}", mount.name));
        }
        if mount.mount_path.is_empty() {
            faults.required(format!("{field}.mountPath"));
        } else if !paths.insert(mount.mount_path.as_str()) {
            faults.invalid(format!("{field}.mountPath"), &mount.mount_path, "must be unique");
        }
        let sub_paths = [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)];
        for (name, path) in sub_paths.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?))) {
            if path.starts_with('/') {
                faults.invalid(format!("{field}.{name}"), path, "must be a relative path");
            } else if path.split('/').any(|part| part == "..") {
                faults.invalid(format!("{field}.{name}"), path, "must not contain '..'");
            }
        }
    }
}

fn check_resources(field: &str, resources: &ResourceRequirements, faults: &mut Faults) {
    let mut amounts = |list: &str, values: &Option<std::collections::BTreeMap<String, _>>| {
        let mut read = std::collections::BTreeMap::new();
        for (name, quantity) in values.iter().flatten() {
            let field = format!("{field}.{list}[{name}]");
            match Amount::from_quantity(quantity) {
                Ok(amount) if amount.is_negative() => faults.invalid(field, &quantity.0, NOT_NEGATIVE),
                Ok(amount) => {
                    read.insert(name.clone(), amount);
                }
                Err(error) => faults.invalid(field, &quantity.0, &error.to_string()),
            }
        }
        read
    };
    let limits = amounts("limits", &resources.limits);
    let requests = amounts("requests", &resources.requests);
    for (name, request) in &requests {
        if let Some(limit) = limits.get(name).filter(|limit| request > *limit) {
            let problem =
                format!("must be less than or equal to {name} limit of {}", text(&resources.limits, name, limit));
            faults.invalid(format!("{field}.requests"), text(&resources.requests, name, request), &problem);
        }
    }
}

fn text(
    values: &Option<std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
    name: &str,
    amount: &Amount,
) -> String {
    values
        .as_ref()
        .and_then(|values| values.get(name))
        .map_or_else(|| amount.to_string(), |quantity| quantity.0.clone())
}

fn check_probe(field: &str, probe: &Probe, one_success: bool, faults: &mut Faults) {
    let handlers = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
    match handlers.into_iter().filter(|is_set| *is_set).count() {
        0 => faults.add(field, "Required value: must specify a handler type"),
        1 => {}
        _ => faults.add(field, "Forbidden: may not specify more than 1 handler type"),
    }
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, value) in numbers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        if value < 0 {
            faults.invalid(format!("{field}.{name}"), value, NOT_NEGATIVE);
        }
    }
    if one_success && let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1) {
        faults.invalid(format!("{field}.successThreshold"), threshold, "must be 1");
    }
    if probe.exec.as_ref().is_some_and(|exec| exec.command.as_ref().is_none_or(Vec::is_empty)) {
        faults.required(format!("{field}.exec.command"));
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::defaults;
    use super::*;

    fn told(name: &str, spec: Value) -> Vec<String> {
        let metadata = json!({"name": name, "namespace": "default"});
        let mut pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        defaults::set(&mut pod);
        faults(&pod).iter().map(ToString::to_string).collect()
    }

    fn with(mut container: Value, spec: Value) -> Value {
        for (field, value) in [("name", "c"), ("image", "busybox:1")] {
            container.as_object_mut().unwrap().entry(field).or_insert(value.into());
        }
        let mut all = json!({"containers": [container]});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        all
    }

    #[rstest]
    #[case(json!({}), json!({}), &[])]
    #[case(json!({}), json!({"containers": []}), &["spec.containers: Required value"])]
    #[case(json!({"image": ""}), json!({}), &["spec.containers[0].image: Required value"])]
    #[case(json!({}), json!({"restartPolicy": "Sometimes"}),
        &["spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\""])]
    #[case(json!({}), json!({"initContainers": [{"name": "c", "image": "x"}]}),
        &["spec.initContainers[0].name: Duplicate value: \"c\""])]
    #[case(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]}), json!({}),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""])]
    #[case(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]}), json!({"volumes": [{"name": "v"}]}),
        &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique"])]
    #[case(json!({}), json!({"volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]}),
        &["spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"])]
    #[case(json!({}), json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}]}),
        &["spec.volumes[0]: Forbidden: may not specify more than 1 volume type"])]
    #[case(json!({"ports": [{"containerPort": 70000}]}), json!({}),
        &["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"])]
    #[case(json!({"ports": [{"containerPort": 80, "hostPort": 81}]}), json!({"hostNetwork": true}),
        &["spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"])]
    #[case(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}), json!({}),
        &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"])]
    #[case(json!({"resources": {"limits": {"cpu": "-1"}, "requests": {"cpu": "0"}}}), json!({}),
        &["spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"])]
    #[case(json!({"livenessProbe": {"periodSeconds": 1}}), json!({}),
        &["spec.containers[0].livenessProbe: Required value: must specify a handler type"])]
    #[case(json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}), json!({}),
        &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"])]
    #[case(json!({}), json!({"ephemeralContainers": [{"name": "e", "image": "x"}]}),
        &["spec.ephemeralContainers: Forbidden: cannot be set on create"])]
    fn faults_are_told_as_the_api_does(#[case] container: Value, #[case] spec: Value, #[case] expected: &[&str]) {
        assert_eq!(told("p", with(container, spec)), expected);
    }

    #[test]
    fn names_are_checked() {
        let told = told("Upper", with(json!({"name": "a.b"}), json!({})));
        assert_eq!(told.len(), 2);
        assert!(
            told[0].starts_with("metadata.name: Invalid value: \"Upper\": a lowercase RFC 1123 subdomain"),
            "{}",
            told[0]
        );
        assert!(told[1].starts_with("spec.containers[0].name: Invalid value: \"a.b\": a lowercase RFC 1123 label"));
    }
}
