//! Made successors of a failing champion for `cargo xtask bench rollout`: owns what is counted, never a goal.
//!
//! `successors SEED RUNS` prints, for each factor of the successor's loss, pair of models and size of fleet: name, and the shares that
//! the judge lets pass on the newest days unseen by both, that the shadow behind them lets pass, and that both do, with the median
//! blocks which that takes. Rules and limits are the hub's own, by default.

#[allow(dead_code, reason = "shared with another example")]
#[path = "../../models/drift/examples/paired/fleet.rs"]
mod fleet;
#[path = "../../models/drift/src/window/random.rs"]
mod splitmix;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldcast_drift::paired::{Row, Settings, Test};
use fieldcast_hub::judge::{Gate, verdict};
use fieldcast_hub::rollout::judge::shown;
use fieldcast_hub::rollout::plan::{Need, Proof};
use fieldcast_hub::rollout::policy;
use fieldcast_hub::rollout::state::Evidence;
use fleet::{BLOCK_MS, DAY, Fleet, Pair};

/// Days that a training after drift keeps to be judged on, at least, and those whose actual values the last of them wait for.
const JUDGED: usize = 5;
const AHEAD: usize = 1;

/// What became of one.
struct Fate {
    judge: bool,
    /// Blocks until the shadow let it pass.
    shadow: Option<usize>,
}

fn live(fleet: &Fleet, seed: u64, test: &Test) -> Fate {
    let limits = policy::Evidence::default();
    let proof = Proof {
        need: Need::NotHarmful,
        min_blocks: limits.min_blocks,
        max_blocks: limits.max_blocks,
        max_span_ms: i64::MAX,
        quiet_ms: i64::MAX,
    };
    let first = JUDGED + AHEAD;
    let blocks = proof.max_blocks as usize;
    let mut origins = [0, 1].map(|_| vec![0.0; JUDGED * DAY]);
    let rows = fleet.made(seed, first + blocks, |level, losses| {
        for (sums, losses) in origins.iter_mut().zip(losses) {
            for (origin, sum) in sums.iter_mut().enumerate() {
                let ahead = &losses[origin + 1..=origin + DAY];
                *sum += ahead.iter().sum::<f64>() / level;
            }
        }
    });
    let [champion, challenger] = origins;
    let judge = verdict(&champion, &challenger, DAY, Gate::default()).better;
    let rows: Vec<Row<usize>> = rows
        .into_iter()
        .filter(|row| row.from_ms >= first as i64 * BLOCK_MS)
        .collect();
    for seen in 1..=blocks {
        let until = (first + seen) as i64 * BLOCK_MS;
        let told = test.verdict(rows.iter().filter(|row| row.from_ms < until).cloned());
        if told.harmful {
            break;
        }
        let known = Evidence {
            blocks: told.blocks,
            gain: told.gain.map_or(0.0, |gain| gain.estimate),
            bet_better: told.e_superior,
            ..Evidence::default()
        };
        if shown(&proof, &known) {
            return Fate {
                judge,
                shadow: Some(seen),
            };
        }
    }
    Fate {
        judge,
        shadow: None,
    }
}

fn fates(fleet: &Fleet, seed: u64, runs: u64, test: &Test) -> Vec<Fate> {
    let (next, all) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut mine = Vec::new();
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= runs {
                        break;
                    }
                    mine.push(live(fleet, seed.wrapping_mul(1_000_003) + run, test));
                }
                if let Ok(mut all) = all.lock() {
                    all.extend(mine);
                }
            });
        }
    });
    all.into_inner().unwrap_or_default()
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default: u64| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(default);
    let (seed, runs) = (number(0, 1), number(1, 1_000));
    // The limits of the first challenger of a reign.
    let test = match Test::new(Settings::default()) {
        Ok(test) => test,
        Err(problem) => return eprintln!("{problem}"),
    };
    for (what, factor) in [
        ("worse", 1.2),
        ("equal", 1.0),
        ("better", 0.8),
        ("much_better", 0.7),
    ] {
        for pair in Pair::ALL {
            for devices in [1, 5, 50] {
                let fleet = Fleet {
                    pair,
                    devices,
                    factor,
                };
                let all = fates(&fleet, seed, runs, &test);
                let percent = |passes: &dyn Fn(&Fate) -> bool| {
                    100.0 * all.iter().filter(|fate| passes(fate)).count() as f64 / runs as f64
                };
                let mut waited: Vec<usize> = all
                    .iter()
                    .filter(|fate| fate.judge)
                    .filter_map(|fate| fate.shadow)
                    .collect();
                waited.sort_unstable();
                println!(
                    "{what}_{}_{devices} {} {} {} {}",
                    pair.name(),
                    percent(&|fate| fate.judge),
                    percent(&|fate| fate.shadow.is_some()),
                    percent(&|fate| fate.judge && fate.shadow.is_some()),
                    waited
                        .get(waited.len() / 2)
                        .map_or(f64::NAN, |blocks| *blocks as f64),
                );
            }
        }
    }
}
