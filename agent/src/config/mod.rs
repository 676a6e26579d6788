//! The configuration file: owns its keys and errors; never opens what it names.
