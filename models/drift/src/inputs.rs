//! The device's covariate-drift monitor: owns two CUSUMs over a channel's standardised days, never the days' history.

use serde::{Deserialize, Serialize};

use crate::days::{DAY_MS, Day, DayReference, DayScale};
use crate::stream::threshold_for;

/// Reference value in deviations: made for changes of one and a half deviations of a day and more.
pub const K: f64 = 0.75;
/// Expected undrifted days of one channel until a false alarm to one side.
pub const RUN_DAYS: f64 = 36_500.0;
/// Fewest days since the onset: what passes in a week is weather.
const CONFIRM_DAYS: u64 = 7;
/// Largest standardised day that counts: one broken day is no drift.
const CLIP: f64 = 3.0;
/// Smallest inflation that is believed.
const MIN_INFLATION: f64 = 3.0;
/// Days from which a device that was not learnt from knows its own level.
const LEARN_DAYS: u32 = 56;

/// What is watched of a channel's days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aspect {
    /// Their mean.
    Mean,
    /// ln of the deviation within them.
    Spread,
}

impl Aspect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Mean, Self::Spread];

    /// Name of the detector.
    #[must_use]
    pub fn detector(self) -> &'static str {
        match self {
            Self::Mean => "cusum_daily_mean",
            Self::Spread => "cusum_daily_spread",
        }
    }

    /// Its value of a day.
    #[must_use]
    pub fn of(self, day: &Day) -> Option<f64> {
        match self {
            Self::Mean => Some(day.mean),
            Self::Spread => day.spread,
        }
    }
}

/// A channel's days have become others, or are as they were again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InputEvent {
    /// True: drift was found; it comes once until it ends.
    pub raised: bool,
    /// End of the day (ms).
    pub time: i64,
    /// End of the first day since the CUSUM last left zero (ms): about when it began.
    pub onset: i64,
    /// The CUSUM.
    pub statistic: f64,
    /// What it had to pass.
    pub threshold: f64,
    /// Mean shift since the onset, in usual deviations of a day; negative downwards.
    pub shift: f64,
    /// Days since the onset.
    pub days: u64,
}

/// What a device that the reference does not name has learnt of itself: moments of its days less the season.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Own {
    days: u32,
    level: f64,
    squares: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Side {
    sum: f64,
    days: u64,
    shift: f64,
    onset: Option<i64>,
}

/// Watches one aspect of one channel against its [`DayReference`].
///
/// A day's value is set against what the season makes of it, on the device's own scale, in deviations of what the season
/// leaves. A CUSUM to each side (k = [`K`]) adds up what is more than the reference's own doubt; its threshold follows from
/// the expected undrifted run time with the variance inflated by the days' autocorrelation
/// ([`crate::stream::average_run_length`]). Plain two-sample tests take neighbouring values for independent and alarm on
/// most undrifted windows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InputMonitor {
    up: Side,
    down: Side,
    raised: bool,
    last: Option<i64>,
    own: Own,
}

impl InputMonitor {
    /// Whether drift is signalled.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised
    }

    /// Takes a finished day's value; `scale` is the device's own, none where the reference does not know it.
    pub fn update(
        &mut self,
        reference: &DayReference,
        scale: Option<DayScale>,
        day: i64,
        value: f64,
    ) -> Option<InputEvent> {
        let usable = value.is_finite() && reference.std > 0.0 && reference.knows(day);
        if !usable || self.last.is_some_and(|last| day <= last) {
            return None;
        }
        self.last = Some(day);
        let inflation = reference.inflation().max(MIN_INFLATION);
        let (scale, doubt) = match scale {
            Some(scale) => (scale, reference.doubt()),
            None => {
                let few = 2.0 * (inflation / f64::from(LEARN_DAYS)).sqrt();
                let own = self.learn(reference, day, value)?;
                (own, reference.doubt().max(few).min(1.0))
            }
        };
        let seasonless = (value - scale.level) / scale.std - reference.season(day);
        let z = (seasonless / reference.std).clamp(-CLIP, CLIP);
        if !z.is_finite() {
            return None;
        }
        let threshold = threshold_for(RUN_DAYS, K, inflation);
        let slack = K + doubt;
        let end = (day + 1) * DAY_MS;
        self.up.add(z, slack, threshold, end);
        self.down.add(-z, slack, threshold, end);
        let passed = |s: &Side| s.sum > threshold && s.days >= CONFIRM_DAYS;
        let above = passed(&self.up) || passed(&self.down);
        let none = self.up.sum == 0.0 && self.down.sum == 0.0;
        if (above && !self.raised) || (none && self.raised) {
            self.raised = above;
            return Some(self.event(end, threshold));
        }
        None
    }

    fn event(&self, time: i64, threshold: f64) -> InputEvent {
        let (side, sign) = if self.up.sum >= self.down.sum {
            (&self.up, 1.0)
        } else {
            (&self.down, -1.0)
        };
        InputEvent {
            raised: self.raised,
            time,
            onset: side.onset.unwrap_or(time),
            statistic: side.sum,
            threshold,
            shift: sign * side.shift / side.days.max(1) as f64,
            days: side.days,
        }
    }

    /// The scale of a device that was not learnt from: of its own first days, less the season. A scatter larger than usual is
    /// its own; one that is smaller may be a calm month.
    fn learn(&mut self, reference: &DayReference, day: i64, value: f64) -> Option<DayScale> {
        let (usual, own) = (reference.usual_std, &mut self.own);
        if own.days < LEARN_DAYS {
            let days = own.days + 1;
            let seasonless = value - usual * reference.season(day);
            let apart = seasonless - own.level;
            let level = own.level + apart / f64::from(days);
            let squares = own.squares + apart * (seasonless - level);
            if squares.is_finite() {
                (own.days, own.level, own.squares) = (days, level, squares);
            }
            return None;
        }
        let scatter = (own.squares / f64::from(own.days)).sqrt() / reference.std;
        Some(DayScale {
            level: own.level,
            std: usual.max(scatter),
        })
    }
}

impl Side {
    fn add(&mut self, z: f64, slack: f64, threshold: f64, end: i64) {
        // Held at twice the threshold, so that it can come back.
        self.sum = (self.sum + z - slack).clamp(0.0, 2.0 * threshold);
        if self.sum > 0.0 {
            self.days += 1;
            self.shift += z;
            self.onset.get_or_insert(end);
        } else {
            *self = Self::default();
        }
    }
}
