//! From a closed row to what is told: owns the judging of past forecasts and the making of new ones; takes no reading.

use fieldcast_features::{FeatureRow, Millis};
use fieldcast_wire::{RecordBody, pb};

use super::{Forecaster, Note, Step};
use crate::pipeline::model::Computed;
use crate::pipeline::residuals::Maker;
use crate::update::pace::Took;

impl Forecaster {
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
        if !self.beside {
            step.state.extend(self.rows.newest_chunk());
        }
        self.compare(time, actual, step);
        if let Some(actual) = actual {
            self.judge(time, actual, step);
        }
        self.pending.expire(time);
        let reach = i64::try_from(self.spec.horizon).unwrap_or(1) * self.spec.period_ms();
        self.kept.watch.expire(time - reach);
        self.kept.closed_through = Some(time);
        if !missing {
            self.forecast(time, step);
        }
        let season = i64::try_from(self.spec.season_steps()).unwrap_or(1) * self.spec.period_ms();
        let running = self.active.as_ref().map(|s| s.sha.0.to_vec());
        let last_word = |maker: &Maker| running.as_ref().is_some_and(|sha| *sha != maker.bundle);
        let due = self
            .kept
            .residuals
            .due(&self.spec.name, time, season, last_word);
        step.records
            .extend(due.into_iter().map(RecordBody::Residual));
    }

    /// The pairs of a time, and the blocks that it closes.
    fn compare(&mut self, time: Millis, actual: Option<f64>, step: &mut Step) {
        let Some(paired) = &mut self.paired else {
            return;
        };
        let pairs = self.pending.pairs(time);
        let done = paired.row(&self.spec.name, time, actual, pairs);
        step.records
            .extend(done.into_iter().map(RecordBody::Paired));
    }

    fn judge(&mut self, time: Millis, actual: f64, step: &mut Step) {
        let (period, target) = (self.spec.period_ms(), self.spec.target_channel());
        let season = i64::try_from(self.spec.season_steps()).unwrap_or(1);
        let (mut sum, mut count) = (0.0, 0_u32);
        let mut beside_naive = (0.0, 0.0, 0_u32);
        // A value that stands still may be a stuck sensor's, which last season's values soon repeat: it judges no model.
        let moved = self.rows.value(time - period, target) != Some(actual);
        let running = self.active.as_ref().map(|s| s.sha.0.to_vec());
        let speaking = self.pending.speaking_of(time);
        // How a shadow does is said in pairs alone, and what speaks for the device is judged where it runs.
        for (forecast, h) in speaking.filter(|(f, _)| !f.shadow && !self.beside) {
            let ahead = i64::try_from(h).unwrap_or(0) % season;
            let known = forecast.origin_ms + (ahead + 1 - season) * period;
            let naive = self.rows.value(known, target);
            self.kept.residuals.add(forecast, h, time, actual, naive);
            if let Some(intervals) = &mut self.intervals {
                intervals.learn(forecast, h, actual, self.pending.stride());
            }
            if running.as_ref().is_some_and(|sha| *sha == forecast.bundle) {
                let error = (actual - forecast.mean[h]).abs();
                if self.kept.watch.judges(forecast.origin_ms) {
                    sum += error;
                    count += 1;
                }
                if let Some(naive) = naive.filter(|_| moved) {
                    beside_naive.0 += error;
                    beside_naive.1 += (actual - naive).abs();
                    beside_naive.2 += 1;
                }
            }
        }
        let (model, naive, pairs) = beside_naive;
        if let Some(slot) = &self.active
            && pairs > 0
        {
            let means = (model / f64::from(pairs), naive / f64::from(pairs));
            if let Some(reason) = self.kept.bound.add(&slot.sha, slot.train_dev, means) {
                let bundle = slot.sha;
                step.notes.push(Note::Worse { bundle, reason });
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
        let observed = self.builder.observed(self.rows.all(), origin);
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
                Ok(Computed {
                    mean,
                    mut quantiles,
                    took_us,
                }) => {
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
                        took: Took {
                            us: took_us,
                            golden_us: slot.golden_us,
                        },
                    });
                    done |= !shadow;
                    let full = observed.as_ref().is_ok_and(|o| *o >= slot.least_observed);
                    if !shadow && !full && self.pending.place(origin).is_some() {
                        self.kept.watch.pass_over(origin);
                    }
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
                took: Took::default(),
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
        self.kept.forecasts += 1;
        // Intervals learn from all levels of what a bundle showed, and pairs compare those that both have.
        let whole = !forecast.bundle.is_empty() || self.shadow.is_some();
        step.state.extend(self.pending.push(&forecast, whole));
        if !forecast.shadow {
            step.records.push(RecordBody::Forecast(forecast));
        } else if let Some(paired) = &mut self.paired
            && let Some(place) = self.pending.place(forecast.origin_ms)
        {
            paired.made(place);
        }
    }
}
