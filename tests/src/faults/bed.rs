//! The testbed: owns all processes of a run, the ways between them and what each step does to them; never when.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::clocks::{self, Jump};
use super::device::{Device, Space};
use super::disks::SmallDisk;
use super::hub::Hub;
use super::log::Log;
use super::oracle::{Oracle, Verdict};
use super::plan::{Disk, Link, Plan, Step, Target, Trial};
use super::postgres::Postgres;
use super::proxy::{Mode, Proxy};
use super::random::Random;
use super::reading::Form;
use super::{backups, clones, files, images};
use crate::scenario::Mosquitto;
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
    device_disk: Option<SmallDisk>,
    database_disk: Option<SmallDisk>,
    faketime: Option<PathBuf>,
    /// Chooses whom a trial is for.
    random: Random,
    talk: bool,
    pub(crate) oracle: Oracle,
    pub(crate) dir: PathBuf,
    /// Kills of running processes so far.
    pub(crate) kills: u64,
}

/// Size of the database's disk; nothing is taken of it before it is used.
const DATABASE_MIB: u64 = 8 * 1_024;
/// Size of the last device's disk.
const DEVICE_MIB: u32 = 24;

#[allow(clippy::disallowed_methods, reason = "the testbed's clock")]
fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

fn clock_file(home: &Path) -> PathBuf {
    home.join("clock")
}

/// The readings' data time begins this long before the run.
const BEFORE_MS: i64 = 6 * 3_600_000;

impl Bed {
    /// Starts everything below `dir`, which others may read.
    pub(crate) fn start(plan: &Plan, dir: &Path) -> Result<Self> {
        let database_disk = SmallDisk::in_file(&dir.join("pg"), DATABASE_MIB)?;
        let postgres = Postgres::make(&dir.join("pg"), &[])?;
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
            begin_ms: now_ms() / 1_000 * 1_000 - BEFORE_MS,
        };
        let broker_port = broker.as_ref().map_or(hub.broker, |b| b.port);
        let mut names = Vec::new();
        let (mut devices, mut device_links) = (Vec::new(), Vec::new());
        let faketime = clocks::library();
        let mut device_disk = None;
        for index in 0..plan.devices {
            let name = format!("d{index}");
            let link = Proxy::start(broker_port, plan.seed ^ (16 + index as u64))?;
            let home = dir.join(&name);
            std::fs::create_dir_all(&home)?;
            identity(&hub, &name, &home, link.port)?;
            let rate = plan.rate / plan.devices as f64;
            let small = index + 1 == plan.devices;
            if small {
                device_disk = SmallDisk::in_memory(&home.join("data"), DEVICE_MIB)?;
            }
            let space = match &device_disk {
                Some(_) => Space {
                    max_bytes: u64::from(DEVICE_MIB) << 19,
                    reserve_bytes: 1 << 20,
                },
                None => Space::default(),
            };
            let mut device = Device::make(&name, &home, index, space, form, rate)?;
            if let Some(library) = &faketime {
                device.environment = clocks::environment(library, &clock_file(&home))?;
            }
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
            device_disk,
            database_disk,
            faketime,
            random: Random::new(plan.seed ^ 3),
            talk: plan.talk,
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
            Step::Disturb(link, mode) => self.link(link, mode),
            Step::Fill(disk) => self.fill(disk)?,
            Step::Free(disk) => self.free(disk)?,
            Step::Jump(i, jump) => self.jump(i, jump)?,
            Step::Try(trial) => self.trial(trial)?,
        }
        Ok(())
    }

    pub(crate) fn link(&self, link: Link, mode: Mode) {
        match link {
            Link::Device(i) => self.device_links[i].set(mode),
            Link::Database => self.database_link.set(mode),
            Link::Broker => {
                if let Some(link) = &self.broker_link {
                    link.set(mode);
                }
            }
        }
    }

    fn fill(&mut self, disk: Disk) -> Result<()> {
        match (disk, &self.device_disk, &self.database_disk) {
            (Disk::Device, Some(disk), _) => {
                disk.fill()?;
                let last = self.devices.len() - 1;
                self.devices[last].may_end = true;
                // A full buffer may drop what it must, under gap records.
                self.oracle.open(last, now_ms());
            }
            (Disk::Database, _, Some(disk)) => disk.fill()?,
            _ => {}
        }
        Ok(())
    }

    fn free(&mut self, disk: Disk) -> Result<()> {
        match (disk, &self.device_disk, &self.database_disk) {
            (Disk::Device, Some(disk), _) => {
                disk.free()?;
                let last = self.devices.len() - 1;
                self.oracle.close(last, &self.devices[last].source.log);
            }
            (Disk::Database, _, Some(disk)) => disk.free()?,
            _ => {}
        }
        Ok(())
    }

    fn jump(&self, device: usize, jump: Jump) -> Result<()> {
        match &self.faketime {
            Some(_) => clocks::set(&clock_file(&self.devices[device].dir), jump),
            None => Ok(()),
        }
    }

    fn trial(&mut self, trial: Trial) -> Result<()> {
        self.heal()?;
        // The last device's disk may be as small as a trial's copy is large.
        let device = self
            .random
            .index(self.devices.len().saturating_sub(1).max(1));
        let mut random = self.random.clone();
        self.random.next();
        let done = match trial {
            Trial::Damage => files::trial(self, device, &mut random),
            Trial::OldImage => images::trial(self, device),
            Trial::Clones => clones::trial(self, device),
            Trial::BackupTold => backups::trial(self, true),
            Trial::BackupUntold => backups::trial(self, false),
        };
        done.with_context(|| format!("{trial:?}"))
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

    /// All ways are good again, disks have room, clocks are right, and everything runs and answers.
    pub(crate) fn heal(&mut self) -> Result<()> {
        for disk in [Disk::Device, Disk::Database] {
            self.free(disk)?;
        }
        for i in 0..self.devices.len() {
            self.jump(i, Jump::Off(0))?;
            self.devices[i].start()?;
        }
        for target in [Target::Broker, Target::Postgres, Target::Hub] {
            self.step(Step::Start(target))?;
        }
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

    /// Says something to who listens.
    pub(crate) fn tell(&self, what: &str) {
        if self.talk {
            println!("         {what}");
        }
    }

    /// Rows of readings.
    pub(crate) fn rows(&self) -> Result<u64> {
        self.postgres.number("SELECT count(*) FROM readings")
    }

    /// How often the hub raised an alarm about devices of this name.
    pub(crate) fn alarms(&self, device: &str, code: &str) -> Result<u64> {
        self.postgres.number(&format!(
            "SELECT count(*) FROM alarms WHERE source = 'hub' AND device LIKE '{device}' AND code = '{code}'"
        ))
    }

    pub(crate) fn open_window(&mut self, device: usize) -> Result<()> {
        self.look()?;
        self.oracle.open(device, now_ms());
        Ok(())
    }

    pub(crate) fn close_window(&mut self, device: usize) {
        self.oracle.close(device, &self.devices[device].source.log);
    }

    /// Waits until a device has accepted some requests' worth of readings more.
    pub(crate) fn let_flow(&mut self, device: usize, requests: u64) -> Result<()> {
        let until = self.devices[device].source.log.accepted() + requests * super::device::PUSH;
        wait_for(
            "a device to accept readings",
            Duration::from_secs(60),
            || {
                self.tend()?;
                Ok((self.devices[device].source.log.accepted() >= until).then_some(()))
            },
        )
    }

    /// Waits until every reading accepted before now is where it belongs.
    pub(crate) fn wait_proven(&mut self, within: Duration) -> Result<()> {
        let until: Vec<u64> = self.devices.iter().map(|d| d.source.log.next()).collect();
        let mut last = Verdict::default();
        let proven = wait_for("accepted readings to reach the database", within, || {
            self.tend()?;
            last = self.look()?;
            anyhow::ensure!(last.twice == 0 && last.made_up == 0, "twice or made up");
            Ok(self.oracle.is_proven(&until).then_some(()))
        });
        proven.with_context(|| format!("{last:?}"))
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
