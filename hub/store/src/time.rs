//! Times between the pure code and PostgreSQL: owns the conversion, never a clock.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

/// Span that both PostgreSQL (from 4713 BC) and chrono (to the year 262142) can hold.
const FLOOR: Millis = -200_000_000_000_000;
const CEILING: Millis = 8_000_000_000_000_000;

/// Milliseconds as a timestamp; times that no timestamp can hold become the nearest that one can.
#[must_use]
pub fn timestamp(millis: Millis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis.clamp(FLOOR, CEILING)).unwrap_or_default()
}

/// A timestamp as milliseconds.
#[must_use]
pub fn millis(time: DateTime<Utc>) -> Millis {
    time.timestamp_millis()
}
