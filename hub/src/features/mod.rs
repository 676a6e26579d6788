//! Feature rows in PostgreSQL: owns when and of what they are made and read again as they were known, never how one is computed.
//!
//! A row holds the means of one slot of a forecaster's grid. It is made once its slot is over, of all readings received
//! until a **mark**, and kept with that mark; where later readings change it, a version with a later mark is
//! added. So what was known at a mark can be read at any time after it. One hub at a time makes a forecaster's rows.
//!
//! ```text
//!   readings received in (last mark, mark] ──► spans of data time by device ──► rows of these spans ──► versions where
//!   they differ from the newest ──► the mark is the forecaster's last one
//! ```
//! Interrupted anywhere, the same span is looked at again; what is there already stays. Readings that a sensor's fault had spoilt before
//! the device found it are in a row, as they were in the device's window, and not in what is learnt from it: a version is added when the
//! device tells.

mod due;
mod from_readings;
mod selected;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use fieldcast_features::resample::completed;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, PIPELINE_VERSION};
use fieldcast_store::features::{Arrived, FeatureSet, KeptRow};
use fieldcast_store::{Result, Store, StoreError};
use fieldcast_wire::caps::MIN_TIME_MS;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use due::{Due, due};
use from_readings::{Made, sensors};
pub use selected::{devices, newest, newest_by_device};

const LOOK: Duration = Duration::from_secs(60);
/// How long the rows of a pipeline are kept that no definition has any more.
const KEEP_DAYS: i64 = 30;
/// Between two tries for a lock, and how long it is waited for.
const AGAIN: Duration = Duration::from_millis(100);
const WAIT: Duration = Duration::from_secs(600);
/// What came so shortly before the last mark is looked at again: a transaction may have begun at that moment.
const OVERLAP: TimeDelta = TimeDelta::minutes(1);

/// Why rows are not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another hub has been at it for long.
    #[error(
        "the feature rows of {0} are being made elsewhere for {minutes} minutes already; a first time takes long where there is \
         much history (that hub's log says so): it is tried again",
        minutes = WAIT.as_secs() / 60
    )]
    Busy(String),
}

/// What decides a forecaster's rows. No name of a sensor holds a slash.
fn pipeline(spec: &ForecasterSpec) -> String {
    format!(
        "{PIPELINE_VERSION} {} {}",
        spec.period_ms(),
        sensors(spec).join("/")
    )
}

/// Makes the rows that are missing and answers the mark until which all are made.
///
/// # Errors
/// The database, or another hub that makes them for long.
pub async fn advance(
    store: &Store,
    spec: &ForecasterSpec,
) -> std::result::Result<DateTime<Utc>, Error> {
    let began = tokio::time::Instant::now();
    loop {
        if let Some(mark) = try_advance(store, spec).await? {
            return Ok(mark);
        }
        if began.elapsed() > WAIT {
            return Err(Error::Busy(spec.name.clone()));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// As [`advance`]; none where another hub is at it.
async fn try_advance(store: &Store, spec: &ForecasterSpec) -> Result<Option<DateTime<Utc>>> {
    let Some(lock) = store.try_lock_features(&spec.name).await? else {
        return Ok(None);
    };
    let mark = make(store, spec).await;
    lock.release().await;
    mark.map(Some)
}

async fn make(store: &Store, spec: &ForecasterSpec) -> Result<DateTime<Utc>> {
    let settled = store.settled_time().await?;
    let channels: Vec<String> = spec.channels().into_iter().map(str::to_owned).collect();
    let set = store
        .feature_set(&spec.name, &pipeline(spec), &channels, settled)
        .await?;
    if settled + OVERLAP < set.through {
        tracing::warn!(forecaster = spec.name, %settled, through = %set.through, "the database's clock went back, or a transaction is open \
            for long: readings that come meanwhile may be left out of feature rows; if the clock did, run `DELETE FROM feature_sets` once it is right");
    }
    let mark = settled.max(set.through);
    let known: BTreeMap<String, Millis> = store
        .feature_devices(set.id)
        .await?
        .into_iter()
        .map(|d| (d.device, d.newest))
        .collect();
    // One that is selected no more may come back: its rows go on.
    let names: Vec<String> = known.keys().cloned().collect();
    let arrived = store
        .arrived(&names, &sensors(spec), (set.through - OVERLAP, mark))
        .await?;
    let mut made = Vec::new();
    for of_device in arrived.chunk_by(|a, b| a.device == b.device) {
        let device = &of_device[0].device;
        let due = due(known[device], of_device, spec.period_ms().max(1));
        // Nothing is over and nothing came late: the next time will find the same.
        if !due.spans.is_empty() {
            one(store, spec, (&set, mark), device, &due).await?;
            made.push((device.clone(), due.newest));
        }
    }
    store.made_features(set.id, mark, &made).await?;
    let mut new = devices(store, spec).await?;
    new.retain(|d| !known.contains_key(d));
    for (device, newest) in store.newest_by_device(&new, &sensors(spec)).await? {
        let all = Arrived {
            device: device.clone(),
            from: MIN_TIME_MS,
            to: newest,
            newest: Some(newest),
        };
        let due = due(MIN_TIME_MS, &[all], spec.period_ms().max(1));
        one(store, spec, (&set, mark), &device, &due).await?;
        // One by one: the first time takes long, and must not begin again at the first device.
        store
            .made_features(set.id, mark, &[(device, due.newest)])
            .await?;
    }
    store.advance_features(set.id, mark).await?;
    let old = mark - TimeDelta::days(KEEP_DAYS);
    store.forget_feature_sets(&spec.name, old).await?;
    Ok(mark)
}

/// Makes the rows of a device that are due.
async fn one(
    store: &Store,
    spec: &ForecasterSpec,
    (set, mark): (&FeatureSet, DateTime<Utc>),
    device: &str,
    due: &Due,
) -> Result<()> {
    for span in &due.spans {
        let made = Made::new(store, spec, device, *span, Some(mark));
        let mut made = made.with_faults().await?;
        while let Some(rows) = made.next().await? {
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
                continue;
            };
            let span = (first.row.time - 1, last.row.time);
            let kept = store.feature_rows(set.id, device, span, mark).await?;
            let changed = differing(rows, &kept);
            store
                .insert_feature_rows(set.id, device, mark, &changed)
                .await?;
        }
    }
    Ok(())
}

/// The rows that are not kept as they are.
fn differing(rows: Vec<KeptRow>, kept: &[KeptRow]) -> Vec<KeptRow> {
    let kept: HashMap<Millis, &KeptRow> = kept.iter().map(|k| (k.row.time, k)).collect();
    let differs = |r: &KeptRow| kept.get(&r.row.time).is_none_or(|k| !r.is(k));
    rows.into_iter().filter(differs).collect()
}

/// What is kept of a forecaster's rows.
#[derive(Debug)]
pub struct Kept<'a> {
    store: &'a Store,
    spec: &'a ForecasterSpec,
    set: Option<FeatureSet>,
    since: HashMap<String, DateTime<Utc>>,
}

impl<'a> Kept<'a> {
    /// Looks what there is.
    ///
    /// # Errors
    /// The database.
    pub async fn open(store: &'a Store, spec: &'a ForecasterSpec) -> Result<Self> {
        let set = store.known_feature_set(&spec.name, &pipeline(spec)).await?;
        let devices = match &set {
            Some(set) => store.feature_devices(set.id).await?,
            None => Vec::new(),
        };
        Ok(Self {
            store,
            spec,
            set,
            since: devices.into_iter().map(|d| (d.device, d.since)).collect(),
        })
    }

    /// A device's rows with grid times in `(from, to]` of all readings received until a mark that [`advance`] answered, those
    /// of the slot that was not over then included. Where the mark is older than what is kept they are made of the readings.
    ///
    /// # Errors
    /// The database.
    pub async fn rows(
        &self,
        device: &str,
        span: (Millis, Millis),
        mark: DateTime<Utc>,
    ) -> Result<Vec<FeatureRow>> {
        let (rows, made) = self.parts(device, span, mark).await?;
        Ok(forecast_from(self.spec, made.all(rows).await?))
    }

    /// As [`Self::rows`], without the readings that faults of sensors had spoilt, as far as the device had told by then: what a
    /// device forecast from before it knew is nothing to learn from. And in how many rows that makes a difference.
    ///
    /// # Errors
    /// The database.
    pub async fn rows_to_learn(
        &self,
        device: &str,
        span: (Millis, Millis),
        mark: DateTime<Utc>,
    ) -> Result<(Vec<FeatureRow>, usize)> {
        let (rows, made) = self.parts(device, span, mark).await?;
        let all = made.with_faults().await?.all(rows).await?;
        let spoilt = all.iter().filter(|kept| kept.learnt.is_some()).count();
        let rows = all.into_iter().map(KeptRow::learnt).collect();
        Ok((completed(self.spec, rows), spoilt))
    }

    /// What is kept, and what is still to be made.
    async fn parts<'b>(
        &'b self,
        device: &'b str,
        (from, to): (Millis, Millis),
        mark: DateTime<Utc>,
    ) -> Result<(Vec<KeptRow>, Made<'b>)> {
        let since = self.since.get(device);
        let set = self.set.as_ref().filter(|set| mark <= set.through);
        let rows = match set.filter(|_| since.is_some_and(|since| *since <= mark)) {
            Some(set) => {
                self.store
                    .feature_rows(set.id, device, (from, to), mark)
                    .await?
            }
            None => Vec::new(),
        };
        let behind = rows.last().map_or(from, |last| last.row.time);
        let made = Made::new(self.store, self.spec, device, (behind, to), Some(mark));
        Ok((rows, made))
    }
}

/// A device's rows with grid times in `(from, to]` of all readings that are there now.
///
/// # Errors
/// The database.
pub async fn newest_rows(
    store: &Store,
    spec: &ForecasterSpec,
    device: &str,
    span: (Millis, Millis),
) -> Result<Vec<FeatureRow>> {
    let made = Made::new(store, spec, device, span, None);
    Ok(forecast_from(spec, made.all(Vec::new()).await?))
}

/// The rows as a device has them, with those of NaN between them.
fn forecast_from(spec: &ForecasterSpec, kept: Vec<KeptRow>) -> Vec<FeatureRow> {
    completed(spec, kept.into_iter().map(|kept| kept.row).collect())
}

/// Makes the rows of all forecasters, each minute while this hub leads, until cancelled.
pub async fn run(store: Store, leads: watch::Receiver<bool>, end: CancellationToken) {
    let looks = async {
        loop {
            if *leads.borrow()
                && let Err(error) = all(&store).await
            {
                tracing::warn!(%error, "feature rows not made; the next look is in a minute");
            }
            // Behind the work, so that who waits for a lock gets it.
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = looks => {}
        () = end.cancelled() => {}
    }
}

/// A forecaster whose rows cannot be made keeps no other from it.
async fn all(store: &Store) -> Result<()> {
    for forecaster in store.forecasters().await? {
        if let Err(error) = try_advance(store, &forecaster.spec).await {
            let forecaster = forecaster.name;
            tracing::warn!(forecaster, %error, "feature rows not made; the next look is in a minute");
        }
    }
    Ok(())
}
