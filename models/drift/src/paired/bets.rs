//! Betting on block differences: owns the fractions and the predictable scale, never what is concluded.
//!
//! A bettor with fraction `f` multiplies its money by `1 + f z`, where `z` is the block's difference in root mean squares of
//! the blocks before it: a martingale, or less, where no gain is expected, whatever the distribution (Shafer and Vovk, 2019;
//! Waudby-Smith and Ramdas, 2024, "Estimating means of bounded random variables by betting"). Which fraction is best is not
//! known beforehand, so that the money is shared out among a few (a mixture: Cover, 1991; Howard et al., 2021), and what they
//! have together is the evidence. Neighbouring blocks are not independent, since shocks last and windows overlap; a run of
//! them then says less than it seems to, and each bettor pays a fee of `f^2 (dependence - 1) / 2` a block: the growth by
//! which the sum's larger variance would deceive it. A fee takes nothing from validity (it only lowers the money), and
//! bets on every block lose no time by waiting for blocks that are far apart (what Henzi and Ziegel, 2022, do).
//!
//! What is exact is exact for differences that are fair once cut at the clip. No bet with a scale learnt on the way is fair where a
//! model is mostly a little better and seldom worse by many times that: of one that falls nine times as far one block in ten, 1 is
//! expected to become 1.02 after twelve blocks at a dependence of 2.

/// Fractions of a bettor's money that a difference of usual size is worth.
const FRACTIONS: [f64; 4] = [0.0625, 0.125, 0.25, 0.5];
/// Largest difference of a block that counts, in usual sizes: one day is no proof.
const CLIP: f64 = 4.0;
/// What a bettor keeps of its money at least, before the fee, so that one day is no end of all evidence.
const KEPT: f64 = 0.125;
/// And after it.
const LEAST: f64 = 0.01;
/// Size of a relative block difference that is expected before any was seen, and the blocks that it counts for.
const EXPECTED: f64 = 0.15;
const COUNTS_FOR: f64 = 2.0;

/// One claim's bettors.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    /// What each squared fraction pays.
    fee: f64,
    /// Sum of squares of the differences before, and how many.
    squares: f64,
    count: f64,
    money: Money,
}

impl Evidence {
    pub(super) fn new(dependence: f64) -> Self {
        Self {
            fee: (dependence - 1.0) / 2.0,
            squares: COUNTS_FOR * EXPECTED * EXPECTED,
            count: COUNTS_FOR,
            money: Money::default(),
        }
    }

    /// Bets on a difference being above 0; what there is afterwards, as a logarithm.
    pub(super) fn bet(&mut self, difference: f64) -> f64 {
        // About 0, not about their mean: what a run of good luck says is no reason to take a fall for a greater one.
        let size = (self.squares / self.count).sqrt();
        self.money.bet(difference / size, self.fee);
        self.squares += difference * difference;
        self.count += 1.0;
        self.money.logarithm()
    }
}

/// Logarithms of the bettors' money, each of whom began with an equal share of 1.
#[derive(Debug, Clone, Default)]
pub(super) struct Money([f64; FRACTIONS.len()]);

impl Money {
    /// All bet on a difference of `z` usual sizes.
    pub(super) fn bet(&mut self, z: f64, fee: f64) {
        for (money, f) in self.0.iter_mut().zip(FRACTIONS) {
            // Gains are cut where losses are, so that a change to both sides alike is worth nothing.
            let most = CLIP.min((1.0 - KEPT) / f);
            *money += (1.0 + f * z.clamp(-most, most) - fee * f * f)
                .max(LEAST)
                .ln();
        }
    }

    pub(super) fn logarithm(&self) -> f64 {
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.0.iter().map(|m| (m - most).exp()).sum();
        most + (sum / FRACTIONS.len() as f64).ln()
    }
}
