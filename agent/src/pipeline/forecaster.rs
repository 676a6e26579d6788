//! One forecaster's stream: owns rows, waiting forecasts and residuals; a pure step from readings to records.

use fieldcast_baseline::ColdStart;
use fieldcast_features::resample::{Pushed, Resampler, Sample, resample_all};
use fieldcast_features::window::WindowBuilder;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_wire::{RecordBody, Sha256, pb};
use serde::{Deserialize, Serialize};

use super::drift::ErrorWatch;
use super::inputs::InputWatch;
use super::intervals::Intervals;
use super::jumps::Jumps;
use super::model::{Influence, Slot};
use super::pending::Pending;
use super::residuals::{Maker, Residuals};
use super::rows::{Rows, fingerprint};

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
    },
    /// A model has no window to forecast from.
    NoWindow {
        /// Its bundle.
        bundle: Sha256,
        /// What is missing.
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
        self.adapt();
    }

    /// The running model's intervals go on from where they were, or begin anew where they were another's.
    fn adapt(&mut self) {
        if let Some(slot) = &self.active {
            let (horizon, since) = (self.spec.horizon, self.kept.closed_through);
            let kept = self.intervals.take();
            self.intervals = Some(Intervals::of(slot, horizon, since, kept));
        }
    }

    /// Readings of the time before: those of open slots go where they were, and where there is no history yet they
    /// become one, without forecasts.
    pub fn bootstrap(&mut self, mut readings: Vec<(usize, Millis, f64)>) -> Step {
        let mut step = Step::default();
        readings.sort_by_key(|r| r.1);
        if let Some(through) = self.kept.closed_through {
            for (channel, time, value) in readings.into_iter().filter(|r| r.1 > through) {
                self.take(channel, time, value);
            }
            return step;
        }
        let samples: Vec<Sample> = self
            .jumps
            .sift(readings)
            .into_iter()
            .map(|(channel, time, value)| Sample {
                channel,
                time,
                value,
            })
            .collect();
        for sample in &samples {
            self.seen(sample.channel, sample.time);
        }
        let Some(watermark) = self.watermark() else {
            return step;
        };
        let mut rows = resample_all(&self.spec, &samples);
        rows.retain(|r| r.time < watermark);
        for row in rows {
            self.kept.closed_through = Some(row.time);
            self.learn(row);
            step.state.extend(self.rows.newest_chunk());
        }
        if let Some(through) = self.kept.closed_through {
            self.resampler = Resampler::for_spec(&self.spec).resume(through);
            self.keep(&mut step);
        }
        for s in samples {
            if self.kept.closed_through.is_none_or(|t| s.time > t) {
                self.resampler.push(s.channel, s.time, s.value);
            }
        }
        step
    }

    /// Puts a model in place of the active one; none leaves the device's own baselines.
    pub fn set_active(&mut self, slot: Option<Slot>) -> Option<Slot> {
        let old = std::mem::replace(&mut self.active, slot);
        self.adapt();
        old
    }

    /// Puts a model in place of the watching one.
    pub fn set_shadow(&mut self, slot: Option<Slot>) -> Option<Slot> {
        std::mem::replace(&mut self.shadow, slot)
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

    /// Takes a reading of one of the forecaster's sensors; `value` is NaN where its quality forbids its use.
    pub fn reading(&mut self, sensor: &str, time: Millis, value: f64) {
        for channel in 0..self.sensors.len() {
            if self.sensors[channel] == sensor {
                self.take(channel, time, value);
            }
        }
    }

    fn take(&mut self, channel: usize, time: Millis, value: f64) {
        let newest = self.newest();
        for (channel, time, value) in self.jumps.take(newest, (channel, time, value)) {
            if self.resampler.push(channel, time, value) == Pushed::Taken {
                self.seen(channel, time);
            }
        }
    }

    /// The furthest data time that is believed.
    fn newest(&self) -> Option<Millis> {
        let seen = self.through.iter().flatten().max().copied();
        seen.or(self.kept.closed_through)
    }

    fn seen(&mut self, channel: usize, time: Millis) {
        if let Some(through) = self.through.get_mut(channel) {
            *through = Some(through.map_or(time, |t| t.max(time)));
        }
    }

    /// Nothing before `time` will come any more from these sensors; without effect before a believed reading near it.
    pub fn complete(&mut self, sensors: &[String], time: Millis) {
        let seen = self.through.iter().flatten().max().copied();
        if seen.is_none_or(|n| self.jumps.is_jump(n, time)) {
            return;
        }
        for channel in 0..self.sensors.len() {
            if sensors.contains(&self.sensors[channel]) {
                self.seen(channel, time);
            }
        }
    }

    /// Before this data time nothing is expected: every channel has passed it, or one of them by a whole period.
    fn watermark(&self) -> Option<Millis> {
        let newest = self.through.iter().flatten().max().copied()?;
        let all = self
            .through
            .iter()
            .copied()
            .collect::<Option<Vec<Millis>>>()
            .and_then(|t| t.into_iter().min());
        let late = newest.saturating_sub(self.spec.period_ms());
        Some(all.map_or(late, |a| a.max(late)))
    }

    /// Closes the slots that are finished: residuals of what was forecast, new forecasts.
    pub fn advance(&mut self, step: &mut Step) {
        let Some(watermark) = self.watermark() else {
            return;
        };
        let rows = self.resampler.close(watermark);
        if rows.is_empty() {
            return;
        }
        for row in rows {
            self.row(row, step);
        }
        self.keep(step);
    }

    fn keep(&self, step: &mut Step) {
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

    fn row(&mut self, row: FeatureRow, step: &mut Step) {
        let time = row.time;
        let actual = row.value(self.spec.target_channel());
        let missing = row.is_missing();
        // What runs without the bundle is not judged by it.
        let found = match &self.active {
            Some(_) => self.kept.inputs.add(&row),
            None => Vec::new(),
        };
        for (input, signal) in found {
            step.records.push(RecordBody::Drift(pb::DriftSignal {
                forecaster: self.spec.name.clone(),
                sensor: self.sensors.get(input).cloned().unwrap_or_default(),
                ..signal
            }));
        }
        self.learn(row);
        step.state.extend(self.rows.newest_chunk());
        if let Some(actual) = actual {
            self.judge(time, actual, step);
        }
        self.pending.expire(time);
        self.kept.closed_through = Some(time);
        if !missing {
            self.forecast(time, step);
        }
        let season = i64::try_from(self.spec.season_steps()).unwrap_or(1) * self.spec.period_ms();
        let current = (
            self.active.as_ref().map(|s| s.sha.0.to_vec()),
            self.shadow.as_ref().map(|s| s.sha.0.to_vec()),
        );
        let last_word = |maker: &Maker| {
            let running = if maker.shadow { &current.1 } else { &current.0 };
            running.as_ref().is_some_and(|sha| *sha != maker.bundle)
        };
        let due = self
            .kept
            .residuals
            .due(&self.spec.name, time, season, last_word);
        step.records
            .extend(due.into_iter().map(RecordBody::Residual));
    }

    fn judge(&mut self, time: Millis, actual: f64, step: &mut Step) {
        let (period, target) = (self.spec.period_ms(), self.spec.target_channel());
        let season = i64::try_from(self.spec.season_steps()).unwrap_or(1);
        let (mut sum, mut count) = (0.0, 0_u32);
        let running = self.active.as_ref().map(|s| s.sha.0.to_vec());
        for (forecast, h) in self.pending.speaking_of(time) {
            let ahead = i64::try_from(h).unwrap_or(0) % season;
            let known = forecast.origin_ms + (ahead + 1 - season) * period;
            let naive = self.rows.value(known, target);
            self.kept.residuals.add(forecast, h, time, actual, naive);
            if let Some(intervals) = &mut self.intervals {
                intervals.learn(forecast, h, actual, self.pending.stride());
            }
            if !forecast.shadow && running.as_ref().is_some_and(|sha| *sha == forecast.bundle) {
                sum += (actual - forecast.mean[h]).abs();
                count += 1;
            }
        }
        if count > 0
            && let Some(signal) = self.kept.watch.add(time, sum, count)
        {
            step.records.push(RecordBody::Drift(pb::DriftSignal {
                forecaster: self.spec.name.clone(),
                sensor: self.sensors.get(target).cloned().unwrap_or_default(),
                ..signal
            }));
        }
    }

    fn forecast(&mut self, origin: Millis, step: &mut Step) {
        let window = self.builder.at(self.rows.all(), origin);
        let mut done = false;
        for shadow in [false, true] {
            let slot = if shadow { &self.shadow } else { &self.active };
            let Some(slot) = slot else { continue };
            let window = match &window {
                Ok(window) => window,
                Err(e) => {
                    step.notes.push(Note::NoWindow {
                        bundle: slot.sha,
                        reason: e.to_string(),
                    });
                    continue;
                }
            };
            match slot.forecast(window) {
                Ok((mean, mut quantiles)) => {
                    if let Some(intervals) = self.intervals.as_ref().filter(|_| !shadow) {
                        quantiles = intervals.shown(quantiles);
                    }
                    let forecast = pb::Forecast {
                        mean,
                        quantiles,
                        quantile_levels: slot.levels.clone(),
                        made_by: "bundle".into(),
                        bundle: slot.sha.0.to_vec(),
                        model_version: slot.version,
                        shadow,
                        ..self.blank(origin)
                    };
                    step.notes.push(Note::Forecasted {
                        bundle: Some(slot.sha),
                        made_by: "bundle".into(),
                        shadow,
                        origin,
                    });
                    done |= !shadow;
                    self.put(forecast, step);
                }
                Err(reason) => step.notes.push(Note::Failed {
                    bundle: slot.sha,
                    shadow,
                    reason,
                }),
            }
        }
        if !done
            && !self.beside
            && let Ok(cold) = self.cold.forecast()
        {
            let made_by = cold.made_by.name();
            let forecast = pb::Forecast {
                mean: cold.mean,
                quantiles: cold.quantiles,
                quantile_levels: self.spec.quantiles.clone(),
                made_by: made_by.into(),
                ..self.blank(origin)
            };
            step.notes.push(Note::Forecasted {
                bundle: None,
                made_by: made_by.into(),
                shadow: false,
                origin,
            });
            self.put(forecast, step);
        }
    }

    fn blank(&self, origin: Millis) -> pb::Forecast {
        pb::Forecast {
            forecaster: self.spec.name.clone(),
            origin_ms: origin,
            period_ms: self.spec.period_ms(),
            ..pb::Forecast::default()
        }
    }

    fn put(&mut self, forecast: pb::Forecast, step: &mut Step) {
        step.state.extend(self.pending.push(&forecast));
        self.kept.forecasts += 1;
        step.records.push(RecordBody::Forecast(forecast));
    }
}

#[cfg(test)]
#[path = "forecaster_tests.rs"]
pub(crate) mod tests;
