//! Table desired.
