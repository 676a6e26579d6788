//! Is a challenger better, or worse, than the champion on the same windows: owns the verdict on paired losses, never their making.
//!
//! Devices send, a block, the mean loss of both models. The difference of a block, over what the champion usually loses on
//! that device, is averaged over devices: shocks are shared by devices, so the block is the unit, and one bet is made on each
//! (`bets`). Two bettors, one on gains and one on losses, start with 1; if their claim is false, what they have is 20 or
//! more at any time, looked at as often as one likes, in at most one of 20 runs (Ville, 1939). `rows` makes differences,
//! `bets` the evidence, `interval` the gain's bounds, `budget` the shares of many challengers, `since` when a model became better.
//! What is claimed is about differences within the clip, and about runs of blocks that depend on each other no more than stated:
//! `docs/rollouts.md` has what was measured where neither is sure.
//!
//! ```text
//! undecided -> superior   evidence of gains reaches 1 / alpha, the gain is worth it, and no single device made it
//!           \> harmful    evidence of losses reaches 1 / harm_alpha, and no single device made it
//! ```
//! Whichever comes first stays: more blocks never take it back.

mod bets;
mod budget;
mod interval;
mod rows;
mod since;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use budget::share;
pub use rows::Row;
pub use since::{Since, better_since};

use crate::StatError;
use bets::Evidence;
use rows::{Block, Differences};

/// What is claimed to be no evidence any more, in natural logarithms: what is more is not told apart.
const MOST: f64 = 27.6;
/// Fewest devices of which one is left out, to see whether the others say the same.
const FEWEST_OTHERS: usize = 3;
/// Share of the logarithm of the asked evidence that has to be left without the device that made the most of it.
const WITHOUT: f64 = 0.5;
/// Less is not taken: the fee also covers that a bettor cannot lose more than it has.
const LEAST_DEPENDENCE: f64 = 2.0;
const SUBJECT: &str = "the test of a challenger";

/// What is asked of a test; fixed before the first block is seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Chance that a challenger that is no better is ever called superior: a [`share`] of what all challengers may spend.
    pub alpha: f64,
    /// Chance that a challenger that is no worse is ever called harmful. Not shared out: it costs one challenger.
    pub harm_alpha: f64,
    /// Smallest estimated gain, relative to the champion's loss, that is called superior.
    pub least_gain: f64,
    /// Fewest bets before anything is decided, so that a day that is unlike the others does not.
    pub least_blocks: u32,
    /// Fewest pairs of steps of a row that counts.
    pub least_steps: u32,
    /// How much more the sum of block differences varies than that of independent ones: 2 to 4.
    pub dependence: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of_challenger(1)
    }
}

impl Settings {
    /// Of the `nth` challenger (from 1) of a champion's reign, all of which together are wrongly promoted in at most 5 of 100
    /// reigns.
    #[must_use]
    pub fn of_challenger(nth: u32) -> Self {
        Self {
            alpha: share(0.05, nth),
            harm_alpha: 0.05,
            least_gain: 0.01,
            least_blocks: 7,
            least_steps: 24,
            dependence: 2.2,
        }
    }

    /// For rows that have so many pairs at most: half of them are asked for where that is less, as a short horizon on a coarse grid
    /// makes few.
    #[must_use]
    pub fn with_pairs(self, most: usize) -> Self {
        let half = u32::try_from(most / 2).unwrap_or(u32::MAX).max(1);
        Self {
            least_steps: self.least_steps.min(half),
            ..self
        }
    }
}

/// A gain relative to the champion's loss: 0.1 = a tenth less. Below 0 the challenger is worse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// The estimate.
    pub estimate: f64,
    /// Lower bound: both bounds hold at all times together in 95 of 100 runs.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
}

/// What the blocks so far say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Blocks that a bet was made on; a device's first block only says what it usually loses.
    pub blocks: u32,
    /// Devices behind them.
    pub devices: u32,
    /// The gain, absent before the first bet.
    pub gain: Option<Gain>,
    /// Evidence that the challenger is better, now: 1 = none either way; at most 1e12.
    pub e_superior: f64,
    /// Evidence that it is worse.
    pub e_harm: f64,
    /// The challenger is better.
    pub superior: bool,
    /// The challenger is worse.
    pub harmful: bool,
    /// Begin of the block that decided.
    pub decided_ms: Option<i64>,
    /// The evidence for the claim that the gain's sign makes, without the device that made the most of it; absent below
    /// three devices.
    pub e_without_one: Option<f64>,
}

/// The test: no state but its settings, so that who asks it recomputes the verdict from the table of blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    settings: Settings,
}

/// Who claims what.
#[derive(Clone, Copy)]
enum Claim {
    Better,
    Worse,
}

impl Claim {
    fn sign(self) -> f64 {
        match self {
            Self::Better => 1.0,
            Self::Worse => -1.0,
        }
    }
}

impl Test {
    /// A test with these settings.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(settings: Settings) -> Result<Self, StatError> {
        let chance = |p: f64| p > 0.0 && p < 1.0;
        let ranges = [
            ("alpha", chance(settings.alpha), "above 0 and below 1"),
            (
                "harm_alpha",
                chance(settings.harm_alpha),
                "above 0 and below 1",
            ),
            (
                "least_gain",
                (0.0..1.0).contains(&settings.least_gain),
                "from 0 to below 1",
            ),
            (
                "dependence",
                (LEAST_DEPENDENCE..=4.0).contains(&settings.dependence),
                "from 2 to 4",
            ),
        ];
        match ranges.iter().find(|(_, holds, _)| !holds) {
            Some((parameter, _, range)) => Err(StatError::Parameter {
                subject: SUBJECT,
                parameter,
                problem: format!("has to be {range}; correct it"),
            }),
            None => Ok(Self { settings }),
        }
    }

    /// What these rows say: in any order, each device's block once (the first of equals counts). The caller leaves out blocks
    /// that devices still report: rows that come later change what was said before.
    pub fn verdict<D: Ord>(&self, rows: impl IntoIterator<Item = Row<D>>) -> Verdict {
        let differences = Differences::of(rows, self.settings.least_steps);
        let blocks = differences.blocks();
        let values: Vec<f64> = blocks.iter().map(|b| b.value).collect();
        let (better, worse) = (
            self.evidence(&differences, &blocks, Claim::Better),
            self.evidence(&differences, &blocks, Claim::Worse),
        );
        let decided = self.decide(&blocks, &better, &worse);
        let gain = interval::gain(&values, self.settings.dependence);
        let favoured = if gain.is_some_and(|g| g.estimate < 0.0) {
            &worse
        } else {
            &better
        };
        Verdict {
            blocks: blocks.len() as u32,
            devices: differences.devices() as u32,
            gain,
            e_superior: last(&better.all),
            e_harm: last(&worse.all),
            superior: matches!(decided, Some((_, Claim::Better))),
            harmful: matches!(decided, Some((_, Claim::Worse))),
            decided_ms: decided.map(|(from_ms, _)| from_ms),
            e_without_one: favoured.without.as_deref().map(last),
        }
    }

    fn evidence(&self, differences: &Differences, blocks: &[Block], claim: Claim) -> Claimed {
        let of = |blocks: &[Block]| {
            let mut evidence = Evidence::new(self.settings.dependence);
            blocks
                .iter()
                .map(|b| evidence.bet(claim.sign() * b.value))
                .collect::<Vec<f64>>()
        };
        let without = (differences.devices() >= FEWEST_OTHERS).then(|| {
            let rest = differences.without(differences.most(claim.sign()));
            let mut evidence = of(&rest).into_iter().zip(&rest).peekable();
            // A block that only the device left out has reported adds nothing.
            let mut now = 0.0;
            let at = |block: &Block| {
                while let Some((e, _)) = evidence.next_if(|(_, b)| b.from_ms <= block.from_ms) {
                    now = e;
                }
                now
            };
            blocks.iter().map(at).collect()
        });
        Claimed {
            all: of(blocks),
            without,
        }
    }

    /// The first block that one of the claims is proven at.
    fn decide(&self, blocks: &[Block], better: &Claimed, worse: &Claimed) -> Option<(i64, Claim)> {
        let mut sum = 0.0;
        for (i, block) in blocks.iter().enumerate() {
            sum += block.value;
            let count = (i + 1) as f64;
            if count < f64::from(self.settings.least_blocks) {
                continue;
            }
            if worse.proven(i, self.settings.harm_alpha) {
                return Some((block.from_ms, Claim::Worse));
            }
            if better.proven(i, self.settings.alpha) && sum >= count * self.settings.least_gain {
                return Some((block.from_ms, Claim::Better));
            }
        }
        None
    }
}

/// Logarithms of a claim's evidence after each block.
struct Claimed {
    all: Vec<f64>,
    without: Option<Vec<f64>>,
}

impl Claimed {
    fn proven(&self, at: usize, alpha: f64) -> bool {
        let asked = -alpha.ln();
        let reaches = |list: &Vec<f64>, asked: f64| list.get(at).is_some_and(|e| *e >= asked);
        reaches(&self.all, asked)
            && self
                .without
                .as_ref()
                .is_none_or(|w| reaches(w, WITHOUT * asked))
    }
}

fn last(evidence: &[f64]) -> f64 {
    evidence.last().map_or(1.0, |e| e.min(MOST).exp())
}
