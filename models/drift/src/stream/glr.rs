//! A likelihood ratio of a risen error: owns counts of errors in buckets and the threshold they must pass, never a model.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::StatError;

/// Buckets of each size.
const BUCKETS: usize = 8;
/// Sizes of buckets, 1 to 2^17: a window of two million values at most.
const SIZES: usize = 18;
/// Values between two looks for a fallen error.
const FALL_CLOCK: u64 = 32;
/// Values in the largest window.
const LARGEST: f64 = (BUCKETS << SIZES) as f64;
/// The lowest threshold of a cut, however many values it has.
const LEAST: f64 = 5.0;

/// Expected number of unchanged values until the ratio of some cut passes `h - ln(size)`, to one side; `size` is the values
/// of the newer part times the share of the older one.
///
/// Siegmund and Venkatraman (1995, theorem 1) give the rate for a threshold that is the same for all sizes, as the integral
/// of b e^-h x v(x)² / (2 sqrt(2 pi)) over x = b / sqrt(size), with b = sqrt(2 h) and v(x) = exp(-0.583 x). Here the
/// threshold is under the integral. The level before the change counts as known there; where it is estimated, and looked
/// at from buckets only, the run is somewhat longer.
#[must_use]
pub fn glr_run_length(h: f64) -> f64 {
    let rate = |size: f64| {
        let h = needed(h, size);
        let b = (2.0 * h).sqrt();
        let overshoot = (-1.166 * b / size.sqrt()).exp();
        (-h).exp() * b.powi(3) / (4.0 * std::f64::consts::TAU.sqrt() * size * size) * overshoot
    };
    let mut sum = 0.0;
    let mut size = 1.0;
    while size < LARGEST {
        let step = (size / 32.0).floor().max(1.0);
        sum += step * rate(size + (step - 1.0) / 2.0);
        size += step;
    }
    1.0 / sum
}

/// What the ratio of a cut has to pass. False alarms are as likely from the newest tens of values as from the newest
/// thousands then; one threshold for all would leave them to the shortest parts, and find small changes late.
fn needed(h: f64, size: f64) -> f64 {
    (h - size.ln()).max(LEAST)
}

/// Finds a risen error rate: values in [0, 1], 1 = wrong; neither the level before nor the one after need be known.
///
/// For each cut of the window into an older and a newer part, the ratio compares two levels with one:
/// `n0 kl(p0, p) + n1 kl(p1, p)`, kl of Bernoulli variables (for values between 0 and 1 that is on the careful side:
/// their moment generating function lies below a Bernoulli variable's of the same mean). An alarm where it passes a
/// threshold and the newer part's error is the larger one. The window is kept as counts in buckets of doubling sizes, as
/// ADWIN keeps it: O(log n) of memory and time. An error that falls is a model that learns: what was before is
/// forgotten, without an alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorGlr {
    threshold: f64,
    /// Row `i` holds sums of 2^i values, oldest first.
    rows: Vec<VecDeque<f64>>,
    count: u64,
    total: f64,
    since: u64,
    fired: bool,
}

impl Default for ErrorGlr {
    fn default() -> Self {
        Self::with_threshold(threshold(Self::RUN_LENGTH))
    }
}

/// A cut of the window: values and sum of the newer part.
#[derive(Clone, Copy)]
struct Cut {
    newer: f64,
    sum: f64,
}

impl ErrorGlr {
    /// Expected unchanged values until a false alarm, by default.
    pub const RUN_LENGTH: f64 = 100_000.0;

    /// With an expected number of unchanged values until a false alarm.
    ///
    /// # Errors
    /// [`StatError::Parameter`] unless `run_length` is 100 to 1e12.
    pub fn new(run_length: f64) -> Result<Self, StatError> {
        if !(100.0..=1e12).contains(&run_length) {
            return Err(StatError::Parameter {
                subject: "the likelihood ratio of errors",
                parameter: "run_length",
                problem: "must be 100 to 1e12 values".into(),
            });
        }
        Ok(Self::with_threshold(threshold(run_length)))
    }

    fn with_threshold(threshold: f64) -> Self {
        Self {
            threshold,
            rows: Vec::new(),
            count: 0,
            total: 0.0,
            since: 0,
            fired: false,
        }
    }

    /// Values in the window.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.count
    }

    /// Mean error in the window, 0 when it is empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.total / (self.count.max(1) as f64)
    }

    /// After an alarm: how many of the newest values have the risen error; the change began about so long ago.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since
    }

    /// What the ratio has to pass.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Memory of the state, its rows included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = self.rows.iter().map(VecDeque::capacity).sum::<usize>();
        size_of::<Self>()
            + self.rows.capacity() * size_of::<VecDeque<f64>>()
            + rows * size_of::<f64>()
    }

    /// Takes a value in [0, 1] (others are ignored); true = the error has risen. The next update then starts anew.
    pub fn update(&mut self, x: f64) -> bool {
        if !(0.0..=1.0).contains(&x) {
            return false;
        }
        if self.fired {
            *self = Self::with_threshold(self.threshold);
        }
        self.push(x);
        let mean = self.mean();
        // The ratio of a risen error does not grow by a value below the mean.
        if x > mean
            && let Some(cut) = self.highest(|newer, older| newer > older)
        {
            self.fired = true;
            self.since = cut.newer as u64;
            return true;
        }
        if self.count.is_multiple_of(FALL_CLOCK)
            && let Some(cut) = self.highest(|newer, older| newer < older)
        {
            self.forget(cut.newer as u64);
        }
        false
    }

    fn push(&mut self, x: f64) {
        self.count += 1;
        self.total += x;
        let mut carried = x;
        for size in 0..SIZES {
            if size == self.rows.len() {
                self.rows.push(VecDeque::with_capacity(BUCKETS + 1));
            }
            let row = &mut self.rows[size];
            row.push_back(carried);
            if row.len() <= BUCKETS {
                return;
            }
            let oldest = row.pop_front().unwrap_or_default();
            if size + 1 == SIZES {
                self.count -= 1 << size;
                self.total -= oldest;
                return;
            }
            carried = oldest + row.pop_front().unwrap_or_default();
        }
    }

    /// The cut with the highest ratio above the threshold, of those that `side(newer mean, older mean)` admits.
    fn highest(&self, side: impl Fn(f64, f64) -> bool) -> Option<Cut> {
        let (n, total) = (self.count as f64, self.total);
        let mean = total / n;
        let spread = mean * (1.0 - mean);
        if spread <= 0.0 {
            return None;
        }
        // Pearson's chi-square is never below the ratio and needs no logarithm: most cuts end there.
        let limit = LEAST * spread;
        let mut best: Option<(f64, Cut)> = None;
        let mut cut = Cut {
            newer: 0.0,
            sum: 0.0,
        };
        for (size, row) in self.rows.iter().enumerate() {
            let values = (1_u64 << size) as f64;
            for sum in row.iter().rev() {
                cut.newer += values;
                cut.sum += sum;
                let older = n - cut.newer;
                let gap = cut.sum - mean * cut.newer;
                if older <= 0.0 || gap * gap * n <= limit * cut.newer * older {
                    continue;
                }
                let (p0, p1) = ((total - cut.sum) / older, cut.sum / cut.newer);
                if !side(p1, p0) {
                    continue;
                }
                let ratio = older * divergence(p0, mean) + cut.newer * divergence(p1, mean);
                let above = ratio - needed(self.threshold, cut.newer * older / n);
                if above > best.map_or(0.0, |(most, _)| most) {
                    best = Some((above, cut));
                }
            }
        }
        best.map(|(_, cut)| cut)
    }

    /// Drops all but the newest values, to whole buckets.
    fn forget(&mut self, keep: u64) {
        while self.count > keep {
            let last = self.rows.len().saturating_sub(1);
            match self.rows.last_mut().map(VecDeque::pop_front) {
                Some(Some(sum)) => {
                    self.count = self.count.saturating_sub(1 << last);
                    self.total = (self.total - sum).max(0.0);
                }
                Some(None) => {
                    self.rows.pop();
                }
                None => return,
            }
        }
    }
}

/// Of a Bernoulli variable of mean `p` from one of mean `q`, 0 < q < 1.
fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

/// The threshold at which [`glr_run_length`] is `run_length`.
fn threshold(run_length: f64) -> f64 {
    let (mut low, mut high) = (0.5, 100.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if glr_run_length(middle) < run_length {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn wrong(&mut self, rate: f64) -> f64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let unit = ((z ^ (z >> 31)) >> 11) as f64 * 2f64.powi(-53);
            f64::from(unit < rate)
        }
    }

    #[test]
    fn unchanged_errors_alarm_as_seldom_as_stated() {
        for rate in [0.05, 0.2, 0.4] {
            let (mut glr, mut random) = (ErrorGlr::new(2_000.0).unwrap(), Random(3));
            let values = 400_000;
            let alarms = (0..values)
                .filter(|_| glr.update(random.wrong(rate)))
                .count();
            let run = f64::from(values) / alarms as f64;
            assert!((1_500.0..6_000.0).contains(&run), "{rate}: {run}");
        }
    }

    #[test]
    fn a_rise_is_found_soon_and_dated_and_a_fall_is_only_forgotten() {
        let (mut glr, mut random) = (ErrorGlr::default(), Random(1));
        assert!((0..3_000).all(|_| !glr.update(random.wrong(0.4))));
        assert!((0..3_000).all(|_| !glr.update(random.wrong(0.1))));
        assert!((2_500..3_500).contains(&glr.width()), "{}", glr.width());
        let delay = (1..500).find(|_| glr.update(random.wrong(0.8))).unwrap();
        assert!(delay < 30 && glr.since().abs_diff(delay) <= 8, "{delay}");
        glr.update(0.0);
        assert_eq!(glr.width(), 1, "it starts anew");
        let mut small = ErrorGlr::default();
        assert!((0..20_000).all(|_| !small.update(random.wrong(0.2))));
        let delay = (1..3_000).find(|_| small.update(random.wrong(0.27)));
        assert!(delay.is_some_and(|d| d > 50));
    }

    #[test]
    fn state_is_small_and_goes_on_where_it_was() {
        let (mut glr, mut random) = (ErrorGlr::default(), Random(5));
        for _ in 0..100_000 {
            glr.update(random.wrong(0.3));
        }
        let stored = serde_json::to_string(&glr).unwrap();
        let mut other: ErrorGlr = serde_json::from_str(&stored).unwrap();
        for _ in 0..5_000 {
            let x = random.wrong(0.3);
            assert_eq!(glr.update(x), other.update(x));
        }
        assert_eq!(glr, other);
        for _ in 0..3_000_000 {
            glr.update(0.5);
        }
        let width = glr.width() as f64;
        assert!((LARGEST / 2.0..LARGEST).contains(&width), "{width}");
        assert!(glr.bytes() < 4_096, "{}", glr.bytes());
    }

    #[test]
    fn hostile_values_change_nothing() {
        let mut glr = ErrorGlr::default();
        for x in [f64::NAN, f64::INFINITY, -1.0, 1.5] {
            assert!(!glr.update(x));
        }
        assert_eq!(glr, ErrorGlr::default());
        assert!((0..10_000).all(|i| !glr.update(f64::from(i < 5_000))));
        let error = ErrorGlr::new(f64::NAN).unwrap_err().to_string();
        assert!(error.contains("run_length must be 100"), "{error}");
    }
}
