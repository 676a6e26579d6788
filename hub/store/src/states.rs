//! Table states.
