//! Last value, seasonal naive, ridge: what every model must beat, and the device's cold start; pure, without I/O or clock.

pub mod adaptive;
pub mod cold;
pub mod naive;
pub mod quantile;
pub mod ridge;

mod cold_fit;

pub use adaptive::Adaptive;
pub use cold::{ColdError, ColdForecast, ColdStart, MadeBy};
pub use naive::{last_value, seasonal_naive};
pub use ridge::{NormalEquations, Ridge, RidgeError};
