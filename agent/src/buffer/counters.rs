//! Counters that outlive even a damaged buffer: owns a small file beside it, replaced as a whole.

use std::io::Write;
use std::path::{Path, PathBuf};

use fieldcast_wire::Epoch;
use serde::{Deserialize, Serialize};

use super::error::BufferError;

/// What must never go back, whatever happens to the buffer's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counters {
    /// Starts of the agent.
    pub(super) boot: u64,
    /// Connections to a broker.
    pub(super) session: u64,
    /// Epoch in use, so that its loss can be told of.
    pub(super) epoch: Option<Epoch>,
    /// The machine's boot in which the buffer was used last.
    #[serde(default)]
    pub(super) machine: String,
    /// The log beside the buffer was found to lack its end, which the buffer itself shows no more: salvage is due.
    #[serde(default)]
    pub(super) log_lost: bool,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("counters.json")
}

impl Counters {
    /// Reads the file; zeros where there is none or it is not readable.
    pub(super) fn read(dir: &Path) -> Self {
        std::fs::read(path(dir))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Replaces the file, durable when it returns.
    pub(super) fn write(&self, dir: &Path) -> Result<(), BufferError> {
        let file = path(dir);
        let fail = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| BufferError::Io {
                operation,
                path,
                source,
            }
        };
        let new = dir.join("counters.json.new");
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let mut out = std::fs::File::create(&new).map_err(fail("creation", &new))?;
        out.write_all(&bytes)
            .and_then(|()| out.sync_all())
            .map_err(fail("writing", &new))?;
        std::fs::rename(&new, &file).map_err(fail("renaming", &new))?;
        std::fs::File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(fail("syncing", dir))
    }
}
