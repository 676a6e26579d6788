//! The moving-block bootstrap: owns how windows are drawn from a reference and how much wider than chance they spread, never a
//! verdict.

use super::random::Random;
use super::whiten::Grid;

/// Windows that are drawn.
const DRAWS: usize = 400;
/// Share of the largest that is compared.
const UPPER: usize = 5;

/// How blocks are drawn.
pub(super) struct Blocks {
    /// Rows of the reference that have a value.
    present: Vec<bool>,
    length: usize,
    by_slot: Vec<Vec<usize>>,
}

impl Blocks {
    /// Blocks of at least a season, `shortest` rows and the root of the window, and at most a quarter of the reference.
    pub(super) fn new(present: Vec<bool>, grid: &Grid, window: usize, shortest: usize) -> Self {
        let rows = present.len();
        let season = grid.slots.iter().max().map_or(1, |s| s + 1);
        let length = season
            .max(shortest)
            .max((window as f64).sqrt().ceil() as usize)
            .clamp(1, (rows / 4).max(1));
        let mut by_slot = Vec::new();
        if !grid.slots.is_empty() {
            by_slot.resize(season, Vec::new());
            for (row, slot) in grid.slots.iter().enumerate() {
                if row + length <= rows {
                    by_slot[*slot].push(row);
                }
            }
        }
        Self {
            present,
            length,
            by_slot,
        }
    }

    /// Rows of one window of `size` values, from blocks at the phases that `window` has.
    fn draw(&self, size: usize, window: &Grid, random: &mut Random) -> Vec<usize> {
        let mut rows = Vec::with_capacity(size);
        let last = self.present.len() - self.length;
        let mut at = 0;
        // Blocks of missing values only are passed over, but not for ever.
        for _ in 0..100 * (size + 1) {
            if rows.len() >= size {
                break;
            }
            let slot = window.slots.get(at % window.slots.len().max(1));
            let starts = slot.and_then(|s| self.by_slot.get(*s));
            let start = match starts {
                Some(starts) if !starts.is_empty() => starts[random.below(starts.len())],
                _ => random.below(last + 1),
            };
            rows.extend((start..start + self.length).filter(|row| self.present[*row]));
            at += self.length;
        }
        rows.truncate(size);
        rows
    }

    /// By how much a statistic of windows that keep the order of the reference is larger than that of windows drawn value by
    /// value: the ratio of the means of their largest fifths, at least 1. `of` takes the rows of a window.
    pub(super) fn excess(
        &self,
        size: usize,
        window: &Grid,
        seed: u64,
        mut of: impl FnMut(&[usize]) -> f64,
    ) -> f64 {
        let mut random = Random::new(seed);
        let singles: Vec<usize> = (0..self.present.len())
            .filter(|row| self.present[*row])
            .collect();
        let mut upper = |mut draw: Box<dyn FnMut() -> Vec<usize> + '_>| {
            let mut values: Vec<f64> = (0..DRAWS).map(|_| of(&draw())).collect();
            values.sort_by(f64::total_cmp);
            let largest = &values[DRAWS - DRAWS / UPPER..];
            largest.iter().sum::<f64>() / largest.len() as f64
        };
        let kept = upper(Box::new(|| self.draw(size, window, &mut random)));
        let alone = upper(Box::new(|| {
            (0..size)
                .map(|_| singles[random.below(singles.len())])
                .collect()
        }));
        if alone > 0.0 {
            (kept / alone).max(1.0)
        } else {
            1.0
        }
    }
}
