//! A real `fieldcast-hub` process of a test: owns its life and its log, never what it answers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::{deadline, http};

/// A running `serve` or `worker`; killed when dropped.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

fn command(data_dir: &Path, database_url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fieldcast-hub"));
    command
        .arg("--data-dir")
        .arg(data_dir)
        .env("DATABASE_URL", database_url)
        .env_remove("FIELDCAST_LOG")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(data_dir: &Path, database_url: &str, args: &[&str]) -> Output {
    command(data_dir, database_url).args(args).output().unwrap()
}

/// Runs a command that must fail; what it says.
pub fn refused(data_dir: &Path, database_url: &str, args: &[&str]) -> String {
    let out = run(data_dir, database_url, args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{args:?} must fail: {said}");
    said
}

impl Process {
    /// Starts `worker`.
    pub fn worker(data_dir: &Path, database_url: &str) -> Self {
        std::fs::create_dir_all(data_dir).unwrap();
        let log = data_dir.join("worker.log");
        let file = std::fs::File::create(&log).unwrap();
        let child = command(data_dir, database_url)
            .arg("worker")
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Starts `serve` and waits until it says where it listens.
    pub async fn serve(data_dir: &Path, database_url: &str, args: &[&str]) -> (Self, String) {
        std::fs::create_dir_all(data_dir).unwrap();
        let log = data_dir.join("serve.log");
        let file = std::fs::File::create(&log).unwrap();
        let child = command(data_dir, database_url)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--broker-listen",
                "127.0.0.1:0",
            ])
            .args(args)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut process = Self { child, log };
        let (until, described) = (deadline(), data_dir.join("serve.json"));
        loop {
            let json = std::fs::read(&described)
                .ok()
                .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
            if let Some(json) = json {
                return (process, json["rest"].as_str().unwrap().to_owned());
            }
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "serve ended: {}", process.said());
            assert!(
                std::time::Instant::now() < until,
                "no serve.json: {}",
                process.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until its log has this.
    pub async fn says(&self, text: &str) {
        let until = deadline();
        while !self.said().contains(text) {
            assert!(
                std::time::Instant::now() < until,
                "not said: {text}: {}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `/readyz` answers with this status.
    pub async fn ready(&self, rest: &str, status: u16) -> http::Answer {
        let until = deadline();
        loop {
            let answer = http::get(rest, "/readyz").await;
            if answer.status == status {
                return answer;
            }
            assert!(
                std::time::Instant::now() < until,
                "readyz is {answer:?}: {}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks it to end; it must do so in order.
    pub async fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let until = deadline();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "ended with {status}: {}", self.said());
                return;
            }
            assert!(
                std::time::Instant::now() < until,
                "does not end: {}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
