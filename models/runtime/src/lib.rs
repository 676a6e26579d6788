//! fieldcast-runtime.
mod engine;
