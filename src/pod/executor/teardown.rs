//! Removing what a pod leaves on the node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Executor, PodContext};
use crate::kube::error::chain;
use crate::model::pod::PodUid;
use crate::pod::plan::Failure;
use crate::runtime::{RuntimeError, translate};

/// How long the runtime is given to see that a process has ended which was killed behind its back.
const END_OF_LEFTOVER: Duration = Duration::from_millis(200);

impl Executor {
    /// Unmounts the volumes, removes the pod's directory and its cgroup.
    pub(super) async fn clean_up(&self, context: &PodContext) -> Result<(), Failure> {
        let uid = &context.key.uid;
        self.parts.images.forget_pod(uid);
        self.files.settled(uid).await;
        let (unmounted, removed) =
            tokio::join!(self.parts.volumes.unmount(uid), self.parts.cgroups.remove_pod(uid, None));
        unmounted.map_err(|error| Failure::new("FailedUnmount", chain(&error)))?;
        self.user_namespaces.release(uid);
        removed.map_err(|error| Failure::new("FailedRemovePodCgroup", chain(&error)))
    }

    /// Removes containers, sandboxes with theirs, and the pod's logs.
    pub(super) async fn remove_remains(
        &self,
        context: &PodContext,
        sandboxes: &[String],
        containers: &[String],
    ) -> Result<(), Failure> {
        for id in containers {
            self.remove_container(context, id).await?;
        }
        for id in sandboxes {
            self.remove_sandbox(id).await?;
        }
        let (logs, uid) = (PathBuf::from(&self.parts.node.pod_logs_dir), context.key.uid.clone());
        let removed =
            tokio::task::spawn_blocking(move || remove_logs(&logs, Path::new(translate::LEGACY_LOG_DIRECTORY), &uid))
                .await;
        removed
            .map_err(|error| error.to_string())
            .and_then(|removed| removed)
            .map_err(|message| Failure::new("RemoveLogsError", message))
    }

    /// UIDs of the pods that have a log directory.
    pub async fn pods_with_logs(&self) -> Vec<PodUid> {
        let logs = PathBuf::from(&self.parts.node.pod_logs_dir);
        let listed = tokio::task::spawn_blocking(move || entries(&logs)).await;
        let listed = listed.map_err(|error| error.to_string()).and_then(|listed| listed).unwrap_or_else(|error| {
            tracing::warn!(error, "listing the logs of pods failed");
            Vec::new()
        });
        let names = listed.iter().filter_map(|path| path.file_name()?.to_str());
        // Anything else that somebody put there has no such name.
        let uids = names.filter(|name| name.matches('_').count() >= 2).map(translate::pod_uid_from_log_directory);
        uids.filter(|uid| !uid.as_str().is_empty()).collect()
    }

    /// Removes a dead container of a pod that goes on, and its log with the link to it.
    pub(super) async fn collect_container(
        &self,
        context: &PodContext,
        id: &str,
        container: &str,
        log_path: &str,
    ) -> Result<(), Failure> {
        self.remove_container(context, id).await?;
        let directory = translate::container_log_directory(&self.parts.node.pod_logs_dir, &context.key, container);
        let link = PathBuf::from(translate::legacy_log_link(&context.key, container, id));
        let log = PathBuf::from(log_path);
        // What the runtime tells of another place is not this agent's to remove.
        if log.parent() != Some(Path::new(&directory)) {
            return Ok(());
        }
        let removed = tokio::task::spawn_blocking(move || remove_log(&log, &link)).await;
        removed
            .map_err(|error| error.to_string())
            .and_then(|removed| removed)
            .map_err(|message| Failure::new("RemoveLogsError", message))
    }

    /// Removes a container that does not run.
    async fn remove_container(&self, context: &PodContext, id: &str) -> Result<(), Failure> {
        let mut removed = self.limits.background(self.parts.runtime.remove_container(id)).await;
        if removed.as_ref().is_err_and(RuntimeError::is_failed_precondition) {
            self.end_leftover_task(context, id).await;
            removed = self.limits.background(self.parts.runtime.remove_container(id)).await;
        }
        match removed {
            Err(error) if !error.is_not_found() => Err(Failure::new("RemoveContainerError", error.to_string())),
            _ => Ok(()),
        }
    }

    /// Ends what a start that was cut off, as by the end of an agent, can leave of a container: a process of which the runtime's
    /// own state knows nothing, and which it neither stops nor removes. What fails is tried again with the removal.
    async fn end_leftover_task(&self, context: &PodContext, id: &str) {
        tracing::info!(pod = %context.key, container = id, "ending what a start that was cut off has left");
        if let Err(error) = self.parts.cgroups.kill_container(&context.key.uid, id).await {
            tracing::warn!(pod = %context.key, container = id, error = chain(&error), "it cannot be killed");
        }
        tokio::time::sleep(END_OF_LEFTOVER).await;
        if let Err(error) = self.parts.runtime.delete_task(id).await {
            tracing::warn!(pod = %context.key, container = id, %error, "its task cannot be deleted");
        }
    }
}

/// Removes the pod's log directory, which ends in its UID, and the links that point into it.
fn remove_logs(logs: &Path, links: &Path, uid: &PodUid) -> Result<(), String> {
    let suffix = format!("_{uid}");
    for directory in entries(logs)? {
        if !directory.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&suffix)) {
            continue;
        }
        for link in entries(links)? {
            if std::fs::read_link(&link).is_ok_and(|target| target.starts_with(&directory)) {
                ignore_missing(std::fs::remove_file(&link), &link)?;
            }
        }
        ignore_missing(std::fs::remove_dir_all(&directory), &directory)?;
    }
    Ok(())
}

/// Removes a log, what it was rotated into, and the link to it.
fn remove_log(log: &Path, link: &Path) -> Result<(), String> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Ok(()) };
    let rotated = format!("{}.", name.to_string_lossy());
    for file in entries(directory)? {
        let name_of_file = file.file_name().unwrap_or_default();
        if name_of_file == name || name_of_file.to_string_lossy().starts_with(&rotated) {
            ignore_missing(std::fs::remove_file(&file), &file)?;
        }
    }
    ignore_missing(std::fs::remove_file(link), link)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, String> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("reading {}: {error}", directory.display())),
    }
}

fn ignore_missing(result: std::io::Result<()>, path: &Path) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("removing {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_with_its_rotated_files_and_its_link_alone() {
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str| root.path().join(name);
        for name in ["1.log", "1.log.20260101-000000", "1.log.20260101-000001.gz", "11.log", "2.log"] {
            std::fs::write(file(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(file("1.log"), file("link")).unwrap();
        remove_log(&file("1.log"), &file("link")).unwrap();
        let mut left: Vec<_> = entries(root.path()).unwrap();
        left.sort();
        assert_eq!(left, [file("11.log"), file("2.log")]);
        remove_log(&file("1.log"), &file("link")).unwrap();
    }

    #[test]
    fn only_the_pods_own_logs_and_links_go() {
        let root = tempfile::tempdir().unwrap();
        let (logs, links) = (root.path().join("pods"), root.path().join("containers"));
        for pod in ["ns_a_uid-1", "ns_b_uid-2"] {
            std::fs::create_dir_all(logs.join(pod).join("c")).unwrap();
            std::fs::write(logs.join(pod).join("c/0.log"), "x").unwrap();
            std::fs::create_dir_all(&links).unwrap();
            std::os::unix::fs::symlink(logs.join(pod).join("c/0.log"), links.join(format!("{pod}.log"))).unwrap();
        }
        remove_logs(&logs, &links, &PodUid::from("uid-1")).unwrap();
        assert!(!logs.join("ns_a_uid-1").exists());
        assert!(links.join("ns_a_uid-1.log").symlink_metadata().is_err());
        assert!(logs.join("ns_b_uid-2/c/0.log").exists());
        assert!(links.join("ns_b_uid-2.log").exists());
        remove_logs(&logs, &links, &PodUid::from("uid-1")).unwrap();
        remove_logs(&root.path().join("absent"), &links, &PodUid::from("uid-2")).unwrap();
    }
}
