//! Training runs: owns the snapshot and the sealing of a bundle, never the fitting itself.
