//! From rows to forecasts, residuals and drift: pure; never reads a clock or a file.
