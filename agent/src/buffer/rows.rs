//! Records as rows of the buffer's file: owns that mapping; never numbers them.

use fieldcast_wire::caps::{MAX_TIME_MS, MIN_TIME_MS};
use fieldcast_wire::{Reading, RecordBody, SensorName, message, pb};

use super::error::BufferError;

pub(super) const READING: i64 = 0;
pub(super) const GAP: i64 = 3;

/// A record that is not a reading, as kind and bytes.
pub(super) fn encode(body: &RecordBody) -> Option<(i64, Vec<u8>)> {
    Some(match body {
        RecordBody::Reading(_) => return None,
        RecordBody::Forecast(m) => (1, message::encode(m)),
        RecordBody::Residual(m) => (2, message::encode(m)),
        RecordBody::Gap(m) => (GAP, message::encode(m)),
        RecordBody::Drift(m) => (4, message::encode(m)),
        RecordBody::Alarm(m) => (5, message::encode(m)),
        RecordBody::Clock(m) => (6, message::encode(m)),
        RecordBody::Outcome(m) => (7, message::encode(m)),
        RecordBody::Sketch(m) => (8, message::encode(m)),
        RecordBody::Paired(m) => (9, message::encode(m)),
    })
}

/// Inverse of [`encode`].
pub(super) fn decode(kind: i64, bytes: &[u8]) -> Result<RecordBody, BufferError> {
    let damaged = |e: message::MessageError| BufferError::Damaged {
        what: format!("a record of kind {kind} ({e})"),
    };
    Ok(match kind {
        1 => RecordBody::Forecast(message::decode("forecast", bytes).map_err(damaged)?),
        2 => RecordBody::Residual(message::decode("residual summary", bytes).map_err(damaged)?),
        GAP => RecordBody::Gap(message::decode("gap", bytes).map_err(damaged)?),
        4 => RecordBody::Drift(message::decode("drift signal", bytes).map_err(damaged)?),
        5 => RecordBody::Alarm(message::decode("alarm", bytes).map_err(damaged)?),
        6 => RecordBody::Clock(message::decode("clock fact", bytes).map_err(damaged)?),
        7 => RecordBody::Outcome(message::decode("outcome", bytes).map_err(damaged)?),
        8 => RecordBody::Sketch(message::decode("sketch", bytes).map_err(damaged)?),
        9 => RecordBody::Paired(message::decode("paired losses", bytes).map_err(damaged)?),
        _ => {
            return Err(BufferError::Damaged {
                what: format!("a record of unknown kind {kind}"),
            });
        }
    })
}

/// Quality and time source of a reading in one number.
pub(super) fn flags(reading: &Reading) -> i64 {
    i64::from(reading.quality) | (i64::from(reading.time_source as i32) << 8)
}

/// A reading from its columns.
pub(super) fn reading(sensor: String, time: i64, value: f64, flags: i64) -> Reading {
    Reading {
        sensor,
        time,
        value,
        quality: u8::try_from(flags & 0xff).unwrap_or(2),
        time_source: if flags >> 8 == 1 {
            pb::TimeSource::External
        } else {
            pb::TimeSource::Device
        },
    }
}

/// Refuses what the hub would have to refuse, before it counts as accepted.
pub(super) fn check(body: &RecordBody) -> Result<(), BufferError> {
    let RecordBody::Reading(r) = body else {
        return Ok(());
    };
    let refused = |problem: String| Err(BufferError::Record { problem });
    if let Err(e) = SensorName::new(r.sensor.as_str()) {
        return refused(e.to_string());
    }
    if !r.value.is_finite() {
        return refused(format!(
            "value {} of sensor `{}` is not finite",
            r.value, r.sensor
        ));
    }
    if !(MIN_TIME_MS..=MAX_TIME_MS).contains(&r.time) {
        return refused(format!(
            "time {} of sensor `{}` is outside 1900 to 2200",
            r.time, r.sensor
        ));
    }
    Ok(())
}
