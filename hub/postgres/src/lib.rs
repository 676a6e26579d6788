//! A private PostgreSQL from the machine's own binaries: owns its files and its process, never what is stored in it.
//!
//! Everything is blocking and needs no PostgreSQL client: the server itself says in `postmaster.pid` when it is ready.

mod binaries;
mod cluster;
mod error;
mod location;
mod owner;
mod status;

pub use binaries::Binaries;
pub use cluster::{Cluster, Tuning};
pub use error::ClusterError;
pub use location::cluster_root;
