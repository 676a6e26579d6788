//! fieldcast-kernel.
