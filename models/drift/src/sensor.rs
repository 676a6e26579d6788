//! Is the sensor broken: owns a channel's checks for clock, range, rate, spikes, stuck values, noise, units and silence,
//! never a forecast.

mod apart;
mod clock;
mod noise;
mod stuck;
mod unit;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::StatError;
use clock::Clock;
use noise::Noise;
use stuck::Stays;
use unit::Unit;

/// Changes between readings from which the usual step is estimated.
const STEPS: usize = 32;
/// Fewest of them before a spike is called.
const MIN_STEPS: usize = 12;
/// Readings in a row at a new level after which the level is believed.
const BELIEVE_AFTER: u32 = 3;

/// Readings closer than this to the one before are not asked about noise and unit: what a machine does within minutes says
/// little about its sensor.
const SPACING_MS: i64 = 900_000;

/// Newest of those readings whose times are kept: a fault is found that long after it began, at most.
const PACED: usize = 48;

/// After so long without a reading the values of before say nothing about the unit: a season may lie between.
const FORGET_MS: i64 = 7 * 86_400_000;

/// What is normal for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SensorLimits {
    /// Smallest possible value.
    pub min: Option<f64>,
    /// Largest possible value.
    pub max: Option<f64>,
    /// Identical readings in a row that mean "stuck"; 0 = never.
    pub stuck_after: u32,
    /// Milliseconds that they must last, and then they must also be twice as many as the channel stayed the same before:
    /// readings each few seconds, or of a coarse sensor, are alike because nothing happened in between. 0 = neither is asked.
    pub stuck_for_ms: i64,
    /// A value at which the sensor may rest for long (0 for rain or light).
    pub resting: Option<f64>,
    /// Milliseconds without a usable reading that mean "missing"; 0 = never.
    pub missing_after_ms: i64,
    /// A step this many times the usual one is a spike; 0 = never.
    pub spike_factor: f64,
    /// Fastest change that is possible, in the channel's unit an hour.
    pub max_rate: Option<f64>,
    /// Whether bursts of noise are looked for.
    pub noise: bool,
    /// Whether changes of unit are looked for.
    pub unit: bool,
}

impl Default for SensorLimits {
    fn default() -> Self {
        Self {
            min: None,
            max: None,
            stuck_after: 48,
            stuck_for_ms: 4 * 3_600_000,
            resting: Some(0.0),
            missing_after_ms: 0,
            spike_factor: 12.0,
            max_rate: None,
            noise: true,
            unit: true,
        }
    }
}

impl SensorLimits {
    fn check(&self) -> Result<(), StatError> {
        let fail = |parameter, problem: &str| {
            Err(StatError::Parameter {
                subject: "sensor monitor",
                parameter,
                problem: problem.into(),
            })
        };
        if self.min.is_some_and(|v| !v.is_finite()) || self.max.is_some_and(|v| !v.is_finite()) {
            return fail("min/max", "must be finite numbers");
        }
        if matches!((self.min, self.max), (Some(min), Some(max)) if min >= max) {
            return fail("min", "must be below max");
        }
        if !self.spike_factor.is_finite()
            || self.spike_factor < 0.0
            || self.missing_after_ms < 0
            || self.stuck_for_ms < 0
        {
            return fail(
                "spike_factor/missing_after_ms/stuck_for_ms",
                "must not be negative",
            );
        }
        if self.max_rate.is_some_and(|r| !r.is_finite() || r <= 0.0) {
            return fail("max_rate", "must be a positive number");
        }
        Ok(())
    }
}

/// What is wrong with a sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The same value again and again.
    Stuck,
    /// Below its smallest or above its largest possible value.
    OutOfRange,
    /// No usable reading for too long.
    Missing,
    /// A step far larger than usual that did not last.
    Spike,
    /// A change faster than is possible.
    Rate,
    /// Far more scatter than usual.
    Noise,
    /// The values of before in another unit.
    Unit,
    /// Times that cannot be true: ahead of the true time, standing still, or gone back.
    Clock,
}

impl Fault {
    /// Its name in signals and alarms.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::OutOfRange => "out_of_range",
            Self::Missing => "missing",
            Self::Spike => "spike",
            Self::Rate => "rate_of_change",
            Self::Noise => "noise",
            Self::Unit => "unit_change",
            Self::Clock => "clock",
        }
    }
}

/// A fault began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SensorEvent {
    /// Which fault.
    pub fault: Fault,
    /// True = it began, false = it is over.
    pub raised: bool,
    /// Data time of the reading that showed it (ms); for silence the time of the check.
    pub time: i64,
    /// Data time of the first reading that the fault spoilt, found when it began and the same when it is over: readings from then on
    /// up to `time` are not to be learnt from. `time` itself where there are none: of a spike that lasted, which was a step.
    pub onset: i64,
    /// The reading, `None` for silence.
    pub value: Option<f64>,
}

/// What a reading is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Worth {
    /// Nothing speaks against it.
    Good,
    /// A spike: may be true.
    Suspect,
    /// From a broken sensor (of a wrong time, out of range, too fast, stuck, noisy, in another unit) or not a number: not to be used.
    Bad,
}

/// Watches one channel; under 4 kB of state as it is stored, whatever comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensorMonitor {
    limits: SensorLimits,
    active: Vec<Fault>,
    /// Onsets of those faults.
    #[serde(default)]
    onsets: Vec<(Fault, i64)>,
    last_usable: Option<i64>,
    last_value: Option<f64>,
    #[serde(default)]
    stays: Stays,
    /// Newest time at which its readings were at fault.
    #[serde(default)]
    faulty: Option<i64>,
    level: Option<f64>,
    away: u32,
    /// Seven digits are plenty.
    steps: VecDeque<f32>,
    /// Time and value of the last reading that changed no faster than is possible.
    #[serde(default)]
    possible: Option<(i64, f64)>,
    /// Time of the last reading that noise and unit were judged by.
    #[serde(default)]
    paced: Option<i64>,
    /// Its time and those of the ones before it.
    #[serde(default, rename = "paced_apart", with = "apart")]
    paced_times: VecDeque<i64>,
    #[serde(default)]
    noise: Noise,
    #[serde(default)]
    unit: Unit,
    #[serde(default)]
    clock: Clock,
    /// Time of the first look, where no reading had come.
    #[serde(default)]
    first_look: Option<i64>,
    /// Not stored: nobody looked while it lay there.
    #[serde(skip)]
    back: Back,
}

/// Whether the monitor has been away, and no reading has come since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Back {
    #[default]
    No,
    Unlooked,
    /// Time of the first look.
    Since(i64),
}

impl SensorMonitor {
    /// For one channel.
    ///
    /// # Errors
    /// [`StatError::Parameter`] for limits that are not finite or the wrong way round.
    pub fn new(limits: SensorLimits) -> Result<Self, StatError> {
        limits.check()?;
        Ok(Self {
            limits,
            active: Vec::new(),
            onsets: Vec::new(),
            last_usable: None,
            last_value: None,
            stays: Stays::default(),
            faulty: None,
            level: None,
            away: 0,
            steps: VecDeque::new(),
            possible: None,
            paced: None,
            paced_times: VecDeque::new(),
            noise: Noise::default(),
            unit: Unit::default(),
            clock: Clock::default(),
            first_look: None,
            back: Back::No,
        })
    }

    /// Goes on behind a time in which nobody looked: what was silent then may only not have been heard, so that half of the time that
    /// means "missing" has to pass anew.
    pub fn resume(&mut self) {
        self.back = Back::Unlooked;
    }

    /// Puts other limits in place: what was learnt stays, and a fault ends with the next reading that breaks none.
    ///
    /// # Errors
    /// As [`Self::new`]; the old limits stay.
    pub fn set_limits(&mut self, limits: SensorLimits) -> Result<(), StatError> {
        limits.check()?;
        self.limits = limits;
        Ok(())
    }

    /// The limits it judges by.
    #[must_use]
    pub fn limits(&self) -> &SensorLimits {
        &self.limits
    }

    /// Faults at present.
    #[must_use]
    pub fn active(&self) -> &[Fault] {
        &self.active
    }

    /// Whether it was called stuck so often, three times within a month, that this was taken for how it is: a set point.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        self.stays.is_believed()
    }

    /// Whether a reading of that time or later was at fault, or is; of a spike the one behind it, which ends it. One out of range,
    /// too fast or of a wrong time is graded and in no row.
    #[must_use]
    pub fn was_faulty_since(&self, time: i64) -> bool {
        self.faulty.is_some_and(|at| at >= time)
    }

    /// As [`Self::update_at`] where nobody vouches for the true time.
    pub fn update(&mut self, time: i64, value: f64) -> (Worth, Vec<SensorEvent>) {
        self.update_at(time, value, None)
    }

    /// Takes a reading, in order of time (an older one is judged by range alone), and tells what it is worth and which
    /// faults began or ended with it. `now` is the true time (ms UTC), where somebody vouches for it: a reading of a
    /// wrong clock is judged by nothing else and teaches nothing.
    pub fn update_at(
        &mut self,
        time: i64,
        value: f64,
        now: Option<i64>,
    ) -> (Worth, Vec<SensorEvent>) {
        let mut events = Vec::new();
        let wrong = self.clock.update(time, value, now);
        self.set(
            Fault::Clock,
            wrong,
            now.unwrap_or(time).min(time),
            Some(value),
            &mut events,
        );
        if wrong {
            return (Worth::Bad, events);
        }
        if !value.is_finite() {
            events.extend(self.check_silence(time));
            return (Worth::Bad, events);
        }
        let outside = self.limits.min.is_some_and(|m| value < m)
            || self.limits.max.is_some_and(|m| value > m);
        if self.last_usable.is_some_and(|last| time < last) {
            return (if outside { Worth::Bad } else { Worth::Good }, events);
        }
        self.set(Fault::OutOfRange, outside, time, Some(value), &mut events);
        if outside {
            events.extend(self.check_silence(time));
            return (Worth::Bad, events);
        }
        let fast = self.is_too_fast(time, value);
        self.set(Fault::Rate, fast, time, Some(value), &mut events);
        if fast {
            events.extend(self.check_silence(time));
            return (Worth::Bad, events);
        }
        let before = self.last_usable;
        self.last_usable.get_or_insert(time);
        self.set(Fault::Missing, false, time, Some(value), &mut events);
        self.last_usable = Some(time);
        self.back = Back::No;
        let spike = self.is_spike(value);
        self.set(Fault::Spike, spike, time, Some(value), &mut events);
        let same = self.last_value == Some(value);
        self.last_value = Some(value);
        let was = self.active.contains(&Fault::Stuck);
        let stuck = match same && self.limits.resting == Some(value) {
            true => false,
            false => self.stays.update((time, before), same, was, &self.limits),
        };
        self.set(Fault::Stuck, stuck, time, Some(value), &mut events);
        let paced = self
            .paced
            .is_none_or(|last| time.saturating_sub(last) >= SPACING_MS);
        if paced {
            if self
                .paced
                .is_some_and(|last| time.saturating_sub(last) > FORGET_MS)
            {
                self.unit.forget();
            }
            self.paced = Some(time);
            if self.paced_times.len() == PACED {
                self.paced_times.pop_front();
            }
            self.paced_times.push_back(time);
            let unit = self.limits.unit && self.unit.update(value);
            self.set(Fault::Unit, unit, time, Some(value), &mut events);
            // A larger unit scatters more: that is not noise.
            let noise = self.limits.noise && !unit && self.noise.update(value);
            self.set(Fault::Noise, noise, time, Some(value), &mut events);
        }
        // What looked like a spike and lasted was a step.
        let over = |e: &SensorEvent| e.fault == Fault::Spike && !e.raised && e.onset < e.time;
        if events.iter().any(over) || self.active.iter().any(|f| *f != Fault::Spike) {
            self.faulty = self.faulty.max(Some(time));
        }
        let unit = self.active.contains(&Fault::Unit);
        let noise = self.active.contains(&Fault::Noise);
        let worth = if stuck || unit || noise {
            Worth::Bad
        } else if spike {
            Worth::Suspect
        } else {
            Worth::Good
        };
        (worth, events)
    }

    /// What a reading of now is taken for, where the unit has changed: the conversion from the old unit, in words.
    #[must_use]
    pub fn conversion(&self) -> Option<&'static str> {
        self.unit.conversion()
    }

    /// Tells whether the sensor has fallen silent by `now` (data time); to be called now and then.
    pub fn check_silence(&mut self, now: i64) -> Vec<SensorEvent> {
        let mut events = Vec::new();
        // Silence is counted from the first look where no reading ever came; those of a past that is replayed are readings all the same.
        let since = match self.last_usable {
            Some(last) => last,
            None => *self.first_look.get_or_insert(now),
        };
        let heard = match self.back {
            Back::No => true,
            Back::Unlooked => {
                self.back = Back::Since(now);
                false
            }
            Back::Since(back) => now.saturating_sub(back) > self.limits.missing_after_ms / 2,
        };
        if self.limits.missing_after_ms > 0
            && heard
            && now.saturating_sub(since) > self.limits.missing_after_ms
        {
            self.set(Fault::Missing, true, now, None, &mut events);
        }
        events
    }

    /// Faster than is possible since the last possible reading; the longer ago that is, the more is possible.
    fn is_too_fast(&mut self, time: i64, value: f64) -> bool {
        if let (Some(rate), Some((since, last))) = (self.limits.max_rate, self.possible) {
            let hours = time.saturating_sub(since).max(1) as f64 / 3_600_000.0;
            if (value - last).abs() > rate * hours {
                return true;
            }
        }
        self.possible = Some((time, value));
        false
    }

    /// A step from the believed level far above the median step. A new level is believed after three readings near it; what was taken
    /// for spikes then, or leads to where the channel is next, was a step.
    fn is_spike(&mut self, value: f64) -> bool {
        let Some(level) = self.level else {
            self.level = Some(value);
            return false;
        };
        let step = (value - level).abs();
        let mut sorted: Vec<f64> = self.steps.iter().map(|s| f64::from(*s)).collect();
        sorted.sort_by(f64::total_cmp);
        let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let known = self.limits.spike_factor > 0.0 && sorted.len() >= MIN_STEPS && usual > 0.0;
        if known && step > self.limits.spike_factor * usual && self.away < BELIEVE_AFTER {
            self.away += 1;
            return true;
        }
        if self
            .last_value
            .is_some_and(|last| (value - last).abs() < step)
        {
            self.onsets.retain(|(f, _)| *f != Fault::Spike);
        }
        // The step onto a believed new level is no usual step.
        if self.away < BELIEVE_AFTER && step > 0.0 {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(step.min(f64::from(f32::MAX)) as f32);
        }
        self.away = 0;
        self.level = Some(value);
        false
    }

    fn set(
        &mut self,
        fault: Fault,
        present: bool,
        time: i64,
        value: Option<f64>,
        events: &mut Vec<SensorEvent>,
    ) {
        let was = self.active.contains(&fault);
        if was != present {
            let onset = if present {
                let onset = self.first_spoilt(fault, time);
                self.active.push(fault);
                self.onsets.push((fault, onset));
                onset
            } else {
                self.active.retain(|f| *f != fault);
                let known = self.onsets.iter().position(|(f, _)| *f == fault);
                known.map_or(time, |i| self.onsets.swap_remove(i).1)
            };
            events.push(SensorEvent {
                fault,
                raised: present,
                time,
                onset,
                value,
            });
        }
    }

    /// When a fault began that is seen at `time`. What lies between two readings that were judged is spoilt as the later one is.
    fn first_spoilt(&self, fault: Fault, time: i64) -> i64 {
        let paced = |ago: usize| {
            let mut times = self.paced_times.iter().rev().skip(ago);
            let judged = times.next().copied();
            times.next().map_or(judged, |sound| Some(sound + 1))
        };
        match fault {
            Fault::Stuck => self.stays.since().unwrap_or(time),
            Fault::Noise => paced(self.noise.began()).unwrap_or(time),
            Fault::Unit => paced(self.unit.began()).unwrap_or(time),
            _ => time,
        }
    }
}

/// How many readings ago something began, by what each says of it from the newest one back: where those that say so outnumber the
/// others most.
fn began(shows: impl Iterator<Item = bool>) -> usize {
    let (mut sum, mut most, mut at) = (0, 0, 0);
    for (ago, shows) in shows.enumerate() {
        sum += if shows { 1 } else { -1 };
        if shows && sum >= most {
            (most, at) = (sum, ago);
        }
    }
    at
}

#[cfg(test)]
mod tests;
