//! What could be forecast at best by a linear model: owns the oracle's daily refitting on made data, never a process.
//!
//! The oracle is a ridge over window and calendar, one for each step ahead, refitted every midnight on all that was measured
//! until then. It is told which regime every day belongs to, also today: days of another one count little.

use anyhow::{Context, Result};
use fieldcast_baseline::ridge::NormalEquations;
use fieldcast_features::{FeatureRow, ForecasterSpec, WindowBuilder};
use fieldcast_sim::{HOUR_MS, SimSpec};

/// Regimes of the simulation; after the last comes the first again.
const REGIMES: usize = 3;
/// How much a day of another regime counts: enough to know the calendar before the first day of a new one is over.
const ELSEWHERE: f64 = 0.02;
const PENALTY: f64 = 1e-4;
const HOURS: usize = 24;

/// Absolute errors of a forecast, summed over its steps.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Errors {
    pub(super) oracle: f64,
    /// Of the model that was made before the first change, and never again.
    pub(super) frozen: f64,
}

impl Errors {
    fn add(&mut self, other: &Self) {
        self.oracle += other.oracle;
        self.frozen += other.frozen;
    }
}

/// A window with what every step shares of it, in units of the device.
struct Case {
    window: Vec<f64>,
    /// Calendar columns of each step.
    future: Vec<f64>,
    actual: Vec<f64>,
}

/// By device: a case for each hour, where there is one.
struct Cases {
    all: Vec<Vec<Option<Case>>>,
    scales: Vec<f64>,
    horizon: usize,
}

/// Errors by device and hour of the origin.
pub(super) fn errors(world: &SimSpec, history_days: u32) -> Result<Vec<Vec<Errors>>> {
    let spec: ForecasterSpec = toml::from_str(super::fleet::QUESTION)?;
    let cases = Cases::make(world, &spec)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let steps: Vec<usize> = (0..cases.horizon).collect();
    let mut sums = vec![vec![Errors::default(); world.days as usize * HOURS]; cases.all.len()];
    std::thread::scope(|scope| {
        let share = steps.len().div_ceil(threads);
        let running: Vec<_> = steps
            .chunks(share)
            .map(|own| {
                let cases = &cases;
                scope.spawn(move || {
                    own.iter()
                        .map(|step| cases.step(*step, world, history_days))
                        .collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        for thread in running {
            let done = thread.join().ok().context("a thread of the oracle died")?;
            for found in done? {
                let pairs = sums.iter_mut().flatten().zip(found.iter().flatten());
                pairs.for_each(|(sum, one)| sum.add(one));
            }
        }
        Ok(sums)
    })
}

impl Cases {
    fn make(world: &SimSpec, spec: &ForecasterSpec) -> Result<Self> {
        let builder = WindowBuilder::new(spec)?;
        let (mut all, mut scales) = (Vec::new(), Vec::new());
        for device in 0..world.devices {
            let rows: Vec<FeatureRow> = world
                .rows(device)
                .map(|r| FeatureRow {
                    time: r.time,
                    values: vec![
                        (r.temperature - 25.0) / 5.0,
                        (r.humidity - 60.0) / 15.0,
                        r.demand,
                    ],
                })
                .collect();
            let scale = rows.iter().map(|r| r.values[2]).sum::<f64>() / rows.len() as f64;
            let own = (0..rows.len()).map(|at| {
                let rows = rows.get((at + 1).checked_sub(spec.lookback)?..=at + spec.horizon)?;
                let origin = world.start + at as i64 * HOUR_MS;
                let mut window = builder.at(rows, origin).ok()?;
                window
                    .window
                    .iter_mut()
                    .skip(2)
                    .step_by(3)
                    .for_each(|v| *v /= scale);
                let actual = rows.iter().skip(spec.lookback).map(|r| r.values[2] / scale);
                Some(Case {
                    window: window.window,
                    future: window.future,
                    actual: actual.collect(),
                })
            });
            all.push(own.collect());
            scales.push(scale);
        }
        Ok(Self {
            all,
            scales,
            horizon: spec.horizon,
        })
    }

    /// Lives all days with the model of one step ahead.
    fn step(&self, step: usize, world: &SimSpec, history_days: u32) -> Result<Vec<Vec<Errors>>> {
        let regime = |day: u32| world.changes.iter().filter(|c| **c <= day).count() % REGIMES;
        let input = |case: &Case| {
            let width = case.future.len() / self.horizon;
            let calendar = case.future.iter().skip(step * width).take(width);
            case.window
                .iter()
                .chain(calendar)
                .copied()
                .collect::<Vec<f64>>()
        };
        let first = self
            .all
            .iter()
            .flatten()
            .flatten()
            .next()
            .context("no whole window")?;
        let mut equations = vec![NormalEquations::new(input(first).len(), 1); REGIMES];
        let mut errors = vec![vec![Errors::default(); world.days as usize * HOURS]; self.all.len()];
        let mut frozen = None;
        for day in 0..world.days {
            let hours = |day: u32| day as usize * HOURS..(day as usize + 1) * HOURS;
            if day >= history_days {
                let model = equations[regime(day)].solve(PENALTY)?;
                let frozen = frozen.get_or_insert_with(|| model.clone());
                for ((cases, errors), scale) in self.all.iter().zip(&mut errors).zip(&self.scales) {
                    for at in hours(day) {
                        let Some(case) = &cases[at] else { continue };
                        let x = input(case);
                        let off = |y: Vec<f64>| (y[0] - case.actual[step]).abs() * scale;
                        errors[at] = Errors {
                            oracle: off(model.predict(&x)?),
                            frozen: off(frozen.predict(&x)?),
                        };
                    }
                }
            }
            // What was forecast yesterday has its last actual value when today ends.
            let Some(yesterday) = day.checked_sub(1) else {
                continue;
            };
            if regime(yesterday) != regime(day) {
                continue;
            }
            for case in self
                .all
                .iter()
                .flat_map(|cases| &cases[hours(yesterday)])
                .flatten()
            {
                let (x, y) = (input(case), [case.actual[step]]);
                for (number, equations) in equations.iter_mut().enumerate() {
                    let weight = if number == regime(day) {
                        1.0
                    } else {
                        ELSEWHERE
                    };
                    equations.add(&x, &y, weight)?;
                }
            }
        }
        Ok(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fieldcast_sim::Period;

    #[test]
    fn told_of_a_change_it_follows_where_a_model_of_before_does_not() -> Result<()> {
        let world = SimSpec {
            seed: 3,
            start: 1_609_459_200_000,
            days: 70,
            period: Period::Hour,
            devices: 1,
            changes: vec![40],
        };
        let found = errors(&world, 30)?;
        let sum = |days: std::ops::Range<usize>| {
            let own = found[0][days.start * HOURS..days.end * HOURS].iter();
            own.fold(Errors::default(), |mut sum, one| {
                sum.add(one);
                sum
            })
        };
        assert_eq!(
            sum(0..30).oracle,
            0.0,
            "nothing is judged before it was learnt from"
        );
        let (before, after) = (sum(30..39), sum(55..68));
        assert!(
            before.oracle > 0.0 && before.oracle < 1.1 * before.frozen,
            "{before:?}"
        );
        assert!(after.oracle < 0.8 * after.frozen, "{after:?}");
        assert_eq!(sum(69..70).oracle, 0.0, "the last day has no whole horizon");
        Ok(())
    }
}
