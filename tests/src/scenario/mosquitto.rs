//! A Mosquitto of a test: owns its process; it keeps nothing, so that each kill is a broker that forgets everything.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::process::{Process, port};
use super::wait_for;

/// A Mosquitto on a port of its own.
#[derive(Debug)]
pub struct Mosquitto {
    program: PathBuf,
    dir: PathBuf,
    pub(crate) port: u16,
    process: Option<Process>,
}

impl Mosquitto {
    /// Where it is installed.
    pub(crate) fn program() -> Option<PathBuf> {
        [
            "/usr/sbin/mosquitto",
            "/usr/bin/mosquitto",
            "/usr/local/sbin/mosquitto",
        ]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.is_file())
    }

    pub(crate) fn make(program: PathBuf, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut broker = Self {
            program,
            dir: dir.to_path_buf(),
            port: port()?,
            process: None,
        };
        // One that root starts would become a user that cannot read the folder.
        let user = if rustix::process::geteuid().is_root() {
            "user root\n"
        } else {
            ""
        };
        std::fs::write(
            dir.join("mosquitto.conf"),
            format!(
                "{user}listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_packet_size 600000\nmax_queued_messages 100000\nset_tcp_nodelay true\n",
                broker.port
            ),
        )?;
        broker.start()?;
        wait_for("mosquitto to listen", Duration::from_secs(10), || {
            Ok(TcpStream::connect(("127.0.0.1", broker.port)).ok())
        })?;
        Ok(broker)
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.dir.join("mosquitto.conf"));
        self.process = Some(Process::start(
            &mut command,
            &self.dir.join("mosquitto.log"),
        )?);
        Ok(())
    }

    /// Its process; none while it does not run.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub(crate) fn kill(&mut self) -> Result<bool> {
        match self.process.take() {
            Some(process) => process.kill().map(|()| true),
            None => Ok(false),
        }
    }
}
