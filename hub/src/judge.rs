//! Champion against challenger: owns the comparison on data unseen by both, never the training.
