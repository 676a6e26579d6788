//! The device's clocks: owns boot id, monotonic and wall time; never corrects a reading.
