//! How a hub is set up: owns the options shared by all commands and their defaults, never reads them twice.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use fieldcast_wire::SiteId;

/// Options of every command.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys, the private database, the broker's files and `serve.json`.
    pub data_dir: PathBuf,
    /// A PostgreSQL to use instead of the private one.
    pub database_url: Option<String>,
    /// Topic level above the devices.
    pub site: SiteId,
}

/// Options of `serve`.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// REST and web page.
    pub listen: SocketAddr,
    /// Embedded broker.
    pub broker_listen: SocketAddr,
    /// Connections that the embedded broker takes.
    pub broker_connections: usize,
    /// `mqtt://user:password@host:port` or `mqtts://...` instead of the embedded broker.
    pub broker: Option<String>,
    /// PEM file of the authority that signed the broker's certificate; none: the system's.
    pub broker_ca: Option<PathBuf>,
}

impl Config {
    /// Takes what was given, and for a directory that was not the usual one.
    ///
    /// # Errors
    /// A site name that breaks its rule, or no home directory for the default.
    pub fn new(
        data_dir: Option<PathBuf>,
        database_url: Option<String>,
        site: String,
    ) -> Result<Self> {
        let data_dir = match data_dir {
            Some(dir) => dir,
            None => default_data_dir()?,
        };
        let data_dir = std::path::absolute(&data_dir)
            .with_context(|| format!("resolve data directory {}", data_dir.display()))?;
        Ok(Self {
            data_dir,
            database_url: database_url.filter(|url| !url.is_empty()),
            site: SiteId::new(site).context("option --site")?,
        })
    }

    /// Where `serve` describes itself.
    #[must_use]
    pub fn serve_file(&self) -> PathBuf {
        self.data_dir.join("serve.json")
    }

    /// Where the signing keys are.
    #[must_use]
    pub fn keys_dir(&self) -> PathBuf {
        self.data_dir.join("keys")
    }
}

fn default_data_dir() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/fieldcast-hub"));
    }
    if let Some(dir) = std::env::var_os("XDG_DATA_HOME") {
        return Ok(PathBuf::from(dir).join("fieldcast-hub"));
    }
    let home = std::env::var_os("HOME")
        .context("find the data directory: HOME is not set; name one with --data-dir")?;
    Ok(PathBuf::from(home).join(".local/share/fieldcast-hub"))
}
