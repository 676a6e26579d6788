//! fieldcast-store.
