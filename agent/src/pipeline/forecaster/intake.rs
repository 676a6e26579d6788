//! Readings on their way to rows: owns which data time is believed and which slot is finished; makes no forecast.

use fieldcast_features::Millis;
use fieldcast_features::resample::{Pushed, Resampler, Sample, resample_all};

use super::{Forecaster, Step};

impl Forecaster {
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
    pub(super) fn watermark(&self) -> Option<Millis> {
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
}
