//! Table features.
