//! The way to the hub over MQTT; never decides what is worth keeping.
//!
//! [`machine`] decides, the driver carries out, the client is the only file that knows the MQTT library.

mod client;
mod driver;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use fieldcast_device::uplink as machine;

pub use driver::{LinkStatus, UplinkEvent, UplinkHandle, start};
pub use machine::Settings;
