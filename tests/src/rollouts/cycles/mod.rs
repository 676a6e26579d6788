//! The figure of years without a person: how often the loop closes by itself, and what the fleet's forecasts were worth beside
//! an oracle's; owns the figure's lines, neither the days nor the oracle.

mod fleet;
mod oracle;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fieldcast_sim::{DAY_MS, HOUR_MS, Period, SimSpec};

use super::bed::Bed;
use super::line;
use fleet::{Fleet, NAME};
use oracle::Errors;

/// Days that are imported before the first model is made: every season once.
const HISTORY_DAYS: u32 = 365;
const DEVICES: u32 = 2;
/// 2021-01-01, so that the years end before today: what lies ahead is no reading.
const START: i64 = 1_609_459_200_000;
/// Days after a change in which nothing could be known yet, or was being learnt.
const SETTLING_DAYS: i64 = 30;

/// Days after a change that say what the models of before are worth: the oracle knows the new world by then, and the fleet has no new
/// model yet.
const AFTER: std::ops::Range<i64> = 7..21;
/// Days before it that they are compared with.
const BEFORE_DAYS: i64 = 30;
/// A change calls for a cycle where errors grow by as much as the hub asks for before it confirms a drift.
const CALLS: f64 = 1.15;

/// How long and how restless the world is.
#[derive(Debug, Clone, Copy)]
pub struct Years {
    /// Days after the first year.
    pub days: u32,
    /// Days from one change of the world to the next.
    pub change_every: u32,
    /// The world.
    pub seed: u64,
    /// Most epochs of each training; 0: ridge alone.
    pub epochs: u32,
}

impl Default for Years {
    fn default() -> Self {
        Self {
            days: 4 * 365 + 1,
            change_every: 120,
            seed: 1,
            epochs: 20,
        }
    }
}

/// A world whose regime changes the first time a month after the first year.
fn world(years: Years) -> Result<SimSpec> {
    ensure!(
        years.change_every > 0,
        "--change-every must be at least 1 day"
    );
    let days = HISTORY_DAYS + years.days;
    let changes = (HISTORY_DAYS + 30..days).step_by(years.change_every as usize);
    let world = SimSpec {
        seed: years.seed,
        start: START,
        days,
        period: Period::Hour,
        devices: DEVICES,
        changes: changes.collect(),
    };
    world.validate()?;
    Ok(world)
}

pub(super) fn measure(bed: &mut Bed, years: Years) -> Result<()> {
    let world = world(years)?;
    let began = Instant::now();
    let mut fleet = Fleet::start(bed, &world, HISTORY_DAYS, years.epochs)?;
    println!(
        "a year of {DEVICES} devices is imported and learnt from, {:.0} s; the world changes on days {:?}",
        began.elapsed().as_secs_f64(),
        world.changes
    );
    for day in HISTORY_DAYS..world.days {
        fleet.live(bed, day)?;
        if day.is_multiple_of(100) {
            println!("day {day}: {} cycles until now", cycles(bed)?);
        }
    }
    fleet.settle(bed)?;
    println!(
        "{} days lived in {:.0} s",
        years.days,
        began.elapsed().as_secs_f64()
    );
    fleet.tell_all(bed)?;
    let cycles = cycles(bed)?;
    let oracle = oracle::errors(&world, HISTORY_DAYS)?;
    println!(
        "the oracle is done after {:.0} s",
        began.elapsed().as_secs_f64()
    );
    let (all, settled, around) = compare(bed, &world, &oracle)?;
    let changes = world.changes.len();
    let mut called = 0_u32;
    for (change, [before, after]) in world.changes.iter().zip(&around) {
        if before.count == 0.0 || after.count == 0.0 {
            println!("the change on day {change}: no device ran a bundle before or after it");
            continue;
        }
        let (was, is) = (before.fleet / before.oracle, after.fleet / after.oracle);
        called += u32::from(is >= CALLS * was);
        println!(
            "the change on day {change}: the fleet's error was {was:.2} times the oracle's and became {is:.2} times"
        );
    }
    line(
        "cycles",
        cycles as f64,
        "",
        &format!("of {changes} changes of the world: 10; 50"),
    );
    line(
        "cycles_called_for",
        f64::from(called),
        "",
        "changes after which the models of before were at least 1.15 times worse beside the oracle",
    );
    for (name, sums) in [("", all), ("_settled", settled)] {
        let unit = "";
        line(
            &format!("cycles_mae{name}"),
            sums.fleet / sums.count,
            unit,
            "of what the fleet forecast",
        );
        line(
            &format!("cycles_mae_oracle{name}"),
            sums.oracle / sums.count,
            unit,
            "of ridge retrained daily, told of each change",
        );
        line(
            &format!("cycles_mae_frozen{name}"),
            sums.frozen / sums.count,
            unit,
            "of ridge never retrained",
        );
        line(
            &format!("cycles_to_oracle{name}"),
            sums.fleet / sums.oracle,
            "x",
            "the oracle: aim 1.10",
        );
        line(
            &format!("cycles_to_frozen{name}"),
            sums.fleet / sums.frozen,
            "x",
            "never retrained",
        );
    }
    Ok(())
}

/// Times that errors were confirmed to have grown, a training followed from that, and its model became the champion of a rollout
/// that the training itself started: nobody said a word.
fn cycles(bed: &Bed) -> Result<u64> {
    bed.postgres.number(&format!(
        "SELECT count(DISTINCT d.job) FROM decisions d JOIN drift_reports r ON r.id = d.drift_report AND r.confirmed
         JOIN jobs j ON j.id = d.job AND j.status = 'succeeded'
         JOIN model_versions m ON m.forecaster = d.forecaster AND (m.lineage->>'training_run')::bigint = d.job
         JOIN rollouts o ON o.forecaster = m.forecaster AND o.model_version = m.version AND o.status = 'succeeded'
             AND o.created_by = 'training run ' || d.job
         WHERE d.forecaster = '{NAME}' AND d.decision = 'retrain'"
    ))
}

/// Sums of absolute errors over the same forecasts.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    fleet: f64,
    oracle: f64,
    frozen: f64,
    count: f64,
}

impl Sums {
    fn add(&mut self, fleet: f64, errors: &Errors, steps: f64) {
        self.fleet += fleet;
        self.oracle += errors.oracle;
        self.frozen += errors.frozen;
        self.count += steps;
    }
}

/// The errors of what devices forecast with the models they were given, over all days, over those without a recent change, and
/// before and after each change.
fn compare(
    bed: &Bed,
    world: &SimSpec,
    oracle: &[Vec<Errors>],
) -> Result<(Sums, Sums, Vec<[Sums; 2]>)> {
    let (mut all, mut settled) = (Sums::default(), Sums::default());
    let mut around = vec![[Sums::default(); 2]; world.changes.len()];
    for (device, errors) in (0..world.devices).zip(oracle) {
        let name = SimSpec::device_name(device);
        let demand: Vec<f64> = world.rows(device).map(|r| r.demand).collect();
        let query = format!(
            "SELECT DISTINCT ON (origin) (extract(epoch FROM origin) * 1000)::bigint, array_to_string(mean, ' ') FROM forecasts
             WHERE device = '{name}' AND forecaster = '{NAME}' AND made_by = 'bundle' AND NOT shadow ORDER BY origin, id"
        );
        bed.postgres.rows(&query, |row| {
            let (origin, mean) = row.split_once('\t').context("an origin and a mean")?;
            let at = usize::try_from((origin.parse::<i64>()? - world.start) / HOUR_MS)?;
            let mean = mean
                .split(' ')
                .map(str::parse)
                .collect::<Result<Vec<f64>, _>>()?;
            let Some((errors, actual)) = errors.get(at).zip(demand.get(at + 1..=at + mean.len()))
            else {
                return Ok(());
            };
            let own: f64 = mean.iter().zip(actual).map(|(m, a)| (m - a).abs()).sum();
            all.add(own, errors, mean.len() as f64);
            let day = at as i64 * HOUR_MS / DAY_MS;
            for (change, [before, after]) in world.changes.iter().zip(&mut around) {
                let since = day - i64::from(*change);
                if (-BEFORE_DAYS..0).contains(&since) {
                    before.add(own, errors, mean.len() as f64);
                } else if AFTER.contains(&since) {
                    after.add(own, errors, mean.len() as f64);
                }
            }
            let recent = |change: &u32| (0..SETTLING_DAYS).contains(&(day - i64::from(*change)));
            if !world.changes.iter().any(recent) {
                settled.add(own, errors, mean.len() as f64);
            }
            Ok(())
        })?;
    }
    ensure!(all.count > 0.0, "the fleet forecast nothing");
    Ok((all, settled, around))
}
