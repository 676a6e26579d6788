//! Made fleets of tests as processes, and a model for them: owns their start, wait and end, never what is expected of them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::training::KIND;
use fieldcast_sim::{Period, SimSpec};
use fieldcast_store::Store;
use serde_json::{Value, json};

use super::{add_device, define, epoch, job, payload, reading};

pub const LONG: Duration = Duration::from_secs(90);

/// A fleet that goes on until it is asked to end.
pub struct Going(Child);

impl Going {
    pub fn start(dir: &Path, url: &str, options: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_fieldcast-hub"))
            .arg("--data-dir")
            .arg(dir)
            .env("DATABASE_URL", url)
            .args([
                "--json",
                "simulate",
                "fleet",
                "--verify",
                "--duration",
                "300s",
            ])
            .args(options.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn end(mut self) -> Value {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let out = std::io::read_to_string(self.0.stdout.take().unwrap()).unwrap();
        assert!(self.0.wait().unwrap().success(), "{out}");
        serde_json::from_str(&out).unwrap()
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two months of readings from which a model is learnt.
async fn history(store: &Store) {
    let sim = SimSpec {
        seed: 3,
        start: 1_735_689_600_000,
        days: 60,
        period: Period::Hour,
        devices: 1,
        changes: Vec::new(),
    };
    let readings = sim.rows(0).flat_map(|r| {
        [
            reading("temperature", r.time, r.temperature),
            reading("demand", r.time, r.demand),
        ]
    });
    let bytes = payload(epoch(1), 1, 1, readings.collect());
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    ingestor.write(&[job("a", &bytes)]).await.unwrap();
}

/// A forecaster `f` with a model that the running hub trains.
pub async fn model(store: &Store) {
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    history(store).await;
    trained(store, 1).await;
}

/// Its next version, as the running hub trains it with a seed.
pub async fn trained(store: &Store, seed: u64) {
    let mut config = json!(fieldcast_train::TrainConfig::default());
    config["max_epochs"] = json!(0);
    let request = json!({"trigger": "person", "reason": "test", "config": config, "seed": seed});
    let id = store.enqueue(KIND, "f", &request).await.unwrap().0;
    let until = Instant::now() + LONG;
    loop {
        let job = store.job(id).await.unwrap().unwrap();
        match job.status.as_str() {
            "succeeded" => return,
            "failed" => panic!("{:?}", job.error),
            _ => assert!(Instant::now() < until, "training is {}", job.status),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until all devices of a fleet report one of these phases of `f`.
pub async fn reach(store: &Store, prefix: &str, devices: u32, phase: &str) {
    let until = Instant::now() + LONG;
    loop {
        let mut states = Vec::new();
        for n in 1..=devices {
            let name = format!("{prefix}{n:05}");
            let state = store.device_state(&name).await.unwrap();
            states.push(state.map_or(Value::Null, |s| s["forecasters"][0].clone()));
        }
        if states.iter().all(|s| s["phase"] == phase) {
            return;
        }
        assert!(Instant::now() < until, "not {phase}: {states:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
