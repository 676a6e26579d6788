//! Table records.
