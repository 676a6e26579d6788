//! The REST interface and its page: owns routes and their shapes, never decides anything.
