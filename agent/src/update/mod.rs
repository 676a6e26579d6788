//! Orders, bundles and the way back: decides which model runs; never forecasts itself.
