//! A real `fieldcast-agent run` process: owns its configuration file and the process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::program;

/// How an agent is started.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Its folder: configuration, data and log.
    pub dir: PathBuf,
    /// Text of its `agent.toml`.
    pub config: String,
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct AgentProcess {
    options: AgentOptions,
    child: Child,
}

impl AgentProcess {
    /// Writes the configuration and starts the agent.
    ///
    /// # Errors
    /// Where a file cannot be written or the process not started.
    pub fn start(options: AgentOptions) -> Result<Self> {
        std::fs::create_dir_all(&options.dir)?;
        let config = options.dir.join("agent.toml");
        std::fs::write(&config, &options.config)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(options.dir.join("agent.log"))?;
        let child = Command::new(program("fieldcast-agent")?)
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start fieldcast-agent run")?;
        Ok(Self { options, child })
    }

    /// Its number for the system.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.options.dir.join("agent.log"))
    }

    /// Fails where the process has ended.
    ///
    /// # Errors
    /// It has ended; the end of its log is part of the error.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "the agent ended with {status}; its log ends:\n{}",
                self.log_tail()
            ),
        }
    }

    /// Kills the process as a power cut would; the options start it again.
    ///
    /// # Errors
    /// Where the process could not be killed.
    pub fn kill(mut self) -> Result<AgentOptions> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.options.clone())
    }

    /// Asks the agent to end and waits for it.
    ///
    /// # Errors
    /// It did not end, or not in order.
    pub fn stop(mut self) -> Result<AgentOptions> {
        let status = terminate(&mut self.child, Duration::from_secs(30))?;
        if !status.success() {
            bail!(
                "the agent ended with {status}; its log ends:\n{}",
                self.log_tail()
            );
        }
        Ok(self.options.clone())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SIGTERM, then waiting for the end.
pub(crate) fn terminate(child: &mut Child, within: Duration) -> Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("the child's pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("send SIGTERM")?;
    let start = Instant::now();
    while start.elapsed() < within {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!(
        "process {} did not end within {within:?} of SIGTERM",
        child.id()
    )
}

/// The last lines of a log file.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
