//! The agent's own OOM score (`oomScoreAdj`, -999 by default): it holds the node's pods and should be killed last.

use std::io;
use std::path::Path;

use tracing::warn;

/// Sets the agent's own `oom_score_adj` through the process file system. Going below 0 takes CAP_SYS_RESOURCE, so a
/// refusal is only a warning: an agent in a container has to live with it.
pub fn protect_self(proc: &Path, score: i32) {
    if let Err(error) = set_own_score(proc, score) {
        warn!(score, %error, "Could not set the OOM score of the agent");
    }
}

/// Sets the agent's own `oom_score_adj`, -1000 to 1000. Writes nothing if it has that score already.
pub fn set_own_score(proc: &Path, score: i32) -> io::Result<()> {
    let file = proc.join("self/oom_score_adj");
    if std::fs::read_to_string(&file)?.trim().parse() == Ok(score) {
        return Ok(());
    }
    std::fs::write(file, score.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_what_differs() {
        let proc = tempfile::tempdir().unwrap();
        let file = proc.path().join("self/oom_score_adj");
        std::fs::create_dir(proc.path().join("self")).unwrap();
        std::fs::write(&file, "0\n").unwrap();
        set_own_score(proc.path(), -999).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "-999");
        std::fs::write(&file, "-999\n").unwrap();
        set_own_score(proc.path(), -999).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "-999\n");
    }

    #[test]
    fn a_refusal_is_an_error_for_one_and_a_warning_for_the_other() {
        let nowhere = Path::new("/does/not/exist");
        assert!(set_own_score(nowhere, 0).is_err());
        protect_self(nowhere, 0);
    }
}
