//! Scores of what no graph holds: owns intervals that learn, plain ones, and the forest with such, never the arithmetic of a model.

use std::collections::{BTreeMap, VecDeque};

use fieldcast_baseline::Adaptive;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_onnx::ModelParams;

use crate::batch::Batcher;
use crate::calibrate::{conformal_offsets, order_statistic};
use crate::data::Panel;
use crate::evaluate::{Case, Cases, Tally};
use crate::forest::Forest;
use crate::samples::Parts;
use crate::scales::Scales;
use crate::{Prediction, TrainConfig, TrainError, predict};

/// Scores of the forecasts with intervals that learn, device by device; a step's actual value is known from its own time on.
pub(super) struct Following<'a> {
    levels: &'a [f64],
    period: Millis,
    devices: BTreeMap<usize, (Adaptive, VecDeque<Open>)>,
    pub(super) tally: Tally<'a>,
}

impl<'a> Following<'a> {
    pub(super) fn new(levels: &'a [f64], period: Millis) -> Self {
        Self {
            levels,
            period,
            devices: BTreeMap::new(),
            tally: Tally::new(levels),
        }
    }

    pub(super) fn add(&mut self, case: &Case, forecast: &Prediction) {
        let horizon = case.actual.len();
        let fresh = || (Adaptive::new(self.levels, horizon), VecDeque::new());
        let (state, open) = self.devices.entry(case.series).or_insert_with(fresh);
        for earlier in open.iter_mut() {
            earlier.learn(state, case.window.origin, self.period, self.levels.len());
        }
        open.retain(|earlier| earlier.learnt < horizon);
        let shown = Prediction {
            mean: forecast.mean.clone(),
            quantiles: state.applied(&forecast.quantiles),
        };
        self.tally.add(case, &shown);
        open.push_back(Open {
            origin: case.window.origin,
            actual: case.actual.clone(),
            quantiles: shown.quantiles,
            learnt: 0,
        });
    }
}

/// A forecast whose actual values have not all come.
struct Open {
    origin: Millis,
    actual: Vec<f64>,
    /// As they were shown.
    quantiles: Vec<f64>,
    /// Steps that have been learnt from.
    learnt: usize,
}

impl Open {
    fn learn(&mut self, state: &mut Adaptive, now: Millis, period: Millis, levels: usize) {
        let time = |step: usize| self.origin + (step as Millis + 1) * period;
        while self.learnt < self.actual.len() && time(self.learnt) <= now {
            let shown = &self.quantiles[self.learnt * levels..][..levels];
            state.learn(self.learnt, shown, self.actual[self.learnt]);
            self.learnt += 1;
        }
    }
}

/// Scores of the forecasts with the quantiles of the calibration part's residuals around the mean, step by step, in raw units.
pub(super) struct Plain<'a> {
    /// One list a step, one offset a level.
    offsets: Vec<Vec<f64>>,
    pub(super) tally: Tally<'a>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(
        spec: &'a ForecasterSpec,
        params: &ModelParams,
        calibration: &Cases<'_>,
    ) -> Result<Self, TrainError> {
        let levels = &spec.quantiles;
        let mut residuals = vec![Vec::new(); spec.horizon];
        for case in calibration.iter() {
            let forecast = predict(params, &case.window)?;
            let pairs = case.actual.iter().zip(&forecast.mean);
            for ((actual, mean), list) in pairs.zip(&mut residuals) {
                if !actual.is_nan() {
                    list.push(actual - mean);
                }
            }
        }
        let offsets = residuals.into_iter().map(|mut list| {
            list.sort_unstable_by(f64::total_cmp);
            let offset = |q: &f64| order_statistic(&list, *q);
            levels.iter().map(offset).collect()
        });
        Ok(Self {
            offsets: offsets.collect(),
            tally: Tally::new(levels),
        })
    }

    pub(super) fn add(&mut self, case: &Case, mut forecast: Prediction) {
        let rows = forecast.mean.iter().zip(&self.offsets);
        forecast.quantiles = rows
            .flat_map(|(mean, offsets)| offsets.iter().map(move |o| mean + o))
            .collect();
        self.tally.add(case, &forecast);
    }
}

/// Scores of the forest of the selection table, grown once more, with split-conformal intervals as those of the naive models.
pub(super) struct Grown<'a> {
    forest: Forest,
    levels: &'a [f64],
    /// `[H, Q]`
    offsets: Vec<f64>,
    pub(super) tally: Tally<'a>,
}

impl<'a> Grown<'a> {
    pub(super) fn new(
        spec: &'a ForecasterSpec,
        panel: &Panel,
        parts: &Parts,
        config: &TrainConfig,
    ) -> Result<Self, TrainError> {
        let levels = &spec.quantiles;
        let scales = Scales::new(panel, parts.split.select_from);
        let batcher = Batcher::new(panel, &scales);
        let beat = &mut || Ok(());
        let forest = Forest::grow(&batcher, &parts.train, config, beat)?;
        let outcomes = forest.outcomes(&batcher, &parts.calibrate, beat)?;
        Ok(Self {
            forest,
            levels,
            offsets: conformal_offsets(&outcomes, spec.horizon, levels),
            tally: Tally::new(levels),
        })
    }

    pub(super) fn add(&mut self, case: &Case) -> Result<(), TrainError> {
        let mean = self.forest.forecast(&case.window)?;
        let rows = mean.iter().zip(self.offsets.chunks(self.levels.len()));
        let quantiles = rows.flat_map(|(mean, row)| row.iter().map(move |o| mean + o));
        let quantiles = quantiles.collect();
        self.tally.add(case, &Prediction { mean, quantiles });
        Ok(())
    }
}
