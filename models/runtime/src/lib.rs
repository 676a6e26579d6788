//! fieldcast-runtime.
