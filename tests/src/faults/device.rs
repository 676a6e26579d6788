//! One device: owns its agent's process, its folder and the source that hands readings over; never judges.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::log::Log;
use super::reading::Form;
use crate::scenario::process::{Process, port};
use crate::scenario::program;

/// Readings of one request.
pub(crate) const PUSH: u64 = 250;
/// More than this behind its pace, a source lets the rest go.
const BEHIND: u64 = 40 * PUSH;

/// A device of the testbed.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    port: u16,
    process: Option<Process>,
    /// Whether an agent that ends by itself is no failure at the moment.
    pub(crate) may_end: bool,
    /// Added to the environment of its agent.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) source: Source,
}

/// Sizes of a device's buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    pub(crate) max_bytes: u64,
    pub(crate) reserve_bytes: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            reserve_bytes: 1 << 20,
        }
    }
}

impl Device {
    /// Writes the configuration; `dir` holds an `identity.toml`. `index` marks its readings.
    pub(crate) fn make(
        name: &str,
        dir: &Path,
        index: usize,
        space: Space,
        form: Form,
        rate: f64,
    ) -> Result<Self> {
        let port = port()?;
        let config = format!(
            "data_dir = \"data\"\nidentity = \"identity.toml\"\n\
             [[source]]\ntype = \"http\"\nlisten = \"127.0.0.1:{port}\"\n\
             [status]\nlisten = \"127.0.0.1:0\"\n\
             [buffer]\nmax_bytes = {}\nreserve_bytes = {}\ntail_bytes = {}\nseal_after_ms = 300\n",
            space.max_bytes,
            space.reserve_bytes,
            space.max_bytes / 4
        );
        std::fs::write(dir.join("agent.toml"), config)?;
        let log = Arc::new(Log::new(&dir.with_extension("accepted"))?);
        let source = Source::start(index, port, form, log, rate);
        Ok(Self {
            name: name.to_owned(),
            dir: dir.to_path_buf(),
            port,
            process: None,
            may_end: false,
            environment: Vec::new(),
            source,
        })
    }

    /// Where the agent keeps everything.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A second device in a copy of this one's folder: the same identity, another port, and readings of its own.
    pub(crate) fn twin(&self, dir: &Path) -> Result<Self> {
        let file = dir.join("agent.toml");
        let port = port()?;
        let config = std::fs::read_to_string(&file)?
            .replace(&format!(":{}\"", self.port), &format!(":{port}\""));
        std::fs::write(&file, config)?;
        Ok(Self {
            name: self.name.clone(),
            dir: dir.to_path_buf(),
            port,
            process: None,
            may_end: false,
            environment: Vec::new(),
            source: self.source.twin(port),
        })
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = Command::new(program("fieldcast-agent")?);
        command
            .arg("run")
            .arg("--config")
            .arg(self.dir.join("agent.toml"))
            .env("NO_COLOR", "1");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        self.process = Some(Process::start(&mut command, &self.log_file())?);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<bool> {
        match self.process.take() {
            Some(process) => process.kill().map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends the agent in order: everything is sealed then.
    pub(crate) fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(Duration::from_secs(30)),
            None => Ok(()),
        }
    }

    /// Does what a service manager does: an agent that ended is started again, where it may end at all.
    pub(crate) fn tend(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let Some(status) = process.ended()? else {
            return Ok(());
        };
        if !self.may_end {
            bail!(
                "the agent of {} ended by itself with {status}; its log ends:\n{}",
                self.name,
                process.log_tail()
            );
        }
        self.process = None;
        self.start()
    }
}

/// A thread that hands readings over at a pace.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) log: Arc<Log>,
    index: usize,
    form: Form,
    rate: f64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    paused: AtomicBool,
    idle: AtomicBool,
    end: AtomicBool,
    /// Answers that said success for less than was handed over: never allowed.
    short: AtomicU64,
}

impl Source {
    fn start(index: usize, port: u16, form: Form, log: Arc<Log>, rate: f64) -> Self {
        let shared = Arc::new(Shared::default());
        shared.paused.store(true, Ordering::SeqCst);
        let (inner, its_log) = (Arc::clone(&shared), Arc::clone(&log));
        let thread = std::thread::spawn(move || push(index, port, form, &its_log, rate, &inner));
        Self {
            log,
            index,
            form,
            rate,
            shared,
            thread: Some(thread),
        }
    }

    /// Another one for the same log, so that no reading is made twice.
    fn twin(&self, port: u16) -> Self {
        Self::start(
            self.index,
            port,
            self.form,
            Arc::clone(&self.log),
            self.rate,
        )
    }

    /// Lets readings flow.
    pub(crate) fn resume(&self) {
        self.shared.idle.store(false, Ordering::SeqCst);
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Returns when nothing is under way any more.
    pub(crate) fn pause(&self) -> Result<()> {
        self.shared.paused.store(true, Ordering::SeqCst);
        crate::scenario::wait_for("a source to pause", Duration::from_secs(60), || {
            Ok(self.shared.idle.load(Ordering::SeqCst).then_some(()))
        })
    }

    pub(crate) fn check(&self) -> Result<()> {
        let short = self.shared.short.load(Ordering::SeqCst);
        if short > 0 {
            bail!("{short} answers of an agent said success and named less than was handed over");
        }
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn push(index: usize, port: u16, form: Form, log: &Log, rate: f64, shared: &Shared) {
    let http = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(8)))
            .http_status_as_error(false)
            .build(),
    );
    let url = format!("http://127.0.0.1:{port}/readings");
    let (mut begin, mut handed) = (Instant::now(), 0);
    while !shared.end.load(Ordering::SeqCst) {
        if shared.paused.load(Ordering::SeqCst) {
            shared.idle.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(10));
            (begin, handed) = (Instant::now(), 0);
            continue;
        }
        let due = (begin.elapsed().as_secs_f64() * rate) as u64;
        let behind = due.saturating_sub(handed);
        if behind < PUSH {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        handed += behind.saturating_sub(BEHIND);
        let first = log.offer(PUSH);
        match hand_over(&http, &url, &form.body(index, first, PUSH)) {
            Ok(Some(stored)) if stored == PUSH => {
                handed += PUSH;
                if log.accept(first).is_err() {
                    shared.short.fetch_add(1, Ordering::SeqCst);
                }
            }
            Ok(Some(_)) => drop(shared.short.fetch_add(1, Ordering::SeqCst)),
            // Refused, or no answer: what became of these readings is not known, and they are not offered again.
            Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// How many readings the agent says it has accepted; none where it says it has not.
fn hand_over(http: &ureq::Agent, url: &str, body: &str) -> Result<Option<u64>> {
    let mut answer = http
        .post(url)
        .header("content-type", "application/json")
        .send(body)?;
    if answer.status().as_u16() != 200 {
        return Ok(None);
    }
    let text = answer.body_mut().read_to_string()?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    json["accepted"]
        .as_u64()
        .map(Some)
        .context("an answer without `accepted`")
}
