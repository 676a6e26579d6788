//! The data folder: owns that it is there and that one agent at a time uses it, never what is in it.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, bail};

/// Makes the folder and takes it for this process; given back when dropped, and by the system when the process ends.
///
/// # Errors
/// It cannot be made or written, or another agent uses it: two would number their records alike.
pub(crate) fn hold(dir: &Path) -> anyhow::Result<File> {
    let written = || {
        format!(
            "use the data folder {}; set `data_dir` to a folder that the agent may write",
            dir.display()
        )
    };
    std::fs::create_dir_all(dir).with_context(written)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("agent.lock"))
        .with_context(written)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another agent uses the data folder {}; stop it (perhaps `systemctl stop fieldcast-agent`), or give this one a \
             `data_dir` and an identity of its own",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(written),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time_uses_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = hold(&data).unwrap();
        let second = hold(&data).unwrap_err().to_string();
        assert!(second.contains("another agent uses"), "{second}");
        drop(first);
        hold(&data).unwrap();
    }
}
