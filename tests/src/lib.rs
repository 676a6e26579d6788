//! fieldcast-tests.
