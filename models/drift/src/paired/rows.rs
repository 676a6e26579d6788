//! From devices' losses to one difference a block: owns what is left out, the scale and the clip, never a bet.

use std::collections::{BTreeMap, VecDeque};

/// Largest difference of a device that counts, in its usual losses: fixed beforehand, so that no device speaks for many.
pub(super) const CLIP: f64 = 2.0;
/// Blocks that a device's usual loss is the mean of.
const RECENT: usize = 56;
/// Losses above so many medians are taken as that many: one broken day is not what a device usually loses.
const OUTLIER: f64 = 4.0;
/// Losses beyond it are no losses.
const LARGEST: f64 = 1e150;

/// How both models did on one device's block: mean losses over the same windows.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<D> {
    /// Begin of the block, data time.
    pub from_ms: i64,
    /// Which device.
    pub device: D,
    /// The champion's mean loss.
    pub running: f64,
    /// The challenger's.
    pub watching: f64,
    /// Pairs of steps behind both.
    pub steps: u32,
}

impl<D> Row<D> {
    fn counts(&self, least_steps: u32) -> bool {
        let loss = |l: f64| (0.0..=LARGEST).contains(&l);
        self.steps >= least_steps && loss(self.running) && loss(self.watching)
    }
}

/// A block's difference, averaged over devices: above 0 the challenger lost less.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Block {
    pub(super) from_ms: i64,
    pub(super) value: f64,
}

/// The differences of all devices, in order of time.
pub(super) struct Differences {
    /// Begin of the block, number of the device, its clipped difference in its usual losses.
    list: Vec<(i64, usize, f64)>,
    /// Sum of each device's differences.
    sums: Vec<f64>,
}

impl Differences {
    /// A device's first block, and what follows it while it lost nothing, only says what it usually loses.
    pub(super) fn of<D: Ord>(rows: impl IntoIterator<Item = Row<D>>, least_steps: u32) -> Self {
        let mut rows: Vec<Row<D>> = rows.into_iter().filter(|r| r.counts(least_steps)).collect();
        rows.sort_by(|a, b| (a.from_ms, &a.device).cmp(&(b.from_ms, &b.device)));
        rows.dedup_by(|b, a| (a.from_ms, &a.device) == (b.from_ms, &b.device));
        let mut known: BTreeMap<D, (Usual, Option<usize>)> = BTreeMap::new();
        let mut made = Self {
            list: Vec::with_capacity(rows.len()),
            sums: Vec::new(),
        };
        for row in rows {
            let (usual, number) = known.entry(row.device).or_default();
            let scale = usual.loss();
            if scale > 0.0 {
                let value = ((row.running - row.watching) / scale).clamp(-CLIP, CLIP);
                let number = *number.get_or_insert_with(|| {
                    made.sums.push(0.0);
                    made.sums.len() - 1
                });
                made.list.push((row.from_ms, number, value));
                made.sums[number] += value;
            }
            usual.add(row.running);
        }
        made
    }

    /// Devices with a difference.
    pub(super) fn devices(&self) -> usize {
        self.sums.len()
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        self.averaged(|_| true)
    }

    /// As if that device had reported nothing.
    pub(super) fn without(&self, device: usize) -> Vec<Block> {
        self.averaged(|d| d != device)
    }

    /// The device that speaks most for a gain (`sign` 1) or a loss (-1).
    pub(super) fn most(&self, sign: f64) -> usize {
        let speaks = |d: &usize| sign * self.sums[*d];
        (0..self.sums.len())
            .max_by(|a, b| speaks(a).total_cmp(&speaks(b)))
            .unwrap_or_default()
    }

    fn averaged(&self, counts: impl Fn(usize) -> bool) -> Vec<Block> {
        let of_block = |same: &[(i64, usize, f64)]| {
            let values = same
                .iter()
                .filter(|(_, d, _)| counts(*d))
                .map(|(_, _, v)| *v);
            let (sum, devices) = values.fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
            let from_ms = same.first().map(|(from_ms, _, _)| *from_ms)?;
            (devices > 0.0).then(|| Block {
                from_ms,
                value: sum / devices,
            })
        };
        self.list
            .chunk_by(|a, b| a.0 == b.0)
            .filter_map(of_block)
            .collect()
    }
}

/// What the champion usually loses on a device: the mean of its last blocks, outliers cut.
#[derive(Default)]
struct Usual {
    recent: VecDeque<f64>,
}

impl Usual {
    fn loss(&self) -> f64 {
        let mut values: Vec<f64> = self.recent.iter().copied().collect();
        if values.is_empty() {
            return 0.0;
        }
        let middle = (values.len() - 1) / 2;
        let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
        let most = OUTLIER * *median;
        values.iter().map(|v| v.min(most)).sum::<f64>() / values.len() as f64
    }

    fn add(&mut self, loss: f64) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
    }
}
