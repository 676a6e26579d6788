//! Where a private cluster lives: owns the choice of its directory, never creates it.

use std::path::{Path, PathBuf};

use crate::ClusterError;
use crate::owner::Owner;

/// Directory of the cluster that belongs to a hub's data directory: `pg` in it. Started as root, the server runs as
/// the user `postgres`, which may be shut out there (below `/root`, say): then a directory of its own under `/var/lib`.
///
/// # Errors
/// This process is root and there is no user for the server.
pub fn cluster_root(data_dir: &Path) -> Result<PathBuf, ClusterError> {
    let inside = data_dir.join("pg");
    if Owner::find()?.can_reach(&inside) {
        return Ok(inside);
    }
    Ok(Path::new("/var/lib/fieldcast-hub-private").join(name_of(data_dir)))
}

/// A short name that stands for a path.
pub(crate) fn name_of(path: &Path) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_encoded_bytes());
    hex::encode(&digest.as_ref()[..8])
}
