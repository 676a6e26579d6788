//! One group of batches into one transaction: owns the SQL's order and the caches of names, never a decision.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use fieldcast_ledger::machine::{Arrived, Event, Fate, Output, State, step};
use fieldcast_store::clocks::Anchor;
use fieldcast_store::ledger::{Ingest, Key, LedgerRow, NewBatch, RejectedRecord};
use fieldcast_store::partitions::Month;
use fieldcast_store::quarantine::Quarantined;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_store::{Result, Store};
use fieldcast_wire::{DeviceId, Reading, RecordBody, pb};
use uuid::Uuid;

use super::dating::{Dating, anchor, corrected, date};
use super::lift::Lift;
use super::{Job, check, now_ms, out, refusal, round};
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
    sensors: HashMap<DeviceId, HashMap<String, i32>>,
    months: BTreeSet<Month>,
    lift: Lift,
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
        let arrived = jobs.iter().map(|dated| arrived(&dated.job, &known));
        let mut machine = State::new(self.instance.clone());
        let first = step(&mut machine, Event::Batches(arrived.collect()), now_ms());
        let mut todo = VecDeque::from(first);
        let mut tx = self.store.begin_ingest().await?;
        while let Some(output) = todo.pop_front() {
            let event = match output {
                Output::Look(keys) => {
                    tx.insert_epochs(&keys).await?;
                    Event::Looked(tx.ledger_rows(&keys).await?)
                }
                Output::Write(which) => {
                    let chosen: Vec<&Dated<'_>> = which.iter().map(|i| &jobs[*i]).collect();
                    let fates = self.fates(&mut tx, &chosen).await?;
                    for (dated, fate) in chosen.iter().zip(&fates) {
                        match fate {
                            Fate::Written(rejected) => {
                                if dated.may_lift() {
                                    self.lift.look_at(dated.job.device.as_str());
                                }
                                tell(&dated.job, rejected, &mut written);
                            }
                            Fate::NoRoom => no_room(&mut tx, &dated.job, &mut written).await?,
                            Fate::Overtaken(_) => {}
                        }
                    }
                    Event::Wrote(fates)
                }
                Output::Hold(epochs) => {
                    let epochs: Vec<_> = epochs.iter().map(|(d, e)| (d.as_str(), *e)).collect();
                    Event::Held(tx.all_committed(&epochs).await?)
                }
                Output::Commit => break,
                change => {
                    round::change(&mut tx, change, &mut written.out).await?;
                    continue;
                }
            };
            todo.extend(step(&mut machine, event, now_ms()));
        }
        written.acks.extend(round::commit(tx, machine).await?);
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
            let known = self.sensors.get(&job.device);
            let mut month = None;
            for record in &job.batch.records {
                if let RecordBody::Reading(r) = &record.body
                    && check::refusal(&record.body).is_none()
                {
                    let of = Month::of(r.time);
                    if of != month {
                        months.extend(of.filter(|m| !self.months.contains(m)));
                        month = of;
                    }
                    if known.is_none_or(|known| !known.contains_key(&r.sensor)) {
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
                    self.sensors.entry(device).or_default().insert(name, id);
                }
            }
        }
        self.store.ensure_months(&months).await?;
        self.months.extend(months);
        Ok(())
    }

    /// One batch by itself: slower, and where the database refuses a record, only that record is left out.
    pub(super) async fn batch(&self, tx: &mut Ingest, dated: &Dated<'_>) -> Result<Fate> {
        let job = dated.job.as_ref();
        let batch = &job.batch;
        // The same key twice in a group: the first is written by now.
        if let Some(row) = look(tx, job).await? {
            return Ok(Fate::Overtaken(Some(row)));
        }
        let Plan {
            mut columns,
            others,
            mut rejected,
        } = self.plan(dated);
        tx.savepoint().await?;
        note_waiting(tx, job, &mut columns).await?;
        match self.rows(tx, job, &columns, &others, &rejected).await {
            Ok(entered) => return ended(tx, job, entered, rejected).await,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                tracing::error!(device = %job.device, batch = batch.number, %error, "refused by the database; its records are tried one by one");
                tx.back().await?;
            }
        }
        let others = sieve(tx, job, others, &mut rejected).await?;
        tx.savepoint().await?;
        note_waiting(tx, job, &mut columns).await?;
        match self.rows(tx, job, &columns, &others, &rejected).await {
            Ok(entered) => return ended(tx, job, entered, rejected).await,
            Err(error) if error.is_about_data() => {
                tracing::error!(device = %job.device, batch = batch.number, %error, "the whole batch goes into quarantine");
                tx.back().await?;
                rejected = vec![RejectedRecord::new(0, error.source.to_string())];
            }
            Err(error) => return Err(error),
        }
        tx.savepoint().await?;
        let nothing = ReadingColumns::default();
        let entered = self.rows(tx, job, &nothing, &[], &rejected).await?;
        ended(tx, job, entered, rejected).await
    }

    /// What a batch becomes: rows of readings, other records, and what is refused of it.
    pub(super) fn plan<'a>(&self, dated: &'a Dated<'_>) -> Plan<'a> {
        let job = dated.job.as_ref();
        let sensors = self.sensors.get(&job.device);
        let mut plan = Plan {
            columns: ReadingColumns::default(),
            others: Vec::new(),
            rejected: job.rejected.clone(),
        };
        for record in &job.batch.records {
            let refused = check::refusal(&record.body).or_else(|| match &record.body {
                RecordBody::Reading(r) => column(sensors, dated.dating, r, &mut plan.columns),
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

    async fn rows(
        &self,
        tx: &mut Ingest,
        job: &Job,
        columns: &ReadingColumns,
        others: &[(u64, &RecordBody)],
        rejected: &[RejectedRecord],
    ) -> Result<Entered> {
        let device = job.device.as_str();
        if !tx.insert_batches(&[entry(job, rejected)]).await? {
            return Ok(Entered::ByAnother);
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
            return Ok(match tx.quarantine(&kept).await? {
                true => Entered::Here,
                false => Entered::NoRoom,
            });
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
        Ok(Entered::Here)
    }
}

/// Whether a batch's ledger row and rows are written since the savepoint.
enum Entered {
    Here,
    /// Another hub committed it while this one looked.
    ByAnother,
    /// It cannot become rows, and no more bytes of its device are kept.
    NoRoom,
}

/// Ends the savepoint as it came out.
async fn ended(
    tx: &mut Ingest,
    job: &Job,
    entered: Entered,
    rejected: Vec<RejectedRecord>,
) -> Result<Fate> {
    match entered {
        Entered::Here => {
            tx.release().await?;
            Ok(Fate::Written(rejected))
        }
        Entered::ByAnother => {
            tx.back().await?;
            // That row says what is to be acknowledged.
            Ok(Fate::Overtaken(look(tx, job).await?))
        }
        Entered::NoRoom => {
            tx.back().await?;
            Ok(Fate::NoRoom)
        }
    }
}

/// Says that a batch stays with its device: to people once a day, to the device each time.
async fn no_room(tx: &mut Ingest, job: &Job, written: &mut Written) -> Result<()> {
    let (device, code) = (&job.device, "quarantine_full");
    let why = format!(
        "batch {} of epoch {} cannot become rows, and no more of this device's bytes are kept: update its agent; what is \
         kept is under GET /v1/quarantined, and goes by age (--keep-records-days)",
        job.batch.number, job.batch.epoch
    );
    if tx.raise_daily(device.as_str(), code, &why).await? {
        tracing::error!(%device, code, "{why}");
        written.out.push(out::hub_alarm(device, code, &why));
    }
    let no_room = Some(pb::BatchName {
        epoch: job.batch.epoch.to_vec(),
        batch: job.batch.number,
    });
    let ack = pb::Ack {
        no_room,
        ..refusal(why)
    };
    written.acks.push((device.clone(), ack));
    Ok(())
}

async fn look(tx: &mut Ingest, job: &Job) -> Result<Option<LedgerRow>> {
    let key = key(job);
    Ok(tx
        .ledger_rows(std::slice::from_ref(&key))
        .await?
        .remove(&key))
}

/// What is decided on of a batch.
fn arrived(job: &Job, known: &HashMap<String, Option<Uuid>>) -> Arrived {
    Arrived {
        device: job.device.clone(),
        epoch: job.batch.epoch,
        number: job.batch.number,
        digest: job.digest,
        clock: job.batch.clock.clone(),
        restored: known.get(job.device.as_str()).copied().flatten(),
    }
}

/// Appends a reading to the rows, or says why it is refused.
fn column(
    sensors: Option<&HashMap<String, i32>>,
    dating: Dating,
    r: &Reading,
    columns: &mut ReadingColumns,
) -> Option<String> {
    let Some(sensor) = sensors.and_then(|known| known.get(&r.sensor)) else {
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
                let time = newest.entry(r.sensor.as_str()).or_insert(r.time);
                *time = r.time.max(*time);
                readings.push(r);
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
    written
        .out
        .extend(out::readings(&job.device, readings.iter().copied()));
    let device = || job.device.clone();
    if !readings.is_empty() {
        let readings = readings.len() as u64;
        written.events.push(HubEvent::Committed {
            device: device(),
            newest: newest
                .into_iter()
                .map(|(sensor, time)| (sensor.to_owned(), time))
                .collect(),
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
