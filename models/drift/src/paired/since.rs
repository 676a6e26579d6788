//! Since when does one model do better than another: owns evidence that begins anew at every block, never what follows from it.
//!
//! A change comes when nobody expects it, and who bet on the other model before it has nothing left. So at each block one more
//! bettor begins with 1, and what counts is the sum of what all of them have: Shiryaev's and Roberts' sum, of bettors in place of
//! likelihood ratios (an e-detector: Shin, Ramdas and Rinaldo, 2023). Where no gain is expected the sum is expected to grow by 1 a block at
//! most, so that at least `n` blocks are expected to pass before it reaches `n`, looked at after each of them. The mean of several such sums
//! has the same bound: who looks at many models pays by it.

use serde::{Deserialize, Serialize};

use super::bets::Evidence;
use super::rows::{Differences, Row};
use super::{MOST, Settings};

/// What the blocks say for a change to the watching model's good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Since {
    /// The sum, now: as many blocks are expected to pass before it stands there by chance.
    pub evidence: f64,
    /// Begin of the block since which most speaks for the watching model.
    pub from_ms: i64,
    /// Blocks since then.
    pub blocks: u32,
}

/// Since when the watching model is better, and how much speaks for it; of the settings what blocks count and how they depend on
/// each other. None before the first difference.
pub fn better_since<D: Ord>(
    rows: impl IntoIterator<Item = Row<D>>,
    settings: &Settings,
) -> Option<Since> {
    let blocks = Differences::of(rows, settings.least_steps).blocks();
    let mut bettors: Vec<(Evidence, f64)> = Vec::with_capacity(blocks.len());
    for block in &blocks {
        bettors.push((Evidence::new(settings.dependence), 0.0));
        for (bettor, has) in &mut bettors {
            *has = bettor.bet(block.value);
        }
    }
    let logarithms = || bettors.iter().map(|(_, has)| has.min(MOST));
    let (best, _) = logarithms()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(Since {
        evidence: logarithms().map(f64::exp).sum(),
        from_ms: blocks.get(best)?.from_ms,
        blocks: u32::try_from(blocks.len() - best).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    /// Two devices; each day by how many times the champion's loss exceeds the other's, with noise that lasts.
    fn rows(seed: u64, times: &[f64]) -> Vec<Row<u32>> {
        let mut stream = fieldcast_sim::Stream::new(seed, 0);
        let mut noise = || (0..12).map(|_| stream.uniform()).sum::<f64>() - 6.0;
        let mut shock = 0.0;
        let mut list = Vec::new();
        for (day, times) in times.iter().enumerate() {
            shock = 0.3 * shock + 0.2 * noise();
            for device in 0..2 {
                let level = 10.0 * f64::from(device + 1) * (0.2 * noise()).exp();
                list.push(Row {
                    from_ms: day as i64 * DAY,
                    device,
                    running: level * times.sqrt() * (0.5 * shock).exp(),
                    watching: level / times.sqrt() * (-0.5 * shock).exp(),
                    steps: 576,
                });
            }
        }
        list
    }

    fn alarm(rows: &[Row<u32>], asked: f64) -> Option<(i64, Since)> {
        let days = rows.iter().map(|r| r.from_ms / DAY).max()?;
        (1..=days).find_map(|day| {
            let until = rows.iter().filter(|r| r.from_ms / DAY <= day).cloned();
            let since = better_since(until, &Settings::default())?;
            (since.evidence >= asked).then_some((day, since))
        })
    }

    #[test]
    fn a_model_that_was_worse_is_found_soon_after_it_has_become_better_and_since_when() {
        for seed in 1..=20 {
            let mut times = vec![0.6; 60];
            times.extend([1.5; 40]);
            let (day, since) = alarm(&rows(seed, &times), 120.0).expect("found");
            assert!((68..95).contains(&day), "seed {seed}: day {day}");
            let onset = since.from_ms / DAY;
            assert!((onset - 60).abs() <= 8, "seed {seed}: since {onset}");
            assert_eq!(i64::from(since.blocks), day - onset + 1);
        }
    }

    #[test]
    fn of_equal_models_none_is_better_more_than_once_in_the_blocks_asked_for() {
        let (runs, days) = (60, 120);
        let equal = vec![1.0; days];
        let alarms = (1..=runs)
            .filter(|seed| alarm(&rows(*seed, &equal), 120.0).is_some())
            .count();
        // Expected to pass are 120 days at least: of runs as long 1 - 1/e alarm where no more do.
        assert!(alarms as f64 <= 0.63 * runs as f64, "{alarms} of {runs}");
        let worse = vec![0.9; days];
        let alarms = (1..=runs)
            .filter(|seed| alarm(&rows(*seed, &worse), 120.0).is_some())
            .count();
        assert!(alarms <= 2, "{alarms} of {runs}");
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(better_since(rows(1, &[]), &Settings::default()), None);
        assert_eq!(better_since(rows(1, &[2.0]), &Settings::default()), None);
    }
}
