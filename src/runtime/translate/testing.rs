//! Pods from JSON, and messages as text that stays the same from run to run.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;

use crate::model::container_resources::{LinuxResourceSettings, MemoryQos};

use super::settings::NodeSettings;

/// A pod `web` in namespace `shop` with that spec.
pub fn pod(spec: Value) -> Pod {
    pod_with(Value::Null, spec)
}

/// [`pod`] with further metadata.
pub fn pod_with(metadata: Value, spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": spec})).unwrap();
    pod.metadata.name.get_or_insert_with(|| "web".to_owned());
    pod.metadata.namespace.get_or_insert_with(|| "shop".to_owned());
    pod.metadata.uid.get_or_insert_with(|| "6f1c2a52-0000-4000-8000-000000000001".to_owned());
    pod
}

/// A container from JSON; `app` with image `busybox` unless it says otherwise.
pub fn container(mut fields: Value) -> Container {
    for (name, value) in [("name", "app"), ("image", "busybox")] {
        if fields[name].is_null() {
            fields[name] = value.into();
        }
    }
    serde_json::from_value(fields).unwrap()
}

/// A node of 8 GiB on cgroup v2 with cluster DNS.
pub fn node() -> NodeSettings {
    NodeSettings {
        cluster_domain: "cluster.local".to_owned(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        resources: LinuxResourceSettings {
            cgroup_v2: true,
            memory_capacity: 8 << 30,
            huge_page_sizes: vec!["2MB".to_owned()],
            memory_qos: Some(MemoryQos::default()),
            ..LinuxResourceSettings::default()
        },
        ..NodeSettings::default()
    }
}

/// A message's debug text without fields at their defaults, maps in the order of their keys, bytes as text, and what fits
/// on a line on one line.
pub fn shown(message: &impl Debug) -> String {
    const DEFAULTS: [&str; 6] = [": \"\",", ": false,", ": 0,", ": None,", ": [],", ": {},"];
    let text = format!("{message:#?}");
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    for line in text.lines() {
        let is_default = DEFAULTS.iter().any(|default| line.ends_with(default)) && !line.trim_start().starts_with('"');
        if is_default {
            continue;
        }
        if line.ends_with(['{', '[', '(']) {
            open.push(vec![line.to_owned()]);
            continue;
        }
        let is_end = matches!(line.trim().trim_end_matches(','), "}" | "]" | ")");
        let lines = if is_end { closed(open.pop().unwrap(), line) } else { vec![line.to_owned()] };
        open.last_mut().unwrap().extend(lines);
    }
    open.concat().join("\n")
}

/// The lines of a block whose last line is `end`.
fn closed(mut block: Vec<String>, end: &str) -> Vec<String> {
    const WIDTH: usize = 100;
    let start = block.remove(0);
    if ["labels: {", "annotations: {", "sysctls: {", "unified: {"].contains(&start.trim_start()) {
        block.sort();
    }
    let items: Vec<&str> = block.iter().map(|line| line.trim().trim_end_matches(',')).collect();
    if start.trim_start() == "value: [" {
        let bytes: Vec<u8> = items.iter().map(|byte| byte.parse().unwrap()).collect();
        return vec![format!("{}{:?},", start.trim_end_matches('['), String::from_utf8_lossy(&bytes))];
    }
    let one_line = format!("{start}{}{}", items.join(", "), end.trim());
    let is_flat = items.iter().all(|item| !item.ends_with(['{', '[', '('])) && items.first() != Some(&"}");
    let is_wrapper = start.ends_with('(') && block.len() == 1;
    if is_flat && (is_wrapper || one_line.trim().len() <= WIDTH) {
        return vec![one_line];
    }
    if !start.ends_with('(') {
        return [vec![start], block, vec![end.to_owned()]].concat();
    }
    // A wrapped block needs no lines of its own for the wrapper.
    let dedented = |line: &String| line.strip_prefix("    ").unwrap_or(line).to_owned();
    let first = format!("{start}{}", items.first().unwrap_or(&""));
    let last = format!("{}{}", dedented(block.last().unwrap()).trim_end_matches(','), end.trim());
    let middle = block[1..block.len() - 1].iter().map(dedented).collect();
    [vec![first], middle, vec![last]].concat()
}
