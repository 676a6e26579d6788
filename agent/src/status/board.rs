//! The facts that the status page shows: owns the latest of each; never computes one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

use crate::pipeline::model::Influence;

/// A source, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// `replay` or `http`.
    pub kind: String,
    /// `running`, `ended`, `failed`.
    pub state: String,
    /// Rows read (replay).
    pub rows: u64,
    /// Readings stored.
    pub stored: u64,
    /// Readings refused.
    pub refused: u64,
    /// Rows that were not well formed.
    pub malformed: u64,
    /// The newest of them.
    pub last_malformed: Option<String>,
    /// Data time of the newest row.
    pub last_time: Option<Millis>,
    /// What is wrong at present.
    pub problem: Option<String>,
}

impl SourceFacts {
    /// A source that has just begun.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self {
            kind: kind.into(),
            state: "running".into(),
            ..Self::default()
        }
    }
}

/// A forecaster, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ForecasterFacts {
    /// Digest of the bundle that made the last forecast; empty for a baseline.
    pub running: String,
    /// Who made the last forecast.
    pub made_by: String,
    /// Model version of the running bundle.
    pub model_version: u64,
    /// What computes the running bundle's forecasts; empty for a baseline.
    #[serde(default)]
    pub engine: String,
    /// Where the newest order stands.
    pub phase: String,
    /// Why, where it did not go well.
    pub reason: String,
    /// Generation of that order.
    pub generation: u64,
    /// The last bundle that proved itself.
    pub last_good: String,
    /// The bundle that watches.
    pub shadow: String,
    /// Forecasts made.
    pub forecasts: u64,
    /// Processor time that 95 of 100 recent forecasts of the running bundle stay within, microseconds.
    #[serde(default)]
    pub inference_us: Option<u32>,
    /// The same of the bundle that watches.
    #[serde(default)]
    pub shadow_us: Option<u32>,
    /// Most that a forecast may take, microseconds.
    #[serde(default)]
    pub budget_us: u32,
    /// Whether concept drift is signalled.
    pub drift: bool,
    /// Sensors whose values differ from what the running model was trained on.
    #[serde(default)]
    pub input_drift: Vec<String>,
    /// The last forecast.
    pub last: Option<LastForecast>,
    /// Which inputs and which lags made a recent forecast of the running bundle: inputs, steps, calendar, each by falling size.
    #[serde(default)]
    pub influences: Vec<Influence>,
}

/// A forecast for people to look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LastForecast {
    /// Data time it was made at.
    pub origin: Millis,
    /// Distance of its steps.
    pub period: Millis,
    /// Its mean.
    pub mean: Vec<f64>,
}

/// The buffer and the way to the hub, as they are now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BufferFacts {
    /// Records that the hub has not acknowledged.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records given up since the buffer was made.
    #[serde(default)]
    pub dropped: u64,
    /// Records that the hub refused.
    #[serde(default)]
    pub rejected: u64,
    /// What is wrong at present.
    pub problem: Option<String>,
}

/// Everything at one instant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the agent.
    pub version: String,
    /// Device name; empty without an identity.
    pub device: String,
    /// Whether the hub's broker is connected; none without an identity.
    pub connected: Option<bool>,
    /// Why the last connection ended, or why there is none.
    #[serde(default)]
    pub link_error: Option<String>,
    /// When the hub last did not take a message of this device, milliseconds UTC, and why.
    #[serde(default)]
    pub not_taken: Option<(i64, String)>,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The buffer.
    pub buffer: BufferFacts,
    /// Sources by name.
    pub sources: BTreeMap<String, SourceFacts>,
    /// Forecasters by name.
    pub forecasters: BTreeMap<String, ForecasterFacts>,
    /// Faults of sensors at present.
    pub faults: BTreeMap<String, Vec<String>>,
    /// Readings committed since the start.
    pub readings: u64,
    /// Readings refused since the start.
    pub refused: u64,
    /// Drift signals since the start.
    pub drift_signals: u64,
    /// Parts that do not work (a port in use, say) and what to do.
    pub problems: BTreeMap<String, String>,
}

/// Shared by all parts; each writes its own facts. Held only for a copy, never over I/O or an await.
#[derive(Debug, Default)]
pub struct Board {
    facts: Mutex<Facts>,
}

impl Board {
    /// All facts.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Changes facts.
    pub fn update(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock());
    }

    /// Sets a source's facts.
    pub fn source(&self, name: &str, facts: SourceFacts) {
        self.update(|f| {
            f.sources.insert(name.to_owned(), facts);
        });
    }

    /// Counts what a push brought.
    pub fn pushed(&self, name: &str, stored: u64, refused: u64) {
        self.update(|f| {
            let source = f.sources.entry(name.to_owned()).or_default();
            source.stored += stored;
            source.refused += refused;
        });
    }

    /// Names a part that does not work, or that it works again.
    pub fn problem(&self, part: &str, problem: Option<String>) {
        self.update(|f| match problem {
            Some(problem) => {
                f.problems.insert(part.to_owned(), problem);
            }
            None => {
                f.problems.remove(part);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A panic elsewhere leaves facts that are still worth showing.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
