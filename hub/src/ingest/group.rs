//! Many batches at once, one statement a table: owns what may be written together, never the answer to a device.

use std::collections::BTreeMap;

use fieldcast_store::Result;
use fieldcast_store::ledger::{Ingest, Key, LedgerRow};
use fieldcast_store::readings::ReadingColumns;

use super::decide::{Decision, decide};
use super::writer::{Dated, Ingestor, Outcome, Plan, entry, facts, key, waits};

/// How one batch of a group is dealt with.
enum Way {
    Done(Outcome),
    Together,
    /// By itself: it is refused as a whole, waits for an anchor, is one, or repeats such a one.
    Alone,
}

impl Ingestor {
    /// What becomes of each batch of a group: what is plain is written together, the rest one by one. Where another hub is
    /// quicker or the database refuses anything of it, all are written one by one.
    pub(super) async fn outcomes(
        &self,
        tx: &mut Ingest,
        jobs: &[Dated<'_>],
    ) -> Result<Vec<Outcome>> {
        let keys: Vec<Key> = jobs.iter().map(|dated| key(&dated.job)).collect();
        tx.insert_epochs(&keys).await?;
        let ledger = tx.ledger_rows(&keys).await?;
        let plans: Vec<Plan<'_>> = jobs.iter().map(|dated| self.plan(dated)).collect();
        let mut ways = ways(jobs, &keys, &ledger, &plans);
        let together = |way: &Way| matches!(way, Way::Together);
        if ways.iter().filter(|way| together(way)).count() > 1 {
            tx.savepoint().await?;
            let chosen = jobs
                .iter()
                .zip(&plans)
                .zip(&ways)
                .filter(|(_, way)| together(way));
            let chosen: Vec<(&Dated<'_>, &Plan<'_>)> = chosen.map(|(pair, _)| pair).collect();
            match write(tx, &chosen).await {
                Ok(true) => {
                    tx.release().await?;
                    for (way, plan) in ways.iter_mut().zip(&plans) {
                        if together(way) {
                            *way = Way::Done(Outcome::Written(plan.rejected.clone()));
                        }
                    }
                }
                Ok(false) => tx.back().await?,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "batches cannot be written together; each is tried by itself");
                    tx.back().await?;
                }
            }
        }
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (dated, way) in jobs.iter().zip(ways) {
            outcomes.push(match way {
                Way::Done(outcome) => outcome,
                Way::Together | Way::Alone => self.batch(tx, dated).await?,
            });
        }
        Ok(outcomes)
    }
}

fn ways(
    jobs: &[Dated<'_>],
    keys: &[Key],
    ledger: &BTreeMap<Key, LedgerRow>,
    plans: &[Plan<'_>],
) -> Vec<Way> {
    let mut first: BTreeMap<&Key, usize> = BTreeMap::new();
    (0..jobs.len())
        .map(|i| {
            let job = jobs[i].job.as_ref();
            match decide(ledger.get(&keys[i]), &job.digest) {
                Decision::AlreadyCommitted(rejected) => return Way::Done(Outcome::Again(rejected)),
                Decision::DigestConflict => return Way::Done(Outcome::Conflict),
                Decision::Write => {}
            }
            // The same key twice in a group: the ledger knows the first only after it is written.
            let repeated = first.insert(&keys[i], i).is_some();
            let whole = plans[i].rejected.iter().any(|r| r.seq == 0);
            let anchors = facts(job).next().is_some();
            if repeated || whole || anchors || waits(&plans[i].columns, &job.batch.clock) {
                Way::Alone
            } else {
                Way::Together
            }
        })
        .collect()
}

async fn write(tx: &mut Ingest, batches: &[(&Dated<'_>, &Plan<'_>)]) -> Result<bool> {
    let entries = batches
        .iter()
        .map(|(dated, plan)| entry(&dated.job, &plan.rejected));
    let entries: Vec<_> = entries.collect();
    if !tx.insert_batches(&entries).await? {
        return Ok(false);
    }
    let mut columns = ReadingColumns::default();
    for (_, plan) in batches {
        columns.append(&plan.columns);
    }
    tx.insert_readings(&columns).await?;
    let mut others = Vec::new();
    for (dated, plan) in batches {
        let device = dated.job.device.as_str();
        others.extend(plan.others.iter().map(|(_, body)| (device, *body)));
    }
    tx.insert_records(&others).await?;
    Ok(true)
}
