//! The time floor on disk: owns what of it survives a restart; never hears the network.

use serde::{Deserialize, Serialize};

use crate::buffer::{BufferError, BufferHandle, Commit};
use crate::clock::{Clock, Millis};

/// State key of the floor.
const KEY: &str = "time_floor";

/// A floor, and when it was kept: within one boot it has gone on since.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    floor_ms: Millis,
    boot_id: String,
    monotonic_ms: Millis,
}

/// Takes up what was kept.
///
/// # Errors
/// A failing disk.
pub async fn restore(buffer: &BufferHandle, clock: &Clock) -> Result<(), BufferError> {
    let stored = buffer.state(KEY).await?;
    let kept = stored.and_then(|b| serde_json::from_slice::<Kept>(&b).ok());
    if let Some(kept) = kept {
        let since = if kept.boot_id == clock.boot_id() {
            clock.monotonic_ms().saturating_sub(kept.monotonic_ms)
        } else {
            0
        };
        clock.raise_floor(kept.floor_ms.saturating_add(since.max(0)));
    }
    Ok(())
}

/// Keeps the floor as it is now.
///
/// # Errors
/// A failing disk.
pub async fn keep(buffer: &BufferHandle, clock: &Clock) -> Result<(), BufferError> {
    let kept = Kept {
        floor_ms: clock.floor_ms(),
        boot_id: clock.boot_id().to_owned(),
        monotonic_ms: clock.monotonic_ms(),
    };
    let Ok(bytes) = serde_json::to_vec(&kept) else {
        return Ok(());
    };
    let commit = Commit {
        state: vec![(KEY.to_owned(), bytes)],
        ..Commit::default()
    };
    buffer.commit(commit).await.map(|_| ())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::buffer::{Buffer, Limits};

    #[tokio::test]
    async fn a_restart_goes_on_from_the_floor_that_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::new();
        let buffer = Buffer::start(Limits::new(dir.path()), clock.clone()).unwrap();
        let ahead = clock.raw_wall_ms() + 1_000_000_000;
        clock.raise_floor(ahead);
        keep(&buffer.handle, &clock).await.unwrap();
        let before = clock.wall_ms();
        let again = Clock::new();
        assert!(again.wall_ms() < ahead);
        restore(&buffer.handle, &again).await.unwrap();
        assert!(again.wall_ms() >= before, "time went back within a boot");
        buffer.close().await.unwrap();
    }
}
