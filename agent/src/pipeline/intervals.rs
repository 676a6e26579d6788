//! How wide the running model's intervals are shown on this device: owns the factors and their stored form, never a forecast.

use fieldcast_baseline::Adaptive;
use fieldcast_baseline::adaptive::SHARED;
use fieldcast_features::Millis;
use fieldcast_wire::pb;
use serde::{Deserialize, Serialize};

use super::model::Slot;

/// Layout of the stored form.
const FORMAT: u32 = 1;

/// What one bundle's intervals have learnt on this device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intervals {
    format: u32,
    bundle: Vec<u8>,
    version: u64,
    horizon: usize,
    /// Forecasts up to this origin were not shown by these factors.
    since: Option<Millis>,
    adaptive: Adaptive,
}

impl Intervals {
    /// State key of a forecaster's.
    #[must_use]
    pub fn key(forecaster: &str) -> String {
        format!("intervals/{forecaster}")
    }

    /// Those of a model: `kept` where they are its own, otherwise as it was calibrated. `now` is the last closed grid time.
    #[must_use]
    pub fn of(slot: &Slot, horizon: usize, now: Option<Millis>, kept: Option<Self>) -> Self {
        let bundle = slot.sha.to_vec();
        if let Some(kept) = kept {
            if kept.bundle == bundle
                && kept.version == slot.version
                && kept.horizon == horizon
                && kept.adaptive.levels() == slot.levels
            {
                return kept;
            }
            tracing::info!(bundle = %slot.sha, version = slot.version, before = kept.version, "another model: intervals begin anew");
        }
        Self {
            format: FORMAT,
            bundle,
            version: slot.version,
            horizon,
            since: now,
            adaptive: Adaptive::new(&slot.levels, horizon),
        }
    }

    /// Out of the stored form; `now` is the last closed grid time.
    ///
    /// # Errors
    /// Why it is of no use.
    pub fn read(bytes: &[u8], now: Option<Millis>) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("read learnt intervals: {why}; they begin anew"));
        let read: Self = match serde_json::from_slice(bytes) {
            Ok(read) => read,
            Err(e) => return refuse(&e.to_string()),
        };
        if read.format != FORMAT {
            return refuse(&format!("format {} is not {FORMAT}", read.format));
        }
        if !read.adaptive.fits(read.adaptive.levels(), read.horizon) {
            return refuse("their factors are damaged");
        }
        if read.since > now {
            return refuse("they began after the newest row");
        }
        Ok(read)
    }

    /// The state entry that stores them.
    #[must_use]
    pub fn entry(&self, forecaster: &str) -> Option<(String, Vec<u8>)> {
        let bytes = serde_json::to_vec(self).ok()?;
        Some((Self::key(forecaster), bytes))
    }

    /// The model's quantiles as they should be shown now; its own where a factor would carry one beyond all numbers.
    #[must_use]
    pub fn shown(&self, quantiles: Vec<f64>) -> Vec<f64> {
        let shown = self.adaptive.applied(&quantiles);
        if shown.iter().all(|v| v.is_finite()) {
            shown
        } else {
            quantiles
        }
    }

    /// Step `step` of a forecast came out as `actual`. `origins` is how many forecasts there are for each one that is kept:
    /// it stands for the others as far as they share its error. What other factors or models showed teaches nothing.
    pub fn learn(&mut self, forecast: &pb::Forecast, step: usize, actual: f64, origins: usize) {
        let own = !forecast.shadow
            && Some(forecast.origin_ms) > self.since
            && forecast.model_version == self.version
            && forecast.bundle == self.bundle
            && forecast.quantile_levels == self.adaptive.levels();
        let width = forecast.quantile_levels.len();
        let Some(shown) = forecast.quantiles.get(step * width..(step + 1) * width) else {
            return;
        };
        if own {
            for _ in 0..((step + 1) / SHARED).clamp(1, origins.max(1)) {
                self.adaptive.learn(step, shown, actual);
            }
        }
    }
}

#[cfg(test)]
#[path = "intervals_tests.rs"]
mod tests;
