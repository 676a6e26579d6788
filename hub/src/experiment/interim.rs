//! Reports of experiments that go on: owns how often they are made anew, never what is in them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use fieldcast_store::Store;
use fieldcast_store::experiments::{ExperimentRow, MemberRow};
use serde_json::Value;
use tokio::sync::Mutex;

use super::report;

/// A report reads all readings of its devices: whoever looks more often sees the one before.
const ANEW: Duration = Duration::from_secs(300);

/// The newest reports by experiment, with the state that each was made in. One is made at a time: who comes meanwhile waits
/// without a connection to the database.
#[derive(Debug, Default)]
pub struct Interim(Mutex<BTreeMap<i64, (Instant, String, Value)>>);

impl Interim {
    /// The report that was kept, or one of the same state that is at most five minutes old.
    ///
    /// # Errors
    /// The database, or rows that a newer hub wrote.
    pub async fn of(
        &self,
        store: &Store,
        row: &ExperimentRow,
        members: &[MemberRow],
    ) -> Result<Value> {
        if let Some(kept) = &row.report {
            return Ok(kept.clone());
        }
        let mut made = self.0.lock().await;
        made.retain(|_, (at, ..)| at.elapsed() < ANEW);
        if let Some((_, status, report)) = made.get(&row.id)
            && *status == row.status
        {
            return Ok(report.clone());
        }
        let report = report::of(store, row, members).await?;
        made.insert(row.id, (Instant::now(), row.status.clone(), report.clone()));
        Ok(report)
    }
}
