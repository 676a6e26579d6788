//! What each sensor's readings of a week were: owns the open weeks and what becomes of them, never a reading.
//!
//! They go up when the week is over: the sign of life of a sensor that has nothing else to say, and the fleet's statistics
//! where readings stay behind.

use std::collections::BTreeMap;

use fieldcast_drift::sketch::{Sketch, Stored};
use fieldcast_features::Millis;
use fieldcast_features::quality::Quality;
use fieldcast_wire::{Reading, RecordBody, message, pb};

const WEEK_MS: Millis = 7 * 86_400_000;
/// 1970-01-05, a Monday.
const MONDAY_MS: Millis = 4 * 86_400_000;
/// Readings, and at most an hour of data, after which an open week is stored: a restart costs its statistics no more of them.
const STORE_EVERY: u32 = 128;
const HOUR_MS: Millis = 3_600_000;

/// Open weeks of all sensors.
#[derive(Debug, Default)]
pub struct Sketches {
    open: BTreeMap<String, Week>,
}

#[derive(Debug)]
struct Week {
    number: Millis,
    sketch: Sketch,
    left_out: u64,
    unsaved: u32,
    /// Hour in which it was stored last.
    stored: Millis,
}

impl Sketches {
    /// State key of a sensor's open week.
    #[must_use]
    pub fn key(sensor: &str) -> String {
        format!("sketch/{sensor}")
    }

    /// Whether the sensor's open week was looked for.
    #[must_use]
    pub fn knows(&self, sensor: &str) -> bool {
        self.open.contains_key(sensor)
    }

    /// Forgets every open week, so that each is taken up again as it is stored.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// Takes up a stored week; a damaged one begins anew.
    pub fn meet(&mut self, sensor: &str, stored: Option<&[u8]>) {
        let read = stored.and_then(|bytes| {
            let m: pb::SensorSketch = message::decode("sketch", bytes).ok()?;
            let stored = Stored {
                count: m.count,
                mean: m.mean,
                squares: m.squares,
                kll: m.kll,
            };
            Some(Week {
                number: number_of(m.to_ms),
                sketch: Sketch::try_from(stored).ok()?,
                left_out: m.left_out,
                unsaved: 0,
                stored: Millis::MIN,
            })
        });
        let begin = || Week {
            number: Millis::MIN,
            sketch: Sketch::default(),
            left_out: 0,
            unsaved: 0,
            stored: Millis::MIN,
        };
        self.open
            .insert(sensor.to_owned(), read.unwrap_or_else(begin));
    }

    /// Takes a graded reading of a sensor that was met; a week that it ends becomes a record. Readings of a week that is over
    /// are passed over.
    pub fn add(
        &mut self,
        reading: &Reading,
        records: &mut Vec<RecordBody>,
        state: &mut Vec<(String, Vec<u8>)>,
    ) {
        let Some(week) = self.open.get_mut(&reading.sensor) else {
            return;
        };
        let number = number_of(reading.time);
        // A bad reading's time may be as wrong as its value.
        let bad = reading.quality == Quality::Bad.as_u8();
        if number < week.number || (bad && number > week.number) {
            return;
        }
        let ended = number > week.number && week.sketch.count() + week.left_out > 0;
        if ended {
            records.push(RecordBody::Sketch(week.message(&reading.sensor)));
        }
        if number > week.number {
            *week = Week {
                number,
                sketch: Sketch::default(),
                left_out: 0,
                unsaved: 0,
                stored: Millis::MIN,
            };
        }
        if reading.quality == Quality::Good.as_u8() {
            week.sketch.add(reading.value);
        } else {
            week.left_out += 1;
        }
        week.unsaved += 1;
        let hour = reading.time.div_euclid(HOUR_MS);
        if ended || week.unsaved >= STORE_EVERY || hour != week.stored {
            (week.unsaved, week.stored) = (0, hour);
            let bytes = message::encode(&week.message(&reading.sensor));
            state.push((Self::key(&reading.sensor), bytes));
        }
    }
}

impl Week {
    fn message(&self, sensor: &str) -> pb::SensorSketch {
        let stored = Stored::from(self.sketch.clone());
        let from_ms = self.number * WEEK_MS + MONDAY_MS;
        pb::SensorSketch {
            seq: 0,
            sensor: sensor.to_owned(),
            from_ms,
            to_ms: from_ms + WEEK_MS,
            count: stored.count,
            left_out: self.left_out,
            mean: stored.mean,
            squares: stored.squares,
            kll: stored.kll,
        }
    }
}

/// The week of a time: it ends with the reading at its midnight, as a day does.
fn number_of(time: Millis) -> Millis {
    (time - 1 - MONDAY_MS).div_euclid(WEEK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;
    /// A Monday.
    const START: Millis = 1_767_571_200_000;

    fn reading(hour: Millis, value: f64, quality: Quality) -> Reading {
        Reading {
            sensor: "t".into(),
            time: START + hour * HOUR,
            value,
            quality: quality.as_u8(),
            time_source: pb::TimeSource::External,
        }
    }

    #[test]
    fn a_week_goes_up_when_the_next_begins_and_survives_a_restart() {
        let mut sketches = Sketches::default();
        sketches.meet("t", None);
        let (mut records, mut state) = (Vec::new(), Vec::new());
        for hour in 1..=400 {
            let quality = if hour % 10 == 0 {
                Quality::Bad
            } else {
                Quality::Good
            };
            sketches.add(
                &reading(hour, hour as f64, quality),
                &mut records,
                &mut state,
            );
            if hour == 128 {
                let (key, bytes) = state.last().cloned().unwrap_or_default();
                assert_eq!(key, "sketch/t");
                sketches = Sketches::default();
                sketches.meet("t", Some(&bytes));
            }
        }
        let weeks: Vec<&pb::SensorSketch> = records
            .iter()
            .filter_map(|r| match r {
                RecordBody::Sketch(m) => Some(m),
                _ => None,
            })
            .collect();
        assert_eq!(weeks.len(), 2);
        let spans: Vec<_> = weeks
            .iter()
            .map(|w| (w.from_ms - START, w.to_ms - START))
            .collect();
        assert_eq!(spans, [(0, WEEK_MS), (WEEK_MS, 2 * WEEK_MS)]);
        assert_eq!((weeks[0].count, weeks[0].left_out), (152, 16));
        assert_eq!(weeks[1].count + weeks[1].left_out, 168);
        let before = records.len();
        sketches.add(&reading(5, 1.0, Quality::Good), &mut records, &mut state);
        assert_eq!(records.len(), before, "late ones are passed over");
        sketches.meet("t", Some(b"damaged"));
        sketches.add(&reading(401, 1.0, Quality::Good), &mut records, &mut state);
        assert_eq!(records.len(), before);
    }
}
