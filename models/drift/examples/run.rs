//! Run times for `cargo xtask bench drift`: owns the made processes and how often the detector alarms on them, never a goal.
//!
//! `run REFERENCES [ROWS]` learns that many references of ROWS rows of each process (8,760 without), asks for two run times,
//! and prints process, asked run time, and the quartiles of the actual one over it, measured on fresh rows of the same
//! process; and how soon a step of the series by one of its deviations is found (median rows).

#[path = "../src/window/random.rs"]
mod splitmix;

use std::f64::consts::TAU;
use std::hint::black_box;
use std::time::Instant;

use fieldcast_drift::run::{RunMonitor, RunOptions, RunReference};
use splitmix::Random;

/// Run times that are asked for.
const ASKED: [f64; 2] = [240.0, 720.0];
/// Alarms that a run time is measured by, about.
const ALARMS: f64 = 200.0;
/// Rows that a step is looked for.
const STEP: usize = 2_000;

/// Student's t with three degrees of freedom.
fn t3(random: &mut Random) -> f64 {
    let squares: f64 = (0..3).map(|_| random.normal().powi(2)).sum();
    random.normal() / (squares / 3.0).sqrt()
}

/// A made process: weights of its past, its season, its innovations and what is read of it.
struct Process {
    name: &'static str,
    past: [f64; 2],
    season: usize,
    heavy: bool,
    read: fn(f64) -> f64,
    /// Deviation of what is read.
    deviation: f64,
}

fn plain(x: f64) -> f64 {
    x
}

const fn process(name: &'static str, past: [f64; 2], deviation: f64) -> Process {
    Process {
        name,
        past,
        season: 0,
        heavy: false,
        read: plain,
        deviation,
    }
}

fn processes() -> Vec<Process> {
    vec![
        process("iid", [0.0, 0.0], 1.0),
        process("ar_0.5", [0.5, 0.0], 1.155),
        process("ar_0.9", [0.9, 0.0], 2.294),
        Process {
            season: 24,
            ..process("sine_ar_0.9", [0.9, 0.0], 2.294)
        },
        process("ar2", [1.2, -0.4], 1.969),
        Process {
            heavy: true,
            ..process("ar_0.9_t3", [0.9, 0.0], 3.974)
        },
        Process {
            read: |x| (0.3 * x).exp(),
            ..process("ar_0.9_lognormal", [0.9, 0.0], 0.988)
        },
    ]
}

/// A run of a process.
struct Source<'a> {
    process: &'a Process,
    random: Random,
    past: [f64; 2],
    row: i64,
}

impl<'a> Source<'a> {
    fn new(process: &'a Process, seed: u64) -> Self {
        let mut source = Self {
            process,
            random: Random(seed.wrapping_mul(0x1234_5678_9ABC_DEF1) ^ 0xA11),
            past: [0.0; 2],
            row: 0,
        };
        for _ in 0..300 {
            source.next();
        }
        source
    }

    fn next(&mut self) -> (i64, f64) {
        let innovation = if self.process.heavy {
            t3(&mut self.random)
        } else {
            self.random.normal()
        };
        let [a, b] = self.process.past;
        let x = a * self.past[0] + b * self.past[1] + innovation;
        self.past = [x, self.past[0]];
        self.row += 1;
        let season = self.process.season.max(1) as f64;
        let wave = if self.process.season > 1 {
            5.0 * (self.row as f64 / season * TAU).sin()
        } else {
            0.0
        };
        (self.row, (self.process.read)(x) + wave)
    }
}

/// The actual run time over the one asked for, and the rows until a step is found.
fn measure(process: &Process, rows: usize, asked: f64, seed: u64) -> Option<(f64, f64)> {
    let mut source = Source::new(process, seed);
    let first = source.row + 1;
    let values: Vec<f64> = (0..rows).map(|_| source.next().1).collect();
    let options = RunOptions {
        run_length: asked,
        season: process.season,
        seed,
        ..RunOptions::default()
    };
    let reference = match RunReference::fit(&values, first, &options) {
        Ok(reference) => reference,
        Err(problem) => {
            eprintln!("{}: {problem}", process.name);
            return None;
        }
    };
    let mut monitor = RunMonitor::default();
    let (mut alarms, mut judged) = (0.0, 0.0);
    while judged < ALARMS * asked {
        let (row, value) = source.next();
        alarms += f64::from(u8::from(monitor.update(&reference, row, value).is_some()));
        judged += 1.0;
    }
    monitor.restart();
    let found = (0..STEP).find(|_| {
        let (row, value) = source.next();
        let moved = value + process.deviation;
        monitor.update(&reference, row, moved).is_some()
    });
    Some((judged / alarms / asked, found.unwrap_or(STEP) as f64))
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len().max(1) - 1) as f64;
    sorted.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds an update on a season of 24 and one lag.
fn cost() -> Option<f64> {
    let all = processes();
    let process = all.iter().find(|p| p.season > 0)?;
    let mut source = Source::new(process, 1);
    let first = source.row + 1;
    let values: Vec<f64> = (0..8_760).map(|_| source.next().1).collect();
    let options = RunOptions {
        season: process.season,
        ..RunOptions::default()
    };
    let reference = RunReference::fit(&values, first, &options).ok()?;
    let fresh: Vec<(i64, f64)> = (0..1_000_000).map(|_| source.next()).collect();
    let mut monitor = RunMonitor::default();
    let began = Instant::now();
    for (row, value) in &fresh {
        black_box(monitor.update(&reference, *row, *value));
    }
    Some(began.elapsed().as_secs_f64() * 1e9 / fresh.len() as f64)
}

fn main() {
    let mut words = std::env::args().skip(1).filter_map(|w| w.parse().ok());
    let references: u64 = words.next().unwrap_or(200);
    let rows = words.next().unwrap_or(8_760) as usize;
    for process in processes() {
        for asked in ASKED {
            let seeds = 1..=references;
            let all: Vec<(f64, f64)> = seeds
                .filter_map(|seed| measure(&process, rows, asked, seed))
                .collect();
            let sorted = |of: fn(&(f64, f64)) -> f64| {
                let mut values: Vec<f64> = all.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values
            };
            let (ratios, steps) = (sorted(|a| a.0), sorted(|a| a.1));
            println!(
                "{} {asked} {:.3} {:.3} {:.3} {:.0}",
                process.name,
                quantile(&ratios, 0.25),
                quantile(&ratios, 0.5),
                quantile(&ratios, 0.75),
                quantile(&steps, 0.5)
            );
        }
    }
    if let Some(nanoseconds) = cost() {
        println!("cost {nanoseconds:.1} {}", size_of::<RunMonitor>());
    }
}
