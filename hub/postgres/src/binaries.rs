//! The machine's PostgreSQL binaries: owns where they are looked for, never installs them.

use std::path::{Path, PathBuf};

use crate::ClusterError;

const VERSIONED: &str = "/usr/lib/postgresql";

/// A directory with `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The newest version under `/usr/lib/postgresql`, or the first directory of `PATH` that has both programs:
    /// a lone `postgres` elsewhere may be a wrapper that starts something of its own.
    ///
    /// # Errors
    /// None found.
    pub fn find() -> Result<Self, ClusterError> {
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(VERSIONED)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
            .collect();
        versions.sort();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path);
        let found = versions
            .into_iter()
            .rev()
            .map(|(_, dir)| dir)
            .chain(in_path)
            .find(|dir| Self::complete(dir));
        match found {
            Some(dir) => Ok(Self { dir }),
            None => Err(ClusterError::NoBinaries {
                looked_in: format!("{VERSIONED}/*/bin and PATH"),
            }),
        }
    }

    fn complete(dir: &Path) -> bool {
        dir.join("initdb").is_file() && dir.join("postgres").is_file()
    }

    /// Path of one program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}
