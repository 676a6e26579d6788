//! Errors of past forecasts, summed up a season at a time: owns the sums; never decides what is drift.

use std::collections::BTreeMap;

use fieldcast_features::Millis;
use fieldcast_wire::pb;
use serde::{Deserialize, Serialize};

/// Who made a forecast.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Maker {
    /// `bundle`, `ridge`, `seasonal_naive` or `last_value`.
    pub made_by: String,
    /// Digest of the bundle; empty where it was none.
    pub bundle: Vec<u8>,
    /// Its model version.
    pub version: u64,
    /// Whether it only watched.
    pub shadow: bool,
}

impl Maker {
    /// The maker of a forecast.
    #[must_use]
    pub fn of(forecast: &pb::Forecast) -> Self {
        Self {
            made_by: forecast.made_by.clone(),
            bundle: forecast.bundle.clone(),
            version: forecast.model_version,
            shadow: forecast.shadow,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    from: Millis,
    to: Millis,
    count: u32,
    error: f64,
    absolute: f64,
    squared: f64,
    naive: f64,
    naive_count: u32,
    covered: u32,
}

/// Sums by maker; serialised as a list, since JSON has only texts as keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(Maker, Stored)>", into = "Vec<(Maker, Stored)>")]
pub struct Residuals {
    sums: BTreeMap<Maker, Sums>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stored(Sums);

impl From<Vec<(Maker, Stored)>> for Residuals {
    fn from(list: Vec<(Maker, Stored)>) -> Self {
        let sums = list.into_iter().map(|(maker, s)| (maker, s.0)).collect();
        Self { sums }
    }
}

impl From<Residuals> for Vec<(Maker, Stored)> {
    fn from(residuals: Residuals) -> Self {
        let sums = residuals.sums.into_iter();
        sums.map(|(maker, s)| (maker, Stored(s))).collect()
    }
}

impl Residuals {
    /// One forecast step met its actual. `naive` is the seasonal-naive forecast of the same step, where there was one.
    pub fn add(
        &mut self,
        forecast: &pb::Forecast,
        step: usize,
        time: Millis,
        actual: f64,
        naive: Option<f64>,
    ) {
        let Some(mean) = forecast.mean.get(step) else {
            return;
        };
        let error = actual - mean;
        if !(error * error).is_finite() {
            // One such error would leave nothing else visible of the season, nor readable after a restart.
            return;
        }
        let sums = self.sums.entry(Maker::of(forecast)).or_insert(Sums {
            from: time,
            ..Sums::default()
        });
        sums.to = time;
        sums.count += 1;
        sums.error += error;
        sums.absolute += error.abs();
        sums.squared += error * error;
        if let Some(naive) = naive {
            sums.naive += (actual - naive).abs();
            sums.naive_count += 1;
        }
        let width = forecast.quantile_levels.len();
        let interval = forecast.quantiles.get(step * width..(step + 1) * width);
        if let Some([low, .., high]) = interval
            && (*low..=*high).contains(&actual)
        {
            sums.covered += 1;
        }
    }

    /// Hands out summaries that are due: a season of data time, or a maker that is not `current` any more.
    pub fn due(
        &mut self,
        forecaster: &str,
        now: Millis,
        season: Millis,
        last_word: impl Fn(&Maker) -> bool,
    ) -> Vec<pb::ResidualSummary> {
        let mut out = Vec::new();
        self.sums.retain(|maker, sums| {
            let due = now - sums.from >= season || (last_word(maker) && now > sums.to);
            if due {
                out.push(summary(forecaster, maker, sums));
            }
            !due
        });
        out
    }
}

fn summary(forecaster: &str, maker: &Maker, sums: &Sums) -> pb::ResidualSummary {
    let n = f64::from(sums.count.max(1));
    pb::ResidualSummary {
        seq: 0,
        forecaster: forecaster.to_owned(),
        bundle: maker.bundle.clone(),
        model_version: maker.version,
        made_by: maker.made_by.clone(),
        shadow: maker.shadow,
        from_ms: sums.from,
        to_ms: sums.to,
        count: sums.count,
        mean_error: sums.error / n,
        mean_abs_error: sums.absolute / n,
        mean_squared_error: sums.squared / n,
        naive_mean_abs_error: (sums.naive_count > 0)
            .then(|| sums.naive / f64::from(sums.naive_count)),
        covered: sums.covered,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_season_of_errors_becomes_one_summary_and_survives_storage() {
        let forecast = pb::Forecast {
            made_by: "ridge".into(),
            mean: vec![10.0, 20.0],
            quantile_levels: vec![0.1, 0.9],
            quantiles: vec![9.0, 11.0, 10.0, 30.0],
            ..pb::Forecast::default()
        };
        let mut residuals = Residuals::default();
        residuals.add(&forecast, 0, 100, 12.0, Some(11.0));
        residuals.add(&forecast, 1, 110, 18.0, None);
        assert!(residuals.due("demand", 110, 20, |_| false).is_empty());
        let bytes = serde_json::to_vec(&residuals).unwrap();
        let mut residuals: Residuals = serde_json::from_slice(&bytes).unwrap();
        let due = residuals.due("demand", 120, 20, |_| false);
        assert_eq!((due[0].count, due[0].covered), (2, 1));
        assert_eq!((due[0].from_ms, due[0].to_ms), (100, 110));
        assert!((due[0].mean_abs_error - 2.0).abs() < 1e-12);
        assert_eq!(due[0].naive_mean_abs_error, Some(1.0));
        assert!(residuals.due("demand", 900, 20, |_| true).is_empty());
    }

    #[test]
    fn an_error_that_was_never_measured_is_absent_not_zero() {
        let forecast = pb::Forecast {
            mean: vec![10.0],
            ..pb::Forecast::default()
        };
        let mut residuals = Residuals::default();
        residuals.add(&forecast, 0, 100, 12.0, None);
        let due = residuals.due("demand", 120, 20, |_| false);
        assert_eq!((due[0].count, due[0].naive_mean_abs_error), (1, None));
    }
}
