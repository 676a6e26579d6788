//! The LSTM's arithmetic in f32, forward and backward, with its optimiser: owns numbers only, never data, files or clocks.
//!
//! Buffers are plain row-major slices and every layer hides what it keeps between forward and backward
//! in a tape of its own, so that a fused kernel can take over [`Lstm`] without a change for its callers.

mod activation;
mod linear;
mod lstm;
mod matrix;
mod optimizer;
mod rng;

pub use activation::{sigmoid, tanh};
pub use linear::{Linear, LinearGrads};
pub use lstm::{Lstm, LstmGrads, LstmTape};
pub use matrix::{Layout, gemm};
pub use optimizer::{Adam, AdamConfig, Parameter, clip_global_norm};
pub use rng::Rng;
