//! The hub that a figure measures: owns its process and what the system says of it, never a figure.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Bench;
use crate::command::{find_program, output};

const WITHIN: Duration = Duration::from_secs(60);
/// Linux tells processor times in hundredths of a second, whatever its own clock is.
const USER_HZ: f64 = 100.0;

/// A running hub with a private PostgreSQL and an embedded broker; ended and its data removed when dropped.
pub(super) struct Hub {
    program: PathBuf,
    dir: PathBuf,
    child: Child,
}

impl Hub {
    /// Starts one on free ports and waits until it takes data.
    pub(super) fn start(bench: &Bench, name: &str) -> Result<Self> {
        let dir = bench.dir.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let log = dir.join("serve.log");
        let file =
            std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = command(&bench.hub, &dir)
            .args([
                "serve",
                "--listen=127.0.0.1:0",
                "--broker-listen=127.0.0.1:0",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .context("start the hub")?;
        let mut hub = Self {
            program: bench.hub.clone(),
            dir,
            child,
        };
        let until = Instant::now() + WITHIN;
        while !hub.ready() {
            let ended = hub.child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("the hub does not get ready: {said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(hub)
    }

    fn ready(&self) -> bool {
        let described = std::fs::read(self.dir.join("serve.json")).unwrap_or_default();
        let described: Value = serde_json::from_slice(&described).unwrap_or_default();
        let Some(rest) = described["rest"].as_str() else {
            return false;
        };
        ureq::get(&format!("{rest}/readyz")).call().is_ok()
    }

    /// Lets a fleet speak to it; what the fleet says at its end.
    pub(super) fn fleet(&self, options: &[&str]) -> Result<Value> {
        let mut fleet = command(&self.program, &self.dir);
        fleet.args(["--json", "simulate", "fleet"]).args(options);
        serde_json::from_str(&output(&mut fleet)?).context("read what the fleet says")
    }

    /// Binds every thread of the hub, and nothing else, to one core.
    pub(super) fn bind(&self, core: u32) -> Result<()> {
        let taskset = find_program("taskset").context("find taskset; install util-linux")?;
        let mut bind = Command::new(taskset);
        bind.arg("-acp")
            .arg(core.to_string())
            .arg(self.child.id().to_string());
        output(&mut bind).map(drop)
    }

    /// The most memory that it ever held, MB.
    pub(super) fn peak_mb(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let peak = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib: Option<f64> = peak.and_then(|p| p.split_whitespace().next()?.parse().ok());
        Ok(kib.with_context(|| format!("{path} has no VmHWM"))? * 1_024.0 / 1e6)
    }

    /// Processor time that it used so far, seconds.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // Behind the name, which may hold anything: fields 14 and 15, counted from 1.
        let fields: Vec<&str> = text
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("read processor times")?;
        Ok((user + system) / USER_HZ)
    }

    fn end(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("end the hub")?;
        let until = Instant::now() + WITHIN;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < until, "the hub does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn command(program: &PathBuf, dir: &PathBuf) -> Command {
    let mut command = Command::new(program);
    // What is set for another hub is none of this one's business.
    command
        .arg("--data-dir")
        .arg(dir)
        .env_remove("DATABASE_URL")
        .env_remove("FIELDCAST_SITE");
    command
}

/// A number of what a fleet says.
pub(super) fn number(told: &Value, part: &str, name: &str) -> Result<f64> {
    told[part][name]
        .as_f64()
        .with_context(|| format!("the fleet tells no `{part}.{name}`: {told}"))
}

/// Fails where a reading was lost or twice: then no figure counts.
pub(super) fn sound(told: &Value) -> Result<()> {
    for wrong in ["lost", "twice", "other"] {
        let count = number(told, "verify", wrong)?;
        ensure!(count == 0.0, "{count} readings {wrong}: {told}");
    }
    Ok(())
}
