//! Who the device is to its hub: owns identity.toml; never stores keys of others.
