//! The loop in data time, without processes: device monitor, hub verdict, cut, fit and judge on generated worlds whose
//! changes are known. What the end-to-end test shows once with real processes holds here over several seeds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use fieldcast_drift::monitor::{ErrorCalibration, ErrorEvent, ErrorMonitor, RUN_DAYS};
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, WindowBuilder};
use fieldcast_hub::drift::later;
use fieldcast_hub::drift::verdict::{self, Decision, DeviceDays, LastRetrain, Rules};
use fieldcast_hub::judge::{self, Gate, Old};
use fieldcast_hub::training::{old, plan};
use fieldcast_sim::{DAY_MS, HOUR_MS, Period, SimSpec};
use fieldcast_train::{Series, TrainConfig, Trained, TrainingData, evaluate, fit, predict};

const SPEC: &str = "name = \"demand\"\ntarget = \"demand\"\ninputs = [\"temperature\", \"humidity\", \"demand\"]\n\
                    period = \"1h\"\nlookback = 48\nhorizon = 24\n";

struct World {
    spec: ForecasterSpec,
    start: Millis,
    devices: Vec<Vec<FeatureRow>>,
}

impl World {
    fn new(seed: u64, devices: u32, days: u32, changes: &[u32]) -> Self {
        let sim = SimSpec {
            seed,
            start: 1_672_531_200_000,
            days,
            period: Period::Hour,
            devices,
            changes: changes.to_vec(),
        };
        sim.validate().unwrap();
        let devices = (0..devices)
            .map(|d| {
                sim.rows(d)
                    .map(|r| FeatureRow {
                        time: r.time,
                        values: vec![r.temperature, r.humidity, r.demand],
                    })
                    .collect()
            })
            .collect();
        Self {
            spec: toml::from_str(SPEC).unwrap(),
            start: sim.start,
            devices,
        }
    }

    fn data(&self, until: Millis, onset: Option<Millis>) -> TrainingData {
        let series = self.devices.iter().enumerate().map(|(i, rows)| Series {
            device: format!("d{i}"),
            rows: rows.iter().filter(|r| r.time <= until).cloned().collect(),
            weight_from: onset,
        });
        TrainingData {
            series: series.collect(),
        }
    }
}

/// Ridge alone: here the statistics around the model are tested, not the model.
fn quick() -> TrainConfig {
    TrainConfig {
        max_epochs: 0,
        ..TrainConfig::default()
    }
}

/// What happened on a day of the story.
#[derive(Debug, Clone, PartialEq)]
enum Beat {
    Raised { device: usize, onset: i64 },
    Checked(String),
    Rejected(String),
    RolledOut { version: u64, onset: i64 },
}

#[derive(Default)]
struct Story(Vec<(i64, Beat)>);

impl Story {
    fn tell(&mut self, beat: (i64, Beat)) {
        eprintln!("{}: {:?}", beat.0, beat.1);
        self.0.push(beat);
    }
}

struct Running {
    version: u64,
    trained: Trained,
    until: Millis,
    monitors: Vec<ErrorMonitor>,
    signals: Vec<Option<Millis>>,
    /// By device: origin -> mean.
    forecasts: Vec<BTreeMap<Millis, Vec<f64>>>,
}

fn running(version: u64, trained: Trained, until: Millis, devices: usize) -> Running {
    let c = &trained.calibration;
    eprintln!("version {version}: {} {:?}", trained.chosen, c.daily);
    let monitors = (0..devices)
        .map(|d| {
            let calibration = ErrorCalibration {
                mean_log: c.daily.levels[&format!("d{d}")],
                std_log: c.daily.std,
                lag1: c.daily.lag1,
                days: c.daily.days as u32,
                level_std: 0.0,
            };
            ErrorMonitor::new(&calibration, RUN_DAYS).unwrap()
        })
        .collect();
    Running {
        version,
        trained,
        until,
        monitors,
        signals: vec![None; devices],
        forecasts: vec![BTreeMap::new(); devices],
    }
}

fn train(world: &World, data: &TrainingData, until: Millis, config: &TrainConfig) -> Trained {
    let mut own = TrainingData {
        series: data.series.clone(),
    };
    for s in &mut own.series {
        s.rows.retain(|r| r.time <= until);
    }
    fit(
        &world.spec,
        &own,
        config,
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap()
}

/// Plays `world` from day `history` to `end`; days counted from the world's start.
fn play(world: &World, history: i64, end: i64) -> Vec<(i64, Beat)> {
    let day = |n: i64| world.start + n * DAY_MS;
    let n = world.devices.len();
    let builder = WindowBuilder::new(&world.spec).unwrap();
    let rules = Rules::default();
    let span = (world.start, day(history));
    let cut = plan::cut(span, None, None, (HOUR_MS, DAY_MS), quick());
    let first = train(
        world,
        &world.data(day(history), None),
        day(history),
        &cut.config,
    );
    let mut unseen = cut.config.unseen;
    let mut run = running(1, first, day(history), n);
    let mut story = Story::default();
    let (mut last_retrain, mut checked) = (None, i64::MIN / 2);
    for today in history..end {
        for d in 0..n {
            let rows = &world.devices[d];
            for hour in 0..24 {
                let origin = day(today) + hour * HOUR_MS;
                let at = ((origin - world.start) / HOUR_MS) as usize;
                let window = builder.at(&rows[at - 60..=at], origin).unwrap();
                run.forecasts[d]
                    .insert(origin, predict(&run.trained.params, &window).unwrap().mean);
            }
            let (mut sum, mut count) = (0.0, 0.0);
            for hour in 1..=24 {
                let time = day(today) + hour * HOUR_MS;
                let Some(row) = rows.get(((time - world.start) / HOUR_MS) as usize) else {
                    continue;
                };
                for h in 1..=24 {
                    if let Some(mean) = run.forecasts[d].get(&(time - h * HOUR_MS)) {
                        sum += (mean[h as usize - 1] - row.values[2]).abs();
                        count += 1.0;
                    }
                }
            }
            if count == 0.0 {
                continue;
            }
            match run.monitors[d].update(day(today + 1), sum / count) {
                Some(ErrorEvent::Raised(s)) => {
                    run.signals[d] = Some(s.onset);
                    story.tell((
                        today,
                        Beat::Raised {
                            device: d,
                            onset: (s.onset - world.start) / DAY_MS,
                        },
                    ));
                }
                Some(ErrorEvent::Cleared { .. }) => run.signals[d] = None,
                None => {}
            }
        }
        let now = day(today + 1);
        let Some(onset) = run.signals.iter().flatten().min().copied() else {
            continue;
        };
        if now - checked < DAY_MS {
            continue;
        }
        checked = now;
        let devices: Vec<DeviceDays> = (0..n)
            .map(|d| daily(world, &run, d, onset - 90 * DAY_MS, now))
            .collect();
        let judged = verdict::verdict(onset, &devices, &run.trained.calibration.daily, &rules);
        let judged = later::newest(judged, &devices, &run.trained.calibration.daily, &rules);
        let decision = verdict::decide(&judged, now, last_retrain, &rules);
        if decision != Decision::Retrain {
            story.tell((
                today,
                Beat::Checked(format!("{decision:?} {}", judged.words)),
            ));
            continue;
        }
        last_retrain = Some(LastRetrain {
            at: now,
            crowned: false,
        });
        let onset = judged.onset;
        let data = world.data(now, Some(onset));
        let base = TrainConfig {
            seed: run.version + 1,
            ..quick()
        };
        let cut = plan::cut(
            (world.start, now),
            Some(onset),
            Some(run.until),
            (HOUR_MS, DAY_MS),
            base,
        );
        let mut trained = train(world, &data, cut.train_until, &cut.config);
        let late = evaluate::cases(
            &world.spec,
            &data,
            (trained.split.calibrate_from, now + 1),
            1,
        )
        .unwrap();
        trained.calibration.daily =
            evaluate::daily_errors(&late, &data, HOUR_MS, |w| predict(&trained.params, w)).unwrap();
        let from = cut.holdout_from.unwrap();
        let cases = evaluate::cases(&world.spec, &data, (from, now + 1), 1).unwrap();
        let score = |p: &Trained| {
            evaluate::backtest(&cases, &world.spec.quantiles, |w| predict(&p.params, w)).unwrap()
        };
        let (old, new) = (score(&run.trained), score(&trained));
        let losses = |s: &evaluate::Scores| s.origin_losses.iter().map(|l| l.1).collect::<Vec<_>>();
        let shared = old::shared(&unseen, &cut.config.unseen);
        assert!(
            shared.len() > 2,
            "four quarters of the first year are kept: {shared:?}"
        );
        let mut older = [Vec::new(), Vec::new(), Vec::new()];
        for span in &shared {
            let cases = evaluate::cases(&world.spec, &data, *span, 1).unwrap();
            older[2].extend(old::naive(&world.spec, &data, &cases));
            for (i, model) in [&run.trained, &trained].into_iter().enumerate() {
                let scores = evaluate::backtest(&cases, &world.spec.quantiles, |w| {
                    predict(&model.params, w)
                });
                older[i].extend(losses(&scores.unwrap()));
            }
        }
        let eighty = |s: &evaluate::Scores| {
            let found = s.intervals.iter().find(|i| i.lower == 0.1);
            found.map(|i| i.coverage)
        };
        let [champion, challenger, naive] = &older;
        let v = judge::verdict(
            &losses(&old),
            &losses(&new),
            world.spec.horizon,
            Gate::default(),
        )
        .with_coverage(eighty(&new), eighty(&old))
        .with_old(Old::Losses {
            champion,
            challenger,
            naive: Some(naive),
        });
        for rule in &v.rules {
            eprintln!("    {}: {:?}, {}", rule.rule, rule.outcome, rule.words);
        }
        if v.better {
            let version = run.version + 1;
            last_retrain = Some(LastRetrain {
                at: now,
                crowned: true,
            });
            run = running(version, trained, cut.train_until, n);
            unseen = cut.config.unseen;
            story.tell((
                today,
                Beat::RolledOut {
                    version,
                    onset: (onset - world.start) / DAY_MS,
                },
            ));
        } else {
            story.tell((
                today,
                Beat::Rejected(format!(
                    "onset {} {}",
                    (onset - world.start) / DAY_MS,
                    v.reason
                )),
            ));
        }
    }
    story.0
}

/// As the hub reads it: mean absolute error by UTC day of the origin, closed days only.
fn daily(world: &World, run: &Running, device: usize, onset: Millis, now: Millis) -> DeviceDays {
    let rows = &world.devices[device];
    let mut days: BTreeMap<Millis, (f64, f64)> = BTreeMap::new();
    for (origin, mean) in run.forecasts[device].range(onset..=now - DAY_MS) {
        let slot = days.entry(origin.div_euclid(DAY_MS) * DAY_MS).or_default();
        for (h, mean) in mean.iter().enumerate() {
            let at = ((origin - world.start) / HOUR_MS) as usize + 1 + h;
            if let Some(row) = rows.get(at) {
                *slot = (slot.0 + (mean - row.values[2]).abs(), slot.1 + 1.0);
            }
        }
    }
    let closed = (now - DAY_MS).div_euclid(DAY_MS) * DAY_MS;
    DeviceDays {
        device: format!("d{device}"),
        days: days
            .into_iter()
            .filter(|(d, _)| *d < closed)
            .map(|(d, (s, n))| (d, s / n))
            .collect(),
    }
}

/// `FIELDCAST_SEEDS=1,2,3` plays other worlds than the one of every run.
fn seeds(usual: u64) -> Vec<u64> {
    let Ok(list) = std::env::var("FIELDCAST_SEEDS") else {
        return vec![usual];
    };
    list.split(',').map(|s| s.trim().parse().unwrap()).collect()
}

#[test]
fn a_world_that_changes_twice_gets_a_better_model_each_time() {
    let (first, second, end) = (400, 470, 525);
    for seed in seeds(11) {
        eprintln!("seed {seed}");
        let world = World::new(seed, 2, end + 2, &[first, second]);
        let story = play(&world, 365, i64::from(end));
        let rolled_out = |change: u32, until: u32| {
            let found = story.iter().any(|(day, beat)| {
                let near = |onset: &i64| (onset - i64::from(change)).abs() <= 10;
                (i64::from(change)..i64::from(until)).contains(day)
                    && matches!(beat, Beat::RolledOut { onset, .. } if near(onset))
            });
            assert!(
                found,
                "seed {seed}: no better model after day {change}: {story:#?}"
            );
        };
        rolled_out(first, second);
        rolled_out(second, end);
    }
}

#[test]
fn a_world_that_stays_is_left_alone() {
    for seed in seeds(5) {
        eprintln!("seed {seed}");
        let world = World::new(seed, 2, 527, &[]);
        let story = play(&world, 365, 525);
        let retrained = |b: &Beat| matches!(b, Beat::RolledOut { .. } | Beat::Rejected(_));
        assert!(
            !story.iter().any(|(_, b)| retrained(b)),
            "seed {seed}: {story:#?}"
        );
    }
}
