//! The model's input: owns how rows and calendar become a window and what may be missing in it, never a model.

use crate::calendar::Calendar;
use crate::grid::{Millis, is_time};
use crate::row::FeatureRow;
use crate::spec::{ForecasterSpec, Preset, SpecError};

/// What a model sees for one forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Grid time of the last row; everything in `window` was known then.
    pub origin: Millis,
    /// Rows of the window (T).
    pub lookback: usize,
    /// Observed inputs (F).
    pub inputs: usize,
    /// T x F values, row-major, oldest row first; NaN = missing.
    pub window: Vec<f64>,
    /// Steps to forecast (H).
    pub horizon: usize,
    /// Known-future columns (K).
    pub future_width: usize,
    /// H x K values, row-major; row `h` belongs to `origin + (h + 1) * period`.
    pub future: Vec<f64>,
}

/// Why there is no window.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WindowError {
    /// The definition itself is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The origin is no grid time.
    #[error(
        "cut window: origin {origin} ms is not on the grid of {period} ms; round it with grid::slot_of"
    )]
    OffGrid {
        /// The origin that was asked for.
        origin: Millis,
        /// The grid's period.
        period: Millis,
    },
    /// The row at the origin, the newest of the window, is not there.
    #[error(
        "cut window: there is no row at the origin {origin} ms; wait until its slot has closed"
    )]
    NoRowAtOrigin {
        /// The origin that was asked for.
        origin: Millis,
    },
    /// A row has the wrong number of values.
    #[error(
        "cut window: the row at {time} ms has {found} values, the forecaster {expected} channels; rebuild the rows from readings"
    )]
    RowWidth {
        /// The row's time.
        time: Millis,
        /// Values it has.
        found: usize,
        /// Values it must have.
        expected: usize,
    },
    /// Rows are out of order, doubled or off the grid.
    #[error(
        "cut window: the rows around {time} ms are not ascending on the grid of {period} ms; sort them and drop doubles"
    )]
    Rows {
        /// Where the order breaks.
        time: Millis,
        /// The grid's period.
        period: Millis,
    },
    /// A channel has too few values in the window.
    #[error(
        "cut window: {missing} of {lookback} values of `{channel}` are missing before {origin} ms, {allowed} may be; wait for readings or check the sensor"
    )]
    Missing {
        /// The channel.
        channel: String,
        /// Its missing values.
        missing: usize,
        /// Rows of the window.
        lookback: usize,
        /// Missing values that would still do.
        allowed: usize,
        /// The window's origin.
        origin: Millis,
    },
    /// The window as a whole has too few values.
    #[error(
        "cut window: {missing} of {total} values are missing before {origin} ms, more than half; most are of `{channel}`"
    )]
    MostlyMissing {
        /// The channel with most missing values.
        channel: String,
        /// Missing values of all channels.
        missing: usize,
        /// T x F.
        total: usize,
        /// The window's origin.
        origin: Millis,
    },
}

impl Window {
    /// Grid time of horizon step `step` (0 is the first one ahead).
    #[must_use]
    pub fn horizon_time(&self, step: usize, period: Millis) -> Millis {
        self.origin + period * Millis::try_from(step + 1).unwrap_or(1)
    }
}

/// Cuts windows for one forecaster; made once, used for every origin.
#[derive(Debug, Clone)]
pub struct WindowBuilder {
    calendar: Calendar,
    period: Millis,
    lookback: usize,
    horizon: usize,
    inputs: Vec<String>,
    channels: usize,
    target: usize,
    preset: Preset,
}

impl WindowBuilder {
    /// Checks the definition once.
    ///
    /// # Errors
    /// [`WindowError::Spec`].
    pub fn new(spec: &ForecasterSpec) -> Result<Self, WindowError> {
        spec.validate()?;
        Ok(Self {
            calendar: Calendar::new(spec),
            period: spec.period_ms(),
            lookback: spec.lookback,
            horizon: spec.horizon,
            inputs: spec.inputs.clone(),
            channels: spec.channels().len(),
            target: spec.target_channel(),
            preset: spec.preset,
        })
    }

    /// The window that ends at `origin` (the row at the origin is its last one).
    ///
    /// `rows` ascend in time on the grid; times without a row count as missing. With preset `default` up to half of
    /// the target and up to half of all values may be missing; preset `classic` cannot stand any missing value.
    ///
    /// # Errors
    /// [`WindowError`], which names what is missing.
    pub fn at(&self, rows: &[FeatureRow], origin: Millis) -> Result<Window, WindowError> {
        self.check_origin(origin)?;
        let width = self.inputs.len();
        let mut window = vec![f64::NAN; self.lookback * width];
        let found = self.fill(rows, origin, self.lookback, |step, row| {
            window[step * width..(step + 1) * width].copy_from_slice(&row.values[..width]);
        })?;
        if !found {
            return Err(WindowError::NoRowAtOrigin { origin });
        }
        for v in &mut window {
            if !v.is_finite() {
                *v = f64::NAN;
            }
        }
        self.check_missing(&window, origin)?;
        let mut future = Vec::with_capacity(self.horizon * self.calendar.width());
        for step in 0..self.horizon {
            self.calendar.append(self.ahead(origin, step), &mut future);
        }
        Ok(Window {
            origin,
            lookback: self.lookback,
            inputs: width,
            window,
            horizon: self.horizon,
            future_width: self.calendar.width(),
            future,
        })
    }

    /// The target's values at the horizon's times (H values; NaN where not there): what the forecast is judged by.
    ///
    /// # Errors
    /// [`WindowError`] for rows out of order or of the wrong width.
    pub fn actuals(&self, rows: &[FeatureRow], origin: Millis) -> Result<Vec<f64>, WindowError> {
        self.check_origin(origin)?;
        let end = self.ahead(origin, self.horizon.saturating_sub(1));
        self.series(rows, end, self.horizon)
    }

    /// The target's last `steps` values, oldest first, ending at `origin`; NaN where there is no value.
    ///
    /// # Errors
    /// [`WindowError`] for an origin off the grid, rows out of order or of the wrong width.
    pub fn history(
        &self,
        rows: &[FeatureRow],
        origin: Millis,
        steps: usize,
    ) -> Result<Vec<f64>, WindowError> {
        self.check_origin(origin)?;
        self.series(rows, origin, steps)
    }

    /// Share of the lookback's rows in which the target was observed, 0 to 1: how full the window that ends at `origin` is.
    ///
    /// # Errors
    /// Those of [`Self::history`].
    pub fn observed(&self, rows: &[FeatureRow], origin: Millis) -> Result<f64, WindowError> {
        let past = self.history(rows, origin, self.lookback)?;
        let there = past.iter().filter(|v| v.is_finite()).count();
        Ok(there as f64 / self.lookback as f64)
    }

    fn series(
        &self,
        rows: &[FeatureRow],
        end: Millis,
        steps: usize,
    ) -> Result<Vec<f64>, WindowError> {
        let mut out = vec![f64::NAN; steps];
        self.fill(rows, end, steps, |step, row| {
            out[step] = row.value(self.target).unwrap_or(f64::NAN);
        })?;
        Ok(out)
    }

    fn ahead(&self, origin: Millis, step: usize) -> Millis {
        origin + self.period * Millis::try_from(step + 1).unwrap_or(1)
    }

    fn check_origin(&self, origin: Millis) -> Result<(), WindowError> {
        if !is_time(origin) || origin.rem_euclid(self.period) != 0 {
            return Err(WindowError::OffGrid {
                origin,
                period: self.period,
            });
        }
        Ok(())
    }

    /// Calls `put(step, row)` for each row of the `steps` grid times that end at `end`; tells whether the last is there.
    fn fill(
        &self,
        rows: &[FeatureRow],
        end: Millis,
        steps: usize,
        mut put: impl FnMut(usize, &FeatureRow),
    ) -> Result<bool, WindowError> {
        let span = self
            .period
            .saturating_mul(Millis::try_from(steps).unwrap_or(Millis::MAX));
        let before = end.saturating_sub(span);
        let first = rows.partition_point(|r| r.time <= before);
        let mut previous = before;
        for row in rows[first..].iter().take_while(|r| r.time <= end) {
            let offset = row.time - before;
            if row.time <= previous || offset.rem_euclid(self.period) != 0 {
                return Err(WindowError::Rows {
                    time: row.time,
                    period: self.period,
                });
            }
            if row.values.len() != self.channels {
                let found = row.values.len();
                return Err(WindowError::RowWidth {
                    time: row.time,
                    found,
                    expected: self.channels,
                });
            }
            previous = row.time;
            if let Ok(step) = usize::try_from(offset / self.period - 1) {
                put(step, row);
            }
        }
        Ok(previous == end && steps > 0)
    }

    fn check_missing(&self, window: &[f64], origin: Millis) -> Result<(), WindowError> {
        let width = self.inputs.len();
        let missing: Vec<usize> = (0..width)
            .map(|f| {
                window
                    .iter()
                    .skip(f)
                    .step_by(width)
                    .filter(|v| v.is_nan())
                    .count()
            })
            .collect();
        for (f, &missing) in missing.iter().enumerate() {
            let allowed = match self.preset {
                Preset::Classic => 0,
                Preset::Default if f == self.target => self.lookback / 2,
                Preset::Default => self.lookback,
            };
            if missing > allowed {
                let channel = self.inputs[f].clone();
                return Err(WindowError::Missing {
                    channel,
                    missing,
                    lookback: self.lookback,
                    allowed,
                    origin,
                });
            }
        }
        let total: usize = missing.iter().sum();
        if 2 * total > window.len() {
            let worst = (0..width).max_by_key(|f| missing[*f]).unwrap_or(0);
            let channel = self.inputs[worst].clone();
            return Err(WindowError::MostlyMissing {
                channel,
                missing: total,
                total: window.len(),
                origin,
            });
        }
        Ok(())
    }
}

/// [`WindowBuilder::at`] for a single use.
///
/// # Errors
/// [`WindowError`], which names what is missing.
pub fn window_at(
    spec: &ForecasterSpec,
    rows: &[FeatureRow],
    origin: Millis,
) -> Result<Window, WindowError> {
    WindowBuilder::new(spec)?.at(rows, origin)
}

/// [`WindowBuilder::history`] for a single use.
///
/// # Errors
/// [`WindowError`] for an origin off the grid, rows out of order or of the wrong width.
pub fn history(
    spec: &ForecasterSpec,
    rows: &[FeatureRow],
    origin: Millis,
    steps: usize,
) -> Result<Vec<f64>, WindowError> {
    WindowBuilder::new(spec)?.history(rows, origin, steps)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    const H: Millis = 3_600_000;

    fn rows(values: &[(Millis, f64, f64)]) -> Vec<FeatureRow> {
        values
            .iter()
            .map(|&(t, a, b)| FeatureRow {
                time: t * H,
                values: vec![a, b],
            })
            .collect()
    }

    fn full() -> Vec<FeatureRow> {
        rows(
            &(1..=10)
                .map(|t| (t, t as f64, -(t as f64)))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_window_ends_at_its_origin_and_the_future_begins_behind_it() {
        let s = spec("1h", &["a", "b"], "a");
        let w = window_at(&s, &full(), 8 * H).unwrap();
        assert_eq!(w.window, [5.0, -5.0, 6.0, -6.0, 7.0, -7.0, 8.0, -8.0]);
        assert_eq!(w.future.len(), 2 * w.future_width);
        assert_eq!(
            w.future[..w.future_width],
            crate::calendar::future_features(&s, 9 * H)[..]
        );
        let b = WindowBuilder::new(&s).unwrap();
        assert_eq!(b.actuals(&full(), 8 * H).unwrap(), [9.0, 10.0]);
        assert!(b.actuals(&full(), 9 * H).unwrap()[1].is_nan());
        assert_eq!(
            history(&s, &full(), 3 * H, 5).unwrap()[2..],
            [1.0, 2.0, 3.0]
        );
    }

    #[test]
    fn holes_are_missing_and_what_is_missing_is_named() {
        let s = spec("1h", &["a", "b"], "a");
        let holes = rows(&[(5, 5.0, 1.0), (7, 7.0, f64::INFINITY), (8, 8.0, 2.0)]);
        let w = window_at(&s, &holes, 8 * H).unwrap();
        assert!(w.window[2].is_nan() && w.window[5].is_nan());
        let unordered = rows(&[(5, 5.0, 1.0), (8, 8.0, 2.0), (6, 0.0, 0.0)]);
        assert!(matches!(
            window_at(&s, &unordered, 8 * H),
            Err(WindowError::Rows { .. })
        ));
        let b = WindowBuilder::new(&s).unwrap();
        assert_eq!(b.observed(&holes, 8 * H), Ok(0.75));
        assert_eq!(b.observed(&full(), 2 * H), Ok(0.5));
        let few = rows(&[(8, 8.0, 2.0)]);
        match window_at(&s, &few, 8 * H) {
            Err(WindowError::Missing {
                channel,
                missing: 3,
                allowed: 2,
                ..
            }) => assert_eq!(channel, "a"),
            other => panic!("{other:?}"),
        }
        let others = rows(&[(6, 6.0, f64::NAN), (7, 7.0, f64::NAN), (8, 8.0, f64::NAN)]);
        match window_at(&s, &others, 8 * H) {
            Err(WindowError::MostlyMissing {
                channel,
                missing: 5,
                total: 8,
                ..
            }) => assert_eq!(channel, "b"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_classic_preset_takes_no_hole_and_knows_no_target_among_its_inputs() {
        let mut s = spec("1h", &["a"], "b");
        s.preset = Preset::Classic;
        s.horizon = 1;
        let w = window_at(&s, &full(), 8 * H).unwrap();
        assert_eq!(w.window, [5.0, 6.0, 7.0, 8.0]);
        let mut holes = full();
        holes.remove(6);
        assert!(matches!(
            window_at(&s, &holes, 8 * H),
            Err(WindowError::Missing { missing: 1, .. })
        ));
        assert_eq!(
            WindowBuilder::new(&s)
                .unwrap()
                .actuals(&full(), 8 * H)
                .unwrap(),
            [-9.0]
        );
    }

    #[test]
    fn wrong_calls_are_errors_and_not_windows() {
        let s = spec("1h", &["a", "b"], "a");
        assert!(matches!(
            window_at(&s, &full(), 8 * H + 1),
            Err(WindowError::OffGrid { .. })
        ));
        assert!(matches!(
            window_at(&s, &full(), Millis::MAX),
            Err(WindowError::OffGrid { .. })
        ));
        assert!(matches!(
            window_at(&s, &full(), 11 * H),
            Err(WindowError::NoRowAtOrigin { .. })
        ));
        assert!(matches!(
            window_at(&s, &[], 11 * H),
            Err(WindowError::NoRowAtOrigin { .. })
        ));
        let mut doubled = full();
        doubled.insert(6, doubled[6].clone());
        assert!(matches!(
            window_at(&s, &doubled, 8 * H),
            Err(WindowError::Rows { .. })
        ));
        let mut narrow = full();
        narrow[7].values.pop();
        assert!(matches!(
            window_at(&s, &narrow, 8 * H),
            Err(WindowError::RowWidth {
                found: 1,
                expected: 2,
                ..
            })
        ));
    }
}
