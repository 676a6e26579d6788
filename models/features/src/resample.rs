//! Readings to grid rows: owns slots and their means, as a stream and as a batch with the same numbers; never stores rows.

use std::collections::{BTreeMap, BTreeSet};

use crate::grid::{Millis, is_time, slot_of};
use crate::row::FeatureRow;
use crate::spec::{ForecasterSpec, MAX_LOOKBACK};

/// Largest absolute value a reading may have: sums of such values stay finite.
pub const MAX_VALUE: f64 = 1e290;

/// One reading of one channel, by the channel's index in the forecaster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Index in [`ForecasterSpec::channels`].
    pub channel: usize,
    /// When it was measured (data time).
    pub time: Millis,
    /// What was measured; NaN = the sensor answered, but with nothing usable.
    pub value: f64,
}

/// What became of a pushed reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in an open slot.
    Taken,
    /// Its slot is closed already: the row was handed out without it.
    Late,
    /// Unknown channel or a time outside the years 1 to 9999.
    Invalid,
    /// More than [`MAX_LOOKBACK`] slots are open: call [`Resampler::close`] first.
    Full,
}

/// A sum that does not depend on the order of its terms: non-overlapping partials (Shewchuk 1997), rounded once at
/// the end. It makes the device's rows (readings as they come) equal to the hub's (sorted by time), bit by bit.
#[derive(Debug, Clone, Default)]
struct ExactSum {
    partials: Vec<f64>,
    count: u32,
}

impl ExactSum {
    fn add(&mut self, value: f64) {
        let mut x = value;
        let mut kept = 0;
        for i in 0..self.partials.len() {
            let mut y = self.partials[i];
            if x.abs() < y.abs() {
                std::mem::swap(&mut x, &mut y);
            }
            let high = x + y;
            let low = y - (high - x);
            if low != 0.0 {
                self.partials[kept] = low;
                kept += 1;
            }
            x = high;
        }
        self.partials.truncate(kept);
        self.partials.push(x);
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        // Rounded as Python's fsum does it: from the largest partial down, half-way cases decided by the sign below.
        let Some((&last, mut rest)) = self.partials.split_last() else {
            return 0.0;
        };
        let (mut high, mut low) = (last, 0.0);
        while let Some((&y, below)) = rest.split_last() {
            rest = below;
            let x = high;
            high = x + y;
            low = y - (high - x);
            if low != 0.0 {
                break;
            }
        }
        if let Some(&next) = rest.last()
            && ((low < 0.0 && next < 0.0) || (low > 0.0 && next > 0.0))
        {
            let (y, x) = (low * 2.0, high + low * 2.0);
            if y == x - high {
                high = x;
            }
        }
        high / f64::from(self.count)
    }
}

#[derive(Debug, Clone)]
struct Slot {
    sums: Vec<ExactSum>,
    at_end: Vec<bool>,
}

/// Turns readings into right-labelled grid rows: the row at `t` holds each channel's mean over `(t - period, t]`.
///
/// Give each reading once. Order does not matter as long as a reading comes before its slot closes.
#[derive(Debug, Clone)]
pub struct Resampler {
    period: Millis,
    channels: usize,
    open: BTreeMap<Millis, Slot>,
    closed_through: Option<Millis>,
    late: u64,
}

impl Resampler {
    /// `period` in milliseconds (at least 1), `channels` as many as the forecaster has.
    #[must_use]
    pub fn new(period: Millis, channels: usize) -> Self {
        Self {
            period: period.max(1),
            channels,
            open: BTreeMap::new(),
            closed_through: None,
            late: 0,
        }
    }

    /// For a forecaster's grid and channels.
    #[must_use]
    pub fn for_spec(spec: &ForecasterSpec) -> Self {
        Self::new(spec.period_ms(), spec.channels().len())
    }

    /// Goes on behind rows that exist already: what falls at or before `closed_through` is late.
    #[must_use]
    pub fn resume(mut self, closed_through: Millis) -> Self {
        if is_time(closed_through) {
            self.closed_through = Some(closed_through.div_euclid(self.period) * self.period);
        }
        self
    }

    /// Time of the last row that was handed out.
    #[must_use]
    pub fn closed_through(&self) -> Option<Millis> {
        self.closed_through
    }

    /// Readings that came after their slot had closed.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes one reading. A non-finite value counts as "asked, nothing usable": the slot exists, the value is missing.
    pub fn push(&mut self, channel: usize, time: Millis, value: f64) -> Pushed {
        if channel >= self.channels || !is_time(time) {
            return Pushed::Invalid;
        }
        let slot_time = slot_of(time, self.period);
        if self
            .closed_through
            .is_some_and(|closed| slot_time <= closed)
        {
            self.late += 1;
            return Pushed::Late;
        }
        if self.open.len() >= MAX_LOOKBACK && !self.open.contains_key(&slot_time) {
            return Pushed::Full;
        }
        let channels = self.channels;
        let slot = self.open.entry(slot_time).or_insert_with(|| Slot {
            sums: vec![ExactSum::default(); channels],
            at_end: vec![false; channels],
        });
        if value.abs() <= MAX_VALUE {
            slot.sums[channel].add(value);
        }
        if time == slot_time {
            slot.at_end[channel] = true;
        }
        Pushed::Taken
    }

    /// Hands out the rows that are finished, oldest first.
    ///
    /// A slot is finished when `watermark` (no reading at or before it is still expected) lies behind its time, or when
    /// every channel has a reading exactly at its time. Rows come out up to the last finished slot that holds a
    /// reading; grid times without any become rows of NaN, unless there are more than [`MAX_LOOKBACK`] of them in a
    /// run: then the rows begin anew behind the gap.
    pub fn close(&mut self, watermark: Millis) -> Vec<FeatureRow> {
        let mut rows = Vec::new();
        while let Some(entry) = self.open.first_entry() {
            let time = *entry.key();
            if time >= watermark && !entry.get().at_end.iter().all(|at_end| *at_end) {
                break;
            }
            let slot = entry.remove();
            if let Some(last) = self.closed_through {
                rows.extend(missing_between(last, time, self.period, self.channels));
            }
            rows.push(FeatureRow {
                time,
                values: slot.sums.iter().map(ExactSum::mean).collect(),
            });
            self.closed_through = Some(time);
        }
        rows
    }
}

/// Rows of NaN for the grid times between two rows; none where more than [`MAX_LOOKBACK`] would be.
fn missing_between(
    last: Millis,
    next: Millis,
    period: Millis,
    channels: usize,
) -> impl Iterator<Item = FeatureRow> {
    let gap = (next - last) / period - 1;
    let few = usize::try_from(gap).is_ok_and(|gap| gap <= MAX_LOOKBACK);
    let many = if few { gap } else { 0 };
    (1..=many).map(move |i| FeatureRow::missing(last + i * period, channels))
}

/// Rows by time, completed by those of NaN that [`Resampler::close`] hands out between them.
#[must_use]
pub fn completed(spec: &ForecasterSpec, sparse: Vec<FeatureRow>) -> Vec<FeatureRow> {
    let (period, channels) = (spec.period_ms(), spec.channels().len());
    let mut rows: Vec<FeatureRow> = Vec::with_capacity(sparse.len());
    for row in sparse {
        if let Some(last) = rows.last().map(|r| r.time) {
            rows.extend(missing_between(last, row.time, period, channels));
        }
        rows.push(row);
    }
    rows
}

/// As [`resample_all`], but only the rows whose slot holds a reading, of whatever value.
#[must_use]
pub fn resample_sparse(spec: &ForecasterSpec, readings: &[Sample]) -> Vec<FeatureRow> {
    let (period, channels) = (spec.period_ms(), spec.channels().len());
    let held: BTreeSet<Millis> = readings
        .iter()
        .filter(|s| s.channel < channels && is_time(s.time))
        .map(|s| slot_of(s.time, period))
        .collect();
    let mut rows = resample_all(spec, readings);
    rows.retain(|r| held.contains(&r.time));
    rows
}

/// All rows of a batch of readings in any order: the numbers of a [`Resampler`] that got every reading in time.
/// Readings of unknown channels or impossible times are left out.
#[must_use]
pub fn resample_all(spec: &ForecasterSpec, readings: &[Sample]) -> Vec<FeatureRow> {
    let mut resampler = Resampler::for_spec(spec);
    let mut order: Vec<&Sample> = readings.iter().collect();
    order.sort_by_key(|s| s.time);
    let period = resampler.period;
    let mut rows = Vec::new();
    let mut current = Millis::MIN;
    for sample in order.into_iter().filter(|s| is_time(s.time)) {
        let slot = slot_of(sample.time, period);
        if slot != current {
            rows.extend(resampler.close(slot));
            current = slot;
        }
        resampler.push(sample.channel, sample.time, sample.value);
    }
    rows.extend(resampler.close(Millis::MAX));
    rows
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: Millis = 60_000;

    fn spec() -> ForecasterSpec {
        crate::spec::tests::spec("1m", &["a", "b"], "a")
    }

    proptest! {
        #[test]
        fn rows_made_piece_by_piece_and_completed_are_those_made_at_once(
            slots in proptest::collection::vec((1_i64..40, 0_i64..MIN, 0_usize..3, proptest::option::of(-9.0_f64..9.0)), 1..60),
            cut in 0_i64..1_500,
            far in proptest::bool::ANY,
        ) {
            let spec = spec();
            let mut at = 0;
            let samples: Vec<Sample> = slots
                .iter()
                .enumerate()
                .map(|(i, (step, within, channel, value))| {
                    let jump = if far && i == 7 { MAX_LOOKBACK as i64 + 2 } else { 0 };
                    at += (step - 1 + jump) * MIN;
                    Sample { channel: *channel, time: at + within, value: value.unwrap_or(f64::NAN) }
                })
                .collect();
            let (before, behind): (Vec<Sample>, Vec<Sample>) = samples.iter().partition(|s| s.time <= cut * MIN);
            let mut pieces = resample_sparse(&spec, &before);
            pieces.extend(resample_sparse(&spec, &behind));
            prop_assert_eq!(bits(&completed(&spec, pieces)), bits(&resample_all(&spec, &samples)));
        }
    }

    fn bits(rows: &[FeatureRow]) -> Vec<(Millis, Vec<u64>)> {
        let canonical = |v: &f64| if v.is_nan() { u64::MAX } else { v.to_bits() };
        rows.iter()
            .map(|r| (r.time, r.values.iter().map(canonical).collect()))
            .collect()
    }

    #[test]
    fn a_slot_is_right_labelled_and_closes_behind_the_watermark() {
        let mut r = Resampler::new(MIN, 1);
        r.push(0, 1, 2.0);
        r.push(0, MIN - 1, 4.0);
        assert!(r.close(MIN).is_empty());
        assert_eq!(
            r.close(MIN + 1),
            vec![FeatureRow {
                time: MIN,
                values: vec![3.0]
            }]
        );
        assert_eq!(r.push(0, MIN, 9.0), Pushed::Late);
        assert_eq!(r.late(), 1);
    }

    #[test]
    fn readings_exactly_on_the_grid_close_their_slot_at_once() {
        let mut r = Resampler::new(MIN, 2);
        r.push(0, MIN, 1.0);
        assert!(
            r.close(MIN).is_empty(),
            "the other channel is still expected"
        );
        r.push(1, MIN, f64::NAN);
        let rows = r.close(MIN);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].values[1].is_nan());
    }

    #[test]
    fn a_gap_becomes_rows_of_nan_and_a_long_one_a_restart() {
        let mut r = Resampler::new(MIN, 1);
        r.push(0, MIN, 1.0);
        r.push(0, 4 * MIN, 2.0);
        let times: Vec<_> = r.close(5 * MIN).iter().map(|row| row.time / MIN).collect();
        assert_eq!(times, [1, 2, 3, 4]);
        let far = 4 + Millis::try_from(MAX_LOOKBACK).unwrap() + 2;
        r.push(0, far * MIN, 3.0);
        assert_eq!(r.close(Millis::MAX).len(), 1);
    }

    #[test]
    fn hostile_readings_change_nothing() {
        let mut r = Resampler::new(MIN, 1);
        assert_eq!(r.push(0, Millis::MAX, 1.0), Pushed::Invalid);
        assert_eq!(r.push(0, Millis::MIN, 1.0), Pushed::Invalid);
        assert_eq!(r.push(7, 0, 1.0), Pushed::Invalid);
        assert_eq!(r.push(0, 0, f64::INFINITY), Pushed::Taken);
        for i in 1..MAX_LOOKBACK {
            assert_eq!(
                r.push(0, Millis::try_from(i).unwrap() * MIN, 1.0),
                Pushed::Taken
            );
        }
        assert_eq!(r.push(0, 1_000_000 * MIN, 1.0), Pushed::Full);
        assert!(r.close(1)[0].values[0].is_nan());
    }

    proptest! {
        #[test]
        fn stream_and_batch_give_identical_numbers(
            raw in prop::collection::vec((0usize..2, 0i64..40 * MIN, -1e6f64..1e6), 1..200),
            lateness in 0i64..5 * MIN,
            seed in any::<u64>(),
        ) {
            let spec = spec();
            let samples: Vec<Sample> =
                raw.iter().map(|&(channel, time, value)| Sample { channel, time: time | 1, value: value / 3.0 }).collect();
            // Arrival: shuffled by at most `lateness`; the watermark allows for it.
            let mut arrival: Vec<(i64, Sample)> = samples.iter().enumerate().map(|(i, s)| {
                let mix = (seed ^ (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33;
                (s.time + (mix as i64) % (lateness + 1), *s)
            }).collect();
            arrival.sort_by_key(|(at, _)| *at);
            let mut r = Resampler::for_spec(&spec);
            let mut rows = Vec::new();
            for (at, s) in arrival {
                prop_assert_eq!(r.push(s.channel, s.time, s.value), Pushed::Taken);
                rows.extend(r.close(at - lateness));
            }
            rows.extend(r.close(Millis::MAX));
            prop_assert_eq!(bits(&rows), bits(&resample_all(&spec, &samples)));
        }
    }
}
