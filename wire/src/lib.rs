//! fieldcast-wire.
