//! Intervals and error levels from data the model has not learnt from: owns split-conformal offsets, never a point forecast.

use std::collections::BTreeMap;

use fieldcast_bundle::manifest::MAX_LEVELS;
use fieldcast_bundle::{Calibration, DailyBias, DailyErrors, LevelCoverage};

use crate::baselines::Outcome;

const DAY_MS: i64 = 86_400_000;
/// What a side of an interval has of the other at least.
const LEAST_SIDE: f64 = 0.1;
/// So many of the least full windows do not say how full windows are.
const LEAST_FULL: f64 = 0.05;

/// Distance of each quantile from the outcomes' median, `[H, Q]` in their unit.
///
/// Split conformal (Vovk; Lei et al., 2018): an upper level q takes the ceil((n+1) q)-th smallest residual of its step, a
/// lower one the floor((n+1) q)-th, 0.5 the median. All levels come from one ordered sample, so they cannot cross.
/// A step without residuals takes those of all steps.
pub(crate) fn conformal_offsets(outcomes: &[Outcome], horizon: usize, levels: &[f64]) -> Vec<f64> {
    let residuals = |h: usize| {
        let of_step = |o: &Outcome| (o.actual[h] - o.median[h]) / o.unit[h];
        let mut list: Vec<f64> = outcomes
            .iter()
            .map(of_step)
            .filter(|r| r.is_finite())
            .collect();
        list.sort_unstable_by(f64::total_cmp);
        list
    };
    let mut all: Option<Vec<f64>> = None;
    let mut offsets = Vec::with_capacity(horizon * levels.len());
    for h in 0..horizon {
        let own = residuals(h);
        let list = if own.is_empty() {
            &*all.get_or_insert_with(|| {
                let mut list: Vec<f64> = (0..horizon).flat_map(residuals).collect();
                list.sort_unstable_by(f64::total_cmp);
                list
            })
        } else {
            &own
        };
        offsets.extend(levels.iter().map(|q| order_statistic(list, *q)));
    }
    offsets
}

/// Offsets `[H, Q]` made to lead outward from the median: none at 0.5, none above 0 below it, none below 0 above it.
///
/// The median is the model's own: moving it to the calibration part's would take a season's bias for a lasting one. The side that such
/// a bias leaves empty keeps a share of the other: a device widens sides by factors, and no factor would open a shut one.
pub(crate) fn outward(offsets: &[f64], levels: &[f64]) -> Vec<f64> {
    let side = |offset: f64, level: f64| match level.total_cmp(&0.5) {
        std::cmp::Ordering::Less => (-offset).max(0.0),
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Greater => offset.max(0.0),
    };
    let of_step = |offsets: &[f64]| {
        let sides: Vec<f64> = offsets
            .iter()
            .zip(levels)
            .map(|(o, l)| side(*o, *l))
            .collect();
        let opposite = |level: f64| levels.iter().position(|l| (l + level - 1.0).abs() < 1e-9);
        let open = |(i, level): (usize, &f64)| {
            let other = opposite(*level).map_or(0.0, |other| sides[other]);
            (level - 0.5).signum() * sides[i].max(LEAST_SIDE * other)
        };
        levels.iter().enumerate().map(open).collect::<Vec<f64>>()
    };
    let steps = offsets.chunks_exact(levels.len().max(1));
    steps.flat_map(of_step).collect()
}

/// The order statistic of split conformal at `level`; 0 without any residual.
pub(crate) fn order_statistic(sorted: &[f64], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    if level == 0.5 {
        return 0.5 * (sorted[last / 2] + sorted[sorted.len() / 2]);
    }
    let rank = (sorted.len() + 1) as f64 * level;
    let rank = if level > 0.5 {
        (rank - 1e-9).ceil()
    } else {
        (rank + 1e-9).floor()
    };
    sorted[(rank as usize).saturating_sub(1).min(last)]
}

/// Measures everything of [`Calibration`]; intervals' coverage has each half of the part judged by the other's offsets.
/// `devices` are the series' names.
pub(crate) fn calibration(
    outcomes: &[Outcome],
    horizon: usize,
    levels: &[f64],
    period: i64,
    devices: &[String],
) -> Calibration {
    let step = |h: usize, power: i32| {
        let errors = outcomes
            .iter()
            .map(|o| (o.actual[h] - o.mean[h]).abs())
            .filter(|e| e.is_finite());
        let (sum, count) = errors.fold((0.0, 0.0_f64), |(s, n), e| (s + e.powi(power), n + 1.0));
        sum / count.max(1.0)
    };
    Calibration {
        windows: outcomes.len(),
        residual_std: (0..horizon).map(|h| step(h, 2).sqrt()).collect(),
        residual_mae: (0..horizon).map(|h| step(h, 1)).collect(),
        daily: daily_errors(outcomes, period, devices),
        coverage: crossed_coverage(outcomes, horizon, levels),
        widths: None,
    }
}

/// [`Days`] of outcomes that are there already.
fn daily_errors(outcomes: &[Outcome], period: i64, names: &[String]) -> DailyErrors {
    let mut days = Days::default();
    for o in outcomes {
        days.add((o.series, o.time), period, o.observed, (&o.mean, &o.actual));
    }
    days.errors(names)
}

/// Sums over the errors of a day.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    absolute: f64,
    signed: f64,
    count: f64,
}

/// Sums behind [`DailyErrors`].
#[derive(Debug, Default)]
pub(crate) struct Days {
    /// Of the errors of each series' day.
    sums: BTreeMap<(usize, i64), Sums>,
    /// How full the windows were.
    observed: Vec<f64>,
}

impl Days {
    /// One forecast of a series: what was said at `time`, and what happened.
    pub(crate) fn add(
        &mut self,
        (series, time): (usize, i64),
        period: i64,
        observed: f64,
        (mean, actual): (&[f64], &[f64]),
    ) {
        self.observed.push(observed);
        for (h, (mean, actual)) in mean.iter().zip(actual).enumerate() {
            let error = actual - mean;
            if error.is_finite() {
                let time = time + (h as i64 + 1) * period;
                // A day ends with the row at its midnight, which holds what was measured before it.
                let day = (series, (time - 1).div_euclid(DAY_MS));
                let day = self.sums.entry(day).or_default();
                day.absolute += error.abs();
                day.signed += error;
                day.count += 1.0;
            }
        }
    }

    /// Days without any error are left out. Devices differ in scale, so each has a level of its own; deviation and
    /// autocorrelation are those of the days around it. The autocorrelation takes neighbouring days of one device and Kendall's
    /// (1954) correction. Of a fleet too large to name no level is told: each device then learns its own.
    pub(crate) fn errors(mut self, names: &[String]) -> DailyErrors {
        let by_device = |value: &dyn Fn(usize, &Sums) -> Option<f64>| {
            let mut devices: BTreeMap<usize, Vec<(i64, f64)>> = BTreeMap::new();
            for ((series, day), sums) in self.sums.iter().filter(|(_, s)| s.absolute > 0.0) {
                if let Some(value) = value(*series, sums) {
                    devices.entry(*series).or_default().push((*day, value));
                }
            }
            Around::of(&devices)
        };
        let errors = by_device(&|_, s| Some((s.absolute / s.count).ln()));
        let bias =
            by_device(&|series, s| Some(s.signed / s.count / errors.levels.get(&series)?.exp()));
        let shares = &mut self.observed;
        shares.sort_unstable_by(f64::total_cmp);
        let n = errors.levels.len().max(1) as f64;
        let mean = errors.levels.values().sum::<f64>() / n;
        let apart: f64 = errors.levels.values().map(|l| (l - mean).powi(2)).sum();
        DailyErrors {
            mean,
            between: (apart / (n - 1.0).max(1.0)).sqrt(),
            std: errors.std,
            lag1: errors.lag1,
            fleet_std: errors.fleet_std,
            days: errors.days,
            observed: (!shares.is_empty()).then(|| order_statistic(shares, LEAST_FULL)),
            levels: errors.named(names),
            bias: Some(DailyBias {
                std: bias.std,
                lag1: bias.lag1,
                fleet_std: bias.fleet_std,
                levels: bias.named(names),
            }),
        }
    }
}

/// What days of devices are like around each one's level.
struct Around {
    levels: BTreeMap<usize, f64>,
    std: f64,
    lag1: f64,
    fleet_std: f64,
    days: usize,
}

impl Around {
    fn of(devices: &BTreeMap<usize, Vec<(i64, f64)>>) -> Self {
        let (mut squares, mut products, mut count) = (0.0, 0.0, 0.0_f64);
        let mut levels = BTreeMap::new();
        let mut fleet: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
        for (series, days) in devices {
            let level = days.iter().map(|(_, v)| v).sum::<f64>() / days.len() as f64;
            levels.insert(*series, level);
            squares += days.iter().map(|(_, v)| (v - level).powi(2)).sum::<f64>();
            let neighbours = days.windows(2).filter(|w| w[1].0 == w[0].0 + 1);
            products += neighbours
                .map(|w| (w[0].1 - level) * (w[1].1 - level))
                .sum::<f64>();
            count += days.len() as f64;
            for (day, value) in days {
                let sum = fleet.entry(*day).or_default();
                *sum = (sum.0 + value - level, sum.1 + 1.0);
            }
        }
        let raw = if squares > 0.0 {
            products / squares
        } else {
            0.0
        };
        let own = fleet.len().max(1) as f64;
        let together: f64 = fleet.values().map(|(sum, n)| (sum / n).powi(2)).sum();
        Self {
            std: (squares / (count - levels.len().max(1) as f64).max(1.0)).sqrt(),
            lag1: shrunk(raw + (1.0 + 4.0 * raw) / own, own).clamp(0.0, 0.95),
            fleet_std: (together / (own - 1.0).max(1.0)).sqrt(),
            days: fleet.len(),
            levels,
        }
    }

    fn named(&self, names: &[String]) -> BTreeMap<String, f64> {
        if self.levels.len() > MAX_LEVELS {
            return BTreeMap::new();
        }
        let named = |(series, level): (&usize, &f64)| Some((names.get(*series)?.clone(), *level));
        self.levels.iter().filter_map(named).collect()
    }
}

/// A few days say next to nothing of an autocorrelation: a usual one counts as so many days more.
fn shrunk(lag1: f64, days: f64) -> f64 {
    const USUAL: f64 = 0.3;
    const WORTH: f64 = 30.0;
    (lag1 * days + USUAL * WORTH) / (days + WORTH)
}

fn crossed_coverage(outcomes: &[Outcome], horizon: usize, levels: &[f64]) -> Vec<LevelCoverage> {
    let (early, late) = outcomes.split_at(outcomes.len() / 2);
    let offsets = [
        conformal_offsets(late, horizon, levels),
        conformal_offsets(early, horizon, levels),
    ];
    let q = levels.len();
    let inside = |low: usize, high: usize| {
        let (mut hits, mut count) = (0.0, 0.0_f64);
        for (half, offsets) in [early, late].into_iter().zip(&offsets) {
            for o in half {
                for h in 0..horizon {
                    let residual = (o.actual[h] - o.median[h]) / o.unit[h];
                    if residual.is_finite() {
                        let range = offsets[h * q + low]..=offsets[h * q + high];
                        hits += f64::from(u8::from(range.contains(&residual)));
                        count += 1.0;
                    }
                }
            }
        }
        hits / count.max(1.0)
    };
    let pairs = (0..q / 2).filter(|i| (levels[*i] + levels[q - 1 - i] - 1.0).abs() < 1e-9);
    pairs
        .map(|i| LevelCoverage {
            lower: levels[i],
            upper: levels[q - 1 - i],
            coverage: inside(i, q - 1 - i),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn devices() -> Vec<String> {
        vec!["large".into(), "small".into()]
    }

    fn outcomes(n: usize) -> Vec<Outcome> {
        let mut rng = fieldcast_kernel::Rng::new(4);
        (0..n)
            .map(|i| {
                let residual = [f64::from(rng.normal()), 3.0 * f64::from(rng.normal())];
                Outcome {
                    series: 0,
                    time: i as i64 * DAY_MS / 24,
                    observed: 1.0,
                    unit: vec![2.0, 2.0],
                    mean: vec![10.0, 10.0],
                    median: vec![10.0, 10.0],
                    actual: residual.iter().map(|r| 10.0 + 2.0 * r).collect(),
                }
            })
            .collect()
    }

    #[test]
    fn ranks_are_those_of_split_conformal() {
        let sorted: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!(order_statistic(&sorted, 0.975), 98.0);
        assert_eq!(order_statistic(&sorted, 0.9), 90.0);
        assert_eq!(order_statistic(&sorted, 0.1), 10.0);
        assert_eq!(order_statistic(&sorted, 0.5), 50.0);
        assert_eq!(order_statistic(&sorted, 0.001), 1.0);
        assert_eq!(order_statistic(&[], 0.9), 0.0);
    }

    #[test]
    fn offsets_follow_each_steps_spread_and_never_cross() {
        let levels = [0.025, 0.1, 0.5, 0.9, 0.975];
        let offsets = conformal_offsets(&outcomes(4_000), 2, &levels);
        assert!(
            (offsets[4] - 1.96).abs() < 0.15 && (offsets[9] - 5.88).abs() < 0.4,
            "{offsets:?}"
        );
        assert!(
            offsets
                .chunks(5)
                .all(|row| row.windows(2).all(|w| w[0] <= w[1]))
        );
    }

    #[test]
    fn a_side_that_a_bias_leaves_empty_stays_open() {
        let levels = [0.025, 0.1, 0.5, 0.9, 0.975];
        let low = outward(&[-4.0, -3.0, -1.0, -0.2, 1.0], &levels);
        assert_eq!(low, [-4.0, -3.0, 0.0, 3.0 * LEAST_SIDE, 1.0]);
        let two_steps = [0.5, 1.0, 2.0, 5.0, 8.0, -2.0, -1.0, 0.0, 1.0, 2.0];
        let high = outward(&two_steps, &levels);
        assert_eq!(high[..5], [-0.8, -0.5, 0.0, 5.0, 8.0]);
        assert_eq!(high[5..], two_steps[5..]);
        assert_eq!(outward(&[0.3], &[0.9]), [0.3]);
    }

    #[test]
    fn coverage_is_what_the_levels_promise() {
        let result = calibration(
            &outcomes(4_000),
            2,
            &[0.1, 0.5, 0.9],
            DAY_MS / 24,
            &devices(),
        );
        assert_eq!(result.coverage.len(), 1);
        assert!(
            (result.coverage[0].coverage - 0.8).abs() < 0.03,
            "{result:?}"
        );
        assert!((result.residual_std[1] - 6.0).abs() < 0.2 && result.daily.std < 0.3);
    }

    #[test]
    fn a_device_of_another_scale_keeps_its_own_level() {
        let mut list = outcomes(2_000);
        for small in outcomes(2_000) {
            let shrink = |v: &f64| 10.0 + (v - 10.0) / 20.0;
            let actual = small.actual.iter().map(shrink).collect();
            list.push(Outcome {
                series: 1,
                actual,
                ..small
            });
        }
        let both = daily_errors(&list, DAY_MS / 24, &devices());
        let one = daily_errors(&list[..2_000], DAY_MS / 24, &devices());
        assert!((both.std - one.std).abs() < 1e-9 && (both.lag1 - one.lag1).abs() < 1e-9);
        assert_eq!(both.days, one.days);
        assert!((both.levels["large"] - both.levels["small"] - 20.0_f64.ln()).abs() < 1e-9);
        assert!((both.between - 20.0_f64.ln() / 2.0_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn mean_errors_are_told_in_usual_ones_around_each_devices_own() {
        let mut list = outcomes(4_000);
        let unbiased = daily_errors(&list, DAY_MS / 24, &devices()).bias.unwrap();
        assert!(unbiased.levels["large"].abs() < 0.05, "{unbiased:?}");
        // Forecasts that are too low by half of the mean absolute error, which that hardly changes.
        list.iter_mut()
            .flat_map(|o| &mut o.actual)
            .for_each(|a| *a += 1.6);
        let all = daily_errors(&list, DAY_MS / 24, &devices());
        let bias = all.bias.unwrap();
        let level = 1.6 / all.levels["large"].exp();
        assert!((bias.levels["large"] - level).abs() < 0.05, "{bias:?}");
        assert!((bias.std / unbiased.std - 1.0).abs() < 0.1 && bias.std < 0.5);
    }

    #[test]
    fn a_forecast_is_judged_where_its_window_is_as_full_as_those_of_before() {
        let least = |few: usize, share: f64| {
            let mut list = outcomes(1_000);
            list.iter_mut().take(few).for_each(|o| o.observed = share);
            daily_errors(&list, DAY_MS / 24, &devices()).least_observed()
        };
        assert_eq!(least(0, 1.0), 0.9);
        // Devices that joined lately, and a fleet that always misses some.
        assert_eq!(least(30, 0.5), 0.9);
        assert_eq!(least(200, 0.7), 0.7);
        assert_eq!(DailyErrors::default().least_observed(), 0.9);
    }

    #[test]
    fn of_too_large_a_fleet_no_level_is_named() {
        for (count, named) in [(MAX_LEVELS, MAX_LEVELS), (MAX_LEVELS + 1, 0)] {
            let names: Vec<String> = (0..count).map(|i| format!("d{i}")).collect();
            let mut list = Vec::new();
            for series in 0..count {
                let outcome = outcomes(1).remove(0);
                list.push(Outcome { series, ..outcome });
            }
            let daily = daily_errors(&list, DAY_MS / 24, &names);
            assert_eq!((daily.levels.len(), daily.days), (named, 1));
            assert!(daily.mean.is_finite());
        }
    }

    #[test]
    fn a_step_without_residuals_takes_those_of_the_others() {
        let mut list = outcomes(200);
        list.iter_mut().for_each(|o| o.actual[1] = f64::NAN);
        let offsets = conformal_offsets(&list, 2, &[0.5, 0.9]);
        assert_eq!(offsets[..2], offsets[2..]);
    }
}
