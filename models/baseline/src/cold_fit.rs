//! The cold start's own ridge: owns its features, fit and selection against the naive forecasts, never the history.

use fieldcast_features::{Calendar, Millis};

use crate::cold::MadeBy;
use crate::naive::{last_value, seasonal_naive};
use crate::ridge::{NormalEquations, Ridge, RidgeError};

const MAX_LAGS: usize = 24;
const MAX_FIT_ORIGINS: usize = 1_000;
const MAX_TEST_ORIGINS: usize = 200;
const LAMBDA_PROFILE: f64 = 1e-3;
const LAMBDA_LAGS: f64 = 1e-2;
const WEEK_MS: i64 = 7 * 86_400_000;

/// What the fit needs to know of the forecaster.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) calendar: Calendar,
    pub(crate) period: Millis,
    pub(crate) season: usize,
    pub(crate) horizon: usize,
    pub(crate) lags: Vec<usize>,
}

/// Lags of the ridge: the last eight steps, then evenly spaced up to one season, at most [`MAX_LAGS`].
pub(crate) fn choose_lags(season: usize) -> Vec<usize> {
    let reach = season.max(8);
    let mut lags: Vec<usize> = (1..=8).collect();
    let stride = (reach - 8).div_ceil(MAX_LAGS - 8).max(1);
    lags.extend(
        (1..)
            .map(|i| reach.saturating_sub((i - 1) * stride))
            .take_while(|lag| *lag > 8),
    );
    lags.sort_unstable();
    lags
}

/// A series on the grid: `values[i]` at `first + i * period`, NaN = missing.
pub(crate) struct Series<'a> {
    pub(crate) values: &'a [f64],
    pub(crate) first: Millis,
}

impl Series<'_> {
    fn time(&self, shape: &Shape, index: usize) -> Millis {
        self.first + shape.period * i64::try_from(index).unwrap_or(0)
    }

    fn head(&self, end: usize) -> Series<'_> {
        Series {
            values: &self.values[..end],
            first: self.first,
        }
    }
}

/// Level by calendar, then a linear correction from the last deviations from that level.
#[derive(Debug, Clone)]
pub(crate) struct CalendarRidge {
    profile: Ridge,
    columns: Vec<usize>,
    correction: Ridge,
    low: f64,
    high: f64,
}

impl CalendarRidge {
    fn columns(shape: &Shape, span: Millis) -> Vec<usize> {
        let (week, year) = (shape.calendar.week_columns(), shape.calendar.year_columns());
        (0..shape.calendar.width())
            .filter(|c| !year.contains(c) && (span >= 2 * WEEK_MS || !week.contains(c)))
            .collect()
    }

    fn level(&self, shape: &Shape, time: Millis) -> f64 {
        level(&self.profile, &self.columns, shape, time)
    }

    fn fit(shape: &Shape, series: &Series<'_>) -> Result<Option<Self>, RidgeError> {
        let n = series.values.len();
        let span = shape.period * i64::try_from(n).unwrap_or(0);
        let columns = Self::columns(shape, span);
        let mut equations = NormalEquations::new(columns.len(), 1);
        for (i, y) in series
            .values
            .iter()
            .enumerate()
            .filter(|(_, y)| y.is_finite())
        {
            let all = shape.calendar.features(series.time(shape, i));
            let x: Vec<f64> = columns.iter().map(|c| all[*c]).collect();
            equations.add(&x, &[*y], 1.0)?;
        }
        if equations.rows() < 2 * shape.season.min(64) {
            return Ok(None);
        }
        let profile = equations.solve(LAMBDA_PROFILE)?;
        let rest: Vec<f64> = series
            .values
            .iter()
            .enumerate()
            .map(|(i, y)| {
                if y.is_finite() {
                    y - level(&profile, &columns, shape, series.time(shape, i))
                } else {
                    *y
                }
            })
            .collect();
        let reach = shape.lags.last().copied().unwrap_or(1);
        let Some(last_origin) = n
            .checked_sub(shape.horizon + 1)
            .filter(|last| *last > reach)
        else {
            return Ok(None);
        };
        let stride = (last_origin - reach).div_ceil(MAX_FIT_ORIGINS).max(1);
        let mut equations = NormalEquations::new(shape.lags.len() + 1, shape.horizon);
        for origin in (reach..=last_origin).step_by(stride) {
            let Some((x, last)) = lag_row(shape, &rest[..=origin]) else {
                continue;
            };
            let y: Vec<f64> = rest[origin + 1..=origin + shape.horizon]
                .iter()
                .map(|v| v - last)
                .collect();
            if y.iter().all(|v| v.is_finite()) {
                equations.add(&x, &y, 1.0)?;
            }
        }
        if equations.rows() < 2 * shape.lags.len() {
            return Ok(None);
        }
        let correction = equations.solve(LAMBDA_LAGS)?;
        let observed = || series.values.iter().copied().filter(|v| v.is_finite());
        let (low, high) = (
            observed().fold(f64::INFINITY, f64::min),
            observed().fold(f64::NEG_INFINITY, f64::max),
        );
        let range = high - low;
        Ok(Some(Self {
            profile,
            columns,
            correction,
            low: low - range,
            high: high + range,
        }))
    }

    /// H values behind the end of the series; `None` where its last season holds nothing to start from.
    pub(crate) fn forecast(&self, shape: &Shape, series: &Series<'_>) -> Option<Vec<f64>> {
        let n = series.values.len();
        let reach = shape.lags.last().copied().unwrap_or(1);
        let from = n.saturating_sub(reach + 1);
        let mut rest = vec![f64::NAN; reach + 1 - (n - from)];
        rest.extend((from..n).map(|i| series.values[i] - self.level(shape, series.time(shape, i))));
        let (x, last) = lag_row(shape, &rest)?;
        let steps = self.correction.predict(&x).ok()?;
        let at = |h: usize| self.level(shape, series.time(shape, n + h)) + last + steps[h];
        Some(
            (0..shape.horizon)
                .map(|h| at(h).clamp(self.low, self.high))
                .collect(),
        )
    }
}

fn level(profile: &Ridge, columns: &[usize], shape: &Shape, time: Millis) -> f64 {
    let all = shape.calendar.features(time);
    let x: Vec<f64> = columns.iter().map(|c| all[*c]).collect();
    profile.predict(&x).map_or(f64::NAN, |y| y[0])
}

/// The last deviation (its own level is an input too) and the lags' differences to it, 0 where missing.
fn lag_row(shape: &Shape, rest: &[f64]) -> Option<(Vec<f64>, f64)> {
    let recent = rest.iter().rev().take(4).copied();
    let last = recent.into_iter().find(|v| v.is_finite())?;
    let end = rest.len() - 1;
    let mut x: Vec<f64> = shape
        .lags
        .iter()
        .map(|lag| {
            end.checked_sub(*lag)
                .map(|i| rest[i] - last)
                .filter(|d| d.is_finite())
                .unwrap_or(0.0)
        })
        .collect();
    x.push(last);
    Some((x, last))
}

/// One method's forecast behind the end of a series.
pub(crate) fn forecast_by(
    by: MadeBy,
    ridge: Option<&CalendarRidge>,
    shape: &Shape,
    series: &Series<'_>,
) -> Option<Vec<f64>> {
    let out = match by {
        MadeBy::LastValue => last_value(series.values, shape.horizon),
        MadeBy::SeasonalNaive => seasonal_naive(series.values, shape.season, shape.horizon),
        MadeBy::Ridge => ridge?.forecast(shape, series)?,
    };
    out.iter().all(|v| v.is_finite()).then_some(out)
}

/// Residuals (actual minus forecast) a horizon step over at most [`MAX_TEST_ORIGINS`] origins in `from..`.
pub(crate) fn residuals(
    by: MadeBy,
    ridge: Option<&CalendarRidge>,
    shape: &Shape,
    series: &Series<'_>,
    from: usize,
) -> Vec<Vec<f64>> {
    let n = series.values.len();
    let mut out = vec![Vec::new(); shape.horizon];
    let count = n.saturating_sub(1).saturating_sub(from);
    let stride = count.div_ceil(MAX_TEST_ORIGINS).max(1);
    for origin in (from..n.saturating_sub(1)).rev().step_by(stride) {
        let Some(forecast) = forecast_by(by, ridge, shape, &series.head(origin + 1)) else {
            continue;
        };
        for (h, mean) in forecast.iter().enumerate() {
            match series.values.get(origin + 1 + h) {
                Some(actual) if actual.is_finite() => out[h].push(actual - mean),
                Some(_) => {}
                None => break,
            }
        }
    }
    out
}

/// The method that a fit chose, its residuals on rows it had not seen, and the ridge refitted on all rows.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) by: MadeBy,
    pub(crate) ridge: Option<CalendarRidge>,
    pub(crate) residuals: Vec<Vec<f64>>,
}

/// Fits on the first three quarters, lets last value, seasonal naive and ridge forecast the last quarter, and keeps
/// the one with the smallest mean absolute error; `None` while there are too few rows to judge.
pub(crate) fn choose(shape: &Shape, series: &Series<'_>) -> Result<Option<Chosen>, RidgeError> {
    let n = series.values.len();
    let reach = shape.lags.last().copied().unwrap_or(1);
    let Some(origins) = n.checked_sub(shape.horizon + reach + 1) else {
        return Ok(None);
    };
    let cut = n - shape.horizon - (origins / 4).max(1);
    let Some(early) = CalendarRidge::fit(shape, &series.head(cut))? else {
        return Ok(None);
    };
    let mut best: Option<(f64, MadeBy, Vec<Vec<f64>>)> = None;
    for by in [MadeBy::Ridge, MadeBy::SeasonalNaive, MadeBy::LastValue] {
        let errors = residuals(by, Some(&early), shape, series, cut - 1);
        let count: usize = errors.iter().map(Vec::len).sum();
        let mae = errors.iter().flatten().map(|e| e.abs()).sum::<f64>() / count.max(1) as f64;
        if count > 0 && best.as_ref().is_none_or(|(least, ..)| mae < *least) {
            best = Some((mae, by, errors));
        }
    }
    let Some((_, by, residuals)) = best else {
        return Ok(None);
    };
    let ridge = if by == MadeBy::Ridge {
        CalendarRidge::fit(shape, series)?.or(Some(early))
    } else {
        None
    };
    Ok(Some(Chosen {
        by,
        ridge,
        residuals,
    }))
}
