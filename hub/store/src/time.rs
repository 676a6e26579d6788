//! Times between the pure code and PostgreSQL: owns the conversion, never a clock.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

/// Milliseconds as a timestamp; times that no timestamp can hold become the nearest that one can.
#[must_use]
pub fn timestamp(millis: Millis) -> DateTime<Utc> {
    let floor = DateTime::<Utc>::MIN_UTC;
    let ceiling = DateTime::<Utc>::MAX_UTC;
    DateTime::from_timestamp_millis(millis).unwrap_or(if millis < 0 { floor } else { ceiling })
}

/// A timestamp as milliseconds.
#[must_use]
pub fn millis(time: DateTime<Utc>) -> Millis {
    time.timestamp_millis()
}
