//! Forecasts before there is any bundle: owns a device's bounded history of its target and which method forecasts it.

use std::collections::VecDeque;

use fieldcast_features::{Calendar, FeatureRow, ForecasterSpec, Millis, SpecError};
use serde::{Deserialize, Serialize};

use crate::cold_fit::{Chosen, Series, Shape, choose, choose_lags, forecast_by, residuals};
use crate::quantile::offsets;

/// Most grid steps of history that are kept (64 KiB of values).
pub const MAX_ROWS: usize = 8_192;
/// Seasons of history that are kept where they fit into [`MAX_ROWS`].
const SEASONS_KEPT: usize = 28;
/// Fewest observed values from which anything is forecast.
pub const MIN_OBSERVED: usize = 3;

/// The method behind a cold-start forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MadeBy {
    /// Less than a season is known: the last value.
    LastValue,
    /// The value a season before.
    SeasonalNaive,
    /// The ridge that the device fitted from its own rows.
    Ridge,
}

impl MadeBy {
    /// The name as forecasts carry it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LastValue => "last_value",
            Self::SeasonalNaive => "seasonal_naive",
            Self::Ridge => "ridge",
        }
    }
}

/// A forecast without a bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct ColdForecast {
    /// Grid time of the last row known.
    pub origin: Millis,
    /// Which method made it; see [`MadeBy::name`].
    pub made_by: MadeBy,
    /// H values, in the target's unit.
    pub mean: Vec<f64>,
    /// H x Q values, row-major, ascending in each row; the levels are the forecaster's.
    pub quantiles: Vec<f64>,
}

/// Why there is no cold-start forecast, or no history to make one from.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ColdError {
    /// The definition itself is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A row does not belong to the forecaster.
    #[error(
        "cold start: the row at {time} ms has {found} values or is off the grid, expected {expected} channels; rebuild the rows from readings"
    )]
    Row {
        /// The row's time.
        time: Millis,
        /// Values it has.
        found: usize,
        /// Values it must have.
        expected: usize,
    },
    /// Too little was observed so far.
    #[error("cold start: {observed} values are known, {needed} are needed; wait for {missing} more readings", missing = needed - observed)]
    TooShort {
        /// Values known.
        observed: usize,
        /// Values needed.
        needed: usize,
    },
}

/// Forecasts from a device's own rows: seasonal naive as soon as one season is known (last value before), and the
/// best of naive, seasonal naive and an own ridge once three seasons are, chosen on the newest quarter of the rows and
/// chosen again after each season. Memory and work are bounded by [`MAX_ROWS`].
#[derive(Debug, Clone)]
pub struct ColdStart {
    shape: Shape,
    channels: usize,
    target: usize,
    levels: Vec<f64>,
    capacity: usize,
    values: VecDeque<f64>,
    last: Option<Millis>,
    chosen: Option<Chosen>,
    until_fit: usize,
}

impl ColdStart {
    /// For one forecaster, without any history.
    ///
    /// # Errors
    /// [`ColdError::Spec`].
    pub fn new(spec: &ForecasterSpec) -> Result<Self, ColdError> {
        spec.validate()?;
        // A season that does not fit four times into the memory cannot be learnt from it.
        let season = Some(spec.season_steps())
            .filter(|s| *s <= MAX_ROWS / 4)
            .unwrap_or(1);
        let lags = choose_lags(season);
        let reach = lags.last().copied().unwrap_or(1);
        let wanted = (SEASONS_KEPT * season)
            .max(4 * (reach + spec.horizon))
            .max(512);
        Ok(Self {
            shape: Shape {
                calendar: Calendar::new(spec),
                period: spec.period_ms(),
                season,
                horizon: spec.horizon,
                lags,
            },
            channels: spec.channels().len(),
            target: spec.target_channel(),
            levels: spec.quantiles.clone(),
            capacity: wanted.min(MAX_ROWS),
            values: VecDeque::new(),
            last: None,
            chosen: None,
            until_fit: 0,
        })
    }

    /// Rows until the first own fit: three seasons, the longest lag, two horizons.
    #[must_use]
    pub fn rows_to_fit(&self) -> usize {
        let reach = self.shape.lags.last().copied().unwrap_or(1);
        (3 * self.shape.season + reach + 2 * self.shape.horizon).min(self.capacity)
    }

    /// Grid time of the newest row.
    #[must_use]
    pub fn origin(&self) -> Option<Millis> {
        self.last
    }

    /// Takes the next row. Rows that are not newer than the newest are ignored; grid times between count as missing.
    ///
    /// # Errors
    /// [`ColdError::Row`]; the history is unchanged then.
    pub fn push(&mut self, row: &FeatureRow) -> Result<(), ColdError> {
        let on_grid = fieldcast_features::grid::is_time(row.time)
            && row.time.rem_euclid(self.shape.period) == 0;
        if row.values.len() != self.channels || !on_grid {
            let found = row.values.len();
            return Err(ColdError::Row {
                time: row.time,
                found,
                expected: self.channels,
            });
        }
        let steps = match self.last {
            Some(last) if row.time <= last => return Ok(()),
            Some(last) => {
                usize::try_from((row.time - last) / self.shape.period).unwrap_or(usize::MAX)
            }
            None => 1,
        };
        if steps > self.capacity {
            self.values.clear();
            self.chosen = None;
            self.until_fit = 0;
        } else {
            self.values.extend(std::iter::repeat_n(f64::NAN, steps - 1));
        }
        self.values.push_back(
            row.value(self.target)
                .filter(|v| v.abs() < 1e150)
                .unwrap_or(f64::NAN),
        );
        while self.values.len() > self.capacity {
            self.values.pop_front();
        }
        self.until_fit = self.until_fit.saturating_sub(steps);
        self.last = Some(row.time);
        Ok(())
    }

    /// The forecast behind the newest row. May fit first (at most once a season).
    ///
    /// # Errors
    /// [`ColdError::TooShort`] below [`MIN_OBSERVED`] values.
    pub fn forecast(&mut self) -> Result<ColdForecast, ColdError> {
        let observed = self.values.iter().filter(|v| v.is_finite()).count();
        let (Some(origin), true) = (self.last, observed >= MIN_OBSERVED) else {
            return Err(ColdError::TooShort {
                observed,
                needed: MIN_OBSERVED,
            });
        };
        let values: Vec<f64> = self.values.iter().copied().collect();
        let first = origin - self.shape.period * i64::try_from(values.len() - 1).unwrap_or(0);
        let series = Series {
            values: &values,
            first,
        };
        if self.until_fit == 0 && values.len() >= self.rows_to_fit() {
            // A history that cannot be fitted (too many holes) leaves the naive forecasts in place.
            self.chosen = choose(&self.shape, &series).ok().flatten();
            self.until_fit = self.shape.season.max(24);
        }
        if let Some(chosen) = &self.chosen
            && let Some(mean) = forecast_by(chosen.by, chosen.ridge.as_ref(), &self.shape, &series)
            && let Some(offsets) = offsets(&chosen.residuals, &self.levels)
        {
            return Ok(self.assemble(origin, chosen.by, mean, &offsets));
        }
        let seasons = if values.len() >= self.shape.season {
            MadeBy::SeasonalNaive
        } else {
            MadeBy::LastValue
        };
        for by in [seasons, MadeBy::LastValue] {
            let from = if by == MadeBy::SeasonalNaive {
                self.shape.season - 1
            } else {
                0
            };
            let errors = residuals(by, None, &self.shape, &series, from);
            let mean = forecast_by(by, None, &self.shape, &series);
            if let (Some(mean), Some(offsets)) = (mean, offsets(&errors, &self.levels)) {
                return Ok(self.assemble(origin, by, mean, &offsets));
            }
        }
        Err(ColdError::TooShort {
            observed,
            needed: observed + 1,
        })
    }

    fn assemble(
        &self,
        origin: Millis,
        made_by: MadeBy,
        mean: Vec<f64>,
        offsets: &[f64],
    ) -> ColdForecast {
        let width = self.levels.len();
        let quantiles = offsets
            .iter()
            .enumerate()
            .map(|(i, offset)| mean[i / width] + offset)
            .collect();
        ColdForecast {
            origin,
            made_by,
            mean,
            quantiles,
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
#[path = "cold_tests.rs"]
mod tests;
