//! The actors: owns how hub and agents are called and configured, and what is read back while they run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::DemoArgs;
use super::http::Client;
use super::process::Group;
use super::progress::Progress;
use super::series::{Series, divide};
use super::story::{News, Story};
use crate::command::output;

/// Days generated.
const DAYS: u32 = 730;
/// Days from which weather and demand are related differently.
const CHANGES: [u32; 2] = [500, 620];

/// The forecaster where the data are generated.
const DEFINITION: &str = "name = \"demand\"\ntarget = \"demand\"\ninputs = [\"temperature\", \"humidity\", \"demand\"]\n\
                          period = \"1h\"\nlookback = 48\nhorizon = 24\n";

/// How new models reach the devices where the definition does not say it: as usual, without the hours of waiting in between.
const ROLLOUT: &str = "\n[rollout]\nstages = [25]\nsoak = \"0s\"\n";

/// What the demonstration needs to know of the forecaster.
#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) period: String,
}

/// Hub, devices and their data.
#[derive(Debug)]
pub(crate) struct Stage {
    programs: PathBuf,
    dir: PathBuf,
    args: DemoArgs,
    definition_file: PathBuf,
    pub(crate) definition: Definition,
    client: Option<Client>,
    series: Vec<Series>,
}

impl Stage {
    pub(crate) fn new(programs: &Path, dir: &Path, args: &DemoArgs) -> Result<Self> {
        let text = match &args.forecaster {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
            }
            None => DEFINITION.to_owned(),
        };
        let says = toml::from_str::<toml::Table>(&text).is_ok_and(|t| t.contains_key("rollout"));
        let text = if says { text } else { text + ROLLOUT };
        let definition: Definition =
            toml::from_str(&text).context("read the forecaster's definition")?;
        let definition_file = dir.join("forecaster.toml");
        std::fs::write(&definition_file, text)
            .with_context(|| format!("write {}", definition_file.display()))?;
        Ok(Self {
            programs: programs.to_path_buf(),
            dir: dir.to_path_buf(),
            args: args.clone(),
            definition_file,
            definition,
            client: None,
            series: Vec::new(),
        })
    }

    pub(crate) fn client(&self) -> Result<&Client> {
        self.client.as_ref().context("the hub was started")
    }

    pub(crate) fn devices(&self) -> &[Series] {
        &self.series
    }

    fn hub_command(&self) -> Command {
        let mut command = Command::new(self.programs.join("fieldcast-hub"));
        // A database that the environment names is not the demonstration's to fill.
        command
            .env_remove("DATABASE_URL")
            .arg("--data-dir")
            .arg(self.dir.join("hub"));
        command
    }

    /// Runs a command of the hub's command line.
    pub(crate) fn hub(&self, args: &[&str]) -> Result<String> {
        output(self.hub_command().args(args))
    }

    /// Starts the hub on free ports; its own description file names them.
    pub(crate) fn start_hub(&mut self, group: &mut Group) -> Result<()> {
        let described = self.dir.join("hub/serve.json");
        group.start(
            "hub",
            self.hub_command().args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--broker-listen",
                "127.0.0.1:0",
            ]),
        )?;
        let client = group.wait_for("the hub to be ready", Duration::from_secs(90), || {
            let Ok(text) = std::fs::read_to_string(&described) else {
                return Ok(None);
            };
            // Half-written is not yet written.
            let Ok(json) = serde_json::from_str::<Value>(&text) else {
                return Ok(None);
            };
            let client = Client::new(
                json["rest"]
                    .as_str()
                    .context("serve.json names no `rest`")?,
            );
            Ok((client.status("/readyz")?.0 == 200).then_some(client))
        })?;
        self.client = Some(client);
        Ok(())
    }

    /// Generates (or takes) the data and divides it into history and replay.
    pub(crate) fn prepare_data(&mut self) -> Result<()> {
        let mut sources = Vec::new();
        if let Some(csv) = &self.args.csv {
            sources.push(("device-1".to_owned(), csv.clone()));
        } else {
            let out = self.dir.join("generated");
            let (days, changes) = (DAYS.to_string(), CHANGES.map(|day| day.to_string()));
            let mut args = vec![
                "simulate",
                "--out",
                utf8(&out)?,
                "--devices",
                "3",
                "--seed",
                "7",
                "--days",
                &days,
            ];
            if !self.args.control {
                args.extend(changes.iter().flat_map(|day| ["--change-day", day]));
            }
            self.hub(&args)?;
            let mut files: Vec<PathBuf> = std::fs::read_dir(&out)?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<_>>()?;
            files.retain(|path| path.extension().is_some_and(|e| e == "csv"));
            files.sort();
            ensure!(
                !files.is_empty(),
                "`fieldcast-hub simulate` wrote no CSV into {}",
                out.display()
            );
            sources.extend(
                files
                    .into_iter()
                    .enumerate()
                    .map(|(i, file)| (format!("device-{}", i + 1), file)),
            );
        }
        for (device, source) in sources {
            let series = divide(
                &source,
                &device,
                self.args.history,
                &self.args.time_columns,
                &self.dir,
            )?;
            self.series.push(series);
        }
        Ok(())
    }

    /// What a reader should know of the data.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(series) = self.series.first() {
            lines.push(format!(
                "{} series of {} rows; {} are replayed, {} to {}",
                self.series.len(),
                series.rows,
                series.replayed,
                series.first,
                series.last
            ));
        }
        lines.push(match (&self.args.csv, self.args.control) {
            (Some(_), _) => "real data: whatever drift there is, is its own".into(),
            (None, true) => "control: the relation of weather and demand never changes".into(),
            (None, false) => format!(
                "weather and demand are related differently from day {} and day {}",
                CHANGES[0], CHANGES[1]
            ),
        });
        lines
    }

    /// Forecaster, devices with their identities, history.
    pub(crate) fn import(&self) -> Result<()> {
        self.hub(&["forecaster", "apply", utf8(&self.definition_file)?])?;
        for series in &self.series {
            let identity = self.dir.join(format!("{}-identity.toml", series.device));
            self.hub(&["device", "add", &series.device, "--out", utf8(&identity)?])?;
            let mut args = vec![
                "import",
                "csv",
                utf8(&series.history)?,
                "--device",
                &series.device,
            ];
            for column in self
                .args
                .time_columns
                .iter()
                .filter(|_| self.args.csv.is_some())
            {
                args.extend(["--time-column", column]);
            }
            // Only what the forecaster reads: other columns of a file are none of its business, nor are their faults.
            let columns: Vec<String> = self.channels().iter().map(|c| format!("{c}={c}")).collect();
            args.extend(columns.iter().flat_map(|c| ["--column", c.as_str()]));
            self.hub(&args)?;
        }
        Ok(())
    }

    /// The version that serves now.
    pub(crate) fn champion(&self) -> Result<Option<u64>> {
        let page = self.client()?.get("/v1/forecasters")?;
        let all = page["items"]
            .as_array()
            .context("/v1/forecasters answers a page")?;
        Ok(all
            .iter()
            .find(|f| f["name"] == self.definition.name.as_str())
            .and_then(|f| f["champion"].as_u64()))
    }

    /// One process a device, replaying its series.
    pub(crate) fn start_agents(&self, group: &mut Group) -> Result<()> {
        for series in &self.series {
            let config = self.dir.join(format!("{}.toml", series.device));
            std::fs::write(&config, self.agent_config(series)?)
                .with_context(|| format!("write {}", config.display()))?;
            let mut command = Command::new(self.programs.join("fieldcast-agent"));
            group.start(
                &series.device,
                command.arg("run").arg("--config").arg(&config),
            )?;
        }
        Ok(())
    }

    /// The forecaster's inputs and its target.
    fn channels(&self) -> BTreeSet<&str> {
        let mut channels: BTreeSet<&str> =
            self.definition.inputs.iter().map(String::as_str).collect();
        channels.insert(&self.definition.target);
        channels
    }

    fn agent_config(&self, series: &Series) -> Result<String> {
        let seconds =
            |time: &str| chrono::DateTime::parse_from_rfc3339(time).map(|t| t.timestamp());
        let span = seconds(&series.last)? - seconds(&series.first)?;
        #[allow(clippy::cast_precision_loss, reason = "seconds of some years")]
        let speed = (span as f64 / self.args.replay_seconds).max(1.0);
        let columns: Vec<String> = self
            .channels()
            .iter()
            .map(|c| format!("{c} = \"{c}\""))
            .collect();
        let times: Vec<String> = self
            .args
            .time_columns
            .iter()
            .map(|c| format!("\"{c}\""))
            .collect();
        Ok(format!(
            "data_dir = \"{device}-data\"\nidentity = \"{device}-identity.toml\"\nforecasters = [\"forecaster.toml\"]\n\
             [[source]]\ntype = \"replay\"\npath = \"{rest}\"\ntime_columns = [{times}]\nspeed = {speed:.1}\nfollow = true\n\
             [source.columns]\n{columns}\n[status]\nlisten = \"127.0.0.1:0\"\n",
            device = series.device,
            rest = series.rest.display(),
            times = times.join(", "),
            columns = columns.join("\n"),
        ))
    }

    /// Tells what happens until every device has delivered its last reading and no training is under way.
    pub(crate) fn watch(
        &self,
        group: &mut Group,
        progress: &mut Progress,
        expected: Duration,
        patience: Duration,
    ) -> Result<()> {
        let start = Instant::now();
        let mut story = Story::default();
        progress.begin();
        loop {
            group.check()?;
            let news = self.news()?;
            for line in story.tell(&news) {
                progress.say(&line);
            }
            let share = start.elapsed().as_secs_f64() / expected.as_secs_f64();
            progress.show(share.min(0.99), &news.state());
            if share >= 1.0 && !news.is_training() && self.all_delivered()? {
                progress.end();
                return Ok(());
            }
            if start.elapsed() > expected + patience {
                bail!(
                    "the replay did not reach the hub within {} s; the logs are in {}",
                    (expected + patience).as_secs(),
                    self.dir.display()
                );
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn news(&self) -> Result<News> {
        let client = self.client()?;
        let name = &self.definition.name;
        let list = |what: &str| client.items(&format!("/v1/{what}?forecaster={name}"));
        Ok(News {
            decisions: list("decisions")?,
            runs: list("training-runs")?,
            rollouts: list("rollouts")?,
            champion: self.champion()?,
        })
    }

    fn all_delivered(&self) -> Result<bool> {
        for series in &self.series {
            let page = self.client()?.get(&format!(
                "/v1/readings?device={}&sensor={}&from={}",
                series.device, self.definition.target, series.last
            ))?;
            if page["items"].as_array().is_none_or(Vec::is_empty) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| {
        format!(
            "{} is not UTF-8: choose another target directory",
            path.display()
        )
    })
}
