//! The device's only queue: a SQLite file; never speaks to the network.
