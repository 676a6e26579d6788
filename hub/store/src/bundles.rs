//! Table bundles.
