//! The LSTM's arithmetic in f32, forward and backward, with its optimiser: owns numbers only, never data, files or clocks.
//!
//! Buffers are plain row-major slices; what a layer keeps between forward and backward it hides in a tape of its own.
//! Backward passes add to their gradients, so that a batch may be worked on in parts and by several threads.

mod activation;
mod aligned;
#[cfg(test)]
mod archs;
mod forward;
mod fused;
mod linear;
mod lstm;
mod matrix;
mod optimizer;
mod rng;
mod wide;

pub use activation::{sigmoid, tanh};
pub use forward::{ForwardTape, LstmForward, lanes, simd_path};
pub use linear::{Linear, LinearGrads};
pub use lstm::{Lstm, LstmGrads, LstmTape};
pub use matrix::{Layout, gemm};
pub use optimizer::{Adam, AdamConfig, Moments, Parameter, clip_global_norm};
pub use rng::Rng;
pub use wide::{InstanceNorm, Normalised, WideLinear};
