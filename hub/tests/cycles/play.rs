//! The days of a made world: owns what happens on each of them and what is told of it, never how a challenger is made.

use std::collections::BTreeMap;

use fieldcast_drift::monitor::{ErrorCalibration, ErrorEvent, ErrorMonitor, RUN_DAYS};
use fieldcast_features::{Millis, WindowBuilder};
use fieldcast_hub::drift::later;
use fieldcast_hub::drift::rivals::{Loss, judge as beaten};
use fieldcast_hub::drift::verdict::{self, Decision, DeviceDays, LastRetrain, Rules};
use fieldcast_hub::training::plan;
use fieldcast_sim::{DAY_MS, HOUR_MS};
use fieldcast_train::{Trained, predict};

use crate::World;
use crate::challenge::{fresh, known, quick, train};

/// What happened on a day of the story.
#[derive(Debug, Clone, PartialEq)]
pub enum Beat {
    Raised {
        device: usize,
        onset: i64,
    },
    /// A version of before would have done better: since when, and why this is believed.
    Beaten(i64, String),
    Checked(String),
    Rejected(String),
    RolledOut {
        version: u64,
        onset: i64,
        /// It has the weights of a version of before.
        known: bool,
    },
}

#[derive(Default)]
struct Story(Vec<(i64, Beat)>);

impl Story {
    fn tell(&mut self, beat: (i64, Beat)) {
        eprintln!("{}: {:?}", beat.0, beat.1);
        self.0.push(beat);
    }
}

pub struct Running {
    pub version: u64,
    pub trained: Trained,
    pub until: Millis,
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

/// A version that was champion, and the world it was made for.
pub struct Before {
    pub version: u64,
    pub onset: Option<Millis>,
    pub trained: Trained,
    pub unseen: Vec<(Millis, Millis)>,
}

/// Plays `world` from day `history` to `end`; days counted from the world's start.
pub fn play(world: &World, history: i64, end: i64) -> Vec<(i64, Beat)> {
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
    let (mut past, mut onset_of_run) = (Vec::<Before>::new(), None);
    let mut losses: Vec<Loss> = Vec::new();
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
        losses.extend(rivals_of(world, &run, &past, onset_of_run, day(today - 1)));
        let versions: Vec<i64> = rivals(&past, onset_of_run)
            .map(|b| b.version as i64)
            .collect();
        let pairs = world.spec.block_pairs();
        let beaten = beaten(&losses, &versions, pairs, &rules);
        if let Some(found) = &beaten {
            let onset = (found.verdict.onset - world.start) / DAY_MS;
            story.tell((today, Beat::Beaten(onset, found.verdict.words.clone())));
        }
        let signal = run.signals.iter().flatten().min().copied();
        if (signal.is_none() && beaten.is_none()) || now - checked < DAY_MS {
            continue;
        }
        checked = now;
        let mut verdicts = Vec::new();
        if let Some(onset) = signal {
            let devices: Vec<DeviceDays> = (0..n)
                .map(|d| daily(world, &run, d, onset - 90 * DAY_MS, now))
                .collect();
            let promise = &run.trained.calibration.daily;
            let judged = verdict::verdict(onset, &devices, promise, &rules);
            verdicts.push((later::newest(judged, &devices, promise, &rules), rules));
        }
        let soon = Rules {
            min_new_days: rules.min_days,
            ..rules
        };
        verdicts.extend(beaten.map(|b| (b.verdict, soon)));
        let decided = verdicts.iter().find_map(|(judged, rules)| {
            let decision = verdict::decide(judged, now, last_retrain, rules);
            if decision == Decision::Retrain {
                return Some(judged.onset);
            }
            let words = format!("{decision:?} {}", judged.words);
            story.tell((today, Beat::Checked(words)));
            None
        });
        let Some(onset) = decided else { continue };
        last_retrain = Some(LastRetrain {
            at: now,
            crowned: false,
        });
        let data = world.data(now, Some(onset));
        let onset_day = (onset - world.start) / DAY_MS;
        let version = run.version + 1;
        let old = past.iter().filter(|b| b.onset != onset_of_run);
        let known = known(world, &data, (&run, &unseen), old, (onset, now));
        let tried = known.is_some();
        let (challenger, verdict) = match known {
            Some((challenger, verdict)) if verdict.better => (challenger, verdict),
            _ => fresh(world, &data, (&run, &unseen), (onset, now), tried),
        };
        if verdict.better {
            let before = Before {
                version: run.version,
                onset: onset_of_run,
                trained: run.trained.clone(),
                unseen: std::mem::replace(&mut unseen, challenger.unseen),
            };
            past.retain(|b| b.onset != before.onset);
            past.push(before);
            last_retrain = Some(LastRetrain {
                at: now,
                crowned: true,
            });
            onset_of_run = Some(onset);
            run = running(version, challenger.trained, challenger.until, n);
            losses.clear();
            story.tell((
                today,
                Beat::RolledOut {
                    version,
                    onset: onset_day,
                    known: challenger.known,
                },
            ));
        } else {
            let words = format!("onset {onset_day} {}", verdict.reason);
            story.tell((today, Beat::Rejected(words)));
        }
    }
    story.0
}

/// The versions of before that are asked: those of other worlds.
fn rivals(past: &[Before], own: Option<Millis>) -> impl Iterator<Item = &Before> {
    past.iter().rev().filter(move |b| b.onset != own).take(6)
}

/// How champion and versions of before did on one day's windows.
fn rivals_of(
    world: &World,
    run: &Running,
    past: &[Before],
    own: Option<Millis>,
    day: Millis,
) -> Vec<Loss> {
    let builder = WindowBuilder::new(&world.spec).unwrap();
    let rivals: Vec<&Before> = rivals(past, own).collect();
    let mut losses = Vec::new();
    for (d, rows) in world.devices.iter().enumerate() {
        let mut sums = vec![0.0; rivals.len() + 1];
        let mut steps = 0;
        for origin in (0..8).map(|i| day + 3 * i * HOUR_MS) {
            let at = ((origin - world.start) / HOUR_MS) as usize;
            let (Some(mean), Some(actual)) =
                (run.forecasts[d].get(&origin), rows.get(at + 1..=at + 24))
            else {
                continue;
            };
            let window = builder.at(&rows[at - 60..=at], origin).unwrap();
            let off = |mean: &[f64]| -> f64 {
                let pairs = mean.iter().zip(actual);
                pairs.map(|(m, a)| (m - a.values[2]).abs()).sum()
            };
            sums[0] += off(mean);
            for (sum, rival) in sums[1..].iter_mut().zip(&rivals) {
                *sum += off(&predict(&rival.trained.params, &window).unwrap().mean);
            }
            steps += 24;
        }
        if steps > 0 {
            sums.iter_mut().for_each(|s| *s /= f64::from(steps));
            losses.push(Loss {
                from: day,
                device: format!("d{d}"),
                steps,
                champion: sums[0],
                rivals: sums[1..].to_vec(),
            });
        }
    }
    losses
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
