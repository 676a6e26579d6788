//! How the running and the watching model did on the same windows: owns the open blocks and their stored form; never forecasts.

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_wire::pb;
use serde::{Deserialize, Serialize};

use super::pending::Pair;

/// Layout of the stored form.
const FORMAT: u32 = 1;

/// A bundle and its version; the running one may be none, which is the device's baseline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Digest; empty for a baseline.
    pub bundle: Vec<u8>,
    /// Model version; 0 for a baseline.
    pub version: u64,
}

impl Side {
    fn made(&self, forecast: &pb::Forecast) -> bool {
        self.bundle == forecast.bundle && self.version == forecast.model_version
    }
}

/// The lengths that blocks follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    length: Millis,
    /// From the end of a block to the last actual value of its last origin.
    after: Millis,
}

impl Blocks {
    /// Of a forecaster.
    #[must_use]
    pub fn of(spec: &ForecasterSpec) -> Self {
        let beyond = i64::try_from(spec.horizon).unwrap_or(i64::MAX) - 1;
        Self {
            length: spec.block_ms().max(1),
            after: beyond.saturating_mul(spec.period_ms()),
        }
    }
}

/// Sums of one block's pairs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Block {
    from: Millis,
    origins: u32,
    steps: u32,
    /// Running, watching.
    absolute: [f64; 2],
    quantile: [f64; 2],
}

/// The open blocks of one pair of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    format: u32,
    running: Side,
    watching: Side,
    blocks: Blocks,
    /// The last grid time that was judged.
    through: Option<Millis>,
    /// Places of the ring of waiting forecasts whose origin is counted in its block, a bit each.
    counted: u64,
    open: Vec<Block>,
}

impl Paired {
    /// State key of a forecaster's.
    #[must_use]
    pub fn key(forecaster: &str) -> String {
        format!("paired/{forecaster}")
    }

    /// Those of a pair: `kept` where they are of the same two, otherwise none yet.
    #[must_use]
    pub fn of(running: Side, watching: Side, blocks: Blocks, kept: Option<Self>) -> Self {
        let same = |k: &Self| k.running == running && k.watching == watching && k.blocks == blocks;
        kept.filter(same).unwrap_or(Self {
            format: FORMAT,
            running,
            watching,
            blocks,
            through: None,
            counted: 0,
            open: Vec::new(),
        })
    }

    /// Out of the stored form; none where it is empty, damaged or of another layout.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        match serde_json::from_slice::<Self>(bytes) {
            Ok(read) if read.format == FORMAT => Some(read),
            Ok(read) => {
                tracing::warn!(
                    "read paired losses: format {} is not {FORMAT}; they begin anew",
                    read.format
                );
                None
            }
            Err(e) => {
                tracing::warn!("read paired losses: {e}; they begin anew");
                None
            }
        }
    }

    /// The state entry that stores them.
    #[must_use]
    pub fn entry(&self, forecaster: &str) -> Option<(String, Vec<u8>)> {
        let bytes = serde_json::to_vec(self).ok()?;
        Some((Self::key(forecaster), bytes))
    }

    /// The watching model's forecast of this place of the ring is a new one.
    pub fn made(&mut self, place: u32) {
        self.counted &= !bit(place);
    }

    /// A grid time is closed: takes what was forecast for it by both, and gives the blocks for which nothing can come any more.
    pub fn row<'a>(
        &mut self,
        forecaster: &str,
        time: Millis,
        actual: Option<f64>,
        pairs: impl Iterator<Item = Pair<'a>>,
    ) -> Vec<pb::PairedLosses> {
        // After a restart rows may come once more.
        if self.through.is_some_and(|through| time <= through) {
            return Vec::new();
        }
        self.through = Some(time);
        if let Some(actual) = actual {
            for pair in pairs {
                self.judge(&pair, actual);
            }
        }
        let mut done = Vec::new();
        let mut open = Vec::with_capacity(self.open.len());
        for block in std::mem::take(&mut self.open) {
            let to = block.from.saturating_add(self.blocks.length);
            if time >= to.saturating_add(self.blocks.after) {
                done.push(self.losses(forecaster, &block, to));
            } else {
                open.push(block);
            }
        }
        self.open = open;
        done
    }

    fn judge(&mut self, pair: &Pair<'_>, actual: f64) {
        if !self.running.made(pair.running) || !self.watching.made(pair.watching) {
            return;
        }
        let Some(absolute) = both(pair, |f| Some((actual - f.mean.get(pair.step)?).abs())) else {
            return;
        };
        let levels: Vec<f64> = shared(pair);
        let quantile = both(pair, |f| Some(quantile_loss(f, pair.step, &levels, actual)));
        let Some(quantile) = quantile else { return };
        let length = self.blocks.length;
        let from = pair.running.origin_ms.div_euclid(length) * length;
        let at = match self.open.iter().position(|b| b.from == from) {
            Some(at) => at,
            None => {
                self.open.push(Block {
                    from,
                    ..Block::default()
                });
                self.open.len() - 1
            }
        };
        let Some(block) = self.open.get_mut(at) else {
            return;
        };
        block.steps += 1;
        if self.counted & bit(pair.place) == 0 {
            self.counted |= bit(pair.place);
            block.origins += 1;
        }
        for side in 0..2 {
            // What is stored must stay a number.
            block.absolute[side] = (block.absolute[side] + absolute[side]).min(f64::MAX);
            block.quantile[side] = (block.quantile[side] + quantile[side]).min(f64::MAX);
        }
    }

    fn losses(&self, forecaster: &str, block: &Block, to: Millis) -> pb::PairedLosses {
        let n = f64::from(block.steps.max(1));
        pb::PairedLosses {
            seq: 0,
            forecaster: forecaster.to_owned(),
            running: self.running.bundle.clone(),
            watching: self.watching.bundle.clone(),
            running_version: self.running.version,
            watching_version: self.watching.version,
            from_ms: block.from,
            to_ms: to,
            origins: block.origins,
            steps: block.steps,
            running_abs: block.absolute[0] / n,
            watching_abs: block.absolute[1] / n,
            running_quantile: block.quantile[0] / n,
            watching_quantile: block.quantile[1] / n,
        }
    }
}

fn bit(place: u32) -> u64 {
    1_u64.checked_shl(place).unwrap_or(0)
}

/// The same measure of both; none where one of them has no such number.
fn both(pair: &Pair<'_>, of: impl Fn(&pb::Forecast) -> Option<f64>) -> Option<[f64; 2]> {
    let measured = [of(pair.running)?, of(pair.watching)?];
    measured.iter().all(|m| m.is_finite()).then_some(measured)
}

fn shared(pair: &Pair<'_>) -> Vec<f64> {
    let theirs = &pair.watching.quantile_levels;
    let ours = pair.running.quantile_levels.iter();
    ours.filter(|l| theirs.contains(l)).copied().collect()
}

/// Mean over the levels; 0 where there is none.
fn quantile_loss(forecast: &pb::Forecast, step: usize, levels: &[f64], actual: f64) -> f64 {
    let width = forecast.quantile_levels.len();
    let row = forecast.quantiles.get(step * width..(step + 1) * width);
    let known = forecast.quantile_levels.iter().zip(row.unwrap_or(&[]));
    let loss = |(level, value): (&f64, &f64)| {
        let above = actual - value;
        (level * above).max((level - 1.0) * above)
    };
    let sum: f64 = known.filter(|(l, _)| levels.contains(l)).map(loss).sum();
    sum / levels.len().max(1) as f64
}

#[cfg(test)]
#[path = "paired_tests.rs"]
mod tests;
