//! The demonstration's processes: owns starting, watching and ending them in order, never what they do.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const POLL: Duration = Duration::from_millis(100);
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Whether somebody asked for the end (Ctrl-C or SIGTERM).
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first signal only raises the flag; a second one ends this program at once.
    pub(crate) fn listen() -> Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&raised))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&raised)))
                .context("listen for Ctrl-C")?;
        }
        Ok(Self(raised))
    }

    pub(crate) fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Processes that live and end together. Dropping ends them, the last started first.
pub(crate) struct Group {
    dir: PathBuf,
    running: Vec<Running>,
    interrupt: Interrupt,
}

impl Group {
    /// Logs go to `dir/<name>.log`.
    pub(crate) fn new(dir: &Path, interrupt: Interrupt) -> Self {
        Self {
            dir: dir.to_path_buf(),
            running: Vec::new(),
            interrupt,
        }
    }

    /// Starts a process with its output in its log.
    pub(crate) fn start(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let log = self.dir.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        // A group of its own: Ctrl-C reaches only this program, which then ends the others in order.
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.running.push(Running {
            name: name.to_owned(),
            child,
            log,
        });
        Ok(())
    }

    /// Fails where a process has ended by itself, or where the end was asked for.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.interrupt.raised() {
            bail!("ended by Ctrl-C");
        }
        for running in &mut self.running {
            if let Some(status) = running.child.try_wait()? {
                let tail = tail(&running.log, 20);
                bail!(
                    "{} ended with {status}; {} ends:\n{tail}",
                    running.name,
                    running.log.display()
                );
            }
        }
        Ok(())
    }

    /// Asks until there is an answer, while all processes live.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let mut refusal = None;
        loop {
            self.check()?;
            match ask() {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => refusal = Some(error),
            }
            if start.elapsed() > within {
                let logs = self.dir.display();
                let waited = format!(
                    "waited {} s for {what}; the logs are in {logs}",
                    within.as_secs()
                );
                let error = refusal.unwrap_or_else(|| anyhow::anyhow!("no answer yet"));
                return Err(error.context(waited));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends all, the last started first; those that do not end in time are killed.
    pub(crate) fn stop(&mut self) {
        while let Some(mut running) = self.running.pop() {
            if !end(&mut running.child) {
                eprintln!(
                    "{} did not end within {} s and was killed",
                    running.name,
                    STOP_WITHIN.as_secs()
                );
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// SIGTERM, then waiting, then SIGKILL; whether it ended when asked.
fn end(child: &mut Child) -> bool {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let (Ok(None), Some(pid)) = (child.try_wait(), pid) {
        // An error means that it has just ended.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < STOP_WITHIN {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(POLL);
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// The last lines of a log, indented.
fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let last: Vec<String> = all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|l| format!("  {l}"))
        .collect();
    last.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    fn group(name: &str) -> Group {
        let dir =
            std::env::temp_dir().join(format!("fieldcast-xtask-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Group::new(&dir, Interrupt(Arc::default()))
    }

    #[test]
    fn a_process_that_dies_is_named_with_the_end_of_its_log() {
        let mut group = group("dies");
        group
            .start(
                "hub",
                Command::new("sh").args(["-c", "echo port in use; exit 3"]),
            )
            .unwrap();
        let error = group
            .wait_for("readiness", Duration::from_secs(20), || Ok(None::<()>))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("hub ended") && error.contains("port in use"),
            "{error}"
        );
        std::fs::remove_dir_all(&group.dir).unwrap();
    }

    #[test]
    fn all_processes_end_with_the_group_in_reverse_order() {
        let mut group = group("ends");
        let done = group.dir.join("ended");
        for name in ["first", "second"] {
            let script = format!(
                "trap 'echo {name} >> {}; exit 0' TERM; echo up; while :; do sleep 0.05; done",
                done.display()
            );
            group
                .start(name, Command::new("sh").args(["-c", &script]))
                .unwrap();
        }
        let logs = ["first", "second"].map(|name| group.dir.join(format!("{name}.log")));
        group
            .wait_for("both to be up", Duration::from_secs(20), || {
                Ok(logs
                    .iter()
                    .all(|log| tail(log, 1).contains("up"))
                    .then_some(()))
            })
            .unwrap();
        group.stop();
        assert_eq!(std::fs::read_to_string(&done).unwrap(), "second\nfirst\n");
        std::fs::remove_dir_all(&group.dir).unwrap();
    }

    #[test]
    fn waiting_ends_with_the_last_refusal_or_with_ctrl_c() {
        let mut group = group("waits");
        let refuse = || -> Result<Option<()>> { bail!("still starting") };
        let error = format!(
            "{:#}",
            group
                .wait_for("it", Duration::from_millis(1), refuse)
                .unwrap_err()
        );
        assert!(
            error.contains("for it") && error.contains("still starting"),
            "{error}"
        );
        group.interrupt.0.store(true, Ordering::Relaxed);
        let error = group
            .wait_for("it", Duration::from_secs(9), || Ok(None::<()>))
            .unwrap_err();
        assert!(error.to_string().contains("Ctrl-C"));
        std::fs::remove_dir_all(&group.dir).unwrap();
    }
}
