//! How long the hub keeps what it was told: owns the ages and the hourly look, never the SQL.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fieldcast_store::{Result, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::registry;

const LOOK: Duration = Duration::from_secs(3_600);
/// A device keeps acknowledged batches for a week, for a hub that was restored: the ledger must know them for longer.
const LEDGER_AT_LEAST: u32 = 14;

/// Ages in days; 0 keeps for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Retention {
    /// Days that readings are kept, by their own time, in whole months; 0: for ever.
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    pub keep_readings_days: u32,
    /// Days that forecasts, errors, sketches, alarms and quarantined payloads are kept; 0: for ever. Gaps stay, and
    /// what sensors' faults spoilt for as long as readings.
    #[arg(long, default_value_t = 800, value_name = "DAYS")]
    pub keep_records_days: u32,
    /// Days that the ledger knows each batch by itself, at least 14; 0: for ever. Of older ones 16 bytes are left, which prove their contents.
    #[arg(long, default_value_t = 60, value_name = "DAYS")]
    pub keep_ledger_days: u32,
    /// How many of a forecaster's newest models keep their bundles, at least 2; 0: all. Older ones keep theirs while a device
    /// runs or may return to them; without it a version is still listed, but never ordered.
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    pub keep_models: u32,
}

impl Retention {
    /// Forgets what is too old at `now`: each kind by itself, so that one that fails keeps none of the others.
    ///
    /// # Errors
    /// The database: the first one; all are named in the log.
    pub async fn apply(&self, store: &Store, now: DateTime<Utc>) -> Result<()> {
        let parts = [
            self.readings(store, now).await,
            self.records(store, now).await,
            self.ledger(store, now).await,
            self.models(store).await,
        ];
        let logged = |error: &_| tracing::warn!(%error, "retention not applied; the next look is in an hour");
        parts
            .map(|part| part.inspect_err(logged))
            .into_iter()
            .collect()
    }

    async fn readings(&self, store: &Store, now: DateTime<Utc>) -> Result<()> {
        if let Some(before) = before(now, self.keep_readings_days) {
            for month in store.forget_readings(before).await? {
                tracing::info!(%month, "readings beyond their retention removed");
            }
        }
        Ok(())
    }

    async fn records(&self, store: &Store, now: DateTime<Utc>) -> Result<()> {
        if let Some(before) = before(now, self.keep_records_days) {
            let rows = store.forget_records(before).await?;
            if rows > 0 {
                tracing::info!(rows, "records beyond their retention removed");
            }
        }
        Ok(())
    }

    async fn ledger(&self, store: &Store, now: DateTime<Utc>) -> Result<()> {
        let days = match self.keep_ledger_days {
            0 => 0,
            days => days.max(LEDGER_AT_LEAST),
        };
        if let Some(before) = before(now, days) {
            let batches = store.forget_batches(before).await?;
            if batches > 0 {
                tracing::info!(
                    batches,
                    "old batches of the ledger folded into what proves them"
                );
            }
        }
        Ok(())
    }

    async fn models(&self, store: &Store) -> Result<()> {
        if self.keep_models > 0 {
            for (forecaster, version) in registry::retention::apply(store, self.keep_models).await?
            {
                tracing::info!(
                    forecaster,
                    version,
                    "bundle removed: nobody runs it or may return to it"
                );
            }
        }
        Ok(())
    }
}

fn before(now: DateTime<Utc>, days: u32) -> Option<DateTime<Utc>> {
    (days > 0)
        .then(|| now.checked_sub_signed(TimeDelta::days(i64::from(days))))
        .flatten()
}

/// Looks once an hour until cancelled, while this hub leads.
pub async fn run(
    store: Store,
    retention: Retention,
    leads: watch::Receiver<bool>,
    end: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = end.cancelled() => return,
        }
        if *leads.borrow() {
            // What failed is in the log.
            let _ = retention.apply(&store, crate::clock::now()).await;
        }
    }
}
