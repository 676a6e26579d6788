//! Whether a batch's readings carry the right time (P9): pure functions of its clocks and its boot's anchors, no I/O.

use std::borrow::Cow;
use std::collections::BTreeSet;

use fieldcast_features::Millis;
use fieldcast_store::clocks::Anchor;
use fieldcast_wire::{Reading, RecordBody, pb};

use super::Job;

/// A fact may be younger than the hub's clock by what two machines that are both right may differ.
const AHEAD_MS: i64 = 60_000;
/// Beyond the error of its measurement, a clock that is off by no more than this is left as it is.
const AGREES_MS: i64 = 1_000;

/// What is known of the time of readings that carry the device's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dating {
    /// Nobody vouches for it.
    Unknown,
    /// It is right as it is.
    Right,
    /// It is right after so many milliseconds are added.
    Off(i64),
}

/// When the boot began by the hub's clock: the fact says how far the wall clock was off, the batch that carries it what
/// that clock showed. None where the two do not belong together.
#[must_use]
pub fn anchor(clock: &pb::ClockStamp, fact: &pb::ClockFact, now: Millis) -> Option<Anchor> {
    let sealed = clock.wall_ms.checked_add(fact.offset_ms)?;
    let sound = fact.boot_id == clock.boot_id
        && !fact.boot_id.is_empty()
        && fact.error_ms >= 0
        && clock.monotonic_ms >= 0
        && sealed <= now.saturating_add(AHEAD_MS);
    sound.then_some(())?;
    Some(Anchor {
        monotonic_ms: clock.monotonic_ms,
        boot_at_ms: sealed.checked_sub(clock.monotonic_ms)?,
        error_ms: fact.error_ms,
    })
}

/// Judges a batch's clocks by the anchor nearest to it: clocks drift apart with time. Monotonic time has no steps, so one
/// anchor tells how far the wall clock was off at any other moment of its boot.
#[must_use]
pub fn date(clock: &pb::ClockStamp, anchors: &[Anchor]) -> Dating {
    if clock.synchronised {
        return Dating::Right;
    }
    let nearest = anchors
        .iter()
        .min_by_key(|a| (a.monotonic_ms.abs_diff(clock.monotonic_ms), a.error_ms));
    let offset = |a: &Anchor| {
        let right = a.boot_at_ms.checked_add(clock.monotonic_ms)?;
        right.checked_sub(clock.wall_ms)
    };
    match nearest.and_then(|a| Some((offset(a)?, a.error_ms))) {
        None => Dating::Unknown,
        Some((offset, error)) if offset.saturating_abs() <= error.saturating_add(AGREES_MS) => {
            Dating::Right
        }
        Some((offset, _)) => Dating::Off(offset),
    }
}

/// The job with the times of its device-dated readings put right, and those of what was found in them. As long as nobody knows how far
/// they are off, what was found is about no other readings.
#[must_use]
pub fn corrected<'a>(job: &'a Job, dating: Dating) -> Cow<'a, Job> {
    let offset = match dating {
        Dating::Right => return Cow::Borrowed(job),
        Dating::Unknown => None,
        Dating::Off(offset) => Some(offset),
    };
    let records = &job.batch.records;
    let dated = |r: &Reading| r.time_source == pb::TimeSource::Device;
    let elsewhere: BTreeSet<String> = records
        .iter()
        .filter_map(|record| match &record.body {
            RecordBody::Reading(r) if !dated(r) => Some(r.sensor.clone()),
            _ => None,
        })
        .collect();
    let found =
        |m: &pb::DriftSignal| m.kind() == pb::DriftKind::Sensor && !elsewhere.contains(&m.sensor);
    let concerns = |body: &RecordBody| match body {
        RecordBody::Reading(r) => offset.is_some() && dated(r),
        RecordBody::Drift(m) => found(m),
        _ => false,
    };
    if !records.iter().any(|record| concerns(&record.body)) {
        return Cow::Borrowed(job);
    }
    let mut job = job.clone();
    for record in &mut job.batch.records {
        match (&mut record.body, offset) {
            (RecordBody::Reading(r), Some(offset)) if dated(r) => {
                r.time = r.time.saturating_add(offset);
            }
            (RecordBody::Drift(m), Some(offset)) if found(m) => {
                m.time_ms = m.time_ms.saturating_add(offset);
                m.onset_ms = m.onset_ms.saturating_add(offset);
            }
            (RecordBody::Drift(m), None) if found(m) => m.onset_ms = m.time_ms,
            _ => {}
        }
    }
    Cow::Owned(job)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::{Batch, DeviceId, Epoch, Record, Sha256};

    use super::*;

    fn clock(monotonic_ms: i64, wall_ms: i64) -> pb::ClockStamp {
        pb::ClockStamp {
            boot_id: "b".into(),
            monotonic_ms,
            wall_ms,
            synchronised: false,
        }
    }

    #[test]
    fn one_fact_dates_every_batch_of_its_boot_whatever_the_wall_clock_did_in_between() {
        let fact = pb::ClockFact {
            boot_id: "b".into(),
            offset_ms: 3_600_000,
            error_ms: 20,
            ..Default::default()
        };
        let now = 100_000_000;
        let anchors: Vec<_> = anchor(&clock(5_000, 90_000_000), &fact, now)
            .into_iter()
            .collect();
        assert_eq!(anchors[0].boot_at_ms, 93_595_000);
        // Before it with the same slow clock; after the clock was set right.
        assert_eq!(
            date(&clock(1_000, 89_996_000), &anchors),
            Dating::Off(3_600_000)
        );
        assert_eq!(date(&clock(9_000, 93_604_500), &anchors), Dating::Right);
        assert_eq!(date(&clock(9_000, 93_604_500), &[]), Dating::Unknown);
        let vouched = pb::ClockStamp {
            synchronised: true,
            ..clock(0, 0)
        };
        assert_eq!(date(&vouched, &[]), Dating::Right);
    }

    #[test]
    fn what_was_found_in_a_sensors_readings_moves_with_them() {
        let reading = |sensor: &str, time_source| {
            RecordBody::Reading(Reading {
                sensor: sensor.into(),
                time: 1_000,
                value: 1.0,
                quality: 0,
                time_source,
            })
        };
        let fault = |sensor: &str| {
            RecordBody::Drift(pb::DriftSignal {
                kind: pb::DriftKind::Sensor as i32,
                sensor: sensor.into(),
                time_ms: 1_000,
                onset_ms: 400,
                ..pb::DriftSignal::default()
            })
        };
        let bodies = [
            fault("live"),
            reading("live", pb::TimeSource::Device),
            reading("replayed", pb::TimeSource::External),
            fault("replayed"),
            fault("cut"),
        ];
        let records = (1..).zip(bodies).map(|(seq, body)| Record { seq, body });
        let job = Job {
            device: DeviceId::new("a").unwrap(),
            batch: Batch {
                epoch: Epoch::from_slice(&[1; 16]).unwrap(),
                number: 1,
                first_seq: 1,
                last_seq: 5,
                clock: clock(0, 0),
                records: records.collect(),
            },
            bytes: Vec::new(),
            digest: Sha256::of(b""),
            rejected: Vec::new(),
            live: true,
        };
        let spans = |dating| {
            let job = corrected(&job, dating);
            let spans = job.batch.records.iter().filter_map(|r| match &r.body {
                RecordBody::Drift(m) => Some((m.onset_ms, m.time_ms)),
                _ => None,
            });
            spans.collect::<Vec<_>>()
        };
        // The reading that "cut" was found in went with the batch before.
        let found = [(450, 1_050), (400, 1_000), (450, 1_050)];
        assert_eq!(spans(Dating::Off(50)), found);
        let nobody_knows = [(1_000, 1_000), (400, 1_000), (1_000, 1_000)];
        assert_eq!(spans(Dating::Unknown), nobody_knows);
        assert_eq!(spans(Dating::Right), [(400, 1_000); 3]);
    }

    #[test]
    fn a_fact_of_another_boot_or_of_the_future_anchors_nothing() {
        let fact = |boot: &str, offset_ms| pb::ClockFact {
            boot_id: boot.into(),
            offset_ms,
            ..Default::default()
        };
        let at = clock(10, 1_000);
        assert!(anchor(&at, &fact("b", 5), 1_000).is_some());
        assert_eq!(anchor(&at, &fact("other", 5), 1_000), None);
        assert_eq!(anchor(&at, &fact("b", AHEAD_MS + 1), 1_000), None);
        assert_eq!(anchor(&at, &fact("b", i64::MAX), 1_000), None);
    }
}
