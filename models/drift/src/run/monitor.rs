//! The streaming side of a stated run time: owns the sums and the last few values of a channel, never its reference.

use serde::{Deserialize, Serialize};

use super::{LARGEST, RunReference, Sums};
use crate::window::whiten::MOST_LAGS;

/// A channel has shifted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Number of the row that raised it.
    pub row: i64,
    /// Number of the first row since the sum last left zero: about when the shift began.
    pub onset: i64,
    /// Judged rows since the onset, both included.
    pub rows: u64,
    /// Lasting shift of the channel that the rows since the onset speak for, in the channel's unit; negative downwards.
    pub shift: f64,
    /// The row's value less its season.
    pub value: f64,
    /// The sum.
    pub statistic: f64,
    /// What it had to pass.
    pub threshold: f64,
}

/// Rows since a sum left zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Excursion {
    onset: i64,
    rows: u64,
    sum: f64,
}

impl Excursion {
    fn add(&mut self, row: i64, innovation: f64, above_zero: bool) {
        if !above_zero {
            *self = Self::default();
            return;
        }
        if self.rows == 0 {
            self.onset = row;
        }
        self.rows += 1;
        self.sum += innovation;
    }
}

/// Watches one channel against its [`RunReference`], in about 150 bytes.
///
/// After an alarm the sums begin at zero again: a shift that stays raises one alarm after the other, at the pace that its
/// size sets. Missing rows are not bridged: what follows one is judged as soon as there are enough rows before it again,
/// and the sums wait meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunMonitor {
    /// Values less their season, the newest first.
    past: [f64; MOST_LAGS],
    known: usize,
    last: Option<i64>,
    pub(super) sums: Sums,
    up: Excursion,
    down: Excursion,
}

impl RunMonitor {
    /// Takes the value of a grid row, by its number on the same scale as the reference's `first`. Rows that are not newer
    /// than the last change nothing; a non-finite value is a missing one, and so is a row that is left out.
    pub fn update(&mut self, reference: &RunReference, row: i64, value: f64) -> Option<RunEvent> {
        if self.last.is_some_and(|last| row <= last) {
            return None;
        }
        if self.last.and_then(|last| last.checked_add(1)) != Some(row) {
            self.known = 0;
        }
        self.last = Some(row);
        if value.is_nan() || value.abs() >= LARGEST {
            self.known = 0;
            return None;
        }
        let flat = value - reference.mean(row);
        let lags = reference.lags();
        let judged = (self.known >= lags && lags <= MOST_LAGS)
            .then(|| reference.residual(row, flat, &self.past));
        if lags > 0 {
            self.past.copy_within(..MOST_LAGS - 1, 1);
            self.past[0] = flat;
            self.known = (self.known + 1).min(MOST_LAGS);
        }
        self.judge(reference, (row, flat), judged??)
    }

    fn judge(
        &mut self,
        reference: &RunReference,
        (row, value): (i64, f64),
        z: f64,
    ) -> Option<RunEvent> {
        self.sums.add(z, reference.k);
        let innovation = z * reference.deviation * reference.scale(row);
        self.up.add(row, innovation, self.sums.up > 0.0);
        self.down.add(row, innovation, self.sums.down > 0.0);
        if !self.sums.above(reference.threshold) {
            return None;
        }
        let (side, statistic) = if self.sums.up > reference.threshold {
            (self.up, self.sums.up)
        } else {
            (self.down, self.sums.down)
        };
        self.restart();
        Some(RunEvent {
            row,
            onset: side.onset,
            rows: side.rows,
            shift: side.sum / side.rows.max(1) as f64 * reference.gain(),
            value,
            statistic,
            threshold: reference.threshold,
        })
    }

    /// The sums back to zero; the last values stay.
    pub fn restart(&mut self) {
        self.sums = Sums::default();
        self.up = Excursion::default();
        self.down = Excursion::default();
    }
}
