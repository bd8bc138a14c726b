//! The settings of the kernel that a node needs: made at the start, or found as they are wanted (`protectKernelDefaults`).
//! They are the kubelet's (`pkg/kubelet/cm`), so that a node is the same with either agent.

use std::path::Path;

use anyhow::{Context, bail};
use tracing::{info, warn};

use crate::kube::error::chain;

/// By their paths below `/proc/sys`. Memory is given out whatever is free; running out of it ends a process and not the machine;
/// a kernel that panics or errs starts anew after ten seconds; and root's keys suffice for one in each container.
const SETTINGS: [(&str, i64); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// What to do about a setting of another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// Set it.
    Set,
    /// Set it, and go on with the one that is there if that is refused: in a user namespace the kernel is someone else's.
    TryToSet,
    /// End the start.
    Refuse,
}

/// Sees to the settings below `root`, which is `/proc/sys`.
///
/// # Errors
/// What is wrong with each of those that cannot be read, must not be set, or cannot be set.
pub(super) fn settle(root: &Path, otherwise: Otherwise) -> anyhow::Result<()> {
    let faults: Vec<String> = SETTINGS
        .iter()
        .filter_map(|(setting, wanted)| settle_one(root, setting, *wanted, otherwise).err())
        .map(|error| chain(&*error))
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{}", faults.join("; "))
}

fn settle_one(root: &Path, setting: &str, wanted: i64, otherwise: Otherwise) -> anyhow::Result<()> {
    let path = root.join(setting);
    let text = std::fs::read_to_string(&path).with_context(|| format!("kernel setting {setting}"))?;
    if text.trim().parse() == Ok(wanted) {
        return Ok(());
    }
    let found = text.trim();
    if otherwise == Otherwise::Refuse {
        // The kubelet's words.
        bail!("invalid kernel flag: {setting}, expected value: {wanted}, actual value: {found}");
    }
    match std::fs::write(&path, wanted.to_string()) {
        Ok(()) => info!(setting, was = found, is = wanted, "the kernel is set as a node needs it"),
        Err(error) if otherwise == Otherwise::TryToSet => {
            warn!(%error, setting, found, wanted, "a setting of the kernel stays as it is");
        }
        Err(error) => return Err(error).with_context(|| format!("kernel setting {setting} from {found} to {wanted}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings of which two differ from what a node needs.
    fn sysctls() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["vm", "kernel/keys"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for (setting, wanted) in SETTINGS {
            let value = if setting.ends_with("panic") || setting.starts_with("vm/over") { 0 } else { wanted };
            std::fs::write(root.path().join(setting), format!("{value}\n")).unwrap();
        }
        root
    }

    fn read(root: &Path, setting: &str) -> String {
        std::fs::read_to_string(root.join(setting)).unwrap()
    }

    #[test]
    fn what_differs_is_set_and_the_rest_is_not_written() {
        let root = sysctls();
        settle(root.path(), Otherwise::Set).unwrap();
        assert_eq!(
            (read(root.path(), "vm/overcommit_memory"), read(root.path(), "kernel/panic")),
            ("1".into(), "10".into())
        );
        assert_eq!(read(root.path(), "kernel/panic_on_oops"), "1\n");
    }

    #[test]
    fn protected_settings_are_left_alone_and_each_that_differs_is_named() {
        let root = sysctls();
        let error = settle(root.path(), Otherwise::Refuse).unwrap_err().to_string();
        assert_eq!(
            error,
            "invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0; \
             invalid kernel flag: kernel/panic, expected value: 10, actual value: 0"
        );
        assert_eq!(read(root.path(), "kernel/panic"), "0\n");
        for (setting, wanted) in SETTINGS {
            std::fs::write(root.path().join(setting), wanted.to_string()).unwrap();
        }
        settle(root.path(), Otherwise::Refuse).unwrap();
    }

    #[test]
    fn one_that_cannot_be_set_ends_the_start_but_in_a_user_namespace() {
        let root = sysctls();
        // What is read and takes no other value, whoever writes it.
        let panic = root.path().join("kernel/panic");
        std::fs::remove_file(&panic).unwrap();
        std::os::unix::fs::symlink("/proc/version", &panic).unwrap();
        let error = settle(root.path(), Otherwise::Set).unwrap_err().to_string();
        assert!(error.starts_with("kernel setting kernel/panic from Linux version "), "{error}");
        assert_eq!(read(root.path(), "vm/overcommit_memory"), "1", "the others are set all the same");
        settle(root.path(), Otherwise::TryToSet).unwrap();
        std::fs::remove_file(&panic).unwrap();
        let error = settle(root.path(), Otherwise::TryToSet).unwrap_err().to_string();
        assert_eq!(error, "kernel setting kernel/panic: No such file or directory (os error 2)");
    }
}
