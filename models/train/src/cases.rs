//! The windows that a span of data can be judged on: owns which they are and makes one at a time, never a forecast or a score.

use std::borrow::Cow;

use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Window, WindowBuilder};

use crate::TrainError;
use crate::data::{Panel, TrainingData};
use crate::scales::Scales;

/// One forecast to be made and what then happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Index of the device's series.
    pub series: usize,
    /// The model's input.
    pub window: Window,
    /// Share of the lookback in which the target was observed.
    pub observed: f64,
    /// `[H]`, raw units, NaN where missing.
    pub actual: Vec<f64>,
    /// The unit of MASE for this series.
    pub mase_unit: f64,
}

/// Every case of a span, each made when it is asked for: the windows of a fleet overlap so much that all of them together take a
/// hundred times the memory of its rows.
#[derive(Debug)]
pub struct Cases<'a> {
    builder: Option<WindowBuilder>,
    /// Each series' rows, ascending, one a time.
    rows: Vec<Cow<'a, [FeatureRow]>>,
    units: Vec<f64>,
    /// Origins that may have a window, with their series, ascending.
    origins: Vec<(Millis, usize)>,
}

impl<'a> Cases<'a> {
    /// All windows of `data` with an origin in `[from, until)` and a horizon that ends before `until`, every `stride`-th origin.
    /// The unit of MASE is learnt from the rows before `from`.
    ///
    /// # Errors
    /// [`TrainError`] for data that does not fit the spec; no case at all is no error.
    pub fn new(
        spec: &ForecasterSpec,
        data: &'a TrainingData,
        (from, until): (Millis, Millis),
        stride: usize,
    ) -> Result<Self, TrainError> {
        let panel = Panel::new(spec, data)?;
        let stride = Millis::try_from(stride.max(1)).unwrap_or(Millis::MAX);
        let step = panel.period.saturating_mul(stride);
        let reach = panel.horizon as Millis * panel.period;
        let rows: Vec<_> = data.series.iter().map(|s| ascending(&s.rows)).collect();
        let mut origins = Vec::new();
        for (series, rows) in rows.iter().enumerate() {
            let inside = |t: &Millis| {
                *t >= from && t.saturating_add(reach) < until && t.rem_euclid(step) == 0
            };
            let times = rows.iter().map(|r| r.time).filter(inside);
            origins.extend(times.map(|t| (t, series)));
        }
        origins.sort_unstable();
        Ok(Self {
            builder: WindowBuilder::new(spec).ok(),
            units: Scales::new(&panel, from).mase,
            rows,
            origins,
        })
    }

    /// Those of some series only.
    #[must_use]
    pub(crate) fn of(mut self, series: &[usize]) -> Self {
        self.origins.retain(|(_, s)| series.contains(s));
        self
    }

    /// The cases in the order of their origins, at each in that of the series.
    pub fn iter(&self) -> impl Iterator<Item = Case> + '_ {
        let at = |(origin, series): &(Millis, usize)| self.at(*origin, *series);
        self.origins.iter().filter_map(at)
    }

    fn at(&self, origin: Millis, series: usize) -> Option<Case> {
        let (builder, rows) = (self.builder.as_ref()?, self.rows.get(series)?);
        let case = Case {
            series,
            window: builder.at(rows, origin).ok()?,
            observed: builder.observed(rows, origin).ok()?,
            actual: builder.actuals(rows, origin).ok()?,
            mase_unit: *self.units.get(series)?,
        };
        case.actual.iter().any(|a| !a.is_nan()).then_some(case)
    }
}

/// Rows in the order of their times; of two at one time the later in the list counts.
fn ascending(rows: &[FeatureRow]) -> Cow<'_, [FeatureRow]> {
    if rows.is_sorted_by(|a, b| a.time < b.time) {
        return Cow::Borrowed(rows);
    }
    let mut rows = rows.to_vec();
    rows.sort_by_key(|r| r.time);
    rows.reverse();
    rows.dedup_by_key(|r| r.time);
    rows.reverse();
    Cow::Owned(rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fixture;

    const DAY_MS: Millis = 86_400_000;

    #[test]
    fn cases_lie_inside_their_span_and_ascend() {
        let from = fixture::START + 20 * DAY_MS;
        let until = from + 3 * DAY_MS;
        let data = fixture::data(30, 2);
        let cases = Cases::new(&fixture::spec(), &data, (from, until), 6).unwrap();
        let cases: Vec<Case> = cases.iter().collect();
        let key = |c: &Case| (c.window.origin, c.series);
        assert!(cases.len() > 15 && cases.is_sorted_by(|a, b| key(a) < key(b)));
        let inside =
            |c: &Case| c.window.origin >= from && c.window.origin + 6 * fixture::HOUR_MS < until;
        assert!(
            cases
                .iter()
                .all(|c| inside(c) && c.window.origin % (6 * fixture::HOUR_MS) == 0)
        );
    }

    #[test]
    fn rows_in_any_order_and_given_twice_make_the_same_cases() {
        let span = (fixture::START, Millis::MAX);
        let made = |data: &TrainingData| -> Vec<Case> {
            let cases = Cases::new(&fixture::spec(), data, span, 1).unwrap();
            let all = cases.iter().map(|mut case| {
                // A missing value equals no other.
                let known = |v: &mut f64| *v = if v.is_nan() { -1e9 } else { *v };
                case.window.window.iter_mut().for_each(known);
                case.actual.iter_mut().for_each(known);
                case
            });
            all.collect()
        };
        let data = fixture::data(6, 2);
        let mut other = data.clone();
        for series in &mut other.series {
            let mut wrong = series.rows[60].clone();
            wrong.values[0] = 1e6;
            series.rows.reverse();
            series.rows.insert(0, wrong);
        }
        assert!(made(&data).len() > 50);
        assert_eq!(made(&data), made(&other));
    }

    #[test]
    fn an_absurd_stride_leaves_no_case_and_does_not_overflow() {
        let data = fixture::data(6, 2);
        let span = (fixture::START, Millis::MAX);
        let cases = Cases::new(&fixture::spec(), &data, span, usize::MAX).unwrap();
        assert_eq!(cases.iter().count(), 0);
    }
}
