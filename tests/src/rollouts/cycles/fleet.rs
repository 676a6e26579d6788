//! A few real agents that live through made years a day at a time: owns when the next day comes, never what follows from it.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::DateTime;
use fieldcast_sim::{DAY_MS, HOUR_MS, SimSpec};

use crate::rollouts::agents::{Agent, Device};
use crate::rollouts::bed::{Bed, text};
use crate::scenario::wait_for;

pub(super) const NAME: &str = "years";
/// What is forecast.
pub(super) const QUESTION: &str = "name = \"years\"\ntarget = \"demand\"\ninputs = [\"temperature\", \"humidity\", \"demand\"]\n\
                                   period = \"1h\"\nlookback = 48\nhorizon = 24\n";
/// What is left to its default is what the figure is about. Four years pass within the budget of a day and without soaking, which
/// is process time; one head and no forest, as their training would take most of it.
const POLICY: &str = "[selector.labels]\ngroup = \"years\"\n[rollout]\nsoak = \"0s\"\n[retraining]\na_day = 1000\n\
                      [retraining.training]\nseeds = 1\nforest = false\n";
const PATIENCE: Duration = Duration::from_secs(300);
/// The hub looks at signals and rollouts once a second; a day is not over before it has looked at it.
const LOOK: Duration = Duration::from_millis(1_200);
const HOURS: usize = 24;

pub(super) struct Fleet {
    agents: Vec<Agent>,
    start: i64,
    /// The day that was lived last.
    day: i64,
    told: u64,
}

impl Fleet {
    /// Imports the first days, starts agents behind them, and has the first model made.
    pub(super) fn start(
        bed: &mut Bed,
        world: &SimSpec,
        history_days: u32,
        epochs: u32,
    ) -> Result<Self> {
        let at = |name: &str| bed.dir.join(name);
        let definition = at("years.toml");
        std::fs::write(
            &definition,
            format!("{QUESTION}{POLICY}max_epochs = {epochs}\n"),
        )?;
        bed.hub.cli(&["forecaster", "apply", text(&definition)?])?;
        let made = at("years");
        let mut args: Vec<String> = ["simulate", "--out", text(&made)?]
            .map(str::to_owned)
            .into();
        let start = DateTime::from_timestamp_millis(world.start).context("a start")?;
        for (option, value) in [
            ("devices", world.devices.to_string()),
            ("days", world.days.to_string()),
            ("seed", world.seed.to_string()),
            ("start", start.to_rfc3339()),
        ] {
            args.extend([format!("--{option}"), value]);
        }
        for change in &world.changes {
            args.extend(["--change-day".to_owned(), change.to_string()]);
        }
        bed.hub
            .cli(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut agents = Vec::new();
        for device in 0..world.devices {
            let device = Device {
                name: &SimSpec::device_name(device),
                label: Some("group=years"),
                forecasters: &[NAME],
                series: &made.join(fieldcast_sim::csv::file_name(device)),
                history: history_days as usize * HOURS,
                settings: "",
            };
            agents.push(Agent::start(bed, &device)?);
        }
        bed.hub.cli(&["train", NAME])?;
        Ok(Self {
            agents,
            start: world.start,
            day: i64::from(history_days),
            told: 0,
        })
    }

    /// Lets one day pass, and whatever the hub begins in it: what a training takes is the machine's time, not the world's.
    pub(super) fn live(&mut self, bed: &mut Bed, day: u32) -> Result<()> {
        for agent in &mut self.agents {
            agent.show_until((day as usize + 1) * HOURS)?;
        }
        let last = self.start + (i64::from(day) + 1) * DAY_MS - HOUR_MS;
        let stored = format!(
            "SELECT count(*) FROM sensors s JOIN devices d ON d.id = s.device WHERE d.labels->>'group' = '{NAME}'
             AND s.name = 'demand' AND EXISTS (SELECT FROM readings r WHERE r.sensor = s.id AND r.time = to_timestamp({}))",
            last / 1_000
        );
        let devices = self.agents.len() as u64;
        self.day = i64::from(day);
        self.wait(bed, "the day to be stored", PATIENCE, |bed| {
            Ok(bed.postgres.number(&stored)? == devices)
        })?;
        if bed.postgres.number(&busy(last))? == 0 {
            return Ok(());
        }
        // Where nothing comes of the look, the next day comes.
        let _ = self.wait(bed, "the hub to look", LOOK, |bed| {
            Ok(bed.postgres.number(&busy(last))? == 0)
        });
        self.settle(bed)?;
        if u64::from(day).is_multiple_of(10) {
            self.tell_all(bed)?;
        }
        Ok(())
    }

    /// Waits while something goes on that days do not bring forward: a training, and bundles on their way to devices.
    pub(super) fn settle(&mut self, bed: &mut Bed) -> Result<()> {
        let moving = format!(
            "SELECT (SELECT count(*) FROM jobs WHERE subject = '{NAME}' AND status IN ('queued', 'running'))
             + (SELECT count(*) FROM rollouts o JOIN deployments p ON p.rollout = o.id WHERE o.forecaster = '{NAME}'
                AND o.finished_at IS NULL AND p.state IN ('pending', 'downloading', 'verified') AND p.generation > 0)"
        );
        self.wait(bed, "training and downloads to end", PATIENCE, |bed| {
            Ok(bed.postgres.number(&moving)? == 0)
        })
    }

    fn wait(
        &mut self,
        bed: &mut Bed,
        what: &str,
        within: Duration,
        holds: impl Fn(&Bed) -> Result<bool>,
    ) -> Result<()> {
        wait_for(what, within, || {
            bed.check()?;
            for agent in &mut self.agents {
                agent.check()?;
            }
            Ok(holds(bed)?.then_some(()))
        })
    }

    /// Says every decision that was not told yet, but the daily ones to wait, and how rollouts stand.
    pub(super) fn tell_all(&mut self, bed: &Bed) -> Result<()> {
        let query = format!(
            "SELECT d.id, (extract(epoch FROM coalesce(d.data_time, to_timestamp({}))) * 1000)::bigint, d.decision,
                left(d.reason, 220) FROM decisions d WHERE d.forecaster = '{NAME}' AND d.id > {}
                AND d.decision NOT IN ('wait', 'cool_down', 'not_confirmed') ORDER BY d.id",
            (self.start + self.day * DAY_MS) / 1_000,
            self.told
        );
        bed.postgres.rows(&query, |row| {
            let mut fields = row.splitn(3, '\t');
            let mut number = || {
                fields
                    .next()
                    .and_then(|f| f.parse::<i64>().ok())
                    .context("a number")
            };
            let (id, time) = (number()?, number()?);
            let said = fields.next().unwrap_or_default().replace('\t', ": ");
            self.told = u64::try_from(id)?;
            println!("day {}: {said}", (time - self.start) / DAY_MS);
            Ok(())
        })?;
        Ok(())
    }
}

/// How much there is that the hub has to look at before the day is over: open signals that were not checked with the day's data,
/// rollouts and trainings.
fn busy(last: i64) -> String {
    format!(
        "SELECT (SELECT count(*) FROM rollouts WHERE forecaster = '{NAME}' AND finished_at IS NULL)
         + (SELECT count(*) FROM jobs WHERE subject = '{NAME}' AND status IN ('queued', 'running'))
         + (SELECT count(*) FROM (SELECT DISTINCT ON (device) raised, model_version FROM drift_signals
              WHERE kind = 'concept' AND forecaster = '{NAME}' ORDER BY device, id DESC) newest
            WHERE raised AND model_version = (SELECT version FROM champions WHERE forecaster = '{NAME}')
            AND NOT EXISTS (SELECT FROM decisions WHERE forecaster = '{NAME}' AND data_time >= to_timestamp({})))",
        last / 1_000
    )
}
