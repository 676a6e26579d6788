//! Bundles, keys and signed orders: owns what a device may trust and in which order it checks, never a private key, file or network.
//!
//! [`seal`] writes a bundle, [`UnverifiedBundle::verify`] is the only way to a [`VerifiedBundle`].
//! Keys come from a [`KeyRing`] that starts at one pinned root key.

pub mod container;
pub mod error;
pub mod keys;
pub mod manifest;
pub mod order;
pub mod signed;
pub mod verify;

pub use container::{PART_ONNX, PART_REFERENCE, Part, seal};
pub use error::{OrderError, SignatureError, VerifyError};
pub use keys::{KeyListChange, KeyRing};
pub use manifest::{
    Calibration, DailyBias, DailyErrors, GoldenVector, Learnt, LevelCoverage, Manifest, ModelScore,
    Training,
};
pub use order::{Me, OrderedModel, VerifiedCommand, VerifiedOrder, verify_command, verify_order};
pub use signed::Kind;
pub use verify::{Caps, Expected, UnverifiedBundle, VerifiedBundle};
