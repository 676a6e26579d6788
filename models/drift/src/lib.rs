//! fieldcast-drift.
