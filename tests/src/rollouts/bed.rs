//! The testbed of rollouts: owns its processes, one forecaster and its model versions, and what is asked of the tables.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::agents::{Agent, Device};
use crate::faults::hub::Hub;
use crate::faults::postgres::Postgres;
use crate::scenario::Mosquitto;
use crate::scenario::process::Process;
use crate::scenario::wait_for;

/// Whose models are rolled out.
pub(super) const FORECASTER: &str = "f";
/// Whose models only workers make, while others are rolled out.
pub(super) const BESIDE: &str = "beside";
/// What agents live through, an hour at a look: the first day and how many there are, all of them over.
const YEARS: (&str, u32) = ("2015-01-01T00:00:00Z", 3_650);
pub(super) const LONG: Duration = Duration::from_secs(300);
/// So long is looked for a model at work behind each hour that the agents are shown.
const MOMENT: Duration = Duration::from_millis(300);

/// Real processes, started.
pub(super) struct Bed {
    // Ended in this order.
    agents: Vec<Agent>,
    fleet: Option<Process>,
    worker: Option<Process>,
    pub(super) hub: Hub,
    pub(super) postgres: Postgres,
    /// In place of the hub's own.
    pub(super) broker: Option<Mosquitto>,
    pub(super) dir: PathBuf,
}

/// The device whose readings models are learnt from; it never connects.
const HISTORY: &str = "history";

fn definition(name: &str) -> String {
    let selector = match name {
        BESIDE => format!("device = \"{HISTORY}\"\n"),
        _ => String::new(),
    };
    // Nothing but what the figure asks for may begin a training or a rollout.
    format!(
        "name = \"{name}\"\ntarget = \"demand\"\ninputs = [\"temperature\", \"humidity\", \"demand\"]\nperiod = \"1h\"\n\
         lookback = 48\nhorizon = 24\n[selector.labels]\n{selector}\
         [retraining]\ndrift = false\nerror = false\ngrowth = 0.0\n"
    )
}

impl Bed {
    /// Starts PostgreSQL and a hub below `dir`, and imports two months from which models are learnt. Without a broker it takes
    /// the hub's own.
    pub(super) fn start(dir: &Path, broker: Option<Mosquitto>) -> Result<Self> {
        let postgres = Postgres::make(
            &dir.join("pg"),
            &["shared_preload_libraries=pg_stat_statements"],
        )?;
        let mut hub = Hub::make(&dir.join("hub"), (postgres.port, postgres.port))?;
        hub.url = Some(postgres.socket_url());
        hub.other_broker = broker.as_ref().map(|broker| broker.port);
        hub.start()?;
        hub.wait_ready()?;
        let bed = Self {
            agents: Vec::new(),
            fleet: None,
            worker: None,
            hub,
            postgres,
            broker,
            dir: dir.to_path_buf(),
        };
        let data = dir.join("data");
        bed.hub.cli(&[
            "simulate",
            "--out",
            text(&data)?,
            "--devices",
            "1",
            "--days",
            "60",
        ])?;
        let file = std::fs::read_dir(&data)?
            .next()
            .context("no history was made")??
            .path();
        bed.hub
            .cli(&["import", "csv", text(&file)?, "--device", HISTORY])?;
        // `device add` would let it connect.
        bed.postgres.execute(&format!(
            "UPDATE devices SET labels = '{{\"device\": \"{HISTORY}\"}}' WHERE id = '{HISTORY}'"
        ))?;
        std::fs::write(bed.ridge(), "max_epochs = 0\n")?;
        Ok(bed)
    }

    /// Settings of a training that takes a moment.
    fn ridge(&self) -> PathBuf {
        self.dir.join("ridge.toml")
    }

    pub(super) fn define(&self, forecaster: &str) -> Result<()> {
        let path = self.dir.join(format!("{forecaster}.toml"));
        std::fs::write(&path, definition(forecaster))?;
        self.hub
            .cli(&["forecaster", "apply", text(&path)?])
            .map(drop)
    }

    /// Defines a forecaster and trains so many versions of equal models, of which the first becomes champion.
    pub(super) fn versions(&mut self, forecaster: &str, count: u32) -> Result<()> {
        self.define(forecaster)?;
        self.hub
            .cli(&["train", forecaster, "--config", text(&self.ridge())?])?;
        let run = self.postgres.number(&format!(
            "SELECT max(id) FROM jobs WHERE subject = '{forecaster}'"
        ))?;
        for _ in 1..count {
            self.hub.cli(&["train", "--run", &run.to_string()])?;
        }
        self.wait("the first model's rollout to end", |bed| {
            Ok(bed.champion(forecaster)? == Some(1) && bed.open()? == 0)
        })
    }

    pub(super) fn champion(&self, forecaster: &str) -> Result<Option<u32>> {
        let found = self.text(&format!(
            "SELECT coalesce(max(version), 0) FROM champions WHERE forecaster = '{forecaster}'"
        ))?;
        Ok(found.parse().ok().filter(|version| *version > 0))
    }

    /// Rollouts that have not ended.
    pub(super) fn open(&self) -> Result<u64> {
        self.postgres
            .number("SELECT count(*) FROM rollouts WHERE finished_at IS NULL")
    }

    /// Lets workers train `BESIDE` once more, and does not wait.
    pub(super) fn enqueue(&self) -> Result<()> {
        self.hub
            .cli(&[
                "train",
                BESIDE,
                "--config",
                text(&self.ridge())?,
                "--detach",
            ])
            .map(drop)
    }

    /// Starts a made fleet.
    pub(super) fn start_fleet(&mut self, options: &str) -> Result<()> {
        let mut command = self.hub.command(self.postgres.port)?;
        command.args(["simulate", "fleet", "--duration", "24h", "--broker"]);
        let port = self.hub.other_broker.unwrap_or(self.hub.broker);
        command.arg(format!("mqtt://127.0.0.1:{port}"));
        command.args(options.split_whitespace());
        self.fleet = Some(Process::start(&mut command, &self.dir.join("fleet.log"))?);
        Ok(())
    }

    pub(super) fn kill_fleet(&mut self) -> Result<()> {
        self.fleet.take().map_or(Ok(()), Process::kill)
    }

    /// Starts real agents that know these forecasters, with two days of readings.
    pub(super) fn start_agents(
        &mut self,
        count: u32,
        forecasters: &[&str],
        settings: &str,
    ) -> Result<()> {
        let made = self.dir.join("agents");
        let (devices, days) = (count.to_string(), YEARS.1.to_string());
        let size = ["--devices", &devices, "--days", &days, "--start", YEARS.0];
        self.hub
            .cli(&[&["simulate", "--out", text(&made)?], &size[..]].concat())?;
        for number in 0..count {
            let name = format!("agent-{number}");
            let mut agent = Agent::start(
                self,
                &Device {
                    name: &name,
                    label: None,
                    forecasters,
                    series: &made.join(fieldcast_sim::csv::file_name(number)),
                    history: 0,
                    settings,
                },
            )?;
            agent.show(48)?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// Starts every agent again, with these settings in place of those added before.
    pub(super) fn set_agents(&mut self, settings: &str) -> Result<()> {
        self.agents.iter_mut().try_for_each(|a| a.set(settings))
    }

    /// As a power cut would end one of the agents.
    pub(super) fn kill_agent(&mut self, number: usize) -> Result<()> {
        self.agents.get_mut(number).map_or(Ok(()), Agent::kill)
    }

    /// Kills and starts again each agent that is found at work with a bundle (digest) within a moment, as if the model had ended its
    /// process.
    pub(super) fn kill_where(&mut self, sha: &str) -> Result<()> {
        let until = Instant::now() + MOMENT;
        while Instant::now() < until {
            for agent in &mut self.agents {
                agent.kill_at_work(sha)?;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// The digest of a version's bundle.
    pub(super) fn digest(&self, forecaster: &str, version: u32) -> Result<String> {
        self.text(&format!(
            "SELECT encode(bundle, 'hex') FROM model_versions WHERE forecaster = '{forecaster}' AND version = {version}"
        ))
    }

    /// Starts the agents that do not run.
    pub(super) fn revive_agents(&mut self) -> Result<()> {
        self.agents.iter_mut().try_for_each(Agent::revive)
    }

    /// An hour passes for the agents; fails where a process ended by itself.
    pub(super) fn tick(&mut self) -> Result<()> {
        self.check()?;
        self.agents.iter_mut().try_for_each(|agent| agent.show(1))
    }

    /// Makes a bundle a version.
    pub(super) fn import(&self, forecaster: &str, bundle: &[u8]) -> Result<()> {
        let file = self.dir.join("import.bundle");
        std::fs::write(&file, bundle)?;
        let import = ["model", "import", forecaster, text(&file)?, "--by", "bench"];
        self.hub.cli(&import).map(drop)
    }

    pub(super) fn start_worker(&mut self) -> Result<()> {
        let mut command = self.hub.command(self.postgres.port)?;
        command.arg("worker");
        self.worker = Some(Process::start(&mut command, &self.dir.join("worker.log"))?);
        Ok(())
    }

    pub(super) fn kill_worker(&mut self) -> Result<()> {
        self.worker.take().map_or(Ok(()), Process::kill)
    }

    /// Fails where a process ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        self.hub.check()?;
        self.agents.iter_mut().try_for_each(Agent::check)?;
        for process in [&mut self.fleet, &mut self.worker].into_iter().flatten() {
            if let Some(status) = process.ended()? {
                bail!(
                    "a process ended by itself with {status}; its log ends:\n{}",
                    process.log_tail()
                );
            }
        }
        Ok(())
    }

    /// Starts a rollout with these stages (TOML); its number.
    pub(super) fn roll_out(&self, forecaster: &str, version: u32, plan: &str) -> Result<u64> {
        let path = self.dir.join("plan.toml");
        std::fs::write(&path, plan)?;
        let said = self.hub.cli(&[
            "--json",
            "rollout",
            "start",
            forecaster,
            &version.to_string(),
            "--plan",
            text(&path)?,
            "--by",
            "bench",
        ])?;
        let said: Value = serde_json::from_str(&said)?;
        said["rollout"]
            .as_u64()
            .with_context(|| format!("no rollout in {said}"))
    }

    /// One line of text that a query answers.
    pub(super) fn text(&self, query: &str) -> Result<String> {
        let mut found = None;
        self.postgres.rows(query, |line| {
            found = Some(line.to_owned());
            Ok(())
        })?;
        found.with_context(|| format!("no answer to: {query}"))
    }

    pub(super) fn status(&self, rollout: u64) -> Result<String> {
        self.text(&format!("SELECT status FROM rollouts WHERE id = {rollout}"))
    }

    /// Connected devices that report a version as healthy.
    pub(super) fn healthy(&self, forecaster: &str, version: u32) -> Result<u64> {
        self.postgres.number(&format!(
            "SELECT count(*) FROM device_states s JOIN devices d ON d.id = s.device, jsonb_array_elements(s.state->'forecasters') f
             WHERE d.online AND f->>'forecaster' = '{forecaster}' AND f->>'phase' = 'healthy'
             AND (f->>'model_version')::bigint = {version}"
        ))
    }

    /// Waits until a question has the wanted answer; processes must live on meanwhile, and time passes for agents.
    pub(super) fn wait(
        &mut self,
        what: &str,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        wait_for(what, LONG, || {
            self.tick()?;
            Ok(holds(self)?.then_some(()))
        })
    }
}

/// One stage of a plan.
pub(super) fn stage(name: &str, percent: u8, deadline_s: u32) -> String {
    let deadline = deadline_s * 1_000;
    format!(
        "[[stages]]\nname = \"{name}\"\nmode = \"active\"\npercent = {percent}\ndeadline_ms = {deadline}\nsoak_ms = 0\n\
         max_failed_share = 0.34\nmin_online_share = 0.5\n"
    )
}

pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
