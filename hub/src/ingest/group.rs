//! Many batches at once, one statement a table: owns what may be written together, never the answer to a device.

use std::collections::BTreeSet;

use fieldcast_ledger::machine::Fate;
use fieldcast_store::Result;
use fieldcast_store::ledger::Ingest;
use fieldcast_store::readings::ReadingColumns;

use super::writer::{Dated, Ingestor, Plan, entry, facts, key, waits};

impl Ingestor {
    /// What becomes of batches that the ledger did not hold: what is plain is written together, the rest one by one. Where
    /// another hub is quicker or the database refuses anything of it, all are written one by one.
    pub(super) async fn fates(&self, tx: &mut Ingest, jobs: &[&Dated<'_>]) -> Result<Vec<Fate>> {
        let plans: Vec<Plan<'_>> = jobs.iter().map(|dated| self.plan(dated)).collect();
        let plain = plain(jobs, &plans);
        let chosen: Vec<(&Dated<'_>, &Plan<'_>)> = (jobs.iter().copied())
            .zip(&plans)
            .zip(&plain)
            .filter_map(|(pair, plain)| plain.then_some(pair))
            .collect();
        let together = chosen.len() > 1
            && {
                tx.savepoint().await?;
                match write(tx, &chosen).await {
                    Ok(true) => {
                        tx.release().await?;
                        true
                    }
                    Ok(false) => {
                        tx.back().await?;
                        false
                    }
                    Err(error) if error.is_transient() => return Err(error),
                    Err(error) => {
                        tracing::error!(%error, "batches cannot be written together; each is tried by itself");
                        tx.back().await?;
                        false
                    }
                }
            };
        let mut fates = Vec::with_capacity(jobs.len());
        for ((dated, plan), plain) in jobs.iter().zip(&plans).zip(plain) {
            fates.push(if together && plain {
                Fate::Written(plan.rejected.clone())
            } else {
                self.batch(tx, dated).await?
            });
        }
        Ok(fates)
    }
}

/// Which batches can be written together: none that is refused as a whole, waits for an anchor, is one, or repeats another
/// one of the group, which the ledger knows only after that is written.
fn plain(jobs: &[&Dated<'_>], plans: &[Plan<'_>]) -> Vec<bool> {
    let mut keys = BTreeSet::new();
    let plain = |(dated, plan): (&&Dated<'_>, &Plan<'_>)| {
        let job = dated.job.as_ref();
        let new = keys.insert(key(job));
        let whole = plan.rejected.iter().any(|r| r.seq == 0);
        let anchors = facts(job).next().is_some();
        new && !whole && !anchors && !waits(&plan.columns, &job.batch.clock)
    };
    jobs.iter().zip(plans).map(plain).collect()
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
