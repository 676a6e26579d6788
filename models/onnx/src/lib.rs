//! Builds ONNX graphs from trained parameters and reads them back: owns the structs, the graphs and their names, never training or running them.

pub mod ensemble;
mod ensemble_graph;
mod graph;
pub mod models;
pub mod params;
mod read;

pub use ensemble::{DecoderParams, EnsembleParams, SPREAD_CLIP, Spread};
pub use graph::OPSET;
pub use models::{INPUT_FUTURE, INPUT_WINDOW, OUTPUT_MEAN, OUTPUT_QUANTILES, build};

pub use read::{NotOurs, read};

pub use params::{
    ClassicParams, DefaultParams, LinearParams, LstmHead, LstmParams, ModelParams,
    SeasonalNaiveParams, Shape,
};

/// Why parameters cannot become a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// A length that does not fit the others.
    #[error(
        "building the graph: `{what}` is {found} where {expected} was expected; check the sizes that training handed over"
    )]
    Shape {
        /// The parameter.
        what: &'static str,
        /// Its length or value.
        found: usize,
        /// What the other parameters call for.
        expected: usize,
    },
    /// NaN or infinity among the parameters.
    #[error(
        "building the graph: `{what}` holds NaN or infinity; training diverged, train again with a smaller learning rate"
    )]
    NotFinite {
        /// The parameter.
        what: &'static str,
    },
}
