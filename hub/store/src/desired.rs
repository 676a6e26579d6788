//! Table `desired`: owns the newest signed order for each device and forecaster, never signs one.

use crate::Store;
use crate::error::{Context as _, Result};

impl Store {
    /// The signed orders of a device (each an encoded `pb::Signed`), by forecaster.
    ///
    /// # Errors
    /// The database.
    pub async fn desired_of(&self, device: &str) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar("SELECT signed FROM desired WHERE device = $1 ORDER BY forecaster")
            .bind(device)
            .fetch_all(self.pool())
            .await
            .during(format!("read the orders of device {device}"))
    }

    /// Devices that have orders.
    ///
    /// # Errors
    /// The database.
    pub async fn ordered_devices(&self) -> Result<Vec<String>> {
        sqlx::query_scalar("SELECT DISTINCT device FROM desired ORDER BY device")
            .fetch_all(self.pool())
            .await
            .during("list devices with orders")
    }
}
