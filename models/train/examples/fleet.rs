//! Alarms after confirmation on undrifted years, for `cargo xtask bench drift`: owns the resampled years, never a goal.
//!
//! A year's course and the hours of the week are fitted to each column of a public series; what they leave is drawn anew by the
//! stationary bootstrap (Politis and Romano, 1994; rows of all columns together, blocks of a week on average), so that
//! nothing can have changed. One drawn year is the reference, the next is judged week by week.

#[path = "../../drift/src/window/random.rs"]
mod splitmix;

use std::collections::BTreeSet;
use std::error::Error;
use std::f64::consts::TAU;

use fieldcast_drift::fleet::{Rules, Series, confirm, judge};
use fieldcast_train::multivariate::fleet as together;
use splitmix::Random;

const HOUR: i64 = 3_600_000;
const YEAR: usize = 365 * 24;
/// Years in which all columns are judged together as well.
const JOINT_YEARS: u64 = 3;
/// Mean length of a block, rows.
const BLOCK: f64 = 168.0;
/// 2017-01-02, a Monday: hours of the week begin with row 0.
const START: i64 = 1_483_315_200_000;

/// A column's course and what it leaves.
struct Column {
    name: String,
    hours: Vec<f64>,
    year: [f64; 4],
    left: Vec<f64>,
}

fn waves(row: usize) -> [f64; 4] {
    let turn = row as f64 / (365.2425 * 24.0) * TAU;
    [
        turn.cos(),
        turn.sin(),
        (2.0 * turn).cos(),
        (2.0 * turn).sin(),
    ]
}

impl Column {
    /// By backfitting: means of the week's hours, and one weight after the other of the year's waves.
    fn fit(name: &str, values: &[f64]) -> Self {
        let mut one = Self {
            name: name.to_owned(),
            hours: vec![0.0; 168],
            year: [0.0; 4],
            left: values.to_vec(),
        };
        for _ in 0..20 {
            let mut sums = vec![(0.0, 0.0); 168];
            for (row, left) in one.left.iter().enumerate() {
                let sum = &mut sums[row % 168];
                *sum = (sum.0 + left, sum.1 + 1.0);
            }
            for (hour, (sum, n)) in sums.iter().enumerate() {
                one.hours[hour] += sum / n;
            }
            for (row, left) in one.left.iter_mut().enumerate() {
                let (sum, n) = sums[row % 168];
                *left -= sum / n;
            }
            for wave in 0..4 {
                let (mut both, mut own) = (0.0, 0.0);
                for (row, left) in one.left.iter().enumerate() {
                    let w = waves(row)[wave];
                    (both, own) = (both + w * left, own + w * w);
                }
                one.year[wave] += both / own;
                for (row, left) in one.left.iter_mut().enumerate() {
                    *left -= both / own * waves(row)[wave];
                }
            }
        }
        one
    }

    fn at(&self, row: usize, left: f64) -> f64 {
        let year: f64 = waves(row).iter().zip(self.year).map(|(w, a)| w * a).sum();
        self.hours[row % 168] + year + left
    }
}

fn read(file: &str, names: &[&str]) -> Result<Vec<Column>, Box<dyn Error>> {
    let folder = std::env::var("FIELDCAST_DATA").map_err(
        |_| "FIELDCAST_DATA names no folder; set it to the one with the public data sets",
    )?;
    let text = std::fs::read_to_string(format!("{folder}/{file}"))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split(',').collect()).collect();
    let mut columns = Vec::new();
    for name in names {
        let at = header.iter().position(|h| h == name);
        let at = at.ok_or(format!("{file} has no column {name}"))?;
        let values: Result<Vec<f64>, _> = rows.iter().map(|r| r[at].parse()).collect();
        columns.push(Column::fit(name, &values?));
    }
    Ok(columns)
}

/// Row numbers of a drawn series.
fn drawn(rows: usize, count: usize, random: &mut Random) -> Vec<usize> {
    let mut at = 0;
    (0..count)
        .map(|i| {
            let anew = i == 0 || random.unit() < 1.0 / BLOCK;
            at = if anew {
                (random.unit() * rows as f64) as usize
            } else {
                (at + 1) % rows
            };
            at
        })
        .collect()
}

/// A series with all rows of the year up to the `until`-th.
fn recent(series: &Series, later: &[(i64, f64)], until: usize) -> Series {
    Series {
        recent: later[..until].to_vec(),
        ..series.clone()
    }
}

/// Alarms of one drawn year: sensors that have changed and had not a week before; and the same of all of them together.
/// The latter only where it is asked for: it takes minutes.
fn alarms(columns: &[Column], seed: u64, jointly: bool) -> Result<(usize, usize), Box<dyn Error>> {
    let mut random = Random(seed);
    let rows = drawn(columns[0].left.len(), 2 * YEAR, &mut random);
    let time = |row: usize| START + row as i64 * HOUR;
    let mut series: Vec<Series> = columns
        .iter()
        .map(|c| {
            let all = rows.iter().enumerate();
            let mut reference: Vec<(i64, f64)> = all
                .map(|(i, row)| (time(i), c.at(i, c.left[*row])))
                .collect();
            let recent = reference.split_off(YEAR);
            Series {
                device: "d".into(),
                sensor: c.name.clone(),
                reference,
                recent,
            }
        })
        .collect();
    let later: Vec<Vec<(i64, f64)>> = series.iter().map(|s| s.recent.clone()).collect();
    let rules = Rules::default();
    let (mut count, mut before) = (0, BTreeSet::new());
    let (mut joint, mut was) = (0, false);
    for week in 2..=52 {
        let end = time(YEAR + week * 168) - HOUR;
        for (one, all) in series.iter_mut().zip(&later) {
            one.recent = all[(week - 2) * 168..week * 168].to_vec();
        }
        let judged: Result<Vec<_>, _> = series.iter().map(|s| judge(s, end, &rules)).collect();
        let judged = judged.map_err(|s| format!("{} {}", s.sensor, s.reason))?;
        let verdict = confirm(&judged, Vec::new(), end, &rules);
        let now: BTreeSet<String> = verdict.changed.into_iter().map(|c| c.sensor).collect();
        count += now.difference(&before).count();
        before = now;
        if !jointly {
            continue;
        }
        // Only the weeks before the windows are its reference.
        let weeks: Vec<Series> = series
            .iter()
            .zip(&later)
            .map(|(s, all)| recent(s, all, week * 168))
            .collect();
        let asked = together::judge(&weeks, end, &rules).into_iter().collect();
        let is = !together::found(asked, &rules).is_empty();
        joint += usize::from(is && !was);
        was = is;
    }
    Ok((count, joint))
}

fn main() -> Result<(), Box<dyn Error>> {
    let years = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(10);
    for (name, file, columns) in [
        (
            "bike",
            "bike_sharing_hour.csv",
            &["cnt", "temp", "hum", "windspeed"][..],
        ),
        (
            "etth1",
            "ETTh1.csv",
            &["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"],
        ),
    ] {
        let columns = read(file, columns)?;
        let (mut each, mut joint) = (0, 0);
        for seed in 0..years {
            let (own, together) = alarms(&columns, seed + 1, seed < JOINT_YEARS)?;
            (each, joint) = (each + own, joint + together);
        }
        let a_month = |count: usize, years: u64| count as f64 / (12.0 * years as f64);
        println!(
            "{name} {:.4} {:.4}",
            a_month(each, years),
            a_month(joint, years.min(JOINT_YEARS))
        );
    }
    Ok(())
}
