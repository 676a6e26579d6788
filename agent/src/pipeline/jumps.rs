//! Is a time far ahead true: owns the readings that wait for others to agree; never judges a value.

use fieldcast_features::Millis;
use fieldcast_features::spec::MAX_LOOKBACK;

/// Periods that the stream may go ahead at once.
const ORDINARY: i64 = 3;
/// Different times in a row that must agree before the stream goes further.
const AGREE: usize = 3;
/// Most readings that wait; the oldest go first.
const MAX_HELD: usize = 1_024;

/// Channel, time and value of a reading.
pub(super) type Reading = (usize, Millis, f64);

/// Keeps one wrong time from closing every slot before it: a far jump counts once readings of three times agree.
#[derive(Debug, Clone)]
pub(super) struct Jumps {
    period: Millis,
    reach: Millis,
    held: Vec<Reading>,
    run: Vec<Millis>,
}

impl Jumps {
    pub(super) fn new(period: Millis) -> Self {
        Self {
            period,
            reach: period.saturating_mul(ORDINARY),
            held: Vec::new(),
            run: Vec::new(),
        }
    }

    /// Whether the stream would have to jump from `newest` to `time`.
    pub(super) fn is_jump(&self, newest: Millis, time: Millis) -> bool {
        time > newest.saturating_add(self.reach)
    }

    /// Takes a reading and hands out, in order of time, what counts by now.
    pub(super) fn take(&mut self, newest: Option<Millis>, reading: Reading) -> Vec<Reading> {
        let time = reading.1;
        let Some(newest) = newest.filter(|n| self.is_jump(*n, time)) else {
            self.run.clear();
            return self.release(newest.map_or(time, |n| n.max(time)), Some(reading));
        };
        if self.held.len() >= MAX_HELD {
            self.held.remove(0);
        }
        self.held.push(reading);
        if !self.agrees(time) {
            self.run.clear();
        }
        if self.run.last() != Some(&time) {
            self.run.push(time);
        }
        if self.run.len() < AGREE {
            return Vec::new();
        }
        // A sensor that speaks less often than the grid must not have to prove each of its readings.
        let widest = self.run.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let most = i64::try_from(MAX_LOOKBACK).unwrap_or(i64::MAX);
        self.reach = widest.saturating_mul(2).clamp(
            self.period.saturating_mul(ORDINARY),
            self.period.saturating_mul(most),
        );
        self.run.clear();
        self.release(newest.max(time), None)
    }

    /// Of readings in order of time, those that count; the rest waits.
    pub(super) fn sift(&mut self, readings: Vec<Reading>) -> Vec<Reading> {
        let mut out: Vec<Reading> = Vec::new();
        let mut newest: Option<Millis> = None;
        for reading in readings {
            let counted = self.take(newest, reading);
            newest = newest.max(counted.last().map(|r| r.1));
            out.extend(counted);
        }
        out.sort_by_key(|r| r.1);
        out
    }

    /// Goes on from the last times, at a like distance.
    fn agrees(&self, time: Millis) -> bool {
        match self.run.as_slice() {
            [] => true,
            [one] => time >= *one,
            [.., before, last] => {
                let usual = last.saturating_sub(*before).saturating_mul(2);
                time >= *last && time.saturating_sub(*last) <= usual.max(self.reach)
            }
        }
    }

    fn release(&mut self, newest: Millis, with: Option<Reading>) -> Vec<Reading> {
        let mut out: Vec<Reading> = with.into_iter().collect();
        let mut newest = newest;
        self.held.sort_by_key(|r| r.1);
        let near = self.held.iter().take_while(|r| {
            let near = r.1 <= newest.saturating_add(self.reach);
            newest = if near { newest.max(r.1) } else { newest };
            near
        });
        let n = near.count();
        out.extend(self.held.drain(..n));
        out.sort_by_key(|r| r.1);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds times; what comes out moves the stream on.
    fn times(jumps: &mut Jumps, newest: &mut Option<Millis>, feed: &[Millis]) -> Vec<Millis> {
        let mut out = Vec::new();
        for time in feed {
            let counted = jumps.take(*newest, (0, *time, 1.0));
            let far = counted.iter().map(|r| r.1).max();
            *newest = (*newest).max(far);
            out.extend(counted.iter().map(|r| r.1));
        }
        out
    }

    #[test]
    fn a_jump_counts_with_all_its_readings_once_three_times_agree() {
        let (mut jumps, mut newest) = (Jumps::new(10), None);
        assert_eq!(times(&mut jumps, &mut newest, &[0, 10, 40]), [0, 10, 40]);
        let unproven = times(&mut jumps, &mut newest, &[500, 500, 500, 510]);
        assert!(unproven.is_empty());
        assert_eq!(
            times(&mut jumps, &mut newest, &[520]),
            [500, 500, 500, 510, 520]
        );
    }

    #[test]
    fn wrong_times_between_right_ones_never_count() {
        let (mut jumps, mut newest) = (Jumps::new(10), Some(0));
        let feed = [10, 9_000, 20, 9_010, 30, 9_020, 40];
        assert_eq!(times(&mut jumps, &mut newest, &feed), [10, 20, 30, 40]);
        // A gap in which one time is wrong: the stream goes on at the right one.
        let feed = [500, 90_000, 510, 520, 530, 540];
        let out = times(&mut jumps, &mut newest, &feed);
        assert_eq!(out, [500, 510, 520, 530, 540]);
        assert_eq!(newest, Some(540));
    }

    #[test]
    fn a_slow_sensor_proves_itself_once() {
        let (mut jumps, mut newest) = (Jumps::new(10), Some(0));
        let feed = [100, 200, 300, 400, 500];
        assert_eq!(times(&mut jumps, &mut newest, &feed), feed);
    }

    #[test]
    fn of_a_history_a_wrong_end_is_left_out() {
        let mut jumps = Jumps::new(10);
        let mut history: Vec<Reading> = (0..50).map(|i| (0, i * 10, 1.0)).collect();
        history.push((0, 99_000, 1.0));
        assert_eq!(jumps.sift(history).last().map(|r| r.1), Some(490));
    }
}
