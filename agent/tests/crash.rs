//! A real agent that is killed while its model computes: who is blamed, and what runs afterwards, without any hub.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "tests; not all of the support is used here"
)]

mod update_support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fieldcast_agent::config::LatencyConfig;
use fieldcast_agent::update::witness;
use fieldcast_wire::{Sha256, pb};
use ring::signature::KeyPair;
use serde_json::Value;
use update_support::device::{Device, HOUR};
use update_support::{bundle_of, key, long, naive_of, thorough};

/// The agent's program on a data folder.
struct Agent {
    child: Child,
    status: String,
    push: String,
}

impl Agent {
    fn start(dir: &Path) -> Self {
        // Written by this start, not by the one before.
        let facts = dir.join("data/agent.json");
        let _ = std::fs::remove_file(&facts);
        let child = Command::new(env!("CARGO_BIN_EXE_fieldcast-agent"))
            .args(["run", "--config"])
            .arg(dir.join("agent.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let listening = |name: &str| {
            let text = std::fs::read_to_string(&facts).unwrap_or_default();
            let facts: Value = serde_json::from_str(&text).unwrap_or_default();
            facts["listen"][name].as_str().map(str::to_owned)
        };
        let (status, push) = until("the agent listens", || {
            listening("status").zip(listening("127.0.0.1:0"))
        });
        Self {
            child,
            status,
            push,
        }
    }

    fn forecaster(&self) -> Value {
        let request = "GET /status.json HTTP/1.0\r\n\r\n";
        let mut stream = TcpStream::connect(&self.status).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let facts: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        facts["forecasters"]["demand"].clone()
    }

    /// Sends hours; the answer, if the agent lives to give one, comes after their forecasts.
    fn send(&self, hours: std::ops::Range<i64>) -> TcpStream {
        let readings: Vec<String> = hours
            .map(|h| {
                let time = chrono::DateTime::from_timestamp_millis(h * HOUR).unwrap();
                let (time, value) = (time.to_rfc3339(), 100 + h % 24);
                format!(r#"{{"sensor": "demand", "time": "{time}", "value": {value}}}"#)
            })
            .collect();
        let body = format!(r#"{{"readings": [{}]}}"#, readings.join(","));
        let mut stream = TcpStream::connect(&self.push).unwrap();
        let head = format!(
            "POST /readings HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        stream
    }

    fn take(&self, hours: std::ops::Range<i64>) {
        let mut answer = String::new();
        self.send(hours).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// As a crash of the process would be.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have been ended and waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came: {what}");
        std::thread::yield_now();
    }
}

/// The bundle whose model is at work by the mark that the agent has left.
fn at_work(data: &Path) -> Option<String> {
    let mut mark = [0; 64];
    let mut file = std::fs::File::open(data.join(witness::FILE)).ok()?;
    file.read_exact(&mut mark).ok()?;
    let text = std::str::from_utf8(&mark).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Two proven bundles on a device, one after the other.
async fn proven(dir: &Path, first: &[u8], second: &[u8]) {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    // The second one computes much longer than the first, which is not what it is on trial for.
    let patient = LatencyConfig {
        budget_ms: Some(60_000),
        floor_ms: 60_000,
    };
    let mut device = Device::start_with(&data, 0, patient).await;
    device.hours(0..260).await;
    for (version, bytes) in [(1, first), (2, second)] {
        device
            .order(bytes, version, version, pb::Stage::Active)
            .await;
        let hour = 260 + 20 * i64::try_from(version).unwrap();
        device.hours(hour - 20..hour).await;
        device.phase(pb::ModelPhase::Healthy).await;
    }
    device.stop().await;
    let root = Sha256::from_slice(key(1).public_key().as_ref()).unwrap();
    // Nobody listens there: all that follows happens without a hub.
    let identity = format!(
        "site = \"plant\"\ndevice = \"pi\"\nbroker = \"mqtt://127.0.0.1:1\"\ntoken = \"t\"\nroot_public_key = \"{root}\"\n"
    );
    std::fs::write(dir.join("identity.toml"), identity).unwrap();
    let config = "data_dir = \"data\"\nidentity = \"identity.toml\"\n[[source]]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\n\
                  [status]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(dir.join("agent.toml"), config).unwrap();
}

#[test]
fn a_proven_model_with_which_the_process_dies_gives_way_to_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let good = bundle_of(long(), &naive_of(&long(), 0.0), 1, 0.0);
    let deadly = bundle_of(long(), &thorough(), 2, 0.0);
    let (good_sha, deadly_sha) = (
        Sha256::of(&good).to_string(),
        Sha256::of(&deadly).to_string(),
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(proven(dir.path(), &good, &deadly));

    // Killed while no model is at work: as often as it likes, nobody is blamed.
    let mut hour = 300;
    for _ in 0..4 {
        let agent = Agent::start(dir.path());
        until("the model runs", || {
            hour += 1;
            agent.take(hour - 1..hour);
            (agent.forecaster()["running"] == deadly_sha.as_str()).then_some(())
        });
        assert_eq!(agent.forecaster()["phase"], "healthy");
        assert_eq!(at_work(&data), None, "it has answered, so it rests");
        agent.kill();
    }

    // Killed while the proven model computes.
    let mut deaths = 0;
    while deaths < 3 {
        let agent = Agent::start(dir.path());
        until("the model runs", || {
            hour += 1;
            agent.take(hour - 1..hour);
            (agent.forecaster()["running"] == deadly_sha.as_str()).then_some(())
        });
        let _unanswered = agent.send(hour..hour + 40);
        until("the model computes", || at_work(&data));
        agent.kill();
        // The kill may have come just after the last computation: then it is no death of the model.
        if let Some(sha) = at_work(&data) {
            assert_eq!(sha, deadly_sha);
            deaths += 1;
        }
        // What was not committed may be sent again; what was is not taken twice.
        hour += 40;
    }

    let agent = Agent::start(dir.path());
    until("the one before runs again", || {
        hour += 1;
        agent.take(hour - 1..hour);
        (agent.forecaster()["running"] == good_sha.as_str()).then_some(())
    });
    let facts = agent.forecaster();
    assert_eq!(facts["phase"], "rolled_back", "{facts}");
    assert_eq!(facts["last_good"], good_sha.as_str());
    let reason = facts["reason"].as_str().unwrap();
    assert!(
        reason.contains("died 3 times while this model made a forecast"),
        "{reason}"
    );
    agent.kill();
}
