//! fieldcast-train.
