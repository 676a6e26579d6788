//! Table meta.
