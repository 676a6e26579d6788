//! Real agents of the testbed: owns their folders, their processes and the readings that they are shown; never judges.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::bed::{Bed, text};
use crate::scenario::{AgentOptions, AgentProcess, Feed};

/// What a device is, and what its agent knows.
pub(super) struct Device<'a> {
    pub(super) name: &'a str,
    /// `key=value`.
    pub(super) label: Option<&'a str>,
    /// Forecasters whose definitions the bed has.
    pub(super) forecasters: &'a [&'a str],
    /// A CSV file of readings.
    pub(super) series: &'a Path,
    /// So many of its rows are imported, and not shown to the agent.
    pub(super) history: usize,
    /// Added to its configuration.
    pub(super) settings: &'a str,
}

/// A device with an agent of its own that follows a growing file.
#[derive(Debug)]
pub(super) struct Agent {
    options: AgentOptions,
    /// Without the settings that were added.
    config: String,
    process: Option<AgentProcess>,
    /// The mark behind which it was killed last.
    found_at_work: Option<String>,
    feed: Feed,
    shown: usize,
}

impl Agent {
    /// Adds the device and starts its agent.
    pub(super) fn start(bed: &Bed, device: &Device<'_>) -> Result<Self> {
        let dir = bed.dir.join(device.name);
        std::fs::create_dir_all(&dir)?;
        let mut feed = Feed::new(device.series, &dir.join("live.csv"))?;
        let identity = dir.join("identity.toml");
        let mut add = vec!["device", "add", device.name, "--out", text(&identity)?];
        add.extend(
            device
                .label
                .into_iter()
                .flat_map(|label| ["--label", label]),
        );
        bed.hub.cli(&add)?;
        if device.history > 0 {
            let history = dir.join("history.csv");
            feed.split_history(device.history, &history)?;
            let import = ["import", "csv", text(&history)?, "--device", device.name];
            bed.hub.cli(&import)?;
        }
        let definition = |name: &&str| bed.dir.join(format!("{name}.toml"));
        let definitions: Vec<_> = device.forecasters.iter().map(definition).collect();
        let config = format!(
            "data_dir = \"{data}\"\nidentity = \"{identity}\"\nforecasters = {definitions:?}\n\
             [[source]]\ntype = \"replay\"\npath = \"{csv}\"\ntime_column = \"time\"\nspeed = 0.0\nfollow = true\n\
             [status]\nlisten = \"127.0.0.1:0\"\n[buffer]\nseal_after_ms = 100\n",
            data = dir.join("data").display(),
            identity = identity.display(),
            csv = feed.path().display(),
        );
        let mut agent = Self {
            options: AgentOptions {
                dir,
                config: format!("{config}{}", device.settings),
            },
            config,
            process: None,
            found_at_work: None,
            feed,
            shown: device.history,
        };
        agent.revive()?;
        Ok(agent)
    }

    /// Starts it again, where it does not run.
    pub(super) fn revive(&mut self) -> Result<()> {
        if self.process.is_none() {
            self.process = Some(AgentProcess::start(self.options.clone())?);
        }
        Ok(())
    }

    /// Goes on with other settings than were added before.
    pub(super) fn set(&mut self, settings: &str) -> Result<()> {
        self.kill()?;
        self.options.config = format!("{}{settings}", self.config);
        self.revive()
    }

    /// As a power cut would.
    pub(super) fn kill(&mut self) -> Result<()> {
        let killed = self.process.take().map(AgentProcess::kill);
        killed.transpose().map(drop)
    }

    /// Kills it where a bundle's (digest) model makes a forecast right now, by the mark that the agent leaves, and starts it again.
    pub(super) fn kill_at_work(&mut self, sha: &str) -> Result<()> {
        let Ok(file) = std::fs::read(self.options.dir.join("data/witness")) else {
            return Ok(());
        };
        let mark = String::from_utf8_lossy(file.get(..128).unwrap_or_default()).into_owned();
        // What a killed process left stands there until the next forecast.
        if !mark.starts_with(sha) || self.found_at_work.as_ref() == Some(&mark) {
            return Ok(());
        }
        self.found_at_work = Some(mark);
        self.kill()?;
        self.revive()
    }

    /// Fails where it has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .map_or(Ok(()), AgentProcess::check_alive)
    }

    /// Shows every row before this one.
    pub(super) fn show_until(&mut self, row: usize) -> Result<()> {
        self.shown = row;
        self.feed.show_until(row)
    }

    /// Shows so many rows more; there must be some left.
    pub(super) fn show(&mut self, more: usize) -> Result<()> {
        let row = self.shown + more;
        let all = self.feed.rows().len();
        (row <= all).then_some(()).with_context(|| {
            format!("all {all} rows have been shown; the figure takes longer than its made years")
        })?;
        self.show_until(row)
    }
}
