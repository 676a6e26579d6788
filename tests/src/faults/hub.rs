//! The testbed's hub: owns its process, its command line and whether it is ready; never what it decides.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::postgres::Postgres;
use crate::scenario::process::{Process, port};
use crate::scenario::program;

/// A hub on ports of its own.
#[derive(Debug)]
pub(crate) struct Hub {
    dir: PathBuf,
    rest: u16,
    /// Where its own broker listens, if that is used.
    pub(crate) broker: u16,
    /// A broker to use instead.
    pub(crate) other_broker: Option<u16>,
    /// Where PostgreSQL is for the hub, and for its commands.
    database: (u16, u16),
    /// Where its database is, if not by way of those ports.
    pub(crate) url: Option<String>,
    process: Option<Process>,
}

impl Hub {
    /// `database`: the port by which the server goes to PostgreSQL, and the one its commands take.
    pub(crate) fn make(dir: &Path, database: (u16, u16)) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            rest: port()?,
            broker: port()?,
            other_broker: None,
            database,
            url: None,
            process: None,
        })
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = self.command(self.database.0)?;
        command
            .arg("serve")
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.rest));
        match self.other_broker {
            Some(port) => command
                .arg("--broker")
                .arg(format!("mqtt://127.0.0.1:{port}")),
            None => command
                .arg("--broker-listen")
                .arg(format!("127.0.0.1:{}", self.broker)),
        };
        self.process = Some(Process::start(&mut command, &self.dir.join("serve.log"))?);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<bool> {
        match self.process.take() {
            Some(process) => process.kill().map(|()| true),
            None => Ok(false),
        }
    }

    /// Fails where it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        match process.ended()? {
            Some(status) => bail!(
                "the hub ended by itself with {status}; its log ends:\n{}",
                process.log_tail()
            ),
            None => Ok(()),
        }
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let http = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .timeout_global(Some(Duration::from_secs(5)))
                .build(),
        );
        let url = format!("http://127.0.0.1:{}/readyz", self.rest);
        crate::scenario::wait_for("the hub to be ready", Duration::from_secs(120), || {
            self.check()?;
            Ok(http.get(&url).call().ok().map(drop))
        })
        .with_context(|| crate::scenario::tail(&self.dir.join("serve.log")))
    }

    /// Runs a command of its command line.
    pub(crate) fn cli(&self, args: &[&str]) -> Result<String> {
        let out = self
            .command(self.database.1)?
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        if !out.status.success() {
            bail!(
                "fieldcast-hub {} ended with {}: {}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Result<u32> {
        let process = self.process.as_ref().context("the hub does not run")?;
        Ok(process.id())
    }

    /// A command of its command line, by way of a port of PostgreSQL.
    pub(crate) fn command(&self, database: u16) -> Result<Command> {
        let mut command = Command::new(program("fieldcast-hub")?);
        command.arg("--data-dir").arg(&self.dir);
        command
            .env(
                "DATABASE_URL",
                self.url.clone().unwrap_or_else(|| Postgres::url(database)),
            )
            .env("NO_COLOR", "1");
        Ok(command)
    }
}
