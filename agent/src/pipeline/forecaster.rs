//! One forecaster's stream: owns rows, waiting forecasts and residuals; a pure step from readings to records.

use fieldcast_baseline::ColdStart;
use fieldcast_features::resample::Resampler;
use fieldcast_features::window::WindowBuilder;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_wire::{RecordBody, Sha256};
use serde::{Deserialize, Serialize};

use super::drift::ErrorWatch;
use super::inputs::InputWatch;
use super::intervals::Intervals;
use super::jumps::Jumps;
use super::model::{Influence, Slot};
use super::naive_bound::NaiveBound;
use super::paired::{Blocks, Paired, Side};
use super::pending::Pending;
use super::residuals::Residuals;
use super::rows::{Rows, fingerprint};
use crate::update::pace::Took;

mod intake;
mod output;

/// What a step wants written and told.
#[derive(Debug, Default)]
pub struct Step {
    /// Records, in order.
    pub records: Vec<RecordBody>,
    /// State entries; the last of a key counts.
    pub state: Vec<(String, Vec<u8>)>,
    /// What the owner of the models must know.
    pub notes: Vec<Note>,
}

/// What happened to a model in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Note {
    /// A forecast was made; `bundle` is none where a baseline made it.
    Forecasted {
        /// Bundle whose model made it.
        bundle: Option<Sha256>,
        /// Who made it.
        made_by: String,
        /// Whether it only watches.
        shadow: bool,
        /// Its origin.
        origin: Millis,
        /// What it took.
        took: Took,
    },
    /// A model has no window to forecast from.
    NoWindow {
        /// Its bundle.
        bundle: Sha256,
        /// What is missing.
        reason: String,
    },
    /// The running model has been far worse than the simplest forecast.
    Worse {
        /// Its bundle.
        bundle: Sha256,
        /// By how much.
        reason: String,
    },
    /// A model gave no usable forecast.
    Failed {
        /// Its bundle.
        bundle: Sha256,
        /// Whether it only watched.
        shadow: bool,
        /// What went wrong.
        reason: String,
    },
}

/// What survives a restart beside rows and waiting forecasts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    fingerprint: String,
    closed_through: Option<Millis>,
    residuals: Residuals,
    watch: ErrorWatch,
    #[serde(default)]
    inputs: InputWatch,
    forecasts: u64,
    #[serde(default)]
    bound: NaiveBound,
}

/// Stored parts of a forecaster, as read from the buffer.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Value of [`Forecaster::state_key`].
    pub kept: Option<Vec<u8>>,
    /// Values of [`Forecaster::row_keys`] that are there.
    pub rows: Vec<Vec<u8>>,
    /// Values of [`Forecaster::pending_keys`] that are there.
    pub pending: Vec<Vec<u8>>,
    /// Value of [`Intervals::key`].
    pub intervals: Option<Vec<u8>>,
    /// Value of [`Paired::key`].
    pub paired: Option<Vec<u8>>,
}

/// A forecaster on this device.
#[derive(Debug)]
pub struct Forecaster {
    spec: ForecasterSpec,
    sensors: Vec<String>,
    builder: WindowBuilder,
    resampler: Resampler,
    rows: Rows,
    cold: ColdStart,
    pending: Pending,
    kept: Kept,
    /// Of the bundle that ran last, also while it cannot run.
    intervals: Option<Intervals>,
    through: Vec<Option<Millis>>,
    jumps: Jumps,
    active: Option<Slot>,
    shadow: Option<Slot>,
    /// Beside another one of the same name: it only carries a shadow and never speaks for the device.
    beside: bool,
    /// There: what speaks for the device on the same grid; none where the two do not compare.
    charge: Option<Side>,
    /// Losses of the running and the watching model; also of before a restart, until models are in place again.
    paired: Option<Paired>,
}

impl Forecaster {
    /// A forecaster without history.
    ///
    /// # Errors
    /// Where the definition breaks a rule.
    pub fn new(spec: ForecasterSpec) -> Result<Self, String> {
        let builder = WindowBuilder::new(&spec).map_err(|e| e.to_string())?;
        let cold = ColdStart::new(&spec).map_err(|e| e.to_string())?;
        let sensors: Vec<String> = spec
            .channels()
            .into_iter()
            .map(|c| spec.sensor_of(c).to_owned())
            .collect();
        let kept = Kept {
            fingerprint: fingerprint(&spec),
            ..Kept::default()
        };
        Ok(Self {
            resampler: Resampler::for_spec(&spec),
            rows: Rows::new(&spec),
            pending: Pending::new(&spec.name, spec.period_ms(), spec.horizon),
            through: vec![None; sensors.len()],
            builder,
            cold,
            sensors,
            kept,
            intervals: None,
            jumps: Jumps::new(spec.period_ms()),
            active: None,
            shadow: None,
            beside: false,
            charge: None,
            paired: None,
            spec,
        })
    }

    /// One that only carries a shadow whose definition is not that of the running model.
    ///
    /// # Errors
    /// Where the definition breaks a rule.
    pub fn beside(spec: ForecasterSpec) -> Result<Self, String> {
        Self::new(spec).map(|f| Self { beside: true, ..f })
    }

    /// The definition.
    #[must_use]
    pub fn spec(&self) -> &ForecasterSpec {
        &self.spec
    }

    /// Sensors of its channels, in their order.
    #[must_use]
    pub fn sensors(&self) -> &[String] {
        &self.sensors
    }

    /// State key of the small part.
    #[must_use]
    pub fn state_key(name: &str) -> String {
        format!("forecaster/{name}")
    }

    /// State keys of the rows.
    #[must_use]
    pub fn row_keys(&self) -> Vec<String> {
        self.rows.keys()
    }

    /// State keys of the waiting forecasts.
    #[must_use]
    pub fn pending_keys(&self) -> Vec<String> {
        Pending::keys(&self.spec.name)
    }

    /// The last grid time that was closed.
    #[must_use]
    pub fn closed_through(&self) -> Option<Millis> {
        self.kept.closed_through
    }

    /// Whether concept drift is signalled.
    #[must_use]
    pub fn drifting(&self) -> bool {
        self.kept.watch.raised()
    }

    /// Forecasts made since this device knows the forecaster.
    #[must_use]
    pub fn forecasts(&self) -> u64 {
        self.kept.forecasts
    }

    /// Takes up what was stored; parts of another definition are left alone.
    pub fn restore(&mut self, stored: &Stored) {
        let read = |bytes: &Vec<u8>| match serde_json::from_slice::<Kept>(bytes) {
            Ok(kept) => Some(kept),
            Err(e) => {
                tracing::warn!(forecaster = %self.spec.name, "read what was kept over the restart: {e}; it begins anew");
                None
            }
        };
        let kept = stored
            .kept
            .as_ref()
            .and_then(read)
            .filter(|k| k.fingerprint == self.kept.fingerprint);
        let Some(kept) = kept else {
            return;
        };
        if let Some(through) = kept.closed_through {
            for row in self.rows.read(&stored.rows, through) {
                self.learn(row);
            }
            self.resampler = Resampler::for_spec(&self.spec).resume(through);
        }
        for bytes in &stored.pending {
            self.pending.restore(bytes);
        }
        if let Some(through) = kept.closed_through {
            self.pending.expire(through);
        }
        self.kept = kept;
        if let Some(bytes) = &stored.intervals {
            match Intervals::read(bytes, self.kept.closed_through) {
                Ok(read) => self.intervals = Some(read),
                Err(e) => tracing::warn!(forecaster = %self.spec.name, "{e}"),
            }
        }
        self.paired = stored.paired.as_deref().and_then(Paired::read);
        self.adapt();
    }

    /// Takes up what waited beside the running model before a restart; the rows come from readings.
    pub fn restore_beside(&mut self, stored: &Stored) {
        for bytes in &stored.pending {
            self.pending.restore(bytes);
        }
        if let Some(through) = self.kept.closed_through {
            self.pending.expire(through);
        }
        self.paired = stored.paired.as_deref().and_then(Paired::read);
    }

    /// Who speaks for the device.
    #[must_use]
    pub fn in_charge(&self) -> Side {
        self.active.as_ref().map_or_else(Side::default, side)
    }

    /// Beside the running model: who is in charge, and what it has said since; none where the two do not compare.
    pub fn hear(&mut self, charge: Option<Side>, said: &[RecordBody], step: &mut Step) {
        if self.charge != charge {
            self.charge = charge;
            self.pair();
        }
        if self.charge.is_none() {
            return;
        }
        for record in said {
            if let RecordBody::Forecast(f) = record
                && !f.shadow
                && f.forecaster == self.spec.name
            {
                step.state.extend(self.pending.push(f, true));
            }
        }
    }

    /// Whether the forecasts of both can be compared step by step.
    #[must_use]
    pub fn compares_with(&self, other: &Self) -> bool {
        let what = |f: &Self| {
            let (spec, target) = (&f.spec, &f.spec.target);
            let sensor = spec.sensor_of(target).to_owned();
            (target.clone(), sensor, spec.period_ms(), spec.horizon)
        };
        what(self) == what(other)
    }

    /// Two models in place: their losses go on where they are the same two, and begin anew where one is another.
    fn pair(&mut self) {
        let running = if self.beside {
            self.charge.clone()
        } else {
            Some(self.in_charge())
        };
        // Without a shadow yet, what was stored waits for it.
        if let Some(shadow) = &self.shadow {
            let (blocks, kept) = (Blocks::of(&self.spec), self.paired.take());
            self.paired = running.map(|running| Paired::of(running, side(shadow), blocks, kept));
        }
    }

    /// The running model's intervals go on from where they were, or begin anew where they were another's.
    fn adapt(&mut self) {
        if let Some(slot) = &self.active {
            let (horizon, since) = (self.spec.horizon, self.kept.closed_through);
            let kept = self.intervals.take();
            self.intervals = Some(Intervals::of(slot, horizon, since, kept));
        }
    }

    /// Puts a model in place of the active one; none leaves the device's own baselines.
    pub fn set_active(&mut self, slot: Option<Slot>) -> Option<Slot> {
        let old = std::mem::replace(&mut self.active, slot);
        self.adapt();
        self.pair();
        old
    }

    /// Puts a model in place of the watching one.
    pub fn set_shadow(&mut self, slot: Option<Slot>) -> Option<Slot> {
        let old = std::mem::replace(&mut self.shadow, slot);
        if self.shadow.is_none() {
            self.paired = None;
        }
        self.pair();
        old
    }

    /// Begins to watch the errors of the active model against its calibration, and its inputs against its reference.
    pub fn watch(&mut self, watch: ErrorWatch, inputs: InputWatch) {
        if !self.kept.watch.same_model(&watch) {
            self.kept.watch = watch;
        }
        self.kept.inputs = inputs.after(std::mem::take(&mut self.kept.inputs));
    }

    /// Sensors whose values are no longer what the running model was trained on; none while no bundle runs.
    #[must_use]
    pub fn drifting_inputs(&self) -> Vec<String> {
        if self.active.is_none() {
            return Vec::new();
        }
        let raised = self.kept.inputs.raised();
        raised
            .filter_map(|i| self.sensors.get(i).cloned())
            .collect()
    }

    /// The running model.
    #[must_use]
    pub fn active(&self) -> Option<&Slot> {
        self.active.as_ref()
    }

    /// What makes a forecast of the running model from the newest window.
    pub fn explain(&mut self) -> Vec<Influence> {
        let newest = self.kept.closed_through;
        let window = newest.and_then(|at| self.builder.at(self.rows.all(), at).ok());
        match (&self.active, window) {
            (Some(slot), Some(window)) => slot.model.explain(&self.spec, &window),
            _ => Vec::new(),
        }
    }

    /// The watching model.
    #[must_use]
    pub fn shadow(&self) -> Option<&Slot> {
        self.shadow.as_ref()
    }

    fn keep(&self, step: &mut Step) {
        let paired = self.paired.as_ref();
        step.state
            .extend(paired.and_then(|p| p.entry(&self.spec.name)));
        if self.beside {
            // The rest is the running model's place, and the readings give it again.
            return;
        }
        if let Ok(bytes) = serde_json::to_vec(&self.kept) {
            step.state.push((Self::state_key(&self.spec.name), bytes));
        }
        let intervals = self.intervals.as_ref();
        step.state
            .extend(intervals.and_then(|i| i.entry(&self.spec.name)));
    }

    fn learn(&mut self, row: FeatureRow) {
        // A row off the grid cannot come out of the resampler; cold start ignores one.
        if let Err(e) = self.cold.push(&row) {
            tracing::warn!(forecaster = %self.spec.name, "{e}");
        }
        self.rows.push(row);
    }
}

fn side(slot: &Slot) -> Side {
    Side {
        bundle: slot.sha.0.to_vec(),
        version: slot.version,
    }
}

#[cfg(test)]
#[path = "forecaster_tests.rs"]
pub(crate) mod tests;
