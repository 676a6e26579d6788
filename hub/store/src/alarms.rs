//! Table alarms.
