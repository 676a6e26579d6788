//! Table readings.
