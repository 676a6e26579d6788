//! A small fleet for the end-to-end test: two devices whose world changes, one whose world does not.

mod compare;
mod series;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fieldcast_tests::scenario::{
    AgentOptions, AgentProcess, Broker, Feed, HubOptions, HubProcess, wait_for,
};
use serde_json::Value;

pub const HOURS_A_DAY: usize = 24;
pub const SENSORS: [&str; 3] = ["temperature", "humidity", "demand"];
const PATIENCE: Duration = Duration::from_secs(240);

/// Device name -> forecaster that serves it.
const DEVICES: [(&str, &str); 3] = [
    ("shop-1", "demand"),
    ("shop-2", "demand"),
    ("ctl-1", "control"),
];

pub struct Fleet {
    dir: tempfile::TempDir,
    hub: Option<HubProcess>,
    broker: Broker,
    agents: BTreeMap<&'static str, AgentProcess>,
    options: BTreeMap<&'static str, AgentOptions>,
    feeds: BTreeMap<&'static str, Feed>,
    shown: usize,
}

impl Fleet {
    /// Hub, history imported, agents following their growing files.
    pub fn start(
        name: &str,
        broker: Broker,
        history_days: usize,
        changes: &[usize],
        days: usize,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("fieldcast-{name}-"))
            .tempdir()?;
        // A private PostgreSQL of root runs as its own user, who must reach its folder.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let hub = HubProcess::start(HubOptions {
            data_dir: dir.path().join("hub"),
            broker: broker.hub_url(),
            site: broker.site(),
            database_url: None,
            ..HubOptions::default()
        })?;
        let mut fleet = Self {
            dir,
            hub: Some(hub),
            broker,
            agents: BTreeMap::new(),
            options: BTreeMap::new(),
            feeds: BTreeMap::new(),
            shown: 0,
        };
        fleet.simulate("changed", 2, 11, changes, days)?;
        fleet.simulate("control", 1, 23, &[], days)?;
        let sources = [
            ("shop-1", "changed", 0),
            ("shop-2", "changed", 1),
            ("ctl-1", "control", 0),
        ];
        for forecaster in ["demand", "control"] {
            let path = fleet.path(&format!("{forecaster}.toml"));
            std::fs::write(&path, spec(forecaster))?;
            fleet.hub().cli(&["forecaster", "apply", text(&path)?])?;
        }
        for (device, folder, index) in sources {
            fleet.add_device(device)?;
            let source = series::files(&fleet.path(folder))?
                .into_iter()
                .nth(index)
                .context("a simulated file")?;
            let mut feed = Feed::new(&source, &fleet.path(&format!("{device}.csv")))?;
            let history = fleet.path(&format!("{device}-history.csv"));
            feed.split_history(history_days * HOURS_A_DAY, &history)?;
            fleet
                .hub()
                .cli(&["import", "csv", text(&history)?, "--device", device])?;
            fleet.feeds.insert(device, feed);
            fleet.start_agent(device)?;
        }
        Ok(fleet)
    }

    pub fn hub(&self) -> &HubProcess {
        self.hub.as_ref().expect("the hub runs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn simulate(
        &self,
        folder: &str,
        devices: usize,
        seed: u32,
        changes: &[usize],
        days: usize,
    ) -> Result<()> {
        let out = self.path(folder);
        let (devices, seed, days) = (devices.to_string(), seed.to_string(), days.to_string());
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let mut args = vec![
            "simulate",
            "--out",
            text(&out)?,
            "--devices",
            &devices,
            "--seed",
            &seed,
            "--days",
            &days,
        ];
        for change in &changes {
            args.extend(["--change-day", change]);
        }
        self.hub().cli(&args)?;
        Ok(())
    }

    fn add_device(&mut self, device: &'static str) -> Result<()> {
        let forecaster = forecaster_of(device);
        let dir = self.path(device);
        std::fs::create_dir_all(&dir)?;
        let identity = dir.join("identity.toml");
        let label = format!("group={forecaster}");
        self.hub().cli(&[
            "device",
            "add",
            device,
            "--label",
            &label,
            "--out",
            text(&identity)?,
        ])?;
        self.broker.readdress(&identity)?;
        let config = format!(
            "data_dir = \"{data}\"\nidentity = \"{identity}\"\nforecasters = [\"{spec}\"]\n\
             [[source]]\ntype = \"replay\"\npath = \"{csv}\"\ntime_column = \"time\"\nspeed = 0.0\nfollow = true\n\
             [source.columns]\ntemperature = \"temperature\"\nhumidity = \"humidity\"\ndemand = \"demand\"\n\
             [status]\nlisten = \"127.0.0.1:0\"\n",
            data = dir.join("data").display(),
            identity = identity.display(),
            spec = self.path(&format!("{forecaster}.toml")).display(),
            csv = self.path(&format!("{device}.csv")).display(),
        );
        self.options.insert(device, AgentOptions { dir, config });
        Ok(())
    }

    fn start_agent(&mut self, device: &'static str) -> Result<()> {
        let options = self
            .options
            .get(device)
            .context("the device was added")?
            .clone();
        self.agents.insert(device, AgentProcess::start(options)?);
        Ok(())
    }

    /// Trains and waits; the version of the new champion.
    pub fn train_first(&self, forecaster: &str) -> Result<u64> {
        self.hub().cli(&["train", forecaster])?;
        self.champion(forecaster)?
            .with_context(|| format!("no champion of {forecaster} after training"))
    }

    fn champion(&self, forecaster: &str) -> Result<Option<u64>> {
        let page = self.hub().get("/v1/forecasters")?;
        let found = items(&page)?
            .iter()
            .find(|f| f["name"] == forecaster)
            .cloned()
            .unwrap_or_default();
        Ok(found["champion"].as_u64())
    }

    pub fn show_until(&mut self, day: usize) -> Result<()> {
        self.show_hours(day * HOURS_A_DAY)
    }

    fn show_hours(&mut self, hour: usize) -> Result<()> {
        for feed in self.feeds.values_mut() {
            feed.show_until(hour)?;
        }
        self.shown = self.shown.max(hour);
        Ok(())
    }

    /// Every device of the forecaster reports that version from its inference path.
    pub fn wait_running(&mut self, forecaster: &str, version: u64) -> Result<()> {
        let what = format!("version {version} of {forecaster} to run on its devices");
        wait_for(&what, PATIENCE, || {
            Ok(self.runs(forecaster, version)?.then_some(()))
        })
        .with_context(|| self.logs())
    }

    /// The same, while time goes on a day at a time until `until`: a model proves itself by forecasts, stage after stage.
    pub fn live_until_running(
        &mut self,
        forecaster: &str,
        version: u64,
        until: usize,
    ) -> Result<()> {
        while self.day() < until && !self.runs(forecaster, version)? {
            let day = self.day() + 1;
            self.show_until(day)?;
            self.wait_stored(day)?;
            // The rollout looks once a second.
            let soon = Duration::from_secs(2);
            let _ = wait_for("a stage to end", soon, || {
                Ok(self.runs(forecaster, version)?.then_some(()))
            });
        }
        self.wait_running(forecaster, version)
    }

    fn runs(&mut self, forecaster: &str, version: u64) -> Result<bool> {
        for agent in self.agents.values_mut() {
            agent.check_alive()?;
        }
        let hub = self.hub.as_ref().context("the hub runs")?;
        let bundle = bundle_of(hub, forecaster, version)?;
        let page = hub.get("/v1/devices?limit=100")?;
        let mut all = true;
        for (device, _) in DEVICES.iter().filter(|(_, f)| *f == forecaster) {
            let row = items(&page)?
                .iter()
                .find(|d| d["id"] == *device)
                .cloned()
                .unwrap_or_default();
            let mut forecasters = row["forecasters"].as_array().into_iter().flatten();
            all &= forecasters.any(|f| {
                f["forecaster"] == forecaster
                    && f["running"] == bundle.as_str()
                    && f["phase"] == "healthy"
            });
        }
        Ok(all)
    }

    /// Lets time go on, two days at a time, until there is a champion above `old`; its version. A training or rollout
    /// under way holds the days up: what it takes is the machine's time, not the world's.
    pub fn live_until_champion_after(
        &mut self,
        old: u64,
        forecaster: &str,
        until: usize,
    ) -> Result<u64> {
        loop {
            self.wait_no_training(forecaster)?;
            if let Some(found) = self.champion(forecaster)?.filter(|v| *v > old) {
                return Ok(found);
            }
            let day = self.day() + 2;
            ensure!(
                day <= until,
                "no champion of {forecaster} after version {old} until day {until}; decisions: {:#?}\n{}",
                self.decisions(forecaster)?,
                self.logs()
            );
            self.show_until(day)?;
            self.wait_stored(day)?;
        }
    }

    /// The newest day shown.
    pub fn day(&self) -> usize {
        self.shown / HOURS_A_DAY
    }

    fn wait_no_training(&self, forecaster: &str) -> Result<()> {
        wait_for("the training to end", PATIENCE, || {
            let page = self
                .hub()
                .get(&format!("/v1/training-runs?forecaster={forecaster}"))?;
            let live = |r: &Value| matches!(r["status"].as_str(), Some("queued" | "running"));
            Ok((!items(&page)?.iter().any(live)).then_some(()))
        })
        .with_context(|| self.logs())
    }

    /// Every decision but the daily ones to wait, oldest first.
    fn decisions(&self, forecaster: &str) -> Result<Vec<String>> {
        let all = all_items(
            self.hub(),
            &format!("/v1/decisions?forecaster={forecaster}"),
        )?;
        let told = all
            .iter()
            .rev()
            .filter(|d| d["decision"] != "wait" && d["decision"] != "cool_down");
        Ok(told
            .map(|d| format!("{} {}: {}", d["data_time"], d["decision"], d["reason"]))
            .collect())
    }

    pub fn succeeded_rollouts(&self, forecaster: &str) -> Result<usize> {
        let all = all_items(self.hub(), &format!("/v1/rollouts?forecaster={forecaster}"))?;
        Ok(all.iter().filter(|r| r["status"] == "succeeded").count())
    }

    /// Confirmed reports: the version judged and the day of the onset.
    pub fn drift_reports(&self, forecaster: &str) -> Result<Vec<(u64, i64)>> {
        let start = millis(&series::rows(&self.feeds[DEVICES[0].0])?[0].0)?;
        let page = self.hub().get(&format!(
            "/v1/drift-reports?forecaster={forecaster}&confirmed=true&limit=1000"
        ))?;
        items(&page)?
            .iter()
            .map(|r| {
                let onset = millis(r["onset"].as_str().context("an onset")?)?;
                let version = r["model_version"].as_u64().context("a version")?;
                Ok((version, (onset - start) / 86_400_000))
            })
            .collect()
    }

    pub fn wait_stored(&mut self, day: usize) -> Result<()> {
        self.wait_stored_within(day, PATIENCE)
    }

    /// The last shown reading of every device is in PostgreSQL.
    pub fn wait_stored_within(&mut self, day: usize, within: Duration) -> Result<()> {
        for (device, _) in DEVICES {
            let last = series::rows(&self.feeds[device])?[day * HOURS_A_DAY - 1]
                .0
                .clone();
            wait_for(&format!("{device} to deliver {last}"), within, || {
                let page = self.hub().get(&format!(
                    "/v1/readings?device={device}&sensor=demand&from={last}"
                ))?;
                Ok((!items(&page)?.is_empty()).then_some(()))
            })
            .with_context(|| self.logs())?;
        }
        Ok(())
    }

    pub fn kill_agents(&mut self) -> Result<()> {
        for (device, _) in DEVICES {
            self.agents
                .remove(device)
                .context("the agent runs")?
                .kill()?;
            self.start_agent(device)?;
        }
        Ok(())
    }

    pub fn kill_hub(&mut self) -> Result<()> {
        let options = self.hub.take().context("the hub runs")?.kill()?;
        self.hub = Some(HubProcess::start(options)?);
        Ok(())
    }

    pub fn stop(mut self) -> Result<()> {
        while let Some((_, agent)) = self.agents.pop_first() {
            agent.stop()?;
        }
        self.hub.take().context("the hub runs")?.stop().map(drop)
    }

    fn logs(&self) -> String {
        let agents: Vec<String> = self
            .agents
            .iter()
            .map(|(name, a)| format!("log of {name}:\n{}", a.log_tail()))
            .collect();
        format!(
            "log of the hub:\n{}\n{}",
            self.hub().log_tail(),
            agents.join("\n")
        )
    }
}

fn forecaster_of(device: &str) -> &'static str {
    DEVICES
        .iter()
        .find(|(d, _)| *d == device)
        .map_or("demand", |(_, f)| f)
}

fn spec(forecaster: &str) -> String {
    format!(
        "name = \"{forecaster}\"\ntarget = \"demand\"\ninputs = [\"temperature\", \"humidity\", \"demand\"]\n\
         period = \"1h\"\nlookback = 48\nhorizon = 24\n[selector.labels]\ngroup = \"{forecaster}\"\n\
         [retraining]\ngrowth = 0\n\
         [rollout]\nstages = [50]\nsoak = \"0s\"\n"
    )
}

fn bundle_of(hub: &HubProcess, forecaster: &str, version: u64) -> Result<String> {
    let page = hub.get(&format!("/v1/models?forecaster={forecaster}&limit=100"))?;
    let row = items(&page)?
        .iter()
        .find(|m| m["version"].as_u64() == Some(version))
        .cloned();
    Ok(row.context("the version is listed")?["bundle"]
        .as_str()
        .context("a bundle hash")?
        .to_owned())
}

fn millis(time: &str) -> Result<i64> {
    let parsed = chrono::DateTime::parse_from_rfc3339(time);
    Ok(parsed
        .with_context(|| format!("{time} is a time"))?
        .timestamp_millis())
}

pub fn items(page: &Value) -> Result<&Vec<Value>> {
    page["items"]
        .as_array()
        .with_context(|| format!("a page without items: {page}"))
}

pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// Pages of `/v1/...` until the last.
pub fn all_items(hub: &HubProcess, path: &str) -> Result<Vec<Value>> {
    let mut out = Vec::new();
    let mut cursor = None::<String>;
    loop {
        let at = cursor.map(|c| format!("&cursor={c}")).unwrap_or_default();
        let page = hub.get(&format!("{path}&limit=1000{at}"))?;
        out.extend(items(&page)?.iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(out),
        }
        ensure!(out.len() < 10_000_000, "paging does not end");
    }
}
