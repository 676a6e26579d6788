//! What is chance: owns the windows that are cut from a reference and the probability by them, never a statistic.

use fieldcast_drift::special::student_two_sided;
use fieldcast_kernel::Rng;

use super::prepare::Prepared;

/// Windows that are cut.
pub(super) const WINDOWS: usize = 50;
/// Smallest probability that is told: how far beyond fifty windows chance reaches is a guess.
const LEAST: f64 = 1e-6;
/// Places that are looked at for a block, of which the one nearest in the season is taken.
const PLACES: usize = 12;

/// One window as long as the current rows, in blocks of the reference that do not overlap: its rows, and the others.
pub(super) fn cut(prepared: &Prepared, rng: &mut Rng) -> (Vec<usize>, Vec<usize>) {
    let (n, m) = (prepared.reference.len(), prepared.current.len());
    let length = block(prepared);
    let (slots, own) = &prepared.slots;
    let season = slots.iter().max().map_or(1, |s| s + 1);
    let mut taken = vec![false; n];
    let mut window = Vec::with_capacity(m);
    while window.len() < m {
        let length = length.min(m - window.len());
        let far = |start: usize| match (slots.get(start), own.get(window.len())) {
            (Some(a), Some(b)) => a.abs_diff(*b).min(season - a.abs_diff(*b).min(season)),
            _ => 0,
        };
        let start = (0..4 * PLACES)
            .map(|_| rng.below(n - length + 1))
            .filter(|s| !taken[*s..s + length].contains(&true))
            .take(PLACES)
            .min_by_key(|s| far(*s));
        let rows: Vec<usize> = match start {
            Some(start) => (start..start + length).collect(),
            None => (0..n).filter(|i| !taken[*i]).take(length).collect(),
        };
        rows.iter().for_each(|i| taken[*i] = true);
        window.extend(rows);
    }
    let others = (0..n).filter(|i| !taken[*i]).collect();
    (window, others)
}

fn block(prepared: &Prepared) -> usize {
    let m = prepared.current.len();
    let root = (m as f64).sqrt().ceil() as usize;
    prepared.block.max(root).clamp(1, m)
}

/// How likely a statistic is among those of the cut windows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chance {
    pub(super) mean: f64,
    pub(super) deviation: f64,
    freedom: f64,
    count: f64,
}

impl Chance {
    pub(super) fn new(of_windows: &[f64], prepared: &Prepared) -> Self {
        let count = of_windows.len().max(2) as f64;
        let mean = of_windows.iter().sum::<f64>() / count;
        let square: f64 = of_windows.iter().map(|v| (v - mean).powi(2)).sum();
        // However often it is cut, a reference knows no more than its own blocks do.
        let blocks = prepared.reference.len() / block(prepared);
        Self {
            mean,
            deviation: (square / (count - 1.0)).sqrt(),
            freedom: (blocks as f64).min(count) - 1.0,
            count,
        }
    }

    /// The probability of a statistic as far off, either way.
    pub(super) fn either(&self, statistic: f64) -> f64 {
        let wide = self.deviation * (1.0 + 1.0 / self.count).sqrt();
        let away = (statistic - self.mean) / wide;
        if away.is_nan() {
            return 1.0;
        }
        student_two_sided(away, self.freedom.max(2.0)).max(LEAST)
    }

    /// The probability of a statistic as large.
    pub(super) fn above(&self, statistic: f64) -> f64 {
        let half = self.either(statistic) / 2.0;
        if statistic > self.mean {
            half
        } else {
            1.0 - half
        }
    }
}
