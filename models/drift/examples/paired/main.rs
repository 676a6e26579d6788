//! Verdicts on made rollouts for `cargo xtask bench rollout`: owns what is counted, never a goal.
//!
//! `paired SEED RUNS BLOCKS [BEGIN [END]]` prints, for each factor of the challenger's loss, pair of models and fleet whose name
//! begins and ends so: name, shares called superior and harmful, median blocks until each, the blocks that a fixed-sample test
//! needs, and the long-run variance of block differences over their variance. A challenger is watched for BLOCKS blocks, and its test
//! is looked at after each.

mod fleet;
#[path = "../../src/window/random.rs"]
mod splitmix;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldcast_drift::paired::{Settings, Test};
use fleet::{Fleet, Pair};

/// Blocks that the long-run variance looks back.
const LAGS: usize = 6;
/// Normal quantile of a power of 95 %.
const POWER: f64 = 1.644_854;

/// What was counted over the runs of a case.
#[derive(Default)]
struct Counts {
    superior: Vec<f64>,
    harmful: Vec<f64>,
    /// Of the block means over all runs: sum of differences, autocovariances, blocks.
    gain: f64,
    covariances: [f64; LAGS + 1],
    blocks: f64,
}

impl Counts {
    fn add(&mut self, fleet: &Fleet, seed: u64, blocks: usize, test: &Test) {
        let rows = fleet.rows(seed, blocks);
        let mut means = vec![0.0; blocks];
        for row in &rows {
            let mean = &mut means[(row.from_ms / fleet::BLOCK_MS) as usize];
            let running = row.running / Fleet::level(row.device);
            let watching = row.watching / Fleet::level(row.device);
            *mean += running - watching;
        }
        let devices = fleet.devices as f64;
        let differences: Vec<f64> = means.iter().map(|m| m / devices).collect();
        self.gain += differences.iter().sum::<f64>();
        self.blocks += blocks as f64;
        let mean = fleet.expected_gain();
        for lag in 0..=LAGS {
            let pairs = differences.iter().zip(&differences[lag..]);
            let sum: f64 = pairs.map(|(a, b)| (a - mean) * (b - mean)).sum();
            self.covariances[lag] += sum;
        }
        let verdict = test.verdict(rows);
        if let Some(at) = verdict.decided_ms {
            let waited = (at / fleet::BLOCK_MS + 1) as f64;
            if verdict.superior {
                &mut self.superior
            } else {
                &mut self.harmful
            }
            .push(waited);
        }
    }

    fn merge(&mut self, other: Self) {
        self.superior.extend(other.superior);
        self.harmful.extend(other.harmful);
        self.gain += other.gain;
        self.blocks += other.blocks;
        for (a, b) in self.covariances.iter_mut().zip(other.covariances) {
            *a += b;
        }
    }

    /// Long-run variance over variance, and the blocks that a one-sided test of a known long-run variance needs.
    fn fixed(&self, quantile: f64) -> (f64, f64) {
        let weight = |lag: usize| 1.0 - lag as f64 / (LAGS + 1) as f64;
        let sides: f64 = (1..=LAGS)
            .map(|lag| 2.0 * weight(lag) * self.covariances[lag])
            .sum();
        let long = (self.covariances[0] + sides) / self.blocks;
        let gain = self.gain / self.blocks;
        (
            long * self.blocks / self.covariances[0],
            ((quantile + POWER) / gain).powi(2) * long,
        )
    }
}

/// The normal distribution's upper quantile, by halving.
fn quantile(alpha: f64) -> f64 {
    let upper = |z: f64| 0.5 * fieldcast_drift::special::gamma_q(0.5, z * z / 2.0);
    let (mut low, mut high) = (0.0, 10.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if upper(middle) > alpha {
            low = middle
        } else {
            high = middle
        }
    }
    low
}

/// Median over all runs, those that were never called being later than all others.
fn median(called: &mut [f64], runs: usize) -> f64 {
    called.sort_by(f64::total_cmp);
    called.get(runs / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default: u64| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(default);
    let (seed, runs, blocks) = (number(0, 1), number(1, 1_000), number(2, 180) as usize);
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    let settings = Settings::default();
    let test = match Test::new(settings) {
        Ok(test) => test,
        Err(problem) => return eprintln!("{problem}"),
    };
    for (what, factor) in [("equal", 1.0), ("better", 0.9), ("worse", 1.2)] {
        for pair in Pair::ALL {
            for devices in [1, 5, 50] {
                let name = format!("{what}_{}_{devices}", pair.name());
                if !name.starts_with(word(3)) || !name.ends_with(word(4)) {
                    continue;
                }
                let fleet = Fleet {
                    pair,
                    devices,
                    factor,
                };
                let (next, total) = (AtomicU64::new(0), Mutex::new(Counts::default()));
                std::thread::scope(|scope| {
                    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                        scope.spawn(|| {
                            let mut counts = Counts::default();
                            loop {
                                let run = next.fetch_add(1, Ordering::Relaxed);
                                if run >= runs {
                                    break;
                                }
                                counts.add(
                                    &fleet,
                                    seed.wrapping_mul(1_000_003) + run,
                                    blocks,
                                    &test,
                                );
                            }
                            if let Ok(mut total) = total.lock() {
                                total.merge(counts);
                            }
                        });
                    }
                });
                let Ok(mut counts) = total.into_inner() else {
                    continue;
                };
                let share = |called: &[f64]| 100.0 * called.len() as f64 / runs as f64;
                let (superior, harmful) = (share(&counts.superior), share(&counts.harmful));
                let (ratio, fixed) = counts.fixed(quantile(settings.alpha));
                println!(
                    "{name} {superior} {harmful} {} {} {fixed:.1} {ratio:.3}",
                    median(&mut counts.superior, runs as usize),
                    median(&mut counts.harmful, runs as usize),
                );
            }
        }
    }
}
