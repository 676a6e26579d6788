//! Forecasters, model versions and champions: owns who they are, never trains them.
