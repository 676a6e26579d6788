//! From feature rows to a calibrated, evaluated model: owns fitting and judging, never a database, a network or a file.
//!
//! [`fit`] splits the data into three chronological parts (train, select, calibrate), fits the baselines and the preset's
//! model, and hands back the one that is best on the selection part. [`predict`] is the trained model's own forward pass;
//! [`evaluate`] judges any forecaster on windows it has not seen.

pub mod backtest;
mod baselines;
mod batch;
mod calibrate;
mod cases;
mod checkpoint;
mod classic;
mod compact;
mod config;
mod data;
mod decoder;
mod default;
mod diebold_mariano;
mod ensemble;
mod error;
pub mod evaluate;
mod fit;
#[cfg(test)]
mod fixture;
mod forest;
mod heads;
mod highway;
pub mod importance;
mod learner;
mod linalg;
pub mod multivariate;
mod network;
mod normalise;
pub mod plain;
pub mod plot;
mod predict;
mod samples;
mod scales;
pub mod search;
mod tally;
mod trained;
pub mod warm;

pub use checkpoint::Checkpoints;
pub use config::{Progress, Stage, TrainConfig};
pub use data::{Series, TrainingData};
pub use diebold_mariano::{DieboldMariano, diebold_mariano};
pub use error::TrainError;
pub use fieldcast_bundle::{Calibration, DailyErrors, LevelCoverage};
pub use fieldcast_kernel::simd_path;
pub use fit::{fit, fit_kept, fit_warm};
pub use predict::{Prediction, predict};
pub use trained::{ModelScore, Split, Trained};
