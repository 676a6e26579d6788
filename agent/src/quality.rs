//! Checks of a single reading; never stops a stream.
