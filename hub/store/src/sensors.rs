//! Table sensors.
