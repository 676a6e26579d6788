//! Rollouts: owns stages and deployments, never signs without the signer.
