//! fieldcast-baseline.
