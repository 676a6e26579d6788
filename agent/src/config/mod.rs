//! The configuration file: owns its keys, defaults and errors; never opens what it names.

mod error;
mod latency;
mod listen;
mod sensor;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fieldcast_features::ForecasterSpec;
use fieldcast_wire::SensorName;
use serde::Deserialize;

pub use error::ConfigError;
pub use latency::LatencyConfig;
pub use sensor::SensorConfig;
pub use source::{HttpSource, ReplaySource, SourceConfig};

/// Everything `fieldcast-agent run` is told. Relative paths count from the file's own folder.
#[derive(Debug, Clone)]
pub struct Config {
    /// File it was read from.
    pub file: PathBuf,
    /// Folder of buffer, bundles and run-time facts.
    pub data_dir: PathBuf,
    /// Identity file; without one the agent runs unconnected.
    pub identity: Option<PathBuf>,
    /// Where readings come from.
    pub sources: Vec<SourceConfig>,
    /// What is normal for sensors, by name.
    pub sensors: BTreeMap<String, SensorConfig>,
    /// The local status page.
    pub status: StatusConfig,
    /// The buffer's limits.
    pub buffer: BufferConfig,
    /// Forecasters known before any bundle (cold start).
    pub forecasters: Vec<ForecasterSpec>,
    /// Forecasts a new model must make before it counts as healthy.
    pub probation: u32,
    /// How long a model may compute.
    pub latency: LatencyConfig,
}

/// The local status page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusConfig {
    /// Address and port; port 0 takes a free one, written to `agent.json` in the data folder.
    pub listen: String,
    /// Whether it is served at all.
    pub enabled: bool,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8788".into(),
            enabled: true,
        }
    }
}

/// Which sealed batches a full buffer gives up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullPolicy {
    /// The oldest: what is new matters most.
    #[default]
    DropOldest,
    /// The newest: what came first matters most.
    DropNewest,
}

/// The buffer's limits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BufferConfig {
    /// Largest size of the buffer's file, bytes.
    pub max_bytes: u64,
    /// Free disk that is left to others, bytes.
    pub reserve_bytes: u64,
    /// What a full buffer gives up.
    pub policy: FullPolicy,
    /// Acknowledged batches kept for a hub that was restored from a backup, bytes.
    pub tail_bytes: u64,
    /// Oldest age of unsealed records before they become a batch, milliseconds of process time.
    pub seal_after_ms: u64,
    /// The same while there is no connection to the hub.
    pub seal_after_unlinked_ms: u64,
    /// Records that make a batch at once.
    pub seal_records: u64,
    /// Readings of each sensor kept for the windows.
    pub recent_rows: u64,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            reserve_bytes: 64 << 20,
            policy: FullPolicy::DropOldest,
            tail_bytes: 32 << 20,
            seal_after_ms: 1_000,
            seal_after_unlinked_ms: 300_000,
            seal_records: 2_000,
            recent_rows: 20_000,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    data_dir: PathBuf,
    identity: Option<PathBuf>,
    #[serde(default)]
    source: Vec<toml::Spanned<source::Raw>>,
    #[serde(default)]
    sensors: BTreeMap<String, SensorConfig>,
    #[serde(default)]
    status: StatusConfig,
    #[serde(default)]
    buffer: BufferConfig,
    #[serde(default)]
    forecasters: Vec<PathBuf>,
    #[serde(default = "default_probation")]
    probation: u32,
    #[serde(default)]
    latency: LatencyConfig,
}

fn default_probation() -> u32 {
    5
}

impl Config {
    /// Reads the file and the forecaster definitions it names.
    ///
    /// # Errors
    /// Unreadable file, unknown or missing key, or a value that breaks its rule: file, line and what is allowed.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = error::read(file)?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let mut config = Self::parse(file, &text)?;
        let names: Raw = toml::from_str(&text).map_err(|e| error::toml(file, &text, &e))?;
        for path in names.forecasters {
            let spec = load_forecaster(&folder.join(path))?;
            if config.forecasters.iter().any(|f| f.name == spec.name) {
                let problem = format!(
                    "names forecaster `{}` twice; give each another name",
                    spec.name
                );
                return Err(error::value(file, &text, None, "forecasters", problem));
            }
            config.forecasters.push(spec);
        }
        Ok(config)
    }

    /// Everything but the forecaster files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|e| error::toml(file, text, &e))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut sources = Vec::with_capacity(raw.source.len());
        for (i, source) in raw.source.into_iter().enumerate() {
            let start = source.span().start;
            let checked: SourceConfig =
                source
                    .into_inner()
                    .check(folder)
                    .map_err(|(key, problem)| {
                        let problem = format!("in [[source]] number {}: {problem}", i + 1);
                        error::value(file, text, Some(start), key, problem)
                    })?;
            if sources
                .iter()
                .any(|s: &SourceConfig| s.same_input(&checked))
            {
                let problem = format!(
                    "in [[source]] number {}: reads the same columns of the same file as a source before it; remove one",
                    i + 1
                );
                return Err(error::value(file, text, Some(start), "path", problem));
            }
            sources.push(checked);
        }
        for (name, sensor) in &raw.sensors {
            SensorName::new(name.as_str()).map_err(|e| {
                let tables = text.find("[sensors");
                error::value(
                    file,
                    text,
                    tables,
                    "sensors",
                    format!("has a table whose {e}"),
                )
            })?;
            sensor
                .check(name)
                .map_err(|(key, problem)| error::value(file, text, None, key, problem))?;
        }
        if raw.status.enabled {
            listen::check(&raw.status.listen).map_err(|problem| {
                let table = text.find("[status]");
                error::value(file, text, table, "listen", problem)
            })?;
        }
        if raw.probation == 0 {
            let problem = "must be 1 or more forecasts".to_owned();
            return Err(error::value(file, text, None, "probation", problem));
        }
        if raw.latency.budget_ms == Some(0) {
            let problem = "must be 1 or more milliseconds; leave it out for a tenth of the period";
            let table = text.find("[latency]");
            return Err(error::value(
                file,
                text,
                table,
                "budget_ms",
                problem.to_owned(),
            ));
        }
        Ok(Self {
            file: file.to_owned(),
            data_dir: folder.join(raw.data_dir),
            identity: raw.identity.map(|p| folder.join(p)),
            sources,
            sensors: raw.sensors,
            status: raw.status,
            buffer: raw.buffer,
            forecasters: Vec::new(),
            probation: raw.probation,
            latency: raw.latency,
        })
    }
}

/// Reads one forecaster definition.
///
/// # Errors
/// Unreadable, not TOML, unknown or missing key, or a field that breaks its rule.
pub fn load_forecaster(file: &Path) -> Result<ForecasterSpec, ConfigError> {
    let text = error::read(file)?;
    let parsed = toml::from_str::<toml::Table>(&text).and_then(|mut table| {
        // When the hub retrains, and how it rolls out, is in the same file, and none of a device's business.
        let others = ["retraining", "rollout"].map(|key| table.remove(key).is_some());
        if others.contains(&true) {
            table.try_into()
        } else {
            toml::from_str(&text)
        }
    });
    let spec: ForecasterSpec = parsed.map_err(|e| error::toml(file, &text, &e))?;
    spec.validate().map_err(|e| {
        error::value(
            file,
            &text,
            None,
            e.field,
            format!("of forecaster `{}` {}", e.forecaster, e.problem),
        )
    })?;
    Ok(spec)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
