//! fieldcast-bundle.
