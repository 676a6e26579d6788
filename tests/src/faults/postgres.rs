//! The testbed's PostgreSQL: owns its server process, its backups and what is asked of it; never writes a row.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::scenario::process::{Process, port};
use crate::scenario::wait_for;

const VERSIONED: &str = "/usr/lib/postgresql";
const DATABASE: &str = "fieldcast";

/// A server on a port of its own, that can be killed and started again.
#[derive(Debug)]
pub(crate) struct Postgres {
    bin: PathBuf,
    root: PathBuf,
    pub(crate) port: u16,
    owner: Option<(u32, u32)>,
    /// Settings beside the usual ones, `name=value`.
    settings: &'static [&'static str],
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster under `root` and starts it.
    pub(crate) fn make(root: &Path, settings: &'static [&'static str]) -> Result<Self> {
        let mut server = Self {
            bin: binaries()?,
            root: root.to_path_buf(),
            port: port()?,
            owner: owner()?,
            settings,
            process: None,
        };
        std::fs::create_dir_all(root)?;
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755))?;
        server.own(root)?;
        let mut command = server.command("initdb");
        command.arg("-D").arg(server.data());
        command.args([
            "-U",
            "hub",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-A",
            "trust",
            "--no-sync",
        ]);
        said(&mut command)?;
        server.start()?;
        server.wait_ready()?;
        server.ask("postgres", &format!("CREATE DATABASE {DATABASE}"), |_| {
            Ok(())
        })?;
        Ok(server)
    }

    /// For a hub, by way of the port of a proxy.
    pub(crate) fn url(port: u16) -> String {
        format!("postgres://hub@127.0.0.1:{port}/{DATABASE}")
    }

    /// For a hub, by way of the socket, as it goes to a private PostgreSQL.
    pub(crate) fn socket_url(&self) -> String {
        format!(
            "postgres://hub@localhost:{}/{DATABASE}?host={}",
            self.port,
            self.root.display()
        )
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.root);
        command.args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_connections=60",
            "shared_buffers=64MB",
            "max_wal_size=512MB",
            "wal_level=replica",
            "log_min_messages=warning",
            "log_line_prefix=%m [%p] ",
        ]
        .iter()
        .chain(self.settings)
        {
            command.arg("-c").arg(setting);
        }
        self.process = Some(Process::start(&mut command, &self.root.join("server.log"))?);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<bool> {
        match self.process.take() {
            Some(process) => process.kill().map(|()| true),
            None => Ok(false),
        }
    }

    /// A server whose predecessor was just killed may find its memory still in use: started again.
    pub(crate) fn tend(&mut self) -> Result<()> {
        let ended = match &mut self.process {
            Some(process) => process.ended()?.is_some(),
            None => false,
        };
        if ended {
            self.process = None;
            self.start()?;
        }
        Ok(())
    }

    /// Waits until it takes questions.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        wait_for("PostgreSQL", Duration::from_secs(120), || {
            self.tend()?;
            self.ask("postgres", "SELECT 1", |_| Ok(())).map(Some)
        })
        .with_context(|| crate::scenario::tail(&self.root.join("server.log")))
    }

    /// Rows of a query, tab-separated as COPY writes them.
    pub(crate) fn rows(&self, query: &str, row: impl FnMut(&str) -> Result<()>) -> Result<()> {
        self.ask(DATABASE, &format!("COPY ({query}) TO STDOUT"), row)
    }

    /// The one number that a query answers.
    pub(crate) fn number(&self, query: &str) -> Result<u64> {
        let mut found = None;
        self.rows(query, |line| {
            found = line.parse().ok();
            Ok(())
        })?;
        found.with_context(|| format!("no number from: {query}"))
    }

    fn ask(
        &self,
        database: &str,
        sql: &str,
        mut row: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let mut child = Command::new(self.bin.join("psql"))
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "hub",
                "-d",
                database,
            ])
            .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start psql")?;
        let out = child.stdout.take().context("psql's output")?;
        for line in BufReader::with_capacity(1 << 16, out).lines() {
            row(&line?)?;
        }
        let done = child.wait_with_output()?;
        if !done.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(())
    }

    /// Carries a statement out.
    pub(crate) fn execute(&self, sql: &str) -> Result<()> {
        self.ask(DATABASE, sql, |_| Ok(()))
    }

    /// Its first process, while it runs.
    pub(crate) fn pid(&self) -> Result<u32> {
        let process = self.process.as_ref().context("PostgreSQL does not run")?;
        Ok(process.id())
    }

    /// A physical backup of the running server.
    pub(crate) fn back_up(&self) -> Result<()> {
        let to = self.root.join("backup");
        if to.exists() {
            std::fs::remove_dir_all(&to)?;
        }
        let mut command = self.command("pg_basebackup");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "hub"]);
        command
            .args(["-c", "fast", "-X", "stream", "--no-sync", "-D"])
            .arg(&to);
        said(&mut command)
    }

    /// Kills the server and puts the backup in place of its data. The caller starts it again.
    pub(crate) fn restore(&mut self) -> Result<()> {
        self.kill()?;
        // A filler of a full disk goes with it; another file system may be in between.
        std::fs::remove_dir_all(self.data())?;
        std::fs::rename(self.root.join("backup"), self.data())?;
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn own(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.owner else {
            return Ok(());
        };
        chown(path, Some(uid), Some(gid)).with_context(|| format!("hand over {}", path.display()))
    }

    /// PostgreSQL refuses to run as root: its own user then, with nothing of this environment.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn said(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    if !out.status.success() {
        bail!(
            "{}: {}",
            command.get_program().display(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(())
}

fn owner() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let ids = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let ["postgres", _, uid, gid, ..] = fields.as_slice() else {
            return None;
        };
        Some((uid.parse().ok()?, gid.parse().ok()?))
    });
    ids.map(Some)
        .context("there is no user `postgres`; install PostgreSQL from the system's packages")
}

fn binaries() -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(VERSIONED)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .rev()
        .map(|(_, dir)| dir)
        .chain(std::env::split_paths(&path))
        .find(|dir| {
            ["initdb", "postgres", "psql", "pg_basebackup"]
                .iter()
                .all(|p| dir.join(p).is_file())
        })
        .context("PostgreSQL's programs are not found; install it from the system's packages")
}
