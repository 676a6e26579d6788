//! Table devices.
