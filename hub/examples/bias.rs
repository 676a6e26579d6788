//! What mean errors and coverage say of a change that absolute errors do not (decision 0036); owns the made worlds, no product code.
//!
//! Days of errors of a simple forecast (hours of the week, last week's level, one lag; 24 hours ahead) of the second half of public series
//! are drawn anew in runs of a week on average: sixty days calibrate, thirty go on as they were, then comes the change. Each week the newest
//! ninety days are judged by the hub's rules for what no device complains of.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement, not a product"
)]

use std::collections::BTreeMap;

use fieldcast_bundle::{DailyBias, DailyErrors};
use fieldcast_hub::drift::bias;
use fieldcast_hub::drift::verdict::{DeviceDays, Rules, verdict};
use fieldcast_sim::Stream;

const SERIES: [(&str, &[&str]); 2] = [
    (
        "ETTh1.csv",
        &["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"],
    ),
    (
        "bike_sharing_hour.csv",
        &["temp", "hum", "windspeed", "casual", "registered", "cnt"],
    ),
];
/// Errors plus a share of their deviation, or times a factor.
const CHANGES: [(&str, f64, f64); 10] = [
    ("nothing, a year", 0.0, 1.0),
    ("mean + 0.2 deviations", 0.2, 1.0),
    ("mean + 0.3", 0.3, 1.0),
    ("mean + 0.4", 0.4, 1.0),
    ("mean + 0.5", 0.5, 1.0),
    ("mean + 0.6", 0.6, 1.0),
    ("mean + 0.8", 0.8, 1.0),
    ("errors x 1.3", 0.0, 1.3),
    ("errors x 1.5", 0.0, 1.5),
    ("errors x 2", 0.0, 2.0),
];
const DRAWN: usize = 60;
const AHEAD: usize = 24;
const WEEK: usize = 168;
const DAY_MS: i64 = 86_400_000;
/// What one miss widens an interval by, and a quarter of it what lies inside narrows it by: about the rate of decision 0009.
const WIDENS: f64 = 0.011;

#[derive(Clone, Copy, Default)]
struct Day {
    absolute: f64,
    mean: f64,
    /// Share outside of the 80 % interval, as calibrated and as adapted.
    outside: [f64; 2],
}

fn column(file: &str, name: &str) -> Vec<f64> {
    let dir =
        std::env::var("FIELDCAST_DATA").expect("FIELDCAST_DATA names the directory of the data");
    let text = std::fs::read_to_string(format!("{dir}/{file}")).unwrap();
    let mut lines = text.lines();
    let at = lines.next().unwrap().split(',').position(|n| n == name);
    lines
        .map(|l| l.split(',').nth(at.unwrap()).unwrap().parse().unwrap())
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Errors of each hour's forecast in the second half.
fn errors(y: &[f64]) -> Vec<[f64; AHEAD]> {
    let half = y.len() / 2;
    let usual: Vec<f64> = (0..WEEK)
        .map(|slot| {
            mean(
                &y[..half]
                    .iter()
                    .copied()
                    .skip(slot)
                    .step_by(WEEK)
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let left: Vec<f64> = (0..y.len()).map(|i| y[i] - usual[i % WEEK]).collect();
    let pairs = || left[..half].windows(2);
    let lag = pairs().map(|w| w[0] * w[1]).sum::<f64>() / pairs().map(|w| w[0] * w[0]).sum::<f64>();
    (half..y.len() - AHEAD)
        .map(|t| {
            let level = mean(&left[t - WEEK + 1..=t]);
            std::array::from_fn(|h| {
                left[t + 1 + h] - level - lag.powi(h as i32 + 1) * (left[t] - level)
            })
        })
        .collect()
}

fn days(errors: &[[f64; AHEAD]], ends: &[(f64, f64)], (add, times): (f64, f64)) -> Vec<Day> {
    let mut width = [1.0; AHEAD];
    let n = (24 * AHEAD) as f64;
    let one = |origins: &[[f64; AHEAD]]| {
        let mut day = Day::default();
        for (h, error) in origins.iter().flat_map(|o| o.iter().enumerate()) {
            let error = times * error + add;
            day.absolute += error.abs() / n;
            day.mean += error / n;
            for (outside, width) in day.outside.iter_mut().zip([1.0, width[h]]) {
                *outside += f64::from(error < width * ends[h].0 || error > width * ends[h].1) / n;
            }
            let missed = error < width[h] * ends[h].0 || error > width[h] * ends[h].1;
            width[h] *= if missed { WIDENS } else { -0.25 * WIDENS }.exp();
        }
        day
    };
    errors.chunks_exact(24).map(one).collect()
}

/// Level, deviation and lag-1 autocorrelation of calibration days, as a bundle has them.
fn like(values: &[f64]) -> (f64, f64, f64) {
    let (level, n) = (mean(values), values.len() as f64);
    let squares: f64 = values.iter().map(|v| (v - level).powi(2)).sum();
    let products: f64 = values
        .windows(2)
        .map(|w| (w[0] - level) * (w[1] - level))
        .sum();
    let raw = products / squares;
    let lag1 = ((raw + (1.0 + 4.0 * raw) / n) * n + 0.3 * 30.0) / (n + 30.0);
    (level, (squares / (n - 1.0)).sqrt(), lag1.clamp(0.0, 0.95))
}

fn of_one(days: &[(i64, f64)]) -> Vec<DeviceDays> {
    vec![DeviceDays {
        device: "d".into(),
        days: days.to_vec(),
    }]
}

fn drawn(stream: &mut Stream, from: usize, count: usize) -> Vec<usize> {
    let mut at = 0;
    let mut next = |first: bool| {
        let begins = first || stream.uniform() < 1.0 / 7.0;
        at = if begins {
            (stream.uniform() * from as f64) as usize
        } else {
            (at + 1) % from
        };
        at
    };
    (0..count).map(|i| next(i == 0)).collect()
}

/// Which of the rules find a change in days of which the first thirty are as they were.
fn found(quiet: &[Day], changed: &[Day], span: usize, stream: &mut Stream) -> [bool; 4] {
    let calibration: Vec<Day> = drawn(stream, quiet.len(), 60)
        .into_iter()
        .map(|i| quiet[i])
        .collect();
    let of = |value: &dyn Fn(&Day) -> f64| like(&calibration.iter().map(value).collect::<Vec<_>>());
    let promise = |(level, std, lag1): (f64, f64, f64)| DailyErrors {
        std,
        lag1,
        fleet_std: std,
        days: 60,
        levels: BTreeMap::from([("d".to_owned(), level)]),
        ..DailyErrors::default()
    };
    let absolute = of(&|d| d.absolute.ln());
    let scale = absolute.0.exp();
    let (level, std, lag1) = of(&|d| d.mean / scale);
    let levels = BTreeMap::from([("d".to_owned(), level)]);
    let errors = DailyErrors {
        bias: Some(DailyBias {
            std,
            lag1,
            fleet_std: std,
            levels,
        }),
        ..promise(absolute)
    };
    let rules = Rules {
        min_t: Rules::default().min_t_unasked,
        ..Rules::default()
    };
    // A share is judged as errors are, by its own size in place of a logarithm: a tenth more outside.
    let share = Rules {
        min_ratio: 0.1_f64.exp(),
        min_t: 5.2,
        ..rules
    };
    let outside = [0, 1].map(|i| promise(of(&|d| d.outside[i])));
    let at = drawn(stream, quiet.len(), 30 + span);
    let all: Vec<Day> = (0..at.len())
        .map(|k| if k < 30 { quiet[at[k]] } else { changed[at[k]] })
        .collect();
    let mut found = [false; 4];
    for week in 1..=all.len() / 7 {
        let span = (7 * week).saturating_sub(90)..7 * week;
        let series = |value: &dyn Fn(&Day) -> f64| -> Vec<DeviceDays> {
            of_one(
                &span
                    .clone()
                    .map(|k| (k as i64 * DAY_MS, value(&all[k])))
                    .collect::<Vec<_>>(),
            )
        };
        let (own, means) = (series(&|d| d.absolute), series(&|d| d.mean));
        found[0] |= verdict(0, &own, &errors, &rules).confirmed;
        found[1] |= bias::find(&own, &means, &errors).is_some();
        for i in 0..2 {
            let shares = series(&|d| d.outside[i].exp());
            found[2 + i] |= verdict(0, &shares, &outside[i], &share).confirmed;
        }
    }
    found
}

fn main() {
    println!(
        "| change | absolute errors | mean error | either | share outside, fixed | adapted | adapted and not by absolute errors |"
    );
    println!("|---|---|---|---|---|---|---|");
    let series: Vec<Vec<[f64; AHEAD]>> = SERIES
        .iter()
        .flat_map(|(file, names)| names.iter().map(|name| errors(&column(file, name))))
        .collect();
    let mut stream = Stream::new(36, 0);
    for (name, add, times) in CHANGES {
        let mut counts = [0_usize; 6];
        for errors in &series {
            let all: Vec<f64> = errors.iter().flatten().copied().collect();
            let ends: Vec<(f64, f64)> = (0..AHEAD)
                .map(|h| {
                    let mut own: Vec<f64> = errors.iter().map(|o| o[h]).collect();
                    own.sort_by(f64::total_cmp);
                    (own[own.len() / 10], own[own.len() * 9 / 10])
                })
                .collect();
            let quiet = days(errors, &ends, (0.0, 1.0));
            let changed = days(errors, &ends, (add * like(&all).1, times));
            let span = if (add, times) == (0.0, 1.0) { 365 } else { 56 };
            for _ in 0..DRAWN {
                let [absolute, mean, fixed, adapted] = found(&quiet, &changed, span, &mut stream);
                let told = [
                    absolute,
                    mean,
                    absolute || mean,
                    fixed,
                    adapted,
                    adapted && !absolute,
                ];
                counts
                    .iter_mut()
                    .zip(told)
                    .for_each(|(count, told)| *count += usize::from(told));
            }
        }
        let share = |count: &usize| {
            format!(
                "{:.1} %",
                100.0 * *count as f64 / (DRAWN * series.len()) as f64
            )
        };
        let shares: Vec<String> = counts.iter().map(share).collect();
        println!("| {name} | {} |", shares.join(" | "));
    }
}
