//! One group of batches into one transaction: owns the SQL's order and the caches of names, never a decision.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use fieldcast_store::clocks::Anchor;
use fieldcast_store::ledger::{Ingest, Key, NewBatch, RejectedRecord, instance_for};
use fieldcast_store::partitions::Month;
use fieldcast_store::quarantine::Quarantined;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_store::{Result, Store};
use fieldcast_wire::caps::{MAX_ACK_REJECTED, PROOF};
use fieldcast_wire::{DeviceId, Epoch, Reading, RecordBody, SCHEMA, Sha256, pb};

use super::dating::{Dating, anchor, corrected, date};
use super::decide::{Decision, decide, watermark};
use super::lift::Lift;
use super::{Job, check, out};
use crate::events::HubEvent;

/// What is committed, to be told to others.
#[derive(Debug, Default)]
pub struct Written {
    /// An ack for each device and epoch.
    pub acks: Vec<(DeviceId, pb::Ack)>,
    /// For other consumers.
    pub out: Vec<out::Message>,
    /// For the rest of the hub.
    pub events: Vec<HubEvent>,
}

/// Writes batches.
#[derive(Debug)]
pub struct Ingestor {
    store: Store,
    instance: Vec<u8>,
    sensors: HashMap<(DeviceId, String), i32>,
    months: BTreeSet<Month>,
    lift: Lift,
}

/// What one epoch's ack will say beyond its watermark.
#[derive(Debug, Default)]
struct Answer {
    newest: Option<(u64, pb::ClockStamp)>,
    rejected: Vec<pb::Rejected>,
    conflict: Option<String>,
    committed: Vec<(u64, Sha256)>,
}

/// A batch and what is known of its readings' time.
pub(super) struct Dated<'a> {
    pub(super) job: Cow<'a, Job>,
    dating: Dating,
}

/// What a batch becomes.
pub(super) struct Plan<'a> {
    pub(super) columns: ReadingColumns,
    pub(super) others: Vec<(u64, &'a RecordBody)>,
    pub(super) rejected: Vec<RejectedRecord>,
}

impl Dated<'_> {
    /// Whether its commit may let readings be vouched for.
    fn may_lift(&self) -> bool {
        let batch = &self.job.batch;
        self.dating == Dating::Unknown
            || batch
                .records
                .iter()
                .any(|r| matches!(r.body, RecordBody::Clock(_)))
    }
}

/// What became of one batch.
pub(super) enum Outcome {
    Written(Vec<RejectedRecord>),
    Again(Vec<RejectedRecord>),
    Conflict,
}

impl Ingestor {
    /// A writer for this database.
    ///
    /// # Errors
    /// The database.
    pub async fn new(store: Store) -> Result<Self> {
        let instance = store.instance().await?;
        Ok(Self {
            store,
            instance,
            sensors: HashMap::new(),
            months: BTreeSet::new(),
            lift: Lift::new(),
        })
    }

    /// The tables.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Drops what it believes about the database, which may be another one now.
    pub fn forget(&mut self) {
        self.sensors.clear();
        self.months.clear();
    }

    /// Writes a group of batches, sorted by device, epoch and number, in one transaction. When this returns, all of it
    /// is on disk and may be acknowledged.
    ///
    /// # Errors
    /// The database; then nothing of it was written.
    pub async fn write(&mut self, jobs: &[Job]) -> Result<Written> {
        let mut written = Written::default();
        if jobs.is_empty() {
            return Ok(written);
        }
        let names: BTreeSet<String> = jobs.iter().map(|j| j.device.to_string()).collect();
        let names: Vec<String> = names.into_iter().collect();
        let known = self.store.known_devices(&names).await?;
        let (jobs, strangers): (Vec<&Job>, Vec<&Job>) = jobs
            .iter()
            .partition(|job| known.contains_key(job.device.as_str()));
        for job in strangers {
            tracing::warn!(device = %job.device, "batch of an unknown device refused; `fieldcast-hub device add` makes it known");
        }
        let anchors = self.anchors(&jobs).await?;
        let none = Vec::new();
        let jobs: Vec<Dated<'_>> = jobs
            .into_iter()
            .map(|job| {
                let clock = &job.batch.clock;
                let boot = (job.device.clone(), clock.boot_id.clone());
                let dating = date(clock, anchors.get(&boot).unwrap_or(&none));
                Dated {
                    job: corrected(job, dating),
                    dating,
                }
            })
            .collect();
        self.prepare(&jobs).await?;
        let mut tx = self.store.begin_ingest().await?;
        let mut answers: BTreeMap<(DeviceId, Epoch), Answer> = BTreeMap::new();
        let outcomes = self.outcomes(&mut tx, &jobs).await?;
        for (dated, outcome) in jobs.iter().zip(outcomes) {
            let job = dated.job.as_ref();
            let answer = answers
                .entry((job.device.clone(), job.batch.epoch))
                .or_default();
            if answer
                .newest
                .as_ref()
                .is_none_or(|(n, _)| *n <= job.batch.number)
            {
                answer.newest = Some((job.batch.number, job.batch.clock.clone()));
            }
            if !matches!(outcome, Outcome::Conflict) {
                answer.committed.push((job.batch.number, job.digest));
            }
            match outcome {
                Outcome::Written(rejected) => {
                    if dated.may_lift() {
                        self.lift.look_at(job.device.as_str());
                    }
                    tell(job, &rejected, &mut written);
                    answer.reject(job.batch.number, rejected);
                }
                Outcome::Again(rejected) => answer.reject(job.batch.number, rejected),
                Outcome::Conflict => {
                    let why = self.conflict(&mut tx, job, &mut written).await?;
                    // P4: number 0 names the whole batch; acks of a spent epoch say nothing else of a conflict.
                    let whole = RejectedRecord::new(0, why.as_str());
                    answer.reject(job.batch.number, vec![whole]);
                    answer.conflict = Some(why);
                }
            }
        }
        let epochs: Vec<(&str, Epoch)> = answers.keys().map(|(d, e)| (d.as_str(), *e)).collect();
        let committed = tx.all_committed(&epochs).await?;
        let mut marks = Vec::new();
        for (((device, epoch), answer), committed) in answers.iter_mut().zip(committed) {
            let (through, ranges) = watermark(&committed, &answer.numbers());
            if through > committed.through {
                marks.push((device.as_str(), *epoch, through));
            }
            let clock = answer.newest.take().map(|(_, clock)| clock);
            let clock = clock.unwrap_or_default();
            let reason = answer.conflict.take().or(committed.spent);
            let restored = known.get(device.as_str()).copied().flatten();
            let ack = pb::Ack {
                schema: SCHEMA,
                epoch: epoch.to_vec(),
                through,
                ranges,
                proofs: answer.committed.iter().map(proof).collect(),
                rejected: std::mem::take(&mut answer.rejected),
                hub_instance: instance_for(&self.instance, restored),
                hub_time_ms: now_ms(),
                echo_monotonic_ms: clock.monotonic_ms,
                echo_boot_id: clock.boot_id,
                new_epoch: reason.is_some(),
                reason: reason.unwrap_or_default(),
            };
            written.acks.push((device.clone(), ack));
        }
        tx.set_watermarks(&marks).await?;
        tx.commit().await?;
        self.lift.run(&self.store).await;
        if let Err(error) = self.store.seen(&names).await {
            tracing::debug!(%error, "sign of life not stored");
        }
        Ok(written)
    }

    /// What is known of the boots of batches that no time source vouches for, these batches' own facts included.
    async fn anchors(&self, jobs: &[&Job]) -> Result<BTreeMap<(DeviceId, String), Vec<Anchor>>> {
        let mut all: BTreeMap<(DeviceId, String), Vec<Anchor>> = BTreeMap::new();
        for job in jobs {
            let clock = &job.batch.clock;
            let boot = (job.device.clone(), clock.boot_id.clone());
            if !clock.synchronised && !clock.boot_id.is_empty() && !all.contains_key(&boot) {
                let known = self.store.anchors(boot.0.as_str(), &boot.1).await?;
                all.insert(boot, known);
            }
        }
        for job in jobs {
            let clock = &job.batch.clock;
            let boot = (job.device.clone(), clock.boot_id.clone());
            if let Some(known) = all.get_mut(&boot) {
                known.extend(facts(job).filter_map(|fact| anchor(clock, fact, now_ms())));
            }
        }
        Ok(all)
    }

    /// Sensors and partitions exist before the transaction begins, so that its rollback cannot take them back.
    async fn prepare(&mut self, jobs: &[Dated<'_>]) -> Result<()> {
        let mut unknown: BTreeSet<(&DeviceId, &str)> = BTreeSet::new();
        let mut months = BTreeSet::new();
        for Dated { job, .. } in jobs {
            for record in &job.batch.records {
                if let RecordBody::Reading(r) = &record.body
                    && check::refusal(&record.body).is_none()
                {
                    months.extend(Month::of(r.time).filter(|m| !self.months.contains(m)));
                    if !self
                        .sensors
                        .contains_key(&(job.device.clone(), r.sensor.clone()))
                    {
                        unknown.insert((&job.device, &r.sensor));
                    }
                }
            }
        }
        let asked: Vec<(&str, &str)> = unknown.iter().map(|(d, n)| (d.as_str(), *n)).collect();
        if !asked.is_empty() {
            for (device, name, id) in self.store.register_sensors_of_many(&asked).await? {
                // A name that the database kept was a device's before.
                if let Ok(device) = DeviceId::new(device) {
                    self.sensors.insert((device, name), id);
                }
            }
        }
        self.store.ensure_months(&months).await?;
        self.months.extend(months);
        Ok(())
    }

    /// One batch by itself: slower, and where the database refuses a record, only that record is left out.
    pub(super) async fn batch(&self, tx: &mut Ingest, dated: &Dated<'_>) -> Result<Outcome> {
        let job = dated.job.as_ref();
        let batch = &job.batch;
        match self.look(tx, job).await? {
            Decision::AlreadyCommitted(rejected) => return Ok(Outcome::Again(rejected)),
            Decision::DigestConflict => return Ok(Outcome::Conflict),
            Decision::Write => {}
        }
        let Plan {
            mut columns,
            others,
            mut rejected,
        } = self.plan(dated);
        tx.savepoint().await?;
        note_waiting(tx, job, &mut columns).await?;
        match self.rows(tx, job, &columns, &others, &rejected).await {
            Ok(true) => {
                tx.release().await?;
                Ok(Outcome::Written(rejected))
            }
            Ok(false) => self.overtaken(tx, job).await,
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::error!(device = %job.device, batch = batch.number, %error, "refused by the database; its records are tried one by one");
                tx.back().await?;
                let others = sieve(tx, job, others, &mut rejected).await?;
                tx.savepoint().await?;
                note_waiting(tx, job, &mut columns).await?;
                match self.rows(tx, job, &columns, &others, &rejected).await {
                    Ok(true) => {
                        tx.release().await?;
                        Ok(Outcome::Written(rejected))
                    }
                    Ok(false) => self.overtaken(tx, job).await,
                    Err(error) if error.is_about_data() => {
                        tracing::error!(device = %job.device, batch = batch.number, %error, "the whole batch goes into quarantine");
                        tx.back().await?;
                        let whole = vec![RejectedRecord::new(0, error.source.to_string())];
                        let nothing = ReadingColumns::default();
                        tx.savepoint().await?;
                        if !self.rows(tx, job, &nothing, &[], &whole).await? {
                            return self.overtaken(tx, job).await;
                        }
                        tx.release().await?;
                        Ok(Outcome::Written(whole))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Another hub committed the batch while this one looked: its row says what is to be acknowledged.
    async fn overtaken(&self, tx: &mut Ingest, job: &Job) -> Result<Outcome> {
        tx.back().await?;
        Ok(match self.look(tx, job).await? {
            Decision::AlreadyCommitted(rejected) => Outcome::Again(rejected),
            _ => Outcome::Conflict,
        })
    }

    async fn look(&self, tx: &mut Ingest, job: &Job) -> Result<Decision> {
        let key = key(job);
        let rows = tx.ledger_rows(std::slice::from_ref(&key)).await?;
        Ok(decide(rows.get(&key), &job.digest))
    }

    /// What a batch becomes: rows of readings, other records, and what is refused of it.
    pub(super) fn plan<'a>(&self, dated: &'a Dated<'_>) -> Plan<'a> {
        let job = dated.job.as_ref();
        let mut plan = Plan {
            columns: ReadingColumns::default(),
            others: Vec::new(),
            rejected: job.rejected.clone(),
        };
        for record in &job.batch.records {
            let refused = check::refusal(&record.body).or_else(|| match &record.body {
                RecordBody::Reading(r) => self.column(job, dated.dating, r, &mut plan.columns),
                other => {
                    plan.others.push((record.seq, other));
                    None
                }
            });
            if let Some(reason) = refused {
                plan.rejected.push(RejectedRecord::new(record.seq, reason));
            }
        }
        plan
    }

    fn column(
        &self,
        job: &Job,
        dating: Dating,
        r: &Reading,
        columns: &mut ReadingColumns,
    ) -> Option<String> {
        let Some(sensor) = self.sensors.get(&(job.device.clone(), r.sensor.clone())) else {
            return Some(format!(
                "sensor `{}` is beyond the device's limit of sensors",
                r.sensor
            ));
        };
        let time_quality = match (r.time_source, dating) {
            (pb::TimeSource::External, _) => 2,
            (pb::TimeSource::Device, Dating::Unknown) => 0,
            (pb::TimeSource::Device, Dating::Right | Dating::Off(_)) => 1,
        };
        columns.push(*sensor, r.time, r.value, i16::from(r.quality), time_quality);
        if let (pb::TimeSource::Device, Dating::Off(offset)) = (r.time_source, dating) {
            columns.corrected_from(r.time.saturating_sub(offset));
        }
        None
    }

    async fn rows(
        &self,
        tx: &mut Ingest,
        job: &Job,
        columns: &ReadingColumns,
        others: &[(u64, &RecordBody)],
        rejected: &[RejectedRecord],
    ) -> Result<bool> {
        let device = job.device.as_str();
        if !tx.insert_batches(&[entry(job, rejected)]).await? {
            return Ok(false);
        }
        if let Some(whole) = rejected.iter().find(|r| r.seq == 0) {
            // Acknowledged, so that the stream goes on; its bytes are kept, so that nothing is lost.
            let kept = Quarantined {
                device,
                digest: job.digest,
                batch: Some((job.batch.epoch, job.batch.number)),
                reason: &whole.reason,
                bytes: &job.bytes,
            };
            tx.quarantine(&kept).await?;
            return Ok(true);
        }
        tx.insert_readings(columns).await?;
        let clock = &job.batch.clock;
        for fact in facts(job) {
            if let Some(anchor) = anchor(clock, fact, now_ms()) {
                tx.insert_anchor(device, &clock.boot_id, &anchor).await?;
            }
        }
        let others: Vec<_> = others.iter().map(|(_, body)| (device, *body)).collect();
        tx.insert_records(&others).await?;
        Ok(true)
    }

    async fn conflict(&self, tx: &mut Ingest, job: &Job, written: &mut Written) -> Result<String> {
        let why = format!(
            "batch {} of epoch {} is committed with other contents: a clone or a restored disk image",
            job.batch.number, job.batch.epoch
        );
        if tx.spend(job.device.as_str(), job.batch.epoch, &why).await? {
            tracing::error!(device = %job.device, "{why}");
            tx.raise(job.device.as_str(), "clone", &why).await?;
            written.out.push(out::hub_alarm(&job.device, "clone", &why));
        }
        Ok(why)
    }
}

/// The key of a batch in the ledger.
pub(super) fn key(job: &Job) -> Key {
    (job.device.to_string(), job.batch.epoch, job.batch.number)
}

/// What the ledger keeps of a batch.
pub(super) fn entry<'a>(job: &'a Job, rejected: &'a [RejectedRecord]) -> NewBatch<'a> {
    NewBatch {
        device: job.device.as_str(),
        epoch: job.batch.epoch,
        number: job.batch.number,
        digest: job.digest,
        first_seq: job.batch.first_seq,
        last_seq: job.batch.last_seq,
        boot_id: &job.batch.clock.boot_id,
        monotonic_ms: job.batch.clock.monotonic_ms,
        rejected,
    }
}

/// Whether readings of a batch wait for their boot to be anchored.
pub(super) fn waits(columns: &ReadingColumns, clock: &pb::ClockStamp) -> bool {
    columns.any_unknown_time() && !clock.boot_id.is_empty()
}

/// Tries each record by itself and keeps those that the database takes.
async fn sieve<'a>(
    tx: &mut Ingest,
    job: &Job,
    others: Vec<(u64, &'a RecordBody)>,
    rejected: &mut Vec<RejectedRecord>,
) -> Result<Vec<(u64, &'a RecordBody)>> {
    let mut taken = Vec::new();
    for (seq, body) in others {
        tx.savepoint().await?;
        let tried = tx.insert_records(&[(job.device.as_str(), body)]).await;
        tx.back().await?;
        match tried {
            Ok(()) => taken.push((seq, body)),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => rejected.push(RejectedRecord::new(seq, error.source.to_string())),
        }
    }
    Ok(taken)
}

/// What proves to a device that the hub holds these very bytes.
pub(crate) fn proof((batch, digest): &(u64, Sha256)) -> pb::Proof {
    pb::Proof {
        batch: *batch,
        digest: digest.0[..PROOF].to_vec(),
    }
}

impl Answer {
    fn numbers(&self) -> Vec<u64> {
        self.committed.iter().map(|(number, _)| *number).collect()
    }

    fn reject(&mut self, batch: u64, rejected: Vec<RejectedRecord>) {
        let room = MAX_ACK_REJECTED.saturating_sub(self.rejected.len());
        let rejected = rejected.into_iter().take(room);
        self.rejected.extend(rejected.map(|r| pb::Rejected {
            batch,
            seq: r.seq,
            reason: r.reason,
        }));
    }
}

/// Clock facts of a batch.
pub(super) fn facts(job: &Job) -> impl Iterator<Item = &pb::ClockFact> {
    job.batch.records.iter().filter_map(|r| match &r.body {
        RecordBody::Clock(fact) => Some(fact),
        _ => None,
    })
}

/// Notes a batch whose readings wait for an anchor. Behind the savepoint: what is not written leaves no note.
async fn note_waiting(tx: &mut Ingest, job: &Job, columns: &mut ReadingColumns) -> Result<()> {
    let clock = &job.batch.clock;
    if waits(columns, clock) {
        let device = job.device.as_str();
        let noted = tx.insert_unanchored(device, &clock.boot_id, clock.monotonic_ms, clock.wall_ms);
        columns.wait_for(noted.await?);
    }
    Ok(())
}

fn tell(job: &Job, rejected: &[RejectedRecord], written: &mut Written) {
    if let Some(whole) = rejected.iter().find(|r| r.seq == 0) {
        let alarm = out::hub_alarm(&job.device, "quarantined", &whole.reason);
        written.out.push(alarm);
        return;
    }
    let refused: BTreeSet<u64> = rejected.iter().map(|r| r.seq).collect();
    let taken = || {
        job.batch
            .records
            .iter()
            .filter(|r| !refused.contains(&r.seq))
            .map(|r| &r.body)
    };
    let mut readings = Vec::new();
    let mut newest = BTreeMap::new();
    let (mut drifts, mut outcomes) = (false, false);
    for body in taken() {
        match body {
            RecordBody::Reading(r) => {
                newest
                    .entry(r.sensor.clone())
                    .and_modify(|t: &mut i64| *t = r.time.max(*t))
                    .or_insert(r.time);
                readings.push(r.clone());
            }
            RecordBody::Forecast(m) => written.out.push(out::forecast(&job.device, m)),
            RecordBody::Alarm(m) => written.out.push(out::alarm(&job.device, m)),
            RecordBody::Drift(m) => {
                drifts = true;
                written.out.push(out::drift(&job.device, m));
            }
            RecordBody::Outcome(_) => outcomes = true,
            _ => {}
        }
    }
    written.out.extend(out::readings(&job.device, &readings));
    let device = || job.device.clone();
    if !readings.is_empty() {
        let readings = readings.len() as u64;
        written.events.push(HubEvent::Committed {
            device: device(),
            newest,
            readings,
        });
    }
    if drifts {
        written
            .events
            .push(HubEvent::DriftSignals { device: device() });
    }
    if outcomes {
        written.events.push(HubEvent::Outcomes { device: device() });
    }
}

/// Process time of the hub, milliseconds UTC.
pub(crate) fn now_ms() -> i64 {
    crate::clock::now().timestamp_millis()
}
