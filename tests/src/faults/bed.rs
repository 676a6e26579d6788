//! The testbed: owns all processes of a run, the ways between them and what each step does to them; never when.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::broker::Mosquitto;
use super::device::{Device, Space};
use super::hub::Hub;
use super::log::Log;
use super::oracle::{Oracle, Verdict};
use super::plan::{Link, Plan, Step, Target};
use super::postgres::Postgres;
use super::proxy::{Mode, Proxy};
use super::reading::Form;
use crate::scenario::wait_for;

/// Real processes, started.
#[derive(Debug)]
pub(crate) struct Bed {
    // Ended in this order.
    pub(crate) devices: Vec<Device>,
    pub(crate) hub: Hub,
    broker: Option<Mosquitto>,
    pub(crate) postgres: Postgres,
    device_links: Vec<Proxy>,
    broker_link: Option<Proxy>,
    database_link: Proxy,
    pub(crate) oracle: Oracle,
    pub(crate) dir: PathBuf,
    /// Kills of running processes so far.
    pub(crate) kills: u64,
}

/// The readings' data time begins this long before the run.
const BEFORE_MS: i64 = 6 * 3_600_000;

impl Bed {
    /// Starts everything below `dir`, which others may read.
    pub(crate) fn start(plan: &Plan, dir: &Path) -> Result<Self> {
        let postgres = Postgres::make(&dir.join("pg"))?;
        let broker = match Mosquitto::program() {
            _ if plan.embedded_broker => None,
            Some(program) => Some(Mosquitto::make(program, &dir.join("mosquitto"))?),
            None => {
                println!(
                    "skipped: mosquitto is not installed; the hub's own broker takes its place"
                );
                None
            }
        };
        let database_link = Proxy::start(postgres.port, plan.seed ^ 1)?;
        let mut hub = Hub::make(&dir.join("hub"), (database_link.port, postgres.port))?;
        let broker_link = match &broker {
            Some(broker) => Some(Proxy::start(broker.port, plan.seed ^ 2)?),
            None => None,
        };
        hub.other_broker = broker_link.as_ref().map(|link| link.port);
        hub.start()?;
        hub.wait_ready()?;
        let form = Form {
            begin_ms: chrono::Utc::now().timestamp_millis() / 1_000 * 1_000 - BEFORE_MS,
        };
        let broker_port = broker.as_ref().map_or(hub.broker, |b| b.port);
        let mut names = Vec::new();
        let (mut devices, mut device_links) = (Vec::new(), Vec::new());
        for index in 0..plan.devices {
            let name = format!("d{index}");
            let link = Proxy::start(broker_port, plan.seed ^ (16 + index as u64))?;
            let home = dir.join(&name);
            std::fs::create_dir_all(&home)?;
            identity(&hub, &name, &home, link.port)?;
            let rate = plan.rate / plan.devices as f64;
            let mut device = Device::make(&name, &home, index, Space::default(), form, rate)?;
            device.start()?;
            device.source.resume();
            devices.push(device);
            device_links.push(link);
            names.push(name);
        }
        Ok(Self {
            devices,
            hub,
            broker,
            postgres,
            device_links,
            broker_link,
            database_link,
            oracle: Oracle::new(form, names),
            dir: dir.to_path_buf(),
            kills: 0,
        })
    }

    /// Whether there is a broker apart from the hub.
    pub(crate) fn has_broker(&self) -> bool {
        self.broker.is_some()
    }

    /// Does one step.
    pub(crate) fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Kill(target) => {
                let ran = match target {
                    Target::Device(i) => self.devices[i].kill()?,
                    Target::Hub => self.hub.kill()?,
                    Target::Postgres => self.postgres.kill()?,
                    Target::Broker => self.broker.as_mut().map_or(Ok(false), Mosquitto::kill)?,
                };
                self.kills += u64::from(ran);
            }
            Step::Start(target) => match target {
                Target::Device(i) => self.devices[i].start()?,
                Target::Hub => self.hub.start()?,
                Target::Postgres => self.postgres.start()?,
                Target::Broker => self.broker.as_mut().map_or(Ok(()), Mosquitto::start)?,
            },
            Step::Disturb(link, mode) => match link {
                Link::Device(i) => self.device_links[i].set(mode),
                Link::Database => self.database_link.set(mode),
                Link::Broker => {
                    if let Some(link) = &self.broker_link {
                        link.set(mode);
                    }
                }
            },
        }
        Ok(())
    }

    /// What a service manager does, and fails where a process ended that should not.
    pub(crate) fn tend(&mut self) -> Result<()> {
        self.postgres.tend()?;
        self.hub.check()?;
        for device in &mut self.devices {
            device.tend()?;
            device.source.check()?;
        }
        Ok(())
    }

    /// All ways are good again and everything answers.
    pub(crate) fn heal(&mut self) -> Result<()> {
        for link in self
            .device_links
            .iter()
            .chain(&self.broker_link)
            .chain([&self.database_link])
        {
            link.set(Mode::Good);
        }
        self.postgres.wait_ready()?;
        self.hub.wait_ready()
    }

    /// Compares what lies behind the proven part.
    pub(crate) fn look(&mut self) -> Result<Verdict> {
        let logs: Vec<&Log> = self.devices.iter().map(|d| d.source.log.as_ref()).collect();
        self.oracle.look(&self.postgres, &logs)
    }

    /// Compares everything.
    pub(crate) fn judge(&mut self) -> Result<Verdict> {
        let logs: Vec<&Log> = self.devices.iter().map(|d| d.source.log.as_ref()).collect();
        self.oracle.judge(&self.postgres, &logs)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.devices.iter().map(|d| d.source.log.accepted()).sum()
    }

    /// Waits until everything that was accepted is in the database; answers the last comparison.
    pub(crate) fn wait_drained(&mut self, within: Duration) -> Result<Verdict> {
        let mut last = Verdict::default();
        let drained = wait_for("accepted readings to reach the database", within, || {
            self.tend()?;
            last = self.look()?;
            Ok((last.lost == 0).then_some(()))
        });
        drained.with_context(|| format!("{last:?}")).map(|()| last)
    }
}

/// Enrols a device whose way to the broker is a proxy.
fn identity(hub: &Hub, name: &str, home: &Path, port: u16) -> Result<()> {
    let file = home.join("identity.toml");
    hub.cli(&["device", "add", name, "--out", &file.display().to_string()])?;
    let text = std::fs::read_to_string(&file)?;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.starts_with("broker") {
            true => format!("broker = \"mqtt://127.0.0.1:{port}\""),
            false => line.to_owned(),
        })
        .collect();
    std::fs::write(&file, lines.join("\n") + "\n")
        .with_context(|| format!("write {}", file.display()))
}
