//! Confirmation of drift signals: owns the report and the trigger, never the device's detectors.
