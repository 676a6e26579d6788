//! Likelihood ratios of a risen error: owns counts of errors in buckets, their recent mean and what these must pass, never a model.

use std::collections::VecDeque;
use std::f64::consts::TAU;

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
/// The smallest cut that is looked at: what shows sooner is seen by the recent mean.
const SMALLEST: f64 = 40.0;
/// How much less a cut of e times the size has to pass.
const SLOPE: f64 = 2.0;
/// The lowest threshold of a cut, however many values it has.
const LEAST: f64 = 3.5;
/// Weight of a value in the recent mean: HDDM's.
const LAMBDA: f64 = 0.05;
/// Independent values whose mean varies as much as the recent one.
const RECENT: f64 = (2.0 - LAMBDA) / LAMBDA;
/// One false alarm of so many may come from the recent mean, at an error of one half.
const SUDDEN_SHARE: f64 = 40.0;
/// By how much a mean of discrete steps stays below a continuous one, in steps' deviations (Siegmund, 1985).
const OVERSHOOT: f64 = 0.583;

/// Expected number of unchanged values with mean `error` until some cut's ratio passes `h - 2 ln(size)`, to one side;
/// `size` is the values of the newer part times the share of the older one. It is shortest at an error of one half, whose
/// variance the ratio takes for that of all values.
///
/// Siegmund and Venkatraman (1995, theorem 1) give the rate for a threshold that is the same for all sizes, as the integral
/// of b e^-h x v(x)² / (2 sqrt(2 pi)) over x = b / sqrt(size), with b = sqrt(2 h) and v(x) = exp(-0.583 x). Here the
/// threshold is under the integral. The level before the change counts as known there; where it is estimated, and looked
/// at from buckets only, the run is somewhat longer.
#[must_use]
pub fn glr_run_length(h: f64, error: f64) -> f64 {
    let of_variance = 0.25 / (error * (1.0 - error));
    let rate = |size: f64| {
        let h = needed(h, size) * of_variance;
        let b = (2.0 * h).sqrt();
        let overshoot = (-2.0 * OVERSHOOT * b / size.sqrt()).exp();
        (-h).exp() * b.powi(3) / (4.0 * TAU.sqrt() * size * size) * overshoot
    };
    let mut sum = 0.0;
    let mut size = SMALLEST;
    while size < LARGEST {
        let step = (size / 32.0).floor().max(1.0);
        sum += step * rate(size + (step - 1.0) / 2.0);
        size += step;
    }
    1.0 / sum
}

/// Expected number of unchanged values until the recent mean's ratio passes `h`: the rate at which a stationary Gaussian
/// process whose correlation falls by `LAMBDA` a step passes b = sqrt(2 h), `LAMBDA` b phi(b), with the overshoot of steps.
fn sudden_run_length(h: f64) -> f64 {
    let b = (2.0 * h).sqrt();
    let overshoot = (-OVERSHOOT * b * (2.0 * LAMBDA).sqrt()).exp();
    TAU.sqrt() * h.exp() / (LAMBDA * b * overshoot)
}

/// What the ratio of a cut has to pass: false alarms are as likely at each size then, up to where the least threshold
/// begins. With one threshold for all nearly all would be of the smallest sizes, where a large change passes anyway, and
/// small changes, seen in large parts only, would be found late.
fn needed(h: f64, size: f64) -> f64 {
    (h - SLOPE * size.ln()).max(LEAST)
}

/// Finds a risen error rate: values in [0, 1], 1 = wrong; neither the level before nor the one after need be known.
///
/// Two ratios, each an alarm where it passes its threshold and the newer error is the larger one:
/// - For each cut of the window into an older and a newer part, two levels against one, as if all values had the largest
///   variance that values in [0, 1] can have (Hoeffding): 2 (p1 - p0)² times the size. At a lower error false alarms are
///   rarer than stated, far rarer at a tenth.
/// - The recent mean (exponentially weighted, HDDM's 0.05) against that of all before:
///   `n0 kl(p0, p) + n1 kl(p1, p)`, kl of Bernoulli variables (for values between 0 and 1 that is on the careful side:
///   their moment generating function lies below a Bernoulli variable's of the same mean). One fixed memory instead of
///   all: a large change, that takes some tens of values, is found sooner at as many false alarms.
///
/// The window is kept as counts in buckets of doubling sizes, as ADWIN keeps it: O(log n) of memory and time. An error
/// that falls is a model that learns: what was before is forgotten, without an alarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorGlr {
    threshold: f64,
    sudden: f64,
    /// Row `i` holds sums of 2^i values, oldest first.
    rows: Vec<VecDeque<f64>>,
    count: u64,
    total: f64,
    /// Sum of weighted values, and the weight that none has yet.
    recent: f64,
    unseen: f64,
    since: u64,
    fired: bool,
}

impl Default for ErrorGlr {
    fn default() -> Self {
        Self::of_run_length(Self::RUN_LENGTH)
    }
}

/// A cut of the window: values and sum of the newer part.
#[derive(Clone, Copy)]
struct Cut {
    newer: f64,
    sum: f64,
}

impl ErrorGlr {
    /// Expected unchanged values until a false alarm at an error of one half, by default: the longest (of 4, 5, 6, 7 and 10
    /// thousand) that misses no more drifts of made SEA streams than Page-Hinkley, at a third of its false alarms.
    pub const RUN_LENGTH: f64 = 5_000.0;

    /// With an expected number of unchanged values until a false alarm, at an error of one half: at any other it is longer.
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
        Ok(Self::of_run_length(run_length))
    }

    fn of_run_length(run_length: f64) -> Self {
        let share = 1.0 - 1.0 / SUDDEN_SHARE;
        Self::with_thresholds(
            threshold(run_length / share, |h| glr_run_length(h, 0.5)),
            threshold(run_length * SUDDEN_SHARE, sudden_run_length),
        )
    }

    fn with_thresholds(threshold: f64, sudden: f64) -> Self {
        Self {
            threshold,
            sudden,
            rows: Vec::new(),
            count: 0,
            total: 0.0,
            recent: 0.0,
            unseen: 1.0,
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

    /// What a cut's ratio has to pass, and twice the logarithm of its size less.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Expected number of unchanged values with mean `error` until a false alarm; below an error of a sixth or so runs may be a
    /// quarter shorter, since few errors are skewed to more.
    #[must_use]
    pub fn run_length(&self, error: f64) -> f64 {
        let slow = glr_run_length(self.threshold, error);
        1.0 / (1.0 / slow + 1.0 / sudden_run_length(self.sudden))
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
            *self = Self::with_thresholds(self.threshold, self.sudden);
        }
        self.push(x);
        self.recent += LAMBDA * (x - self.recent);
        self.unseen *= 1.0 - LAMBDA;
        // No ratio of a risen error grows by a value below the mean.
        if x > self.mean() {
            let slow = self.highest(|gap| gap > 0.0);
            if slow.is_some() || self.suddenly() {
                self.fired = true;
                self.since = self.onset();
                return true;
            }
        }
        if self.count.is_multiple_of(FALL_CLOCK)
            && let Some(cut) = self.highest(|gap| gap < 0.0)
        {
            self.forget(cut.newer as u64);
        }
        false
    }

    /// Whether the recent mean's ratio passes its threshold.
    fn suddenly(&self) -> bool {
        let (n, mean) = (self.count as f64, self.mean());
        let older = n - RECENT;
        if older < RECENT || mean >= 1.0 {
            return false;
        }
        let newer = self.recent / (1.0 - self.unseen);
        let before = ((self.total - RECENT * newer) / older).max(0.0);
        newer > before
            && older * divergence(before, mean) + RECENT * divergence(newer, mean) > self.sudden
    }

    /// How many of the newest values the likeliest cut has.
    fn onset(&self) -> u64 {
        let mut best = (0.0, 0.0);
        self.cuts(|cut, gap, size| {
            let ratio = gap * gap / size;
            if gap > 0.0 && ratio > best.0 {
                best = (ratio, cut.newer);
            }
        });
        best.1 as u64
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

    /// The likeliest cut of those that pass the threshold and whose gap `side` admits.
    fn highest(&self, side: impl Fn(f64) -> bool) -> Option<Cut> {
        let mut best: Option<(f64, Cut)> = None;
        self.cuts(|cut, gap, size| {
            let ratio = 2.0 * gap * gap / size;
            // Most cuts end before the logarithm.
            if ratio > LEAST
                && size >= SMALLEST
                && side(gap)
                && ratio > best.map_or(0.0, |(most, _)| most)
                && ratio > needed(self.threshold, size)
            {
                best = Some((ratio, cut));
            }
        });
        best.map(|(_, cut)| cut)
    }

    /// Each cut with its size and with how far its newer part's sum is above what the window's mean says.
    fn cuts(&self, mut take: impl FnMut(Cut, f64, f64)) {
        let (n, mean) = (self.count as f64, self.mean());
        let mut cut = Cut {
            newer: 0.0,
            sum: 0.0,
        };
        for (size, row) in self.rows.iter().enumerate() {
            let values = (1_u64 << size) as f64;
            for sum in row.iter().rev() {
                cut.newer += values;
                cut.sum += sum;
                if cut.newer < n {
                    take(
                        cut,
                        cut.sum - mean * cut.newer,
                        cut.newer * (n - cut.newer) / n,
                    );
                }
            }
        }
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

/// The threshold at which `run_length_of` it is `run_length`.
fn threshold(run_length: f64, run_length_of: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.5, 100.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if run_length_of(middle) < run_length {
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
    use crate::window::random::Random;

    fn wrong(random: &mut Random, rate: f64) -> f64 {
        f64::from(random.unit() < rate)
    }

    #[test]
    fn unchanged_errors_alarm_as_seldom_as_stated_and_lower_ones_less() {
        let mut last = 0.0;
        for (rate, asked) in [(0.5, 1_000.0), (0.24, 1_000.0), (0.14, 1_000.0)] {
            let (mut glr, mut random) = (ErrorGlr::new(asked).unwrap(), Random(3));
            assert!((glr.run_length(0.5) / asked - 1.0).abs() < 1e-6);
            let values = 1_000_000;
            let alarms = (0..values)
                .filter(|_| glr.update(wrong(&mut random, rate)))
                .count();
            let run = f64::from(values) / alarms as f64;
            let stated = glr.run_length(rate);
            assert!(
                (0.6..2.0).contains(&(run / stated)),
                "{rate}: {run} of {stated}"
            );
            assert!(run > last, "{rate}: {run} after {last}");
            last = run;
        }
    }

    #[test]
    fn a_rise_is_found_soon_and_dated_and_a_fall_is_only_forgotten() {
        let (mut glr, mut random) = (ErrorGlr::new(10_000.0).unwrap(), Random(1));
        assert!((0..3_000).all(|_| !glr.update(wrong(&mut random, 0.4))));
        assert!((0..3_000).all(|_| !glr.update(wrong(&mut random, 0.1))));
        assert!((2_500..3_500).contains(&glr.width()), "{}", glr.width());
        let delay = (1..500)
            .find(|_| glr.update(wrong(&mut random, 0.8)))
            .unwrap();
        assert!(delay < 30 && glr.since().abs_diff(delay) <= 8, "{delay}");
        glr.update(0.0);
        assert_eq!(glr.width(), 1, "it starts anew");
        let mut small = ErrorGlr::new(10_000.0).unwrap();
        assert!((0..20_000).all(|_| !small.update(wrong(&mut random, 0.2))));
        let delay = (1..3_000).find(|_| small.update(wrong(&mut random, 0.27)));
        assert!(delay.is_some_and(|d| d > 50));
    }

    #[test]
    fn state_is_small_and_goes_on_where_it_was() {
        let (mut glr, mut random) = (ErrorGlr::default(), Random(5));
        for _ in 0..100_000 {
            glr.update(wrong(&mut random, 0.3));
        }
        let stored = serde_json::to_string(&glr).unwrap();
        let mut other: ErrorGlr = serde_json::from_str(&stored).unwrap();
        for _ in 0..5_000 {
            let x = wrong(&mut random, 0.3);
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
