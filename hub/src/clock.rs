//! The hub's clock: the one place that reads the wall clock; everything else takes `now` from here.

use chrono::{DateTime, Utc};

/// Process time as the hub tells it to devices and writes it beside rows.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}
