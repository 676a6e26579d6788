//! Table partitions.
