//! Where a pod's files are: logs, the hosts file, termination messages. The same places as the peer's, so that log
//! collectors and either agent find them.

use crate::model::pod::{PodKey, PodUid};

/// Where cluster logging agents look for links to container logs. Not configurable, in the peer neither.
pub const LEGACY_LOG_DIRECTORY: &str = "/var/log/containers";

/// Longest file name of the usual file systems, bytes.
const FILE_NAME_MAX: usize = 255;

/// A pod's log folder: `<podLogsDir>/<namespace>_<name>_<uid>`.
pub fn pod_log_directory(pod_logs_dir: &str, pod: &PodKey) -> String {
    join(pod_logs_dir, &format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// A container's log folder within its pod's.
pub fn container_log_directory(pod_logs_dir: &str, pod: &PodKey, container: &str) -> String {
    join(&pod_log_directory(pod_logs_dir, pod), container)
}

/// A container's log file relative to the pod's log folder: `<container>/<restart count>.log`.
pub fn container_log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// The UID in the name of a pod's log folder. Very old folders are named by the UID alone.
pub fn pod_uid_from_log_directory(name: &str) -> PodUid {
    PodUid::from(name.rsplit('_').next().unwrap_or(name))
}

/// The restart count of a container of which the runtime has forgotten all, read from the files in its log folder: one
/// more than the highest seen, so that no log is written over.
pub fn restart_count_from_log_files<'a>(names: impl IntoIterator<Item = &'a str>) -> u32 {
    let next = |name: &str| {
        let (number, _) = name.split_once(".log")?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        number.parse::<u32>().ok().filter(|_| is_number)?.checked_add(1)
    };
    names.into_iter().filter_map(next).max().unwrap_or(0)
}

/// The link that cluster logging agents follow:
/// `/var/log/containers/<pod>_<namespace>_<container>-<container id>.log`, cut to the length of a file name.
pub fn legacy_log_link(pod: &PodKey, container: &str, container_id: &str) -> String {
    const SUFFIX: &str = ".log";
    let mut name = format!("{}_{}_{container}-{container_id}", pod.name, pod.namespace);
    name.truncate(name.floor_char_boundary(FILE_NAME_MAX - SUFFIX.len()));
    format!("{LEGACY_LOG_DIRECTORY}/{name}{SUFFIX}")
}

/// A pod's folder: `<root>/pods/<uid>`.
pub fn pod_directory(root_dir: &str, uid: &PodUid) -> String {
    join(root_dir, &format!("pods/{uid}"))
}

/// A container's folder, which holds its termination messages: `<root>/pods/<uid>/containers/<name>`.
pub fn container_directory(root_dir: &str, uid: &PodUid, container: &str) -> String {
    format!("{}/containers/{container}", pod_directory(root_dir, uid))
}

/// The hosts file that the pod's containers get as /etc/hosts.
pub fn hosts_file_path(root_dir: &str, uid: &PodUid) -> String {
    format!("{}/etc-hosts", pod_directory(root_dir, uid))
}

/// The file that a container's start writes its termination message to. Each start has its own: `unique` is random.
pub fn termination_log_path(root_dir: &str, uid: &PodUid, container: &str, unique: u32) -> String {
    format!("{}/{unique:08x}", container_directory(root_dir, uid, container))
}

/// The folder of seccomp profiles of type `Localhost`.
pub fn seccomp_directory(root_dir: &str) -> String {
    join(root_dir, "seccomp")
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn key() -> PodKey {
        PodKey { namespace: "shop".into(), name: "web".into(), uid: PodUid::from("u-1") }
    }

    #[test]
    fn logs() {
        assert_eq!(pod_log_directory("/var/log/pods", &key()), "/var/log/pods/shop_web_u-1");
        assert_eq!(pod_log_directory("/var/log/pods/", &key()), "/var/log/pods/shop_web_u-1");
        assert_eq!(container_log_directory("/logs", &key(), "app"), "/logs/shop_web_u-1/app");
        assert_eq!(container_log_path("app", 3), "app/3.log");
        assert_eq!(legacy_log_link(&key(), "app", "abc123"), "/var/log/containers/web_shop_app-abc123.log");
    }

    #[test]
    fn long_links_are_cut_to_a_file_name() {
        let link = legacy_log_link(&PodKey { name: "p".repeat(253), ..key() }, "app", &"f".repeat(64));
        let name = link.strip_prefix("/var/log/containers/").unwrap();
        assert_eq!(name, format!("{}.log", "p".repeat(251)));
    }

    #[test]
    fn pod_files() {
        let uid = PodUid::from("u-1");
        assert_eq!(hosts_file_path("/var/lib/kubelet", &uid), "/var/lib/kubelet/pods/u-1/etc-hosts");
        assert_eq!(
            termination_log_path("/var/lib/kubelet", &uid, "app", 0xabc),
            "/var/lib/kubelet/pods/u-1/containers/app/00000abc"
        );
    }

    #[rstest]
    #[case("shop_web_u-1", "u-1")]
    #[case("u-1", "u-1")]
    fn uids_of_log_directories(#[case] name: &str, #[case] uid: &str) {
        assert_eq!(pod_uid_from_log_directory(name).as_str(), uid);
    }

    #[rstest]
    #[case(&[], 0)]
    #[case(&["0.log"], 1)]
    #[case(&["2.log", "10.log", "9.log.20260101-000000.gz"], 11)]
    #[case(&["4.log.20260101-000000"], 5)]
    #[case(&["x.log", ".log", "-1.log", "+7.log", "3.txt", "99999999999.log"], 0)]
    fn restart_counts(#[case] names: &[&str], #[case] expected: u32) {
        assert_eq!(restart_count_from_log_files(names.iter().copied()), expected);
    }
}
