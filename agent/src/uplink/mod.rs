//! The way to the hub over MQTT; never decides what is worth keeping.
