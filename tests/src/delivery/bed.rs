//! One hub and one device for a figure: owns their processes and the readings that are handed over, never what is measured.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;
use tempfile::TempDir;

use crate::scenario::process::port;
use crate::scenario::{AgentOptions, AgentProcess, Broker, HubOptions, HubProcess};

/// Name of the only device.
pub(super) const DEVICE: &str = "d1";

/// A folder with a hub's and a device's things; the hub runs, the device does not yet.
pub(super) struct Bed {
    dir: TempDir,
    // Ended before its broker.
    pub(super) hub: Option<HubProcess>,
    broker: Broker,
}

impl Bed {
    /// With the hub's own broker.
    pub(super) fn make() -> Result<Self> {
        Self::with(Broker::Embedded)
    }

    pub(super) fn with(broker: Broker) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("fieldcast-delivery-")
            .tempdir()?;
        // A private PostgreSQL may be another user's.
        #[cfg(unix)]
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let mut bed = Self {
            dir,
            hub: None,
            broker,
        };
        bed.start_hub(None)?;
        Ok(bed)
    }

    /// Starts the hub, also again: with its broker where the device knows it.
    pub(super) fn start_hub(&mut self, broker: Option<String>) -> Result<()> {
        let options = HubOptions {
            data_dir: self.at("hub"),
            broker: self.broker.hub_url(),
            broker_listen: broker,
            ..HubOptions::default()
        };
        self.hub = Some(HubProcess::start(options)?);
        Ok(())
    }

    pub(super) fn hub(&self) -> Result<&HubProcess> {
        self.hub.as_ref().context("the hub does not run")
    }

    /// The process of the broker, where it is not the hub.
    pub(super) fn broker_pid(&self) -> Option<u32> {
        match &self.broker {
            Broker::Mosquitto(broker, _) => broker.pid(),
            Broker::Embedded | Broker::Given(_) => None,
        }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the device known, and starts its agent; `more` is added to its configuration's head.
    pub(super) fn agent(&self, more: &str) -> Result<Device> {
        let (identity, source, status) = (self.at("identity.toml"), port()?, port()?);
        let text = identity.display().to_string();
        self.hub()?
            .cli(&["device", "add", DEVICE, "--out", &text])?;
        let config = format!(
            "data_dir = \"{}\"\nidentity = \"{text}\"\n{more}\n[[source]]\ntype = \"http\"\nlisten = \"127.0.0.1:{source}\"\n\
             [status]\nlisten = \"127.0.0.1:{status}\"\n",
            self.at("data").display(),
        );
        let process = AgentProcess::start(AgentOptions {
            dir: self.at("agent"),
            config,
        })?;
        let device = Device {
            process,
            source: Source::new(source),
            status: format!("http://127.0.0.1:{status}"),
        };
        crate::scenario::wait_for("the agent to answer", Duration::from_secs(30), || {
            device.waiting().map(Some)
        })?;
        Ok(device)
    }
}

/// A running agent.
pub(super) struct Device {
    pub(super) process: AgentProcess,
    pub(super) source: Source,
    status: String,
}

impl Device {
    /// Records that the hub has not acknowledged.
    pub(super) fn waiting(&self) -> Result<f64> {
        let mut answer = ureq::get(&format!("{}/metrics", self.status)).call()?;
        let text = answer.body_mut().read_to_string()?;
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix("fieldcast_agent_buffer_records "));
        found
            .and_then(|n| n.trim().parse().ok())
            .context("the agent's metrics name no fieldcast_agent_buffer_records")
    }

    /// Waits until the hub has acknowledged all but so many records.
    pub(super) fn drained(&mut self, left: f64, within: Duration) -> Result<()> {
        crate::scenario::wait_for("the buffer to drain", within, || {
            self.process.check_alive()?;
            Ok((self.waiting()? <= left).then_some(()))
        })
    }
}

/// Hands readings over to the agent's port, which answers only after their commit.
#[derive(Clone)]
pub(super) struct Source {
    http: ureq::Agent,
    url: String,
}

impl Source {
    fn new(port: u16) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
        Self {
            http: ureq::Agent::new_with_config(config.build()),
            url: format!("http://127.0.0.1:{port}/readings"),
        }
    }

    /// Hands over readings `(sensor, time, value)`.
    pub(super) fn push(
        &self,
        readings: impl Iterator<Item = (String, DateTime<Utc>, f64)>,
    ) -> Result<u64> {
        let items: Vec<String> = readings
            .map(|(sensor, time, value)| {
                let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
                format!("{{\"sensor\":\"{sensor}\",\"time\":\"{time}\",\"value\":{value}}}")
            })
            .collect();
        let count = items.len() as u64;
        let mut answer = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .send(format!("{{\"readings\":[{}]}}", items.join(",")))?;
        let json: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        ensure!(
            json["accepted"].as_u64() == Some(count),
            "of {count} readings the agent took {}",
            json["accepted"]
        );
        Ok(count)
    }

    /// Hands over rows `from..until` of a made device: a reading of each sensor in a row, `step_ms` apart.
    pub(super) fn rows(&self, made: Made, rows: std::ops::Range<u64>) -> Result<u64> {
        self.push(rows.flat_map(|row| (0..made.sensors).map(move |s| made.reading(row, s))))
    }
}

/// A made device's data: slow waves with two decimals, as of a thermometer.
#[derive(Clone, Copy)]
pub(super) struct Made {
    pub(super) sensors: u64,
    pub(super) begin: DateTime<Utc>,
    pub(super) step_ms: u64,
}

impl Made {
    fn reading(self, row: u64, sensor: u64) -> (String, DateTime<Utc>, f64) {
        let ms = i64::try_from(row * self.step_ms).unwrap_or(i64::MAX);
        let time = self.begin + chrono::Duration::milliseconds(ms);
        let phase = ms as f64 / 86_400_000.0 * std::f64::consts::TAU + sensor as f64;
        // A little unrest in the last digit, without a generator's state.
        let unrest = (row.wrapping_mul(2_654_435_761) >> 13) % 7;
        let value = (phase.sin() * 800.0).round() + 2_000.0 + unrest as f64;
        (format!("s{sensor}"), time, value / 100.0)
    }
}
